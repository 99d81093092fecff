//! Factorisations of symmetric positive definite matrices.

use ndarray::{Array2, ArrayView2};

use super::back_end;
use crate::{Error, ErrorKind, Result};

/// The Cholesky factor `S = L Lᵀ` of a symmetric positive definite matrix, kept to solve with many right-hand sides.
///
/// ```
/// use onelens::{ndarray::array, num::Cholesky};
/// let factor = Cholesky::new(array![[4.0, 0.0], [0.0, 16.0]].view())?;
/// assert_eq!(factor.solve(array![[8.0], [8.0]].view()), array![[2.0], [0.5]]);
/// # Ok::<(), onelens::Error>(())
/// ```
pub struct Cholesky(back_end::Factor);

impl Cholesky {
    /// Factors `s: [d, d]`; only its lower triangle is read.
    ///
    /// Fails if `s` is not square, or not positive definite to working precision.
    pub fn new(s: ArrayView2<f64>) -> Result<Self> {
        let (d, columns) = s.dim();
        if d != columns {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("a Cholesky factor needs a square matrix, this one is {d} x {columns}"),
                "pass a covariance or Gram matrix",
            ));
        }
        let singular = || {
            Error::new(
                ErrorKind::Numeric,
                format!("this {d} x {d} matrix is not positive definite: some direction has no variance"),
                "add a ridge (a larger `lambda`), or use more samples than dimensions",
            )
        };
        let factor = back_end::factor(s).ok_or_else(singular)?;
        // Rounding can let a singular matrix through with a pivot that is only noise.
        let l = factor.lower();
        let (mut smallest, mut largest) = (f64::INFINITY, 0.0_f64);
        for i in 0..d {
            let pivot = l[(i, i)] * l[(i, i)];
            (smallest, largest) = (smallest.min(pivot), largest.max(pivot));
        }
        let finite = largest.is_finite() && !smallest.is_nan();
        if d > 0 && !(finite && smallest > largest * d as f64 * f64::EPSILON) {
            return Err(singular());
        }
        Ok(Cholesky(factor))
    }

    /// Finds the `x` with `S x = rhs`; both `[d, k]`. Panics if `rhs` does not have `d` rows.
    pub fn solve(&self, rhs: ArrayView2<f64>) -> Array2<f64> {
        self.0.solve(rhs)
    }

    /// Returns the factor `L: [d, d]`, zero above the diagonal.
    pub fn lower(&self) -> Array2<f64> {
        self.0.lower()
    }
}
