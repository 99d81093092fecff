//! What a GGUF file says about itself: its settings, its tokenizer, and where its tensors lie.

use std::fs::File;
use std::io::BufReader;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};

use crate::{Error, ErrorKind, Result};

/// The head of a GGUF file, read by candle.
pub(crate) struct Gguf {
    shown: String,
    content: Content,
}

impl Gguf {
    /// Reads the head of a file, not its tensors.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let cannot = |why: String, help: &str| Error::new(ErrorKind::File, format!("{shown} {why}"), help);
        let file = File::open(path).map_err(|e| Error::unread(path, e))?;
        // Bytes of the file decide what the reader does; a panic of its own must not reach the user.
        let read = catch_unwind(AssertUnwindSafe(|| Content::read(&mut BufReader::new(file))));
        let broken = |why: String| {
            cannot(
                format!("cannot be read as a GGUF file: {why}"),
                "was it cut off on the way? fetch it anew; versions 1 to 3 are read",
            )
        };
        match read {
            Ok(Ok(content)) => Ok(Gguf { shown, content }),
            Ok(Err(e)) => Err(broken(e.to_string().lines().next().unwrap_or_default().to_string())),
            Err(_) => Err(broken("it is damaged".into())),
        }
    }

    /// The file, for errors.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// The tensors: their names, kinds, shapes, and places after [`data_offset`](Gguf::data_offset).
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&String, &TensorInfo)> {
        self.content.tensor_infos.iter()
    }

    /// Where the tensors begin, in bytes.
    pub(crate) fn data_offset(&self) -> u64 {
        self.content.tensor_data_offset
    }

    /// A setting that has to be there.
    fn need<T>(&self, key: &str, what: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| match self.content.metadata.get(key) {
            None => self.refuse(format!("has no `{key}`"), format!("it is {what}; is the file whole?")),
            Some(other) => {
                let shown: String = format!("{other:?}").chars().take(60).collect();
                self.refuse(format!("has `{key}` as {shown}"), format!("it is {what}"))
            }
        })
    }

    /// An error about this file.
    pub(crate) fn refuse(&self, why: impl std::fmt::Display, help: impl Into<String>) -> Error {
        Error::new(ErrorKind::File, format!("{} {why}", self.shown), help)
    }

    /// A text, where there is the setting; one of another type is an error.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => self.need(key, "a text", None),
        }
    }

    /// A whole number, likewise.
    pub(crate) fn count(&self, key: &str) -> Result<Option<u64>> {
        let Some(value) = self.content.metadata.get(key) else { return Ok(None) };
        let count = match *value {
            Value::U8(n) => Some(u64::from(n)),
            Value::U16(n) => Some(u64::from(n)),
            Value::U32(n) => Some(u64::from(n)),
            Value::U64(n) => Some(n),
            Value::I8(n) => u64::try_from(n).ok(),
            Value::I16(n) => u64::try_from(n).ok(),
            Value::I32(n) => u64::try_from(n).ok(),
            Value::I64(n) => u64::try_from(n).ok(),
            Value::F32(_) | Value::F64(_) | Value::Bool(_) | Value::String(_) | Value::Array(_) => None,
        };
        self.need(key, "a whole number", count).map(Some)
    }

    /// A number, likewise.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(Value::F32(x)) => Ok(Some(f64::from(*x))),
            Some(Value::F64(x)) => Ok(Some(*x)),
            Some(_) => self.need(key, "a number", None),
        }
    }

    /// Yes or no, likewise.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => self.need(key, "true or false", None),
        }
    }

    /// A list of texts that has to be there.
    pub(crate) fn texts(&self, key: &str) -> Result<Vec<&str>> {
        let all = match self.content.metadata.get(key) {
            Some(Value::Array(all)) => all.iter().map(|v| v.to_string().ok().map(String::as_str)).collect(),
            Some(_) | None => None,
        };
        self.need(key, "a list of texts", all)
    }

    /// A list of whole numbers, where there is one.
    pub(crate) fn counts(&self, key: &str) -> Result<Option<Vec<i64>>> {
        let number = |v: &Value| {
            v.to_i64()
                .ok()
                .or_else(|| v.to_i32().ok().map(i64::from))
                .or_else(|| v.to_u32().ok().map(i64::from))
        };
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(Value::Array(all)) => {
                self.need(key, "a list of whole numbers", all.iter().map(number).collect()).map(Some)
            }
            Some(_) => self.need(key, "a list of whole numbers", None),
        }
    }

    /// A list of numbers that has to be there.
    pub(crate) fn numbers(&self, key: &str) -> Result<Vec<f32>> {
        let all = match self.content.metadata.get(key) {
            Some(Value::Array(all)) => all.iter().map(|v| v.to_f32().ok()).collect(),
            Some(_) | None => None,
        };
        self.need(key, "a list of numbers", all)
    }
}

/// Whether a file begins as GGUF files do.
pub(crate) fn is_gguf(path: &Path) -> bool {
    use std::io::Read;
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && &magic == b"GGUF"
}
