//! Distributions over a vocabulary, one per row, in natural logarithms.

use ndarray::{Array2, ArrayView1, ArrayView2};

use super::Real;
use super::wide::{largest, sum, wide_fn};

/// Computes `log softmax` of each row of `logits: [rows, d_vocab]`, in place of the logits' own scale.
///
/// ```
/// use onelens::{ndarray::array, num::log_softmax_rows};
/// let log_p = log_softmax_rows(array![[0.0, 0.0], [1.0, 1.0]].view());
/// assert!(log_p.iter().all(|&x: &f64| (x + 2_f64.ln()).abs() < 1e-15));
/// ```
pub fn log_softmax_rows<F: Real>(logits: ArrayView2<F>) -> Array2<F> {
    let mut out = logits.as_standard_layout().into_owned();
    let width = out.ncols();
    log_softmax(out.as_slice_mut().expect("a fresh array is contiguous"), width);
    out
}

wide_fn! {
    fn log_softmax<'a, F>(rows: &'a mut [F], width: usize) {
        for row in rows.chunks_exact_mut(width.max(1)) {
            let max = largest(row);
            // In blocks, because a sum in one accumulator cannot use vector instructions.
            let mut exponentials = [F::zero(); 64];
            let mut total = F::zero();
            for block in row.chunks(64) {
                for (e, &x) in exponentials.iter_mut().zip(block) {
                    *e = (x - max).exp_real();
                }
                total += sum(&exponentials[..block.len()]);
            }
            let log_z = max + total.ln();
            row.iter_mut().for_each(|x| *x -= log_z);
        }
    }
}

/// Computes `KL(p ‖ q) = Σ p (log p - log q)` of two rows of log-probabilities, in nats, summed in f64.
///
/// ```
/// use onelens::{ndarray::array, num::kl_divergence};
/// let p = array![1.0_f32, 0.0].mapv(f32::ln);
/// let q = array![0.5_f32, 0.5].mapv(f32::ln);
/// assert!((kl_divergence(p.view(), q.view()) - 2_f64.ln()).abs() < 1e-7);
/// ```
pub fn kl_divergence<F: Real>(log_p: ArrayView1<F>, log_q: ArrayView1<F>) -> f64 {
    let mut sum = 0.0;
    for (&lp, &lq) in log_p.iter().zip(log_q) {
        if lp > F::neg_infinity() {
            sum += lp.exp_real().to_f64().unwrap_or(f64::NAN) * (lp - lq).to_f64().unwrap_or(f64::NAN);
        }
    }
    sum
}

/// Computes the entropy `-Σ p log p` of a row of log-probabilities, in nats.
///
/// ```
/// use onelens::{ndarray::array, num::entropy};
/// let p = array![0.5_f32, 0.5].mapv(f32::ln);
/// assert!((entropy(p.view()) - 2_f64.ln()).abs() < 1e-7);
/// ```
pub fn entropy<F: Real>(log_p: ArrayView1<F>) -> f64 {
    let mut sum = 0.0;
    for &lp in log_p {
        if lp > F::neg_infinity() {
            sum -= (lp.exp_real() * lp).to_f64().unwrap_or(f64::NAN);
        }
    }
    sum
}

/// Computes the mean and its standard error, `s / √n` with `s² = Σ (x - x̄)² / (n - 1)`. The error is NaN below two
/// values.
///
/// ```
/// let (mean, error) = onelens::num::mean_and_standard_error(&[1.0, 3.0]);
/// assert_eq!((mean, error), (2.0, 1.0));
/// ```
pub fn mean_and_standard_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    let error = if values.len() < 2 { f64::NAN } else { (squares / (n - 1.0) / n).sqrt() };
    (mean, error)
}
