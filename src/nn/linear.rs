//! `y = x W + b`.

use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut1, ArrayViewMut2};

use crate::num::{Precision, Real, add_matmul, matmul, wide_fn};

/// Computes `y = x W + b`: `x: [pos, d_in]`, `w: [d_in, d_out]`, `b: [d_out]`; returns `y: [pos, d_out]`. An empty `b`
/// is no bias.
///
/// ```
/// use onelens::{ndarray::array, nn::linear};
/// let y = linear(array![[1.0, 2.0]].view(), array![[3.0], [4.0]].view(), array![0.5].view());
/// assert_eq!(y, array![[11.5]]);
/// ```
pub fn linear<F: Real>(x: ArrayView2<F>, w: ArrayView2<F>, b: ArrayView1<F>) -> Array2<F> {
    if b.is_empty() {
        return matmul(x, w);
    }
    // The bias first: the product then adds while it writes.
    let mut rows = Vec::with_capacity(x.nrows() * b.len());
    let b = b.as_standard_layout();
    (0..x.nrows()).for_each(|_| rows.extend_from_slice(b.as_slice().expect("contiguous")));
    let mut y = Array2::from_shape_vec((x.nrows(), b.len()), rows).expect("a bias for each row");
    add_matmul(y.view_mut(), F::one(), x, w);
    y
}

/// [`linear`] with the product in this precision; the bias is added as it is.
pub(crate) fn linear_in(
    x: ArrayView2<f32>,
    w: ArrayView2<f32>,
    b: ArrayView1<f32>,
    precision: Precision,
) -> Array2<f32> {
    match precision {
        Precision::F32 => linear(x, w, b),
        Precision::Bf16 => {
            let mut y = precision.matmul(x, w);
            if !b.is_empty() {
                y += &b;
            }
            y
        }
    }
}

/// Computes `dx = dy Wᵀ`; adds `xᵀ dy` to `dw` and the column sums of `dy` to `db`.
pub fn linear_backward<F: Real>(
    dy: ArrayView2<F>,
    x: ArrayView2<F>,
    w: ArrayView2<F>,
    dw: ArrayViewMut2<F>,
    db: ArrayViewMut1<F>,
) -> Array2<F> {
    weights_backward(dy, x, dw, db);
    matmul(dy, w.t())
}

/// The same for one of several readers of `x`: adds `dy Wᵀ` to `dx`.
pub(crate) fn linear_backward_to<F: Real>(
    dx: &mut Array2<F>,
    dy: ArrayView2<F>,
    x: ArrayView2<F>,
    w: ArrayView2<F>,
    dw: ArrayViewMut2<F>,
    db: ArrayViewMut1<F>,
) {
    weights_backward(dy, x, dw, db);
    add_matmul(dx.view_mut(), F::one(), dy, w.t());
}

fn weights_backward<F: Real>(
    dy: ArrayView2<F>,
    x: ArrayView2<F>,
    dw: ArrayViewMut2<F>,
    mut db: ArrayViewMut1<F>,
) {
    add_matmul(dw, F::one(), x.t(), dy);
    if !db.is_empty() {
        add_rows(db.view_mut(), dy);
    }
}

/// Adds all rows to `sums`, which is contiguous.
pub(crate) fn add_rows<F: Real>(mut sums: ArrayViewMut1<F>, rows: ArrayView2<F>) {
    let rows = rows.as_standard_layout();
    add_each(sums.as_slice_mut().expect("contiguous"), rows.as_slice().expect("contiguous"));
}

/// Adds `x` to `sums`, which has its shape; both lie row by row.
pub(crate) fn add_to<F: Real>(sums: &mut Array2<F>, x: &Array2<F>) {
    let numbers = "an activation is stored row by row";
    add_each(sums.as_slice_mut().expect(numbers), x.as_slice().expect(numbers));
}

wide_fn! {
    fn add_each<'a, F>(sums: &'a mut [F], rows: &'a [F]) {
        for row in rows.chunks_exact(sums.len().max(1)) {
            sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += x);
        }
    }
}
