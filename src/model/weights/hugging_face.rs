//! Hugging Face folders: `config.json`, and the weights as `model.safetensors` or in the shards of its index.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::layout::{Family, place};
use super::tensors::{Tensors, refuse};
use super::{build, read_file};
use crate::Result;
use crate::model::architecture::{Mlp, Norm, Positions, Residual, Rotary};
use crate::model::{Config, Transformer};
use crate::nn::Pairs;

impl Transformer {
    /// Reads a Hugging Face folder: `config.json` with `model.safetensors`, or with the shards that
    /// `model.safetensors.index.json` lists; where there are neither, `pytorch_model.bin` or its
    /// shards. Families: GPT-2, Llama, GPT-NeoX (Pythia); numbers as F32, F16 or BF16.
    ///
    /// The weights are as they are stored: nothing is folded or centred. A setting that this crate does not compute is
    /// refused by name.
    pub fn from_hugging_face(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let path = folder.join("config.json");
        transformer(&folder.display().to_string(), read_json(&path)?, open_tensors(folder)?)
    }
}

/// The network that these settings and tensors make; `shown` is what they were read from, for errors.
pub(super) fn transformer(shown: &str, config: Value, mut tensors: Tensors) -> Result<Transformer> {
    let (config, family) = read_config(Settings { shown: shown.into(), json: config })?;
    let body = match family {
        Family::Gpt2 => "transformer.",
        Family::Llama => "model.",
        Family::NeoX => "gpt_neox.",
    };
    // A model saved without its head has no prefix.
    let prefix = if tensors.left().any(|name| name.starts_with(body)) { body } else { "" };
    let n = tensors.n_numbers();
    let params = build(&config, n, shown, |name, shape| {
        let (stored, how) = place(family, prefix, name);
        how.load(&mut tensors, &stored, shape, config.d_head)
    })?;
    let head = place(family, prefix, "unembed.W_U").0;
    if config.tied && tensors.has(&head) {
        let stored = tensors.take(&head, &[config.d_vocab, config.d_model])?;
        if params.w_e.flat() != stored {
            return Err(refuse(
                shown,
                format!("says that its unembedding is tied, but `{head}` is not the embedding"),
                "set tie_word_embeddings to false in config.json if the two differ on purpose",
            ));
        }
    }
    tensors.finish(is_a_buffer)?;
    Ok(Transformer { config, params })
}

/// What older versions stored although it carries nothing: masks, and frequencies that the configuration tells.
fn is_a_buffer(name: &str) -> bool {
    [".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"]
        .iter()
        .any(|end| name.ends_with(end))
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
            false => BTreeSet::from(["pytorch_model.bin".to_string()]),
        };
        let paths: Vec<PathBuf> = names.into_iter().map(|name| folder.join(name)).collect();
        return super::candle::open_pickles(folder, &paths);
    }
    Ok(Tensors::open(folder, &weight_files(folder)?)?.0)
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

/// A `config.json`, asked for one setting after another.
struct Settings {
    shown: String,
    json: Value,
}

impl Settings {
    fn bad<T>(&self, name: &str, valid: &str) -> Result<T> {
        let value = &self.json[name];
        let what =
            if value.is_null() { format!("has no `{name}`") } else { format!("has `{name}` as {value}") };
        Err(refuse(&self.shown, what, format!("`{name}` is {valid}")))
    }

    fn present(&self, name: &str) -> bool {
        !self.json[name].is_null()
    }

    fn count(&self, name: &str, default: Option<usize>) -> Result<usize> {
        match (self.json[name].as_u64().and_then(|n| usize::try_from(n).ok()), default) {
            (Some(n), _) if n > 0 => Ok(n),
            (None, Some(default)) if !self.present(name) => Ok(default),
            _ => self.bad(name, "a number from 1 up"),
        }
    }

    fn number(&self, name: &str, default: f64) -> Result<f64> {
        match self.json[name].as_f64() {
            Some(x) => Ok(x),
            None if !self.present(name) => Ok(default),
            None => self.bad(name, "a number"),
        }
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.json[name].as_bool() {
            Some(flag) => Ok(flag),
            None if !self.present(name) => Ok(default),
            None => self.bad(name, "true or false"),
        }
    }

    /// Refuses a setting that changes the computation in a way that is not here.
    fn must_be(&self, name: &str, default: bool, valid: bool) -> Result<()> {
        if self.flag(name, default)? == valid {
            return Ok(());
        }
        self.bad(name, &format!("read only as {valid}"))
    }

    fn mlp(&self, name: &str, default: &str) -> Result<Mlp> {
        match self.json[name].as_str().unwrap_or(default) {
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Mlp::GeluTanh),
            "gelu" => Ok(Mlp::Gelu),
            "relu" => Ok(Mlp::Relu),
            _ => self.bad(name, "one of gelu_new, gelu_pytorch_tanh, gelu, relu"),
        }
    }

    /// Theta, and the part of a head that turns. Newer files keep both in `rope_parameters`.
    fn rope(&self, theta: &str, part: &str, default_part: f64) -> Result<(f64, f64)> {
        for name in ["rope_parameters", "rope_scaling"] {
            let kind = &self.json[name]["rope_type"];
            let kind = if kind.is_null() { &self.json[name]["type"] } else { kind };
            if self.present(name) && kind.as_str() != Some("default") {
                return self.bad(name, "read only with the rope_type \"default\"");
            }
        }
        let newer = &self.json["rope_parameters"];
        let theta = match newer["rope_theta"].as_f64() {
            Some(theta) => theta,
            None => self.number(theta, 10_000.0)?,
        };
        let part = match newer["partial_rotary_factor"].as_f64() {
            Some(part) => part,
            None => self.number(part, default_part)?,
        };
        Ok((theta, part))
    }

    fn d_head(&self, d_model: usize, n_heads: usize) -> Result<usize> {
        if !d_model.is_multiple_of(n_heads) {
            return Err(refuse(
                &self.shown,
                format!("has {d_model} dimensions and {n_heads} heads"),
                "the number of heads divides the number of dimensions",
            ));
        }
        Ok(d_model / n_heads)
    }
}

fn read_config(s: Settings) -> Result<(Config, Family)> {
    match s.json["model_type"].as_str() {
        Some("gpt2") => Ok((gpt2(&s)?, Family::Gpt2)),
        Some("llama") => Ok((llama(&s)?, Family::Llama)),
        Some("gpt_neox") => Ok((neox(&s)?, Family::NeoX)),
        _ => s.bad("model_type", "one of gpt2, llama, gpt_neox"),
    }
}

fn gpt2(s: &Settings) -> Result<Config> {
    s.must_be("scale_attn_weights", true, true)?;
    s.must_be("scale_attn_by_inverse_layer_idx", false, false)?;
    s.must_be("add_cross_attention", false, false)?;
    let (d_model, n_heads) = (s.count("n_embd", None)?, s.count("n_head", None)?);
    Ok(Config {
        d_vocab: s.count("vocab_size", None)?,
        n_ctx: s.count("n_positions", None)?,
        d_model,
        n_layers: s.count("n_layer", None)?,
        n_heads,
        d_head: s.d_head(d_model, n_heads)?,
        d_mlp: s.count("n_inner", Some(d_model.saturating_mul(4)))?,
        eps: s.number("layer_norm_epsilon", 1e-5)?,
        mlp: s.mlp("activation_function", "gelu_new")?,
        bias_u: false,
        tied: s.flag("tie_word_embeddings", true)?,
        ..Default::default()
    })
}

fn llama(s: &Settings) -> Result<Config> {
    s.must_be("attention_bias", false, false)?;
    s.must_be("mlp_bias", false, false)?;
    if s.json["hidden_act"].as_str().unwrap_or("silu") != "silu" {
        return s.bad("hidden_act", "read only as silu");
    }
    let (d_model, n_heads) = (s.count("hidden_size", None)?, s.count("num_attention_heads", None)?);
    let d_head = if s.present("head_dim") { s.count("head_dim", None)? } else { s.d_head(d_model, n_heads)? };
    let (theta, part) = s.rope("rope_theta", "partial_rotary_factor", 1.0)?;
    if part != 1.0 {
        return s.bad("partial_rotary_factor", "read only as 1");
    }
    Ok(Config {
        d_vocab: s.count("vocab_size", None)?,
        n_ctx: s.count("max_position_embeddings", None)?,
        d_model,
        n_layers: s.count("num_hidden_layers", None)?,
        n_heads,
        n_kv_heads: Some(s.count("num_key_value_heads", Some(n_heads))?),
        d_head,
        d_mlp: s.count("intermediate_size", None)?,
        norm: Norm::Rms,
        eps: s.number("rms_norm_eps", 1e-6)?,
        positions: Positions::Rotary(Rotary { pairs: Pairs::Half, d_rotary: None, theta }),
        mlp: Mlp::SwiGlu,
        bias: false,
        bias_u: false,
        tied: s.flag("tie_word_embeddings", false)?,
        ..Default::default()
    })
}

fn neox(s: &Settings) -> Result<Config> {
    s.must_be("attention_bias", true, true)?;
    let (d_model, n_heads) = (s.count("hidden_size", None)?, s.count("num_attention_heads", None)?);
    let d_head = s.d_head(d_model, n_heads)?;
    let (theta, part) = s.rope("rotary_emb_base", "rotary_pct", 0.25)?;
    let parallel = s.flag("use_parallel_residual", true)?;
    Ok(Config {
        d_vocab: s.count("vocab_size", None)?,
        n_ctx: s.count("max_position_embeddings", None)?,
        d_model,
        n_layers: s.count("num_hidden_layers", None)?,
        n_heads,
        d_head,
        d_mlp: s.count("intermediate_size", None)?,
        eps: s.number("layer_norm_eps", 1e-5)?,
        positions: Positions::Rotary(Rotary {
            pairs: Pairs::Half,
            d_rotary: Some((d_head as f64 * part) as usize),
            theta,
        }),
        mlp: s.mlp("hidden_act", "gelu")?,
        residual: if parallel { Residual::Parallel } else { Residual::Sequential },
        bias_u: false,
        tied: s.flag("tie_word_embeddings", false)?,
        ..Default::default()
    })
}
