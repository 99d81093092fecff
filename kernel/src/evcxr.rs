//! The second engine: the `evcxr` crate, embedded behind the same trait as our own.
//!
//! It runs what stock `evcxr_jupyter` runs, the way it runs it: slower, with every `:dep` built anew, and with all
//! variables lost when a cell is interrupted or ends its process. What this file adds is that a cell that panics or
//! leaves by `?` *fails*, which evcxr does not report: a cell defines a variable before all else, and evcxr forgets the
//! variables of a cell that did not get to its end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evcxr::{CommandContext, CompilationError, Error, EvalCallbacks, EvalContext, Theme};

use crate::base::failure::Failure;
use crate::base::lock;
use crate::cells::CellRunner;
use crate::cells::{Ask, CellError, Input, Output, Question};

/// The variable by which a cell that ran to its end is known; cells take turns with the two.
const WITNESSES: [&str; 2] = ["__onelens_ran_a", "__onelens_ran_b"];

/// How long lines may take from evcxr's channels to us after a cell ended.
const SETTLE: Duration = Duration::from_millis(5);

/// Evcxr's runtime and its wrapper around rustc are this program: `main` calls this before all else.
pub fn runtime_hook() {
    evcxr::runtime_hook();
}

enum Event {
    Stdout(String),
    Stderr(String),
    Ended(Box<Ended>),
}

/// How a cell ended, with the variables that there are now.
struct Ended {
    result: Result<Vec<(String, String)>, CellError>,
    finished: bool,
    variables: BTreeMap<String, String>,
}

/// Evcxr, in a thread of its own.
pub struct Evcxr {
    cells: Sender<String>,
    events: Receiver<Event>,
    variables: BTreeMap<String, String>,
    process: Arc<Mutex<std::process::Child>>,
    running: Arc<AtomicBool>,
    killed: Arc<AtomicBool>,
    ask: Arc<Mutex<Option<Ask>>>,
}

impl Evcxr {
    /// Starts a session; takes some seconds.
    pub fn start() -> Result<Self, Failure> {
        let doctor = "run `onelens doctor`, or use the instant engine (`onelens install`)";
        let program = std::env::current_exe()
            .map_err(|e| Failure::new(format!("this program does not know its own path: {e}"), doctor))?;
        let (context, outputs) = EvalContext::with_subprocess_command(std::process::Command::new(program))
            .map_err(|e| Failure::new(format!("evcxr does not start: {e}"), doctor))?;
        let mut context = CommandContext::with_eval_context(context);
        context
            .execute(":load_config --quiet")
            .map_err(|e| Failure::new(format!("evcxr's configuration: {e}"), doctor))?;
        let process = context.process_handle();
        let (cells, queue) = mpsc::channel();
        let (sender, events) = mpsc::channel();
        let (out, err) = (sender.clone(), sender.clone());
        // The threads end with the channels they read.
        std::thread::spawn(move || outputs.stdout.iter().all(|line| out.send(Event::Stdout(line)).is_ok()));
        std::thread::spawn(move || outputs.stderr.iter().all(|line| err.send(Event::Stderr(line)).is_ok()));
        let ask = Arc::new(Mutex::new(None));
        let asked = Arc::clone(&ask);
        std::thread::spawn(move || run_cells(context, &queue, &sender, &asked));
        let (running, killed) = (Arc::default(), Arc::default());
        Ok(Evcxr { cells, events, variables: BTreeMap::new(), process, running, killed, ask })
    }

    fn gone(&self) -> CellError {
        failed("WorkerDied", &Failure::new("evcxr's thread has ended", "restart the kernel"))
    }
}

impl CellRunner for Evcxr {
    fn execute(&mut self, code: &str, on_output: &mut dyn FnMut(Output)) -> Result<(), CellError> {
        self.killed.store(false, Ordering::SeqCst);
        self.running.store(true, Ordering::SeqCst);
        self.cells.send(code.to_string()).map_err(|_| self.gone())?;
        let mut said = String::new();
        let mut ended: Option<Box<Ended>> = None;
        loop {
            let event = match ended {
                None => self.events.recv().map_err(|_| self.gone())?,
                Some(_) => match self.events.recv_timeout(SETTLE) {
                    Ok(event) => event,
                    Err(_) => break,
                },
            };
            match event {
                Event::Stdout(line) => on_output(Output::Stdout(line + "\n")),
                Event::Stderr(line) => {
                    said.push_str(&line);
                    said.push('\n');
                    on_output(Output::Stderr(line + "\n"));
                }
                Event::Ended(end) => {
                    self.running.store(false, Ordering::SeqCst);
                    ended = Some(end);
                }
            }
        }
        let Ended { result, finished, variables } = *ended.ok_or_else(|| self.gone())?;
        self.variables = variables;
        match result {
            Err(_) if self.killed.load(Ordering::SeqCst) => {
                let why = Failure::new(
                    "the cell was stopped, and evcxr's process with all variables",
                    "run the cells again that define variables",
                );
                Err(failed("KeyboardInterrupt", &why))
            }
            Err(error) => Err(error),
            Ok(_) if !finished => Err(early_end(&said)),
            Ok(bundle) => {
                // A statement without its semicolon is no result.
                if bundle.iter().any(|(mime, text)| mime != "text/plain" || text != "()") {
                    on_output(Output::Result(bundle));
                }
                Ok(())
            }
        }
    }

    fn interrupter(&self) -> Box<dyn Fn() + Send> {
        let (process, running) = (Arc::clone(&self.process), Arc::clone(&self.running));
        let killed = Arc::clone(&self.killed);
        Box::new(move || {
            if running.load(Ordering::SeqCst) {
                killed.store(true, Ordering::SeqCst);
                let _ = lock(&process).kill();
            }
        })
    }

    fn variables(&self) -> BTreeMap<String, String> {
        self.variables.clone()
    }

    fn on_input(&mut self, ask: Ask) {
        *lock(&self.ask) = Some(ask);
    }
}

/// The thread that owns evcxr.
fn run_cells(
    mut context: CommandContext,
    queue: &Receiver<String>,
    events: &Sender<Event>,
    ask: &Mutex<Option<Ask>>,
) {
    let mut witness = 0;
    while let Ok(code) = queue.recv() {
        let statements =
            !code.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with(':'));
        let [new, old] = [WITNESSES[1 - witness], WITNESSES[witness]];
        let known = |context: &CommandContext, name: &str| {
            context.variables_and_types().any(|(variable, _)| variable == name)
        };
        // `:clear` and an end of evcxr's process take it away.
        let there = known(&context, old);
        let code = match statements {
            // On the line of the cell's first statement, so that evcxr's line numbers stay the user's.
            true => with_witness(&code, new, there.then_some(old)),
            false => code,
        };
        // `evcxr_input` is evcxr's own way to read a line; it asks here.
        let mut callbacks = EvalCallbacks {
            input_reader: &|asked| {
                let question = Question { prompt: asked.prompt, password: asked.is_password };
                match lock(ask).as_mut().map(|ask| ask(&question)) {
                    Some(Input::Line(line)) => line,
                    _ => String::new(),
                }
            },
        };
        let result = context.execute_with_callbacks(&code, &mut callbacks);
        let finished = !statements || known(&context, new);
        if statements && finished {
            witness = 1 - witness;
        }
        let ended = Ended {
            finished,
            variables: context
                .variables_and_types()
                .filter(|(name, _)| !WITNESSES.contains(name))
                .map(|(name, ty)| (name.to_string(), ty.to_string()))
                .collect(),
            result: result
                .map(|outputs| outputs.content_by_mime_type.into_iter().collect())
                .map_err(|e| cell_error(e, &code)),
        };
        if events.send(Event::Ended(Box::new(ended))).is_err() {
            return;
        }
    }
}

/// The cell with the definition of `new`, and the end of `old`, before its first statement.
fn with_witness(code: &str, new: &str, old: Option<&str>) -> String {
    let mut at = 0;
    for line in code.split_inclusive('\n') {
        let start = line.trim_start();
        if !(start.is_empty() || start.starts_with(':')) {
            break;
        }
        at += line.len();
    }
    // The order matters: evcxr takes what begins with a colon for a command.
    let end_of_old = old.map_or(String::new(), |old| format!("::std::mem::drop({old}); "));
    format!("{}let {new}: String = String::new(); {end_of_old}{}", &code[..at], &code[at..])
}

/// A panic or a `?`; evcxr has told the story on standard error, and nowhere else.
fn early_end(said: &str) -> CellError {
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    match lines.iter().position(|line| line.contains(" panicked at ")) {
        // The message comes after the line with the place and before the backtrace.
        Some(at) => plain("Panic", lines.get(at + 1).copied().unwrap_or("the cell panicked")),
        None => plain("Error", lines.last().copied().unwrap_or("the cell ended by `?`")),
    }
}

fn cell_error(error: Error, code: &str) -> CellError {
    match error {
        Error::CompilationErrors(errors) => {
            let ename = errors.iter().find_map(|e| e.code()).unwrap_or("CompileError").to_string();
            let evalue: Vec<String> = errors.iter().map(CompilationError::message).collect();
            let traceback = errors.iter().flat_map(|e| report(e, code)).collect();
            CellError { ename, evalue: evalue.join("\n"), traceback }
        }
        Error::TypeRedefinedVariablesLost(names) => plain(
            "TypeRedefined",
            &format!("a type was redefined, and the variables of it are gone: {}", names.join(", ")),
        ),
        Error::SubprocessTerminated(how) => {
            let help = "all variables are gone; run the cells again that define them";
            failed("WorkerDied", &Failure::new(how.trim(), help))
        }
        Error::Message(text) => plain("Error", &text),
    }
}

/// One error, drawn on the lines of the cell where that is possible.
fn report(error: &CompilationError, code: &str) -> Vec<String> {
    let name = "cell".to_string();
    let drawn = error.build_report(name.clone(), code.to_string(), Theme::Light).and_then(|report| {
        let mut bytes = Vec::new();
        report.write(ariadne::sources([(name, code.to_string())]), &mut bytes).ok()?;
        String::from_utf8(bytes).ok()
    });
    without_witness(&drawn.unwrap_or_else(|| error.rendered()))
}

/// The lines of a drawn error as if the cell had no witness: it is taken from its line of code, and its width from the
/// marks below.
fn without_witness(drawn: &str) -> Vec<String> {
    let mut cut: Option<(usize, usize)> = None;
    let mut lines = Vec::new();
    for line in drawn.lines() {
        let plain = crate::base::ansi::strip(line);
        let places = WITNESSES.iter().flat_map(|name| {
            [format!("let {name}: String = String::new(); "), format!("::std::mem::drop({name}); ")]
                .map(|text| plain.find(&text).map(|at| (at, at + text.len())))
        });
        let places: Vec<(usize, usize)> = places.flatten().collect();
        let (start, end) = (places.iter().map(|p| p.0).min(), places.iter().map(|p| p.1).max());
        if let (Some(start), Some(end)) = (start, end) {
            lines.push(format!("{}{}", &plain[..start], &plain[end..]));
            cut = Some((plain[..start].chars().count(), plain[start..end].chars().count()));
            continue;
        }
        let marks: Vec<char> = plain.chars().collect();
        match cut {
            Some((from, width))
                if marks.len() > from + width && marks[from..from + width].iter().all(|&c| c == ' ') =>
            {
                lines.push(marks[..from].iter().chain(&marks[from + width..]).collect());
            }
            _ => lines.push(line.to_string()),
        }
    }
    lines
}

fn failed(ename: &str, failure: &Failure) -> CellError {
    plain(ename, &failure.to_string())
}

fn plain(ename: &str, text: &str) -> CellError {
    let traceback =
        std::iter::once(format!("\x1b[31m{ename}\x1b[0m:")).chain(text.lines().map(str::to_string)).collect();
    CellError { ename: ename.into(), evalue: text.into(), traceback }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_witness_stands_on_the_line_of_the_first_statement() {
        assert_eq!(
            with_witness(":dep a\n\nlet x = 1;\nx", "b", Some("a")),
            ":dep a\n\nlet b: String = String::new(); ::std::mem::drop(a); let x = 1;\nx"
        );
        assert_eq!(with_witness("1", "b", None), "let b: String = String::new(); 1");
    }

    #[test]
    fn a_drawn_error_shows_the_cell_as_the_user_wrote_it() {
        let drawn = |code: &str, marks: &str| format!(" 1 │ {code}\n   │ {marks}");
        for old in [None, Some(WITNESSES[0])] {
            let cell = with_witness("let x = y;", WITNESSES[1], old);
            let marks = format!("{}┬", " ".repeat(cell.chars().count() - 2));
            assert_eq!(
                without_witness(&drawn(&cell, &marks)).join("\n"),
                drawn("let x = y;", &format!("{}┬", " ".repeat(8)))
            );
        }
    }
}
