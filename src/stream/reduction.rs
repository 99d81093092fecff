//! A statistic of texts of any size: one value for each shard, joined along the tree, finished ones kept as files.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::shards::{Sequences, Shards};
use super::{Peers, Streaming};
use crate::data::{TextFiles, Tokenize};
use crate::model::Transformer;
use crate::session::Progress;
use crate::{Error, ErrorKind, Result, record};

/// What a shard is reduced to.
pub(super) trait Reduced: Sized {
    /// Tokens that it is of.
    fn n_tokens(&self) -> u64;

    /// The model that it is of.
    fn fingerprint(&self) -> u64;

    /// That of this one's tokens and of those that follow.
    fn join(self, right: Self) -> Result<Self>;

    /// A record: length and checksum are told.
    fn to_bytes(&self) -> Result<Vec<u8>>;

    /// Reads such a record, or refuses it.
    fn from_bytes(bytes: &[u8]) -> Result<Self>;
}

/// What a reduction is made from.
pub(super) struct Reduction<'a> {
    pub(super) how: &'a Streaming,
    pub(super) peers: &'a dyn Peers,
    pub(super) model: &'a Transformer,
    pub(super) tokenizer: &'a dyn Tokenize,
    pub(super) texts: &'a TextFiles,
}

impl Reduction<'_> {
    /// Joins what `of_sequences` makes of each shard; the result is at rank 0. Files of finished shards end with
    /// `kind`; `of` tells apart those of the same kind, model and texts.
    pub(super) fn run<T: Reduced>(
        &self,
        kind: &'static str,
        of: u32,
        of_sequences: &dyn Fn(&[Vec<u32>]) -> Result<T>,
    ) -> Result<Option<T>> {
        let n_ctx = self.how.checked(self.model, self.tokenizer)?;
        let shards = Shards::plan(self.texts, self.how.shard_bytes)?;
        let fingerprint = self.model.fingerprint();
        let run = self.how.run(n_ctx, &shards) ^ of;
        let kept = self.how.folder.as_ref().map(|folder| Kept::open(folder, run, fingerprint, kind));
        let kept = kept.transpose()?;
        let share = shards.tree().share(self.peers);
        let mut sequences = Sequences::new(self.texts, self.tokenizer, n_ctx, self.how.shortest);
        let mut progress = (self.peers.rank() == 0).then(|| Progress::new("shards", share.len()));
        let mut n_tokens = 0;
        let began = Instant::now();
        let mut leaf = |shard: usize| {
            let value = match kept.as_ref().and_then(|kept| kept.load::<T>(shard)) {
                Some(value) => value,
                None => {
                    let sequences = sequences.of_documents(shards.first[shard], shards.first[shard + 1])?;
                    let value = of_sequences(&sequences)?;
                    n_tokens += value.n_tokens();
                    if let Some(kept) = &kept {
                        record::write_atomic(&kept.file(shard), &value.to_bytes()?)?;
                    }
                    value
                }
            };
            if let Some(progress) = &mut progress {
                let rate = n_tokens as f64 / began.elapsed().as_secs_f64();
                progress.update(shard + 1 - share.start, || format!("{n_tokens} tokens, {rate:.0} a second"));
            }
            Ok(value)
        };
        let joined = shards.tree().fold(
            self.peers,
            &mut leaf,
            &T::join,
            &|value: &T| value.to_bytes(),
            &T::from_bytes,
        )?;
        if let Some(progress) = progress {
            let megabytes = shards.n_bytes as f64 / 1e6;
            progress.finish(&format!("{megabytes:.1} MB of text, {n_tokens} tokens here"));
        }
        Ok(joined)
    }
}

/// The user asked the running reduction to stop.
pub(super) fn interrupted() -> Error {
    Error::new(
        ErrorKind::Interrupted,
        "interrupted within a shard",
        "with a folder for finished shards (`folder`) the same call continues after the last of them",
    )
}

/// Finished shards as files.
struct Kept {
    folder: PathBuf,
    run: u32,
    fingerprint: u64,
    kind: &'static str,
}

impl Kept {
    fn open(folder: &Path, run: u32, fingerprint: u64, kind: &'static str) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| {
            Error::of_file(
                format!("cannot make the folder {}", folder.display()),
                e,
                "name a folder that can be written to",
            )
        })?;
        Ok(Kept { folder: folder.into(), run, fingerprint, kind })
    }

    fn file(&self, shard: usize) -> PathBuf {
        let Kept { run, fingerprint, kind, .. } = self;
        self.folder.join(format!("{fingerprint:016x}-{run:08x}-{shard:06}.{kind}"))
    }

    /// A shard that is there, whole, and of this model. Any other is made again.
    fn load<T: Reduced>(&self, shard: usize) -> Option<T> {
        let bytes = std::fs::read(self.file(shard)).ok()?;
        T::from_bytes(&bytes).ok().filter(|value| value.fingerprint() == self.fingerprint)
    }
}
