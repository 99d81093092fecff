//! Cross-entropy of a softmax with the token that came.

use ndarray::{Array2, ArrayView2};

use crate::num::{Real, log_softmax_rows, wide_fn};

/// Sum over positions of `-log softmax(logits)[target]`, in nats, and its gradient `softmax(logits) - onehot(target)`.
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

wide_fn! {
    fn exponentials<'a, F>(x: &'a mut [F]) {
        x.iter_mut().for_each(|x| *x = x.exp_real());
    }
}
