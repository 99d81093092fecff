//! Cross-entropy of a softmax with the token that came, or with a distribution of tokens.

use ndarray::{Array2, ArrayView2};

use crate::num::{Real, log_softmax_rows, wide_fn};

/// Computes the sum over positions of `-log softmax(logits)[target]`, in nats, and its gradient `softmax(logits) -
/// onehot(target)`.
///
/// `logits: [pos, d_vocab]`, one target per row. A sum, not a mean: the caller knows what to divide by.
/// Panics on a target outside the vocabulary.
///
/// ```
/// use onelens::{ndarray::array, nn::cross_entropy};
/// let (loss, dlogits) = cross_entropy(array![[0.0, 0.0]].view(), &[1]);
/// assert!((loss - 2_f64.ln()).abs() < 1e-15);
/// assert_eq!(dlogits, array![[0.5, -0.5]]);
/// ```
pub fn cross_entropy<F: Real>(logits: ArrayView2<F>, targets: &[u32]) -> (f64, Array2<F>) {
    let mut grad = log_softmax_rows(logits);
    let mut loss = 0.0;
    for (row, &target) in grad.rows().into_iter().zip(targets) {
        loss -= row[target as usize].to_f64().unwrap_or(f64::NAN);
    }
    exponentials(grad.as_slice_mut().expect("a fresh array is contiguous"));
    for (mut row, &target) in grad.rows_mut().into_iter().zip(targets) {
        row[target as usize] -= F::one();
    }
    (loss, grad)
}

/// Computes the sum over positions of `-Σ p log softmax(logits)`, in nats, and its gradient `softmax(logits) Σ p - p`:
/// the cross-entropy that is expected of a token drawn from `p`.
///
/// `logits` and `p: [pos, d_vocab]`. Panics unless both have one shape.
///
/// ```
/// use onelens::{ndarray::array, nn::expected_cross_entropy};
/// let (loss, dlogits) = expected_cross_entropy(array![[0.0, 0.0]].view(), array![[0.25, 0.75]].view());
/// assert!((loss - 2_f64.ln()).abs() < 1e-15);
/// assert_eq!(dlogits, array![[0.25, -0.25]]);
/// ```
pub fn expected_cross_entropy<F: Real>(logits: ArrayView2<F>, p: ArrayView2<F>) -> (f64, Array2<F>) {
    assert_eq!(logits.dim(), p.dim(), "a probability for each logit");
    let mut grad = log_softmax_rows(logits);
    let mut loss = 0.0;
    for (&p, &log_q) in p.iter().zip(&grad) {
        // What never comes costs nothing, however improbable it is taken for.
        if p > F::zero() {
            loss -= p.to_f64().unwrap_or(f64::NAN) * log_q.to_f64().unwrap_or(f64::NAN);
        }
    }
    exponentials(grad.as_slice_mut().expect("a fresh array is contiguous"));
    for (mut row, p) in grad.rows_mut().into_iter().zip(p.rows()) {
        let total = p.sum();
        row.zip_mut_with(&p, |q, &p| *q = *q * total - p);
    }
    (loss, grad)
}

wide_fn! {
    fn exponentials<'a, F>(x: &'a mut [F]) {
        x.iter_mut().for_each(|x| *x = x.exp_real());
    }
}
