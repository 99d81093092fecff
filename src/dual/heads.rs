//! Softmax heads of a trained transformer, taken apart: what of them is gradient descent, and what is not.
//!
//! Axes: values of a head `[pos, d_head]`, patterns `[query, key]`; tables over heads `[layer, head]`.

use ndarray::{Array1, Array2, Array3, Array4, ArrayView1, ArrayView2, Axis, s};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::hopfield::softmax;
use crate::model::{ActivationCache, Attention, Hook, Positions, QkNorm, Transformer};
use crate::num::{mean_and_standard_error, normal, rng};
use crate::{Error, ErrorKind, Result};

/// What the heads of a layer have gathered, as a mixture of what the context gives and what the query's own part gives:
/// `z = (1 - λ) z_query + λ z_context` with `λ` the attention that goes to the context. Exact, since a softmax over a
/// union is a mixture of softmaxes (Dai et al. 2022, section 3, without their approximation).
#[derive(Clone, Debug, PartialEq)]
pub struct ContextSplit {
    /// Share of the context, `[batch, head, query]`, queries from position `n_context` on.
    pub lambda: Array3<f64>,
    /// What the context gives, `[batch, head, query, d_head]`.
    pub from_context: Array4<f64>,
    /// What the query's own part gives, `[batch, head, query, d_head]`.
    pub from_query: Array4<f64>,
    /// Largest difference between the mixture and what the heads gathered in `f32`.
    pub error: f64,
}

impl ContextSplit {
    /// Splits the heads of `layer` on `tokens: [batch, pos]`, whose first `n_context` positions are the context.
    ///
    /// ```
    /// use onelens::{dual::ContextSplit, model::{Config, Transformer}, ndarray::array};
    /// let model = Transformer::new(Config { d_vocab: 5, n_layers: 1, ..Default::default() })?;
    /// let split = ContextSplit::new(&model, &array![[0, 1, 2, 3]], 0, 3)?;
    /// assert_eq!(split.lambda.dim(), (1, 4, 1));
    /// assert!(split.error < 1e-5); // the rounding of f32
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn new(model: &Transformer, tokens: &Array2<u32>, layer: usize, n_context: usize) -> Result<Self> {
        let n_pos = tokens.ncols();
        if n_context == 0 || n_context >= n_pos {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("a context of {n_context} of {n_pos} positions leaves one of the parts empty"),
                format!("use 1 to {}: both parts need a position", n_pos.saturating_sub(1)),
            ));
        }
        softmax_only(model)?;
        let heads = Heads::run(model, tokens)?;
        let pattern = heads.cache.pattern(layer)?.mapv(f64::from);
        let (n_seqs, n_heads, _, _) = pattern.dim();
        let d_head = model.config.d_head;
        let n_queries = n_pos - n_context;
        let mut split = ContextSplit {
            lambda: Array3::zeros((n_seqs, n_heads, n_queries)),
            from_context: Array4::zeros((n_seqs, n_heads, n_queries, d_head)),
            from_query: Array4::zeros((n_seqs, n_heads, n_queries, d_head)),
            error: 0.0,
        };
        let z = heads.cache.z(layer)?;
        for b in 0..n_seqs {
            for h in 0..n_heads {
                let v = heads.values(layer, b, h)?;
                for q in 0..n_queries {
                    let row = pattern.slice(s![b, h, n_context + q, ..]);
                    let part = |range: std::ops::Range<usize>| {
                        let weights = row.slice(s![range.clone()]);
                        let sum = weights.sum();
                        let read = weights.dot(&v.slice(s![range, ..]));
                        (sum, if sum > 0.0 { read / sum } else { read })
                    };
                    let ((lambda, context), (own, query)) = (part(0..n_context), part(n_context..n_pos));
                    let mixed = &query * own + &context * lambda;
                    let gathered = z.slice(s![b, n_context + q, h, ..]);
                    let error = mixed
                        .iter()
                        .zip(gathered)
                        .fold(0.0, |m: f64, (x, &y)| m.max((x - f64::from(y)).abs()));
                    split.error = split.error.max(error);
                    split.lambda[(b, h, q)] = lambda;
                    split.from_context.slice_mut(s![b, h, q, ..]).assign(&context);
                    split.from_query.slice_mut(s![b, h, q, ..]).assign(&query);
                }
            }
        }
        Ok(split)
    }
}

/// Heads as linear attention: how well, and when not. Means over sequences and over positions from the second on.
///
/// The relaxation of Dai et al. 2022 leaves the softmax out, `Σ_j (k_j·q) v_j`, which makes a head the dual form of a
/// gradient step. Next to it the expansion of the softmax about equal scores, `1/n Σ_j (1 + s_j - s̄) v_j`, and the
/// null of both: uniform attention, `1/n Σ_j v_j`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadRelaxation {
    /// Cosine between the head's output and that of linear attention, `[layer, head]`.
    pub linear: Array2<f64>,
    /// The same of the first-order expansion.
    pub first_order: Array2<f64>,
    /// The same of uniform attention.
    pub uniform: Array2<f64>,
    /// Variance of the scores that a query gives, in nats².
    pub score_variance: Array2<f64>,
    /// Entropy of the pattern over that of uniform attention: 1 is uniform, 0 a single key.
    pub entropy: Array2<f64>,
}

impl HeadRelaxation {
    /// Measures all heads on `tokens: [batch, pos]`.
    ///
    /// Fails for a model of linear attention or whose scores are more than scaled products (a window, a cap, ALiBi), or
    /// with fewer than two positions.
    pub fn new(model: &Transformer, tokens: &Array2<u32>) -> Result<Self> {
        softmax_only(model)?;
        products_only(model, tokens.ncols())?;
        let (n_seqs, n_pos) = tokens.dim();
        if n_pos < 2 {
            return Err(Error::new(
                ErrorKind::Data,
                format!("sequences of {n_pos} tokens leave a head no choice"),
                "pass at least two tokens per sequence",
            ));
        }
        let heads = Heads::run(model, tokens)?;
        let c = &model.config;
        let shape = (c.n_layers, c.n_heads);
        let mut out = HeadRelaxation {
            linear: Array2::zeros(shape),
            first_order: Array2::zeros(shape),
            uniform: Array2::zeros(shape),
            score_variance: Array2::zeros(shape),
            entropy: Array2::zeros(shape),
        };
        for l in 0..c.n_layers {
            let scores = heads.cache.get(Hook::AttnScores(l))?;
            for h in 0..c.n_heads {
                let mut sums = [0.0; 5];
                let mut n = 0.0;
                for b in 0..n_seqs {
                    let v = heads.values(l, b, h)?;
                    for q in 1..n_pos {
                        let row = scores.slice(s![b, h, q, ..]);
                        let seen: Vec<usize> = (0..n_pos).filter(|&k| row[k] > f32::NEG_INFINITY).collect();
                        let s = Array1::from_iter(seen.iter().map(|&k| f64::from(row[k])));
                        let measured = relaxations(s, v.select(Axis(0), &seen).view());
                        sums.iter_mut().zip(measured).for_each(|(sum, x)| *sum += x);
                        n += 1.0;
                    }
                }
                let tables = [
                    &mut out.linear,
                    &mut out.first_order,
                    &mut out.uniform,
                    &mut out.score_variance,
                    &mut out.entropy,
                ];
                for (table, sum) in tables.into_iter().zip(sums) {
                    table[(l, h)] = sum / n;
                }
            }
        }
        Ok(out)
    }
}

/// Cosines of linear, first-order and uniform attention with softmax attention; variance of the scores; relative
/// entropy.
fn relaxations(s: Array1<f64>, v: ArrayView2<f64>) -> [f64; 5] {
    let n = s.len() as f64;
    let mean = s.sum() / n;
    let variance = s.mapv(|s| (s - mean).powi(2)).sum() / n;
    let a = softmax(s.clone());
    let entropy = -a.iter().filter(|a| **a > 0.0).map(|a| a * a.ln()).sum::<f64>() / n.ln();
    let exact = a.dot(&v);
    let linear = s.dot(&v);
    let first_order = s.mapv(|s| (1.0 + s - mean) / n).dot(&v);
    let uniform = v.sum_axis(Axis(0)) / n;
    [
        cosine(exact.view(), linear.view()),
        cosine(exact.view(), first_order.view()),
        cosine(exact.view(), uniform.view()),
        variance,
        entropy,
    ]
}

pub(super) fn cosine(a: ArrayView1<f64>, b: ArrayView1<f64>) -> f64 {
    let norm = (a.dot(&a) * b.dot(&b)).sqrt();
    if norm > 0.0 { a.dot(&b) / norm } else { 0.0 }
}

/// A head as kernel attention with positive random features (Choromanski et al. 2021): `exp(q·k) = E φ(q)·φ(k)`,
/// `φ(x) = exp(ω·x - ½ ‖x‖²) / √m`, `ω ~ N(0, I)`. With `m` features the head is linear attention, the dual form of a
/// gradient step in feature space, with an error that falls as `m^(-1/2)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RandomFeatures {
    /// Numbers of features `m` to try.
    pub n_features: Vec<usize>,
    /// Draws of the features for each.
    pub n_draws: usize,
    /// Seed of the features.
    pub seed: u64,
}

impl Default for RandomFeatures {
    fn default() -> Self {
        RandomFeatures { n_features: vec![16, 64, 256, 1024, 4096], n_draws: 4, seed: 0 }
    }
}

/// The error of a head with random features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeatureCurve {
    /// Numbers of features.
    pub n_features: Vec<usize>,
    /// Relative error `‖ẑ - z‖ / ‖z‖` with its standard error over draws and sequences.
    pub errors: Vec<(f64, f64)>,
    /// Slope of log error over log features by least squares; -½ is expected.
    pub slope: f64,
}

impl RandomFeatures {
    /// Measures the error of a head of `model` at the last position of each of `tokens: [batch, pos]`.
    ///
    /// Fails without features or draws, where the model has no such layer or head, and where its scores are more than
    /// scaled products.
    pub fn curve(
        &self,
        model: &Transformer,
        tokens: &Array2<u32>,
        layer: usize,
        head: usize,
    ) -> Result<FeatureCurve> {
        softmax_only(model)?;
        products_only(model, tokens.ncols())?;
        if head >= model.config.n_heads {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("there is no head {head}"),
                format!("heads are 0 to {}", model.config.n_heads - 1),
            ));
        }
        let heads = Heads::run(model, tokens)?;
        let inputs: Vec<(Array1<f64>, Array2<f64>, Array2<f64>)> = (0..tokens.nrows())
            .map(|b| {
                let (q, k) = heads.query_and_keys(layer, b, head)?;
                Ok((q, k, heads.values(layer, b, head)?))
            })
            .collect::<Result<_>>()?;
        self.curve_of(&inputs)
    }

    /// Measures the error for given queries `[d_head]`, keys `[n, d_head]` and values `[n, d_v]`, with scores `q·k` as
    /// they stand.
    pub fn curve_of(&self, inputs: &[(Array1<f64>, Array2<f64>, Array2<f64>)]) -> Result<FeatureCurve> {
        if self.n_draws == 0
            || self.n_features.is_empty()
            || self.n_features.contains(&0)
            || inputs.is_empty()
        {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "nothing can be measured with {:?} features, {} draws and {} queries",
                    self.n_features,
                    self.n_draws,
                    inputs.len()
                ),
                "use at least 1 of each",
            ));
        }
        let errors: Vec<(f64, f64)> = self
            .n_features
            .iter()
            .map(|&m| {
                let jobs: Vec<(usize, usize)> =
                    (0..inputs.len()).flat_map(|i| (0..self.n_draws).map(move |d| (i, d))).collect();
                let errors: Vec<f64> = jobs
                    .into_par_iter()
                    .map(|(i, draw)| {
                        let (q, k, v) = &inputs[i];
                        let mut rng = rng(self.seed, ((m * inputs.len() + i) * self.n_draws + draw) as u64);
                        let exact = softmax(k.dot(q)).dot(v);
                        let omega = Array2::from_shape_simple_fn((m, q.len()), || normal(&mut rng));
                        let guess = feature_attention(omega.view(), q.view(), k.view()).dot(v);
                        let (d, size) = (&guess - &exact, exact.dot(&exact).sqrt());
                        d.dot(&d).sqrt() / size
                    })
                    .collect();
                mean_and_standard_error(&errors)
            })
            .collect();
        let points: Vec<(f64, f64)> =
            self.n_features.iter().zip(&errors).map(|(m, e)| ((*m as f64).ln(), e.0.ln())).collect();
        let n = points.len() as f64;
        let (x, y) =
            (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
        let slope = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>()
            / points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>();
        Ok(FeatureCurve { n_features: self.n_features.clone(), errors, slope })
    }
}

/// Attention weights `φ(q)·φ(k_j) / Σ φ(q)·φ(k)` with features `omega: [m, d_head]`.
fn feature_attention(omega: ArrayView2<f64>, q: ArrayView1<f64>, k: ArrayView2<f64>) -> Array1<f64> {
    let half_squares = k.map_axis(Axis(1), |k| 0.5 * k.dot(&k));
    // [n, m]: exponents of φ(q) φ(k). What depends on q alone, or is common to all, cancels.
    let exponents = k.dot(&omega.t()) + &omega.dot(&q) - &half_squares.insert_axis(Axis(1));
    let max = exponents.fold(f64::NEG_INFINITY, |m, &x| m.max(x));
    let kernel = exponents.mapv(|x| (x - max).exp()).sum_axis(Axis(1));
    let sum = kernel.sum();
    kernel / sum
}

/// The activations of a run that heads are made of.
struct Heads<'a> {
    model: &'a Transformer,
    cache: ActivationCache,
}

impl<'a> Heads<'a> {
    fn run(model: &'a Transformer, tokens: &Array2<u32>) -> Result<Self> {
        let keep = |hook: Hook| {
            matches!(
                hook,
                Hook::Q(_)
                    | Hook::K(_)
                    | Hook::RotQ(_)
                    | Hook::RotK(_)
                    | Hook::V(_)
                    | Hook::Z(_)
                    | Hook::AttnScores(_)
                    | Hook::Pattern(_)
            )
        };
        Ok(Heads { model, cache: model.run_with_cache_of(tokens, &[], &keep)?.1 })
    }

    /// `[pos, d_head]` of the key/value head that a head reads.
    fn values(&self, layer: usize, b: usize, head: usize) -> Result<Array2<f64>> {
        let v = self.cache.v(layer)?;
        Ok(v.slice(s![b, .., self.kv_head(head), ..]).mapv(f64::from))
    }

    /// The last position's query and all keys, scaled so that `q·k` is the score.
    fn query_and_keys(&self, layer: usize, b: usize, head: usize) -> Result<(Array1<f64>, Array2<f64>)> {
        let turned = matches!(self.model.config.positions_in(layer), Positions::Rotary(_));
        let (q, k) =
            if turned { (Hook::RotQ(layer), Hook::RotK(layer)) } else { (Hook::Q(layer), Hook::K(layer)) };
        let (q, k) = (self.cache.get(q)?, self.cache.get(k)?);
        let scale = self.model.config.scoring(layer, head).scale.sqrt();
        let last = q.len_of(Axis(1)) - 1;
        Ok((
            q.slice(s![b, last, head, ..]).mapv(|x| f64::from(x) * scale),
            k.slice(s![b, .., self.kv_head(head), ..]).mapv(|x| f64::from(x) * scale),
        ))
    }

    fn kv_head(&self, head: usize) -> usize {
        head * self.model.config.n_kv_heads() / self.model.config.n_heads
    }
}

/// Refuses a model whose scores are not products of queries and keys that a hook has.
fn products_only(model: &Transformer, n_pos: usize) -> Result<()> {
    let c = &model.config;
    for l in 0..c.n_layers {
        let scoring = c.scoring(l, 0);
        let turned = matches!(c.positions_in(l), Positions::Rotary(_));
        let why = [
            ("a window", scoring.window.is_some_and(|n| n < n_pos)),
            ("an attention_cap", scoring.soft_cap.is_some()),
            ("Alibi positions", c.positions == Positions::Alibi),
            ("normalised queries and no rotary positions", c.qk_norm != QkNorm::None && !turned),
        ];
        if let Some((why, _)) = why.iter().find(|(_, is_there)| *is_there) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("layer {l} has {why}: its scores are more than scaled products of queries and keys"),
                "pass a model whose heads are plain softmax attention",
            ));
        }
    }
    Ok(())
}

fn softmax_only(model: &Transformer) -> Result<()> {
    if model.config.attention == Attention::Softmax {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Config,
        "the model has linear attention, which needs no relaxing",
        "pass a model with `attention: Attention::Softmax`",
    ))
}
