//! What refinement lowers: the mean KL from what is wanted to what a lens reads, with its gradient, streamed over tokens.

use ndarray::{Array1, Array2, ArrayView2, Axis, s};
use rayon::prelude::*;

use super::{AffineLens, Target};
use crate::model::{Norm, Transformer};
use crate::nn::{gain_bias, layer_norm, layer_norm_backward, linear, rms_norm, rms_norm_backward};
use crate::num::{Real, matmul, wide};
use crate::session;
use crate::{Error, ErrorKind, Result};

/// Sequences run at a time by one thread.
const CHUNK: usize = 4;
/// Chunks between two looks at an interrupt: what bounds the memory.
const ROUND: usize = 16;

/// Lenses with one target on one set of tokens.
pub(super) struct Objective<'a> {
    pub(super) model: &'a Transformer,
    pub(super) tokens: &'a Array2<u32>,
    pub(super) target: Target,
    /// The classes wanted, one per token; without them, the model's final prediction.
    pub(super) labels: Option<&'a Array2<u32>>,
}

/// Mean KL of a lens with its gradient.
pub(super) struct Evaluation {
    pub(super) kl: f64,
    /// Mean of `dz (h - x̄)ᵀ`.
    pub(super) da: Array2<f64>,
    /// Mean of `dz`.
    pub(super) db: Array1<f64>,
}

/// The distributions wanted of some rows.
pub(super) struct Wanted {
    pub(super) p: Array2<f32>,
    pub(super) log_p: Array2<f32>,
}

impl Objective<'_> {
    /// One pass over the tokens for all lenses that are `active`; zeros for the others.
    pub(super) fn evaluate(
        &self,
        lenses: &[AffineLens],
        active: &[bool],
        x_means: &[Array1<f64>],
    ) -> Result<Vec<Evaluation>> {
        let nothing = |lens: &AffineLens| Evaluation {
            kl: 0.0,
            da: Array2::zeros(lens.a.dim()),
            db: Array1::zeros(lens.b.len()),
        };
        let mut sums: Vec<Evaluation> = lenses.iter().map(nothing).collect();
        let x_means: Vec<Array1<f32>> = x_means.iter().map(|m| m.mapv(|x| x as f32)).collect();
        let mut first = 0;
        for round in self.tokens.axis_chunks_iter(Axis(0), CHUNK * ROUND) {
            if session::interrupted() {
                return Err(Error::new(
                    ErrorKind::Data,
                    "interrupted while refining lenses",
                    "run the cell again, with fewer `passes` if it takes too long",
                ));
            }
            let chunks: Vec<_> = round.axis_chunks_iter(Axis(0), CHUNK).enumerate().collect();
            let parts: Vec<Vec<Evaluation>> = chunks
                .into_par_iter()
                .map(|(i, chunk)| {
                    let tape = self.model.tape(chunk);
                    let n_classes = lenses[0].b.len();
                    let wanted = self.wanted(first + i * CHUNK, &tape.logits, n_classes, chunk);
                    let one = |l: usize| {
                        if !active[l] {
                            return nothing(&lenses[l]);
                        }
                        let h = tape.resid(l);
                        let (kl, dz) = self.kl_and_gradient(&wanted, lenses[l].transport(h.view()));
                        let centred = h - &x_means[l];
                        Evaluation {
                            kl,
                            da: matmul(dz.t(), centred.view()).mapv(f64::from),
                            db: dz.mapv(f64::from).sum_axis(Axis(0)),
                        }
                    };
                    (0..lenses.len()).map(one).collect()
                })
                .collect();
            for part in parts {
                for (sum, part) in sums.iter_mut().zip(part) {
                    sum.kl += part.kl;
                    sum.da += &part.da;
                    sum.db += &part.db;
                }
            }
            first += round.nrows();
        }
        let n = self.tokens.len() as f64;
        for sum in &mut sums {
            sum.kl /= n;
            sum.da /= n;
            sum.db /= n;
        }
        Ok(sums)
    }

    /// The mean Fisher matrix of a post-norm guess, `F = Uᵀ E[diag p - p pᵀ] U`, `[d_model, d_model]`, over the first tokens: the curvature
    /// of the objective where lens and model agree. It serves as a scale, so that some tokens are enough.
    pub(super) fn fisher(&self) -> Array2<f64> {
        let u = self.model.params.unembedding();
        let some = self.tokens.slice(s![..self.tokens.nrows().min(CHUNK * ROUND), ..]);
        let chunks: Vec<_> = some.axis_chunks_iter(Axis(0), CHUNK).collect();
        let parts: Vec<(Array1<f64>, Array2<f64>)> = chunks
            .into_par_iter()
            .map(|chunk| {
                let p = Wanted::of_logits(&self.model.tape(chunk).logits).p;
                let read = matmul(p.view(), u.t());
                (p.mapv(f64::from).sum_axis(Axis(0)), matmul(read.t(), read.view()).mapv(f64::from))
            })
            .collect();
        let d = self.model.config.d_model;
        let (mut mean, mut outer) = (Array1::<f64>::zeros(self.model.config.d_vocab), Array2::zeros((d, d)));
        for (p, read) in parts {
            mean += &p;
            outer += &read;
        }
        let u = u.mapv(f64::from);
        let n = some.len() as f64;
        (matmul((&u * &mean).view(), u.t()) - outer) / n
    }

    fn wanted(&self, first: usize, logits: &Array2<f32>, n_classes: usize, chunk: ArrayView2<u32>) -> Wanted {
        let Some(labels) = self.labels else { return Wanted::of_logits(logits) };
        let labels = labels.slice(s![first..first + chunk.nrows(), ..]);
        let mut p = Array2::zeros((chunk.len(), n_classes));
        for (mut row, &label) in p.rows_mut().into_iter().zip(labels) {
            row[label as usize] = 1.0;
        }
        Wanted { log_p: p.mapv(f32::ln), p }
    }

    /// `Σ KL(p ‖ q)` over the rows of the guess `z: [rows, d_z]`, and its gradient by `z`.
    pub(super) fn kl_and_gradient(&self, wanted: &Wanted, z: Array2<f32>) -> (f64, Array2<f32>) {
        let (config, params) = (&self.model.config, &self.model.params);
        let decode = |read: ArrayView2<f32>| {
            let mut logits = linear(read, params.unembedding(), params.b_u.view());
            let kl = kl_then_difference(wanted, &mut logits);
            (kl, matmul(logits.view(), params.unembedding().t()))
        };
        if self.target == Target::Normalised || (self.target == Target::Residual && config.norm == Norm::None)
        {
            return decode(z.view());
        }
        if self.target != Target::Residual {
            let mut logits = z;
            return (kl_then_difference(wanted, &mut logits), logits);
        }
        let rms = config.norm == Norm::Rms;
        let (y, rstd) = if rms { rms_norm(z.view(), config.eps) } else { layer_norm(z.view(), config.eps) };
        let read = gain_bias(y.view(), params.ln_final_w.view(), params.ln_final_b.view());
        let (kl, mut dread) = decode(read.view());
        dread *= &params.ln_final_w;
        let backward = if rms { rms_norm_backward } else { layer_norm_backward };
        (kl, backward(dread.view(), y.view(), rstd.view()))
    }
}

impl Wanted {
    fn of_logits(logits: &Array2<f32>) -> Wanted {
        let log_p = crate::num::log_softmax_rows(logits.view());
        let mut p = log_p.clone();
        wide(|| p.as_slice_mut().expect("stored row by row").iter_mut().for_each(|x| *x = x.exp_real()));
        Wanted { p, log_p }
    }
}

/// The sum of `KL(p ‖ q)` over rows, `q = softmax(logits)`; leaves `q - p`, its gradient, in place of the logits.
fn kl_then_difference(wanted: &Wanted, logits: &mut Array2<f32>) -> f64 {
    let width = logits.ncols();
    let stored = "products and moments are stored row by row";
    let (p, log_p) = (wanted.p.as_slice().expect(stored), wanted.log_p.as_slice().expect(stored));
    let rows = logits.as_slice_mut().expect(stored).chunks_exact_mut(width);
    let mut total = 0.0;
    for (row, (p, log_p)) in rows.zip(p.chunks_exact(width).zip(log_p.chunks_exact(width))) {
        total += wide(|| {
            let max = row.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
            let z: f32 = row.iter().map(|&x| (x - max).exp_real()).sum();
            let log_z = max + z.ln();
            let mut kl = 0.0_f64;
            for ((x, &p), &log_p) in row.iter_mut().zip(p).zip(log_p) {
                let log_q = *x - log_z;
                // What is not wanted at all has log p = -∞ and adds nothing.
                kl += if p > 0.0 { f64::from(p) * f64::from(log_p - log_q) } else { 0.0 };
                *x = log_q.exp_real() - p;
            }
            kl
        });
    }
    total
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
            let model = Transformer::new(config).unwrap();
            let mut random = rng(3, 0);
            let mut row = |rows: usize, columns: usize| {
                Array2::from_shape_simple_fn((rows, columns), || {
                    uniform_index(&mut random, 1000) as f32 / 250.0 - 2.0
                })
            };
            let wanted = Wanted::of_logits(&row(2, 7));
            let z = row(2, if target == Target::LogProbabilities { 7 } else { 6 });
            let tokens = Array2::zeros((1, 1));
            let objective = Objective { model: &model, tokens: &tokens, target, labels: None };
            let (_, dz) = objective.kl_and_gradient(&wanted, z.clone());
            for ((i, j), &got) in dz.indexed_iter() {
                let kl = |step: f32| {
                    let mut moved = z.clone();
                    moved[(i, j)] += step;
                    objective.kl_and_gradient(&wanted, moved).0
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
