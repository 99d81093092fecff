//! GPT-BigCode (SantaCoder, StarCoder; Li et al. 2023): GPT-2 with one key/value head.

use super::layout::How::{AsIs, Rows, Transposed};
use super::layout::{Part::Grouped, Qkv};
use super::{Family, Settings};
use crate::Result;
use crate::model::{AttentionScale, Config};

pub(super) const FAMILY: Family = Family {
    model_type: "gpt_bigcode",
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
        ("attn.W_Q", "attn.c_attn.weight", Rows(Grouped(Qkv::Q))),
        ("attn.b_Q", "attn.c_attn.bias", Rows(Grouped(Qkv::Q))),
        ("attn.W_K", "attn.c_attn.weight", Rows(Grouped(Qkv::K))),
        ("attn.b_K", "attn.c_attn.bias", Rows(Grouped(Qkv::K))),
        ("attn.W_V", "attn.c_attn.weight", Rows(Grouped(Qkv::V))),
        ("attn.b_V", "attn.c_attn.bias", Rows(Grouped(Qkv::V))),
        ("attn.W_O", "attn.c_proj.weight", Transposed),
        ("attn.b_O", "attn.c_proj.bias", AsIs),
        ("ln2.w", "ln_2.weight", AsIs),
        ("ln2.b", "ln_2.bias", AsIs),
        ("mlp.W_in", "mlp.c_fc.weight", Transposed),
        ("mlp.b_in", "mlp.c_fc.bias", AsIs),
        ("mlp.W_out", "mlp.c_proj.weight", Transposed),
        ("mlp.b_out", "mlp.c_proj.bias", AsIs),
    ],
};

fn config(s: &Settings) -> Result<Config> {
    s.must_be("add_cross_attention", false, false)?;
    let (d_model, n_heads) = (s.count("n_embd", None)?, s.count("n_head", None)?);
    let scaled = s.flag("scale_attn_weights", true)?;
    let n_kv_heads = if s.flag("multi_query", true)? { 1 } else { n_heads };
    // Newer files repeat what `multi_query` says.
    if s.count("num_key_value_heads", Some(n_kv_heads))? != n_kv_heads {
        return s.bad("num_key_value_heads", &format!("read only as what multi_query says, {n_kv_heads}"));
    }
    Ok(Config {
        d_vocab: s.count("vocab_size", None)?,
        n_ctx: s.count("n_positions", Some(1024))?,
        d_model,
        n_layers: s.count("n_layer", None)?,
        n_heads,
        n_kv_heads: Some(n_kv_heads),
        d_head: s.d_head(d_model, n_heads)?,
        d_mlp: s.count("n_inner", Some(d_model.saturating_mul(4)))?,
        eps: s.number("layer_norm_epsilon", 1e-5)?,
        attention_scale: match scaled {
            true => AttentionScale::Head,
            false => AttentionScale::Fixed { scale: 1.0, by_layer: false },
        },
        mlp: s.mlp("activation_function", "gelu_pytorch_tanh")?,
        bias_u: false,
        tied: s.flag("tie_word_embeddings", true)?,
        ..Default::default()
    })
}
