//! Writing on from a prompt.

use ndarray::Array2;

use super::Transformer;
use crate::num::{rng, sample_index};
use crate::session;
use crate::{Error, ErrorKind, Result};

impl Transformer {
    /// `n` more tokens after `prompt`, each the most probable one. The prompt is not repeated in the result.
    ///
    /// The model sees at most its last `n_ctx` tokens.
    pub fn generate_greedy(&self, prompt: &[u32], n: usize) -> Result<Vec<u32>> {
        self.generate(prompt, n, |logits| {
            let best = logits
                .iter()
                .enumerate()
                .fold((0, f32::NEG_INFINITY), |b, (i, &x)| if x > b.1 { (i, x) } else { b });
            best.0
        })
    }

    /// `n` more tokens after `prompt`, drawn at `temperature` (1 is the model's own distribution, towards 0 greedy).
    pub fn generate_sampled(
        &self,
        prompt: &[u32],
        n: usize,
        temperature: f64,
        seed: u64,
    ) -> Result<Vec<u32>> {
        if !(temperature > 0.0 && temperature.is_finite()) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("temperature is {temperature}"),
                "use a positive number such as 0.8, or `generate_greedy`",
            ));
        }
        let mut rng = rng(seed, 3);
        self.generate(prompt, n, |logits| {
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            sample_index(&mut rng, logits.iter().map(|&x| (f64::from(x - max) / temperature).exp()))
        })
    }

    fn generate(
        &self,
        prompt: &[u32],
        n: usize,
        mut choose: impl FnMut(&[f32]) -> usize,
    ) -> Result<Vec<u32>> {
        if prompt.is_empty() {
            return Err(Error::new(
                ErrorKind::Data,
                "the prompt is empty",
                "give at least one token to start from",
            ));
        }
        let mut tokens = prompt.to_vec();
        while tokens.len() < prompt.len() + n && !session::interrupted() {
            let seen = &tokens[tokens.len().saturating_sub(self.config.n_ctx)..];
            let input = Array2::from_shape_vec((1, seen.len()), seen.to_vec()).expect("one row");
            let logits = self.forward(&input)?;
            let last: Vec<f32> = logits.slice(ndarray::s![0, seen.len() - 1, ..]).to_vec();
            tokens.push(choose(&last) as u32);
        }
        Ok(tokens.split_off(prompt.len()))
    }
}
