//! How large a model would be, before anything is allocated.

use crate::model::Config;
use crate::model::architecture::{Mlp, Norm, Positions};

/// The number of parameters of a checked configuration: `Params::zeros(config).count()`, without the memory.
pub(super) fn n_params(c: &Config) -> u128 {
    let n = |x: usize| x as u128;
    let (d, vocab) = (n(c.d_model), n(c.d_vocab));
    let (heads, kv_heads) = (n(c.n_heads) * n(c.d_head), n(c.n_kv_heads()) * n(c.d_head));
    let bias = |width: u128| if c.bias { width } else { 0 };
    let norm = match c.norm {
        Norm::Layer => d + bias(d),
        Norm::Rms => d,
        Norm::None => 0,
    };
    let attention = d * (heads + 2 * kv_heads) + heads * d + bias(heads + 2 * kv_heads + d);
    let d_mlp = n(c.d_mlp);
    let mlp = match c.mlp {
        Mlp::None => 0,
        Mlp::SwiGlu => norm + 3 * d * d_mlp + bias(d_mlp + d),
        Mlp::GeluTanh | Mlp::Gelu | Mlp::Relu => norm + 2 * d * d_mlp + bias(d_mlp + d),
    };
    let positions = match c.positions {
        Positions::Learned => n(c.n_ctx) * d,
        Positions::Rotary(_) | Positions::None => 0,
    };
    let unembedding = if c.tied { 0 } else { d * vocab };
    let block = norm + attention + mlp;
    vocab * d
        + positions
        + n(c.n_distinct_blocks()) * block
        + norm
        + unembedding
        + if c.bias_u { vocab } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Params;
    use crate::model::architecture::Blocks;

    #[test]
    fn the_size_told_beforehand_is_the_size_there_is() {
        let base = Config {
            d_vocab: 7,
            n_ctx: 5,
            d_model: 6,
            n_layers: 3,
            n_heads: 4,
            d_head: 2,
            d_mlp: 9,
            ..Default::default()
        };
        let mut n = 0;
        for norm in [Norm::Layer, Norm::Rms, Norm::None] {
            for mlp in [Mlp::GeluTanh, Mlp::SwiGlu, Mlp::None] {
                for positions in [Positions::Learned, Positions::None] {
                    for bits in 0..16 {
                        let config = Config {
                            norm,
                            mlp,
                            positions: positions.clone(),
                            bias: bits & 1 > 0,
                            bias_u: bits & 2 > 0,
                            tied: bits & 4 > 0,
                            n_kv_heads: (bits & 8 > 0).then_some(2),
                            blocks: if bits & 8 > 0 {
                                Blocks::Looped { inject: false }
                            } else {
                                Blocks::Distinct
                            },
                            ..base.clone()
                        };
                        assert_eq!(n_params(&config), Params::zeros(&config).count() as u128, "{config:?}");
                        n += 1;
                    }
                }
            }
        }
        assert_eq!(n, 288);
    }
}
