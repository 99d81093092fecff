//! How much of the final prediction each lens reads off each layer, on tokens it was not fitted to.

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

use super::{LayerMoments, Lens};
use crate::model::Transformer;
use crate::num::{kl_divergence, log_softmax_rows, mean_and_standard_error};
use crate::{Error, ErrorKind, Result};

/// Held-out KL of several lenses at every residual stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// One per lens.
    pub curves: Vec<LensCurve>,
    /// `KL(p ‖ p̄)` of the mean training prediction `p̄`: what one knows without looking at any layer, in nats.
    pub floor: f64,
    /// Standard error of `floor` over sequences.
    pub floor_se: f64,
    /// Held-out sequences.
    pub n_seqs: usize,
    /// Held-out tokens.
    pub n_tokens: usize,
}

/// Mean `KL(p ‖ q_l)` in nats from the final prediction `p` to the lens's reading `q_l`, for `l = 0 ..= L`.
#[derive(Clone, Debug, PartialEq)]
pub struct LensCurve {
    /// Name of the lens.
    pub name: String,
    /// Mean over tokens, one per residual stream.
    pub kl: Vec<f64>,
    /// Standard error over sequences, one per residual stream. Tokens of one sequence are not independent, so the
    /// sequence is the unit.
    pub se: Vec<f64>,
}

impl Comparison {
    /// The share of what `own` reads that `lens` reads too, per residual stream: `(floor - KL_lens) / (floor - KL_own)`.
    ///
    /// 1 means as good as a lens of the layer's own, 0 no better than not looking, negative worse than that.
    pub fn shared_fraction(&self, lens: &str, own: &str) -> Result<Vec<f64>> {
        let (lens, own) = (self.curve(lens)?, self.curve(own)?);
        Ok(lens.kl.iter().zip(&own.kl).map(|(k, o)| (self.floor - k) / (self.floor - o)).collect())
    }

    /// The curve of the lens with this name.
    pub fn curve(&self, name: &str) -> Result<LensCurve> {
        self.curves.iter().find(|c| c.name == name).cloned().ok_or_else(|| {
            let names: Vec<&str> = self.curves.iter().map(|c| c.name.as_str()).collect();
            Error::new(
                ErrorKind::Config,
                format!("no lens here is called {name:?}"),
                format!("the lenses are {names:?}"),
            )
        })
    }
}

/// Compares lenses on held-out `tokens: [sequence, pos]`. `moments` are those that the lenses were fitted to; their mean
/// prediction gives the floor.
///
/// Fails if a lens or the moments are of another model, or the tokens do not fit the model.
pub fn compare(
    model: &Transformer,
    lenses: &[&dyn Lens],
    moments: &LayerMoments,
    tokens: &Array2<u32>,
) -> Result<Comparison> {
    moments.check_model(model)?;
    let n_layers = model.config.n_layers + 1;
    let log_mean = moments.mean_prediction.mapv(|p| p.max(f64::MIN_POSITIVE).ln() as f32);
    // Per sequence: the constant prediction first, then each lens at each layer.
    let rows: Vec<Vec<f64>> = per_sequence(model, lenses, tokens, |residuals, log_p| {
        let constant = log_p.rows().into_iter().map(|p| kl_divergence(p, log_mean.view())).sum::<f64>();
        let readings = lenses.iter().flat_map(|lens| {
            residuals.iter().enumerate().map(move |(l, h)| {
                let log_q = model.unembed(lens.transport(l, *h).view());
                log_p.rows().into_iter().zip(log_q.rows()).map(|(p, q)| kl_divergence(p, q)).sum::<f64>()
            })
        });
        std::iter::once(constant).chain(readings).collect()
    })?;
    let n_pos = tokens.ncols() as f64;
    let statistic =
        |i: usize| mean_and_standard_error(&rows.iter().map(|r| r[i] / n_pos).collect::<Vec<_>>());
    let (floor, floor_se) = statistic(0);
    let curves = lenses
        .iter()
        .enumerate()
        .map(|(i, lens)| {
            let (kl, se) = (0..n_layers).map(|l| statistic(1 + i * n_layers + l)).unzip();
            LensCurve { name: lens.name(), kl, se }
        })
        .collect();
    Ok(Comparison { curves, floor, floor_se, n_seqs: tokens.nrows(), n_tokens: tokens.len() })
}

/// Runs the model over each sequence and hands `each` all residual streams, `[pos, d_model]`, and the final
/// log-probabilities, `[pos, d_vocab]`. Results come in the order of the sequences.
pub(crate) fn per_sequence<T: Send>(
    model: &Transformer,
    lenses: &[&dyn Lens],
    tokens: &Array2<u32>,
    each: impl Fn(&[ArrayView2<f32>], ArrayView2<f32>) -> T + Sync,
) -> Result<Vec<T>> {
    model.check_tokens(tokens)?;
    for lens in lenses {
        lens.check_model(model)?;
    }
    let sequences: Vec<_> = tokens.axis_chunks_iter(Axis(0), 1).collect();
    Ok(sequences
        .into_par_iter()
        .map(|sequence| {
            let tape = model.tape(sequence);
            let residuals: Vec<_> = (0..=model.config.n_layers).map(|l| tape.resid(l).view()).collect();
            each(&residuals, log_softmax_rows(tape.logits.view()).view())
        })
        .collect())
}
