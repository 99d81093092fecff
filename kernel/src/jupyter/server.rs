//! A kernel: five sockets, the threads behind them, and the state that they share.
//!
//! | thread | does |
//! |---|---|
//! | shell | answers requests at once, also while a cell runs; hands cells to the queue |
//! | control | interrupt, shutdown, and the welcome to new subscribers |
//! | cells | runs cells one after the other ([`super::cells`]) |
//! | questions | completes and explains code |
//!
//! A message that cannot be read or is not signed is dropped and counted; no message can end the loops.

use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cells::{self, Job};
use super::connection::Connection;
use super::history::History;
use super::message::{DropCounts, Dropped, Message, Signer};
use super::requests;
use super::socket::{Listener, PeerId};
use super::zmtp::{Incoming, Kind};
use crate::assist::Assistant;
use crate::base::environment::random_hex;
use crate::base::failure::Failure;
use crate::base::lock;
use crate::cells::Start;
use crate::cells::{Input, Question};

/// A running kernel.
pub struct Server {
    connection: Connection,
    kernel: Arc<Kernel>,
    ended: Receiver<()>,
}

/// What the threads of a kernel share.
pub(super) struct Kernel {
    session: String,
    signer: Signer,
    dropped: DropCounts,
    shell: Listener,
    control: Listener,
    iopub: Listener,
    stdin: Listener,
    /// What arrives on `stdin`: answers of users, taken while a question is open.
    answers: Mutex<Receiver<(PeerId, Vec<Vec<u8>>)>>,
    /// What was published before anybody listened; `None` from the first subscriber on.
    early: Mutex<Option<Early>>,
    /// Cells on their way to the thread that runs them.
    pub(super) jobs: Sender<Job>,
    pub(super) history: Mutex<History>,
    pub(super) assistant: Arc<Assistant>,
    /// Completion and documentation, which take a while and must not hold up the shell.
    questions: Sender<Asked>,
    /// Whether what answers them was started before anybody asked.
    prepared: AtomicBool,
    pub(super) running: Mutex<Running>,
    pub(super) stopping: AtomicBool,
    end: Sender<()>,
}

/// Messages published before the first subscriber came: some clients send a cell first and subscribe then.
#[derive(Default)]
struct Early {
    messages: Vec<Vec<Vec<u8>>>,
    bytes: usize,
}

/// How long after its first cell a client's socket for questions may still be on its way: the sockets of one client
/// connect one after the other.
const CONNECTING: Duration = Duration::from_millis(500);

/// How much is kept for a first subscriber who may never come.
const MAX_EARLY: usize = 32 << 20;

/// The cell that runs now, if one does.
#[derive(Default)]
pub(super) struct Running {
    pub(super) request: Option<Message>,
    /// How to stop it; absent while the session is still being prepared.
    pub(super) interrupt: Option<Box<dyn Fn() + Send>>,
    /// Somebody asked for it while there was nothing to call yet.
    pub(super) interrupted: bool,
}

/// What the thread for questions has to do.
enum Asked {
    Request(PeerId, Box<Message>),
    /// To be ready for requests.
    Prepare,
}

/// What the control thread takes turns with.
enum Control {
    Request(PeerId, Vec<Vec<u8>>),
    Subscribed(PeerId, Vec<u8>),
}

impl Server {
    /// Binds the sockets that the connection file names, starts the threads, and begins to make the session.
    ///
    /// Ports given as 0 are chosen here and the file is written anew. What is run is remembered for this session only.
    pub fn start(file: &Path, start: Start) -> Result<Server, Failure> {
        Server::start_with_history(file, start, History::default())
    }

    /// The same, with a memory of earlier sessions.
    pub fn start_with_history(file: &Path, start: Start, history: History) -> Result<Server, Failure> {
        let mut connection = Connection::read(file)?;
        let ip = connection.address()?;
        let (jobs, job_queue) = mpsc::channel();
        let (questions, question_queue) = mpsc::channel::<Asked>();
        let (end, ended) = mpsc::channel();
        let (shell_sender, shell_queue) = mpsc::channel();
        let (control_sender, control_queue) = mpsc::channel();
        let (answer_sender, answers) = mpsc::channel();
        let subscribed = control_sender.clone();
        let random = |e: Failure| e.or_help("restart the machine, or report this");

        let kernel = Arc::new(Kernel {
            session: random_hex(16).map_err(random)?,
            signer: Signer::new(&connection.key),
            dropped: DropCounts::default(),
            shell: bind(ip, connection.shell_port, Kind::Router, move |peer, incoming| {
                if let Incoming::Message(frames) = incoming {
                    let _ = shell_sender.send((peer, frames));
                }
            })?,
            control: bind(ip, connection.control_port, Kind::Router, move |peer, incoming| {
                if let Incoming::Message(frames) = incoming {
                    let _ = control_sender.send(Control::Request(peer, frames));
                }
            })?,
            iopub: bind(ip, connection.iopub_port, Kind::XPub, move |peer, incoming| {
                if let Incoming::Subscribe(topic) = incoming {
                    let _ = subscribed.send(Control::Subscribed(peer, topic));
                }
            })?,
            stdin: bind(ip, connection.stdin_port, Kind::Router, move |peer, incoming| {
                if let Incoming::Message(frames) = incoming {
                    let _ = answer_sender.send((peer, frames));
                }
            })?,
            answers: Mutex::new(answers),
            early: Mutex::new(Some(Early::default())),
            jobs,
            history: Mutex::new(history),
            assistant: Arc::default(),
            questions,
            prepared: AtomicBool::new(false),
            running: Mutex::default(),
            stopping: AtomicBool::new(false),
            end,
        });
        let heartbeat = heartbeat(ip, connection.hb_port)?;

        let was_bound = connection.is_bound();
        connection.shell_port = kernel.shell.port();
        connection.control_port = kernel.control.port();
        connection.iopub_port = kernel.iopub.port();
        connection.stdin_port = kernel.stdin.port();
        connection.hb_port = heartbeat.port();
        if !was_bound {
            connection.write(file)?;
        }

        let k = kernel.clone();
        spawn("cells", move || cells::run(k, &job_queue, start))?;
        let k = kernel.clone();
        spawn("questions", move || {
            for asked in question_queue {
                match asked {
                    Asked::Request(peer, request) => k.answer(peer, &request),
                    Asked::Prepare => k.assistant.warm_up(),
                }
            }
        })?;
        let k = kernel.clone();
        spawn("shell", move || {
            for (peer, frames) in shell_queue {
                if let Some(message) = k.accept(frames) {
                    k.shell_request(peer, &message);
                }
            }
        })?;
        let k = kernel.clone();
        spawn("control", move || {
            for turn in control_queue {
                match turn {
                    Control::Subscribed(peer, topic) => k.welcome(peer, &topic),
                    Control::Request(peer, frames) => {
                        if let Some(message) = k.accept(frames) {
                            k.control_request(peer, &message);
                        }
                    }
                }
            }
        })?;
        Ok(Server { connection, kernel, ended })
    }

    /// Where the kernel listens, ports filled in.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// How many messages were thrown away so far, for one reason.
    pub fn dropped(&self, why: Dropped) -> u64 {
        self.kernel.dropped.get(why)
    }

    /// Waits until a client shut the kernel down (true) or `limit` has passed (false).
    pub fn wait(&self, limit: Duration) -> bool {
        !matches!(self.ended.recv_timeout(limit), Err(RecvTimeoutError::Timeout))
    }

    /// Whether anybody is connected who could send a cell.
    pub fn has_client(&self) -> bool {
        self.kernel.shell.has_peer()
    }

    /// Ends the running cell and the session, and sends what is still queued.
    pub fn stop(&self) {
        self.kernel.stop();
    }
}

impl Kernel {
    fn accept(&self, frames: Vec<Vec<u8>>) -> Option<Message> {
        match Message::decode(frames, &self.signer) {
            Ok(message) => Some(message),
            Err(why) => {
                self.dropped.count(why);
                let n = self.dropped.get(why);
                // A flood must not fill the log of the Jupyter server: 1, 2, 4, 8, ...
                if n.is_power_of_two() {
                    eprintln!("onelens: dropped a message ({why:?}; {n} of this kind so far)");
                }
                None
            }
        }
    }

    fn shell_request(&self, peer: PeerId, request: &Message) {
        if request.kind() == "execute_request" {
            let _ = self.jobs.send(Job::Cell(peer, Box::new(request.clone())));
            return;
        }
        if matches!(request.kind(), "complete_request" | "inspect_request") {
            let _ = self.questions.send(Asked::Request(peer, Box::new(request.clone())));
            return;
        }
        if request.kind() == "shutdown_request" {
            self.status(request, "busy");
            self.shutdown(&self.shell, peer, request);
            return;
        }
        self.answer(peer, request);
    }

    /// Answers a request that came through the shell, between `busy` and `idle`.
    fn answer(&self, peer: PeerId, request: &Message) {
        self.status(request, "busy");
        if let Some((kind, content)) = requests::answer(self, request) {
            self.shell.send(peer, &request.child(&self.session, kind, content).encode(&self.signer));
        }
        self.status(request, "idle");
        // Front ends show one state per kernel: after this idle they would think that the cell has ended.
        let running = lock(&self.running);
        if let Some(cell) = &running.request {
            self.status(cell, "busy");
        }
    }

    /// Starts what answers questions, once, if somebody is there who could ask: the first Tab should not wait for it.
    pub(super) fn prepare_answers(&self) {
        if self.shell.has_peer()
            && self.assistant.has_sources()
            && !self.prepared.swap(true, Ordering::Relaxed)
        {
            let _ = self.questions.send(Asked::Prepare);
        }
    }

    fn control_request(&self, peer: PeerId, request: &Message) {
        self.status(request, "busy");
        match request.kind() {
            "interrupt_request" => {
                self.interrupt();
                let reply = request.child(&self.session, "interrupt_reply", json!({ "status": "ok" }));
                self.control.send(peer, &reply.encode(&self.signer));
            }
            "shutdown_request" => return self.shutdown(&self.control, peer, request),
            _ => {
                if let Some((kind, content)) = requests::answer(self, request) {
                    self.control
                        .send(peer, &request.child(&self.session, kind, content).encode(&self.signer));
                }
            }
        }
        self.status(request, "idle");
    }

    fn interrupt(&self) {
        let mut running = lock(&self.running);
        if running.request.is_some() {
            running.interrupted = true;
            if let Some(interrupt) = &running.interrupt {
                interrupt();
            }
        }
    }

    fn shutdown(&self, socket: &Listener, peer: PeerId, request: &Message) {
        let content =
            json!({ "status": "ok", "restart": request.content["restart"].as_bool().unwrap_or(false) });
        let reply = request.child(&self.session, "shutdown_reply", content);
        self.publish(request, "shutdown_reply", reply.content.clone());
        socket.send(peer, &reply.encode(&self.signer));
        self.status(request, "idle");
        self.stop();
    }

    fn stop(&self) {
        if !self.stopping.swap(true, Ordering::SeqCst) {
            self.interrupt();
            let (done, finished) = mpsc::channel();
            let _ = self.jobs.send(Job::Stop(done));
            // A cell that does not listen must not keep the kernel alive: its worker ends with our end of the pipe.
            let _ = finished.recv_timeout(Duration::from_secs(1));
            for socket in [&self.control, &self.shell, &self.stdin, &self.iopub] {
                socket.flush(Duration::from_secs(1));
            }
            let _ = self.end.send(());
        }
    }

    /// JEP 65: tells a new subscriber that it is subscribed, so that it need not guess when to begin.
    fn welcome(&self, peer: PeerId, topic: &[u8]) {
        let content = json!({ "subscription": String::from_utf8_lossy(topic) });
        let welcome = Message::new(&self.session, "iopub_welcome", content);
        let mut frames = welcome.encode(&self.signer);
        frames.insert(0, topic.to_vec());
        let mut early = lock(&self.early);
        self.iopub.send(peer, &frames);
        for message in early.take().into_iter().flat_map(|early| early.messages) {
            if message[0].starts_with(topic) {
                self.iopub.send(peer, &message);
            }
        }
    }

    /// Asks the client that sent `request` for a line, and waits for it.
    pub(super) fn ask(&self, peer: PeerId, request: &Message, question: &Question) -> Input {
        if request.content["allow_stdin"] == false {
            return Input::Unavailable;
        }
        let identity = self.shell.identity(peer).unwrap_or_default();
        let asked = Instant::now();
        let client = loop {
            match self.stdin.with_identity(&identity) {
                Some(client) => break client,
                None if asked.elapsed() > CONNECTING => return Input::Unavailable,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let answers = lock(&self.answers);
        // Answers to questions that are no longer open.
        while answers.try_recv().is_ok() {}
        let content = json!({ "prompt": question.prompt, "password": question.password });
        let question = request.child(&self.session, "input_request", content);
        self.stdin.send(client, &question.encode(&self.signer));
        loop {
            match answers.recv_timeout(Duration::from_millis(50)) {
                Ok((from, frames)) if from == client => {
                    if let Some(answer) = self.accept(frames).filter(|m| m.kind() == "input_reply") {
                        return Input::Line(answer.content["value"].as_str().unwrap_or_default().into());
                    }
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    if lock(&self.running).interrupted || self.stopping.load(Ordering::SeqCst) {
                        return Input::Interrupted;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Input::Unavailable,
            }
        }
    }

    /// Publishes the state of the kernel as seen by one request.
    pub(super) fn status(&self, request: &Message, state: &str) {
        self.publish(request, "status", json!({ "execution_state": state }));
    }

    /// Publishes one message, caused by `request`, to all subscribers.
    pub(super) fn publish(&self, request: &Message, kind: &str, content: Value) {
        let mut message = request.child(&self.session, kind, content);
        message.routes = vec![format!("kernel.{}.{kind}", self.session).into_bytes()];
        let frames = message.encode(&self.signer);
        match &mut *lock(&self.early) {
            None => self.iopub.publish(&frames),
            Some(early) => {
                early.bytes += frames.iter().map(Vec::len).sum::<usize>();
                if early.bytes <= MAX_EARLY {
                    early.messages.push(frames);
                }
            }
        }
    }

    /// Answers a request that came through the shell.
    pub(super) fn reply(&self, peer: PeerId, request: &Message, kind: &str, content: Value, metadata: Value) {
        let mut reply = request.child(&self.session, kind, content);
        reply.metadata = metadata;
        self.shell.send(peer, &reply.encode(&self.signer));
    }
}

fn bind(
    ip: IpAddr,
    port: u16,
    kind: Kind,
    handler: impl Fn(PeerId, Incoming) + Send + Sync + 'static,
) -> Result<Listener, Failure> {
    Listener::bind(ip, port, kind, Box::new(handler)).map_err(|e| {
        Failure::new(
            format!("cannot listen on {ip}, port {port}: {e}"),
            "another program uses the port: restart the kernel, which chooses new ones",
        )
    })
}

/// The socket that sends everything back, so that a client knows that the process lives.
fn heartbeat(ip: IpAddr, port: u16) -> Result<Listener, Failure> {
    let (sender, beats) = mpsc::channel();
    let listener = bind(ip, port, Kind::Rep, move |peer, incoming| {
        if let Incoming::Message(frames) = incoming {
            let _ = sender.send((peer, frames));
        }
    })?;
    let echo = listener.clone();
    spawn("heartbeat", move || {
        for (peer, frames) in beats {
            echo.send(peer, &frames);
        }
    })?;
    Ok(listener)
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    match std::thread::Builder::new().name(name.into()).spawn(run) {
        Ok(_) => Ok(()),
        Err(e) => Err(Failure::new(
            format!("cannot start a thread: {e}"),
            "raise the limit on processes (ulimit -u)",
        )),
    }
}
