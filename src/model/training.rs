//! Training with AdamW, warm-up and cosine decay.

use ndarray::Array2;

use super::{Params, Transformer};
use crate::data::Source;
use crate::num::rng;
use crate::session::{self, Progress};
use crate::{Error, ErrorKind, Result};

/// How to train.
///
/// AdamW (Loshchilov & Hutter 2019) with a linear warm-up, then a cosine down to a tenth of `lr`, weight decay on
/// matrices only, and the gradient clipped to norm `clip`.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    /// Optimisation steps.
    pub steps: usize,
    /// Sequences per step, each of `n_ctx` tokens.
    pub batch_size: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// Steps over which the learning rate rises from 0.
    pub warmup: usize,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest norm of the gradient.
    pub clip: f64,
    /// Decay of the mean gradient.
    pub beta1: f64,
    /// Decay of the mean squared gradient.
    pub beta2: f64,
    /// Seed of the batches.
    pub seed: u64,
}

impl Default for Training {
    fn default() -> Self {
        Training {
            steps: 1000,
            batch_size: 32,
            lr: 3e-3,
            warmup: 50,
            weight_decay: 0.1,
            clip: 1.0,
            beta1: 0.9,
            beta2: 0.99,
            seed: 0,
        }
    }
}

impl Training {
    /// The learning rate of `step`, counted from 0.
    ///
    /// ```
    /// let how = onelens::model::Training { steps: 110, warmup: 10, lr: 1.0, ..Default::default() };
    /// assert_eq!(how.lr_at(4), 0.5); // half way up
    /// assert_eq!(how.lr_at(10), 1.0);
    /// assert!((how.lr_at(60) - 0.55).abs() < 1e-12); // half way down to a tenth
    /// ```
    pub fn lr_at(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.lr * (step + 1) as f64 / self.warmup as f64;
        }
        let done = (step - self.warmup) as f64 / self.steps.saturating_sub(self.warmup).max(1) as f64;
        self.lr * (0.1 + 0.45 * (1.0 + (std::f64::consts::PI * done).cos()))
    }

    fn check(&self) -> Result<()> {
        let positive = [("lr", self.lr), ("clip", self.clip)];
        let fractions = [("beta1", self.beta1), ("beta2", self.beta2)];
        let bad = |name: &str, value: String, help: &str| {
            Err(Error::new(ErrorKind::Config, format!("{name} is {value}"), format!("set {name} to {help}")))
        };
        for (name, value) in positive {
            if !(value > 0.0 && value.is_finite()) {
                return bad(name, value.to_string(), "a positive number");
            }
        }
        for (name, value) in fractions {
            if !(0.0..1.0).contains(&value) {
                return bad(name, value.to_string(), "a number from 0 to below 1");
            }
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) {
            return bad("weight_decay", self.weight_decay.to_string(), "0 or a positive number");
        }
        if self.batch_size == 0 {
            return bad("batch_size", "0".into(), "1 or more");
        }
        Ok(())
    }
}

/// What happened in training.
#[derive(Clone, PartialEq)]
pub struct TrainingLog {
    /// Mean loss of each step's batch, in nats per token.
    pub losses: Vec<f64>,
    /// Loss on held-out sequences at the end, in nats per token.
    pub held_out_loss: f64,
    /// Whether training was interrupted before its last step; the model is then as trained so far.
    pub interrupted: bool,
}

impl std::fmt::Debug for TrainingLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let first = self.losses.first().copied().unwrap_or(f64::NAN);
        write!(
            f,
            "TrainingLog: {} steps{}, loss {first:.3} at the start, {:.3} held out at the end",
            self.losses.len(),
            if self.interrupted { " (interrupted)" } else { "" },
            self.held_out_loss
        )
    }
}

/// Sequences on which the final loss is measured.
const N_HELD_OUT: usize = 64;

impl Transformer {
    /// Trains on `source`, showing progress. An interrupt stops between two steps and keeps the model as trained so far.
    ///
    /// If the loss or the gradient stops being finite, training ends with an error that says at which step, and the model
    /// keeps the last weights that gave a finite loss and gradient.
    pub fn train(&mut self, source: &dyn Source, how: &Training) -> Result<TrainingLog> {
        how.check()?;
        if source.d_vocab() != self.config.d_vocab {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("the source has {} tokens, the model {}", source.d_vocab(), self.config.d_vocab),
                format!("build the model with `d_vocab: {}`", source.d_vocab()),
            ));
        }
        let len = self.config.n_ctx + 1;
        let mut batches = rng(how.seed, 1);
        let mut adam =
            AdamW { mean: Params::zeros(&self.config), square: Params::zeros(&self.config), step: 0 };
        let mut last_good = self.params.clone();
        let mut log = TrainingLog {
            losses: Vec::with_capacity(how.steps),
            held_out_loss: f64::NAN,
            interrupted: false,
        };
        let mut progress = Progress::new("training", how.steps);
        for step in 0..how.steps {
            if session::interrupted() {
                log.interrupted = true;
                break;
            }
            let tokens: Array2<u32> = source.sample(how.batch_size, len, &mut batches)?;
            let (loss, grad) = self.loss_and_grad(&tokens)?;
            let norm = norm(&grad);
            if !(loss.is_finite() && norm.is_finite()) {
                self.params = last_good;
                return Err(Error::new(
                    ErrorKind::Numeric,
                    format!("training broke down at step {step}: loss {loss}, gradient norm {norm}"),
                    format!(
                        "the model is back at its last good weights; train with a smaller `lr` (it was {})",
                        how.lr
                    ),
                ));
            }
            last_good.clone_from(&self.params);
            adam.update(&mut self.params, &grad, how, how.lr_at(step), (how.clip / norm).min(1.0));
            log.losses.push(loss);
            progress.update(step + 1, || format!("loss {:.3}", recent(&log.losses)));
        }
        log.held_out_loss = self.loss(&source.sample_held_out(N_HELD_OUT, len, &mut rng(how.seed, 2))?)?;
        if !log.held_out_loss.is_finite() {
            self.params = last_good;
            return Err(Error::new(
                ErrorKind::Numeric,
                format!("the loss after the last step is {}", log.held_out_loss),
                format!(
                    "the model is back at its last good weights; train with a smaller `lr` (it was {})",
                    how.lr
                ),
            ));
        }
        let how_it_ended = if log.interrupted { ", interrupted" } else { "" };
        progress.finish(&format!(
            "{} steps{how_it_ended}, held-out loss {:.3} nats per token",
            log.losses.len(),
            log.held_out_loss
        ));
        Ok(log)
    }
}

/// Mean of the last losses, which single batches make noisy.
fn recent(losses: &[f64]) -> f64 {
    let tail = &losses[losses.len().saturating_sub(20)..];
    tail.iter().sum::<f64>() / tail.len() as f64
}

fn norm(grad: &Params) -> f64 {
    let square = |s: &[f32]| s.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
    grad.slices().into_iter().map(square).sum::<f64>().sqrt()
}

struct AdamW {
    mean: Params,
    square: Params,
    step: i32,
}

impl AdamW {
    /// One step with the gradient scaled by `scale`.
    fn update(&mut self, params: &mut Params, grad: &Params, how: &Training, lr: f64, scale: f64) {
        self.step += 1;
        let correct1 = 1.0 - how.beta1.powi(self.step);
        let correct2 = 1.0 - how.beta2.powi(self.step);
        let rate = (lr / correct1) as f32;
        let root = (1.0 / correct2.sqrt()) as f32;
        let (b1, b2, scale) = (how.beta1 as f32, how.beta2 as f32, scale as f32);
        let decays: Vec<bool> = params.tensors().iter().map(|(_, t)| t.ndim() > 1).collect();
        let state = self.mean.slices_mut().into_iter().zip(self.square.slices_mut());
        for (((p, g), (m, v)), decays) in
            params.slices_mut().into_iter().zip(grad.slices()).zip(state).zip(decays)
        {
            let keep = if decays { (1.0 - lr * how.weight_decay) as f32 } else { 1.0 };
            for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                let g = g * scale;
                *m = b1 * *m + (1.0 - b1) * g;
                *v = b2 * *v + (1.0 - b2) * g * g;
                *p = keep * *p - rate * *m / (v.sqrt() * root + 1e-8);
            }
        }
    }
}
