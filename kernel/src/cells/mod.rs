//! Cells, as everybody sees them: what runs them, what they put out, ask for and leave in force, and their text before
//! anybody compiles it.
//!
//! | module | idea |
//! |---|---|
//! | `commands` | lines that begin with `:` or `!` |
//! | `completeness`, `open` | whether a cell is whole |
//! | `scene` | what is in force, for completion |
//! | `aliases` | types as a reader wants them |

mod aliases;
pub(crate) mod commands;
mod completeness;
mod open;
mod scene;

use std::collections::BTreeMap;

use crate::base::ansi::{BOLD, RED, RESET};
use crate::base::failure::Failure;

pub(crate) use aliases::with_aliases;
pub(crate) use completeness::whole;
pub use completeness::{Completeness, completeness};
pub use scene::{Scene, Sources, Variable};

/// Something that runs cells one after the other and keeps their variables.
pub trait CellRunner: Send {
    /// Runs one cell, handing over every output as it happens.
    fn execute(&mut self, code: &str, on_output: &mut dyn FnMut(Output)) -> Result<(), CellError>;
    /// Stops the running cell when called, from any thread; harmless when none runs.
    fn interrupter(&self) -> Box<dyn Fn() + Send>;
    /// The variables that are alive, with their types.
    fn variables(&self) -> BTreeMap<String, String>;
    /// Whom to ask when a cell of this session reads standard input; a session may have no way to notice that.
    fn on_input(&mut self, _ask: Ask) {}
    /// Hands over what threads of earlier cells have put out since the last cell ended; called now and then between
    /// cells.
    fn idle(&mut self, _on_output: &mut dyn FnMut(Output)) {}
    /// Finishes what was put off until the user has the cell's outputs.
    fn settle(&mut self) {}
    /// What is in force between cells, for those who complete code while the next one runs.
    fn scene(&self) -> Scene {
        Scene::of_variables(self.variables())
    }
}

/// Makes a session; may take a minute the first time and then says so through its argument, one line per call.
pub type Start = Box<dyn Fn(&mut dyn FnMut(&str)) -> Result<Box<dyn CellRunner>, Failure> + Send + Sync>;

/// The same content in one or more MIME types: `(mime, data)`.
pub type Bundle = Vec<(String, String)>;

/// Something a cell puts out, as it happens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Printed text.
    Stdout(String),
    /// Text printed to standard error, and what the engine has to say about the cell.
    Stderr(String),
    /// The value of the last expression.
    Result(Bundle),
    /// Something shown on the way; with an `id` it can be updated.
    Display {
        /// What is shown.
        bundle: Bundle,
        /// Under which name.
        id: Option<String>,
    },
    /// Replaces what was displayed under `id`.
    Update {
        /// What is shown instead.
        bundle: Bundle,
        /// Under which name.
        id: String,
    },
    /// Removes the cell's outputs.
    Clear {
        /// Not before the next output comes.
        wait: bool,
    },
}

/// Why a cell did not run to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CellError {
    /// The class: a code of rustc's, `CompileError`, `SyntaxError`, `Error` (by `?`), `Panic`,
    /// `KeyboardInterrupt`, `WorkerDied`, `CommandError`.
    pub ename: String,
    /// What happened, and after `help:` what to do.
    pub evalue: String,
    /// The whole report, in lines that may hold ANSI colours.
    pub traceback: Vec<String>,
}

impl CellError {
    /// An error with a text of its own and no place in the cell.
    pub(crate) fn plain(ename: &str, text: &str) -> CellError {
        let mut traceback: Vec<String> = text.lines().map(str::to_string).collect();
        if let Some(first) = traceback.first_mut() {
            *first = format!("{RED}{ename}{RESET}{BOLD}: {first}{RESET}");
        }
        CellError { ename: ename.into(), evalue: text.into(), traceback }
    }

    /// The same of a sentence with its remedy.
    pub(crate) fn failed(ename: &str, failure: &Failure) -> CellError {
        CellError::plain(ename, &failure.to_string())
    }
}

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
