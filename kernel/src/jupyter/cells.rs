//! The queue of cells: one after the other, each between `busy` and `idle`, outputs sent as they happen.
//!
//! The session is made in the background from the first moment. A cell that comes before it is ready waits and
//! shows why. After a failed cell the requests that were sent before its reply are aborted, as the protocol says.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::message::Message;
use super::requests::documentation;
use super::server::{Kernel, Running};
use super::socket::PeerId;
use crate::assist::Assistant;
use crate::base::ansi;
use crate::base::clock;
use crate::base::failure::Failure;
use crate::base::lock;
use crate::cells::{Bundle, CellError, Output};
use crate::cells::{CellRunner, Start};

/// What the thread of cells is asked to do.
pub(super) enum Job {
    /// Run an `execute_request`.
    Cell(PeerId, Box<Message>),
    /// Drop the session, say so, and end.
    Stop(Sender<()>),
}

/// How long a failed cell waits for requests that are already on their way, before it aborts them.
const GRACE: Duration = Duration::from_millis(10);

/// How often one looks between cells for what threads of earlier ones have put out.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Nobody has sent a cell for so long: somebody reads or types, and may want a completion.
const PAUSE: Duration = Duration::from_secs(2);

/// Runs jobs until told to stop.
pub(super) fn run(kernel: Arc<Kernel>, jobs: &Receiver<Job>, start: Start) {
    let start: Arc<Start> = start.into();
    let session = Preparation::begin(&start, &kernel.assistant);
    let mut cells = Cells { kernel, session, start, count: 0, last: None, since: Instant::now() };
    loop {
        let job = match jobs.recv_timeout(LOOK_EVERY) {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) => {
                cells.idle();
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        match job {
            Job::Cell(peer, request) => {
                if let Some(done) = cells.cell(peer, &request, jobs) {
                    drop(cells);
                    let _ = done.send(());
                    return;
                }
            }
            Job::Stop(done) => {
                drop(cells);
                let _ = done.send(());
                return;
            }
        }
    }
}

/// The session, or what is known of it while it is made.
enum Preparation {
    Ready(Box<dyn CellRunner>),
    Making(Receiver<Event>),
    Failed,
}

enum Event {
    Progress(String),
    Made(Result<Box<dyn CellRunner>, Failure>),
}

impl Preparation {
    fn begin(start: &Arc<Start>, assistant: &Arc<Assistant>) -> Preparation {
        let (events, receiver) = mpsc::channel();
        let (start, assistant) = (start.clone(), assistant.clone());
        let make = move || {
            let progress = events.clone();
            let made = start(&mut |line| {
                let _ = progress.send(Event::Progress(line.to_string()));
            });
            if let Ok(session) = &made {
                assistant.set_scene(session.scene());
            }
            let _ = events.send(Event::Made(made));
        };
        match std::thread::Builder::new().name("prepare".into()).spawn(make) {
            Ok(_) => Preparation::Making(receiver),
            Err(_) => Preparation::Failed,
        }
    }
}

struct Cells {
    kernel: Arc<Kernel>,
    session: Preparation,
    start: Arc<Start>,
    count: u64,
    /// The last cell, below which stands what its threads put out later.
    last: Option<Message>,
    /// When that had ended, or the kernel started.
    since: Instant,
}

impl Cells {
    /// Nothing is to be run just now.
    fn idle(&mut self) {
        self.late_output();
        if self.since.elapsed() > PAUSE {
            self.kernel.prepare_answers();
        }
    }

    /// Publishes what threads of earlier cells have put out since.
    fn late_output(&mut self) {
        if let (Preparation::Ready(session), Some(last)) = (&mut self.session, &self.last) {
            let (kernel, count) = (&self.kernel, self.count);
            session.idle(&mut |output| {
                let (kind, content) = output_message(output, count);
                kernel.publish(last, kind, content);
            });
        }
    }

    /// Runs one cell, and aborts those after it if it fails. Returns the request to stop if one came meanwhile.
    fn cell(&mut self, peer: PeerId, request: &Message, jobs: &Receiver<Job>) -> Option<Sender<()>> {
        let kernel = &*self.kernel.clone();
        let flag = |name: &str, default| request.content[name].as_bool().unwrap_or(default);
        let code = request.content["code"].as_str().unwrap_or_default();
        let silent = flag("silent", false);
        let counted = !silent && flag("store_history", true) && !code.trim().is_empty();

        self.late_output();
        kernel.status(request, "busy");
        let metadata = json!({ "started": clock::now() });
        self.count += u64::from(counted);
        let count = self.count;
        if !silent {
            kernel.publish(request, "execute_input", json!({ "code": code, "execution_count": count }));
        }
        let mut shown = String::new();
        let outcome = match page(kernel, code) {
            Some(page) => Ok(vec![page]),
            None if code.trim().is_empty() => Ok(Vec::new()),
            None => self.execute(peer, request, code, silent, &mut shown).map(|()| Vec::new()),
        };
        if counted {
            lock(&kernel.history).push(count, code, &shown);
        }
        let mut waiting = Vec::new();
        let content = match outcome {
            Ok(payload) => {
                let values = self.expressions(request);
                json!({ "status": "ok", "execution_count": count, "user_expressions": values, "payload": payload })
            }
            Err(e) => {
                let error = json!({ "ename": e.ename, "evalue": e.evalue, "traceback": e.traceback });
                kernel.publish(request, "error", error);
                if flag("stop_on_error", true) {
                    while let Ok(job) = jobs.recv_timeout(GRACE) {
                        waiting.push(job);
                    }
                }
                json!({
                    "status": "error", "execution_count": count, "user_expressions": {}, "payload": [],
                    "ename": e.ename, "evalue": e.evalue, "traceback": e.traceback,
                })
            }
        };
        kernel.reply(peer, request, "execute_reply", content, metadata);
        kernel.status(request, "idle");
        if let Preparation::Ready(session) = &mut self.session {
            session.settle();
            kernel.assistant.set_scene(session.scene());
        }
        self.last = Some(request.clone());
        self.since = Instant::now();

        for job in waiting {
            match job {
                Job::Cell(peer, request) => {
                    kernel.status(&request, "busy");
                    kernel.reply(peer, &request, "execute_reply", json!({ "status": "aborted" }), json!({}));
                    kernel.status(&request, "idle");
                }
                Job::Stop(done) => return Some(done),
            }
        }
        None
    }

    fn execute(
        &mut self,
        peer: PeerId,
        request: &Message,
        code: &str,
        silent: bool,
        shown: &mut String,
    ) -> Result<(), CellError> {
        let (kernel, count) = (self.kernel.clone(), self.count);
        let asking = (kernel.clone(), request.clone());
        *lock(&kernel.running) = Running { request: Some(request.clone()), ..Default::default() };
        let result = self.prepared(request).and_then(|session| {
            {
                let mut running = lock(&kernel.running);
                if running.interrupted {
                    return Err(interrupted());
                }
                running.interrupt = Some(session.interrupter());
            }
            session.on_input(Box::new(move |question| asking.0.ask(peer, &asking.1, question)));
            kernel.assistant.cell_begins(code);
            let result = session.execute(code, &mut |output| {
                if let Output::Result(bundle) = &output {
                    if silent {
                        return;
                    }
                    if let Some((_, text)) = bundle.iter().find(|(mime, _)| mime == "text/plain") {
                        shown.push_str(text);
                    }
                }
                let (kind, content) = output_message(output, count);
                kernel.publish(request, kind, content);
            });
            kernel.assistant.set_scene(session.scene());
            result
        });
        *lock(&kernel.running) = Running::default();
        result
    }

    /// The values that a client wants to know after a cell, each with its own success or failure. They show nothing.
    fn expressions(&mut self, request: &Message) -> Value {
        let Preparation::Ready(session) = &mut self.session else { return json!({}) };
        let mut values = Map::new();
        for (name, code) in request.content["user_expressions"].as_object().into_iter().flatten() {
            *lock(&self.kernel.running) = Running {
                request: Some(request.clone()),
                interrupt: Some(session.interrupter()),
                interrupted: false,
            };
            let mut shown = Map::new();
            let result = session.execute(code.as_str().unwrap_or_default(), &mut |output| {
                if let Output::Result(bundle) = output {
                    shown = data(bundle);
                }
            });
            let value = match result {
                Ok(()) => json!({ "status": "ok", "data": shown, "metadata": {} }),
                Err(e) => {
                    json!({ "status": "error", "ename": e.ename, "evalue": e.evalue, "traceback": e.traceback })
                }
            };
            values.insert(name.clone(), value);
            *lock(&self.kernel.running) = Running::default();
        }
        values.into()
    }

    /// The session; waits for it if it is still being made, showing why on the cell's standard error.
    fn prepared(&mut self, request: &Message) -> Result<&mut Box<dyn CellRunner>, CellError> {
        if matches!(self.session, Preparation::Failed) {
            // The remedy may have been applied since: try again rather than ask for a restart.
            self.session = Preparation::begin(&self.start, &self.kernel.assistant);
        }
        if let Preparation::Making(events) = &self.session {
            let say = |text: String| {
                let text = format!("onelens: {text}\n");
                self.kernel.publish(request, "stream", json!({ "name": "stderr", "text": text }));
            };
            let mut building: Option<Instant> = None;
            let made = loop {
                match events.recv_timeout(Duration::from_millis(50)) {
                    // The first line says what is going on; the many after it name single crates.
                    Ok(Event::Progress(line)) => {
                        building.get_or_insert_with(|| {
                            say(line);
                            Instant::now()
                        });
                    }
                    Ok(Event::Made(made)) => break made,
                    Err(RecvTimeoutError::Timeout) => {
                        let stopping = self.kernel.stopping.load(Ordering::SeqCst);
                        if lock(&self.kernel.running).interrupted || stopping {
                            return Err(interrupted());
                        }
                    }
                    Err(RecvTimeoutError::Disconnected) => {
                        break Err(Failure::of("the engine did not start"));
                    }
                }
            };
            if let (Some(since), Ok(_)) = (building, &made) {
                say(format!(
                    "the library is ready after {:.0} s; this happens once",
                    since.elapsed().as_secs_f64()
                ));
            }
            self.session = match made {
                Ok(session) => Preparation::Ready(session),
                Err(why) => {
                    self.session = Preparation::Failed;
                    return Err(CellError::failed("KernelNotReady", &why));
                }
            };
        }
        match &mut self.session {
            Preparation::Ready(session) => Ok(session),
            _ => {
                let why = Failure::new("the engine did not start", "`onelens doctor` says what is missing");
                Err(CellError::failed("KernelNotReady", &why))
            }
        }
    }
}

fn interrupted() -> CellError {
    CellError::plain(
        "KeyboardInterrupt",
        "interrupted while the library was being prepared; the next cell goes on waiting for it",
    )
}

/// A cell that asks for documentation gets it in the pager.
fn page(kernel: &Kernel, code: &str) -> Option<Value> {
    let data = match kernel.assistant.answer(code)? {
        Some(found) => documentation(&found),
        None => {
            json!({ "text/plain": format!("nothing is known about `{}`", code.trim().trim_matches('?').trim()) })
        }
    };
    Some(json!({ "source": "page", "data": data, "start": 0 }))
}

fn output_message(output: Output, count: u64) -> (&'static str, Value) {
    match output {
        Output::Stdout(text) => ("stream", json!({ "name": "stdout", "text": text })),
        Output::Stderr(text) => ("stream", json!({ "name": "stderr", "text": text })),
        Output::Result(bundle) => {
            ("execute_result", json!({ "execution_count": count, "data": data(bundle), "metadata": {} }))
        }
        Output::Display { bundle, id } => {
            let transient = id.map_or(json!({}), |id| json!({ "display_id": id }));
            ("display_data", json!({ "data": data(bundle), "metadata": {}, "transient": transient }))
        }
        Output::Update { bundle, id } => {
            let transient = json!({ "display_id": id });
            ("update_display_data", json!({ "data": data(bundle), "metadata": {}, "transient": transient }))
        }
        Output::Clear { wait } => ("clear_output", json!({ "wait": wait })),
    }
}

/// A bundle as the protocol wants it: JSON types as JSON, everything else as text. Plain text ends in terminals, which
/// it must not command.
fn data(bundle: Bundle) -> Map<String, Value> {
    bundle
        .into_iter()
        .map(|(mime, text)| {
            let text = if mime == "text/plain" { ansi::only_colours(&text) } else { text };
            let is_json = mime == "application/json" || mime.ends_with("+json");
            match serde_json::from_str(&text) {
                Ok(value) if is_json => (mime, value),
                _ => (mime, Value::String(text)),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_travels_as_json_and_numbers_in_text_stay_text() {
        let bundle = vec![("application/json".into(), "[1]".into()), ("text/plain".into(), "1".into())];
        assert_eq!(Value::Object(data(bundle)), json!({ "application/json": [1], "text/plain": "1" }));
    }

    #[test]
    fn plain_text_keeps_its_colours_and_commands_no_terminal() {
        let text = "\x1b[2J\x1b[1mbold\x1b[0m\x08\n\tplain\x1b]52;c;eA==\x07";
        let bundle = vec![("text/plain".into(), text.into()), ("text/x-raw".into(), "\x08".into())];
        let expected = json!({ "text/plain": "\x1b[1mbold\x1b[0m\n\tplain", "text/x-raw": "\x08" });
        assert_eq!(Value::Object(data(bundle)), expected);
    }
}
