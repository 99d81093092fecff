//! The loss of a network and its gradients, with respect to weights and to activations.

use std::collections::BTreeMap;

use ndarray::{Array2, Array3, ArrayView2, ArrayView3, Axis, s};
use rayon::prelude::*;

use super::adamw::sum_parts;
use super::architecture::Supervision;
use super::backward::{backward, unembed_backward};
use super::forward::{Passing, Tape, final_norm, forward, logits_of, pass_layers, unembed};
use super::network::Network;
use super::run::{Part, parts};
use super::taps::Taps;
use super::{ActivationCache, Hook, Intervention, Params, Transformer};
use crate::nn::{Mask, cross_entropy, expected_cross_entropy};
use crate::num::Precision;
use crate::{Error, ErrorKind, Result};

/// The gradients of the parts of a batch; the first becomes their sum. Memory that training steps hand on.
#[derive(Default)]
pub(crate) struct Gradients(Vec<Params>);

impl Gradients {
    /// The gradient of the whole batch.
    pub(crate) fn sum(&self) -> &Params {
        &self.0[0]
    }

    /// Takes over a gradient that was added up elsewhere; its length.
    pub(crate) fn take(&mut self, sum: Params) -> f64 {
        self.0 = vec![sum];
        sum_parts(&mut self.0)
    }

    fn into_sum(mut self) -> Params {
        self.0.swap_remove(0)
    }
}

impl Transformer {
    /// Computes the mean cross-entropy of the next token, in nats, over `tokens: [batch, pos + 1]`.
    ///
    /// Only positions that do not see their next token count: all under a causal mask, the last of the prefix and those
    /// after it under a prefix, the last one without a mask.
    ///
    /// Fails where [`forward`](Transformer::forward) does, on sequences of one token, or if the loss is no number,
    /// saying which residual stream is the first that holds one which is not finite.
    pub fn loss(&self, tokens: &Array2<u32>) -> Result<f64> {
        self.loss_with(tokens, &[])
    }

    /// Computes the loss of the network with interventions.
    pub fn loss_with(&self, tokens: &Array2<u32>, interventions: &[Intervention]) -> Result<f64> {
        self.loss_in(tokens, interventions, Precision::F32)
    }

    pub(super) fn loss_in(
        &self,
        tokens: &Array2<u32>,
        interventions: &[Intervention],
        precision: Precision,
    ) -> Result<f64> {
        let batch = self.check_loss(tokens, interventions)?;
        let losses = self.losses_of(&parts(tokens, None), interventions, batch, precision);
        let loss = losses.into_iter().sum::<f64>() / self.n_counted(batch) as f64;
        if loss.is_finite() { Ok(loss) } else { Err(self.no_loss(loss, tokens, interventions)) }
    }

    /// Computes the loss of each sequence, of which [`loss`](Transformer::loss) is the mean.
    ///
    /// Fails where that does.
    ///
    /// ```
    /// use onelens::{model::{Config, Transformer}, ndarray::array};
    /// let model = Transformer::new(Config { d_vocab: 5, n_layers: 2, ..Default::default() })?;
    /// let losses = model.sequence_losses(&array![[0, 1, 2, 3], [3, 1, 4, 1]])?;
    /// assert!((losses[1] - model.loss(&array![[3, 1, 4, 1]])?).abs() < 1e-6);
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn sequence_losses(&self, tokens: &Array2<u32>) -> Result<Vec<f64>> {
        let batch = self.check_loss(tokens, &[])?;
        let sequences = tokens.axis_chunks_iter(Axis(0), 1).enumerate();
        let parts: Vec<Part> =
            sequences.map(|(first_seq, tokens)| Part { tokens, first_seq, kept: BTreeMap::new() }).collect();
        let n = self.n_counted((1, batch.1)) as f64;
        let losses: Vec<f64> =
            self.losses_of(&parts, &[], batch, Precision::F32).into_iter().map(|sum| sum / n).collect();
        match losses.iter().find(|loss| !loss.is_finite()) {
            None => Ok(losses),
            Some(&loss) => Err(self.no_loss(loss, tokens, &[])),
        }
    }

    /// The sum of the losses of each part.
    fn losses_of(
        &self,
        parts: &[Part],
        interventions: &[Intervention],
        batch: (usize, usize),
        precision: Precision,
    ) -> Vec<f64> {
        let net = Network::new(&self.config, &self.params, batch.1).with(precision);
        let mut passing: Vec<Passing> = parts
            .iter()
            .map(|part| {
                let taps = Taps::new(&self.config, interventions, part.first_seq, batch, BTreeMap::new());
                Passing::new(part.tokens.slice(s![.., ..batch.1]), taps)
            })
            .collect();
        pass_layers(&net, &mut passing, self.config.n_layers);
        passing
            .par_iter_mut()
            .zip(parts)
            .map(|(passing, part)| {
                let stream = passing.take_stream();
                stream_loss(&net, stream.view(), part.tokens, &mut passing.taps)
            })
            .collect()
    }

    /// What a loss that is no number comes from.
    fn no_loss(&self, loss: f64, tokens: &Array2<u32>, interventions: &[Intervention]) -> Error {
        let streams: Vec<Hook> = (0..=self.config.n_layers).map(Hook::of_stream).collect();
        let input = tokens.slice(s![.., ..tokens.ncols() - 1]).to_owned();
        let cache = self.pass(&input).with(interventions).cache(&|hook| streams.contains(&hook));
        let first = cache.ok().and_then(|cache| {
            streams.iter().find_map(|&hook| {
                let numbers = cache.get(hook).ok()?;
                let (at, x) = numbers.indexed_iter().find(|(_, x)| !x.is_finite())?;
                Some(format!("`{hook}` holds {x} at sequence {}, position {}", at[0], at[1]))
            })
        });
        let place = first.unwrap_or("streams are finite, logits are not".into());
        Error::new(
            ErrorKind::Numeric,
            format!("the loss is {loss}: {place}"),
            "look for weights that are not finite in what comes before it (`model.params`), or for a change that made them so",
        )
    }

    /// Computes the loss of every layer: the stream that each block leaves, read through the final norm and the
    /// unembedding. The last is [`loss`](Transformer::loss).
    ///
    /// ```
    /// use onelens::{model::{Config, Transformer}, ndarray::array};
    /// let model = Transformer::new(Config { d_vocab: 5, n_layers: 2, ..Default::default() })?;
    /// let tokens = array![[0, 1, 2, 3]];
    /// let losses = model.layer_losses(&tokens)?;
    /// assert_eq!((losses.len(), losses[1]), (2, model.loss(&tokens)?));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn layer_losses(&self, tokens: &Array2<u32>) -> Result<Vec<f64>> {
        let batch = self.check_loss(tokens, &[])?;
        let net = Network::new(&self.config, &self.params, batch.1);
        let losses: Vec<Vec<f64>> = parts(tokens, None)
            .into_par_iter()
            .map(|part| {
                let (net, mut taps) = (net.apart(), Taps::none(&self.config));
                let tape = forward(&net, part.tokens.slice(s![.., ..batch.1]), &mut taps);
                let layers = 1..=self.config.n_layers;
                layers.map(|l| stream_loss(&net, tape.resid(l).view(), part.tokens, &mut taps)).collect()
            })
            .collect();
        let n = self.n_counted(batch) as f64;
        let layer = |l: usize| losses.iter().map(|part| part[l]).sum::<f64>() / n;
        Ok((0..self.config.n_layers).map(layer).collect())
    }

    /// Computes the training loss and its gradient with respect to every parameter. The training loss is the
    /// [`loss`](Transformer::loss), or the mean of the [`layer_losses`](Transformer::layer_losses) if every layer is
    /// supervised.
    pub fn loss_and_grad(&self, tokens: &Array2<u32>) -> Result<(f64, Params)> {
        self.loss_and_grad_with(tokens, &[])
    }

    /// Does the same for the network with interventions: no gradient flows back through what was replaced. Final norm
    /// hooks act on the last layer only, where every layer is supervised.
    pub fn loss_and_grad_with(
        &self,
        tokens: &Array2<u32>,
        interventions: &[Intervention],
    ) -> Result<(f64, Params)> {
        let mut gradients = Gradients::default();
        let (loss, _) = self.loss_and_grads(tokens, None, interventions, None, &mut gradients)?;
        Ok((loss, gradients.into_sum()))
    }

    /// The training loss and the length of its gradient, which `gradients` holds; its memory is used again.
    pub(crate) fn loss_and_grad_in(
        &self,
        tokens: &Array2<u32>,
        gradients: &mut Gradients,
    ) -> Result<(f64, f64)> {
        self.loss_and_grads(tokens, None, &[], None, gradients)
    }

    /// Computes the training loss and its gradient with respect to the activations that `keep` asks for. Where an
    /// activation was replaced, the gradient is that of what stands there.
    ///
    /// ```
    /// use onelens::{model::{Config, Hook, Transformer}, ndarray::array};
    /// let model = Transformer::new(Config { d_vocab: 5, n_layers: 2, ..Default::default() })?;
    /// let (_, grads) = model.loss_and_hook_grads(&array![[0, 1, 2, 3]], &[], &|h| h == Hook::Embed)?;
    /// assert_eq!(grads.get(Hook::Embed)?.shape(), [1, 3, 64]);
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn loss_and_hook_grads(
        &self,
        tokens: &Array2<u32>,
        interventions: &[Intervention],
        keep: &dyn Fn(Hook) -> bool,
    ) -> Result<(f64, ActivationCache)> {
        let (n_seqs, n_pos) = self.check_loss(tokens, interventions)?;
        let mut grads = self.empty_cache((n_seqs, n_pos), keep);
        let unread = &mut Gradients::default();
        let (loss, _) = self.loss_and_grads(tokens, None, interventions, Some(&mut grads), unread)?;
        Ok((loss, grads))
    }

    /// Computes the training loss that is *expected* where the distribution of each next token is known, `E_{t~p} -ln
    /// q(t)`, and its gradient with respect to the activations that `keep` asks for.
    ///
    /// `tokens: [batch, pos + 1]` as for the [`loss`](Transformer::loss), of which the last ones are not looked at;
    /// `p: [batch, pos, d_vocab]`, row `t` for token `t + 1`, as
    /// [`Source::true_conditional`](crate::data::Source::true_conditional) says it.
    ///
    /// Fails where [`loss`](Transformer::loss) does, on another shape, or a row that is no distribution.
    ///
    /// ```
    /// use onelens::{model::{Config, Hook, Transformer}, ndarray::{Array3, array}};
    /// let model = Transformer::new(Config { d_vocab: 4, n_layers: 2, ..Default::default() })?;
    /// // All tokens are equally likely: at least ln 4 is to be expected.
    /// let p = Array3::from_elem((1, 3, 4), 0.25);
    /// let (loss, grads) = model.expected_loss_and_hook_grads(&array![[0, 1, 2, 3]], &p, &|h| h == Hook::Embed)?;
    /// assert!(loss >= 4_f64.ln() && grads.get(Hook::Embed)?.shape() == [1, 3, 64]);
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn expected_loss_and_hook_grads(
        &self,
        tokens: &Array2<u32>,
        p: &Array3<f32>,
        keep: &dyn Fn(Hook) -> bool,
    ) -> Result<(f64, ActivationCache)> {
        let (n_seqs, n_pos) = self.check_loss(tokens, &[])?;
        check_distributions(p, (n_seqs, n_pos, self.config.d_vocab))?;
        let mut grads = self.empty_cache((n_seqs, n_pos), keep);
        let unread = &mut Gradients::default();
        let (loss, _) = self.loss_and_grads(tokens, Some(p), &[], Some(&mut grads), unread)?;
        Ok((loss, grads))
    }

    /// Computes the gradient of `Σ dlogits ∘ logits` with respect to the activations that `keep` asks for: with a
    /// one-hot `dlogits: [batch, pos, d_vocab]` that of one logit, with a `+1` and a `-1` that of a logit difference.
    pub fn logits_hook_grads(
        &self,
        tokens: &Array2<u32>,
        interventions: &[Intervention],
        dlogits: &Array3<f32>,
        keep: &dyn Fn(Hook) -> bool,
    ) -> Result<ActivationCache> {
        self.check_tokens(tokens)?;
        let batch @ (n_seqs, n_pos) = tokens.dim();
        interventions.iter().try_for_each(|i| i.check(&self.config, n_seqs, n_pos))?;
        interventions.iter().try_for_each(Intervention::check_gradient)?;
        let shape = (n_seqs, n_pos, self.config.d_vocab);
        if dlogits.dim() != shape {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("dlogits has the shape {:?}, the logits have {shape:?}", dlogits.dim()),
                "give one number for each logit",
            ));
        }
        let mut grads = self.empty_cache(batch, keep);
        let net = Network::new(&self.config, &self.params, n_pos);
        parts(tokens, Some(&mut grads)).into_par_iter().for_each(|part| {
            let net = net.apart();
            let mut taps = Taps::new(&self.config, interventions, part.first_seq, batch, Default::default());
            let tape = forward(&net, part.tokens, &mut taps);
            let rows = part.first_seq..part.first_seq + part.tokens.nrows();
            let dlogits = dlogits.slice(s![rows, .., ..]);
            let dlogits = dlogits
                .to_shape((part.tokens.len(), self.config.d_vocab))
                .expect("one row of logits for each token");
            let mut taps = Taps::new(&self.config, interventions, part.first_seq, batch, part.kept);
            let mut grad = Params::zeros(&self.config);
            backward(&net, &tape, part.tokens, dlogits.view(), &[], &mut grad, &mut taps);
        });
        Ok(grads)
    }

    /// The training loss with both kinds of gradients, and the length of that of the weights: of the tokens that came
    /// next, or expected of the distributions `p: [batch, pos, d_vocab]`.
    fn loss_and_grads(
        &self,
        tokens: &Array2<u32>,
        p: Option<&Array3<f32>>,
        interventions: &[Intervention],
        kept: Option<&mut ActivationCache>,
        gradients: &mut Gradients,
    ) -> Result<(f64, f64)> {
        let batch = self.check_loss(tokens, interventions)?;
        interventions.iter().try_for_each(Intervention::check_gradient)?;
        let net = Network::new(&self.config, &self.params, batch.1);
        let n_supervised = match self.config.supervision {
            Supervision::Final => 1,
            Supervision::EveryLayer => self.config.n_layers,
        };
        let n = self.n_counted(batch) * n_supervised;
        let parts = parts(tokens, kept);
        gradients.0.resize_with(parts.len(), || Params::zeros(&self.config));
        let losses: Vec<f64> = parts
            .into_par_iter()
            .zip(&mut gradients.0)
            .map(|(part, grad)| {
                grad.clear();
                let net = net.apart();
                let input = part.tokens.slice(s![.., ..batch.1]);
                let mut taps =
                    Taps::new(&self.config, interventions, part.first_seq, batch, Default::default());
                let tape = forward(&net, input, &mut taps);
                let mask = self.config.mask;
                let rows = part.first_seq..part.first_seq + part.tokens.nrows();
                let p = p.map(|p| p.slice(s![rows, .., ..]));
                let loss_of = |logits: ArrayView2<f32>| match p {
                    None => next_token_loss(logits, part.tokens, mask),
                    Some(p) => expected_loss(logits, p, mask),
                };
                let (mut loss, mut dlogits) = loss_of(tape.logits.view());
                let mut dstreams = Vec::new();
                if self.config.supervision == Supervision::EveryLayer {
                    let lower;
                    (lower, dstreams) = lower_layers(&net, &tape, &loss_of, n, grad);
                    loss += lower;
                }
                dlogits.mapv_inplace(|d| d / n as f32);
                let mut taps = Taps::new(&self.config, interventions, part.first_seq, batch, part.kept);
                backward(&net, &tape, input, dlogits.view(), &dstreams, grad, &mut taps);
                loss
            })
            .collect();
        let norm = sum_parts(&mut gradients.0);
        Ok((losses.into_iter().sum::<f64>() / n as f64, norm))
    }

    /// Positions that do not see their next token.
    pub(crate) fn n_counted(&self, (n_seqs, n_pos): (usize, usize)) -> usize {
        n_seqs * counted(self.config.mask, n_pos).len()
    }

    /// Refuses tokens without a loss; returns the shape of the input.
    pub(super) fn check_loss(
        &self,
        tokens: &Array2<u32>,
        interventions: &[Intervention],
    ) -> Result<(usize, usize)> {
        let n_pos = tokens.ncols().saturating_sub(1);
        if n_pos == 0 {
            return Err(Error::new(
                ErrorKind::Data,
                format!("sequences of {} tokens have no next token to predict", tokens.ncols()),
                "pass at least two tokens per sequence",
            ));
        }
        self.check_shape((tokens.nrows(), n_pos))?;
        self.check_range(tokens)?;
        interventions.iter().try_for_each(|i| i.check(&self.config, tokens.nrows(), n_pos))?;
        Ok((tokens.nrows(), n_pos))
    }
}

/// The summed loss that logits `[sequence · pos, d_vocab]` have, and its gradient.
type LossOf<'a> = dyn Fn(ArrayView2<f32>) -> (f64, Array2<f32>) + 'a;

/// The summed loss of all layers but the last, read through the final norm and unembedding, whose gradients go to
/// `grad`; and the gradients of the streams that blocks leave. `n` is what the sum is divided by.
fn lower_layers(
    net: &Network,
    tape: &Tape,
    loss_of: &LossOf,
    n: usize,
    grad: &mut Params,
) -> (f64, Vec<Array2<f32>>) {
    let mut taps = Taps::none(net.config);
    let mut total = 0.0;
    let mut dstreams = Vec::new();
    for l in 1..net.config.n_layers {
        let read = unembed(net, tape.resid(l).view(), &mut taps);
        let (loss, mut dlogits) = loss_of(read.logits.view());
        dlogits.mapv_inplace(|d| d / n as f32);
        total += loss;
        dstreams.push(unembed_backward(net, &read.ln_final, &read.logits, dlogits.view(), grad, &mut taps));
    }
    (total, dstreams)
}

/// Positions whose next token the mask hides from them. There always is one: the last sees no token beyond.
fn counted(mask: Mask, n_pos: usize) -> Vec<usize> {
    (0..n_pos).filter(|&t| mask.n_visible(t, n_pos) == t + 1).collect()
}

/// Rows whose logits are there at a time where only their loss is wanted: of 50 000 tokens, 26 MB a thread.
const ROWS_AT_A_TIME: usize = 128;

/// Summed cross-entropy of what `stream: [sequence · pos, d_model]` says through the final norm and the unembedding
/// with the next of `tokens: [sequence, pos + 1]`.
fn stream_loss(net: &Network, stream: ArrayView2<f32>, tokens: ArrayView2<u32>, taps: &mut Taps) -> f64 {
    let n_pos = tokens.ncols() - 1;
    let counted = counted(net.config.mask, n_pos);
    let at: Vec<(usize, usize)> =
        (0..tokens.nrows()).flat_map(|seq| counted.iter().map(move |&t| (seq, t))).collect();
    let normalised = final_norm(net.config, net.params, stream, taps).out;
    let of_rows = |at: &[(usize, usize)]| {
        let rows: Vec<usize> = at.iter().map(|(seq, t)| seq * n_pos + t).collect();
        let targets: Vec<u32> = at.iter().map(|&(seq, t)| tokens[(seq, t + 1)]).collect();
        let logits =
            logits_of(net.config, net.params, normalised.select(Axis(0), &rows).view(), net.precision);
        cross_entropy(logits.view(), &targets).0
    };
    at.chunks(ROWS_AT_A_TIME).map(of_rows).sum()
}

/// Summed cross-entropy of `logits: [sequence · pos, d_vocab]` with the next of `tokens: [sequence, pos + 1]`, and its
/// gradient.
pub(super) fn next_token_loss(
    logits: ArrayView2<f32>,
    tokens: ArrayView2<u32>,
    mask: Mask,
) -> (f64, Array2<f32>) {
    counted_loss(logits, tokens.ncols() - 1, mask, |logits, at| {
        let targets: Vec<u32> = at.iter().map(|&(seq, t)| tokens[(seq, t + 1)]).collect();
        cross_entropy(logits, &targets)
    })
}

/// The same with distributions of the next token, `p: [sequence, pos, d_vocab]`.
fn expected_loss(logits: ArrayView2<f32>, p: ArrayView3<f32>, mask: Mask) -> (f64, Array2<f32>) {
    counted_loss(logits, p.len_of(Axis(1)), mask, |logits, at| {
        let mut wanted = Array2::zeros(logits.dim());
        for (mut row, &(seq, t)) in wanted.rows_mut().into_iter().zip(at) {
            row.assign(&p.slice(s![seq, t, ..]));
        }
        expected_cross_entropy(logits, wanted.view())
    })
}

/// What `loss` says of the logits that count, given their sequences and positions; its gradient is 0 at the others.
fn counted_loss(
    logits: ArrayView2<f32>,
    n_pos: usize,
    mask: Mask,
    loss: impl Fn(ArrayView2<f32>, &[(usize, usize)]) -> (f64, Array2<f32>),
) -> (f64, Array2<f32>) {
    let counted = counted(mask, n_pos);
    let n_seqs = logits.nrows() / n_pos;
    let at: Vec<(usize, usize)> =
        (0..n_seqs).flat_map(|seq| counted.iter().map(move |&t| (seq, t))).collect();
    if counted.len() == n_pos {
        return loss(logits, &at);
    }
    let rows: Vec<usize> = at.iter().map(|(seq, t)| seq * n_pos + t).collect();
    let (loss, dcounted) = loss(logits.select(Axis(0), &rows).view(), &at);
    let mut dlogits = Array2::zeros(logits.dim());
    for (row, d) in rows.into_iter().zip(dcounted.rows()) {
        dlogits.row_mut(row).assign(&d);
    }
    (loss, dlogits)
}

/// Refuses what is not one distribution for each position.
fn check_distributions(p: &Array3<f32>, shape: (usize, usize, usize)) -> Result<()> {
    if p.dim() != shape {
        return Err(Error::new(
            ErrorKind::Shape,
            format!("the distributions have the shape {:?}, the logits have {shape:?}", p.dim()),
            "give one probability for each logit, for all positions but the last of each sequence",
        ));
    }
    for (seq, rows) in p.outer_iter().enumerate() {
        for (t, row) in rows.outer_iter().enumerate() {
            let total: f64 = row.iter().map(|&p| f64::from(p)).sum();
            if row.iter().any(|p| p.is_nan() || *p < 0.0) || (total - 1.0).abs() > 1e-3 {
                return Err(Error::new(
                    ErrorKind::Data,
                    format!(
                        "what follows position {t} of sequence {seq} is no distribution: it sums to {total:.4}"
                    ),
                    "give probabilities of 0 or more that sum to 1",
                ));
            }
        }
    }
    Ok(())
}
