//! Running a compiled cell in the worker, through its death and the waking of its copy.

use super::compile::cell_file;
use super::diagnostics;
use super::interrupt::signal;
use super::library::Libraries;
use super::process::{Event, Printed};
use super::session::{Ready, Session};
use crate::cells::Input;
use crate::cells::{Bundle, CellError, Output};

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

/// How running a cell went.
pub(super) enum Ran {
    /// It ran, be it with an error.
    Ended(Result<(), CellError>),
    /// It did not, as this variable is not of the type that it was taken for.
    Unfit(String),
}

impl Session {
    /// Has the worker drop its variables before it goes, whose `Drop` may have something to do: write the end of a
    /// file, stop a program. One that does not come to its end is not waited for.
    pub(super) fn leave(&mut self, on_output: &mut dyn FnMut(Output)) {
        if self.variables.is_empty() {
            return;
        }
        self.process.send(&["leave"]);
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
                Event::Frame(parts) if parts[0] == "left" => break,
                // A value may show something when it goes.
                Event::Frame(parts) => {
                    let stands_in_order = ["result", "display", "update", "clear", "showing", "shown"];
                    if stands_in_order.contains(&parts[0].as_str()) {
                        self.process.acknowledge();
                    }
                }
                Event::Ended { pid, .. } if pid == worker => break,
                Event::Ended { .. } | Event::Reads => {}
                Event::Gone | Event::Deserted => break,
            }
        }
        drop(done);
        let _ = patience.join();
        self.blocks.finish(on_output);
    }

    /// Waits for the worker's first word.
    pub(super) fn wait_until_ready(&mut self) -> Result<(), String> {
        let mut printed = String::new();
        let event = self.process.next(0, &mut |text| match text {
            Printed::Stdout(text) | Printed::Stderr(text) => printed.push_str(&text),
        });
        let why = match event {
            Event::Frame(parts) if parts[0] == "ready" => {
                self.control.set_worker(number(&parts, 1));
                return Ok(());
            }
            Event::Frame(parts) => parts.get(1).cloned().unwrap_or_default(),
            Event::Ended { how, .. } => how,
            Event::Gone | Event::Deserted | Event::Reads => "it ended".into(),
        };
        Err(format!(
            "the worker does not start: {why} {}\nhelp: remove {} and restart the kernel, which builds the library anew",
            printed.trim(),
            crate::image::Image::folder().display()
        ))
    }

    pub(super) fn run(&mut self, ready: &Ready, on_output: &mut dyn FnMut(Output)) -> Ran {
        let visible = if ready.homes.is_empty() { "" } else { "global" };
        self.process.input.begin(|| self.scope.items.words_led_to(&ready.text.code));
        self.process.send(&["run", &ready.library.to_string_lossy(), visible]);
        let mut course = Course::default();
        loop {
            let blocks = &mut self.blocks;
            let worker = self.control.worker();
            let event = self.process.next(worker, &mut |text| match text {
                Printed::Stdout(text) => blocks.push(&text, on_output),
                Printed::Stderr(text) => on_output(Output::Stderr(text)),
            });
            let over = match event {
                Event::Frame(parts) => self.frame(&parts, ready, &mut course, on_output),
                Event::Ended { pid, how } if pid == self.control.worker() => {
                    self.worker_ended(&how, &mut course)
                }
                Event::Ended { pid, how } if course.copy > 0 && pid == course.copy => {
                    course.copy_ended = true;
                    // Once it was woken, the cell's end is to come from it.
                    if course.woken {
                        self.start_over(&how, &mut course);
                    }
                    course.woken
                }
                Event::Ended { .. } => false,
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
            let frame = self.process.poll(&mut |text| {
                quiet = false;
                match text {
                    Printed::Stdout(text) => blocks.push(&text, on_output),
                    Printed::Stderr(text) => on_output(Output::Stderr(text)),
                }
            });
            let Some(parts) = frame else { break };
            self.put_out(&parts, on_output);
        }
        // A block waits for others of its output, which would have come by now.
        if quiet {
            self.blocks.finish_line(on_output);
        }
    }

    /// An output in the order of what is printed, which its sender waits to be read; false for frames of other kinds.
    fn put_out(&mut self, parts: &[String], on_output: &mut dyn FnMut(Output)) -> bool {
        match parts[0].as_str() {
            kind @ ("result" | "display" | "update") => {
                self.blocks.finish_line(on_output);
                on_output(shown(kind, parts));
            }
            "showing" => self.blocks.result_begins(on_output),
            "shown" => self.blocks.result_ends(on_output),
            "clear" => {
                self.blocks.finish_line(on_output);
                on_output(Output::Clear { wait: parts[1] == "wait" });
            }
            _ => return false,
        }
        self.process.acknowledge();
        true
    }

    /// Whether the cell is over.
    fn frame(
        &mut self,
        parts: &[String],
        ready: &Ready,
        course: &mut Course,
        on_output: &mut dyn FnMut(Output),
    ) -> bool {
        if self.put_out(parts, on_output) {
            return false;
        }
        match parts[0].as_str() {
            "ready" => self.control.set_worker(number(parts, 1)),
            "forked" => course.copy = number(parts, 1),
            "overflow" => course.overflow = true,
            "failed" => {
                course.not_loaded = parts.get(1).is_some_and(|kind| kind == "load");
                course.error = Some(failure(parts, ready, &self.libraries));
            }
            "unnameable" => course.error = Some(unnameable(parts, ready)),
            "lost" => course.lost = true,
            "unfit" => course.unfit = parts.get(1).cloned(),
            "fatal" => course.error = Some(CellError::plain("WorkerDied", &parts[1])),
            "done" => {
                self.set_variables(&parts[1..], ready, course.error.is_some());
                return true;
            }
            _ => {}
        }
        false
    }

    fn worker_ended(&mut self, how: &str, course: &mut Course) -> bool {
        self.process.forget_partial_frame();
        if course.copy == 0 || course.copy_ended || course.woken {
            self.start_over(how, course);
            return true;
        }
        if !(course.lost && course.error.is_some()) {
            course.error = Some(match (course.refused, self.control.has_killed()) {
                (true, _) => no_input(),
                (false, true) => interrupted(true),
                (false, false) => died(if course.overflow { "overflow" } else { how }),
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
        let text = format!(
            "the process with the variables ended ({how}) and could not be restored\nhelp: the kernel has started a new one; run the cells again that define variables"
        );
        course.error = Some(CellError::plain("WorkerDied", &text));
        course.not_loaded = true;
        if let Err(why) = self.restart() {
            course.error = Some(CellError::plain("WorkerDied", &format!("{text}\n{why}")));
        }
    }
}

fn number(parts: &[String], i: usize) -> i32 {
    parts.get(i).and_then(|n| n.parse().ok()).unwrap_or_default()
}

fn shown(kind: &str, parts: &[String]) -> Output {
    let bundle: Bundle = parts[3..].chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    let id = (parts[1] == "id").then(|| parts[2].clone());
    match (kind, id) {
        ("result", _) => Output::Result(bundle),
        ("update", Some(id)) => Output::Update { bundle, id },
        (_, id) => Output::Display { bundle, id },
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
    let text = "the cell reads standard input, and there is nobody to ask here\nhelp: give the value by a `let`; JupyterLab, VS Code and jupyter console ask their users";
    CellError::plain("StdinNotImplemented", text)
}

fn died(how: &str) -> CellError {
    // Systems number some signals differently.
    let signal = how.strip_prefix("signal ").and_then(|number| number.parse::<i32>().ok());
    let cause = match (signal, how) {
        (Some(libc::SIGABRT), _) => "it aborted",
        (Some(libc::SIGKILL), _) => "it was killed, perhaps because the machine had no memory left",
        (Some(libc::SIGBUS), _) => "bus error",
        (Some(libc::SIGSEGV), _) => "segmentation fault",
        (_, "overflow") => "stack overflow: recursion that is endless, or too deep for the 64 MiB of a cell",
        (_, other) => other,
    };
    let what = match cause.strip_prefix("exit ") {
        Some(code) => format!("the cell ended its process with exit code {code}"),
        None => format!("the cell's process died ({cause})"),
    };
    let help = "all variables are as before this cell; threads that earlier cells had started are gone";
    CellError::plain("WorkerDied", &format!("{what}\nhelp: {help}"))
}

/// By `?`, by a panic, by an interrupt, or because the cell could not be loaded.
fn failure(parts: &[String], ready: &Ready, libraries: &Libraries) -> CellError {
    let field = |i: usize| parts.get(i).map_or("", String::as_str);
    let position = |i: usize| field(i).parse::<usize>().unwrap_or_default();
    let (message, running) = (field(2), position(3));
    match field(1) {
        "error" => CellError::plain("Error", message),
        "interrupted" => interrupted(false),
        "load" if message.contains("undefined symbol: ") => {
            let symbol = message.rsplit("undefined symbol: ").next().unwrap_or_default();
            let help = "a function of a C library needs `#[link(name = \"..\")]` before its `extern` block";
            let text = format!("no library has the function {symbol} that this cell declares\nhelp: {help}");
            CellError::plain("LoadError", &text)
        }
        "load" => {
            let help = "set TMPDIR to a folder from which programs may be run, and restart the kernel";
            CellError::plain(
                "LoadError",
                &format!("the compiled cell cannot be loaded: {message}\nhelp: {help}"),
            )
        }
        _ => {
            let own = field(4) == cell_file(ready.text.cell);
            let source = if own { Some(&ready.source) } else { libraries.source(field(4)) };
            let at = source.and_then(|source| {
                let byte = source.byte_at(position(5), position(6));
                source.origin(byte..byte + 2)
            });
            let elsewhere = library_file(field(4));
            diagnostics::panic(message, at.as_ref(), elsewhere.as_deref(), &ready.text, running)
        }
    }
}

/// `../registry/src/index/ndarray-0.17.2/src/lib.rs` without what the machine has before it.
fn library_file(file: &str) -> Option<String> {
    let parts: Vec<&str> = file.split('/').collect();
    let src = parts.iter().rposition(|part| *part == "src").filter(|at| *at > 0)?;
    Some(parts[src - 1..].join("/"))
}

fn unnameable(parts: &[String], ready: &Ready) -> CellError {
    let names: Vec<&str> = parts[1].split(',').collect();
    let types = split_tuple(&parts[2]);
    let culprit = types.iter().position(|ty| ty.contains("{{")).and_then(|i| names.get(i));
    let name = culprit.copied().unwrap_or("a variable");
    let at = ready.text.whole();
    let mut error =
        diagnostics::refusal(&diagnostics::closure_sentence(name), &diagnostics::closure_help(name), &at);
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
