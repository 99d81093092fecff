//! From text to tokens and back.

use super::{PieceTokenizer, Source, Vocab};
use crate::Result;

/// What turns text into a model's tokens, and tokens into text.
///
/// ```
/// use onelens::data::{Tokenize, Vocab};
/// let vocab = Vocab::from_text("abba", 1);
/// let tokenizer: &dyn Tokenize = &vocab;
/// assert_eq!(tokenizer.tokens("ab")?, [1, 2]);
/// assert_eq!(tokenizer.text(&[2, 1])?, "ba");
/// assert_eq!(tokenizer.d_vocab(), 3); // a, b and �
/// # Ok::<(), onelens::Error>(())
/// ```
pub trait Tokenize: Sync {
    /// The tokens of a document. What has no token of its own becomes what the tokenizer has for that.
    ///
    /// Fails where the tokenizer has nothing for it.
    fn tokens(&self, text: &str) -> Result<Vec<u32>>;

    /// The text of tokens.
    ///
    /// Fails on numbers that are no tokens, where the tokenizer has no way to write them.
    fn text(&self, tokens: &[u32]) -> Result<String>;

    /// Number of different tokens.
    fn d_vocab(&self) -> usize;
}

impl Tokenize for Vocab {
    fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encode_lossy(text))
    }

    fn text(&self, tokens: &[u32]) -> Result<String> {
        Ok(self.decode(tokens))
    }

    fn d_vocab(&self) -> usize {
        self.len()
    }
}

impl Tokenize for PieceTokenizer {
    fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encode(text))
    }

    fn text(&self, tokens: &[u32]) -> Result<String> {
        Ok(self.decode(tokens))
    }

    fn d_vocab(&self) -> usize {
        self.len()
    }
}

/// How a token is written in a figure: by a [`Source`] of tokens, or by a tokenizer.
pub trait TokenText {
    /// The token as it reads in a text.
    fn token_text(&self, token: u32) -> String;
}

impl TokenText for PieceTokenizer {
    fn token_text(&self, token: u32) -> String {
        PieceTokenizer::token_text(self, token)
    }
}

impl<S: Source> TokenText for S {
    fn token_text(&self, token: u32) -> String {
        Source::token_text(self, token)
    }
}
