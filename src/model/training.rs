//! How to train, and what happened: AdamW with warm-up and cosine decay.

use serde::{Deserialize, Serialize};

use super::{TrainingRun, Transformer};
use crate::data::Source;
use crate::{Error, ErrorKind, Result};

/// How to train.
///
/// AdamW (Loshchilov & Hutter 2019) with a linear warm-up, then a cosine down to a tenth of `lr`, weight decay on
/// matrices only, and the gradient clipped to norm `clip`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Whether to stop when the loss on held-out sequences no longer falls. `None`: take all steps.
    pub early_stop: Option<EarlyStop>,
}

/// When to stop before the last step: the held-out loss is measured every so many steps, and training ends when it has
/// not reached a new minimum for `patience` measurements. The model is then the one at the minimum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlyStop {
    /// Steps between measurements.
    pub every: usize,
    /// Measurements without a new minimum after which training ends.
    pub patience: usize,
}

impl Default for EarlyStop {
    /// Three measurements, 50 steps apart.
    fn default() -> Self {
        EarlyStop { every: 50, patience: 3 }
    }
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
            early_stop: None,
        }
    }
}

impl Training {
    /// Returns the learning rate of `step`, counted from 0.
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

    pub(crate) fn check(&self) -> Result<()> {
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
        if let Some(EarlyStop { every, patience }) = self.early_stop
            && (every == 0 || patience == 0)
        {
            let value = format!("every {every} steps with patience {patience}");
            return bad("early_stop", value, "1 or more in both");
        }
        Ok(())
    }
}

/// What happened in training.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingLog {
    /// Mean loss of each step's batch, in nats per token.
    pub losses: Vec<f64>,
    /// Loss on held-out sequences at the end, in nats per token.
    #[serde(skip, default = "not_measured")]
    pub held_out_loss: f64,
    /// With early stopping: after how many steps which loss was measured on held-out sequences.
    pub held_out: Vec<(usize, f64)>,
    /// Whether training ended before its last step because the held-out loss no longer fell.
    pub stopped_early: bool,
    /// Whether training was interrupted before its last step; the model is then as trained so far.
    pub interrupted: bool,
}

fn not_measured() -> f64 {
    f64::NAN
}

impl std::fmt::Debug for TrainingLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let first = self.losses.first().copied().unwrap_or(f64::NAN);
        write!(
            f,
            "TrainingLog: {} steps{}, loss {first:.3} at the start, {:.3} held out at the end",
            self.losses.len(),
            self.how_it_ended(),
            self.held_out_loss
        )
    }
}

impl TrainingLog {
    /// What to add where the steps are told, if not all of them were taken.
    pub(crate) fn how_it_ended(&self) -> &'static str {
        match (self.interrupted, self.stopped_early) {
            (true, _) => " (interrupted)",
            (false, true) => " (stopped early)",
            (false, false) => "",
        }
    }
}

impl Transformer {
    /// Trains on `source`, showing progress. An interrupt stops between two steps and keeps the model as trained so
    /// far.
    ///
    /// If the loss or the gradient stops being finite, training ends with an error that says at which step, and the
    /// model keeps the last weights that gave a finite loss and gradient. To save a run and go on later, see
    /// [`TrainingRun`].
    pub fn train(&mut self, source: &dyn Source, how: &Training) -> Result<TrainingLog> {
        let mut run = TrainingRun::new(self.clone(), how)?;
        let log = run.finish(source);
        *self = run.into_model();
        log
    }
}
