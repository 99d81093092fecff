//! Attention as gradient descent: small theory objects in `f64`, each with the identity it rests on as a test.
//!
//! | type | identity | source |
//! |---|---|---|
//! | [`DualForm`] | a trained linear layer is attention over its training history | Irie et al. 2022 |
//! | [`OneStep`] | the exact loss of one gradient step in context | von Oswald et al. 2022, Ahn et al. 2023 |
//! | [`LinearAttention`] | a layer of linear self-attention is a gradient step | von Oswald et al. 2022 |
//!
//! Samples are rows: `x: [n, d_in]`, `y: [n, d_out]`; weights map columns, `W: [d_out, d_in]`, as in the papers.

mod alignment;
mod dual_form;
mod fit;
mod lanes;
mod linear_attention;
mod one_step;
mod regression;

pub use alignment::Alignment;
pub use dual_form::{Contributions, DualForm, Sgd};
pub use fit::{LinearAttentionFit, LinearAttentionTraining};
pub use linear_attention::{Construction, LinearAttention, LinearAttentionLayer, Mask};
pub use one_step::{Inputs, OneStep};
pub use regression::{Descent, RegressionTask, descend};
