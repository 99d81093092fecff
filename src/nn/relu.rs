//! The rectified linear unit.

use ndarray::{Array2, ArrayView2, Zip};

use crate::num::Real;

/// Computes `max(x, 0)`, element by element.
///
/// ```
/// use onelens::{ndarray::array, nn::relu};
/// assert_eq!(relu(array![[-1.0, 2.0]].view()), array![[0.0, 2.0]]);
/// ```
pub fn relu<F: Real>(x: ArrayView2<F>) -> Array2<F> {
    // Written so that NaN stays NaN.
    x.mapv(|x| if x < F::zero() { F::zero() } else { x })
}

/// Computes `dx = dy` where `x > 0`, else 0.
pub fn relu_backward<F: Real>(dy: ArrayView2<F>, x: ArrayView2<F>) -> Array2<F> {
    Zip::from(&dy).and(&x).map_collect(|&dy, &x| if x > F::zero() { dy } else { F::zero() })
}
