//! Phi 3 and 4 (Abdin et al. 2024): Llama with fused maps.

use super::layout::How::{AsIs, Rows, Transposed};
use super::layout::Part::{Half, Stacked};
use super::layout::Qkv;
use super::llama::{OUTSIDE, common, sizes};
use super::settings::Rope;
use super::{Family, Settings};
use crate::Result;
use crate::model::Config;

pub(super) const FAMILY: Family = Family {
    model_type: "phi3",
    config,
    bodies: &["model."],
    outside: OUTSIDE,
    block: "layers.{l}.",
    inside: &[
        ("ln1.w", "input_layernorm.weight", AsIs),
        ("attn.W_Q", "self_attn.qkv_proj.weight", Rows(Stacked(Qkv::Q))),
        ("attn.W_K", "self_attn.qkv_proj.weight", Rows(Stacked(Qkv::K))),
        ("attn.W_V", "self_attn.qkv_proj.weight", Rows(Stacked(Qkv::V))),
        ("attn.W_O", "self_attn.o_proj.weight", Transposed),
        ("ln2.w", "post_attention_layernorm.weight", AsIs),
        ("mlp.W_gate", "mlp.gate_up_proj.weight", Rows(Half(0))),
        ("mlp.W_in", "mlp.gate_up_proj.weight", Rows(Half(1))),
        ("mlp.W_out", "mlp.down_proj.weight", Transposed),
    ],
};

fn config(s: &Settings) -> Result<Config> {
    let (d_model, n_heads) = sizes(s)?;
    s.must_be("attention_bias", false, false)?;
    let config = common(s, Rope::of_head(s.head_dim(d_model, n_heads)?), d_model, n_heads)?;
    let window = s.window(None, config.n_ctx)?;
    Ok(Config {
        eps: s.number("rms_norm_eps", 1e-5)?,
        layers: s.kinds(config.n_layers, window, |_| true)?,
        ..config
    })
}
