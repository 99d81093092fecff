//! The operations of a transformer, one per file: forward next to backward, nothing else.
//!
//! Rows are positions, columns are features. The gradient of the loss with respect to `x` is called `dx`. Everything
//! here is generic over [`Real`](crate::num::Real) for one reason: derivatives are checked in `f64`.

mod activation;
mod attention;
mod cross_entropy;
mod embed;
mod gelu;
mod gelu_exact;
mod heads;
mod layer_norm;
mod linear;
mod linear_attention;
mod mask;
mod norm;
mod patches;
mod relu;
mod rms_norm;
mod rotary;
mod scores;
mod swiglu;

pub use activation::Activation;
pub use attention::{
    attention, attention_backward, attention_scores, attention_scores_backward, softmax_backward,
    softmax_rows,
};
pub use cross_entropy::{cross_entropy, expected_cross_entropy};
pub use embed::{embed, embed_backward};
pub(crate) use gelu::gelu_backward_in;
pub use gelu::{gelu, gelu_backward};
pub use gelu_exact::{gelu_exact, gelu_exact_backward};
pub(crate) use heads::{Head, HeadMut, HeadWork};
pub use layer_norm::{gain_bias, gain_bias_backward, layer_norm, layer_norm_backward};
pub(crate) use layer_norm::{gain_bias_backward_in, gain_bias_in, layer_norm_backward_in};
pub(crate) use linear::{add_rows, add_to, linear_backward_to, linear_in};
pub use linear::{linear, linear_backward};
pub use linear_attention::{linear_attention, linear_attention_backward, mask_rows};
pub use mask::Mask;
pub use norm::Norm;
pub use patches::{Grid, patches, patches_backward};
pub use relu::{relu, relu_backward};
pub(crate) use rms_norm::rms_norm_backward_in;
pub use rms_norm::{rms_norm, rms_norm_backward};
pub(crate) use rotary::rotary_in;
pub use rotary::{Pairs, RotaryTable, rotary, rotary_backward};
pub use scores::{Scoring, alibi_slope, soft_cap};
pub(crate) use swiglu::swiglu_in;
pub use swiglu::{swiglu, swiglu_backward};
