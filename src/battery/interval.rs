//! How sure a number is: bootstrap intervals for networks and their sequences; a test that a difference is small.

use serde::{Deserialize, Serialize};

use crate::num::{Rng, student_cdf, uniform_index};

/// An estimate, and how far it may be off.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The estimate from all data.
    pub estimate: f64,
    /// Lower end.
    pub lower: f64,
    /// Upper end.
    pub upper: f64,
    /// Whether these are the least and the largest of a few units, which promises nothing of others; else they are 95 %
    /// limits.
    pub is_range: bool,
}

/// Resamples that an interval is made of.
const RESAMPLES: usize = 2000;
/// What an interval misses, on both sides together.
const MISSED: f64 = 0.05;
/// Fewer units than this give a range.
const FEW: usize = 6;

impl Interval {
    /// Tells whether the whole interval lies above `x`.
    pub fn above(&self, x: f64) -> bool {
        self.lower > x
    }
}

/// Resamples of clustered data for the bootstrap, the same for every statistic. Units (networks) are drawn with
/// replacement and keep their clusters (sequences): drawing those again would count their spread twice (Davison &
/// Hinkley 1997, section 3.8). Of a single unit the clusters are drawn.
///
/// Intervals are studentised (Efron 1982, the bootstrap-t): each resample's distance from the estimate is counted in
/// standard errors of its own, by the delta method for ratios. The bootstrap of a few units without that covers too
/// little: "95 %" of eight networks covered .94 where units are normal and .85 where they are skewed, as ratios are.
/// Fewer than six units give their range.
///
/// ```
/// use onelens::battery::Resamples;
/// // Three networks with two sequences each.
/// let resamples = Resamples::new(&[2, 2, 2], &mut onelens::num::rng(0, 0));
/// let interval = resamples.mean(&[1.0, 1.2, 0.8, 1.0, 1.1, 0.9]);
/// assert!((interval.estimate - 1.0).abs() < 1e-12);
/// // The means of the networks are 1.1, 0.9 and 1.
/// assert!(interval.is_range && (interval.lower - 0.9).abs() < 1e-12 && (interval.upper - 1.1).abs() < 1e-12);
/// // A ratio of sums, twice everywhere.
/// let twice = resamples.ratio(&[2.0, 4.0, 6.0, 2.0, 4.0, 6.0], &[1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
/// assert_eq!((twice.lower, twice.upper), (2.0, 2.0));
/// ```
#[derive(Clone, Debug)]
pub struct Resamples {
    /// Clusters of each unit that is drawn.
    units: Vec<usize>,
    /// How often each unit was drawn, resample by resample.
    counts: Vec<f32>,
}

impl Resamples {
    /// Draws how often each unit counts in each resample; `units[i]` is how many clusters unit `i` has. Values of
    /// clusters are then given unit by unit.
    pub fn new(units: &[usize], rng: &mut Rng) -> Self {
        let units = match units {
            [n_clusters] => vec![1; *n_clusters],
            _ => units.to_vec(),
        };
        let n = units.len();
        let mut counts = vec![0.0; if n < FEW { 0 } else { RESAMPLES * n }];
        for resample in counts.chunks_mut(n.max(1)) {
            (0..n).for_each(|_| resample[uniform_index(rng, n)] += 1.0);
        }
        Resamples { units, counts }
    }

    /// Computes the mean of one value per cluster, with its interval. Panics unless there are as many values as
    /// clusters.
    pub fn mean(&self, values: &[f64]) -> Interval {
        self.ratio(values, &vec![1.0; values.len()])
    }

    /// Divides the sum of `top` by the sum of `bottom`, one value per cluster in both. Panics unless there are as
    /// many values as clusters.
    pub fn ratio(&self, top: &[f64], bottom: &[f64]) -> Interval {
        let n_clusters: usize = self.units.iter().sum();
        assert!(top.len() == n_clusters && bottom.len() == n_clusters, "one value per cluster");
        let sums = |values: &[f64]| -> Vec<f64> {
            let mut rest = values;
            let of_unit = |&n: &usize| {
                let (unit, others) = rest.split_at(n);
                rest = others;
                unit.iter().sum()
            };
            self.units.iter().map(of_unit).collect()
        };
        let (top, bottom) = (sums(top), sums(bottom));
        let n = top.len();
        if n < FEW {
            let estimate = top.iter().sum::<f64>() / bottom.iter().sum::<f64>();
            let each = top.iter().zip(&bottom).map(|(a, b)| a / b);
            let (lower, upper) =
                each.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
            return Interval { estimate, lower, upper, is_range: true };
        }
        let (estimate, error) = ratio_and_error(&top, &bottom, &vec![1.0; n]);
        let mut distances: Vec<f64> = self
            .counts
            .chunks(n)
            .map(|counts| {
                let (ratio, error) = ratio_and_error(&top, &bottom, counts);
                (ratio - estimate) / error
            })
            // A unit that was drawn every time has no spread.
            .filter(|t| t.is_finite())
            .collect();
        distances.sort_by(f64::total_cmp);
        if distances.is_empty() {
            // Every unit says the same.
            return Interval { estimate, lower: estimate, upper: estimate, is_range: false };
        }
        let at = |share: f64| distances[((distances.len() - 1) as f64 * share).round() as usize];
        let (low, high) = (at(MISSED / 2.0), at(1.0 - MISSED / 2.0));
        Interval { estimate, lower: estimate - high * error, upper: estimate - low * error, is_range: false }
    }
}

/// A ratio of sums over units that count so often, and its standard error by the delta method.
fn ratio_and_error(top: &[f64], bottom: &[f64], counts: &[f32]) -> (f64, f64) {
    let [mut a, mut b, mut aa, mut ab, mut bb] = [0.0; 5];
    for ((n, top), bottom) in counts.iter().zip(top).zip(bottom) {
        let n = f64::from(*n);
        a += n * top;
        b += n * bottom;
        aa += n * top * top;
        ab += n * top * bottom;
        bb += n * bottom * bottom;
    }
    let (ratio, n) = (a / b, top.len() as f64);
    // Squares of what is left of each unit, `a_i - r b_i`.
    let left = (aa - 2.0 * ratio * ab + ratio * ratio * bb).max(0.0);
    // Less than rounding is nothing.
    let left = if left < 1e-24 * aa { 0.0 } else { left };
    (ratio, (n / (n - 1.0) * left).sqrt() / b.abs())
}

/// Two one-sided t tests that a mean lies within `±margin` (Schuirmann 1987): a difference is *shown to be small*,
/// which is more than not shown to be there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Equivalence {
    /// Mean difference.
    pub mean: f64,
    /// How large a difference counts as none.
    pub margin: f64,
    /// The larger of both one-sided p values; below 0.05 the difference is within the margin.
    pub p_value: f64,
}

/// Tests whether the mean of `differences`, one per independent unit, is within `±margin`. With fewer than two of them,
/// nothing is shown: the p value is 1.
///
/// ```
/// use onelens::battery::equivalence;
/// assert!(equivalence(&[0.01, -0.01, 0.02, 0.0, -0.02], 0.1).p_value < 0.01);
/// assert!(equivalence(&[0.3, -0.3, 0.2], 0.1).p_value > 0.05); // not different from 0, but not shown to be near it either
/// ```
pub fn equivalence(differences: &[f64], margin: f64) -> Equivalence {
    let n = differences.len() as f64;
    let mean = differences.iter().sum::<f64>() / n;
    if differences.len() < 2 {
        return Equivalence { mean, margin, p_value: 1.0 };
    }
    let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let se = (variance / n).sqrt().max(f64::MIN_POSITIVE);
    // P(T > t) at the nearer of both margins.
    let p_value = student_cdf(-(margin - mean.abs()) / se, n - 1.0);
    Equivalence { mean, margin, p_value }
}
