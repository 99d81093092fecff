//! What every step of a pass looks at: shape, weights, and the turning of positions.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use super::architecture::{Blocks, Positions, Rotary};
use super::matrix::EXPAND_FROM;
use super::{BlockParams, Config, Params};
use crate::nn::RotaryTable;
use crate::num::Precision;

/// A network at work on sequences of one length.
pub(crate) struct Network<'a> {
    pub(crate) config: &'a Config,
    pub(crate) params: &'a Params,
    pub(crate) n_pos: usize,
    /// How it multiplies by weights.
    pub(crate) precision: Precision,
    /// What turns queries and keys, for each layer that has it.
    rotary: Vec<Option<Arc<RotaryTable<f32>>>>,
    /// How many positions came before those of this pass.
    pub(crate) first: usize,
    /// Their keys and values, to which those of this pass are added.
    pub(crate) past: Option<Mutex<Past>>,
    /// Whether blocks are read as they are stored: for a few rows, which need each weight once.
    as_stored: bool,
    /// The block that is at work, expanded to `f32` from how it is stored.
    expanded: Mutex<Option<(usize, Arc<BlockParams>)>>,
}

/// The keys and values of one sequence so far: for each layer `[pos, n_kv_heads · d_head]`, row by row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Past {
    pub(crate) keys: Vec<Vec<f32>>,
    pub(crate) values: Vec<Vec<f32>>,
    /// Positions so far.
    pub(crate) n_pos: usize,
}

/// The weights of a block as a pass needs them.
pub(crate) enum BlockRef<'a> {
    /// They are `f32` anyway.
    Own(&'a BlockParams),
    Expanded(Arc<BlockParams>),
}

impl Deref for BlockRef<'_> {
    type Target = BlockParams;

    fn deref(&self) -> &BlockParams {
        match self {
            BlockRef::Own(block) => block,
            BlockRef::Expanded(block) => block,
        }
    }
}

impl<'a> Network<'a> {
    pub(crate) fn new(config: &'a Config, params: &'a Params, n_pos: usize) -> Self {
        Network::after(config, params, 0, n_pos)
    }

    /// The same in another precision.
    pub(crate) fn with(self, precision: Precision) -> Self {
        Network { precision, ..self }
    }

    fn after(config: &'a Config, params: &'a Params, first: usize, n_pos: usize) -> Self {
        // One table for all layers that turn alike.
        let mut tables: Vec<(&Rotary, Arc<RotaryTable<f32>>)> = Vec::new();
        let rotary = (0..config.n_layers)
            .map(|l| match config.positions_in(l) {
                Positions::Rotary(r) => Some(match tables.iter().find(|(known, _)| *known == r) {
                    Some((_, table)) => table.clone(),
                    None => {
                        let (frequencies, length) = r.frequencies(config.d_head, first + n_pos);
                        let table = RotaryTable::of_frequencies(first, n_pos, &frequencies, length, r.pairs);
                        tables.push((r, Arc::new(table)));
                        tables[tables.len() - 1].1.clone()
                    }
                }),
                Positions::Learned | Positions::Alibi | Positions::None => None,
            })
            .collect();
        let expanded = Mutex::new(None);
        Network {
            config,
            params,
            n_pos,
            precision: Precision::F32,
            rotary,
            first,
            past: None,
            as_stored: false,
            expanded,
        }
    }

    /// A network at work on the next `n_pos` positions of sequences whose keys and values so far are known, and the
    /// same.
    pub(crate) fn going_on(config: &'a Config, params: &'a Params, mut past: Past, n_pos: usize) -> Self {
        past.keys.resize(config.n_layers, Vec::new());
        past.values.resize(config.n_layers, Vec::new());
        let net = Network::after(config, params, past.n_pos, n_pos);
        Network { past: Some(Mutex::new(past)), as_stored: n_pos < EXPAND_FROM, ..net }
    }

    /// The keys and values with those of the positions that passed.
    pub(crate) fn into_past(self) -> Past {
        let mut past = self
            .past
            .map(|past| past.into_inner().unwrap_or_else(PoisonError::into_inner))
            .unwrap_or_default();
        past.n_pos = self.first + self.n_pos;
        past
    }

    /// The same for a part of a batch that goes its own way through the layers, on a thread of its own.
    pub(crate) fn apart(&self) -> Self {
        Network { rotary: self.rotary.clone(), past: None, expanded: Mutex::new(None), ..*self }
    }

    /// What turns the queries and keys of layer `l`.
    pub(crate) fn rotary(&self, l: usize) -> Option<&RotaryTable<f32>> {
        self.rotary.get(l)?.as_deref()
    }

    /// Where in `params.blocks` layer `l` finds its weights.
    pub(crate) fn block_of(&self, l: usize) -> usize {
        match self.config.blocks {
            Blocks::Distinct => l,
            Blocks::Looped { .. } => 0,
        }
    }

    /// The weights of layer `l`. What is stored is expanded, and kept until another layer is asked for.
    pub(crate) fn block(&self, l: usize) -> BlockRef<'a> {
        let at = self.block_of(l);
        let stored = &self.params.blocks[at];
        if !self.expands(l) {
            return BlockRef::Own(stored);
        }
        let mut expanded = self.expanded.lock().unwrap_or_else(PoisonError::into_inner);
        match &*expanded {
            Some((block, weights)) if *block == at => BlockRef::Expanded(weights.clone()),
            Some(_) | None => {
                // In the memory of the old one, so that two are never there at once.
                let before = expanded.take().and_then(|(_, weights)| Arc::into_inner(weights));
                let weights = Arc::new(stored.expanded(before));
                *expanded = Some((at, weights.clone()));
                BlockRef::Expanded(weights)
            }
        }
    }

    /// Whether the weights of layer `l` have to be expanded.
    pub(crate) fn expands(&self, l: usize) -> bool {
        !self.as_stored && self.params.blocks[self.block_of(l)].is_packed()
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
