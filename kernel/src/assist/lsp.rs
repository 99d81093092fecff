//! The language server protocol over a program's standard input and output.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use serde_json::{Value, json};

use crate::base::lock;

/// How far a server is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Phase {
    /// It has not answered the first request yet.
    Starting,
    /// It takes requests, but still reads sources.
    Loading,
    /// It has all sources.
    Ready,
    /// It has ended.
    Gone,
}

/// A language server in a child process, which is killed when this is dropped.
pub(super) struct Server {
    child: Mutex<Child>,
    link: Arc<Link>,
}

/// What the thread that reads shares with those that ask.
struct Link {
    input: Mutex<ChildStdin>,
    waiting: Mutex<Waiting>,
    phase: Mutex<Phase>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    last: u64,
    replies: HashMap<u64, Sender<Value>>,
}

/// The request that opens a session; its reply comes before any other.
const INITIALIZE: u64 = 0;
/// What the thread that reads writes into a reply that came when the server had not all sources.
const WHILE_LOADING: &str = "whileLoading";

impl Server {
    /// Starts the program and opens the session. `on_ready` runs whenever the server has all sources, and before
    /// anybody else takes it for ready: what it is shown then may have it read more.
    pub(super) fn start(
        mut command: Command,
        initialize: Value,
        on_ready: impl FnMut(&Notifier) + Send + 'static,
    ) -> io::Result<Server> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        end_with_this_thread(&mut command);
        let mut child = command.spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("no pipes to the language server"));
        };
        let link = Arc::new(Link {
            input: Mutex::new(input),
            waiting: Mutex::default(),
            phase: Mutex::new(Phase::Starting),
            changed: Condvar::new(),
        });
        let server = Server { child: Mutex::new(child), link: link.clone() };
        link.send(&json!({ "id": INITIALIZE, "method": "initialize", "params": initialize }));
        std::thread::Builder::new().name("language server".into()).spawn(move || {
            link.listen(output, on_ready);
            lock(&link.waiting).replies.clear();
            link.enter(Phase::Gone);
        })?;
        Ok(server)
    }

    pub(super) fn phase(&self) -> Phase {
        *lock(&self.link.phase)
    }

    /// Waits until the server has all sources or is gone; whether it has them.
    pub(super) fn wait_ready(&self, deadline: Instant) -> bool {
        let mut phase = lock(&self.link.phase);
        while *phase < Phase::Ready {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            phase = match self.link.changed.wait_timeout(phase, left) {
                Ok((phase, _)) => phase,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        *phase == Phase::Ready
    }

    pub(super) fn notifier(&self) -> Notifier {
        Notifier(self.link.clone())
    }

    /// The result of a request, unless it fails or takes longer.
    pub(super) fn ask(&self, method: &str, params: &Value, deadline: Instant) -> Option<Value> {
        loop {
            let (id, reply) = self.link.request(method, params);
            let left = deadline.saturating_duration_since(Instant::now());
            match reply.recv_timeout(left) {
                // Files that it is shown may have it read others: until then it knows nothing.
                Ok(message)
                    if message["result"].is_null()
                        && message[WHILE_LOADING] == true
                        && self.wait_ready(deadline) => {}
                Ok(mut message) if message.get("error").is_none() => return Some(message["result"].take()),
                // The sources changed meanwhile, or the server gave the request up for another one.
                Ok(message) if matches!(message["error"]["code"].as_i64(), Some(-32801 | -32802)) => {}
                Ok(_) | Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    lock(&self.link.waiting).replies.remove(&id);
                    self.link.send(&json!({ "method": "$/cancelRequest", "params": { "id": id } }));
                    return None;
                }
            }
        }
    }

    /// The process, for instance to look at what it uses.
    pub(super) fn id(&self) -> u32 {
        lock(&self.child).id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut child = lock(&self.child);
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Sends what wants no answer.
#[derive(Clone)]
pub(super) struct Notifier(Arc<Link>);

impl Notifier {
    pub(super) fn notify(&self, method: &str, params: Value) {
        self.0.send(&json!({ "method": method, "params": params }));
    }

    /// Makes the server work something out, whose answer nobody waits for.
    pub(super) fn prepare(&self, method: &str, params: &Value) {
        drop(self.0.request(method, params));
    }
}

impl Link {
    fn send(&self, message: &Value) {
        let mut message = message.clone();
        message["jsonrpc"] = json!("2.0");
        let body = message.to_string();
        let mut input = lock(&self.input);
        // A server that is gone is noticed by the thread that reads.
        let _ = write!(input, "Content-Length: {}\r\n\r\n{body}", body.len()).and_then(|()| input.flush());
    }

    fn request(&self, method: &str, params: &Value) -> (u64, mpsc::Receiver<Value>) {
        let (sender, receiver) = mpsc::channel();
        let id = {
            let mut waiting = lock(&self.waiting);
            waiting.last += 1;
            let id = waiting.last;
            waiting.replies.insert(id, sender);
            id
        };
        self.send(&json!({ "id": id, "method": method, "params": params }));
        if *lock(&self.phase) == Phase::Gone {
            lock(&self.waiting).replies.clear();
        }
        (id, receiver)
    }

    fn enter(&self, phase: Phase) {
        *lock(&self.phase) = phase;
        self.changed.notify_all();
    }

    fn listen(self: &Arc<Self>, output: ChildStdout, mut on_ready: impl FnMut(&Notifier)) {
        let mut output = BufReader::new(output);
        while let Some(mut message) = read(&mut output) {
            let id = message.get("id").cloned();
            let number = id.as_ref().and_then(Value::as_u64);
            match message["method"].as_str() {
                // The server asks for settings or to be told of changed files: it has everything already.
                Some(_) if id.is_some() => self.send(&json!({ "id": id, "result": null })),
                Some("experimental/serverStatus") if message["params"]["quiescent"] == true => {
                    // In this order: who waits for this phase may send at once, and that has to come second.
                    on_ready(&Notifier(self.clone()));
                    self.enter(Phase::Ready);
                }
                Some("experimental/serverStatus") if message["params"]["quiescent"] == false => {
                    self.enter(Phase::Loading);
                }
                Some(_) => {}
                None if number == Some(INITIALIZE) => {
                    self.enter(Phase::Loading);
                    self.send(&json!({ "method": "initialized", "params": {} }));
                }
                None => {
                    if *lock(&self.phase) < Phase::Ready {
                        message[WHILE_LOADING] = true.into();
                    }
                    let reply = number.and_then(|id| lock(&self.waiting).replies.remove(&id));
                    if let Some(reply) = reply {
                        let _ = reply.send(message);
                    }
                }
            }
        }
    }
}

/// The next message; `None` at the end, or if what comes is none.
fn read(output: &mut impl BufRead) -> Option<Value> {
    let mut length = None;
    loop {
        let mut line = String::new();
        if output.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse::<usize>().ok();
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length?];
    output.read_exact(&mut body).ok()?;
    serde_json::from_slice(&body).ok()
}

/// Lets the system kill the program when the thread that starts it ends, which it does with the kernel at the
/// latest, however that ends. Where no system does that, the program ends as its input does, as the protocol has it.
#[allow(unsafe_code)]
fn end_with_this_thread(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // Interrupts from a terminal are for the kernel.
    command.process_group(0);
    let system = crate::base::os::system();
    let tie = move || {
        system.end_with_parent();
        Ok(())
    };
    // SAFETY: the closure allocates nothing and takes no lock, as `end_with_parent` promises.
    unsafe { command.pre_exec(tie) };
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_the_first_message_says_is_sent_before_the_server_counts_as_ready() {
        let quiescent = r#"{"method":"experimental/serverStatus","params":{"quiescent":true}}"#;
        let said = format!("Content-Length: {}\r\n\r\n{quiescent}", quiescent.len());
        let mut command = Command::new("sh");
        command.args(["-c", r#"printf %s "$1"; exec cat 3>&1 > /dev/null"#, "sh", &said]);
        let (sender, sent) = mpsc::channel();
        let on_ready = move |_: &Notifier| {
            std::thread::sleep(Duration::from_millis(200));
            sender.send(()).unwrap();
        };
        let server = Server::start(command, Value::Null, on_ready).unwrap();
        assert!(server.wait_ready(Instant::now() + Duration::from_secs(60)));
        assert_eq!(sent.try_recv(), Ok(()));
    }

    /// As rust-analyzer does when it is shown a file: it reads sources again, and meanwhile it knows nothing.
    #[test]
    fn a_server_that_has_begun_to_read_again_is_asked_once_more() {
        let says = |message: Value| format!("Content-Length: {}\r\n\r\n{message}", message.to_string().len());
        let status = |quiescent: bool| {
            says(json!({ "method": "experimental/serverStatus", "params": { "quiescent": quiescent } }))
        };
        let reply = |id: u64, result: Value| says(json!({ "id": id, "result": result }));
        let before = status(true);
        let meanwhile = status(false) + &reply(1, Value::Null);
        let (again, found) = (status(true), reply(2, json!("found")));
        // Of each message the end is read with the next one, and two more lines: so it answers when it has been asked.
        let script = r#"printf %s "$1"; read -r x; read -r x; read -r x; printf %s "$2"; sleep 0.3; printf %s "$3"
            read -r x; read -r x; printf %s "$4"; exec cat 3>&1 > /dev/null"#;
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", &before, &meanwhile, &again, &found]);
        let server = Server::start(command, Value::Null, |_: &Notifier| {}).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        assert!(server.wait_ready(deadline));
        assert_eq!(server.ask("textDocument/hover", &Value::Null, deadline), Some(json!("found")));
    }

    #[test]
    fn messages_are_read_by_their_length_whatever_other_headers_there_are() {
        let text = "Content-Type: x\r\ncontent-length: 7\r\n\r\n{\"a\":1}Content-Length: 2\r\n\r\n{}";
        let mut bytes = text.as_bytes();
        assert_eq!(read(&mut bytes), Some(json!({ "a": 1 })));
        assert_eq!(read(&mut bytes), Some(json!({})));
        assert_eq!(read(&mut bytes), None);
    }
}
