//! The map in the crate docs is true: every module imports only from those before it, and only `show` writes markup.

use std::path::{Path, PathBuf};

/// Modules with what each may import, besides `error` and `record`, which know nobody.
const ARROWS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("memory", &[]),
    ("record", &[]),
    ("session", &[]),
    ("num", &[]),
    ("data", &["num"]),
    ("nn", &["num"]),
    ("model", &["memory", "session", "num", "data", "nn"]),
    ("vision", &["session", "num", "data", "nn", "model"]),
    ("circuits", &["session", "num", "data", "model"]),
    ("lens", &["memory", "session", "num", "data", "nn", "model", "vision"]),
    ("device", &["session", "data", "nn", "model", "lens"]),
    ("language", &["session", "data", "model", "circuits", "lens"]),
    ("stream", &["session", "num", "data", "model", "lens"]),
    ("dual", &["session", "num", "data", "model"]),
    ("battery", &["memory", "session", "num", "data", "nn", "model", "vision", "lens", "dual"]),
    (
        "show",
        &["session", "num", "data", "model", "vision", "circuits", "lens", "language", "battery", "dual"],
    ),
    ("prelude", &["session", "num", "data", "model", "circuits", "lens", "language", "battery", "show"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(path: &Path, out: &mut Vec<PathBuf>) {
    if path.is_file() {
        out.push(path.to_path_buf());
        return;
    }
    for entry in std::fs::read_dir(path).unwrap() {
        files(&entry.unwrap().path(), out);
    }
}

/// The code of a file without comments, in which examples may name anything.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(without_comment).collect::<Vec<_>>().join("\n")
}

/// A line up to its comment. The two strokes of an address, as in `"https://.."`, begin none.
fn without_comment(line: &str) -> &str {
    let begins = |&(at, _): &(usize, &str)| !line[..at].ends_with(':');
    line.match_indices("//").find(begins).map_or(line, |(at, _)| &line[..at])
}

fn module_files(module: &str) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let folder = root().join(module);
    files(&if folder.is_dir() { folder } else { root().join(format!("{module}.rs")) }, &mut out);
    out.retain(|f| f.extension().is_some_and(|e| e == "rs"));
    assert!(!out.is_empty(), "no module {module}");
    out
}

/// Every `X` in `crate::X` and in `use crate::{X::.., Y::..}`, if it is a module.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let list =
            if let Some(inner) = rest.strip_prefix('{') { &inner[..inner.find('}').unwrap()] } else { rest };
        for item in list.split(',') {
            let name: String =
                item.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            found.push(name);
            if !rest.starts_with('{') {
                break;
            }
        }
    }
    found.retain(|name| ARROWS.iter().any(|(module, _)| module == name));
    found
}

#[test]
fn modules_import_only_what_comes_before_them() {
    for (module, allowed) in ARROWS {
        for file in module_files(module) {
            for import in imports(&code(&file)) {
                let ok = import == *module
                    || ["error", "record"].contains(&import.as_str())
                    || allowed.contains(&import.as_str());
                assert!(ok, "{} imports `{import}`, which `{module}` must not know", file.display());
            }
        }
    }
}

#[test]
fn every_module_is_in_the_list() {
    let listed: Vec<&str> = ARROWS.iter().map(|(m, _)| *m).chain(["lib"]).collect();
    for entry in std::fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        assert!(listed.contains(&module), "src/{name} has no place among the arrows");
    }
}

#[test]
fn only_show_and_session_write_markup() {
    for (module, _) in ARROWS.iter().filter(|(m, _)| !["show", "session"].contains(m)) {
        for file in module_files(module) {
            let code = code(&file);
            for tag in ["<div", "<svg", "<table", "<span", "<html", "style="] {
                assert!(!code.contains(tag), "{} writes {tag}", file.display());
            }
        }
    }
}

/// `X` of a line `impl X {`, also in a macro.
fn implemented_for(line: &str) -> Option<&str> {
    line.trim_start().trim_start_matches("$(").strip_prefix("impl ")?.split(' ').next()
}

/// `display` takes whatever shows itself at the end of a cell.
#[test]
fn everything_that_shows_itself_can_be_displayed() {
    let list = std::fs::read_to_string(root().join("show/display.rs")).unwrap();
    let mut n = 0;
    for file in module_files("show") {
        let code = code(&file);
        for (at, _) in code.match_indices("pub fn evcxr_display") {
            let name = code[..at].lines().rev().find_map(implemented_for).unwrap();
            // A macro does it for all that it is given, `Type: "title"`.
            let given = code.lines().filter_map(|line| line.trim_start().split_once(": \""));
            let types = given.map(|(name, _)| name).filter(|name| name.starts_with(char::is_uppercase));
            let names: Vec<&str> = if name.starts_with('$') { types.collect() } else { vec![name] };
            assert!(!names.is_empty(), "{}", file.display());
            for name in names {
                assert!(list.contains(&format!("\n    {name},\n")), "{name} is missing in show/display.rs");
                n += 1;
            }
        }
    }
    assert!(n > 30, "{n} types found");
}

#[test]
fn the_detector_detects() {
    assert_eq!(
        imports("use crate::lens::Moments;\nuse crate::{Error, num::rng, show::Figure};"),
        ["lens", "num", "show"]
    );
    assert_eq!(
        without_comment("let at = \"https://a.b\"; use crate::show; // crate::lens"),
        "let at = \"https://a.b\"; use crate::show; "
    );
    assert_eq!(without_comment("/// crate::lens"), "");
}

#[test]
fn notebooks_as_they_lie_here_hold_nothing_of_one_machine() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("notebooks");
    let mut n = 0;
    for file in std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_none_or(|kind| kind != "ipynb") {
            continue;
        }
        n += 1;
        let text = std::fs::read_to_string(&file).unwrap();
        // Parameters that a run was given, and where somebody's files lie.
        for sign in ["injected-parameters", "/home/", "/root/", "/Users/", "/shared/data/smollm2"] {
            assert!(!text.contains(sign), "{} holds {sign:?}", file.display());
        }
    }
    assert!(n >= 9, "{n} notebooks");
}
