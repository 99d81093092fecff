//! The tokenizers of Hugging Face models: `tokenizer.json`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::{Error, ErrorKind, Result};

/// A `tokenizer.json`, read by the `tokenizers` crate.
///
/// ```no_run
/// use onelens::data::Tokenizer;
/// let tokenizer = Tokenizer::open("a/folder/tokenizer.json")?;
/// let tokens = tokenizer.encode("Once upon a time")?;
/// assert_eq!(tokenizer.decode(&tokens)?, "Once upon a time");
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let shown = path.as_ref().display();
        let refuse = |why: String, help: &str| Error::new(ErrorKind::File, format!("{shown} {why}"), help);
        let bytes = std::fs::read(path.as_ref())
            .map_err(|e| refuse(format!("cannot be read: {e}"), "check the path and its permissions"))?;
        // The crate expects JSON to be whole, and panics in places where it is not.
        let json: serde_json::Result<serde_json::Value> = serde_json::from_slice(&bytes);
        let read = match json {
            Ok(_) => guarded(|| tokenizers::Tokenizer::from_bytes(bytes)),
            Err(e) => Err(e.to_string()),
        };
        match read {
            Ok(inner) => Ok(Tokenizer { inner }),
            Err(e) => Err(refuse(
                format!("is no tokenizer: {e}"),
                "give the `tokenizer.json` that belongs to the model",
            )),
        }
    }

    /// Number of tokens, those that were added to the vocabulary included.
    #[allow(clippy::len_without_is_empty)] // a vocabulary is not a collection to be tested for emptiness
    pub fn len(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The tokens of `text`, with those that the model expects around it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = guarded(|| self.inner.encode(text, true)).map_err(|e| {
            let what = format!("a text of {} bytes cannot be encoded: {e}", text.len());
            Error::new(ErrorKind::Data, what, "is it a text that this tokenizer has pieces for?")
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `tokens`, without special ones.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        guarded(|| self.inner.decode(tokens, true)).map_err(|e| {
            let what = format!("{} tokens cannot be decoded: {e}", tokens.len());
            Error::new(ErrorKind::Data, what, "do these tokens come from this tokenizer?")
        })
    }

    /// How a token is written in a figure: as it reads in a text, or its name if it reads as nothing.
    pub fn token_text(&self, token: u32) -> String {
        let read = guarded(|| self.inner.decode(&[token], false)).unwrap_or_default();
        if read.is_empty() { self.inner.id_to_token(token).unwrap_or_else(|| "�".into()) } else { read }
    }
}

/// What the crate says, a panic of its own included: files decide what it does.
fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(said) => said.map_err(|e| e.to_string()),
        Err(_) => Err("it is damaged".into()),
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer: {} tokens", self.len())
    }
}
