//! What the model would say after each layer, position by position.

use ndarray::Array2;

use super::Lens;
use super::compare::per_sequence;
use crate::data::TokenText;
use crate::model::Transformer;
use crate::num::{entropy, kl_divergence};
use crate::{Error, ErrorKind, Result};

/// The readings of one lens along one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectory {
    /// Name of the lens.
    pub lens: String,
    /// The token read at each position.
    pub tokens: Vec<String>,
    /// The token that came next at each position.
    pub targets: Vec<String>,
    /// `[residual stream, pos]`.
    pub readings: Array2<Reading>,
}

/// What a lens reads at one residual stream and position.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The five most probable next tokens with their probabilities, best first.
    pub top: Vec<(String, f32)>,
    /// KL from the final prediction, in nats.
    pub kl: f64,
    /// Entropy of the reading, in nats.
    pub entropy: f64,
    /// Cross-entropy with the token that came, `-ln p`, in nats.
    pub cross_entropy: f64,
    /// Probability of the token that came.
    pub p_target: f32,
    /// How many tokens are more probable than the one that came.
    pub rank_of_target: usize,
}

const N_TOP: usize = 5;

impl Trajectory {
    /// Reads the residual streams of `tokens` through `lens`. The last token serves as the target of the one before.
    ///
    /// Fails with fewer than two tokens, or on tokens or a lens that do not fit the model.
    pub fn new(model: &Transformer, lens: &dyn Lens, tokens: &[u32], texts: &dyn TokenText) -> Result<Self> {
        let Some((_, input)) = tokens.split_last().filter(|(_, input)| !input.is_empty()) else {
            return Err(Error::new(
                ErrorKind::Data,
                format!("a trajectory of {} tokens has no next token", tokens.len()),
                "pass at least two tokens",
            ));
        };
        let n_pos = input.len();
        let batch = Array2::from_shape_vec((1, n_pos), input.to_vec()).expect("one row");
        let mut readings = per_sequence(model, &[lens], &batch, |_, residuals, log_p| {
            let log_q: Vec<_> = residuals.iter().enumerate().map(|(l, h)| lens.read(model, l, *h)).collect();
            // Token texts are made outside: sources need not be shared between threads.
            Array2::from_shape_fn((log_q.len(), n_pos), |(l, t)| {
                let row = log_q[l].row(t);
                let target = tokens[t + 1] as usize;
                let mut order: Vec<usize> = (0..row.len()).collect();
                order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
                order.truncate(N_TOP);
                let p_target = row.get(target).copied().unwrap_or(f32::NEG_INFINITY);
                let rank = row.iter().filter(|&&x| x > p_target).count();
                let top: Vec<(u32, f32)> = order.into_iter().map(|i| (i as u32, row[i].exp())).collect();
                (top, kl_divergence(log_p.row(t), row), entropy(row), p_target, rank)
            })
        })?;
        let readings =
            readings.remove(0).mapv_into_any(|(top, kl, entropy, log_p_target, rank_of_target)| Reading {
                top: top.into_iter().map(|(token, p)| (texts.token_text(token), p)).collect(),
                kl,
                entropy,
                cross_entropy: -f64::from(log_p_target),
                p_target: log_p_target.exp(),
                rank_of_target,
            });
        Ok(Trajectory {
            lens: lens.name(),
            tokens: input.iter().map(|&t| texts.token_text(t)).collect(),
            targets: tokens[1..].iter().map(|&t| texts.token_text(t)).collect(),
            readings,
        })
    }

    /// For each position the first residual stream from which on the most probable token never changes: how early the prediction is
    /// there (Baldock et al. 2021).
    ///
    /// Tokens with the same text count as the same.
    pub fn prediction_depth(&self) -> Vec<usize> {
        let top = |l: usize, t: usize| self.readings[(l, t)].top.first().map(|(token, _)| token);
        let last = self.readings.nrows() - 1;
        let depth =
            |t: usize| (0..=last).rev().take_while(|&l| top(l, t) == top(last, t)).last().unwrap_or(last);
        (0..self.readings.ncols()).map(depth).collect()
    }
}
