//! What the bounds of other figures are shares of; a module of the examples here.

use std::time::Instant;

use onelens::ndarray::Array2;
use onelens::num::matmul;
use rayon::prelude::*;

/// Operations a second of `gemm` in f32: the best of five times in which each thread multiplies square matrices of its
/// own, of a size that stays in its cache.
pub(crate) fn gemm_peak() -> f64 {
    const N: usize = 512;
    const TIMES: usize = 40;
    let a = Array2::from_shape_fn((N, N), |(i, j)| ((i * 7 + j) % 13) as f32);
    let threads = rayon::current_num_threads();
    let run = || {
        let start = Instant::now();
        (0..threads).into_par_iter().for_each(|_| {
            for _ in 0..TIMES {
                std::hint::black_box(matmul(a.view(), a.view()));
            }
        });
        (2 * N * N * N * TIMES * threads) as f64 / start.elapsed().as_secs_f64()
    };
    (0..5).map(|_| run()).fold(0.0, f64::max)
}
