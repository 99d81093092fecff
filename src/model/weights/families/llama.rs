//! Llama (Touvron et al. 2023), and what differs from it by a setting: Mistral, Qwen 2 and Qwen 3.

use super::layout::How::{AsIs, Transposed};
use super::settings::Rope;
use super::{Family, Row, Settings};
use crate::Result;
use crate::model::{Bias, Config, Mlp, Norm, QkNorm};

pub(super) const LLAMA: Family = like_llama("llama", llama);
pub(super) const MISTRAL: Family = like_llama("mistral", mistral);
pub(super) const QWEN2: Family = like_llama("qwen2", qwen2);
pub(super) const QWEN3: Family = like_llama("qwen3", qwen3);

/// A family that names its tensors as Llama does.
pub(super) const fn like_llama(model_type: &'static str, config: fn(&Settings) -> Result<Config>) -> Family {
    Family { model_type, config, bodies: &["model."], outside: OUTSIDE, block: "layers.{l}.", inside: INSIDE }
}

pub(super) const OUTSIDE: &[Row] = &[
    ("embed.W_E", "embed_tokens.weight", AsIs),
    ("ln_final.w", "norm.weight", AsIs),
    ("ln_final.b", "norm.bias", AsIs),
    ("unembed.W_U", "lm_head.weight", Transposed),
];

const INSIDE: &[Row] = &[
    ("ln1.w", "input_layernorm.weight", AsIs),
    ("ln1.b", "input_layernorm.bias", AsIs),
    ("attn.W_Q", "self_attn.q_proj.weight", Transposed),
    ("attn.b_Q", "self_attn.q_proj.bias", AsIs),
    ("attn.W_K", "self_attn.k_proj.weight", Transposed),
    ("attn.b_K", "self_attn.k_proj.bias", AsIs),
    ("attn.W_V", "self_attn.v_proj.weight", Transposed),
    ("attn.b_V", "self_attn.v_proj.bias", AsIs),
    ("attn.W_O", "self_attn.o_proj.weight", Transposed),
    ("attn.b_O", "self_attn.o_proj.bias", AsIs),
    ("attn.q_norm.w", "self_attn.q_norm.weight", AsIs),
    ("attn.k_norm.w", "self_attn.k_norm.weight", AsIs),
    ("ln2.w", "post_attention_layernorm.weight", AsIs),
    ("ln2.b", "post_attention_layernorm.bias", AsIs),
    ("mlp.W_gate", "mlp.gate_proj.weight", Transposed),
    ("mlp.b_gate", "mlp.gate_proj.bias", AsIs),
    ("mlp.W_in", "mlp.up_proj.weight", Transposed),
    ("mlp.b_in", "mlp.up_proj.bias", AsIs),
    ("mlp.W_out", "mlp.down_proj.weight", Transposed),
    ("mlp.b_out", "mlp.down_proj.bias", AsIs),
];

/// What all children of Llama have: RMS norm, rotary positions in halves, a gated MLP, no biases.
pub(super) fn common(s: &Settings, rope: Rope, d_model: usize, n_heads: usize) -> Result<Config> {
    with_mlp(s, rope, d_model, n_heads, s.gated_mlp("hidden_act", "silu")?)
}

/// The same where the kind of MLP is known.
pub(super) fn with_mlp(s: &Settings, rope: Rope, d_model: usize, n_heads: usize, mlp: Mlp) -> Result<Config> {
    Ok(Config {
        d_vocab: s.count("vocab_size", None)?,
        n_ctx: s.count("max_position_embeddings", Some(2048))?,
        d_model,
        n_layers: s.count("num_hidden_layers", None)?,
        n_heads,
        n_kv_heads: Some(s.count("num_key_value_heads", Some(n_heads))?),
        d_head: rope.d_head,
        d_mlp: s.count("intermediate_size", None)?,
        norm: Norm::Rms,
        eps: s.number("rms_norm_eps", 1e-6)?,
        positions: s.rotary(&rope)?,
        mlp,
        bias: Bias::NONE,
        bias_u: false,
        tied: s.flag("tie_word_embeddings", false)?,
        ..Default::default()
    })
}

/// Width and heads.
pub(super) fn sizes(s: &Settings) -> Result<(usize, usize)> {
    Ok((s.count("hidden_size", None)?, s.count("num_attention_heads", None)?))
}

fn llama(s: &Settings) -> Result<Config> {
    let (d_model, n_heads) = sizes(s)?;
    s.must_be("rope_interleaved", false, false)?;
    let rope = Rope::of_head(s.head_dim(d_model, n_heads)?);
    Ok(Config { bias: biases(s)?, ..common(s, rope, d_model, n_heads)? })
}

/// `attention_bias` is for all four maps of attention, `mlp_bias` for all three of the MLP.
pub(super) fn biases(s: &Settings) -> Result<Bias> {
    let (attention, mlp) = (s.flag("attention_bias", false)?, s.flag("mlp_bias", false)?);
    Ok(Bias { qkv: attention, out: attention, mlp, gate: mlp, norm: false })
}

fn mistral(s: &Settings) -> Result<Config> {
    let (d_model, n_heads) = sizes(s)?;
    let config = common(s, Rope::of_head(s.head_dim(d_model, n_heads)?), d_model, n_heads)?;
    let window = s.window(Some(4096), config.n_ctx)?;
    Ok(Config { layers: s.kinds(config.n_layers, window, |_| true)?, ..config })
}

fn qwen2(s: &Settings) -> Result<Config> {
    s.must_be("use_mrope", false, false)?;
    let (d_model, n_heads) = sizes(s)?;
    let config = common(s, Rope::of_head(s.head_dim(d_model, n_heads)?), d_model, n_heads)?;
    Ok(Config { bias: Bias { qkv: true, ..Bias::NONE }, layers: upper_layers_slide(s, &config)?, ..config })
}

fn qwen3(s: &Settings) -> Result<Config> {
    let (d_model, n_heads) = sizes(s)?;
    let config = common(s, Rope::of_head(s.count("head_dim", Some(128))?), d_model, n_heads)?;
    let bias = s.flag("attention_bias", false)?;
    Ok(Config {
        bias: Bias { qkv: bias, out: bias, ..Bias::NONE },
        qk_norm: QkNorm::Head,
        layers: upper_layers_slide(s, &config)?,
        ..config
    })
}

/// With `use_sliding_window`, layers from `max_window_layers` on see a window.
fn upper_layers_slide(s: &Settings, config: &Config) -> Result<Vec<crate::model::LayerKind>> {
    let on = s.flag("use_sliding_window", false)?;
    let window = s.window(Some(4096), config.n_ctx)?.filter(|_| on);
    // 28 is what transformers takes where the file says nothing.
    let first = if on { s.number("max_window_layers", 28.0)? as usize } else { 0 };
    s.kinds(config.n_layers, window, |l| l >= first)
}
