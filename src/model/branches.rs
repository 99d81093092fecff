//! Other ways on from one position of a sequence: what a network says there if a residual stream is changed.
//!
//! Under a causal mask a change at a position reaches no position before it. Their keys and values are those of the run
//! without the change, so that only one row has to pass the blocks again, and many changes pass as one product.

use ndarray::{Array2, ArrayView2, Axis};

use super::Transformer;
use super::architecture::{Attention, Positions, RotaryScaling};
use super::forward::{block, embed_tokens, final_norm, logits_of};
use super::network::{Network, Past};
use super::taps::Taps;
use crate::nn::Mask;
use crate::num::Precision;
use crate::{Error, ErrorKind, Result};

/// One sequence that has run.
pub(crate) struct Trunk {
    past: Past,
    /// `h_0 ..= h_L`, each `[pos, d_model]`.
    streams: Vec<Array2<f32>>,
}

impl Trunk {
    /// Residual stream `l`, `[pos, d_model]`.
    pub(crate) fn stream(&self, l: usize) -> ArrayView2<'_, f32> {
        self.streams[l].view()
    }
}

impl Transformer {
    /// Whether the keys and values of positions stay what they are when others follow.
    pub(super) fn goes_on(&self) -> bool {
        let c = &self.config;
        // Frequencies that depend on the length of the sequence turn all of its keys anew.
        let dynamic = |l| match c.positions_in(l) {
            Positions::Rotary(rotary) => matches!(rotary.scaling, RotaryScaling::Dynamic { .. }),
            Positions::Learned | Positions::Alibi | Positions::None => false,
        };
        match (c.attention, c.mask) {
            (Attention::Softmax, Mask::Causal) => !(0..c.n_layers).any(dynamic),
            (Attention::Softmax, Mask::Prefix(_) | Mask::None) | (Attention::Linear, _) => false,
        }
    }

    /// Refuses a network whose sequences cannot go on from one of their positions.
    pub(crate) fn check_branches(&self) -> Result<()> {
        if self.goes_on() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Config,
            format!(
                "a change at one position would change others too in this network ({})",
                self.config.describe()
            ),
            "steer a network with causal softmax attention and positions that do not depend on the length",
        ))
    }

    /// Runs one sequence of tokens that fit.
    pub(crate) fn trunk(&self, tokens: &[u32]) -> Trunk {
        let net = Network::going_on(&self.config, &self.params, Past::default(), tokens.len());
        let mut taps = Taps::none(&self.config);
        let row = ArrayView2::from_shape((1, tokens.len()), tokens).expect("one row");
        let mut streams = vec![embed_tokens(&net, row, &mut taps)];
        for l in 0..self.config.n_layers {
            let next = block(&net, l, &streams[l], &streams[0], &mut taps).resid_post;
            streams.push(next);
        }
        Trunk { past: net.into_past(), streams }
    }

    /// The logits at position `pos` for each of `rows: [rows, d_model]` in the place of residual stream `l` there,
    /// `[rows, d_vocab]`.
    pub(crate) fn branch_logits(
        &self,
        trunk: &Trunk,
        pos: usize,
        l: usize,
        rows: ArrayView2<f32>,
    ) -> Array2<f32> {
        let (c, p) = (&self.config, &self.params);
        let width = c.n_kv_heads() * c.d_head;
        let before = |all: &[Vec<f32>]| -> Vec<Vec<f32>> {
            let of_layer = |(k, numbers): (usize, &Vec<f32>)| {
                if k < l { Vec::new() } else { numbers[..pos * width].to_vec() }
            };
            all.iter().enumerate().map(of_layer).collect()
        };
        let past = Past { keys: before(&trunk.past.keys), values: before(&trunk.past.values), n_pos: pos };
        let net = Network::going_on(c, p, past, 1);
        let mut taps = Taps::none(c);
        let embedded = trunk.stream(0).select(Axis(0), &vec![pos; rows.nrows()]);
        let mut stream = rows.to_owned();
        for k in l..c.n_layers {
            stream = block(&net, k, &stream, &embedded, &mut taps).resid_post;
        }
        logits_of(c, p, final_norm(c, p, stream.view(), &mut taps).out.view(), Precision::F32)
    }
}
