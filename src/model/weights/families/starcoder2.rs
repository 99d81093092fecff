//! StarCoder 2 (Lozhkov et al. 2024): layer norm, biases, grouped heads and a window.

use super::layout::How::{AsIs, Transposed};
use super::llama::{OUTSIDE, sizes};
use super::settings::Rope;
use super::{Family, Settings};
use crate::Result;
use crate::model::{Bias, Config};

pub(super) const FAMILY: Family = Family {
    model_type: "starcoder2",
    config,
    bodies: &["model."],
    outside: OUTSIDE,
    block: "layers.{l}.",
    inside: &[
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
        ("ln2.w", "post_attention_layernorm.weight", AsIs),
        ("ln2.b", "post_attention_layernorm.bias", AsIs),
        ("mlp.W_in", "mlp.c_fc.weight", Transposed),
        ("mlp.b_in", "mlp.c_fc.bias", AsIs),
        ("mlp.W_out", "mlp.c_proj.weight", Transposed),
        ("mlp.b_out", "mlp.c_proj.bias", AsIs),
    ],
};

fn config(s: &Settings) -> Result<Config> {
    let (d_model, n_heads) = sizes(s)?;
    if !matches!(s.text("norm_type")?.unwrap_or("layer_norm"), "layer_norm") {
        return s.bad("norm_type", "read only as layer_norm");
    }
    if !matches!(s.text("mlp_type")?.unwrap_or("default"), "default") {
        return s.bad("mlp_type", "read only as default");
    }
    let rope = Rope::of_head(s.head_dim(d_model, n_heads)?);
    let (bias, n_layers) = (s.flag("use_bias", true)?, s.count("num_hidden_layers", None)?);
    let n_ctx = s.count("max_position_embeddings", Some(4096))?;
    let window = s.window(None, n_ctx)?;
    Ok(Config {
        d_vocab: s.count("vocab_size", None)?,
        n_ctx,
        d_model,
        n_layers,
        n_heads,
        n_kv_heads: Some(s.count("num_key_value_heads", Some(2))?),
        d_head: rope.d_head,
        d_mlp: s.count("intermediate_size", None)?,
        eps: s.number("norm_epsilon", 1e-5)?,
        positions: s.rotary(&rope)?,
        layers: s.kinds(n_layers, window, |_| true)?,
        mlp: s.mlp("hidden_act", "gelu_pytorch_tanh")?,
        bias: Bias { qkv: bias, out: bias, mlp: bias, gate: false, norm: true },
        bias_u: false,
        tied: s.flag("tie_word_embeddings", true)?,
        ..Default::default()
    })
}
