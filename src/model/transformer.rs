//! A transformer: its shape and its weights, and what can be asked of them.

use ndarray::{Array2, Array3, ArrayView2, Axis, s};
use rayon::prelude::*;

use super::backward::backward;
use super::forward::{Tape, forward};
use super::{ActivationCache, Config, Params};
use crate::nn::{cross_entropy, gain_bias, layer_norm, linear};
use crate::num::log_softmax_rows;
use crate::{Error, ErrorKind, Result};

/// A decoder-only transformer. The default [`Config`] is GPT-2's architecture (Radford et al. 2019): pre-norm blocks,
/// learned positions, GELU; with a free unembedding.
#[derive(Clone, PartialEq)]
pub struct Transformer {
    /// The shape.
    pub config: Config,
    /// The weights.
    pub params: Params,
}

/// How many parts a batch is cut into. Fixed, and the parts are summed in order, so that results do not depend on the
/// number of threads.
const N_PARTS: usize = 8;

impl Transformer {
    /// A network with the initial weights of `config.seed`.
    ///
    /// ```
    /// use onelens::{model::{Config, Transformer}, ndarray::array};
    /// let model = Transformer::new(Config { d_vocab: 5, ..Default::default() })?;
    /// let logits = model.forward(&array![[0, 1, 2], [3, 4, 0]])?;
    /// assert_eq!(logits.dim(), (2, 3, 5));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn new(config: Config) -> Result<Self> {
        config.check()?;
        if config.describe() != Config::default().describe() {
            return Err(Error::new(
                ErrorKind::Config,
                format!("this architecture has its weights but no forward pass yet: {}", config.describe()),
                "use the default architecture",
            ));
        }
        Ok(Transformer { params: Params::init(&config), config })
    }

    /// Logits for `tokens: [batch, pos]`: `[batch, pos, d_vocab]`; position `t` predicts token `t + 1`.
    ///
    /// Fails on a token outside the vocabulary, an empty batch, or more positions than `n_ctx`.
    pub fn forward(&self, tokens: &Array2<u32>) -> Result<Array3<f32>> {
        self.check_tokens(tokens)?;
        let parts: Vec<Array2<f32>> = self
            .parts(tokens)
            .into_par_iter()
            .map(|part| forward(&self.config, &self.params, part).logits)
            .collect();
        let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
        let rows = ndarray::concatenate(Axis(0), &views).expect("parts have the same width");
        Ok(rows
            .into_shape_with_order((tokens.nrows(), tokens.ncols(), self.config.d_vocab))
            .expect("one row per token"))
    }

    /// The logits, and everything the network computed on the way.
    ///
    /// ```
    /// use onelens::{model::{Config, Transformer}, ndarray::array};
    /// let model = Transformer::new(Config { d_vocab: 5, ..Default::default() })?;
    /// let (logits, cache) = model.run_with_cache(&array![[0, 1, 2]])?;
    /// assert_eq!(cache.resid_post(5)?.dim(), (1, 3, 64));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn run_with_cache(&self, tokens: &Array2<u32>) -> Result<(Array3<f32>, ActivationCache)> {
        self.check_tokens(tokens)?;
        let tape = self.tape(tokens.view());
        let logits = tape.logits.clone();
        let shape = (tokens.nrows(), tokens.ncols(), self.config.d_vocab);
        let logits = logits.into_shape_with_order(shape).expect("one row per token");
        Ok((logits, ActivationCache::new(&self.config, tape)))
    }

    /// Mean cross-entropy of the next token, in nats, over `tokens: [batch, pos + 1]`.
    pub fn loss(&self, tokens: &Array2<u32>) -> Result<f64> {
        Ok(self.loss_parts(tokens, |_, _, _, _| ())?.0)
    }

    /// The loss, and its gradient with respect to every parameter.
    pub fn loss_and_grad(&self, tokens: &Array2<u32>) -> Result<(f64, Params)> {
        let (loss, grads) = self.loss_parts(tokens, |part, tape, mut dlogits, n| {
            dlogits.mapv_inplace(|d| d / n as f32);
            backward(&self.config, &self.params, tape, part, dlogits.view())
        })?;
        let mut grads = grads.into_iter();
        let mut grad = grads.next().expect("a checked batch has a part");
        grads.for_each(|g| grad.add(&g));
        Ok((loss, grad))
    }

    /// Loss over all parts, and what `each` makes of every part's input, tape and summed-loss gradient.
    fn loss_parts<T: Send>(
        &self,
        tokens: &Array2<u32>,
        each: impl Fn(ArrayView2<u32>, &Tape, Array2<f32>, usize) -> T + Sync,
    ) -> Result<(f64, Vec<T>)> {
        let n_pos = tokens.ncols().saturating_sub(1);
        if n_pos == 0 {
            return Err(Error::new(
                ErrorKind::Data,
                format!("sequences of {} tokens have no next token to predict", tokens.ncols()),
                "pass at least two tokens per sequence",
            ));
        }
        self.check_tokens(&tokens.slice(s![.., ..n_pos]).to_owned())?;
        self.check_range(tokens)?;
        let n = tokens.nrows() * n_pos;
        let parts: Vec<(f64, T)> = self
            .parts(tokens)
            .into_par_iter()
            .map(|part| {
                let input = part.slice(s![.., ..n_pos]);
                let targets: Vec<u32> = part.slice(s![.., 1..]).iter().copied().collect();
                let tape = forward(&self.config, &self.params, input);
                let (loss, dlogits) = cross_entropy(tape.logits.view(), &targets);
                (loss, each(input, &tape, dlogits, n))
            })
            .collect();
        let mut total = 0.0;
        let mut out = Vec::with_capacity(parts.len());
        for (loss, part) in parts {
            total += loss;
            out.push(part);
        }
        Ok((total / n as f64, out))
    }

    /// Decodes residual vectors `h: [rows, d_model]` through the final norm and the unembedding: log-probabilities
    /// `[rows, d_vocab]`. The last residual stream gives the model's own prediction, any other one the logit lens.
    pub fn unembed(&self, h: ArrayView2<f32>) -> Array2<f32> {
        let (norm, _) = layer_norm(h, self.config.eps);
        let x = gain_bias(norm.view(), self.params.ln_final_w.view(), self.params.ln_final_b.view());
        log_softmax_rows(linear(x.view(), self.params.unembedding(), self.params.b_u.view()).view())
    }

    /// A number that two models share only if shape and weights are the same, bit for bit (FNV-1a).
    ///
    /// Moments and lenses carry it, so that a lens is never read with another model by mistake.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut eat = |word: u64| hash = (hash ^ word).wrapping_mul(0x0100_0000_01b3);
        let c = &self.config;
        for size in [c.d_vocab, c.n_ctx, c.d_model, c.n_layers, c.n_heads, c.d_head, c.d_mlp] {
            eat(size as u64);
        }
        eat(c.eps.to_bits());
        // What the sizes of the weights do not tell; the default says nothing.
        let usual = Config::default().describe();
        let words = c.describe();
        if words != usual {
            words.bytes().for_each(|byte| eat(u64::from(byte)));
        }
        for slice in self.params.slices() {
            slice.iter().for_each(|x| eat(u64::from(x.to_bits())));
        }
        hash
    }

    /// The forward pass over tokens that were checked.
    pub(crate) fn tape(&self, tokens: ArrayView2<u32>) -> Tape {
        forward(&self.config, &self.params, tokens)
    }

    fn parts<'a>(&self, tokens: &'a Array2<u32>) -> Vec<ArrayView2<'a, u32>> {
        tokens.axis_chunks_iter(Axis(0), tokens.nrows().div_ceil(N_PARTS)).collect()
    }

    /// Refuses what cannot be run, naming the number that does not fit.
    pub(crate) fn check_tokens(&self, tokens: &Array2<u32>) -> Result<()> {
        let (n_seqs, n_pos) = tokens.dim();
        if n_seqs == 0 || n_pos == 0 {
            return Err(Error::new(
                ErrorKind::Data,
                format!("a batch of {n_seqs} sequences with {n_pos} tokens each is empty"),
                "pass at least one sequence of at least one token",
            ));
        }
        if n_pos > self.config.n_ctx {
            return Err(Error::new(
                ErrorKind::Shape,
                format!(
                    "sequences of {n_pos} tokens do not fit the model's context of {}",
                    self.config.n_ctx
                ),
                format!(
                    "pass at most {} tokens, or build the model with a larger `n_ctx`",
                    self.config.n_ctx
                ),
            ));
        }
        self.check_range(tokens)
    }

    fn check_range(&self, tokens: &Array2<u32>) -> Result<()> {
        match tokens.indexed_iter().find(|(_, t)| **t as usize >= self.config.d_vocab) {
            None => Ok(()),
            Some(((sequence, pos), token)) => Err(Error::new(
                ErrorKind::Data,
                format!(
                    "token {token} (sequence {sequence}, position {pos}) is outside the vocabulary of {}",
                    self.config.d_vocab
                ),
                format!(
                    "tokens are 0 to {}; was the text encoded with another vocabulary?",
                    self.config.d_vocab - 1
                ),
            )),
        }
    }
}

impl std::fmt::Debug for Transformer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let c = &self.config;
        write!(
            f,
            "Transformer: {} blocks, d_model {}, {} heads of {}, d_mlp {}, {} tokens, context {}, {} parameters",
            c.n_layers,
            c.d_model,
            c.n_heads,
            c.d_head,
            c.d_mlp,
            c.d_vocab,
            c.n_ctx,
            self.params.count()
        )
    }
}
