//! A source in which only repetition can be predicted: a stretch of random tokens, over and over.

use ndarray::Array2;

use super::{Source, Tokens};
use crate::num::{Rng, uniform_index};
use crate::{Error, ErrorKind, Result};

/// Sequences that repeat a stretch of random tokens. Each sequence draws its own stretch, the length uniform in a
/// range, the tokens uniform; it starts at the stretch's beginning.
///
/// Given the length `P`, the next token is uniform before position `P` and certain after it. The length is not known,
/// but its posterior is: after `n` tokens, `P` has the weight `V^(-min(n, P))` if the tokens repeat with it, else 0;
/// the true conditional is the mixture.
///
/// ```
/// use onelens::data::{Copies, Source};
/// let source = Copies::new(2, 1, 2)?;
/// // After "a": P = 1 (weight 1/2) says a; P = 2 (weight 1/2) says either.
/// // After "a b": only P = 2 is left, it says a.
/// let p = source.true_conditional(&[0, 1]).unwrap();
/// assert_eq!((p[(0, 0)], p[(0, 1)]), (0.75, 0.25));
/// assert_eq!((p[(1, 0)], p[(1, 1)]), (1.0, 0.0));
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copies {
    d_vocab: usize,
    shortest: usize,
    longest: usize,
}

impl Copies {
    /// Makes the source with stretches of `shortest` to `longest` tokens out of `d_vocab`.
    pub fn new(d_vocab: usize, shortest: usize, longest: usize) -> Result<Self> {
        if d_vocab < 2 || shortest == 0 || shortest > longest {
            return Err(Error::new(
                ErrorKind::Config,
                format!("stretches of {shortest} to {longest} tokens out of {d_vocab} cannot be copied"),
                "use at least 2 tokens and lengths from 1 up, for example `Copies::new(26, 8, 20)`",
            ));
        }
        Ok(Copies { d_vocab, shortest, longest })
    }
}

impl Source for Copies {
    fn d_vocab(&self) -> usize {
        self.d_vocab
    }

    fn sample(&self, n_seqs: usize, len: usize, rng: &mut Rng) -> Result<Array2<u32>> {
        let mut out = Array2::zeros((n_seqs, len));
        for mut row in out.rows_mut() {
            let period = self.shortest + uniform_index(rng, self.longest - self.shortest + 1);
            for t in 0..len {
                row[t] = if t < period { uniform_index(rng, self.d_vocab) as u32 } else { row[t - period] };
            }
        }
        Ok(out)
    }

    fn sample_held_out(&self, n_seqs: usize, len: usize, rng: &mut Rng) -> Result<Array2<u32>> {
        self.sample(n_seqs, len, rng)
    }

    fn true_conditional(&self, tokens: &dyn Tokens) -> Option<Array2<f64>> {
        let tokens = &*tokens.tokens();
        let v = self.d_vocab as f64;
        let mut possible: Vec<usize> = (self.shortest..=self.longest).collect();
        let mut p = Array2::zeros((tokens.len(), self.d_vocab));
        for (t, &token) in tokens.iter().enumerate() {
            if token as usize >= self.d_vocab {
                return None;
            }
            possible.retain(|&period| t < period || tokens[t - period] == token);
            let n = t + 1;
            // Relative to the largest weight, so that nothing underflows or overflows.
            let largest = possible.first().map_or(0, |&period| n.min(period));
            let weight = |period: usize| v.powi(largest as i32 - n.min(period) as i32);
            let total: f64 = possible.iter().map(|&period| weight(period)).sum();
            for &period in &possible {
                let share = weight(period) / total;
                match n.checked_sub(period) {
                    Some(copied) => p[(t, tokens[copied] as usize)] += share,
                    None => p.row_mut(t).iter_mut().for_each(|p| *p += share / v),
                }
            }
        }
        // Tokens that no stretch repeats to have no conditional.
        (!possible.is_empty()).then_some(p)
    }

    fn token_text(&self, token: u32) -> String {
        super::letter(token)
    }

    fn describe(&self) -> String {
        format!("{} to {} random tokens out of {}, repeated", self.shortest, self.longest, self.d_vocab)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::rng;

    /// Every stretch of every length, equally probable among its length, written out to `len` tokens.
    fn all(v: u32, shortest: usize, longest: usize, len: usize) -> Vec<(Vec<u32>, f64)> {
        let mut out = Vec::new();
        for period in shortest..=longest {
            let n = u64::from(v).pow(period as u32);
            for code in 0..n {
                let stretch: Vec<u32> =
                    (0..period).map(|i| (code / u64::from(v).pow(i as u32) % u64::from(v)) as u32).collect();
                out.push(((0..len).map(|t| stretch[t % period]).collect(), 1.0 / n as f64));
            }
        }
        out
    }

    #[test]
    fn the_true_conditional_is_what_enumeration_of_all_sequences_gives() {
        let (v, len) = (3, 7);
        let source = Copies::new(v as usize, 2, 4).unwrap();
        let all = all(v, 2, 4, len);
        for (sequence, _) in all.iter().step_by(5) {
            let p = source.true_conditional(&&sequence[..len - 1]).unwrap();
            for t in 0..len - 1 {
                let with = |next: Option<u32>| -> f64 {
                    all.iter()
                        .filter(|(s, _)| {
                            s[..=t] == sequence[..=t] && next.is_none_or(|next| s[t + 1] == next)
                        })
                        .map(|(_, weight)| weight)
                        .sum()
                };
                for next in 0..v {
                    let want = with(Some(next)) / with(None);
                    assert!(
                        (p[(t, next as usize)] - want).abs() < 1e-12,
                        "{sequence:?}, position {t}, {next}"
                    );
                }
            }
        }
    }

    #[test]
    fn samples_repeat_with_a_length_in_the_range_and_long_ones_do_not_underflow() {
        let source = Copies::new(26, 3, 9).unwrap();
        let tokens = source.sample(50, 2000, &mut rng(1, 0)).unwrap();
        for row in tokens.rows() {
            let row = row.to_vec();
            assert!((3..=9).any(|period| (period..2000).all(|t| row[t] == row[t - period])));
            let p = source.true_conditional(&row).unwrap();
            assert!(p.rows().into_iter().all(|p| (p.sum() - 1.0).abs() < 1e-9));
        }
        assert!(source.true_conditional(&[0; 30]).is_some());
        assert!(source.true_conditional(&(0..20).collect::<Vec<_>>()).is_none(), "nothing repeats");
        assert!(source.true_conditional(&[26]).is_none());
    }

    #[test]
    fn impossible_sources_are_refused() {
        for (v, a, b) in [(1, 1, 2), (4, 0, 2), (4, 3, 2)] {
            assert!(Copies::new(v, a, b).unwrap_err().to_string().contains("help:"));
        }
    }
}
