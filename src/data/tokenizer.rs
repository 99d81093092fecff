//! The tokenizer of a model, in whichever form it is there.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::{PieceTokenizer, TokenText, Tokenize, Tokens, Vocab};
use crate::{Error, ErrorKind, Result};

/// The tokenizer of a model: a Hugging Face `tokenizer.json`, the one that a GGUF file describes, the pieces of
/// llama2.c, or characters.
///
/// ```no_run
/// use onelens::data::Tokenizer;
/// let tokenizer = Tokenizer::open("a/folder/with/a/tokenizer.json")?;
/// let tokens = tokenizer.encode("Once upon a time")?;
/// assert_eq!(tokenizer.decode(&tokens)?, "Once upon a time");
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Json(Box<tokenizers::Tokenizer>),
    Pieces(PieceTokenizer),
    Characters(Vocab),
}

impl Tokenizer {
    /// Reads a tokenizer by what the file is: a `tokenizer.json` or the folder that holds one, a GGUF file, or the
    /// `tokenizer.bin` of llama2.c (such as `tok512.bin`).
    ///
    /// Fails on anything else: a text is no tokenizer. For a model whose tokens are characters, see
    /// [`characters`](Tokenizer::characters).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let shown = path.display();
        let refuse = |why: String, help: &str| Error::new(ErrorKind::File, format!("{shown} {why}"), help);
        if path.is_dir() {
            let inside = path.join("tokenizer.json");
            if inside.is_file() {
                return Tokenizer::open(inside);
            }
            return Err(refuse(
                "holds no tokenizer.json".into(),
                "give the folder of a Hugging Face model, or a tokenizer.json, GGUF or tokenizer.bin file",
            ));
        }
        if super::is_gguf(path) {
            return Tokenizer::from_gguf(path);
        }
        let bytes = std::fs::read(path).map_err(|e| Error::unread(path, e))?;
        if !bytes.iter().find(|b| !b.is_ascii_whitespace()).is_some_and(|&b| b == b'{' || b == b'[') {
            return match PieceTokenizer::open(path) {
                Ok(pieces) => Ok(Tokenizer { kind: Kind::Pieces(pieces) }),
                Err(_) => Err(refuse(
                    "is no tokenizer".into(),
                    "give a `tokenizer.json` or its folder, a GGUF file, or the `tokenizer.bin` of a llama2.c model",
                )),
            };
        }
        // The crate expects JSON to be whole, and panics in places where it is not. Its `from_bytes` is generic: what
        // it needs of serde would be compiled here once more, a tenth of this library.
        let json: serde_json::Result<serde_json::Value> = serde_json::from_slice(&bytes);
        let read = match (json, String::from_utf8(bytes)) {
            (Ok(_), Ok(text)) => guarded(|| text.parse::<tokenizers::Tokenizer>()),
            (Err(e), _) => Err(e.to_string()),
            (_, Err(e)) => Err(e.to_string()),
        };
        match read {
            Ok(inner) => Ok(Tokenizer::json(inner)),
            Err(e) => Err(refuse(
                format!("is no tokenizer: {e}"),
                "give the `tokenizer.json` that belongs to the model",
            )),
        }
    }

    /// A tokenizer of the `tokenizers` crate.
    pub(super) fn json(inner: tokenizers::Tokenizer) -> Self {
        Tokenizer { kind: Kind::Json(Box::new(inner)) }
    }

    /// Takes characters as tokens.
    ///
    /// ```
    /// use onelens::data::{Tokenizer, Vocab};
    /// let letters = Tokenizer::characters(Vocab::from_text("abba", 1));
    /// assert_eq!((letters.len(), letters.encode("ab")?), (3, vec![1, 2]));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn characters(vocab: Vocab) -> Self {
        Tokenizer { kind: Kind::Characters(vocab) }
    }

    /// Takes pieces with scores.
    pub fn pieces(pieces: PieceTokenizer) -> Self {
        Tokenizer { kind: Kind::Pieces(pieces) }
    }

    /// Returns the characters that are its tokens, if they are.
    pub fn vocab(&self) -> Option<&Vocab> {
        match &self.kind {
            Kind::Characters(vocab) => Some(vocab),
            Kind::Json(_) | Kind::Pieces(_) => None,
        }
    }

    /// Returns the number of tokens, those that were added to the vocabulary included.
    #[allow(clippy::len_without_is_empty)] // a vocabulary is not a collection to be tested for emptiness
    pub fn len(&self) -> usize {
        match &self.kind {
            Kind::Json(inner) => inner.get_vocab_size(true),
            Kind::Pieces(pieces) => pieces.len(),
            Kind::Characters(vocab) => vocab.len(),
        }
    }

    /// Finds the token with this name, such as `<|endoftext|>`.
    pub fn token(&self, name: &str) -> Option<u32> {
        match &self.kind {
            Kind::Json(inner) => inner.token_to_id(name),
            Kind::Pieces(pieces) => pieces.token(name),
            Kind::Characters(vocab) => vocab.encode(name).ok().filter(|t| t.len() == 1).map(|t| t[0]),
        }
    }

    /// Returns the tokens of `text`, with those that the model expects around it.
    ///
    /// Fails on a character that a vocabulary of characters does not have, naming it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match &self.kind {
            Kind::Json(inner) => {
                let encoding = guarded(|| inner.encode(text, true)).map_err(|e| {
                    let what = format!("a text of {} bytes cannot be encoded: {e}", text.len());
                    Error::new(ErrorKind::Data, what, "is it a text that this tokenizer has pieces for?")
                })?;
                Ok(encoding.get_ids().to_vec())
            }
            Kind::Pieces(pieces) => Ok(pieces.encode(text)),
            Kind::Characters(vocab) => vocab.encode(text),
        }
    }

    /// Returns the text of `tokens`, without special ones such as `<|endoftext|>`.
    pub fn decode(&self, tokens: impl Tokens) -> Result<String> {
        self.write(&tokens.tokens(), true)
    }

    /// Returns the text of `tokens`, special ones by their names.
    pub fn decode_all(&self, tokens: impl Tokens) -> Result<String> {
        self.write(&tokens.tokens(), false)
    }

    fn write(&self, tokens: &[u32], without_special: bool) -> Result<String> {
        match &self.kind {
            Kind::Json(inner) => guarded(|| inner.decode(tokens, without_special)).map_err(|e| {
                let what = format!("{} tokens cannot be decoded: {e}", tokens.len());
                Error::new(ErrorKind::Data, what, "do these tokens come from this tokenizer?")
            }),
            Kind::Pieces(pieces) => Ok(pieces.decode(tokens)),
            Kind::Characters(vocab) => Ok(vocab.decode(tokens)),
        }
    }

    /// Says how a token is written in a figure: as it reads in a text, or its name if it reads as nothing.
    pub fn token_text(&self, token: u32) -> String {
        match &self.kind {
            Kind::Json(inner) => {
                let read = guarded(|| inner.decode(&[token], false)).unwrap_or_default();
                if read.is_empty() { inner.id_to_token(token).unwrap_or_else(|| "�".into()) } else { read }
            }
            Kind::Pieces(pieces) => pieces.token_text(token),
            Kind::Characters(vocab) => vocab.decode([token]),
        }
    }
}

impl Tokenize for Tokenizer {
    fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        match &self.kind {
            Kind::Json(_) | Kind::Pieces(_) => self.encode(text),
            Kind::Characters(vocab) => vocab.tokens(text),
        }
    }

    fn text(&self, tokens: &[u32]) -> Result<String> {
        self.decode(tokens)
    }

    fn d_vocab(&self) -> usize {
        self.len()
    }
}

impl TokenText for Tokenizer {
    fn token_text(&self, token: u32) -> String {
        Tokenizer::token_text(self, token)
    }
}

/// What the crate says, a panic of its own included: files decide what it does.
pub(super) fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(said) => said.map_err(|e| e.to_string()),
        Err(_) => Err("it is damaged".into()),
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.kind {
            Kind::Json(_) => "tokens",
            Kind::Pieces(_) => "pieces",
            Kind::Characters(_) => "characters",
        };
        write!(f, "Tokenizer: {} {kind}", self.len())
    }
}
