//! GPT-2 (Radford et al. 2019), and its children with other attention scales.

use super::layout::How::{AsIs, Columns};
use super::layout::{Part::Stacked, Qkv};
use super::{Family, Row, Settings};
use crate::Result;
use crate::model::{AttentionScale, Config};

pub(super) const FAMILY: Family = Family {
    model_type: "gpt2",
    config,
    bodies: &["transformer."],
    outside: &[
        ("embed.W_E", "wte.weight", AsIs),
        ("pos_embed.W_pos", "wpe.weight", AsIs),
        ("ln_final.w", "ln_f.weight", AsIs),
        ("ln_final.b", "ln_f.bias", AsIs),
        ("unembed.W_U", "lm_head.weight", super::How::Transposed),
    ],
    block: "h.{l}.",
    inside: INSIDE,
};

const INSIDE: &[Row] = &[
    ("ln1.w", "ln_1.weight", AsIs),
    ("ln1.b", "ln_1.bias", AsIs),
    ("attn.W_Q", "attn.c_attn.weight", Columns(Stacked(Qkv::Q))),
    ("attn.b_Q", "attn.c_attn.bias", Columns(Stacked(Qkv::Q))),
    ("attn.W_K", "attn.c_attn.weight", Columns(Stacked(Qkv::K))),
    ("attn.b_K", "attn.c_attn.bias", Columns(Stacked(Qkv::K))),
    ("attn.W_V", "attn.c_attn.weight", Columns(Stacked(Qkv::V))),
    ("attn.b_V", "attn.c_attn.bias", Columns(Stacked(Qkv::V))),
    ("attn.W_O", "attn.c_proj.weight", AsIs),
    ("attn.b_O", "attn.c_proj.bias", AsIs),
    ("ln2.w", "ln_2.weight", AsIs),
    ("ln2.b", "ln_2.bias", AsIs),
    ("mlp.W_in", "mlp.c_fc.weight", AsIs),
    ("mlp.b_in", "mlp.c_fc.bias", AsIs),
    ("mlp.W_out", "mlp.c_proj.weight", AsIs),
    ("mlp.b_out", "mlp.c_proj.bias", AsIs),
];

fn config(s: &Settings) -> Result<Config> {
    s.must_be("add_cross_attention", false, false)?;
    let (d_model, n_heads) = (s.count("n_embd", None)?, s.count("n_head", None)?);
    let d_head = s.d_head(d_model, n_heads)?;
    Ok(Config {
        d_vocab: s.count("vocab_size", None)?,
        n_ctx: s.count("n_positions", Some(1024))?,
        d_model,
        n_layers: s.count("n_layer", None)?,
        n_heads,
        d_head,
        d_mlp: s.count("n_inner", Some(d_model.saturating_mul(4)))?,
        eps: s.number("layer_norm_epsilon", 1e-5)?,
        attention_scale: scale(s, d_head)?,
        mlp: s.mlp("activation_function", "gelu_new")?,
        bias_u: false,
        tied: s.flag("tie_word_embeddings", true)?,
        ..Default::default()
    })
}

/// `1 / √d_head` unless `scale_attn_weights` is off, divided by the layer if `scale_attn_by_inverse_layer_idx` is on.
fn scale(s: &Settings, d_head: usize) -> Result<AttentionScale> {
    let by_layer = s.flag("scale_attn_by_inverse_layer_idx", false)?;
    Ok(match (s.flag("scale_attn_weights", true)?, by_layer) {
        (true, false) => AttentionScale::Head,
        (true, true) => AttentionScale::Fixed { scale: 1.0 / (d_head as f64).sqrt(), by_layer },
        (false, by_layer) => AttentionScale::Fixed { scale: 1.0, by_layer },
    })
}
