//! Gemma 1, 2 and 3 (Gemma Team 2024, 2025): gains less 1, a scaled embedding, from 2 on norms of outputs.

use super::layout::How::{AsIs, PlusOne, Transposed};
use super::llama::{sizes, with_mlp};
use super::settings::{Rope, shortest};
use super::{Family, Row, Settings};
use crate::Result;
use crate::model::{AttentionScale, Bias, Config, Mlp, Norm, NormAt, QkNorm};

pub(super) const GEMMA: Family = Family {
    model_type: "gemma",
    config: gemma,
    bodies: &["model."],
    outside: OUTSIDE,
    block: "layers.{l}.",
    inside: &[
        ("ln1.w", "input_layernorm.weight", PlusOne),
        ("attn.W_Q", "self_attn.q_proj.weight", Transposed),
        ("attn.b_Q", "self_attn.q_proj.bias", AsIs),
        ("attn.W_K", "self_attn.k_proj.weight", Transposed),
        ("attn.b_K", "self_attn.k_proj.bias", AsIs),
        ("attn.W_V", "self_attn.v_proj.weight", Transposed),
        ("attn.b_V", "self_attn.v_proj.bias", AsIs),
        ("attn.W_O", "self_attn.o_proj.weight", Transposed),
        ("attn.b_O", "self_attn.o_proj.bias", AsIs),
        ("ln2.w", "post_attention_layernorm.weight", PlusOne),
        ("mlp.W_gate", "mlp.gate_proj.weight", Transposed),
        ("mlp.W_in", "mlp.up_proj.weight", Transposed),
        ("mlp.W_out", "mlp.down_proj.weight", Transposed),
    ],
};
pub(super) const GEMMA2: Family = Family { model_type: "gemma2", config: gemma2, inside: INSIDE, ..GEMMA };
pub(super) const GEMMA3: Family =
    Family { model_type: "gemma3_text", config: gemma3, inside: INSIDE, ..GEMMA };

const OUTSIDE: &[Row] = &[
    ("embed.W_E", "embed_tokens.weight", AsIs),
    ("ln_final.w", "norm.weight", PlusOne),
    ("unembed.W_U", "lm_head.weight", Transposed),
];

const INSIDE: &[Row] = &[
    ("ln1.w", "input_layernorm.weight", PlusOne),
    ("attn.W_Q", "self_attn.q_proj.weight", Transposed),
    ("attn.b_Q", "self_attn.q_proj.bias", AsIs),
    ("attn.W_K", "self_attn.k_proj.weight", Transposed),
    ("attn.b_K", "self_attn.k_proj.bias", AsIs),
    ("attn.W_V", "self_attn.v_proj.weight", Transposed),
    ("attn.b_V", "self_attn.v_proj.bias", AsIs),
    ("attn.W_O", "self_attn.o_proj.weight", Transposed),
    ("attn.b_O", "self_attn.o_proj.bias", AsIs),
    ("attn.q_norm.w", "self_attn.q_norm.weight", PlusOne),
    ("attn.k_norm.w", "self_attn.k_norm.weight", PlusOne),
    ("ln1_post.w", "post_attention_layernorm.weight", PlusOne),
    ("ln2.w", "pre_feedforward_layernorm.weight", PlusOne),
    ("mlp.W_gate", "mlp.gate_proj.weight", Transposed),
    ("mlp.W_in", "mlp.up_proj.weight", Transposed),
    ("mlp.W_out", "mlp.down_proj.weight", Transposed),
    ("ln2_post.w", "post_feedforward_layernorm.weight", PlusOne),
];

/// The nonlinearity of the gate; a `gelu` of older files meant the tanh form, as transformers reads it too. Where both
/// names are there they say the same.
fn activation(s: &Settings) -> Result<Mlp> {
    let tanh = "gelu_pytorch_tanh";
    let older = match s.text("hidden_act")? {
        Some("gelu") => Mlp::GeGluTanh,
        Some(_) | None => s.gated_mlp("hidden_act", tanh)?,
    };
    if !s.present("hidden_activation") {
        return Ok(older);
    }
    let newer = s.gated_mlp("hidden_activation", tanh)?;
    if s.present("hidden_act") && newer != older {
        return s.bad("hidden_activation", "read only where hidden_act says the same");
    }
    Ok(newer)
}

/// What Gemma 1 and 2 have.
fn family(s: &Settings, default_n_kv_heads: usize) -> Result<Config> {
    s.must_be("use_bidirectional_attention", false, false)?;
    let (d_model, n_heads) = sizes(s)?;
    let bias = s.flag("attention_bias", false)?;
    let rope = Rope::of_head(s.count("head_dim", Some(256))?);
    Ok(Config {
        n_kv_heads: Some(s.count("num_key_value_heads", Some(default_n_kv_heads))?),
        bias: Bias { qkv: bias, out: bias, ..Bias::NONE },
        tied: s.flag("tie_word_embeddings", true)?,
        embed_scale: (d_model as f64).sqrt(),
        ..with_mlp(s, rope, d_model, n_heads, activation(s)?)?
    })
}

fn gemma(s: &Settings) -> Result<Config> {
    family(s, 16)
}

fn gemma2(s: &Settings) -> Result<Config> {
    let config = with_second_norms(s, family(s, 4)?, (Some(50.0), Some(30.0)))?;
    let window = s.window(Some(4096), config.n_ctx)?;
    Ok(Config { layers: s.kinds(config.n_layers, window, |l| l % 2 == 0)?, ..config })
}

/// Norms of outputs, the scale of queries, and caps.
fn with_second_norms(s: &Settings, config: Config, caps: (Option<f64>, Option<f64>)) -> Result<Config> {
    Ok(Config {
        norm_at: NormAt::InputAndOutput,
        attention_scale: AttentionScale::Fixed {
            scale: s.number("query_pre_attn_scalar", 256.0)?.powf(-0.5),
            by_layer: false,
        },
        attention_cap: s.number_or_off("attn_logit_softcapping", caps.0)?,
        logit_cap: s.number_or_off("final_logit_softcapping", caps.1)?,
        ..config
    })
}

fn gemma3(s: &Settings) -> Result<Config> {
    s.must_be_absent("attn_logit_softcapping")?;
    let pattern = s.count("sliding_window_pattern", Some(s.count("_sliding_window_pattern", Some(6))?))?;
    let (global, local) = (s.number("rope_theta", 1e6)?, s.number("rope_local_base_freq", 10_000.0)?);
    // Newer files tell the positions of both kinds of layers, older ones the scaling of the global ones.
    let both = s.object("rope_parameters")?;
    let nested =
        both.as_ref().is_some_and(|both| both.present("full_attention") || both.present("sliding_attention"));
    let base = family_without_rope(s)?;
    let (n_ctx, d_head) = (base.n_ctx, base.d_head);
    let rope = Rope::of_head(d_head);
    let (of_global, of_local) = match &both {
        Some(both) if nested => {
            let all = (both.object("full_attention")?, both.object("sliding_attention")?);
            both.finish()?;
            all
        }
        Some(_) => (s.object("rope_parameters")?, None),
        None => (s.object("rope_scaling")?, None),
    };
    let positions = s.rotary_of(of_global.as_ref(), &rope, global, 1.0, (n_ctx, false))?;
    let local = s.rotary_of(of_local.as_ref(), &rope, local, 1.0, (n_ctx, false))?;
    let config = with_second_norms(s, Config { positions, qk_norm: QkNorm::Head, ..base }, (None, None))?;
    // Which layers are local decides their positions too, however long the context.
    let marked = s.kinds(config.n_layers, Some(1), |l| !(l + 1).is_multiple_of(pattern))?;
    let window = s.window(Some(4096), n_ctx)?;
    let kinds = (0..config.n_layers.min(1 << 16)).map(|l| {
        let mut kind = marked.get(l % marked.len().max(1)).cloned().unwrap_or_default();
        if kind.window.is_some() {
            (kind.window, kind.positions) = (window, Some(local.clone()));
        }
        kind
    });
    Ok(Config { layers: shortest(kinds.collect()), ..config })
}

/// Gemma 3 tells its positions in its own way.
fn family_without_rope(s: &Settings) -> Result<Config> {
    s.must_be("use_bidirectional_attention", false, false)?;
    let (d_model, n_heads) = sizes(s)?;
    let bias = s.flag("attention_bias", false)?;
    Ok(Config {
        d_vocab: s.count("vocab_size", Some(262_208))?,
        n_ctx: s.count("max_position_embeddings", Some(131_072))?,
        d_model,
        n_layers: s.count("num_hidden_layers", None)?,
        n_heads,
        n_kv_heads: Some(s.count("num_key_value_heads", Some(4))?),
        d_head: s.count("head_dim", Some(256))?,
        d_mlp: s.count("intermediate_size", None)?,
        norm: Norm::Rms,
        eps: s.number("rms_norm_eps", 1e-6)?,
        mlp: activation(s)?,
        bias: Bias { qkv: bias, out: bias, ..Bias::NONE },
        bias_u: false,
        tied: s.flag("tie_word_embeddings", true)?,
        embed_scale: (d_model as f64).sqrt(),
        ..Default::default()
    })
}
