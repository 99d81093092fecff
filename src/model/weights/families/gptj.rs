//! GPT-J (Wang & Komatsuzaki 2021): attention and MLP side by side through one norm, rotary positions on adjacent
//! pairs.

use super::layout::How::{AsIs, Transposed};
use super::{Family, Settings};
use crate::Result;
use crate::model::{Bias, Config, Pairs, Positions, Residual, Rotary, RotaryScaling};

pub(super) const FAMILY: Family = Family {
    model_type: "gptj",
    config,
    bodies: &["transformer."],
    outside: &[
        ("embed.W_E", "wte.weight", AsIs),
        ("ln_final.w", "ln_f.weight", AsIs),
        ("ln_final.b", "ln_f.bias", AsIs),
        ("unembed.W_U", "lm_head.weight", Transposed),
        ("unembed.b_U", "lm_head.bias", AsIs),
    ],
    block: "h.{l}.",
    inside: &[
        ("ln1.w", "ln_1.weight", AsIs),
        ("ln1.b", "ln_1.bias", AsIs),
        ("attn.W_Q", "attn.q_proj.weight", Transposed),
        ("attn.W_K", "attn.k_proj.weight", Transposed),
        ("attn.W_V", "attn.v_proj.weight", Transposed),
        ("attn.W_O", "attn.out_proj.weight", Transposed),
        ("mlp.W_in", "mlp.fc_in.weight", Transposed),
        ("mlp.b_in", "mlp.fc_in.bias", AsIs),
        ("mlp.W_out", "mlp.fc_out.weight", Transposed),
        ("mlp.b_out", "mlp.fc_out.bias", AsIs),
    ],
};

fn config(s: &Settings) -> Result<Config> {
    let (d_model, n_heads) = (s.count("n_embd", None)?, s.count("n_head", None)?);
    let d_rotary = Some(s.count("rotary_dim", Some(64))?);
    // Old files say what is always so.
    s.must_be("rotary", true, true)?;
    s.must_be("scale_attn_weights", true, true)?;
    Ok(Config {
        d_vocab: s.count("vocab_size", None)?,
        n_ctx: s.count("n_positions", Some(2048))?,
        d_model,
        n_layers: s.count("n_layer", None)?,
        n_heads,
        d_head: s.d_head(d_model, n_heads)?,
        d_mlp: s.count("n_inner", Some(d_model.saturating_mul(4)))?,
        eps: s.number("layer_norm_epsilon", 1e-5)?,
        positions: Positions::Rotary(Rotary {
            pairs: Pairs::Adjacent,
            d_rotary,
            theta: 10_000.0,
            scaling: RotaryScaling::None,
        }),
        mlp: s.mlp("activation_function", "gelu_new")?,
        residual: Residual::ParallelOneNorm,
        bias: Bias { qkv: false, out: false, ..Bias::ALL },
        bias_u: true,
        tied: s.flag("tie_word_embeddings", false)?,
        ..Default::default()
    })
}
