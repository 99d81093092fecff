//! The shape of a network.

use serde::{Deserialize, Serialize};

use super::architecture::{Attention, Blocks, Mlp, Norm, Positions, Residual, Supervision};
use crate::nn::{Mask, Pairs};
use crate::{Error, ErrorKind, Result};

/// The shape of a transformer. Counts start with `n_`, widths with `d_`, as in TransformerLens.
///
/// The default is GPT-2's architecture with a free unembedding. Others are struct updates:
///
/// ```
/// use onelens::model::{Config, Mlp, Norm, Positions, Rotary};
/// let config = Config { d_vocab: 50, n_layers: 2, ..Default::default() };
/// assert_eq!(config.n_heads * config.d_head, config.d_model);
/// assert!(config.check().is_ok());
///
/// let llama = Config {
///     norm: Norm::Rms,
///     positions: Positions::Rotary(Rotary::default()),
///     mlp: Mlp::SwiGlu,
///     n_kv_heads: Some(2),
///     bias: false,
///     bias_u: false,
///     tied: true,
///     ..Default::default()
/// };
/// assert!(llama.check().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Number of different tokens.
    pub d_vocab: usize,
    /// Longest context, in tokens.
    pub n_ctx: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Number of blocks that a token passes; with [`Blocks::Looped`] all of them are the same one.
    pub n_layers: usize,
    /// Attention heads per block.
    pub n_heads: usize,
    /// Key and value heads, each read by `n_heads / n_kv_heads` query heads (Ainslie et al. 2023). `None`: one for each.
    pub n_kv_heads: Option<usize>,
    /// Width of a head.
    pub d_head: usize,
    /// Hidden width of the MLP.
    pub d_mlp: usize,
    /// Normalisation before attention, before the MLP and before the unembedding.
    pub norm: Norm,
    /// Added inside the root of a norm.
    pub eps: f64,
    /// How a position is told.
    pub positions: Positions,
    /// Softmax or linear attention.
    pub attention: Attention,
    /// Which positions a position sees.
    pub mask: Mask,
    /// The kind of MLP.
    pub mlp: Mlp,
    /// How a block writes into the residual stream.
    pub residual: Residual,
    /// Weights of their own for each block, or one block for all.
    pub blocks: Blocks,
    /// Whether attention, MLP and layer norm have biases. RMS norm never has one.
    pub bias: bool,
    /// Whether the logits have a bias.
    pub bias_u: bool,
    /// Whether the unembedding is the embedding transposed (Hugging Face: `tie_word_embeddings`).
    pub tied: bool,
    /// Which layers are trained to predict.
    pub supervision: Supervision,
    /// Seed of the initial weights.
    pub seed: u64,
}

impl Default for Config {
    /// Six blocks of width 64 over 64 tokens: small enough to train while you read.
    fn default() -> Self {
        Config {
            d_vocab: 96,
            n_ctx: 64,
            d_model: 64,
            n_layers: 6,
            n_heads: 4,
            n_kv_heads: None,
            d_head: 16,
            d_mlp: 256,
            norm: Norm::Layer,
            eps: 1e-5,
            positions: Positions::Learned,
            attention: Attention::Softmax,
            mask: Mask::Causal,
            mlp: Mlp::GeluTanh,
            residual: Residual::Sequential,
            blocks: Blocks::Distinct,
            bias: true,
            bias_u: true,
            tied: false,
            supervision: Supervision::Final,
            seed: 0,
        }
    }
}

impl Config {
    /// Refuses what cannot be built, naming the setting, or both settings that exclude each other.
    pub fn check(&self) -> Result<()> {
        self.check_counts()?;
        if self.norm != Norm::None && !(self.eps > 0.0 && self.eps.is_finite()) {
            return refuse(
                format!("eps is {}", self.eps),
                "set eps to a small positive number, for example 1e-5",
            );
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads()) {
            return refuse(
                format!("n_heads is {} and n_kv_heads {}", self.n_heads, self.n_kv_heads()),
                "set n_kv_heads to a divisor of n_heads: each key/value head serves equally many query heads",
            );
        }
        if let Positions::Rotary(rotary) = &self.positions {
            let d_rotary = rotary.d_rotary.unwrap_or(self.d_head);
            if d_rotary == 0 || d_rotary > self.d_head || !d_rotary.is_multiple_of(2) {
                return refuse(
                    format!("positions turns {d_rotary} dimensions of a head and d_head is {}", self.d_head),
                    "set d_rotary to an even number of at most d_head: rotary positions turn pairs",
                );
            }
            if !(rotary.theta > 0.0 && rotary.theta.is_finite()) {
                return refuse(
                    format!("theta of the rotary positions is {}", rotary.theta),
                    "set theta to a positive number, for example 10000",
                );
            }
        }
        if let Mask::Prefix(n) = self.mask
            && n > self.n_ctx
        {
            return refuse(
                format!("mask is Prefix({n}) and n_ctx {}", self.n_ctx),
                "set a prefix of at most n_ctx positions, or a larger n_ctx",
            );
        }
        if self.residual == Residual::Parallel && self.mlp == Mlp::None {
            return refuse(
                "residual is Parallel and mlp None",
                "a parallel block adds attention and an MLP; set residual to Sequential, or mlp to another kind",
            );
        }
        Ok(())
    }

    fn check_counts(&self) -> Result<()> {
        let counts = [
            ("d_vocab", self.d_vocab),
            ("n_ctx", self.n_ctx),
            ("d_model", self.d_model),
            ("n_layers", self.n_layers),
            ("n_heads", self.n_heads),
            ("n_kv_heads", self.n_kv_heads()),
            ("d_head", self.d_head),
            // Without an MLP nobody asks how wide it is.
            ("d_mlp", if self.mlp == Mlp::None { 1 } else { self.d_mlp }),
        ];
        for (name, value) in counts {
            if value == 0 || value > 1 << 24 {
                return refuse(
                    format!("{name} is {value}"),
                    format!("set {name} to a number from 1 to {}", 1 << 24),
                );
            }
        }
        Ok(())
    }

    /// Key and value heads: `n_kv_heads`, or as many as `n_heads`.
    pub fn n_kv_heads(&self) -> usize {
        self.n_kv_heads.unwrap_or(self.n_heads)
    }

    /// Blocks with weights of their own: `n_layers`, or one if it is looped.
    pub fn n_distinct_blocks(&self) -> usize {
        match self.blocks {
            Blocks::Distinct => self.n_layers,
            Blocks::Looped { .. } => 1,
        }
    }

    /// The architecture in words, without sizes.
    ///
    /// ```
    /// use onelens::model::{Blocks, Config, Norm};
    /// let config = Config { norm: Norm::Rms, blocks: Blocks::Looped { inject: true }, ..Default::default() };
    /// let words = config.describe();
    /// assert!(words.contains("RMS norm") && words.contains("one block looped, with input injection"));
    /// ```
    pub fn describe(&self) -> String {
        let mut words = vec!["decoder".to_string()];
        let norm = match self.norm {
            Norm::Layer => "pre-norm, layer norm",
            Norm::Rms => "pre-norm, RMS norm",
            Norm::None => "no norm",
        };
        let positions = match &self.positions {
            Positions::Learned => "learned positions".into(),
            Positions::None => "no positions".into(),
            Positions::Rotary(r) => {
                let pairs = match r.pairs {
                    Pairs::Adjacent => "adjacent pairs",
                    Pairs::Half => "halves",
                };
                format!(
                    "rotary positions ({pairs}, {} of {} dimensions, theta {})",
                    r.d_rotary.unwrap_or(self.d_head),
                    self.d_head,
                    r.theta
                )
            }
        };
        let mlp = match self.mlp {
            Mlp::GeluTanh => "GELU",
            Mlp::Gelu => "exact GELU",
            Mlp::Relu => "ReLU",
            Mlp::SwiGlu => "SwiGLU",
            Mlp::None => "no MLP",
        };
        let attention = match self.attention {
            Attention::Softmax => "softmax attention",
            Attention::Linear => "linear attention",
        };
        words.extend([norm.into(), positions, mlp.into(), attention.into()]);
        match self.mask {
            Mask::Causal => {}
            Mask::Prefix(n) => words.push(format!("prefix of {n} positions")),
            Mask::None => words.push("no mask".into()),
        }
        if self.n_kv_heads() != self.n_heads {
            words.push(format!("{} key/value heads", self.n_kv_heads()));
        }
        match self.residual {
            Residual::Sequential => {}
            Residual::Parallel => words.push("parallel residual".into()),
            Residual::None => words.push("no skip connections".into()),
        }
        match self.blocks {
            Blocks::Distinct => {}
            Blocks::Looped { inject: false } => words.push("one block looped".into()),
            Blocks::Looped { inject: true } => words.push("one block looped, with input injection".into()),
        }
        if !self.bias {
            words.push("no biases".into());
        }
        if self.tied {
            words.push("tied unembedding".into());
        }
        if self.supervision == Supervision::EveryLayer {
            words.push("every layer supervised".into());
        }
        words.join(", ")
    }
}

fn refuse<T>(what: impl Into<String>, help: impl Into<String>) -> Result<T> {
    Err(Error::new(ErrorKind::Config, what, help))
}
