//! How much of the final prediction each lens reads off each layer, on tokens it was not fitted to.

use std::path::Path;

use ndarray::{Array1, Array2};
use serde::{Deserialize, Serialize};

use super::readout::{Said, read_blocks, surprise};
use super::{LayerMoments, Lens};
use crate::model::Transformer;
use crate::num::mean_and_standard_error;
use crate::{Error, ErrorKind, Result, record};

const KIND: &str = "comparison";
const VERSION: u32 = 1;

/// What several lenses read off every residual stream of held-out tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// One per lens.
    pub curves: Vec<LensCurve>,
    /// `KL(p ‖ p̄)` of the mean training prediction `p̄`: what one knows without looking at any layer, in nats.
    pub baseline: f64,
    /// Standard error of `baseline` over sequences.
    pub baseline_se: f64,
    /// Cross-entropy of the model's own final prediction with the next token, in nats.
    pub model_cross_entropy: f64,
    /// Held-out sequences.
    pub n_seqs: usize,
    /// Held-out tokens.
    pub n_tokens: usize,
}

/// What one lens reads, for `l = 0 ..= L`: means over tokens, one per residual stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LensCurve {
    /// Name of the lens.
    pub name: String,
    /// `KL(p ‖ q_l)` from the final prediction `p` to the reading `q_l`, in nats.
    pub kl: Vec<f64>,
    /// Standard error of `kl` over sequences. Tokens of one sequence are not independent, so the sequence is the unit.
    pub se: Vec<f64>,
    /// Cross-entropy of the reading with the next token, in nats, over all tokens but the last of each sequence.
    pub cross_entropy: Vec<f64>,
    /// Share of tokens at which the reading's most probable token is that of the final prediction.
    pub agreement: Vec<f64>,
    /// Seconds that fitting the lens took ([`Lens::fit_seconds`]).
    pub fit_seconds: f64,
}

impl Comparison {
    /// Computes the share of what `own` reads that `lens` reads too, per residual stream: `(baseline - KL_lens) /
    /// (baseline - KL_own)`.
    ///
    /// 1 means as good as a lens of the layer's own, 0 as good as the baseline, negative worse than that.
    pub fn shared_fraction(&self, lens: &str, own: &str) -> Result<Vec<f64>> {
        let (lens, own) = (self.curve(lens)?, self.curve(own)?);
        Ok(lens.kl.iter().zip(&own.kl).map(|(k, o)| (self.baseline - k) / (self.baseline - o)).collect())
    }

    /// Saves what was read; written under a temporary name first.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        record::save(path.as_ref(), KIND, VERSION, self)
    }

    /// Reads a saved comparison. A file that is cut off, damaged or something else is refused.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        record::load(path.as_ref(), KIND, VERSION)
    }

    /// Returns the curve of the lens with this name.
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

/// Sums over some tokens for one lens at one stream.
#[derive(Clone, Copy)]
struct Sums {
    kl: f64,
    cross_entropy: f64,
    agree: f64,
}

/// Sums over some tokens of one sequence.
pub(crate) struct Part {
    sequence: usize,
    /// KL of the constant prediction.
    baseline: f64,
    /// Cross-entropy of the model's own prediction.
    model_cross_entropy: f64,
    /// Each lens at each stream.
    readings: Vec<Sums>,
}

impl Part {
    /// Of what the constant prediction says, the final one, and each lens at each stream.
    pub(crate) fn new(
        sequence: usize,
        constant: &[Said],
        last: &[Said],
        said: impl IntoIterator<Item = Vec<Said>>,
    ) -> Part {
        let sums = |said: Vec<Said>| {
            let same = said.iter().zip(last).filter(|(said, last)| said.top == last.top);
            Sums {
                kl: said.iter().map(|said| said.kl).sum(),
                cross_entropy: surprise(&said),
                agree: same.count() as f64,
            }
        };
        Part {
            sequence,
            baseline: constant.iter().map(|said| said.kl).sum(),
            model_cross_entropy: surprise(last),
            readings: said.into_iter().map(sums).collect(),
        }
    }

    /// Adds the tokens that follow in the same sequence.
    fn add(&mut self, more: &Part) {
        self.baseline += more.baseline;
        self.model_cross_entropy += more.model_cross_entropy;
        for (sums, more) in self.readings.iter_mut().zip(&more.readings) {
            sums.kl += more.kl;
            sums.cross_entropy += more.cross_entropy;
            sums.agree += more.agree;
        }
    }
}

/// Compares lenses on held-out `tokens: [sequence, pos]`. `moments` are those that the lenses were fitted to, for
/// whichever target; their mean prediction gives the baseline.
///
/// However large the vocabulary and however many the lenses, a thread holds the logits of a few positions at a time;
/// the final prediction is made once for all lenses.
///
/// Fails if a lens or the moments are of another model, a lens predicts no tokens, the tokens do not fit the model, or
/// sequences are of one token, so that none comes next.
pub fn compare(
    model: &Transformer,
    lenses: &[&dyn Lens],
    moments: &LayerMoments,
    tokens: &Array2<u32>,
) -> Result<Comparison> {
    compare_by(model, lenses, moments, tokens, |log_mean| {
        read_blocks(model, lenses, tokens, |block| {
            let mean = log_mean.broadcast(block.dim()).expect("a row of the vocabulary");
            let mut said = Vec::with_capacity(lenses.len() * block.streams.len());
            for lens in lenses {
                said.extend(block.read(model, *lens, 0..block.streams.len())?);
            }
            Ok(Part::new(block.sequence, &block.said(mean), &block.last, said))
        })
    })
}

/// The same of what `read` finds, in the order of the tokens, given the logarithm of the mean prediction.
pub(crate) fn compare_by(
    model: &Transformer,
    lenses: &[&dyn Lens],
    moments: &LayerMoments,
    tokens: &Array2<u32>,
    read: impl FnOnce(&Array1<f32>) -> Result<Vec<Part>>,
) -> Result<Comparison> {
    moments.check_model(model)?;
    if tokens.ncols() == 1 {
        return Err(Error::new(
            ErrorKind::Data,
            format!("{} sequences of one token have no next token to compare with", tokens.nrows()),
            "pass sequences of at least two tokens",
        ));
    }
    let n_streams = model.config.n_layers + 1;
    let parts = read(&moments.mean_prediction.mapv(|p| p.max(f64::MIN_POSITIVE).ln() as f32))?;
    let mut rows: Vec<Part> = Vec::with_capacity(tokens.nrows());
    for part in parts {
        match rows.last_mut() {
            Some(row) if row.sequence == part.sequence => row.add(&part),
            _ => rows.push(part),
        }
    }
    let n_pos = tokens.ncols() as f64;
    let n_next = (tokens.ncols() - 1) as f64;
    let statistic = |per: f64, of: &dyn Fn(&Part) -> f64| {
        mean_and_standard_error(&rows.iter().map(|r| of(r) / per).collect::<Vec<_>>())
    };
    let (baseline, baseline_se) = statistic(n_pos, &|r| r.baseline);
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
        baseline,
        baseline_se,
        model_cross_entropy: statistic(n_next, &|r| r.model_cross_entropy).0,
        n_seqs: tokens.nrows(),
        n_tokens: tokens.len(),
    })
}
