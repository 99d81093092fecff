//! A transformer: its shape and its weights, and what can be asked of them.

use std::borrow::Cow;

use ndarray::{Array2, ArrayView2};

use super::architecture::Mlp;
use super::forward::{Tape, forward, unembed};
use super::network::Network;
use super::taps::Taps;
use super::{Config, Params};
use crate::num::log_softmax_rows;
use crate::{Error, ErrorKind, Result};

/// A decoder-only transformer. The default [`Config`] is GPT-2's architecture (Radford et al. 2019): pre-norm blocks,
/// learned positions, GELU; with a free unembedding.
#[derive(Clone, PartialEq)]
pub struct Transformer {
    /// The shape.
    pub config: Config,
    /// The weights.
    pub params: Params,
}

impl Transformer {
    /// A network with the initial weights of `config.seed`.
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
    pub fn unembed(&self, h: ArrayView2<f32>) -> Array2<f32> {
        let net = Network::new(&self.config, &self.params, 1);
        log_softmax_rows(unembed(&net, h, &mut Taps::none(&self.config)).logits.view())
    }

    /// The same network for many passes of few tokens: what is stored in fewer bits is expanded once, and takes as much memory as `f32`.
    pub(crate) fn expanded(&self) -> Cow<'_, Transformer> {
        match self.params.is_packed() {
            true => Cow::Owned(Transformer { config: self.config.clone(), params: self.params.expanded() }),
            false => Cow::Borrowed(self),
        }
    }

    /// A number that two models share only if shape and weights are the same, bit for bit (FNV-1a).
    ///
    /// Moments and lenses carry it, so that a lens is never read with another model by mistake.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut eat = |word: u64| hash = (hash ^ word).wrapping_mul(0x0100_0000_01b3);
        let c = &self.config;
        for size in [c.d_vocab, c.n_ctx, c.d_model, c.n_layers, c.n_heads, c.d_head, c.d_mlp] {
            eat(size as u64);
        }
        eat(c.eps.to_bits());
        // What the sizes of the weights do not tell; the default says nothing.
        let usual = Config::default().describe();
        let words = c.describe();
        if words != usual {
            words.bytes().for_each(|byte| eat(u64::from(byte)));
        }
        self.params.for_each(|numbers| numbers.iter().for_each(|x| eat(u64::from(x.to_bits()))));
        hash
    }

    /// The forward pass over tokens that were checked.
    pub(crate) fn tape(&self, tokens: ArrayView2<u32>) -> Tape {
        let net = Network::new(&self.config, &self.params, tokens.ncols());
        forward(&net, tokens, &mut Taps::none(&self.config))
    }

    /// Refuses what cannot be run, naming the number that does not fit.
    pub(crate) fn check_tokens(&self, tokens: &Array2<u32>) -> Result<()> {
        self.check_shape(tokens.dim())?;
        self.check_range(tokens)
    }

    /// Refuses a batch that is empty or longer than the context.
    pub(crate) fn check_shape(&self, (n_seqs, n_pos): (usize, usize)) -> Result<()> {
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
        Ok(())
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
