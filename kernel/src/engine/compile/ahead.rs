//! rustc, started before there is a cell for it.
//!
//! A third of the time in which a small cell is compiled goes by until rustc has read what all cells have in common:
//! its own code, and the metadata of the library and of some hundred crates. So a compiler is started when a cell has
//! ended and waits for the next one. It is given a file with the [head](super::generate::head) of a cell's crate, which
//! names the crates, and then includes its standard input. rustc loads the crates that a file names before it expands what
//! that includes, and then reads until a cell is there. The pipe ends with this program, and with it the compiler.
//!
//! Included items mean what they mean in the file itself, but rustc counts them as a macro's, and refuses some of what
//! it allows elsewhere: then the cell is compiled once more, by itself.

use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Child, Command};

/// The standard input as a file, on all systems that the program runs on.
pub(super) const INPUT: &str = "/dev/fd/0";

/// The file with the head.
pub(super) const HEAD: &str = "head.rs";

/// A compiler that waits; dropping it ends it.
pub(super) struct Waiting {
    child: Option<Child>,
    words: Vec<OsString>,
    head: String,
}

impl Waiting {
    /// Starts `command`, which compiles [`HEAD`] in `folder`. `None` if that cannot be, which is no fault as long as no
    /// cell needs it.
    pub(super) fn start(mut command: Command, folder: &Path, head: &str) -> Option<Waiting> {
        std::fs::write(folder.join(HEAD), format!("{head}include!({INPUT:?});\n")).ok()?;
        let (words, head) = (words(&command), head.to_string());
        Some(Waiting { child: Some(command.spawn().ok()?), words, head })
    }

    /// Whether it is what `command` would start with this head.
    pub(super) fn is(&self, command: &Command, head: &str) -> bool {
        self.head == head && self.words == words(command)
    }

    /// The compiler, unless something has ended it meanwhile.
    pub(super) fn into_child(mut self) -> Option<Child> {
        let mut child = self.child.take()?;
        matches!(child.try_wait(), Ok(None)).then_some(child)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What commands of one program differ in.
fn words(command: &Command) -> Vec<OsString> {
    let variables = command.get_envs().flat_map(|(name, value)| [Some(name), value]).flatten();
    variables.chain(command.get_args()).map(OsStr::to_os_string).collect()
}

/// `source` with blanks in the place of the head that is `length` bytes long, so that everything stands where it stood.
pub(super) fn without_head(source: &str, length: usize) -> String {
    let (head, body) = source.split_at(length);
    let blanks = head.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' });
    blanks.chain(body.chars()).collect()
}

/// Whether an error is, or may be, about what was included as such.
pub(super) fn is_of_inclusion(error: &Value) -> bool {
    // Ambiguous names, what has no code, and what is wrong with the head.
    let text = error.to_string();
    ["\"E0659\"", "macro-expanded", "include!", HEAD].iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    fn sleep(seconds: &str) -> Command {
        let mut command = Command::new("sleep");
        command.arg(seconds).stdin(Stdio::null());
        command
    }

    #[test]
    fn one_that_was_started_otherwise_or_has_ended_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let waiting = Waiting::start(sleep("100"), folder.path(), "#![allow(unused)]\n").unwrap();
        let file = std::fs::read_to_string(folder.path().join(HEAD)).unwrap();
        assert_eq!(file, "#![allow(unused)]\ninclude!(\"/dev/fd/0\");\n");
        assert!(waiting.is(&sleep("100"), "#![allow(unused)]\n"));
        assert!(!waiting.is(&sleep("100"), ""));
        assert!(!waiting.is(&sleep("10"), "#![allow(unused)]\n"));
        assert!(!waiting.is(sleep("100").env("ONE", "1"), "#![allow(unused)]\n"));
        let mut child = waiting.into_child().unwrap();
        assert_eq!(child.try_wait().unwrap(), None);
        child.kill().unwrap();
        child.wait().unwrap();

        let mut ended = Waiting::start(sleep("0"), folder.path(), "").unwrap();
        ended.child.as_mut().unwrap().wait().unwrap();
        assert!(ended.into_child().is_none());
    }

    #[test]
    fn everything_stands_where_it_stood() {
        let source = "#![doc = \"é\"]\nextern crate alloc;\nfn f() {}";
        let length = source.find("fn").unwrap();
        let without = without_head(source, length);
        assert_eq!(without.len(), source.len());
        assert_eq!(without[..length].trim(), "");
        assert_eq!(without.lines().nth(2), Some("fn f() {}"));
    }
}
