//! What refinement lowers: the mean KL from what is wanted to what a lens reads, with its gradient, streamed over tokens.

use std::sync::Arc;
use std::time::Instant;

use ndarray::{Array1, Array2, ArrayView2, Axis, s};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::token_chunks::{CHUNK, TokenChunks};
use super::{AffineLens, Target};
use crate::model::{Norm, Transformer};
use crate::nn::{gain_bias, layer_norm, layer_norm_backward, linear, rms_norm, rms_norm_backward};
use crate::num::{Rng, dot, largest, log_softmax_rows, matmul, rng, sample_index, sum, wide_fn};
use crate::session::{self, Progress};
use crate::{Error, ErrorKind, Result};

/// Chunks between two looks at an interrupt: what bounds the memory.
const ROUND: usize = 16;
/// Outputs wider than this are not whitened.
const WIDEST: usize = 1024;

/// Lenses with one target on one set of tokens.
pub(super) struct Objective<'a> {
    pub(super) model: &'a Transformer,
    pub(super) tokens: &'a dyn TokenChunks,
    pub(super) target: Target,
    /// The classes wanted, one per token, and how many there are; without them, the model's final prediction.
    labels: Option<(&'a Array2<u32>, usize)>,
    /// What is read of each chunk, where it is kept.
    kept: Vec<Arc<Read>>,
}

/// What lenses are asked to read of a chunk: from where, and what should come out.
struct Read {
    /// `[rows, d_model]`, one per residual stream.
    streams: Vec<Array2<f32>>,
    wanted: Wanted,
}

/// Mean KL of a lens with its gradient.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Evaluation {
    pub(super) kl: f64,
    /// Mean of `dz (h - x̄)ᵀ`.
    pub(super) da: Array2<f64>,
    /// Mean of `dz`.
    pub(super) db: Array1<f64>,
}

/// Tells how far a search is: in tokens, of all that its sweeps and passes go through.
pub(super) struct Meter {
    progress: Progress,
    /// What the tokens are gone through for.
    pub(super) what: String,
    done: usize,
    here: usize,
    began: Instant,
}

impl Meter {
    /// Of `total` tokens, of which an earlier run has done some.
    pub(super) fn new(total: usize, done: usize) -> Self {
        let progress = Progress::new("refining", total);
        Meter { progress, what: String::new(), done, here: 0, began: Instant::now() }
    }

    fn add(&mut self, n_tokens: usize) {
        self.done += n_tokens;
        self.here += n_tokens;
        let rate = self.here as f64 / self.began.elapsed().as_secs_f64();
        self.progress.update(self.done, || format!("{}, {rate:.0} tokens a second", self.what));
    }

    pub(super) fn finish(self, note: &str) {
        self.progress.finish(note);
    }
}

/// The distributions wanted of some rows.
pub(super) struct Wanted {
    p: Array2<f32>,
    /// The sum over all rows, in nats.
    entropy: f64,
}

impl<'a> Objective<'a> {
    pub(super) fn new(
        model: &'a Transformer,
        tokens: &'a dyn TokenChunks,
        target: Target,
        labels: Option<(&'a Array2<u32>, usize)>,
    ) -> Self {
        Objective { model, tokens, target, labels, kept: Vec::new() }
    }

    /// Runs the model now, once for all passes, if what it gives takes no more than `most_bytes`; else it runs again in each.
    pub(super) fn keep_streams(&mut self, most_bytes: usize) -> Result<()> {
        let config = &self.model.config;
        let n_classes = self.labels.map_or(config.d_vocab, |(_, n_classes)| n_classes);
        let per_token = config.d_model * (config.n_layers + 1) + n_classes;
        if self.tokens.n_tokens() * per_token * size_of::<f32>() <= most_bytes {
            let run = |i| Ok(Arc::new(self.run(i, self.tokens.chunk(i)?.view())));
            self.kept = (0..self.tokens.n_chunks()).into_par_iter().map(run).collect::<Result<_>>()?;
        }
        Ok(())
    }

    fn run(&self, i: usize, chunk: ArrayView2<u32>) -> Read {
        let tape = self.model.tape(chunk);
        let streams: Vec<Array2<f32>> =
            (0..=self.model.config.n_layers).map(|l| tape.resid(l).clone()).collect();
        let wanted = match self.labels {
            None => Wanted::of_logits(&self.model.unembed(streams[streams.len() - 1].view())),
            Some((labels, n_classes)) => {
                let labels = labels.slice(s![i * CHUNK..i * CHUNK + chunk.nrows(), ..]);
                Wanted::of_classes(&labels.iter().map(|&label| label as usize).collect::<Vec<_>>(), n_classes)
            }
        };
        Read { streams, wanted }
    }

    /// Of chunk `i`, which holds these tokens.
    fn read(&self, i: usize, chunk: ArrayView2<u32>) -> Arc<Read> {
        self.kept.get(i).map_or_else(|| Arc::new(self.run(i, chunk)), Arc::clone)
    }

    /// One pass over the tokens for all lenses that are `active`; zeros for the others.
    pub(super) fn evaluate(
        &self,
        lenses: &[AffineLens],
        active: &[bool],
        x_means: &[Array1<f64>],
        meter: &mut Meter,
    ) -> Result<Vec<Evaluation>> {
        let all: Vec<usize> = (0..self.tokens.n_chunks()).collect();
        self.evaluate_on(&all, lenses, active, x_means, meter)
    }

    /// The same over some chunks of the tokens.
    pub(super) fn evaluate_on(
        &self,
        chunks: &[usize],
        lenses: &[AffineLens],
        active: &[bool],
        x_means: &[Array1<f64>],
        meter: &mut Meter,
    ) -> Result<Vec<Evaluation>> {
        let nothing = |lens: &AffineLens| Evaluation {
            kl: 0.0,
            da: Array2::zeros(lens.a.dim()),
            db: Array1::zeros(lens.b.len()),
        };
        let mut sums: Vec<Evaluation> = lenses.iter().map(nothing).collect();
        let x_means: Vec<Array1<f32>> = x_means.iter().map(|m| m.mapv(|x| x as f32)).collect();
        let of_chunk = |&i: &usize| -> Result<(usize, Vec<Evaluation>)> {
            let chunk = self.tokens.chunk(i)?;
            let read = self.read(i, chunk.view());
            let one = |l: usize| {
                if !active[l] {
                    return nothing(&lenses[l]);
                }
                let h = &read.streams[l];
                let (kl, dz) = self.kl_and_gradient(&read.wanted, lenses[l].transport(h.view()));
                let centred = h - &x_means[l];
                Evaluation {
                    kl,
                    da: matmul(dz.t(), centred.view()).mapv(f64::from),
                    db: dz.mapv(f64::from).sum_axis(Axis(0)),
                }
            };
            Ok((chunk.len(), (0..lenses.len()).map(one).collect()))
        };
        let mut n = 0;
        for round in chunks.chunks(ROUND) {
            if session::interrupted() {
                return Err(Error::new(
                    ErrorKind::Data,
                    "interrupted while refining lenses",
                    "run it again, with fewer `sweeps` or `passes` if it takes too long; `Streaming::refine` would go on where it was",
                ));
            }
            let parts: Vec<(usize, Vec<Evaluation>)> =
                round.par_iter().map(of_chunk).collect::<Result<_>>()?;
            for (n_tokens, part) in parts {
                n += n_tokens;
                meter.add(n_tokens);
                for (sum, part) in sums.iter_mut().zip(part) {
                    sum.kl += part.kl;
                    sum.da += &part.da;
                    sum.db += &part.db;
                }
            }
        }
        for sum in &mut sums {
            sum.kl /= n as f64;
            sum.da /= n as f64;
            sum.db /= n as f64;
        }
        Ok(sums)
    }

    /// The curvature of the objective by each lens's guess `z`, averaged over some of the tokens: the mean Fisher matrix
    /// `E[g gᵀ]`, `[d_z, d_z]`, where `g` is the gradient by `z` of `-ln q(y)` and `y` is drawn from the lens's own reading `q`. It
    /// serves as a scale, so that some tokens are enough.
    ///
    /// `None` for outputs so wide that their curvature costs more than it saves.
    pub(super) fn fisher(&self, lenses: &[AffineLens]) -> Result<Vec<Option<Array2<f64>>>> {
        if lenses.iter().any(|lens| lens.b.len() > WIDEST) {
            return Ok(vec![None; lenses.len()]);
        }
        let n_chunks = self.tokens.n_chunks();
        let n_looked = n_chunks.min(ROUND);
        let parts: Vec<(usize, Vec<Array2<f64>>)> = (0..n_looked)
            .into_par_iter()
            .map(|k| {
                // In equal distances: from all of the text.
                let i = k * n_chunks / n_looked;
                let chunk = self.tokens.chunk(i)?;
                let read = self.read(i, chunk.view());
                let mut random = rng(0, i as u64);
                let one = |(lens, h): (&AffineLens, &Array2<f32>)| {
                    let z = lens.transport(h.view());
                    let q = Wanted::of_logits(&self.logits(z.view())).p;
                    let drawn = drawn(q.view(), &mut random);
                    let (_, g) = self.kl_and_gradient(&Wanted::of_classes(&drawn, q.ncols()), z);
                    matmul(g.t(), g.view()).mapv(f64::from)
                };
                Ok((chunk.len(), lenses.iter().zip(&read.streams).map(one).collect()))
            })
            .collect::<Result<_>>()?;
        let zeros = |lens: &AffineLens| Array2::zeros((lens.b.len(), lens.b.len()));
        let mut sums: Vec<Array2<f64>> = lenses.iter().map(zeros).collect();
        let mut n = 0;
        for (n_tokens, part) in parts {
            n += n_tokens;
            sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += &part);
        }
        Ok(sums.into_iter().map(|sum| Some(sum / n as f64)).collect())
    }

    /// What the lens reads from the guess `z: [rows, d_z]`, before the softmax.
    fn logits(&self, z: ArrayView2<f32>) -> Array2<f32> {
        let params = &self.model.params;
        match self.target {
            Target::Normalised => linear(z, params.unembedding(), params.b_u.view()),
            Target::Residual => self.model.unembed(z),
            _ => z.to_owned(),
        }
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
        Wanted::of_log_probabilities(log_softmax_rows(logits.view()))
    }

    /// Of finite log-probabilities.
    pub(super) fn of_log_probabilities(log_p: Array2<f32>) -> Wanted {
        let width = log_p.ncols();
        let mut p = log_p;
        let mut entropy = 0.0;
        probabilities(p.as_slice_mut().expect("stored row by row"), width, &mut entropy);
        Wanted { p, entropy }
    }

    /// Each row wants one class.
    fn of_classes(classes: &[usize], n_classes: usize) -> Wanted {
        let mut p = Array2::zeros((classes.len(), n_classes));
        for (mut row, class) in p.rows_mut().into_iter().zip(classes) {
            row[*class] = 1.0;
        }
        Wanted { p, entropy: 0.0 }
    }
}

/// One class drawn from each row of probabilities.
fn drawn(q: ArrayView2<f32>, random: &mut Rng) -> Vec<usize> {
    q.rows().into_iter().map(|q| sample_index(random, q.iter().map(|&q| f64::from(q)))).collect()
}

/// The sum of `KL(p ‖ q)` over rows, `q = softmax(logits)`; leaves `q - p`, its gradient, in place of the logits.
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
            let z = sum(row);
            *cross_entropy += (z.ln() - expected).to_f64().unwrap_or(f64::NAN);
            let scale = z.recip();
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
            let objective = Objective::new(&model, &tokens, target, None);
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

    #[test]
    fn kept_streams_are_the_streams_of_the_model() {
        let config =
            Config { d_vocab: 7, d_model: 6, n_heads: 2, d_head: 3, n_layers: 2, ..Default::default() };
        let model = Transformer::new(config).unwrap();
        let mut random = rng(5, 0);
        // Two whole chunks and a half.
        let tokens =
            Array2::from_shape_simple_fn((2 * CHUNK + 2, 5), || uniform_index(&mut random, 7) as u32);
        let lenses = vec![AffineLens { a: Array2::eye(6), b: Array1::zeros(6) }; 3];
        let mut objective = Objective::new(&model, &tokens, Target::Residual, None);
        let see = |objective: &Objective| {
            let mut meter = Meter::new(1, 0);
            let seen =
                objective.evaluate(&lenses, &[true; 3], &vec![Array1::zeros(6); 3], &mut meter).unwrap();
            seen.into_iter().map(|at| (at.kl, at.da, at.db)).collect::<Vec<_>>()
        };
        let anew = see(&objective);
        objective.keep_streams((3 * 6 + 7) * 4 * 50 - 1).unwrap();
        assert_eq!(objective.kept.len(), 0);
        objective.keep_streams((3 * 6 + 7) * 4 * 50).unwrap();
        assert_eq!(objective.kept.len(), 3);
        assert_eq!(see(&objective), anew);
    }
}
