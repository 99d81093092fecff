//! Characters as tokens.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Tokens;
use crate::{Error, ErrorKind, Result};

/// A character vocabulary. Token 0 is `�`, which stands for every character too rare to have a token of its own.
///
/// ```
/// use onelens::data::Vocab;
/// let vocab = Vocab::from_text("abba", 1);
/// assert_eq!(vocab.encode_lossy("abc"), [1, 2, 0]);
/// assert_eq!(vocab.decode(&[1, 2, 0]), "ab�");
/// assert!(vocab.encode("abc").unwrap_err().to_string().contains("'c'"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vocab {
    chars: Vec<char>,
}

const RARE: char = char::REPLACEMENT_CHARACTER;

impl Vocab {
    /// Collects the characters that occur at least `min_count` times in `text`, in code-point order, after `�`.
    pub fn from_text(text: &str, min_count: usize) -> Self {
        let mut counts = BTreeMap::new();
        for c in text.chars().filter(|&c| c != RARE) {
            *counts.entry(c).or_insert(0_usize) += 1;
        }
        let common = counts.into_iter().filter(|&(_, n)| n >= min_count).map(|(c, _)| c);
        Vocab { chars: std::iter::once(RARE).chain(common).collect() }
    }

    /// Returns the number of tokens, `�` included.
    #[allow(clippy::len_without_is_empty)] // `�` is always there
    pub fn len(&self) -> usize {
        self.chars.len()
    }

    fn token(&self, c: char) -> Option<u32> {
        // All but the first are sorted.
        self.chars[1..].binary_search(&c).ok().map(|i| i as u32 + 1)
    }

    /// Returns the tokens of `text`, with `�` for characters that have none.
    pub fn encode_lossy(&self, text: &str) -> Vec<u32> {
        text.chars().map(|c| self.token(c).unwrap_or(0)).collect()
    }

    /// Returns the tokens of `text`; a character without a token is an error that names it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        text.chars()
            .enumerate()
            .map(|(at, c)| {
                self.token(c).ok_or_else(|| {
                    let known: String = self.chars[1..].iter().collect();
                    Error::new(
                        ErrorKind::Data,
                        format!("the model has no token for {c:?}, character {at} of the text"),
                        format!("use only characters of its training text: {known:?}; or `encode_lossy`, which writes � instead"),
                    )
                })
            })
            .collect()
    }

    /// Returns the text of `tokens`; a number that is no token becomes `�`.
    pub fn decode(&self, tokens: impl Tokens) -> String {
        tokens.tokens().iter().map(|&t| self.chars.get(t as usize).copied().unwrap_or(RARE)).collect()
    }
}
