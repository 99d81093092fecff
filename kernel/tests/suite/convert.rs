//! `onelens convert`: pages that need nothing else, and programs that compile and do what the notebook does.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use onelens_kernel::image::Image;
use serde_json::{Value, json};

const ONELENS: &str = env!("CARGO_BIN_EXE_onelens");

fn convert(notebook: &Path, arguments: &[&str]) -> Output {
    Command::new(ONELENS).arg("convert").arg(notebook).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn first_notebook() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../notebooks/01_one_lens.ipynb")
}

#[test]
fn the_first_notebook_compiles_as_a_program_against_the_library() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("one_lens.rs");
    let output = convert(&first_notebook(), &["--to", "rust", "--output", program.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));

    let image = Image::ensure(&mut |_| {}).unwrap();
    let library = image.crates().iter().find(|one| one.name == "onelens").unwrap();
    let compiled = Command::new(image.rustc())
        .args([
            "--edition",
            "2024",
            "--crate-type",
            "bin",
            "--emit",
            "metadata",
            "-D",
            "warnings",
            "--out-dir",
        ])
        .arg(folder.path())
        .arg("-L")
        .arg(format!("dependency={}", image.deps().display()))
        .arg("--extern")
        .arg(format!("onelens={}", image.deps().join(&library.file).display()))
        .arg(&program)
        .output()
        .unwrap();
    let text = fs::read_to_string(&program).unwrap();
    assert!(compiled.status.success(), "{}\n{text}", said(&compiled));
    assert!(text.contains("    // # Does one lens read every layer?"), "{text}");
}

#[test]
fn a_converted_program_prints_what_the_cells_show() {
    let cells = [
        json!({ "cell_type": "markdown", "source": "# Title\n\nText.", "metadata": {} }),
        json!({ "cell_type": "code", "source": "use std::collections::BTreeMap;\nfn double(x: i32) -> i32 { 2 * x }\nlet x = 4;\ndouble(x)" }),
        json!({ "cell_type": "code", "source": "\"not a number\".parse::<i32>()?", "metadata": { "tags": ["raises-exception"] } }),
        json!({ "cell_type": "code", "source": "use std::collections::{BTreeMap, BTreeSet};\nfn double(x: i32) -> i32 { x + x }\nlet text = \"a\n  b\";\nlet x = double(x) + \"2\".parse::<i32>()?;\nprintln!(\"{text}\")" }),
        json!({ "cell_type": "code", "source": "let set: BTreeSet<i32> = [x].into();\nlet map = BTreeMap::from([(1, set)]);\nmap" }),
    ];
    let folder = tempfile::tempdir().unwrap();
    let notebook = folder.path().join("t.ipynb");
    let text = json!({ "cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4 }).to_string();
    fs::write(&notebook, text).unwrap();
    let output = convert(&notebook, &["--to", "rust"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let image = Image::ensure(&mut |_| {}).unwrap();
    let compiled = Command::new(image.rustc())
        .args(["--edition", "2024", "-D", "warnings", "-o"])
        .arg(folder.path().join("t"))
        .arg(folder.path().join("t.rs"))
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", said(&compiled));
    let ran = Command::new(folder.path().join("t")).output().unwrap();
    assert!(ran.status.success(), "{}", said(&ran));
    assert_eq!(said(&ran), "8\na\n  b\n{1: {10}}\n");
}

#[test]
fn a_page_is_made_of_the_outputs_that_are_there_and_needs_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("p.html");
    let output = convert(&first_notebook(), &["--output", page.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let html = fs::read_to_string(page).unwrap();
    assert!(html.contains("<title>Does one lens read every layer?</title>"));
    assert!(html.contains("prefers-color-scheme") && html.contains("<svg"), "light and dark, with figures");
    for outside in ["src=\"http", "<script", "<link", "@import", "url(http"] {
        assert!(!html.contains(outside), "{outside}");
    }
}

#[test]
fn what_cannot_be_converted_is_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let notebook = folder.path().join("t.ipynb");
    let cell = json!({ "cell_type": "code", "source": "let = 1;", "metadata": {} });
    let broken: Value = json!({ "cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 4 });
    fs::write(&notebook, broken.to_string()).unwrap();
    for (arguments, expected) in [
        (&["--to", "rust"][..], "cell 1 of t.ipynb is not Rust: line 1, column 5"),
        (&["--to", "pdf"], "html, rust"),
        (&["--output", notebook.to_str().unwrap()], "would replace the notebook"),
        (&["--output", "/no/such/folder/x.html"], "does not exist"),
    ] {
        let output = convert(&notebook, arguments);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(expected), "{}", said(&output));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
