//! Running a compiled cell in the worker, through its death and the waking of its copy.

use crate::base::ansi::{BOLD, RED, RESET};
use crate::base::failure::Failure;
use crate::cells::Input;
use crate::cells::{CellError, Output};
use crate::engine::compile::compiler::cell_file;
use crate::engine::compile::library::Libraries;
use crate::engine::parse::report::{self, Mark, excerpt, lines, place};
use crate::engine::parse::source::{Quote, Text};
use crate::engine::session::{Ran, Ready, Session};
use crate::engine::worker::interrupt::signal;
use crate::engine::worker::process::{Event, Printed};
use onelens_wire::session::{Cause, End, Ended, Order, Report, Shown};
use std::fmt::Write as _;

/// How long the values of a session may take to go.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

/// What is known about a cell under way.
#[derive(Default)]
struct Course {
    error: Option<CellError>,
    /// The sleeping copy.
    copy: i32,
    /// It is gone, too.
    copy_ended: bool,
    woken: bool,
    not_loaded: bool,
    /// The process is about to die of a full stack.
    overflow: bool,
    /// The cell failed and had used up a variable, so the worker ended itself in favour of the copy.
    lost: bool,
    /// The cell read where nobody can be asked, and was ended for it.
    refused: bool,
    /// A variable that is not of the type that the cell was compiled for.
    unfit: Option<String>,
}

impl Session {
    /// Has the worker drop its variables before it goes, whose `Drop` may have something to do: write the end of a
    /// file, stop a program. One that does not come to its end is not waited for.
    pub(super) fn leave(&mut self, on_output: &mut dyn FnMut(Output)) {
        if self.variables.is_empty() {
            return;
        }
        self.process.send(&Order::Leave);
        let worker = self.control.worker();
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        let patience = std::thread::spawn(move || {
            if is_done.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                signal(worker, libc::SIGKILL);
            }
        });
        loop {
            let blocks = &mut self.blocks;
            let event = self.process.next(0, &mut |text| match text {
                Printed::Stdout(text) => blocks.push(&text, on_output),
                Printed::Stderr(text) => on_output(Output::Stderr(text)),
            });
            match event {
                Event::Report(Report::Left) => break,
                // A value may show something when it goes.
                Event::Report(Report::Shown(_)) => self.process.acknowledge(),
                Event::Report(_) => {}
                Event::Ended(ended) if ended.process == worker => break,
                Event::Ended(_) | Event::Reads => {}
                Event::Gone | Event::Deserted => break,
            }
        }
        drop(done);
        let _ = patience.join();
        self.blocks.finish(on_output);
    }

    /// Waits for the worker's first word.
    pub(super) fn wait_until_ready(&mut self) -> Result<(), Failure> {
        let mut printed = String::new();
        let event = self.process.next(0, &mut |text| match text {
            Printed::Stdout(text) | Printed::Stderr(text) => printed.push_str(&text),
        });
        let why = match event {
            Event::Report(Report::Ready { worker }) => {
                self.control.set_worker(worker);
                return Ok(());
            }
            Event::Report(Report::Fatal(why)) => why,
            Event::Report(other) => format!("its first word is {other:?}"),
            Event::Ended(Ended { end, .. }) => end.to_string(),
            Event::Gone | Event::Deserted | Event::Reads => "it ended".into(),
        };
        let folder = crate::image::Image::folder();
        Err(Failure::new(
            format!("the worker does not start: {why} {}", printed.trim()),
            format!("remove {} and restart the kernel, which builds the library anew", folder.display()),
        ))
    }

    pub(super) fn run(&mut self, ready: &Ready, on_output: &mut dyn FnMut(Output)) -> Ran {
        self.process.input.begin(|| self.scope.items.words_led_to(&ready.text.code));
        let library = ready.library.to_string_lossy().into_owned();
        self.process.send(&Order::Run { library, global: !ready.homes.is_empty() });
        let mut course = Course::default();
        loop {
            let blocks = &mut self.blocks;
            let worker = self.control.worker();
            let event = self.process.next(worker, &mut |text| match text {
                Printed::Stdout(text) => blocks.push(&text, on_output),
                Printed::Stderr(text) => on_output(Output::Stderr(text)),
            });
            let over = match event {
                Event::Report(report) => self.report(report, ready, &mut course, on_output),
                Event::Ended(Ended { process, end }) if process == self.control.worker() => {
                    self.worker_ended(end, &mut course)
                }
                Event::Ended(Ended { process, end }) if course.copy > 0 && process == course.copy => {
                    course.copy_ended = true;
                    // Once it was woken, the cell's end is to come from it.
                    if course.woken {
                        self.start_over(&end.to_string(), &mut course);
                    }
                    course.woken
                }
                Event::Ended(_) => false,
                Event::Reads => {
                    // What the cell asks its user stands before the answer.
                    self.blocks.finish_line(on_output);
                    self.give_input(&mut course);
                    false
                }
                Event::Gone => {
                    self.start_over("its supervisor ended", &mut course);
                    true
                }
                Event::Deserted => {
                    self.start_over("so did the copy of it", &mut course);
                    true
                }
            };
            if over {
                break;
            }
        }
        self.process.input.forget_unread();
        let blocks = &mut self.blocks;
        self.process.finish_text(&mut |text| match text {
            Printed::Stdout(text) => blocks.push(&text, on_output),
            Printed::Stderr(text) => on_output(Output::Stderr(text)),
        });
        self.blocks.finish(on_output);
        if !course.woken && !course.not_loaded {
            self.homes.extend(ready.homes.iter().cloned());
        }
        if course.error.is_none() && self.control.is_interrupted() {
            course.error = Some(interrupted(false));
        }
        match (course.error, course.unfit) {
            (None, Some(name)) => Ran::Unfit(name),
            (Some(error), _) => Ran::Ended(Err(error)),
            (None, None) => Ran::Ended(Ok(())),
        }
    }

    /// Between cells: what threads of earlier ones put out.
    pub(super) fn idle(&mut self, on_output: &mut dyn FnMut(Output)) {
        let mut quiet = true;
        loop {
            let blocks = &mut self.blocks;
            let report = self.process.poll(&mut |text| {
                quiet = false;
                match text {
                    Printed::Stdout(text) => blocks.push(&text, on_output),
                    Printed::Stderr(text) => on_output(Output::Stderr(text)),
                }
            });
            match report {
                Some(Report::Shown(shown)) => self.put_out(shown, on_output),
                Some(_) => {}
                None => break,
            }
        }
        // A block waits for others of its output, which would have come by now.
        if quiet {
            self.blocks.finish_line(on_output);
        }
    }

    /// An output in the order of what is printed, which its sender waits to be read.
    fn put_out(&mut self, shown: Shown, on_output: &mut dyn FnMut(Output)) {
        match shown {
            Shown::ResultBegins => self.blocks.result_begins(on_output),
            Shown::ResultEnds => self.blocks.result_ends(on_output),
            Shown::Result(bundle) => self.after_text(Output::Result(bundle), on_output),
            Shown::Display(bundle, id) => self.after_text(Output::Display { bundle, id }, on_output),
            Shown::Update(bundle, id) => self.after_text(Output::Update { bundle, id }, on_output),
            Shown::Clear { wait } => self.after_text(Output::Clear { wait }, on_output),
        }
        self.process.acknowledge();
    }

    fn after_text(&mut self, output: Output, on_output: &mut dyn FnMut(Output)) {
        self.blocks.finish_line(on_output);
        on_output(output);
    }

    /// Whether the cell is over.
    fn report(
        &mut self,
        report: Report,
        ready: &Ready,
        course: &mut Course,
        on_output: &mut dyn FnMut(Output),
    ) -> bool {
        match report {
            Report::Shown(shown) => self.put_out(shown, on_output),
            Report::Ready { worker } => self.control.set_worker(worker),
            Report::Forked { copy } => course.copy = copy,
            Report::Overflow => course.overflow = true,
            Report::Failed { cause, line } => {
                course.not_loaded = matches!(cause, Cause::NotLoaded(_));
                course.error = Some(failure(cause, line as usize, ready, &self.libraries));
            }
            Report::Unnameable { names, types } => course.error = Some(unnameable(&names, &types, ready)),
            Report::Lost => course.lost = true,
            Report::Unfit(name) => course.unfit = Some(name),
            Report::Fatal(why) => course.error = Some(CellError::plain("WorkerDied", &why)),
            Report::Done { variables } => {
                self.set_variables(variables, ready, course.error.is_some());
                return true;
            }
            // It is asked to leave when no cell runs.
            Report::Left => {}
        }
        false
    }

    fn worker_ended(&mut self, end: End, course: &mut Course) -> bool {
        self.process.forget_partial_frame();
        if course.copy == 0 || course.copy_ended || course.woken {
            self.start_over(&end.to_string(), course);
            return true;
        }
        if !(course.lost && course.error.is_some()) {
            course.error = Some(match (course.refused, self.control.has_killed()) {
                (true, _) => no_input(),
                (false, true) => interrupted(true),
                (false, false) => died(end, course.overflow),
            });
        }
        course.woken = true;
        signal(course.copy, libc::SIGUSR1);
        false
    }

    fn give_input(&mut self, course: &mut Course) {
        if course.refused {
            return;
        }
        let question = self.blocks.question();
        match self.ask.as_mut().map_or(Input::Unavailable, |ask| ask(&question)) {
            Input::Line(line) => self.process.input.give(&line),
            // Whoever interrupts also sees to it that the cell ends.
            Input::Interrupted => {}
            // Who is only thought to read may be at work.
            Input::Unavailable if self.process.input.is_guessed() => self.process.input.end(),
            Input::Unavailable => {
                course.refused = true;
                signal(self.control.worker(), libc::SIGKILL);
            }
        }
    }

    /// Nothing could be saved: a new worker without variables.
    fn start_over(&mut self, how: &str, course: &mut Course) {
        let failure = Failure::new(
            format!("the process with the variables ended ({how}) and could not be restored"),
            "the kernel has started a new one; run the cells again that define variables",
        );
        course.error = Some(CellError::failed("WorkerDied", &failure));
        course.not_loaded = true;
        if let Err(why) = self.restart() {
            course.error = Some(CellError::plain("WorkerDied", &format!("{failure}\n{why}")));
        }
    }
}

fn interrupted(killed: bool) -> CellError {
    let text = match killed {
        true => "the cell was stopped; all variables are as before it",
        false => "the cell was interrupted and stopped by itself; what it had done by then is kept",
    };
    CellError::plain("KeyboardInterrupt", text)
}

fn no_input() -> CellError {
    let failure = Failure::new(
        "the cell reads standard input, and there is nobody to ask here",
        "give the value by a `let`; JupyterLab, VS Code and jupyter console ask their users",
    );
    CellError::failed("StdinNotImplemented", &failure)
}

fn died(end: End, overflow: bool) -> CellError {
    let cause = match end {
        _ if overflow => {
            "stack overflow: recursion that is endless, or too deep for the 64 MiB of a cell".into()
        }
        // Systems number some signals differently.
        End::Signal(libc::SIGABRT) => "it aborted".into(),
        End::Signal(libc::SIGKILL) => "it was killed, perhaps because the machine had no memory left".into(),
        End::Signal(libc::SIGBUS) => "bus error".into(),
        End::Signal(libc::SIGSEGV) => "segmentation fault".into(),
        End::Signal(_) | End::Exit(_) => end.to_string(),
    };
    let what = match end {
        End::Exit(code) if !overflow => format!("the cell ended its process with exit code {code}"),
        End::Exit(_) | End::Signal(_) => format!("the cell's process died ({cause})"),
    };
    let help = "all variables are as before this cell; threads that earlier cells had started are gone";
    CellError::failed("WorkerDied", &Failure::new(what, help))
}

/// Of a cell in which the statement at line `running` ran.
fn failure(cause: Cause, running: usize, ready: &Ready, libraries: &Libraries) -> CellError {
    match cause {
        Cause::Error(text) => CellError::plain("Error", &text),
        Cause::Interrupted => interrupted(false),
        Cause::NotLoaded(why) => match why.rsplit_once("undefined symbol: ") {
            Some((_, symbol)) => {
                let help =
                    "a function of a C library needs `#[link(name = \"..\")]` before its `extern` block";
                let what = format!("no library has the function {symbol} that this cell declares");
                CellError::failed("LoadError", &Failure::new(what, help))
            }
            None => {
                let help = "set TMPDIR to a folder from which programs may be run, and restart the kernel";
                let what = format!("the compiled cell cannot be loaded: {why}");
                CellError::failed("LoadError", &Failure::new(what, help))
            }
        },
        Cause::Panic { message, place } => {
            let at = place.as_ref().and_then(|place| {
                let own = place.file == cell_file(ready.text.cell);
                let source = if own { Some(&ready.source) } else { libraries.source(&place.file) }?;
                let byte = source.byte_at(place.line as usize, place.column as usize);
                source.origin(byte..byte + 2)
            });
            let elsewhere = place.and_then(|place| library_file(&place.file));
            panicked(&message, at.as_ref(), elsewhere.as_deref(), &ready.text, running)
        }
    }
}

/// A panic: the message, and where in the cell it was, or which statement ran when a library panicked.
fn panicked(
    message: &str,
    at: Option<&Quote>,
    elsewhere: Option<&str>,
    text: &Text,
    running: usize,
) -> CellError {
    let label = match (at, elsewhere) {
        (None, Some(file)) => format!("in {file}, called from here"),
        _ => String::new(),
    };
    let mut out = format!("{RED}Panic{RESET}{BOLD}: {message}{RESET}\n");
    let mut evalue = message.to_string();
    if let Some(quote) = at.cloned().or_else(|| line_of(text, running)) {
        let _ = write!(evalue, " ({})", place(&quote, text.cell));
        excerpt(&[Mark { at: quote, label, primary: true }], text.cell, &mut out);
    }
    CellError { ename: "Panic".into(), evalue, traceback: lines(&out) }
}

/// A line of a cell, from 1, without its indentation.
fn line_of(text: &Text, line: usize) -> Option<Quote> {
    let code = text.code.lines().nth(line.checked_sub(1)?)?;
    let start = text.code.lines().take(line - 1).map(|before| before.len() + 1).sum::<usize>();
    let indent = code.len() - code.trim_start().len();
    Some(Quote { text: text.clone(), range: start + indent..start + code.len() })
}

/// `../registry/src/index/ndarray-0.17.2/src/lib.rs` without what the machine has before it.
fn library_file(file: &str) -> Option<String> {
    let parts: Vec<&str> = file.split('/').collect();
    let src = parts.iter().rposition(|part| *part == "src").filter(|at| *at > 0)?;
    Some(parts[src - 1..].join("/"))
}

fn unnameable(names: &[String], types: &str, ready: &Ready) -> CellError {
    let culprit = split_tuple(types).iter().position(|ty| ty.contains("{{")).and_then(|i| names.get(i));
    let name = culprit.map_or("a variable", String::as_str);
    let at = ready.text.whole();
    let mut error = report::refusal(&report::closure_sentence(name), &report::closure_help(name), &at);
    error.ename = "CompileError".into();
    error
}

/// The parts of `(A, B<C, D>,)`.
fn split_tuple(ty: &str) -> Vec<String> {
    let inside = ty.strip_prefix('(').and_then(|ty| ty.strip_suffix(')')).unwrap_or(ty);
    let mut parts = vec![String::new()];
    let mut depth = 0;
    let mut previous = ' ';
    for c in inside.chars() {
        match c {
            '(' | '[' | '<' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            '>' if previous != '-' => depth -= 1,
            _ => {}
        }
        previous = c;
        match c {
            ',' if depth == 0 => parts.push(String::new()),
            c => parts.last_mut().into_iter().for_each(|part| part.push(c)),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuples_are_split_between_their_parts_only() {
        assert_eq!(split_tuple("(A<B, C>, fn(D, E) -> F, G)"), ["A<B, C>", " fn(D, E) -> F", " G"]);
    }

    #[test]
    fn library_files_lose_what_is_the_machines() {
        assert_eq!(library_file("/x/registry/src/idx/nd-0.1/src/a.rs").as_deref(), Some("nd-0.1/src/a.rs"));
    }
}
