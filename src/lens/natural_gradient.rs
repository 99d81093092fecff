//! Stochastic natural-gradient descent: near the least KL after a few epochs over the tokens, where a search that looks
//! at all tokens before each step takes many more.

use ndarray::Array1;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::form::Form;
use super::objective::{Meter, Objective};
use super::whitened::{Curvature, Whitened};
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
    pub(super) forms: Vec<Form>,
    /// The forms in coordinates of the curvatures, and how they move there; none before the first epoch. Coordinates of
    /// low rank cannot be told from a form again: factors have more than one way to share a map.
    points: Vec<Array1<f64>>,
    velocities: Vec<Array1<f64>>,
    /// As last seen.
    curvatures: Vec<Curvature>,
    /// Their coordinates, once asked for.
    #[serde(skip)]
    whitened: Option<Vec<Whitened>>,
}

impl Moving {
    /// At rest.
    pub(super) fn from(forms: &[Form]) -> Self {
        Moving {
            forms: forms.to_vec(),
            points: Vec::new(),
            velocities: Vec::new(),
            curvatures: Vec::new(),
            whitened: None,
        }
    }

    /// Those that it last moved in.
    pub(super) fn curvatures(&self) -> &[Curvature] {
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
        let known = match self.whitened.take() {
            Some(whitened) => Some(whitened),
            None if self.curvatures.is_empty() => None,
            None => Some(objective.whiten(&self.curvatures)?),
        };
        let whitened = match known {
            Some(whitened) if !(epoch + 1).is_power_of_two() => whitened,
            before => {
                self.curvatures = objective.curvatures(&self.forms, active)?;
                let whitened = objective.whiten(&self.curvatures)?;
                self.points = whitened.par_iter().zip(&self.forms).map(|(w, form)| w.enter(form)).collect();
                self.velocities = match before {
                    None => self.points.iter().map(|point| Array1::zeros(point.len())).collect(),
                    Some(before) => {
                        let moved = self.velocities.iter().zip(whitened.iter().zip(&before));
                        moved.map(|(velocity, (w, before))| w.carried(velocity, before)).collect()
                    }
                };
                whitened
            }
        };
        for k in 0..n_batches {
            let batch: Vec<usize> = (k..n_chunks).step_by(n_batches).collect();
            let seen = objective.evaluate_on(&batch, &self.forms, active, Some(epoch), meter)?;
            let done = (epoch * n_batches + k) as f64 / (epochs * n_batches) as f64;
            let by = seen.par_iter().zip(&whitened).zip(active);
            let moving = self.points.par_iter_mut().zip(&mut self.velocities).zip(&mut self.forms).zip(by);
            moving.filter(|(_, (_, active))| **active).for_each(
                |(((point, velocity), form), ((at, w), _))| {
                    *velocity = &*velocity * MOMENTUM + w.step(at, point);
                    point.scaled_add(RATE * (1.0 - done), velocity);
                    *form = w.leave(point);
                },
            );
        }
        self.whitened = Some(whitened);
        Ok(())
    }
}
