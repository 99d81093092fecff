//! The Jupyter protocol, tried on a kernel in this process whose session is a fake: what is claimed here holds for
//! any engine. Each line of a cell is one command of the fake: `out`, `sleep`, `fail` and so on.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use onelens_kernel::base::failure::Failure;
use onelens_kernel::cells::{Ask, CellError, Input, Output, Question};
use onelens_kernel::cells::{CellRunner, Start};
use onelens_kernel::jupyter::client::{Client, FromKernel};
use onelens_kernel::jupyter::connection::Connection;
use onelens_kernel::jupyter::message::{Dropped, Message, Signer};
use onelens_kernel::jupyter::server::Server;
use onelens_kernel::jupyter::zmtp;
use serde_json::{Value, json};

/// Long enough for a loaded machine; nothing here waits so long when all is well.
const SOON: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Fake {
    ask: Option<Ask>,
    /// What a thread puts out when no cell runs.
    late: Vec<Output>,
    stop: Arc<AtomicBool>,
    variables: BTreeMap<String, String>,
}

impl CellRunner for Fake {
    fn execute(&mut self, code: &str, on_output: &mut dyn FnMut(Output)) -> Result<(), CellError> {
        self.stop.store(false, Ordering::SeqCst);
        let plain = |text: &str| vec![("text/plain".to_string(), text.to_string())];
        for line in code.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "out" => on_output(Output::Stdout(format!("{rest}\n"))),
                "result" => on_output(Output::Result(plain(rest))),
                "display" => on_output(Output::Display { bundle: plain(rest), id: Some("d".into()) }),
                "update" => on_output(Output::Update { bundle: plain(rest), id: "d".into() }),
                "clear" => on_output(Output::Clear { wait: true }),
                "let" => drop(self.variables.insert(rest.into(), "Vec<f64>".into())),
                "ask" | "hide" => {
                    let question = Question { prompt: rest.into(), password: word == "hide" };
                    match self.ask.as_mut().unwrap()(&question) {
                        Input::Line(line) => on_output(Output::Stdout(line)),
                        other => {
                            return Err(CellError {
                                ename: format!("{other:?}"),
                                evalue: String::new(),
                                traceback: vec![],
                            });
                        }
                    }
                }
                "late" => self.late.push(Output::Stdout(rest.into())),
                "flood" => (0..64).for_each(|_| on_output(Output::Stdout("x".repeat(1 << 17)))),
                "fail" => {
                    return Err(CellError {
                        ename: "Failed".into(),
                        evalue: rest.into(),
                        traceback: vec![format!("it {rest}")],
                    });
                }
                "sleep" => {
                    let started = Instant::now();
                    while started.elapsed().as_secs_f64() < rest.parse().unwrap_or(0.0) {
                        if self.stop.load(Ordering::SeqCst) {
                            return Err(CellError {
                                ename: "Interrupted".into(),
                                evalue: "interrupted".into(),
                                traceback: vec![],
                            });
                        }
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn interrupter(&self) -> Box<dyn Fn() + Send> {
        let stop = self.stop.clone();
        Box::new(move || stop.store(true, Ordering::SeqCst))
    }

    fn variables(&self) -> BTreeMap<String, String> {
        self.variables.clone()
    }

    fn on_input(&mut self, ask: Ask) {
        self.ask = Some(ask);
    }

    fn idle(&mut self, on_output: &mut dyn FnMut(Output)) {
        self.late.drain(..).for_each(on_output);
    }
}

/// A kernel and a client connected to it.
struct Pair {
    server: Server,
    client: Client,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Pair {
    fn new() -> Pair {
        Pair::with(Box::new(|_| Ok(Box::<Fake>::default())))
    }

    fn with(start: Start) -> Pair {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("connection.json");
        Connection::any_ports().unwrap().write(&file).unwrap();
        let server = Server::start(&file, start).unwrap();
        let client = Client::connect(server.connection(), SOON).unwrap();
        assert!(client.wait_ready(SOON).is_some());
        Pair { server, client, file, _folder: folder }
    }

    /// Everything that a request causes, until its reply and its `idle` are there.
    fn collect(&self, id: &str) -> (Value, Vec<(String, Value)>) {
        let (mut reply, mut published, mut idle) = (None, Vec::new(), false);
        while reply.is_none() || !idle {
            match self.client.next(SOON).expect("the kernel is silent") {
                FromKernel::Shell(m) | FromKernel::Control(m) if m.parent_id() == id => {
                    reply = Some(m.content)
                }
                FromKernel::IoPub(m) if m.parent_id() == id => {
                    idle = m.content["execution_state"] == "idle";
                    published.push((m.kind().to_string(), m.content));
                }
                FromKernel::Gone => panic!("the kernel has gone"),
                _ => {}
            }
        }
        (reply.unwrap(), published)
    }

    fn run(&self, code: &str) -> (Value, Vec<(String, Value)>) {
        self.collect(&self.client.execute(code))
    }

    fn ask(&self, kind: &str, content: Value) -> Value {
        self.collect(&self.client.request(kind, content)).0
    }

    /// Sends a cell, and waits until it has put something out: it runs then, whatever else the machine does.
    fn begun(&self, code: &str) -> String {
        let id = self.client.execute(&format!("out begun\n{code}"));
        loop {
            match self.client.next(SOON).expect("the kernel is silent") {
                FromKernel::IoPub(m) if m.parent_id() == id && m.kind() == "stream" => return id,
                FromKernel::Gone => panic!("the kernel has gone"),
                _ => {}
            }
        }
    }

    fn lives(&self) {
        assert_eq!(self.run("out still here").0["status"], "ok");
    }
}

fn kinds(published: &[(String, Value)]) -> Vec<&str> {
    published.iter().map(|(kind, _)| kind.as_str()).collect()
}

#[test]
fn the_kernel_answers_before_its_session_is_ready_and_the_first_cell_says_why_it_waits() {
    let ready = Arc::new(AtomicBool::new(false));
    let go = ready.clone();
    let pair = Pair::with(Box::new(move |progress| {
        progress("building the library");
        progress("Compiling one of many crates");
        while !go.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(Box::<Fake>::default())
    }));
    let info = pair.ask("kernel_info_request", json!({}));
    assert_eq!(info["language_info"]["name"], "rust");
    let id = pair.client.execute("out a");
    loop {
        let Some(FromKernel::IoPub(m)) = pair.client.next(SOON) else { continue };
        if m.kind() == "stream" {
            assert_eq!(m.content, json!({ "name": "stderr", "text": "onelens: building the library\n" }));
            break;
        }
    }
    ready.store(true, Ordering::SeqCst);
    let (reply, published) = pair.collect(&id);
    assert_eq!(reply["status"], "ok");
    let texts: Vec<&str> = published.iter().filter_map(|(_, c)| c["text"].as_str()).collect();
    assert!(matches!(texts[..], [said, "a\n"] if said.contains("ready after")), "{texts:?}");
}

#[test]
fn a_session_that_cannot_start_fails_the_cell_and_is_tried_again_for_the_next_one() {
    let tries = AtomicUsize::new(0);
    let pair = Pair::with(Box::new(move |_| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => Err(Failure::new("no compiler", "install one")),
        _ => Ok(Box::<Fake>::default()),
    }));
    let (reply, published) = pair.run("out a");
    assert_eq!(reply["evalue"], "no compiler\nhelp: install one");
    assert!(kinds(&published).contains(&"error"));
    pair.lives();
}

#[test]
fn outputs_come_in_order_between_busy_and_idle_and_name_their_cell() {
    let pair = Pair::new();
    let (reply, published) = pair.run("out a\nresult b\ndisplay c\nupdate d\nclear");
    assert_eq!(reply, json!({ "status": "ok", "execution_count": 1, "user_expressions": {}, "payload": [] }));
    let expected = [
        ("status", json!({ "execution_state": "busy" })),
        (
            "execute_input",
            json!({ "code": "out a\nresult b\ndisplay c\nupdate d\nclear", "execution_count": 1 }),
        ),
        ("stream", json!({ "name": "stdout", "text": "a\n" })),
        ("execute_result", json!({ "execution_count": 1, "data": { "text/plain": "b" }, "metadata": {} })),
        (
            "display_data",
            json!({ "data": { "text/plain": "c" }, "metadata": {}, "transient": { "display_id": "d" } }),
        ),
        (
            "update_display_data",
            json!({ "data": { "text/plain": "d" }, "metadata": {}, "transient": { "display_id": "d" } }),
        ),
        ("clear_output", json!({ "wait": true })),
        ("status", json!({ "execution_state": "idle" })),
    ];
    let expected: Vec<(String, Value)> = expected.into_iter().map(|(k, c)| (k.to_string(), c)).collect();
    assert_eq!(published, expected);
}

#[test]
fn an_error_reaches_the_notebook_and_the_reply() {
    let pair = Pair::new();
    let (reply, published) = pair.run("out a\nfail badly");
    assert_eq!(reply["status"], "error");
    assert_eq!((&reply["ename"], &reply["evalue"]), (&json!("Failed"), &json!("badly")));
    let error = &published.iter().find(|(kind, _)| kind == "error").unwrap().1;
    assert_eq!(*error, json!({ "ename": "Failed", "evalue": "badly", "traceback": ["it badly"] }));
}

#[test]
fn cells_that_were_queued_behind_a_failing_one_are_aborted_unless_it_may_fail() {
    let pair = Pair::new();
    // Long enough that the others are sent meanwhile, also on a machine that is busy.
    let ids = ["sleep 1\nfail x", "out 1", "out 2"].map(|code| pair.client.execute(code));
    let mut statuses = BTreeMap::new();
    while statuses.len() < 3 {
        if let Some(FromKernel::Shell(m)) = pair.client.next(SOON) {
            statuses.insert(m.parent_id().to_string(), m.content["status"].clone());
        }
    }
    assert_eq!(ids.map(|id| statuses[&id].clone()), ["error", "aborted", "aborted"]);
    pair.lives();

    let may_fail = json!({ "code": "sleep 1\nfail x", "stop_on_error": false });
    pair.client.request("execute_request", may_fail);
    assert_eq!(pair.run("out 1").0["status"], "ok");
}

#[test]
fn a_cell_sent_after_the_reply_to_a_failing_one_is_run() {
    let pair = Pair::new();
    for _ in 0..20 {
        assert_eq!(pair.run("fail x").0["status"], "error");
        assert_eq!(pair.run("out a").0["status"], "ok");
    }
}

#[test]
fn a_running_cell_is_interrupted_and_holds_up_no_other_request() {
    let pair = Pair::new();
    let started = Instant::now();
    let id = pair.begun("sleep 60");
    let completion = pair.client.request("complete_request", json!({ "code": "a", "cursor_pos": 1 }));
    let (reply, published) = pair.collect(&completion);
    assert_eq!(reply["status"], "ok");
    assert_eq!(kinds(&published), ["status", "status"]);
    pair.client.control("interrupt_request", json!({}));
    assert_eq!(pair.collect(&id).0["ename"], "Interrupted");
    assert!(started.elapsed() < Duration::from_secs(30));
    pair.client.control("interrupt_request", json!({}));
    pair.lives();
}

#[test]
fn a_kernel_that_answers_something_else_meanwhile_is_still_shown_as_busy() {
    let pair = Pair::new();
    let id = pair.begun("sleep 1");
    pair.client.request("comm_info_request", json!({}));
    let mut states = Vec::new();
    let (_, published) = pair.collect(&id);
    for (kind, content) in published {
        if kind == "status" {
            states.push(content["execution_state"].clone());
        }
    }
    // The first of all came before the cell put something out: this one follows the other request's `idle`.
    assert_eq!(states, ["busy", "idle"]);
}

#[test]
fn silent_cells_and_empty_cells_do_not_count() {
    let pair = Pair::new();
    let silent = json!({ "code": "result a\nout b", "silent": true });
    let (reply, published) = pair.collect(&pair.client.request("execute_request", silent));
    assert_eq!((&reply["status"], &reply["execution_count"]), (&json!("ok"), &json!(0)));
    assert_eq!(kinds(&published), ["status", "stream", "status"]);
    assert_eq!(pair.run(" \n").0["execution_count"], 0);
    assert_eq!(pair.run("out a").0["execution_count"], 1);
}

#[test]
fn variables_are_completed_inspected_and_paged_and_cells_are_remembered() {
    let pair = Pair::new();
    pair.run("let alpha");
    pair.run("let alps");
    let reply = pair.ask("complete_request", json!({ "code": "é + al", "cursor_pos": 6 }));
    assert_eq!(reply["matches"], json!(["alpha", "alps"]));
    assert_eq!((&reply["cursor_start"], &reply["cursor_end"]), (&json!(4), &json!(6)));
    let reply = pair.ask("inspect_request", json!({ "code": "alpha", "cursor_pos": 2 }));
    assert_eq!(reply["data"]["text/plain"], "let alpha: Vec<f64>");
    let reply = pair.ask("inspect_request", json!({ "code": "beta", "cursor_pos": 2 }));
    assert_eq!(reply["found"], false);
    assert_eq!(pair.run("?alpha").0["payload"][0]["data"]["text/plain"], "let alpha: Vec<f64>");
    let reply = pair.ask("history_request", json!({ "hist_access_type": "search", "pattern": "let*" }));
    assert_eq!(reply["history"], json!([[1, 1, "let alpha"], [1, 2, "let alps"]]));
}

#[test]
fn messages_that_are_unsigned_wrongly_signed_cut_or_replayed_are_dropped_and_counted() {
    let pair = Pair::new();
    let signer = Signer::new(&pair.server.connection().key);
    let message = Message::new("s", "execute_request", json!({ "code": "out never" }));
    let before = pair.run("out a").0["execution_count"].as_u64().unwrap();

    pair.client.send_raw(&message.encode(&Signer::new("guessed")));
    pair.client.send_raw(&message.encode(&Signer::new("")));
    let good = message.encode(&signer);
    for end in 1..good.len() {
        pair.client.send_raw(&good[..end]);
    }
    for nonsense in [&b"["[..], b"null", b"{}", b"\xff\xfe", b"{\"msg_type\": 1, \"msg_id\": 2}"] {
        let mut parts = [nonsense.to_vec(), b"{}".to_vec(), b"{}".to_vec(), b"{}".to_vec()];
        let mut frames = vec![b"<IDS|MSG>".to_vec(), signer.sign(&parts).into_bytes()];
        frames.extend(parts.iter_mut().map(std::mem::take));
        pair.client.send_raw(&frames);
    }
    pair.client.send_raw(&good);
    pair.client.send_raw(&good);
    pair.lives();
    assert_eq!(pair.server.dropped(Dropped::WrongSignature), 2);
    assert_eq!(pair.server.dropped(Dropped::Malformed), good.len() as u64 - 1 + 5);
    assert_eq!(pair.server.dropped(Dropped::Replayed), 1);
    // The good one ran once, and `lives` once.
    assert_eq!(pair.run("out a").0["execution_count"].as_u64().unwrap(), before + 3);
}

#[test]
fn signed_requests_with_nonsense_inside_end_no_loop() {
    let pair = Pair::new();
    let nonsense = [
        json!({}),
        json!({ "code": 7, "cursor_pos": -1 }),
        json!({ "code": null, "cursor_pos": u64::MAX }),
        json!({ "code": "é", "cursor_pos": 1e300, "n": -1, "start": "x", "stop": [], "pattern": {}, "hist_access_type": 3 }),
        json!({ "hist_access_type": "search", "pattern": "*".repeat(5000), "n": u64::MAX, "unique": "yes" }),
    ];
    for kind in [
        "execute_request",
        "complete_request",
        "inspect_request",
        "is_complete_request",
        "history_request",
        "comm_open",
        "comm_msg",
        "comm_info_request",
        "input_reply",
        "debug_request",
        "no_such_request",
        "status",
    ] {
        for content in &nonsense {
            let id = pair.client.request(kind, content.clone());
            if kind == "execute_request" {
                // An interrupt strikes whatever runs then, and a cell that it strikes takes those that wait with it:
                // both are over before anything else is asked for.
                let interrupt = pair.client.control("interrupt_request", content.clone());
                let mut open = BTreeSet::from([id, interrupt]);
                while !open.is_empty() {
                    if let FromKernel::Shell(m) | FromKernel::Control(m) =
                        pair.client.next(SOON).expect("the kernel is silent")
                    {
                        open.remove(m.parent_id());
                    }
                }
            } else {
                pair.client.control(kind, content.clone());
            }
        }
    }
    pair.lives();
}

#[test]
fn bytes_that_are_not_zeromq_harm_only_their_own_connection() {
    let pair = Pair::new();
    let c = pair.server.connection().clone();
    // A small generator, so that a failure can be repeated.
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for round in 0..200 {
        let port = [c.shell_port, c.control_port, c.iopub_port, c.stdin_port, c.hb_port][round % 5];
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        if round % 2 == 0 {
            let kind = [
                zmtp::Kind::Dealer,
                zmtp::Kind::Dealer,
                zmtp::Kind::Sub,
                zmtp::Kind::Dealer,
                zmtp::Kind::Req,
            ];
            zmtp::handshake(&mut stream, kind[round % 5], b"x").unwrap();
        }
        let bytes: Vec<u8> =
            (0..random() % 300).map(|_| random() as u8 & if random() % 2 == 0 { 7 } else { 255 }).collect();
        let _ = stream.write_all(&bytes);
    }
    pair.lives();
}

#[test]
fn a_subscriber_that_never_reads_holds_up_nobody() {
    let pair = Pair::new();
    let mut stream = TcpStream::connect(("127.0.0.1", pair.server.connection().iopub_port)).unwrap();
    zmtp::handshake(&mut stream, zmtp::Kind::Sub, b"").unwrap();
    stream.write_all(&zmtp::subscribe(b"")).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let (_, published) = pair.run("flood");
    let bytes: usize = published.iter().filter_map(|(_, c)| c["text"].as_str()).map(str::len).sum();
    assert_eq!(bytes, 64 << 17);
}

#[test]
fn the_heartbeat_sends_back_what_it_gets() {
    let pair = Pair::new();
    let mut stream = TcpStream::connect(("127.0.0.1", pair.server.connection().hb_port)).unwrap();
    zmtp::handshake(&mut stream, zmtp::Kind::Req, b"").unwrap();
    let frames = vec![b"".to_vec(), b"ping".to_vec()];
    stream.write_all(&zmtp::encode(&frames)).unwrap();
    assert_eq!(zmtp::read(&mut stream).unwrap(), zmtp::Incoming::Message(frames));
}

/// VS Code sends its first requests before its subscription to outputs has reached the kernel.
#[test]
fn a_client_that_subscribes_after_sending_its_first_cells_misses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("connection.json");
    Connection::any_ports().unwrap().write(&file).unwrap();
    let server = Server::start(&file, Box::new(|_| Ok(Box::<Fake>::default()))).unwrap();
    let connection = server.connection();
    let signer = Signer::new(&connection.key);

    let mut shell = TcpStream::connect(("127.0.0.1", connection.shell_port)).unwrap();
    shell.set_read_timeout(Some(SOON)).unwrap();
    zmtp::handshake(&mut shell, zmtp::Kind::Dealer, b"early").unwrap();
    let cells = ["out a", "display b"].map(|code| {
        let info = Message::new("early", "kernel_info_request", json!({}));
        let cell = Message::new("early", "execute_request", json!({ "code": code }));
        for message in [&info, &cell] {
            shell.write_all(&zmtp::encode(&message.encode(&signer))).unwrap();
        }
        cell
    });
    // Until all replies have come: everything was published before anybody listened.
    let mut replies = 0;
    while replies < 4 {
        zmtp::read(&mut shell).unwrap();
        replies += 1;
    }

    let mut iopub = TcpStream::connect(("127.0.0.1", connection.iopub_port)).unwrap();
    iopub.set_read_timeout(Some(SOON)).unwrap();
    zmtp::handshake(&mut iopub, zmtp::Kind::Sub, b"").unwrap();
    iopub.write_all(&zmtp::subscribe(b"")).unwrap();
    let reader = Signer::new(&connection.key);
    let mut next = || loop {
        if let zmtp::Incoming::Message(frames) = zmtp::read(&mut iopub).unwrap() {
            return Message::decode(frames, &reader).unwrap();
        }
    };
    assert_eq!(next().kind(), "iopub_welcome");
    for (cell, shown) in cells.iter().zip(["stream", "display_data"]) {
        let mut kinds = Vec::new();
        while kinds.iter().filter(|kind| *kind == "status").count() < 2 {
            let message = next();
            if message.parent_id() == cell.id() {
                kinds.push(message.kind().to_string());
            }
        }
        assert_eq!(kinds, ["status", "execute_input", shown, "status"]);
    }
}

#[test]
fn expressions_asked_for_with_a_cell_are_evaluated_each_for_itself() {
    let pair = Pair::new();
    let request =
        json!({ "code": "out a", "user_expressions": { "b": "fail so", "a": "result 1\nout unseen" } });
    let (reply, published) = pair.collect(&pair.client.request("execute_request", request));
    assert_eq!(reply["status"], "ok");
    let expected = json!({
        "b": { "status": "error", "ename": "Failed", "evalue": "so", "traceback": ["it so"] },
        "a": { "status": "ok", "data": { "text/plain": "1" }, "metadata": {} },
    });
    assert_eq!(reply["user_expressions"], expected);
    assert_eq!(kinds(&published), ["status", "execute_input", "stream", "status"]);
    // Not after a cell that failed.
    let request = json!({ "code": "fail x", "user_expressions": { "a": "result 1" } });
    let (reply, _) = pair.collect(&pair.client.request("execute_request", request));
    assert_eq!(reply["user_expressions"], json!({}));
}

/// The next question that a kernel asks its user.
fn question(pair: &Pair) -> Message {
    loop {
        match pair.client.next(SOON).expect("the kernel is silent") {
            FromKernel::Stdin(message) => return message,
            _ => continue,
        }
    }
}

#[test]
fn a_question_goes_to_the_client_whose_cell_asks() {
    let pair = Pair::new();
    let other = Client::connect(pair.server.connection(), SOON).unwrap();
    let id = pair.client.request("execute_request", json!({ "code": "ask", "allow_stdin": true }));
    let asked = question(&pair);
    assert_eq!((asked.kind(), asked.parent_id()), ("input_request", id.as_str()));
    assert_eq!(asked.content, json!({ "prompt": "", "password": false }));
    other.answer(&asked, "of another client");
    std::thread::sleep(Duration::from_millis(100));
    pair.client.answer(&asked, "Ada");
    let (reply, published) = pair.collect(&id);
    assert_eq!(reply["status"], "ok");
    assert_eq!(published.last().unwrap().1["execution_state"], "idle");
    assert!(published.contains(&("stream".into(), json!({ "name": "stdout", "text": "Ada" }))));
    while let Some(event) = other.next(Duration::from_millis(50)) {
        assert!(!matches!(event, FromKernel::Stdin(_)), "nobody else is asked");
    }
}

#[test]
fn a_password_is_asked_for_as_one() {
    let pair = Pair::new();
    let id =
        pair.client.request("execute_request", json!({ "code": "hide the word: ", "allow_stdin": true }));
    let asked = question(&pair);
    assert_eq!(asked.content, json!({ "prompt": "the word: ", "password": true }));
    pair.client.answer(&asked, "sesame");
    assert_eq!(pair.collect(&id).0["status"], "ok");
}

#[test]
fn what_comes_between_cells_is_published_as_the_last_cells() {
    let pair = Pair::new();
    let id = pair.client.execute("late news");
    pair.collect(&id);
    let late = loop {
        if let FromKernel::IoPub(m) = pair.client.next(SOON).expect("nothing came") {
            break m;
        }
    };
    assert_eq!((late.kind(), late.parent_id(), &late.content["text"]), ("stream", &*id, &json!("news")));
    // What came before the next cell has begun is the last one's, too.
    let id = pair.client.execute("late a");
    pair.collect(&id);
    let next = pair.client.execute("out b");
    let mut seen = Vec::new();
    while seen.len() < 2 {
        if let FromKernel::IoPub(m) = pair.client.next(SOON).expect("nothing came")
            && m.kind() == "stream"
        {
            seen.push((m.parent_id().to_string(), m.content["text"].clone()));
        }
    }
    assert_eq!(seen, [(id, json!("a")), (next, json!("b\n"))]);
}

#[test]
fn a_client_that_cannot_be_asked_is_not_and_an_open_question_can_be_interrupted() {
    let pair = Pair::new();
    let never = json!({ "code": "ask", "allow_stdin": false });
    let (reply, _) = pair.collect(&pair.client.request("execute_request", never));
    assert_eq!(reply["ename"], "Unavailable");

    let id = pair.client.request("execute_request", json!({ "code": "ask", "allow_stdin": true }));
    let asked = question(&pair);
    pair.client.control("interrupt_request", json!({}));
    assert_eq!(pair.collect(&id).0["ename"], "Interrupted");
    // An answer that comes too late is no answer to the next question.
    pair.client.answer(&asked, "late");
    let id = pair.client.request("execute_request", json!({ "code": "sleep 0.2\nask", "allow_stdin": true }));
    pair.client.answer(&question(&pair), "in time");
    let (_, published) = pair.collect(&id);
    assert!(published.iter().any(|(_, content)| content["text"] == "in time"), "{published:?}");
}

#[test]
fn comms_are_none_and_what_a_client_opens_is_closed() {
    let pair = Pair::new();
    assert_eq!(pair.ask("comm_info_request", json!({})), json!({ "status": "ok", "comms": {} }));
    let id = pair.client.request("comm_open", json!({ "comm_id": "c", "target_name": "t", "data": {} }));
    let mut published = Vec::new();
    while published.len() < 3 {
        match pair.client.next(SOON).expect("the kernel is silent") {
            FromKernel::IoPub(m) if m.parent_id() == id => published.push((m.kind().to_string(), m.content)),
            FromKernel::Shell(m) => panic!("comm_open has no reply: {m:?}"),
            _ => {}
        }
    }
    assert_eq!(published[1], ("comm_close".into(), json!({ "comm_id": "c", "data": {} })));
}

#[test]
fn the_kernel_describes_itself_as_the_protocol_asks() {
    let pair = Pair::new();
    let info = pair.ask("kernel_info_request", json!({}));
    for text in ["protocol_version", "implementation", "implementation_version", "banner"] {
        assert!(info[text].is_string(), "{text}");
    }
    for text in ["name", "version", "mimetype", "file_extension"] {
        assert!(info["language_info"][text].is_string(), "{text}");
    }
    assert_eq!((&info["debugger"], &info["supported_features"]), (&json!(false), &json!([])));
    for link in info["help_links"].as_array().unwrap() {
        assert!(link["text"].is_string() && link["url"].as_str().unwrap().starts_with("https://"));
    }
}

#[test]
fn replies_and_states_carry_the_times_that_front_ends_show() {
    let pair = Pair::new();
    let id = pair.client.execute("sleep 0.2");
    let (mut dates, mut started) = (Vec::new(), None);
    while dates.len() < 2 || started.is_none() {
        match pair.client.next(SOON).expect("the kernel is silent") {
            FromKernel::IoPub(m) if m.parent_id() == id && m.kind() == "status" => {
                dates.push(m.header["date"].as_str().unwrap().to_string());
            }
            FromKernel::Shell(m) if m.parent_id() == id => {
                started = Some(m.metadata["started"].as_str().unwrap().to_string());
            }
            _ => {}
        }
    }
    // Dates of this form sort as times do.
    assert!(dates[0] <= started.clone().unwrap() && started.unwrap() < dates[1], "{dates:?}");
}

#[test]
fn shutdown_is_answered_and_ends_a_running_cell() {
    let pair = Pair::new();
    pair.begun("sleep 60");
    let id = pair.client.control("shutdown_request", json!({ "restart": true }));
    assert_eq!(pair.collect(&id).0, json!({ "status": "ok", "restart": true }));
    assert!(pair.server.wait(SOON));
}

#[test]
fn the_connection_file_is_for_its_owner_and_names_this_machine_only() {
    let pair = Pair::new();
    assert_eq!(std::fs::metadata(&pair.file).unwrap().permissions().mode() & 0o777, 0o600);
    let mut connection = Connection::read(&pair.file).unwrap();
    assert!(connection.is_bound());
    connection.ip = "0.0.0.0".into();
    connection.write(&pair.file).unwrap();
    let message = Connection::read(&pair.file).unwrap_err().to_string();
    assert!(message.contains("\"0.0.0.0\"") && message.contains("help: "), "{message}");
}
