//! The program rust-analyzer: started when it is first needed, and once more if it dies.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use super::lsp::{Phase, Server};
use super::shadow::Shadow;
use crate::base::paths;
use crate::cells::{Scene, Sources};
use crate::image::project;

/// rust-analyzer, if it runs, and the file it is shown.
#[derive(Default)]
pub(super) struct Analyzer {
    running: Option<Running>,
    starts: usize,
    /// When it was started last.
    started: Option<Instant>,
    /// What the program was started for; other crates need another start.
    sources: Option<Sources>,
}

struct Running {
    server: Server,
    uri: String,
    /// The text it was shown last, and how many it was shown.
    shown: Option<String>,
    version: u64,
}

/// A program that keeps dying is left alone.
const MOST_STARTS: usize = 2;

/// A question about a place in a cell, on its way.
pub(super) struct Asking<'a> {
    running: &'a Running,
    place: Value,
    deadline: Instant,
}

/// How long one waits.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// For the program to be ready.
    pub(super) ready_by: Instant,
    /// For its answers.
    pub(super) answered_by: Instant,
}

impl Analyzer {
    /// Shows rust-analyzer the cell, so that it can be asked about the character at `at`; `None` if it is not there,
    /// or not ready in time.
    pub(super) fn show(
        &mut self,
        scene: &Scene,
        cell: &str,
        at: usize,
        patience: Patience,
    ) -> Option<Asking<'_>> {
        let sources = scene.sources.as_ref()?;
        if self.sources.as_ref() != Some(sources) {
            *self = Analyzer { sources: Some(sources.clone()), ..Analyzer::default() };
        }
        let shadow = Shadow::new(scene, cell);
        let (line, column) = shadow.position(cell, at);
        let position = json!({ "line": line, "character": column });
        let alive = self.running.as_ref().is_some_and(|running| running.server.phase() != Phase::Gone);
        if !alive && self.starts < MOST_STARTS {
            self.starts += 1;
            self.started = Some(Instant::now());
            self.running = start(sources, &shadow, &position);
        }
        let running = self.running.as_mut()?;
        if !running.server.wait_ready(patience.ready_by) {
            return None;
        }
        running.show(shadow.text);
        let place = json!({ "textDocument": { "uri": running.uri }, "position": position });
        Some(Asking { running, place, deadline: patience.answered_by })
    }

    /// The process, while there is one.
    pub(super) fn process(&self) -> Option<u32> {
        let running = self.running.as_ref().filter(|running| running.server.phase() != Phase::Gone);
        running.map(|running| running.server.id())
    }

    /// Waits until the program has all sources, if it was started; whether it has.
    pub(super) fn wait_ready(&self, deadline: Instant) -> bool {
        self.running.as_ref().is_some_and(|running| running.server.wait_ready(deadline))
    }

    /// When the program was started, if it was.
    pub(super) fn started(&self) -> Option<Instant> {
        self.started
    }

    /// Whether the program has all sources.
    pub(super) fn is_ready(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.server.phase() == Phase::Ready)
    }
}

impl Running {
    fn show(&mut self, text: String) {
        if self.shown.as_ref() == Some(&text) {
            return;
        }
        self.version += 1;
        let params = json!({
            "textDocument": { "uri": self.uri, "version": self.version },
            "contentChanges": [{ "text": text }],
        });
        self.server.notifier().notify("textDocument/didChange", params);
        self.shown = Some(text);
    }
}

impl Asking<'_> {
    /// What the server answers to a request about this place.
    pub(super) fn ask(&self, method: &str) -> Option<Value> {
        self.running.server.ask(method, &self.place, self.deadline)
    }

    /// What it answers about another place, for instance one that it has named itself.
    pub(super) fn ask_at(&self, method: &str, uri: &str, position: &Value) -> Option<Value> {
        let place = json!({ "textDocument": { "uri": uri }, "position": position });
        self.running.server.ask(method, &place, self.deadline)
    }

    /// The text of a file that the server names.
    pub(super) fn read(&self, uri: &str) -> Option<String> {
        if uri == self.running.uri {
            return self.running.shown.clone();
        }
        std::fs::read_to_string(path_of(uri)?).ok()
    }
}

/// Where the program is: beside the compiler, whose sources it must understand, else on `PATH`.
pub fn program(rustc: &Path) -> Option<PathBuf> {
    let beside = rustc.with_file_name("rust-analyzer");
    if paths::is_executable(&beside) {
        return Some(beside);
    }
    // rustup's stand-in is there also when the component is not.
    let works = |program: &PathBuf| {
        let version = Command::new(program).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    };
    paths::program("rust-analyzer").filter(works)
}

fn start(sources: &Sources, shadow: &Shadow, position: &Value) -> Option<Running> {
    let program = program(&sources.rustc)?;
    let folder = sources.project.parent()?;
    let description = std::fs::read_to_string(&sources.project).ok()?;
    let description = project::at_place(&description, &sources.workspace);
    // The file exists in rust-analyzer's memory only.
    let root = folder.join("notebook.rs");
    let uri = uri_of(&root);
    let project = project::with_session(serde_json::from_str(&description).ok()?, &root);
    let mut command = Command::new(program);
    command
        .current_dir(folder)
        .env("RUSTC", &sources.rustc)
        .env("CARGO", sources.rustc.with_file_name("cargo"));
    let document = json!({ "uri": uri, "languageId": "rust", "version": 1, "text": shadow.text });
    let asked = json!({ "textDocument": { "uri": uri }, "position": position });
    let mut document = Some(document);
    let warm_up = move |server: &super::lsp::Notifier| {
        if let Some(document) = document.take() {
            server.notify("textDocument/didOpen", json!({ "textDocument": document }));
        }
        server.prepare("textDocument/completion", &asked);
    };
    let server = Server::start(command, initialize(&uri_of(folder), &project), warm_up).ok()?;
    Some(Running { server, uri, shown: Some(shadow.text.clone()), version: 1 })
}

/// The first request. The settings keep the program light: it reads sources when they are asked about, runs no
/// compiler and no procedural macro, and reports no errors.
fn initialize(folder: &str, project: &Value) -> Value {
    json!({
        "processId": std::process::id(),
        "rootUri": folder,
        "capabilities": {
            // Columns are characters, as Jupyter counts.
            "general": { "positionEncodings": ["utf-32"] },
            // Files are watched by the client, which is to say by nobody.
            "workspace": { "didChangeWatchedFiles": { "dynamicRegistration": true } },
            "textDocument": {
                "completion": { "completionItem": {
                    "labelDetailsSupport": true,
                    // Without it nothing is offered that would need a `use`.
                    "resolveSupport": { "properties": ["additionalTextEdits", "documentation"] },
                }},
                "hover": { "contentFormat": ["markdown"] },
                "definition": { "linkSupport": true },
                "typeDefinition": { "linkSupport": true },
            },
            "experimental": { "serverStatusNotification": true },
        },
        "initializationOptions": {
            "linkedProjects": [project],
            "cachePriming": { "enable": false },
            "checkOnSave": false,
            "procMacro": { "enable": false },
            "cargo": { "buildScripts": { "enable": false } },
            "diagnostics": { "enable": false },
            "files": { "watcher": "client" },
            "lru": { "capacity": 64 },
            "numThreads": 2,
            "completion": {
                "postfix": { "enable": false },
                "callable": { "snippets": "none" },
                "fullFunctionSignatures": { "enable": true },
            },
            "hover": {
                "memoryLayout": { "enable": false },
                "dropGlue": { "enable": false },
                "actions": { "enable": false },
            },
        },
    })
}

fn uri_of(path: &Path) -> String {
    let mut uri = "file://".to_string();
    for byte in path.to_string_lossy().bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                uri.push(byte.into())
            }
            byte => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

fn path_of(uri: &str) -> Option<PathBuf> {
    let mut bytes = Vec::new();
    let mut rest = uri.strip_prefix("file://")?.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    Some(String::from_utf8(bytes).ok()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_as_uris() {
        let path = Path::new("/a b/größe%20+/x.rs");
        assert_eq!(uri_of(path), "file:///a%20b/gr%C3%B6%C3%9Fe%2520%2B/x.rs");
        assert_eq!(path_of(&uri_of(path)).as_deref(), Some(path));
    }
}
