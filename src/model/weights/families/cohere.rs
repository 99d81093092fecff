//! Command R (Cohere 2024): attention and MLP side by side through one norm without bias, scaled logits.

use super::llama::{common, like_llama, sizes};
use super::settings::Rope;
use super::{Family, Settings};
use crate::Result;
use crate::model::{Bias, Config, Norm, Pairs, Residual};

pub(super) const FAMILY: Family = like_llama("cohere", config);

fn config(s: &Settings) -> Result<Config> {
    s.must_be("use_qk_norm", false, false)?;
    let (d_model, n_heads) = sizes(s)?;
    let d_head = s.head_dim(d_model, n_heads)?;
    let rope = Rope { default_theta: 500_000.0, pairs: Pairs::Adjacent, ..Rope::of_head(d_head) };
    let bias = s.flag("attention_bias", false)?;
    Ok(Config {
        norm: Norm::Layer,
        eps: s.number("layer_norm_eps", 1e-5)?,
        bias: Bias { qkv: bias, out: bias, ..Bias::NONE },
        residual: Residual::ParallelOneNorm,
        logit_scale: s.number("logit_scale", 0.0625)?,
        tied: s.flag("tie_word_embeddings", true)?,
        ..common(s, rope, d_model, n_heads)?
    })
}
