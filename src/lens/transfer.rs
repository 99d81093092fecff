//! Every layer's lens on every other layer.

use ndarray::Array2;

use super::readout::read_blocks;
use super::{LayerLenses, LayerMoments};
use crate::model::Transformer;
use crate::num::{Mantel, mantel, rng};
use crate::{Error, ErrorKind, Result};

/// A matrix `[lens i, residual stream j]`: how badly, or how well, the lens of stream `i` reads stream `j`.
#[derive(Clone, Debug, PartialEq)]
pub struct Transfer {
    /// `[lens, residual stream]`.
    pub values: Array2<f64>,
    /// What the values are, with their unit.
    pub measure: String,
}

impl Transfer {
    /// Computes the mean squared error of each lens on each stream, from the moments alone: no data, no forward pass.
    ///
    /// `tr(S_zz - 2 A_i S_xz^j + A_i S_xx^j A_iᵀ) / n + ‖z̄ - A_i x̄_j - b_i‖²`, summed over the features of `h_L`.
    pub fn mse(moments: &LayerMoments, lenses: &LayerLenses) -> Result<Self> {
        moments.check_target(lenses.target(), "the lenses have another")?;
        moments.check_scale(lenses.scale(), "the lenses read another")?;
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
            let mse = spread / n + offset.dot(&offset);
            // A perfect fit leaves only the rounding of terms of the variance's size, of either sign; a logarithmic
            // scale would show it.
            if mse > 1e-12 * m.s_zz.diag().sum() / n { mse } else { 0.0 }
        });
        Ok(Transfer { values, measure: "mean squared error".into() })
    }

    /// Computes the share of the target's variance that each lens explains on each stream, `1 - mse n / tr S_zz`, from
    /// the moments alone. 1 is everything, 0 as much as the mean, negative less than that.
    pub fn r2(moments: &LayerMoments, lenses: &LayerLenses) -> Result<Self> {
        let mut mse = Self::mse(moments, lenses)?;
        for (mut column, m) in mse.values.columns_mut().into_iter().zip(&moments.layers) {
            let variance = m.s_zz.diag().sum() / m.weight;
            column.mapv_inplace(|e| 1.0 - e / variance);
        }
        Ok(Transfer { values: mse.values, measure: "share of variance explained".into() })
    }

    /// Measures how alike the covariances of two streams are: the cosine `⟨S_i, S_j⟩ / (‖S_i‖ ‖S_j‖)` of the matrices
    /// (Frobenius), 1 for proportional ones. Belrose et al. 2023 relate it to what transfer costs.
    pub fn covariance_similarity(moments: &LayerMoments) -> Self {
        let n = moments.layers.len();
        let inner = |i: usize, j: usize| (&moments.layers[i].s_xx * &moments.layers[j].s_xx).sum();
        let values = Array2::from_shape_fn((n, n), |(i, j)| inner(i, j) / (inner(i, i) * inner(j, j)).sqrt());
        Transfer { values, measure: "cosine of covariances".into() }
    }

    /// Computes the rank correlation with another matrix over the same streams, such as the penalty with
    /// [`covariance_similarity`](Transfer::covariance_similarity), and Mantel's test of it with 9999 permutations of
    /// the streams.
    ///
    /// Fails on fewer than four streams, or other numbers of them.
    pub fn correlation(&self, other: &Transfer, seed: u64) -> Result<Mantel> {
        mantel(&self.values, &other.values, 9999, &mut rng(seed, 0))
    }

    /// Measures the mean held-out `KL(p ‖ q)` in nats of each lens on each stream, over `tokens: [sequence, pos]`.
    pub fn kl(model: &Transformer, lenses: &LayerLenses, tokens: &Array2<u32>) -> Result<Self> {
        let n_layers = model.config.n_layers + 1;
        let sums = read_blocks(model, &[lenses], tokens, |block| {
            let mut kl = Array2::zeros((n_layers, n_layers));
            for (i, mut kl) in kl.rows_mut().into_iter().enumerate() {
                let streams: Vec<_> = block.streams.iter().map(|h| (i, *h)).collect();
                for (kl, said) in kl.iter_mut().zip(block.read_rows(model, lenses, &streams)?) {
                    *kl = said.iter().map(|said| said.kl).sum::<f64>();
                }
            }
            Ok(kl)
        })?;
        let total = sums.into_iter().fold(Array2::zeros((n_layers, n_layers)), |a, b| a + b);
        Ok(Transfer { values: total / tokens.len() as f64, measure: "KL (nats)".into() })
    }

    /// Computes how much more it costs to read stream `j` with the lens of `i` than the other way round: `value_ij -
    /// value_ji`.
    pub fn asymmetry(&self) -> Self {
        Transfer {
            values: &self.values - &self.values.t(),
            measure: format!("{}, above the other way round", self.measure),
        }
    }

    /// Computes what is lost by reading stream `j` through the lens of stream `i` instead of its own: `value_ij -
    /// value_jj`.
    pub fn penalty(&self) -> Self {
        let own = self.values.diag().to_owned();
        Transfer {
            values: &self.values - &own,
            measure: format!("{}, above the layer's own lens", self.measure),
        }
    }
}
