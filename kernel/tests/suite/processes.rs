//! However a kernel ends, no process of it stays: not its worker, not what cells have started.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use onelens_kernel::jupyter::client::{Client, FromKernel};
use onelens_kernel::jupyter::connection::Connection;
use serde_json::json;

use crate::portable;

const SOON: Duration = Duration::from_secs(120);

/// A kernel under a shell that stands for the Jupyter server. Everything it starts inherits its mark.
struct Marked {
    server: Child,
    client: Client,
    mark: String,
    _folder: tempfile::TempDir,
}

impl Marked {
    fn start(name: &str) -> Marked {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.json");
        Connection::any_ports().unwrap().write(&file).unwrap();
        let mark = format!("ONELENS_TEST_MARK={name}-{}", std::process::id());
        let script = format!(
            "JPY_PARENT_PID=$$ '{}' kernel --no-history '{}' & wait",
            env!("CARGO_BIN_EXE_onelens"),
            file.display()
        );
        let (key, value) = mark.split_once('=').unwrap();
        let server = Command::new("sh")
            .args(["-c", &script])
            .env(key, value)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let since = Instant::now();
        let connection = loop {
            match Connection::read(&file) {
                Ok(connection) if connection.is_bound() => break connection,
                _ if since.elapsed() > SOON => panic!("the kernel does not start"),
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let client = Client::connect(&connection, SOON).unwrap();
        client.wait_ready(SOON).unwrap();
        let marked = Marked { server, client, mark, _folder: folder };
        // A program in the background, one in a session of its own, and a cell that runs on. To end, that cell is
        // killed first, and then POSIX shows no more whose program the second one was.
        let programs = if portable() && name != "kernel" { 2 } else { 3 };
        marked.run("std::process::Command::new(\"sleep\").arg(\"1000\").spawn()?;", true);
        if programs == 3 {
            marked.run("std::process::Command::new(\"setsid\").args([\"sleep\", \"1000\"]).spawn()?;", true);
        }
        marked.run("std::process::Command::new(\"sleep\").arg(\"1000\").status()?;", false);
        let since = Instant::now();
        while marked.of("sleep").len() < programs {
            assert!(since.elapsed() < SOON, "the cells start nothing: {:?}", marked.alive());
            std::thread::sleep(Duration::from_millis(10));
        }
        marked
    }

    fn run(&self, code: &str, to_its_end: bool) {
        let id = self.client.execute(code);
        let mut ended = !to_its_end;
        while !ended {
            if let FromKernel::Shell(m) = self.client.next(SOON).expect("the kernel is silent") {
                ended = m.parent_id() == id;
                assert_eq!(m.content["status"], "ok", "{}", m.content);
            }
        }
    }

    /// Process number and command line of everything that carries the mark, the shell apart.
    fn alive(&self) -> Vec<(u32, String)> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let read = |name: &str| {
                String::from_utf8_lossy(&fs::read(entry.path().join(name)).unwrap_or_default()).into_owned()
            };
            if pid != self.server.id() && read("environ").split('\0').any(|one| one == self.mark) {
                found.push((pid, read("cmdline").replace('\0', " ")));
            }
        }
        found
    }

    fn of(&self, program: &str) -> Vec<u32> {
        self.alive().into_iter().filter(|(_, line)| line.contains(program)).map(|(pid, _)| pid).collect()
    }

    fn all_end(&mut self) {
        let since = Instant::now();
        while !self.alive().is_empty() {
            assert!(since.elapsed() < Duration::from_secs(20), "these stay: {:?}", self.alive());
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
}

#[test]
fn after_a_shutdown_no_process_stays() {
    let mut marked = Marked::start("shutdown");
    assert!(Path::new("/proc").join(marked.of(" kernel ")[0].to_string()).exists());
    marked.client.control("shutdown_request", json!({ "restart": true }));
    marked.all_end();
}

#[test]
fn after_the_server_was_killed_no_process_stays() {
    let mut marked = Marked::start("server");
    kill(marked.server.id());
    let _ = marked.server.wait();
    marked.all_end();
}

#[test]
fn after_the_kernel_was_killed_no_process_stays() {
    let mut marked = Marked::start("kernel");
    kill(marked.of(" kernel ")[0]);
    marked.all_end();
}
