//! What the bounds of other figures are shares of; a module of the examples here.

use std::time::Instant;

use onelens::ndarray::Array2;
use onelens::num::matmul;
use rayon::prelude::*;

/// Size of the square matrices that are multiplied: they stay in a processor's cache.
const N: usize = 512;

/// Operations a second of `gemm` in f32: the best of five times in which each thread multiplies square matrices of its
/// own.
#[allow(dead_code)]
pub(crate) fn gemm_peak() -> f64 {
    const TIMES: usize = 40;
    (0..5).map(|_| rate(TIMES)).fold(0.0, f64::max)
}

/// The same as the mean over about so many seconds, to compare with work that lasts as long: on a machine that others
/// use, too, the best moment is not what lasting work can have.
#[allow(dead_code)]
pub(crate) fn gemm_rate_for(seconds: f64) -> f64 {
    const WARM_UP: usize = 10;
    let operations = seconds * rate(WARM_UP);
    rate((operations / ((2 * N * N * N * rayon::current_num_threads()) as f64)).ceil() as usize)
}

fn rate(times: usize) -> f64 {
    let a = Array2::from_shape_fn((N, N), |(i, j)| ((i * 7 + j) % 13) as f32);
    let threads = rayon::current_num_threads();
    let start = Instant::now();
    (0..threads).into_par_iter().for_each(|_| {
        for _ in 0..times {
            std::hint::black_box(matmul(a.view(), a.view()));
        }
    });
    (2 * N * N * N * times * threads) as f64 / start.elapsed().as_secs_f64()
}
