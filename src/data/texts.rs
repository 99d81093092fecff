//! Texts that a tokenizer has cut into tokens.

use std::path::Path;

use ndarray::Array2;
use rayon::prelude::*;

use super::{Source, TokenText, Tokenize, Tokens};
use crate::num::{Rng, uniform_index};
use crate::{Error, ErrorKind, Result};

/// Texts as a [`Source`] for a model with a tokenizer of its own. Every sequence is a stretch of one text, from its
/// beginning if it is short; the last tenth of the texts is held out.
///
/// ```
/// use onelens::{data::{Source, Texts}, num::rng};
/// let pieces = ["a", "b", "."].map(String::from).to_vec();
/// let texts = vec![vec![0, 1, 0, 2], vec![1, 0, 1, 2]];
/// let source = Texts::new("two sentences", texts, pieces)?;
/// let held_out = source.sample_held_out(1, 4, &mut rng(0, 0))?;
/// assert_eq!(held_out.row(0).to_vec(), [1, 0, 1, 2]);
/// assert_eq!(source.token_text(1), "b");
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Texts {
    name: String,
    texts: Vec<Vec<u32>>,
    /// How each token is written.
    pieces: Vec<String>,
    /// The first texts, this many, are to train on.
    n_train: usize,
}

impl Texts {
    /// Takes texts that are tokens already, and how each token is written. The order decides which texts are held out.
    ///
    /// Fails with fewer than two texts, or on a token that has no piece.
    pub fn new(name: &str, texts: Vec<Vec<u32>>, pieces: Vec<String>) -> Result<Self> {
        let refuse = |what: String, help: &str| Err(Error::new(ErrorKind::Data, what, help));
        if texts.len() < 2 {
            return refuse(
                format!("{} texts cannot be split", texts.len()),
                "give at least two: the last tenth, at least one, is held out",
            );
        }
        for (i, text) in texts.iter().enumerate() {
            if let Some(token) = text.iter().find(|&&t| t as usize >= pieces.len()) {
                return refuse(
                    format!("text {i} holds the token {token}, and there are {} pieces", pieces.len()),
                    "were the texts encoded with another tokenizer?",
                );
            }
        }
        let n_train = texts.len() - (texts.len() / 10).max(1);
        Ok(Texts { name: name.into(), texts, pieces, n_train })
    }

    /// Cuts `texts` by a tokenizer, with the tokens that it puts around each.
    pub fn encode(name: &str, texts: &[String], tokenizer: &(impl Tokenize + TokenText)) -> Result<Self> {
        let pieces = (0..tokenizer.d_vocab()).map(|token| tokenizer.token_text(token as u32)).collect();
        let texts = texts.par_iter().map(|text| tokenizer.tokens(text)).collect::<Result<_>>()?;
        Texts::new(name, texts, pieces)
    }

    /// Does the same for a file that holds a JSON list of texts.
    pub fn read_json(
        name: &str,
        path: impl AsRef<Path>,
        tokenizer: &(impl Tokenize + TokenText),
    ) -> Result<Self> {
        let shown = path.as_ref().display();
        let refuse = |what: String, help: &str| Error::new(ErrorKind::File, format!("{shown} {what}"), help);
        let bytes = std::fs::read(path.as_ref()).map_err(|e| Error::unread(path.as_ref(), e))?;
        let texts: Vec<String> = serde_json::from_slice(&bytes).map_err(|e| {
            refuse(format!("is no list of texts: {e}"), "give a JSON file such as [\"a\", \"b\"]")
        })?;
        Texts::encode(name, &texts, tokenizer)
    }

    fn draw(&self, texts: &[Vec<u32>], n_seqs: usize, len: usize, rng: &mut Rng) -> Result<Array2<u32>> {
        let long: Vec<&Vec<u32>> = texts.iter().filter(|text| text.len() >= len).collect();
        if long.is_empty() {
            let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
            return Err(Error::new(
                ErrorKind::Data,
                format!("no text has {len} tokens; the longest of {} has {longest}", texts.len()),
                "ask for shorter sequences, or give longer texts",
            ));
        }
        let mut batch = Array2::zeros((n_seqs, len));
        for mut row in batch.rows_mut() {
            let text = long[uniform_index(rng, long.len())];
            let from = uniform_index(rng, text.len() - len + 1);
            row.iter_mut().zip(&text[from..]).for_each(|(to, &token)| *to = token);
        }
        Ok(batch)
    }
}

impl Source for Texts {
    fn d_vocab(&self) -> usize {
        self.pieces.len()
    }

    fn sample(&self, n_seqs: usize, len: usize, rng: &mut Rng) -> Result<Array2<u32>> {
        self.draw(&self.texts[..self.n_train], n_seqs, len, rng)
    }

    fn sample_held_out(&self, n_seqs: usize, len: usize, rng: &mut Rng) -> Result<Array2<u32>> {
        self.draw(&self.texts[self.n_train..], n_seqs, len, rng)
    }

    fn true_conditional(&self, _tokens: &dyn Tokens) -> Option<Array2<f64>> {
        None
    }

    fn token_text(&self, token: u32) -> String {
        self.pieces.get(token as usize).cloned().unwrap_or_else(|| "�".into())
    }

    fn describe(&self) -> String {
        self.name.clone()
    }
}

impl std::fmt::Debug for Texts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let n: usize = self.texts.iter().map(Vec::len).sum();
        let held_out = self.texts.len() - self.n_train;
        write!(f, "Texts: {}, {} texts ({held_out} held out), {n} tokens", self.name, self.texts.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::rng;

    #[test]
    fn sequences_are_stretches_of_one_text_and_held_out_ones_are_never_trained_on() {
        // Text i holds the tokens 10 i .. 10 i + 9.
        let texts: Vec<Vec<u32>> = (0..20).map(|i| (10 * i..10 * i + 10).collect()).collect();
        let source = Texts::new("counting", texts, (0..200).map(|i| i.to_string()).collect()).unwrap();
        let check = |batch: Array2<u32>, texts: std::ops::Range<u32>| {
            for row in batch.rows() {
                assert!(row.iter().zip(row.iter().skip(1)).all(|(a, b)| b - a == 1));
                assert!(texts.contains(&(row[0] / 10)) && row[0] / 10 == row[3] / 10, "{row}");
            }
        };
        check(source.sample(200, 4, &mut rng(0, 0)).unwrap(), 0..18);
        check(source.sample_held_out(200, 4, &mut rng(0, 0)).unwrap(), 18..20);
    }

    #[test]
    fn texts_that_do_not_do_are_refused() {
        let pieces = || vec!["a".to_string(), "b".to_string()];
        let what = |texts| Texts::new("x", texts, pieces()).unwrap_err().to_string();
        assert!(what(vec![vec![0]]).contains("1 texts cannot be split"));
        assert!(what(vec![vec![0], vec![1, 2]]).contains("text 1 holds the token 2"));
        let source = Texts::new("x", vec![vec![0, 1], vec![1, 0, 1]], pieces()).unwrap();
        assert!(source.sample(1, 3, &mut rng(0, 0)).unwrap_err().what().contains("the longest of 1 has 2"));
    }
}
