//! What is said when something cannot be done: a sentence, a remedy, an exit code.

use std::fmt;

/// Exit code: a cell failed.
pub const CELL_FAILED: u8 = 1;
/// Exit code: the command line or a file given on it cannot be used.
pub const BAD_INPUT: u8 = 2;
/// Exit code: something around us failed: the toolchain, the kernel process, a folder.
pub const ENVIRONMENT: u8 = 3;
/// Exit code: interrupted, by the convention of shells for Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// A sentence with the offending value, after `help:` the remedy if one is known, and an exit code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    what: String,
    help: Option<String>,
    code: u8,
}

impl Failure {
    /// A failure of the environment; see [`Failure::bad_input`] for the other common case.
    pub fn new(what: impl Into<String>, help: impl Into<String>) -> Failure {
        Failure { help: Some(help.into()), ..Failure::of(what) }
    }

    /// What the user gave cannot be used.
    pub fn bad_input(what: impl Into<String>, help: impl Into<String>) -> Failure {
        Failure { code: BAD_INPUT, ..Failure::new(what, help) }
    }

    /// A failure of the environment for which nobody knows a remedy here.
    pub fn of(what: impl Into<String>) -> Failure {
        Failure { what: what.into(), help: None, code: ENVIRONMENT }
    }

    /// The same with this remedy, if there is none yet.
    pub fn or_help(self, help: &str) -> Failure {
        Failure { help: self.help.or_else(|| Some(help.into())), ..self }
    }

    /// The same with this remedy after the one that there may be.
    pub fn and_help(self, help: &str) -> Failure {
        let help = self.help.map_or_else(|| help.into(), |first| with_help(&first, [help]));
        Failure { help: Some(help), ..self }
    }

    /// What happened.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What to do about it.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&with_help(&self.what, self.help()))
    }
}

impl std::error::Error for Failure {}

/// A sentence and its remedies as one text.
pub fn with_help<'h>(what: &str, help: impl IntoIterator<Item = &'h str>) -> String {
    help.into_iter().fold(what.into(), |text, help| format!("{text}\nhelp: {help}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_stands_after_the_sentence_and_further_ones_after_it() {
        let unknown = Failure::of("it is broken");
        assert_eq!((unknown.to_string().as_str(), unknown.help()), ("it is broken", None));
        let known = unknown.or_help("mend it");
        assert_eq!(known, Failure::new("it is broken", "mend it"));
        assert_eq!(known.clone().or_help("buy one"), known);
        assert_eq!(known.and_help("buy one").to_string(), "it is broken\nhelp: mend it\nhelp: buy one");
    }
}
