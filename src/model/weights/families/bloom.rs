//! BLOOM (BigScience 2022): ALiBi, and a norm of the embedding.

use super::layout::How::{AsIs, Rows, Transposed};
use super::layout::{Part::Grouped, Qkv};
use super::{Family, Settings};
use crate::Result;
use crate::model::{Config, Mlp, Positions};

pub(super) const FAMILY: Family = Family {
    model_type: "bloom",
    config,
    bodies: &["transformer."],
    outside: &[
        ("embed.W_E", "word_embeddings.weight", AsIs),
        ("embed.ln.w", "word_embeddings_layernorm.weight", AsIs),
        ("embed.ln.b", "word_embeddings_layernorm.bias", AsIs),
        ("ln_final.w", "ln_f.weight", AsIs),
        ("ln_final.b", "ln_f.bias", AsIs),
        ("unembed.W_U", "lm_head.weight", Transposed),
    ],
    block: "h.{l}.",
    inside: &[
        ("ln1.w", "input_layernorm.weight", AsIs),
        ("ln1.b", "input_layernorm.bias", AsIs),
        ("attn.W_Q", "self_attention.query_key_value.weight", Rows(Grouped(Qkv::Q))),
        ("attn.b_Q", "self_attention.query_key_value.bias", Rows(Grouped(Qkv::Q))),
        ("attn.W_K", "self_attention.query_key_value.weight", Rows(Grouped(Qkv::K))),
        ("attn.b_K", "self_attention.query_key_value.bias", Rows(Grouped(Qkv::K))),
        ("attn.W_V", "self_attention.query_key_value.weight", Rows(Grouped(Qkv::V))),
        ("attn.b_V", "self_attention.query_key_value.bias", Rows(Grouped(Qkv::V))),
        ("attn.W_O", "self_attention.dense.weight", Transposed),
        ("attn.b_O", "self_attention.dense.bias", AsIs),
        ("ln2.w", "post_attention_layernorm.weight", AsIs),
        ("ln2.b", "post_attention_layernorm.bias", AsIs),
        ("mlp.W_in", "mlp.dense_h_to_4h.weight", Transposed),
        ("mlp.b_in", "mlp.dense_h_to_4h.bias", AsIs),
        ("mlp.W_out", "mlp.dense_4h_to_h.weight", Transposed),
        ("mlp.b_out", "mlp.dense_4h_to_h.bias", AsIs),
    ],
};

/// ALiBi knows no longest context; the files tell that of the training, or nothing.
const N_CTX: usize = 2048;

fn config(s: &Settings) -> Result<Config> {
    s.must_be("apply_residual_connection_post_layernorm", false, false)?;
    let d_model = s.count_of(&["n_embed", "hidden_size"])?;
    let n_heads = s.count_of(&["n_head", "num_attention_heads"])?;
    // Always four times the width, whatever the file says.
    s.must_be_absent("n_inner")?;
    Ok(Config {
        d_vocab: s.count("vocab_size", None)?,
        n_ctx: s.count("seq_length", Some(N_CTX))?,
        d_model,
        n_layers: s.count_of(&["n_layer", "num_hidden_layers"])?,
        n_heads,
        d_head: s.d_head(d_model, n_heads)?,
        d_mlp: d_model.saturating_mul(4),
        eps: s.number("layer_norm_epsilon", 1e-5)?,
        positions: Positions::Alibi,
        mlp: Mlp::GeluTanh,
        bias_u: false,
        tied: s.flag("tie_word_embeddings", true)?,
        embed_norm: true,
        ..Default::default()
    })
}
