//! How sure a number is: bootstrap intervals for networks and their sequences; a test that a difference is small.

use serde::{Deserialize, Serialize};

use crate::num::{Rng, uniform_index};

/// An estimate with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The estimate from all data.
    pub estimate: f64,
    /// Lower end.
    pub lower: f64,
    /// Upper end.
    pub upper: f64,
}

/// Resamples that an interval is made of.
const RESAMPLES: usize = 1000;
/// What an interval misses, on both sides together.
const MISSED: f64 = 0.05;

impl Interval {
    /// Whether the whole interval lies above `x`.
    pub fn above(&self, x: f64) -> bool {
        self.lower > x
    }
}

/// Resamples of clustered data for the bootstrap, the same for every statistic. Units (networks) are drawn with
/// replacement and keep their clusters (sequences): drawing those again would count their spread twice (Davison &
/// Hinkley 1997, section 3.8). Of a single unit the clusters are drawn.
///
/// Quantiles of a bootstrap of few units are too narrow. They are taken further out, where the normal distribution has
/// `√(n / (n - 1)) t_{n-1}` (Hesterberg 2015, the expanded percentile interval), `n` units, or clusters of a single
/// unit. No interval is wider than the range of the units, so that with fewer than about six it promises too much.
///
/// ```
/// use onelens::battery::Resamples;
/// // Three networks with two sequences each.
/// let resamples = Resamples::new(&[2, 2, 2], &mut onelens::num::rng(0, 0));
/// let interval = resamples.mean(&[1.0, 1.2, 0.8, 1.0, 1.1, 0.9]);
/// assert!((interval.estimate - 1.0).abs() < 1e-12);
/// assert!(interval.lower < 1.0 && interval.upper > 1.0);
/// // A ratio of sums, twice everywhere.
/// let twice = resamples.ratio(&[2.0, 4.0, 6.0, 2.0, 4.0, 6.0], &[1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
/// assert_eq!((twice.lower, twice.upper), (2.0, 2.0));
/// ```
#[derive(Clone, Debug)]
pub struct Resamples {
    n_clusters: usize,
    /// How often each cluster was drawn, resample by resample.
    counts: Vec<f32>,
    /// The share to leave out on each side.
    tail: f64,
}

impl Resamples {
    /// `units[i]` is how many clusters unit `i` has. Values of clusters are then given unit by unit.
    pub fn new(units: &[usize], rng: &mut Rng) -> Self {
        let n_clusters: usize = units.iter().sum();
        let mut counts = vec![0.0; RESAMPLES * n_clusters];
        let first: Vec<usize> = (0..units.len()).map(|i| units[..i].iter().sum()).collect();
        for resample in counts.chunks_mut(n_clusters.max(1)) {
            for _ in 0..units.len() {
                let i = uniform_index(rng, units.len());
                for j in 0..units[i] {
                    let cluster = if units.len() > 1 { j } else { uniform_index(rng, units[i]) };
                    resample[first[i] + cluster] += 1.0;
                }
            }
        }
        let n = if units.len() > 1 { units.len() } else { n_clusters };
        Resamples { n_clusters, counts, tail: expanded_tail(n) }
    }

    /// The mean of one value per cluster, with its interval. Panics unless there are as many values as clusters.
    pub fn mean(&self, values: &[f64]) -> Interval {
        self.ratio(values, &vec![1.0; values.len()])
    }

    /// The sum of `top` over the sum of `bottom`, one value per cluster in both. Panics unless there are as many values
    /// as clusters.
    pub fn ratio(&self, top: &[f64], bottom: &[f64]) -> Interval {
        assert!(top.len() == self.n_clusters && bottom.len() == self.n_clusters, "one value per cluster");
        let estimate = top.iter().sum::<f64>() / bottom.iter().sum::<f64>();
        let mut seen: Vec<f64> = self
            .counts
            .chunks(self.n_clusters.max(1))
            .map(|counts| {
                let (mut a, mut b) = (0.0, 0.0);
                for ((n, top), bottom) in counts.iter().zip(top).zip(bottom) {
                    a += f64::from(*n) * top;
                    b += f64::from(*n) * bottom;
                }
                a / b
            })
            .filter(|x| x.is_finite())
            .collect();
        seen.sort_by(f64::total_cmp);
        if seen.is_empty() {
            return Interval { estimate, lower: f64::NAN, upper: f64::NAN };
        }
        let at = |share: f64| seen[((seen.len() - 1) as f64 * share).round() as usize];
        Interval { estimate, lower: at(self.tail), upper: at(1.0 - self.tail) }
    }
}

/// The share of the bootstrap distribution to leave out on each side.
fn expanded_tail(n: usize) -> f64 {
    if n < 2 {
        return 0.0;
    }
    let n = n as f64;
    let reach = (n / (n - 1.0)).sqrt() * student_quantile(1.0 - MISSED / 2.0, n - 1.0);
    0.5 * libm::erfc(reach / std::f64::consts::SQRT_2)
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

/// Distribution function of Student's t with `nu` degrees of freedom, by the incomplete beta function.
fn student_cdf(t: f64, nu: f64) -> f64 {
    let tail = 0.5 * incomplete_beta(0.5 * nu, 0.5, nu / (nu + t * t));
    if t > 0.0 { 1.0 - tail } else { tail }
}

fn student_quantile(p: f64, nu: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1e4);
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if student_cdf(middle, nu) < p { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// The regularised incomplete beta function `I_x(a, b)` by its continued fraction (DLMF 8.17.22).
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    // The fraction converges fast below the mean; above it the other tail does.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(b, a, 1.0 - x);
    }
    let front =
        (libm::lgamma(a + b) - libm::lgamma(a) - libm::lgamma(b) + a * x.ln() + b * (1.0 - x).ln()).exp() / a;
    let mut fraction = 1.0;
    for m in (1..=200).rev() {
        let (k, m) = (f64::from(m), f64::from(m / 2));
        let d = if k as i64 % 2 == 0 {
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
        } else {
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
        };
        fraction = 1.0 + d / fraction;
    }
    front / fraction
}
