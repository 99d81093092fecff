//! What a lens predicts, and how that becomes a prediction of the next token.

use ndarray::{Array2, ArrayView2, Axis, CowArray, Ix2};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::model::{Config, Transformer, check_width};
use crate::nn::rms_norm;
use crate::num::Real;

/// What stands on the left of `z = A h_l + b`.
///
/// Least squares towards [`Normalised`](Target::Normalised), decoded, and least squares towards
/// [`LogProbabilities`](Target::LogProbabilities) are the same readings: one target is a linear function of the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// The last residual stream `h_L`, decoded by the final norm and the unembedding: a pre-norm lens.
    Residual,
    /// `N(h_L)`, the last stream after the final norm with its gain and bias, decoded by the unembedding alone: a
    /// post-norm lens.
    #[default]
    Normalised,
    /// `log p - mean log p` of the final prediction, which needs no decoding: a linear probe (Alain & Bengio 2016).
    LogProbabilities,
    /// Numbers from outside of the model, such as belief states: read, not decoded.
    Given,
}

/// What stands on the right of `z = A x + b`.
///
/// A norm at the beginning of each block takes the size of a stream away before anything is computed from it, and
/// streams grow with depth. Least squares over the streams as they are is therefore mostly about the last few, and
/// about the few tokens whose streams are enormous. At unit size every layer and every token counts alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scale {
    /// The residual stream as it is, `x = h_l`.
    AsItIs,
    /// The residual stream at unit root mean square, `x = h_l / sqrt(mean(h_l²))`. A row of zeros stays one.
    #[default]
    UnitRms,
}

/// Inside the root of a mean square: so small that it is nothing beside any stream but one of zeros.
pub(crate) const NOTHING: f64 = 1e-30;

impl Scale {
    /// `h: [rows, d_model]` at this scale.
    pub(crate) fn of<F: Real>(self, h: ArrayView2<'_, F>) -> CowArray<'_, F, Ix2> {
        match self {
            Scale::AsItIs => h.into(),
            Scale::UnitRms => rms_norm(h, NOTHING).0.into(),
        }
    }

    /// All streams at this scale.
    pub(crate) fn of_all<F: Real>(self, streams: Vec<Array2<F>>) -> Vec<Array2<F>> {
        match self {
            Scale::AsItIs => streams,
            Scale::UnitRms => streams.into_iter().map(|h| rms_norm(h.view(), NOTHING).0).collect(),
        }
    }
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

    /// What the unembedding multiplies to give the logits of `z: [rows, d_z]`, `[rows, d_model]`; `None` for targets
    /// that are logits themselves, up to a constant.
    ///
    /// Fails on rows of another width than the target's.
    pub(crate) fn normalised(self, model: &Transformer, z: ArrayView2<f32>) -> Result<Option<Array2<f32>>> {
        if let Some(width) = self.width(&model.config) {
            check_width("what this lens guesses is decoded from", width, z)?;
        }
        Ok(match self {
            Target::Residual => Some(model.normalised(z)),
            Target::Normalised => Some(z.to_owned()),
            Target::LogProbabilities | Target::Given => None,
        })
    }

    /// What `z: [rows, d_z]` says of the next token: logits, `[rows, d_vocab]`.
    ///
    /// Fails on rows of another width than the target's.
    pub(crate) fn logits(self, model: &Transformer, z: ArrayView2<f32>) -> Result<Array2<f32>> {
        Ok(match self.normalised(model, z)? {
            Some(y) => model.logits_of_normalised(y.view()),
            None => z.to_owned(),
        })
    }
}

/// Each row minus its mean.
pub(crate) fn centred_rows(log_p: ArrayView2<f32>) -> Array2<f32> {
    let means = log_p.mean_axis(Axis(1)).expect("a vocabulary is not empty");
    &log_p - &means.insert_axis(Axis(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn a_stream_at_unit_rms_has_that_and_its_direction() {
        // The means of the squares are 25 and 0.
        let h = array![[1.0_f32, 7.0], [0.0, 0.0]];
        assert_eq!(Scale::UnitRms.of(h.view()), array![[0.2, 1.4], [0.0, 0.0]]);
        assert_eq!(Scale::AsItIs.of(h.view()), h);
    }
}
