//! What a head reads and writes, as matrices between residual streams.

use std::ops::Range;

use ndarray::{Array2, s};

use super::Transformer;
use super::hook::no_layer;
use super::network::{BlockRef, Network};
use crate::num::matmul;
use crate::{Error, ErrorKind, Result};

impl Transformer {
    /// Computes `W_Q W_Kᵀ` of a head, `[d_model, d_model]`, of rank `d_head` or less: what the head compares. With rows
    /// `x` and `y` of what attention reads, `x QK yᵀ` is the score before scaling of the query at `x` and the key at
    /// `y`; biases, norms of queries and keys, and the turning of rotary positions come on top. (Elhage et al. 2021, "A
    /// mathematical framework for transformer circuits".)
    ///
    /// Fails if there is no such layer or head.
    pub fn qk_matrix(&self, layer: usize, head: usize) -> Result<Array2<f32>> {
        let (block, at, kv_at) = self.head(layer, head)?;
        let (w_q, w_k) = (block.w_q.view(), block.w_k.view());
        Ok(matmul(w_q.slice(s![.., at]), w_k.slice(s![.., kv_at]).t()))
    }

    /// Computes `W_V W_O` of a head, `[d_model, d_model]`, of rank `d_head` or less: what the head writes, `y OV`, for
    /// a row `y` of what it reads where it attends to nothing else; biases come on top. (Elhage et al. 2021.)
    ///
    /// Fails if there is no such layer or head.
    ///
    /// ```
    /// use onelens::{model::{Config, Hook, Norm, Transformer}, ndarray::{array, s}};
    /// let model = Transformer::new(Config { d_vocab: 5, n_layers: 1, norm: Norm::None, ..Config::default() })?;
    /// let (_, cache) = model.run_with_cache_of(&array![[2]], &[], &|_| true)?;
    /// // The first position can attend to nothing but itself.
    /// let written = cache.stream(0)?.dot(&model.ov_matrix(0, 3)?);
    /// let result = cache.get(Hook::Result(0))?;
    /// assert!(written.iter().zip(result.slice(s![0, 0, 3, ..])).all(|(a, b)| (a - b).abs() < 1e-5));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn ov_matrix(&self, layer: usize, head: usize) -> Result<Array2<f32>> {
        let (block, at, kv_at) = self.head(layer, head)?;
        let (w_v, w_o) = (block.w_v.view(), block.w_o.view());
        Ok(matmul(w_v.slice(s![.., kv_at]), w_o.slice(s![at, ..])))
    }

    /// The weights of a layer, and where among them a head's queries lie, and the keys and values that it reads.
    fn head(&self, layer: usize, head: usize) -> Result<(BlockRef<'_>, Range<usize>, Range<usize>)> {
        let c = &self.config;
        self.check_fit()?;
        if layer >= c.n_layers {
            return Err(no_layer(layer, c.n_layers));
        }
        if head >= c.n_heads {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("there is no head {head} in layer {layer}, which has {}", c.n_heads),
                format!("heads are 0 to {}", c.n_heads - 1),
            ));
        }
        let of = |head: usize| head * c.d_head..(head + 1) * c.d_head;
        let block = Network::new(c, &self.params, 1).block(layer);
        Ok((block, of(head), of(head / (c.n_heads / c.n_kv_heads()))))
    }
}
