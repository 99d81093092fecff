//! The choices that make one transformer architecture differ from another.

use serde::{Deserialize, Serialize};

use crate::nn::Pairs;

/// Normalisation before attention, before the MLP and before the unembedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Norm {
    /// Layer normalisation (Ba et al. 2016), as in GPT-2 and GPT-NeoX.
    #[default]
    Layer,
    /// Root mean square normalisation (Zhang & Sennrich 2019), as in Llama: no centring, no bias.
    Rms,
    /// None.
    None,
}

/// How a position is told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Positions {
    /// A learned vector for each position, added to the embedding, as in GPT-2.
    #[default]
    Learned,
    /// Queries and keys turned by angles proportional to the position (Su et al. 2021).
    Rotary(Rotary),
    /// Not at all: only a mask tells the order.
    None,
}

/// Rotary positions: pair `i` of a head's first `d_rotary` dimensions turns by `t · theta^(-2i / d_rotary)` at position `t`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rotary {
    /// Which dimensions make a pair.
    pub pairs: Pairs,
    /// How many dimensions of each head turn; `None`: all of them. GPT-NeoX turns a quarter.
    pub d_rotary: Option<usize>,
    /// The base of the frequencies (Hugging Face: `rope_theta`).
    pub theta: f64,
}

impl Default for Rotary {
    fn default() -> Self {
        Rotary { pairs: Pairs::Adjacent, d_rotary: None, theta: 10_000.0 }
    }
}

/// How a query weighs what it sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attention {
    /// `softmax(q kᵀ / √d_head) v` (Vaswani et al. 2017).
    #[default]
    Softmax,
    /// `(q kᵀ) v`, neither scaled nor normalised (von Oswald et al. 2022).
    Linear,
}

/// The kind of MLP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mlp {
    /// GELU in its tanh form, as in GPT-2 (Hugging Face: `gelu_new`).
    #[default]
    GeluTanh,
    /// Exact GELU, `x Φ(x)`, as in GPT-NeoX (Hugging Face: `gelu`).
    Gelu,
    /// `max(x, 0)`.
    Relu,
    /// `silu(x W_gate) ∘ (x W_in)` (Shazeer 2020), as in Llama.
    SwiGlu,
    /// No MLP: attention only.
    None,
}

/// How a block writes into the residual stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Residual {
    /// Attention is added, then the MLP of the sum, as in GPT-2 and Llama.
    #[default]
    Sequential,
    /// Attention and MLP read the same stream, through a norm each, and both are added, as in GPT-NeoX (Hugging Face:
    /// `use_parallel_residual`).
    Parallel,
    /// No skip connection: attention replaces the stream, then the MLP does. The control.
    None,
}

/// Weights of their own for each block, or one block for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Blocks {
    /// Every block has its own weights.
    #[default]
    Distinct,
    /// One block, passed `n_layers` times.
    Looped {
        /// Whether the embedding is added to the stream again before every pass but the first (Yang et al. 2023).
        inject: bool,
    },
}

/// Which layers are trained to predict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Supervision {
    /// The last one.
    #[default]
    Final,
    /// Every one, through the final norm and unembedding; the training loss is the mean over layers.
    EveryLayer,
}
