//! GPT-Neo (Black et al. 2021): products that are not scaled, and windows in every other layer.

use serde_json::Value;

use super::layout::How::{AsIs, Transposed};
use super::settings::shortest;
use super::{Family, Settings};
use crate::Result;
use crate::model::{AttentionScale, Bias, Config, LayerKind};

pub(super) const FAMILY: Family = Family {
    model_type: "gpt_neo",
    config,
    bodies: &["transformer."],
    outside: &[
        ("embed.W_E", "wte.weight", AsIs),
        ("pos_embed.W_pos", "wpe.weight", AsIs),
        ("ln_final.w", "ln_f.weight", AsIs),
        ("ln_final.b", "ln_f.bias", AsIs),
        ("unembed.W_U", "lm_head.weight", Transposed),
    ],
    block: "h.{l}.",
    inside: &[
        ("ln1.w", "ln_1.weight", AsIs),
        ("ln1.b", "ln_1.bias", AsIs),
        ("attn.W_Q", "attn.attention.q_proj.weight", Transposed),
        ("attn.W_K", "attn.attention.k_proj.weight", Transposed),
        ("attn.W_V", "attn.attention.v_proj.weight", Transposed),
        ("attn.W_O", "attn.attention.out_proj.weight", Transposed),
        ("attn.b_O", "attn.attention.out_proj.bias", AsIs),
        ("ln2.w", "ln_2.weight", AsIs),
        ("ln2.b", "ln_2.bias", AsIs),
        ("mlp.W_in", "mlp.c_fc.weight", Transposed),
        ("mlp.b_in", "mlp.c_fc.bias", AsIs),
        ("mlp.W_out", "mlp.c_proj.weight", Transposed),
        ("mlp.b_out", "mlp.c_proj.bias", AsIs),
    ],
};

fn config(s: &Settings) -> Result<Config> {
    let (d_model, n_heads) =
        (s.count("hidden_size", None)?, s.count_of(&["num_heads", "num_attention_heads"])?);
    let n_layers = s.count_of(&["num_layers", "num_hidden_layers"])?;
    let n_ctx = s.count("max_position_embeddings", None)?;
    let window = s.count("window_size", Some(256))?;
    let local = local_layers(s, n_layers)?;
    // The same written out, which transformers takes where the two differ.
    if let Some(written) = s.list("attention_layers")? {
        let words = local.iter().map(|&local| if local { "local" } else { "global" });
        if !written.iter().map(|word| word.as_str()).eq(words.map(Some)) {
            return s.bad("attention_layers", "read only where attention_types says the same");
        }
    }
    let kinds = local
        .into_iter()
        .map(|local| LayerKind { window: (local && window < n_ctx).then_some(window), positions: None });
    Ok(Config {
        d_vocab: s.count("vocab_size", None)?,
        n_ctx,
        d_model,
        n_layers,
        n_heads,
        d_head: s.d_head(d_model, n_heads)?,
        d_mlp: s.count("intermediate_size", Some(d_model.saturating_mul(4)))?,
        eps: s.number("layer_norm_epsilon", 1e-5)?,
        layers: shortest(kinds.collect()),
        attention_scale: AttentionScale::Fixed { scale: 1.0, by_layer: false },
        mlp: s.mlp("activation_function", "gelu_new")?,
        bias: Bias { qkv: false, ..Bias::ALL },
        bias_u: false,
        tied: s.flag("tie_word_embeddings", true)?,
        ..Default::default()
    })
}

/// Which layers see a window: `attention_types` is a list of patterns of `global` and `local`, each with how often it
/// comes.
fn local_layers(s: &Settings, n_layers: usize) -> Result<Vec<bool>> {
    let valid = "a list like [[[\"global\", \"local\"], 12]] that makes one word for each layer";
    let Some(all) = s.list("attention_types")? else {
        return Ok((0..n_layers.min(1 << 16)).map(|l| l % 2 == 1).collect());
    };
    let mut local = Vec::new();
    for item in all {
        let (Some(words), Some(times)) = (item[0].as_array(), item[1].as_u64()) else {
            return s.bad("attention_types", valid);
        };
        for _ in 0..times.min(n_layers as u64) {
            for word in words {
                match word.as_str() {
                    Some("local") => local.push(true),
                    Some("global") => local.push(false),
                    Some(_) | None => return s.bad("attention_types", valid),
                }
            }
            if local.len() > n_layers {
                return s.bad("attention_types", valid);
            }
        }
    }
    if local.len() != n_layers || all.iter().any(Value::is_null) {
        return s.bad("attention_types", valid);
    }
    Ok(local)
}
