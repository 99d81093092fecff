//! A layer built to predict: every layer forms the errors of the present predictions and moves all predictions by them.
//!
//! `[batch, pos, d_model]` for embeddings and predictions. The pair `j` is the token at position `j` with the one that
//! follows it, so errors are `[batch, pos - 1, d_model]`.
//!
//! Part of [`dual`](super), since with a linear kernel and a mask that shows every pair to every position a layer is a
//! step of gradient descent.

mod cache;
mod config;
mod params;
mod pass;
mod train;

use ndarray::{Array1, Array2, Array3, ArrayView2, Axis, s};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use cache::{PredictiveCache, PredictiveHook};
pub use config::{Kernel, PredictiveConfig};
pub use params::{PredictiveLayer, PredictiveParams};

use super::dual_form::finite;
use crate::model::Mask;
use crate::num::log_softmax_rows;
use crate::record::Fnv;
use crate::{Error, ErrorKind, Result};
use pass::Pass;

/// A network whose layers do nothing but predict and correct.
///
/// With embeddings `e_j`, the first prediction of what follows position `i` is `p_i = W₀ e_i`. Each layer forms the
/// errors of the predictions so far at the pairs that position `i` may see, and corrects by them:
///
/// ```text
///  ε_j = e_{j+1} - p_j          p_i ← p_i + η Σ_j ε_j κ(e_j, e_i)          logits = U p_i + b
/// ```
///
/// With the linear kernel `κ = (W_K e_j) · (W_Q e_i)`, `W_K = W_Q = I`, and all pairs visible to all positions, each
/// layer is exactly one step of gradient descent on `½ Σ_j ‖e_{j+1} - W e_j‖²`, the same for every position. With a
/// causal mask each position sees other pairs, and it is not.
///
/// A prediction at any layer is a guess of the next embedding: the identity is its lens, by construction.
///
/// ```
/// use onelens::{dual::PredictiveCoding, model::Mask, ndarray::array};
/// // Embeddings 1, 2, 4: every token is twice the one before. One step of η = 0.1 from W₀ = 0.
/// let net = PredictiveCoding::descent(array![[0.0]], &[0.1])?;
/// let e = array![[1.0], [2.0], [4.0]];
/// let cache = net.run_vectors(e.view(), Mask::None)?;
/// // ΔW = 0.1 (2 · 1 + 4 · 2) = 1 for every position, so the prediction of what follows x is x.
/// assert_eq!(cache.predictions(1)?, e.clone().insert_axis(ndarray::Axis(0)));
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct PredictiveCoding {
    /// The shape.
    pub config: PredictiveConfig,
    /// The weights.
    pub params: PredictiveParams,
}

impl PredictiveCoding {
    /// Makes a network with the initial weights of `config.seed`.
    pub fn new(config: PredictiveConfig) -> Result<Self> {
        config.check()?;
        Ok(PredictiveCoding { params: PredictiveParams::init(&config), config })
    }

    /// Returns a number that two networks share only if shape and weights are the same, bit for bit (FNV-1a).
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Fnv::new("predictive coding 2");
        let usual = PredictiveConfig { seed: 0, ..Default::default() };
        hash.settings(&PredictiveConfig { seed: 0, ..self.config.clone() }, &usual);
        self.params.slices().into_iter().flatten().for_each(|x| hash.word(x.to_bits()));
        hash.finish()
    }

    /// Makes the exact layers: linear kernel, identity keys and queries, first prediction `w_0: [d, d]`, one step size
    /// per layer. Tokens, if there are any, are one-hot.
    ///
    /// Fails if `w_0` is not square and finite, or without a finite step size.
    pub fn descent(w_0: Array2<f64>, lr: &[f64]) -> Result<Self> {
        let d = w_0.nrows();
        if d == 0 || w_0.ncols() != d || lr.is_empty() {
            return Err(Error::new(
                ErrorKind::Shape,
                format!(
                    "a first prediction of shape {:?} and {} step sizes make no network",
                    w_0.dim(),
                    lr.len()
                ),
                "pass a square matrix, from embeddings to embeddings, and a step size for each layer",
            ));
        }
        finite("the first prediction", w_0.iter())?;
        finite("the step sizes", lr.iter())?;
        let config = PredictiveConfig {
            d_vocab: d.max(2),
            d_model: d,
            d_key: d,
            n_layers: lr.len(),
            kernel: Kernel::Linear,
            tied: true,
            looped: false,
            ..Default::default()
        };
        let eye = Array2::eye(d);
        let layer = |&lr: &f64| PredictiveLayer { w_q: eye.clone(), w_k: eye.clone(), lr };
        let params = PredictiveParams {
            w_e: Array2::from_shape_fn((config.d_vocab, d), |(i, j)| if i == j { 1.0 } else { 0.0 }),
            w_0,
            layers: lr.iter().map(layer).collect(),
            w_u: Array2::zeros((0, 0)),
            b_u: Array1::zeros(config.d_vocab),
        };
        Ok(PredictiveCoding { config, params })
    }

    /// Returns everything the layers compute for vectors instead of tokens, `e: [pos, d_model]`, as a batch of one.
    ///
    /// [`Mask::Causal`] shows position `i` the pairs that end at or before it; [`Mask::Prefix`] shows all positions the
    /// pairs among the first tokens, this many; [`Mask::None`] shows all pairs to all positions.
    pub fn run_vectors(&self, e: ArrayView2<f64>, mask: Mask) -> Result<PredictiveCache> {
        if e.nrows() < 2 || e.ncols() != self.config.d_model {
            return Err(Error::new(
                ErrorKind::Shape,
                format!(
                    "vectors of shape {:?} do not fit a network of width {}",
                    e.dim(),
                    self.config.d_model
                ),
                format!("pass [pos, {}] with at least two positions: one pair", self.config.d_model),
            ));
        }
        finite("the vectors", e.iter())?;
        let pass = Pass::run(&self.config, &self.params, e.to_owned(), mask);
        Ok(PredictiveCache::new(&[pass]))
    }

    /// Returns the log-probabilities of each next token, `[batch, pos, d_vocab]`, and everything the layers computed on
    /// the way.
    ///
    /// ```
    /// use onelens::{dual::{PredictiveCoding, PredictiveConfig, PredictiveHook}, ndarray::array};
    /// let net = PredictiveCoding::new(PredictiveConfig { d_vocab: 5, n_layers: 2, ..Default::default() })?;
    /// let (log_p, cache) = net.run_with_cache(&array![[0, 1, 2]])?;
    /// assert_eq!(log_p.dim(), (1, 3, 5));
    /// assert_eq!(cache.errors(0)?.dim(), (1, 2, 32));
    /// assert_eq!(PredictiveHook::Error(0).to_string(), "layers.0.hook_error");
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn run_with_cache(&self, tokens: &Array2<u32>) -> Result<(Array3<f64>, PredictiveCache)> {
        let passes = self.passes(tokens)?;
        let (n_seqs, n_pos) = tokens.dim();
        let mut log_p = Array3::zeros((n_seqs, n_pos, self.config.d_vocab));
        for (mut out, pass) in log_p.outer_iter_mut().zip(&passes) {
            let logits = self.logits(pass.predictions[self.config.n_layers].view());
            out.assign(&log_softmax_rows(logits.view()));
        }
        Ok((log_p, PredictiveCache::new(&passes)))
    }

    /// Returns the predictions of the next embedding before the first layer and after each, as `f32` residual streams:
    /// `n_layers + 1` arrays of `[batch, pos, d_model]`. What lenses and their moments read.
    pub fn streams(&self, tokens: &Array2<u32>) -> Result<Vec<Array3<f32>>> {
        let (_, cache) = self.run_with_cache(tokens)?;
        (0..=self.config.n_layers).map(|l| Ok(cache.predictions(l)?.mapv(|x| x as f32))).collect()
    }

    /// Decodes predictions `h: [rows, d_model]` of any layer into log-probabilities, `[rows, d_vocab]`.
    pub fn unembed(&self, h: ArrayView2<f32>) -> Array2<f32> {
        log_softmax_rows(self.logits(h.mapv(f64::from).view()).view()).mapv(|x| x as f32)
    }

    fn logits(&self, p: ArrayView2<f64>) -> Array2<f64> {
        p.dot(&self.params.unembedding().t()) + &self.params.b_u
    }

    /// Computes the mean cross-entropy of the next token, in nats, over `tokens: [batch, pos + 1]`.
    pub fn loss(&self, tokens: &Array2<u32>) -> Result<f64> {
        Ok(self.layer_losses(tokens)?[self.config.n_layers])
    }

    /// Computes the loss of the first prediction and of the one after each layer: `n_layers + 1` numbers.
    pub fn layer_losses(&self, tokens: &Array2<u32>) -> Result<Vec<f64>> {
        self.check_loss(tokens)?;
        let input = tokens.slice(s![.., ..-1]).to_owned();
        let passes = self.passes(&input)?;
        let mean = |l: usize| {
            let sum: f64 = passes
                .iter()
                .zip(tokens.rows())
                .map(|(pass, row)| {
                    let log_p = log_softmax_rows(self.logits(pass.predictions[l].view()).view());
                    -row.iter().skip(1).enumerate().map(|(t, &next)| log_p[(t, next as usize)]).sum::<f64>()
                })
                .sum();
            sum / input.len() as f64
        };
        Ok((0..=self.config.n_layers).map(mean).collect())
    }

    /// Computes the [`loss`](PredictiveCoding::loss) and its gradient with respect to all weights.
    pub fn loss_and_grad(&self, tokens: &Array2<u32>) -> Result<(f64, PredictiveParams)> {
        self.check_loss(tokens)?;
        let n = (tokens.nrows() * (tokens.ncols() - 1)) as f64;
        let rows: Vec<Vec<u32>> = tokens.rows().into_iter().map(|row| row.to_vec()).collect();
        // Parts of the same size whatever the number of threads, summed in order.
        let parts: Vec<(f64, PredictiveParams)> = rows
            .par_chunks(4)
            .map(|rows| {
                let mut grad = PredictiveParams::zeros(&self.config);
                let mut loss = 0.0;
                for row in rows {
                    loss += pass::loss_and_grad(&self.config, &self.params, row, 1.0 / n, &mut grad);
                }
                (loss, grad)
            })
            .collect();
        let mut total = PredictiveParams::zeros(&self.config);
        let mut loss = 0.0;
        for (part, grad) in &parts {
            loss += part;
            for (sum, more) in total.slices_mut().into_iter().zip(grad.slices()) {
                sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
            }
        }
        Ok((loss / n, total))
    }

    fn passes(&self, tokens: &Array2<u32>) -> Result<Vec<Pass>> {
        self.check_tokens(tokens, 2)?;
        let rows: Vec<_> = tokens.rows().into_iter().collect();
        Ok(rows
            .into_par_iter()
            .map(|row| {
                let ids: Vec<usize> = row.iter().map(|&t| t as usize).collect();
                let e = self.params.w_e.select(Axis(0), &ids);
                Pass::run(&self.config, &self.params, e, Mask::Causal)
            })
            .collect())
    }

    fn check_loss(&self, tokens: &Array2<u32>) -> Result<()> {
        self.check_tokens(tokens, 3)
    }

    fn check_tokens(&self, tokens: &Array2<u32>, least: usize) -> Result<()> {
        let (n_seqs, n_pos) = tokens.dim();
        if n_seqs == 0 || n_pos < least {
            return Err(Error::new(
                ErrorKind::Data,
                format!("{n_seqs} sequences of {n_pos} tokens leave no pair to learn from"),
                format!("pass at least one sequence of at least {least} tokens"),
            ));
        }
        match tokens.indexed_iter().find(|(_, t)| **t as usize >= self.config.d_vocab) {
            None => Ok(()),
            Some(((sequence, pos), token)) => Err(Error::new(
                ErrorKind::Data,
                format!(
                    "token {token} (sequence {sequence}, position {pos}) is outside the vocabulary of {}",
                    self.config.d_vocab
                ),
                format!("tokens are 0 to {}", self.config.d_vocab - 1),
            )),
        }
    }
}

impl std::fmt::Debug for PredictiveCoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let c = &self.config;
        write!(
            f,
            "PredictiveCoding: {} layers{}, {:?} kernel, d_model {}, {} tokens, {} parameters",
            c.n_layers,
            if c.looped { " of one set of weights" } else { "" },
            c.kernel,
            c.d_model,
            c.d_vocab,
            self.params.count()
        )
    }
}
