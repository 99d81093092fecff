//! What every step of a pass looks at: shape, weights, and the turning of positions.

use super::architecture::{Blocks, Positions};
use super::{BlockParams, Config, Params};
use crate::nn::RotaryTable;

/// A network at work on sequences of one length.
pub(crate) struct Network<'a> {
    pub(crate) config: &'a Config,
    pub(crate) params: &'a Params,
    pub(crate) n_pos: usize,
    pub(crate) rotary: Option<RotaryTable<f32>>,
}

impl<'a> Network<'a> {
    pub(crate) fn new(config: &'a Config, params: &'a Params, n_pos: usize) -> Self {
        let rotary = match &config.positions {
            Positions::Rotary(r) => {
                Some(RotaryTable::new(n_pos, r.d_rotary.unwrap_or(config.d_head), r.theta, r.pairs))
            }
            Positions::Learned | Positions::None => None,
        };
        Network { config, params, n_pos, rotary }
    }

    /// Where in `params.blocks` layer `l` finds its weights.
    pub(crate) fn block_of(&self, l: usize) -> usize {
        match self.config.blocks {
            Blocks::Distinct => l,
            Blocks::Looped { .. } => 0,
        }
    }

    pub(crate) fn block(&self, l: usize) -> &'a BlockParams {
        &self.params.blocks[self.block_of(l)]
    }

    /// Whether the embedding is added again before layer `l`.
    pub(crate) fn injects(&self, l: usize) -> bool {
        l > 0 && self.config.blocks == Blocks::Looped { inject: true }
    }

    /// Where a head of a sequence begins: its row, its column among the queries, and that among the keys and values.
    pub(crate) fn corner(&self, sequence: usize, head: usize) -> (usize, usize, usize) {
        let c = self.config;
        let kv_head = head / (c.n_heads / c.n_kv_heads());
        (sequence * self.n_pos, head * c.d_head, kv_head * c.d_head)
    }
}
