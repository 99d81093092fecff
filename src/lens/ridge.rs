//! Closed-form lenses: ridge regression of the last residual stream on an earlier one.

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::{AffineLens, Moments};
use crate::num::Cholesky;
use crate::{Error, ErrorKind, Result};

/// What a ridge penalty pulls the matrix towards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Towards {
    /// No prediction at all, `A = 0`: ordinary ridge regression.
    Zero,
    /// The logit lens, `A = I`: the convention of the tuned lens (Belrose et al. 2023).
    Identity,
}

impl Towards {
    /// Refuses moments that determine no lens, whatever the penalty.
    pub(crate) fn check(self, m: &Moments) -> Result<()> {
        let (d_z, d_x) = m.s_zx.dim();
        if self == Towards::Identity && d_x != d_z {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("a map from width {d_x} to width {d_z} cannot be pulled towards the identity"),
                "use `towards: Towards::Zero`",
            ));
        }
        // No penalty that is relative to how much the features vary makes up for features that do not.
        if m.n > d_x as u64 && m.s_xx.diag().sum() == 0.0 {
            return Err(Error::new(
                ErrorKind::Data,
                format!("the input never varies over {} rows, so that nothing can be read off it", m.n),
                "leave this stream out, or collect moments of different tokens",
            ));
        }
        if m.n < d_x as u64 + 1 {
            return Err(Error::new(
                ErrorKind::Data,
                format!("{} rows cannot determine a lens of {d_x} dimensions and an intercept", m.n),
                format!("collect moments of at least {} tokens; ten times that is better", d_x + 1),
            ));
        }
        Ok(())
    }
}

/// Refuses a penalty that is none.
pub(crate) fn check_lambda(lambda: f64) -> Result<()> {
    if lambda >= 0.0 && lambda.is_finite() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Config,
        format!("lambda is {lambda}"),
        "set lambda to 0 or a positive number, for example 1e-4",
    ))
}

/// Ridge regression with an intercept that is not penalised.
///
/// With `K = S_xx + λ s² n I`, where `s² = tr(S_xx) / (n d)` is the mean variance of a feature, so that one `lambda`
/// means the same at every layer: `A = S_zx K⁻¹` towards zero, `A = I + (S_zx - S_xx) K⁻¹` towards the identity, and
/// `b = z̄ - A x̄`. (scikit-learn's `Ridge(alpha)` is `Towards::Zero` with `alpha = λ s² n`.)
///
/// ```
/// use onelens::{lens::{Moments, Ridge, Towards}, ndarray::array};
/// let mut m = Moments::new(1, 1);
/// m.push(array![[0.0], [1.0], [2.0]].view(), array![[1.0], [3.0], [5.0]].view())?; // z = 2 x + 1
/// let lens = Ridge { lambda: 0.0, ..Default::default() }.fit(&m)?;
/// assert!((lens.a[(0, 0)] - 2.0).abs() < 1e-12 && (lens.b[0] - 1.0).abs() < 1e-12);
/// // λ = 1 doubles the denominator: half way from 2 to the 0 that the penalty pulls to.
/// let lens = Ridge { lambda: 1.0, towards: Towards::Zero }.fit(&m)?;
/// assert!((lens.a[(0, 0)] - 1.0).abs() < 1e-12);
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ridge {
    /// Strength of the penalty, relative to the mean variance of the features. 0 is least squares.
    pub lambda: f64,
    /// What the penalty pulls towards.
    pub towards: Towards,
}

impl Default for Ridge {
    fn default() -> Self {
        Ridge { lambda: 1e-4, towards: Towards::Identity }
    }
}

impl Ridge {
    /// Fits the lens of these moments.
    ///
    /// Fails with fewer than `d_x + 1` rows, a negative or non-finite `lambda`, or where the system is singular.
    pub fn fit(&self, m: &Moments) -> Result<AffineLens> {
        check_lambda(self.lambda)?;
        self.towards.check(m)?;
        let d_x = m.s_xx.nrows();
        let mut k = m.s_xx.clone();
        let penalty = self.lambda * m.s_xx.diag().sum() / d_x as f64;
        k.diag_mut().mapv_inplace(|x| x + penalty);
        let factor = Cholesky::new(k.view())?;
        let right = match self.towards {
            Towards::Zero => m.s_zx.clone(),
            Towards::Identity => &m.s_zx - &m.s_xx,
        };
        // A K = S, so K Aᵀ = Sᵀ, K being symmetric.
        let mut a = factor.solve(right.t()).reversed_axes().as_standard_layout().into_owned();
        if self.towards == Towards::Identity {
            a += &Array2::<f64>::eye(d_x);
        }
        let b = &m.z_mean - &a.dot(&m.x_mean);
        Ok(AffineLens { a, b })
    }
}
