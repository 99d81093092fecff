//! Texts larger than memory: read document by document.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Error, ErrorKind, Result};

/// Texts in files and folders, read lazily: at most one document and one buffer are in memory.
///
/// | file | documents |
/// |---|---|
/// | `.jsonl`, `.ndjson` | one per line: a string, or an object with the field `text` |
/// | `.json` | the elements of one array, likewise; the file is read whole |
/// | any other | plain UTF-8 text; a line `<\|endoftext\|>` ends a document, and so does the first line end after [1 MiB](TextFiles::LONGEST) |
///
/// each also followed by `.gz` or `.zst`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextFiles {
    files: Vec<PathBuf>,
}

impl TextFiles {
    /// A document of plain text is cut at the first line end after so many bytes, and at this many without one.
    pub const LONGEST: usize = 1 << 20;

    /// Opens the texts in these files, and in all files below these folders, in the order of their paths, each once.
    /// Hidden files are left out.
    ///
    /// Fails if a path does not exist, or if there is no file.
    ///
    /// ```
    /// use onelens::data::TextFiles;
    /// let folder = std::env::temp_dir().join(format!("onelens-doc-texts-{}", std::process::id()));
    /// std::fs::create_dir_all(&folder).unwrap();
    /// std::fs::write(folder.join("a.jsonl"), "{\"text\": \"one\"}\n\"two\"\n").unwrap();
    /// let texts: Vec<String> = TextFiles::open([&folder])?.documents().collect::<Result<_, _>>()?;
    /// assert_eq!(texts, ["one", "two"]);
    /// # std::fs::remove_dir_all(folder).unwrap();
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn open<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Result<Self> {
        let (mut files, mut asked, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        for path in paths {
            let path = path.as_ref();
            asked.push(path.display().to_string());
            collect(path, &mut files, &mut seen)?;
        }
        if files.is_empty() {
            return Err(Error::new(
                ErrorKind::Data,
                format!("there are no texts in {asked:?}"),
                "name text files, or folders that hold some",
            ));
        }
        Ok(TextFiles { files })
    }

    /// Lists the files, in the order in which they are read.
    pub fn files(&self) -> Vec<PathBuf> {
        self.files.clone()
    }

    /// Counts the bytes of all files as they lie on disk.
    ///
    /// Fails if one of them is gone.
    pub fn n_bytes(&self) -> Result<u64> {
        self.files.iter().map(|file| Ok(std::fs::metadata(file).map_err(|e| cannot(file, e))?.len())).sum()
    }

    /// Reads all documents, one after the other. What cannot be read is an error in its place, and the last thing that
    /// comes.
    pub fn documents(&self) -> Documents {
        Documents { files: self.files.clone().into_iter(), open: None, failed: false }
    }
}

/// The documents of [`TextFiles`], as they are read.
pub struct Documents {
    files: std::vec::IntoIter<PathBuf>,
    open: Option<Open>,
    failed: bool,
}

/// A file under way.
struct Open {
    path: PathBuf,
    line: usize,
    kind: Kind,
}

enum Kind {
    Plain(Box<dyn BufRead + Send>),
    Lines(Box<dyn BufRead + Send>),
    Array(std::vec::IntoIter<Value>),
}

impl Iterator for Documents {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Result<String>> {
        while !self.failed {
            if self.open.is_none() {
                match Open::new(self.files.next()?) {
                    Ok(open) => self.open = Some(open),
                    Err(e) => {
                        self.failed = true;
                        return Some(Err(e));
                    }
                }
            }
            match self.open.as_mut()?.document() {
                Ok(Some(text)) => return Some(Ok(text)),
                Ok(None) => self.open = None,
                Err(e) => {
                    self.failed = true;
                    return Some(Err(e));
                }
            }
        }
        None
    }
}

/// What ends a document in a file that holds several.
const SEPARATOR: &str = "<|endoftext|>";
/// An array of JSON larger than this is no list to be read whole.
const LARGEST_ARRAY: u64 = 1 << 28;
/// A line of JSON longer than this is no document but a mistake.
const LONGEST_LINE: u64 = 1 << 28;

/// What a file of JSON holds, and how many bytes more it could have had.
fn array(reader: impl Read) -> (serde_json::Result<Value>, u64) {
    let mut most = reader.take(LARGEST_ARRAY);
    (serde_json::from_reader(&mut most), most.limit())
}

impl Open {
    fn new(path: PathBuf) -> Result<Self> {
        let file = File::open(&path).map_err(|e| cannot(&path, e))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let (name, reader): (&str, Box<dyn BufRead + Send>) = if let Some(name) = name.strip_suffix(".gz") {
            (name, Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(file))))
        } else if let Some(name) = name.strip_suffix(".zst") {
            let decoder = ruzstd::decoding::StreamingDecoder::new(BufReader::new(file));
            let decoder = decoder.map_err(|e| broken(&path, format!("is no Zstandard file: {e}")))?;
            (name, Box::new(BufReader::new(decoder)))
        } else {
            (name.as_str(), Box::new(BufReader::new(file)))
        };
        let kind = match Path::new(name).extension().and_then(|e| e.to_str()) {
            Some("jsonl" | "ndjson") => Kind::Lines(reader),
            Some("json") => match array(reader) {
                (Ok(Value::Array(elements)), _) => Kind::Array(elements.into_iter()),
                (Ok(_), _) => return Err(broken(&path, "is JSON, but no array of texts")),
                (Err(e), 0) if e.is_eof() => {
                    return Err(Error::new(
                        ErrorKind::File,
                        format!(
                            "{} is an array of more than {} bytes, which is read whole",
                            path.display(),
                            LARGEST_ARRAY
                        ),
                        "write one text per line, as .jsonl, which is read line by line",
                    ));
                }
                (Err(e), _) => return Err(broken(&path, format!("is no JSON: {e}"))),
            },
            _ => Kind::Plain(reader),
        };
        Ok(Open { path, line: 0, kind })
    }

    fn document(&mut self) -> Result<Option<String>> {
        let path = &self.path;
        match &mut self.kind {
            Kind::Plain(reader) => plain(reader, path),
            Kind::Lines(reader) => loop {
                self.line += 1;
                let mut line = String::new();
                let n = reader.take(LONGEST_LINE).read_line(&mut line).map_err(|e| cannot(path, e))?;
                if n == 0 {
                    return Ok(None);
                }
                if line.trim().is_empty() {
                    continue;
                }
                let at = || format!("in line {}", self.line);
                let value = serde_json::from_str(&line)
                    .map_err(|e| broken(path, format!("holds no JSON {}: {e}", at())))?;
                return text_of(value).map(Some).ok_or_else(|| no_text(path, &at()));
            },
            Kind::Array(elements) => {
                self.line += 1;
                let Some(value) = elements.next() else { return Ok(None) };
                text_of(value).map(Some).ok_or_else(|| no_text(path, &format!("in element {}", self.line)))
            }
        }
    }
}

/// The next document of plain text that is not blank.
fn plain(reader: &mut dyn BufRead, path: &Path) -> Result<Option<String>> {
    let mut text = Vec::new();
    loop {
        let begin = text.len();
        let mut line = (&mut *reader).take(TextFiles::LONGEST as u64);
        let n = line.read_until(b'\n', &mut text).map_err(|e| cannot(path, e))?;
        let separator = text[begin..].trim_ascii() == SEPARATOR.as_bytes();
        if separator {
            text.truncate(begin);
        }
        if n > 0 && !separator && text.len() < TextFiles::LONGEST {
            continue;
        }
        // Of a character that was cut the rest comes along.
        while std::str::from_utf8(&text).is_err_and(|e| e.error_len().is_none())
            && (&mut *reader).take(1).read_to_end(&mut text).map_err(|e| cannot(path, e))? == 1
        {}
        if !text.trim_ascii().is_empty() {
            return String::from_utf8(text).map(Some).map_err(|e| {
                let at = e.utf8_error().valid_up_to();
                broken(path, format!("is no UTF-8 text, at byte {at} of a document"))
            });
        }
        if n == 0 {
            return Ok(None);
        }
        text.clear();
    }
}

fn text_of(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Object(mut fields) => match fields.remove("text")? {
            Value::String(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// Adds the files at and below `path`, each once: a link may lead back to a folder above it.
fn collect(path: &Path, files: &mut Vec<PathBuf>, seen: &mut BTreeSet<PathBuf>) -> Result<()> {
    if !seen.insert(path.canonicalize().map_err(|e| cannot(path, e))?) {
        return Ok(());
    }
    let about = std::fs::metadata(path).map_err(|e| cannot(path, e))?;
    if about.is_file() {
        files.push(path.to_path_buf());
        return Ok(());
    }
    let mut inside: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|e| cannot(path, e))? {
        inside.push(entry.map_err(|e| cannot(path, e))?.path());
    }
    inside.sort();
    for path in inside {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        // What vanished, or points nowhere, is not there to be read.
        if !hidden && path.exists() {
            collect(&path, files, seen)?;
        }
    }
    Ok(())
}

fn cannot(path: &Path, e: std::io::Error) -> Error {
    Error::of_file(
        format!("cannot read {}", path.display()),
        e,
        "check the path, its permissions, and whether a compressed file is whole",
    )
}

fn broken(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::File,
        format!("{} {why}", path.display()),
        "texts are UTF-8 (plain, .jsonl with the field `text`, or .json with an array), also followed by .gz or .zst",
    )
}

fn no_text(path: &Path, at: &str) -> Error {
    broken(path, format!("holds neither a string nor an object with the text field `text` {at}"))
}
