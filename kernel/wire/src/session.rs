//! A session: the program has cells run by the *worker*, a process that has loaded the library; the *supervisor*, its
//! parent, tells which processes ended.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One thing to show in several forms: MIME types with their data, as in Jupyter.
pub type Bundle = Vec<(String, String)>;

/// What the program has the worker do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Run a cell.
    Run {
        /// Where it lies, compiled.
        library: String,
        /// Whether later cells see its statics.
        global: bool,
    },
    /// Drop this variable.
    Forget(String),
    /// Drop all variables, and say [`Report::Left`].
    Leave,
}

/// What the worker tells the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// This process takes commands from here on; also the first word of a copy that was woken.
    Ready {
        /// Its number.
        worker: i32,
    },
    /// There can be no worker, for this reason.
    Fatal(String),
    /// A copy of the process sleeps, with all variables as they were before the cell.
    Forked {
        /// Its number; 0 where the system made none.
        copy: i32,
    },
    /// A value is shown. The worker waits until the program has read everything that was printed before it.
    Shown(Shown),
    /// Nothing of the cell has run: this variable is not of the type that it was compiled for.
    Unfit(String),
    /// A cell defines variables of which one is of a type that no later cell can write.
    Unnameable {
        /// The variables.
        names: Vec<String>,
        /// The type of a tuple of them, as the compiler prints it.
        types: String,
    },
    /// The cell failed.
    Failed {
        /// Why.
        cause: Cause,
        /// The line of the statement that ran, from 1.
        line: u32,
    },
    /// What the cell used up cannot be had again in this process, which ends in favour of its copy.
    Lost,
    /// This process is about to die of a full stack.
    Overflow,
    /// The cell is over, be it with an error.
    Done {
        /// Which variables there are, and their types.
        variables: Vec<(String, String)>,
    },
    /// All variables are dropped.
    Left,
}

/// What stands in the order of what is printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shown {
    /// The cell's result.
    Result(Bundle),
    /// Something on the way there, with the name by which it can be changed.
    Display(Bundle, Option<String>),
    /// Takes the place of what was displayed under this name.
    Update(Bundle, String),
    /// Outputs so far are to go.
    Clear {
        /// Not before the next one comes.
        wait: bool,
    },
    /// From here to [`Shown::ResultEnds`] the cell's last value shows itself: what is printed first is the result.
    ResultBegins,
    /// See there.
    ResultEnds,
}

/// Why a cell failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// `?` in the cell, or a value that could not be shown.
    Error(String),
    /// An interrupt, while the cell waited.
    Interrupted,
    /// A panic.
    Panic {
        /// What it said.
        message: String,
        /// Where it was, if that is known.
        place: Option<Place>,
    },
    /// The compiled cell cannot be loaded, as the system says.
    NotLoaded(String),
}

/// A place in a source file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// As the compiler names it.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// What the supervisor tells the program: a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its number.
    pub process: i32,
    /// How.
    pub end: End,
}

#[cfg(unix)]
impl Ended {
    /// Reads the status that the process's parent has from the system.
    pub fn new(process: i32, status: i32) -> Ended {
        let end = match libc::WIFSIGNALED(status) {
            true => End::Signal(libc::WTERMSIG(status)),
            false => End::Exit(libc::WEXITSTATUS(status)),
        };
        Ended { process, end }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// By itself, with this code.
    Exit(i32),
    /// By a signal of this number.
    Signal(i32),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Exit(code) => write!(f, "exit {code}"),
            End::Signal(number) => write!(f, "signal {number}"),
        }
    }
}
