//! The backward pass, block by block in reverse.

use ndarray::{Array2, ArrayView2, Axis, CowArray, s};

use super::architecture::{Positions, Residual};
use super::attention_layer::attend_backward;
use super::forward::{
    BlockTape, LN_FINAL_HOOKS, Tape, embed_norm, ln1_hooks, ln1_post_hooks, ln2_hooks, ln2_post_hooks,
    scale_and_cap_backward, scales_or_caps,
};
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
    let mut dh = unembed_backward(net, &tape.ln_final, &tape.logits, dlogits, grad, taps);
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
    let (c, p) = (net.config, net.params);
    let flat: Vec<u32> = tokens.iter().copied().collect();
    if c.embed_norm {
        let embedding = p.w_e.gather(&flat) * c.embed_scale as f32;
        if let Some(tape) = embed_norm(net, embedding.view(), &mut Taps::none(c)) {
            let gradients = (grad.ln_embed_w.view_mut(), grad.ln_embed_b.view_mut());
            dh = norm_backward(c.norm, dh, &tape, p.ln_embed_w.view(), gradients, None, taps);
        }
    }
    if c.embed_scale != 1.0 {
        dh *= c.embed_scale as f32;
    }
    embed_backward(dh.view(), &flat, grad.w_e.view_mut());
}

/// From the gradient of the logits to that of the stream that the final norm read; adds to `grad`.
pub(crate) fn unembed_backward(
    net: &Network,
    ln_final: &NormTape,
    logits: &Array2<f32>,
    dlogits: ArrayView2<f32>,
    grad: &mut Params,
    taps: &mut Taps,
) -> Array2<f32> {
    let (c, p) = (net.config, net.params);
    let mut dlogits = CowArray::from(dlogits);
    if scales_or_caps(c) {
        let mut changed = dlogits.into_owned();
        scale_and_cap_backward(c, &mut changed, logits);
        dlogits = changed.into();
    }
    let dw_u = if c.tied { grad.w_e.view_mut().reversed_axes() } else { grad.w_u.view_mut() };
    let dout =
        linear_backward(dlogits.view(), ln_final.out.view(), p.unembedding(), dw_u, grad.b_u.view_mut());
    let (dgain, dbias) = (grad.ln_final_w.view_mut(), grad.ln_final_b.view_mut());
    norm_backward(c.final_norm(), dout, ln_final, p.ln_final_w.view(), (dgain, dbias), LN_FINAL_HOOKS, taps)
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
            dh = second_sum_backward(net, l, dh, tape, grad, taps);
            if let Some(dread) = mlp_branch(net, l, &dh, tape, grad, taps) {
                dh += &ln2_backward(net, l, dread, tape, grad, taps);
            }
            taps.backward(Hook::ResidMid(l), &mut dh);
            dh = first_sum_backward(net, l, dh, tape, grad, taps);
            let dread = attention_branch(net, l, &dh, tape, grad, taps);
            dh += &ln1_backward(net, l, dread, tape, grad, taps);
        }
        Residual::Parallel => {
            let dmlp = mlp_branch(net, l, &dh, tape, grad, taps);
            let dmlp = dmlp.map(|dread| ln2_backward(net, l, dread, tape, grad, taps));
            let dread = attention_branch(net, l, &dh, tape, grad, taps);
            let dattention = ln1_backward(net, l, dread, tape, grad, taps);
            if let Some(dmlp) = dmlp {
                dh += &dmlp;
            }
            dh += &dattention;
        }
        Residual::ParallelOneNorm => {
            let dmlp = mlp_branch(net, l, &dh, tape, grad, taps);
            let mut dread = attention_branch(net, l, &dh, tape, grad, taps);
            if let Some(dmlp) = dmlp {
                dread += &dmlp;
            }
            dh += &ln1_backward(net, l, dread, tape, grad, taps);
        }
        Residual::None => {
            dh = second_sum_backward(net, l, dh, tape, grad, taps);
            if let Some(dread) = mlp_branch(net, l, &dh, tape, grad, taps) {
                dh = ln2_backward(net, l, dread, tape, grad, taps);
            }
            taps.backward(Hook::ResidMid(l), &mut dh);
            dh = first_sum_backward(net, l, dh, tape, grad, taps);
            let dread = attention_branch(net, l, &dh, tape, grad, taps);
            dh = ln1_backward(net, l, dread, tape, grad, taps);
        }
    }
    taps.backward(Hook::ResidPre(l), &mut dh);
    dh
}

/// From what the MLP gave to what it read.
fn mlp_branch(
    net: &Network,
    l: usize,
    dh: &Array2<f32>,
    tape: &BlockTape,
    grad: &mut BlockParams,
    taps: &mut Taps,
) -> Option<Array2<f32>> {
    let (c, block) = (net.config, net.block(l));
    let branch = tape.mlp.as_ref()?;
    let mut dout = taps.branch(Hook::MlpOut(l), dh);
    if c.resid_scale != 1.0 {
        dout = (&dout * c.resid_scale as f32).into();
    }
    if let (true, Some(after)) = (c.norm_at.output(), &branch.after) {
        let gradients = (grad.ln2_post_w.view_mut(), grad.ln2_post_b.view_mut());
        let (dx, gain) = (dout.into_owned(), block.ln2_post_w.view());
        dout = norm_backward(c.norm, dx, after, gain, gradients, ln2_post_hooks(l), taps).into();
    }
    let read = branch.ln2.as_ref().unwrap_or(&tape.ln1).out.view();
    Some(mlp_backward(net, l, dout.view(), read, &branch.mlp, grad, taps))
}

/// From what attention gave to what it read.
fn attention_branch(
    net: &Network,
    l: usize,
    dh: &Array2<f32>,
    tape: &BlockTape,
    grad: &mut BlockParams,
    taps: &mut Taps,
) -> Array2<f32> {
    let (c, block) = (net.config, net.block(l));
    let mut dout = taps.branch(Hook::AttnOut(l), dh);
    if c.resid_scale != 1.0 {
        dout = (&dout * c.resid_scale as f32).into();
    }
    if let (true, Some(after)) = (c.norm_at.output(), &tape.after) {
        let gradients = (grad.ln1_post_w.view_mut(), grad.ln1_post_b.view_mut());
        let (dx, gain) = (dout.into_owned(), block.ln1_post_w.view());
        dout = norm_backward(c.norm, dx, after, gain, gradients, ln1_post_hooks(l), taps).into();
    }
    attend_backward(net, l, dout.view(), tape.ln1.out.view(), &tape.attention, grad, taps)
}

/// Through the norm of what attention reads.
fn ln1_backward(
    net: &Network,
    l: usize,
    dread: Array2<f32>,
    tape: &BlockTape,
    grad: &mut BlockParams,
    taps: &mut Taps,
) -> Array2<f32> {
    let (kind, block) = (net.config.norm_before().0, net.block(l));
    let gradients = (grad.ln1_w.view_mut(), grad.ln1_b.view_mut());
    norm_backward(kind, dread, &tape.ln1, block.ln1_w.view(), gradients, ln1_hooks(l), taps)
}

/// Through the norm of what the MLP reads.
fn ln2_backward(
    net: &Network,
    l: usize,
    dread: Array2<f32>,
    tape: &BlockTape,
    grad: &mut BlockParams,
    taps: &mut Taps,
) -> Array2<f32> {
    let Some(ln2) = tape.mlp.as_ref().and_then(|branch| branch.ln2.as_ref()) else { return dread };
    let (kind, block) = (net.config.norm_before().0, net.block(l));
    let gradients = (grad.ln2_w.view_mut(), grad.ln2_b.view_mut());
    norm_backward(kind, dread, ln2, block.ln2_w.view(), gradients, ln2_hooks(l), taps)
}

/// Through the norm of the stream between attention and MLP, if it is normalised itself.
fn first_sum_backward(
    net: &Network,
    l: usize,
    dh: Array2<f32>,
    tape: &BlockTape,
    grad: &mut BlockParams,
    taps: &mut Taps,
) -> Array2<f32> {
    let (true, Some(after)) = (net.config.norm_at.sum(), &tape.after) else { return dh };
    let gradients = (grad.ln1_w.view_mut(), grad.ln1_b.view_mut());
    norm_backward(net.config.norm, dh, after, net.block(l).ln1_w.view(), gradients, ln1_hooks(l), taps)
}

/// The same after the MLP.
fn second_sum_backward(
    net: &Network,
    l: usize,
    dh: Array2<f32>,
    tape: &BlockTape,
    grad: &mut BlockParams,
    taps: &mut Taps,
) -> Array2<f32> {
    let after = tape.mlp.as_ref().and_then(|branch| branch.after.as_ref());
    let (true, Some(after)) = (net.config.norm_at.sum(), after) else { return dh };
    let gradients = (grad.ln2_w.view_mut(), grad.ln2_b.view_mut());
    norm_backward(net.config.norm, dh, after, net.block(l).ln2_w.view(), gradients, ln2_hooks(l), taps)
}
