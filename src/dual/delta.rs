//! The delta coefficient: does a head write what came, or what came minus what was predicted?

use ndarray::{Array2, Array3, ArrayView1, ArrayView2, Axis, s};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::model::{Hook, Transformer};
use crate::num::{Cholesky, log_softmax_rows, rng, uniform_index};
use crate::{Error, ErrorKind, Result};

/// Resampled sets of sequences for an interval.
const N_BOOTSTRAP: usize = 100;
/// The coefficient is looked for between minus and plus this.
const REACH: f64 = 3.0;

/// How values depend on the token they stand for and on the prediction of it.
///
/// The value `v_t` that a position offers is fitted by least squares as `v_t = c + M (1[x_t] + δ q_{t-1})`, where
/// `1[x_t]` is the token, one-hot, and `q_{t-1}` the distribution that was predicted for it. A Hebbian head writes what
/// came, `δ = 0`; one that writes a prediction error has `δ = -1`. `M` and `c` are free, so the coefficient does not
/// depend on how the head encodes tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// The least-squares `δ`.
    pub coefficient: f64,
    /// The middle 95 % of its values on resampled sequences.
    pub interval: (f64, f64),
    /// Share of the variance of the values that the fit explains.
    pub r2: f64,
}

/// Computes the delta coefficient of `values: [sequence, m, d_v]`, that belong to `tokens: [sequence, m]`, for which
/// `predicted: [sequence, m, d_vocab]` was said before they came. The interval is a bootstrap over sequences.
///
/// Fails on shapes that do not fit, fewer than two sequences, tokens outside of the vocabulary, and values without
/// variance.
///
/// ```
/// use onelens::{dual::delta_coefficient, ndarray::{Array2, Array3}};
/// // Two tokens, predicted with varying confidence, and values that are the error itself: 1[x] - q.
/// let tokens = Array2::from_shape_fn((8, 10), |(i, t)| ((3 * i + t * t) % 2) as u32);
/// let q = Array3::from_shape_fn((8, 10, 2), |(i, t, v)| {
///     let p = 0.1 + 0.08 * ((i + 3 * t) % 11) as f64;
///     if v == 0 { p } else { 1.0 - p }
/// });
/// let values = Array3::from_shape_fn((8, 10, 1), |(i, t, _)| f64::from(tokens[(i, t)]) - q[(i, t, 1)]);
/// let delta = delta_coefficient(&values, &tokens, &q, 0)?;
/// assert!((delta.coefficient + 1.0).abs() < 1e-3 && delta.r2 > 0.999);
/// # Ok::<(), onelens::Error>(())
/// ```
pub fn delta_coefficient(
    values: &Array3<f64>,
    tokens: &Array2<u32>,
    predicted: &Array3<f64>,
    seed: u64,
) -> Result<Delta> {
    let (n_seqs, m, d_vocab) = predicted.dim();
    if tokens.dim() != (n_seqs, m) || values.dim().0 != n_seqs || values.dim().1 != m {
        return Err(Error::new(
            ErrorKind::Shape,
            format!(
                "values {:?}, tokens {:?} and predictions {:?} do not fit each other",
                values.dim(),
                tokens.dim(),
                predicted.dim()
            ),
            "pass [sequence, m, d_v], [sequence, m] and [sequence, m, d_vocab]",
        ));
    }
    if n_seqs < 2 || m == 0 {
        return Err(Error::new(
            ErrorKind::Data,
            format!("{n_seqs} sequences of {m} values are too few"),
            "pass at least two sequences: the interval comes from resampling them",
        ));
    }
    if let Some(token) = tokens.iter().find(|t| **t as usize >= d_vocab) {
        return Err(Error::new(
            ErrorKind::Data,
            format!("token {token} is not among the {d_vocab} tokens that are predicted"),
            format!("tokens are 0 to {}", d_vocab - 1),
        ));
    }
    super::dual_form::finite("the values", values.iter())?;
    super::dual_form::finite("the predictions", predicted.iter())?;
    let sums: Vec<Sums> = (0..n_seqs)
        .into_par_iter()
        .map(|i| {
            let (v, q) = (values.index_axis(Axis(0), i), predicted.index_axis(Axis(0), i));
            Sums::of(v, tokens.row(i), q)
        })
        .collect();
    let all = Sums::total(sums.iter());
    let (coefficient, r2) = all.fit()?;
    let mut drawn: Vec<f64> = (0..N_BOOTSTRAP as u64)
        .into_par_iter()
        .map(|b| {
            let mut rng = rng(seed, b);
            let chosen: Vec<&Sums> = (0..n_seqs).map(|_| &sums[uniform_index(&mut rng, n_seqs)]).collect();
            Ok(Sums::total(chosen.into_iter()).fit()?.0)
        })
        .collect::<Result<_>>()?;
    drawn.sort_by(f64::total_cmp);
    let at = |share: f64| drawn[(share * (N_BOOTSTRAP - 1) as f64).round() as usize];
    Ok(Delta { coefficient, interval: (at(0.025), at(0.975)), r2 })
}

/// Sums over rows of `(1[x], q, v)` side by side, and of their products.
#[derive(Clone)]
struct Sums {
    n: f64,
    d_vocab: usize,
    first: ndarray::Array1<f64>,
    second: Array2<f64>,
}

impl Sums {
    fn of(v: ArrayView2<f64>, tokens: ArrayView1<u32>, q: ArrayView2<f64>) -> Self {
        let (m, d_vocab) = q.dim();
        let mut rows = Array2::zeros((m, 2 * d_vocab + v.ncols()));
        rows.slice_mut(s![.., d_vocab..2 * d_vocab]).assign(&q);
        rows.slice_mut(s![.., 2 * d_vocab..]).assign(&v);
        for (t, &token) in tokens.iter().enumerate() {
            rows[(t, token as usize)] = 1.0;
        }
        Sums { n: m as f64, d_vocab, first: rows.sum_axis(Axis(0)), second: rows.t().dot(&rows) }
    }

    fn total<'a>(mut parts: impl Iterator<Item = &'a Sums>) -> Self {
        let mut sum = parts.next().expect("there are sequences").clone();
        for part in parts {
            sum.n += part.n;
            sum.first += &part.first;
            sum.second += &part.second;
        }
        sum
    }

    /// The best `δ`, and the share of variance explained there.
    fn fit(&self) -> Result<(f64, f64)> {
        let v = self.d_vocab;
        let mean = self.first.view().insert_axis(Axis(1));
        let centred = &self.second - &(mean.dot(&mean.t()) / self.n);
        let part = |i: usize, j: usize| {
            let range = |k: usize| match k {
                0 => 0..v,
                1 => v..2 * v,
                _ => 2 * v..centred.nrows(),
            };
            centred.slice(s![range(i), range(j)])
        };
        let total = part(2, 2).diag().sum();
        if total <= 0.0 {
            return Err(Error::new(
                ErrorKind::Data,
                "the values do not vary",
                "pass values of a head that writes something",
            ));
        }
        // One-hot rows sum to one, so a direction has no variance; a trifle of ridge leaves it out.
        let ridge = 1e-9 * part(0, 0).diag().sum();
        let explained = |delta: f64| -> f64 {
            let mut inner =
                &part(0, 0) + &(&(&part(0, 1) + &part(1, 0)) * delta) + &part(1, 1) * (delta * delta);
            inner.diag_mut().iter_mut().for_each(|x| *x += ridge);
            let cross = &part(0, 2) + &(&part(1, 2) * delta);
            match Cholesky::new(inner.view()) {
                Ok(factor) => (&factor.solve(cross.view()) * &cross).sum() / total,
                Err(_) => 0.0,
            }
        };
        // The curve may have more than one top: look everywhere, then closely.
        let step = 0.25;
        let grid: Vec<(f64, f64)> = (0..=(2.0 * REACH / step) as usize)
            .map(|k| -REACH + step * k as f64)
            .map(|delta| (delta, explained(delta)))
            .collect();
        let top = grid.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1)).expect("a grid");
        let (mut lo, mut hi) = (top.0 - step, top.0 + step);
        let golden = (5.0_f64.sqrt() - 1.0) / 2.0;
        while hi - lo > 1e-4 {
            let (a, b) = (hi - golden * (hi - lo), lo + golden * (hi - lo));
            if explained(a) > explained(b) {
                hi = b;
            } else {
                lo = a;
            }
        }
        let delta = 0.5 * (lo + hi);
        Ok((delta, explained(delta)))
    }
}

/// The delta coefficient of every head of a transformer: of what its values say about the token at their position,
/// given what the model itself had predicted there.
///
/// The values of layer 0 see the token alone, so theirs is 0 whatever the training. An untrained network is the null
/// for the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadDeltas {
    /// `[layer][key/value head]`.
    pub layers: Vec<Vec<Delta>>,
}

impl HeadDeltas {
    /// Measures all heads on `tokens: [sequence, pos]`, from the second position on.
    pub fn new(model: &Transformer, tokens: &Array2<u32>, seed: u64) -> Result<Self> {
        let (logits, cache) = model.run_with_cache_of(tokens, &[], &|hook| matches!(hook, Hook::V(_)))?;
        let (n_seqs, n_pos, d_vocab) = logits.dim();
        let mut predicted = Array3::zeros((n_seqs, n_pos - 1, d_vocab));
        for (mut out, logits) in predicted.outer_iter_mut().zip(logits.outer_iter()) {
            let p = log_softmax_rows(logits.slice(s![..-1, ..])).mapv(|x| f64::from(x).exp());
            out.assign(&p);
        }
        let came = tokens.slice(s![.., 1..]).to_owned();
        let layer = |l: usize| -> Result<Vec<Delta>> {
            let v = cache.v(l)?;
            (0..v.len_of(Axis(2)))
                .map(|h| {
                    let values = v.slice(s![.., 1.., h, ..]).mapv(f64::from);
                    delta_coefficient(&values, &came, &predicted, seed)
                })
                .collect()
        };
        Ok(HeadDeltas { layers: (0..model.config.n_layers).map(layer).collect::<Result<_>>()? })
    }
}
