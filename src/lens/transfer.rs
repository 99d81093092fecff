//! Every layer's lens on every other layer.

use ndarray::Array2;

use super::compare::per_sequence;
use super::{LayerLenses, LayerMoments, Lens};
use crate::model::Transformer;
use crate::num::kl_divergence;
use crate::{Error, ErrorKind, Result};

/// A matrix `[lens i, residual stream j]`: how badly the lens of stream `i` reads stream `j`.
#[derive(Clone, Debug, PartialEq)]
pub struct Transfer {
    /// `[lens, residual stream]`.
    pub values: Array2<f64>,
    /// What the values are, with their unit.
    pub measure: String,
}

impl Transfer {
    /// Mean squared error of each lens on each stream, from the moments alone: no data, no forward pass.
    ///
    /// `tr(S_zz - 2 A_i S_xz^j + A_i S_xx^j A_iᵀ) / n + ‖z̄ - A_i x̄_j - b_i‖²`, summed over the features of `h_L`.
    pub fn mse(moments: &LayerMoments, lenses: &LayerLenses) -> Result<Self> {
        if moments.fingerprint != lenses.fingerprint() {
            return Err(Error::new(
                ErrorKind::Shape,
                format!(
                    "lenses of model {:016x} on moments of model {:016x}",
                    lenses.fingerprint(),
                    moments.fingerprint
                ),
                "fit the lenses to these moments",
            ));
        }
        let values = Array2::from_shape_fn((lenses.len(), moments.layers.len()), |(i, j)| {
            let (lens, m) = (&lenses.lenses()[i], &moments.layers[j]);
            let n = m.weight;
            let spread = m.s_zz.diag().sum() - 2.0 * (&lens.a * &m.s_zx).sum()
                + (&lens.a.dot(&m.s_xx) * &lens.a).sum();
            let offset = &m.z_mean - &lens.apply(m.x_mean.view());
            // A perfect fit leaves only rounding, which may be negative.
            (spread / n + offset.dot(&offset)).max(0.0)
        });
        Ok(Transfer { values, measure: "mean squared error".into() })
    }

    /// Mean held-out `KL(p ‖ q)` in nats of each lens on each stream, over `tokens: [sequence, pos]`.
    pub fn kl(model: &Transformer, lenses: &LayerLenses, tokens: &Array2<u32>) -> Result<Self> {
        let n_layers = model.config.n_layers + 1;
        let sums = per_sequence(model, &[lenses], tokens, |_, residuals, log_p| {
            Array2::from_shape_fn((n_layers, n_layers), |(i, j)| {
                let log_q = lenses.read(model, i, residuals[j]);
                log_p.rows().into_iter().zip(log_q.rows()).map(|(p, q)| kl_divergence(p, q)).sum::<f64>()
            })
        })?;
        let total = sums.into_iter().fold(Array2::zeros((n_layers, n_layers)), |a, b| a + b);
        Ok(Transfer { values: total / tokens.len() as f64, measure: "KL (nats)".into() })
    }

    /// What is lost by reading stream `j` through the lens of stream `i` instead of its own: `value_ij - value_jj`.
    pub fn penalty(&self) -> Self {
        let own = self.values.diag().to_owned();
        Transfer {
            values: &self.values - &own,
            measure: format!("{}, above the layer's own lens", self.measure),
        }
    }
}
