//! A kernel of our own as a child process, with a client connected to it.

use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::base::environment::random_hex;
use crate::base::failure::Failure;
use crate::base::lock;
use crate::engines::EngineKind;
use crate::jupyter::client::{Client, FromKernel};
use crate::jupyter::connection::Connection;

/// A running kernel process; dropping it ends the process.
pub struct KernelProcess {
    /// Absent for a kernel that somebody else started.
    child: Option<Child>,
    /// The way to talk to it.
    pub client: Client,
    connection: Connection,
    said: Arc<Mutex<String>>,
    leave: bool,
}

/// How long a kernel may take until it answers; it does so in a few milliseconds on an idle machine.
const READY: Duration = Duration::from_secs(60);

impl KernelProcess {
    /// Starts `program kernel FILE` with `folder` as its working directory and waits until it answers.
    ///
    /// It ends with this process, or, with `linger`, when nobody has been connected to it for so long.
    pub fn start(
        program: &Path,
        engine: EngineKind,
        folder: &Path,
        linger: Option<Duration>,
    ) -> Result<KernelProcess, Failure> {
        let doctor = "run `onelens doctor`; if it finds nothing, report this";
        let name = random_hex(8).map_err(|e| e.or_help(doctor))?;
        let connection_file = std::env::temp_dir().join(format!("onelens-{name}.json"));
        Connection::any_ports()?.write(&connection_file)?;
        let mut command = Command::new(program);
        command.args(["kernel", "--no-history", "--engine", engine.name()]);
        command.arg(&connection_file).current_dir(folder);
        match linger {
            // It must not write into a pipe that ends with us.
            Some(linger) => command.arg(format!("--linger={}", linger.as_secs())).stderr(Stdio::null()),
            // By this a kernel notices that whoever started it has gone.
            None => command.env("JPY_PARENT_PID", std::process::id().to_string()).stderr(Stdio::piped()),
        };
        // Ctrl-C in the terminal is for us; we pass it on as the protocol says.
        let started = command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(e) => {
                let _ = std::fs::remove_file(&connection_file);
                return Err(Failure::new(format!("cannot start {}: {e}", program.display()), doctor));
            }
        };
        let said = Arc::new(Mutex::new(String::new()));
        if let Some(mut pipe) = child.stderr.take() {
            let said = said.clone();
            std::thread::spawn(move || {
                let mut buffer = [0u8; 4096];
                while let Ok(n @ 1..) = pipe.read(&mut buffer) {
                    let mut said = lock(&said);
                    said.push_str(&String::from_utf8_lossy(&buffer[..n]));
                    if said.len() > 1 << 16 {
                        let from = said.ceil_char_boundary(said.len() - (1 << 15));
                        said.drain(..from);
                    }
                }
            });
        }
        let connected = connect(&mut child, &connection_file);
        let _ = std::fs::remove_file(&connection_file);
        let (client, connection) = match connected {
            Ok(connected) => connected,
            Err(why) => {
                let _ = child.kill();
                let _ = child.wait();
                let said = lock(&said).trim().to_string();
                if said.is_empty() {
                    return Err(why.or_help(doctor));
                }
                return Err(Failure::new(format!("{why}; it said:\n{said}"), doctor));
            }
        };
        Ok(KernelProcess { child: Some(child), client, connection, said, leave: false })
    }

    /// Connects to a kernel that is there already; none if it has gone.
    pub fn attach(connection: Connection) -> Option<KernelProcess> {
        let client = Client::connect(&connection, Duration::from_secs(1)).ok()?;
        client.wait_ready(READY)?;
        Some(KernelProcess { child: None, client, connection, said: Arc::default(), leave: false })
    }

    /// Where it listens.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Lets it go on without us.
    pub fn leave(mut self) {
        self.leave = true;
    }

    /// The process, for instance to look at what it uses; none for a kernel that somebody else started.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// If the process has ended: a sentence about how, with what it said last.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        let mut text = format!("the kernel process {}", how(status));
        let said = lock(&self.said);
        let tail: Vec<&str> = said.lines().rev().take(5).collect();
        if !tail.is_empty() {
            text.push_str("; it said last:");
            for line in tail.iter().rev() {
                text.push_str(&format!("\n  {line}"));
            }
        }
        Some(text)
    }

    /// Ends the process at once.
    pub fn kill(&mut self) {
        match &mut self.child {
            Some(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            // By its number one might hit another process.
            None => self.shutdown(),
        }
    }

    /// Whether the process is there, as far as one can know.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Asks the kernel to shut down and waits for it, for at most a few seconds.
    fn shutdown(&mut self) {
        self.client.control("shutdown_request", json!({ "restart": false }));
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) {
            if !self.is_running() {
                return;
            }
            if let Some(FromKernel::Gone) = self.client.next(Duration::from_millis(5)) {
                if self.child.is_none() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

impl Drop for KernelProcess {
    fn drop(&mut self) {
        if self.leave {
            return;
        }
        if self.is_running() {
            self.shutdown();
        }
        if self.child.is_some() {
            self.kill();
        }
    }
}

fn connect(child: &mut Child, file: &Path) -> Result<(Client, Connection), Failure> {
    let no_answer = || Failure::of("the kernel does not answer");
    let start = Instant::now();
    let connection = loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(Failure::of(format!("the kernel process {}", how(status))));
        }
        match Connection::read(file) {
            Ok(connection) if connection.is_bound() => break connection,
            _ if start.elapsed() > READY => return Err(no_answer()),
            _ => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let client = Client::connect(&connection, Duration::from_secs(5))
        .map_err(|e| Failure::of(format!("cannot connect to the kernel: {e}")))?;
    client.wait_ready(READY).ok_or_else(no_answer)?;
    Ok((client, connection))
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(9)) => "was killed (signal 9), perhaps for want of memory".into(),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".into(),
    }
}
