//! The weights of a predictive-coding network. A gradient is one too.

use ndarray::{Array1, Array2};
use serde::{Deserialize, Serialize};

use super::{Kernel, PredictiveConfig};
use crate::num::{normal, rng};

/// What one correction learns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PredictiveLayer {
    /// Queries, `[d_key, d_model]`.
    pub w_q: Array2<f64>,
    /// Keys, `[d_key, d_model]`.
    pub w_k: Array2<f64>,
    /// Step size `η`.
    pub lr: f64,
}

/// All weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PredictiveParams {
    /// Embedding, `[d_vocab, d_model]`.
    pub w_e: Array2<f64>,
    /// The first prediction, `[d_model, d_model]`.
    pub w_0: Array2<f64>,
    /// One per layer; a single one if they are looped.
    pub layers: Vec<PredictiveLayer>,
    /// Unembedding, `[d_vocab, d_model]`; empty if tied.
    pub w_u: Array2<f64>,
    /// Bias of the logits, `[d_vocab]`.
    pub b_u: Array1<f64>,
}

impl PredictiveParams {
    pub(super) fn zeros(c: &PredictiveConfig) -> Self {
        let (v, d, k) = (c.d_vocab, c.d_model, c.d_key);
        let layer = PredictiveLayer { w_q: Array2::zeros((k, d)), w_k: Array2::zeros((k, d)), lr: 0.0 };
        PredictiveParams {
            w_e: Array2::zeros((v, d)),
            w_0: Array2::zeros((d, d)),
            layers: vec![layer; c.n_sets()],
            w_u: if c.tied { Array2::zeros((0, 0)) } else { Array2::zeros((v, d)) },
            b_u: Array1::zeros(v),
        }
    }

    pub(super) fn init(c: &PredictiveConfig) -> Self {
        let mut rng = rng(c.seed, 0);
        let mut p = Self::zeros(c);
        let d = c.d_model as f64;
        let mut fill = |a: &mut Array2<f64>, size: f64| a.mapv_inplace(|_| size * normal(&mut rng));
        // Of length √2 at any width, so that a prediction that is right says so in the logits, and is not certain of
        // it.
        fill(&mut p.w_e, (2.0 / d).sqrt());
        fill(&mut p.w_0, 0.1 / d.sqrt());
        for layer in &mut p.layers {
            fill(&mut layer.w_q, 1.0 / d.sqrt());
            fill(&mut layer.w_k, 1.0 / d.sqrt());
            layer.lr = match c.kernel {
                Kernel::Linear => 1.0 / c.n_ctx as f64,
                Kernel::Softmax => 0.5,
            };
        }
        fill(&mut p.w_u, (2.0 / d).sqrt());
        p
    }

    /// Returns the unembedding, `[d_vocab, d_model]`: the embedding if tied.
    pub fn unembedding(&self) -> &Array2<f64> {
        if self.w_u.is_empty() { &self.w_e } else { &self.w_u }
    }

    /// Counts how many numbers there are to learn.
    pub fn count(&self) -> usize {
        self.slices().iter().map(|s| s.len()).sum()
    }

    /// Every tensor's numbers, in one order.
    pub(super) fn slices(&self) -> Vec<&[f64]> {
        let mut all = vec![row_major(&self.w_e), row_major(&self.w_0)];
        for layer in &self.layers {
            all.extend([row_major(&layer.w_q), row_major(&layer.w_k), std::slice::from_ref(&layer.lr)]);
        }
        all.extend([row_major(&self.w_u), self.b_u.as_slice().expect("own arrays are contiguous")]);
        all
    }

    pub(super) fn slices_mut(&mut self) -> Vec<&mut [f64]> {
        fn rows(a: &mut Array2<f64>) -> &mut [f64] {
            a.as_slice_mut().expect("own arrays are row-major")
        }
        let mut all = vec![rows(&mut self.w_e), rows(&mut self.w_0)];
        for layer in &mut self.layers {
            all.extend([rows(&mut layer.w_q), rows(&mut layer.w_k), std::slice::from_mut(&mut layer.lr)]);
        }
        all.push(rows(&mut self.w_u));
        all.push(self.b_u.as_slice_mut().expect("own arrays are contiguous"));
        all
    }

    /// The tensors that weight decay shrinks: matrices.
    pub(super) fn matrices_mut(&mut self) -> Vec<&mut Array2<f64>> {
        let mut all = vec![&mut self.w_e, &mut self.w_0, &mut self.w_u];
        all.extend(self.layers.iter_mut().flat_map(|l| [&mut l.w_q, &mut l.w_k]));
        all
    }
}

fn row_major(a: &Array2<f64>) -> &[f64] {
    a.as_slice().expect("own arrays are row-major")
}
