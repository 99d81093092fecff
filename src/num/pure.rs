//! Factorisations by `faer`: pure Rust, nothing to install.

use faer::linalg::solvers::Solve;
use faer::{Mat, Side};
use ndarray::{Array1, Array2, ArrayView2};

/// `L` of `S = L Lᵀ`.
pub(super) struct Factor(faer::linalg::solvers::Llt<f64>);

/// Factors a square matrix, of which the lower triangle is read; `None` if a pivot is not positive.
pub(super) fn factor(s: ArrayView2<f64>) -> Option<Factor> {
    Mat::from_fn(s.nrows(), s.ncols(), |i, j| s[(i, j)]).llt(Side::Lower).ok().map(Factor)
}

impl Factor {
    pub(super) fn solve(&self, rhs: ArrayView2<f64>) -> Array2<f64> {
        let x = self.0.solve(Mat::from_fn(rhs.nrows(), rhs.ncols(), |i, j| rhs[(i, j)]));
        Array2::from_shape_fn(rhs.dim(), |(i, j)| x[(i, j)])
    }

    pub(super) fn lower(&self) -> Array2<f64> {
        let l = self.0.L();
        Array2::from_shape_fn((l.nrows(), l.ncols()), |(i, j)| if i >= j { l[(i, j)] } else { 0.0 })
    }
}

/// Ascending eigenvalues and, as columns, eigenvectors of a finite symmetric matrix; `None` if they do not converge.
pub(super) fn eigen(s: ArrayView2<f64>) -> Option<(Array1<f64>, Array2<f64>)> {
    let d = s.nrows();
    let eigen = Mat::from_fn(d, d, |i, j| s[(i, j)]).self_adjoint_eigen(Side::Lower).ok()?;
    let (vectors, values) = (eigen.U(), eigen.S().column_vector());
    Some((Array1::from_shape_fn(d, |i| values[i]), Array2::from_shape_fn((d, d), |(i, j)| vectors[(i, j)])))
}
