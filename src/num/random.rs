//! Seeded randomness: the same numbers on every platform, for every number of threads.

use ndarray::{Array2, Axis};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

/// The generator used everywhere: ChaCha with 8 rounds.
pub type Rng = ChaCha8Rng;

/// Makes the generator for one purpose (`stream`) under one `seed`. Different streams are independent.
///
/// ```
/// use onelens::num::{rng, uniform};
/// assert_eq!(uniform(&mut rng(7, 0)), uniform(&mut rng(7, 0)));
/// assert_ne!(uniform(&mut rng(7, 0)), uniform(&mut rng(7, 1)));
/// ```
pub fn rng(seed: u64, stream: u64) -> Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// Draws a number uniform in `[0, 1)`, with 53 random bits.
pub fn uniform(rng: &mut Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 * (0.5_f64).powi(53)
}

/// Draws an index uniform among `0..n`, without bias that could be noticed (`n` far below 2⁶⁴). Panics if `n` is 0.
pub fn uniform_index(rng: &mut Rng, n: usize) -> usize {
    assert!(n > 0, "no index to choose from");
    ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize
}

/// Draws a standard normal number (Box & Muller 1958).
pub fn normal(rng: &mut Rng) -> f64 {
    let radius = (-2.0 * (1.0 - uniform(rng)).ln()).sqrt();
    radius * (std::f64::consts::TAU * uniform(rng)).cos()
}

/// Uniform in `[0, 1)`, with 24 random bits: all that an `f32` between ½ and 1 holds, for half of the price.
pub(crate) fn uniform_f32(rng: &mut Rng) -> f32 {
    (rng.next_u32() >> 8) as f32 * 0.5_f32.powi(24)
}

/// Standard normal, by the ziggurat of rand_distr: other numbers than [`normal`]'s, several times as fast.
pub(crate) fn standard_normal(rng: &mut Rng) -> f64 {
    StandardNormal.sample(rng)
}

/// Draws an index with the given weights, which need not sum to one. Panics if none is positive.
///
/// ```
/// use onelens::num::{rng, sample_index};
/// assert_eq!(sample_index(&mut rng(0, 0), [0.0, 2.0, 0.0]), 1);
/// ```
pub fn sample_index(rng: &mut Rng, weights: impl IntoIterator<Item = f64> + Clone) -> usize {
    let total: f64 = weights.clone().into_iter().sum();
    assert!(total > 0.0, "no weight is positive");
    let mut left = uniform(rng) * total;
    let mut last = 0;
    for (i, w) in weights.into_iter().enumerate() {
        if w > 0.0 {
            last = i;
            if left < w {
                return i;
            }
            left -= w;
        }
    }
    last
}

/// A uniformly random orthogonal matrix: Gram and Schmidt on the columns of a Gaussian one, twice, so that it is
/// orthogonal to rounding.
pub(crate) fn random_rotation(d: usize, rng: &mut Rng) -> Array2<f64> {
    let gaussian = Array2::from_shape_simple_fn((d, d), || normal(rng));
    // A column in a row, where its numbers lie one after the other.
    let mut q = gaussian.t().as_standard_layout().into_owned();
    for _ in 0..2 {
        for i in 0..d {
            let (done, mut rest) = q.view_mut().split_at(Axis(0), i);
            let mut row = rest.row_mut(0);
            for other in done.rows() {
                let along = row.dot(&other);
                row.scaled_add(-along, &other);
            }
            row /= row.dot(&row).sqrt();
        }
    }
    q.reversed_axes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::matmul;

    #[test]
    fn normals_have_mean_zero_variance_one_and_kurtosis_three() {
        for draw in [normal, standard_normal] {
            let mut rng = rng(1, 0);
            let n = 100_000;
            let (mut m1, mut m2, mut m4) = (0.0, 0.0, 0.0);
            for _ in 0..n {
                let x = draw(&mut rng);
                (m1, m2, m4) = (m1 + x, m2 + x * x, m4 + x.powi(4));
            }
            let n = n as f64;
            // Five standard errors each: 1, √2 and √96 over √n.
            assert!((m1 / n).abs() < 5.0 / n.sqrt());
            assert!((m2 / n - 1.0).abs() < 5.0 * 2_f64.sqrt() / n.sqrt());
            assert!((m4 / n - 3.0).abs() < 5.0 * 96_f64.sqrt() / n.sqrt());
        }
    }

    #[test]
    fn a_rotation_keeps_lengths_and_angles() {
        let r = random_rotation(12, &mut rng(3, 0));
        assert!((matmul(r.view(), r.t()) - Array2::<f64>::eye(12)).iter().all(|e| e.abs() < 1e-14));
    }
}
