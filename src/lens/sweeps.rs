//! Stochastic natural-gradient descent: near the least KL after a few sweeps over the tokens, where a search that looks at all
//! tokens before each step takes many more.

use ndarray::{Array1, Array2};

use super::objective::Objective;
use super::whitened::Whitened;
use super::{AffineLens, LayerMoments};
use crate::Result;
use crate::session::Progress;

/// Tokens per step, about.
const BATCH: usize = 4096;
/// Chunks of a step, at least: work for all threads.
const CHUNKS: usize = 4;
/// Share of a natural-gradient step at the beginning; it falls in a line to 0.
const RATE: f64 = 0.05;
/// Share of the step before that is kept.
const MOMENTUM: f64 = 0.9;

/// Coordinates for all layers at these lenses.
pub(super) fn whiten(
    objective: &Objective,
    moments: &LayerMoments,
    lenses: &[AffineLens],
) -> Result<Vec<Whitened>> {
    let fishers = objective.fisher(lenses);
    moments.layers.iter().zip(&fishers).map(|(m, f)| Whitened::new(m, f.as_ref().map(|f| f.view()))).collect()
}

/// Moves all lenses by steps on batches of the tokens, `sweeps` times through all of them. Coordinates are made anew for each
/// sweep. The lenses have no less KL for certain: whoever calls compares.
///
/// Batches hold every `n`-th chunk, so that each goes through all of the text; nothing depends on the number of threads.
pub(super) fn descend(
    objective: &Objective,
    moments: &LayerMoments,
    lenses: &mut [AffineLens],
    sweeps: usize,
    progress: &mut Progress,
) -> Result<()> {
    let n_chunks = objective.n_chunks();
    let in_batch = BATCH.div_ceil(objective.chunk_tokens()).max(CHUNKS);
    let n_batches = (n_chunks / in_batch).max(1);
    let mut velocities: Vec<(Array2<f64>, Array1<f64>)> =
        lenses.iter().map(|lens| (Array2::zeros(lens.a.dim()), Array1::zeros(lens.b.len()))).collect();
    let every = vec![true; lenses.len()];
    for sweep in 0..sweeps {
        let whitened = whiten(objective, moments, lenses)?;
        let x_means: Vec<Array1<f64>> = whitened.iter().map(|w| w.x_mean.clone()).collect();
        for k in 0..n_batches {
            let batch: Vec<usize> = (k..n_chunks).step_by(n_batches).collect();
            let seen = objective.evaluate_on(&batch, lenses, &every, &x_means)?;
            let done = (sweep * n_batches + k) as f64 / (sweeps * n_batches) as f64;
            for (l, at) in seen.iter().enumerate() {
                let (w, lens, velocity) = (&whitened[l], &mut lenses[l], &mut velocities[l]);
                // A step of the whitened gradient, in coordinates that are the same in every sweep.
                let ahead = w.leave(&(w.enter(lens) - w.gradient(at)));
                velocity.0 = &velocity.0 * MOMENTUM + (ahead.a - &lens.a);
                velocity.1 = &velocity.1 * MOMENTUM + (ahead.b - &lens.b);
                lens.a.scaled_add(RATE * (1.0 - done), &velocity.0);
                lens.b.scaled_add(RATE * (1.0 - done), &velocity.1);
            }
        }
        progress.update(sweep + 1, || "sweeps".into());
    }
    Ok(())
}
