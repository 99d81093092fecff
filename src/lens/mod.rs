//! Lenses: reading a prediction off the residual stream before the last layer.
//!
//! Residual streams are `h_0 ..= h_L`: `h_0` is the embedding, `h_L` what the last block leaves. A lens maps `h_l` to a
//! guess of `h_L`, which the model's own final norm and unembedding decode. Everything is fitted from one sufficient
//! statistic, [`Moments`].

mod affine;
mod compare;
mod grouped;
mod layers;
mod lbfgs;
mod moments;
mod ridge;
mod ridge_path;
mod trajectory;
mod transfer;
mod tuned;

pub use affine::{AffineLens, LayerLenses, Lens, LogitLens};
pub use compare::{Comparison, LensCurve, compare};
pub use grouped::{GroupedMoments, RidgeChoice};
pub use layers::LayerMoments;
pub use moments::Moments;
pub use ridge::{Ridge, Towards};
pub use ridge_path::{Conditioning, RidgePath};
pub use trajectory::{Reading, Trajectory};
pub use transfer::Transfer;
pub use tuned::{Refine, TunedLens};
