//! The backward pass, block by block in reverse.

use ndarray::{Array2, ArrayView2, Axis, s};

use super::architecture::{Positions, Residual};
use super::attention_layer::attend_backward;
use super::forward::{BlockTape, LN_FINAL_HOOKS, Tape, ln1_hooks, ln2_hooks};
use super::mlp_layer::mlp_backward;
use super::network::Network;
use super::norm_layer::{NormTape, norm_backward};
use super::taps::Taps;
use super::{BlockParams, Hook, Params};
use crate::nn::{embed_backward, linear_backward};

/// Adds to `grad` the gradient with respect to every parameter, from that of the logits, `[sequence · pos, d_vocab]`.
/// `dstreams[l]` is what else reads the stream that block `l` leaves.
pub(crate) fn backward(
    net: &Network,
    tape: &Tape,
    tokens: ArrayView2<u32>,
    dlogits: ArrayView2<f32>,
    dstreams: &[Array2<f32>],
    grad: &mut Params,
    taps: &mut Taps,
) {
    let mut dh = unembed_backward(net, &tape.ln_final, dlogits, grad, taps);
    let mut dinjected: Option<Array2<f32>> = None;
    for l in (0..net.config.n_layers).rev() {
        if let Some(dstream) = dstreams.get(l) {
            dh += dstream;
        }
        let grad = &mut grad.blocks[net.block_of(l)];
        dh = block_backward(net, l, dh, &tape.blocks[l], grad, taps);
        if net.injects(l) {
            match &mut dinjected {
                None => dinjected = Some(dh.clone()),
                Some(sum) => *sum += &dh,
            }
        }
    }
    if let Some(dinjected) = dinjected {
        dh += &dinjected;
    }
    if net.config.positions == Positions::Learned {
        let dpositions = taps.branch(Hook::PosEmbed, &dh);
        for sequence in dpositions.axis_chunks_iter(Axis(0), net.n_pos) {
            let mut dpos = grad.w_pos.slice_mut(s![..net.n_pos, ..]);
            dpos += &sequence;
        }
    }
    taps.backward(Hook::Embed, &mut dh);
    let flat: Vec<u32> = tokens.iter().copied().collect();
    embed_backward(dh.view(), &flat, grad.w_e.view_mut());
}

/// From the gradient of the logits to that of the stream that the final norm read; adds to `grad`.
pub(crate) fn unembed_backward(
    net: &Network,
    ln_final: &NormTape,
    dlogits: ArrayView2<f32>,
    grad: &mut Params,
    taps: &mut Taps,
) -> Array2<f32> {
    let p = net.params;
    let dw_u = if net.config.tied { grad.w_e.view_mut().reversed_axes() } else { grad.w_u.view_mut() };
    let dout = linear_backward(dlogits, ln_final.out.view(), p.unembedding(), dw_u, grad.b_u.view_mut());
    let (dgain, dbias) = (grad.ln_final_w.view_mut(), grad.ln_final_b.view_mut());
    norm_backward(net.config, dout, ln_final, p.ln_final_w.view(), (dgain, dbias), LN_FINAL_HOOKS, taps)
}

/// From the gradient after the block to the gradient before it.
pub(crate) fn block_backward(
    net: &Network,
    l: usize,
    mut dh: Array2<f32>,
    tape: &BlockTape,
    grad: &mut BlockParams,
    taps: &mut Taps,
) -> Array2<f32> {
    taps.backward(Hook::ResidPost(l), &mut dh);
    match net.config.residual {
        Residual::Sequential => {
            if let Some(dmid) = mlp_branch(net, l, &dh, tape, grad, taps) {
                dh += &dmid;
            }
            taps.backward(Hook::ResidMid(l), &mut dh);
            dh += &attention_branch(net, l, &dh, tape, grad, taps);
        }
        Residual::Parallel => {
            let dmlp = mlp_branch(net, l, &dh, tape, grad, taps);
            let dattention = attention_branch(net, l, &dh, tape, grad, taps);
            if let Some(dmlp) = dmlp {
                dh += &dmlp;
            }
            dh += &dattention;
        }
        Residual::None => {
            if let Some(dmid) = mlp_branch(net, l, &dh, tape, grad, taps) {
                dh = dmid;
            }
            taps.backward(Hook::ResidMid(l), &mut dh);
            dh = attention_branch(net, l, &dh, tape, grad, taps);
        }
    }
    taps.backward(Hook::ResidPre(l), &mut dh);
    dh
}

/// What comes back through the MLP and its norm.
fn mlp_branch(
    net: &Network,
    l: usize,
    dh: &Array2<f32>,
    tape: &BlockTape,
    grad: &mut BlockParams,
    taps: &mut Taps,
) -> Option<Array2<f32>> {
    let (ln2, tape) = tape.mlp.as_ref()?;
    let dout = taps.branch(Hook::MlpOut(l), dh);
    let dx = mlp_backward(net, l, dout.view(), ln2.out.view(), tape, grad, taps);
    let block = net.block(l);
    let gain = block.ln2_w.view();
    let (dgain, dbias) = (grad.ln2_w.view_mut(), grad.ln2_b.view_mut());
    Some(norm_backward(net.config, dx, ln2, gain, (dgain, dbias), ln2_hooks(l), taps))
}

/// What comes back through attention and its norm.
fn attention_branch(
    net: &Network,
    l: usize,
    dh: &Array2<f32>,
    tape: &BlockTape,
    grad: &mut BlockParams,
    taps: &mut Taps,
) -> Array2<f32> {
    let dout = taps.branch(Hook::AttnOut(l), dh);
    let dx = attend_backward(net, l, dout.view(), tape.ln1.out.view(), &tape.attention, grad, taps);
    let block = net.block(l);
    let gain = block.ln1_w.view();
    let (dgain, dbias) = (grad.ln1_w.view_mut(), grad.ln1_b.view_mut());
    norm_backward(net.config, dx, &tape.ln1, gain, (dgain, dbias), ln1_hooks(l), taps)
}
