//! The question most often asked of a network: how much does it prefer one answer to another?

use ndarray::{Array2, Array3};

use crate::model::Transformer;
use crate::{Error, ErrorKind, Result};

/// The logit of a correct token minus that of a wrong one, at one position, averaged over sequences.
///
/// ```
/// use onelens::{circuits::LogitDifference, ndarray::array};
/// let question = LogitDifference { correct: vec![2], wrong: vec![0], pos: None };
/// let logits = array![[[9.0_f32, 9.0, 9.0], [1.0, 0.0, 4.0]]];
/// assert_eq!(question.of(&logits)?, 3.0); // at the last position, 4 - 1
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogitDifference {
    /// The right answer of each sequence.
    pub correct: Vec<u32>,
    /// The wrong answer of each sequence.
    pub wrong: Vec<u32>,
    /// The position whose next token is asked for; `None`: the last.
    pub pos: Option<usize>,
}

impl LogitDifference {
    /// Returns the difference in these logits, `[batch, pos, d_vocab]`.
    ///
    /// Fails if there is not one answer of each kind for every sequence, or on a token or position that there is not.
    pub fn of(&self, logits: &Array3<f32>) -> Result<f64> {
        let (n_seqs, n_pos, d_vocab) = logits.dim();
        let pos = self.check(n_seqs, n_pos, d_vocab)?;
        let difference = |i: usize| {
            f64::from(logits[(i, pos, self.correct[i] as usize)])
                - f64::from(logits[(i, pos, self.wrong[i] as usize)])
        };
        Ok((0..n_seqs).map(difference).sum::<f64>() / n_seqs as f64)
    }

    /// Returns its gradient with respect to the logits: what [`Transformer::logits_hook_grads`] starts from.
    pub fn grad(&self, logits: &Array3<f32>) -> Result<Array3<f32>> {
        let (n_seqs, n_pos, d_vocab) = logits.dim();
        let pos = self.check(n_seqs, n_pos, d_vocab)?;
        let mut d = Array3::zeros(logits.dim());
        for i in 0..n_seqs {
            d[(i, pos, self.correct[i] as usize)] += 1.0 / n_seqs as f32;
            d[(i, pos, self.wrong[i] as usize)] -= 1.0 / n_seqs as f32;
        }
        Ok(d)
    }

    /// What the model says of these tokens.
    pub(crate) fn check_tokens(&self, model: &Transformer, tokens: &Array2<u32>) -> Result<usize> {
        self.check(tokens.nrows(), tokens.ncols(), model.config.d_vocab)
    }

    /// Refuses what cannot be answered; returns the position that is asked.
    fn check(&self, n_seqs: usize, n_pos: usize, d_vocab: usize) -> Result<usize> {
        if self.correct.len() != n_seqs || self.wrong.len() != n_seqs {
            return Err(Error::new(
                ErrorKind::Shape,
                format!(
                    "{} correct and {} wrong answers do not fit {n_seqs} sequences",
                    self.correct.len(),
                    self.wrong.len()
                ),
                "give one of each for every sequence",
            ));
        }
        if let Some(token) = self.correct.iter().chain(&self.wrong).find(|t| **t as usize >= d_vocab) {
            return Err(Error::new(
                ErrorKind::Data,
                format!("the answer {token} is outside the vocabulary of {d_vocab}"),
                format!("tokens are 0 to {}", d_vocab - 1),
            ));
        }
        let pos = self.pos.unwrap_or(n_pos.saturating_sub(1));
        if pos >= n_pos {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("there is no position {pos} in sequences of {n_pos}"),
                "leave `pos` at `None` for the last one",
            ));
        }
        Ok(pos)
    }
}
