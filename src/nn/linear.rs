//! `y = x W + b`.

use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut1, ArrayViewMut2, Axis};

use crate::num::{Real, add_matmul, matmul};

/// `y = x W + b`: `x: [pos, d_in]`, `w: [d_in, d_out]`, `b: [d_out]`; returns `y: [pos, d_out]`. An empty `b`
/// is no bias.
///
/// ```
/// use onelens::{ndarray::array, nn::linear};
/// let y = linear(array![[1.0, 2.0]].view(), array![[3.0], [4.0]].view(), array![0.5].view());
/// assert_eq!(y, array![[11.5]]);
/// ```
pub fn linear<F: Real>(x: ArrayView2<F>, w: ArrayView2<F>, b: ArrayView1<F>) -> Array2<F> {
    let mut y = matmul(x, w);
    if !b.is_empty() {
        y += &b;
    }
    y
}

/// `dx = dy Wᵀ`; adds `xᵀ dy` to `dw` and the column sums of `dy` to `db`.
pub fn linear_backward<F: Real>(
    dy: ArrayView2<F>,
    x: ArrayView2<F>,
    w: ArrayView2<F>,
    dw: ArrayViewMut2<F>,
    mut db: ArrayViewMut1<F>,
) -> Array2<F> {
    add_matmul(dw, F::one(), x.t(), dy);
    if !db.is_empty() {
        db += &dy.sum_axis(Axis(0));
    }
    matmul(dy, w.t())
}
