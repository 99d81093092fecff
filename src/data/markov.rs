//! A source whose next-token distribution is known exactly: every sequence has a Markov chain of its own.

use ndarray::Array2;

use super::{Source, Tokens};
use crate::num::{Rng, normal, sample_index, uniform, uniform_index};
use crate::{Error, ErrorKind, Result};

/// Sequences from random Markov chains. Each sequence draws its own transition matrix, every row from a symmetric
/// Dirichlet distribution, so a model has to learn the bigrams *in context*.
///
/// Given the tokens so far the chain is not known, but its posterior is: the true conditional of the next token after
/// state `i` is `(n_ij + α) / (n_i + α V)`, with `n_ij` the transitions seen so far (Dirichlet-multinomial). No
/// predictor can do better.
///
/// ```
/// use onelens::data::{Markov, Source};
/// let source = Markov::new(2, 1.0)?;
/// // After 0 → 1 → 0 one transition from 0 was seen, to 1: (1 + 1) / (1 + 2).
/// let p = source.true_conditional(&[0, 1, 0]).unwrap();
/// assert_eq!(p[(2, 1)], 2.0 / 3.0);
/// assert_eq!(p[(0, 0)], 0.5);
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Markov {
    n_states: usize,
    alpha: f64,
}

impl Markov {
    /// Makes the source of chains over `n_states` tokens with Dirichlet concentration `alpha`; a small one makes chains
    /// predictable.
    pub fn new(n_states: usize, alpha: f64) -> Result<Self> {
        if n_states < 2 || !(alpha > 0.0 && alpha.is_finite()) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("a Markov source with {n_states} states and concentration {alpha} is not a source"),
                "use at least 2 states and a positive concentration, for example `Markov::new(8, 0.3)`",
            ));
        }
        Ok(Markov { n_states, alpha })
    }
}

impl Source for Markov {
    fn d_vocab(&self) -> usize {
        self.n_states
    }

    fn sample(&self, n_seqs: usize, len: usize, rng: &mut Rng) -> Result<Array2<u32>> {
        let mut out = Array2::zeros((n_seqs, len));
        for mut row in out.rows_mut() {
            // A Dirichlet draw is a vector of gamma draws, normalised; `sample_index` normalises.
            let chain =
                Array2::from_shape_simple_fn((self.n_states, self.n_states), || gamma(self.alpha, rng));
            let mut state = uniform_index(rng, self.n_states);
            for token in &mut row {
                *token = state as u32;
                state = sample_index(rng, chain.row(state).iter().copied());
            }
        }
        Ok(out)
    }

    fn sample_held_out(&self, n_seqs: usize, len: usize, rng: &mut Rng) -> Result<Array2<u32>> {
        self.sample(n_seqs, len, rng)
    }

    fn true_conditional(&self, tokens: &dyn Tokens) -> Option<Array2<f64>> {
        let tokens = &*tokens.tokens();
        let v = self.n_states;
        let mut counts = Array2::<f64>::zeros((v, v));
        let mut p = Array2::zeros((tokens.len(), v));
        for (t, &token) in tokens.iter().enumerate() {
            let i = token as usize;
            if i >= v {
                return None;
            }
            if t > 0 {
                counts[(tokens[t - 1] as usize, i)] += 1.0;
            }
            let seen = counts.row(i).sum();
            p.row_mut(t).assign(&counts.row(i).mapv(|n| (n + self.alpha) / (seen + self.alpha * v as f64)));
        }
        Some(p)
    }

    fn token_text(&self, token: u32) -> String {
        super::letter(token)
    }

    fn describe(&self) -> String {
        format!("random Markov chains over {} states, Dirichlet({})", self.n_states, self.alpha)
    }
}

/// A draw from the gamma distribution with shape `alpha` and scale 1 (Marsaglia & Tsang 2000).
fn gamma(alpha: f64, rng: &mut Rng) -> f64 {
    if alpha < 1.0 {
        // Kept off zero: with a small shape a whole row could underflow, and then no transition would be left.
        return (gamma(alpha + 1.0, rng) * uniform(rng).powf(1.0 / alpha)).max(f64::MIN_POSITIVE);
    }
    let d = alpha - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = normal(rng);
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && (1.0 - uniform(rng)).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::rng;

    #[test]
    fn gamma_has_mean_and_variance_equal_to_its_shape() {
        for alpha in [0.3, 1.0, 4.5] {
            let mut rng = rng(3, 0);
            let n = 100_000;
            let draws: Vec<f64> = (0..n).map(|_| gamma(alpha, &mut rng)).collect();
            let mean = draws.iter().sum::<f64>() / n as f64;
            let var = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
            assert!((mean - alpha).abs() < 5.0 * (alpha / n as f64).sqrt(), "mean {mean} of shape {alpha}");
            // The fourth central moment of a gamma is 3α² + 6α.
            let error = ((2.0 * alpha * alpha + 6.0 * alpha) / n as f64).sqrt();
            assert!((var - alpha).abs() < 5.0 * error, "variance {var} of shape {alpha}");
        }
    }

    #[test]
    fn no_state_is_predicted_better_than_by_the_true_conditional() {
        // Calibration: among the times the conditional says p, the event happens p of the time.
        let source = Markov::new(3, 0.5).unwrap();
        let tokens = source.sample(4000, 20, &mut rng(5, 0)).unwrap();
        let (mut said, mut happened, mut n) = ([0.0; 10], [0.0; 10], [0.0; 10]);
        for row in tokens.rows() {
            let row = row.to_vec();
            let p = source.true_conditional(&row).unwrap();
            for t in 0..row.len() - 1 {
                for j in 0..3 {
                    let bin = ((p[(t, j)] * 10.0) as usize).min(9);
                    said[bin] += p[(t, j)];
                    n[bin] += 1.0;
                    happened[bin] += f64::from(u8::from(row[t + 1] as usize == j));
                }
            }
        }
        for bin in 0..10 {
            if n[bin] > 100.0 {
                let (p, q) = (said[bin] / n[bin], happened[bin] / n[bin]);
                assert!((p - q).abs() < 5.0 * (p * (1.0 - p) / n[bin]).sqrt(), "said {p}, happened {q}");
            }
        }
    }

    #[test]
    fn impossible_sources_are_refused() {
        for (n, alpha) in [(1, 1.0), (4, 0.0), (4, f64::NAN), (4, -1.0)] {
            assert!(Markov::new(n, alpha).unwrap_err().to_string().contains("help:"));
        }
    }
}
