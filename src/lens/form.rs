//! What a search for the least KL moves: one map, or as much of several as they have in common.

use std::sync::Arc;

use ndarray::{Array1, Array2, Axis, stack};
use serde::{Deserialize, Serialize};

use super::AffineLens;
use super::kind::Common;

/// The lenses of a pool of streams, `z = g_k A h + b_k` for the `k`-th of them.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Form {
    /// `[d_z, d_x]`.
    pub(super) a: Array2<f64>,
    /// One row for all, or one for each stream of the pool, `[1 or streams, d_z]`.
    pub(super) b: Array2<f64>,
    /// One for each stream of the pool; none where all are 1.
    pub(super) gains: Array1<f64>,
}

impl Form {
    /// Of lenses that have this in common: those of each stream of the pool, or of any if they are one.
    pub(super) fn of(lenses: &[Arc<AffineLens>], common: Common) -> Self {
        let first = &lenses[0];
        let each_bias = || {
            let biases: Vec<_> = lenses.iter().map(|lens| lens.b.view()).collect();
            stack(Axis(0), &biases).expect("lenses of one target")
        };
        match common {
            Common::Everything => {
                Form { a: first.a.clone(), b: first.b.clone().insert_axis(Axis(0)), gains: Array1::zeros(0) }
            }
            Common::Matrix => Form { a: first.a.clone(), b: each_bias(), gains: Array1::zeros(0) },
            Common::Direction => {
                let size = |lens: &&Arc<AffineLens>| lens.a.iter().map(|x| x * x).sum::<f64>();
                let of =
                    lenses.iter().max_by(|x, y| size(x).total_cmp(&size(y))).expect("a pool has streams");
                let norm = size(&of).max(f64::MIN_POSITIVE);
                let gains = lenses.iter().map(|lens| (&lens.a * &of.a).sum() / norm).collect();
                Form { a: of.a.clone(), b: each_bias(), gains }
            }
        }
    }

    /// The gain of the `k`-th stream.
    pub(super) fn gain(&self, k: usize) -> f64 {
        self.gains.get(k).copied().unwrap_or(1.0)
    }

    /// Which row of what there is one or one for each stream is that of the `k`-th.
    pub(super) fn row(&self, k: usize) -> usize {
        k.min(self.b.nrows() - 1)
    }

    /// The lens of the `k`-th stream of the pool.
    pub(super) fn lens(&self, k: usize) -> AffineLens {
        AffineLens { a: &self.a * self.gain(k), b: self.b.row(self.row(k)).to_owned() }
    }
}
