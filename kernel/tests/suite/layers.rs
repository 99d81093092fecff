//! The map in the crate docs is true: every room knows those before it and none after it.

use std::path::{Path, PathBuf};

/// In the order of `src/lib.rs`.
const ROOMS: [&str; 11] =
    ["base", "cells", "image", "assist", "engine", "evcxr", "engines", "notebook", "jupyter", "run", "cli"];

fn files(path: &Path, out: &mut Vec<PathBuf>) {
    if path.is_dir() {
        std::fs::read_dir(path).unwrap().for_each(|entry| files(&entry.unwrap().path(), out));
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        out.push(path.to_path_buf());
    }
}

/// What follows `crate::` in code, also in the braces of `use crate::{..}`.
fn named(code: &str) -> Vec<String> {
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
        .split("crate::")
        .skip(1)
    {
        match rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((list, _)) => found.extend(list.split(',').map(word)),
            None => found.push(word(rest)),
        }
    }
    found
}

#[test]
fn a_room_knows_those_before_it_and_none_after_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    for (at, room) in ROOMS.iter().enumerate() {
        let folder = source.join(room);
        let mut own = Vec::new();
        files(&if folder.is_dir() { folder } else { source.join(format!("{room}.rs")) }, &mut own);
        assert!(!own.is_empty(), "there is no room {room}");
        for file in own {
            for name in named(&std::fs::read_to_string(&file).unwrap()) {
                let after = ROOMS[at + 1..].contains(&name.as_str());
                assert!(!after, "{} names `{name}`, which `{room}` must not know", file.display());
                seen += usize::from(ROOMS[..at].contains(&name.as_str()));
            }
        }
    }
    assert!(seen > 100, "only {seen} uses were found: does this test still read them?");
}

#[test]
fn every_file_is_in_a_room() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    // Files, not what `src` lists: a checkout keeps folders that a commit has emptied.
    files(&source, &mut all);
    for file in all {
        let inside = file.strip_prefix(&source).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        assert!(
            ["lib", "main"].contains(&module) || ROOMS.contains(&module),
            "{} is in no room: the rooms are {ROOMS:?}",
            file.display()
        );
    }
}
