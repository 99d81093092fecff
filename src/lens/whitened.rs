//! Coordinates in which refinement is well conditioned.

use ndarray::{Array1, Array2, ArrayView2};

use super::objective::Evaluation;
use super::{AffineLens, Moments};
use crate::num::{SymmetricEigen, matmul};
use crate::{Error, ErrorKind, Result};

/// Coordinates in which the input has mean 0 and covariance 1, and the curvature by the output is 1 on average:
/// `A h + b = F^(-1/2) (M W (h - x̄) + c)`. To the extent that inputs and curvatures are independent, the curvature by `M` and `c` is
/// then 1 (Martens & Grosse 2015, section 2). The curvature of a penalty is divided by that of the output and counted as the input's
/// (compare section 6.3).
pub(super) struct Whitened {
    /// `W = (S_xx / n)^(-1/2)` and its inverse.
    input: (Array2<f64>, Array2<f64>),
    /// `F^(1/2)` and its inverse, where `F` is the mean Fisher matrix of the output, if that is known.
    output: Option<(Array2<f64>, Array2<f64>)>,
    pub(super) x_mean: Array1<f64>,
    d_z: usize,
}

impl Whitened {
    pub(super) fn new(m: &Moments, fisher: Option<ArrayView2<f64>>, penalty: f64) -> Result<Self> {
        let mut s = &m.s_xx / m.weight;
        if penalty > 0.0 {
            let curvature = fisher.map_or(1.0, |f| f.diag().sum() / f.nrows() as f64);
            s.diag_mut().mapv_inplace(|s| s + penalty / curvature);
        }
        let input = powers(s.view(), INPUT_FLOOR)?;
        let output = fisher.map(|f| powers(f, OUTPUT_FLOOR)).transpose()?;
        let output = output.map(|(inverse, root)| (root, inverse));
        Ok(Whitened { input, output, x_mean: m.x_mean.clone(), d_z: m.z_mean.len() })
    }

    /// `M` and `c` of a lens, one after the other.
    pub(super) fn enter(&self, lens: &AffineLens) -> Array1<f64> {
        let m = matmul(lens.a.view(), self.input.1.view());
        let c = lens.apply(self.x_mean.view());
        match &self.output {
            None => m.into_iter().chain(c).collect(),
            Some((root, _)) => matmul(root.view(), m.view()).into_iter().chain(root.dot(&c)).collect(),
        }
    }

    pub(super) fn leave(&self, point: &Array1<f64>) -> AffineLens {
        let d_x = self.x_mean.len();
        let n = self.d_z * d_x;
        let m = Array2::from_shape_vec((self.d_z, d_x), point.iter().take(n).copied().collect())
            .expect("d_z d_x numbers");
        let mut a = matmul(m.view(), self.input.0.view());
        let mut c: Array1<f64> = point.iter().skip(n).copied().collect();
        if let Some((_, inverse)) = &self.output {
            (a, c) = (matmul(inverse.view(), a.view()), inverse.dot(&c));
        }
        let b = c - a.dot(&self.x_mean);
        AffineLens { a, b }
    }

    /// The gradient by `M` and `c`. (Both roots are symmetric.)
    pub(super) fn gradient(&self, at: &Evaluation) -> Array1<f64> {
        let da = matmul(at.da.view(), self.input.0.view());
        match &self.output {
            None => da.into_iter().chain(at.db.iter().copied()).collect(),
            Some((_, inverse)) => {
                matmul(inverse.view(), da.view()).into_iter().chain(inverse.dot(&at.db)).collect()
            }
        }
    }
}

/// Variances below this share of the largest are the rounding of f32 products.
const INPUT_FLOOR: f64 = 1e-6;
/// Curvatures below this share of the largest are not known well enough from the tokens that were looked at: steps along them
/// fit noise. (On the character model of the benchmarks, from .01 to .03 make no difference that could be seen; .1 is slower.)
const OUTPUT_FLOOR: f64 = 0.03;

/// `S^(-1/2)` and `S^(1/2)`. Directions below `floor` are left at that scale instead of being blown up.
fn powers(s: ArrayView2<f64>, floor: f64) -> Result<(Array2<f64>, Array2<f64>)> {
    let SymmetricEigen { values, vectors } = SymmetricEigen::new(s)?;
    let largest = values.fold(0.0_f64, |m, s| m.max(*s));
    if largest <= 0.0 {
        return Err(Error::new(
            ErrorKind::Numeric,
            "a residual stream has no variance: it is the same at every token",
            "collect moments of more, or of different, tokens",
        ));
    }
    let roots = values.mapv(|s| s.max(floor * largest).sqrt());
    let of = |scales: Array1<f64>| matmul((&vectors * &scales).view(), vectors.t());
    Ok((of(roots.recip()), of(roots)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lens::{LayerMoments, Ridge};
    use crate::model::{Config, Transformer};
    use crate::num::{rng, uniform_index};

    #[test]
    fn whitened_coordinates_lead_back_to_the_lens() {
        let model = Transformer::new(Config { d_vocab: 9, n_layers: 1, ..Default::default() }).unwrap();
        let mut random = rng(4, 0);
        let tokens = Array2::from_shape_simple_fn((40, 16), || uniform_index(&mut random, 9) as u32);
        let moments = LayerMoments::collect(&model, &tokens).unwrap();
        let m = &moments.layers[0];
        let lens = Ridge::default().fit(m).unwrap();
        let fisher = &moments.layers[1].s_xx / m.weight;
        for output in [None, Some(fisher.view())] {
            let w = Whitened::new(m, output, 1e-3).unwrap();
            let back = w.leave(&w.enter(&lens));
            assert!((&back.a - &lens.a).iter().chain(&(&back.b - &lens.b)).all(|e| e.abs() < 1e-8));
        }
    }
}
