//! Everything one forward pass computed, by the names of TransformerLens.

use ndarray::{Array2, Array3, Array4};

use super::Config;
use super::forward::{BlockTape, Tape};
use crate::{Error, ErrorKind, Result};

/// The activations of one forward pass. Every accessor returns an owned array that a notebook can keep.
///
/// Layers count from 0; `resid_pre(0)` is the embedding, `resid_pre(l)` equals `resid_post(l - 1)`.
#[derive(Clone)]
pub struct ActivationCache {
    config: Config,
    tape: Tape,
}

impl ActivationCache {
    pub(crate) fn new(config: &Config, tape: Tape) -> Self {
        ActivationCache { config: config.clone(), tape }
    }

    /// Residual stream before block `layer`, `[batch, pos, d_model]`.
    pub fn resid_pre(&self, layer: usize) -> Result<Array3<f32>> {
        self.block(layer)?;
        Ok(self.rows(self.tape.resid(layer)))
    }

    /// Residual stream between attention and MLP of block `layer`, `[batch, pos, d_model]`.
    pub fn resid_mid(&self, layer: usize) -> Result<Array3<f32>> {
        Ok(self.rows(&self.block(layer)?.resid_mid))
    }

    /// Residual stream after block `layer`, `[batch, pos, d_model]`.
    pub fn resid_post(&self, layer: usize) -> Result<Array3<f32>> {
        Ok(self.rows(&self.block(layer)?.resid_post))
    }

    /// What attention of block `layer` added to the residual stream, `[batch, pos, d_model]`.
    pub fn attn_out(&self, layer: usize) -> Result<Array3<f32>> {
        Ok(self.rows(&(&self.block(layer)?.resid_mid - self.tape.resid(layer))))
    }

    /// What the MLP of block `layer` added to the residual stream, `[batch, pos, d_model]`.
    pub fn mlp_out(&self, layer: usize) -> Result<Array3<f32>> {
        let block = self.block(layer)?;
        Ok(self.rows(&(&block.resid_post - &block.resid_mid)))
    }

    /// Queries of block `layer`, `[batch, pos, n_heads, d_head]`.
    pub fn q(&self, layer: usize) -> Result<Array4<f32>> {
        Ok(self.heads(&self.block(layer)?.q))
    }

    /// Keys of block `layer`, `[batch, pos, n_heads, d_head]`.
    pub fn k(&self, layer: usize) -> Result<Array4<f32>> {
        Ok(self.heads(&self.block(layer)?.k))
    }

    /// Values of block `layer`, `[batch, pos, n_heads, d_head]`.
    pub fn v(&self, layer: usize) -> Result<Array4<f32>> {
        Ok(self.heads(&self.block(layer)?.v))
    }

    /// What each head of block `layer` read, `[batch, pos, n_heads, d_head]`.
    pub fn z(&self, layer: usize) -> Result<Array4<f32>> {
        Ok(self.heads(&self.block(layer)?.z))
    }

    /// Attention pattern of block `layer`, `[batch, n_heads, query pos, key pos]`; each query's row sums to 1.
    pub fn pattern(&self, layer: usize) -> Result<Array4<f32>> {
        Ok(self.block(layer)?.pattern.clone())
    }

    fn block(&self, layer: usize) -> Result<&BlockTape> {
        self.tape.blocks.get(layer).ok_or_else(|| {
            let n = self.config.n_layers;
            Error::new(
                ErrorKind::Shape,
                format!("there is no layer {layer} in a model of {n}"),
                format!("layers are 0 to {}", n - 1),
            )
        })
    }

    fn rows(&self, x: &Array2<f32>) -> Array3<f32> {
        let shape = (self.tape.n_seqs, self.tape.n_pos, x.ncols());
        x.clone().into_shape_with_order(shape).expect("one row per token")
    }

    fn heads(&self, x: &Array2<f32>) -> Array4<f32> {
        let shape = (self.tape.n_seqs, self.tape.n_pos, self.config.n_heads, self.config.d_head);
        x.clone().into_shape_with_order(shape).expect("heads side by side")
    }
}

impl std::fmt::Debug for ActivationCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let c = &self.config;
        write!(
            f,
            "ActivationCache: {} layers, {} sequences of {} tokens",
            c.n_layers, self.tape.n_seqs, self.tape.n_pos
        )
    }
}
