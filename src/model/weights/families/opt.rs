//! OPT (Zhang et al. 2022), also the post-norm kind, OPT-350m. The embedding of that one has fewer dimensions than the
//! stream; it is multiplied by its projections when it is read, so that embedding and unembedding are two matrices
//! then.

use super::layout::How::{After, AsIs, ProjectedIn, ProjectedOut, Transposed};
use super::{Family, Settings};
use crate::Result;
use crate::model::{Bias, Config, NormAt};

pub(super) const FAMILY: Family = Family {
    model_type: "opt",
    config,
    bodies: &["model.decoder.", "decoder."],
    outside: &[
        ("embed.W_E", "embed_tokens.weight", ProjectedIn),
        // The first two rows are for padding.
        ("pos_embed.W_pos", "embed_positions.weight", After(2)),
        ("ln_final.w", "final_layer_norm.weight", AsIs),
        ("ln_final.b", "final_layer_norm.bias", AsIs),
        (
            "unembed.W_U",
            "lm_head.weight|model.decoder.embed_tokens.weight|decoder.embed_tokens.weight",
            ProjectedOut,
        ),
    ],
    block: "layers.{l}.",
    inside: &[
        ("ln1.w", "self_attn_layer_norm.weight", AsIs),
        ("ln1.b", "self_attn_layer_norm.bias", AsIs),
        ("attn.W_Q", "self_attn.q_proj.weight", Transposed),
        ("attn.b_Q", "self_attn.q_proj.bias", AsIs),
        ("attn.W_K", "self_attn.k_proj.weight", Transposed),
        ("attn.b_K", "self_attn.k_proj.bias", AsIs),
        ("attn.W_V", "self_attn.v_proj.weight", Transposed),
        ("attn.b_V", "self_attn.v_proj.bias", AsIs),
        ("attn.W_O", "self_attn.out_proj.weight", Transposed),
        ("attn.b_O", "self_attn.out_proj.bias", AsIs),
        ("ln2.w", "final_layer_norm.weight", AsIs),
        ("ln2.b", "final_layer_norm.bias", AsIs),
        ("mlp.W_in", "fc1.weight", Transposed),
        ("mlp.b_in", "fc1.bias", AsIs),
        ("mlp.W_out", "fc2.weight", Transposed),
        ("mlp.b_out", "fc2.bias", AsIs),
    ],
};

fn config(s: &Settings) -> Result<Config> {
    let (d_model, n_heads) = (s.count("hidden_size", None)?, s.count("num_attention_heads", None)?);
    s.must_be("_remove_final_layer_norm", false, false)?;
    s.must_be("layer_norm_elementwise_affine", true, true)?;
    let projected = s.count("word_embed_proj_dim", Some(d_model))? != d_model;
    let bias = s.flag("enable_bias", true)?;
    Ok(Config {
        d_vocab: s.count("vocab_size", None)?,
        n_ctx: s.count("max_position_embeddings", None)?,
        d_model,
        n_layers: s.count("num_hidden_layers", None)?,
        n_heads,
        d_head: s.d_head(d_model, n_heads)?,
        d_mlp: s.count("ffn_dim", None)?,
        norm_at: if s.flag("do_layer_norm_before", true)? { NormAt::Input } else { NormAt::Sum },
        eps: 1e-5,
        mlp: s.mlp("activation_function", "relu")?,
        bias: Bias { qkv: bias, out: bias, mlp: bias, gate: false, norm: true },
        bias_u: false,
        tied: s.flag("tie_word_embeddings", true)? && !projected,
        ..Default::default()
    })
}
