//! A sum over numbered pieces of work in an order that does not depend on who does them.

use super::Peers;
use crate::Result;

/// The binary tree that halves `n` leaves again and again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tree {
    pub(super) n: usize,
}

impl Tree {
    /// The leaves of a process.
    pub(super) fn share(&self, peers: &dyn Peers) -> std::ops::Range<usize> {
        let (rank, size) = (peers.rank(), peers.size());
        self.first_of(rank, size)..self.first_of(rank + 1, size)
    }

    /// The first leaf of a process; leaves are dealt out in runs, and process 0 always has the first.
    fn first_of(&self, rank: usize, size: usize) -> usize {
        (self.n * rank).div_ceil(size)
    }

    /// The process whose leaf this is.
    fn owner(&self, leaf: usize, size: usize) -> usize {
        (0..size).rev().find(|&rank| self.first_of(rank, size) <= leaf).unwrap_or(0)
    }

    /// Folds all leaves along the tree: `leaf` makes the value of one, `join` that of a node, and a node belongs to the
    /// process of its first leaf. The shape of the tree does not depend on the processes; each calls `leaf` for its own
    /// in order, and holds as many values as the tree is deep. The root comes out at rank 0.
    pub(super) fn fold<T>(
        &self,
        peers: &dyn Peers,
        leaf: &mut dyn FnMut(usize) -> Result<T>,
        join: &dyn Fn(T, T) -> Result<T>,
        pack: &dyn Fn(&T) -> Result<Vec<u8>>,
        unpack: &dyn Fn(&[u8]) -> Result<T>,
    ) -> Result<Option<T>> {
        let value = self.node(0, self.n, peers, leaf, join, pack, unpack)?;
        Ok(value.filter(|_| peers.rank() == 0))
    }

    /// The value over the leaves `begin .. end`, if it belongs to this process.
    #[allow(clippy::too_many_arguments, reason = "what a fold is made of")]
    fn node<T>(
        &self,
        begin: usize,
        end: usize,
        peers: &dyn Peers,
        leaf: &mut dyn FnMut(usize) -> Result<T>,
        join: &dyn Fn(T, T) -> Result<T>,
        pack: &dyn Fn(&T) -> Result<Vec<u8>>,
        unpack: &dyn Fn(&[u8]) -> Result<T>,
    ) -> Result<Option<T>> {
        let (rank, size) = (peers.rank(), peers.size());
        let (low, high) = (self.owner(begin, size), self.owner(end - 1, size));
        if rank < low || rank > high {
            return Ok(None);
        }
        if end - begin == 1 {
            return leaf(begin).map(Some);
        }
        let middle = begin + (end - begin).div_ceil(2);
        let left = self.node(begin, middle, peers, leaf, join, pack, unpack)?;
        let right = self.node(middle, end, peers, leaf, join, pack, unpack)?;
        let sender = self.owner(middle, size);
        if rank == low {
            let right = match right {
                Some(right) => right,
                None => unpack(&peers.receive(sender)?)?,
            };
            return join(left.expect("its first leaf is ours"), right).map(Some);
        }
        if rank == sender {
            peers.send(low, &pack(&right.expect("its first leaf is ours"))?)?;
        }
        Ok(None)
    }
}
