//! MPT (MosaicML 2023): ALiBi and no biases at all.

use super::layout::How::{AsIs, Rows, Transposed};
use super::layout::{Part::Stacked, Qkv};
use super::{Family, Settings};
use crate::Result;
use crate::model::{AttentionScale, Bias, Config, Mlp, Positions};

pub(super) const FAMILY: Family = Family {
    model_type: "mpt",
    config,
    bodies: &["transformer."],
    outside: &[
        ("embed.W_E", "wte.weight", AsIs),
        ("ln_final.w", "norm_f.weight", AsIs),
        ("unembed.W_U", "lm_head.weight", Transposed),
    ],
    block: "blocks.{l}.",
    inside: &[
        ("ln1.w", "norm_1.weight", AsIs),
        ("attn.W_Q", "attn.Wqkv.weight", Rows(Stacked(Qkv::Q))),
        ("attn.W_K", "attn.Wqkv.weight", Rows(Stacked(Qkv::K))),
        ("attn.W_V", "attn.Wqkv.weight", Rows(Stacked(Qkv::V))),
        ("attn.W_O", "attn.out_proj.weight", Transposed),
        ("ln2.w", "norm_2.weight", AsIs),
        ("mlp.W_in", "ffn.up_proj.weight", Transposed),
        ("mlp.W_out", "ffn.down_proj.weight", Transposed),
    ],
};

fn config(s: &Settings) -> Result<Config> {
    s.must_be("no_bias", true, true)?;
    s.must_be_absent("logit_scale")?;
    s.must_be_number("embedding_fraction", 1.0)?;
    // Told, and not looked at by transformers: positions come by ALiBi, and the MLP is four times as wide.
    s.flag("learned_pos_emb", true)?;
    s.count("expansion_ratio", Some(4))?;
    if !matches!(
        s.text("norm_type")?.unwrap_or("low_precision_layernorm"),
        "low_precision_layernorm" | "layernorm"
    ) {
        return s.bad("norm_type", "read only as low_precision_layernorm or layernorm");
    }
    let (d_model, n_heads) = (s.count("d_model", None)?, s.count("n_heads", None)?);
    let mut scale = AttentionScale::Head;
    if let Some(attention) = s.object("attn_config")? {
        if attention.text("attn_type")?.unwrap_or("multihead_attention") != "multihead_attention" {
            return attention.bad("attn_type", "read only as multihead_attention");
        }
        attention.text("attn_impl")?;
        attention.text("model_type")?;
        attention.must_be("alibi", true, true)?;
        attention.must_be_number("alibi_bias_max", 8.0)?;
        attention.must_be("prefix_lm", false, false)?;
        attention.must_be("qk_ln", false, false)?;
        attention.must_be("attn_uses_sequence_id", false, false)?;
        attention.must_be_absent("clip_qkv")?;
        if let Some(told) = attention.number_or_off("softmax_scale", None)? {
            scale = AttentionScale::Fixed { scale: told, by_layer: false };
        }
        attention.finish()?;
    }
    Ok(Config {
        d_vocab: s.count("vocab_size", None)?,
        n_ctx: s.count("max_seq_len", Some(2048))?,
        d_model,
        n_layers: s.count("n_layers", None)?,
        n_heads,
        d_head: s.d_head(d_model, n_heads)?,
        d_mlp: d_model.saturating_mul(4),
        eps: s.number("layer_norm_epsilon", 1e-5)?,
        positions: Positions::Alibi,
        attention_scale: scale,
        mlp: Mlp::Gelu,
        bias: Bias::NONE,
        bias_u: false,
        tied: s.flag("tie_word_embeddings", true)?,
        ..Default::default()
    })
}
