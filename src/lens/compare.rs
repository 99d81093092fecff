//! How much of the final prediction each lens reads off each layer, on tokens it was not fitted to.

use ndarray::{Array2, ArrayView1, ArrayView2, Axis};
use rayon::prelude::*;

use super::{LayerMoments, Lens};
use crate::model::Transformer;
use crate::num::{kl_divergence, log_softmax_rows, mean_and_standard_error};
use crate::{Error, ErrorKind, Result};

/// What several lenses read off every residual stream of held-out tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// One per lens.
    pub curves: Vec<LensCurve>,
    /// `KL(p ‖ p̄)` of the mean training prediction `p̄`: what one knows without looking at any layer, in nats.
    pub floor: f64,
    /// Standard error of `floor` over sequences.
    pub floor_se: f64,
    /// Cross-entropy of the model's own final prediction with the next token, in nats; NaN for sequences of one token.
    pub model_cross_entropy: f64,
    /// Held-out sequences.
    pub n_seqs: usize,
    /// Held-out tokens.
    pub n_tokens: usize,
}

/// What one lens reads, for `l = 0 ..= L`: means over tokens, one per residual stream.
#[derive(Clone, Debug, PartialEq)]
pub struct LensCurve {
    /// Name of the lens.
    pub name: String,
    /// `KL(p ‖ q_l)` from the final prediction `p` to the reading `q_l`, in nats.
    pub kl: Vec<f64>,
    /// Standard error of `kl` over sequences. Tokens of one sequence are not independent, so the sequence is the unit.
    pub se: Vec<f64>,
    /// Cross-entropy of the reading with the next token, in nats, over all tokens but the last of each sequence; NaN for
    /// sequences of one token.
    pub cross_entropy: Vec<f64>,
    /// Share of tokens at which the reading's most probable token is that of the final prediction.
    pub agreement: Vec<f64>,
    /// Seconds that fitting the lens took ([`Lens::fit_seconds`]).
    pub fit_seconds: f64,
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

/// Sums over one sequence for one lens at one stream.
#[derive(Clone, Copy)]
struct Sums {
    kl: f64,
    cross_entropy: f64,
    agree: f64,
}

/// Sums over one sequence.
struct Sequence {
    /// KL of the constant prediction.
    floor: f64,
    /// Cross-entropy of the model's own prediction.
    model_cross_entropy: f64,
    /// Each lens at each stream.
    readings: Vec<Sums>,
}

/// Compares lenses on held-out `tokens: [sequence, pos]`. `moments` are those that the lenses were fitted to, for whichever target; their
/// mean prediction gives the floor.
///
/// Fails if a lens or the moments are of another model, a lens predicts no tokens, or the tokens do not fit the model.
pub fn compare(
    model: &Transformer,
    lenses: &[&dyn Lens],
    moments: &LayerMoments,
    tokens: &Array2<u32>,
) -> Result<Comparison> {
    moments.check_model(model)?;
    let n_streams = model.config.n_layers + 1;
    let log_mean = moments.mean_prediction.mapv(|p| p.max(f64::MIN_POSITIVE).ln() as f32);
    let rows: Vec<Sequence> = per_sequence(model, lenses, tokens, |sequence, residuals, log_p| {
        let next: Vec<u32> = sequence.iter().skip(1).copied().collect();
        let nats = |log_q: ArrayView2<f32>| -> f64 {
            next.iter().zip(log_q.rows()).map(|(&t, q)| -f64::from(q[t as usize])).sum()
        };
        let top: Vec<usize> = log_p.rows().into_iter().map(most_probable).collect();
        let floor = log_p.rows().into_iter().map(|p| kl_divergence(p, log_mean.view())).sum::<f64>();
        let readings = lenses.iter().flat_map(|lens| {
            residuals.iter().enumerate().map(|(l, h)| {
                let log_q = lens.read(model, l, *h);
                let rows = || log_p.rows().into_iter().zip(log_q.rows());
                Sums {
                    kl: rows().map(|(p, q)| kl_divergence(p, q)).sum(),
                    cross_entropy: nats(log_q.view()),
                    agree: log_q
                        .rows()
                        .into_iter()
                        .zip(&top)
                        .filter(|(q, t)| most_probable(*q) == **t)
                        .count() as f64,
                }
            })
        });
        Sequence { floor, model_cross_entropy: nats(log_p), readings: readings.collect() }
    })?;
    let n_pos = tokens.ncols() as f64;
    let n_next = (tokens.ncols() - 1) as f64;
    let statistic = |per: f64, of: &dyn Fn(&Sequence) -> f64| {
        mean_and_standard_error(&rows.iter().map(|r| of(r) / per).collect::<Vec<_>>())
    };
    let (floor, floor_se) = statistic(n_pos, &|r| r.floor);
    let curves = lenses
        .iter()
        .enumerate()
        .map(|(i, lens)| {
            let place = |l: usize| i * n_streams + l;
            let streams = || 0..n_streams;
            // No KL is negative; of a perfect lens rounding may leave one that is, a little.
            let (kl, se) = streams()
                .map(|l| statistic(n_pos, &|r| r.readings[place(l)].kl))
                .map(|(kl, se)| (kl.max(0.0), se))
                .unzip();
            LensCurve {
                name: lens.name(),
                kl,
                se,
                cross_entropy: streams()
                    .map(|l| statistic(n_next, &|r| r.readings[place(l)].cross_entropy).0)
                    .collect(),
                agreement: streams().map(|l| statistic(n_pos, &|r| r.readings[place(l)].agree).0).collect(),
                fit_seconds: lens.fit_seconds(),
            }
        })
        .collect();
    Ok(Comparison {
        curves,
        floor,
        floor_se,
        model_cross_entropy: statistic(n_next, &|r| r.model_cross_entropy).0,
        n_seqs: tokens.nrows(),
        n_tokens: tokens.len(),
    })
}

/// The place of the largest, the first of equals.
fn most_probable(log_q: ArrayView1<f32>) -> usize {
    let best = log_q
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (i, &x)| if x > best.1 { (i, x) } else { best });
    best.0
}

/// Runs the model over each sequence and hands `each` its tokens, all residual streams, `[pos, d_model]`, and the
/// final log-probabilities, `[pos, d_vocab]`. Results come in the order of the sequences.
pub(crate) fn per_sequence<T: Send>(
    model: &Transformer,
    lenses: &[&dyn Lens],
    tokens: &Array2<u32>,
    each: impl Fn(ArrayView1<u32>, &[ArrayView2<f32>], ArrayView2<f32>) -> T + Sync,
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
            each(sequence.row(0), &residuals, log_softmax_rows(tape.logits.view()).view())
        })
        .collect())
}
