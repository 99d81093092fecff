//! Named tensors in safetensors files, checked when they are taken.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata, SafeTensors};

use super::read_file;
use crate::{Error, ErrorKind, Result};

/// One tensor: where its bytes lie.
struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// From the start of the file.
    bytes: std::ops::Range<usize>,
}

/// The tensors of one or more files.
pub(crate) struct Tensors {
    /// The file or folder, for errors.
    shown: String,
    files: Vec<Vec<u8>>,
    all: BTreeMap<String, Entry>,
    taken: BTreeSet<String>,
}

impl Tensors {
    /// The tensors of these files together, and what the first one says about itself.
    pub(crate) fn open(shown: &Path, paths: &[PathBuf]) -> Result<(Self, BTreeMap<String, String>)> {
        let mut tensors = Tensors {
            shown: shown.display().to_string(),
            files: Vec::new(),
            all: BTreeMap::new(),
            taken: BTreeSet::new(),
        };
        let mut about = BTreeMap::new();
        for path in paths {
            let metadata = tensors.push(&path.display().to_string(), read_file(path)?)?;
            if tensors.files.len() == 1 {
                about = metadata;
            }
        }
        Ok((tensors, about))
    }

    /// The tensors of one file that is in memory.
    pub(crate) fn parse(shown: &str, bytes: Vec<u8>) -> Result<(Self, BTreeMap<String, String>)> {
        let (all, taken) = (BTreeMap::new(), BTreeSet::new());
        let mut tensors = Tensors { shown: shown.into(), files: Vec::new(), all, taken };
        let about = tensors.push(shown, bytes)?;
        Ok((tensors, about))
    }

    fn push(&mut self, shown: &str, bytes: Vec<u8>) -> Result<BTreeMap<String, String>> {
        let file = self.files.len();
        let not_one = |e: &dyn std::fmt::Display| {
            refuse(
                shown,
                format!("is no whole safetensors file: {e}"),
                "was it cut off on the way? fetch or save it anew",
            )
        };
        let (header, metadata): (usize, Metadata) =
            SafeTensors::read_metadata(&bytes).map_err(|e| not_one(&e))?;
        // The header is preceded by its length.
        let start = header + 8;
        if metadata.data_len().checked_add(start) != Some(bytes.len()) {
            return Err(not_one(&"its tensors do not end where the file ends"));
        }
        for (name, info) in metadata.tensors() {
            let (from, to) = info.data_offsets;
            let entry =
                Entry { file, dtype: info.dtype, shape: info.shape.clone(), bytes: start + from..start + to };
            if self.all.insert(name.clone(), entry).is_some() {
                return Err(refuse(
                    shown,
                    format!("holds `{name}` again"),
                    "each tensor belongs in one file",
                ));
            }
        }
        let about = metadata.metadata().clone().unwrap_or_default();
        self.files.push(bytes);
        Ok(about.into_iter().collect())
    }

    /// No tensors yet.
    pub(super) fn none(shown: &Path) -> Self {
        let (files, all, taken) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
        Tensors { shown: shown.display().to_string(), files, all, taken }
    }

    /// One more tensor, from somewhere else than a safetensors file.
    pub(super) fn add(&mut self, name: String, shape: Vec<usize>, numbers: &[f32]) -> Result<()> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        let entry = Entry { file: self.files.len(), dtype: Dtype::F32, shape, bytes: 0..bytes.len() };
        if self.all.insert(name.clone(), entry).is_some() {
            return Err(refuse(
                &self.shown,
                format!("holds `{name}` again"),
                "each tensor belongs in one file",
            ));
        }
        self.files.push(bytes);
        Ok(())
    }

    /// How many numbers there are, counted by their bytes, so that it is bounded by the files.
    pub(crate) fn n_numbers(&self) -> usize {
        self.all.values().map(|e| e.bytes.len() * 8 / e.dtype.bitsize().max(1)).sum()
    }

    /// The names that have not been taken yet.
    pub(crate) fn left(&self) -> impl Iterator<Item = &str> {
        self.all.keys().map(String::as_str).filter(|name| !self.taken.contains(*name))
    }

    /// Every tensor's name and bytes, in the order of names.
    pub(crate) fn bytes(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.all.iter().map(|(name, e)| (name.as_str(), &self.files[e.file][e.bytes.clone()]))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.all.contains_key(name)
    }

    /// The numbers of `name`, row by row; it must have this shape, a floating type, and finite numbers.
    pub(crate) fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
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
        let bytes = &self.files[entry.file][entry.bytes.clone()];
        let numbers: Vec<f32> = match entry.dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::BF16 => bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
            other => {
                return Err(refuse(
                    &self.shown,
                    format!("stores `{name}` as {other:?}"),
                    "weights are F32, F16 or BF16; convert the file to one of them",
                ));
            }
        };
        check_finite(&self.shown, name, &numbers)?;
        self.taken.insert(name.into());
        Ok(numbers)
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
        Some(at) => Err(refuse(
            shown,
            format!("holds {} in `{name}`, number {at}", numbers[at]),
            "weights are finite: the file is damaged, or its training broke down",
        )),
    }
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
