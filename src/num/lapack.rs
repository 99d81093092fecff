//! Factorisations by LAPACK, through `ndarray-linalg`.

use ndarray::{Array1, Array2, ArrayView2};
use ndarray_linalg::{Cholesky, Diag, Eigh, SolveTriangular, UPLO};

/// `L` of `S = L Lᵀ`.
pub(super) struct Factor(Array2<f64>);

/// Factors a square matrix, of which the lower triangle is read; `None` if a pivot is not positive.
pub(super) fn factor(s: ArrayView2<f64>) -> Option<Factor> {
    // LAPACK takes no matrix of size 0, and tells nothing of one that is not finite.
    if s.is_empty() {
        return Some(Factor(s.to_owned()));
    }
    if s.iter().any(|x| !x.is_finite()) {
        return None;
    }
    symmetric(s).cholesky(UPLO::Lower).ok().map(Factor)
}

impl Factor {
    pub(super) fn solve(&self, rhs: ArrayView2<f64>) -> Array2<f64> {
        if rhs.is_empty() {
            return rhs.to_owned();
        }
        let no_failure = "a triangle with positive diagonal can be solved";
        let y = self.0.solve_triangular(UPLO::Lower, Diag::NonUnit, &rhs.to_owned()).expect(no_failure);
        let upper = self.0.t().as_standard_layout().into_owned();
        upper.solve_triangular(UPLO::Upper, Diag::NonUnit, &y).expect(no_failure)
    }

    pub(super) fn lower(&self) -> Array2<f64> {
        Array2::from_shape_fn(self.0.dim(), |(i, j)| if i >= j { self.0[(i, j)] } else { 0.0 })
    }
}

/// Ascending eigenvalues and, as columns, eigenvectors of a finite symmetric matrix; `None` if they do not converge.
pub(super) fn eigen(s: ArrayView2<f64>) -> Option<(Array1<f64>, Array2<f64>)> {
    if s.is_empty() {
        return Some((Array1::zeros(0), s.to_owned()));
    }
    symmetric(s).eigh(UPLO::Lower).ok()
}

/// The lower triangle and its mirror image, so that rows and columns may be stored either way.
fn symmetric(s: ArrayView2<f64>) -> Array2<f64> {
    Array2::from_shape_fn(s.dim(), |(i, j)| if i >= j { s[(i, j)] } else { s[(j, i)] })
}
