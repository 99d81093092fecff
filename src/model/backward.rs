//! The backward pass, block by block in reverse.

use ndarray::{Array2, ArrayView2, Axis, s};

use super::forward::{BlockTape, Tape, head_slice};
use super::{BlockParams, Config, Params};
use crate::nn::{
    attention_backward, embed_backward, gain_bias_backward, gelu_backward, layer_norm_backward,
    linear_backward,
};

/// The gradient of a loss with respect to every parameter, from `dlogits: [sequence · pos, d_vocab]`.
pub(crate) fn backward(
    config: &Config,
    params: &Params,
    tape: &Tape,
    tokens: ArrayView2<u32>,
    dlogits: ArrayView2<f32>,
) -> Params {
    let mut grad = Params::zeros(config);
    let dunembed_in = linear_backward(
        dlogits,
        tape.unembed_in.view(),
        params.w_u.view(),
        grad.w_u.view_mut(),
        grad.b_u.view_mut(),
    );
    let dnorm = gain_bias_backward(
        dunembed_in.view(),
        tape.norm_final.view(),
        params.ln_final_w.view(),
        grad.ln_final_w.view_mut(),
        grad.ln_final_b.view_mut(),
    );
    let mut dh = layer_norm_backward(dnorm.view(), tape.norm_final.view(), tape.rstd_final.view());
    for l in (0..config.n_layers).rev() {
        block_backward(config, &params.blocks[l], &tape.blocks[l], &mut grad.blocks[l], &mut dh, tape.n_pos);
    }
    for sequence in dh.axis_chunks_iter(Axis(0), tape.n_pos) {
        let mut dpos = grad.w_pos.slice_mut(s![..tape.n_pos, ..]);
        dpos += &sequence;
    }
    let flat: Vec<u32> = tokens.iter().copied().collect();
    embed_backward(dh.view(), &flat, grad.w_e.view_mut());
    grad
}

/// Turns `dh` from the gradient after the block into the gradient before it.
fn block_backward(
    config: &Config,
    p: &BlockParams,
    tape: &BlockTape,
    grad: &mut BlockParams,
    dh: &mut Array2<f32>,
    n_pos: usize,
) {
    let dpost = linear_backward(
        dh.view(),
        tape.mlp_post.view(),
        p.w_out.view(),
        grad.w_out.view_mut(),
        grad.b_out.view_mut(),
    );
    let dpre = gelu_backward(dpost.view(), tape.mlp_pre.view());
    let dmlp_in = linear_backward(
        dpre.view(),
        tape.mlp_in.view(),
        p.w_in.view(),
        grad.w_in.view_mut(),
        grad.b_in.view_mut(),
    );
    let dnorm2 = gain_bias_backward(
        dmlp_in.view(),
        tape.norm2.view(),
        p.ln2_w.view(),
        grad.ln2_w.view_mut(),
        grad.ln2_b.view_mut(),
    );
    *dh += &layer_norm_backward(dnorm2.view(), tape.norm2.view(), tape.rstd2.view());

    let dz =
        linear_backward(dh.view(), tape.z.view(), p.w_o.view(), grad.w_o.view_mut(), grad.b_o.view_mut());
    let (mut dq, mut dk, mut dv) =
        (Array2::zeros(dz.dim()), Array2::zeros(dz.dim()), Array2::zeros(dz.dim()));
    for sequence in 0..dz.nrows() / n_pos {
        for head in 0..config.n_heads {
            let at = head_slice(config, n_pos, sequence, head);
            let pattern = tape.pattern.slice(s![sequence, head, .., ..]);
            let (q, k, v) = (tape.q.slice(at), tape.k.slice(at), tape.v.slice(at));
            let (head_dq, head_dk, head_dv) = attention_backward(dz.slice(at), q, k, v, pattern);
            dq.slice_mut(at).assign(&head_dq);
            dk.slice_mut(at).assign(&head_dk);
            dv.slice_mut(at).assign(&head_dv);
        }
    }
    let x = tape.attn_in.view();
    let mut dattn_in = linear_backward(dq.view(), x, p.w_q.view(), grad.w_q.view_mut(), grad.b_q.view_mut());
    dattn_in += &linear_backward(dk.view(), x, p.w_k.view(), grad.w_k.view_mut(), grad.b_k.view_mut());
    dattn_in += &linear_backward(dv.view(), x, p.w_v.view(), grad.w_v.view_mut(), grad.b_v.view_mut());
    let dnorm1 = gain_bias_backward(
        dattn_in.view(),
        tape.norm1.view(),
        p.ln1_w.view(),
        grad.ln1_w.view_mut(),
        grad.ln1_b.view_mut(),
    );
    *dh += &layer_norm_backward(dnorm1.view(), tape.norm1.view(), tape.rstd1.view());
}
