//! Backward passes that begin at the last residual stream instead of at a loss.

use std::collections::BTreeMap;

use ndarray::{Array2, ArrayView2};

use super::backward::backward;
use super::forward::Tape;
use super::network::Network;
use super::taps::Taps;
use super::{Hook, Params, Transformer};

impl Transformer {
    /// The gradient of `Σ dlast ∘ h_L` with respect to every residual stream `h_0 ..= h_L`, each `[sequence · pos, d_model]`: the
    /// vector-Jacobian product of what `tape` recorded over `tokens`.
    pub(crate) fn stream_grads(
        &self,
        tokens: ArrayView2<u32>,
        tape: &Tape,
        dlast: ArrayView2<f32>,
    ) -> Vec<Array2<f32>> {
        let n_layers = self.config.n_layers;
        let (n_seqs, n_pos) = tokens.dim();
        let mut streams = vec![Array2::zeros(dlast.dim()); n_layers + 1];
        // Nothing can be added behind the positions, so what reaches the embedding is the gradient of the first stream.
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
}
