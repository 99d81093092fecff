//! Where refinement reads its tokens: chunk by chunk, from memory or from anywhere else.

use ndarray::{Array2, CowArray, Ix2, s};

use crate::Result;

/// Sequences of a chunk, at most: what one thread runs at a time.
pub(crate) const CHUNK: usize = 4;

/// Tokens in chunks of up to [`CHUNK`] sequences of one length, which can be read in any order, and again and again.
pub(crate) trait TokenChunks: Sync {
    fn n_chunks(&self) -> usize;

    fn n_tokens(&self) -> usize;

    /// `[sequence, pos]`.
    fn chunk(&self, i: usize) -> Result<CowArray<'_, u32, Ix2>>;
}

impl TokenChunks for Array2<u32> {
    fn n_chunks(&self) -> usize {
        self.nrows().div_ceil(CHUNK)
    }

    fn n_tokens(&self) -> usize {
        self.len()
    }

    fn chunk(&self, i: usize) -> Result<CowArray<'_, u32, Ix2>> {
        Ok(self.slice(s![i * CHUNK..((i + 1) * CHUNK).min(self.nrows()), ..]).into())
    }
}
