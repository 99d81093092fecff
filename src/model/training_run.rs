//! A training run that can stop, be saved, and go on as if nothing had been.

use std::path::Path;

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::adamw::AdamW;
use super::loss::Gradients;
use super::weights::{Provenance, read_document, write_document};
use super::{Params, Training, TrainingLog, Transformer};
use crate::data::Source;
use crate::num::{Rng, rng};
use crate::session::{self, Progress};
use crate::{Error, ErrorKind, Result};

/// A model in training: what [`Transformer::train`] does, in pieces.
///
/// A run that was interrupted, or saved and loaded, continues with the same numbers as one that never stopped.
///
/// ```
/// use onelens::{data::Markov, model::{Config, Training, TrainingRun, Transformer}};
/// let source = Markov::new(4, 0.5)?;
/// let model = Transformer::new(Config { d_vocab: 4, n_ctx: 8, n_layers: 1, ..Default::default() })?;
/// let how = Training { steps: 4, batch_size: 2, ..Default::default() };
///
/// let mut run = TrainingRun::new(model.clone(), &how)?;
/// run.train_to(&source, 2)?;
/// let path = std::env::temp_dir().join(format!("onelens-run-{}.safetensors", std::process::id()));
/// run.save(&path, &source)?;
/// let mut later = TrainingRun::load(&path)?;
/// let log = later.finish(&source)?;
///
/// let mut straight = model;
/// assert_eq!(straight.train(&source, &how)?, log);
/// assert!(straight == *later.model());
/// # std::fs::remove_file(path).unwrap();
/// # Ok::<(), onelens::Error>(())
/// ```
pub struct TrainingRun {
    model: Transformer,
    how: Training,
    log: TrainingLog,
    adam: AdamW,
    batches: Rng,
    /// The last weights with a finite loss and gradient.
    last_good: Params,
    /// The weights of the least held-out loss.
    best: Option<Params>,
    /// Memory of the steps.
    gradients: Gradients,
}

/// What a file says of a run besides its weights.
#[derive(Serialize, Deserialize)]
struct State {
    how: Training,
    log: TrainingLog,
    /// Where the generator of the batches stands. In words: it has more bits than a number in JSON.
    batches_at: String,
    has_best: bool,
}

/// The loss of a batch and its gradient, from elsewhere.
pub(crate) type Gradient<'a> = dyn FnMut(&Transformer, &Array2<u32>) -> Result<(f64, Params)> + 'a;

/// Sequences on which a held-out loss is measured.
const N_HELD_OUT: usize = 64;

impl TrainingRun {
    /// Makes a run that has not taken a step.
    pub fn new(model: Transformer, how: &Training) -> Result<Self> {
        how.check()?;
        let zeros = Params::zeros(&model.config);
        Ok(TrainingRun {
            adam: AdamW { mean: zeros.clone(), square: zeros, step: 0 },
            batches: batches(how),
            last_good: model.params.clone(),
            best: None,
            gradients: Gradients::default(),
            log: TrainingLog {
                losses: Vec::new(),
                held_out_loss: f64::NAN,
                held_out: Vec::new(),
                stopped_early: false,
                interrupted: false,
            },
            how: how.clone(),
            model,
        })
    }

    /// Returns the model as trained so far.
    pub fn model(&self) -> &Transformer {
        &self.model
    }

    /// Returns the model as trained so far, without the rest of the run.
    pub fn into_model(self) -> Transformer {
        self.model
    }

    /// Returns what has happened so far.
    pub fn log(&self) -> &TrainingLog {
        &self.log
    }

    /// Returns the number of steps taken.
    pub fn step(&self) -> usize {
        self.log.losses.len()
    }

    /// Trains until `step` steps have been taken, at most the run's `steps`, showing progress. An interrupt stops
    /// between two steps; calling this again goes on from there.
    pub fn train_to(&mut self, source: &dyn Source, step: usize) -> Result<()> {
        let mut progress = self.begin(source)?;
        self.go(source, step, &mut progress, None)?;
        let note = format!("{}{}", session::count(self.step(), "step"), self.log.how_it_ended());
        progress.finish(&note);
        Ok(())
    }

    /// Trains to the end and measures the loss on held-out sequences, as [`Transformer::train`] does.
    pub fn finish(&mut self, source: &dyn Source) -> Result<TrainingLog> {
        let mut progress = self.begin(source)?;
        self.go(source, self.how.steps, &mut progress, None)?;
        self.end(source, progress)
    }

    fn end(&mut self, source: &dyn Source, progress: Progress) -> Result<TrainingLog> {
        self.log.held_out_loss = self.held_out_loss(source)?;
        if !self.log.held_out_loss.is_finite() {
            let what = format!("the loss after the last step is {}", self.log.held_out_loss);
            return Err(self.back_to_last_good(what));
        }
        progress.finish(&format!(
            "{}{}, held-out loss {:.3} nats per token",
            session::count(self.step(), "step"),
            self.log.how_it_ended(),
            self.log.held_out_loss
        ));
        Ok(self.log.clone())
    }

    /// The same with losses and gradients of batches by `gradient`.
    pub(crate) fn finish_by(&mut self, source: &dyn Source, gradient: &mut Gradient) -> Result<TrainingLog> {
        let mut progress = self.begin(source)?;
        self.go(source, self.how.steps, &mut progress, Some(gradient))?;
        self.end(source, progress)
    }

    /// The model as trained so far, to be replaced by its weights on another process.
    pub(crate) fn model_mut(&mut self) -> &mut Transformer {
        &mut self.model
    }

    fn begin(&mut self, source: &dyn Source) -> Result<Progress> {
        let d_vocab = self.model.config.d_vocab;
        if source.d_vocab() != d_vocab {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("the source has {} tokens, the model {d_vocab}", source.d_vocab()),
                format!("build the model with `d_vocab: {}`", source.d_vocab()),
            ));
        }
        self.log.interrupted = false;
        Ok(Progress::new("training", self.how.steps))
    }

    fn go(
        &mut self,
        source: &dyn Source,
        until: usize,
        progress: &mut Progress,
        mut gradient: Option<&mut Gradient>,
    ) -> Result<()> {
        while self.step() < until.min(self.how.steps) && !self.log.stopped_early {
            if session::interrupted() {
                self.log.interrupted = true;
                break;
            }
            self.take_step(source, gradient.as_deref_mut())?;
            progress.update(self.step(), || format!("loss {:.3}", recent(&self.log.losses)));
            self.look_whether_to_stop(source)?;
        }
        Ok(())
    }

    fn take_step(&mut self, source: &dyn Source, gradient: Option<&mut Gradient>) -> Result<()> {
        let (how, step) = (&self.how, self.log.losses.len());
        let len = self.model.config.n_ctx + 1;
        let tokens: Array2<u32> = source.sample(how.batch_size, len, &mut self.batches)?;
        let (loss, norm) = match gradient {
            None => self.model.loss_and_grad_in(&tokens, &mut self.gradients)?,
            Some(gradient) => {
                let (loss, grad) = gradient(&self.model, &tokens)?;
                (loss, self.gradients.take(grad))
            }
        };
        if !(loss.is_finite() && norm.is_finite()) {
            let what = format!("training broke down at step {step}: loss {loss}, gradient norm {norm}");
            return Err(self.back_to_last_good(what));
        }
        self.last_good.copy_from(&self.model.params);
        let grad = self.gradients.sum();
        self.adam.update(&mut self.model.params, grad, how, how.lr_at(step), (how.clip / norm).min(1.0));
        self.log.losses.push(loss);
        Ok(())
    }

    /// Measures the held-out loss where early stopping asks for it; ends the run at the best weights when it no longer
    /// falls.
    fn look_whether_to_stop(&mut self, source: &dyn Source) -> Result<()> {
        let Some(early_stop) = &self.how.early_stop else { return Ok(()) };
        if !self.step().is_multiple_of(early_stop.every) {
            return Ok(());
        }
        let loss = self.held_out_loss(source)?;
        if !loss.is_finite() {
            let what = format!("the held-out loss after {} steps is {loss}", self.step());
            return Err(self.back_to_last_good(what));
        }
        let least = self.log.held_out.iter().map(|&(_, loss)| loss).fold(f64::INFINITY, f64::min);
        if loss < least {
            self.best = Some(self.model.params.clone());
        }
        self.log.held_out.push((self.step(), loss));
        let measured = &self.log.held_out;
        let best_at = measured.iter().position(|&(_, l)| l <= least.min(loss)).unwrap_or(0);
        if measured.len() - 1 - best_at >= early_stop.patience
            && let Some(best) = &self.best
        {
            self.model.params.copy_from(best);
            self.log.stopped_early = true;
        }
        Ok(())
    }

    fn held_out_loss(&self, source: &dyn Source) -> Result<f64> {
        let len = self.model.config.n_ctx + 1;
        self.model.loss(&source.sample_held_out(N_HELD_OUT, len, &mut rng(self.how.seed, 2))?)
    }

    fn back_to_last_good(&mut self, what: String) -> Error {
        self.model.params.copy_from(&self.last_good);
        let lr = self.how.lr;
        let help =
            format!("the model is back at its last good weights; train with a smaller `lr` (it was {lr})");
        Error::new(ErrorKind::Numeric, what, help)
    }

    /// Writes the run to `path`: the model, what the optimiser and the batches need to go on, and the log. The file can
    /// also be read by [`Transformer::load`]. It appears whole or not at all.
    pub fn save(&self, path: impl AsRef<Path>, source: &dyn Source) -> Result<()> {
        let state = State {
            how: self.how.clone(),
            log: self.log.clone(),
            batches_at: self.batches.get_word_pos().to_string(),
            has_best: self.best.is_some(),
        };
        let state = serde_json::to_value(state).map_err(|e| {
            let what = format!("the state of the run cannot be written: {e}");
            Error::new(ErrorKind::File, what, "please report this: it should not happen")
        })?;
        let mut sets = vec![
            ("", &self.model.params),
            (MEAN, &self.adam.mean),
            (SQUARE, &self.adam.square),
            (LAST_GOOD, &self.last_good),
        ];
        sets.extend(self.best.iter().map(|best| (BEST, best)));
        let provenance = Provenance::trained(source, &self.how, &self.log);
        write_document(path.as_ref(), &self.model.config, &provenance, &state, &sets)
    }

    /// Reads a run that [`save`](TrainingRun::save) has written.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let mut document = read_document(path.as_ref())?;
        let shown = path.as_ref().display();
        let no_run = |why: String| {
            let what = format!("{shown} holds no training run: {why}");
            Error::new(ErrorKind::File, what, "give a file that `TrainingRun::save` wrote")
        };
        if document.state.is_null() {
            return Err(no_run("only a model".into()));
        }
        let state: State =
            serde_json::from_value(document.state.take()).map_err(|e| no_run(e.to_string()))?;
        state.how.check()?;
        let batches_at: u128 = state
            .batches_at
            .parse()
            .map_err(|_| no_run(format!("its batches stand at {:?}", state.batches_at)))?;
        let step =
            i32::try_from(state.log.losses.len()).map_err(|_| no_run("it has too many steps".into()))?;
        let mut batches = batches(&state.how);
        batches.set_word_pos(batches_at);
        let run = TrainingRun {
            adam: AdamW { mean: document.params(MEAN)?, square: document.params(SQUARE)?, step },
            last_good: document.params(LAST_GOOD)?,
            best: if state.has_best { Some(document.params(BEST)?) } else { None },
            model: Transformer { params: document.params("")?, config: document.config },
            gradients: Gradients::default(),
            how: state.how,
            log: state.log,
            batches,
        };
        document.tensors.finish(|_| false)?;
        Ok(run)
    }
}

/// What stands before the names of tensors that are not the model's.
const MEAN: &str = "run.mean.";
const SQUARE: &str = "run.square.";
const LAST_GOOD: &str = "run.last_good.";
const BEST: &str = "run.best.";

/// The generator of a run's batches, at its beginning.
fn batches(how: &Training) -> Rng {
    rng(how.seed, 1)
}

/// Mean of the last losses, which single batches make noisy.
fn recent(losses: &[f64]) -> f64 {
    let tail = &losses[losses.len().saturating_sub(20)..];
    tail.iter().sum::<f64>() / tail.len() as f64
}

impl std::fmt::Debug for TrainingRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TrainingRun: {} of {} steps{}", self.step(), self.how.steps, self.log.how_it_ended())
    }
}
