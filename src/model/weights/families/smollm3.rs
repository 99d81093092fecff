//! SmolLM3 (Hugging Face 2025): Llama whose every fourth layer is told no positions.

use super::llama::{biases, common, like_llama, sizes};
use super::settings::{Rope, shortest};
use super::{Family, Settings};
use crate::Result;
use crate::model::{Config, Positions};

pub(super) const FAMILY: Family = like_llama("smollm3", config);

fn config(s: &Settings) -> Result<Config> {
    let (d_model, n_heads) = sizes(s)?;
    let rope = Rope { default_theta: 2e6, ..Rope::of_head(s.head_dim(d_model, n_heads)?) };
    let config = common(s, rope, d_model, n_heads)?;
    let window = s.window(None, config.n_ctx)?;
    let on = s.flag("use_sliding_window", false)?;
    let turns = layers_that_turn(s, config.n_layers)?;
    // Where windows are on, they are for the layers that turn.
    let mut kinds = s.kinds(config.n_layers, window.filter(|_| on), |l| turns.get(l) == Some(&true))?;
    if kinds.is_empty() {
        kinds.push(Default::default());
    }
    let all = turns.iter().enumerate().map(|(l, &turns)| {
        let mut kind = kinds[l % kinds.len()].clone();
        kind.positions = (!turns).then_some(Positions::None);
        kind
    });
    Ok(Config {
        layers: shortest(all.collect()),
        bias: biases(s)?,
        n_kv_heads: Some(s.count("num_key_value_heads", Some(4))?),
        tied: s.flag("tie_word_embeddings", true)?,
        ..config
    })
}

/// `no_rope_layers` says 1 for a layer that turns; else all turn but every `no_rope_layer_interval`th.
fn layers_that_turn(s: &Settings, n_layers: usize) -> Result<Vec<bool>> {
    let interval = s.count("no_rope_layer_interval", Some(4))?;
    match s.list("no_rope_layers")? {
        None => Ok((0..n_layers.min(1 << 16)).map(|l| !(l + 1).is_multiple_of(interval)).collect()),
        Some(all) => {
            let turns: Option<Vec<bool>> = all
                .iter()
                .map(|x| match x.as_u64() {
                    Some(0) => Some(false),
                    Some(1) => Some(true),
                    Some(_) | None => None,
                })
                .collect();
            match turns {
                Some(turns) if turns.len() == n_layers => Ok(turns),
                Some(_) | None => s.bad("no_rope_layers", "a list of 0 and 1, one for each layer"),
            }
        }
    }
}
