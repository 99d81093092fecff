//! Running a network forward: for its logits, for its activations, with interventions. All of it is a
//! [`Pass`](super::Pass).

use std::collections::BTreeMap;

use ndarray::{Array2, Array3, ArrayView2, ArrayViewMutD, Axis};

use super::{ActivationCache, Hook, Intervention, Transformer};
use crate::Result;

/// How many parts a batch is cut into. Fixed, and the parts are summed in order, so that results do not depend on the
/// number of threads.
pub(super) const N_PARTS: usize = 8;

/// Sequences of a batch that run together, where they begin, and what their hooks keep.
pub(crate) struct Part<'a> {
    pub(crate) tokens: ArrayView2<'a, u32>,
    pub(crate) first_seq: usize,
    pub(crate) kept: BTreeMap<Hook, ArrayViewMutD<'a, f32>>,
}

/// Cuts a batch into parts; `kept` is filled part by part.
pub(crate) fn parts<'a>(tokens: &'a Array2<u32>, kept: Option<&'a mut ActivationCache>) -> Vec<Part<'a>> {
    in_parts(N_PARTS, tokens, kept)
}

/// Rows from which on the numbers of a product do not depend on how many rows there are: up to so many, `gemm` may sum
/// in another order.
const MANY_ROWS: usize = 256;

/// The same where nothing is summed over parts, so that there need be no more of them than processors: weights are
/// packed for a product once in each part. Parts stay so large that results do not depend on the number of threads.
pub(crate) fn parts_of_pass<'a>(
    tokens: &'a Array2<u32>,
    kept: Option<&'a mut ActivationCache>,
) -> Vec<Part<'a>> {
    let n_threads = rayon::current_num_threads().min(N_PARTS);
    let (n_seqs, n_pos) = tokens.dim();
    let each = n_seqs.div_ceil(n_threads);
    let last = (n_seqs - 1) % each + 1;
    in_parts(if last * n_pos > MANY_ROWS { n_threads } else { N_PARTS }, tokens, kept)
}

fn in_parts<'a>(n: usize, tokens: &'a Array2<u32>, kept: Option<&'a mut ActivationCache>) -> Vec<Part<'a>> {
    let n_seqs = tokens.nrows().div_ceil(n);
    let mut kept = kept.map(|kept| kept.parts(n_seqs)).unwrap_or_default().into_iter();
    let chunks = tokens.axis_chunks_iter(Axis(0), n_seqs).enumerate();
    chunks
        .map(|(i, tokens)| Part { tokens, first_seq: i * n_seqs, kept: kept.next().unwrap_or_default() })
        .collect()
}

impl Transformer {
    /// Computes the logits for `tokens: [batch, pos]`, `[batch, pos, d_vocab]`; position `t` predicts token `t + 1`.
    ///
    /// Fails on a token outside the vocabulary, an empty batch, or more positions than `n_ctx`.
    ///
    /// ```
    /// use onelens::{model::{Config, Transformer}, ndarray::array};
    /// let model = Transformer::new(Config { d_vocab: 5, ..Default::default() })?;
    /// let logits = model.forward(&array![[0, 1, 2], [3, 4, 0]])?;
    /// assert_eq!(logits.dim(), (2, 3, 5));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn forward(&self, tokens: &Array2<u32>) -> Result<Array3<f32>> {
        self.pass(tokens).logits()
    }

    /// Computes the logits of the network with interventions, made in the order given.
    ///
    /// Fails, besides as [`forward`](Transformer::forward) does, on a hook, position or head that there is not, or a
    /// value that does not fit. [`Intervention`] has an example.
    pub fn run_with(&self, tokens: &Array2<u32>, interventions: &[Intervention]) -> Result<Array3<f32>> {
        self.pass(tokens).with(interventions).logits()
    }

    /// Returns the logits and everything the network computed on the way, except what single heads add to the stream
    /// ([`Hook::Result`], `n_heads` times the size of the stream):
    /// [`run_with_cache_of`](Transformer::run_with_cache_of) keeps that too if asked.
    ///
    /// ```
    /// use onelens::{model::{Config, Transformer}, ndarray::array};
    /// let model = Transformer::new(Config { d_vocab: 5, ..Default::default() })?;
    /// let (logits, cache) = model.run_with_cache(&array![[0, 1, 2]])?;
    /// assert_eq!(cache.resid_post(5)?.dim(), (1, 3, 64));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn run_with_cache(&self, tokens: &Array2<u32>) -> Result<(Array3<f32>, ActivationCache)> {
        self.run_with_cache_of(tokens, &[], &|hook| !matches!(hook, Hook::Result(_)))
    }

    /// Returns the logits of the network with interventions and those activations that `keep` asks for, after
    /// interventions. Memory is what is kept and one block.
    ///
    /// ```
    /// use onelens::{model::{Config, Hook, Transformer}, ndarray::array};
    /// let model = Transformer::new(Config { d_vocab: 5, n_layers: 2, ..Default::default() })?;
    /// let tokens = array![[0, 1, 2]];
    /// let (_, patterns) = model.run_with_cache_of(&tokens, &[], &|h| matches!(h, Hook::Pattern(_)))?;
    /// assert_eq!(patterns.hooks(), [Hook::Pattern(0), Hook::Pattern(1)]);
    /// let (_, by_name) = model.run_with_cache_of(&tokens, &[], &|h| h.to_string().ends_with("hook_pattern"))?;
    /// assert_eq!(patterns, by_name);
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn run_with_cache_of(
        &self,
        tokens: &Array2<u32>,
        interventions: &[Intervention],
        keep: &dyn Fn(Hook) -> bool,
    ) -> Result<(Array3<f32>, ActivationCache)> {
        self.pass(tokens).with(interventions).logits_and_cache(keep)
    }

    /// Room for what `keep` asks for of a batch of this shape.
    pub(crate) fn empty_cache(
        &self,
        (n_seqs, n_pos): (usize, usize),
        keep: &dyn Fn(Hook) -> bool,
    ) -> ActivationCache {
        let hooks: Vec<Hook> = Hook::all(&self.config).into_iter().filter(|hook| keep(*hook)).collect();
        ActivationCache::unwritten(&self.config, &hooks, n_seqs, n_pos)
    }
}
