//! Where all moments of layers are gathered, wherever the streams come from.

use ndarray::{Array1, Array2, ArrayView2, s};
use rayon::prelude::*;

use super::LayerMoments;
use super::moments::{ROWS, Rows, check_finite};
use crate::Result;
use crate::num::{Centred, Part, Strips, mirror};

/// Moments on their way: rows of all streams wait until there are enough of them for a fast product.
///
/// What the targets alone determine is multiplied once for all streams, and the last stream, where it is the target,
/// once altogether.
pub(crate) struct Accumulator {
    /// Of `s_xx` and `s_zz` below the diagonal; `s_zz` of the last layer only.
    moments: LayerMoments,
    s_zz: Array2<f64>,
    /// Rows that wait, by stream, then those of targets that are no stream.
    waiting: Vec<Strips>,
    n_waiting: usize,
    sum_p: Array1<f64>,
}

impl Accumulator {
    /// Of nothing yet, for the same model and target as these moments.
    pub(crate) fn new(like: &LayerMoments) -> Self {
        let mut moments = LayerMoments::new_like(like);
        // Sums read their zeros before they write. Fresh pages of zeros that are read and then written are made twice, and
        // all processors are told of it; for wide models that takes seconds.
        moments.layers.par_iter_mut().for_each(|m| {
            m.s_xx.fill(0.0);
            m.s_zx.fill(0.0);
        });
        let widths = moments.layers.iter().map(|m| m.x_mean.len());
        let d_z = moments.layers.last().map_or(0, |m| m.z_mean.len());
        let other = (!moments.target_is_last_stream()).then_some(d_z);
        let mut s_zz = Array2::zeros(if other.is_some() { (d_z, d_z) } else { (0, 0) });
        s_zz.fill(0.0);
        Accumulator {
            waiting: widths.chain(other).map(Strips::new).collect(),
            n_waiting: 0,
            s_zz,
            sum_p: Array1::zeros(moments.mean_prediction.len()),
            moments,
        }
    }

    /// Adds the rows of all `streams`, `[rows, d_model]` each, with their targets `z: [rows, d_z]`, unless those are
    /// the last stream, and the sum of what the model predicts at them, `[d_vocab]`. Nothing depends on how rows are
    /// cut into calls.
    ///
    /// Fails if a number is not finite.
    pub(crate) fn absorb(
        &mut self,
        streams: &[ArrayView2<f32>],
        z: Option<ArrayView2<f32>>,
        sum_p: &Array1<f64>,
    ) -> Result<()> {
        let all: Vec<ArrayView2<f32>> = streams.iter().copied().chain(z).collect();
        assert_eq!(
            all.len(),
            self.waiting.len(),
            "one array for each stream, and one of targets that are none"
        );
        for (l, rows) in all.iter().enumerate() {
            let what = if l < streams.len() { format!("residual stream {l}") } else { "the target".into() };
            check_finite(&what, *rows)?;
        }
        self.sum_p += sum_p;
        let n = streams[0].nrows();
        let mut done = 0;
        while done < n {
            let more = (ROWS - self.n_waiting).min(n - done);
            self.waiting.par_iter_mut().zip(&all).for_each(|(waiting, rows)| {
                waiting.add(rows.slice(s![done..done + more, ..]), ROWS);
            });
            (self.n_waiting, done) = (self.n_waiting + more, done + more);
            if self.n_waiting == ROWS {
                self.add_waiting();
            }
        }
        Ok(())
    }

    /// Adds the products of the rows that wait.
    fn add_waiting(&mut self) {
        let n = std::mem::take(&mut self.n_waiting);
        if n == 0 {
            return;
        }
        let n_layers = self.moments.layers.len();
        let waiting = self.waiting.par_iter_mut();
        let centred: Vec<Centred> =
            waiting.map(|rows| Centred::new(std::mem::take(rows), None, n as f64)).collect();
        let rows = Rows::unweighted(n);
        let z = centred.last().expect("a model has streams");
        if n_layers < centred.len() {
            let before = self.moments.layers[0].weight;
            let dz = &z.mean - &self.moments.layers[0].z_mean;
            rows.add(before, &mut self.s_zz, Part::Lower, (z, &dz), (z, &dz));
        }
        let last_is_target = n_layers == centred.len();
        self.moments.layers.par_iter_mut().zip(&centred).enumerate().for_each(|(l, (moments, x))| {
            moments.add_centred(x, z, rows, !(last_is_target && l + 1 == n_layers));
        });
        for (waiting, centred) in self.waiting.iter_mut().zip(centred) {
            *waiting = centred.rows;
            waiting.clear();
        }
    }

    /// Rows that were added.
    pub(crate) fn n(&self) -> u64 {
        self.moments.n() + self.n_waiting as u64
    }

    /// The moments of all rows.
    pub(crate) fn finish(mut self) -> LayerMoments {
        self.add_waiting();
        let Accumulator { mut moments, mut s_zz, sum_p, .. } = self;
        moments.layers.par_iter_mut().for_each(|m| mirror(&mut m.s_xx));
        if moments.target_is_last_stream() {
            let last = moments.layers.last_mut().expect("a model has streams");
            last.s_zx = last.s_xx.clone();
            s_zz = last.s_xx.clone();
        } else {
            mirror(&mut s_zz);
        }
        let s_zz = s_zz.into_shared();
        moments.layers.iter_mut().for_each(|m| m.s_zz = s_zz.clone());
        moments.mean_prediction = sum_p / moments.n().max(1) as f64;
        moments
    }
}
