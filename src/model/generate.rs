//! Continuing a sequence, token by token.

use ndarray::{Array2, s};

use crate::data::Tokens;

use super::network::{Network, Past};
use super::{Transformer, forward};
use crate::num::{rng, sample_index};
use crate::session;
use crate::{Error, ErrorKind, Result};

impl Transformer {
    /// Continues `prompt` by `n` tokens, each the most probable one. The prompt is not repeated in the result.
    ///
    /// The model sees at most its last `n_ctx` tokens. Keys and values are kept from token to token, so that each reads
    /// every weight once, as it is stored. Where a further token changes those of the tokens before it (bidirectional
    /// masks, linear attention, rotary positions with [`RotaryScaling::Dynamic`](super::RotaryScaling::Dynamic)),
    /// everything is computed anew for each.
    pub fn generate_greedy(&self, prompt: impl Tokens, n: usize) -> Result<Vec<u32>> {
        self.generate(&prompt.tokens(), n, None)
    }

    /// Continues `prompt` by `n` tokens, drawn at `temperature` (1 is the model's own distribution, towards 0 greedy).
    pub fn generate_sampled(
        &self,
        prompt: impl Tokens,
        n: usize,
        temperature: f64,
        seed: u64,
    ) -> Result<Vec<u32>> {
        self.generate(&prompt.tokens(), n, Some((temperature, seed)))
    }

    fn generate(&self, prompt: &[u32], n: usize, sampled: Option<(f64, u64)>) -> Result<Vec<u32>> {
        let mut tokens = Vec::new();
        self.generate_each(prompt, n, sampled, &mut |token| {
            tokens.push(token);
            Ok(true)
        })?;
        Ok(tokens)
    }

    /// The same, one token at a time: `seen` says whether to go on. `sampled` is a temperature and a seed.
    pub(crate) fn generate_each(
        &self,
        prompt: &[u32],
        n: usize,
        sampled: Option<(f64, u64)>,
        seen: &mut dyn FnMut(u32) -> Result<bool>,
    ) -> Result<()> {
        if prompt.is_empty() {
            return Err(Error::new(
                ErrorKind::Data,
                "the prompt is empty",
                "give at least one token to start from",
            ));
        }
        if let Some((temperature, _)) = sampled
            && !(temperature > 0.0 && temperature.is_finite())
        {
            return Err(Error::new(
                ErrorKind::Config,
                format!("temperature is {temperature}"),
                "use a positive number such as 0.8, or the most probable tokens",
            ));
        }
        let mut rng = sampled.map(|(_, seed)| rng(seed, 3));
        let mut choose = |logits: &[f32]| match (&mut rng, sampled) {
            (Some(rng), Some((temperature, _))) => {
                let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                sample_index(rng, logits.iter().map(|&x| (f64::from(x - max) / temperature).exp()))
            }
            _ => {
                let best = |b: (usize, f32), (i, &x): (usize, &f32)| if x > b.1 { (i, x) } else { b };
                logits.iter().enumerate().fold((0, f32::NEG_INFINITY), best).0
            }
        };
        let mut tokens = prompt.to_vec();
        let mut past = Past::default();
        for _ in 0..n {
            if session::interrupted() {
                break;
            }
            let logits = self.next_logits(&tokens, &mut past)?;
            let token = choose(&logits) as u32;
            if !seen(token)? {
                break;
            }
            tokens.push(token);
        }
        Ok(())
    }

    /// The logits after the last of `tokens`, whose beginning `past` has seen.
    fn next_logits(&self, tokens: &[u32], past: &mut Past) -> Result<Vec<f32>> {
        let c = &self.config;
        let window = &tokens[tokens.len().saturating_sub(c.n_ctx)..];
        // A position that falls out of the window moves all others: what was kept is of no use then.
        if !self.goes_on() || window.len() < tokens.len() {
            let input = Array2::from_shape_vec((1, window.len()), window.to_vec()).expect("one row");
            let logits = self.forward(&input)?;
            return Ok(logits.slice(s![0, -1, ..]).to_vec());
        }
        let new = &tokens[past.n_pos..];
        self.check_tokens(&Array2::from_shape_vec((1, new.len()), new.to_vec()).expect("one row"))?;
        let net = Network::going_on(c, &self.params, std::mem::take(past), new.len());
        let (logits, seen) = forward::next_logits(net, new);
        *past = seen;
        Ok(logits.to_vec())
    }
}
