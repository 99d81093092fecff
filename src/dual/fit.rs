//! Training linear attention on in-context regression: does it find gradient descent by itself?

use ndarray::Array2;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::lanes::{
    Block, LANES, Lane, Merged, Sizes, Work, add_loss_and_gradient, find_answers, find_errors, summed,
};
use super::one_step::Inputs;
use super::{LinearAttention, LinearAttentionLayer, Mask};
use crate::num::{Adam, Real, Rng, clipped, mean_and_standard_error, normal, rng, standard_normal};
use crate::session::{self, Progress};
use crate::{Error, ErrorKind, Result};

/// A batch is summed in this many parts, in this order, whatever the number of threads.
const N_PARTS: usize = 8;

/// How to train [`LinearAttention`] on random tasks `y = W x`, with Adam and a cosine schedule.
///
/// Weights and their averages are `f64`; tasks, and what a network computes on them, `f32`, as in any training.
///
/// The loss is `½ ‖ŷ - y‖²` at the query, as in von Oswald et al. 2022, whose setting is the default: `d = n = 10`,
/// inputs uniform on `[-½, ½]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearAttentionTraining {
    /// Distribution of the inputs.
    pub inputs: Inputs,
    /// Width of the targets.
    pub d_out: usize,
    /// Context pairs.
    pub n: usize,
    /// Layers.
    pub n_layers: usize,
    /// Whether all layers share their weights.
    pub tied: bool,
    /// Optimiser steps.
    pub steps: usize,
    /// Tasks in a step, rounded up to a multiple of 128.
    pub batch_size: usize,
    /// Largest step size of Adam.
    pub lr: f64,
    /// Gradients longer than this are shortened to it.
    pub clip: f64,
    /// Standard deviation of the initial weights.
    pub init: f64,
    /// Seed of weights and tasks.
    pub seed: u64,
}

impl Default for LinearAttentionTraining {
    fn default() -> Self {
        LinearAttentionTraining {
            inputs: Inputs::uniform(10, 0.5).expect("ten coordinates"),
            d_out: 1,
            n: 10,
            n_layers: 1,
            tied: false,
            steps: 3000,
            batch_size: 512,
            lr: 0.01,
            clip: 1.0,
            init: 0.1,
            seed: 0,
        }
    }
}

/// Trained weights and how they came about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearAttentionFit {
    /// The trained network.
    pub net: LinearAttention,
    /// Mean loss of each step's batch.
    pub losses: Vec<f64>,
    /// Whether an interrupt ended the training early.
    pub interrupted: bool,
}

impl LinearAttentionTraining {
    /// Trains. An interrupt ends it with the network as trained so far.
    ///
    /// Fails on settings out of range, and if the loss stops being finite.
    ///
    /// ```
    /// use onelens::dual::{Inputs, LinearAttentionTraining, OneStep};
    /// let how = LinearAttentionTraining { inputs: Inputs::uniform(2, 0.5)?, n: 4, steps: 400, ..Default::default() };
    /// let fit = how.fit()?;
    /// // One layer can do no better than the best single step of gradient descent.
    /// let best = OneStep::new(how.inputs.clone(), 4)?;
    /// let (loss, error) = how.evaluate(&fit.net, 20_000, 1)?;
    /// assert!((loss - best.loss_at_scale(best.best_scale())).abs() < 4.0 * error);
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn fit(&self) -> Result<LinearAttentionFit> {
        self.fit_until(&|_| false)
    }

    /// Trains until `enough` says so of the losses so far, at most all steps.
    pub fn fit_until(&self, enough: &dyn Fn(&[f64]) -> bool) -> Result<LinearAttentionFit> {
        self.check()?;
        let d = self.sizes().d;
        let mut weights = rng(self.seed, 0);
        let mut random = || Array2::from_shape_simple_fn((d, d), || self.init * normal(&mut weights));
        let n_own = if self.tied { 1 } else { self.n_layers };
        let mut layers: Vec<LinearAttentionLayer> = (0..n_own)
            .map(|_| LinearAttentionLayer { w_q: random(), w_k: random(), w_v: random(), p: random() })
            .collect();
        let mut adam = Adam::new(layers.len() * 4 * d * d, (0.9, 0.999), 1e-12);
        let mut fit = LinearAttentionFit {
            net: self.network(&layers),
            losses: Vec::with_capacity(self.steps),
            interrupted: false,
        };
        let mut parts = self.parts::<f32>();
        let mut progress = Progress::new("training", self.steps);
        for step in 0..self.steps {
            if session::interrupted() {
                fit.interrupted = true;
                break;
            }
            let (loss, grad) = self.loss_and_gradient(&layers, step as u64 + 1, &mut parts)?;
            if !loss.is_finite() {
                return Err(Error::new(
                    ErrorKind::Numeric,
                    format!("the loss is {loss} at step {step}"),
                    format!("train with a smaller `lr` (it was {}) or `init` ({})", self.lr, self.init),
                ));
            }
            fit.losses.push(loss);
            let weights = layers
                .iter_mut()
                .flat_map(|l| l.w_q.iter_mut().chain(&mut l.w_k).chain(&mut l.w_v).chain(&mut l.p));
            adam.step(weights, grad.iter(), self.lr_at(step), clipped(&grad, self.clip));
            progress.update(step + 1, || format!("loss {loss:.4}"));
            if enough(&fit.losses) {
                break;
            }
        }
        fit.net = self.network(&layers);
        let steps = session::count(fit.losses.len(), "step");
        progress.finish(&format!("{steps}, loss {:.4}", fit.recent_loss()));
        Ok(fit)
    }

    /// Estimates the expected loss of a network on fresh tasks, with its standard error, from `n_tasks` (rounded up to
    /// a multiple of 128).
    pub fn evaluate(&self, net: &LinearAttention, n_tasks: usize, seed: u64) -> Result<(f64, f64)> {
        self.check()?;
        let s = self.sizes();
        if net.mask != Mask::Context || net.w0.dim() != (s.d_out, s.d - s.d_out) || net.layers.is_empty() {
            return Err(Error::new(
                ErrorKind::Shape,
                format!(
                    "a network of mask {:?} from width {} to {} does not fit this training",
                    net.mask,
                    net.w0.ncols(),
                    net.w0.nrows()
                ),
                format!("pass one with Mask::Context from width {} to {}", s.d - s.d_out, s.d_out),
            ));
        }
        let merged: Vec<Merged<f64>> = net.layers.iter().map(merge).collect();
        let losses: Vec<Vec<f64>> = (0..N_PARTS)
            .into_par_iter()
            .map(|part| {
                let mut rng = rng(seed, (1 << 40) + part as u64);
                let mut losses = Vec::new();
                let (mut work, mut block) = (Work::new(merged.len(), s), Block::zeros(s));
                for _ in 0..n_tasks.div_ceil(N_PARTS * LANES) {
                    self.draw(&mut rng, &mut block)?;
                    start_query(&mut block, &net.w0, s);
                    find_errors(&mut work, &merged, &block, s);
                    let loss = |l: usize| 0.5 * work.errors.iter().map(|e| e[l] * e[l]).sum::<f64>();
                    losses.extend((0..LANES).map(loss));
                }
                Ok(losses)
            })
            .collect::<Result<_>>()?;
        Ok(mean_and_standard_error(&losses.concat()))
    }

    /// Loss and gradient (of all layers' four matrices, in order) on the batch of this number.
    fn loss_and_gradient<F: Real>(
        &self,
        layers: &[LinearAttentionLayer],
        batch: u64,
        parts: &mut [Part<F>],
    ) -> Result<(f64, Vec<f64>)> {
        let s = self.sizes();
        let merged: Vec<Merged<F>> = layers.iter().map(merge).collect();
        let stack: Vec<Merged<F>> = (0..self.n_layers).map(|l| merged[l % merged.len()].clone()).collect();
        let n_blocks = self.batch_size.div_ceil(N_PARTS * LANES);
        parts.par_iter_mut().enumerate().try_for_each(|(i, part)| {
            let mut rng = rng(self.seed, batch * N_PARTS as u64 + i as u64);
            let Part { work, block, grads, loss } = part;
            *loss = [F::zero(); LANES];
            grads.iter_mut().for_each(Merged::clear);
            for _ in 0..n_blocks {
                self.draw(&mut rng, block)?;
                add_loss_and_gradient(work, &stack, block, s, grads, loss);
            }
            Ok(())
        })?;
        let scale = 1.0 / (n_blocks * N_PARTS * LANES) as f64;
        let of_tasks = parts.iter().flat_map(|part| part.loss);
        let loss = of_tasks.map(|loss| loss.to_f64().unwrap_or(f64::NAN)).sum::<f64>() * scale;
        let mut by_layer = vec![(Array2::zeros((s.d, s.d)), Array2::zeros((s.d, s.d))); layers.len()];
        for part in parts {
            for (l, grad) in part.grads.iter().enumerate() {
                let (a, b) = &mut by_layer[l % layers.len()];
                *a += &summed(&grad.a, s.d);
                *b += &summed(&grad.b, s.d);
            }
        }
        let mut flat = Vec::with_capacity(layers.len() * 4 * s.d * s.d);
        for (layer, (da, db)) in layers.iter().zip(by_layer) {
            // A = W_Kᵀ W_Q and B = P W_V.
            for matrix in
                [layer.w_k.dot(&da), layer.w_q.dot(&da.t()), layer.p.t().dot(&db), db.dot(&layer.w_v.t())]
            {
                flat.extend(matrix.iter().map(|g| g * scale));
            }
        }
        Ok((loss, flat))
    }

    /// What the parts of a batch work in.
    fn parts<F: Real>(&self) -> Vec<Part<F>> {
        let s = self.sizes();
        let part = || Part {
            work: Work::new(self.n_layers, s),
            block: Block::zeros(s),
            grads: vec![Merged::zeros(s.d); self.n_layers],
            loss: [F::zero(); LANES],
        };
        (0..N_PARTS).map(|_| part()).collect()
    }

    /// Tasks whose query slots are 0.
    fn draw<F: Real>(&self, rng: &mut Rng, block: &mut Block<F>) -> Result<()> {
        let s = self.sizes();
        for token in block.tokens.chunks_exact_mut(s.d) {
            self.inputs.draw_side_by_side(rng, &mut token[..s.d - s.d_out])?;
        }
        for w in &mut block.weights {
            *w = std::array::from_fn(|_| F::of(standard_normal(rng)));
        }
        find_answers(block, s);
        Ok(())
    }

    fn sizes(&self) -> Sizes {
        Sizes { n: self.n, d: self.inputs.d() + self.d_out, d_out: self.d_out }
    }

    fn network(&self, layers: &[LinearAttentionLayer]) -> LinearAttention {
        let w0 = Array2::zeros((self.d_out, self.inputs.d()));
        let layers = (0..self.n_layers).map(|l| layers[l % layers.len()].clone()).collect();
        LinearAttention { layers, mask: Mask::Context, w0 }
    }

    /// A short warm-up, then half a cosine down to nothing.
    fn lr_at(&self, step: usize) -> f64 {
        let warm_up = (self.steps as f64 / 20.0).max(1.0);
        let done = step as f64 / self.steps as f64;
        self.lr * ((step + 1) as f64 / warm_up).min(1.0) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }

    fn check(&self) -> Result<()> {
        let counts = [
            ("d_out", self.d_out),
            ("n", self.n),
            ("n_layers", self.n_layers),
            ("steps", self.steps),
            ("batch_size", self.batch_size),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{name} is 0"),
                format!("set {name} to 1 or more"),
            ));
        }
        for (name, value) in [("lr", self.lr), ("clip", self.clip), ("init", self.init)] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!("{name} is {value}"),
                    format!("set {name} to a positive number"),
                ));
            }
        }
        Ok(())
    }
}

impl LinearAttentionFit {
    /// Returns the mean loss of the last twentieth of the steps.
    pub fn recent_loss(&self) -> f64 {
        let tail = &self.losses[self.losses.len() - self.losses.len().div_ceil(20)..];
        tail.iter().sum::<f64>() / tail.len() as f64
    }
}

/// A part of a batch: what it works in, and what came out.
struct Part<F> {
    work: Work<F>,
    block: Block<F>,
    grads: Vec<Merged<Lane<F>>>,
    loss: Lane<F>,
}

fn merge<F: Real>(layer: &LinearAttentionLayer) -> Merged<F> {
    let flat = |m: Array2<f64>| m.iter().map(|&x| F::of(x)).collect();
    Merged { a: flat(layer.w_k.t().dot(&layer.w_q)), b: flat(layer.p.dot(&layer.w_v)) }
}

/// Fills the query's slot with `-W₀ x`.
fn start_query(block: &mut Block<f64>, w0: &Array2<f64>, s: Sizes) {
    let query = &mut block.tokens[s.n * s.d..];
    let (x, slots) = query.split_at_mut(s.d - s.d_out);
    for (slot, w) in slots.iter_mut().zip(w0.rows()) {
        for (x, w) in x.iter().zip(w) {
            for l in 0..LANES {
                slot[l] -= w * x[l];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Central differences on every weight, three layers deep, tied and free.
    #[test]
    fn gradient_is_the_slope_of_the_loss() {
        for tied in [false, true] {
            let how = LinearAttentionTraining {
                inputs: Inputs::uniform(3, 0.5).unwrap(),
                d_out: 2,
                n: 4,
                n_layers: 3,
                tied,
                batch_size: 64,
                ..Default::default()
            };
            let mut parts = how.parts::<f64>();
            let d = how.sizes().d;
            let mut rng = rng(3, 0);
            let mut random = || Array2::from_shape_simple_fn((d, d), || 0.4 * normal(&mut rng));
            let mut layers: Vec<LinearAttentionLayer> = (0..if tied { 1 } else { 3 })
                .map(|_| LinearAttentionLayer { w_q: random(), w_k: random(), w_v: random(), p: random() })
                .collect();
            let (_, grad) = how.loss_and_gradient(&layers, 1, &mut parts).unwrap();
            let scale = grad.iter().fold(0.0_f64, |m, g| m.max(g.abs()));
            let mut at = 0;
            for l in 0..layers.len() {
                for m in 0..4 {
                    for i in 0..d * d {
                        let mut slope = 0.0;
                        for sign in [1.0, -1.0] {
                            let step = |layers: &mut Vec<LinearAttentionLayer>, by: f64| {
                                let layer = &mut layers[l];
                                let m = [&mut layer.w_q, &mut layer.w_k, &mut layer.w_v, &mut layer.p][m]
                                    .as_slice_mut()
                                    .unwrap();
                                m[i] += by;
                            };
                            step(&mut layers, sign * 1e-5);
                            slope += sign * how.loss_and_gradient(&layers, 1, &mut parts).unwrap().0 / 2e-5;
                            step(&mut layers, -sign * 1e-5);
                        }
                        assert!(
                            (slope - grad[at]).abs() < 1e-7 * scale,
                            "layer {l}, matrix {m}, {i}: {slope} {}",
                            grad[at]
                        );
                        at += 1;
                    }
                }
            }
        }
    }

    /// The fast pass over many tasks computes what the network computes token by token.
    #[test]
    fn lanes_predict_what_the_network_predicts() {
        let how = LinearAttentionTraining {
            inputs: Inputs::uniform(3, 0.5).unwrap(),
            d_out: 2,
            n: 4,
            n_layers: 3,
            ..Default::default()
        };
        let mut r = rng(4, 0);
        let mut random = || Array2::from_shape_simple_fn((5, 5), || 0.4 * normal(&mut r));
        let layers: Vec<_> = (0..3)
            .map(|_| LinearAttentionLayer { w_q: random(), w_k: random(), w_v: random(), p: random() })
            .collect();
        let w0 = Array2::from_shape_fn((2, 3), |(i, j)| i as f64 - 0.3 * j as f64);
        let net = LinearAttention { w0, ..how.network(&layers) };
        let s = how.sizes();
        let mut block = Block::zeros(s);
        how.draw(&mut rng(5, 0), &mut block).unwrap();
        start_query(&mut block, &net.w0, s);
        let merged: Vec<_> = net.layers.iter().map(merge).collect();
        let mut work = Work::new(3, s);
        find_errors(&mut work, &merged, &block, s);
        let errors = &work.errors;
        for lane in 0..LANES {
            let token = |i: usize, j: usize| block.tokens[i * 5 + j][lane];
            let task = super::super::RegressionTask {
                x: Array2::from_shape_fn((4, 3), |(i, j)| token(i, j)),
                y: Array2::from_shape_fn((4, 2), |(i, j)| token(i, 3 + j)),
                x_query: ndarray::Array1::from_shape_fn(3, |j| token(4, j)),
                y_query: ndarray::Array1::from_shape_fn(2, |j| block.answers[j][lane]),
            };
            let wanted = net.predict(&task).unwrap() - &task.y_query;
            for (error, wanted) in errors.iter().zip(&wanted) {
                assert!((error[lane] - wanted).abs() < 1e-12);
            }
        }
    }
}
