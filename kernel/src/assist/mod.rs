//! Completion and documentation for the code in a cell, also while another cell runs.
//!
//! Names that the session knows are there at once. Everything else is asked of the program rust-analyzer, which is
//! started when somebody first asks, or has time to, sees the session as a file of its own, and ends with the kernel.
//! While it is not ready, or not there, the names have to do; where there are none, one waits for it a few seconds.
//!
//! | module | idea |
//! |---|---|
//! | `cursor` | where the cursor is |
//! | `names` | the answer without analysis |
//! | `shadow` | the file it is shown |
//! | `lsp`, `analyzer` | talking to it; starting it, and once again if it dies |
//! | `complete`, `inspect`, `question` | its answers as lists and documentation; cells that ask for it |

mod analyzer;
mod complete;
mod cursor;
mod inspect;
mod lsp;
mod names;
mod question;
mod shadow;

use std::sync::Mutex;
use std::time::{Duration, Instant};

pub use analyzer::program;

use crate::base::lock;
use crate::cells::Scene;
use analyzer::{Analyzer, Patience};
use cursor::Cursor;
use question::Question;

/// Answers questions about code.
#[derive(Default)]
pub struct Assistant {
    scene: Mutex<Scene>,
    analyzer: Mutex<Analyzer>,
}

/// What could stand at the cursor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Completions {
    /// The first character that a candidate replaces.
    pub start: usize,
    /// The character after the last one that it replaces.
    pub end: usize,
    /// The best first.
    pub candidates: Vec<Candidate>,
}

/// One way to go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// What goes in.
    pub text: String,
    /// A word for what it is: `method`, `field`, `keyword`, ...
    pub kind: String,
    /// Its type or signature; empty if there is none.
    pub signature: String,
}

/// What is known about a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Documentation {
    /// In Markdown.
    pub markdown: String,
}

impl Documentation {
    /// As a terminal shows it.
    pub fn plain(&self) -> String {
        inspect::plain(&self.markdown)
    }
}

/// After this a Tab is answered with what is there, and a tooltip is given up.
const TAB: Duration = Duration::from_millis(800);
/// How long after the start of rust-analyzer a question waits that has no other answer.
const LOADING: Duration = Duration::from_secs(15);
/// What is said of a name when that was not enough.
const STILL_AT_WORK: &str = "rust-analyzer is still reading the crates; ask again in a few seconds";
/// How long a cell that asks for documentation waits, where rust-analyzer has to be started for it.
const QUESTION: Duration = Duration::from_secs(20);

impl Assistant {
    /// Takes over what is in force from now on.
    pub fn set_scene(&self, scene: Scene) {
        *lock(&self.scene) = scene;
    }

    /// Whether the session is there, and with it what rust-analyzer needs.
    pub fn has_sources(&self) -> bool {
        lock(&self.scene).sources.is_some()
    }

    /// Starts rust-analyzer, if nobody has asked for anything yet.
    pub fn warm_up(&self) {
        let scene = lock(&self.scene).clone();
        let now = Instant::now();
        lock(&self.analyzer).show(&scene, "", 0, Patience { ready_by: now, answered_by: now });
    }

    /// A cell begins to run: what it defines can be completed meanwhile.
    pub fn cell_begins(&self, code: &str) {
        lock(&self.scene).running = Some(code.into());
    }

    /// What could stand at character `at` of a cell.
    pub fn complete(&self, code: &str, at: usize) -> Completions {
        let deadline = Instant::now() + TAB;
        let cursor = Cursor::new(code, at);
        let scene = lock(&self.scene).clone();
        if let Some(completions) = names::command(&scene, &cursor) {
            return completions;
        }
        let simple = names::complete(&scene, &cursor);
        // Somebody waits for documentation meanwhile.
        let Ok(mut analyzer) = self.analyzer.try_lock() else { return simple };
        // The first Tab starts the program, which takes seconds: then names are better than waiting.
        let patience = wait(&analyzer, !simple.candidates.is_empty(), deadline);
        let asking = analyzer.show(&scene, code, cursor.at, patience);
        let Some(reply) = asking.and_then(|asking| asking.ask("textDocument/completion")) else {
            return simple;
        };
        let column = cursor::line_and_column(code, cursor.at).1;
        let mut completions = complete::completions(&reply, &cursor, column);
        // Variables whose type cannot be written are known here only.
        let unknown = |name: &str| scene.variables.get(name).is_some_and(|variable| variable.code.is_none());
        let missing = simple.candidates.into_iter().filter(|candidate| unknown(&candidate.text));
        completions.candidates.splice(0..0, missing);
        completions
    }

    /// What is known about the name at character `at` of a cell.
    pub fn inspect(&self, code: &str, at: usize, with_source: bool) -> Option<Documentation> {
        self.look_up(code, at, with_source, TAB)
    }

    /// What a cell that is a question asks for, in the inner `Option`: `?name`, `??name`, `name?`.
    pub fn answer(&self, cell: &str) -> Option<Option<Documentation>> {
        let question = Question::parse(cell, &lock(&self.scene))?;
        let end = question.name.chars().count();
        let found = self.look_up(&question.name, end, question.with_source, QUESTION);
        Some(found)
    }

    fn look_up(&self, code: &str, at: usize, with_source: bool, patience: Duration) -> Option<Documentation> {
        let deadline = Instant::now() + patience;
        let scene = lock(&self.scene).clone();
        let subject = cursor::subject(code, at)?;
        let cursor = Cursor::new(code, subject);
        let known = || {
            let variable = scene.variables.get(&cursor.name).filter(|_| !cursor.is_member)?;
            let mutable = if variable.mutable { "mut " } else { "" };
            let markdown = format!("```rust\nlet {mutable}{}: {}\n```", cursor.name, variable.shown);
            Some(Documentation { markdown })
        };
        let mut analyzer = lock(&self.analyzer);
        // A variable's type is an answer already: its documentation may come the next time.
        let patience = wait(&analyzer, known().is_some(), deadline);
        let asking = analyzer.show(&scene, code, subject, patience);
        let found = asking.and_then(|asking| inspect::inspect(&asking, with_source)).or_else(known);
        let late = Instant::now() >= patience.answered_by;
        found.or_else(|| late.then(|| Documentation { markdown: STILL_AT_WORK.into() }))
    }

    /// The process of rust-analyzer, while there is one.
    pub fn process(&self) -> Option<u32> {
        lock(&self.analyzer).process()
    }

    /// Waits until rust-analyzer, if it was started, takes questions; whether it does.
    pub fn wait_ready(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        lock(&self.analyzer).wait_ready(deadline)
    }
}

/// One waits for the program only where there is nothing to say without it, and longer while it is new: it reads
/// sources then, and works out much for the first time. Many questions in a row wait no longer than one.
fn wait(analyzer: &Analyzer, has_answer: bool, deadline: Instant) -> Patience {
    let now = Instant::now();
    if has_answer {
        let ready_by = if analyzer.is_ready() { deadline } else { now };
        return Patience { ready_by, answered_by: deadline };
    }
    let until = (analyzer.started().unwrap_or(now) + LOADING).max(deadline);
    Patience { ready_by: until, answered_by: until }
}
