//! Lenses refined on texts of any size.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ndarray::{Array2, CowArray, Ix2};

use super::Streaming;
use super::reduction::interrupted;
use super::shards::{Sequences, Shards, chunks};
use crate::data::{TextFiles, Tokenize};
use crate::lens::{CHUNK, LayerLenses, LayerMoments, Refine, TokenChunks, TunedLens, Until};
use crate::model::Transformer;
use crate::session::{self, Progress};
use crate::{Error, ErrorKind, Result, record};

impl Streaming {
    /// Refines lenses as [`Refine::fit`] does, on texts of any size in constant memory: `start` are lenses fitted to
    /// `moments`, which this streaming has made of other or the same texts.
    ///
    /// The [`folder`](Streaming::folder), which this needs, keeps the tokens, 4 bytes each, and where the search stands
    /// after each epoch and each step of L-BFGS: the same call continues from there, with the numbers of a search that
    /// never stopped.
    ///
    /// Fails without a folder, where [`moments`](Streaming::moments) and [`Refine::fit`] do, or when interrupted.
    ///
    /// ```
    /// use onelens::{data::{TextFiles, Vocab}, lens::{Refine, Ridge}, model::{Config, Transformer}, stream::Streaming};
    /// let folder = std::env::temp_dir().join(format!("onelens-doc-refine-{}", std::process::id()));
    /// std::fs::create_dir_all(&folder).unwrap();
    /// std::fs::write(folder.join("text.jsonl"), "\"abcabcab\"\n\"cabacb\"\n\"bca\"\n".repeat(40)).unwrap();
    /// let model = Transformer::new(Config { d_vocab: 4, n_layers: 2, n_ctx: 8, ..Default::default() })?;
    /// let texts = TextFiles::open([folder.join("text.jsonl")])?;
    /// let how = Streaming { folder: Some(folder.join("kept")), ..Default::default() };
    /// let vocab = Vocab::from_text("abc", 1);
    ///
    /// let moments = how.moments(&model, &vocab, &texts)?;
    /// let own = Ridge::default().own(&moments)?;
    /// let refine = Refine { epochs: 0, lbfgs_steps: 3, ..Default::default() };
    /// let tuned = how.refine(&refine, &model, &vocab, &texts, &own, &moments)?;
    /// assert!(tuned.training_kl[(3, 0)] <= tuned.training_kl[(0, 0)]); // at the end, and where it began
    /// # std::fs::remove_dir_all(folder).unwrap();
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn refine(
        &self,
        how: &Refine,
        model: &Transformer,
        tokenizer: &dyn Tokenize,
        texts: &TextFiles,
        start: &LayerLenses,
        moments: &LayerMoments,
    ) -> Result<TunedLens> {
        let n_ctx = self.checked(model, tokenizer)?;
        let Some(folder) = &self.folder else {
            return Err(Error::new(
                ErrorKind::Config,
                "a refinement on texts has no folder to keep their tokens in",
                "set `folder`; the texts need 4 bytes there for each token",
            ));
        };
        start.check_fits(model)?;
        std::fs::create_dir_all(folder).map_err(|e| cannot("make the folder", folder, e))?;
        let shards = Shards::plan(texts, self.shard_bytes)?;
        let run = self.run(n_ctx, &shards);
        let fingerprint = model.fingerprint();
        let path = folder.join(format!("{fingerprint:016x}-{run:08x}.tokens"));
        let record = Record { n_ctx, d_vocab: model.config.d_vocab };
        let tokens = match TokenFile::open(&path, record) {
            Some(tokens) => tokens,
            None => {
                let sequences = Sequences::new(texts, tokenizer, n_ctx, self.shortest);
                TokenFile::write(&path, record, &shards, sequences)?
            }
        };
        if tokens.n_tokens == 0 {
            return Err(Error::new(
                ErrorKind::Data,
                format!("no document has {} tokens", self.shortest),
                "lower `shortest`, or name other texts",
            ));
        }
        let (start_sum, moments_sum) = (start.checksum(), moments.checksum());
        let kind = start.kind();
        let of = format!("{run:08x} {how:?} {kind:?} {start_sum:08x} {moments_sum:08x}");
        let of = crc32fast::hash(of.as_bytes());
        let kept = folder.join(format!("{fingerprint:016x}-{of:08x}.refinement"));
        how.fit_until(&Until::default(), model, start, moments, &tokens, Some(&kept))
    }
}

/// How a file of tokens is divided: into records of one size, each with as many numbers of 4 bytes as a chunk of the
/// longest sequences has tokens, after its number of sequences and their length.
#[derive(Clone, Copy)]
struct Record {
    n_ctx: usize,
    d_vocab: usize,
}

impl Record {
    fn n_bytes(self) -> usize {
        4 * (2 + CHUNK * self.n_ctx)
    }

    fn of(self, chunk: &[Vec<u32>]) -> Vec<u8> {
        let head = [chunk.len() as u32, chunk[0].len() as u32];
        let numbers = head.iter().chain(chunk.iter().flatten());
        let mut bytes: Vec<u8> = numbers.flat_map(|x| x.to_le_bytes()).collect();
        bytes.resize(self.n_bytes(), 0);
        bytes
    }
}

/// Tokens in a file: records, then the number of tokens and [`END`].
struct TokenFile {
    path: PathBuf,
    file: Mutex<File>,
    record: Record,
    n_chunks: usize,
    n_tokens: usize,
}

const END: [u8; 8] = *b"onelens1";

impl TokenFile {
    /// A file that is there and whole.
    fn open(path: &Path, record: Record) -> Option<Self> {
        let mut file = File::open(path).ok()?;
        let n_bytes = usize::try_from(file.metadata().ok()?.len()).ok()?;
        let records = n_bytes.checked_sub(16)?;
        let mut end = [0; 16];
        file.seek(SeekFrom::End(-16)).ok()?;
        file.read_exact(&mut end).ok()?;
        let (n_tokens, mark) = end.split_at(8);
        let n_tokens = u64::from_le_bytes(n_tokens.try_into().ok()?);
        (records.is_multiple_of(record.n_bytes()) && *mark == END).then_some(TokenFile {
            path: path.into(),
            file: Mutex::new(file),
            record,
            n_chunks: records / record.n_bytes(),
            n_tokens: usize::try_from(n_tokens).ok()?,
        })
    }

    /// Writes all sequences, one shard in memory at a time: under a temporary name first.
    fn write(path: &Path, record: Record, shards: &Shards, mut sequences: Sequences) -> Result<Self> {
        let temporary = record::temporary(path);
        let write = |e: std::io::Error| cannot("write", &temporary, e);
        let mut file = BufWriter::new(File::create_new(&temporary).map_err(write)?);
        let mut n_tokens = 0_u64;
        let mut progress = Progress::new("tokens", shards.len());
        for shard in 0..shards.len() {
            if session::interrupted() {
                // The error that is told is the interrupt.
                let _ = std::fs::remove_file(&temporary);
                return Err(interrupted());
            }
            let sequences = sequences.of_documents(shards.first[shard], shards.first[shard + 1])?;
            for chunk in chunks(&sequences, CHUNK) {
                n_tokens += chunk.iter().map(|sequence| sequence.len() as u64).sum::<u64>();
                file.write_all(&record.of(chunk)).map_err(write)?;
            }
            progress.update(shard + 1, || format!("{n_tokens} tokens"));
        }
        progress.finish(&format!("{n_tokens} tokens in {}", path.display()));
        file.write_all(&n_tokens.to_le_bytes()).and_then(|()| file.write_all(&END)).map_err(write)?;
        file.into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .and_then(|()| std::fs::rename(&temporary, path))
            .map_err(write)?;
        TokenFile::open(path, record).ok_or_else(|| damaged(path))
    }
}

impl TokenChunks for TokenFile {
    fn n_chunks(&self) -> usize {
        self.n_chunks
    }

    fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    fn chunk(&self, i: usize) -> Result<CowArray<'_, u32, Ix2>> {
        let mut bytes = vec![0; self.record.n_bytes()];
        {
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            file.seek(SeekFrom::Start((i * bytes.len()) as u64))
                .and_then(|_| file.read_exact(&mut bytes))
                .map_err(|e| cannot("read", &self.path, e))?;
        }
        let mut numbers = bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b) as usize);
        let (n_seqs, n_pos) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if !((1..=CHUNK).contains(&n_seqs) && (1..=self.record.n_ctx).contains(&n_pos)) {
            return Err(damaged(&self.path));
        }
        let tokens: Vec<u32> = numbers.take(n_seqs * n_pos).map(|token| token as u32).collect();
        if tokens.iter().any(|&token| token as usize >= self.record.d_vocab) {
            return Err(damaged(&self.path));
        }
        Ok(Array2::from_shape_vec((n_seqs, n_pos), tokens).expect("as many numbers").into())
    }
}

fn damaged(path: &Path) -> Error {
    let what = format!("{} is damaged: it holds tokens that nobody wrote", path.display());
    Error::new(ErrorKind::File, what, "remove it; it is made anew from the texts")
}

fn cannot(what: &str, path: &Path, e: std::io::Error) -> Error {
    Error::of_file(
        format!("cannot {what} {}", path.display()),
        e,
        "name a folder that can be written to, on a disk with 4 bytes for each token",
    )
}
