//! Attention without softmax, of one head over one sequence (von Oswald et al. 2022).

use ndarray::{Array2, ArrayView2, ArrayViewMut2, s};

use super::Mask;
use crate::num::{Real, matmul};

/// Computes `z = (q kᵀ ∘ mask) v`, neither scaled nor normalised.
///
/// `q, k, v: [pos, d_head]`; returns `z: [pos, d_head]` and the pattern `q kᵀ ∘ mask`, `[query pos, key pos]`, kept for
/// [`linear_attention_backward`].
///
/// ```
/// use onelens::{ndarray::array, nn::{Mask, linear_attention}};
/// let q = array![[1.0], [2.0]];
/// let v = array![[1.0], [3.0]];
/// let (z, pattern) = linear_attention(q.view(), q.view(), v.view(), Mask::Causal);
/// assert_eq!(pattern, array![[1.0, 0.0], [2.0, 4.0]]);
/// assert_eq!(z, array![[1.0], [14.0]]);
/// ```
pub fn linear_attention<F: Real>(
    q: ArrayView2<F>,
    k: ArrayView2<F>,
    v: ArrayView2<F>,
    mask: Mask,
) -> (Array2<F>, Array2<F>) {
    let mut pattern = matmul(q, k.t());
    mask_rows(&mut pattern.view_mut(), mask);
    (matmul(pattern.view(), v), pattern)
}

/// Computes `(dq, dk, dv)`: with `dP = dz vᵀ ∘ mask`, `dq = dP k`, `dk = dPᵀ q`, `dv = Pᵀ dz`.
pub fn linear_attention_backward<F: Real>(
    dz: ArrayView2<F>,
    q: ArrayView2<F>,
    k: ArrayView2<F>,
    v: ArrayView2<F>,
    pattern: ArrayView2<F>,
    mask: Mask,
) -> (Array2<F>, Array2<F>, Array2<F>) {
    let mut dp = matmul(dz, v.t());
    mask_rows(&mut dp.view_mut(), mask);
    (matmul(dp.view(), k), matmul(dp.t(), q), matmul(pattern.t(), dz))
}

/// Writes zeros where a query must not look: `scores: [query pos, key pos]`, in place.
///
/// ```
/// use onelens::{ndarray::array, nn::{Mask, mask_rows}};
/// let mut scores = array![[1.0, 2.0], [3.0, 4.0]];
/// mask_rows(&mut scores.view_mut(), Mask::Causal);
/// assert_eq!(scores, array![[1.0, 0.0], [3.0, 4.0]]);
/// ```
pub fn mask_rows<F: Real>(scores: &mut ArrayViewMut2<F>, mask: Mask) {
    let n_pos = scores.ncols();
    for (i, mut row) in scores.rows_mut().into_iter().enumerate() {
        row.slice_mut(s![mask.n_visible(i, n_pos)..]).fill(F::zero());
    }
}
