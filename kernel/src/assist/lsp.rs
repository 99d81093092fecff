//! The language server protocol over a program's standard input and output.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use serde_json::{Value, json};

use crate::jupyter::socket::lock;

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

impl Server {
    /// Starts the program and opens the session. `on_ready` runs once, when the server has all sources and before
    /// anybody else takes it for ready.
    pub(super) fn start(
        mut command: Command,
        initialize: Value,
        on_ready: impl FnOnce(&Notifier) + Send + 'static,
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

    fn listen(self: &Arc<Self>, output: ChildStdout, on_ready: impl FnOnce(&Notifier)) {
        let mut output = BufReader::new(output);
        let mut on_ready = Some(on_ready);
        while let Some(message) = read(&mut output) {
            let id = message.get("id");
            match message["method"].as_str() {
                // The server asks for settings or to be told of changed files: it has everything already.
                Some(_) if id.is_some() => self.send(&json!({ "id": id, "result": null })),
                Some("experimental/serverStatus") if message["params"]["quiescent"] == true => {
                    if let Some(on_ready) = on_ready.take() {
                        // In this order: who waits for this phase may send at once, and that has to come second.
                        on_ready(&Notifier(self.clone()));
                        self.enter(Phase::Ready);
                    }
                }
                Some(_) => {}
                None if id.and_then(Value::as_u64) == Some(INITIALIZE) => {
                    self.enter(Phase::Loading);
                    self.send(&json!({ "method": "initialized", "params": {} }));
                }
                None => {
                    let reply =
                        id.and_then(Value::as_u64).and_then(|id| lock(&self.waiting).replies.remove(&id));
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
/// latest, however that ends.
#[allow(unsafe_code)]
fn end_with_this_thread(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // Interrupts from a terminal are for the kernel.
    command.process_group(0);
    #[cfg(target_os = "linux")]
    {
        let tie = || {
            // SAFETY: it changes only what the new process is to the system, and is allowed after `fork`.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            Ok(())
        };
        // SAFETY: the closure allocates nothing and takes no lock.
        unsafe { command.pre_exec(tie) };
    }
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

    #[test]
    fn messages_are_read_by_their_length_whatever_other_headers_there_are() {
        let text = "Content-Type: x\r\ncontent-length: 7\r\n\r\n{\"a\":1}Content-Length: 2\r\n\r\n{}";
        let mut bytes = text.as_bytes();
        assert_eq!(read(&mut bytes), Some(json!({ "a": 1 })));
        assert_eq!(read(&mut bytes), Some(json!({})));
        assert_eq!(read(&mut bytes), None);
    }
}
