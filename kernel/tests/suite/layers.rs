//! The maps in the crate docs and in those of the engine are true: every room knows those before it and none after it.

use std::path::{Path, PathBuf};

/// Rooms in their order, each a folder or a file.
struct Rooms {
    /// Where they are, below `src`.
    folder: &'static str,
    /// What stands before the name of a room in code.
    begin: &'static [&'static str],
    names: &'static [&'static str],
    /// Files that put them together.
    above: &'static [&'static str],
}

/// In the order of `src/lib.rs`.
const PROGRAM: Rooms = Rooms {
    folder: "",
    begin: &["crate::"],
    names: &[
        "base", "cells", "image", "assist", "engine", "evcxr", "engines", "notebook", "jupyter", "run", "cli",
    ],
    above: &["lib", "main"],
};

/// In the order of `src/engine/mod.rs`.
const ENGINE: Rooms = Rooms {
    folder: "engine",
    begin: &["crate::engine::", "super::super::"],
    names: &["parse", "worker", "compile", "session", "run", "scene"],
    above: &["mod"],
};

fn files(path: &Path, out: &mut Vec<PathBuf>) {
    if path.is_dir() {
        std::fs::read_dir(path).unwrap().for_each(|entry| files(&entry.unwrap().path(), out));
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        out.push(path.to_path_buf());
    }
}

/// What follows `begin`, as `crate::`, in code, also in the braces of `use crate::{..}`.
fn named(code: &str, begin: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut found = Vec::new();
    // A line that says something about another room is no use of it.
    for rest in code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
        .split(begin)
        .skip(1)
    {
        match rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((list, _)) => found.extend(list.split(',').map(word)),
            None => found.push(word(rest)),
        }
    }
    found
}

/// Fails if a room knows one after it, or if fewer than `least` uses of those before are found.
fn each_knows_those_before_it(rooms: &Rooms, least: usize) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(rooms.folder);
    let mut seen = 0;
    for (at, room) in rooms.names.iter().enumerate() {
        let folder = source.join(room);
        let mut own = Vec::new();
        files(&if folder.is_dir() { folder } else { source.join(format!("{room}.rs")) }, &mut own);
        assert!(!own.is_empty(), "there is no room {room}");
        for file in own {
            let code = std::fs::read_to_string(&file).unwrap();
            for name in rooms.begin.iter().flat_map(|begin| named(&code, begin)) {
                let after = rooms.names[at + 1..].contains(&name.as_str());
                assert!(!after, "{} names `{name}`, which `{room}` must not know", file.display());
                seen += usize::from(rooms.names[..at].contains(&name.as_str()));
            }
        }
    }
    assert!(seen > least, "only {seen} uses were found: does this test still read them?");
}

/// Fails if a file is neither in a room nor above them.
fn each_file_is_in_one(rooms: &Rooms) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(rooms.folder);
    let mut all = Vec::new();
    // Files, not what the folder lists: a checkout keeps folders that a commit has emptied.
    files(&source, &mut all);
    for file in all {
        let inside = file.strip_prefix(&source).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        assert!(
            rooms.above.contains(&module) || rooms.names.contains(&module),
            "{} is in no room: the rooms are {:?}",
            file.display(),
            rooms.names
        );
    }
}

#[test]
fn a_room_knows_those_before_it_and_none_after_it() {
    each_knows_those_before_it(&PROGRAM, 100);
}

#[test]
fn a_room_of_the_engine_knows_those_before_it_and_none_after_it() {
    each_knows_those_before_it(&ENGINE, 30);
}

#[test]
fn every_file_is_in_a_room() {
    each_file_is_in_one(&PROGRAM);
    each_file_is_in_one(&ENGINE);
}
