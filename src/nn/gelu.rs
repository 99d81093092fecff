//! The Gaussian error linear unit in its tanh form (Hendrycks & Gimpel 2016), as in GPT-2.

use ndarray::{Array2, ArrayView2};

use crate::num::{Real, wide_fn};

const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;
const CUBIC: f64 = 0.044715;

/// `½ x (1 + tanh(√(2/π) (x + 0.044715 x³)))`, element by element.
///
/// ```
/// use onelens::{ndarray::array, nn::gelu};
/// let y = gelu(array![[0.0, 100.0, -100.0]].view());
/// assert_eq!(y, array![[0.0, 100.0, 0.0]]);
/// ```
pub fn gelu<F: Real>(x: ArrayView2<F>) -> Array2<F> {
    let mut y = x.as_standard_layout().into_owned();
    apply(y.as_slice_mut().expect("a fresh array is contiguous"));
    y
}

wide_fn! {
    fn apply<'a, F>(elements: &'a mut [F]) {
        let (half, k, cubic) = (F::of(0.5), F::of(SQRT_2_OVER_PI), F::of(CUBIC));
        for x in elements {
            *x = half * *x * (F::one() + (k * (*x + cubic * *x * *x * *x)).tanh_real());
        }
    }
}

/// `dx = dy · gelu'(x)`.
pub fn gelu_backward<F: Real>(dy: ArrayView2<F>, x: ArrayView2<F>) -> Array2<F> {
    let mut dx = dy.as_standard_layout().into_owned();
    let x = x.as_standard_layout();
    apply_backward(dx.as_slice_mut().expect("contiguous"), x.as_slice().expect("contiguous"));
    dx
}

wide_fn! {
    fn apply_backward<'a, F>(elements: &'a mut [F], x: &'a [F]) {
        let (half, k, cubic, three) = (F::of(0.5), F::of(SQRT_2_OVER_PI), F::of(CUBIC), F::of(3.0));
        for (d, &x) in elements.iter_mut().zip(x) {
            let t = (k * (x + cubic * x * x * x)).tanh_real();
            let slope = k * (F::one() + three * cubic * x * x);
            *d *= half * (F::one() + t) + half * x * (F::one() - t * t) * slope;
        }
    }
}
