//! What the model would say after each layer, position by position.

use ndarray::{Array2, ArrayView1, ArrayView2};
use rayon::prelude::*;

use super::Lens;
use super::readout::read_blocks;
use crate::data::{TokenText, Tokens};
use crate::model::Transformer;
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

/// The places of the largest, best first; of equals the first.
fn likeliest(x: ArrayView1<f32>) -> Vec<usize> {
    let before = |&a: &usize, &b: &usize| x[b].total_cmp(&x[a]).then(a.cmp(&b));
    let mut places: Vec<usize> = (0..x.len()).collect();
    if places.len() > N_TOP {
        places.select_nth_unstable_by(N_TOP, before);
        places.truncate(N_TOP);
    }
    places.sort_by(before);
    places
}

impl Trajectory {
    /// Reads the residual streams of `tokens` through `lens`. The last token serves as the target of the one before.
    ///
    /// Fails with fewer than two tokens, or on tokens or a lens that do not fit the model.
    pub fn new(
        model: &Transformer,
        lens: &dyn Lens,
        tokens: impl Tokens,
        texts: &dyn TokenText,
    ) -> Result<Self> {
        let tokens = tokens.tokens();
        let Some((_, input)) = tokens.split_last().filter(|(_, input)| !input.is_empty()) else {
            return Err(Error::new(
                ErrorKind::Data,
                format!("a trajectory of {} tokens has no next token", tokens.len()),
                "pass at least two tokens",
            ));
        };
        let n_pos = input.len();
        let batch = Array2::from_shape_vec((1, n_pos), input.to_vec()).expect("one row");
        // Token texts are made outside: sources need not be shared between threads.
        let parts = read_blocks(model, &[lens], &batch, |block| {
            let read = |(l, h): (usize, &ArrayView2<f32>)| {
                let logits = lens.logits(model, lens.transport(l, *h)?.view())?;
                let rows = logits.rows().into_iter().zip(block.said(logits.view())).enumerate();
                let read = rows.map(|(t, (x, said))| {
                    let log_q = |i: usize| x.get(i).map_or(f32::NEG_INFINITY, |x| x - said.log_z as f32);
                    let target = tokens[block.start + t + 1] as usize;
                    let p_target = log_q(target);
                    let rank = (0..x.len()).filter(|&i| log_q(i) > p_target).count();
                    let top: Vec<(u32, f32)> =
                        likeliest(x).into_iter().map(|i| (i as u32, log_q(i).exp())).collect();
                    ((l, block.start + t), (top, said.kl, said.entropy, p_target, rank))
                });
                Ok(read.collect::<Vec<_>>())
            };
            // There is but one sequence: its streams go to all threads.
            block.streams.par_iter().enumerate().map(read).collect::<Result<Vec<_>>>()
        })?;
        let mut readings = Array2::default((model.config.n_layers + 1, n_pos));
        parts.into_iter().flatten().flatten().for_each(|(place, reading)| readings[place] = reading);
        let readings = readings.mapv_into_any(|(top, kl, entropy, log_p_target, rank_of_target)| Reading {
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

    /// Finds for each position the first residual stream from which on the most probable token never changes: how early
    /// the prediction is there (Baldock et al. 2021).
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
