//! The tokenizer that a GGUF file describes.

use std::path::Path;

use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use super::tokenizer::guarded;
use super::{Gguf, PieceTokenizer, Tokenizer};
use crate::Result;

/// Kinds of tokens that GGUF tells apart.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// How text is cut before pairs are merged, by the name in the file (`tokenizer.ggml.pre`).
#[derive(Clone, Copy)]
enum Cut {
    /// GPT-2's words.
    Words,
    /// The same, each digit by itself.
    WordsAndDigits,
    /// Llama 3's words, digits in threes.
    Llama3,
    /// Qwen 2's words, each digit by itself.
    Qwen2,
}

/// The regular expressions with which the models were trained (Hugging Face's `tokenizer.json` of Meta-Llama-3-8B and
/// Qwen2-0.5B).
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Cut {
    fn named(head: &Gguf) -> Result<Self> {
        match head.text("tokenizer.ggml.pre")?.unwrap_or("default") {
            "default" | "gpt-2" | "mpt" | "olmo" | "jais" => Ok(Cut::Words),
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => Ok(Cut::WordsAndDigits),
            "llama-bpe" | "llama3" | "llama-v3" | "smaug-bpe" => Ok(Cut::Llama3),
            "qwen2" | "deepseek-r1-qwen" => Ok(Cut::Qwen2),
            other => Err(head.refuse(
                format!("cuts text as {other:?} does"),
                "default, gpt-2, smollm, starcoder, llama-bpe, qwen2 and their relatives are read; or give the model's tokenizer.json as its tokenizer",
            )),
        }
    }

    fn pre_tokenizer(self) -> tokenizers::Result<PreTokenizerWrapper> {
        let bytes = |use_regex: bool| ByteLevel::new(false, true, use_regex);
        let words = |regex: &str| {
            Split::new(SplitPattern::Regex(regex.into()), SplitDelimiterBehavior::Isolated, false)
        };
        Ok(match self {
            Cut::Words => bytes(true).into(),
            Cut::WordsAndDigits => Sequence::new(vec![Digits::new(true).into(), bytes(true).into()]).into(),
            Cut::Llama3 => Sequence::new(vec![words(LLAMA3)?.into(), bytes(false).into()]).into(),
            Cut::Qwen2 => Sequence::new(vec![words(QWEN2)?.into(), bytes(false).into()]).into(),
        })
    }
}

impl Tokenizer {
    /// Reads the tokenizer in a GGUF file: byte pairs (`gpt2`) or pieces with scores (`llama`).
    ///
    /// Fails on another kind, and on another way to cut text, naming it.
    pub fn from_gguf(path: impl AsRef<Path>) -> Result<Self> {
        let head = Gguf::open(path.as_ref())?;
        match head.text("tokenizer.ggml.model")? {
            Some("gpt2") => byte_pairs(&head),
            Some("llama") => pieces(&head),
            Some(other) => Err(head.refuse(
                format!("has a tokenizer of the kind {other:?}"),
                "gpt2 and llama are read; or give the model's tokenizer.json as its tokenizer",
            )),
            None => Err(head.refuse("has no tokenizer", "give the model's tokenizer.json as its tokenizer")),
        }
    }
}

fn byte_pairs(head: &Gguf) -> Result<Tokenizer> {
    let names = head.texts("tokenizer.ggml.tokens")?;
    let broken = |why: String| head.refuse(format!("has a broken tokenizer: {why}"), "fetch the file anew");
    let vocab: Vocab = names.iter().zip(0..).map(|(name, id)| (name.to_string(), id)).collect();
    let merges = head.texts("tokenizer.ggml.merges")?;
    let pair = |merge: &&str| merge.split_once(' ').map(|(a, b)| (a.to_string(), b.to_string()));
    let merges: Option<Vec<(String, String)>> = merges.iter().map(pair).collect();
    let merges = merges.ok_or_else(|| broken("a merge is no pair".into()))?;
    let cut = Cut::named(head)?;
    let kinds = head.counts("tokenizer.ggml.token_type")?.unwrap_or_default();
    let added = |wanted: i64, special: bool| -> Vec<AddedToken> {
        let of_kind = names.iter().zip(&kinds).filter(|(_, kind)| **kind == wanted);
        of_kind.map(|(name, _)| AddedToken::from(name.to_string(), special).normalized(!special)).collect()
    };
    let token = |key: &str| -> Result<Option<(String, u32)>> {
        let Some(id) = head.count(key)? else { return Ok(None) };
        let name = usize::try_from(id).ok().and_then(|at| names.get(at));
        let name = name.ok_or_else(|| broken(format!("`{key}` is {id} of {} tokens", names.len())))?;
        Ok(Some((name.to_string(), id as u32)))
    };
    let around = [
        ("tokenizer.ggml.add_bos_token", token("tokenizer.ggml.bos_token_id")?),
        ("tokenizer.ggml.add_eos_token", token("tokenizer.ggml.eos_token_id")?),
    ];
    let mut template = vec!["$A".to_string()];
    let mut specials = Vec::new();
    for (i, (flag, token)) in around.into_iter().enumerate() {
        if let (Some(true), Some((name, id))) = (head.flag(flag)?, token) {
            template.insert(if i == 0 { 0 } else { template.len() }, name.clone());
            specials.push((name, id));
        }
    }
    let built = guarded(|| {
        let bpe = BPE::builder().vocab_and_merges(vocab, merges).build()?;
        let mut inner = tokenizers::Tokenizer::new(bpe);
        if matches!(cut, Cut::Qwen2) {
            inner.with_normalizer(Some(NFC))?;
        }
        inner.with_pre_tokenizer(Some(cut.pre_tokenizer()?));
        inner.with_decoder(Some(ByteLevel::default()));
        if !specials.is_empty() {
            let around =
                TemplateProcessing::builder().try_single(template)?.special_tokens(specials).build()?;
            inner.with_post_processor(Some(around));
        }
        inner.add_special_tokens(added(CONTROL, true))?;
        inner.add_tokens(added(USER_DEFINED, false))?;
        Ok(inner)
    });
    built.map(Tokenizer::json).map_err(broken)
}

fn pieces(head: &Gguf) -> Result<Tokenizer> {
    let names = head.texts("tokenizer.ggml.tokens")?;
    let scores = head.numbers("tokenizer.ggml.scores")?;
    // SentencePiece writes a space as a low line of its own.
    let pieces = names.iter().map(|name| name.replace('\u{2581}', " ").into_bytes()).collect();
    let bos = match head.flag("tokenizer.ggml.add_bos_token")? {
        Some(false) => None,
        Some(true) | None => {
            head.count("tokenizer.ggml.bos_token_id")?.and_then(|id| u32::try_from(id).ok()).or(Some(1))
        }
    };
    let space = head.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let first_byte = names.iter().position(|name| *name == "<0x00>").and_then(|at| u32::try_from(at).ok());
    let Some(first_byte) = first_byte else {
        return Err(head
            .refuse("has pieces without the 256 bytes", "give the model's tokenizer.json as its tokenizer"));
    };
    PieceTokenizer::from_pieces(pieces, scores, bos, first_byte, space)
        .map(Tokenizer::pieces)
        .map_err(|why| head.refuse(format!("has a broken tokenizer: {why}"), "fetch the file anew"))
}
