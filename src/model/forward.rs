//! The forward pass over a stack of sequences, keeping what the backward pass and the lenses need.

use ndarray::{Array1, Array2, Array4, ArrayView2, Axis, s};

use super::{BlockParams, Config, Params};
use crate::nn::{attention, embed, gain_bias, gelu, layer_norm, linear};

/// What one block did. Rows are `sequence · pos`.
#[derive(Clone)]
pub(crate) struct BlockTape {
    pub(crate) norm1: Array2<f32>,
    pub(crate) rstd1: Array1<f32>,
    pub(crate) attn_in: Array2<f32>,
    pub(crate) q: Array2<f32>,
    pub(crate) k: Array2<f32>,
    pub(crate) v: Array2<f32>,
    /// `[sequence, head, query pos, key pos]`.
    pub(crate) pattern: Array4<f32>,
    pub(crate) z: Array2<f32>,
    pub(crate) resid_mid: Array2<f32>,
    pub(crate) norm2: Array2<f32>,
    pub(crate) rstd2: Array1<f32>,
    pub(crate) mlp_in: Array2<f32>,
    pub(crate) mlp_pre: Array2<f32>,
    pub(crate) mlp_post: Array2<f32>,
    pub(crate) resid_post: Array2<f32>,
}

/// What the whole network did.
#[derive(Clone)]
pub(crate) struct Tape {
    pub(crate) n_seqs: usize,
    pub(crate) n_pos: usize,
    pub(crate) embed: Array2<f32>,
    pub(crate) blocks: Vec<BlockTape>,
    pub(crate) norm_final: Array2<f32>,
    pub(crate) rstd_final: Array1<f32>,
    pub(crate) unembed_in: Array2<f32>,
    pub(crate) logits: Array2<f32>,
}

impl Tape {
    /// The residual stream `h_l`: `h_0` is the embedding, `h_l` what block `l - 1` left.
    pub(crate) fn resid(&self, l: usize) -> &Array2<f32> {
        if l == 0 { &self.embed } else { &self.blocks[l - 1].resid_post }
    }
}

/// Runs `tokens: [sequence, pos]`, which the caller has checked.
pub(crate) fn forward(config: &Config, params: &Params, tokens: ArrayView2<u32>) -> Tape {
    let (n_seqs, n_pos) = tokens.dim();
    let flat: Vec<u32> = tokens.iter().copied().collect();
    let mut h = embed(&flat, params.w_e.view());
    for mut sequence in h.axis_chunks_iter_mut(Axis(0), n_pos) {
        sequence += &params.w_pos.slice(s![..n_pos, ..]);
    }
    let embedded = h;
    let mut blocks: Vec<BlockTape> = Vec::with_capacity(config.n_layers);
    for params in &params.blocks {
        let resid_pre = blocks.last().map_or(&embedded, |b| &b.resid_post);
        blocks.push(block(config, params, resid_pre.view(), n_pos));
    }
    let last = blocks.last().map_or(&embedded, |b| &b.resid_post);
    let (norm_final, rstd_final) = layer_norm(last.view(), config.eps);
    let unembed_in = gain_bias(norm_final.view(), params.ln_final_w.view(), params.ln_final_b.view());
    let logits = linear(unembed_in.view(), params.w_u.view(), params.b_u.view());
    Tape { n_seqs, n_pos, embed: embedded, blocks, norm_final, rstd_final, unembed_in, logits }
}

/// `mid = pre + attention(norm(pre))`, `post = mid + mlp(norm(mid))`.
fn block(config: &Config, p: &BlockParams, resid_pre: ArrayView2<f32>, n_pos: usize) -> BlockTape {
    let (norm1, rstd1) = layer_norm(resid_pre, config.eps);
    let attn_in = gain_bias(norm1.view(), p.ln1_w.view(), p.ln1_b.view());
    let q = linear(attn_in.view(), p.w_q.view(), p.b_q.view());
    let k = linear(attn_in.view(), p.w_k.view(), p.b_k.view());
    let v = linear(attn_in.view(), p.w_v.view(), p.b_v.view());
    let n_seqs = resid_pre.nrows() / n_pos;
    let mut z = Array2::zeros(q.dim());
    let mut pattern = Array4::zeros((n_seqs, config.n_heads, n_pos, n_pos));
    for sequence in 0..n_seqs {
        for head in 0..config.n_heads {
            let at = head_slice(config, n_pos, sequence, head);
            let (head_z, head_pattern) = attention(q.slice(at), k.slice(at), v.slice(at), config.mask);
            z.slice_mut(at).assign(&head_z);
            pattern.slice_mut(s![sequence, head, .., ..]).assign(&head_pattern);
        }
    }
    let mut resid_mid = linear(z.view(), p.w_o.view(), p.b_o.view());
    resid_mid += &resid_pre;
    let (norm2, rstd2) = layer_norm(resid_mid.view(), config.eps);
    let mlp_in = gain_bias(norm2.view(), p.ln2_w.view(), p.ln2_b.view());
    let mlp_pre = linear(mlp_in.view(), p.w_in.view(), p.b_in.view());
    let mlp_post = gelu(mlp_pre.view());
    let mut resid_post = linear(mlp_post.view(), p.w_out.view(), p.b_out.view());
    resid_post += &resid_mid;
    BlockTape {
        norm1,
        rstd1,
        attn_in,
        q,
        k,
        v,
        pattern,
        z,
        resid_mid,
        norm2,
        rstd2,
        mlp_in,
        mlp_pre,
        mlp_post,
        resid_post,
    }
}

/// Where one head of one sequence sits in a `[sequence · pos, head · d_head]` array.
pub(crate) fn head_slice(
    config: &Config,
    n_pos: usize,
    sequence: usize,
    head: usize,
) -> ndarray::SliceInfo<[ndarray::SliceInfoElem; 2], ndarray::Ix2, ndarray::Ix2> {
    s![sequence * n_pos..(sequence + 1) * n_pos, head * config.d_head..(head + 1) * config.d_head]
}
