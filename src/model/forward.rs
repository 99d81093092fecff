//! The forward pass over a stack of sequences, keeping what the backward pass and the lenses need.

use ndarray::{Array2, ArrayView2, Axis, s};

use super::Hook;
use super::architecture::{Mlp, Positions, Residual};
use super::attention_layer::{AttentionTape, attend};
use super::mlp_layer::{MlpTape, mlp};
use super::network::Network;
use super::norm_layer::{NormHooks, NormTape, norm};
use super::taps::Taps;
use crate::nn::{embed, linear};

/// What one block did. Rows are `sequence · pos`.
#[derive(Clone)]
pub(crate) struct BlockTape {
    pub(crate) ln1: NormTape,
    pub(crate) attention: AttentionTape,
    /// The norm before the MLP, and the MLP, if there is one.
    pub(crate) mlp: Option<(NormTape, MlpTape)>,
    pub(crate) resid_post: Array2<f32>,
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

    /// All of them, `h_0 ..= h_L`.
    pub(crate) fn into_streams(self) -> Vec<Array2<f32>> {
        std::iter::once(self.embed).chain(self.blocks.into_iter().map(|b| b.resid_post)).collect()
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

/// The same for the logits alone: of the tape, only one block is held at a time.
pub(crate) fn forward_logits(net: &Network, tokens: ArrayView2<u32>, taps: &mut Taps) -> Array2<f32> {
    let embed = embed_tokens(net, tokens, taps);
    let mut stream = None;
    for l in 0..net.config.n_layers {
        stream = Some(block(net, l, stream.as_ref().unwrap_or(&embed), &embed, taps).resid_post);
    }
    unembed(net, stream.unwrap_or(embed).view(), taps).logits
}

/// The first residual stream, `[sequence · pos, d_model]`.
fn embed_tokens(net: &Network, tokens: ArrayView2<u32>, taps: &mut Taps) -> Array2<f32> {
    let flat: Vec<u32> = tokens.iter().copied().collect();
    let mut h = embed(&flat, net.params.w_e.view());
    taps.forward(Hook::Embed, &mut h);
    if net.config.positions == Positions::Learned {
        let positions = net.params.w_pos.slice(s![..net.n_pos, ..]);
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

/// Sequential: `mid = pre + attention(norm(pre))`, `post = mid + mlp(norm(mid))`. Parallel: `post = pre +
/// attention(norm(pre)) + mlp(norm(pre))`. Without skips: `post = mlp(norm(attention(norm(pre))))`.
fn block(
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
    let ln1 = norm(c, pre.view(), p.ln1_w.view(), p.ln1_b.view(), ln1_hooks(l), taps);
    let (attention, mut out) = attend(net, l, ln1.out.view(), taps);
    taps.forward(Hook::AttnOut(l), &mut out);
    if c.residual != Residual::None {
        out += pre;
    }
    if c.residual != Residual::Parallel {
        taps.forward(Hook::ResidMid(l), &mut out);
    }
    let mut mlp_tape = None;
    if c.mlp != Mlp::None {
        let read = if c.residual == Residual::Parallel { pre } else { &out };
        let ln2 = norm(c, read.view(), p.ln2_w.view(), p.ln2_b.view(), ln2_hooks(l), taps);
        let (tape, mut mlp_out) = mlp(net, l, ln2.out.view(), taps);
        taps.forward(Hook::MlpOut(l), &mut mlp_out);
        if c.residual != Residual::None {
            mlp_out += &out;
        }
        out = mlp_out;
        mlp_tape = Some((ln2, tape));
    }
    taps.forward(Hook::ResidPost(l), &mut out);
    BlockTape { ln1, attention, mlp: mlp_tape, resid_post: out }
}

/// The final norm and the unembedding of `h: [rows, d_model]`.
pub(crate) fn unembed(net: &Network, h: ArrayView2<f32>, taps: &mut Taps) -> UnembedTape {
    let p = net.params;
    let ln_final = norm(net.config, h, p.ln_final_w.view(), p.ln_final_b.view(), LN_FINAL_HOOKS, taps);
    let logits = linear(ln_final.out.view(), p.unembedding(), p.b_u.view());
    UnembedTape { ln_final, logits }
}

pub(crate) fn ln1_hooks(l: usize) -> NormHooks {
    NormHooks { scale: Hook::Ln1Scale(l), normalized: Hook::Ln1Normalized(l) }
}

pub(crate) fn ln2_hooks(l: usize) -> NormHooks {
    NormHooks { scale: Hook::Ln2Scale(l), normalized: Hook::Ln2Normalized(l) }
}

pub(crate) const LN_FINAL_HOOKS: NormHooks =
    NormHooks { scale: Hook::LnFinalScale, normalized: Hook::LnFinalNormalized };
