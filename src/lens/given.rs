//! Lenses for rows of streams from anywhere: a network of any kind, a copy of one with something destroyed, numbers
//! made up for a test.

use ndarray::{Array1, Array2, ArrayView2, Axis, s};

use super::decoder::{Decoder, Wanted};
use super::inputs::{Inputs, Read};
use super::tuned::Until;
use super::{LayerLenses, LayerMoments, Moments, Refine, Scale, Target};
use crate::Result;
use crate::num::matmul;
use crate::session::quietly;

/// Rows that one thread takes at a time.
const CHUNK: usize = 512;
/// A lens whose last step gained no more than this, in nats, is near enough to its least KL.
const ENOUGH: f64 = 1e-6;
/// Rows that take no more memory than this are kept for refinement.
const KEPT_BYTES: usize = 512 << 20;

/// Rows of streams with what lenses are to read off them: their moments, and the rows themselves while they are few.
pub(crate) struct GivenRows {
    moments: LayerMoments,
    chunks: Vec<Read>,
    bytes: usize,
    /// Where the search for the least KL begins: rows about their means.
    inputs: Option<Inputs<'static>>,
}

impl GivenRows {
    /// None yet: of `n_streams` streams `d_x` wide, targets `d_z` wide, and so many classes.
    pub(crate) fn new(n_streams: usize, (d_x, d_z): (usize, usize), n_classes: usize, scale: Scale) -> Self {
        let moments = LayerMoments {
            fingerprint: 0,
            scale,
            target: Target::Given,
            layers: vec![Moments::new(d_x, d_z); n_streams],
            mean_prediction: Array1::zeros(n_classes),
        };
        GivenRows { moments, chunks: Vec::new(), bytes: 0, inputs: None }
    }

    /// Adds rows of every stream, `[rows, d_x]` at the scale that lenses read, with their targets `z: [rows, d_z]` and
    /// the distributions `log_p: [rows, n_classes]` that lenses should say.
    pub(crate) fn push(
        &mut self,
        streams: &[Array2<f64>],
        z: ArrayView2<f64>,
        log_p: ArrayView2<f64>,
    ) -> Result<()> {
        let layers: Vec<Moments> = streams.iter().map(|h| exact_moments(h.view(), z)).collect();
        let seen = self.moments.n() as f64;
        for (sum, more) in self.moments.layers.iter_mut().zip(&layers) {
            sum.merge(more)?;
        }
        let (n, p) = (log_p.nrows() as f64, log_p.mapv(f64::exp).sum_axis(Axis(0)));
        self.moments.mean_prediction = (&self.moments.mean_prediction * seen + p) / (seen + n);
        let width: usize = streams.iter().map(|h| h.ncols()).sum::<usize>() + log_p.ncols();
        self.bytes += log_p.nrows() * width * size_of::<f32>();
        if self.bytes > KEPT_BYTES {
            self.chunks.clear();
            return Ok(());
        }
        for (i, log_p) in log_p.axis_chunks_iter(Axis(0), CHUNK).enumerate() {
            let rows = i * CHUNK..i * CHUNK + log_p.nrows();
            let narrow = |h: &Array2<f64>| h.slice(s![rows.clone(), ..]).mapv(|x| x as f32);
            self.chunks.push(Read {
                streams: streams.iter().map(narrow).collect(),
                wanted: Wanted::of_log_probabilities(log_p.mapv(|x| x as f32)),
            });
        }
        Ok(())
    }

    /// Of all rows.
    pub(crate) fn moments(&self) -> &LayerMoments {
        &self.moments
    }

    /// Lenses of least KL from `start` on, read out as `logits = z u + b`, with the largest length that a gradient has
    /// in the end, in nats; nothing where the rows were too many to keep.
    ///
    /// Fails where a stream has no variance, or when interrupted.
    pub(crate) fn refine(
        &mut self,
        lbfgs_steps: usize,
        (u, b, cap): (ArrayView2<f64>, &Array1<f64>, Option<f64>),
        start: &LayerLenses,
    ) -> Result<Option<(LayerLenses, f64)>> {
        if self.bytes > KEPT_BYTES {
            return Ok(None);
        }
        let mut inputs = match self.inputs.take() {
            Some(inputs) => inputs,
            None => Inputs::given(std::mem::take(&mut self.chunks)),
        };
        let x_means: Vec<Array1<f64>> = self.moments.layers.iter().map(|m| m.x_mean.clone()).collect();
        inputs.centre(&x_means)?;
        self.inputs = Some(inputs.clone());
        let narrow = |b: &Array1<f64>| b.mapv(|x| x as f32);
        let u = u.as_standard_layout().mapv(|x| x as f32);
        let decoder = Decoder::linear(u, narrow(b), cap.map(|cap| cap as f32));
        let began = std::time::Instant::now();
        let refine = Refine { epochs: 0, lbfgs_steps, ..Refine::default() };
        let until = Until { enough: ENOUGH, ..Until::default() };
        // One of many searches: whoever asks for all of them shows how far they are.
        let found = quietly(|| refine.search_until(&until, decoder, inputs, start, &self.moments, None))?;
        let found = found.tuned(&self.moments, began);
        let steepest = found.gradient_norm.iter().fold(0.0_f64, |m, g| m.max(*g));
        Ok(Some((found.lenses, steepest)))
    }
}

/// Moments of rows in `f64`. [`Moments::push`] multiplies in `f32`, and a rotated copy is compared to more digits than
/// that.
pub(crate) fn exact_moments(x: ArrayView2<f64>, z: ArrayView2<f64>) -> Moments {
    let mean = |a: &ArrayView2<f64>| a.mean_axis(Axis(0)).expect("there are rows");
    let (x_mean, z_mean) = (mean(&x), mean(&z));
    let (x, z) = (&x - &x_mean, &z - &z_mean);
    Moments {
        n: x.nrows() as u64,
        weight: x.nrows() as f64,
        s_xx: matmul(x.t(), x.view()),
        s_zx: matmul(z.t(), x.view()),
        s_zz: matmul(z.t(), z.view()).into_shared(),
        x_mean,
        z_mean,
    }
}
