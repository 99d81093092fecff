//! OLMo (Groeneveld et al. 2024), whose norms have neither gain nor bias, and OLMo 2, which normalises outputs, queries
//! and keys.

use super::layout::How::{AsIs, Ones, Transposed};
use super::llama::{common, sizes};
use super::settings::Rope;
use super::{Family, Settings};
use crate::Result;
use crate::model::{Bias, Config, Norm, NormAt, QkNorm};

pub(super) const OLMO: Family = Family {
    model_type: "olmo",
    config: olmo,
    bodies: &["model."],
    outside: &[
        ("embed.W_E", "embed_tokens.weight", AsIs),
        ("ln_final.w", "norm.weight", Ones),
        ("unembed.W_U", "lm_head.weight", Transposed),
    ],
    block: "layers.{l}.",
    inside: &[
        ("ln1.w", "input_layernorm.weight", Ones),
        ("attn.W_Q", "self_attn.q_proj.weight", Transposed),
        ("attn.b_Q", "self_attn.q_proj.bias", AsIs),
        ("attn.W_K", "self_attn.k_proj.weight", Transposed),
        ("attn.b_K", "self_attn.k_proj.bias", AsIs),
        ("attn.W_V", "self_attn.v_proj.weight", Transposed),
        ("attn.b_V", "self_attn.v_proj.bias", AsIs),
        ("attn.W_O", "self_attn.o_proj.weight", Transposed),
        ("attn.b_O", "self_attn.o_proj.bias", AsIs),
        ("ln2.w", "post_attention_layernorm.weight", Ones),
        ("mlp.W_gate", "mlp.gate_proj.weight", Transposed),
        ("mlp.W_in", "mlp.up_proj.weight", Transposed),
        ("mlp.W_out", "mlp.down_proj.weight", Transposed),
    ],
};

pub(super) const OLMO2: Family = Family {
    model_type: "olmo2",
    config: olmo2,
    bodies: &["model."],
    outside: super::llama::OUTSIDE,
    block: "layers.{l}.",
    inside: &[
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
        ("ln1_post.w", "post_attention_layernorm.weight", AsIs),
        ("mlp.W_gate", "mlp.gate_proj.weight", Transposed),
        ("mlp.W_in", "mlp.up_proj.weight", Transposed),
        ("mlp.W_out", "mlp.down_proj.weight", Transposed),
        ("ln2_post.w", "post_feedforward_layernorm.weight", AsIs),
    ],
};

fn both(s: &Settings) -> Result<Config> {
    let (d_model, n_heads) = sizes(s)?;
    let bias = s.flag("attention_bias", false)?;
    Ok(Config {
        bias: Bias { qkv: bias, out: bias, ..Bias::NONE },
        ..common(s, Rope::of_head(s.head_dim(d_model, n_heads)?), d_model, n_heads)?
    })
}

fn olmo(s: &Settings) -> Result<Config> {
    s.must_be_absent("clip_qkv")?;
    s.must_be_absent("rms_norm_eps")?;
    Ok(Config { norm: Norm::Layer, eps: 1e-5, ..both(s)? })
}

fn olmo2(s: &Settings) -> Result<Config> {
    let eps = s.number("rms_norm_eps", 1e-5)?;
    Ok(Config { norm_at: NormAt::Output, qk_norm: QkNorm::AllHeads, eps, ..both(s)? })
}
