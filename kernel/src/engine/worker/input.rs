//! Noticing that a cell waits for a line of input, and giving it one.
//!
//! A cell's standard input is a pipe that nobody writes to until somebody is asked. That it waits is seen from
//! outside: one of its threads, or of the programs it started, is inside the system call `read` on descriptor 0
//! while the pipe is empty. So any code that reads works, of the user's, of a library, of a program.
//!
//! Where the system does not show what a process waits for, it is guessed: a cell that names standard input, itself or
//! through items, and is silent for a while, reads. Somebody who is asked too early has answered in advance. Any other
//! code finds its input at its end, and waits for nobody. That an input can be at its end for one cell and not for
//! the next takes a pipe with a name, which is at its end while no writer has it open.

use super::pipe::available;
use crate::base::os::system;
use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// The words by which a cell names standard input; the crate of the second one prints what it asks before it reads.
const NAMES: [&str; 2] = ["stdin", "evcxr_input"];

/// How long a cell that names standard input is silent before it is taken to read.
const SILENCE: Duration = Duration::from_millis(200);

/// The kernel's side of the cells' standard input; both ends are absent where there is none.
#[derive(Default)]
pub(in crate::engine) struct StandardInput {
    writer: Option<File>,
    /// Only to see, and to take back, what was not read.
    reader: Option<File>,
    /// The pipe's name, where it has to be guessed who reads.
    guessed: Option<PathBuf>,
    /// Since when the cell may be silent.
    silent: Option<Instant>,
}

impl StandardInput {
    /// What the worker is to be started with, and our side of it. A pipe that needs a name lies in `folder`.
    pub(super) fn new(folder: &Path) -> (Stdio, StandardInput) {
        let pipe = if system().sees_reads() { seen() } else { guessed(folder) };
        pipe.unwrap_or_else(|_| (Stdio::null(), StandardInput::default()))
    }

    /// Whether a cell could wait for input without end.
    pub(super) fn is_open(&self) -> bool {
        self.writer.is_some()
    }

    /// Whether nobody knows that a cell waits which [`is_awaited`](Self::is_awaited).
    pub(in crate::engine) fn is_guessed(&self) -> bool {
        self.guessed.is_some()
    }

    /// A cell begins; `words` are those that it consists of.
    pub(in crate::engine) fn begin(&mut self, words: impl FnOnce() -> BTreeSet<String>) {
        let Some(name) = &self.guessed else { return };
        let words = words();
        if NAMES.iter().any(|name| words.contains(*name)) {
            // It waits for no reader, as we have it open ourselves; nor later, for room in it.
            self.writer = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(name).ok();
        }
    }

    /// From here on it is at its end, if it can be at all.
    pub(in crate::engine) fn end(&mut self) {
        if self.guessed.is_some() {
            self.writer = None;
        }
    }

    /// Whether the worker, or a program that it started, waits for input; asked when nothing has come from it for a
    /// while.
    pub(super) fn is_awaited(&mut self, worker: i32) -> bool {
        let Some(reader) = self.reader.as_ref().filter(|_| self.writer.is_some()) else { return false };
        if available(reader) > 0 || worker <= 0 {
            return false;
        }
        if self.is_guessed() {
            return self.silent.get_or_insert_with(Instant::now).elapsed() >= SILENCE;
        }
        system().reads(worker).unwrap_or_else(|| {
            // A system that hides from a process what its descendants do: better no input than waiting for ever.
            *self = StandardInput::default();
            false
        })
    }

    /// Something came from the cell, so that it was at work.
    pub(super) fn is_not_silent(&mut self) {
        self.silent = None;
    }

    /// Gives the cell a line.
    pub(in crate::engine) fn give(&mut self, line: &str) {
        self.silent = None;
        if let Some(writer) = &mut self.writer {
            // More than a pipe holds would wait here for a reader who may not come.
            let line = &line[..line.floor_char_boundary(60 << 10)];
            let _ = writer.write_all(format!("{line}\n").as_bytes());
        }
    }

    /// Takes back what a cell left unread, which is not meant for the next one.
    pub(in crate::engine) fn forget_unread(&mut self) {
        self.end();
        self.silent = None;
        if let Some(reader) = &mut self.reader {
            let mut rest = available(reader);
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

/// A pipe whose readers the system shows.
fn seen() -> io::Result<(Stdio, StandardInput)> {
    let (reader, writer) = io::pipe()?;
    let theirs = reader.try_clone()?;
    let [reader, writer] = [OwnedFd::from(reader), writer.into()].map(File::from);
    Ok((theirs.into(), StandardInput { writer: Some(writer), reader: Some(reader), ..Default::default() }))
}

/// A pipe with a name in `folder`.
#[allow(unsafe_code)]
fn guessed(folder: &Path) -> io::Result<(Stdio, StandardInput)> {
    let name = folder.join("input");
    let _ = fs::remove_file(&name);
    let path = CString::new(name.as_os_str().as_encoded_bytes())?;
    // SAFETY: the path is terminated, and nothing else is asked of memory.
    if unsafe { libc::mkfifo(path.as_ptr(), 0o600) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // Opening waits for the other side, but for a reader that does not wait at all.
    let reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&name)?;
    let writer = OpenOptions::new().write(true).open(&name)?;
    let theirs = File::open(&name)?;
    drop(writer);
    Ok((theirs.into(), StandardInput { reader: Some(reader), guessed: Some(name), ..Default::default() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guessed_input_is_at_its_end_but_for_a_cell_that_names_it_and_what_that_leaves_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let (theirs, mut input) = guessed(folder.path()).unwrap();
        let mut cat = std::process::Command::new("cat");
        // Its end is an end for good: whoever reads does not wait.
        let said = cat.stdin(theirs).output().unwrap().stdout;
        assert!(said.is_empty() && !input.is_open());
        let words = |text: &str| text.split(' ').map(String::from).collect::<BTreeSet<_>>();
        input.begin(|| words("let x = read ( )"));
        assert!(!input.is_open() && !input.is_awaited(1));
        input.begin(|| words("std io stdin lines"));
        assert!(input.is_open() && !input.is_awaited(1), "before it was silent");
        std::thread::sleep(SILENCE);
        assert!(input.is_awaited(1));
        input.give("a line");
        assert!(!input.is_awaited(1), "there is something to read");
        input.forget_unread();
        let reader = input.reader.as_ref().unwrap();
        assert!(!input.is_open() && available(reader) == 0);
    }
}
