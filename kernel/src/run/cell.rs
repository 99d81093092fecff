//! One cell of a run: sent, watched, and stopped when its time is over.

use crate::base::ansi;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::base::screen::{Screen, duration};
use crate::base::signals::Arrived;
use crate::jupyter::client::FromKernel;
use crate::jupyter::message::Message;
use crate::notebook::text_of;
use crate::run::child::KernelProcess;
use crate::run::outputs::Outputs;

/// What the cells of a run share.
pub(super) struct Run {
    pub(super) kernel: KernelProcess,
    pub(super) screen: Screen,
    pub(super) interrupts: Arrived,
    pub(super) timeout: Option<Duration>,
    pub(super) outputs: Outputs,
    /// The requests so far, with the positions of their cells: a thread may put something out when its cell is long
    /// over.
    pub(super) sent: Vec<(String, usize)>,
}

/// How the run of one cell ended.
pub(super) enum End {
    Finished,
    Failed { traceback: String },
    TimedOut,
    Interrupted,
    Died(String),
}

/// How long a kernel may take to stop a cell when asked to, before it is ended.
const STOP: Duration = Duration::from_secs(10);
/// How long to wait for the rest, once the reply or the end of outputs has come.
const STRAGGLERS: Duration = Duration::from_secs(5);

impl Run {
    /// Runs the cell at position `at` of the notebook to its end, gathering what it puts out.
    pub(super) fn cell(&mut self, at: usize, source: &str, label: &str, record: &mut Record) -> End {
        if self.interrupts.take() {
            return End::Interrupted;
        }
        let id = self.kernel.client.execute(source);
        self.sent.push((id.clone(), at));
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
                Some(FromKernel::IoPub(m)) => {
                    if let Some((_, at)) = self.sent.iter().find(|(id, _)| m.parent_id() == *id) {
                        self.outputs.apply(*at, m.kind(), &m.content);
                    }
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
        if self.screen.is_terminal() { ansi::only_colours(&text) } else { ansi::strip(&text) }
    }
}

/// What a notebook keeps about the run of a cell beside its outputs.
#[derive(Default)]
pub(super) struct Record {
    pub(super) count: Option<u64>,
    pub(super) times: Map<String, Value>,
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

/// What a message shows, as one line, if it shows text.
fn latest_line(message: &Message) -> Option<String> {
    let content = &message.content;
    let text = match message.kind() {
        "stream" => text_of(&content["text"]),
        "display_data" | "update_display_data" => text_of(&content["data"]["text/plain"]),
        _ => return None,
    };
    let text = ansi::strip(&text);
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_string)
}
