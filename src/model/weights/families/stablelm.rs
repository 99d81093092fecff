//! StableLM (Stability AI 2023): Llama with layer norm, and a quarter of each head that turns.

use super::llama::{common, like_llama, sizes};
use super::settings::Rope;
use super::{Family, Settings};
use crate::Result;
use crate::model::{Bias, Config, Norm, Residual};

pub(super) const FAMILY: Family = like_llama("stablelm", config);

fn config(s: &Settings) -> Result<Config> {
    s.must_be("qk_layernorm", false, false)?;
    let (d_model, n_heads) = sizes(s)?;
    let rope = Rope { default_part: 0.25, ..Rope::of_head(s.head_dim(d_model, n_heads)?) };
    let parallel = s.flag("use_parallel_residual", false)?;
    Ok(Config {
        norm: Norm::Layer,
        eps: s.number("layer_norm_eps", 1e-5)?,
        bias: Bias { qkv: s.flag("use_qkv_bias", false)?, norm: true, ..Bias::NONE },
        residual: if parallel { Residual::ParallelOneNorm } else { Residual::Sequential },
        ..common(s, rope, d_model, n_heads)?
    })
}
