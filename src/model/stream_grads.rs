//! Backward passes from one residual stream to another.

use std::collections::BTreeMap;

use ndarray::{Array2, ArrayView2, s};
use rayon::prelude::*;

use super::backward::{backward, block_backward, unembed_backward};
use super::forward::{Tape, forward};
use super::loss::next_token_loss;
use super::network::Network;
use super::run::parts;
use super::taps::Taps;
use super::{Hook, Params, Transformer};
use crate::Result;

/// `J_lᵀ v` of what block `l` adds to the stream, `[sequence · pos, d_model]`: without the skip.
pub(crate) type BranchVjp<'a> = dyn FnMut(usize, &Array2<f32>) -> Array2<f32> + 'a;

impl Transformer {
    /// The gradient of `Σ dlast ∘ h_L` with respect to every residual stream `h_0 ..= h_L`, each `[sequence · pos,
    /// d_model]`: the vector-Jacobian product of what `tape` recorded over `tokens`.
    pub(crate) fn stream_grads(
        &self,
        tokens: ArrayView2<u32>,
        tape: &Tape,
        dlast: ArrayView2<f32>,
    ) -> Vec<Array2<f32>> {
        let n_layers = self.config.n_layers;
        let (n_seqs, n_pos) = tokens.dim();
        let mut streams = vec![Array2::zeros(dlast.dim()); n_layers + 1];
        // Nothing can be added after the positions, so what reaches the embedding is the gradient of the first stream.
        let hooks = std::iter::once(Hook::Embed).chain((0..n_layers).map(Hook::ResidPost));
        let kept: BTreeMap<_, _> = hooks
            .zip(&mut streams)
            .map(|(hook, stream)| {
                let shape = hook.shape(&self.config, n_seqs, n_pos);
                let numbers = stream.as_slice_mut().expect("zeros are stored row by row");
                (hook, ndarray::ArrayViewMutD::from_shape(shape, numbers).expect("one row per token"))
            })
            .collect();
        let mut taps = Taps::new(&self.config, &[], 0, tokens.dim(), kept);
        let nothing = Array2::zeros(tape.logits.dim());
        let mut dstreams = vec![Array2::zeros(dlast.dim()); n_layers];
        dstreams[n_layers - 1].assign(&dlast);
        let net = Network::new(&self.config, &self.params, n_pos);
        backward(&net, tape, tokens, nothing.view(), &dstreams, &mut Params::zeros(&self.config), &mut taps);
        drop(taps);
        streams
    }

    /// For some sequences of `tokens` after the other, what `read` makes of the gradient of the summed loss with
    /// respect to the last residual stream, `[sequence · pos, d_model]`, and of the way back through each block.
    ///
    /// Fails where [`loss`](Transformer::loss) does.
    pub(crate) fn each_branch_vjp<T: Send>(
        &self,
        tokens: &Array2<u32>,
        read: impl Fn(Array2<f32>, &mut BranchVjp) -> T + Sync,
    ) -> Result<Vec<T>> {
        let batch = self.check_loss(tokens, &[])?;
        let net = Network::new(&self.config, &self.params, batch.1);
        let each = parts(tokens, None).into_par_iter().map(|part| {
            let net = net.apart();
            let (mut taps, mut unread) = (Taps::none(&self.config), Params::zeros(&self.config));
            let tape = forward(&net, part.tokens.slice(s![.., ..batch.1]), &mut taps);
            let (_, dlogits) = next_token_loss(tape.logits.view(), part.tokens, self.config.mask);
            let top =
                unembed_backward(&net, &tape.ln_final, &tape.logits, dlogits.view(), &mut unread, &mut taps);
            read(top, &mut |l, v| {
                let grad = &mut unread.blocks[net.block_of(l)];
                block_backward(&net, l, v.clone(), &tape.blocks[l], grad, &mut taps) - v
            })
        });
        Ok(each.collect())
    }
}
