//! The operations of a transformer, one per file: forward next to backward, nothing else.
//!
//! Rows are positions, columns are features. The gradient of the loss with respect to `x` is called `dx`. Everything
//! here is generic over [`Real`](crate::num::Real) for one reason: derivatives are checked in `f64`.

mod attention;
mod cross_entropy;
mod embed;
mod gelu;
mod layer_norm;
mod linear;

pub use attention::{attention, attention_backward};
pub use cross_entropy::cross_entropy;
pub use embed::{embed, embed_backward};
pub use gelu::{gelu, gelu_backward};
pub use layer_norm::{gain_bias, gain_bias_backward, layer_norm, layer_norm_backward};
pub use linear::{linear, linear_backward};
