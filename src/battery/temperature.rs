//! The one number that logits are multiplied with before they are compared with what is wanted.

use ndarray::{Array2, ArrayView2, Zip};

use crate::num::log_softmax_rows;

/// Logits that are not multiplied by more than this, where confidence has no bound.
const LARGEST: f64 = 100.0;
/// Newton's steps; the function is convex in one number, and six are usual.
const STEPS: usize = 20;

/// The best inverse temperature of a reading: it takes out how sure a reading is of itself, and leaves what it says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Temperature {
    /// What logits are multiplied with, at least 0.
    pub(super) beta: f64,
    /// Mean over rows of `-Σ p ln q` at that, in nats.
    pub(super) cross_entropy: f64,
}

impl Temperature {
    /// Log-probabilities `log_q` at the temperature that brings them nearest to `p`, both `[row, class]`.
    pub(super) fn best_of(p: ArrayView2<f64>, log_q: Array2<f64>) -> Array2<f64> {
        let beta = Temperature::best(p, log_q.view()).beta;
        log_softmax_rows((log_q * beta).view())
    }

    /// The `β` for which `q = softmax(β x)` is nearest to `p`, both `[row, class]`, on average over rows.
    pub(super) fn best(p: ArrayView2<f64>, x: ArrayView2<f64>) -> Self {
        let at = |beta: f64| {
            let [mut cross_entropy, mut slope, mut curvature] = [0.0; 3];
            Zip::from(p.rows()).and(x.rows()).for_each(|p, x| {
                let largest = x.fold(f64::NEG_INFINITY, |m, x| m.max(*x));
                // Sums of e, e x and e x² about the largest, where e = exp(β (x - largest)).
                let [mut z, mut first, mut second, mut wanted] = [0.0; 4];
                for (p, x) in p.iter().zip(x) {
                    let x = x - largest;
                    let e = (beta * x).exp();
                    z += e;
                    first += e * x;
                    second += e * x * x;
                    wanted += p * x;
                }
                let mean = first / z;
                cross_entropy += z.ln() - beta * wanted;
                slope += mean - wanted;
                curvature += second / z - mean * mean;
            });
            [cross_entropy, slope, curvature].map(|sum| sum / p.nrows().max(1) as f64)
        };
        let mut beta = 1.0;
        let mut here = at(beta);
        for _ in 0..STEPS {
            let step = -here[1] / here[2].max(1e-12);
            // At most a factor of e at a time, and half of that until it is no worse.
            let mut next = (beta + step).clamp(beta / 3.0, (3.0 * beta).min(LARGEST));
            let mut there = at(next);
            while there[0] > here[0] && (next - beta).abs() > 1e-9 * beta {
                next = 0.5 * (next + beta);
                there = at(next);
            }
            let gained = here[0] - there[0];
            (beta, here) = (next, there);
            if gained < 1e-9 {
                break;
            }
        }
        Temperature { beta, cross_entropy: here[0] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn logits_that_were_multiplied_are_divided_again() {
        let logits = array![[0.0, 1.0, -2.0], [0.5, -0.5, 3.0], [2.0, 0.0, 0.0]];
        let p = log_softmax_rows(logits.view()).mapv(f64::exp);
        let entropy = -(&p * &log_softmax_rows(logits.view())).sum() / 3.0;
        for factor in [0.1, 1.0, 7.0] {
            let found = Temperature::best(p.view(), (&logits * factor).view());
            assert!((found.beta * factor - 1.0).abs() < 1e-3, "{factor}: {found:?}");
            assert!((found.cross_entropy - entropy).abs() < 1e-7);
        }
    }

    #[test]
    fn a_reading_that_points_away_is_worth_as_much_as_none() {
        let logits = array![[0.0, 2.0], [2.0, 0.0]];
        let p = log_softmax_rows((-&logits).view()).mapv(f64::exp);
        let found = Temperature::best(p.view(), logits.view());
        assert!(found.beta < 1e-6 && (found.cross_entropy - 2.0_f64.ln()).abs() < 1e-6, "{found:?}");
        // Nothing to multiply.
        let none = Temperature::best(p.view(), Array2::zeros((2, 2)).view());
        assert!((none.cross_entropy - 2.0_f64.ln()).abs() < 1e-12);
    }
}
