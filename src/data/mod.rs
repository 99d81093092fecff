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
mod tokens;
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
pub use tokens::Tokens;
pub use vocab::Vocab;

use ndarray::Array2;

use crate::num::Rng;
use crate::{Error, ErrorKind, Result};

/// A supply of token sequences.
pub trait Source {
    /// Number of different tokens.
    fn d_vocab(&self) -> usize;

    /// Draws `n_seqs` sequences of `len` tokens to train on: `[n_seqs, len]`.
    fn sample(&self, n_seqs: usize, len: usize, rng: &mut Rng) -> Result<Array2<u32>>;

    /// The same from data that training never sees. For a source without end, simply more of it.
    fn sample_held_out(&self, n_seqs: usize, len: usize, rng: &mut Rng) -> Result<Array2<u32>>;

    /// The true distribution of each next token, given the tokens so far: `[len, d_vocab]`, row `t` for token `t + 1`.
    /// `None` where it is not known, as for real text.
    fn true_conditional(&self, tokens: &dyn Tokens) -> Option<Array2<f64>>;

    /// The loss on these sequences, `[n_seqs, len]`, that no model can be expected to beat: the mean of `-ln p` of each
    /// token but the first, in nats, `p` from [`true_conditional`](Source::true_conditional). On many sequences it
    /// comes near the entropy rate of the source, given at most `len - 1` tokens.
    ///
    /// Fails where the true conditional is not known, for tokens that the source never draws, and for sequences of
    /// fewer than two tokens.
    ///
    /// ```
    /// use ndarray::array;
    /// use onelens::data::{Markov, Source};
    /// // Over two states nothing is known of the first step from each of them, p = 1/2; the second time, p = 2/3.
    /// let best = Markov::new(2, 1.0)?.entropy_rate(&array![[0, 1, 0, 1]])?;
    /// assert!((best - (2.0 * 2_f64.ln() + 1.5_f64.ln()) / 3.0).abs() < 1e-12);
    /// # Ok::<(), onelens::Error>(())
    /// ```
    fn entropy_rate(&self, tokens: &Array2<u32>) -> Result<f64> {
        let (n_seqs, len) = tokens.dim();
        if n_seqs == 0 || len < 2 {
            return Err(Error::new(
                ErrorKind::Data,
                format!("{n_seqs} sequences of {len} tokens have no next token"),
                "give at least one sequence of at least two tokens",
            ));
        }
        let mut sum = 0.0;
        for row in tokens.rows() {
            let p = self.true_conditional(&row).ok_or_else(|| {
                Error::new(
                    ErrorKind::Data,
                    format!("no true distribution of these tokens is known ({})", self.describe()),
                    "use a source that has one, such as `Markov`, and tokens that it drew",
                )
            })?;
            sum -= (1..len).map(|t| p[(t - 1, row[t] as usize)].ln()).sum::<f64>();
        }
        Ok(sum / (n_seqs * (len - 1)) as f64)
    }

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
