//! Falcon (Almazrouei et al. 2023) with rotary positions: one norm for attention and MLP, or two, or one after the
//! other.

use super::layout::How::{AsIs, Rows, Transposed};
use super::layout::{Part::Grouped, Qkv};
use super::settings::Rope;
use super::{Family, Settings};
use crate::Result;
use crate::model::{Bias, Config, Residual};

pub(super) const FAMILY: Family = Family {
    model_type: "falcon",
    config,
    bodies: &["transformer."],
    outside: &[
        ("embed.W_E", "word_embeddings.weight", AsIs),
        ("ln_final.w", "ln_f.weight", AsIs),
        ("ln_final.b", "ln_f.bias", AsIs),
        ("unembed.W_U", "lm_head.weight", Transposed),
    ],
    block: "h.{l}.",
    inside: &[
        ("ln1.w", "input_layernorm.weight|ln_attn.weight", AsIs),
        ("ln1.b", "input_layernorm.bias|ln_attn.bias", AsIs),
        ("attn.W_Q", "self_attention.query_key_value.weight", Rows(Grouped(Qkv::Q))),
        ("attn.b_Q", "self_attention.query_key_value.bias", Rows(Grouped(Qkv::Q))),
        ("attn.W_K", "self_attention.query_key_value.weight", Rows(Grouped(Qkv::K))),
        ("attn.b_K", "self_attention.query_key_value.bias", Rows(Grouped(Qkv::K))),
        ("attn.W_V", "self_attention.query_key_value.weight", Rows(Grouped(Qkv::V))),
        ("attn.b_V", "self_attention.query_key_value.bias", Rows(Grouped(Qkv::V))),
        ("attn.W_O", "self_attention.dense.weight", Transposed),
        ("attn.b_O", "self_attention.dense.bias", AsIs),
        ("ln2.w", "post_attention_layernorm.weight|ln_mlp.weight", AsIs),
        ("ln2.b", "post_attention_layernorm.bias|ln_mlp.bias", AsIs),
        ("mlp.W_in", "mlp.dense_h_to_4h.weight", Transposed),
        ("mlp.b_in", "mlp.dense_h_to_4h.bias", AsIs),
        ("mlp.W_out", "mlp.dense_4h_to_h.weight", Transposed),
        ("mlp.b_out", "mlp.dense_4h_to_h.bias", AsIs),
    ],
};

fn config(s: &Settings) -> Result<Config> {
    // Its ALiBi is computed in bfloat16.
    s.must_be("alibi", false, false)?;
    s.must_be("apply_residual_connection_post_layernorm", false, false)?;
    let d_model = s.count_of(&["hidden_size", "n_embed"])?;
    let n_heads = s.count_of(&["num_attention_heads", "n_head"])?;
    let d_head = s.d_head(d_model, n_heads)?;
    let (newer, one_kv) = (s.flag("new_decoder_architecture", false)?, s.flag("multi_query", true)?);
    let n_kv_heads = s.count("num_kv_heads", Some(n_heads))?;
    let parallel = s.flag("parallel_attn", true)?;
    let n_norms = s.count("num_ln_in_parallel_attn", Some(if newer { 2 } else { 1 }))?;
    let bias = s.flag("bias", false)?;
    Ok(Config {
        d_vocab: s.count("vocab_size", None)?,
        n_ctx: s.count("max_position_embeddings", Some(2048))?,
        d_model,
        n_layers: s.count_of(&["num_hidden_layers", "n_layer"])?,
        n_heads,
        n_kv_heads: match (newer, one_kv) {
            (true, _) => Some(n_kv_heads),
            (false, true) => Some(1),
            (false, false) => None,
        },
        d_head,
        d_mlp: s.count("ffn_hidden_size", Some(d_model.saturating_mul(4)))?,
        eps: s.number("layer_norm_epsilon", 1e-5)?,
        positions: s.rotary(&Rope::of_head(d_head))?,
        mlp: s.mlp("activation", "gelu")?,
        residual: match (newer, parallel, n_norms) {
            (true, _, 2) => Residual::Parallel,
            (true, _, 1) | (false, true, 1) => Residual::ParallelOneNorm,
            (false, false, 1) => Residual::Sequential,
            (..) => return s.bad("num_ln_in_parallel_attn", "1, or 2 with new_decoder_architecture"),
        },
        bias: Bias { qkv: bias, out: bias, mlp: bias, gate: false, norm: true },
        bias_u: false,
        tied: s.flag("tie_word_embeddings", true)?,
        ..Default::default()
    })
}
