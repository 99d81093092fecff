//! What a lens predicts, and how that becomes a prediction of the next token.

use ndarray::{Array2, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

use crate::model::{Config, Transformer};
use crate::num::log_softmax_rows;

/// What stands on the left of `z = A h_l + b`.
///
/// Least squares towards [`Normalised`](Target::Normalised), decoded, and least squares towards
/// [`LogProbabilities`](Target::LogProbabilities) are the same readings: one target is a linear function of the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// The last residual stream `h_L`, decoded by the final norm and the unembedding: a pre-norm lens.
    #[default]
    Residual,
    /// `N(h_L)`, the last stream behind the final norm with its gain and bias, decoded by the unembedding alone: a post-norm lens.
    Normalised,
    /// `log p - mean log p` of the final prediction, which needs no decoding: a linear probe (Alain & Bengio 2016).
    LogProbabilities,
    /// Numbers from outside of the model, such as belief states: read, not decoded.
    Given,
}

impl Target {
    /// Width of the target, where the model alone determines it.
    pub(crate) fn width(self, config: &Config) -> Option<usize> {
        match self {
            Target::Residual | Target::Normalised => Some(config.d_model),
            Target::LogProbabilities => Some(config.d_vocab),
            Target::Given => None,
        }
    }

    /// What `z: [rows, d_z]` says of the next token: log-probabilities, `[rows, d_vocab]`.
    pub(crate) fn decode(self, model: &Transformer, z: ArrayView2<f32>) -> Array2<f32> {
        match self {
            Target::Residual => model.unembed(z),
            Target::Normalised => log_softmax_rows(model.unembed_normalised(z).view()),
            Target::LogProbabilities | Target::Given => log_softmax_rows(z),
        }
    }
}

/// Each row minus its mean.
pub(crate) fn centred_rows(log_p: ArrayView2<f32>) -> Array2<f32> {
    let means = log_p.mean_axis(Axis(1)).expect("a vocabulary is not empty");
    &log_p - &means.insert_axis(Axis(1))
}
