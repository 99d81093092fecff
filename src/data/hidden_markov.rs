//! A source with hidden states: what can be known of them is a belief, and the belief is known exactly.

use ndarray::{Array1, Array2, Array3, Axis};

use super::{Source, Tokens};
use crate::num::{Rng, sample_index};
use crate::{Error, ErrorKind, Result};

/// A hidden Markov process that emits a token on every transition: from state `i` it goes to `j` and emits `x` with
/// probability `T[x, i, j]`. Sequences begin in the stationary distribution.
///
/// The belief `b` about the state, given the tokens so far, follows from Bayes' rule: `b ← b T[x] / (b T[x] 1)`; the
/// true conditional of the next token is `p(x) = b T[x] 1`. In a trained transformer the belief can be read off the
/// residual stream by least squares (Shai et al. 2024).
///
/// ```
/// use onelens::{data::{HiddenMarkov, Source}, ndarray::array};
/// // State 0 emits a and stays or emits b and goes to 1, half and half; state 1 emits b and returns.
/// let even = HiddenMarkov::new(array![[[0.5, 0.0], [0.0, 0.0]], [[0.0, 0.5], [1.0, 0.0]]])?;
/// // After an a the state is 0.
/// assert_eq!(even.beliefs(&[0]).unwrap(), array![[1.0, 0.0]]);
/// assert_eq!(even.true_conditional(&[0]).unwrap(), array![[0.5, 0.5]]);
/// // b is twice the whole way round; a single b between two a cannot be.
/// assert!(even.beliefs(&[0, 1, 0]).is_none());
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct HiddenMarkov {
    /// `[token, from, to]`.
    transitions: Array3<f64>,
    stationary: Array1<f64>,
}

impl HiddenMarkov {
    /// Makes a process from `transitions: [token, from, to]`; for each `from` they sum to 1.
    ///
    /// If there is more than one stationary distribution, the one that a uniform start leads to is taken.
    pub fn new(transitions: Array3<f64>) -> Result<Self> {
        let (d_vocab, n_states, n_to) = transitions.dim();
        let bad = |what: String| {
            let help =
                "give probabilities `[token, from, to]` that sum to 1 for every `from`, of at least 2 tokens";
            Err(Error::new(ErrorKind::Config, what, help))
        };
        if d_vocab < 2 || n_states == 0 || n_states != n_to {
            return bad(format!(
                "transitions of shape {:?} make no hidden Markov source",
                transitions.shape()
            ));
        }
        if let Some((at, p)) = transitions.indexed_iter().find(|(_, p)| !(**p >= 0.0 && p.is_finite())) {
            return bad(format!("the transition {at:?} has the probability {p}"));
        }
        let chain = transitions.sum_axis(Axis(0));
        for (from, total) in chain.sum_axis(Axis(1)).iter().enumerate() {
            if (total - 1.0).abs() > 1e-9 {
                return bad(format!("the transitions from state {from} sum to {total}"));
            }
        }
        Ok(HiddenMarkov { stationary: stationary(&chain), transitions })
    }

    /// Makes the process Mess3 of Shai et al. 2024 (Marzen & Crutchfield 2017), whose beliefs form a fractal: three
    /// states, three tokens. A state is kept with probability `1 - 2x`; the new state is told with probability `alpha`,
    /// else one of the other two tokens is emitted. The paper has `alpha = 0.85`, `x = 0.05`.
    pub fn mess3(alpha: f64, x: f64) -> Result<Self> {
        if !(0.0..=1.0).contains(&alpha) || !(0.0..=0.5).contains(&x) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("Mess3 with alpha {alpha} and x {x} has no probabilities"),
                "alpha is from 0 to 1 and x from 0 to 1/2; the paper has `mess3(0.85, 0.05)`",
            ));
        }
        let transitions = Array3::from_shape_fn((3, 3, 3), |(token, from, to)| {
            let go = if from == to { 1.0 - 2.0 * x } else { x };
            let tell = if token == to { alpha } else { (1.0 - alpha) / 2.0 };
            go * tell
        });
        Self::new(transitions)
    }

    /// Returns the number of hidden states.
    pub fn n_states(&self) -> usize {
        self.stationary.len()
    }

    /// Computes what can be known of the hidden state after each token: `[len, n_states]`. `None` if the process never
    /// emits these tokens.
    pub fn beliefs(&self, tokens: impl Tokens) -> Option<Array2<f64>> {
        let tokens = tokens.tokens();
        let mut out = Array2::zeros((tokens.len(), self.n_states()));
        let mut belief = self.stationary.clone();
        for (&token, mut row) in tokens.iter().zip(out.rows_mut()) {
            if token as usize >= self.d_vocab() {
                return None;
            }
            belief = belief.dot(&self.transitions.index_axis(Axis(0), token as usize));
            let total = belief.sum();
            if total <= 0.0 {
                return None;
            }
            belief /= total;
            row.assign(&belief);
        }
        Some(out)
    }
}

/// The stationary distribution of a chain, by powers of the lazy chain, which has the same one and no period.
fn stationary(chain: &Array2<f64>) -> Array1<f64> {
    let n = chain.nrows();
    let mut power = (chain + &Array2::<f64>::eye(n)) * 0.5;
    // 2⁴⁰ steps; rows are normalised, so that rounding does not grow.
    for _ in 0..40 {
        power = power.dot(&power);
        for mut row in power.rows_mut() {
            let total = row.sum();
            row /= total;
        }
    }
    power.mean_axis(Axis(0)).expect("there is a state")
}

impl Source for HiddenMarkov {
    fn d_vocab(&self) -> usize {
        self.transitions.len_of(Axis(0))
    }

    fn sample(&self, n_seqs: usize, len: usize, rng: &mut Rng) -> Result<Array2<u32>> {
        let n = self.n_states();
        let mut out = Array2::zeros((n_seqs, len));
        for mut row in out.rows_mut() {
            let mut state = sample_index(rng, self.stationary.iter().copied());
            for token in &mut row {
                let drawn = sample_index(rng, self.transitions.index_axis(Axis(1), state).iter().copied());
                (*token, state) = ((drawn / n) as u32, drawn % n);
            }
        }
        Ok(out)
    }

    fn sample_held_out(&self, n_seqs: usize, len: usize, rng: &mut Rng) -> Result<Array2<u32>> {
        self.sample(n_seqs, len, rng)
    }

    fn true_conditional(&self, tokens: &dyn Tokens) -> Option<Array2<f64>> {
        let tokens = &*tokens.tokens();
        // How probable each token is from each state.
        let emits = self.transitions.sum_axis(Axis(2));
        Some(self.beliefs(tokens)?.dot(&emits.t()))
    }

    fn token_text(&self, token: u32) -> String {
        super::letter(token)
    }

    fn describe(&self) -> String {
        format!("a hidden Markov process of {} states and {} tokens", self.n_states(), self.d_vocab())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::rng;
    use ndarray::array;

    /// The probability of `tokens`: the sum over every path of hidden states, one after another.
    fn probability(source: &HiddenMarkov, tokens: &[u32]) -> f64 {
        fn from(source: &HiddenMarkov, state: usize, tokens: &[u32]) -> f64 {
            let Some((&token, rest)) = tokens.split_first() else { return 1.0 };
            (0..source.n_states())
                .map(|to| source.transitions[(token as usize, state, to)] * from(source, to, rest))
                .sum()
        }
        (0..source.n_states()).map(|state| source.stationary[state] * from(source, state, tokens)).sum()
    }

    #[test]
    fn the_true_conditional_is_what_enumeration_of_all_paths_gives() {
        let lopsided = array![
            [[0.1, 0.2, 0.0], [0.3, 0.0, 0.3], [0.0, 0.0, 0.5]],
            [[0.3, 0.4, 0.0], [0.1, 0.3, 0.0], [0.25, 0.25, 0.0]]
        ];
        for source in [HiddenMarkov::mess3(0.85, 0.05).unwrap(), HiddenMarkov::new(lopsided).unwrap()] {
            let v = source.d_vocab() as u32;
            for code in 0..v.pow(5) {
                let tokens: Vec<u32> = (0..5).map(|i| code / v.pow(i) % v).collect();
                let p = source.true_conditional(&tokens).unwrap();
                for t in 0..5 {
                    for next in 0..v {
                        let with = [&tokens[..=t], &[next]].concat();
                        let want = probability(&source, &with) / probability(&source, &tokens[..=t]);
                        assert!((p[(t, next as usize)] - want).abs() < 1e-12, "{tokens:?}, {t}, {next}");
                    }
                }
            }
        }
    }

    #[test]
    fn mess3_has_the_matrices_of_its_paper() {
        let source = HiddenMarkov::mess3(0.85, 0.05).unwrap();
        // T(A) of appendix: [αy βx βx; αx βy βx; αx βx βy] with β = (1 - α) / 2 = 0.075 and y = 1 - 2x = 0.9.
        let a = array![[0.765, 0.00375, 0.00375], [0.0425, 0.0675, 0.00375], [0.0425, 0.00375, 0.0675]];
        let ours = source.transitions.index_axis(Axis(0), 0);
        assert!((&ours - &a).iter().all(|e| e.abs() < 1e-15), "{ours}");
        assert!(source.stationary.iter().all(|p| (p - 1.0 / 3.0).abs() < 1e-12));
    }

    #[test]
    fn a_periodic_chain_has_a_stationary_distribution_too() {
        // Two states that alternate: a and b in turn, begun with either.
        let source = HiddenMarkov::new(array![[[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]]).unwrap();
        assert!(source.stationary.iter().all(|p| (p - 0.5).abs() < 1e-12));
        let tokens = source.sample(20, 9, &mut rng(0, 0)).unwrap();
        assert!(tokens.rows().into_iter().all(|r| (1..9).all(|t| r[t] != r[t - 1])));
        assert!(source.true_conditional(&[0, 0]).is_none());
    }

    #[test]
    fn sampled_tokens_are_as_frequent_as_the_true_conditional_says() {
        let source = HiddenMarkov::mess3(0.85, 0.05).unwrap();
        let tokens = source.sample(4000, 4, &mut rng(2, 0)).unwrap();
        let prefix = [0, 0, 0];
        let p = source.true_conditional(&prefix).unwrap()[(2, 0)];
        let seen: Vec<bool> = tokens
            .rows()
            .into_iter()
            .filter(|r| (0..3).all(|t| r[t] == prefix[t]))
            .map(|r| r[3] == 0)
            .collect();
        let n = seen.len() as f64;
        let share = seen.iter().filter(|&&s| s).count() as f64 / n;
        assert!(n > 300.0 && (share - p).abs() < 5.0 * (p * (1.0 - p) / n).sqrt(), "{share} of {n}, {p}");
    }

    #[test]
    fn what_is_no_process_is_refused() {
        let cases = [
            array![[[1.0]]],
            array![[[0.5, 0.5]], [[0.0, 0.0]]],
            array![[[0.5]], [[0.4]]],
            array![[[1.5]], [[-0.5]]],
            array![[[f64::NAN]], [[1.0]]],
        ];
        for transitions in cases {
            assert!(HiddenMarkov::new(transitions).unwrap_err().to_string().contains("help:"));
        }
        assert!(HiddenMarkov::mess3(0.85, 0.6).is_err());
    }
}
