//! `onelens run`: a notebook from its first cell to its last, in a kernel of our own, over the Jupyter protocol.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::child::KernelProcess;
use crate::failure::{CELL_FAILED, ENVIRONMENT, Failure, INTERRUPTED};
use crate::image::Image;
use crate::jupyter::client::FromKernel;
use crate::jupyter::message::Message;
use crate::jupyter::requests::language_info;
use crate::notebook::{Notebook, check_folder_of, text_of, write_whole};
use crate::outputs::Outputs;
use crate::screen::{Screen, duration, shortened};
use crate::signals::Arrived;
use crate::{page, paths};

/// What to run and where the results go.
pub struct Options {
    /// The notebook.
    pub notebook: PathBuf,
    /// The executed notebook; `None` replaces the notebook itself.
    pub output: Option<PathBuf>,
    /// The page.
    pub html: Html,
    /// How long one cell may take.
    pub timeout: Option<Duration>,
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

/// How the run of one cell ended.
enum End {
    Finished,
    Failed { traceback: String },
    TimedOut,
    Interrupted,
    Died(String),
}

/// Runs the notebook; the exit code says whether every cell did.
pub fn run(options: &Options) -> Result<u8, Failure> {
    let mut notebook = Notebook::read(&options.notebook)?;
    let output = options.output.clone().unwrap_or_else(|| options.notebook.clone());
    let html = match &options.html {
        Html::Beside => Some(output.with_extension("html")),
        Html::File(file) => Some(file.clone()),
        Html::No => None,
    };
    check_folder_of(&output)?;
    if let Some(html) = &html {
        check_folder_of(html)?;
        if *html == output || *html == options.notebook {
            return Err(Failure::bad_input(
                format!("the page and the notebook would both be written to {}", html.display()),
                "give the notebook the extension .ipynb, or the page another name with --html FILE",
            ));
        }
    }

    let mut screen = Screen::new();
    let started = Instant::now();
    prepare(&mut screen)?;
    let interrupts = Arrived::watch(&[SIGINT, SIGTERM])?;
    let program = paths::this_program()?;
    let folder = match options.notebook.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let kernel = KernelProcess::start(&program, folder)?;

    notebook.clear_outputs();
    notebook.set_kernel(language_info());
    let n_cells = notebook.cells().count();
    let mut run =
        Run { kernel, screen, interrupts, timeout: options.timeout, outputs: Outputs::new(n_cells) };
    let code = run.all(&mut notebook);

    write_whole(&output, &notebook.to_text())?;
    let mut wrote = output.display().to_string();
    if let Some(html) = &html {
        let stem = output.file_stem().unwrap_or_default().to_string_lossy();
        write_whole(html, &page::render(&notebook, &stem))?;
        wrote.push_str(&format!(" and {}", html.display()));
    }
    run.screen.line(&format!("wrote {wrote} after {}", duration(started.elapsed())));
    Ok(code)
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
    image.map_err(|why| Failure::from_text(&why))
}

struct Run {
    kernel: KernelProcess,
    screen: Screen,
    interrupts: Arrived,
    timeout: Option<Duration>,
    outputs: Outputs,
}

/// How long a kernel may take to stop a cell when asked to, before it is ended.
const STOP: Duration = Duration::from_secs(10);
/// How long to wait for the rest, once the reply or the end of outputs has come.
const STRAGGLERS: Duration = Duration::from_secs(5);

impl Run {
    fn all(&mut self, notebook: &mut Notebook) -> u8 {
        let cells: Vec<(usize, String, bool)> = notebook
            .cells()
            .enumerate()
            .filter(|(_, cell)| cell.is_runnable())
            .map(|(at, cell)| (at, cell.source.clone(), cell.has_tag("raises-exception")))
            .collect();
        let mut code = 0;
        for (i, (at, source, may_fail)) in cells.iter().enumerate() {
            let label = format!("[{}/{}] {}", i + 1, cells.len(), shortened(first_line(source), 56));
            self.screen.open(&label);
            let started = Instant::now();
            let mut record = Record::default();
            let end = self.cell(*at, source, &label, &mut record);
            let took = duration(started.elapsed());
            let word = match &end {
                End::Finished => "",
                End::Failed { .. } if *may_fail => "  error, as expected",
                End::Failed { .. } => "  ERROR",
                End::TimedOut => "  TIMEOUT",
                End::Interrupted => "  INTERRUPTED",
                End::Died(_) => "  KERNEL ENDED",
            };
            self.screen.close(&format!("{label}  {took}{word}"), &format!("  {took}{word}"));
            if let End::Died(why) = &end {
                self.outputs.apply(
                    *at,
                    "error",
                    &json!({ "ename": "KernelDied", "evalue": why, "traceback": [why] }),
                );
            }
            // Displays of earlier cells may have been updated by this one.
            for (earlier, _, _) in &cells[..i] {
                notebook.set_outputs(*earlier, self.outputs.of(*earlier));
            }
            notebook.set_result(*at, self.outputs.of(*at), record.count, record.times);
            let (message, exit) = match end {
                End::Finished => continue,
                End::Failed { .. } if *may_fail => continue,
                End::Failed { traceback } => (traceback, CELL_FAILED),
                End::TimedOut => {
                    let limit = duration(self.timeout.unwrap_or_default());
                    (
                        format!(
                            "cell {} ran longer than {limit} and was stopped\nhelp: allow more with --timeout SECONDS",
                            i + 1
                        ),
                        CELL_FAILED,
                    )
                }
                End::Interrupted => {
                    ("interrupted; the cells behind this one were not run".into(), INTERRUPTED)
                }
                End::Died(why) => (
                    format!(
                        "{why}\nhelp: run the notebook again; if it happens again in the same cell, that cell ends the process or needs more memory than there is"
                    ),
                    ENVIRONMENT,
                ),
            };
            self.screen.line("");
            self.screen.line(&message);
            self.screen.line("");
            code = exit;
            break;
        }
        code
    }

    fn cell(&mut self, at: usize, source: &str, label: &str, record: &mut Record) -> End {
        if self.interrupts.take() {
            return End::Interrupted;
        }
        let id = self.kernel.client.execute(source);
        let started = Instant::now();
        let (mut reply, mut idle): (Option<Message>, bool) = (None, false);
        let mut half_done: Option<Instant> = None;
        let mut stopping: Option<(Instant, End)> = None;
        let mut news = String::new();
        while reply.is_none() || !idle {
            match self.kernel.client.next(Duration::from_millis(50)) {
                Some(FromKernel::IoPub(m)) if m.parent_id() == id => {
                    if let Some(text) = latest_line(&m) {
                        news = text;
                    }
                    idle |= record.note(&m);
                    self.outputs.apply(at, m.kind(), &m.content);
                }
                Some(FromKernel::Shell(m)) if m.parent_id() == id => {
                    record.time("shell.execute_reply", &m);
                    reply = Some(m);
                }
                Some(FromKernel::Gone) => {
                    // The connection breaks a moment before the process can be waited for.
                    std::thread::sleep(Duration::from_millis(100));
                    let why = self.kernel.ended().unwrap_or("the connection to the kernel broke".into());
                    return End::Died(why);
                }
                _ => {}
            }
            if reply.is_some() || idle {
                let since = *half_done.get_or_insert_with(Instant::now);
                if since.elapsed() > STRAGGLERS {
                    break;
                }
            }
            match &stopping {
                None => {
                    let why = if self.interrupts.take() {
                        End::Interrupted
                    } else if self.timeout.is_some_and(|limit| started.elapsed() > limit) {
                        End::TimedOut
                    } else {
                        self.screen.change(|| format!("{label}  {}  {news}", duration(started.elapsed())));
                        continue;
                    };
                    self.kernel.client.control("interrupt_request", json!({}));
                    stopping = Some((Instant::now(), why));
                }
                Some((since, _)) => {
                    if since.elapsed() > STOP || self.interrupts.take() {
                        self.kernel.kill();
                        break;
                    }
                    self.screen.change(|| format!("{label}  {}  stopping", duration(started.elapsed())));
                }
            }
        }
        match (stopping, reply) {
            (Some((_, why)), _) => why,
            (None, Some(reply)) if reply.content["status"] == "ok" => End::Finished,
            (None, Some(reply)) => End::Failed { traceback: self.readable(&reply.content) },
            (None, None) => End::Died("the kernel did not answer the request to run the cell".into()),
        }
    }

    /// The traceback as a terminal, or a file, should show it.
    fn readable(&self, content: &Value) -> String {
        let lines: Vec<&str> =
            content["traceback"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut text = lines.join("\n");
        if text.trim().is_empty() {
            let part = |name: &str| content[name].as_str().unwrap_or("error").to_string();
            text = format!("{}: {}", part("ename"), part("evalue"));
        }
        if self.screen.is_terminal() { text } else { page::ansi::strip(&text) }
    }
}

/// What a notebook keeps about the run of a cell beside its outputs.
#[derive(Default)]
struct Record {
    count: Option<u64>,
    times: Map<String, Value>,
}

impl Record {
    /// Notes times and the count; says whether the message means that the cell has ended.
    fn note(&mut self, message: &Message) -> bool {
        match message.kind() {
            "execute_input" => {
                self.count = message.content["execution_count"].as_u64();
                self.time("iopub.execute_input", message);
                false
            }
            "status" if message.content["execution_state"] == "busy" => {
                // The kernel repeats "busy" when it has answered something else meanwhile.
                if !self.times.contains_key("iopub.status.busy") {
                    self.time("iopub.status.busy", message);
                }
                false
            }
            "status" if message.content["execution_state"] == "idle" => {
                self.time("iopub.status.idle", message);
                true
            }
            _ => false,
        }
    }

    fn time(&mut self, name: &str, message: &Message) {
        self.times.insert(name.into(), message.header["date"].clone());
        self.times.sort_keys();
    }
}

/// The first line of a cell that says something.
fn first_line(source: &str) -> &str {
    let mut lines = source.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.clone().next().unwrap_or_default();
    lines.find(|line| !line.starts_with("//")).unwrap_or(first)
}

/// What a message shows, as one line, if it shows text.
fn latest_line(message: &Message) -> Option<String> {
    let content = &message.content;
    let text = match message.kind() {
        "stream" => text_of(&content["text"]),
        "display_data" | "update_display_data" => text_of(&content["data"]["text/plain"]),
        _ => return None,
    };
    let text = page::ansi::strip(&text);
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_string)
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
