//! One call of rustc: a cell's source in, a shared library or diagnostics out.

use super::interrupt::Control;
use super::types::CRATE;
use crate::image::Image;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// How the cells of one session are compiled.
pub(super) struct Compiler {
    image: Image,
    folder: PathBuf,
    arguments: Vec<String>,
    control: Arc<Control>,
    /// `-C opt-level`.
    pub(super) opt_level: String,
    /// Counts redefinitions of types. It is part of the identity of a cell's crate, so that `TypeId`s, by which
    /// `dyn Any` decides, differ between the definitions before and after.
    pub(super) generation: usize,
}

/// What rustc answered.
pub(super) enum Compiled {
    Library { path: PathBuf, warnings: Vec<Value> },
    Errors(Vec<Value>),
    Interrupted,
}

impl Compiler {
    pub(super) fn new(image: &Image, folder: PathBuf, control: Arc<Control>) -> Self {
        let mut arguments: Vec<String> = [
            "--edition=2024",
            "--crate-type=cdylib",
            "--error-format=json",
            "--json=diagnostic-short",
            "-Cdebuginfo=0",
            "-Cprefer-dynamic",
        ]
        .map(str::to_string)
        .into();
        arguments.push(format!("--crate-name={CRATE}"));
        arguments.push(format!("--extern=onelens_image={}", image.library().display()));
        for one in image.crates() {
            arguments.push(format!("--extern={}={}", one.name, image.deps().join(&one.file).display()));
        }
        arguments.push(format!("-Ldependency={}", image.deps().display()));
        Compiler { image: image.clone(), folder, arguments, control, opt_level: "0".into(), generation: 0 }
    }

    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    /// Compiles a cell. The source has the name `cell.rs` in locations of panics.
    pub(super) fn compile(&self, number: usize, source: &str) -> Result<Compiled, String> {
        let path = self.folder.join(format!("cell{number}.so"));
        std::fs::write(self.folder.join("cell.rs"), source).map_err(|e| cannot_write(&self.folder, &e))?;
        let mut command = self.rustc();
        command.arg("cell.rs").arg("-o").arg(&path);
        let Some((ok, messages)) = self.run(command)? else { return Ok(Compiled::Interrupted) };
        let is_warning = |message: &Value| message["level"] == "warning";
        if ok {
            return Ok(Compiled::Library {
                path,
                warnings: messages.into_iter().filter(is_warning).collect(),
            });
        }
        let _ = std::fs::remove_file(&path);
        Ok(Compiled::Errors(messages.into_iter().filter(|m| !is_warning(m)).collect()))
    }

    /// What another thread needs to try out paths.
    pub(super) fn prober(&self) -> Prober {
        let (rustc, folder) = (self.image.rustc().to_path_buf(), self.folder.clone());
        Prober { rustc, folder, arguments: self.arguments.clone() }
    }

    fn rustc(&self) -> Command {
        let mut command = Command::new(self.image.rustc());
        command
            .args(&self.arguments)
            .arg(format!("-Copt-level={}", self.opt_level))
            .arg(format!("-Cmetadata=generation-{}", self.generation))
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, mut command: Command) -> Result<Option<(bool, Vec<Value>)>, String> {
        let child = command.spawn().map_err(|e| {
            format!(
                "the Rust compiler {} does not start: {e}\nhelp: restart the kernel, which finds the compiler anew",
                self.image.rustc().display()
            )
        })?;
        self.control.compiling(Some(child.id()));
        let output = child.wait_with_output();
        self.control.compiling(None);
        if self.control.is_interrupted() {
            return Ok(None);
        }
        let output = output.map_err(|e| format!("the Rust compiler cannot be read: {e}"))?;
        let text = String::from_utf8_lossy(&output.stderr);
        let mut messages: Vec<Value> =
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if !output.status.success() && messages.is_empty() {
            messages.push(serde_json::json!({
                "level": "error", "code": null, "spans": [], "children": [],
                "message": format!("the Rust compiler ended with {}: {}", output.status, text.trim()),
            }));
        }
        Ok(Some((output.status.success(), messages)))
    }
}

/// Compiles files of `use` lines.
pub(super) struct Prober {
    rustc: PathBuf,
    folder: PathBuf,
    arguments: Vec<String>,
}

impl Prober {
    /// The lines of `source` with errors; `None` if rustc did not run.
    pub(super) fn lines_with_errors(&self, source: &str) -> Option<BTreeSet<usize>> {
        std::fs::write(self.folder.join("probe.rs"), source).ok()?;
        let output = Command::new(&self.rustc)
            .args(&self.arguments)
            .args(["--emit=metadata", "probe.rs", "-o", "probe.rmeta"])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()
            .ok()?;
        let messages = messages(&String::from_utf8_lossy(&output.stderr));
        let spans = messages
            .iter()
            .filter(|message| message["level"] == "error")
            .flat_map(|message| message["spans"].as_array().into_iter().flatten())
            .filter(|span| span["is_primary"] == true);
        Some(spans.filter_map(|span| span["line_start"].as_u64()).map(|line| line as usize).collect())
    }
}

fn messages(stderr: &str) -> Vec<Value> {
    stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn cannot_write(folder: &Path, error: &std::io::Error) -> String {
    format!(
        "cannot write to {}: {error}\nhelp: make room there, or set TMPDIR to another folder and restart the kernel",
        folder.display()
    )
}
