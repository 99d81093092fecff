//! Phi 1 to 2 (Gunasekar et al. 2023): attention and MLP side by side through one norm, biases everywhere.

use super::layout::How::{AsIs, Transposed};
use super::llama::sizes;
use super::settings::Rope;
use super::{Family, Settings};
use crate::Result;
use crate::model::{Bias, Config, Residual};

pub(super) const FAMILY: Family = Family {
    model_type: "phi",
    config,
    bodies: &["model."],
    outside: &[
        ("embed.W_E", "embed_tokens.weight", AsIs),
        ("ln_final.w", "final_layernorm.weight", AsIs),
        ("ln_final.b", "final_layernorm.bias", AsIs),
        ("unembed.W_U", "lm_head.weight", Transposed),
        ("unembed.b_U", "lm_head.bias", AsIs),
    ],
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
        ("attn.W_O", "self_attn.dense.weight", Transposed),
        ("attn.b_O", "self_attn.dense.bias", AsIs),
        ("mlp.W_in", "mlp.fc1.weight", Transposed),
        ("mlp.b_in", "mlp.fc1.bias", AsIs),
        ("mlp.W_out", "mlp.fc2.weight", Transposed),
        ("mlp.b_out", "mlp.fc2.bias", AsIs),
    ],
};

fn config(s: &Settings) -> Result<Config> {
    s.must_be("qk_layernorm", false, false)?;
    let (d_model, n_heads) = sizes(s)?;
    let rope = Rope { default_part: 0.5, ..Rope::of_head(s.head_dim(d_model, n_heads)?) };
    Ok(Config {
        d_vocab: s.count("vocab_size", None)?,
        n_ctx: s.count("max_position_embeddings", None)?,
        d_model,
        n_layers: s.count("num_hidden_layers", None)?,
        n_heads,
        n_kv_heads: Some(s.count("num_key_value_heads", Some(n_heads))?),
        d_head: rope.d_head,
        d_mlp: s.count("intermediate_size", None)?,
        eps: s.number("layer_norm_eps", 1e-5)?,
        positions: s.rotary(&rope)?,
        mlp: s.mlp("hidden_act", "gelu_new")?,
        residual: Residual::ParallelOneNorm,
        bias: Bias::ALL,
        bias_u: true,
        tied: s.flag("tie_word_embeddings", false)?,
        ..Default::default()
    })
}
