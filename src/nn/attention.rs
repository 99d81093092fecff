//! Causal softmax attention of one head over one sequence (Vaswani et al. 2017).

use ndarray::{Array2, ArrayView2, s};

use crate::num::{Real, matmul};

/// `z = softmax(q kᵀ / √d_head + causal mask) v`.
///
/// `q, k, v: [pos, d_head]`; returns `z: [pos, d_head]` and the pattern `[query pos, key pos]`, rows summing to 1, zero
/// above the diagonal, kept for [`attention_backward`].
///
/// ```
/// use onelens::{ndarray::array, nn::attention};
/// let q = array![[0.0], [0.0]];
/// let v = array![[1.0], [3.0]];
/// let (z, pattern) = attention(q.view(), q.view(), v.view());
/// assert_eq!(pattern, array![[1.0, 0.0], [0.5, 0.5]]); // equal scores: the mean of what is visible
/// assert_eq!(z, array![[1.0], [2.0]]);
/// ```
pub fn attention<F: Real>(q: ArrayView2<F>, k: ArrayView2<F>, v: ArrayView2<F>) -> (Array2<F>, Array2<F>) {
    let scale = F::one() / F::of(q.ncols() as f64).sqrt();
    let mut pattern = matmul(q, k.t());
    for (i, mut row) in pattern.rows_mut().into_iter().enumerate() {
        row.slice_mut(s![i + 1..]).fill(F::zero());
        let mut seen = row.slice_mut(s![..=i]);
        let max = seen.iter().fold(F::neg_infinity(), |m, &x| if x > m { x } else { m });
        seen.mapv_inplace(|x| ((x - max) * scale).exp_real());
        let sum = seen.sum();
        seen /= sum;
    }
    (matmul(pattern.view(), v), pattern)
}

/// `(dq, dk, dv)` from `dz` and the pattern of the forward pass.
///
/// With `dP = dz vᵀ`, `dS = P ∘ (dP - rowsum(P ∘ dP)) / √d_head`: `dq = dS k`, `dk = dSᵀ q`, `dv = Pᵀ dz`.
pub fn attention_backward<F: Real>(
    dz: ArrayView2<F>,
    q: ArrayView2<F>,
    k: ArrayView2<F>,
    v: ArrayView2<F>,
    pattern: ArrayView2<F>,
) -> (Array2<F>, Array2<F>, Array2<F>) {
    let scale = F::one() / F::of(q.ncols() as f64).sqrt();
    let mut ds = matmul(dz, v.t());
    for (mut ds, p) in ds.rows_mut().into_iter().zip(pattern.rows()) {
        let dot = ds.dot(&p);
        // Above the diagonal the pattern is zero, and so is the result.
        ds.zip_mut_with(&p, |d, &p| *d = p * (*d - dot) * scale);
    }
    (matmul(ds.view(), k), matmul(ds.t(), q), matmul(pattern.t(), dz))
}
