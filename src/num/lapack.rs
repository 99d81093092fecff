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

#[cfg(test)]
mod tests {
    use super::super::{normal, pure, rng};
    use super::*;

    #[test]
    fn both_back_ends_agree_to_1e_10_and_refuse_the_same() {
        for (seed, d) in [(0, 1), (1, 7), (2, 64), (3, 200)] {
            let mut random = rng(seed, 0);
            let x = Array2::from_shape_simple_fn((3 * d, d), || normal(&mut random));
            let rhs = Array2::from_shape_simple_fn((d, 5), || normal(&mut random));
            let s = x.t().dot(&x);
            let (ours, theirs) = (pure::factor(s.view()).unwrap(), factor(s.view()).unwrap());
            let close = |a: &Array2<f64>, b: &Array2<f64>, what: &str| {
                let scale = a.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
                assert!((a - b).iter().all(|e| e.abs() < 1e-10 * scale), "{what}, {d}");
            };
            close(&ours.lower(), &theirs.lower(), "factor");
            close(&ours.solve(rhs.view()), &theirs.solve(rhs.view()), "solution");
            let ((values, vectors), (other_values, other_vectors)) =
                (pure::eigen(s.view()).unwrap(), eigen(s.view()).unwrap());
            close(
                &values.insert_axis(ndarray::Axis(1)),
                &other_values.clone().insert_axis(ndarray::Axis(1)),
                "values",
            );
            // Vectors have no sign of their own: compare their cosines. Random matrices have no equal eigenvalues.
            let cosines = vectors.t().dot(&other_vectors).diag().mapv(f64::abs);
            assert!(cosines.iter().all(|c| (c - 1.0).abs() < 1e-10), "vectors, {d}");
            let back = (&other_vectors * &other_values).dot(&other_vectors.t());
            close(&s, &back, "the matrix put together again");
        }
        for s in [ndarray::array![[1.0, 2.0], [2.0, 1.0]], ndarray::array![[f64::NAN, 0.0], [0.0, 1.0]]] {
            assert!(pure::factor(s.view()).is_none() && factor(s.view()).is_none());
        }
    }
}
