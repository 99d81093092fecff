//! The transformer: a decoder of many architectures, whose every activation can be read, changed and asked for its
//! gradient.
//!
//! Axes are written outermost first: activations `[batch, pos, d_model]`, patterns `[batch, head, query pos, key pos]`.
//! Inside, the first two are one axis of rows.
//!
//! [`Config`] names the architecture. Known families are:
//!
//! | setting | GPT-2 | Llama | GPT-NeoX | a control |
//! |---|---|---|---|---|
//! | `norm` | `Layer` | `Rms` | `Layer` | `None` |
//! | `positions` | `Learned` | `Rotary`, `Adjacent` (llama2.c) or `Half` (Hugging Face) | `Rotary`, `Half`, a part of the head | `None` |
//! | `mlp` | `GeluTanh` | `SwiGlu` | `Gelu` | `None` |
//! | `residual` | `Sequential` | `Sequential` | `Parallel` | `None`: no skip connections |
//! | `n_kv_heads` | `None` | often fewer than `n_heads` | `None` | |
//! | `bias`, `bias_u` | `true`, `false` | `false`, `false` | `true`, `false` | |
//! | `tied` | `true` | sometimes | `false` | |
//! | `blocks` | `Distinct` | `Distinct` | `Distinct` | `Looped`: one block for all layers |
//! | `attention` | `Softmax` | `Softmax` | `Softmax` | `Linear` |
//!
//! A [`Hook`] names an activation as TransformerLens does, an [`Intervention`] changes it, an [`ActivationCache`] keeps
//! it or its gradient.

mod adamw;
mod architecture;
mod attention_layer;
mod backward;
mod blocks;
mod branches;
mod cache;
mod config;
mod forward;
mod generate;
mod head_matrices;
mod hook;
mod intervention;
mod loss;
mod matrix;
mod mlp_layer;
mod network;
mod norm_layer;
mod numbers;
mod params;
mod pass;
mod run;
mod stream_grads;
mod taps;
mod training;
mod training_run;
mod transformer;
mod weights;

pub use crate::nn::{Activation, Mask, Norm, Pairs, Scoring};
pub use architecture::{
    Attention, AttentionScale, Bias, Blocks, Experts, LayerKind, Mlp, NormAt, Positions, QkNorm, Residual,
    Rotary, RotaryScaling, Supervision,
};
pub(crate) use branches::Trunk;
pub use cache::ActivationCache;
pub use config::Config;
pub use hook::Hook;
pub(crate) use hook::no_stream;
pub use intervention::{Change, Function, Intervention};
pub use matrix::Matrix;
pub use params::{BlockParams, Params};
pub use pass::Pass;
pub use training::{EarlyStop, Training, TrainingLog};
pub use training_run::TrainingRun;
pub use transformer::Transformer;
pub(crate) use transformer::check_width;
pub use weights::Provenance;
pub(crate) use weights::{Tensors, TorchFile, save_state_dict};
pub use weights::{download, downloaded};
pub use weights::{from_candle, to_candle};
