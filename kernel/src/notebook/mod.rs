//! Notebook files: read with care, changed only where cells were run, written as Jupyter writes them.
//!
//! A notebook stays a JSON value in the order of the file, so that whatever is not understood here survives.

pub mod convert;
pub mod page;
pub mod script;

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::base::environment;
use crate::base::failure::Failure;

/// The name of the kernelspec.
pub const KERNEL_NAME: &str = "onelens";
/// The name that people see.
pub const DISPLAY_NAME: &str = "Rust (onelens)";

/// A notebook of format 4 whose cells are Rust.
#[derive(Clone, PartialEq, Debug)]
pub struct Notebook {
    root: Map<String, Value>,
    /// Whether every object of the file had its keys in order, as in files that Jupyter wrote.
    is_sorted: bool,
}

/// A cell, as far as running and showing it needs.
pub struct Cell<'a> {
    /// `code`, `markdown` or `raw`.
    pub kind: &'a str,
    /// The text of the cell.
    pub source: String,
    /// All of it.
    pub json: &'a Value,
}

impl Cell<'_> {
    /// Whether the cell is code with something in it.
    pub fn is_runnable(&self) -> bool {
        self.kind == "code" && !self.source.trim().is_empty()
    }

    /// Whether the cell has this tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.json["metadata"]["tags"].as_array().is_some_and(|tags| tags.iter().any(|t| t == tag))
    }
}

impl Notebook {
    /// Reads a notebook file.
    pub fn read(path: &Path) -> Result<Notebook, Failure> {
        let shown = path.display();
        let bytes = fs::read(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Failure::bad_input(
                format!("there is no file {shown}"),
                "give the path of a notebook, for instance notebooks/01_one_lens.ipynb",
            ),
            io::ErrorKind::IsADirectory => Failure::bad_input(
                format!("{shown} is a folder"),
                "give one notebook; a shell loop runs several",
            ),
            _ => Failure::bad_input(format!("cannot read {shown}: {e}"), "check the permissions of the file"),
        })?;
        let text = String::from_utf8(bytes).map_err(|e| {
            Failure::bad_input(
                format!("{shown} is not a notebook: byte {} is not UTF-8", e.utf8_error().valid_up_to()),
                "a notebook is a JSON text; check that the path is right",
            )
        })?;
        Notebook::parse(&text, &shown.to_string())
    }

    /// Reads the text of a notebook; `name` is for messages.
    pub fn parse(text: &str, name: &str) -> Result<Notebook, Failure> {
        let restore =
            "restore the file, for instance with `git checkout`, or from the folder .ipynb_checkpoints";
        let root: Value = serde_json::from_str(text).map_err(|e| {
            if text.trim().is_empty() {
                Failure::bad_input(format!("{name} is empty"), restore)
            } else if e.is_eof() {
                Failure::bad_input(
                    format!("{name} is cut off: it ends in line {} inside a value", e.line()),
                    restore,
                )
            } else {
                Failure::bad_input(format!("{name} is not a notebook: {e}"), restore)
            }
        })?;
        let not_a_notebook =
            |what: &str| Failure::bad_input(format!("{name} is not a notebook: {what}"), restore);
        let is_sorted = is_sorted(&root);
        let Value::Object(root) = root else { return Err(not_a_notebook("its JSON is not an object")) };
        match root.get("nbformat").and_then(Value::as_u64) {
            Some(4) => {}
            Some(n) if n < 4 => {
                return Err(Failure::bad_input(
                    format!("{name} has notebook format {n}; format 4 is needed"),
                    "open and save it in JupyterLab, or: jupyter nbconvert --to notebook --nbformat 4",
                ));
            }
            Some(n) => {
                return Err(Failure::bad_input(
                    format!("{name} has notebook format {n}, which is newer than 4, the newest known here"),
                    "update onelens, or save the notebook in format 4",
                ));
            }
            None => return Err(not_a_notebook("it has no `nbformat`")),
        }
        let Some(cells) = root.get("cells").and_then(Value::as_array) else {
            return Err(not_a_notebook("it has no list of `cells`"));
        };
        for (i, cell) in cells.iter().enumerate() {
            let is_text = |v: &Value| match v {
                Value::String(_) => true,
                Value::Array(lines) => lines.iter().all(Value::is_string),
                _ => false,
            };
            if !cell["cell_type"].is_string() || !is_text(&cell["source"]) {
                return Err(not_a_notebook(&format!("cell {} has no `cell_type` or no `source`", i + 1)));
            }
        }
        let notebook = Notebook { root, is_sorted };
        notebook.check_language(name)?;
        Ok(notebook)
    }

    fn check_language(&self, name: &str) -> Result<(), Failure> {
        let metadata = self.metadata();
        let spec = &metadata["kernelspec"];
        let language = spec["language"].as_str().or_else(|| metadata["language_info"]["name"].as_str());
        match language {
            Some(language) if !language.eq_ignore_ascii_case("rust") => {
                let kernel =
                    spec["display_name"].as_str().or_else(|| spec["name"].as_str()).unwrap_or(language);
                Err(Failure::bad_input(
                    format!("{name} is a notebook for {kernel:?}, whose language is {language}, not Rust"),
                    "run it with its own kernel: jupyter nbconvert --to notebook --execute",
                ))
            }
            _ => Ok(()),
        }
    }

    /// The notebook's own metadata.
    pub fn metadata(&self) -> &Value {
        self.root.get("metadata").unwrap_or(&Value::Null)
    }

    /// Says which kernel the notebook is for, unless it says so itself, and what its language is.
    pub fn set_kernel(&mut self, language_info: Value) {
        let metadata = self.root.entry("metadata").or_insert_with(|| json!({}));
        if let Value::Object(metadata) = metadata {
            if !metadata.get("kernelspec").is_some_and(Value::is_object) {
                let spec = json!({ "display_name": DISPLAY_NAME, "language": "rust", "name": KERNEL_NAME });
                metadata.insert("kernelspec".into(), spec);
            }
            metadata.insert("language_info".into(), language_info);
        }
    }

    /// The cells in order.
    pub fn cells(&self) -> impl Iterator<Item = Cell<'_>> {
        self.root["cells"].as_array().into_iter().flatten().map(|json| Cell {
            kind: json["cell_type"].as_str().unwrap_or_default(),
            source: text_of(&json["source"]),
            json,
        })
    }

    /// Forgets the outputs and counts of every code cell, so that the file shows one run and no mixture of two.
    pub fn clear_outputs(&mut self) {
        for cell in self.code_cells() {
            cell.insert("outputs".into(), json!([]));
            cell.insert("execution_count".into(), Value::Null);
            if let Some(Value::Object(metadata)) = cell.get_mut("metadata") {
                metadata.shift_remove("execution");
            }
        }
    }

    /// Puts the result of running cell number `at` into it.
    pub fn set_result(
        &mut self,
        at: usize,
        outputs: Vec<Value>,
        count: Option<u64>,
        times: Map<String, Value>,
    ) {
        let Some(Value::Object(cell)) = self.root["cells"].get_mut(at) else { return };
        cell.insert("execution_count".into(), json!(count));
        cell.insert("outputs".into(), outputs.into());
        if let Value::Object(metadata) = cell.entry("metadata").or_insert_with(|| json!({})) {
            metadata.insert("execution".into(), times.into());
        }
    }

    /// Replaces the outputs of cell number `at` and nothing else.
    pub fn set_outputs(&mut self, at: usize, outputs: Vec<Value>) {
        if let Some(Value::Object(cell)) = self.root["cells"].get_mut(at) {
            cell.insert("outputs".into(), outputs.into());
        }
    }

    /// Puts a code cell with this one tag after cell number `at`, in place of any cell with that tag.
    pub fn put_after(&mut self, at: usize, tag: &str, source: &str) {
        let has_ids = self.root.get("nbformat_minor").and_then(Value::as_u64).is_some_and(|minor| minor >= 5);
        let Some(cells) = self.root.get_mut("cells").and_then(Value::as_array_mut) else { return };
        let is_tagged = |cell: &Value| {
            cell["metadata"]["tags"].as_array().is_some_and(|tags| tags.iter().any(|t| t == tag))
        };
        let before = cells[..at].iter().filter(|cell| is_tagged(cell)).count();
        cells.retain(|cell| !is_tagged(cell));
        let mut cell = json!({
            "cell_type": "code", "execution_count": null, "metadata": { "tags": [tag] }, "outputs": [],
            "source": lines_of(source),
        });
        if has_ids {
            // Unique in the file by its tag, and the same in every run.
            cell["id"] = tag.into();
            cell.sort_all_objects();
        }
        cells.insert(at + 1 - before, cell);
    }

    fn code_cells(&mut self) -> impl Iterator<Item = &mut Map<String, Value>> {
        self.root["cells"]
            .as_array_mut()
            .into_iter()
            .flatten()
            .filter_map(Value::as_object_mut)
            .filter(|cell| cell.get("cell_type").is_some_and(|kind| kind == "code"))
    }

    /// The file's text: indented by one space, not escaped beyond need, a newline at the end, as Jupyter does.
    ///
    /// A file that came from Jupyter is what Jupyter would write; any other keeps its order of keys.
    pub fn to_text(&self) -> String {
        let mut bytes = Vec::new();
        let mut root = Value::Object(self.root.clone());
        if self.is_sorted {
            root.sort_all_objects();
        }
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
        // Writing a value with string keys to memory has no way to fail.
        let _ = serde::Serialize::serialize(&root, &mut serializer);
        bytes.push(b'\n');
        String::from_utf8(bytes).unwrap_or_default()
    }
}

fn is_sorted(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.keys().is_sorted() && map.values().all(is_sorted),
        Value::Array(values) => values.iter().all(is_sorted),
        _ => true,
    }
}

/// Text that a notebook may hold as one string or as a list of lines.
pub fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect(),
        _ => String::new(),
    }
}

/// Text as the list of lines that notebooks hold, each with its newline.
pub fn lines_of(text: &str) -> Value {
    text.split_inclusive('\n').map(Value::from).collect()
}

/// How the names of files begin that are there for a moment.
const TEMPORARY: &str = ".onelens-";

/// Writes a file in one step, under a temporary name first: a reader, or a power cut, finds the old file or the new.
pub fn write_whole(path: &Path, content: &str) -> Result<(), Failure> {
    // A link stays a link: what it points to is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let cannot = |e: io::Error| {
        Failure::new(
            format!("cannot write {}: {e}", path.display()),
            "check that the folder is writable and the disk is not full",
        )
    };
    let old = fs::metadata(&path).ok().map(|about| about.permissions());
    // Nobody reads what is not for them, at no moment.
    let mode = if old.is_some() { 0o600 } else { 0o666 };
    let (temporary, mut file) = environment::new_file(folder_of(&path), TEMPORARY, mode).map_err(cannot)?;
    let write = || {
        if let Some(old) = old {
            file.set_permissions(old)?;
        }
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&temporary);
        cannot(e)
    })
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Checks, before minutes are spent, that a file could be written there.
pub fn check_folder_of(path: &Path) -> Result<(), Failure> {
    let folder = folder_of(path);
    if path.is_dir() {
        return Err(Failure::bad_input(
            format!("{} is a folder, so no file can be written there", path.display()),
            "give a file name",
        ));
    }
    if !folder.is_dir() {
        return Err(Failure::bad_input(
            format!("the folder {} does not exist", folder.display()),
            format!("create it first: mkdir -p {}", folder.display()),
        ));
    }
    // Only writing tells whether writing is possible: permissions, read-only disks, full ones.
    let written =
        environment::new_file(folder, TEMPORARY, 0o600).and_then(|(probe, _)| fs::remove_file(probe));
    written.map_err(|e| {
        Failure::bad_input(
            format!("nothing can be written in the folder {}: {e}", folder.display()),
            "choose another place with --output FILE",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "{\n \"cells\": [],\n \"zebra\": 1.0,\n \"metadata\": {},\n \"nbformat\": 4,\n \"nbformat_minor\": 5\n}\n";

    #[test]
    fn a_notebook_that_is_not_run_is_written_as_it_was() {
        assert_eq!(Notebook::parse(SMALL, "x").unwrap().to_text(), SMALL);
    }

    #[test]
    fn what_a_run_adds_stands_where_jupyter_would_put_it_if_jupyter_wrote_the_file() {
        let keys = |text: &str| {
            let mut notebook = Notebook::parse(text, "x").unwrap();
            notebook.set_result(0, Vec::new(), Some(1), Map::new());
            let root: Value = serde_json::from_str(&notebook.to_text()).unwrap();
            root["cells"][0]["metadata"].as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ")
        };
        let sorted = r#"{"cells":[{"cell_type":"code","metadata":{"tags":[]},"source":""}],"nbformat":4}"#;
        assert_eq!(keys(sorted), "execution tags");
        let other = r#"{"nbformat":4,"cells":[{"cell_type":"code","metadata":{"tags":[]},"source":""}]}"#;
        assert_eq!(keys(other), "tags execution");
    }

    #[test]
    fn every_cut_through_a_notebook_is_refused_with_a_remedy() {
        let text = SMALL.trim_end();
        for end in 0..text.len() {
            let message = Notebook::parse(&text[..end], "x.ipynb").unwrap_err().to_string();
            assert!(message.starts_with("x.ipynb is ") && message.contains("\nhelp: "), "{end}: {message}");
        }
    }

    #[test]
    fn other_formats_and_languages_are_refused_by_name() {
        let refuse = |text: &str| Notebook::parse(text, "x").unwrap_err().to_string();
        assert!(refuse(r#"{"nbformat":3,"worksheets":[]}"#).contains("format 3"));
        assert!(refuse(r#"{"nbformat":4,"cells":[{}]}"#).contains("cell 1"));
        let python = r#"{"nbformat":4,"cells":[],"metadata":{"kernelspec":{"display_name":"Python 3","language":"python"}}}"#;
        assert!(refuse(python).contains("\"Python 3\""));
    }

    /// The names that these files had when they could be foretold.
    #[test]
    fn a_link_that_somebody_has_put_there_is_not_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("victim"), "whole").unwrap();
        let own = std::process::id();
        let foretold = [format!(".t.ipynb.{own}.tmp"), format!(".onelens-{own}.tmp")];
        for name in &foretold {
            std::os::unix::fs::symlink(path("victim"), path(name)).unwrap();
        }
        check_folder_of(&path("t.ipynb")).unwrap();
        write_whole(&path("t.ipynb"), "new").unwrap();
        assert_eq!(fs::read_to_string(path("victim")).unwrap(), "whole");
        assert_eq!(fs::read_to_string(path("t.ipynb")).unwrap(), "new");
        assert!(foretold.iter().all(|name| path(name).is_symlink()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4, "nothing else stays");
    }

    /// While a private notebook is written, the file that takes its place is private, too.
    #[test]
    fn what_was_private_is_so_at_every_moment_and_what_was_not_stays_so() {
        use std::os::unix::fs::PermissionsExt;
        use std::sync::atomic::{AtomicBool, Ordering};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.ipynb");
        let mode = |path: &Path| fs::metadata(path).map(|about| about.permissions().mode() & 0o777);
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let over = AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut seen = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let there = fs::read_dir(folder.path()).unwrap().flatten();
                    seen.extend(there.filter_map(|entry| mode(&entry.path()).ok()));
                }
                seen
            });
            write_whole(&path, &"x".repeat(64 << 20)).unwrap();
            over.store(true, Ordering::Relaxed);
            watch.join().unwrap()
        });
        assert!(!seen.is_empty() && seen.iter().all(|mode| *mode == 0o600), "{seen:?}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
        write_whole(&path, "new").unwrap();
        assert_eq!(mode(&path).unwrap(), 0o664);
    }

    #[test]
    fn lines_keep_their_newlines() {
        assert_eq!(lines_of("a\nb"), json!(["a\n", "b"]));
        assert_eq!(lines_of(""), json!([]));
        assert_eq!(text_of(&lines_of("a\n\nb\n")), "a\n\nb\n");
    }
}
