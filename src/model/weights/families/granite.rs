//! Granite (IBM 2024): Llama with multipliers.

use super::llama::{biases, common, like_llama, sizes};
use super::settings::Rope;
use super::{Family, Settings};
use crate::Result;
use crate::model::{AttentionScale, Config};

pub(super) const FAMILY: Family = like_llama("granite", config);

fn config(s: &Settings) -> Result<Config> {
    let (d_model, n_heads) = sizes(s)?;
    let rope = Rope::of_head(s.head_dim(d_model, n_heads)?);
    let logits_scaling = s.number("logits_scaling", 1.0)?;
    if logits_scaling == 0.0 {
        return s.bad("logits_scaling", "a number other than 0");
    }
    Ok(Config {
        bias: biases(s)?,
        embed_scale: s.number("embedding_multiplier", 1.0)?,
        resid_scale: s.number("residual_multiplier", 1.0)?,
        logit_scale: 1.0 / logits_scaling,
        attention_scale: AttentionScale::Fixed {
            scale: s.number("attention_multiplier", 1.0)?,
            by_layer: false,
        },
        ..common(s, rope, d_model, n_heads)?
    })
}
