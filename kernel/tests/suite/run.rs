//! `onelens run` as a user meets it: the real program, the real engine, notebooks in a folder of their own.
//!
//! The first of these tests waits for the library that cells link against, if this machine does not have it yet.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const ONELENS: &str = env!("CARGO_BIN_EXE_onelens");

/// A folder with one notebook, `t.ipynb`.
struct Folder(tempfile::TempDir);

impl Folder {
    fn with(notebook: &str) -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        fs::write(folder.path("t.ipynb"), notebook).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(ONELENS);
        command.arg("run").arg("t.ipynb").args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    fn cells(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(name)).unwrap();
        let notebook: Value = serde_json::from_str(&text).unwrap();
        notebook["cells"].as_array().unwrap().clone()
    }
}

/// A notebook of code cells, each with an output of an earlier run.
fn notebook(cells: &[&str]) -> String {
    let cells: Vec<Value> = cells
        .iter()
        .map(|source| {
            json!({
                "cell_type": "code", "execution_count": 99, "metadata": { "mine": 1 }, "source": source,
                "outputs": [{ "output_type": "stream", "name": "stdout", "text": "of an earlier run" }],
            })
        })
        .collect();
    json!({
        "cells": cells,
        "metadata": { "custom": { "zebra": 1, "ant": 2 } },
        "nbformat": 4,
        "nbformat_minor": 4,
    })
    .to_string()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_failing_cell_ends_the_run_and_what_came_before_is_kept() {
    let folder = Folder::with(&notebook(&[
        "println!(\"one\");\nlet x = 1;",
        "println!(\"before\");\npanic!(\"bad <thing> {x}\")",
        "println!(\"never\");",
    ]));
    let output = folder.run(&[]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("bad <thing> 1"), "{}", said(&output));
    assert!(!said(&output).contains('\x1b'), "no colours in a pipe");

    let cells = folder.cells("t.ipynb");
    assert_eq!(
        cells[0]["outputs"],
        json!([{ "name": "stdout", "output_type": "stream", "text": ["one\n"] }])
    );
    assert_eq!((&cells[0]["execution_count"], &cells[1]["execution_count"]), (&json!(1), &json!(2)));
    assert_eq!(cells[1]["outputs"][0]["text"], json!(["before\n"]));
    let outputs = cells[1]["outputs"].as_array().unwrap();
    assert!(outputs.iter().any(|o| o["output_type"] == "error"), "{outputs:?}");
    assert_eq!((&cells[2]["outputs"], &cells[2]["execution_count"]), (&json!([]), &Value::Null));

    let page = fs::read_to_string(folder.path("t.html")).unwrap();
    assert!(page.contains("bad &lt;thing&gt; 1") && !page.contains("bad <thing>"));
}

#[test]
fn a_notebook_is_executed_in_place_and_keeps_what_is_not_understood() {
    let folder = Folder::with(&notebook(&["let x = 20;", "x + 1"]));
    let output = folder.run(&["--no-html"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("[2/2] x + 1"), "{}", said(&output));
    assert!(!folder.path("t.html").exists());
    let text = fs::read_to_string(folder.path("t.ipynb")).unwrap();
    assert!(text.starts_with("{\n \"cells\": [\n  {\n") && text.ends_with("}\n"), "indented as Jupyter does");
    let cells = folder.cells("t.ipynb");
    let result = &cells[1]["outputs"][0];
    assert_eq!(
        (&result["output_type"], &result["data"]["text/plain"]),
        (&json!("execute_result"), &json!(["21"]))
    );
    assert_eq!(cells[1]["metadata"]["mine"], 1);
    assert!(cells[1]["metadata"]["execution"]["shell.execute_reply"].is_string());
    let notebook: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(notebook["metadata"]["custom"].to_string(), r#"{"zebra":1,"ant":2}"#);
    assert_eq!(notebook["metadata"]["kernelspec"]["name"], "onelens");
}

#[test]
fn with_output_the_notebook_itself_stays_as_it_was() {
    let source = notebook(&["1 + 1"]);
    let folder = Folder::with(&source);
    fs::create_dir(folder.path("done")).unwrap();
    let output = folder.run(&["--output", "done/o.ipynb"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(fs::read_to_string(folder.path("t.ipynb")).unwrap(), source);
    assert_eq!(folder.cells("done/o.ipynb")[0]["outputs"][0]["data"]["text/plain"], json!(["2"]));
    assert!(folder.path("done/o.html").exists() && !folder.path("t.html").exists());
    assert_eq!(fs::read_dir(folder.path("done")).unwrap().count(), 2, "no temporary file stays");
}

#[test]
fn a_cell_marked_to_fail_may_fail() {
    let mut value: Value =
        serde_json::from_str(&notebook(&["panic!(\"meant\")", "println!(\"goes on\");"])).unwrap();
    value["cells"][0]["metadata"]["tags"] = json!(["raises-exception"]);
    let folder = Folder::with(&value.to_string());
    let output = folder.run(&["--no-html"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(folder.cells("t.ipynb")[1]["outputs"][0]["text"], json!(["goes on\n"]));
}

#[test]
fn a_cell_that_takes_too_long_is_stopped() {
    let folder = Folder::with(&notebook(&["println!(\"start\");\nloop { std::hint::spin_loop() }", "1"]));
    let output = folder.run(&["--timeout", "3", "--no-html"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("--timeout"), "{}", said(&output));
    assert_eq!(folder.cells("t.ipynb")[0]["outputs"][0]["text"], json!(["start\n"]));
}

#[test]
fn unusable_input_is_refused_in_a_sentence_with_a_remedy_and_left_alone() {
    let whole = notebook(&["1"]);
    let mut python: Value = serde_json::from_str(&whole).unwrap();
    python["metadata"]["kernelspec"] =
        json!({ "display_name": "Python 3", "language": "python", "name": "python3" });
    let cases = [
        (&whole[..whole.len() / 2], "cut off"),
        ("", "is empty"),
        ("not json", "not a notebook"),
        (r#"{"nbformat": 3, "nbformat_minor": 0, "worksheets": []}"#, "format 3"),
        (&python.to_string(), "Python 3"),
    ];
    for (content, expected) in cases {
        let folder = Folder::with(content);
        let output = folder.run(&[]);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected) && said.contains("help: "), "{said}");
        assert!(said.contains("t.ipynb"), "{said}");
        assert_eq!(fs::read_to_string(folder.path("t.ipynb")).unwrap(), content);
        assert_eq!(fs::read_dir(folder.0.path()).unwrap().count(), 1);
    }
}

#[test]
fn missing_files_and_folders_are_named_before_anything_runs() {
    let folder = Folder::with(&notebook(&["1"]));
    for (arguments, expected) in [
        (&["--output", "nowhere/o.ipynb"][..], "the folder nowhere does not exist"),
        (&["--html", "nowhere/o.html"], "the folder nowhere does not exist"),
        (&["--output", "."], "is a folder"),
        (&["--output", "o.html"], "both be written to o.html"),
        (&["--html", "t.ipynb"], "both be written to t.ipynb"),
        (&["--timeout", "0"], "not a positive number"),
        (&["--output", "/proc/o.ipynb"], "nothing can be written in the folder /proc"),
        (&["--parameters", "none.json"], "cannot read the parameters none.json"),
        (&["--parameters", "t.ipynb"], "the parameter `cells` in t.ipynb is ["),
        (&["--from", "2"], "--resume"),
    ] {
        let output = folder.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(expected), "{}", said(&output));
    }
    let output = Command::new(ONELENS).args(["run", "no/such.ipynb"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("there is no file no/such.ipynb\nhelp: "), "{}", said(&output));
}

/// A run whose first cell has begun, and the rest of what it says.
fn started(folder: &Folder) -> (Child, impl FnOnce() -> String) {
    let mut child =
        folder.command(&["--no-html"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = Vec::new();
    // The label is written when the cell starts, the time after it when it ends.
    stdout.read_until(b']', &mut line).unwrap();
    (child, move || {
        let mut rest = String::new();
        let _ = stdout.read_to_string(&mut rest);
        rest
    })
}

/// Waits until the running cell has printed; it does so to a file, as outputs are written only at the end.
fn wait_for(file: &Path) {
    let since = Instant::now();
    while !file.exists() {
        assert!(since.elapsed() < Duration::from_secs(120), "the cell did not start");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A cell that says something, makes a file a second later, when that has long been heard, and does not end.
const ENDLESS: &str = "println!(\"start\");\nstd::thread::sleep(std::time::Duration::from_secs(1));\nstd::fs::write(\"here\", \"\").unwrap();\nloop { std::hint::spin_loop() }";

fn send(signal: &str, process: u32) {
    assert!(Command::new("kill").args([signal, &process.to_string()]).status().unwrap().success());
}

#[test]
fn ctrl_c_stops_the_cell_and_writes_what_there_is() {
    let folder = Folder::with(&notebook(&[ENDLESS, "1"]));
    let (mut child, rest) = started(&folder);
    wait_for(&folder.path("here"));
    send("-INT", child.id());
    let said = rest();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
    assert!(said.contains("INTERRUPTED"), "{said}");
    assert_eq!(folder.cells("t.ipynb")[0]["outputs"][0]["text"], json!(["start\n"]));
}

#[cfg(target_os = "linux")]
#[test]
fn a_kernel_that_dies_is_noticed_and_what_there_is_is_written() {
    let folder = Folder::with(&notebook(&[ENDLESS, "1"]));
    let (mut child, rest) = started(&folder);
    wait_for(&folder.path("here"));
    let kernel = fs::read_dir(format!("/proc/{}/task", child.id()))
        .unwrap()
        .flatten()
        .find_map(|task| {
            fs::read_to_string(task.path().join("children")).ok().filter(|c| !c.trim().is_empty())
        })
        .expect("the run has a child");
    let kernel = kernel.split_whitespace().next().unwrap().parse().unwrap();
    send("-KILL", kernel);
    let said = rest();
    assert_eq!(child.wait().unwrap().code(), Some(3), "{said}");
    assert!(said.contains("killed (signal 9)") && said.contains("help: "), "{said}");
    assert_eq!(folder.cells("t.ipynb")[0]["outputs"][0]["text"], json!(["start\n"]));
}

/// Marks cell `at` of a notebook with a tag.
fn tagged(notebook: &str, at: usize, tag: &str) -> String {
    let mut value: Value = serde_json::from_str(notebook).unwrap();
    value["cells"][at]["metadata"]["tags"] = json!([tag]);
    value.to_string()
}

#[test]
fn parameters_go_into_a_cell_behind_the_tagged_one_and_a_second_run_replaces_it() {
    let source = tagged(
        &notebook(&["let n: u64 = 1;\nlet name = \"a\";", "println!(\"{name} {}\", n + 1);"]),
        0,
        "parameters",
    );
    let folder = Folder::with(&source);
    fs::write(folder.path("p.json"), r#"{"n": 1, "name": "of the file"}"#).unwrap();
    for (n, expected) in [("41", "of the file 42\n"), ("1", "of the file 2\n")] {
        let output = folder.run(&["--no-html", "--parameters", "p.json", "-p", &format!("n={n}")]);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        let cells = folder.cells("t.ipynb");
        assert_eq!(cells.len(), 3);
        assert_eq!(cells[1]["metadata"]["tags"], json!(["injected-parameters"]));
        assert_eq!(cells[2]["outputs"][0]["text"], json!([expected]));
    }
}

#[test]
fn parameters_that_do_not_fit_are_refused_before_anything_runs() {
    let plain = notebook(&["let n: u8 = 1;"]);
    let source = tagged(&plain, 0, "parameters");
    for (notebook, value, expected) in [
        (&source, "m=1", "no parameter `m`\nhelp: its parameters are: n"),
        (&source, "n=300", "whole number of type `u8`"),
        (&source, "n", "not of the form name=value"),
        (&plain, "n=1", "no cell of the notebook has the tag `parameters`"),
    ] {
        let folder = Folder::with(notebook);
        let output = folder.run(&["-p", value]);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(expected), "{}", said(&output));
        assert_eq!(fs::read_to_string(folder.path("t.ipynb")).unwrap(), *notebook);
    }
}

#[test]
fn with_allow_errors_the_cells_behind_a_failed_one_run() {
    let folder = Folder::with(&notebook(&["let x = 1;", "panic!(\"first\")", "x + 1", "no_such"]));
    let output = folder.run(&["--no-html", "--allow-errors"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("2 of 4 cells failed"), "{}", said(&output));
    let cells = folder.cells("t.ipynb");
    assert_eq!(cells[1]["outputs"].as_array().unwrap().last().unwrap()["output_type"], "error");
    assert_eq!(cells[2]["outputs"][0]["data"]["text/plain"], json!(["2"]));
}

#[test]
fn a_notebook_without_cells_is_run_and_written() {
    let folder = Folder::with(&notebook(&[]));
    let output = folder.run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(folder.path("t.html").exists());
}

/// How many kernels of runs with this data folder wait for a run with --resume.
fn lingering(data: &Path) -> usize {
    let is_one = |entry: &fs::DirEntry| {
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&read("cmdline")).contains("--linger")
            && String::from_utf8_lossy(&read("environ")).contains(&data.display().to_string())
    };
    fs::read_dir("/proc").unwrap().flatten().filter(is_one).count()
}

#[cfg(target_os = "linux")]
#[test]
fn a_repaired_notebook_goes_on_where_it_failed_with_its_variables() {
    // The first cell notes that it ran: it must do so once.
    let first = "let ran = std::fs::read_to_string(\"ran\").unwrap_or_default() + \"x\";\nstd::fs::write(\"ran\", ran)?;\nlet x = 20;\nprintln!(\"kept\");";
    let folder = Folder::with(&notebook(&[first, "let y = x + 1;", "no_such + y"]));
    let data = tempfile::tempdir().unwrap();
    let run =
        |arguments: &[&str]| folder.command(arguments).env("XDG_DATA_HOME", data.path()).output().unwrap();
    let output = run(&["--no-html", "--resume", "--from", "2"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("cannot begin at cell 2"), "{}", said(&output));

    let output = run(&["--no-html", "--resume"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("repair cell 3"), "{}", said(&output));
    assert_eq!(lingering(data.path()), 1);

    // In the notebook that the failed run has written.
    let mut value: Value =
        serde_json::from_str(&fs::read_to_string(folder.path("t.ipynb")).unwrap()).unwrap();
    value["cells"][2]["source"] = json!("2 * y");
    fs::write(folder.path("t.ipynb"), value.to_string()).unwrap();
    let output = run(&["--no-html", "--resume"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("going on at cell 3"), "{}", said(&output));
    let cells = folder.cells("t.ipynb");
    assert_eq!(cells[0]["outputs"][0]["text"], json!(["kept\n"]));
    assert_eq!(cells[2]["outputs"][0]["data"]["text/plain"], json!(["42"]));
    assert_eq!(fs::read_to_string(folder.path("ran")).unwrap(), "x");
    assert_eq!(lingering(data.path()), 0, "a run that succeeds leaves nothing behind");
    assert_eq!(fs::read_dir(data.path().join("onelens/kept")).unwrap().count(), 0);
}

#[test]
fn a_cell_that_reads_standard_input_fails_with_a_sentence() {
    let folder =
        Folder::with(&notebook(&["let mut s = String::new();\nstd::io::stdin().read_line(&mut s)?;"]));
    let output = folder.run(&["--no-html"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("StdinNotImplemented") && said(&output).contains("help: "));
}

#[test]
fn displays_are_updated_and_cleared_in_the_file() {
    let show = |text: &str| {
        format!("onelens::session::display(&vec![(\"text/plain\".to_string(), \"{text}\".to_string())]);")
    };
    let cleared =
        format!("{}\nprintln!(\"1\");\nonelens::session::clear_output(true);\n{}", show("a"), show("b"));
    let progress = "let mut p = onelens::session::Progress::new(\"fitting\", 2);\np.update(1, || String::new());\np.finish(\"all done\");";
    let folder = Folder::with(&notebook(&[&cleared, progress]));
    let output = folder.run(&["--no-html"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let cells = folder.cells("t.ipynb");
    let texts = |cell: &Value| -> Vec<String> {
        let outputs = cell["outputs"].as_array().unwrap();
        outputs.iter().map(|o| format!("{}{}", o["output_type"], o["data"]["text/plain"])).collect()
    };
    assert_eq!(texts(&cells[0]), ["\"display_data\"[\"b\"]"]);
    let progress = texts(&cells[1]);
    assert!(progress.len() == 1 && progress[0].contains("all done"), "{progress:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn ctrl_c_keeps_the_kernel_of_a_run_that_can_be_resumed() {
    let folder = Folder::with(&notebook(&["let x = 1;", ENDLESS, "x + 1"]));
    let data = tempfile::tempdir().unwrap();
    let resume = |folder: &Folder| {
        let mut command = folder.command(&["--no-html", "--resume"]);
        command.env("XDG_DATA_HOME", data.path());
        command
    };
    let mut child = resume(&folder).stdout(Stdio::null()).spawn().unwrap();
    wait_for(&folder.path("here"));
    send("-INT", child.id());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    fs::write(folder.path("t.ipynb"), notebook(&["let x = 1;", "let y = 1;", "x + y"])).unwrap();
    let output = resume(&folder).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("going on at cell 2"), "{}", said(&output));
    assert_eq!(folder.cells("t.ipynb")[2]["outputs"][0]["data"]["text/plain"], json!(["2"]));
}

#[test]
fn modules_and_texts_beside_the_notebook_are_part_of_its_cells_as_they_stand_then() {
    let change = r#"std::fs::write("place.rs", "pub struct Place { pub y: f64 }")?;"#;
    let folder = Folder::with(&notebook(&[
        "mod place;\nlet p = place::Place { x: 2.5 };",
        "println!(\"{} {} {}\", p.x, place::names::LONG, include_str!(\"data.txt\"));",
        change,
        "p.x",
        "mod place;",
        "p.x",
        "mod broken;",
        "mod round;",
        "place::Place { y: 1.0 }.y",
    ]));
    fs::create_dir(folder.path("place")).unwrap();
    for (name, text) in [
        ("data.txt", "data"),
        ("place.rs", "//! Where.\npub mod names;\n#[derive(Debug)] pub struct Place { pub x: f64 }"),
        ("place/names.rs", "#![allow(unused)]\npub const LONG: &str = include_str!(\"long.txt\");"),
        ("place/long.txt", "longitude"),
        ("broken.rs", "pub fn fine() {}\n\npub fn f() -> u8 { \"a\" }"),
        ("round.rs", "#[path = \"round.rs\"] mod round;"),
    ] {
        fs::write(folder.path(name), text).unwrap();
    }
    let output = folder.run(&["--no-html", "--allow-errors"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let cells = folder.cells("t.ipynb");
    let text = |i: usize| cells[i]["outputs"].to_string();
    assert_eq!(cells[1]["outputs"][0]["text"], json!(["2.5 longitude data\n"]), "{}", said(&output));
    // A file that has changed changes nothing until a cell takes it again; then values of the old type are gone.
    assert!(text(3).contains("2.5"), "{}", text(3));
    assert!(text(4).contains("`p`") && text(4).contains("was dropped"), "{}", text(4));
    assert!(text(5).contains("E0425"), "{}", text(5));
    let plain = |i: usize| text(i).replace("\\u001b", "").replace("[0m", "");
    assert!(plain(6).contains("broken.rs:3:20") && plain(6).contains("E0308"), "{}", text(6));
    assert!(plain(7).contains("leads to itself"), "{}", text(7));
    assert!(text(8).contains("1.0"), "{}", text(8));
}

/// While the shell works nobody reads what threads print, so that it comes when the second cell is over.
#[test]
fn what_a_thread_prints_after_its_cell_is_in_the_notebook_all_the_same() {
    let folder = Folder::with(&notebook(&[
        "std::thread::spawn(|| { std::thread::sleep(std::time::Duration::from_millis(300)); println!(\"late\"); });",
        "!sleep 1",
        "println!(\"last\");",
    ]));
    let output = folder.run(&["--no-html"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let texts: Vec<Value> = folder.cells("t.ipynb").iter().map(|c| c["outputs"][0]["text"].clone()).collect();
    assert_eq!(texts, [Value::Null, json!(["late\n"]), json!(["last\n"])]);
}
