//! The Gaussian error linear unit in its tanh form (Hendrycks & Gimpel 2016), as in GPT-2.

use ndarray::{Array2, ArrayView2};

use crate::num::{Real, push_all, wide_fn};

const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;
const CUBIC: f64 = 0.044715;

/// Computes `½ x (1 + tanh(√(2/π) (x + 0.044715 x³)))`, element by element.
///
/// ```
/// use onelens::{ndarray::array, nn::gelu};
/// let y = gelu(array![[0.0, 100.0, -100.0]].view());
/// assert_eq!(y, array![[0.0, 100.0, 0.0]]);
/// ```
pub fn gelu<F: Real>(x: ArrayView2<F>) -> Array2<F> {
    let x_rows = x.as_standard_layout();
    let mut y = Vec::with_capacity(x.len());
    apply(&mut y, x_rows.as_slice().expect("contiguous"));
    Array2::from_shape_vec(x.dim(), y).expect("as many numbers")
}

/// `σ(2u)` with `u = √(2/π) (x + 0.044715 x³)`, so that `½ (1 + tanh u) = σ(2u)` costs one exponential and one
/// division.
#[inline(always)]
fn gate<F: Real>(x: F) -> F {
    let (k, cubic) = (F::of(-2.0 * SQRT_2_OVER_PI), F::of(-2.0 * SQRT_2_OVER_PI * CUBIC));
    F::one() / (F::one() + (x * (k + cubic * x * x)).exp_real())
}

wide_fn! {
    fn apply<'a, F>(y: &'a mut Vec<F>, x: &'a [F]) {
        push_all(y, x, x, |x, _| x * gate(x));
    }
}

/// Computes `dx = dy · gelu'(x)`.
pub fn gelu_backward<F: Real>(dy: ArrayView2<F>, x: ArrayView2<F>) -> Array2<F> {
    let mut dx = dy.as_standard_layout().into_owned();
    gelu_backward_in(&mut dx, x);
    dx
}

/// The same in place of `dy`.
pub(crate) fn gelu_backward_in<F: Real>(dy: &mut Array2<F>, x: ArrayView2<F>) {
    let x = x.as_standard_layout();
    apply_backward(dy.as_slice_mut().expect("contiguous"), x.as_slice().expect("contiguous"));
}

wide_fn! {
    fn apply_backward<'a, F>(dx: &'a mut [F], x: &'a [F]) {
        let (k, cubic) = (F::of(2.0 * SQRT_2_OVER_PI), F::of(6.0 * SQRT_2_OVER_PI * CUBIC));
        for (d, &x) in dx.iter_mut().zip(x) {
            let s = gate(x);
            // (x σ(2u))' = σ + x σ (1 - σ) 2u'
            *d *= s + x * s * (F::one() - s) * (k + cubic * x * x);
        }
    }
}
