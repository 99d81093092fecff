//! Root mean square normalisation (Zhang & Sennrich 2019).

use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

use crate::num::Real;

/// `y = x / sqrt(mean(x²) + eps)` per row, without gain.
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
    let mut y = x.as_standard_layout().into_owned();
    let n = F::of(x.ncols() as f64);
    let rstd = y
        .rows_mut()
        .into_iter()
        .map(|mut row| {
            let rstd = F::one() / (row.dot(&row) / n + F::of(eps)).sqrt();
            row *= rstd;
            rstd
        })
        .collect();
    (y, rstd)
}

/// `dx = rstd (dy - y mean(dy ∘ y))` per row, from the `y` and `rstd` of the forward pass.
pub fn rms_norm_backward<F: Real>(dy: ArrayView2<F>, y: ArrayView2<F>, rstd: ArrayView1<F>) -> Array2<F> {
    let mut dx = dy.as_standard_layout().into_owned();
    let n = F::of(dy.ncols() as f64);
    for ((mut dx, y), &rstd) in dx.rows_mut().into_iter().zip(y.rows()).zip(rstd) {
        let mean_dy_y = dx.dot(&y) / n;
        dx.zip_mut_with(&y, |d, &y| *d = rstd * (*d - y * mean_dy_y));
    }
    dx
}
