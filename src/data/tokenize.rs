//! From text to tokens and back.

use super::{PieceTokenizer, Vocab};

/// What turns text into a model's tokens, and tokens into text.
///
/// ```
/// use onelens::data::{Tokenize, Vocab};
/// let vocab = Vocab::from_text("abba", 1);
/// let tokenizer: &dyn Tokenize = &vocab;
/// assert_eq!(tokenizer.tokens("ab"), [1, 2]);
/// assert_eq!(tokenizer.text(&[2, 1]), "ba");
/// assert_eq!(tokenizer.d_vocab(), 3); // a, b and �
/// ```
pub trait Tokenize: Sync {
    /// The tokens of a document. What has no token of its own becomes what the tokenizer has for that.
    fn tokens(&self, text: &str) -> Vec<u32>;

    /// The text of tokens.
    fn text(&self, tokens: &[u32]) -> String;

    /// Number of different tokens.
    fn d_vocab(&self) -> usize;
}

impl Tokenize for Vocab {
    fn tokens(&self, text: &str) -> Vec<u32> {
        self.encode_lossy(text)
    }

    fn text(&self, tokens: &[u32]) -> String {
        self.decode(tokens)
    }

    fn d_vocab(&self) -> usize {
        self.len()
    }
}

impl Tokenize for PieceTokenizer {
    fn tokens(&self, text: &str) -> Vec<u32> {
        self.encode(text)
    }

    fn text(&self, tokens: &[u32]) -> String {
        self.decode(tokens)
    }

    fn d_vocab(&self) -> usize {
        self.len()
    }
}
