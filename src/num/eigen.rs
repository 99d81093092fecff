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

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn the_parts_multiply_to_the_matrix_and_the_vectors_are_orthonormal() {
        let s = array![[4.0, 1.0, 0.5], [1.0, 3.0, -0.2], [0.5, -0.2, 2.0]];
        let SymmetricEigen { values, vectors } = SymmetricEigen::new(s.view()).unwrap();
        assert!(values.windows(2).into_iter().all(|w| w[0] <= w[1]));
        assert!(((&vectors * &values).dot(&vectors.t()) - &s).iter().all(|e| e.abs() < 1e-14));
        assert!((vectors.t().dot(&vectors) - Array2::<f64>::eye(3)).iter().all(|e| e.abs() < 1e-14));
    }

    #[test]
    fn what_is_not_square_or_not_finite_is_an_error() {
        assert_eq!(SymmetricEigen::new(Array2::zeros((2, 3)).view()).unwrap_err().kind(), ErrorKind::Shape);
        let nan = SymmetricEigen::new(array![[f64::NAN]].view()).unwrap_err();
        assert_eq!(nan.kind(), ErrorKind::Numeric);
    }
}
