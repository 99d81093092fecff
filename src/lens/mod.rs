//! Lenses: reading a prediction off the residual stream before the last layer.
//!
//! Residual streams are `h_0 ..= h_L`: `h_0` is the embedding, `h_L` what the last block leaves. A lens maps `h_l`, at
//! unit root mean square or another [`Scale`], to a guess of what the final norm makes of `h_L`, which the model's own
//! unembedding decodes, or of another [`Target`]. Everything is fitted from one sufficient statistic, [`Moments`].
//!
//! | lens | how it is made |
//! |---|---|
//! | logit lens (nostalgebraist 2020) | [`LogitLens`] |
//! | affine | [`Ridge::own`], towards the identity or [towards zero](Towards), of [`LayerMoments::collect`] |
//! | affine, raw and pre-norm, a translator as in Belrose et al. 2023 | the same of moments [collected with](LayerMoments::collect_with) [`Scale::AsItIs`] and [`Target::Residual`] |
//! | affine without intercept (Din et al. 2023) | `ridge.own` of those, [about zero](LayerMoments::about_zero) |
//! | linear probe (Alain & Bengio 2016) | the same for [`Target::LogProbabilities`], or for [given numbers](LayerMoments::collect_given) |
//! | classifier of labels | [`Probe`] |
//! | tuned lens (Belrose et al. 2023) | [`Refine`] |
//! | Jacobian lens | [`Jacobian`] |
//! | published by others | [`LayerLenses::from_tuned_lens`], [`LayerLenses::from_jacobian_lens`] |
//! | one for all, for any subset, for all other or all later layers | [`Ridge::shared`], [`fitted_on`](Ridge::fitted_on), [`left_out`](Ridge::left_out), [`later`](Ridge::later) |
//! | one for all with own bias, or own gain | [`Ridge::shared_own_bias`], [`Ridge::shared_own_gain`] |
//! | of low rank | [`Ridge::low_rank`] |
//! | with a hidden layer, as a reference | [`HiddenLayer`] |
//!
//! Own lenses and those of the three rows before the last are one [`LensKind`], in closed form by [`Ridge::lenses`] and
//! at least KL by [`Refine`]. [`compare`] takes them all. [`CausalBasis`] asks which directions a lens relies on,
//! [`Steering`] whether the model says what a lens reads when it is put into a stream, [`detect_anomalies`] whether the
//! way from layer to layer gives strange inputs away.

mod accumulator;
mod affine;
mod anomaly;
mod causal;
mod compare;
mod decoder;
mod form;
mod given;
mod grouped;
mod hidden;
mod images;
mod inputs;
mod jacobian;
mod kind;
mod kinds;
mod layers;
mod lbfgs;
mod moments;
mod natural_gradient;
mod objective;
mod probe;
mod published;
mod readout;
mod ridge;
mod ridge_path;
mod steering;
mod target;
mod token_chunks;
mod token_gradient;
mod trajectory;
mod transfer;
mod tuned;
mod updates;
mod vocabulary;
mod whitened;

pub(crate) use accumulator::Accumulator;
pub use affine::{AffineLens, LayerLenses, Lens, LogitLens};
pub use anomaly::{AnomalyReport, Detector, detect_anomalies, trajectory_features};
pub use causal::CausalBasis;
pub use compare::{Comparison, LensCurve, compare};
pub(crate) use compare::{Part, compare_by};
pub(crate) use decoder::{Elsewhere, Products, Wanted};
pub(crate) use given::{GivenRows, exact_moments};
pub use grouped::{GroupedMoments, RidgeChoice};
pub use hidden::{HiddenLayer, HiddenLenses};
pub use jacobian::Jacobian;
pub use kind::LensKind;
pub use layers::LayerMoments;
pub(crate) use layers::Seen;
pub use moments::Moments;
pub use probe::{Probe, ProbeScore};
pub(crate) use readout::{
    Block, Said, most_probable, read_blocks, read_blocks_of, sum_of_predictions, surprise,
};
pub use ridge::{Ridge, Towards};
pub use ridge_path::{Conditioning, RidgePath};
pub use steering::{Aim, Steering, SteeringResult};
pub(crate) use target::NOTHING;
pub use target::{Scale, Target};
pub(crate) use token_chunks::{CHUNK, TokenChunks};
pub use trajectory::{Reading, Trajectory};
pub use transfer::Transfer;
pub(crate) use tuned::Until;
pub use tuned::{Refine, TunedLens};
pub(crate) use updates::{Updates, other_positions};
