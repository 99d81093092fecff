//! What a predictive-coding network computed, by name.

use std::fmt;

use ndarray::{Array2, Array3, Axis};

use super::pass::Pass;
use crate::{Error, ErrorKind, Result};

/// A place in a predictive-coding network. The number counts the corrections before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PredictiveHook {
    /// `hook_embed`: the embeddings, `[batch, pos, d_model]`.
    Embed,
    /// `layers.l.hook_prediction`: the guess of the next embedding, `[batch, pos, d_model]`, `l = 0 ..= n_layers`.
    Prediction(usize),
    /// `layers.l.hook_error`: the next embedding minus that guess, `[batch, pos - 1, d_model]`, `l = 0 ..= n_layers`.
    Error(usize),
    /// `layers.l.hook_pattern`: `κ`, how much each position takes of the error at each pair, `[batch, pos, pos - 1]`.
    Pattern(usize),
}

impl fmt::Display for PredictiveHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PredictiveHook::Embed => write!(f, "hook_embed"),
            PredictiveHook::Prediction(l) => write!(f, "layers.{l}.hook_prediction"),
            PredictiveHook::Error(l) => write!(f, "layers.{l}.hook_error"),
            PredictiveHook::Pattern(l) => write!(f, "layers.{l}.hook_pattern"),
        }
    }
}

/// Embeddings, predictions, errors and patterns of a batch.
#[derive(Clone, PartialEq)]
pub struct PredictiveCache {
    embed: Array3<f64>,
    predictions: Vec<Array3<f64>>,
    errors: Vec<Array3<f64>>,
    patterns: Vec<Array3<f64>>,
}

impl PredictiveCache {
    pub(super) fn new(passes: &[Pass]) -> Self {
        let n_layers = passes[0].patterns.len();
        PredictiveCache {
            embed: stack(passes, |p| p.e.clone()),
            predictions: (0..=n_layers).map(|l| stack(passes, |p| p.predictions[l].clone())).collect(),
            errors: (0..=n_layers).map(|l| stack(passes, |p| p.errors(l))).collect(),
            patterns: (0..n_layers).map(|l| stack(passes, |p| p.patterns[l].clone())).collect(),
        }
    }

    /// Returns the numbers at a hook.
    ///
    /// Fails if the network has no such layer.
    pub fn get(&self, hook: PredictiveHook) -> Result<Array3<f64>> {
        let (found, n) = match hook {
            PredictiveHook::Embed => (Some(&self.embed), 1),
            PredictiveHook::Prediction(l) => (self.predictions.get(l), self.predictions.len()),
            PredictiveHook::Error(l) => (self.errors.get(l), self.errors.len()),
            PredictiveHook::Pattern(l) => (self.patterns.get(l), self.patterns.len()),
        };
        found.cloned().ok_or_else(|| {
            Error::new(
                ErrorKind::Shape,
                format!("the network has no `{hook}`"),
                format!("layers are 0 to {} there", n - 1),
            )
        })
    }

    /// Returns the guesses of the next embedding after `layer` corrections, `[batch, pos, d_model]`.
    pub fn predictions(&self, layer: usize) -> Result<Array3<f64>> {
        self.get(PredictiveHook::Prediction(layer))
    }

    /// Returns the errors of those guesses, `[batch, pos - 1, d_model]`.
    pub fn errors(&self, layer: usize) -> Result<Array3<f64>> {
        self.get(PredictiveHook::Error(layer))
    }

    /// Computes the mean over the batch of `‖ε‖² / mean ‖e‖²`: `[n_layers + 1, pos - 1]`. Zero is a perfect guess, one
    /// is worth as little as guessing nothing.
    pub fn error_sizes(&self) -> Array2<f64> {
        let (n_seqs, n_pos, _) = self.embed.dim();
        let unit = self.embed.iter().map(|e| e * e).sum::<f64>() / (n_seqs * n_pos) as f64;
        let mut sizes = Array2::zeros((self.errors.len(), n_pos - 1));
        for (mut row, errors) in sizes.rows_mut().into_iter().zip(&self.errors) {
            let squares = errors.mapv(|e| e * e).sum_axis(Axis(2));
            row.assign(&(squares.mean_axis(Axis(0)).expect("a batch has sequences") / unit));
        }
        sizes
    }
}

fn stack(passes: &[Pass], part: impl Fn(&Pass) -> Array2<f64>) -> Array3<f64> {
    let parts: Vec<Array2<f64>> = passes.iter().map(part).collect();
    let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
    ndarray::stack(Axis(0), &views).expect("sequences of one length")
}

impl fmt::Debug for PredictiveCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (n_seqs, n_pos, d) = self.embed.dim();
        write!(
            f,
            "PredictiveCache: {} layers, {n_seqs} sequences of {n_pos} vectors of width {d}",
            self.patterns.len()
        )
    }
}
