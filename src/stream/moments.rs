//! Moments of texts of any size.

use std::path::{Path, PathBuf};

use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::shards::{Sequences, Shards};
use super::{Alone, Peers};
use crate::data::{TextFiles, Tokenize};
use crate::lens::LayerMoments;
use crate::model::Transformer;
use crate::session::{self, Progress};
use crate::{Error, ErrorKind, Result};

/// How texts become moments.
///
/// ```
/// use onelens::data::{TextFiles, Vocab};
/// use onelens::model::{Config, Transformer};
/// use onelens::stream::{Streaming, Threads};
/// let folder = std::env::temp_dir().join(format!("onelens-doc-stream-{}", std::process::id()));
/// std::fs::create_dir_all(&folder).unwrap();
/// std::fs::write(folder.join("text.jsonl"), "\"abcabcab\"\n\"cabcab\"\n\"bcabca\"\n").unwrap();
/// let vocab = Vocab::from_text("abc", 1);
/// let model = Transformer::new(Config { d_vocab: 4, n_layers: 2, n_ctx: 8, ..Default::default() })?;
/// let texts = TextFiles::open([folder.join("text.jsonl")])?;
///
/// let how = Streaming { shard_bytes: 8, ..Default::default() };
/// let moments = how.moments(&model, &vocab, &texts)?;
/// assert_eq!(moments.n(), 20);
/// let shared = Threads::run(3, |peers| how.moments_among(peers, &model, &vocab, &texts))?;
/// assert!(shared[0].as_ref() == Some(&moments)); // the same numbers, bit for bit
/// # std::fs::remove_dir_all(folder).unwrap();
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Streaming {
    /// Longest sequence; 0 for the model's `n_ctx`. Documents are cut into sequences of this length.
    pub n_ctx: usize,
    /// Sequences shorter than this are left out.
    pub shortest: usize,
    /// A shard ends with the document at which it has so much text. Results depend on it in their last digits; what a process
    /// holds does not.
    pub shard_bytes: usize,
    /// Where finished shards are kept until all are done, so that an interrupted run goes on where it was. The folder is
    /// made if it is not there.
    pub folder: Option<PathBuf>,
}

impl Default for Streaming {
    /// The model's context, sequences of at least two tokens, shards of 1 MiB, nothing kept.
    fn default() -> Self {
        Streaming { n_ctx: 0, shortest: 2, shard_bytes: 1 << 20, folder: None }
    }
}

/// Sequences that one thread runs at a time.
const CHUNK: usize = 4;
/// Chunks between two looks at an interrupt.
const ROUND: usize = 64;

impl Streaming {
    /// The moments of every layer of `model` over `texts`, in constant memory: one shard's text, and as many moments as a tree
    /// over the shards is deep.
    ///
    /// Fails if the texts cannot be read, the tokenizer has more tokens than the model, or when interrupted.
    pub fn moments(
        &self,
        model: &Transformer,
        tokenizer: &dyn Tokenize,
        texts: &TextFiles,
    ) -> Result<LayerMoments> {
        Ok(self.moments_among(&Alone, model, tokenizer, texts)?.expect("alone, it is rank 0"))
    }

    /// The same, with the shards dealt out among processes that all call this with the same arguments. The result is at rank 0,
    /// and has the same bytes for any number of them.
    pub fn moments_among(
        &self,
        peers: &dyn Peers,
        model: &Transformer,
        tokenizer: &dyn Tokenize,
        texts: &TextFiles,
    ) -> Result<Option<LayerMoments>> {
        let n_ctx = self.checked(model, tokenizer)?;
        let shards = Shards::plan(texts, self.shard_bytes)?;
        let kept =
            self.folder.as_ref().map(|folder| Kept::open(folder, self, n_ctx, model, &shards)).transpose()?;
        let (first, end) = {
            let of = |rank| shards.first_of(rank, peers.size());
            (of(peers.rank()), of(peers.rank() + 1))
        };
        let mut sequences = Sequences::new(texts, tokenizer, n_ctx, self.shortest);
        let mut progress = (peers.rank() == 0).then(|| Progress::new("shards", end - first));
        let mut n_tokens = 0;
        let began = std::time::Instant::now();
        let mut leaf = |shard: usize| {
            let moments = match kept.as_ref().and_then(|kept| kept.load(shard)) {
                Some(moments) => moments,
                None => {
                    let sequences = sequences.of_documents(shards.first[shard], shards.first[shard + 1])?;
                    let moments = of_sequences(model, &sequences)?;
                    n_tokens += moments.n();
                    if let Some(kept) = &kept {
                        moments.save(kept.file(shard))?;
                    }
                    moments
                }
            };
            if let Some(progress) = &mut progress {
                let rate = n_tokens as f64 / began.elapsed().as_secs_f64();
                progress.update(shard + 1 - first, || format!("{n_tokens} tokens, {rate:.0} a second"));
            }
            Ok(moments)
        };
        let join = |mut left: LayerMoments, right: LayerMoments| left.merge(&right).map(|()| left);
        let pack = |moments: &LayerMoments| moments.to_bytes();
        let unpack = |bytes: &[u8]| LayerMoments::from_bytes(bytes);
        let moments = shards.fold(peers, &mut leaf, &join, &pack, &unpack)?;
        if let Some(progress) = progress {
            progress.finish(&format!("{} of text, {n_tokens} tokens here", megabytes(shards.n_bytes)));
        }
        if let Some(moments) = &moments
            && moments.n() == 0
        {
            return Err(Error::new(
                ErrorKind::Data,
                format!("no document has {} tokens", self.shortest),
                "lower `shortest`, or name other texts",
            ));
        }
        Ok(moments)
    }

    /// The first `n` sequences of full length: `[n, n_ctx]`.
    ///
    /// Fails if the texts do not have that many.
    pub fn sequences(
        &self,
        model: &Transformer,
        tokenizer: &dyn Tokenize,
        texts: &TextFiles,
        n: usize,
    ) -> Result<Array2<u32>> {
        let n_ctx = self.checked(model, tokenizer)?;
        let mut tokens = Vec::new();
        for document in texts.documents() {
            let document = tokenizer.tokens(&document?);
            let whole = document.chunks_exact(n_ctx).take(n - tokens.len() / n_ctx);
            tokens.extend(whole.flatten());
            if tokens.len() == n * n_ctx {
                break;
            }
        }
        let found = tokens.len() / n_ctx;
        if found < n || n == 0 {
            return Err(Error::new(
                ErrorKind::Data,
                format!("the texts have {found} sequences of {n_ctx} tokens, not {n}"),
                "ask for fewer, at least 1, or for shorter ones, or name more texts",
            ));
        }
        Ok(Array2::from_shape_vec((n, n_ctx), tokens).expect("whole sequences"))
    }

    /// By what a run is known, besides its model: shards of another one are not taken for ours.
    pub(super) fn run(&self, n_ctx: usize, shards: &Shards) -> u32 {
        let run = format!("{n_ctx} {} {} {:08x}", self.shortest, self.shard_bytes, shards.checksum);
        crc32fast::hash(run.as_bytes())
    }

    /// The length of sequences.
    pub(super) fn checked(&self, model: &Transformer, tokenizer: &dyn Tokenize) -> Result<usize> {
        if tokenizer.d_vocab() > model.config.d_vocab {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "the tokenizer has {} tokens, the model {}",
                    tokenizer.d_vocab(),
                    model.config.d_vocab
                ),
                "use the tokenizer that the model was trained with",
            ));
        }
        let n_ctx = if self.n_ctx == 0 { model.config.n_ctx } else { self.n_ctx };
        let fits =
            n_ctx <= model.config.n_ctx && (1..=n_ctx).contains(&self.shortest) && self.shard_bytes > 0;
        if fits {
            return Ok(n_ctx);
        }
        Err(Error::new(
            ErrorKind::Config,
            format!(
                "sequences of {} to {n_ctx} tokens, in shards of {} bytes, for a context of {}",
                self.shortest, self.shard_bytes, model.config.n_ctx
            ),
            "shards have at least one byte; lengths go from 1 up to the model's context, `shortest` not above `n_ctx`",
        ))
    }
}

/// The moments of some sequences, in their order. Nothing is said of progress.
fn of_sequences(model: &Transformer, sequences: &[Vec<u32>]) -> Result<LayerMoments> {
    let mut all = LayerMoments::new(model);
    let chunks: Vec<&[Vec<u32>]> =
        sequences.chunk_by(|a, b| a.len() == b.len()).flat_map(|run| run.chunks(CHUNK)).collect();
    for round in chunks.chunks(ROUND) {
        if session::interrupted() {
            return Err(Error::new(
                ErrorKind::Data,
                "interrupted within a shard",
                "with a folder for finished shards (`folder`) the same call goes on behind the last of them",
            ));
        }
        let parts: Vec<Result<LayerMoments>> = round
            .par_iter()
            .map(|chunk| {
                let tokens: Vec<u32> = chunk.iter().flatten().copied().collect();
                let shape = (chunk.len(), chunk[0].len());
                all.of_chunk(model, ArrayView2::from_shape(shape, &tokens).expect("equal lengths"), None)
            })
            .collect();
        let mut sum: Option<LayerMoments> = None;
        for part in parts {
            match &mut sum {
                None => sum = Some(part?),
                Some(sum) => sum.merge(&part?)?,
            }
        }
        if let Some(sum) = sum {
            all.merge(&sum)?;
        }
    }
    Ok(all)
}

/// Finished shards as files.
struct Kept {
    folder: PathBuf,
    run: u32,
    fingerprint: u64,
}

impl Kept {
    fn open(
        folder: &Path,
        how: &Streaming,
        n_ctx: usize,
        model: &Transformer,
        shards: &Shards,
    ) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| {
            Error::new(
                ErrorKind::File,
                format!("cannot make the folder {}: {e}", folder.display()),
                "name a folder that can be written to",
            )
        })?;
        Ok(Kept { folder: folder.into(), run: how.run(n_ctx, shards), fingerprint: model.fingerprint() })
    }

    fn file(&self, shard: usize) -> PathBuf {
        self.folder.join(format!("{:016x}-{:08x}-{shard:06}.moments", self.fingerprint, self.run))
    }

    /// A shard that is there, whole, and of this model.
    fn load(&self, shard: usize) -> Option<LayerMoments> {
        LayerMoments::load(self.file(shard)).ok().filter(|moments| moments.fingerprint == self.fingerprint)
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
