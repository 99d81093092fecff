//! A transformer: its shape and its weights, and what can be asked of them.

use std::borrow::Cow;
use std::ops::Range;

use ndarray::{Array2, ArrayView2};

use super::architecture::Mlp;
use super::forward::{Tape, final_norm, forward, logits_of, logits_of_part, streams_of};
use super::network::Network;
use super::run::N_PARTS;
use super::taps::Taps;
use super::{Config, Params};
use crate::num::{Precision, log_softmax_rows};
use crate::record::Fnv;
use crate::{Error, ErrorKind, Result, memory};

/// A decoder-only transformer. The default [`Config`] is GPT-2's architecture (Radford et al. 2019): pre-norm blocks,
/// learned positions, GELU; with a free unembedding.
#[derive(Clone, PartialEq)]
pub struct Transformer {
    /// The shape.
    pub config: Config,
    /// The weights.
    pub params: Params,
}

/// Refuses rows of another width.
pub(crate) fn check_width(what: &str, width: usize, rows: ArrayView2<f32>) -> Result<()> {
    if rows.ncols() == width {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Shape,
        format!("{what} rows of {width} numbers; these are {} rows of {}", rows.nrows(), rows.ncols()),
        format!("pass `[rows, {width}]`, a row for each token"),
    ))
}

impl Transformer {
    /// Makes a network with the initial weights of `config.seed`.
    ///
    /// ```
    /// use onelens::{model::{Config, Transformer}, ndarray::array};
    /// let model = Transformer::new(Config { d_vocab: 5, ..Default::default() })?;
    /// let logits = model.forward(&array![[0, 1, 2], [3, 4, 0]])?;
    /// assert_eq!(logits.dim(), (2, 3, 5));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn new(config: Config) -> Result<Self> {
        config.check()?;
        Ok(Transformer { params: Params::init(&config), config })
    }

    /// Decodes residual vectors `h: [rows, d_model]` through the final norm and the unembedding: log-probabilities
    /// `[rows, d_vocab]`. The last residual stream gives the model's own prediction, any other one the logit lens.
    ///
    /// Fails on rows of another width, or a configuration that does not fit the weights.
    pub fn decode(&self, h: ArrayView2<f32>) -> Result<Array2<f32>> {
        self.check_fit()?;
        check_width("the unembedding reads", self.config.d_model, h)?;
        Ok(log_softmax_rows(self.logits(h).view()))
    }

    /// The same network for many passes of few tokens: what is stored in fewer bits is expanded once, and takes as much
    /// memory as `f32`.
    pub(crate) fn expanded(&self) -> Cow<'_, Transformer> {
        match self.params.is_packed() {
            true => Cow::Owned(Transformer { config: self.config.clone(), params: self.params.expanded() }),
            false => Cow::Borrowed(self),
        }
    }

    /// Returns a number that two models share only if they compute the same with the same weights, bit for bit (FNV-1a
    /// over the settings as JSON and a hash of each tensor; the seed of the initial weights is none of it).
    ///
    /// Moments and lenses carry it, so that a lens is never read with another model by mistake.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Fnv::new("transformer 2");
        hash.settings(&Config { seed: 0, ..self.config.clone() }, &Config { seed: 0, ..Config::default() });
        self.params.hashes().into_iter().for_each(|tensor| hash.word(tensor));
        hash.finish()
    }

    /// The forward pass over tokens that were checked.
    pub(crate) fn tape(&self, tokens: ArrayView2<u32>) -> Tape {
        let net = Network::new(&self.config, &self.params, tokens.ncols());
        forward(&net, tokens, &mut Taps::none(&self.config))
    }

    /// The residual streams `h_0 ..= h_L`, `[sequence · pos, d_model]` each, of each part of a batch: tokens that were
    /// checked, in sequences of one length.
    pub(crate) fn streams(&self, parts: &[ArrayView2<u32>]) -> Vec<Vec<Array2<f32>>> {
        let Some(first) = parts.first() else { return Vec::new() };
        assert!(parts.iter().all(|part| part.ncols() == first.ncols()), "sequences of one length");
        streams_of(&Network::new(&self.config, &self.params, first.ncols()), parts)
    }

    /// `h: [rows, d_model]` after the final norm, with its gain and bias: what the unembedding reads.
    pub(crate) fn normalised(&self, h: ArrayView2<f32>) -> Array2<f32> {
        final_norm(&self.config, &self.params, h, &mut Taps::none(&self.config)).out
    }

    /// Logits of what the final norm gave, `[rows, d_vocab]`.
    pub(crate) fn logits_of_normalised(&self, y: ArrayView2<f32>) -> Array2<f32> {
        logits_of(&self.config, &self.params, y, Precision::F32)
    }

    /// The same for some tokens, `[rows, tokens]`.
    pub(crate) fn logits_of_part(&self, y: ArrayView2<f32>, tokens: Range<usize>) -> Array2<f32> {
        logits_of_part(&self.config, &self.params, y, tokens)
    }

    /// Logits of residual vectors `h: [rows, d_model]`, `[rows, d_vocab]`.
    pub(crate) fn logits(&self, h: ArrayView2<f32>) -> Array2<f32> {
        self.logits_of_normalised(self.normalised(h).view())
    }

    /// Refuses what cannot be run, naming the number that does not fit.
    pub(crate) fn check_tokens(&self, tokens: &Array2<u32>) -> Result<()> {
        self.check_shape(tokens.dim())?;
        self.check_range(tokens)
    }

    /// Refuses weights that are not those of the configuration: both are open to change.
    pub(super) fn check_fit(&self) -> Result<()> {
        let Some(tensor) = self.params.misfit(&self.config) else { return Ok(()) };
        Err(Error::new(
            ErrorKind::Config,
            format!(
                "the weights `{tensor}` do not fit the configuration (n_layers {}, ..)",
                self.config.n_layers
            ),
            "settings of a network that is there cannot change alone: build another with `Transformer::new(config)`",
        ))
    }

    /// Refuses a batch that is empty or longer than the context, and weights that are not those of the configuration.
    pub(crate) fn check_shape(&self, (n_seqs, n_pos): (usize, usize)) -> Result<()> {
        self.check_fit()?;
        if n_seqs == 0 || n_pos == 0 {
            return Err(Error::new(
                ErrorKind::Data,
                format!("a batch of {n_seqs} sequences with {n_pos} tokens each is empty"),
                "pass at least one sequence of at least one token",
            ));
        }
        if n_pos > self.config.n_ctx {
            return Err(Error::new(
                ErrorKind::Shape,
                format!(
                    "sequences of {n_pos} tokens do not fit the model's context of {}",
                    self.config.n_ctx
                ),
                format!(
                    "pass at most {} tokens, or build the model with a larger `n_ctx`",
                    self.config.n_ctx
                ),
            ));
        }
        // Of one block, one part of the batch at a time.
        let pattern = [n_seqs.div_ceil(N_PARTS), self.config.n_heads, n_pos, n_pos, size_of::<f32>()];
        memory::check(
            pattern.iter().map(|&n| n as u128).product(),
            &format!("attention patterns of {n_seqs} sequences with {n_pos} tokens"),
            "pass shorter sequences, or fewer at a time",
        )
    }

    pub(crate) fn check_range(&self, tokens: &Array2<u32>) -> Result<()> {
        match tokens.indexed_iter().find(|(_, t)| **t as usize >= self.config.d_vocab) {
            None => Ok(()),
            Some(((sequence, pos), token)) => Err(Error::new(
                ErrorKind::Data,
                format!(
                    "token {token} (sequence {sequence}, position {pos}) is outside the vocabulary of {}",
                    self.config.d_vocab
                ),
                format!(
                    "tokens are 0 to {}; was the text encoded with another vocabulary?",
                    self.config.d_vocab - 1
                ),
            )),
        }
    }
}

impl std::fmt::Debug for Transformer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let c = &self.config;
        write!(
            f,
            "Transformer: {} blocks, d_model {}, {} heads of {}, ",
            c.n_layers, c.d_model, c.n_heads, c.d_head
        )?;
        if c.mlp != Mlp::None {
            write!(f, "d_mlp {}, ", c.d_mlp)?;
        }
        write!(f, "{} tokens, context {}, {} parameters", c.d_vocab, c.n_ctx, self.params.count())
    }
}
