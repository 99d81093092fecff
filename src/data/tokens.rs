//! Sequences of tokens, however they are held.

use std::borrow::Cow;

use ndarray::{ArrayBase, Data, Ix1};

/// The tokens of one sequence: a slice, a `Vec`, a list, an array, or a row of a batch; itself or by reference.
///
/// ```
/// use ndarray::array;
/// use onelens::data::Vocab;
/// let vocab = Vocab::from_text("abba", 1);
/// let batch = array![[1, 2, 2], [2, 1, 1]];
/// assert_eq!(vocab.decode(batch.row(1)), "baa");
/// assert_eq!(vocab.decode([1, 2]), "ab");
/// ```
pub trait Tokens {
    /// The tokens in order.
    fn tokens(&self) -> Cow<'_, [u32]>;
}

impl Tokens for [u32] {
    fn tokens(&self) -> Cow<'_, [u32]> {
        Cow::Borrowed(self)
    }
}

impl Tokens for Vec<u32> {
    fn tokens(&self) -> Cow<'_, [u32]> {
        Cow::Borrowed(self)
    }
}

impl<const N: usize> Tokens for [u32; N] {
    fn tokens(&self) -> Cow<'_, [u32]> {
        Cow::Borrowed(self)
    }
}

impl<S: Data<Elem = u32>> Tokens for ArrayBase<S, Ix1> {
    fn tokens(&self) -> Cow<'_, [u32]> {
        self.as_slice().map_or_else(|| Cow::Owned(self.to_vec()), Cow::Borrowed)
    }
}

impl<T: Tokens + ?Sized> Tokens for &T {
    fn tokens(&self) -> Cow<'_, [u32]> {
        (**self).tokens()
    }
}
