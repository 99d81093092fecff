//! The Jacobian lens: what the network itself makes of a small change, on average.

use std::sync::Arc;
use std::time::Instant;

use ndarray::{Array2, Axis};
use rayon::prelude::*;

use super::{AffineLens, LayerLenses, LayerMoments, Scale, Target};
use crate::model::Transformer;
use crate::num::{add_matmul, rng, uniform};
use crate::session::{self, Progress};
use crate::{Error, ErrorKind, Result};

/// Averages Jacobians: `A_l = E[∂h_L / ∂h_l]`, both at the same position, and `b_l = z̄ - A_l x̄_l`.
///
/// Nothing is fitted to what the streams say; on Gaussian streams it equals the least-squares lens all the same
/// (Stein's lemma), and the gap between the two is what is not Gaussian.
///
/// Row `i` of all Jacobians comes from one backward pass that begins with `± e_i` at every position. Signs are drawn
/// anew for each position and row, so that what one position does to another has mean 0 and only the same position
/// stays. The cost is `d_model` backward passes over the tokens; about a thousand tokens serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Jacobian {
    /// Seed of the signs.
    pub seed: u64,
}

/// Sequences run at a time by one thread.
const CHUNK: usize = 4;

impl Jacobian {
    /// Fits the Jacobian lens of `model` over `tokens: [sequence, pos]`, decoded like the last residual stream;
    /// `moments` supply the means.
    ///
    /// Fails if the moments are of another model or target, the tokens do not fit, or when interrupted.
    pub fn fit(
        &self,
        model: &Transformer,
        moments: &LayerMoments,
        tokens: &Array2<u32>,
    ) -> Result<LayerLenses> {
        let began = Instant::now();
        moments.check_model(model)?;
        moments.check_target(Target::Residual, "a Jacobian lens predicts the last residual stream")?;
        moments.check_scale(Scale::AsItIs, "a Jacobian lens reads streams as they are")?;
        model.check_tokens(tokens)?;
        let d = model.config.d_model;
        let chunks: Vec<_> = tokens.axis_chunks_iter(Axis(0), CHUNK).enumerate().collect();
        let mut progress = Progress::new("Jacobians", tokens.nrows());
        let mut sums = vec![Array2::<f64>::zeros((d, d)); model.config.n_layers + 1];
        for round in chunks.chunks(rayon::current_num_threads().max(1)) {
            if session::interrupted() {
                return Err(Error::new(
                    ErrorKind::Interrupted,
                    "interrupted while averaging Jacobians",
                    "run the cell again, with fewer tokens if it takes too long",
                ));
            }
            let parts: Vec<Vec<Array2<f64>>> = round
                .par_iter()
                .map(|(i, chunk)| {
                    let tape = model.tape(*chunk);
                    let mut signs = rng(self.seed, *i as u64);
                    let mut sums = vec![Array2::<f64>::zeros((d, d)); model.config.n_layers + 1];
                    for feature in 0..d {
                        let sign = Array2::from_shape_simple_fn((chunk.len(), 1), || {
                            if uniform(&mut signs) < 0.5 { -1.0_f32 } else { 1.0 }
                        });
                        let mut dlast = Array2::zeros((chunk.len(), d));
                        dlast.column_mut(feature).assign(&sign.column(0));
                        for (sum, grad) in
                            sums.iter_mut().zip(model.stream_grads(*chunk, &tape, dlast.view()))
                        {
                            let mut row = Array2::zeros((1, d));
                            add_matmul(row.view_mut(), 1.0, sign.t(), grad.view());
                            let mut sum = sum.row_mut(feature);
                            sum += &row.row(0).mapv(f64::from);
                        }
                    }
                    sums
                })
                .collect();
            for part in parts {
                sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += &part);
            }
            let done = round.last().map_or(0, |(i, _)| (i + 1) * CHUNK).min(tokens.nrows());
            progress.update(done, || "sequences".into());
        }
        progress.finish(&format!("{} tokens", tokens.len()));
        let lenses = sums.into_iter().zip(&moments.layers).map(|(sum, m)| {
            let a = sum / tokens.len() as f64;
            let b = &m.z_mean - &a.dot(&m.x_mean);
            Arc::new(AffineLens { a, b })
        });
        Ok(LayerLenses::new("Jacobian lens", moments, lenses.collect(), began).named("Jacobian lens"))
    }
}
