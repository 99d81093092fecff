//! Completion and documentation through the protocol, with a real kernel and a real rust-analyzer.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use onelens_kernel::assist;
use onelens_kernel::engines::EngineKind;
use onelens_kernel::image::Image;
use onelens_kernel::jupyter::client::FromKernel;
use onelens_kernel::run::child::KernelProcess;
use serde_json::{Value, json};

use crate::common::skipped;

/// Long enough for a loaded machine to build the library for cells.
const PATIENCE: Duration = Duration::from_secs(900);

/// Whether rust-analyzer is there, with the sources it reads; a test to which this says no is skipped.
fn analyzer_is_there() -> bool {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap().stdout;
    let sysroot = Path::new(std::str::from_utf8(&sysroot).unwrap().trim_end());
    let there = assist::program(&sysroot.join("bin/rustc")).is_some()
        && sysroot.join("lib/rustlib/src/rust/library").exists();
    if !there {
        skipped(
            "rust-analyzer, or the sources it reads, is not installed",
            "run `rustup component add rust-analyzer rust-src`",
        );
    }
    there
}

struct Kernel(KernelProcess);

impl Kernel {
    fn start() -> Kernel {
        let _ = Image::ensure(&mut |line| eprintln!("{line}")).unwrap_or_else(|e| panic!("{e}"));
        let program = Path::new(env!("CARGO_BIN_EXE_onelens"));
        Kernel(
            KernelProcess::start(program, EngineKind::Instant, Path::new("."), None)
                .unwrap_or_else(|e| panic!("{e}")),
        )
    }

    /// A kernel whose rust-analyzer has read everything.
    fn warm() -> Kernel {
        let kernel = Kernel::start();
        kernel.warm_up();
        kernel
    }

    fn warm_up(&self) {
        let since = Instant::now();
        while !self.texts("let v = vec![1];\nv.pus|").contains(&"push".to_string()) {
            assert!(since.elapsed() < PATIENCE, "rust-analyzer does not get ready");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn reply(&self, id: &str) -> Value {
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            match self.0.client.next(Duration::from_secs(1)) {
                Some(FromKernel::Shell(m)) if m.parent_id() == id => return m.content,
                Some(FromKernel::Gone) => panic!("the kernel has gone"),
                _ => {}
            }
        }
        panic!("the kernel does not answer")
    }

    fn run(&self, code: &str) -> Value {
        let reply = self.reply(&self.0.client.execute(code));
        assert_eq!(reply["status"], "ok", "{code}\n{reply:#}");
        reply
    }

    /// What is asked about code in which `|` marks the cursor.
    fn ask(&self, kind: &str, code: &str, mut content: Value) -> Value {
        let at = code.chars().position(|c| c == '|').unwrap();
        content["cursor_pos"] = json!(at);
        content["code"] = json!(code.replacen('|', "", 1));
        self.reply(&self.0.client.request(kind, content))
    }

    fn complete(&self, code: &str) -> Value {
        self.ask("complete_request", code, json!({}))
    }

    fn texts(&self, code: &str) -> Vec<String> {
        let reply = self.complete(code);
        reply["matches"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_string()).collect()
    }

    /// The completions, as soon as they offer `text`: on a busy machine the first answers are names only.
    fn offering(&self, code: &str, text: &str) -> Value {
        let since = Instant::now();
        loop {
            let reply = self.complete(code);
            let offered = reply["matches"].as_array().unwrap().contains(&json!(text));
            if offered || since.elapsed() > Duration::from_secs(30) {
                return reply;
            }
        }
    }

    /// What is known about one candidate.
    fn candidate(&self, code: &str, text: &str) -> Value {
        let reply = self.offering(code, text);
        let types = reply["metadata"]["_jupyter_types_experimental"].as_array().unwrap().clone();
        let found = types.into_iter().find(|candidate| candidate["text"] == text);
        found.unwrap_or_else(|| panic!("`{text}` is not offered for {code}: {}", reply["matches"]))
    }

    /// The documentation, as soon as it has these words.
    fn inspect(&self, code: &str, detail_level: u8, words: &[&str]) -> Value {
        let since = Instant::now();
        loop {
            let reply = self.ask("inspect_request", code, json!({ "detail_level": detail_level }));
            let text = reply["data"]["text/plain"].as_str().unwrap_or_default();
            let complete = words.iter().all(|word| text.contains(word));
            if complete || since.elapsed() > Duration::from_secs(30) {
                return reply;
            }
        }
    }

    /// The process of rust-analyzer that this kernel has started.
    fn analyzer(&self) -> Option<u32> {
        let kernel = self.0.id().expect("it is ours").to_string();
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
        pids.find(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let Some((name, rest)) = stat.split_once(')') else { return false };
            let mut fields = rest.split_whitespace();
            let (state, parent) = (fields.next(), fields.next());
            name.ends_with("(rust-analyzer") && state != Some("Z") && parent == Some(&kernel)
        })
    }
}

/// One kernel for all tests that leave it as they found it, with a session that has a bit of everything.
fn session() -> Option<MutexGuard<'static, Kernel>> {
    static KERNEL: OnceLock<Mutex<Kernel>> = OnceLock::new();
    if !analyzer_is_there() {
        return None;
    }
    let kernel = KERNEL.get_or_init(|| {
        let kernel = Kernel::warm();
        kernel.run(
            "use onelens::prelude::*;\n/// A place in the plane.\n#[derive(Clone, Debug, Default)]\nstruct Place { longitude: f64, latitude: f64 }\nimpl Place {\n    /// How far it is from the origin.\n    fn distance(&self) -> f64 { self.longitude.hypot(self.latitude) }\n}\nmacro_rules! double { ($x:expr) => { $x * 2 } }\nfn halve(x: f64) -> f64 { x / 2.0 }",
        );
        kernel.run(
            "let place = Place { longitude: 1.0, latitude: 2.0 };\nlet mut numbers = vec![1.0_f64];\nlet table = ndarray::Array2::<f64>::zeros((2, 2));\nlet config = Config::default();",
        );
        Mutex::new(kernel)
    });
    Some(kernel.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

#[test]
fn everything_that_can_stand_at_the_cursor_is_offered_with_its_kind_and_type() {
    let Some(kernel) = session() else { return };
    for (code, text, kind, signature) in [
        // Methods of the session's variables.
        ("numbers.pu|", "push", "method", "fn push(&mut self, value: T)"),
        ("table.mea|", "mean", "method", "fn mean(&self) -> Option<A>"),
        ("place.dis|", "distance", "method", "fn distance(&self) -> f64"),
        ("config.d_mo|", "d_model", "field", "usize"),
        // Fields, also in literals, of own types and the library's.
        ("place.lon|", "longitude", "field", "f64"),
        ("Place { la|", "latitude", "field", "f64"),
        ("Config { d_vo|", "d_vocab", "field", "usize"),
        ("Training { |", "batch_size", "field", "usize"),
        ("let t = Training { steps: 3, |", "seed", "field", "u64"),
        ("Training { lr: 1.0, | ..Default::default() }", "clip", "field", "f64"),
        // The session's variables and items.
        ("numb|", "numbers", "instance", "Vec<f64>"),
        ("let y = tab|", "table", "instance", "Array2<f64>"),
        ("hal|", "halve", "function", "fn halve(x: f64) -> f64"),
        ("Pla|", "Place", "struct", ""),
        ("dou|", "double!", "macro", ""),
        // Local variables of the cell itself, also after lines with other than ASCII characters.
        ("let zähler = 5_u8;\nlet ü = zäh|", "zähler", "instance", "u8"),
        ("for größe in 0..3_u64 { größe.count_o| }", "count_ones", "method", "fn count_ones(self) -> u32"),
        // Paths, and paths in declarations.
        ("std::fs::read_to_s|", "read_to_string", "function", "fn read_to_string"),
        ("use std::coll|", "collections", "module", ""),
        ("use ndarray::Arr|", "Array2", "type", ""),
        // Macros of the standard library.
        ("printl|", "println!", "macro", ""),
        // What needs a `use`, by its path.
        ("HashM|", "std::collections::HashMap", "struct", ""),
        ("whi|", "while", "keyword", ""),
    ] {
        let found = kernel.candidate(code, text);
        let has = found["signature"].as_str().unwrap();
        assert!(has.contains(signature), "{code}: {found}");
        if kind != "type" {
            assert_eq!(found["type"], kind, "{code}: {found}");
        }
    }
}

#[test]
fn positions_are_those_of_the_name_in_characters() {
    let Some(kernel) = session() else { return };
    let reply = kernel.offering("let größe = 1; // 🦀\n  numbers.le|", "len");
    assert_eq!((&reply["cursor_start"], &reply["cursor_end"]), (&json!(30), &json!(32)));
    assert!(reply["matches"].as_array().unwrap().contains(&json!("len")), "{reply}");
    let one = &reply["metadata"]["_jupyter_types_experimental"][0];
    assert_eq!((&one["start"], &one["end"]), (&json!(30), &json!(32)));
}

#[test]
fn the_users_own_come_first_and_keywords_last() {
    let Some(kernel) = session() else { return };
    let reply = kernel.offering("let mut matter = 1;\nma|", "matter");
    let texts: Vec<&str> = reply["matches"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    let place =
        |text: &str| texts.iter().position(|t| *t == text).unwrap_or_else(|| panic!("{text}: {texts:?}"));
    assert_eq!(place("matter"), 0, "{texts:?}");
    assert_eq!(place("match"), texts.len() - 1, "{texts:?}");
}

#[test]
fn commands_complete_and_so_do_the_crates_that_are_there() {
    let Some(kernel) = session() else { return };
    assert_eq!(kernel.texts(":va|"), [":vars"]);
    assert!(kernel.texts(":dep plot|").contains(&"plotters".to_string()));
}

#[test]
fn completion_answers_while_a_cell_runs_and_knows_what_that_cell_defines() {
    let Some(kernel) = session() else { return };
    let id = kernel.0.client.execute(
        "let harvest: Vec<Place> = vec![];\nstd::thread::sleep(std::time::Duration::from_secs(300));",
    );
    let question = json!({ "code": "harvest.is_emp", "cursor_pos": 14 });
    let since = Instant::now();
    let mut matches = json!([]);
    while matches != json!(["is_empty"]) && since.elapsed() < Duration::from_secs(60) {
        let asked = kernel.0.client.request("complete_request", question.clone());
        matches = loop {
            let Some(FromKernel::Shell(m)) = kernel.0.client.next(Duration::from_secs(60)) else { continue };
            assert_ne!(m.parent_id(), id, "the cell ended first");
            if m.parent_id() == asked {
                break m.content["matches"].clone();
            }
        };
    }
    assert_eq!(matches, json!(["is_empty"]));
    kernel.0.client.control("interrupt_request", json!({}));
    assert_eq!(kernel.reply(&id)["status"], "error");
}

#[test]
fn names_are_explained_whatever_they_stand_for() {
    let Some(kernel) = session() else { return };
    for (code, words) in [
        ("numbers.pus|h(1.0)", &["pub fn push(&mut self, value: T)", "Appends an element"][..]),
        ("numbers.push(|", &["pub fn push", "Appends an element"]),
        ("halve|", &["fn halve(x: f64) -> f64"]),
        ("place.distance|()", &["How far it is from the origin."]),
        ("Place|::default()", &["struct Place", "A place in the plane."]),
        ("place.longitude|", &["longitude: f64"]),
        ("println!(\"{}\", |", &["macro_rules! println", "Prints to the standard output"]),
        ("std::f|s::read", &["pub mod fs", "Filesystem manipulation operations."]),
        ("mat|ch 1 {}", &["Control flow based on pattern matching."]),
        // A variable: its type, and what that is.
        ("let ä = 1; plac|e", &["let place: Place", "A place in the plane."]),
        ("table|", &["let table: Array2<f64>"]),
        // The library's types have public paths that are not those of their definitions.
        ("config|", &["let config: Config", "d_vocab: usize"]),
        ("Config { d_vocab|: 1, ..config }", &["d_vocab: usize"]),
    ] {
        let reply = kernel.inspect(code, 0, words);
        assert_eq!(reply["found"], true, "{code}");
        for form in ["text/plain", "text/markdown"] {
            let text = reply["data"][form].as_str().unwrap();
            assert!(words.iter().all(|word| text.contains(word)), "{code}, {form}:\n{text}");
        }
        let plain = reply["data"]["text/plain"].as_str().unwrap();
        assert!(!plain.contains("```"), "{code}:\n{plain}");
    }
    let reply = kernel.inspect("no_such_thing|", 0, &[]);
    assert_eq!((&reply["found"], &reply["data"]), (&json!(false), &json!({})));
}

#[test]
fn the_definition_comes_when_more_detail_is_asked_for() {
    let Some(kernel) = session() else { return };
    for (code, words) in [
        ("halve|", "fn halve(x: f64) -> f64 { x / 2.0 }"),
        ("place|", "struct Place { longitude: f64, latitude: f64 }"),
        ("numbers.is_empty|", "self.len() == 0"),
    ] {
        let text = |level, words: &[&str]| {
            let reply = kernel.inspect(code, level, words);
            reply["data"]["text/plain"].as_str().unwrap().to_string()
        };
        let with_source = text(1, &[words]);
        assert!(with_source.contains(words), "{code}:\n{with_source}");
        let without = text(0, &[]);
        assert!(!without.contains("Defined in"), "{code}:\n{without}");
    }
    let reply = kernel.inspect("numbers.is_empty|", 1, &["Defined in"]);
    let text = reply["data"]["text/markdown"].as_str().unwrap();
    assert!(text.contains("Defined in `alloc/src/vec/mod.rs:"), "{text}");
}

#[test]
fn a_cell_that_is_a_question_is_answered_in_the_pager() {
    let Some(kernel) = session() else { return };
    for (cell, words) in [
        ("?place", "let place: Place"),
        ("numbers?", "let mut numbers: Vec<f64>"),
        ("?Vec::push", "Appends an element"),
        ("?halve", "fn halve(x: f64) -> f64"),
        ("??halve", "x / 2.0"),
        ("?println!", "Prints to the standard output"),
        ("?table.mean", "Returns the arithmetic mean"),
        ("?ndarray::linalg", "Linear algebra."),
        ("?nonsense", "nothing is known about `nonsense`"),
    ] {
        let reply = kernel.run(cell);
        let page = &reply["payload"][0];
        assert_eq!(page["source"], "page", "{cell}: {reply}");
        let text = page["data"]["text/plain"].as_str().unwrap();
        assert!(text.contains(words), "{cell}:\n{text}");
    }
}

#[test]
fn the_first_questions_are_answered_or_say_why_they_are_not() {
    if !analyzer_is_there() {
        return;
    }
    let kernel = Kernel::start();
    kernel.run("let anchor = 1;");
    let since = Instant::now();
    let reply = kernel.ask("inspect_request", "Vec::ne|w", json!({ "detail_level": 0 }));
    let text = reply["data"]["text/plain"].as_str().unwrap_or_default();
    assert!(reply["found"] == true, "{reply}");
    assert!(text.contains("pub const fn new() -> Self") || text.contains("still reading"), "{text}");
    // By now it is there, or the first question has waited in vain for as long as one may.
    let offered = kernel.texts("let v = vec![1];\nv.pus|");
    assert!(offered.contains(&"push".into()) || since.elapsed() > Duration::from_secs(14), "{offered:?}");
}

#[test]
fn rust_analyzer_starts_before_the_first_question_where_somebody_sits_and_thinks() {
    if !analyzer_is_there() {
        return;
    }
    let kernel = Kernel::start();
    kernel.run("let anchor = 1;");
    let since = Instant::now();
    while kernel.analyzer().is_none() {
        assert!(since.elapsed() < Duration::from_secs(30), "it does not start");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(
        since.elapsed() > Duration::from_secs(1),
        "cells that follow each other have the machine to themselves"
    );
}

#[test]
fn rust_analyzer_starts_when_it_is_asked_for_and_is_started_once_more_when_it_dies() {
    if !analyzer_is_there() {
        return;
    }
    let kernel = Kernel::start();
    kernel.run("let anchor = vec![1];");
    assert_eq!(kernel.analyzer(), None, "nobody has asked yet");
    // The first Tab is answered by what is known without it.
    assert_eq!(kernel.texts("anch|"), ["anchor"]);
    let mut seen = BTreeMap::new();
    for starts in 1..=2 {
        kernel.warm_up();
        let pid = kernel.analyzer().expect("it answers, so it is there");
        assert_eq!(seen.insert(pid, starts), None, "another process");
        std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
        let since = Instant::now();
        while Path::new(&format!("/proc/{pid}/fd/0")).exists() && since.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(kernel.texts("anch|"), ["anchor"], "names are there without it");
    }
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(kernel.texts("anchor.pus|"), Vec::<String>::new());
    assert_eq!(kernel.analyzer(), None, "what dies twice is left alone");
}

#[test]
fn rust_analyzer_ends_with_the_kernel_even_when_that_is_killed() {
    if !analyzer_is_there() {
        return;
    }
    let mut kernel = Kernel::start();
    kernel.run("let anchor = vec![1];");
    kernel.texts("anch|");
    let pid = kernel.analyzer().expect("a Tab starts it");
    kernel.0.kill();
    let since = Instant::now();
    let ended = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.contains("(rust-analyzer)") || stat.contains(") Z ")
    };
    while !ended() {
        assert!(since.elapsed() < Duration::from_secs(20), "rust-analyzer outlives its kernel");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Prints what completion costs; run with `--ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn measure() {
    if !analyzer_is_there() {
        return;
    }
    let kernel = Kernel::start();
    kernel.run("use onelens::prelude::*;\nlet mut numbers = vec![1.0];\nlet table = ndarray::Array2::<f64>::zeros((2, 2));");
    let since = Instant::now();
    kernel.texts("num|");
    println!("first Tab, names only: {:?}", since.elapsed());
    kernel.warm_up();
    println!("until rust-analyzer answers: {:?}", since.elapsed());
    let pid = kernel.analyzer().unwrap();
    let usage = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let rss =
            status.lines().find(|line| line.starts_with("VmRSS")).unwrap().split_whitespace().nth(1).unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<f64> =
            stat.rsplit(')').next().unwrap().split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect();
        (rss.parse::<f64>().unwrap() / 1024.0, (fields[11] + fields[12]) / 100.0)
    };
    println!("then it has (MB, s of CPU): {:?}", usage(pid));
    // `found` says whether the answer came before the kernel's deadline.
    let median = |what: &str, found: &dyn Fn(usize) -> bool| {
        let before = usage(pid).1;
        let mut late = 0;
        let mut times: Vec<Duration> = (0..11)
            .map(|i| {
                let since = Instant::now();
                late += usize::from(!found(i));
                since.elapsed()
            })
            .collect();
        let cpu = (usage(pid).1 - before) / 11.0 * 1000.0;
        times.sort();
        println!(
            "{what}: median {:?}, best {:?}, worst {:?}; {cpu:.0} ms of CPU each; {late} of 11 late",
            times[5], times[0], times[10]
        );
    };
    // Each time another text, so that nothing is answered from memory.
    let offers = |i: usize, code: &str| !kernel.texts(&format!("let x{i} = 1;\n{code}|")).is_empty();
    while !offers(0, "table.me") {}
    median("method of an ndarray", &|i| offers(i, "table.me"));
    median("method of a Vec", &|i| offers(i, "numbers.pu"));
    median("name", &|i| offers(i, "Transf"));
    median("documentation", &|i| {
        kernel.inspect(&format!("let x{i} = 1;\nnumbers.push|"), 0, &[])["found"] == true
    });
    let id = kernel.0.client.execute(
        "let t = std::time::Instant::now(); while t.elapsed().as_secs() < 8 { std::hint::black_box(0); }",
    );
    std::thread::sleep(Duration::from_millis(700));
    median("method of an ndarray while a cell computes", &|i| offers(i, "table.me"));
    median("name while a cell computes", &|i| offers(i, "Transf"));
    kernel.reply(&id);
    println!("at the end it has (MB, s of CPU): {:?}", usage(pid));
}
