//! `onelens run`: a notebook from its first cell to its last, in a kernel of our own, over the Jupyter protocol.
//!
//! | module | idea |
//! |---|---|
//! | `cell` | one cell: sent, watched, stopped |
//! | `kept` | a kernel that waits after a failed cell, for `--resume` |

pub mod child;
pub mod outputs;
pub mod parameters;

mod cell;
mod kept;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::base::failure::{CELL_FAILED, ENVIRONMENT, Failure, INTERRUPTED};
use crate::base::paths;
use crate::base::screen::{Screen, duration, shortened};
use crate::base::signals::Arrived;
use crate::engines::EngineKind;
use crate::image::Image;
use crate::jupyter::requests::language_info;
use crate::notebook::page;
use crate::notebook::{Notebook, check_folder_of, write_whole};
use crate::run::child::KernelProcess;
use crate::run::outputs::Outputs;
use cell::{End, Record, Run};
use kept::{Done, Kept};
use parameters::Given;

/// What to run and where the results go.
pub struct Options {
    /// The notebook.
    pub notebook: PathBuf,
    /// What runs the cells.
    pub engine: EngineKind,
    /// The executed notebook; `None` replaces the notebook itself.
    pub output: Option<PathBuf>,
    /// The page.
    pub html: Html,
    /// How long one cell may take.
    pub timeout: Option<Duration>,
    /// Values for the cell tagged `parameters`.
    pub parameters: Vec<Given>,
    /// Whether cells after a failed one are run all the same.
    pub allow_errors: bool,
    /// Whether to go on where the last such run stopped, and to keep the kernel after a failed cell.
    pub resume: Option<Resume>,
}

/// Where to go on.
pub struct Resume {
    /// The number of the cell, as the run shows it; `None` is the first that has not run as it stands now.
    pub from: Option<usize>,
}

/// Where the page goes.
pub enum Html {
    /// Beside the executed notebook, with the extension `html`.
    Beside,
    /// To this file.
    File(PathBuf),
    /// Nowhere.
    No,
}

/// A cell to be run.
struct Todo {
    /// Its position among all cells of the notebook.
    at: usize,
    source: String,
    may_fail: bool,
}

/// Runs the notebook; the exit code says whether every cell did.
pub fn run(options: &Options) -> Result<u8, Failure> {
    let mut notebook = Notebook::read(&options.notebook)?;
    parameters::inject(&mut notebook, &options.parameters)?;
    let output = options.output.clone().unwrap_or_else(|| options.notebook.clone());
    let html = page_file(options, &output)?;
    check_folder_of(&output)?;

    let mut screen = Screen::new();
    let started = Instant::now();
    match options.engine {
        EngineKind::Instant => drop(prepare(&mut screen)?),
        // Refuses an engine that this program does not have.
        EngineKind::Evcxr => drop(options.engine.start()?),
    }
    let interrupts = Arrived::watch(&[SIGINT, SIGTERM])?;
    notebook.clear_outputs();
    notebook.set_kernel(language_info());
    let n_cells = notebook.cells().count();
    let todo: Vec<Todo> = notebook
        .cells()
        .enumerate()
        .filter(|(_, cell)| cell.is_runnable())
        .map(|(at, cell)| Todo { at, may_fail: cell.has_tag("raises-exception"), source: cell.source })
        .collect();

    let (kernel, mut done) = match &options.resume {
        None => (start_kernel(options, false)?, Vec::new()),
        Some(resume) => resumed(options, resume, &todo, &mut screen)?,
    };
    for (todo, done) in todo.iter().zip(&done) {
        notebook.set_result(todo.at, done.outputs.clone(), done.count, done.times.clone());
    }
    let mut run = Run {
        kernel,
        screen,
        interrupts,
        timeout: options.timeout,
        outputs: Outputs::new(n_cells),
        sent: vec![],
    };
    let code = all(&mut run, &mut notebook, &todo, &mut done, options.allow_errors);

    let written = write(&notebook, &output, html.as_deref());
    let Run { mut kernel, mut screen, .. } = run;
    // What could not be written is not lost either: the next run has it, and nothing to run but what is left.
    let stopped = matches!(code, CELL_FAILED | INTERRUPTED) || written.is_err();
    let keep = options.resume.is_some() && stopped && kernel.is_running();
    let next = done.len() + 1;
    if keep {
        Kept::leave(kernel, &options.notebook, done)?;
    }
    screen.line(&format!("wrote {} after {}", written?, duration(started.elapsed())));
    if keep {
        screen.line(&format!(
            "the kernel keeps its variables for {}; repair cell {next} and run the same command again",
            duration(kept::LINGER)
        ));
    }
    Ok(code)
}

/// Writes the executed notebook and its page; returns what to say about it.
fn write(notebook: &Notebook, output: &Path, html: Option<&Path>) -> Result<String, Failure> {
    write_whole(output, &notebook.to_text())?;
    let mut wrote = output.display().to_string();
    if let Some(html) = html {
        let stem = output.file_stem().unwrap_or_default().to_string_lossy();
        write_whole(html, &page::render(notebook, &stem))?;
        wrote.push_str(&format!(" and {}", html.display()));
    }
    Ok(wrote)
}

/// Where the page goes, after checking that it can.
fn page_file(options: &Options, output: &Path) -> Result<Option<PathBuf>, Failure> {
    let html = match &options.html {
        Html::Beside => output.with_extension("html"),
        Html::File(file) => file.clone(),
        Html::No => return Ok(None),
    };
    check_folder_of(&html)?;
    if html == output || html == options.notebook {
        return Err(Failure::bad_input(
            format!("the page and the notebook would both be written to {}", html.display()),
            "give the notebook the extension .ipynb, or the page another name with --html FILE",
        ));
    }
    Ok(Some(html))
}

fn start_kernel(options: &Options, keep: bool) -> Result<KernelProcess, Failure> {
    let program = paths::this_program()?;
    let folder = match options.notebook.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    KernelProcess::start(&program, options.engine, folder, keep.then_some(kept::LINGER))
}

/// The kernel that was kept, with what had run in it and still stands so in the notebook; else a new one.
fn resumed(
    options: &Options,
    resume: &Resume,
    todo: &[Todo],
    screen: &mut Screen,
) -> Result<(KernelProcess, Vec<Done>), Failure> {
    let Some((kernel, mut done)) = Kept::take(&options.notebook)? else {
        if let Some(from) = resume.from.filter(|from| *from > 1) {
            return Err(Failure::bad_input(
                format!(
                    "cannot begin at cell {from}: no kernel with the variables of the cells before it is alive"
                ),
                "leave out --from, which runs the notebook from its first cell",
            ));
        }
        screen.line("no kernel was kept for this notebook; running it from the first cell");
        return Ok((start_kernel(options, true)?, Vec::new()));
    };
    let same = todo.iter().zip(&done).take_while(|(todo, done)| todo.source == done.source).count();
    let first = match resume.from {
        Some(from) if from > same + 1 => {
            Kept::leave(kernel, &options.notebook, done)?;
            return Err(Failure::bad_input(
                format!("cannot begin at cell {from}: cell {} has not run as it stands now", same + 1),
                format!("leave out --from, which goes on at cell {}", same + 1),
            ));
        }
        Some(from) => from - 1,
        None => same,
    };
    done.truncate(first);
    screen.line(&format!(
        "going on at cell {} with the variables of the last run; the {first} cells before are not run again",
        first + 1
    ));
    Ok((kernel, done))
}

/// Runs the cells after those that are done, and adds to them.
fn all(
    run: &mut Run,
    notebook: &mut Notebook,
    todo: &[Todo],
    done: &mut Vec<Done>,
    allow_errors: bool,
) -> u8 {
    let first = done.len();
    let mut n_failed = 0;
    for (i, Todo { at, source, may_fail }) in todo.iter().enumerate().skip(first) {
        let label = format!("[{}/{}] {}", i + 1, todo.len(), shortened(first_line(source), 56));
        run.screen.open(&label);
        let started = Instant::now();
        let mut record = Record::default();
        let end = run.cell(*at, source, &label, &mut record);
        let took = duration(started.elapsed());
        let word = match &end {
            End::Finished => "",
            End::Failed { .. } if *may_fail => "  error, as expected",
            End::Failed { .. } => "  ERROR",
            End::TimedOut => "  TIMEOUT",
            End::Interrupted => "  INTERRUPTED",
            End::Died(_) => "  KERNEL ENDED",
        };
        run.screen.close(&format!("{label}  {took}{word}"), &format!("  {took}{word}"));
        if let End::Died(why) = &end {
            let error = json!({ "ename": "KernelDied", "evalue": why, "traceback": [why] });
            run.outputs.apply(*at, "error", &error);
        }
        // Displays of earlier cells may have been updated by this one.
        for (earlier, done) in todo[first..i].iter().zip(&mut done[first..]) {
            done.outputs = run.outputs.of(earlier.at);
            notebook.set_outputs(earlier.at, done.outputs.clone());
        }
        let outputs = run.outputs.of(*at);
        notebook.set_result(*at, outputs.clone(), record.count, record.times.clone());
        let (message, code) = match end {
            End::Failed { .. } if *may_fail => (String::new(), 0),
            End::Finished => (String::new(), 0),
            other => complaint(other, i + 1, run.timeout),
        };
        if code == 0 {
            let (count, times) = (record.count, record.times);
            done.push(Done { source: source.clone(), outputs, count, times });
            continue;
        }
        run.screen.line("");
        run.screen.line(&message);
        run.screen.line("");
        if code != CELL_FAILED || !allow_errors {
            return code;
        }
        n_failed += 1;
        done.push(Done { source: source.clone(), outputs, count: record.count, times: record.times });
    }
    if n_failed > 0 {
        run.screen.line(&format!("{n_failed} of {} cells failed, as --allow-errors permits", todo.len()));
    }
    0
}

/// What to say about a cell that did not finish, and the exit code.
fn complaint(end: End, cell: usize, timeout: Option<Duration>) -> (String, u8) {
    match end {
        End::Finished => (String::new(), 0),
        End::Failed { traceback } => (traceback, CELL_FAILED),
        End::TimedOut => {
            let limit = duration(timeout.unwrap_or_default());
            let what = format!("cell {cell} ran longer than {limit} and was stopped");
            (Failure::new(what, "allow more with --timeout SECONDS").to_string(), CELL_FAILED)
        }
        End::Interrupted => ("interrupted; the cells after this one were not run".into(), INTERRUPTED),
        End::Died(why) => {
            let help = "run the notebook again; if it happens again in the same cell, that cell ends the process or needs more memory than there is";
            (Failure::new(why, help).to_string(), ENVIRONMENT)
        }
    }
}

/// Makes sure that the library which cells link against is there, showing the work if there is any.
pub fn prepare(screen: &mut Screen) -> Result<Image, Failure> {
    let started = Instant::now();
    let mut first = true;
    let image = Image::ensure(&mut |line| {
        if std::mem::take(&mut first) {
            screen.open(line);
        }
        screen.change(|| format!("preparing the library, {}: {line}", duration(started.elapsed())));
    });
    if !first {
        let took = duration(started.elapsed());
        match &image {
            Ok(_) => screen
                .close(&format!("prepared the library for cells in {took}"), &format!(": done in {took}")),
            Err(_) => screen.close("", ": failed"),
        }
    }
    image
}

/// The first line of a cell that says something.
fn first_line(source: &str) -> &str {
    let mut lines = source.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.clone().next().unwrap_or_default();
    lines.find(|line| !line.starts_with("//")).unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_known_by_its_first_line_of_code() {
        assert_eq!(first_line("\n// why\nlet x = 1;\nx"), "let x = 1;");
        assert_eq!(first_line("// only a comment"), "// only a comment");
        assert_eq!(first_line(""), "");
    }
}
