//! Stochastic natural-gradient descent: near the least KL after a few epochs over the tokens, where a search that looks
//! at all tokens before each step takes many more.

use ndarray::{Array1, Array2};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::AffineLens;
use super::objective::{Meter, Objective};
use super::whitened::Whitened;
use crate::Result;

/// Rows per step for a lens, about: tokens, times the streams of its pool that each shows.
const BATCH: usize = 4096;
/// Chunks of a step, at least: work for all threads.
const CHUNKS: usize = 4;
/// Share of a natural-gradient step at the beginning; it falls in a line to 0.
const RATE: f64 = 0.05;
/// Share of the step before that is kept.
const MOMENTUM: f64 = 0.9;

/// Where lenses are on their way, and how they move.
#[derive(Serialize, Deserialize)]
pub(super) struct Moving {
    pub(super) lenses: Vec<AffineLens>,
    velocities: Vec<AffineLens>,
    /// Those of the mean Fisher matrices, as last seen.
    curvatures: Vec<Option<Array2<f64>>>,
    /// Their coordinates, once asked for.
    #[serde(skip)]
    whitened: Option<Vec<Whitened>>,
}

impl Moving {
    /// At rest.
    pub(super) fn from(lenses: &[AffineLens]) -> Self {
        let rest =
            |lens: &AffineLens| AffineLens { a: Array2::zeros(lens.a.dim()), b: Array1::zeros(lens.b.len()) };
        Moving {
            lenses: lenses.to_vec(),
            velocities: lenses.iter().map(rest).collect(),
            curvatures: Vec::new(),
            whitened: None,
        }
    }

    /// Those that it last moved in.
    pub(super) fn curvatures(&self) -> &[Option<Array2<f64>>] {
        &self.curvatures
    }

    /// Moves the lenses that are `active` by steps on batches of the tokens, once through all of them: number `epoch`
    /// of so many. Curvature changes ever more slowly and is looked at before epochs 1, 2, 4, 8 and so on. The lenses
    /// have no less KL for certain: whoever calls compares.
    ///
    /// Lenses of large pools look at some streams of each chunk, in turns. Batches hold every `n`-th chunk, so that
    /// each goes through all of the text; nothing depends on the number of threads.
    pub(super) fn epoch(
        &mut self,
        objective: &Objective,
        active: &[bool],
        (epoch, epochs): (usize, usize),
        meter: &mut Meter,
    ) -> Result<()> {
        let n_chunks = objective.inputs.n_chunks();
        let chunk_tokens = objective.inputs.n_tokens().div_ceil(n_chunks);
        let in_batch = (BATCH / objective.streams_shown()).div_ceil(chunk_tokens).max(CHUNKS);
        let n_batches = (n_chunks / in_batch).max(1);
        if (epoch + 1).is_power_of_two() {
            self.curvatures = objective.fisher(&self.lenses, active)?;
            self.whitened = None;
        }
        let whitened = match self.whitened.take() {
            Some(whitened) => whitened,
            None => objective.whiten(&self.curvatures)?,
        };
        for k in 0..n_batches {
            let batch: Vec<usize> = (k..n_chunks).step_by(n_batches).collect();
            let seen = objective.evaluate_on(&batch, &self.lenses, active, Some(epoch), meter)?;
            let done = (epoch * n_batches + k) as f64 / (epochs * n_batches) as f64;
            let moving = self.lenses.par_iter_mut().zip(&mut self.velocities).zip(&seen).zip(&whitened);
            moving.zip(active).filter(|(_, active)| **active).for_each(|((((lens, velocity), at), w), _)| {
                // A step of the whitened gradient, in coordinates that are the same in every epoch.
                let step = w.leave(&-w.gradient(at));
                velocity.a = &velocity.a * MOMENTUM + step.a;
                velocity.b = &velocity.b * MOMENTUM + step.b;
                lens.a.scaled_add(RATE * (1.0 - done), &velocity.a);
                lens.b.scaled_add(RATE * (1.0 - done), &velocity.b);
            });
        }
        self.whitened = Some(whitened);
        Ok(())
    }
}
