//! Which keys a query sees.

use serde::{Deserialize, Serialize};

/// Which positions attention may look at.
///
/// ```
/// use onelens::nn::Mask;
/// assert_eq!(Mask::Causal.n_visible(1, 4), 2); // itself and the one before
/// assert_eq!(Mask::Prefix(3).n_visible(1, 4), 3);
/// assert_eq!(Mask::None.n_visible(1, 4), 4);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mask {
    /// Every position sees itself and what came before.
    #[default]
    Causal,
    /// The first positions, this many, all see each other; the others see what came before (prefix language model,
    /// Raffel et al. 2020).
    Prefix(usize),
    /// Every position sees every other (TransformerLens: `attention_dir = "bidirectional"`).
    None,
}

impl Mask {
    /// Says how many keys the query at position `query` sees among `n_pos`. They are always the first ones.
    #[inline]
    pub fn n_visible(self, query: usize, n_pos: usize) -> usize {
        match self {
            Mask::Causal => query + 1,
            Mask::Prefix(n) => (query + 1).max(n).min(n_pos),
            Mask::None => n_pos,
        }
    }
}
