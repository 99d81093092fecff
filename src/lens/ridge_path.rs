//! All ridge lenses of one set of moments, for any penalty, from one eigendecomposition.

use ndarray::{Array1, Array2, Axis};

use super::{AffineLens, Moments, Towards};
use crate::num::{SymmetricEigen, matmul};
use crate::{Error, ErrorKind, Result};

/// The lenses [`Ridge`](super::Ridge) fits to these moments, as a function of `lambda`.
///
/// With `S_xx = Q diag(s) Qᵀ`, `T` what the penalty pulls towards, and `y = z - T x`: `A(λ) = T + G diag(1 / (s + λ
/// s̄)) Qᵀ`, `G = S_yx Q`, where `s̄` is the mean of `s`. After one decomposition the error of each further `λ` on any
/// other moments costs `O(d²)`.
///
/// ```
/// use onelens::{lens::{Moments, RidgePath, Towards}, ndarray::array};
/// let mut m = Moments::new(1, 1);
/// m.push(array![[0.0], [1.0], [2.0]].view(), array![[1.0], [3.0], [5.0]].view())?; // z = 2 x + 1
/// let path = RidgePath::new(&m, Towards::Zero)?;
/// assert!((path.fit(1.0)?.a[(0, 0)] - 1.0).abs() < 1e-12); // λ = 1 doubles the denominator
/// // It is off by -1, 0 and 1: two thirds in the mean square.
/// assert!((path.mse(&[0.0, 1.0], &m)?[1] - 2.0 / 3.0).abs() < 1e-12);
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RidgePath {
    towards: Towards,
    weight: f64,
    eigen: SymmetricEigen,
    /// `S_yx Q`, `[d_z, d_x]`.
    g: Array2<f64>,
    x_mean: Array1<f64>,
    y_mean: Array1<f64>,
    /// `tr S_yy`.
    y_spread: f64,
}

/// How well the features of a layer determine a lens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conditioning {
    /// Width of the layer.
    pub d: usize,
    /// Directions whose variance is more than a millionth of the largest: what is left of a smaller one is the rounding
    /// of activations in `f32`.
    pub rank: usize,
    /// `exp` of the entropy of the variances as shares of their sum (Roy & Vetterli 2007): how many directions the
    /// layer uses.
    pub effective_rank: f64,
    /// Largest variance over least; infinite for a singular layer.
    pub condition_number: f64,
}

impl RidgePath {
    /// Decomposes these moments.
    ///
    /// Fails with fewer than `d_x + 1` rows, or towards the identity if `x` and `z` differ in width.
    pub fn new(m: &Moments, towards: Towards) -> Result<Self> {
        towards.check(m)?;
        let eigen = SymmetricEigen::new(m.s_xx.view())?;
        let remainder = Remainder::new(m, towards);
        Ok(RidgePath {
            towards,
            weight: m.weight,
            g: matmul(remainder.s_yx.view(), eigen.vectors.view()),
            eigen,
            x_mean: m.x_mean.clone(),
            y_mean: remainder.y_mean,
            y_spread: remainder.y_spread,
        })
    }

    /// Fits the lens of one penalty, the same as [`Ridge::fit`](super::Ridge::fit) gives.
    ///
    /// Fails on a negative or non-finite `lambda`, or where the system is singular.
    pub fn fit(&self, lambda: f64) -> Result<AffineLens> {
        let scaled = &self.g * &self.shrink(lambda)?;
        let mut a = matmul(scaled.view(), self.eigen.vectors.t());
        let b = &self.y_mean - &a.dot(&self.x_mean);
        if self.towards == Towards::Identity {
            a.diag_mut().mapv_inplace(|x| x + 1.0);
        }
        Ok(AffineLens { a, b })
    }

    /// Computes the mean squared error that the lens of each `lambda` makes on `m`, summed over the features of `z`; on
    /// other moments than those of the path it is a held-out error.
    ///
    /// Fails on a `lambda` that cannot be fitted, or if the widths differ.
    pub fn mse(&self, lambdas: &[f64], m: &Moments) -> Result<Vec<f64>> {
        if m.s_zx.dim() != self.g.dim() {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("a path of widths {:?} on moments of widths {:?}", self.g.dim(), m.s_zx.dim()),
                "use moments of the same layers of the same model",
            ));
        }
        let q = &self.eigen.vectors;
        let other = Remainder::new(m, self.towards);
        // In the path's own basis the penalty is diagonal, so that what depends on it are sums over one or two indices.
        let cross = (&self.g * &matmul(other.s_yx.view(), q.view())).sum_axis(Axis(0));
        let square =
            matmul(self.g.t(), self.g.view()) * matmul(q.t(), matmul(m.s_xx.view(), q.view()).view());
        let dx = q.t().dot(&(&m.x_mean - &self.x_mean));
        let dy = &other.y_mean - &self.y_mean;
        lambdas
            .iter()
            .map(|&lambda| {
                let shrink = self.shrink(lambda)?;
                let spread = other.y_spread - 2.0 * shrink.dot(&cross) + shrink.dot(&square.dot(&shrink));
                let offset = &dy - &self.g.dot(&(&shrink * &dx));
                Ok((spread / m.weight + offset.dot(&offset)).max(0.0))
            })
            .collect()
    }

    /// Computes generalised cross-validation (Golub, Heath & Wahba 1979): `n RSS / (n - f)²` per token with `f = 1 + Σ
    /// s / (s + λ s̄)` degrees of freedom, which needs no held-out data but takes tokens for independent.
    pub fn gcv(&self, lambdas: &[f64]) -> Result<Vec<f64>> {
        let g_norms = self.g.map_axis(Axis(0), |column| column.dot(&column));
        lambdas
            .iter()
            .map(|&lambda| {
                let shrink = self.shrink(lambda)?;
                // tr(S_yy - 2 B S_xy + B S_xx Bᵀ) with B = G diag(shrink) Qᵀ.
                let explained = ndarray::Zip::from(&shrink)
                    .and(&g_norms)
                    .and(&self.eigen.values)
                    .fold(0.0, |sum, c, g, s| sum + g * (2.0 * c - c * c * s));
                let free = 1.0 + (&shrink * &self.eigen.values).sum();
                let rss = (self.y_spread - explained).max(0.0);
                Ok(self.weight * rss / (self.weight - free).powi(2))
            })
            .collect()
    }

    /// Says how well the features determine a lens.
    pub fn conditioning(&self) -> Conditioning {
        let values = self.eigen.values.mapv(|s| s.max(0.0));
        let largest = values.fold(0.0_f64, |m, s| m.max(*s));
        let total = values.sum();
        let entropy: f64 = values.iter().filter(|s| **s > 0.0).map(|s| -(s / total) * (s / total).ln()).sum();
        Conditioning {
            d: values.len(),
            rank: values.iter().filter(|s| **s > 1e-6 * largest).count(),
            effective_rank: if total > 0.0 { entropy.exp() } else { 0.0 },
            condition_number: largest / values.fold(f64::INFINITY, |m, s| m.min(*s)),
        }
    }

    /// `1 / (s + λ s̄)`.
    fn shrink(&self, lambda: f64) -> Result<Array1<f64>> {
        super::ridge::check_lambda(lambda)?;
        let d = self.eigen.values.len();
        let penalty = lambda * self.eigen.values.sum() / d as f64;
        let penalised = &self.eigen.values + penalty;
        let (least, largest) =
            penalised.iter().fold((f64::INFINITY, 0.0_f64), |(a, b), &s| (a.min(s), b.max(s)));
        if least > largest * d as f64 * f64::EPSILON {
            return Ok(penalised.recip());
        }
        Err(Error::new(
            ErrorKind::Numeric,
            format!("this {d} x {d} matrix is not positive definite: some direction has no variance"),
            "add a ridge (a larger `lambda`), or use more samples than dimensions",
        ))
    }
}

/// The moments of what the penalty's target leaves to explain, `y = z - T x`.
struct Remainder {
    s_yx: Array2<f64>,
    y_mean: Array1<f64>,
    y_spread: f64,
}

impl Remainder {
    fn new(m: &Moments, towards: Towards) -> Self {
        let z_spread = m.s_zz.diag().sum();
        match towards {
            Towards::Zero => Remainder { s_yx: m.s_zx.clone(), y_mean: m.z_mean.clone(), y_spread: z_spread },
            Towards::Identity => Remainder {
                s_yx: &m.s_zx - &m.s_xx,
                y_mean: &m.z_mean - &m.x_mean,
                y_spread: z_spread - 2.0 * m.s_zx.diag().sum() + m.s_xx.diag().sum(),
            },
        }
    }
}
