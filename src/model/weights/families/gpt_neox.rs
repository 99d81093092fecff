//! GPT-NeoX and Pythia (Black et al. 2022, Biderman et al. 2023): attention and MLP side by side through a norm each.

use super::layout::How::{AsIs, Rows, Transposed};
use super::layout::{Part::Grouped, Qkv};
use super::settings::Rope;
use super::{Family, Settings};
use crate::Result;
use crate::model::{Bias, Config, Residual};

pub(super) const FAMILY: Family = Family {
    model_type: "gpt_neox",
    config,
    bodies: &["gpt_neox."],
    outside: &[
        ("embed.W_E", "embed_in.weight", AsIs),
        ("ln_final.w", "final_layer_norm.weight", AsIs),
        ("ln_final.b", "final_layer_norm.bias", AsIs),
        ("unembed.W_U", "embed_out.weight|lm_head.weight", Transposed),
    ],
    block: "layers.{l}.",
    inside: &[
        ("ln1.w", "input_layernorm.weight", AsIs),
        ("ln1.b", "input_layernorm.bias", AsIs),
        ("attn.W_Q", "attention.query_key_value.weight", Rows(Grouped(Qkv::Q))),
        ("attn.b_Q", "attention.query_key_value.bias", Rows(Grouped(Qkv::Q))),
        ("attn.W_K", "attention.query_key_value.weight", Rows(Grouped(Qkv::K))),
        ("attn.b_K", "attention.query_key_value.bias", Rows(Grouped(Qkv::K))),
        ("attn.W_V", "attention.query_key_value.weight", Rows(Grouped(Qkv::V))),
        ("attn.b_V", "attention.query_key_value.bias", Rows(Grouped(Qkv::V))),
        ("attn.W_O", "attention.dense.weight", Transposed),
        ("attn.b_O", "attention.dense.bias", AsIs),
        ("ln2.w", "post_attention_layernorm.weight", AsIs),
        ("ln2.b", "post_attention_layernorm.bias", AsIs),
        ("mlp.W_in", "mlp.dense_h_to_4h.weight", Transposed),
        ("mlp.b_in", "mlp.dense_h_to_4h.bias", AsIs),
        ("mlp.W_out", "mlp.dense_4h_to_h.weight", Transposed),
        ("mlp.b_out", "mlp.dense_4h_to_h.bias", AsIs),
    ],
};

fn config(s: &Settings) -> Result<Config> {
    let (d_model, n_heads) = (s.count("hidden_size", None)?, s.count("num_attention_heads", None)?);
    let d_head = s.d_head(d_model, n_heads)?;
    let rope =
        Rope { theta: "rotary_emb_base", part: "rotary_pct", default_part: 0.25, ..Rope::of_head(d_head) };
    let bias = s.flag("attention_bias", true)?;
    Ok(Config {
        d_vocab: s.count("vocab_size", None)?,
        n_ctx: s.count("max_position_embeddings", None)?,
        d_model,
        n_layers: s.count("num_hidden_layers", None)?,
        n_heads,
        d_head,
        d_mlp: s.count("intermediate_size", None)?,
        eps: s.number("layer_norm_eps", 1e-5)?,
        positions: s.rotary(&rope)?,
        mlp: s.mlp("hidden_act", "gelu")?,
        residual: if s.flag("use_parallel_residual", true)? {
            Residual::Parallel
        } else {
            Residual::Sequential
        },
        bias: Bias { qkv: bias, out: bias, ..Bias::ALL },
        bias_u: false,
        tied: s.flag("tie_word_embeddings", false)?,
        ..Default::default()
    })
}
