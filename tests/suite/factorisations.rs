//! Factorisations are what their definitions say, whichever back end makes them: a factor, and eigenvalues that differ,
//! are unique, so that two back ends for which this holds agree.

use ndarray::{Array2, array};
use onelens::ErrorKind;
use onelens::num::{Cholesky, SymmetricEigen, normal, rng};

/// Random matrices of full rank, of a row to 200.
fn positive_definite() -> impl Iterator<Item = Array2<f64>> {
    [1, 7, 64, 200].into_iter().enumerate().map(|(seed, d)| {
        let mut random = rng(seed as u64, 0);
        let x = Array2::from_shape_simple_fn((3 * d, d), || normal(&mut random));
        x.t().dot(&x)
    })
}

fn close(a: &Array2<f64>, b: &Array2<f64>) -> bool {
    let scale = b.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
    (a - b).iter().all(|e| e.abs() < 1e-10 * scale)
}

#[test]
fn a_factor_is_lower_triangular_and_multiplies_to_its_matrix() {
    for s in positive_definite() {
        let lower = Cholesky::new(s.view()).unwrap().lower();
        assert!(lower.indexed_iter().all(|((i, j), x)| if i < j { *x == 0.0 } else { i > j || *x > 0.0 }));
        assert!(close(&lower.dot(&lower.t()), &s));
    }
}

#[test]
fn a_solution_satisfies_its_system() {
    for s in positive_definite() {
        let mut random = rng(1, 1);
        let rhs = Array2::from_shape_simple_fn((s.nrows(), 5), || normal(&mut random));
        assert!(close(&s.dot(&Cholesky::new(s.view()).unwrap().solve(rhs.view())), &rhs));
    }
}

#[test]
fn eigenvalues_ascend_and_with_orthonormal_vectors_multiply_to_the_matrix() {
    for s in positive_definite() {
        let SymmetricEigen { values, vectors } = SymmetricEigen::new(s.view()).unwrap();
        assert!(values.windows(2).into_iter().all(|pair| pair[0] <= pair[1]));
        assert!(close(&(&vectors * &values).dot(&vectors.t()), &s));
        assert!(close(&vectors.t().dot(&vectors), &Array2::eye(s.nrows())));
    }
}

#[test]
fn what_cannot_be_factored_is_an_error() {
    for s in [
        array![[1.0, 1.0], [1.0, 1.0]],
        array![[1.0, 0.0], [0.0, 0.0]],
        array![[1.0, 2.0], [2.0, 1.0]],
        array![[f64::NAN, 0.0], [0.0, 1.0]],
    ] {
        let e = Cholesky::new(s.view()).err().expect("not positive definite");
        assert_eq!(e.kind(), ErrorKind::Numeric);
        assert!(e.to_string().contains("positive definite"), "{e}");
    }
    assert_eq!(Cholesky::new(Array2::zeros((2, 3)).view()).err().unwrap().kind(), ErrorKind::Shape);
    assert_eq!(SymmetricEigen::new(Array2::zeros((2, 3)).view()).unwrap_err().kind(), ErrorKind::Shape);
    assert_eq!(SymmetricEigen::new(array![[f64::NAN]].view()).unwrap_err().kind(), ErrorKind::Numeric);
}
