//! `!command`: a line for the shell.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::interrupt::Control;
use crate::base::failure::Failure;
use crate::cells::{CellError, Output};

/// How long output is waited for after the shell has ended, because what it started may hold the pipes for good.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Runs a line in `sh`, in the notebook's folder; what it prints comes while it runs. An interrupt ends the shell and
/// everything it has started.
pub(in crate::engine) fn run(
    line: &str,
    control: &Control,
    on_output: &mut dyn FnMut(Output),
) -> Result<(), CellError> {
    let error = |failure: Failure| CellError::failed("ShellError", &failure);
    let mut child = Command::new("sh")
        .args(["-c", line])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|e| {
            let what = format!("the shell does not start: {e}");
            error(Failure::new(what, "`!` needs a program called `sh`"))
        })?;
    control.compiling(Some(child.id()));
    let (sender, lines) = mpsc::channel();
    let forward = |pipe: Option<Box<dyn Read + Send>>, as_output: fn(String) -> Output| {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(
                pipe.into_iter().fold(Box::new(std::io::empty()) as Box<dyn Read + Send>, |_, p| p),
            );
            let mut bytes = Vec::new();
            while let Ok(1..) = pipe.read_until(b'\n', &mut bytes) {
                let text = String::from_utf8_lossy(&std::mem::take(&mut bytes)).into_owned();
                if sender.send(as_output(text)).is_err() {
                    return;
                }
            }
        });
    };
    forward(child.stdout.take().map(|p| Box::new(p) as _), Output::Stdout);
    forward(child.stderr.take().map(|p| Box::new(p) as _), Output::Stderr);
    drop(sender);
    loop {
        // Looked at first: what it has printed by then arrives in time.
        let ended = is_over(child.id());
        match lines.recv_timeout(LAST_WORDS) {
            Ok(output) => on_output(output),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) if ended => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
    }
    let status = child.wait();
    control.compiling(None);
    if control.is_interrupted() {
        return Err(CellError::plain("KeyboardInterrupt", "the shell command was stopped"));
    }
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(error(Failure::of(format!("`{line}` ended with {status}")))),
        Err(e) => Err(error(Failure::of(format!("`{line}` cannot be waited for: {e}")))),
    }
}

/// Whether a child has ended. It is not waited for, so its number stays its own, for an interrupt.
#[allow(unsafe_code)]
pub(super) fn is_over(pid: u32) -> bool {
    // SAFETY: a zeroed `siginfo_t` is valid, and is what the call writes to.
    unsafe {
        let mut about: libc::siginfo_t = std::mem::zeroed();
        let asked = libc::waitid(libc::P_PID, pid, &mut about, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT);
        asked != 0 || about.si_pid() != 0
    }
}
