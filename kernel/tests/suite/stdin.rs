//! Cells that read standard input, with the real engine: whoever reads, and however.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

use std::path::Path;
use std::time::Duration;

use onelens_kernel::engines::EngineKind;
use onelens_kernel::jupyter::client::FromKernel;
use onelens_kernel::run::child::KernelProcess;
use serde_json::{Value, json};

use crate::portable;

/// Runs a cell and gives these answers to its questions; the reply, what was printed, and how often it asked.
fn run(kernel: &KernelProcess, code: &str, answers: Option<&[&str]>) -> (Value, String, usize) {
    let request = json!({ "code": code, "allow_stdin": answers.is_some() });
    let id = kernel.client.request("execute_request", request);
    let (mut reply, mut idle, mut printed, mut asked) = (None, false, String::new(), 0);
    while reply.is_none() || !idle {
        match kernel.client.next(Duration::from_secs(120)).expect("the kernel is silent") {
            FromKernel::Stdin(question) => {
                let answer = answers.and_then(|answers| answers.get(asked)).expect("one question too many");
                kernel.client.answer(&question, answer);
                asked += 1;
            }
            FromKernel::Shell(m) if m.parent_id() == id => reply = Some(m.content),
            FromKernel::IoPub(m) if m.parent_id() == id => {
                idle |= m.content["execution_state"] == "idle";
                printed.push_str(m.content["text"].as_str().unwrap_or_default());
            }
            FromKernel::Gone => panic!("the kernel has gone"),
            _ => {}
        }
    }
    (reply.unwrap(), printed, asked)
}

#[test]
fn a_cell_that_reads_asks_and_one_that_cannot_ask_fails_at_once_without_loss() {
    let program = Path::new(env!("CARGO_BIN_EXE_onelens"));
    let kernel = KernelProcess::start(program, EngineKind::Instant, Path::new("."), None).unwrap();
    let defined = run(&kernel, "let mut x = vec![1, 2, 3];", None);
    assert_eq!(defined.0["status"], "ok");

    // By lines, each asked for.
    let code = "let mut names = String::new();\nfor _ in 0..2 { std::io::stdin().read_line(&mut names)?; }\nprint!(\"{names:?}\");";
    let (reply, printed, asked) = run(&kernel, code, Some(&["Ada Løvelace", ""]));
    assert_eq!((&reply["status"], asked), (&json!("ok"), 2), "{reply}");
    assert_eq!(printed, "\"Ada Løvelace\\n\\n\"");

    // By another thread, and by a program that the cell starts.
    let code = "let from = std::thread::spawn(|| std::io::stdin().lines().next().unwrap().unwrap());\nprint!(\"{}\", from.join().unwrap());";
    assert_eq!(run(&kernel, code, Some(&["thread"])).1, "thread");
    let code = "std::process::Command::new(\"sh\").args([\"-c\", \"read x; echo got $x\"]).status()?;";
    if portable() {
        // Which is not seen, and finds the end of its input.
        let (_, printed, asked) = run(&kernel, code, Some(&[]));
        assert_eq!((printed.as_str(), asked), ("got\n", 0));
        // By an item that reads, through another; nothing in the cell itself names it.
        let code = "fn line() -> String { std::io::stdin().lines().next().unwrap().unwrap() }\nfn both() -> String { line() + &line() }";
        assert_eq!(run(&kernel, code, None).0["status"], "ok");
        assert_eq!(run(&kernel, "print!(\"{}\", both());", Some(&["a", "b"])).1, "ab");
    } else {
        assert_eq!(run(&kernel, code, Some(&["it"])).1, "got it\n");
    }

    // Where nobody can be asked.
    let (reply, _, _) = run(&kernel, "x.push(4);\nstd::io::stdin().read_line(&mut names)?;", None);
    if portable() {
        // It may be at work instead, so it is not ended, but finds the end of its input.
        assert_eq!(reply["status"], "ok", "{reply}");
        assert_eq!(run(&kernel, "print!(\"{x:?}\");", None).1, "[1, 2, 3, 4]");
    } else {
        assert_eq!((&reply["status"], &reply["ename"]), (&json!("error"), &json!("StdinNotImplemented")));
        assert!(reply["evalue"].as_str().unwrap().contains("help: "), "{reply}");
        assert_eq!(run(&kernel, "print!(\"{x:?}\");", None).1, "[1, 2, 3]");
    }

    // A cell that computes for long without reading is not disturbed.
    let code = "std::thread::sleep(std::time::Duration::from_millis(400));\nprint!(\"done\");";
    assert_eq!(run(&kernel, code, None).1, "done");
}

#[test]
fn a_question_that_stays_open_is_interrupted() {
    let program = Path::new(env!("CARGO_BIN_EXE_onelens"));
    let kernel = KernelProcess::start(program, EngineKind::Instant, Path::new("."), None).unwrap();
    let code = "let mut s = String::new();\nstd::io::stdin().read_line(&mut s)?;";
    let id = kernel.client.request("execute_request", json!({ "code": code, "allow_stdin": true }));
    let reply = loop {
        match kernel.client.next(Duration::from_secs(120)).expect("the kernel is silent") {
            FromKernel::Stdin(_) => drop(kernel.client.control("interrupt_request", json!({}))),
            FromKernel::Shell(m) if m.parent_id() == id => break m.content,
            _ => {}
        }
    };
    assert_eq!(reply["ename"], "KeyboardInterrupt");
    assert_eq!(run(&kernel, "print!(\"on\");", None).1, "on");
}

#[test]
fn a_password_is_hidden_as_the_crate_evcxr_input_asks() {
    let program = Path::new(env!("CARGO_BIN_EXE_onelens"));
    let kernel = KernelProcess::start(program, EngineKind::Instant, Path::new("."), None).unwrap();
    // What `get_password` and `get_string` of that crate do.
    let code = "fn get(kind: &str, prompt: &str) -> String { println!(\"{kind}:{prompt}\"); std::io::stdin().lines().next().unwrap().unwrap() }\n\
                let word = get(\"EVCXR_INPUT_REQUEST_PASSWORD\", \"the word: \");\nlet name = get(\"EVCXR_INPUT_REQUEST\", \"the name: \");\n\
                print!(\"{} {}\", word.len(), name);";
    let id = kernel.client.request("execute_request", json!({ "code": code, "allow_stdin": true }));
    let (mut asked, mut printed) = (Vec::new(), String::new());
    loop {
        match kernel.client.next(Duration::from_secs(120)).expect("the kernel is silent") {
            FromKernel::Stdin(question) => {
                asked.push(question.content.clone());
                kernel.client.answer(&question, "sesame");
            }
            FromKernel::IoPub(m) if m.parent_id() == id => {
                printed.push_str(m.content["text"].as_str().unwrap_or_default());
                if m.content["execution_state"] == "idle" {
                    break;
                }
            }
            _ => {}
        }
    }
    let expected = [("the word: ", true), ("the name: ", false)]
        .map(|(prompt, password)| json!({ "prompt": prompt, "password": password }));
    assert_eq!((asked.as_slice(), printed.as_str()), (&expected[..], "6 sesame"));
}
