//! Named tensors in safetensors files, checked when they are taken.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use std::sync::Arc;

use safetensors::tensor::{Metadata, SafeTensors};

use crate::model::Matrix;
use crate::model::numbers::{FileBytes, Kind, Numbers};
use crate::{Error, ErrorKind, Result};

/// One tensor: where its bytes lie.
pub(super) struct Stored {
    pub(super) file: Arc<FileBytes>,
    /// How its numbers are stored; the file's own word where weights are not stored so.
    pub(super) kind: Result<Kind, String>,
    pub(super) shape: Vec<usize>,
    /// From the start of the file.
    pub(super) bytes: std::ops::Range<usize>,
    /// In which order its rows are to be read, if not as they come.
    pub(super) rows: Option<Vec<u32>>,
}

/// The tensors of one or more files.
pub(crate) struct Tensors {
    /// The file or folder, for errors.
    shown: String,
    all: BTreeMap<String, Stored>,
    taken: BTreeSet<String>,
}

impl Tensors {
    /// The tensors of these files together, and what the first one says about itself.
    pub(crate) fn open(shown: &Path, paths: &[PathBuf]) -> Result<(Self, BTreeMap<String, String>)> {
        let mut tensors =
            Tensors { shown: shown.display().to_string(), all: BTreeMap::new(), taken: BTreeSet::new() };
        let mut about = BTreeMap::new();
        for (i, path) in paths.iter().enumerate() {
            let metadata = tensors.push(&path.display().to_string(), map_file(path)?)?;
            if i == 0 {
                about = metadata;
            }
        }
        Ok((tensors, about))
    }

    /// The tensors of one file that is in memory.
    pub(crate) fn parse(shown: &str, bytes: Vec<u8>) -> Result<(Self, BTreeMap<String, String>)> {
        let (all, taken) = (BTreeMap::new(), BTreeSet::new());
        let mut tensors = Tensors { shown: shown.into(), all, taken };
        let about = tensors.push(shown, FileBytes::Read(bytes))?;
        Ok((tensors, about))
    }

    fn push(&mut self, shown: &str, file: FileBytes) -> Result<BTreeMap<String, String>> {
        let file = Arc::new(file);
        let bytes = file.all();
        if let Some((what, help)) = known_beginning(bytes) {
            return Err(refuse(shown, format!("is no safetensors file but {what}"), help));
        }
        let not_one = |e: &dyn std::fmt::Display| {
            refuse(
                shown,
                format!("is no whole safetensors file: {e}"),
                "was it cut off on the way? fetch or save it anew",
            )
        };
        let (header, metadata): (usize, Metadata) =
            SafeTensors::read_metadata(bytes).map_err(|e| not_one(&e))?;
        // The header is preceded by its length.
        let start = header + 8;
        if metadata.data_len().checked_add(start) != Some(bytes.len()) {
            return Err(not_one(&"its tensors do not end where the file ends"));
        }
        for (name, info) in metadata.tensors() {
            let (from, to) = info.data_offsets;
            let kind = Kind::of_safetensors(info.dtype).ok_or_else(|| format!("{:?}", info.dtype));
            let bytes = start + from..start + to;
            let shape = info.shape.clone();
            self.add_stored(name.clone(), Stored { file: file.clone(), kind, shape, bytes, rows: None })?;
        }
        let about = metadata.metadata().clone().unwrap_or_default();
        Ok(about.into_iter().collect())
    }

    /// No tensors yet.
    pub(super) fn none(shown: &Path) -> Self {
        let (all, taken) = (BTreeMap::new(), BTreeSet::new());
        Tensors { shown: shown.display().to_string(), all, taken }
    }

    /// One more tensor, from somewhere else than a safetensors file.
    pub(super) fn add(&mut self, name: String, shape: Vec<usize>, numbers: &[f32]) -> Result<()> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        let all = 0..bytes.len();
        let file = Arc::new(FileBytes::Read(bytes));
        self.add_stored(name, Stored { file, kind: Ok(Kind::F32), shape, bytes: all, rows: None })
    }

    /// One more tensor, as a file stores it.
    pub(super) fn add_stored(&mut self, name: String, stored: Stored) -> Result<()> {
        match self.all.insert(name.clone(), stored) {
            None => Ok(()),
            Some(_) => {
                let why = format!("holds `{name}` again");
                Err(refuse(&self.shown, why, "each tensor belongs in one file"))
            }
        }
    }

    /// Takes this off the beginning of every name, if all have it; says whether they had.
    pub(super) fn without_prefix(&mut self, prefix: &str) -> bool {
        let all_have_it = !self.all.is_empty() && self.all.keys().all(|name| name.starts_with(prefix));
        if all_have_it {
            let all = std::mem::take(&mut self.all);
            self.all =
                all.into_iter().map(|(name, stored)| (name[prefix.len()..].to_string(), stored)).collect();
        }
        all_have_it
    }

    /// The name that ends like this and its shape, if there is one.
    pub(super) fn ending(&self, end: &str) -> Option<(&str, &[usize])> {
        let (name, stored) = self.all.iter().find(|(name, _)| name.ends_with(end))?;
        Some((name, &stored.shape))
    }

    /// How many numbers there are, counted by their bytes, so that it is bounded by the files.
    pub(crate) fn n_numbers(&self) -> usize {
        let numbers = |e: &Stored| e.kind.as_ref().map_or(e.bytes.len(), |kind| kind.numbers(e.bytes.len()));
        self.all.values().map(numbers).sum()
    }

    /// The names that have not been taken yet.
    pub(crate) fn left(&self) -> impl Iterator<Item = &str> {
        self.all.keys().map(String::as_str).filter(|name| !self.taken.contains(*name))
    }

    /// Every tensor's name and bytes, in the order of names.
    pub(crate) fn bytes(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.all.iter().map(|(name, e)| (name.as_str(), &e.file.all()[e.bytes.clone()]))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.all.contains_key(name)
    }

    /// The numbers of `name` as `f32`, row by row; it must have this shape, a type of weights, and finite numbers.
    pub(crate) fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (numbers, rows) = self.numbers(name, shape)?;
        Ok(match rows {
            None => numbers.all(),
            Some(rows) => Matrix::stored(numbers, false).with_rows(rows).flat().into_owned(),
        })
    }

    /// The matrix `name` as it is stored, `[rows, columns]`, under the same conditions; `transposed` says that it holds
    /// `[out, in]`.
    pub(crate) fn take_matrix(&mut self, name: &str, shape: &[usize], transposed: bool) -> Result<Matrix> {
        let (numbers, rows) = self.numbers(name, shape)?;
        let matrix = Matrix::stored(numbers, transposed);
        Ok(match rows {
            None => matrix,
            Some(rows) => matrix.with_rows(rows),
        })
    }

    fn numbers(&mut self, name: &str, shape: &[usize]) -> Result<(Numbers, Option<Vec<u32>>)> {
        let Some(entry) = self.all.get(name) else {
            let near = nearest(name, self.left());
            let help = match near {
                Some(near) => {
                    format!("the nearest name there is `{near}`; is it a file of this architecture?")
                }
                None => "is it a file of this architecture?".into(),
            };
            return Err(refuse(&self.shown, format!("has no tensor `{name}`"), help));
        };
        if entry.shape != shape {
            return Err(refuse(
                &self.shown,
                format!("has `{name}` as {:?} where {shape:?} belongs", entry.shape),
                "does the configuration belong to these weights?",
            ));
        }
        let kind = entry.kind.as_ref().map_err(|other| {
            refuse(
                &self.shown,
                format!("stores `{name}` as {other}"),
                "weights are F32, F16 or BF16, or quantised as GGUF does it; convert the file to one of them",
            )
        })?;
        let rows = match shape {
            [] => (1, 1),
            [columns] => (1, *columns),
            [rows @ .., columns] => (rows.iter().product(), *columns),
        };
        let numbers = Numbers::new(entry.file.clone(), entry.bytes.clone(), *kind, rows);
        let numbers = numbers.ok_or_else(|| {
            refuse(
                &self.shown,
                format!("stores `{name}`, {shape:?}, in {} bytes of {}", entry.bytes.len(), kind.name()),
                "was it cut off on the way? fetch it anew",
            )
        })?;
        if let Some((at, value)) = numbers.not_finite() {
            return Err(not_finite(&self.shown, name, at, value));
        }
        self.taken.insert(name.into());
        Ok((numbers, entry.rows.clone()))
    }

    /// Refuses what nobody asked for, unless `may_stay` says that it carries nothing.
    pub(crate) fn finish(&self, may_stay: impl Fn(&str) -> bool) -> Result<()> {
        match self.left().find(|name| !may_stay(name)) {
            None => Ok(()),
            Some(name) => Err(refuse(
                &self.shown,
                format!("has a tensor `{name}`, for which this architecture has no place"),
                "nothing is dropped silently: does the configuration belong to these weights?",
            )),
        }
    }
}

/// Refuses numbers that are not finite, naming the first.
pub(super) fn check_finite(shown: &str, name: &str, numbers: &[f32]) -> Result<()> {
    match numbers.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(at) => Err(not_finite(shown, name, at, numbers[at])),
    }
}

fn not_finite(shown: &str, name: &str, at: usize, value: f32) -> Error {
    refuse(
        shown,
        format!("holds {value} in `{name}`, number {at}"),
        "weights are finite: the file is damaged, or its training broke down",
    )
}

/// What a file is that is often taken for a safetensors file, by its first bytes, and what to do then.
fn known_beginning(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    // A safetensors file begins with the length of its header, whose upper half is zero.
    if bytes.get(4..8) == Some(&[0; 4]) {
        return None;
    }
    let kinds: [(&[u8], &str, &str); 5] = [
        (
            b"version https://git-lfs",
            "a pointer of git-lfs, which stands for the file",
            "run `git lfs pull` in its repository, or fetch the file itself with `onelens model download NAME`",
        ),
        (
            b"GGUF",
            "a GGUF file",
            "give it a name that ends with .gguf, and open it by that: `Transformer::from_gguf`",
        ),
        (
            b"PK\x03\x04",
            "PyTorch's (a zip file with a pickle)",
            "name it pytorch_model.bin, which is read from a model's folder",
        ),
        (
            b"\x80\x02",
            "a pickle",
            "name it pytorch_model.bin, which is read from a model's folder if PyTorch 1.6 or later wrote it",
        ),
        (
            b"<",
            "a page of HTML or XML",
            "the server sent a page in its place: fetch the file anew, and look at what comes",
        ),
    ];
    kinds.into_iter().find(|(start, ..)| bytes.starts_with(start)).map(|(_, what, help)| (what, help))
}

/// The bytes of a file, mapped, or a sentence.
fn map_file(path: &Path) -> Result<FileBytes> {
    FileBytes::open(path).map_err(|e| Error::unread(path, e))
}

/// An error about a file.
pub(crate) fn refuse(shown: &str, why: impl std::fmt::Display, help: impl Into<String>) -> Error {
    Error::new(ErrorKind::File, format!("{shown} {why}"), help)
}

/// The name that shares the longest beginning and end with `name`.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let common = |a: &mut dyn Iterator<Item = (u8, u8)>| a.take_while(|(a, b)| a == b).count();
    let alike = |other: &str| {
        common(&mut name.bytes().zip(other.bytes()))
            + common(&mut name.bytes().rev().zip(other.bytes().rev()))
    };
    names
        .map(|n| (alike(n), n))
        .max_by_key(|(alike, _)| *alike)
        .filter(|(alike, _)| *alike > 0)
        .map(|(_, n)| n)
}
