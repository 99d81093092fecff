//! Where tokens come from: real text, and synthetic sources whose true conditional distribution is known.
//!
//! Tokens are `u32`, batches `[sequence, position]`. A batch for training has one position more than the context,
//! so that every input has a next token.

mod copies;
mod gguf;
mod gguf_tokenizer;
mod grammar;
mod hidden_markov;
mod images;
mod lines;
mod markov;
mod pieces;
mod text;
mod text_files;
mod texts;
mod tokenize;
mod tokenizer;
mod vocab;

pub use copies::Copies;
pub(crate) use gguf::{Gguf, is_gguf};
pub use grammar::{Grammar, Rule};
pub use hidden_markov::HiddenMarkov;
pub use images::Images;
pub use lines::Lines;
pub use markov::Markov;
pub use pieces::PieceTokenizer;
pub use text::Corpus;
pub use text_files::{Documents, TextFiles};
pub use texts::Texts;
pub use tokenize::{TokenText, Tokenize};
pub use tokenizer::Tokenizer;
pub use vocab::Vocab;

use ndarray::Array2;

use crate::num::Rng;

/// A supply of token sequences.
pub trait Source {
    /// Number of different tokens.
    fn d_vocab(&self) -> usize;

    /// Draws `n_seqs` sequences of `len` tokens to train on: `[n_seqs, len]`.
    fn sample(&self, n_seqs: usize, len: usize, rng: &mut Rng) -> crate::Result<Array2<u32>>;

    /// The same from data that training never sees. For a source without end, simply more of it.
    fn sample_held_out(&self, n_seqs: usize, len: usize, rng: &mut Rng) -> crate::Result<Array2<u32>>;

    /// The true distribution of each next token, given the tokens so far: `[len, d_vocab]`, row `t` for token `t + 1`.
    /// `None` where nobody knows it, as for real text.
    fn true_conditional(&self, tokens: &[u32]) -> Option<Array2<f64>>;

    /// How a token is written in a figure.
    fn token_text(&self, token: u32) -> String;

    /// The characters that are its tokens, if they are.
    fn vocab(&self) -> Option<&Vocab> {
        None
    }

    /// One line on what this is, for cards and files.
    fn describe(&self) -> String;
}

/// How synthetic sources write a token: a letter, or the number where letters run out.
fn letter(token: u32) -> String {
    match char::from_u32('a' as u32 + token) {
        Some(c) if token < 26 => c.to_string(),
        _ => format!("{token}"),
    }
}
