//! What several networks of one kind say together: shared fractions, alignment and the truth, with intervals, per
//! layer.

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::interval::{Equivalence, Interval, Resamples, equivalence};
use super::measure::{KINDS, LEFT_OUT_WITHOUT_LAST, Measured, OWN, SHARED, place};
use crate::Result;
use crate::lens::LensKind;
use crate::num::{mean_and_standard_error, rng};

/// One network, measured, with its shuffled copy: its null.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// The network.
    pub network: Measured,
    /// The same with its updates shuffled over tokens ([`Streams::shuffled`](super::Streams::shuffled)).
    pub shuffled: Measured,
}

/// One layer of all networks of a kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerSummary {
    /// Why this layer is not counted, if it is not.
    pub dropped: Option<String>,
    /// Mean KL of each of [`KINDS`], nats, at least KL where that was looked for.
    pub kl: Vec<f64>,
    /// The same of the least-squares lens of each kind.
    pub least_squares: Vec<f64>,
    /// Mean KL of the logit lens.
    pub logit_lens: f64,
    /// `Σ (baseline - KL) / Σ (baseline - KL_own)` of each of [`KINDS`].
    pub fraction: Vec<Interval>,
    /// The same of the left-out lens without the last stream, where both lenses' logits are multiplied by the one
    /// number that suits the stream best: what the decision rule looks at.
    pub scale_free: Interval,
    /// What there is to read, `baseline - KL_own` in nats, and what a lens of the other layers reads of it: the two of
    /// that share.
    pub nats: [Interval; 2],
    /// The fraction of the left-out lens of least squares, beside the own one of least squares.
    pub fraction_of_least_squares: f64,
    /// Share of the other counted streams whose own lenses, at the best temperature, read half or more of what this
    /// stream's own lens reads.
    pub read_by: f64,
    /// How probable so good a left-out lens (of least squares, by squared error) is in random bases; Holm's correction
    /// over the layers that count.
    pub rotation_p: f64,
    /// What is read of the truth, where something is known of it.
    pub truth: Option<LayerTruth>,
    /// Aitchison cosine of what updates change in the reading with the error that is left.
    pub alignment: Interval,
    /// The same above that of the shuffled copies, paired.
    pub excess: Interval,
    /// Whether the shared lens is as good as the own one, within 5 % of what the own one reads.
    pub as_good: Equivalence,
}

/// What the shared lens says of the truth at one stream. Shares are of what the networks have learned of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerTruth {
    /// How far the reading is from the truth, nats ([`TruthRead`](super::TruthRead)).
    pub kl: f64,
    /// Share that is still missing here of what the same lens reads off the last stream.
    pub left: Interval,
    /// Share that the next block brings.
    pub fall: Interval,
    /// That share, less half of what each of the blocks from here on would bring if all brought as much.
    pub beyond_fair: Interval,
}

impl LayerSummary {
    /// Returns the fraction of a kind of lens.
    ///
    /// Fails on a kind that is none of [`KINDS`].
    pub fn fraction_of(&self, kind: &LensKind) -> Result<Interval> {
        Ok(self.fraction[place(kind)?])
    }
}

/// All networks of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// What they are.
    pub name: String,
    /// How many.
    pub n_networks: usize,
    /// Held-out sequences of all of them.
    pub n_seqs: usize,
    /// Mean KL of the best constant prediction, nats.
    pub baseline: f64,
    /// Streams `h_0 .. h_{L-1}`.
    pub layers: Vec<LayerSummary>,
    /// `KL_own` of the first stream that is counted less that of the last, over the baseline: do own lenses improve
    /// with depth?
    pub improvement: Interval,
    /// What the networks know of the truth, where something is known of it.
    pub truth: Option<TruthSummary>,
    /// Share of what the own lens of stream j reads that the own lens of stream i reads of stream j, at the best
    /// temperature, `[i, j]`.
    pub pairs: Array2<f64>,
    /// Width of the streams, and number of classes.
    pub widths: [usize; 2],
    /// The largest length of a gradient where the search for the least KL ended, nats.
    pub gradient_norm: Option<f64>,
}

/// What networks know of the truth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TruthSummary {
    /// Whether the true conditional is known; if not, what came next.
    pub known: bool,
    /// How much nearer to the truth the final prediction is than a constant one, nats.
    pub learned: Interval,
    /// Share of that which the blocks after the first counted stream bring, read by the shared lens.
    pub gained: Interval,
}

/// A layer whose own lens reads less than this many standard errors above the baseline is dropped: its fraction divides
/// by noise.
const CLEAR: f64 = 3.0;
/// How large a loss counts as none: this share of what the own lens reads.
const MARGIN: f64 = 0.05;
/// What a lens of another single stream has to read to be said to read a stream.
const HALF: f64 = 0.5;

impl Summary {
    /// Sums up networks of one kind, all with as many layers. Panics on none.
    pub fn new(name: &str, pairs: &[Pair], seed: u64) -> Self {
        let n_layers = pairs[0].network.alignment.ncols();
        let units: Vec<usize> = pairs.iter().map(|p| p.network.baseline.len()).collect();
        let resamples = Resamples::new(&units, &mut rng(seed, 0xb001));
        let flat = |of: &dyn Fn(&Pair, usize) -> f64| -> Vec<f64> {
            pairs.iter().flat_map(|p| (0..p.network.baseline.len()).map(move |j| of(p, j))).collect()
        };
        let baseline = flat(&|p, j| p.network.baseline[j]);
        let kl = |kind: usize, l: usize| flat(&|p, j| p.network.kl[kind][(j, l)]);
        let closed = |kind: usize, l: usize| flat(&|p, j| p.network.least_squares[kind][(j, l)]);
        let own = |l: usize| kl(OWN, l);
        let read: Vec<Vec<f64>> = (0..n_layers).map(|l| minus(&baseline, &own(l))).collect();
        let dropped: Vec<Option<String>> = read.iter().map(|read| dropped(&units, read)).collect();
        let kept: Vec<usize> = (0..n_layers).filter(|&l| dropped[l].is_none()).collect();
        let truth = Truths::of(pairs, &kept, &resamples);
        let pair_shares = pair_shares(pairs);
        let rotation_p = rotation_p(pairs, &kept);
        let layers: Vec<LayerSummary> = (0..n_layers)
            .map(|l| {
                let alignment = flat(&|p, j| p.network.alignment[(j, l)]);
                let null = flat(&|p, j| p.shuffled.alignment[(j, l)]);
                let scale_free =
                    [0, 1].map(|i| minus(&baseline, &flat(&|p, j| p.network.scale_free[i][(j, l)])));
                let others: Vec<usize> = kept.iter().copied().filter(|&k| k != l).collect();
                let reading = others.iter().filter(|&&k| pair_shares[(k, l)] >= HALF).count();
                let of_least_squares = {
                    let closed = |kind| -> f64 { minus(&baseline, &closed(kind, l)).iter().sum() };
                    closed(LEFT_OUT_WITHOUT_LAST) / closed(OWN)
                };
                LayerSummary {
                    dropped: dropped[l].clone(),
                    kl: (0..KINDS.len()).map(|k| mean(&kl(k, l))).collect(),
                    least_squares: (0..KINDS.len()).map(|k| mean(&closed(k, l))).collect(),
                    logit_lens: mean(&flat(&|p, j| p.network.logit_lens[(j, l)])),
                    fraction: (0..KINDS.len())
                        .map(|k| resamples.ratio(&minus(&baseline, &kl(k, l)), &read[l]))
                        .collect(),
                    scale_free: resamples.ratio(&scale_free[1], &scale_free[0]),
                    nats: scale_free.each_ref().map(|read| resamples.mean(read)),
                    fraction_of_least_squares: of_least_squares,
                    read_by: if others.is_empty() { f64::NAN } else { reading as f64 / others.len() as f64 },
                    rotation_p: rotation_p[l],
                    truth: truth.as_ref().map(|truth| truth.layer(l, &resamples)),
                    alignment: resamples.mean(&alignment),
                    excess: resamples.mean(&minus(&alignment, &null)),
                    as_good: equivalence(&losses(pairs, l), MARGIN),
                }
            })
            .collect();
        let improvement = match (kept.first(), kept.last()) {
            (Some(&first), Some(&last)) => resamples.ratio(&minus(&own(first), &own(last)), &baseline),
            _ => Interval { estimate: 0.0, lower: 0.0, upper: 0.0, is_range: true },
        };
        let norms = pairs.iter().filter_map(|p| p.network.gradient_norm);
        Summary {
            name: name.into(),
            n_networks: pairs.len(),
            n_seqs: units.iter().sum(),
            baseline: mean(&baseline),
            layers,
            improvement,
            truth: truth.map(|truth| truth.summary),
            pairs: pair_shares,
            widths: pairs[0].network.widths,
            gradient_norm: norms.reduce(f64::max),
        }
    }

    /// Lists the layers that are counted.
    pub fn kept(&self) -> Vec<usize> {
        (0..self.layers.len()).filter(|&l| self.layers[l].dropped.is_none()).collect()
    }

    /// Divides what left-out lenses read by what own lenses read, summed over the layers that count; `None` if none
    /// counts.
    pub fn left_out(&self) -> Option<f64> {
        let sum =
            |which: usize| -> f64 { self.kept().iter().map(|&l| self.layers[l].nats[which].estimate).sum() };
        (!self.kept().is_empty()).then(|| sum(1) / sum(0))
    }
}

fn minus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// What was read of the truth, one value per sequence.
struct Truths {
    summary: TruthSummary,
    learned: Vec<f64>,
    /// Of each stream.
    shared: Vec<Vec<f64>>,
}

impl Truths {
    /// `None` unless all networks have the same kind of it.
    fn of(pairs: &[Pair], kept: &[usize], resamples: &Resamples) -> Option<Self> {
        let all: Option<Vec<_>> = pairs.iter().map(|p| p.network.truth.as_ref()).collect();
        let all = all?;
        if all.iter().any(|truth| truth.known != all[0].known) {
            return None;
        }
        let last: Vec<f64> = all.iter().flat_map(|truth| truth.last.iter().copied()).collect();
        let baseline: Vec<f64> = all.iter().flat_map(|truth| truth.baseline.iter().copied()).collect();
        let shared: Vec<Vec<f64>> = (0..all[0].shared.ncols())
            .map(|l| all.iter().flat_map(|truth| truth.shared.column(l).to_vec()).collect())
            .collect();
        let learned = minus(&baseline, &last);
        let (first, end) = (kept.first().copied().unwrap_or(0), shared.len() - 1);
        let summary = TruthSummary {
            known: all[0].known,
            learned: resamples.mean(&learned),
            gained: resamples.ratio(&minus(&shared[first], &shared[end]), &learned),
        };
        Some(Truths { summary, learned, shared })
    }

    fn layer(&self, l: usize, resamples: &Resamples) -> LayerTruth {
        let end = self.shared.len() - 1;
        let left = minus(&self.shared[l], &self.shared[end]);
        let fall = minus(&self.shared[l], &self.shared[l + 1]);
        let fair = 1.0 / (end - l) as f64;
        let beyond: Vec<f64> = fall.iter().zip(&left).map(|(fall, left)| fall - 0.5 * fair * left).collect();
        LayerTruth {
            kl: mean(&self.shared[l]),
            left: resamples.ratio(&left, &self.learned),
            fall: resamples.ratio(&fall, &self.learned),
            beyond_fair: resamples.ratio(&beyond, &self.learned),
        }
    }
}

/// What lenses of single streams read of other streams, over what those read themselves.
fn pair_shares(pairs: &[Pair]) -> Array2<f64> {
    let n = pairs[0].network.pair_kl.nrows();
    Array2::from_shape_fn((n, n), |(i, j)| {
        let sum = |i: usize| -> f64 {
            pairs
                .iter()
                .map(|p| {
                    p.network.baseline.sum() / p.network.baseline.len() as f64 - p.network.pair_kl[(i, j)]
                })
                .sum()
        };
        sum(i) / sum(j)
    })
}

/// One-sided p values by layer, that of the layers in `kept` corrected by Holm (1979).
fn rotation_p(pairs: &[Pair], kept: &[usize]) -> Vec<f64> {
    let first = &pairs[0].network.rotations.left_out;
    let mut p: Vec<f64> = (0..first.ncols())
        .map(|l| {
            let share = |copy: usize| -> f64 {
                let [mut top, mut bottom] = [0.0; 2];
                for r in pairs.iter().map(|pair| &pair.network.rotations) {
                    top += (r.baseline - r.left_out[(copy, l)]) / r.baseline;
                    bottom += (r.baseline - r.own[l]) / r.baseline;
                }
                top / bottom
            };
            let n = pairs.iter().map(|pair| pair.network.rotations.left_out.nrows()).min().unwrap_or(1);
            let as_is = share(0);
            // A lens that could not be fitted beats nothing.
            let as_good = (1..n).map(share).filter(|copy| *copy >= as_is || (copy + as_is).is_nan()).count();
            (1 + as_good) as f64 / n as f64
        })
        .collect();
    let mut order = kept.to_vec();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut largest = 0.0_f64;
    for (rank, &l) in order.iter().enumerate() {
        largest = largest.max(((order.len() - rank) as f64 * p[l]).min(1.0));
        p[l] = largest;
    }
    p
}

/// `(KL_shared - KL_own) / (baseline - KL_own)` of each network.
fn losses(pairs: &[Pair], l: usize) -> Vec<f64> {
    let mean = |values: ndarray::ArrayView1<f64>| values.sum() / values.len() as f64;
    pairs
        .iter()
        .map(|p| {
            let own = mean(p.network.kl[OWN].column(l));
            let shared = mean(p.network.kl[SHARED].column(l));
            (shared - own) / (mean(p.network.baseline.view()) - own)
        })
        .filter(|loss| loss.is_finite())
        .collect()
}

/// Why a layer is dropped: what its own lens reads is not clear of 0. The unit is the network; with only one, the
/// sequence.
fn dropped(units: &[usize], read: &[f64]) -> Option<String> {
    let mut rest = read;
    let networks: Vec<f64> = units
        .iter()
        .map(|&n| {
            let (one, others) = rest.split_at(n);
            rest = others;
            one.iter().sum::<f64>() / n as f64
        })
        .collect();
    let (mean, se) = mean_and_standard_error(if units.len() == 1 { read } else { &networks });
    (mean.is_nan() || mean <= CLEAR * se).then(|| {
        format!("its own lens reads {mean:.4} nats more than the mean prediction, standard error {se:.4}")
    })
}
