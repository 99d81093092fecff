//! Noticing that a cell waits for a line of input, and giving it one.
//!
//! A cell's standard input is a pipe that nobody writes to until somebody is asked. That it waits is seen from
//! outside: one of its threads, or of the programs it started, is inside the system call `read` on descriptor 0
//! while the pipe is empty. So any code that reads works, of the user's, of a library, of a program. Where the
//! system does not show what a process waits for, a cell finds its input at its end.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind::PermissionDenied as Denied;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::process::Stdio;

/// What came of asking for a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A line, without its end.
    Line(String),
    /// Nobody can be asked.
    Unavailable,
    /// The cell is being stopped.
    Interrupted,
}

/// What a user is asked.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Question {
    /// What stands before the answer; mostly empty, as the cell has printed that above.
    pub prompt: String,
    /// Whether nobody should see what is typed.
    pub password: bool,
}

/// Asks for a line of input; called while a cell waits for it.
pub type Ask = Box<dyn FnMut(&Question) -> Input + Send>;

/// `read` among the system's calls, where `/proc` shows them.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
const READ: Option<&str> = Some("0 0x0 ");
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
const READ: Option<&str> = Some("63 0x0 ");
#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
const READ: Option<&str> = None;

/// The kernel's side of the cells' standard input; both are absent where waiting cannot be seen.
#[derive(Default)]
pub(super) struct StandardInput {
    writer: Option<PipeWriter>,
    /// Only to see, and to take back, what was not read.
    reader: Option<PipeReader>,
}

impl StandardInput {
    /// What the worker is to be started with, and our side of it.
    pub(super) fn new() -> (Stdio, StandardInput) {
        // A process may look at itself where it may look at its children, and else at nothing.
        let visible = READ.is_some() && fs::read_to_string("/proc/self/syscall").is_ok();
        let ends = if visible { std::io::pipe().ok() } else { None };
        match ends.and_then(|(reader, writer)| Some((reader.try_clone().ok()?, reader, writer))) {
            Some((theirs, reader, writer)) => {
                (theirs.into(), StandardInput { writer: Some(writer), reader: Some(reader) })
            }
            None => (Stdio::null(), StandardInput::default()),
        }
    }

    /// Whether a cell could wait for input without end.
    pub(super) fn is_open(&self) -> bool {
        self.writer.is_some()
    }

    /// Whether the worker, or a program that it started, waits for input.
    pub(super) fn is_awaited(&mut self, worker: i32) -> bool {
        let Some(reader) = &self.reader else { return false };
        if super::process::available(reader) > 0 || worker <= 0 {
            return false;
        }
        if fs::read_to_string(format!("/proc/{worker}/syscall")).is_err_and(|e| e.kind() == Denied) {
            // A system that hides from a process what its descendants do: better no input than waiting for ever.
            *self = StandardInput::default();
            return false;
        }
        is_reading(worker, &mut BTreeSet::new())
    }

    /// Gives the cell a line.
    pub(super) fn give(&mut self, line: &str) {
        if let Some(writer) = &mut self.writer {
            // More than a pipe holds would wait here for a reader who may not come.
            let line = &line[..line.floor_char_boundary(60 << 10)];
            let _ = writer.write_all(format!("{line}\n").as_bytes());
        }
    }

    /// Takes back what a cell left unread, which is not meant for the next one.
    pub(super) fn forget_unread(&mut self) {
        if let Some(reader) = &mut self.reader {
            let mut rest = super::process::available(reader);
            let mut bytes = [0; 4096];
            while rest > 0 {
                let most = rest.min(bytes.len());
                match reader.read(&mut bytes[..most]) {
                    Ok(n @ 1..) => rest -= n,
                    _ => break,
                }
            }
        }
    }
}

fn is_reading(process: i32, seen: &mut BTreeSet<i32>) -> bool {
    let Some(read) = READ.filter(|_| seen.insert(process)) else { return false };
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { return false };
    let mut children = Vec::new();
    for thread in threads.flatten() {
        if fs::read_to_string(thread.path().join("syscall")).is_ok_and(|call| call.starts_with(read)) {
            return true;
        }
        let list = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        children.extend(list.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    // A program whose own input is something else, a file or a pipe of the cell's, does not wait for us.
    let input = |pid: i32| fs::read_link(format!("/proc/{pid}/fd/0")).ok();
    children
        .into_iter()
        .any(|child| input(child).is_some_and(|own| Some(own) == input(process)) && is_reading(child, seen))
}
