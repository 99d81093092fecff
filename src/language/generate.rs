//! Continuing a text, live in the cell.

use std::fmt;

use super::LanguageModel;
use crate::Result;
use crate::session::Live;

/// A text and how a model went on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continuation {
    /// The text that was given.
    pub prompt: String,
    /// What the model added.
    pub text: String,
    /// The tokens of that.
    pub tokens: Vec<u32>,
}

impl fmt::Display for Continuation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.prompt, self.text)
    }
}

impl PartialEq<str> for Continuation {
    fn eq(&self, text: &str) -> bool {
        self.text == text
    }
}

impl LanguageModel {
    /// Continues `prompt` by up to `n` tokens, each the most probable one; the text grows in the cell while it is made.
    /// It ends before a token that ends a text.
    pub fn generate(&self, prompt: &str, n: usize) -> Result<Continuation> {
        self.continue_with(prompt, n, None, &mut |_| {})
    }

    /// Does the same with tokens drawn at `temperature` (1 is the model's own distribution, towards 0 the most probable
    /// one).
    pub fn generate_sampled(
        &self,
        prompt: &str,
        n: usize,
        temperature: f64,
        seed: u64,
    ) -> Result<Continuation> {
        self.continue_with(prompt, n, Some((temperature, seed)), &mut |_| {})
    }

    /// Does the same, and gives `write` each piece of text as soon as it is there: whole characters only.
    pub fn continue_with(
        &self,
        prompt: &str,
        n: usize,
        sampled: Option<(f64, u64)>,
        write: &mut dyn FnMut(&str),
    ) -> Result<Continuation> {
        let start = self.to_tokens(prompt)?;
        let mut so_far = Continuation { prompt: prompt.into(), text: String::new(), tokens: Vec::new() };
        let mut live = Live::new("generate");
        let mut seen = |token: u32, so_far: &mut Continuation| -> Result<bool> {
            if self.conventions.eos.contains(&token) {
                return Ok(false);
            }
            so_far.tokens.push(token);
            let text = self.tokenizer.decode(&so_far.tokens)?;
            // A character may need several tokens; half of one reads as �.
            if let Some(new) = text.strip_prefix(&so_far.text[..])
                && !new.is_empty()
                && !text.ends_with('�')
            {
                write(new);
                so_far.text = text;
                live.update(|| vec![("text/plain".into(), so_far.to_string())]);
            }
            Ok(true)
        };
        self.model.generate_each(&start, n, sampled, &mut |token| seen(token, &mut so_far))?;
        so_far.text = self.tokenizer.decode(&so_far.tokens)?;
        live.finish(&format!("{} tokens", so_far.tokens.len()));
        Ok(so_far)
    }
}
