//! Texts cut into shards.

use ndarray::Array2;

use crate::data::{Documents, TextFiles, Tokenize};
use crate::{Error, ErrorKind, Result};

use super::tree::Tree;

/// Where shards begin: by a pass over the texts that computes nothing.
pub(super) struct Shards {
    /// For each shard, the number of its first document; after the last, the number of documents.
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

    pub(super) fn tree(&self) -> Tree {
        Tree { n: self.len() }
    }
}

/// The sequences of documents from one to another: each document's tokens in pieces of `n_ctx`, the last piece of at
/// least `shortest`.
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
                let tokens = self.tokenizer.tokens(&document)?;
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

/// Runs of up to `most` sequences of the same length: what goes through a model together.
pub(super) fn chunks(sequences: &[Vec<u32>], most: usize) -> Vec<&[Vec<u32>]> {
    sequences.chunk_by(|a, b| a.len() == b.len()).flat_map(|run| run.chunks(most)).collect()
}

/// Such a run as `[sequence, pos]`.
pub(super) fn as_array(chunk: &[Vec<u32>]) -> Array2<u32> {
    let tokens: Vec<u32> = chunk.iter().flatten().copied().collect();
    Array2::from_shape_vec((chunk.len(), chunk[0].len()), tokens).expect("equal lengths")
}
