//! Dense products. Single-threaded on purpose: threads go over sequences and layers, one level up.

use ndarray::{Array2, ArrayView2, ArrayViewMut2};

use super::{Real, bf16};

/// Multiplies `a b`: `[m, k]` times `[k, n]` is `[m, n]`. Panics if the inner sizes differ.
///
/// ```
/// use onelens::ndarray::array;
/// let c = onelens::num::matmul(array![[1.0, 2.0]].view(), array![[3.0], [4.0]].view());
/// assert_eq!(c, array![[11.0]]);
/// ```
#[allow(unsafe_code)]
pub fn matmul<F: Real>(a: ArrayView2<F>, b: ArrayView2<F>) -> Array2<F> {
    let mut c = Array2::<F>::uninit((a.nrows(), b.ncols()));
    product(c.as_mut_ptr().cast(), c.dim(), c.strides(), a, b, F::one(), false);
    // SAFETY: a product that does not add writes every element, whatever its inner size.
    unsafe { c.assume_init() }
}

/// `c ← a b`. Panics if the sizes do not fit.
pub(crate) fn matmul_into<F: Real>(mut c: ArrayViewMut2<F>, a: ArrayView2<F>, b: ArrayView2<F>) {
    product(c.as_mut_ptr(), c.dim(), c.strides(), a, b, F::one(), false);
}

/// Adds a product, `c ← c + alpha · a b`. Panics if the sizes do not fit.
///
/// ```
/// use onelens::ndarray::array;
/// let mut c = array![[1.0]];
/// onelens::num::add_matmul(c.view_mut(), 2.0, array![[1.0, 2.0]].view(), array![[3.0], [4.0]].view());
/// assert_eq!(c, array![[23.0]]);
/// ```
pub fn add_matmul<F: Real>(mut c: ArrayViewMut2<F>, alpha: F, a: ArrayView2<F>, b: ArrayView2<F>) {
    product(c.as_mut_ptr(), c.dim(), c.strides(), a, b, alpha, true);
}

/// How exactly a forward pass multiplies activations by weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// In `f32`.
    #[default]
    F32,
    /// Of numbers rounded to `bf16` (8 bits of significand), summed in `f32`, as PyTorch does with
    /// `set_float32_matmul_precision("medium")`. On AMD's processors with instructions for it (`avx512_bf16` in
    /// Linux's `/proc/cpuinfo`) a pass over a batch takes some 0.7 of the time; on all others it is rounded alike, and
    /// not faster.
    Bf16,
}

impl Precision {
    /// `c ← a b`. Panics if the sizes do not fit.
    pub(crate) fn matmul_into(self, c: ArrayViewMut2<f32>, a: ArrayView2<f32>, b: ArrayView2<f32>) {
        match self {
            Precision::F32 => matmul_into(c, a, b),
            Precision::Bf16 => bf16::product_into(c, a, b),
        }
    }

    /// [`matmul`] in this precision.
    pub(crate) fn matmul(self, a: ArrayView2<f32>, b: ArrayView2<f32>) -> Array2<f32> {
        match self {
            Precision::F32 => matmul(a, b),
            Precision::Bf16 => {
                let mut c = Array2::zeros((a.nrows(), b.ncols()));
                bf16::product_into(c.view_mut(), a, b);
                c
            }
        }
    }
}

/// `c ← scale · a b`, or added to `c`, which is live memory of this size with these strides.
#[allow(unsafe_code)]
fn product<F: Real>(
    c: *mut F,
    c_dim: (usize, usize),
    c_strides: &[isize],
    a: ArrayView2<F>,
    b: ArrayView2<F>,
    scale: F,
    add: bool,
) {
    let (m, k) = a.dim();
    let n = b.ncols();
    assert_eq!(k, b.nrows(), "inner sizes of a product differ: {k} and {}", b.nrows());
    assert_eq!((m, n), c_dim, "a product of {m} x {n} cannot go into {c_dim:?}");
    let (a_strides, b_strides) = (a.strides(), b.strides());
    let (a_rs, a_cs) = (a_strides[0], a_strides[1]);
    let (b_rs, b_cs) = (b_strides[0], b_strides[1]);
    let (c_rs, c_cs) = (c_strides[0], c_strides[1]);
    // SAFETY: pointers, sizes and strides are those of live arrays whose sizes were checked above; the callers own `c`
    // or borrow it mutably, so that it overlaps neither `a` nor `b`. What is not initialised is only written: `add` is
    // false then.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c,
            c_cs,
            c_rs,
            add,
            a.as_ptr(),
            a_cs,
            a_rs,
            b.as_ptr(),
            b_cs,
            b_rs,
            F::one(),
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array2, s};

    /// The definition, in f64.
    fn slow(a: &Array2<f32>, b: &Array2<f32>) -> Array2<f64> {
        a.mapv(f64::from).dot(&b.mapv(f64::from))
    }

    #[test]
    fn product_of_any_layout_is_the_sum_of_products() {
        let a = Array2::from_shape_fn((7, 5), |(i, j)| ((i * 5 + j) % 11) as f32 - 5.0);
        let b = Array2::from_shape_fn((5, 9), |(i, j)| ((i * 9 + j) % 7) as f32 - 3.0);
        let want = slow(&a, &b);
        assert_eq!(matmul(a.view(), b.view()).mapv(f64::from), want);
        let (at, bt) = (a.t().as_standard_layout().to_owned(), b.t().as_standard_layout().to_owned());
        assert_eq!(matmul(at.t(), bt.t()).mapv(f64::from), want);
        let mut c = Array2::<f32>::ones((10, 20));
        add_matmul(c.slice_mut(s![1..8, 2..11]), 2.0, a.view(), b.view());
        assert_eq!(c.slice(s![1..8, 2..11]).mapv(f64::from), want * 2.0 + 1.0);
        assert_eq!(c[(0, 0)], 1.0);
    }

    #[test]
    fn empty_inner_size_gives_zeros() {
        let c = matmul(Array2::<f32>::zeros((2, 0)).view(), Array2::<f32>::zeros((0, 3)).view());
        assert_eq!(c, Array2::<f32>::zeros((2, 3)));
    }
}
