//! One error type: a sentence that says what happened, and a way out.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// What went wrong, as a class that a program can match on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting, or a pair of settings, is impossible.
    Config,
    /// Arrays, models or files that do not fit each other.
    Shape,
    /// Data that cannot be used: empty, too short, not text, not finite, out of range.
    Data,
    /// A file could not be read or written, or is not what its name says.
    File,
    /// A computation has no finite answer: a singular system, a loss that is not a number.
    Numeric,
    /// It takes more memory than there is.
    Memory,
    /// The user interrupted it; what it says is how far it was.
    Interrupted,
}

/// Result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A sentence with the offending value, then `help:` with the remedy.
///
/// `Debug` prints the same text as `Display`, so that `unwrap()` and a notebook's `?` show it too.
///
/// ```
/// use onelens::{Error, ErrorKind};
/// let e = Error::new(ErrorKind::Config, "n_heads is 0", "set n_heads to 1 or more");
/// assert_eq!(e.to_string(), "n_heads is 0\nhelp: set n_heads to 1 or more");
/// assert_eq!(format!("{e:?}"), e.to_string());
/// ```
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    what: String,
    help: String,
    /// What the system said.
    source: Option<Arc<io::Error>>,
}

impl Error {
    /// Makes an error from what happened and how to get out of it.
    pub fn new(kind: ErrorKind, what: impl Into<String>, help: impl Into<String>) -> Self {
        Error { kind, what: what.into(), help: help.into(), source: None }
    }

    /// An error about a file, with what the system said of it as the [source](std::error::Error::source).
    pub(crate) fn of_file(what: impl fmt::Display, e: io::Error, help: impl Into<String>) -> Self {
        Error {
            kind: ErrorKind::File,
            what: format!("{what}: {e}"),
            help: help.into(),
            source: Some(Arc::new(e)),
        }
    }

    /// The error about a file that is not there, or not for this user.
    pub(crate) fn unread(path: &Path, e: io::Error) -> Self {
        Error::of_file(format!("{} cannot be read", path.display()), e, "check the path and its permissions")
    }

    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Says what happened, without the remedy.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Returns the remedy.
    pub fn help(&self) -> &str {
        &self.help
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nhelp: {}", self.what, self.help)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Of one class and with one text.
impl PartialEq for Error {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, &self.what, &self.help) == (other.kind, &other.what, &other.help)
    }
}

impl Eq for Error {}

impl std::error::Error for Error {
    /// What the system said of a file, an [`std::io::Error`]; nothing of other errors.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}
