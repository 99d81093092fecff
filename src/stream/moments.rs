//! Moments of texts of any size.

use std::path::PathBuf;

use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::reduction::{Reduced, Reduction, interrupted};
use super::shards::{Shards, as_array, chunks};
use super::{Alone, Peers};
use crate::data::{TextFiles, Tokenize};
use crate::lens::{Accumulator, LayerMoments, Scale, Seen, Target};
use crate::model::Transformer;
use crate::session;
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
    /// A shard ends with the document at which it has so much text. Results depend on it in their last digits; what a
    /// process holds does not.
    pub shard_bytes: usize,
    /// Where finished shards are kept until all are done, so that an interrupted run continues where it was. The folder
    /// is made if it is not there.
    pub folder: Option<PathBuf>,
    /// What lenses of the moments read.
    pub scale: Scale,
    /// What they predict.
    pub target: Target,
}

impl Default for Streaming {
    /// The model's context, sequences of at least two tokens, shards of 1 MiB, nothing kept, moments as
    /// [`LayerMoments::collect`] makes them.
    fn default() -> Self {
        Streaming {
            n_ctx: 0,
            shortest: 2,
            shard_bytes: 1 << 20,
            folder: None,
            scale: Scale::default(),
            target: Target::default(),
        }
    }
}

/// Sequences that one thread runs at a time.
pub(super) const CHUNK: usize = 4;

impl Streaming {
    /// Gathers the moments of every layer of `model` over `texts`, in constant memory: one shard's text, and as many
    /// moments as a tree over the shards is deep.
    ///
    /// Fails if the texts cannot be read, the tokenizer has more tokens than the model, for [`Target::Given`], or when
    /// interrupted.
    pub fn moments(
        &self,
        model: &Transformer,
        tokenizer: &dyn Tokenize,
        texts: &TextFiles,
    ) -> Result<LayerMoments> {
        Ok(self.moments_among(&Alone, model, tokenizer, texts)?.expect("alone, it is rank 0"))
    }

    /// Does the same, with the shards dealt out among processes that all call this with the same arguments. The result
    /// is at rank 0, and has the same bytes for any number of them.
    pub fn moments_among(
        &self,
        peers: &dyn Peers,
        model: &Transformer,
        tokenizer: &dyn Tokenize,
        texts: &TextFiles,
    ) -> Result<Option<LayerMoments>> {
        let job = Reduction { how: self, peers, model, tokenizer, texts };
        let empty = LayerMoments::nothing(model, self.scale, self.target)?;
        let moments = job.run("moments", 0, &|sequences| of_sequences(model, &empty, sequences))?;
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

    /// Returns the first `n` sequences of full length: `[n, n_ctx]`.
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
            let document = tokenizer.tokens(&document?)?;
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
        let Streaming { n_ctx: _, shortest, shard_bytes, folder: _, scale, target } = self;
        let of = shards.checksum;
        crc32fast::hash(format!("{n_ctx} {shortest} {shard_bytes} {scale:?} {target:?} {of:08x}").as_bytes())
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
                "sequences of {} to {n_ctx} tokens in shards of {} bytes cannot be read with a context of {}",
                self.shortest, self.shard_bytes, model.config.n_ctx
            ),
            "shards have at least one byte; lengths go from 1 up to the model's context, `shortest` not above `n_ctx`",
        ))
    }
}

/// The moments of some sequences, in their order. Nothing is said of progress.
///
/// Threads share the sequences while the model runs, then the layers while rows are added: moments are much larger than
/// the streams of a few sequences, and there is one set of them whatever the number of threads.
fn of_sequences(model: &Transformer, empty: &LayerMoments, sequences: &[Vec<u32>]) -> Result<LayerMoments> {
    let mut all = Accumulator::new(empty);
    // Rows are added in their order, so that nothing depends on the length of a round.
    for round in chunks(sequences, CHUNK).chunks(2 * rayon::current_num_threads()) {
        if session::interrupted() {
            return Err(interrupted());
        }
        for chunks in round.chunk_by(|a, b| a[0].len() == b[0].len()) {
            let tokens: Vec<Array2<u32>> = chunks.iter().map(|chunk| as_array(chunk)).collect();
            let views: Vec<ArrayView2<u32>> = tokens.iter().map(|tokens| tokens.view()).collect();
            let see = |streams| Seen::new(model, streams, (empty.scale, empty.target), None);
            let parts: Vec<Seen> = model.streams(&views).into_par_iter().map(see).collect();
            parts.iter().try_for_each(|part| part.add_to(&mut all))?;
        }
    }
    Ok(all.finish())
}

impl Reduced for LayerMoments {
    fn n_tokens(&self) -> u64 {
        self.n()
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    fn join(mut self, right: Self) -> Result<Self> {
        self.merge(&right).map(|()| self)
    }

    fn to_bytes(&self) -> Result<Vec<u8>> {
        LayerMoments::to_bytes(self)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self> {
        LayerMoments::from_bytes(bytes)
    }
}
