//! Hugging Face folders: `config.json`, and the weights as `model.safetensors` or in the shards of its index.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::families::transformer;
use super::read_file;
use super::tensors::{Tensors, refuse};
use crate::model::Transformer;
use crate::{Error, Result};

impl Transformer {
    /// Reads a Hugging Face folder: `config.json` with `model.safetensors`, or with the shards that
    /// `model.safetensors.index.json` lists; where there are neither, `pytorch_model.bin` or its shards. Numbers are
    /// F32, F16 or BF16. Each family was compared with transformers: streams and logits of tiny random checkpoints, and
    /// the gradient of every weight.
    ///
    /// | `model_type` | models | what is its own | refused by name |
    /// |---|---|---|---|
    /// | `bloom` | BLOOM, BLOOMZ | ALiBi, norm of the embedding | |
    /// | `cohere` | Command R | parallel through one norm, scaled logits | `use_qk_norm` (Command R+) |
    /// | `falcon` | Falcon 7B, 40B, 2-11B | one or two norms, one or some key/value heads | `alibi` (Falcon-RW) |
    /// | `gemma` | Gemma 1 | gains less 1, scaled embedding, GeGLU | |
    /// | `gemma2` | Gemma 2 | norms of outputs, caps, windows in turn | |
    /// | `gemma3_text` | Gemma 3 1B, 270M | norms of queries and keys, two kinds of positions | bidirectional attention |
    /// | `gpt2` | GPT-2, DistilGPT-2, Mistral's and Stanford's | scores divided by the layer, or not scaled | cross attention |
    /// | `gpt_bigcode` | SantaCoder, StarCoder | one key/value head | cross attention |
    /// | `gpt_neo` | GPT-Neo, TinyStories | scores not scaled, windows in turn | |
    /// | `gpt_neox` | GPT-NeoX, Pythia, Dolly | parallel, a part of each head turns | |
    /// | `gptj` | GPT-J | parallel through one norm, bias of the logits | |
    /// | `granite` | Granite 3 | four multipliers | |
    /// | `llama` | Llama 1 to 3, SmolLM, TinyLlama, Yi, DeepSeek LLM | biases; linear, dynamic, llama3 and yarn scaling | longrope |
    /// | `mistral` | Mistral 7B | windows | |
    /// | `mixtral` | Mixtral | experts | |
    /// | `mpt` | MPT | ALiBi, no biases | `clip_qkv`, `qk_ln`, prefixes |
    /// | `olmo` | OLMo 1 | norms without gain | `clip_qkv` |
    /// | `olmo2` | OLMo 2 | norms of outputs, queries and keys | |
    /// | `opt` | OPT, also post-norm OPT-350m | biases everywhere | |
    /// | `phi` | Phi 1 to 2 | parallel through one norm, bias of the logits | `qk_layernorm` |
    /// | `phi3` | Phi 3 mini, medium (4k), Phi 4 | fused maps, windows | longrope (128k) |
    /// | `qwen2` | Qwen 1.5 to 2.5 | biases of queries, keys and values | |
    /// | `qwen3` | Qwen 3 | norms of queries and keys | |
    /// | `smollm3` | SmolLM3 | layers without positions | |
    /// | `stablelm` | StableLM 2, 3B | layer norm, a part of each head turns | `qk_layernorm` (12B) |
    /// | `starcoder2` | StarCoder 2 | layer norm, biases, windows | |
    ///
    /// The weights are as they are stored: nothing is folded or centred; only a gain that is stored less 1 (Gemma) gets
    /// its 1, norms without gain (OLMo) have ones, and OPT-350m's embedding is multiplied by its projections. A setting
    /// that this crate does not compute, or does not know, is refused by name; for a family that is not read, the error
    /// tells which tensors and settings are missing of the one that comes nearest.
    ///
    /// ```no_run
    /// use onelens::model::Transformer;
    /// let model = Transformer::from_hugging_face("models/pythia-70m")?;
    /// println!("{}", model.config.describe());
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn from_hugging_face(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let path = folder.join("config.json");
        transformer(&folder.display().to_string(), read_json(&path)?, open_tensors(folder)?)
    }
}

/// The index of weights in several files.
pub(super) const SHARDS: &str = "model.safetensors.index.json";

/// The safetensors files that hold the weights.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let index = folder.join(SHARDS);
    if !index.exists() {
        return Ok(vec![folder.join("model.safetensors")]);
    }
    Ok(shard_names(&index)?.into_iter().map(|name| folder.join(name)).collect())
}

/// The names of the files that an index lists.
pub(super) fn shard_names(index: &Path) -> Result<BTreeSet<String>> {
    let shown = index.display().to_string();
    let broken = |why: &str| refuse(&shown, why, "fetch the index anew");
    let json = read_json(index)?;
    let map = json["weight_map"].as_object().ok_or_else(|| broken("has no `weight_map`"))?;
    let mut names = BTreeSet::new();
    for name in map.values() {
        let name = name.as_str().ok_or_else(|| broken("has a file name that is no text"))?;
        // A name with a folder in it could lead anywhere.
        if name.contains(['/', '\\']) || name.starts_with('.') {
            return Err(broken(&format!("names the file {name:?}, which is not in the same folder")));
        }
        names.insert(name.to_string());
    }
    if names.is_empty() {
        return Err(broken("lists no files"));
    }
    Ok(names)
}

/// The tensors of the folder, in whichever form they are there.
fn open_tensors(folder: &Path) -> Result<Tensors> {
    if !folder.join(SHARDS).exists() && !folder.join("model.safetensors").exists() {
        let index = folder.join("pytorch_model.bin.index.json");
        let names = match index.exists() {
            true => shard_names(&index)?,
            false if folder.join("pytorch_model.bin").exists() => {
                BTreeSet::from(["pytorch_model.bin".to_string()])
            }
            false => return Err(no_weights(folder)),
        };
        let paths: Vec<PathBuf> = names.into_iter().map(|name| folder.join(name)).collect();
        return super::candle::open_pickles(folder, &paths);
    }
    Ok(Tensors::open(folder, &weight_files(folder)?)?.0)
}

/// What is missing of a folder with a configuration and no weights, and what there is in their place.
fn no_weights(folder: &Path) -> Error {
    let mut others: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| {
            [".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack"]
                .iter()
                .any(|end| name.ends_with(end))
        })
        .collect();
    others.sort();
    others.truncate(5);
    let there =
        if others.is_empty() { String::new() } else { format!("; what there is: {}", others.join(", ")) };
    refuse(
        &folder.display().to_string(),
        "has a config.json, but neither model.safetensors nor pytorch_model.bin, nor the index of either in shards",
        format!("fetch the weights too, or give one of these names to a file that is one{there}"),
    )
}

fn read_json(path: &Path) -> Result<Value> {
    serde_json::from_slice(&read_file(path)?).map_err(|e| {
        refuse(
            &path.display().to_string(),
            format!("is no JSON: {e}"),
            "was it cut off on the way? fetch it anew",
        )
    })
}
