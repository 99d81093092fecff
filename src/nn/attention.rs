//! Softmax attention of one head over one sequence (Vaswani et al. 2017).

use ndarray::{Array2, ArrayView2, ArrayViewMut2};

use super::heads::{Head, HeadMut, HeadWork};
use super::{Mask, Scoring};
use crate::num::{Real, matmul};

/// Computes `z = softmax(q kᵀ / √d_head + mask) v`.
///
/// `q, k, v: [pos, d_head]`; returns `z: [pos, d_head]` and the pattern `[query pos, key pos]`, rows summing to 1, zero
/// where the mask hides, kept for [`attention_backward`].
///
/// ```
/// use onelens::{ndarray::array, nn::{Mask, attention}};
/// let q = array![[0.0], [0.0]];
/// let v = array![[1.0], [3.0]];
/// let (z, pattern) = attention(q.view(), q.view(), v.view(), Mask::Causal);
/// assert_eq!(pattern, array![[1.0, 0.0], [0.5, 0.5]]); // equal scores: the mean of what is visible
/// assert_eq!(z, array![[1.0], [2.0]]);
/// ```
pub fn attention<F: Real>(
    q: ArrayView2<F>,
    k: ArrayView2<F>,
    v: ArrayView2<F>,
    mask: Mask,
) -> (Array2<F>, Array2<F>) {
    let (n_pos, d_head) = q.dim();
    let (mut z, mut pattern) = (Array2::zeros((n_pos, d_head)), Array2::zeros((n_pos, n_pos)));
    let (q, k, v) = (q.as_standard_layout(), k.as_standard_layout(), v.as_standard_layout());
    let mut work = HeadWork::new(Scoring::of_head(mask, d_head), n_pos, d_head);
    work.forward(
        [Head::of(&q), Head::of(&k), Head::of(&v)],
        None,
        pattern.as_slice_mut().expect("contiguous"),
        HeadMut { numbers: z.as_slice_mut().expect("contiguous"), width: d_head },
    );
    (z, pattern)
}

/// Computes `(dq, dk, dv)` from `dz` and the pattern of the forward pass.
///
/// With `dP = dz vᵀ`, `dS = P ∘ (dP - rowsum(P ∘ dP)) / √d_head`: `dq = dS k`, `dk = dSᵀ q`, `dv = Pᵀ dz`.
pub fn attention_backward<F: Real>(
    dz: ArrayView2<F>,
    q: ArrayView2<F>,
    k: ArrayView2<F>,
    v: ArrayView2<F>,
    pattern: ArrayView2<F>,
) -> (Array2<F>, Array2<F>, Array2<F>) {
    let (n_pos, d_head) = q.dim();
    let zeros = || Array2::zeros((n_pos, d_head));
    let (mut dq, mut dk, mut dv) = (zeros(), zeros(), zeros());
    let (dz, pattern) = (dz.as_standard_layout(), pattern.as_standard_layout());
    let (q, k, v) = (q.as_standard_layout(), k.as_standard_layout(), v.as_standard_layout());
    // What a mask hides is zero in the pattern, so that no mask gives the same.
    let mut work = HeadWork::new(Scoring::of_head(Mask::None, d_head), n_pos, d_head);
    fn of<F: Real>(x: &mut Array2<F>) -> HeadMut<'_, F> {
        let width = x.ncols();
        HeadMut { numbers: x.as_slice_mut().expect("contiguous"), width }
    }
    work.backward(
        Head::of(&dz),
        [Head::of(&q), Head::of(&k), Head::of(&v)],
        pattern.as_slice().expect("contiguous"),
        [of(&mut dq), of(&mut dk), of(&mut dv)],
        false,
    );
    (dq, dk, dv)
}

/// Computes the scores of all queries for all keys, `[query pos, key pos]`, minus infinity for those that a query does
/// not see.
///
/// ```
/// use onelens::{ndarray::array, nn::{Mask, Scoring, attention_scores}};
/// let q = array![[2.0, 0.0, 0.0, 0.0], [4.0, 0.0, 0.0, 0.0]];
/// let scores = attention_scores(q.view(), q.view(), &Scoring::of_head(Mask::Causal, 4));
/// assert_eq!(scores, array![[2.0, f64::NEG_INFINITY], [4.0, 8.0]]);
/// ```
pub fn attention_scores<F: Real>(q: ArrayView2<F>, k: ArrayView2<F>, scoring: &Scoring) -> Array2<F> {
    let mut scores = matmul(q, k.t());
    let n_pos = scores.ncols();
    for (i, mut row) in scores.rows_mut().into_iter().enumerate() {
        let seen = scoring.seen(i, n_pos);
        for (j, x) in row.iter_mut().enumerate() {
            *x = if seen.contains(&j) { scoring.score(*x, i, j) } else { F::neg_infinity() };
        }
    }
    scores
}

/// Turns the gradient of the scores into that of the products `q kᵀ`, in place.
pub fn attention_scores_backward<F: Real>(
    dscores: &mut ArrayViewMut2<F>,
    q: ArrayView2<F>,
    k: ArrayView2<F>,
    scoring: &Scoring,
) {
    match scoring.soft_cap {
        None => dscores.mapv_inplace(|d| d * F::of(scoring.scale)),
        Some(_) => dscores.zip_mut_with(&matmul(q, k.t()), |d, &x| *d *= scoring.derivative(x)),
    }
}

/// Takes the softmax of each row of `scores`, in place. A row of nothing but minus infinities becomes zeros.
///
/// ```
/// use onelens::{ndarray::array, nn::softmax_rows};
/// let mut scores = array![[1.0, f64::NEG_INFINITY, 1.0]];
/// softmax_rows(&mut scores.view_mut());
/// assert_eq!(scores, array![[0.5, 0.0, 0.5]]);
/// ```
pub fn softmax_rows<F: Real>(scores: &mut ArrayViewMut2<F>) {
    for mut row in scores.rows_mut() {
        if row.iter().all(|&x| x == F::neg_infinity()) {
            row.fill(F::zero());
            continue;
        }
        let max = row.iter().fold(F::neg_infinity(), |m, &x| if x > m { x } else { m });
        row.mapv_inplace(|x| (x - max).exp_real());
        let sum = row.sum();
        row /= sum;
    }
}

/// Turns the gradient of the pattern into `scale` times that of the scores, in place: `P ∘ (dP - rowsum(P ∘ dP))`.
pub fn softmax_backward<F: Real>(dpattern: &mut ArrayViewMut2<F>, pattern: ArrayView2<F>, scale: F) {
    for (mut ds, p) in dpattern.rows_mut().into_iter().zip(pattern.rows()) {
        let dot = ds.dot(&p);
        // Where the mask hides the pattern is zero, and so is the result.
        ds.zip_mut_with(&p, |d, &p| *d = p * (*d - dot) * scale);
    }
}
