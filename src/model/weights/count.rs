//! How large a model would be, before anything is allocated.

use crate::model::{Config, Params};

/// The number of parameters of a checked configuration.
pub(super) fn n_params(c: &Config) -> u128 {
    Params::count_of(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Bias, Blocks, Mlp, Norm, Positions};

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
                            bias: Bias::from(bits & 1 > 0),
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
