//! Root mean square normalisation (Zhang & Sennrich 2019).

use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

use super::layer_norm::reciprocal_root;
use crate::num::{Real, dot, push_all, wide_fn};

/// Computes `y = x / sqrt(mean(x²) + eps)` per row, without gain.
///
/// `x: [pos, d_model]`; returns `y: [pos, d_model]` and the reciprocal of the root, `rstd: [pos]`, kept for
/// [`rms_norm_backward`].
///
/// ```
/// use onelens::{ndarray::array, nn::rms_norm};
/// let (y, rstd) = rms_norm(array![[2.0, 14.0]].view(), 0.0); // the mean of 4 and 196 is 10²
/// assert_eq!((y, rstd), (array![[0.2, 1.4000000000000001]], array![0.1]));
/// ```
pub fn rms_norm<F: Real>(x: ArrayView2<F>, eps: f64) -> (Array2<F>, Array1<F>) {
    let x = x.as_standard_layout();
    let (mut y, mut rstd) = (Vec::with_capacity(x.len()), Vec::with_capacity(x.nrows()));
    normalize(&mut y, &mut rstd, x.as_slice().expect("contiguous"), x.ncols(), eps);
    rstd.resize(x.nrows(), F::zero());
    (Array2::from_shape_vec(x.dim(), y).expect("as many numbers"), rstd.into())
}

wide_fn! {
    fn normalize<'a, F>(y: &'a mut Vec<F>, rstd: &'a mut Vec<F>, x: &'a [F], width: usize, eps: f64) {
        for row in x.chunks_exact(width.max(1)) {
            let r = reciprocal_root(dot(row, row), width, eps);
            push_all(y, row, row, |x, _| x * r);
            rstd.push(r);
        }
    }
}

/// Computes `dx = rstd (dy - y mean(dy ∘ y))` per row, from the `y` and `rstd` of the forward pass.
pub fn rms_norm_backward<F: Real>(dy: ArrayView2<F>, y: ArrayView2<F>, rstd: ArrayView1<F>) -> Array2<F> {
    let mut dx = dy.as_standard_layout().into_owned();
    rms_norm_backward_in(&mut dx, y, rstd);
    dx
}

/// The same in place of `dy`.
pub(crate) fn rms_norm_backward_in<F: Real>(dy: &mut Array2<F>, y: ArrayView2<F>, rstd: ArrayView1<F>) {
    let (y, rstd) = (y.as_standard_layout(), rstd.as_standard_layout());
    let width = dy.ncols();
    let (y, rstd) = (y.as_slice().expect("contiguous"), rstd.as_slice().expect("contiguous"));
    normalize_backward(dy.as_slice_mut().expect("contiguous"), y, rstd, width);
}

wide_fn! {
    fn normalize_backward<'a, F>(dx: &'a mut [F], y: &'a [F], rstd: &'a [F], width: usize) {
        let n = F::of(width as f64);
        let width = width.max(1);
        for ((dx, y), &rstd) in dx.chunks_exact_mut(width).zip(y.chunks_exact(width)).zip(rstd) {
            let mean_dy_y = dot(dx, y) / n;
            for (d, &y) in dx.iter_mut().zip(y) {
                *d = rstd * (*d - y * mean_dy_y);
            }
        }
    }
}
