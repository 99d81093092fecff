//! A lens with one hidden layer, as a reference: what an affine one misses because it is affine.

use std::sync::Arc;
use std::time::Instant;

use ndarray::{Array1, Array2, ArrayView2};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::decoder::{Decoder, Decoding, Wanted};
use super::inputs::{Inputs, ROUND, check_interrupt};
use super::layers::check_fingerprint;
use super::objective::SAMPLED_TOKENS;
use super::tuned::KEPT_BYTES;
use super::vocabulary::Part;
use super::whitened::input_powers;
use super::{AffineLens, LayerLenses, LayerMoments, Lens, Scale, Target};
use crate::model::{Transformer, no_stream};
use crate::nn::{add_rows, gelu, gelu_backward, linear};
use crate::num::{Adam, Real, add_matmul, matmul, normal, rng};
use crate::session::{Progress, count};
use crate::{Error, ErrorKind, Result};

/// How to fit lenses `z = A h + b + V gelu(K h + k)`, one for each stream, to the least mean `KL(p ‖ q_l)`. They begin
/// with affine lenses and `V = 0`, and go through the tokens in batches by Adam at a rate that falls to 0. One that
/// training did not better keeps its start.
///
/// Such a lens can compute what the model has not computed yet, so that what it reads need not be there (Hewitt & Liang
/// 2019). It is a reference for what affine lenses miss, not a better lens.
///
/// ```
/// use onelens::{data::{Corpus, Source}, lens::{HiddenLayer, LayerMoments, Ridge}, model::{Config, Transformer}, num::rng};
/// let corpus = Corpus::from_text("cats", &"the cat sat on the mat. ".repeat(20))?;
/// let model = Transformer::new(Config { d_vocab: corpus.d_vocab(), d_model: 8, n_heads: 1, d_head: 8, ..Config::default() })?;
/// let tokens = corpus.sample(8, 16, &mut rng(1, 0))?;
/// let moments = LayerMoments::collect(&model, &tokens)?;
/// let own = Ridge::default().own(&moments)?;
/// let hidden = HiddenLayer { width: 16, epochs: 2, ..HiddenLayer::default() }.fit(&model, &own, &moments, &tokens)?;
/// assert!(hidden.training_kl.iter().all(|[before, after]| after <= before));
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HiddenLayer {
    /// Hidden numbers of each lens.
    pub width: usize,
    /// Times through the tokens.
    pub epochs: usize,
    /// Largest step size of Adam, with the input whitened.
    pub lr: f64,
    /// Of the hidden layer's first weights.
    pub seed: u64,
    /// About how many tokens of the vocabulary a step looks at, as in [`Refine`](super::Refine::vocabulary). Of a larger
    /// vocabulary about 4096 tokens of the text tell where the search began and ended, and as much of the vocabulary.
    pub vocabulary: usize,
}

impl Default for HiddenLayer {
    fn default() -> Self {
        HiddenLayer { width: 256, epochs: 12, lr: 2e-3, seed: 0, vocabulary: 4096 }
    }
}

/// Lenses with one hidden layer, one for each residual stream.
#[derive(Clone)]
pub struct HiddenLenses {
    name: String,
    fingerprint: u64,
    scale: Scale,
    target: Target,
    maps: Vec<Arc<Map>>,
    /// Mean KL of each stream on the training tokens where the search began and where it ended, in nats.
    pub training_kl: Vec<[f64; 2]>,
    /// Time it took.
    pub seconds: f64,
}

/// `A h + b + V gelu(K h + k)`.
struct Map {
    affine: AffineLens,
    /// `[width, d_model]` and `[width]`.
    hidden: AffineLens,
    /// `[d_z, width]`.
    v: Array2<f32>,
}

/// The same of white rows, `M u + c + V gelu(K u + k)`: what is trained. A gradient is one, too.
#[derive(Clone)]
struct Net<F> {
    m: Array2<F>,
    c: Array1<F>,
    k: Array2<F>,
    bias: Array1<F>,
    v: Array2<F>,
}

impl<F: Real> Net<F> {
    fn zeros_like(&self) -> Self {
        Net {
            m: Array2::zeros(self.m.dim()),
            c: Array1::zeros(self.c.dim()),
            k: Array2::zeros(self.k.dim()),
            bias: Array1::zeros(self.bias.dim()),
            v: Array2::zeros(self.v.dim()),
        }
    }

    /// What goes into the hidden layer and what comes out of it, `[rows, width]`, and the guess `[rows, d_z]`.
    fn forward(&self, u: ArrayView2<F>) -> (Array2<F>, Array2<F>, Array2<F>) {
        let before = linear(u, self.k.t(), self.bias.view());
        let after = gelu(before.view());
        let mut z = linear(u, self.m.t(), self.c.view());
        add_matmul(z.view_mut(), F::one(), after.view(), self.v.t());
        (before, after, z)
    }

    /// The gradient by all weights, from that by the guess.
    fn backward(&self, u: ArrayView2<F>, before: &Array2<F>, after: &Array2<F>, dz: &Array2<F>) -> Self {
        let mut sum = self.zeros_like();
        sum.m = matmul(dz.t(), u);
        add_rows(sum.c.view_mut(), dz.view());
        sum.v = matmul(dz.t(), after.view());
        let d = gelu_backward(matmul(dz.view(), self.v.view()).view(), before.view());
        sum.k = matmul(d.t(), u);
        add_rows(sum.bias.view_mut(), d.view());
        sum
    }

    fn add(&mut self, other: &Self) {
        self.m += &other.m;
        self.c += &other.c;
        self.k += &other.k;
        self.bias += &other.bias;
        self.v += &other.v;
    }

    fn numbers(&self) -> impl Iterator<Item = &F> {
        self.m.iter().chain(&self.c).chain(&self.k).chain(&self.bias).chain(&self.v)
    }

    fn numbers_mut(&mut self) -> impl Iterator<Item = &mut F> {
        self.m.iter_mut().chain(&mut self.c).chain(&mut self.k).chain(&mut self.bias).chain(&mut self.v)
    }
}

/// Rows of a step, about: whole chunks.
const BATCH: usize = 1024;

impl HiddenLayer {
    /// Fits lenses to `tokens: [sequence, pos]` from `start` on; `moments` are those it was fitted to.
    ///
    /// Fails if lenses, moments and model do not belong together, the lenses predict no tokens, a stream has no
    /// variance at all, the tokens do not fit, a width or a rate is 0, or when interrupted.
    pub fn fit(
        &self,
        model: &Transformer,
        start: &LayerLenses,
        moments: &LayerMoments,
        tokens: &Array2<u32>,
    ) -> Result<HiddenLenses> {
        self.fit_streams(model, start, moments, tokens, None)
    }

    /// The same for some streams, all if it is not said; the others keep their start, and what they read is not known.
    pub(crate) fn fit_streams(
        &self,
        model: &Transformer,
        start: &LayerLenses,
        moments: &LayerMoments,
        tokens: &Array2<u32>,
        only: Option<&[usize]>,
    ) -> Result<HiddenLenses> {
        let began = Instant::now();
        if self.width == 0 || !(self.lr > 0.0 && self.lr.is_finite()) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("a hidden layer of width {} and a rate of {}", self.width, self.lr),
                "set both to a positive number; an affine lens is one without a hidden layer",
            ));
        }
        model.check_tokens(tokens)?;
        start.check_model(model)?;
        check_fingerprint("moments are", moments.fingerprint, model)?;
        moments.check_target(start.target(), "the lenses predict another")?;
        moments.check_scale(start.scale(), "the lenses read another")?;
        let mut inputs = Inputs::new(model, tokens, None).scaled(moments.scale);
        inputs.keep(KEPT_BYTES, None)?;
        let means: Vec<Array1<f64>> = moments.layers.iter().map(|m| m.x_mean.clone()).collect();
        inputs.centre(&means)?;
        let decoding = Decoding::new(Decoder::new(model, moments.target), None)?;
        let white = moments
            .layers
            .par_iter()
            .map(|m| input_powers((&m.s_xx / m.weight).view()))
            .collect::<Result<Vec<_>>>()?;
        let begin: Vec<Net<f32>> = (0..start.len())
            .map(|l| self.begin(start.lenses()[l].as_ref(), &white[l].1, &means[l], l as u64))
            .collect();
        let asked: Vec<usize> =
            (0..start.len()).filter(|l| only.is_none_or(|only| only.contains(l))).collect();
        let mut nets: Vec<Net<f32>> = asked.iter().map(|&l| begin[l].clone()).collect();
        let white: Vec<Array2<f32>> = white.into_iter().map(|(w, _)| w.mapv(|x| x as f32)).collect();
        let n = inputs.n_chunks();
        let all: Vec<usize> = (0..n).collect();
        let in_batch = BATCH.div_ceil(inputs.n_tokens().div_ceil(n));
        let n_batches = (n / in_batch).max(1);
        // What tells whether training has helped.
        let told_by = match decoding.d_vocab() {
            Some(d_vocab) if d_vocab > self.vocabulary => inputs.some_chunks(SAMPLED_TOKENS),
            _ => all,
        };
        let total = self.epochs * inputs.n_tokens() + 2 * inputs.n_tokens() * told_by.len() / n;
        let mut progress = Progress::new("training hidden layers", total);
        let mut seen = 0;
        let mut look = |chunks: &[usize], nets: &[Net<f32>], epoch: usize| -> Result<Vec<(f64, Net<f32>)>> {
            let mut sums: Vec<(f64, Net<f32>)> = nets.iter().map(|net| (0.0, net.zeros_like())).collect();
            let mut n_rows = 0;
            for round in chunks.chunks(ROUND) {
                check_interrupt()?;
                let look = |&i: &usize| {
                    let read = inputs.read(i)?;
                    let mean = &moments.mean_prediction;
                    let part = Part::look(&decoding, &read.wanted, mean, self.vocabulary, (epoch, i))?;
                    let through = part.as_ref().map_or((&decoding, &read.wanted), |(d, wanted)| (d, wanted));
                    let one =
                        |(&l, net): (&usize, &Net<f32>)| look_at(through, &read.streams[l], &white[l], net);
                    // A step of one chunk has work for all threads.
                    let parts = asked.par_iter().zip(nets).map(one).collect::<Result<Vec<_>>>()?;
                    Ok((read.wanted.p.nrows(), parts))
                };
                for (rows, parts) in round.par_iter().map(look).collect::<Result<Vec<_>>>()? {
                    n_rows += rows;
                    for (sum, (kl, grad)) in sums.iter_mut().zip(&parts) {
                        sum.0 += kl;
                        sum.1.add(grad);
                    }
                }
            }
            seen += n_rows;
            progress.update(seen, || match epoch {
                0 => "where they stand".into(),
                epoch => format!("epoch {epoch} of {}", self.epochs),
            });
            for (kl, grad) in &mut sums {
                *kl /= n_rows as f64;
                grad.numbers_mut().for_each(|g| *g /= n_rows as f32);
            }
            Ok(sums)
        };
        let before = look(&told_by, &nets, 0)?;
        let mut adams: Vec<Adam<f32>> =
            nets.iter().map(|net| Adam::new(net.numbers().count(), (0.9, 0.999), 1e-8)).collect();
        for epoch in 0..self.epochs {
            for k in 0..n_batches {
                let batch: Vec<usize> = (k..n).step_by(n_batches).collect();
                let grads = look(&batch, &nets, epoch + 1)?;
                let done = (epoch * n_batches + k) as f64 / (self.epochs * n_batches) as f64;
                let lr = self.lr * (1.0 - done);
                let steps = nets.par_iter_mut().zip(&mut adams).zip(&grads);
                steps.for_each(|((net, adam), (_, grad))| {
                    adam.step(net.numbers_mut(), grad.numbers(), lr, 1.0);
                });
            }
        }
        let after = look(&told_by, &nets, 0)?;
        progress.finish(&format!("{}, {}", count(nets.len(), "lens"), count(self.epochs, "epoch")));
        let mut training_kl = vec![[f64::NAN; 2]; begin.len()];
        let mut best = begin;
        for ((net, &l), ((before, _), (after, _))) in
            nets.into_iter().zip(&asked).zip(before.iter().zip(&after))
        {
            // False for a KL that is not a number, too.
            let better = after < before;
            training_kl[l] = [*before, if better { *after } else { *before }];
            if better {
                best[l] = net;
            }
        }
        let maps = best.iter().zip(white.iter().zip(&means));
        Ok(HiddenLenses {
            name: format!("hidden layer of {}", self.width),
            fingerprint: moments.fingerprint,
            scale: moments.scale,
            target: moments.target,
            maps: maps.map(|(net, (white, mean))| Arc::new(folded(net, white, mean))).collect(),
            training_kl,
            seconds: began.elapsed().as_secs_f64(),
        })
    }

    /// The affine lens, of white rows, beside a hidden layer that says nothing yet.
    fn begin(&self, lens: &AffineLens, unwhite: &Array2<f64>, mean: &Array1<f64>, stream: u64) -> Net<f32> {
        let (d_z, d_x) = lens.a.dim();
        let mut random = rng(self.seed, stream);
        let size = (d_x as f64).sqrt().recip();
        Net {
            m: matmul(lens.a.view(), unwhite.view()).mapv(|x| x as f32),
            c: lens.apply(mean.view()).mapv(|x| x as f32),
            k: Array2::from_shape_simple_fn((self.width, d_x), || (size * normal(&mut random)) as f32),
            bias: Array1::zeros(self.width),
            v: Array2::zeros((d_z, self.width)),
        }
    }
}

/// The sum of the KL over the rows of a stream, and its gradient.
fn look_at(
    (decoding, wanted): (&Decoding, &Wanted),
    stream: &Array2<f32>,
    white: &Array2<f32>,
    net: &Net<f32>,
) -> Result<(f64, Net<f32>)> {
    let u = matmul(stream.view(), white.t());
    let (before, after, z) = net.forward(u.view());
    let (kl, dz) = decoding.kl_and_gradient(wanted, z)?;
    Ok((kl, net.backward(u.view(), &before, &after, &dz)))
}

/// The map of streams as they come, from that of white rows.
fn folded(net: &Net<f32>, white: &Array2<f32>, mean: &Array1<f64>) -> Map {
    let white = white.mapv(f64::from);
    let of = |w: &Array2<f32>, b: &Array1<f32>| {
        let a = matmul(w.mapv(f64::from).view(), white.view());
        let b = b.mapv(f64::from) - a.dot(mean);
        AffineLens { a, b }
    };
    Map { affine: of(&net.m, &net.c), hidden: of(&net.k, &net.bias), v: net.v.clone() }
}

impl Lens for HiddenLenses {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn transport(&self, layer: usize, h: ArrayView2<f32>) -> Result<Array2<f32>> {
        let map = self.maps.get(layer).ok_or_else(|| no_stream(layer, self.maps.len()))?;
        let h = self.scale.of(h);
        let mut z = map.affine.transport(h.view())?;
        let hidden = gelu(map.hidden.map(h.view()).view());
        add_matmul(z.view_mut(), 1.0, hidden.view(), map.v.t());
        Ok(z)
    }

    fn logits(&self, model: &Transformer, z: ArrayView2<f32>) -> Result<Array2<f32>> {
        self.target.logits(model, z)
    }

    fn normalised(&self, model: &Transformer, z: ArrayView2<f32>) -> Result<Option<Array2<f32>>> {
        self.target.normalised(model, z)
    }

    fn check_model(&self, model: &Transformer) -> Result<()> {
        check_fingerprint(&format!("lenses ({}) are", self.name), self.fingerprint, model)
    }

    fn fit_seconds(&self) -> f64 {
        self.seconds
    }
}

impl std::fmt::Debug for HiddenLenses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HiddenLenses: {}, {} residual streams, {:.1} s", self.name, self.maps.len(), self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of one matrix of random numbers after another.
    fn random(seed: u64) -> impl FnMut(usize, usize) -> Array2<f64> {
        let mut random = rng(seed, 0);
        move |n, m| Array2::from_shape_simple_fn((n, m), || normal(&mut random))
    }

    /// Of three numbers, four hidden ones and two guessed.
    fn net(matrix: &mut impl FnMut(usize, usize) -> Array2<f64>) -> Net<f64> {
        Net {
            m: matrix(2, 3),
            c: matrix(1, 2).row(0).to_owned(),
            k: matrix(4, 3),
            bias: matrix(1, 4).row(0).to_owned(),
            v: matrix(2, 4),
        }
    }

    #[test]
    fn the_gradient_by_every_weight_is_that_of_differences() {
        let mut matrix = random(1);
        let (u, r, net) = (matrix(5, 3), matrix(5, 2), net(&mut matrix));
        let loss = |net: &Net<f64>| (net.forward(u.view()).2 * &r).sum();
        let (before, after, _) = net.forward(u.view());
        let grad = net.backward(u.view(), &before, &after, &r);
        for (i, g) in grad.numbers().enumerate() {
            let moved = |by: f64| {
                let mut net = net.clone();
                *net.numbers_mut().nth(i).unwrap() += by;
                loss(&net)
            };
            let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((slope - g).abs() < 1e-7 * g.abs().max(1.0), "{i}: {slope} {g}");
        }
    }

    #[test]
    fn a_map_folded_reads_streams_as_they_come() {
        let mut matrix = random(2);
        let narrow = |x: &Array2<f64>| x.mapv(|x| x as f32);
        let wide = net(&mut matrix);
        let net = Net {
            m: narrow(&wide.m),
            c: wide.c.mapv(|x| x as f32),
            k: narrow(&wide.k),
            bias: wide.bias.mapv(|x| x as f32),
            v: narrow(&wide.v),
        };
        let (white, mean, h) = (matrix(3, 3), matrix(1, 3).row(0).to_owned(), matrix(6, 3));
        let map = folded(&net, &narrow(&white), &mean);
        let of_white = net.forward(narrow(&(&h - &mean).dot(&white.t())).view()).2;
        let h = narrow(&h);
        let of_stream = map.affine.map(h.view()) + gelu(map.hidden.map(h.view()).view()).dot(&map.v.t());
        assert!((&of_white - &of_stream).iter().all(|e| e.abs() < 1e-4));
    }
}
