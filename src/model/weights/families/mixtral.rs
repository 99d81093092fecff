//! Mixtral (Jiang et al. 2024): Mistral with experts.

use super::layout::How::{AsIs, OfExperts, Transposed};
use super::llama::{OUTSIDE, common, sizes};
use super::settings::Rope;
use super::{Family, Settings};
use crate::Result;
use crate::model::{Config, Experts};

pub(super) const FAMILY: Family = Family {
    model_type: "mixtral",
    config,
    bodies: &["model."],
    outside: OUTSIDE,
    block: "layers.{l}.",
    inside: &[
        ("ln1.w", "input_layernorm.weight", AsIs),
        ("attn.W_Q", "self_attn.q_proj.weight", Transposed),
        ("attn.W_K", "self_attn.k_proj.weight", Transposed),
        ("attn.W_V", "self_attn.v_proj.weight", Transposed),
        ("attn.W_O", "self_attn.o_proj.weight", Transposed),
        ("ln2.w", "post_attention_layernorm.weight", AsIs),
        ("mlp.W_router", "block_sparse_moe.gate.weight", Transposed),
        ("mlp.W_gate", "block_sparse_moe.experts.{e}.w1.weight", OfExperts),
        ("mlp.W_in", "block_sparse_moe.experts.{e}.w3.weight", OfExperts),
        ("mlp.W_out", "block_sparse_moe.experts.{e}.w2.weight", OfExperts),
    ],
};

fn config(s: &Settings) -> Result<Config> {
    let (d_model, n_heads) = sizes(s)?;
    let rope = Rope { default_theta: 1e6, ..Rope::of_head(s.head_dim(d_model, n_heads)?) };
    let config = common(s, rope, d_model, n_heads)?;
    let window = s.window(None, config.n_ctx)?;
    Ok(Config {
        eps: s.number("rms_norm_eps", 1e-5)?,
        experts: Some(Experts {
            n: s.count("num_local_experts", Some(8))?,
            n_chosen: s.count("num_experts_per_tok", Some(2))?,
        }),
        layers: s.kinds(config.n_layers, window, |_| true)?,
        ..config
    })
}
