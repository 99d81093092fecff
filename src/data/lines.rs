//! In-context regression in tokens: points on a line that is drawn anew for each sequence.

use ndarray::Array2;

use super::{Source, Tokens};
use crate::num::{Rng, uniform_index};
use crate::{Error, ErrorKind, Result};

/// Sequences `x y x y ..` with `y = a x + b`, rounded and cut to the range of the tokens. Tokens are the whole numbers
/// from `-largest` to `largest`; each sequence draws its slope from `-2, -1.5, .., 2` and its intercept from
/// `-2, -1, .., 2`, each `x` is uniform.
///
/// The line is not known, but there are only 45 of them, so its posterior is, and with it the true conditional.
///
/// ```
/// use onelens::data::{Lines, Source};
/// let source = Lines::new(4)?;
/// // Nothing is known about the next x; the answer to an x that came before is known.
/// let p = source.true_conditional(&[6, 8, 6]).unwrap();
/// assert_eq!(p[(1, 3)], 1.0 / 9.0);
/// assert_eq!(p[(2, 8)], 1.0);
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lines {
    largest: usize,
}

impl Lines {
    /// Makes the source with numbers up to `largest` in size.
    pub fn new(largest: usize) -> Result<Self> {
        if largest == 0 || largest > 1000 {
            return Err(Error::new(
                ErrorKind::Config,
                format!("numbers from -{largest} to {largest} make no lines"),
                "use a largest number from 1 to 1000, for example `Lines::new(4)`",
            ));
        }
        Ok(Lines { largest })
    }

    /// Twice the slope, and the intercept, of every line.
    fn all() -> impl Iterator<Item = (i64, i64)> {
        (-4..=4).flat_map(|a| (-2..=2).map(move |b| (a, b)))
    }

    /// The token of `y` at the token of `x`.
    fn answer(&self, (a, b): (i64, i64), x: u32) -> u32 {
        let largest = self.largest as i64;
        let double = a * (i64::from(x) - largest);
        // Halves away from zero.
        let rounded = (double + double.signum()) / 2;
        ((rounded + b).clamp(-largest, largest) + largest) as u32
    }
}

impl Source for Lines {
    fn d_vocab(&self) -> usize {
        2 * self.largest + 1
    }

    fn sample(&self, n_seqs: usize, len: usize, rng: &mut Rng) -> Result<Array2<u32>> {
        let lines: Vec<_> = Lines::all().collect();
        let mut out = Array2::zeros((n_seqs, len));
        for mut row in out.rows_mut() {
            let line = lines[uniform_index(rng, lines.len())];
            for t in 0..len {
                row[t] = match t % 2 {
                    0 => uniform_index(rng, self.d_vocab()) as u32,
                    _ => self.answer(line, row[t - 1]),
                };
            }
        }
        Ok(out)
    }

    fn sample_held_out(&self, n_seqs: usize, len: usize, rng: &mut Rng) -> Result<Array2<u32>> {
        self.sample(n_seqs, len, rng)
    }

    fn true_conditional(&self, tokens: &dyn Tokens) -> Option<Array2<f64>> {
        let tokens = &*tokens.tokens();
        let v = self.d_vocab();
        let mut possible: Vec<_> = Lines::all().collect();
        let mut p = Array2::zeros((tokens.len(), v));
        for (t, &token) in tokens.iter().enumerate() {
            if token as usize >= v {
                return None;
            }
            if t % 2 == 1 {
                possible.retain(|&line| self.answer(line, tokens[t - 1]) == token);
                p.row_mut(t).fill(1.0 / v as f64);
            } else {
                let mut row = p.row_mut(t);
                for &line in &possible {
                    row[self.answer(line, token) as usize] += 1.0;
                }
                row /= possible.len() as f64;
            }
        }
        // Points that lie on no line have no conditional.
        (!possible.is_empty()).then_some(p)
    }

    fn token_text(&self, token: u32) -> String {
        (i64::from(token) - self.largest as i64).to_string()
    }

    fn describe(&self) -> String {
        format!("points on random lines, numbers from -{0} to {0}", self.largest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::rng;

    /// Against the definition in floating point, and Bayes' rule by counting lines.
    #[test]
    fn the_true_conditional_counts_the_lines_through_all_points() {
        let source = Lines::new(4).unwrap();
        let tokens = source.sample(20, 8, &mut rng(0, 0)).unwrap();
        let y = |a: f64, b: f64, x: u32| ((a * (f64::from(x) - 4.0)).round() + b).clamp(-4.0, 4.0) + 4.0;
        for row in tokens.rows() {
            let row = row.to_vec();
            let p = source.true_conditional(&row).unwrap();
            for t in (0..8).step_by(2) {
                let (mut through, mut and_next) = (0.0, vec![0.0; 9]);
                for k in 0..45 {
                    let (a, b) = ((k / 5) as f64 / 2.0 - 2.0, (k % 5) as f64 - 2.0);
                    if (0..t).step_by(2).all(|i| y(a, b, row[i]) == f64::from(row[i + 1])) {
                        through += 1.0;
                        and_next[y(a, b, row[t]) as usize] += 1.0;
                    }
                }
                for next in 0..9 {
                    assert!((p[(t, next)] - and_next[next] / through).abs() < 1e-12);
                }
            }
        }
        assert!(source.true_conditional(&[4, 0, 4, 8]).is_none(), "a line has one answer");
    }
}
