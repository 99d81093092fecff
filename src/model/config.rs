//! The shape of a network.

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// The shape of a transformer. Counts start with `n_`, widths with `d_`, as in TransformerLens.
///
/// ```
/// use onelens::model::Config;
/// let config = Config { d_vocab: 50, n_layers: 2, ..Default::default() };
/// assert_eq!(config.n_heads * config.d_head, config.d_model);
/// assert!(config.check().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Number of different tokens.
    pub d_vocab: usize,
    /// Longest context, in tokens.
    pub n_ctx: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Number of blocks.
    pub n_layers: usize,
    /// Attention heads per block.
    pub n_heads: usize,
    /// Width of a head.
    pub d_head: usize,
    /// Hidden width of the MLP.
    pub d_mlp: usize,
    /// Added to the variance in layer normalisation.
    pub eps: f64,
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
            d_head: 16,
            d_mlp: 256,
            eps: 1e-5,
            seed: 0,
        }
    }
}

impl Config {
    /// Refuses what cannot be built, naming the setting.
    pub fn check(&self) -> Result<()> {
        let counts = [
            ("d_vocab", self.d_vocab),
            ("n_ctx", self.n_ctx),
            ("d_model", self.d_model),
            ("n_layers", self.n_layers),
            ("n_heads", self.n_heads),
            ("d_head", self.d_head),
            ("d_mlp", self.d_mlp),
        ];
        for (name, value) in counts {
            if value == 0 || value > 1 << 24 {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!("{name} is {value}"),
                    format!("set {name} to a number from 1 to {}", 1 << 24),
                ));
            }
        }
        if !(self.eps > 0.0 && self.eps.is_finite()) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("eps is {}", self.eps),
                "set eps to a small positive number, for example 1e-5",
            ));
        }
        Ok(())
    }
}
