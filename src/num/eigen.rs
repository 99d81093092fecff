//! Eigenvalues and eigenvectors of symmetric matrices.

use ndarray::{Array1, Array2, ArrayView2};

use super::back_end;
use crate::{Error, ErrorKind, Result};

/// `S = Q diag(λ) Qᵀ` of a symmetric matrix.
///
/// ```
/// use onelens::{ndarray::array, num::SymmetricEigen};
/// let eigen = SymmetricEigen::new(array![[2.0, 1.0], [1.0, 2.0]].view())?;
/// assert!((eigen.values[0] - 1.0).abs() < 1e-15 && (eigen.values[1] - 3.0).abs() < 1e-15);
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SymmetricEigen {
    /// Ascending, `[d]`.
    pub values: Array1<f64>,
    /// `Q`: the eigenvectors are its columns, `[d, d]`.
    pub vectors: Array2<f64>,
}

impl SymmetricEigen {
    /// Decomposes `s: [d, d]`; only its lower triangle is read.
    ///
    /// Fails if `s` is not square or not finite.
    pub fn new(s: ArrayView2<f64>) -> Result<Self> {
        let (d, columns) = s.dim();
        if d != columns {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("eigenvalues need a square matrix, this one is {d} x {columns}"),
                "pass a covariance or Gram matrix",
            ));
        }
        let failed = || {
            Error::new(
                ErrorKind::Numeric,
                format!("the eigenvalues of this {d} x {d} matrix could not be found"),
                "look for values that are not finite, or of very different size",
            )
        };
        if s.iter().any(|x| !x.is_finite()) {
            return Err(failed());
        }
        let (values, vectors) = back_end::eigen(s).ok_or_else(failed)?;
        Ok(SymmetricEigen { values, vectors })
    }
}
