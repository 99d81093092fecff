//! The transformer: a pre-norm decoder that remembers every step of its forward pass.
//!
//! Axes are written outermost first: activations `[batch, pos, d_model]`, patterns `[batch, head, query pos, key pos]`.
//! Inside, the first two are one axis of rows.

mod architecture;
mod attention_layer;
mod backward;
mod cache;
mod config;
mod forward;
mod generate;
mod hook;
mod intervention;
mod loss;
mod mlp_layer;
mod network;
mod norm_layer;
mod params;
mod run;
mod taps;
mod training;
mod transformer;

pub use crate::nn::{Mask, Pairs};
pub use architecture::{Attention, Blocks, Mlp, Norm, Positions, Residual, Rotary, Supervision};
pub use cache::ActivationCache;
pub use config::Config;
pub use hook::Hook;
pub use intervention::{Change, Intervention};
pub use params::{BlockParams, Params};
pub use training::{Training, TrainingLog};
pub use transformer::Transformer;
