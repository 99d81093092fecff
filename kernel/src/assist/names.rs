//! Names that need no analysis: the answer before rust-analyzer is ready, and without it.

use super::cursor::Cursor;
use super::{Candidate, Completions};
use crate::cells;
use crate::cells::Scene;

/// Types, traits, functions and macros that are there without any `use`.
const PRELUDE: [(&str, &str); 58] = [
    ("struct", "String"),
    ("struct", "Vec"),
    ("struct", "Box"),
    ("enum", "Option"),
    ("enum", "Result"),
    ("variant", "Some"),
    ("variant", "None"),
    ("variant", "Ok"),
    ("variant", "Err"),
    ("trait", "AsMut"),
    ("trait", "AsRef"),
    ("trait", "Clone"),
    ("trait", "Copy"),
    ("trait", "Default"),
    ("trait", "DoubleEndedIterator"),
    ("trait", "Drop"),
    ("trait", "Eq"),
    ("trait", "ExactSizeIterator"),
    ("trait", "Extend"),
    ("trait", "Fn"),
    ("trait", "FnMut"),
    ("trait", "FnOnce"),
    ("trait", "From"),
    ("trait", "FromIterator"),
    ("trait", "Into"),
    ("trait", "IntoIterator"),
    ("trait", "Iterator"),
    ("trait", "Ord"),
    ("trait", "PartialEq"),
    ("trait", "PartialOrd"),
    ("trait", "Send"),
    ("trait", "Sized"),
    ("trait", "Sync"),
    ("trait", "ToOwned"),
    ("trait", "ToString"),
    ("trait", "TryFrom"),
    ("trait", "TryInto"),
    ("trait", "Unpin"),
    ("function", "drop"),
    ("macro", "assert!"),
    ("macro", "assert_eq!"),
    ("macro", "assert_ne!"),
    ("macro", "concat!"),
    ("macro", "dbg!"),
    ("macro", "eprint!"),
    ("macro", "eprintln!"),
    ("macro", "format!"),
    ("macro", "include_str!"),
    ("macro", "matches!"),
    ("macro", "panic!"),
    ("macro", "print!"),
    ("macro", "println!"),
    ("macro", "thread_local!"),
    ("macro", "todo!"),
    ("macro", "unimplemented!"),
    ("macro", "unreachable!"),
    ("macro", "vec!"),
    ("macro", "write!"),
];

const KEYWORDS: [&str; 38] = [
    "as", "async", "await", "break", "const", "continue", "crate", "dyn", "else", "enum", "extern", "false",
    "fn", "for", "if", "impl", "in", "let", "loop", "match", "mod", "move", "mut", "pub", "ref", "return",
    "self", "static", "struct", "super", "trait", "true", "type", "union", "unsafe", "use", "where", "while",
];

/// The answer for a line that begins with `:`; `None` if the cursor is in none.
pub(super) fn command(scene: &Scene, cursor: &Cursor) -> Option<Completions> {
    let line = cursor.line.trim_start();
    let rest = line.strip_prefix(':')?;
    if rest.starts_with(':') {
        return None;
    }
    let Some((name, argument)) = rest.split_once(char::is_whitespace) else {
        let start = cursor.at - line.chars().count();
        let commands = cells::commands::names().into_iter().filter(|(name, _)| name.starts_with(line));
        let candidate = |(name, help): (&str, &str)| candidate(name, "command", help);
        return Some(Completions { start, end: cursor.at, candidates: commands.map(candidate).collect() });
    };
    let mut candidates = Vec::new();
    // Only the name of the crate can be known.
    if name == "dep" && argument.trim() == cursor.prefix {
        for (name, version) in scene.crates.iter().filter(|(name, _)| name.starts_with(&cursor.prefix)) {
            candidates.push(candidate(name, "crate", version));
        }
    }
    Some(Completions { start: cursor.start, end: cursor.at, candidates })
}

/// Variables, items of the session, crates, what is there without any `use`, and keywords.
pub(super) fn complete(scene: &Scene, cursor: &Cursor) -> Completions {
    let mut candidates = Vec::new();
    if !cursor.is_member {
        for (name, variable) in &scene.variables {
            candidates.push(candidate(name, "instance", &variable.shown));
        }
        candidates.extend(scene.names.iter().map(|(name, kind)| candidate(name, kind, "")));
        // All of them only once something is typed: a list of everything helps nobody.
        if !cursor.prefix.is_empty() {
            // Most crates that are there are inside of others: they wait until more is typed.
            let shown = if cursor.prefix.chars().count() < 3 { &[] } else { &scene.crates[..] };
            candidates.extend(shown.iter().map(|(name, version)| candidate(name, "module", version)));
            candidates.extend(PRELUDE.iter().map(|(kind, name)| candidate(name, kind, "")));
            candidates.extend(KEYWORDS.iter().map(|name| candidate(name, "keyword", "")));
        }
        candidates.retain(|candidate| candidate.text.starts_with(&cursor.prefix));
    }
    Completions { start: cursor.start, end: cursor.at, candidates }
}

fn candidate(text: &str, kind: &str, signature: &str) -> Candidate {
    Candidate { text: text.into(), kind: kind.into(), signature: signature.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::Variable;

    fn texts(code: &str) -> Vec<String> {
        let mut scene = Scene::default();
        let shown = "Vec<f64>".to_string();
        scene.variables.insert("alpha".into(), Variable { mutable: false, code: None, shown });
        scene.names.insert("area".into(), "fn");
        scene.crates = vec![("ndarray".into(), "0.17.2".into()), ("rayon".into(), "1.11.0".into())];
        let cursor = Cursor::new(code, code.chars().count());
        let completions = command(&scene, &cursor).unwrap_or_else(|| complete(&scene, &cursor));
        completions.candidates.into_iter().map(|candidate| candidate.text).collect()
    }

    #[test]
    fn the_users_names_come_first_and_keywords_last() {
        assert_eq!(
            texts("let y = a"),
            ["alpha", "area", "assert!", "assert_eq!", "assert_ne!", "as", "async", "await"]
        );
        assert_eq!(texts(""), ["alpha", "area"]);
        assert_eq!(texts("nda"), ["ndarray"]);
        assert_eq!(texts("n"), Vec::<String>::new());
        assert_eq!(texts("x.a"), Vec::<String>::new());
    }

    #[test]
    fn commands_and_the_crates_that_are_there_complete() {
        assert_eq!(texts("let a = 1;\n  :va"), [":vars"]);
        assert!(texts(":").contains(&":dep".to_string()));
        assert_eq!(texts(":dep nd"), ["ndarray"]);
        assert_eq!(texts(":dep ndarray = { ver"), Vec::<String>::new());
    }
}
