//! What several networks of one kind say together: shared fractions and alignment with intervals, per layer.

use serde::{Deserialize, Serialize};

use super::interval::{Equivalence, Interval, Resamples, equivalence};
use super::measure::{LensKind, Measured};
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
    /// Mean KL of each of [`LensKind::ALL`], nats.
    pub kl: Vec<f64>,
    /// `Σ (floor - KL) / Σ (floor - KL_own)` of each of [`LensKind::ALL`].
    pub fraction: Vec<Interval>,
    /// Aitchison cosine of the decoded updates with the error that is left.
    pub alignment: Interval,
    /// The same above that of the shuffled copies, paired.
    pub excess: Interval,
    /// Whether the shared lens is as good as the own one, within 5 % of what the own one reads.
    pub as_good: Equivalence,
}

impl LayerSummary {
    /// Fraction of a kind of lens.
    pub fn fraction_of(&self, kind: LensKind) -> Interval {
        self.fraction[LensKind::ALL.iter().position(|k| *k == kind).expect("every kind is summarised")]
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
    pub floor: f64,
    /// Streams `h_0 .. h_{L-1}`.
    pub layers: Vec<LayerSummary>,
    /// `KL_own` of the first stream that is counted less that of the last, over the floor: do own lenses improve with
    /// depth?
    pub improvement: Interval,
    /// Whether alignment is with the true conditional.
    pub truth_known: bool,
}

/// A layer whose own lens reads less than this many standard errors above the floor is dropped: its fraction divides by
/// noise.
const CLEAR: f64 = 3.0;
/// How large a loss counts as none: this share of what the own lens reads.
const MARGIN: f64 = 0.05;

impl Summary {
    /// Sums up networks of one kind, all with as many layers. Panics on none.
    pub fn new(name: &str, pairs: &[Pair], seed: u64) -> Self {
        let n_layers = pairs[0].network.alignment.ncols();
        let units: Vec<usize> = pairs.iter().map(|p| p.network.floor.len()).collect();
        let resamples = Resamples::new(&units, &mut rng(seed, 0xb001));
        let flat = |of: &dyn Fn(&Pair, usize) -> f64| -> Vec<f64> {
            pairs.iter().flat_map(|p| (0..p.network.floor.len()).map(move |j| of(p, j))).collect()
        };
        let floor = flat(&|p, j| p.network.floor[j]);
        let kl = |k: usize, l: usize| flat(&|p, j| p.network.kl[k][(j, l)]);
        let minus = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a - b).collect() };
        let own = |l: usize| flat(&|p, j| p.network.kl_of(LensKind::Own)[(j, l)]);
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let layers: Vec<LayerSummary> = (0..n_layers)
            .map(|l| {
                let read = minus(&floor, &own(l));
                let alignment = flat(&|p, j| p.network.alignment[(j, l)]);
                let null = flat(&|p, j| p.shuffled.alignment[(j, l)]);
                let kinds = 0..LensKind::ALL.len();
                LayerSummary {
                    dropped: dropped(&units, &read),
                    kl: kinds.clone().map(|k| mean(&kl(k, l))).collect(),
                    fraction: kinds.map(|k| resamples.ratio(&minus(&floor, &kl(k, l)), &read)).collect(),
                    alignment: resamples.mean(&alignment),
                    excess: resamples.mean(&minus(&alignment, &null)),
                    as_good: equivalence(&losses(pairs, l), MARGIN),
                }
            })
            .collect();
        let kept: Vec<usize> = (0..n_layers).filter(|&l| layers[l].dropped.is_none()).collect();
        let improvement = match (kept.first(), kept.last()) {
            (Some(&first), Some(&last)) => resamples.ratio(&minus(&own(first), &own(last)), &floor),
            _ => Interval { estimate: 0.0, lower: 0.0, upper: 0.0 },
        };
        Summary {
            name: name.into(),
            n_networks: pairs.len(),
            n_seqs: units.iter().sum(),
            floor: mean(&floor),
            layers,
            improvement,
            truth_known: pairs[0].network.truth_known,
        }
    }

    /// Layers that are counted.
    pub fn kept(&self) -> Vec<usize> {
        (0..self.layers.len()).filter(|&l| self.layers[l].dropped.is_none()).collect()
    }

    /// Mean over the counted layers of the left-out fraction; `None` if none is counted.
    pub fn left_out(&self) -> Option<f64> {
        let kept = self.kept();
        let sum: f64 = kept.iter().map(|&l| self.layers[l].fraction_of(LensKind::LeftOut).estimate).sum();
        (!kept.is_empty()).then(|| sum / kept.len() as f64)
    }
}

/// `(KL_shared - KL_own) / (floor - KL_own)` of each network.
fn losses(pairs: &[Pair], l: usize) -> Vec<f64> {
    let mean = |values: ndarray::ArrayView1<f64>| values.sum() / values.len() as f64;
    pairs
        .iter()
        .map(|p| {
            let own = mean(p.network.kl_of(LensKind::Own).column(l));
            let shared = mean(p.network.kl_of(LensKind::Shared).column(l));
            (shared - own) / (mean(p.network.floor.view()) - own)
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
    (mean.is_nan() || mean <= CLEAR * se)
        .then(|| format!("its own lens reads {mean:.4} nats above the floor, standard error {se:.4}"))
}
