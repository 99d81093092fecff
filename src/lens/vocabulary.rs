//! A part of a large vocabulary that stands for all of it, so that a step towards the least KL need not multiply by
//! every token's unembedding.

use ndarray::{Array1, Array2, Axis};

use super::decoder::{Decoding, Wanted, columns};
use crate::Result;
use crate::num::{Rng, rng, uniform};

/// Tokens of a vocabulary, in order, and how many each stands for.
pub(super) struct Part {
    tokens: Vec<usize>,
    weights: Array1<f32>,
}

/// Share of the uniform distribution in what tokens are drawn by, so that none stands for too many.
const FLOOR: f64 = 0.1;

impl Part {
    /// What is looked at of a chunk in an epoch: a decoder of about `n` tokens, and what is `wanted` of them; nothing if
    /// that is all that are decoded.
    pub(super) fn look(
        decoding: &Decoding,
        wanted: &Wanted,
        mean: &Array1<f64>,
        n: usize,
        (epoch, chunk): (usize, usize),
    ) -> Result<Option<(Decoding, Wanted)>> {
        if decoding.d_vocab().is_none_or(|d_vocab| d_vocab <= n) {
            return Ok(None);
        }
        let part = Part::draw(&wanted.p, mean, n, &mut rng(1 + epoch as u64, chunk as u64));
        Ok(Some((part.decoder(decoding)?, part.wanted(wanted))))
    }

    /// About `n` tokens. Each is drawn with a probability proportional to what it gets of `p: [rows, d_vocab]` and of
    /// the `mean` prediction, but never more than 1, and stands for the reciprocal (Horvitz & Thompson 1952): a sum
    /// over the part is in the mean the sum over all, and the likeliest tokens are there for certain, once.
    pub(super) fn draw(p: &Array2<f32>, mean: &Array1<f64>, n: usize, random: &mut Rng) -> Part {
        let (rows, d_vocab) = p.dim();
        let floor = FLOOR / d_vocab as f64;
        let wanted = p.sum_axis(Axis(0));
        let scores: Vec<f64> =
            wanted.iter().zip(mean).map(|(&p, mean)| f64::from(p) / rows as f64 + mean + floor).collect();
        let factor = factor(&scores, n);
        let (mut tokens, mut weights) = (Vec::new(), Vec::new());
        for (token, score) in scores.iter().enumerate() {
            let chance = (factor * score).min(1.0);
            // Every token takes its number, so that one more or less changes no other.
            if uniform(random) < chance {
                tokens.push(token);
                weights.push((1.0 / chance) as f32);
            }
        }
        Part { tokens, weights: weights.into() }
    }

    /// What reads these tokens: a token that stands for several has their probability.
    pub(super) fn decoder(&self, all: &Decoding) -> Result<Decoding> {
        all.of_tokens(&self.tokens, self.weights.mapv(f32::ln))
    }

    /// The distributions over these tokens that are wanted where `all` are.
    pub(super) fn wanted(&self, all: &Wanted) -> Wanted {
        let mut p = columns(&all.p, &self.tokens);
        p *= &self.weights;
        let mut entropy = 0.0;
        for mut row in p.rows_mut() {
            let sum = row.sum();
            if sum > 0.0 {
                row /= sum;
            }
            entropy -=
                row.iter().filter(|&&p| p > 0.0).map(|&p| f64::from(p) * f64::from(p).ln()).sum::<f64>();
        }
        Wanted::new(p, entropy)
    }
}

/// The `c` of which `Σ min(1, c s)` is `n`.
fn factor(scores: &[f64], n: usize) -> f64 {
    let (mut factor, mut certain) = (0.0, 0);
    loop {
        let rest = scores.iter().filter(|s| factor * **s < 1.0);
        let next = n.saturating_sub(certain) as f64 / rest.sum::<f64>().max(f64::MIN_POSITIVE);
        let now_certain = scores.iter().filter(|s| next * **s >= 1.0).count();
        factor = next;
        if now_certain <= certain || now_certain >= n {
            return factor;
        }
        certain = now_certain;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lens::decoder::Decoder;
    use crate::num::normal;

    /// Logits of 40 rows over 600 tokens, of which some are likely everywhere; what is wanted, and a decoder.
    fn example() -> (Wanted, Decoding, Array2<f32>, Array1<f64>) {
        let mut random = rng(3, 0);
        let mut u = Array2::from_shape_simple_fn((6, 600), || normal(&mut random) as f32);
        for (token, mut column) in u.columns_mut().into_iter().enumerate() {
            column[0] = -(token as f32) / 100.0;
        }
        let rows = |spread: f32, random: &mut Rng| {
            let mut z = Array2::from_shape_simple_fn((40, 6), || spread * normal(random) as f32);
            z.column_mut(0).fill(1.0);
            z
        };
        let decoder = Decoding::new(Decoder::linear(u, Array1::zeros(0), None), None).unwrap();
        let target = rows(1.0, &mut random);
        let wanted = Wanted::of_logits(decoder.logits(target.view()).unwrap().view());
        let mean = wanted.p.mean_axis(Axis(0)).unwrap().mapv(f64::from);
        (wanted, decoder, rows(0.7, &mut random), mean)
    }

    #[test]
    fn about_as_many_tokens_are_drawn_as_were_asked_for_and_the_likeliest_for_certain() {
        let (wanted, _, _, mean) = example();
        for n in [50, 200, 500] {
            let part = Part::draw(&wanted.p, &mean, n, &mut rng(1, n as u64));
            assert!(
                part.tokens.len().abs_diff(n) < 5 * (n as f64).sqrt() as usize,
                "{} for {n}",
                part.tokens.len()
            );
            let likeliest = (0..600).max_by(|&i, &j| mean[i].total_cmp(&mean[j])).unwrap();
            let at = part.tokens.iter().position(|&token| token == likeliest).unwrap();
            assert_eq!(part.weights[at], 1.0);
        }
        let all = Part::draw(&wanted.p, &mean, 600, &mut rng(1, 0));
        assert!(all.tokens.len() == 600 && all.weights.iter().all(|w| *w == 1.0));
    }

    #[test]
    fn a_part_of_the_vocabulary_gives_the_kl_and_the_gradient_of_all_of_it_in_the_mean() {
        let (wanted, decoder, z, mean) = example();
        let (kl, gradient) = decoder.kl_and_gradient(&wanted, z.clone()).unwrap();
        let n_draws = 400;
        let (mut sum, mut squares, mut gradients) = (0.0, 0.0, Array2::<f32>::zeros(z.dim()));
        for draw in 0..n_draws {
            let part = Part::draw(&wanted.p, &mean, 150, &mut rng(2, draw));
            let part_of_it = part.decoder(&decoder).unwrap();
            let (here, slope) = part_of_it.kl_and_gradient(&part.wanted(&wanted), z.clone()).unwrap();
            (sum, squares) = (sum + here, squares + here * here);
            gradients += &slope;
        }
        let n = n_draws as f64;
        let (average, error) = (sum / n, ((squares / n - (sum / n).powi(2)) / n).sqrt());
        // Ratios of sums are off by a share of their variance; one part alone is 30 times as uncertain as the average.
        assert!((average - kl).abs() < 4.0 * error + 0.01 * kl, "{average} ± {error} for {kl}");
        let off = &gradients / n as f32 - &gradient;
        let size = |a: &Array2<f32>| a.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!(size(&off) < 0.02 * size(&gradient), "{} of {}", size(&off), size(&gradient));
    }
}
