//! What is in force between cells, as far as completion needs to know it.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Declarations, items and variables of a session, and where the crates are described.
#[derive(Clone, Default, Debug)]
pub struct Scene {
    /// `use` declarations and items, as they would stand at the top of a file.
    pub items: String,
    /// The names that they define, each with its kind: `fn`, `struct`, ...
    pub names: BTreeMap<String, &'static str>,
    /// The variables that are alive.
    pub variables: BTreeMap<String, Variable>,
    /// The code of the cell that runs now.
    pub running: Option<String>,
    /// The crates that cells can name, with their versions.
    pub crates: Vec<(String, String)>,
    /// What rust-analyzer needs; without it there are names only.
    pub sources: Option<Sources>,
}

/// A variable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Variable {
    /// Whether it was declared `mut`.
    pub mutable: bool,
    /// Its type as code can write it; none for a closure's, for instance.
    pub code: Option<String>,
    /// As a reader wants it.
    pub shown: String,
}

/// Where rust-analyzer finds things.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sources {
    /// The description of the crates, as [`project`](crate::image::project) writes it.
    pub project: PathBuf,
    /// Where the sources of this workspace lie now.
    pub workspace: PathBuf,
    /// The compiler, beside which rust-analyzer is looked for.
    pub rustc: PathBuf,
}

impl Scene {
    /// What is known of a session that tells its variables only.
    pub fn of_variables(types: BTreeMap<String, String>) -> Scene {
        let variable = |shown| Variable { mutable: false, code: None, shown };
        let variables = types.into_iter().map(|(name, shown)| (name, variable(shown))).collect();
        Scene { variables, ..Scene::default() }
    }
}
