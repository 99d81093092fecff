//! Linear classifiers of residual streams: what can be told of a token's label from each.

use ndarray::{Array1, Array2, Array3, Axis};
use rayon::prelude::*;

use super::decoder::Decoder;
use super::inputs::Inputs;
use super::layers::check_fingerprint;
use super::tuned::Refined;
use super::{LayerLenses, LayerMoments, Refine, Ridge, Towards};
use crate::model::Transformer;
use crate::num::log_softmax_rows;
use crate::{Error, ErrorKind, Result};

/// A linear classifier for each residual stream, `softmax(W h_l + c)` (Alain & Bengio 2016), of least cross-entropy:
/// fitted by least squares onto one-hot rows, then refined, which is a convex problem.
#[derive(Clone, Debug)]
pub struct Probe {
    /// `W` and `c` of each residual stream; `transport` gives the logits of the classes.
    pub lenses: LayerLenses,
    /// Number of classes.
    pub n_classes: usize,
    /// Share of each class in training, `[n_classes]`.
    pub frequencies: Array1<f64>,
    /// Length of the gradient at the end, with the input whitened, in nats; one per residual stream.
    pub gradient_norm: Vec<f64>,
}

/// How well a [`Probe`] does.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeScore {
    /// Mean cross-entropy in nats, one per residual stream.
    pub cross_entropy: Vec<f64>,
    /// Share of tokens whose most probable class is their label, one per residual stream.
    pub accuracy: Vec<f64>,
    /// Cross-entropy of the frequencies in training: what one knows without looking at any stream.
    pub baseline: f64,
    /// Accuracy of always naming the most frequent class.
    pub baseline_accuracy: f64,
}

impl Probe {
    /// Fits a classifier of `labels: [sequence, pos]`, each below `n_classes`, to every residual stream of `model` over
    /// `tokens: [sequence, pos]`, with this many steps of L-BFGS (30 are usual).
    ///
    /// Fails on labels that do not fit the tokens, fewer than two classes, where [`LayerMoments::collect`] does, or
    /// when interrupted.
    pub fn fit(
        model: &Transformer,
        tokens: &Array2<u32>,
        labels: &Array2<u32>,
        n_classes: usize,
        lbfgs_steps: usize,
    ) -> Result<Self> {
        check_labels(tokens, labels, n_classes)?;
        let (n_seqs, n_pos) = labels.dim();
        let mut wanted = Array3::<f32>::zeros((n_seqs, n_pos, n_classes));
        for ((i, t), &label) in labels.indexed_iter() {
            wanted[(i, t, label as usize)] = 1.0;
        }
        let moments = LayerMoments::collect_given(model, tokens, &wanted)?;
        let start = Ridge { towards: Towards::Zero, ..Default::default() }.own(&moments)?;
        let inputs = Inputs::new(model, tokens, Some((labels, n_classes)));
        let began = std::time::Instant::now();
        let decoder = Decoder::new(model, moments.target);
        let Refined { lenses, gradient_norm, .. } = Refine { epochs: 0, lbfgs_steps, ..Refine::default() }
            .search(decoder, inputs, &start, &moments, None)?;
        Ok(Probe {
            lenses: LayerLenses::new("classifier", &moments, lenses, began),
            n_classes,
            frequencies: moments.layers[0].z_mean.clone(),
            gradient_norm,
        })
    }

    /// Measures cross-entropy and accuracy on other tokens and labels.
    ///
    /// Fails on labels that do not fit the tokens, or a model that the probe was not fitted to.
    pub fn score(
        &self,
        model: &Transformer,
        tokens: &Array2<u32>,
        labels: &Array2<u32>,
    ) -> Result<ProbeScore> {
        model.check_tokens(tokens)?;
        check_fingerprint("probes are", self.lenses.fingerprint(), model)?;
        check_labels(tokens, labels, self.n_classes)?;
        let sequences: Vec<_> = tokens.axis_chunks_iter(Axis(0), 1).zip(labels.rows()).collect();
        let parts: Vec<Vec<(f64, f64)>> = sequences
            .into_par_iter()
            .map(|(sequence, labels)| {
                let tape = model.tape(sequence);
                let stream = |l: usize| {
                    let log_q = log_softmax_rows(self.lenses.lenses()[l].map(tape.resid(l).view()).view());
                    labels.iter().zip(log_q.rows()).fold((0.0, 0.0), |(nats, hits), (&label, q)| {
                        let mine = q[label as usize];
                        let best = q.iter().all(|&other| other <= mine);
                        (nats - f64::from(mine), hits + f64::from(u8::from(best)))
                    })
                };
                (0..self.lenses.len()).map(stream).collect()
            })
            .collect();
        let n = tokens.len() as f64;
        let mean = |of: &dyn Fn(&(f64, f64)) -> f64| -> Vec<f64> {
            (0..self.lenses.len()).map(|l| parts.iter().map(|p| of(&p[l])).sum::<f64>() / n).collect()
        };
        let most = (0..self.n_classes)
            .max_by(|&i, &j| self.frequencies[i].total_cmp(&self.frequencies[j]))
            .unwrap_or(0);
        let nats = |label: &u32| -self.frequencies[*label as usize].max(f64::MIN_POSITIVE).ln();
        Ok(ProbeScore {
            cross_entropy: mean(&|p| p.0),
            accuracy: mean(&|p| p.1),
            baseline: labels.iter().map(nats).sum::<f64>() / n,
            baseline_accuracy: labels.iter().filter(|l| **l as usize == most).count() as f64 / n,
        })
    }
}

fn check_labels(tokens: &Array2<u32>, labels: &Array2<u32>, n_classes: usize) -> Result<()> {
    if labels.dim() != tokens.dim() {
        return Err(Error::new(
            ErrorKind::Shape,
            format!("labels of shape {:?} for tokens of shape {:?}", labels.dim(), tokens.dim()),
            "give one label for each token",
        ));
    }
    if n_classes < 2 {
        return Err(Error::new(
            ErrorKind::Config,
            format!("{n_classes} class leaves nothing to tell apart"),
            "name at least two classes",
        ));
    }
    match labels.indexed_iter().find(|(_, label)| **label as usize >= n_classes) {
        None => Ok(()),
        Some((at, label)) => Err(Error::new(
            ErrorKind::Data,
            format!("the label {label} at {at:?} is not among {n_classes} classes"),
            format!("labels are 0 to {}", n_classes - 1),
        )),
    }
}
