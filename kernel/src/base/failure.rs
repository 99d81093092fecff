//! What a command of the binary says when it cannot do its work: a sentence, a remedy, an exit code.

use std::fmt;

/// Exit code: a cell failed.
pub const CELL_FAILED: u8 = 1;
/// Exit code: the command line or a file given on it cannot be used.
pub const BAD_INPUT: u8 = 2;
/// Exit code: something around us failed: the toolchain, the kernel process, a folder.
pub const ENVIRONMENT: u8 = 3;
/// Exit code: interrupted, by the convention of shells for Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// A sentence with the offending value, `help:` with the remedy, and an exit code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    what: String,
    help: String,
    code: u8,
}

impl Failure {
    /// A failure of the environment; see [`Failure::bad_input`] for the other common case.
    pub fn new(what: impl Into<String>, help: impl Into<String>) -> Failure {
        Failure { what: what.into(), help: help.into(), code: ENVIRONMENT }
    }

    /// What the user gave cannot be used.
    pub fn bad_input(what: impl Into<String>, help: impl Into<String>) -> Failure {
        Failure { code: BAD_INPUT, ..Failure::new(what, help) }
    }

    /// From a text that may already hold its own `help:` line.
    pub fn from_text(text: &str) -> Failure {
        match text.split_once("\nhelp: ") {
            Some((what, help)) => Failure::new(what, help),
            None => Failure::new(text, "`onelens doctor` checks what is needed"),
        }
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nhelp: {}", self.what, self.help)
    }
}

impl std::error::Error for Failure {}
