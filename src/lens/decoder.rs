//! From what a lens guesses to what it reads, and how far that is from what is wanted.

use std::any::Any;
use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

use ndarray::{Array1, Array2, ArrayView2, Axis};

use super::Target;
use crate::Result;
use crate::model::{Norm, Transformer};
use crate::nn::{linear, soft_cap};
use crate::num::{dot, largest, log_softmax_rows, matmul, sum, wide_fn};

/// How a guess `z` becomes logits.
pub(super) struct Decoder {
    /// Of the final norm, where the guess is one of the last residual stream.
    norm: Option<(Norm, f64)>,
    /// After the norm's own scaling: gain, bias and unembedding in one, `[d_z, n_classes]` and `[n_classes]` (empty
    /// without biases). Without it a guess is logits already.
    unembedding: Option<(Array2<f32>, Array1<f32>)>,
    /// No logit is larger than this.
    cap: Option<f32>,
    /// What is added to logits after that. Empty without.
    shift: Array1<f32>,
}

/// The distributions wanted of some rows. A row that stands for several tokens holds the sum of theirs.
pub(crate) struct Wanted {
    pub(crate) p: Array2<f32>,
    /// The sum over all rows, in nats.
    pub(crate) entropy: f64,
    /// The same `p` where [`Products`] keep theirs, from the first time on that they ask for it.
    pub(crate) elsewhere: OnceLock<Arc<dyn Any + Send + Sync>>,
}

/// Something that is not the processors, on which a model runs and its vocabulary is read.
pub(crate) trait Elsewhere: Sync {
    /// The residual streams of `tokens: [sequence, pos]`, each `[sequence · pos, d_model]`, and the logits.
    fn run(&self, tokens: ArrayView2<u32>) -> Result<(Vec<Array2<f32>>, Array2<f32>)>;

    /// Products with `u: [d_z, n_classes]` and `b` (empty without biases).
    fn products(&self, u: &Array2<f32>, b: &Array1<f32>) -> Result<Arc<dyn Products>>;
}

/// Logits `y u + b` of what the final norm gave, and the way back: nearly all of the time of a refinement goes here.
pub(crate) trait Products: Send + Sync {
    /// The same for these tokens alone, with `shift` added to their logits.
    fn of_tokens(&self, tokens: &[usize], shift: &Array1<f32>) -> Result<Arc<dyn Products>>;

    /// Logits of `y: [rows, d_z]`, `[rows, n_classes]`.
    fn logits(&self, y: ArrayView2<f32>) -> Result<Array2<f32>>;

    /// `Σ KL(p ‖ q)` over the rows of `y: [rows, d_z]`, and its gradient by `y`.
    fn kl_and_gradient(&self, wanted: &Wanted, y: ArrayView2<f32>) -> Result<(f64, Array2<f32>)>;
}

/// A decoder, and where its products are made.
pub(super) struct Decoding {
    decoder: Decoder,
    elsewhere: Option<Arc<dyn Products>>,
}

impl Decoding {
    /// A guess that is logits already asks for no products.
    pub(super) fn new(decoder: Decoder, on: Option<&dyn Elsewhere>) -> Result<Self> {
        let elsewhere = match (on, &decoder.unembedding) {
            (Some(on), Some((u, b))) => Some(on.products(u, b)?),
            _ => None,
        };
        Ok(Decoding { decoder, elsewhere })
    }

    /// How many tokens it reads, where it multiplies by their unembedding.
    pub(super) fn d_vocab(&self) -> Option<usize> {
        self.decoder.d_vocab()
    }

    /// The same for these tokens alone, with `shift` added to their logits.
    pub(super) fn of_tokens(&self, tokens: &[usize], shift: Array1<f32>) -> Result<Decoding> {
        let Some(elsewhere) = &self.elsewhere else {
            return Ok(Decoding { decoder: self.decoder.of_tokens(tokens, shift), elsewhere: None });
        };
        let decoder = Decoder { norm: self.decoder.norm, ..Decoder::of_logits() };
        Ok(Decoding { decoder, elsewhere: Some(elsewhere.of_tokens(tokens, &shift)?) })
    }

    /// As [`Decoder::logits`].
    pub(super) fn logits(&self, z: ArrayView2<f32>) -> Result<Array2<f32>> {
        match &self.elsewhere {
            Some(elsewhere) => match self.decoder.norm {
                Some(norm) => elsewhere.logits(normalise(norm, z).0.view()),
                None => elsewhere.logits(z),
            },
            None => Ok(self.decoder.logits(z)),
        }
    }

    /// As [`Decoder::kl_and_gradient`].
    pub(super) fn kl_and_gradient(&self, wanted: &Wanted, z: Array2<f32>) -> Result<(f64, Array2<f32>)> {
        match &self.elsewhere {
            Some(elsewhere) => self.decoder.through_norm(z.view(), |y| elsewhere.kl_and_gradient(wanted, y)),
            None => Ok(self.decoder.kl_and_gradient(wanted, z)),
        }
    }
}

impl Decoder {
    pub(super) fn new(model: &Transformer, target: Target) -> Self {
        let (config, params) = (&model.config, &model.params);
        let scale = config.logit_scale as f32;
        let u = params.unembedding().as_standard_layout().into_owned() * scale;
        let mut b = &params.b_u * scale;
        let cap = config.logit_cap.map(|cap| cap as f32);
        match (target, config.final_norm()) {
            (Target::Residual, norm @ (Norm::Layer | Norm::Rms)) => {
                if !params.ln_final_b.is_empty() {
                    let shift = u.t().dot(&params.ln_final_b);
                    b = if b.is_empty() { shift } else { b + shift };
                }
                let gain = params.ln_final_w.view().insert_axis(Axis(1));
                let u = u * gain;
                Decoder { norm: Some((norm, config.eps)), ..Decoder::linear(u, b, cap) }
            }
            (Target::Residual, Norm::None) | (Target::Normalised, _) => Decoder::linear(u, b, cap),
            (Target::LogProbabilities | Target::Given, _) => Decoder::of_logits(),
        }
    }

    /// Of a guess that is logits already.
    fn of_logits() -> Self {
        Decoder { norm: None, unembedding: None, cap: None, shift: Array1::zeros(0) }
    }

    /// One matrix, `logits = z u + b`, with `u: [d_z, n_classes]`, and what caps them.
    pub(super) fn linear(u: Array2<f32>, b: Array1<f32>, cap: Option<f32>) -> Self {
        Decoder { norm: None, unembedding: Some((u, b)), cap, shift: Array1::zeros(0) }
    }

    /// How many tokens it reads, where it multiplies by their unembedding.
    pub(super) fn d_vocab(&self) -> Option<usize> {
        self.unembedding.as_ref().map(|(u, _)| u.ncols())
    }

    /// The same for these tokens alone, with `shift` added to their logits. Not for a guess that is logits already.
    pub(super) fn of_tokens(&self, tokens: &[usize], shift: Array1<f32>) -> Decoder {
        let some = |(u, b): &(Array2<f32>, Array1<f32>)| {
            let b = if b.is_empty() { b.clone() } else { b.select(Axis(0), tokens) };
            (columns(u, tokens), b)
        };
        Decoder { norm: self.norm, unembedding: self.unembedding.as_ref().map(some), cap: self.cap, shift }
    }

    /// Logits of the guess `z: [rows, d_z]`, `[rows, n_classes]`.
    pub(super) fn logits(&self, z: ArrayView2<f32>) -> Array2<f32> {
        let y = self.norm.map(|norm| normalise(norm, z).0);
        let y = y.as_ref().map_or(z, |y| y.view());
        match &self.unembedding {
            Some((u, b)) => self.shifted(self.capped(linear(y, u.view(), b.view()))),
            None => y.to_owned(),
        }
    }

    /// `Σ KL(p ‖ q)` over the rows of the guess `z: [rows, d_z]`, and its gradient by `z`.
    pub(super) fn kl_and_gradient(&self, wanted: &Wanted, z: Array2<f32>) -> (f64, Array2<f32>) {
        let Some((u, b)) = &self.unembedding else {
            let mut logits = z;
            return (kl_then_difference(wanted, &mut logits), logits);
        };
        let decode = |y: ArrayView2<f32>| {
            let mut logits = self.capped(linear(y, u.view(), b.view()));
            let slope = self.cap.map(|cap| logits.mapv(|y| 1.0 - (y / cap).powi(2)));
            logits = self.shifted(logits);
            let kl = kl_then_difference(wanted, &mut logits);
            if let Some(slope) = slope {
                logits *= &slope;
            }
            (kl, matmul(logits.view(), u.t()))
        };
        self.through_norm(z.view(), |y| Ok::<_, Infallible>(decode(y))).unwrap_or_else(|never| match never {})
    }

    /// What `decode` finds of the guess after the norm, and its gradient by the guess.
    fn through_norm<E>(
        &self,
        z: ArrayView2<f32>,
        decode: impl FnOnce(ArrayView2<f32>) -> std::result::Result<(f64, Array2<f32>), E>,
    ) -> std::result::Result<(f64, Array2<f32>), E> {
        let Some(norm) = self.norm else { return decode(z) };
        let (y, rstd) = normalise(norm, z);
        let (kl, mut dy) = decode(y.view())?;
        norm.0.backward_in(&mut dy, y.view(), rstd.view());
        Ok((kl, dy))
    }

    fn capped(&self, mut logits: Array2<f32>) -> Array2<f32> {
        if let Some(cap) = self.cap {
            logits.mapv_inplace(|x| soft_cap(x, cap));
        }
        logits
    }

    fn shifted(&self, mut logits: Array2<f32>) -> Array2<f32> {
        if !self.shift.is_empty() {
            logits += &self.shift;
        }
        logits
    }
}

/// Some columns, stored row by row.
pub(super) fn columns(a: &Array2<f32>, which: &[usize]) -> Array2<f32> {
    let mut some = Array2::zeros((a.nrows(), which.len()));
    for (mut to, from) in some.rows_mut().into_iter().zip(a.rows()) {
        to.iter_mut().zip(which).for_each(|(to, &column)| *to = from[column]);
    }
    some
}

fn normalise((norm, eps): (Norm, f64), z: ArrayView2<f32>) -> (Array2<f32>, Array1<f32>) {
    norm.forward(z, eps)
}

impl Wanted {
    pub(super) fn new(p: Array2<f32>, entropy: f64) -> Wanted {
        Wanted { p, entropy, elsewhere: OnceLock::new() }
    }

    pub(super) fn of_logits(logits: ArrayView2<f32>) -> Wanted {
        Wanted::of_log_probabilities(log_softmax_rows(logits))
    }

    /// Of finite log-probabilities.
    pub(super) fn of_log_probabilities(log_p: Array2<f32>) -> Wanted {
        let width = log_p.ncols();
        let mut p = log_p;
        let mut entropy = 0.0;
        probabilities(p.as_slice_mut().expect("stored row by row"), width, &mut entropy);
        Wanted::new(p, entropy)
    }

    /// Each row wants one class.
    pub(super) fn of_classes(classes: &[usize], n_classes: usize) -> Wanted {
        let mut p = Array2::zeros((classes.len(), n_classes));
        for (mut row, class) in p.rows_mut().into_iter().zip(classes) {
            row[*class] = 1.0;
        }
        Wanted::new(p, 0.0)
    }
}

/// The sum of `KL(p ‖ q)` over rows, `q = softmax(logits)`; leaves `n q - p`, its gradient, in place of the logits,
/// where `p` sums to the number `n` of tokens that the row stands for.
fn kl_then_difference(wanted: &Wanted, logits: &mut Array2<f32>) -> f64 {
    let width = logits.ncols();
    let stored = "products and moments are stored row by row";
    let (p, logits) = (wanted.p.as_slice().expect(stored), logits.as_slice_mut().expect(stored));
    let mut cross_entropy = 0.0;
    differences(p, logits, width, &mut cross_entropy);
    cross_entropy - wanted.entropy
}

wide_fn! {
    /// Makes probabilities of log-probabilities, and adds their entropies.
    fn probabilities<'a, F>(rows: &'a mut [F], width: usize, entropy: &'a mut f64) {
        let mut p = vec![F::zero(); width];
        for row in rows.chunks_exact_mut(width) {
            p.iter_mut().zip(&*row).for_each(|(p, &log_p)| *p = log_p.exp_real());
            *entropy -= dot(&p, row).to_f64().unwrap_or(f64::NAN);
            row.copy_from_slice(&p);
        }
    }
}

wide_fn! {
    /// Adds `-Σ p ln q` over all rows to `cross_entropy`.
    fn differences<'a, F>(p: &'a [F], logits: &'a mut [F], width: usize, cross_entropy: &'a mut f64) {
        for (row, p) in logits.chunks_exact_mut(width).zip(p.chunks_exact(width)) {
            let max = largest(row);
            row.iter_mut().for_each(|x| *x -= max);
            let expected = dot(p, row);
            row.iter_mut().for_each(|x| *x = x.exp_real());
            let (z, n) = (sum(row), sum(p));
            *cross_entropy += (n * z.ln() - expected).to_f64().unwrap_or(f64::NAN);
            let scale = n / z;
            row.iter_mut().zip(p).for_each(|(x, &p)| *x = *x * scale - p);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Config;
    use crate::num::{rng, uniform_index};

    #[test]
    fn gradient_of_the_kl_is_its_central_difference_for_every_norm_and_target() {
        let norms = [Norm::Layer, Norm::Rms, Norm::None].map(|norm| (norm, Target::Residual));
        let others = [Target::Normalised, Target::LogProbabilities].map(|target| (Norm::Layer, target));
        for (norm, target) in norms.into_iter().chain(others) {
            let config = Config { d_vocab: 7, d_model: 6, n_heads: 2, d_head: 3, norm, ..Default::default() };
            let mut model = Transformer::new(config).unwrap();
            model.params.ln_final_w.iter_mut().zip([1.5, 0.5]).for_each(|(gain, to)| *gain = to);
            let mut random = rng(3, 0);
            let mut row = |rows: usize, columns: usize| {
                Array2::from_shape_simple_fn((rows, columns), || {
                    uniform_index(&mut random, 1000) as f32 / 250.0 - 2.0
                })
            };
            let wanted = Wanted::of_logits(row(2, 7).view());
            let z = row(2, if target == Target::LogProbabilities { 7 } else { 6 });
            let decoder = Decoder::new(&model, target);
            let (_, dz) = decoder.kl_and_gradient(&wanted, z.clone());
            for ((i, j), &got) in dz.indexed_iter() {
                let kl = |step: f32| {
                    let mut moved = z.clone();
                    moved[(i, j)] += step;
                    decoder.kl_and_gradient(&wanted, moved).0
                };
                let want = (kl(0.02) - kl(-0.02)) / 0.04;
                assert!(
                    (f64::from(got) - want).abs() < 1e-3 * (0.1 + want.abs()),
                    "{norm:?} {target:?} {i} {j}: {got} and {want}"
                );
            }
        }
    }
}
