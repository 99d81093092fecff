//! Training a predictive-coding network by the recipe that transformers are trained with, so that the two can be
//! compared.

use super::PredictiveCoding;
use crate::data::Source;
use crate::model::{Training, TrainingLog};
use crate::num::{Adam, clipped, rng};
use crate::session::{self, Progress};
use crate::{Error, ErrorKind, Result};

/// Sequences on which the loss is measured at the end.
const N_HELD_OUT: usize = 64;

impl PredictiveCoding {
    /// Trains on `source` with AdamW, showing progress. An interrupt stops between two steps. The settings mean what
    /// they mean for a [`Transformer`](crate::model::Transformer), whose batches of the same seed are the same.
    ///
    /// Fails on another vocabulary, on settings out of range or `early_stop`, and if the loss stops being finite.
    pub fn train(&mut self, source: &dyn Source, how: &Training) -> Result<TrainingLog> {
        how.check()?;
        if how.early_stop.is_some() {
            return Err(Error::new(
                ErrorKind::Config,
                "early_stop is set, which this network does not have",
                "leave `early_stop: None`",
            ));
        }
        if source.d_vocab() != self.config.d_vocab {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("the source has {} tokens, the network {}", source.d_vocab(), self.config.d_vocab),
                format!("build the network with `d_vocab: {}`", source.d_vocab()),
            ));
        }
        let len = self.config.n_ctx + 1;
        let mut batches = rng(how.seed, 1);
        let mut adam = Adam::new(self.params.count(), (how.beta1, how.beta2), 1e-12);
        let mut progress = Progress::new("training", how.steps);
        let mut log = TrainingLog {
            losses: Vec::with_capacity(how.steps),
            held_out_loss: f64::NAN,
            held_out: Vec::new(),
            stopped_early: false,
            interrupted: false,
        };
        for step in 0..how.steps {
            if session::interrupted() {
                log.interrupted = true;
                break;
            }
            let (loss, grad) = self.loss_and_grad(&source.sample(how.batch_size, len, &mut batches)?)?;
            let grad: Vec<f64> = grad.slices().concat();
            if !(loss.is_finite() && grad.iter().all(|g| g.is_finite())) {
                return Err(Error::new(
                    ErrorKind::Numeric,
                    format!("training broke down at step {step}: loss {loss}"),
                    format!("train with a smaller `lr` (it was {}), or with `Kernel::Softmax`", how.lr),
                ));
            }
            log.losses.push(loss);
            let lr = how.lr_at(step);
            for matrix in self.params.matrices_mut() {
                *matrix *= 1.0 - lr * how.weight_decay;
            }
            let scale = clipped(&grad, how.clip);
            adam.step(self.params.slices_mut().into_iter().flatten(), grad.iter(), lr, scale);
            progress.update(step + 1, || format!("loss {loss:.3}"));
        }
        log.held_out_loss = self.loss(&source.sample_held_out(N_HELD_OUT, len, &mut rng(how.seed, 2))?)?;
        progress.finish(&format!(
            "{}, held-out loss {:.3} nats per token",
            session::count(log.losses.len(), "step"),
            log.held_out_loss
        ));
        Ok(log)
    }
}
