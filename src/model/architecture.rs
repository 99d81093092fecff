//! The choices that make one transformer architecture differ from another.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::nn::{Activation, Pairs};

/// Which values a block normalises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NormAt {
    /// What attention and MLP read, and the last stream: pre-norm, as in GPT-2 and Llama.
    #[default]
    Input,
    /// What attention and MLP give, before it is added, and the last stream, as in OLMo 2.
    Output,
    /// Both (Gemma 2).
    InputAndOutput,
    /// The stream after each addition: post-norm, as in the first transformer and in OPT-350m. There is no final norm.
    Sum,
}

impl NormAt {
    /// Whether what attention and MLP read is normalised.
    pub(crate) fn input(self) -> bool {
        match self {
            NormAt::Input | NormAt::InputAndOutput => true,
            NormAt::Output | NormAt::Sum => false,
        }
    }

    /// Whether what attention and MLP give is normalised.
    pub(crate) fn output(self) -> bool {
        match self {
            NormAt::Output | NormAt::InputAndOutput => true,
            NormAt::Input | NormAt::Sum => false,
        }
    }

    /// Whether the stream itself is.
    pub(crate) fn sum(self) -> bool {
        match self {
            NormAt::Sum => true,
            NormAt::Input | NormAt::Output | NormAt::InputAndOutput => false,
        }
    }
}

/// Root mean square normalisation of queries and keys, before they turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum QkNorm {
    /// None.
    #[default]
    None,
    /// Each head by itself, all with the same gain, as in Qwen 3 and Gemma 3.
    Head,
    /// All heads of a position together, as in OLMo 2.
    AllHeads,
}

/// How a position is told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Positions {
    /// A learned vector for each position, added to the embedding, as in GPT-2.
    #[default]
    Learned,
    /// Queries and keys turned by angles proportional to the position (Su et al. 2021).
    Rotary(Rotary),
    /// Scores fall with the distance of the key, in each head at another rate ([`alibi_slope`](crate::nn::alibi_slope);
    /// ALiBi, Press et al. 2022), as in BLOOM and MPT.
    Alibi,
    /// Not at all: only a mask tells the order.
    None,
}

/// Rotary positions: pair `i` of a head's first `d_rotary` dimensions turns by `t · theta^(-2i / d_rotary)` at position
/// `t`, if nothing scales that.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rotary {
    /// Which dimensions make a pair.
    pub pairs: Pairs,
    /// How many dimensions of each head turn; `None`: all of them. GPT-NeoX turns a quarter.
    pub d_rotary: Option<usize>,
    /// The base of the frequencies (Hugging Face: `rope_theta`).
    pub theta: f64,
    /// How a longer context was made of a shorter one.
    pub scaling: RotaryScaling,
}

impl Default for Rotary {
    fn default() -> Self {
        Rotary { pairs: Pairs::Adjacent, d_rotary: None, theta: 10_000.0, scaling: RotaryScaling::None }
    }
}

/// How rotary frequencies were changed for a longer context (Hugging Face: `rope_type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum RotaryScaling {
    /// Not at all.
    #[default]
    None,
    /// All divided by this factor (Chen et al. 2023).
    Linear {
        /// How much slower everything turns.
        factor: f64,
    },
    /// Sequences longer than `n_trained` turn with `theta · (factor · n / n_trained - (factor - 1))^(d / (d - 2))`: it
    /// depends on their length `n`.
    Dynamic {
        /// How much longer contexts may be.
        factor: f64,
        /// The context of the training.
        n_trained: usize,
    },
    /// Waves longer than `n_trained / low` are slowed down by the factor, those shorter than `n_trained / high` stay,
    /// and between the two there is a ramp (Llama 3.1).
    Llama3 {
        /// How much the longest waves are slowed down.
        factor: f64,
        /// Turns in `n_trained` up to which a pair is slowed down in full.
        low: f64,
        /// Turns in `n_trained` from which on a pair stays as it is.
        high: f64,
        /// The context of the training.
        n_trained: usize,
    },
    /// A ramp over pairs, and turned queries and keys `length` times as long (YaRN, Peng et al. 2023).
    Yarn {
        /// How much the slowest pairs are slowed down.
        factor: f64,
        /// Turns in `n_trained` from which on a pair stays as it is (`beta_fast`).
        fast: f64,
        /// Turns in `n_trained` up to which a pair is slowed down in full (`beta_slow`).
        slow: f64,
        /// The context of the training.
        n_trained: usize,
        /// What queries and keys are multiplied by (`attention_factor`).
        length: f64,
        /// Whether the ramp begins and ends at whole pairs.
        truncate: bool,
    },
}

impl Rotary {
    /// Tells how fast each pair of a head of `d_head` dimensions turns in a sequence of `n_pos`, and how much longer it
    /// becomes.
    ///
    /// ```
    /// use onelens::model::{Rotary, RotaryScaling};
    /// let slow = Rotary { scaling: RotaryScaling::Linear { factor: 4.0 }, ..Default::default() };
    /// assert_eq!(slow.frequencies(4, 10), (vec![0.25, 0.0025], 1.0));
    /// ```
    pub fn frequencies(&self, d_head: usize, n_pos: usize) -> (Vec<f64>, f64) {
        let d = self.d_rotary.unwrap_or(d_head);
        let of =
            |theta: f64| -> Vec<f64> { (0..d / 2).map(|i| theta.powf(-2.0 * i as f64 / d as f64)).collect() };
        let all = of(self.theta);
        match self.scaling {
            RotaryScaling::None => (all, 1.0),
            RotaryScaling::Linear { factor } => (all.into_iter().map(|f| f / factor).collect(), 1.0),
            RotaryScaling::Dynamic { factor, n_trained } => {
                if n_pos <= n_trained || d <= 2 {
                    return (all, 1.0);
                }
                let stretch = factor * n_pos as f64 / n_trained as f64 - (factor - 1.0);
                (of(self.theta * stretch.powf(d as f64 / (d as f64 - 2.0))), 1.0)
            }
            RotaryScaling::Llama3 { factor, low, high, n_trained } => {
                let scaled = |f: f64| {
                    let n_turns = n_trained as f64 * f / (2.0 * PI);
                    if n_turns < low {
                        f / factor
                    } else if n_turns > high {
                        f
                    } else {
                        let stays = (n_turns - low) / (high - low);
                        (1.0 - stays) * f / factor + stays * f
                    }
                };
                (all.into_iter().map(scaled).collect(), 1.0)
            }
            RotaryScaling::Yarn { factor, fast, slow, n_trained, length, truncate } => {
                // The pair that makes this many turns in `n_trained` positions.
                let pair = |n_turns: f64| {
                    d as f64 * (n_trained as f64 / (n_turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
                };
                let (mut low, mut high) = (pair(fast), pair(slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0), high.min(d as f64 - 1.0));
                if low == high {
                    high += 0.001;
                }
                let scaled = |(i, f): (usize, f64)| {
                    let slowed = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    f / factor * slowed + f * (1.0 - slowed)
                };
                (all.into_iter().enumerate().map(scaled).collect(), length)
            }
        }
    }
}

/// What one layer does otherwise than the rest of the configuration says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LayerKind {
    /// How many keys a query sees at most, itself included. `None`: all that the mask lets it see.
    pub window: Option<usize>,
    /// Other rotary positions, or none. `None`: those of the configuration.
    pub positions: Option<Positions>,
}

/// What products of queries and keys are multiplied by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum AttentionScale {
    /// `1 / √d_head`.
    #[default]
    Head,
    /// This number.
    Fixed {
        /// The number, above 0.
        scale: f64,
        /// Whether layer `l` divides it by `l + 1` (GPT-2's `scale_attn_by_inverse_layer_idx`).
        by_layer: bool,
    },
}

impl AttentionScale {
    /// In layer `l`.
    pub(crate) fn of(self, d_head: usize, l: usize) -> f64 {
        match self {
            AttentionScale::Head => 1.0 / (d_head as f64).sqrt(),
            AttentionScale::Fixed { scale, by_layer: true } => scale / (l + 1) as f64,
            AttentionScale::Fixed { scale, by_layer: false } => scale,
        }
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
    /// `gelu(x W_gate) ∘ (x W_in)` with GELU in its tanh form, as in Gemma.
    GeGluTanh,
    /// No MLP: attention only.
    None,
}

impl Mlp {
    /// Returns the nonlinearity, and whether it is a gate. `None` without an MLP.
    pub fn activation(self) -> Option<(Activation, bool)> {
        match self {
            Mlp::GeluTanh => Some((Activation::GeluTanh, false)),
            Mlp::Gelu => Some((Activation::Gelu, false)),
            Mlp::Relu => Some((Activation::Relu, false)),
            Mlp::SwiGlu => Some((Activation::Silu, true)),
            Mlp::GeGluTanh => Some((Activation::GeluTanh, true)),
            Mlp::None => None,
        }
    }

    /// Tells whether a gate multiplies the hidden layer.
    pub fn is_gated(self) -> bool {
        self.activation().is_some_and(|(_, gated)| gated)
    }
}

/// Several MLPs in each block, of which every position takes a few (Shazeer et al. 2017), as in Mixtral: those with the
/// largest `x W_router`, weighed by the softmax over the chosen ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Experts {
    /// How many there are.
    pub n: usize,
    /// How many a position takes.
    pub n_chosen: usize,
}

/// Which maps have biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "AnyBias")]
pub struct Bias {
    /// Queries, keys and values.
    pub qkv: bool,
    /// The output of attention.
    pub out: bool,
    /// The hidden layer and the output of the MLP.
    pub mlp: bool,
    /// The gate of the MLP.
    pub gate: bool,
    /// Layer norms; RMS norms never have one.
    pub norm: bool,
}

impl Bias {
    /// Everywhere but in a gate.
    pub const ALL: Bias = Bias { qkv: true, out: true, mlp: true, gate: false, norm: true };
    /// Nowhere.
    pub const NONE: Bias = Bias { qkv: false, out: false, mlp: false, gate: false, norm: false };
}

impl Default for Bias {
    /// Everywhere, as in GPT-2.
    fn default() -> Self {
        Bias::ALL
    }
}

impl From<bool> for Bias {
    fn from(all: bool) -> Self {
        if all { Bias::ALL } else { Bias::NONE }
    }
}

/// As files say it: older ones with one word for all.
#[derive(Deserialize)]
#[serde(untagged)]
enum AnyBias {
    All(bool),
    Each { qkv: bool, out: bool, mlp: bool, gate: bool, norm: bool },
}

impl From<AnyBias> for Bias {
    fn from(any: AnyBias) -> Self {
        match any {
            AnyBias::All(all) => all.into(),
            AnyBias::Each { qkv, out, mlp, gate, norm } => Bias { qkv, out, mlp, gate, norm },
        }
    }
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
    /// The same through one norm for both, as in GPT-J, Phi and Falcon 7B.
    ParallelOneNorm,
    /// No skip connection: attention replaces the stream, then the MLP does. The control.
    None,
}

impl Residual {
    /// Whether attention and MLP read the same stream.
    pub(crate) fn is_parallel(self) -> bool {
        match self {
            Residual::Parallel | Residual::ParallelOneNorm => true,
            Residual::Sequential | Residual::None => false,
        }
    }
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
