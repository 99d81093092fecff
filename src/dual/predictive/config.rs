//! The shape of a predictive-coding network.

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// How alike two positions are for an error at one to count at the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kernel {
    /// `κ = (W_K e_j) · (W_Q e_i)`: gradient descent.
    Linear,
    /// The same divided by `√d_key`, then a softmax over the pairs that position `i` sees: a kernel smoother of the
    /// errors.
    #[default]
    Softmax,
}

impl Kernel {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kernel::Linear => "linear",
            Kernel::Softmax => "softmax",
        }
    }
}

/// The shape of a [`PredictiveCoding`](super::PredictiveCoding) network.
///
/// ```
/// use onelens::dual::{PredictiveCoding, PredictiveConfig};
/// let config = PredictiveConfig { d_vocab: 8, d_model: 4, d_key: 4, n_layers: 2, looped: true, ..Default::default() };
/// // Embedding 8 · 4, first prediction 4 · 4, one pair of keys and queries, one step size, logit biases 8.
/// assert_eq!(PredictiveCoding::new(config)?.params.count(), 32 + 16 + 2 * 16 + 1 + 8);
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PredictiveConfig {
    /// Number of different tokens.
    pub d_vocab: usize,
    /// Tokens in a training sequence. Longer ones can be read.
    pub n_ctx: usize,
    /// Width of embeddings and predictions.
    pub d_model: usize,
    /// Width of keys and queries.
    pub d_key: usize,
    /// Number of corrections.
    pub n_layers: usize,
    /// How alike two positions are.
    pub kernel: Kernel,
    /// One set of keys, queries and step size for all layers.
    pub looped: bool,
    /// Whether the unembedding is the embedding.
    pub tied: bool,
    /// Seed of the initial weights.
    pub seed: u64,
}

impl Default for PredictiveConfig {
    fn default() -> Self {
        PredictiveConfig {
            d_vocab: 26,
            n_ctx: 48,
            d_model: 32,
            d_key: 32,
            n_layers: 2,
            kernel: Kernel::Softmax,
            looped: false,
            tied: true,
            seed: 0,
        }
    }
}

impl PredictiveConfig {
    /// Refuses what cannot be built.
    pub(super) fn check(&self) -> Result<()> {
        let counts = [
            ("d_vocab", self.d_vocab, 2),
            ("n_ctx", self.n_ctx, 2),
            ("d_model", self.d_model, 1),
            ("d_key", self.d_key, 1),
            ("n_layers", self.n_layers, 1),
        ];
        match counts.iter().find(|(_, value, least)| value < least || *value > 1 << 20) {
            None => Ok(()),
            Some((name, value, least)) => Err(Error::new(
                ErrorKind::Config,
                format!("{name} is {value}"),
                format!("set {name} to a number from {least} to {}", 1 << 20),
            )),
        }
    }

    /// Sets of keys, queries and step size.
    pub(super) fn n_sets(&self) -> usize {
        if self.looped { 1 } else { self.n_layers }
    }
}
