//! Texts cut into shards, and a tree over them.

use crate::data::{Documents, TextFiles, Tokenize};
use crate::{Error, ErrorKind, Result};

use super::Peers;

/// Where shards begin: by a pass over the texts that computes nothing.
pub(super) struct Shards {
    /// For each shard, the number of its first document; behind the last, the number of documents.
    pub(super) first: Vec<usize>,
    /// Bytes of text.
    pub(super) n_bytes: u64,
    /// A checksum of all text, by which a change is noticed.
    pub(super) checksum: u32,
}

impl Shards {
    /// A shard ends with the document at which it has `shard_bytes` of text.
    pub(super) fn plan(texts: &TextFiles, shard_bytes: usize) -> Result<Self> {
        let (mut first, mut n_bytes, mut in_shard, mut n) = (vec![0], 0, 0, 0);
        let mut checksum = crc32fast::Hasher::new();
        for document in texts.documents() {
            let document = document?;
            checksum.update(document.as_bytes());
            n_bytes += document.len() as u64;
            in_shard += document.len();
            n += 1;
            if in_shard >= shard_bytes {
                first.push(n);
                in_shard = 0;
            }
        }
        if in_shard > 0 {
            first.push(n);
        }
        if n == 0 {
            return Err(Error::new(
                ErrorKind::Data,
                format!("there is no text in {} files", texts.files().len()),
                "name files that hold text",
            ));
        }
        Ok(Shards { first, n_bytes, checksum: checksum.finalize() })
    }

    pub(super) fn len(&self) -> usize {
        self.first.len() - 1
    }

    /// The first shard of a process; shards are dealt out in runs, and process 0 always has the first.
    pub(super) fn first_of(&self, rank: usize, size: usize) -> usize {
        (self.len() * rank).div_ceil(size)
    }

    /// The process whose shard this is.
    fn owner(&self, shard: usize, size: usize) -> usize {
        (0..size).rev().find(|&rank| self.first_of(rank, size) <= shard).unwrap_or(0)
    }

    /// Folds all shards along the binary tree that halves them: `leaf` makes the value of a shard, `join` that of a node, and a
    /// node belongs to the process of its first shard. The shape of the tree does not depend on the processes; each
    /// calls `leaf` for its own shards in order, and holds as many values as the tree is deep. The root comes out at rank 0.
    pub(super) fn fold<T>(
        &self,
        peers: &dyn Peers,
        leaf: &mut dyn FnMut(usize) -> Result<T>,
        join: &dyn Fn(T, T) -> Result<T>,
        pack: &dyn Fn(&T) -> Result<Vec<u8>>,
        unpack: &dyn Fn(&[u8]) -> Result<T>,
    ) -> Result<Option<T>> {
        let value = self.node(0, self.len(), peers, leaf, join, pack, unpack)?;
        Ok(value.filter(|_| peers.rank() == 0))
    }

    /// The value over the shards `begin .. end`, if it belongs to this process.
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
            return join(left.expect("its first shard is ours"), right).map(Some);
        }
        if rank == sender {
            peers.send(low, &pack(&right.expect("its first shard is ours"))?)?;
        }
        Ok(None)
    }
}

/// The sequences of documents from one to another: each document's tokens in pieces of `n_ctx`, the last piece of at least
/// `shortest`.
pub(super) struct Sequences<'a> {
    documents: Documents,
    at: usize,
    tokenizer: &'a dyn Tokenize,
    n_ctx: usize,
    shortest: usize,
}

impl<'a> Sequences<'a> {
    pub(super) fn new(texts: &TextFiles, tokenizer: &'a dyn Tokenize, n_ctx: usize, shortest: usize) -> Self {
        Sequences { documents: texts.documents(), at: 0, tokenizer, n_ctx, shortest }
    }

    /// Reads the documents `first .. end`, which must not lie before those that were read.
    pub(super) fn of_documents(&mut self, first: usize, end: usize) -> Result<Vec<Vec<u32>>> {
        let mut sequences = Vec::new();
        while self.at < end {
            let document = self.documents.next().ok_or_else(changed)??;
            self.at += 1;
            if self.at > first {
                let tokens = self.tokenizer.tokens(&document);
                let pieces = tokens.chunks(self.n_ctx).filter(|piece| piece.len() >= self.shortest);
                sequences.extend(pieces.map(<[u32]>::to_vec));
            }
        }
        Ok(sequences)
    }
}

/// The texts are not those that were planned with.
pub(super) fn changed() -> Error {
    Error::new(
        ErrorKind::Data,
        "the texts have changed while they were read",
        "run again when nothing writes to them",
    )
}
