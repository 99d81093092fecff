//! The other side of the protocol: what `onelens run` and the tests talk to a kernel with.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::connection::Connection;
use super::message::{Message, Signer};
use super::socket::Dialer;
use super::zmtp::{self, Kind};
use crate::base::environment::random_hex;

/// A connection to a kernel: requests out, and everything that it sends in one stream.
pub struct Client {
    session: String,
    signer: Arc<Signer>,
    shell: Dialer,
    control: Dialer,
    stdin: Dialer,
    _iopub: Dialer,
    events: Receiver<FromKernel>,
}

/// What comes from a kernel.
#[derive(Clone, Debug)]
pub enum FromKernel {
    /// A reply to a request on the shell.
    Shell(Message),
    /// A reply to a request on the control channel.
    Control(Message),
    /// A question to the user.
    Stdin(Message),
    /// Outputs and status.
    IoPub(Message),
    /// The connection has ended; nothing more will come.
    Gone,
}

impl Client {
    /// Connects and subscribes to all outputs, within `limit`. Outputs may be missed until the kernel's
    /// `iopub_welcome` has come.
    pub fn connect(connection: &Connection, limit: Duration) -> io::Result<Client> {
        let ip: IpAddr = connection.address().map_err(io::Error::other)?;
        let session = random_hex(16).map_err(io::Error::other)?;
        let signer = Arc::new(Signer::new(&connection.key));
        let (sender, events) = mpsc::channel();
        let dial = |kind: Kind, port: u16, wrap: fn(Message) -> FromKernel| {
            let (sender, signer) = (sender.clone(), signer.clone());
            Dialer::connect(SocketAddr::new(ip, port), kind, session.as_bytes(), limit, move |frames| {
                let event = match frames {
                    None => FromKernel::Gone,
                    Some(frames) => match Message::decode(frames, &signer) {
                        Ok(message) => wrap(message),
                        Err(_) => return,
                    },
                };
                let _ = sender.send(event);
            })
        };
        let iopub = dial(Kind::Sub, connection.iopub_port, FromKernel::IoPub)?;
        iopub.send_raw(zmtp::subscribe(b""));
        let shell = dial(Kind::Dealer, connection.shell_port, FromKernel::Shell)?;
        let control = dial(Kind::Dealer, connection.control_port, FromKernel::Control)?;
        let stdin = dial(Kind::Dealer, connection.stdin_port, FromKernel::Stdin)?;
        Ok(Client { session, signer, shell, control, stdin, _iopub: iopub, events })
    }

    /// Sends a request on the shell and returns its identifier.
    pub fn request(&self, kind: &str, content: Value) -> String {
        let message = Message::new(&self.session, kind, content);
        self.shell.send(&message.encode(&self.signer));
        message.id().to_string()
    }

    /// Sends a request on the control channel and returns its identifier.
    pub fn control(&self, kind: &str, content: Value) -> String {
        let message = Message::new(&self.session, kind, content);
        self.control.send(&message.encode(&self.signer));
        message.id().to_string()
    }

    /// Answers a question with a line.
    pub fn answer(&self, question: &Message, value: &str) {
        let answer = question.child(&self.session, "input_reply", json!({ "value": value }));
        self.stdin.send(&answer.encode(&self.signer));
    }

    /// Sends a cell and returns the identifier of the request.
    pub fn execute(&self, code: &str) -> String {
        self.request(
            "execute_request",
            json!({
                "code": code, "silent": false, "store_history": true, "user_expressions": {},
                "allow_stdin": false, "stop_on_error": true,
            }),
        )
    }

    /// Sends raw frames on the shell; tests of what a kernel must survive use this.
    pub fn send_raw(&self, frames: &[Vec<u8>]) {
        self.shell.send(frames);
    }

    /// What the kernel sends next, or nothing within `limit`.
    pub fn next(&self, limit: Duration) -> Option<FromKernel> {
        match self.events.recv_timeout(limit) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(FromKernel::Gone),
        }
    }

    /// Waits for the kernel's welcome on the output channel and its description of itself.
    pub fn wait_ready(&self, limit: Duration) -> Option<Value> {
        let start = Instant::now();
        let id = self.request("kernel_info_request", json!({}));
        let (mut info, mut welcome) = (None, false);
        while info.is_none() || !welcome {
            match self.next(limit.checked_sub(start.elapsed())?)? {
                FromKernel::Shell(m) if m.parent_id() == id => info = Some(m.content),
                FromKernel::IoPub(m) if m.kind() == "iopub_welcome" => welcome = true,
                FromKernel::Gone => return None,
                _ => {}
            }
        }
        info
    }
}
