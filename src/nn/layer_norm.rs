//! Layer normalisation (Ba et al. 2016), and the gain and bias that usually follow it.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut1};

use crate::num::Real;

/// Layer normalisation without gain and bias, `y = (x - mean) / sqrt(var + eps)` per row.
///
/// `x: [pos, d_model]`; returns `y: [pos, d_model]` and `rstd: [pos]`, kept for [`layer_norm_backward`].
///
/// ```
/// use onelens::{ndarray::array, nn::layer_norm};
/// let (y, rstd) = layer_norm(array![[1.0, 5.0]].view(), 0.0); // mean 3, standard deviation 2
/// assert_eq!((y, rstd), (array![[-1.0, 1.0]], array![0.5]));
/// ```
pub fn layer_norm<F: Real>(x: ArrayView2<F>, eps: f64) -> (Array2<F>, Array1<F>) {
    let mut y = x.as_standard_layout().into_owned();
    let n = F::of(x.ncols() as f64);
    let rstd = y
        .rows_mut()
        .into_iter()
        .map(|mut row| {
            let mean = row.sum() / n;
            row -= mean;
            let var = row.dot(&row) / n;
            let rstd = F::one() / (var + F::of(eps)).sqrt();
            row *= rstd;
            rstd
        })
        .collect();
    (y, rstd)
}

/// `dx = rstd (dy - mean(dy) - y mean(dy ∘ y))` per row, from the `y` and `rstd` of the forward pass.
pub fn layer_norm_backward<F: Real>(dy: ArrayView2<F>, y: ArrayView2<F>, rstd: ArrayView1<F>) -> Array2<F> {
    let mut dx = dy.as_standard_layout().into_owned();
    let n = F::of(dy.ncols() as f64);
    for ((mut dx, y), &rstd) in dx.rows_mut().into_iter().zip(y.rows()).zip(rstd) {
        let mean_dy = dx.sum() / n;
        let mean_dy_y = dx.dot(&y) / n;
        dx.zip_mut_with(&y, |d, &y| *d = rstd * (*d - mean_dy - y * mean_dy_y));
    }
    dx
}

/// `y = gain ∘ x + bias`: `x: [pos, d]`, `gain, bias: [d]`. An empty bias is no bias.
///
/// ```
/// use onelens::{ndarray::array, nn::gain_bias};
/// assert_eq!(gain_bias(array![[1.0, 2.0]].view(), array![3.0, 3.0].view(), array![0.0, 1.0].view()), array![[3.0, 7.0]]);
/// ```
pub fn gain_bias<F: Real>(x: ArrayView2<F>, gain: ArrayView1<F>, bias: ArrayView1<F>) -> Array2<F> {
    let mut y = &x * &gain;
    if !bias.is_empty() {
        y += &bias;
    }
    y
}

/// `dx = gain ∘ dy`; adds to `dgain` and `dbias`.
pub fn gain_bias_backward<F: Real>(
    dy: ArrayView2<F>,
    x: ArrayView2<F>,
    gain: ArrayView1<F>,
    mut dgain: ArrayViewMut1<F>,
    mut dbias: ArrayViewMut1<F>,
) -> Array2<F> {
    for (dy, x) in dy.rows().into_iter().zip(x.rows()) {
        ndarray::Zip::from(&mut dgain).and(&dy).and(&x).for_each(|g, &d, &x| *g += d * x);
        if !dbias.is_empty() {
            dbias += &dy;
        }
    }
    &dy * &gain
}
