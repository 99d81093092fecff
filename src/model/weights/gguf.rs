//! GGUF files: settings, weights and tokenizer in one, the weights often quantised.
//!
//! The settings become those of a `config.json`, and the tensors get the names of a Hugging Face checkpoint, so that
//! one reader per family serves both. Rows that llama.cpp has put into another order are read in the one they had.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::families::transformer;
use super::tensors::{Stored, Tensors};
use crate::data::Gguf;
use crate::model::Transformer;
use crate::model::numbers::{FileBytes, Kind};
use crate::{Error, Result};

impl Transformer {
    /// Reads a GGUF file, such as llama.cpp's: architectures `llama` (Llama, Mistral, SmolLM), `qwen2` and `qwen3`;
    /// numbers as F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 and Q2_K to Q6_K. Weights stay as they are stored, in
    /// the mapped file, and become `f32` block by block when they run.
    ///
    /// Fails on another architecture or kind of numbers, naming it, and on a setting that this crate does not compute.
    pub fn from_gguf(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let head = Gguf::open(path)?;
        let architecture = Architecture::of(&head)?;
        let config = settings(&head, architecture)?;
        let tensors = tensors(path, &head, architecture, &config)?;
        transformer(head.shown(), config, tensors)
    }
}

/// What is read of GGUF, by its `general.architecture`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Architecture {
    Llama,
    Qwen2,
    Qwen3,
}

impl Architecture {
    fn of(head: &Gguf) -> Result<Self> {
        match head.text("general.architecture")? {
            Some("llama") => Ok(Architecture::Llama),
            Some("qwen2") => Ok(Architecture::Qwen2),
            Some("qwen3") => Ok(Architecture::Qwen3),
            other => Err(head.refuse(
                format!("has the architecture {}", other.map_or("of nothing".into(), |a| format!("{a:?}"))),
                "GGUF files are read of llama, qwen2 and qwen3; of other families open the folder from Hugging Face",
            )),
        }
    }

    /// The prefix of its settings.
    fn name(self) -> &'static str {
        match self {
            Architecture::Llama => "llama",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
        }
    }
}

/// The settings as a `config.json` says them.
fn settings(head: &Gguf, architecture: Architecture) -> Result<Value> {
    let name = architecture.name();
    let key = |rest: &str| format!("{name}.{rest}");
    let mut config = Map::new();
    config.insert("model_type".into(), name.into());
    let mut count = |ours: &str, rest: &str| -> Result<Option<u64>> {
        let count = head.count(&key(rest))?;
        if let Some(count) = count {
            config.insert(ours.into(), count.into());
        }
        Ok(count)
    };
    count("max_position_embeddings", "context_length")?;
    count("hidden_size", "embedding_length")?;
    count("num_hidden_layers", "block_count")?;
    count("intermediate_size", "feed_forward_length")?;
    count("num_attention_heads", "attention.head_count")?;
    count("num_key_value_heads", "attention.head_count_kv")?;
    let d_head = count("head_dim", "attention.key_length")?;
    if let (Some(d_head), Some(d_value)) = (d_head, head.count(&key("attention.value_length"))?)
        && d_head != d_value
    {
        return Err(head.refuse(
            format!("has keys of {d_head} dimensions and values of {d_value}"),
            "keys and values of one width are read",
        ));
    }
    let mut number = |ours: &str, rest: &str| -> Result<()> {
        if let Some(x) = head.number(&key(rest))? {
            config.insert(ours.into(), json!(x));
        }
        Ok(())
    };
    number("rms_norm_eps", "attention.layer_norm_rms_epsilon")?;
    number("rope_theta", "rope.freq_base")?;
    if let Some(kind) = head.text(&key("rope.scaling.type"))?.filter(|kind| *kind != "none") {
        let mut scaling = Map::from_iter([("rope_type".to_string(), Value::from(kind))]);
        if let Some(factor) = head.number(&key("rope.scaling.factor"))? {
            scaling.insert("factor".into(), json!(factor));
        }
        if let Some(length) = head.count(&key("rope.scaling.original_context_length"))? {
            scaling.insert("original_max_position_embeddings".into(), length.into());
        }
        config.insert("rope_scaling".into(), scaling.into());
    }
    if head.count(&key("expert_count"))?.is_some_and(|n| n > 0) {
        return Err(head.refuse("has experts", "open the folder from Hugging Face, whose Mixtral is read"));
    }
    // What a layer does not turn in full, or sees through a window, is told by settings that the readers would not see.
    let d_head = d_head.or_else(|| {
        let (width, heads) =
            (config.get("hidden_size")?.as_u64()?, config.get("num_attention_heads")?.as_u64()?);
        width.checked_div(heads)
    });
    if let (Some(turned), Some(d_head)) = (head.count(&key("rope.dimension_count"))?, d_head)
        && turned != d_head
    {
        return Err(head.refuse(
            format!("turns {turned} of {d_head} dimensions of a head"),
            "heads that turn as a whole are read",
        ));
    }
    if let Some(window) = head.count(&key("attention.sliding_window"))? {
        return Err(head.refuse(
            format!("has a sliding window of {window}"),
            "open the folder from Hugging Face, where windows are read",
        ));
    }
    let vocabulary =
        head.tensors().find(|(name, _)| *name == "token_embd.weight").map(|(_, info)| info.shape.dims());
    let Some(&[d_vocab, _]) = vocabulary else {
        return Err(
            head.refuse("has no matrix `token_embd.weight`", "is it a language model, and the file whole?")
        );
    };
    config.insert("vocab_size".into(), d_vocab.into());
    let tied = !head.tensors().any(|(name, _)| name == "output.weight");
    config.insert("tie_word_embeddings".into(), tied.into());
    Ok(Value::Object(config))
}

/// The tensors under Hugging Face's names.
fn tensors(path: &Path, head: &Gguf, architecture: Architecture, config: &Value) -> Result<Tensors> {
    let file = FileBytes::open(path).map_err(|e| Error::unread(path, e))?;
    let file = Arc::new(file);
    let mut tensors = Tensors::none(path);
    let heads = |name: &str| config[name].as_u64().and_then(|n| usize::try_from(n).ok());
    for (name, info) in head.tensors() {
        let Some((stored, permuted)) = hugging_face_name(name) else {
            return Err(head.refuse(
                format!("has a tensor `{name}`, for which this architecture has no place"),
                "nothing is dropped silently: open the folder from Hugging Face if this model is there",
            ));
        };
        let kind = Kind::of_gguf(info.ggml_dtype).ok_or_else(|| format!("{:?}", info.ggml_dtype));
        let shape = info.shape.dims().to_vec();
        let n: Option<usize> = shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
        let size = n.zip(kind.as_ref().ok()).and_then(|(n, kind)| kind.bytes(n)).unwrap_or(0);
        let start = head.data_offset().checked_add(info.offset).and_then(|at| usize::try_from(at).ok());
        let bytes = start.and_then(|start| Some(start..start.checked_add(size)?));
        let Some(bytes) = bytes.filter(|bytes| bytes.end <= file.all().len()) else {
            return Err(head.refuse(
                format!("ends before its tensor `{name}` does"),
                "was it cut off on the way? fetch it anew",
            ));
        };
        let n_heads = match permuted {
            Permuted::No => None,
            Permuted::Queries => heads("num_attention_heads"),
            Permuted::Keys => heads("num_key_value_heads").or_else(|| heads("num_attention_heads")),
        };
        let rows = match (architecture, n_heads) {
            (Architecture::Llama, Some(n_heads)) => {
                shape.first().and_then(|&rows| halves_from_pairs(rows, n_heads))
            }
            (Architecture::Llama | Architecture::Qwen2 | Architecture::Qwen3, _) => None,
        };
        tensors.add_stored(stored, Stored { file: file.clone(), kind, shape, bytes, rows })?;
    }
    Ok(tensors)
}

/// Whether llama.cpp has put the rows of a matrix into another order.
enum Permuted {
    No,
    Queries,
    Keys,
}

/// The name of a tensor in a checkpoint of the Llama kind.
fn hugging_face_name(name: &str) -> Option<(String, Permuted)> {
    let plain = |name: &str| Some((name.to_string(), Permuted::No));
    match name {
        "token_embd.weight" => return plain("model.embed_tokens.weight"),
        "output_norm.weight" => return plain("model.norm.weight"),
        "output.weight" => return plain("lm_head.weight"),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    layer.parse::<usize>().ok()?;
    let (part, end) = part.rsplit_once('.')?;
    let (theirs, permuted) = match part {
        "attn_norm" => ("input_layernorm", Permuted::No),
        "attn_q" => ("self_attn.q_proj", Permuted::Queries),
        "attn_k" => ("self_attn.k_proj", Permuted::Keys),
        "attn_v" => ("self_attn.v_proj", Permuted::No),
        "attn_output" => ("self_attn.o_proj", Permuted::No),
        "attn_q_norm" => ("self_attn.q_norm", Permuted::No),
        "attn_k_norm" => ("self_attn.k_norm", Permuted::No),
        "ffn_norm" => ("post_attention_layernorm", Permuted::No),
        "ffn_gate" => ("mlp.gate_proj", Permuted::No),
        "ffn_up" => ("mlp.up_proj", Permuted::No),
        "ffn_down" => ("mlp.down_proj", Permuted::No),
        _ => return None,
    };
    Some((format!("model.layers.{layer}.{theirs}.{end}"), permuted))
}

/// Where each row lies of a matrix whose heads turn in halves, when the file keeps the partners side by side: row `i`
/// of the first half of a head is its row `2 i`, row `i` of the second half `2 i + 1`.
fn halves_from_pairs(rows: usize, n_heads: usize) -> Option<Vec<u32>> {
    let d_head = rows.checked_div(n_heads).filter(|d| d * n_heads == rows && d.is_multiple_of(2))?;
    let half = d_head / 2;
    let row = |row: usize| {
        let (head, i) = (row / d_head, row % d_head);
        head * d_head + i % half * 2 + i / half
    };
    (0..rows).map(|i| u32::try_from(row(i)).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_rows_is_that_before_llama_cpp_put_partners_side_by_side() {
        // A head of four rows: a b | c d becomes a c b d.
        assert_eq!(halves_from_pairs(8, 2).unwrap(), [0, 2, 1, 3, 4, 6, 5, 7]);
        assert_eq!(halves_from_pairs(6, 4), None);
    }
}
