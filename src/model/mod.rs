//! The transformer: a pre-norm decoder that remembers every step of its forward pass.
//!
//! Axes are written outermost first: activations `[batch, pos, d_model]`, patterns `[batch, head, query pos, key pos]`.
//! Inside, the first two are one axis of rows.

mod backward;
mod cache;
mod config;
mod forward;
mod generate;
mod params;
mod training;
mod transformer;

pub use cache::ActivationCache;
pub use config::Config;
pub use params::{BlockParams, Params};
pub use training::{Training, TrainingLog};
pub use transformer::Transformer;
