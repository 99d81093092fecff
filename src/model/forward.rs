//! The forward pass over a stack of sequences, keeping what the backward pass and the lenses need.

use std::ops::Range;

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;

use super::architecture::{Mlp, Positions, Residual};
use super::attention_layer::{AttentionTape, attend};
use super::mlp_layer::{MlpTape, mlp};
use super::network::{Network, Past};
use super::norm_layer::{NormHooks, NormTape, norm};
use super::run::N_PARTS;
use super::taps::Taps;
use super::{Config, Hook, Params};
use crate::memory;
use crate::nn::{Norm, add_to, linear, linear_in, soft_cap};
use crate::num::Precision;

/// What one block did. Rows are `sequence · pos`.
#[derive(Clone)]
pub(crate) struct BlockTape {
    /// What attention read, and the norm it came through, if that is one of what is read.
    pub(crate) ln1: NormTape,
    pub(crate) attention: AttentionTape,
    /// The norm of what attention gave, or of its sum with the stream, if there is one.
    pub(crate) after: Option<NormTape>,
    pub(crate) mlp: Option<MlpBranch>,
    pub(crate) resid_post: Array2<f32>,
}

/// What the MLP of a block did, with the same norms as attention.
#[derive(Clone)]
pub(crate) struct MlpBranch {
    /// `None` where the MLP reads what attention reads.
    pub(crate) ln2: Option<NormTape>,
    pub(crate) mlp: MlpTape,
    pub(crate) after: Option<NormTape>,
}

/// What the final norm and the unembedding did.
#[derive(Clone)]
pub(crate) struct UnembedTape {
    pub(crate) ln_final: NormTape,
    pub(crate) logits: Array2<f32>,
}

/// What the whole network did.
#[derive(Clone)]
pub(crate) struct Tape {
    pub(crate) embed: Array2<f32>,
    pub(crate) blocks: Vec<BlockTape>,
    pub(crate) ln_final: NormTape,
    pub(crate) logits: Array2<f32>,
}

impl Tape {
    /// The residual stream `h_l`: `h_0` is the embedding, `h_l` what block `l - 1` left.
    pub(crate) fn resid(&self, l: usize) -> &Array2<f32> {
        if l == 0 { &self.embed } else { &self.blocks[l - 1].resid_post }
    }
}

/// Runs `tokens: [sequence, pos]`, which the caller has checked.
pub(crate) fn forward(net: &Network, tokens: ArrayView2<u32>, taps: &mut Taps) -> Tape {
    let embed = embed_tokens(net, tokens, taps);
    let mut blocks: Vec<BlockTape> = Vec::with_capacity(net.config.n_layers);
    for l in 0..net.config.n_layers {
        let stream = blocks.last().map_or(&embed, |b| &b.resid_post);
        blocks.push(block(net, l, stream, &embed, taps));
    }
    let last = blocks.last().map_or(&embed, |b| &b.resid_post);
    let UnembedTape { ln_final, logits } = unembed(net, last.view(), taps);
    Tape { embed, blocks, ln_final, logits }
}

/// The logits after the last of the next `tokens` of one sequence, `[d_vocab]`, and the keys and values with theirs.
pub(crate) fn next_logits(net: Network, tokens: &[u32]) -> (Array1<f32>, Past) {
    let (c, p) = (net.config, net.params);
    let mut taps = Taps::none(c).without_tape();
    let tokens = ArrayView2::from_shape((1, tokens.len()), tokens).expect("one row");
    let embed = embed_tokens(&net, tokens, &mut taps);
    let mut stream = None;
    for l in 0..c.n_layers {
        stream = Some(block(&net, l, stream.as_ref().unwrap_or(&embed), &embed, &mut taps).resid_post);
    }
    let stream = stream.unwrap_or(embed);
    let last = stream.slice(s![-1.., ..]);
    let normed = final_norm(c, p, last, &mut taps).out;
    let mut logits = p.logits_of_few(normed.view()).remove_axis(Axis(0));
    scale_and_cap(c, logits.as_slice_mut().expect("one row"));
    (logits, net.into_past())
}

/// A part of a batch on its way through the layers: its tokens, its hooks, the embedding and the stream so far.
pub(crate) struct Passing<'a> {
    tokens: ArrayView2<'a, u32>,
    pub(crate) taps: Taps<'a>,
    embed: Array2<f32>,
    stream: Option<Array2<f32>>,
}

impl<'a> Passing<'a> {
    pub(crate) fn new(tokens: ArrayView2<'a, u32>, taps: Taps<'a>) -> Self {
        Passing { tokens, taps: taps.without_tape(), embed: Array2::zeros((0, 0)), stream: None }
    }

    /// The stream after the layers that were passed.
    pub(crate) fn take_stream(&mut self) -> Array2<f32> {
        self.stream.take().unwrap_or_else(|| std::mem::take(&mut self.embed))
    }
}

/// Takes all parts through the first `n_layers` layers; of what happens, only the stream is kept.
pub(crate) fn pass_layers(net: &Network, parts: &mut [Passing], n_layers: usize) {
    parts.par_iter_mut().for_each(|part| part.embed = embed_tokens(net, part.tokens, &mut part.taps));
    for_layers(net, parts, n_layers, |part, l| {
        let stream = part.stream.take();
        let before = stream.as_ref().unwrap_or(&part.embed);
        let after = block(net, l, before, &part.embed, &mut part.taps).resid_post;
        part.stream = Some(after);
    });
}

/// The residual streams `h_0 ..= h_L` of each part of a batch, and nothing else.
pub(crate) fn streams_of(net: &Network, parts: &[ArrayView2<u32>]) -> Vec<Vec<Array2<f32>>> {
    let taps = || Taps::none(net.config).without_tape();
    let mut all: Vec<_> =
        parts.par_iter().map(|tokens| vec![embed_tokens(net, *tokens, &mut taps())]).collect();
    for_layers(net, &mut all, net.config.n_layers, |streams, l| {
        let next = block(net, l, &streams[l], &streams[0], &mut taps()).resid_post;
        streams.push(next);
    });
    all
}

/// Takes every part of a batch through the first `n_layers` layers. Where there are more parts than processors, or
/// weights have to be expanded, all pass a layer before the next begins, so that its weights are read from memory and
/// expanded once; elsewhere nobody waits.
fn for_layers<P: Send>(net: &Network, parts: &mut [P], n_layers: usize, pass: impl Fn(&mut P, usize) + Sync) {
    memory::keep_freed();
    if parts.len() <= rayon::current_num_threads() && (0..n_layers).all(|l| !net.expands(l)) {
        return parts.par_iter_mut().for_each(|part| (0..n_layers).for_each(|l| pass(part, l)));
    }
    for l in 0..n_layers {
        // Before the threads come, who would wait for each other here.
        drop(net.block(l));
        parts.par_iter_mut().for_each(|part| pass(part, l));
    }
}

/// Tokens of the vocabulary whose unembedding is expanded at a time: little enough to stay in a cache for all parts.
const VOCAB_AT_A_TIME: usize = 512;

/// What the final norm makes of the last stream of each part, `[sequence · pos, d_model]`.
pub(crate) fn normalise_last(net: &Network, parts: &mut [Passing]) -> Vec<Array2<f32>> {
    parts
        .par_iter_mut()
        .map(|part| {
            let last = part.take_stream();
            final_norm(net.config, net.params, last.view(), &mut part.taps).out
        })
        .collect()
}

/// The logits of what the final norm gave, `x: [rows, d_model]`, into `logits: [rows, d_vocab]`. Every processor reads
/// out tokens of its own, whose weights are expanded there; where that would leave some without work, rows of its own.
pub(crate) fn unembed_into(net: &Network, x: ArrayView2<f32>, mut logits: ArrayViewMut2<f32>) {
    let (p, d_vocab) = (net.params, net.config.d_vocab);
    let is_large = d_vocab > N_PARTS * VOCAB_AT_A_TIME;
    let rows_at_a_time = if is_large { x.nrows() } else { x.nrows().div_ceil(N_PARTS) };
    let pieces: Vec<_> = logits.axis_chunks_iter_mut(Axis(1), VOCAB_AT_A_TIME).enumerate().collect();
    pieces.into_par_iter().for_each(|(i, mut logits)| {
        let tokens = i * VOCAB_AT_A_TIME..d_vocab.min((i + 1) * VOCAB_AT_A_TIME);
        let expanded = p.unembedding_is_packed().then(|| p.unembedding_of(tokens.clone()));
        let w = expanded.as_ref().map(|w| w.view());
        let w = w.unwrap_or_else(|| p.unembedding().slice_move(s![.., tokens.clone()]));
        let rows = logits.axis_chunks_iter_mut(Axis(0), rows_at_a_time);
        let rows: Vec<_> = rows.zip(x.axis_chunks_iter(Axis(0), rows_at_a_time)).collect();
        rows.into_par_iter().for_each(|(mut logits, x)| {
            net.precision.matmul_into(logits.view_mut(), x, w);
            let bias = p.b_u.as_slice().expect("a vector lies in one piece").get(tokens.clone());
            for mut row in logits.rows_mut() {
                let row = row.as_slice_mut().expect("a row lies in one piece");
                for (x, bias) in row.iter_mut().zip(bias.unwrap_or_default()) {
                    *x += bias;
                }
                scale_and_cap(net.config, row);
            }
        });
    });
}

/// The first residual stream, `[sequence · pos, d_model]`.
pub(super) fn embed_tokens(net: &Network, tokens: ArrayView2<u32>, taps: &mut Taps) -> Array2<f32> {
    let flat: Vec<u32> = tokens.iter().copied().collect();
    let mut h = net.params.w_e.gather(&flat);
    if net.config.embed_scale != 1.0 {
        h *= net.config.embed_scale as f32;
    }
    let normed = embed_norm(net, h.view(), taps);
    if let Some(normed) = normed {
        h = normed.out;
    }
    taps.forward(Hook::Embed, &mut h);
    if net.config.positions == Positions::Learned {
        let positions = net.params.w_pos.view();
        let positions = positions.slice(s![net.first..net.first + net.n_pos, ..]);
        if taps.wants(Hook::PosEmbed) {
            let mut all = Array2::zeros(h.dim());
            for mut sequence in all.axis_chunks_iter_mut(Axis(0), net.n_pos) {
                sequence.assign(&positions);
            }
            taps.forward(Hook::PosEmbed, &mut all);
            h += &all;
        } else {
            for mut sequence in h.axis_chunks_iter_mut(Axis(0), net.n_pos) {
                sequence += &positions;
            }
        }
    }
    h
}

/// The norm of the embedding, if there is one.
pub(crate) fn embed_norm(net: &Network, embedding: ArrayView2<f32>, taps: &mut Taps) -> Option<NormTape> {
    let (c, p) = (net.config, net.params);
    let (gain, bias) = (p.ln_embed_w.view(), p.ln_embed_b.view());
    c.embed_norm.then(|| norm((c.norm, c.eps), embedding, gain, bias, None, taps))
}

/// Sequential: `mid = pre + attention(norm(pre))`, `post = mid + mlp(norm(mid))`. Parallel: `post = pre +
/// attention(norm(pre)) + mlp(norm(pre))`. Without skips: `post = mlp(norm(attention(norm(pre))))`. Where what is given
/// is normalised, `norm(attention(..))` is added; where the sum is, `mid = norm(pre + attention(pre))`.
pub(super) fn block(
    net: &Network,
    l: usize,
    stream: &Array2<f32>,
    embedded: &Array2<f32>,
    taps: &mut Taps,
) -> BlockTape {
    let (c, p) = (net.config, net.block(l));
    let changed = (net.injects(l) || taps.changes(Hook::ResidPre(l))).then(|| {
        let mut pre = stream.clone();
        if net.injects(l) {
            pre += embedded;
        }
        taps.forward(Hook::ResidPre(l), &mut pre);
        pre
    });
    if changed.is_none() {
        taps.keep(Hook::ResidPre(l), stream);
    }
    let pre = changed.as_ref().unwrap_or(stream);
    let (before, after) = (c.norm_before(), (c.norm, c.eps));
    let ln1 = norm(before, pre.view(), p.ln1_w.view(), p.ln1_b.view(), ln1_hooks(l), taps);
    let (attention, mut out) = attend(net, l, ln1.out.view(), taps);
    let mut normed = None;
    if c.norm_at.output() {
        let (gain, bias) = (p.ln1_post_w.view(), p.ln1_post_b.view());
        normed = Some(norm_in(after, &mut out, gain, bias, ln1_post_hooks(l), taps));
    }
    if c.resid_scale != 1.0 {
        out *= c.resid_scale as f32;
    }
    taps.forward(Hook::AttnOut(l), &mut out);
    if c.residual != Residual::None {
        add_to(&mut out, pre);
    }
    if c.norm_at.sum() {
        normed = Some(norm_in(after, &mut out, p.ln1_w.view(), p.ln1_b.view(), ln1_hooks(l), taps));
    }
    if !c.residual.is_parallel() {
        taps.forward(Hook::ResidMid(l), &mut out);
    }
    let mut mlp_branch = None;
    if c.mlp != Mlp::None {
        let (gain, bias) = (p.ln2_w.view(), p.ln2_b.view());
        let ln2 = match c.residual {
            Residual::ParallelOneNorm => None,
            Residual::Parallel => Some(norm(before, pre.view(), gain, bias, ln2_hooks(l), taps)),
            Residual::Sequential | Residual::None => {
                Some(norm(before, out.view(), gain, bias, ln2_hooks(l), taps))
            }
        };
        let (mlp, mut mlp_out) = mlp(net, l, ln2.as_ref().unwrap_or(&ln1).out.view(), taps);
        let mut normed = None;
        if c.norm_at.output() {
            let (gain, bias) = (p.ln2_post_w.view(), p.ln2_post_b.view());
            normed = Some(norm_in(after, &mut mlp_out, gain, bias, ln2_post_hooks(l), taps));
        }
        if c.resid_scale != 1.0 {
            mlp_out *= c.resid_scale as f32;
        }
        taps.forward(Hook::MlpOut(l), &mut mlp_out);
        if c.residual != Residual::None {
            add_to(&mut mlp_out, &out);
        }
        if c.norm_at.sum() {
            normed = Some(norm_in(after, &mut mlp_out, gain, bias, ln2_hooks(l), taps));
        }
        out = mlp_out;
        mlp_branch = Some(MlpBranch { ln2, mlp, after: normed });
    }
    taps.forward(Hook::ResidPost(l), &mut out);
    BlockTape { ln1, attention, after: normed, mlp: mlp_branch, resid_post: out }
}

/// Normalises `x` in its place; of the tape, what came out is not kept twice.
fn norm_in(
    kind: (Norm, f64),
    x: &mut Array2<f32>,
    gain: ArrayView1<f32>,
    bias: ArrayView1<f32>,
    hooks: Option<NormHooks>,
    taps: &mut Taps,
) -> NormTape {
    let mut tape = norm(kind, x.view(), gain, bias, hooks, taps);
    *x = std::mem::take(&mut tape.out);
    tape
}

/// The final norm and the unembedding of `h: [rows, d_model]`.
pub(crate) fn unembed(net: &Network, h: ArrayView2<f32>, taps: &mut Taps) -> UnembedTape {
    let ln_final = final_norm(net.config, net.params, h, taps);
    let logits = logits_of(net.config, net.params, ln_final.out.view(), net.precision);
    UnembedTape { ln_final, logits }
}

/// `h: [rows, d_model]` after the final norm.
pub(crate) fn final_norm(c: &Config, p: &Params, h: ArrayView2<f32>, taps: &mut Taps) -> NormTape {
    let (gain, bias) = (p.ln_final_w.view(), p.ln_final_b.view());
    norm((c.final_norm(), c.eps), h, gain, bias, LN_FINAL_HOOKS, taps)
}

/// Logits `[rows, d_vocab]` of what the final norm gave.
pub(crate) fn logits_of(c: &Config, p: &Params, y: ArrayView2<f32>, precision: Precision) -> Array2<f32> {
    let mut logits = linear_in(y, p.unembedding(), p.b_u.view(), precision);
    scale_and_cap(c, logits.as_slice_mut().expect("a product lies row by row"));
    logits
}

/// The same for some tokens, `[rows, tokens]`.
pub(crate) fn logits_of_part(
    c: &Config,
    p: &Params,
    y: ArrayView2<f32>,
    tokens: Range<usize>,
) -> Array2<f32> {
    let unembedding = p.unembedding();
    let bias = if p.b_u.is_empty() { p.b_u.view() } else { p.b_u.slice(s![tokens.clone()]) };
    let mut logits = linear(y, unembedding.slice(s![.., tokens]), bias);
    scale_and_cap(c, logits.as_slice_mut().expect("a product lies row by row"));
    logits
}

/// Whether anything is done to logits after the unembedding.
pub(crate) fn scales_or_caps(c: &Config) -> bool {
    c.logit_scale != 1.0 || c.logit_cap.is_some()
}

/// What the configuration does to logits after the unembedding, in place.
fn scale_and_cap(c: &Config, logits: &mut [f32]) {
    if c.logit_scale != 1.0 {
        logits.iter_mut().for_each(|x| *x *= c.logit_scale as f32);
    }
    if let Some(cap) = c.logit_cap {
        logits.iter_mut().for_each(|x| *x = soft_cap(*x, cap as f32));
    }
}

/// From the gradient of the `logits` to that of what the unembedding gave, in place.
pub(crate) fn scale_and_cap_backward(c: &Config, dlogits: &mut Array2<f32>, logits: &Array2<f32>) {
    if let Some(cap) = c.logit_cap {
        dlogits.zip_mut_with(logits, |d, &y| *d *= 1.0 - (y / cap as f32).powi(2));
    }
    if c.logit_scale != 1.0 {
        *dlogits *= c.logit_scale as f32;
    }
}

pub(crate) fn ln1_hooks(l: usize) -> Option<NormHooks> {
    Some(NormHooks { scale: Hook::Ln1Scale(l), normalized: Hook::Ln1Normalized(l) })
}

pub(crate) fn ln1_post_hooks(l: usize) -> Option<NormHooks> {
    Some(NormHooks { scale: Hook::Ln1PostScale(l), normalized: Hook::Ln1PostNormalized(l) })
}

pub(crate) fn ln2_hooks(l: usize) -> Option<NormHooks> {
    Some(NormHooks { scale: Hook::Ln2Scale(l), normalized: Hook::Ln2Normalized(l) })
}

pub(crate) fn ln2_post_hooks(l: usize) -> Option<NormHooks> {
    Some(NormHooks { scale: Hook::Ln2PostScale(l), normalized: Hook::Ln2PostNormalized(l) })
}

pub(super) const LN_FINAL_HOOKS: Option<NormHooks> =
    Some(NormHooks { scale: Hook::LnFinalScale, normalized: Hook::LnFinalNormalized });
