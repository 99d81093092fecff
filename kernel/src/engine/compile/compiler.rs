//! One call of rustc: a cell's source in, a shared library or diagnostics out.

use super::ahead::{self, HEAD, INPUT, Waiting};
use super::generate::Generated;
use super::linker;
use crate::base::failure::Failure;
use crate::base::os;
use crate::engine::parse::types::CRATE;
use crate::engine::worker::interrupt::Control;
use crate::image::extension::Extension;
use crate::image::{Crate, Image};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::env::consts::DLL_SUFFIX;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// How the cells of one session are compiled.
pub(in crate::engine) struct Compiler {
    image: Image,
    folder: PathBuf,
    arguments: Vec<String>,
    /// Links cells; without it rustc does by its own means.
    linker: Option<PathBuf>,
    /// The crates that `:dep` brought: as code names them, and what their libraries are called.
    crates: Vec<(String, String)>,
    /// Where the metadata of all crates is.
    dependency_folders: Vec<PathBuf>,
    /// Where the libraries are that cells link besides the image.
    library_folders: Vec<String>,
    control: Arc<Control>,
    /// For the next cell.
    waiting: RefCell<Option<Waiting>>,
    /// What rustc said about the last cell that did not compile.
    last_errors: RefCell<Vec<Value>>,
    /// The tokio that `:dep` brought has no runtime.
    without_runtime: Cell<bool>,
    /// Variables of the environment that `:env` has set.
    pub(in crate::engine) environment: BTreeMap<String, String>,
    links: String,
    /// `-C opt-level`.
    pub(in crate::engine) opt_level: String,
    /// Counts redefinitions of types. It is part of the identity of a cell's crate, so that `TypeId`s, by which
    /// `dyn Any` decides, differ between the definitions before and after.
    pub(in crate::engine) generation: usize,
}

/// The crate of a cell that links the library of items, which has the name that cells have else.
const LINKING: &str = "cell";

/// How rustc's errors about a linker begin: it failed, it is not there, or cannot be run, as while a process that is just
/// starting still has it open.
const OF_LINKING: [&str; 3] = ["linking with", "linker `", "could not exec the linker"];

/// The message for a compiler that gave none.
const ENDED: &str = "the Rust compiler ended with";

/// The name of a cell's source, in diagnostics and in the locations of panics.
pub(in crate::engine) fn cell_file(number: usize) -> String {
    format!("cell{number}.rs")
}

fn cell_library(number: usize) -> String {
    format!("cell{number}{DLL_SUFFIX}")
}

/// A cell that runs meanwhile comes first.
#[allow(unsafe_code)]
fn behind_others(child: &Child) {
    // SAFETY: the call touches no memory; the child has not been waited for, so the number is its own.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, child.id(), 10) };
}

/// The crates of which there is one; of two with one name, a cell could name neither.
fn nameable(crates: &[Crate]) -> impl Iterator<Item = &Crate> {
    crates.iter().filter(|one| crates.iter().filter(|other| other.name == one.name).count() == 1)
}

/// Arguments after which a linked library looks for others in `folder`. A compiler's driver wants them worded otherwise
/// than a linker.
fn finds_libraries_in(folder: &str, linker: Option<&Path>) -> Vec<String> {
    match linker {
        Some(_) => vec!["-Clink-arg=-rpath".into(), format!("-Clink-arg={folder}")],
        None => vec![os::searching_in(folder)],
    }
}

/// What rustc answered.
pub(super) enum Compiled {
    Library { path: PathBuf, warnings: Vec<Value> },
    Errors(Vec<Value>),
    Interrupted,
}

impl Compiler {
    pub(in crate::engine) fn new(image: &Image, folder: PathBuf, control: Arc<Control>) -> Self {
        let mut arguments: Vec<String> = [
            "--edition=2024",
            "--error-format=json",
            "--json=diagnostic-short,artifacts",
            "-Cdebuginfo=0",
            "-Cprefer-dynamic",
            // At every level of optimisation: a wrong number is worse than a slow one.
            "-Coverflow-checks=on",
        ]
        .map(str::to_string)
        .into();
        arguments.push(format!("--extern=onelens_image={}", image.library().display()));
        for one in nameable(image.crates()) {
            arguments.push(format!("--extern={}={}", one.name, image.deps().join(&one.file).display()));
        }
        arguments.push(format!("-Ldependency={}", image.deps().display()));
        let linker = linker::install(&folder, &image.library());
        // What the worker has loaded is known to it, but rustc's own means make it searched for again.
        let searched = [Some(image.library()), image.std_library().ok()].into_iter().flatten();
        let searched = searched.filter_map(|library| Some(library.parent()?.display().to_string()));
        Compiler {
            library_folders: if linker.is_none() { searched.collect() } else { Vec::new() },
            linker,
            image: image.clone(),
            folder,
            arguments,
            crates: Vec::new(),
            dependency_folders: vec![image.deps()],
            control,
            waiting: RefCell::default(),
            last_errors: RefCell::default(),
            without_runtime: Cell::new(false),
            environment: BTreeMap::new(),
            links: String::new(),
            opt_level: "0".into(),
            generation: 0,
        }
    }

    /// For a folder that was removed and made anew.
    pub(in crate::engine) fn folder_is_new(&mut self) {
        self.waiting.take();
        self.linker = linker::install(&self.folder, &self.image.library());
    }

    /// Further crates for all that is compiled from now on.
    pub(in crate::engine) fn extend(&mut self, extension: &Extension) {
        let library = extension.library();
        self.without_runtime.set(false);
        self.links.push_str(&format!("extern crate {};\n", extension.name));
        self.arguments.push(format!("--extern={}={}", extension.name, library.display()));
        self.arguments.push(format!("-Ldependency={}", extension.deps().display()));
        self.dependency_folders.push(extension.deps());
        for (name, file) in &extension.crates {
            let library = file.strip_prefix("lib").and_then(|file| file.rsplit_once('-'));
            self.crates.retain(|(known, _)| known != name);
            self.crates
                .push((name.clone(), library.map_or_else(|| name.clone(), |(library, _)| library.into())));
            let folder = self.dependency_folders.iter().rev().find(|folder| folder.join(file).exists());
            let path = folder.unwrap_or(&extension.deps()).join(file);
            // In the place of the image's crate of that name, if it has one.
            self.arguments.retain(|argument| !argument.starts_with(&format!("--extern={name}=")));
            self.arguments.push(format!("--extern={name}={}", path.display()));
        }
        self.library_folders.push(extension.folder().display().to_string());
    }

    /// The names of libraries of which there are several, as of two versions of a crate.
    pub(in crate::engine) fn ambiguous_crates(&self) -> BTreeSet<String> {
        let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let folders = self.dependency_folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok());
        for file in folders.flatten().flatten() {
            let file = file.file_name().to_string_lossy().into_owned();
            let stem = file.split('.').next().and_then(|stem| stem.strip_prefix("lib"));
            if let Some((name, hash)) = stem.and_then(|stem| stem.rsplit_once('-')) {
                seen.entry(name.into()).or_default().insert(hash.into());
            }
        }
        seen.into_iter().filter(|(_, hashes)| hashes.len() > 1).map(|(name, _)| name).collect()
    }

    /// Takes note of what rustc said about a cell that does not compile.
    pub(super) fn failed(&self, errors: &[Value]) {
        *self.last_errors.borrow_mut() = errors.to_vec();
    }

    /// What rustc said about the last cell that did not compile: one JSON object a line.
    pub(in crate::engine) fn last_errors(&self) -> String {
        let lines: Vec<String> = self.last_errors.borrow().iter().map(Value::to_string).collect();
        lines.join("\n")
    }

    /// The declarations by which a crate links the libraries of [`Compiler::extend`].
    pub(in crate::engine) fn links(&self) -> &str {
        &self.links
    }

    /// Compiles a cell, which may link a library of items. The source has the name [`cell_file`] in locations of
    /// panics.
    pub(super) fn compile(
        &self,
        number: usize,
        generated: &Generated,
        items: Option<&Path>,
    ) -> Result<Compiled, Failure> {
        let source = &generated.source.code;
        let linker = self.linker.as_deref();
        let mut ran = self.run_waiting(number, source, generated.head, items)?;
        if ran.is_none() {
            ran = self.run(self.command(number, INPUT, items, linker), source)?;
        }
        let is_of_linking = |message: &Value| {
            message["message"]
                .as_str()
                .is_some_and(|text| OF_LINKING.iter().any(|words| text.starts_with(words)))
        };
        if matches!(&ran, Some((false, messages)) if messages.iter().any(is_of_linking)) && linker.is_some() {
            ran = self.run(self.command(number, INPUT, items, None), source)?;
        }
        let Some((ok, messages)) = ran else { return Ok(Compiled::Interrupted) };
        let path = self.folder.join(cell_library(number));
        let is_warning = |message: &Value| message["level"] == "warning";
        if ok {
            return Ok(Compiled::Library {
                path,
                warnings: messages.into_iter().filter(is_warning).collect(),
            });
        }
        let _ = std::fs::remove_file(&path);
        self.check_room(source)?;
        Ok(Compiled::Errors(messages.into_iter().filter(|m| !is_warning(m)).collect()))
    }

    /// A compiler that has no room to write does not say so in words for a notebook.
    fn check_room(&self, source: &str) -> Result<(), Failure> {
        let file = self.folder.join("room");
        let written = std::fs::write(&file, source);
        let _ = std::fs::remove_file(&file);
        written.map_err(|error| {
            Failure::new(
                format!("cannot write to {}: {error}", self.folder.display()),
                "make room there, or set TMPDIR to another folder and restart the kernel",
            )
        })
    }

    /// Starts a compiler for a cell that is to come, if it is compiled as all are.
    pub(in crate::engine) fn get_ready(&self, number: usize, head: &str, items: Option<&Path>) {
        let command = self.command(number, HEAD, items, self.linker.as_deref());
        let mut waiting = self.waiting.borrow_mut();
        if waiting.as_ref().is_none_or(|waiting| !waiting.is(&command, head)) {
            // The old one ends before its file is another.
            *waiting = None;
            *waiting = Waiting::start(command, &self.folder, head);
        }
    }

    /// rustc for a cell whose source comes from its standard input, by itself or included by `file`.
    fn command(&self, number: usize, file: &str, items: Option<&Path>, linker: Option<&Path>) -> Command {
        let mut command = self.rustc(if items.is_some() { LINKING } else { CRATE }, "cdylib", linker);
        command.arg(file).arg(format!("--remap-path-prefix={INPUT}={}", cell_file(number)));
        command.arg("-o").arg(self.folder.join(cell_library(number))).stdin(Stdio::piped());
        if let Some(items) = items {
            command.arg(format!("--extern={CRATE}={}", items.display()));
            command.args(finds_libraries_in(os::BESIDE, linker));
        }
        command
    }

    /// Begins to compile a library of items; `None` if that cannot be.
    pub(super) fn spawn_library(&self, file: &str, source: &str) -> Option<(Child, PathBuf)> {
        let path = self.folder.join(format!("lib{CRATE}_{}{DLL_SUFFIX}", file.trim_end_matches(".rs")));
        std::fs::write(self.folder.join(file), source).ok()?;
        let mut command = self.rustc(CRATE, "dylib", None);
        command.arg("--cap-lints=allow").arg(file).arg("-o").arg(&path).stderr(Stdio::null());
        let child = command.spawn().ok()?;
        behind_others(&child);
        Some((child, path))
    }

    /// Whether cells can run in tokio.
    pub(super) fn has_tokio(&self) -> bool {
        !self.without_runtime.get() && self.arguments.iter().any(|one| one.starts_with("--extern=tokio="))
    }

    /// Cells cannot, as this tokio was built without what it takes.
    pub(super) fn forget_tokio(&self) {
        self.without_runtime.set(true);
    }

    /// Everything besides the source that a compiled crate depends on.
    pub(super) fn settings(&self) -> String {
        format!("{} {} {:?}", self.opt_level, self.generation, self.arguments)
    }

    /// What another thread needs to try out paths.
    pub(in crate::engine) fn prober(&self) -> Prober {
        let (rustc, folder) = (self.image.rustc().to_path_buf(), self.folder.clone());
        Prober { rustc, folder, arguments: self.arguments.clone(), crates: self.crates.clone() }
    }

    fn rustc(&self, name: &str, kind: &str, linker: Option<&Path>) -> Command {
        let mut command = Command::new(self.image.rustc());
        if let Some(linker) = linker {
            command.arg(format!("-Clinker={}", linker.display())).arg("-Clinker-flavor=ld");
        }
        command
            .args(&self.arguments)
            .args(self.library_folders.iter().flat_map(|folder| finds_libraries_in(folder, linker)))
            .arg(format!("--crate-name={name}"))
            .arg(format!("--crate-type={kind}"))
            .arg(format!("-Copt-level={}", self.opt_level))
            .arg(format!("-Cmetadata=generation-{}", self.generation))
            .envs(&self.environment)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// What the compiler that waits says of a cell; `None` if there is none for it, or if it may say otherwise of the
    /// cell by itself.
    fn run_waiting(
        &self,
        number: usize,
        source: &str,
        head: usize,
        items: Option<&Path>,
    ) -> Result<Option<Said>, Failure> {
        let command = self.command(number, HEAD, items, self.linker.as_deref());
        let waiting = self.waiting.borrow_mut().take_if(|waiting| waiting.is(&command, &source[..head]));
        let Some(child) = waiting.and_then(Waiting::into_child) else { return Ok(None) };
        let said = self.listen(child, &ahead::without_head(source, head))?;
        // What has waited for long may have been ended by others just now.
        let may_be_otherwise = |message: &Value| {
            ahead::is_of_inclusion(message)
                || message["message"].as_str().is_some_and(|text| text.starts_with(ENDED))
        };
        Ok(said.filter(|(ok, messages)| *ok || !messages.iter().any(may_be_otherwise)))
    }

    /// What rustc says of `source`; `None` if it was interrupted.
    fn run(&self, mut command: Command, source: &str) -> Result<Option<Said>, Failure> {
        if self.control.is_interrupted() {
            return Ok(None);
        }
        let child = command.spawn().map_err(|e| {
            Failure::new(
                format!("the Rust compiler {} does not start: {e}", self.image.rustc().display()),
                "restart the kernel, which finds the compiler anew",
            )
        })?;
        self.listen(child, source)
    }

    /// Gives a compiler its source and collects what it says, until a library is there: then it ends by itself.
    fn listen(&self, mut child: Child, source: &str) -> Result<Option<Said>, Failure> {
        self.control.compiling(Some(child.id()));
        let heard = hear(&mut child, source);
        self.control.compiling(None);
        let linked = matches!(heard, Ok((true, ..)));
        let status = (!linked).then(|| child.wait());
        if self.control.is_interrupted() {
            return Ok(None);
        }
        let failed = |e| Failure::of(format!("the Rust compiler cannot be read: {e}"));
        let (_, mut messages, text) = heard.map_err(failed)?;
        let Some(status) = status else {
            std::thread::spawn(move || child.wait_with_output());
            return Ok(Some((true, messages)));
        };
        let status = status.map_err(failed)?;
        if !status.success() && messages.is_empty() {
            messages.push(serde_json::json!({
                "level": "error", "code": null, "spans": [], "children": [],
                "message": format!("{ENDED} {status}: {}", text.trim()),
            }));
        }
        Ok(Some((status.success(), messages)))
    }
}

/// Whether rustc has made a library, and its messages.
type Said = (bool, Vec<Value>);

/// Reads what rustc says until it has linked a library: whether it has, its messages, and the rest.
fn hear(child: &mut Child, source: &str) -> std::io::Result<(bool, Vec<Value>, String)> {
    if let Some(mut input) = child.stdin.take() {
        // One that ends before it has read everything says why.
        let _ = input.write_all(source.as_bytes());
    }
    let (mut messages, mut text, mut line) = (Vec::new(), String::new(), Vec::new());
    let Some(said) = &mut child.stderr else { return Ok((false, messages, text)) };
    let mut said = BufReader::new(said);
    while said.read_until(b'\n', &mut line)? > 0 {
        let spoken = String::from_utf8_lossy(&line);
        match serde_json::from_str::<Value>(&spoken) {
            Ok(message) if message["emit"] == "link" => return Ok((true, messages, text)),
            Ok(message) => messages.push(message),
            Err(_) => text.push_str(&spoken),
        }
        line.clear();
    }
    Ok((false, messages, text))
}

/// Compiles files of `use` lines.
pub(in crate::engine) struct Prober {
    rustc: PathBuf,
    folder: PathBuf,
    arguments: Vec<String>,
    crates: Vec<(String, String)>,
}

impl Prober {
    /// The crates that `:dep` brought: as code names them, and what their libraries are called.
    pub(super) fn crates(&self) -> &[(String, String)] {
        &self.crates
    }

    /// The lines of `source` with errors; `None` if rustc did not run, or not to its end.
    pub(in crate::engine) fn lines_with_errors(&self, source: &str) -> Option<BTreeSet<usize>> {
        Some(self.errors(source)?.into_iter().map(|(line, _)| line).collect())
    }

    /// The errors of `source`, each with the lines that it is about; `None` if rustc did not run, or not to its end.
    pub(super) fn errors(&self, source: &str) -> Option<Vec<(usize, Value)>> {
        std::fs::write(self.folder.join("probe.rs"), source).ok()?;
        let output = Command::new(&self.rustc)
            .args(&self.arguments)
            .args(["--crate-type=cdylib", "--emit=metadata", "probe.rs", "-o", "probe.rmeta"])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()
            .ok()?;
        let errors = messages(&String::from_utf8_lossy(&output.stderr)).into_iter();
        let errors = errors.filter(|message| message["level"] == "error");
        let with_lines = errors.flat_map(|message| {
            let spans = message["spans"].as_array().into_iter().flatten();
            let primary = spans.filter(|span| span["is_primary"] == true);
            let lines: Vec<u64> = primary.filter_map(|span| span["line_start"].as_u64()).collect();
            lines.into_iter().map(move |line| (line as usize, message.clone()))
        });
        let with_lines: Vec<_> = with_lines.collect();
        // One that was ended from outside, or could not write, has found no fault in any line, or not in all.
        let found_faults = output.status.code() == Some(1) && !with_lines.is_empty();
        (output.status.success() || found_faults).then_some(with_lines)
    }
}

fn messages(stderr: &str) -> Vec<Value> {
    stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_that_did_not_come_to_its_end_says_nothing_of_any_line() {
        let folder = tempfile::tempdir().unwrap();
        let says = |script: &str| {
            let (rustc, folder) = (PathBuf::from("sh"), folder.path().to_path_buf());
            let arguments = ["-c", script].map(String::from).into();
            Prober { rustc, folder, arguments, crates: Vec::new() }.lines_with_errors("use a::B;\n")
        };
        let error = |spans: &str| format!(r#"echo '{{"level":"error","spans":[{spans}]}}' >&2"#);
        let of_a_line = error(r#"{"is_primary":true,"line_start":3}"#);
        assert_eq!(says("exit 0"), Some(BTreeSet::new()));
        assert_eq!(says(&format!("{of_a_line}; exit 1")), Some(BTreeSet::from([3])));
        assert_eq!(says("kill -9 $$"), None);
        assert_eq!(says(&format!("{of_a_line}; exit 101")), None, "it broke down on the way");
        assert_eq!(says(&format!("{}; exit 1", error(""))), None, "as where it cannot write");
    }
}
