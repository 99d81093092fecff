//! Training that stops and goes on.

use ndarray::Array2;
use onelens::data::{Markov, Source, Tokens};
use onelens::model::{Config, EarlyStop, Training, TrainingRun, Transformer};
use onelens::num::Rng;
use onelens::{ErrorKind, session};

use crate::apart;

fn model() -> Transformer {
    let config = Config {
        d_vocab: 5,
        n_ctx: 7,
        d_model: 8,
        n_layers: 1,
        n_heads: 2,
        d_head: 4,
        d_mlp: 16,
        ..Default::default()
    };
    Transformer::new(config).unwrap()
}

fn how() -> Training {
    Training {
        steps: 12,
        batch_size: 3,
        warmup: 3,
        early_stop: Some(EarlyStop { every: 2, patience: 50 }),
        ..Default::default()
    }
}

#[test]
fn a_run_saved_at_any_step_continues_with_the_numbers_of_one_that_never_stopped() {
    let source = Markov::new(5, 0.3).unwrap();
    let mut straight = TrainingRun::new(model(), &how()).unwrap();
    let log = straight.finish(&source).unwrap();
    assert_eq!((log.losses.len(), log.held_out.len()), (12, 6));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    let mut run = TrainingRun::new(model(), &how()).unwrap();
    for step in [1, 2, 7, 11, 12] {
        run.train_to(&source, step).unwrap();
        run.save(&path, &source).unwrap();
        assert!(Transformer::load(&path).unwrap() == *run.model(), "the model alone");
        run = TrainingRun::load(&path).unwrap();
        assert_eq!(run.step(), step);
    }
    assert_eq!(run.finish(&source).unwrap(), log);
    assert!(run.model() == straight.model());
}

/// A source that presses the interrupt button when it gives its third batch.
struct Interrupting(Markov, std::cell::Cell<usize>);

impl Source for Interrupting {
    fn d_vocab(&self) -> usize {
        self.0.d_vocab()
    }
    fn sample(&self, n_seqs: usize, len: usize, rng: &mut Rng) -> onelens::Result<Array2<u32>> {
        self.1.set(self.1.get() + 1);
        if self.1.get() == 3 {
            session::interrupt();
        }
        self.0.sample(n_seqs, len, rng)
    }
    fn sample_held_out(&self, n_seqs: usize, len: usize, rng: &mut Rng) -> onelens::Result<Array2<u32>> {
        self.0.sample_held_out(n_seqs, len, rng)
    }
    fn true_conditional(&self, _: &dyn Tokens) -> Option<Array2<f64>> {
        None
    }
    fn token_text(&self, token: u32) -> String {
        self.0.token_text(token)
    }
    fn describe(&self) -> String {
        self.0.describe()
    }
}

#[test]
#[ignore = "runs in a process of its own: see below"]
fn an_interrupted_run_keeps_its_model_and_goes_on() {
    let source = Interrupting(Markov::new(5, 0.3).unwrap(), std::cell::Cell::new(0));
    let mut run = TrainingRun::new(model(), &how()).unwrap();
    let log = run.finish(&source).unwrap();
    assert!(log.interrupted && log.losses.len() == 3);
    session::clear_interrupt();
    let log = run.finish(&source).unwrap();
    let mut straight = model();
    assert_eq!(straight.train(&source.0, &how()).unwrap(), log);
    assert!(straight == *run.model());
}

#[test]
fn interrupts_are_tested_apart_from_tests_they_would_stop() {
    apart("training_runs::an_interrupted_run_keeps_its_model_and_goes_on");
}

/// A source whose held-out sequences have nothing to do with those to train on: what is learnt only hurts.
struct Misleading;

impl Source for Misleading {
    fn d_vocab(&self) -> usize {
        5
    }
    fn sample(&self, n_seqs: usize, len: usize, _: &mut Rng) -> onelens::Result<Array2<u32>> {
        Ok(Array2::from_elem((n_seqs, len), 1))
    }
    fn sample_held_out(&self, n_seqs: usize, len: usize, _: &mut Rng) -> onelens::Result<Array2<u32>> {
        Ok(Array2::from_elem((n_seqs, len), 2))
    }
    fn true_conditional(&self, _: &dyn Tokens) -> Option<Array2<f64>> {
        None
    }
    fn token_text(&self, token: u32) -> String {
        token.to_string()
    }
    fn describe(&self) -> String {
        "misleading".into()
    }
}

#[test]
fn training_stops_at_the_least_held_out_loss() {
    let early_stop = Some(EarlyStop { every: 5, patience: 2 });
    let mut trained = model();
    let how = Training { steps: 500, warmup: 0, lr: 1e-2, early_stop, ..Default::default() };
    let log = trained.train(&Misleading, &how).unwrap();
    assert!(log.stopped_early && log.losses.len() < 500, "{log:?}");
    let least = log.held_out.iter().map(|m| m.1).fold(f64::INFINITY, f64::min);
    assert_eq!(log.held_out_loss, least);
    let best_at = log.held_out.iter().position(|m| m.1 == least).unwrap();
    assert_eq!(log.held_out.len(), best_at + 1 + 2, "two measurements without a new minimum");
    assert!(format!("{log:?}").contains("stopped early"));
}

#[test]
fn a_run_that_breaks_down_says_at_which_step_and_keeps_finite_weights() {
    let source = Markov::new(5, 0.3).unwrap();
    let how = Training { lr: 1e30, warmup: 0, clip: 1e30, early_stop: None, ..how() };
    let mut run = TrainingRun::new(model(), &how).unwrap();
    let e = run.finish(&source).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Numeric);
    assert!(e.what().contains("step") && e.help().contains("smaller `lr`"), "{e}");
    assert!(run.model().params.slices().iter().all(|s| s.iter().all(|x| x.is_finite())));
    let tokens = source.sample(2, 7, &mut onelens::num::rng(0, 0)).unwrap();
    assert!(run.model().loss(&tokens).unwrap().is_finite());
}

#[test]
fn a_file_without_a_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    model().save(&path, &Default::default()).unwrap();
    assert!(TrainingRun::load(&path).unwrap_err().what().contains("only a model"));
    let how = Training { early_stop: Some(EarlyStop { every: 0, patience: 1 }), ..Default::default() };
    assert!(TrainingRun::new(model(), &how).unwrap_err().what().contains("early_stop"));
}
