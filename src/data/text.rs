//! Real text, character by character, split into training and held-out *files*.

use std::path::{Path, PathBuf};

use ndarray::Array2;

use super::{Source, Tokens, Vocab};
use crate::num::{Rng, uniform_index};
use crate::{Error, ErrorKind, Result};

/// A text corpus: a character vocabulary, and training and held-out text that share no file.
///
/// Every fifth file of a folder is held out (files in path order); a single file is cut, its last fifth held out.
/// Sequences never run from one file into the next.
#[derive(Clone)]
pub struct Corpus {
    name: String,
    vocab: Vocab,
    train: Vec<Vec<u32>>,
    held_out: Vec<Vec<u32>>,
}

/// Characters seen less often than this in the training text share the token `�`.
const MIN_COUNT: usize = 20;
const HELD_OUT_EVERY: usize = 5;

impl Corpus {
    /// Opens the Rust source code of the `ndarray` crate, as cargo keeps it on every machine that built this library.
    ///
    /// Looked for in `vendor/` of the current folder and its parents, then in cargo's registry
    /// (`$CARGO_HOME/registry/src`, by default under `~/.cargo`). Nothing is downloaded.
    pub fn rust_source() -> Result<Self> {
        let folder = find_crate("ndarray", "0.17")?;
        let version = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Corpus { name: format!("Rust source of {version}"), ..Self::open(folder.join("src"))? })
    }

    /// Opens any text file, or all readable text files below a folder.
    ///
    /// Fails if there is nothing to read, if a file asked for by name is not UTF-8 text, or if either side of the
    /// split would be empty.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let shown = path.display();
        let meta = std::fs::metadata(path).map_err(|e| {
            Error::of_file(
                format!("cannot open {shown}"),
                e,
                "give the path of a text file or a folder of text files",
            )
        })?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        if meta.is_file() {
            let text = read_text(path)?;
            return Self::from_text(name, text);
        }
        let mut files = Vec::new();
        collect_files(path, &mut files)?;
        files.sort();
        // A folder may hold pictures and object files beside its text; those are not what was asked for.
        let texts: Vec<String> =
            files.iter().filter_map(|f| read_text(f).ok()).filter(|t| !t.is_empty()).collect();
        match texts.len() {
            0 => Err(Error::new(
                ErrorKind::Data,
                format!("no text files below {shown} ({} files looked at)", files.len()),
                "give a folder that holds UTF-8 text files",
            )),
            1 => Self::from_text(name, &texts[0]),
            _ => Self::from_files(&name, &texts),
        }
    }

    /// Takes one text; its last fifth, from a line break on, is held out.
    ///
    /// ```
    /// use onelens::data::{Corpus, Source};
    /// let corpus = Corpus::from_text("alphabet", "abcdefghij\n".repeat(100))?;
    /// assert_eq!(corpus.d_vocab(), 12); // ten letters, the line break and �
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn from_text(name: impl AsRef<str>, text: impl AsRef<str>) -> Result<Self> {
        let (name, text) = (name.as_ref(), text.as_ref());
        let mut cut = text.len() / HELD_OUT_EVERY * (HELD_OUT_EVERY - 1);
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        let cut = text[..cut].rfind('\n').map_or(cut, |i| i + 1);
        Self::build(name, &[&text[..cut]], &[&text[cut..]])
    }

    fn from_files(name: &str, texts: &[String]) -> Result<Self> {
        let pick = |held_out: bool| -> Vec<&str> {
            let is_held_out = |i: usize| {
                i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
                    || (texts.len() < HELD_OUT_EVERY && i + 1 == texts.len())
            };
            texts
                .iter()
                .enumerate()
                .filter(|&(i, _)| is_held_out(i) == held_out)
                .map(|(_, t)| t.as_str())
                .collect()
        };
        Self::build(name, &pick(false), &pick(true))
    }

    fn build(name: &str, train: &[&str], held_out: &[&str]) -> Result<Self> {
        let vocab = Vocab::from_text(&train.concat(), MIN_COUNT);
        let encode = |texts: &[&str]| texts.iter().map(|t| vocab.encode_lossy(t)).collect();
        let corpus = Corpus { name: name.into(), train: encode(train), held_out: encode(held_out), vocab };
        if corpus.n_train() == 0 || corpus.n_held_out() == 0 || corpus.vocab.len() < 3 {
            return Err(Error::new(
                ErrorKind::Data,
                format!(
                    "{name} is too little text: {} training and {} held-out characters, {} of them different often enough",
                    corpus.n_train(),
                    corpus.n_held_out(),
                    corpus.vocab.len() - 1
                ),
                format!("give at least a few kilobytes (a character counts from {MIN_COUNT} occurrences on)"),
            ));
        }
        Ok(corpus)
    }

    /// Returns what the text is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the characters and their tokens.
    pub fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    /// Returns the number of training tokens.
    pub fn n_train(&self) -> usize {
        self.train.iter().map(Vec::len).sum()
    }

    /// Returns the number of held-out tokens.
    pub fn n_held_out(&self) -> usize {
        self.held_out.iter().map(Vec::len).sum()
    }

    fn draw(&self, files: &[Vec<u32>], n_seqs: usize, len: usize, rng: &mut Rng) -> Result<Array2<u32>> {
        // Every window of `len` tokens is as likely as every other.
        let windows: Vec<usize> = files.iter().map(|f| (f.len() + 1).saturating_sub(len)).collect();
        let total: usize = windows.iter().sum();
        if total == 0 || len == 0 {
            let longest = files.iter().map(Vec::len).max().unwrap_or(0);
            return Err(Error::new(
                ErrorKind::Data,
                format!("{} has no sequence of {len} tokens: its longest text here has {longest}", self.name),
                "use a smaller `n_ctx`, or a longer text",
            ));
        }
        let mut out = Array2::zeros((n_seqs, len));
        for mut row in out.rows_mut() {
            let mut at = uniform_index(rng, total);
            let file = windows.iter().position(|&w| {
                let here = at < w;
                at = if here { at } else { at - w };
                here
            });
            let file = &files[file.unwrap_or(0)];
            row.assign(&ndarray::ArrayView1::from(&file[at..at + len]));
        }
        Ok(out)
    }
}

impl Source for Corpus {
    fn d_vocab(&self) -> usize {
        self.vocab.len()
    }

    fn vocab(&self) -> Option<&Vocab> {
        Some(&self.vocab)
    }

    fn sample(&self, n_seqs: usize, len: usize, rng: &mut Rng) -> Result<Array2<u32>> {
        self.draw(&self.train, n_seqs, len, rng)
    }

    fn sample_held_out(&self, n_seqs: usize, len: usize, rng: &mut Rng) -> Result<Array2<u32>> {
        self.draw(&self.held_out, n_seqs, len, rng)
    }

    fn true_conditional(&self, _tokens: &dyn Tokens) -> Option<Array2<f64>> {
        None
    }

    fn token_text(&self, token: u32) -> String {
        self.vocab.decode([token])
    }

    fn describe(&self) -> String {
        format!(
            "{}: {} training and {} held-out characters in {} and {} files, {} tokens",
            self.name,
            self.n_train(),
            self.n_held_out(),
            self.train.len(),
            self.held_out.len(),
            self.d_vocab()
        )
    }
}

impl std::fmt::Debug for Corpus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.describe())
    }
}

fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::unread(path, e))?;
    String::from_utf8(bytes).map_err(|e| {
        Error::new(
            ErrorKind::Data,
            format!("{} is not UTF-8 text: byte {} is invalid", path.display(), e.utf8_error().valid_up_to()),
            "convert it to UTF-8, for example with iconv",
        )
    })
}

fn collect_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let unreadable = |e: std::io::Error| {
        Error::of_file(format!("cannot read the folder {}", folder.display()), e, "check its permissions")
    };
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        // Links are not followed: they can lead round in a circle.
        let kind = entry.file_type().map_err(unreadable)?;
        if kind.is_dir() {
            collect_files(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// The newest folder `NAME-VERSION` (or vendored `NAME`) whose version starts with `series`.
fn find_crate(name: &str, series: &str) -> Result<PathBuf> {
    let mut looked = Vec::new();
    if let Ok(here) = std::env::current_dir() {
        for parent in here.ancestors() {
            let vendored = parent.join("vendor").join(name);
            if vendored.join("src").is_dir() {
                return Ok(vendored);
            }
        }
        looked.push("vendor/ here and above".to_string());
    }
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|h| h.join(".cargo")));
    let mut found = Vec::new();
    if let Some(home) = home {
        let registry = home.join("registry").join("src");
        looked.push(registry.display().to_string());
        for index in std::fs::read_dir(&registry).into_iter().flatten().flatten() {
            for package in std::fs::read_dir(index.path()).into_iter().flatten().flatten() {
                let folder = package.file_name().to_string_lossy().into_owned();
                let version = folder.strip_prefix(name).and_then(|v| v.strip_prefix('-'));
                let matches =
                    version.and_then(|v| v.strip_prefix(series)).is_some_and(|rest| rest.starts_with('.'));
                if matches && package.path().join("src").is_dir() {
                    let patch = folder.rsplit('.').next().and_then(|p| p.parse::<u64>().ok()).unwrap_or(0);
                    found.push((patch, package.path()));
                }
            }
        }
    }
    found.sort();
    found.pop().map(|(_, path)| path).ok_or_else(|| {
        Error::new(
            ErrorKind::Data,
            format!("the source of {name} {series} is not on this machine (looked in {})", looked.join(" and ")),
            "run `cargo fetch` in the onelens folder, or use any text with `Corpus::open(\"a/file/or/folder\")`",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_that_is_not_there_says_where_it_looked_and_what_to_do() {
        let text = find_crate("no-such-crate-anywhere", "0.1").unwrap_err().to_string();
        for part in ["no-such-crate-anywhere 0.1", "vendor/", "registry", "cargo fetch", "Corpus::open"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_series_is_not_a_longer_number() {
        // 0.17 must not find 0.170.x; the newest patch of 0.17 wins by number, not by spelling.
        let found = find_crate("ndarray", "0.17").unwrap();
        assert!(found.file_name().unwrap().to_string_lossy().starts_with("ndarray-0.17."), "{found:?}");
        assert!(find_crate("ndarray", "0.1").is_err());
    }
}
