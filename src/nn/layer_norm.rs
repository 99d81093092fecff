//! Layer normalisation (Ba et al. 2016), and the gain and bias that usually follow it.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut1};

use crate::num::{Real, dot, sum, wide_fn};

/// Applies layer normalisation without gain and bias, `y = (x - mean) / sqrt(var + eps)` per row.
///
/// `x: [pos, d_model]`; returns `y: [pos, d_model]` and `rstd: [pos]`, kept for [`layer_norm_backward`].
///
/// ```
/// use onelens::{ndarray::array, nn::layer_norm};
/// let (y, rstd) = layer_norm(array![[1.0, 5.0]].view(), 0.0); // mean 3, standard deviation 2
/// assert_eq!((y, rstd), (array![[-1.0, 1.0]], array![0.5]));
/// ```
pub fn layer_norm<F: Real>(x: ArrayView2<F>, eps: f64) -> (Array2<F>, Array1<F>) {
    let x_rows = x.as_standard_layout();
    let (mut y, mut rstd) = (Vec::with_capacity(x.len()), Vec::with_capacity(x.nrows()));
    normalize(&mut y, &mut rstd, x_rows.as_slice().expect("contiguous"), x.ncols(), eps);
    (Array2::from_shape_vec(x.dim(), y).expect("as many rows"), Array1::from_vec(rstd))
}

wide_fn! {
    fn normalize<'a, F>(y: &'a mut Vec<F>, rstds: &'a mut Vec<F>, x: &'a [F], width: usize, eps: f64) {
        let n = F::of(width as f64);
        for row in x.chunks_exact(width.max(1)) {
            let mean = sum(row) / n;
            let from = y.len();
            y.extend(row.iter().map(|&x| x - mean));
            let row = &mut y[from..];
            let rstd = reciprocal_root(dot(row, row), width, eps);
            row.iter_mut().for_each(|x| *x *= rstd);
            rstds.push(rstd);
        }
    }
}

/// `1 / sqrt(squares / n + eps)`, rounded once: what it is off by, the whole row would be off by.
#[inline(always)]
pub(super) fn reciprocal_root<F: Real>(squares: F, n: usize, eps: f64) -> F {
    let mean = squares.to_f64().unwrap_or(f64::NAN) / n as f64;
    F::of(1.0 / (mean + eps).sqrt())
}

/// Computes `dx = rstd (dy - mean(dy) - y mean(dy ∘ y))` per row, from the `y` and `rstd` of the forward pass.
pub fn layer_norm_backward<F: Real>(dy: ArrayView2<F>, y: ArrayView2<F>, rstd: ArrayView1<F>) -> Array2<F> {
    let mut dx = dy.as_standard_layout().into_owned();
    layer_norm_backward_in(&mut dx, y, rstd);
    dx
}

/// The same in place of `dy`.
pub(crate) fn layer_norm_backward_in<F: Real>(dy: &mut Array2<F>, y: ArrayView2<F>, rstd: ArrayView1<F>) {
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
            let (mean_dy, mean_dy_y) = (sum(dx) / n, dot(dx, y) / n);
            for (d, &y) in dx.iter_mut().zip(y) {
                *d = rstd * (*d - mean_dy - y * mean_dy_y);
            }
        }
    }
}

/// Computes `y = gain ∘ x + bias`: `x: [pos, d]`, `gain, bias: [d]`. An empty bias is no bias.
///
/// ```
/// use onelens::{ndarray::array, nn::gain_bias};
/// assert_eq!(gain_bias(array![[1.0, 2.0]].view(), array![3.0, 3.0].view(), array![0.0, 1.0].view()), array![[3.0, 7.0]]);
/// ```
pub fn gain_bias<F: Real>(x: ArrayView2<F>, gain: ArrayView1<F>, bias: ArrayView1<F>) -> Array2<F> {
    let mut y = x.as_standard_layout().into_owned();
    gain_bias_in(&mut y, gain, bias);
    y
}

/// The same in place of `x`.
pub(crate) fn gain_bias_in<F: Real>(x: &mut Array2<F>, gain: ArrayView1<F>, bias: ArrayView1<F>) {
    let (gain, bias) = (gain.as_standard_layout(), bias.as_standard_layout());
    let (gain, bias) = (gain.as_slice().expect("contiguous"), bias.as_slice().expect("contiguous"));
    scale_and_shift(x.as_slice_mut().expect("contiguous"), gain, bias);
}

wide_fn! {
    fn scale_and_shift<'a, F>(x: &'a mut [F], gain: &'a [F], bias: &'a [F]) {
        for row in x.chunks_exact_mut(gain.len().max(1)) {
            for (i, x) in row.iter_mut().enumerate() {
                *x *= gain[i];
            }
            for (i, x) in row[..bias.len()].iter_mut().enumerate() {
                *x += bias[i];
            }
        }
    }
}

/// Computes `dx = gain ∘ dy`; adds to `dgain` and `dbias`.
pub fn gain_bias_backward<F: Real>(
    dy: ArrayView2<F>,
    x: ArrayView2<F>,
    gain: ArrayView1<F>,
    dgain: ArrayViewMut1<F>,
    dbias: ArrayViewMut1<F>,
) -> Array2<F> {
    let mut dx = dy.as_standard_layout().into_owned();
    gain_bias_backward_in(&mut dx, x, gain, dgain, dbias);
    dx
}

/// The same in place of `dy`.
pub(crate) fn gain_bias_backward_in<F: Real>(
    dy: &mut Array2<F>,
    x: ArrayView2<F>,
    gain: ArrayView1<F>,
    mut dgain: ArrayViewMut1<F>,
    mut dbias: ArrayViewMut1<F>,
) {
    let (x, gain) = (x.as_standard_layout(), gain.as_standard_layout());
    let (x, gain) = (x.as_slice().expect("contiguous"), gain.as_slice().expect("contiguous"));
    let sums = (dgain.as_slice_mut().expect("contiguous"), dbias.as_slice_mut().expect("contiguous"));
    scale_and_shift_backward(dy.as_slice_mut().expect("contiguous"), x, gain, sums.0, sums.1);
}

wide_fn! {
    fn scale_and_shift_backward<'a, F>(
        dx: &'a mut [F],
        x: &'a [F],
        gain: &'a [F],
        dgain: &'a mut [F],
        dbias: &'a mut [F],
    ) {
        let width = gain.len().max(1);
        for (d, x) in dx.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            for ((dgain, &d), &x) in dgain.iter_mut().zip(&*d).zip(x) {
                *dgain += d * x;
            }
            dbias.iter_mut().zip(&*d).for_each(|(dbias, &d)| *dbias += d);
            d.iter_mut().zip(gain).for_each(|(d, &gain)| *d *= gain);
        }
    }
}
