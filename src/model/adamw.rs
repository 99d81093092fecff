//! One step of AdamW (Loshchilov & Hutter 2019), on all threads.

use std::borrow::Cow;

use rayon::prelude::*;

use super::{Params, Training};
use crate::num::wide_fn;

/// Numbers that a thread takes at a time. Fixed, so that sums do not depend on the number of threads.
const CHUNK: usize = 16 * 1024;

/// Adds the gradients of all parts to the first, in order, and returns the length of the sum.
pub(crate) fn sum_parts(parts: &mut [Params]) -> f64 {
    let Some((first, others)) = parts.split_first_mut() else { return 0.0 };
    let others: Vec<Vec<Cow<[f32]>>> = others.iter().map(Params::slices).collect();
    let chunks: Vec<(usize, usize, &mut [f32])> = first
        .slices_mut()
        .into_iter()
        .enumerate()
        .flat_map(|(tensor, numbers)| {
            numbers.chunks_mut(CHUNK).enumerate().map(move |(i, chunk)| (tensor, i * CHUNK, chunk))
        })
        .collect();
    let squares: Vec<f64> = chunks
        .into_par_iter()
        .map(|(tensor, from, sum)| {
            for other in &others {
                add(sum, &other[tensor][from..from + sum.len()]);
            }
            let mut squares = 0.0;
            squares_of(sum, &mut squares);
            squares
        })
        .collect();
    squares.into_iter().sum::<f64>().sqrt()
}

wide_fn! {
    fn add<'a, F>(sum: &'a mut [F], other: &'a [F]) {
        sum.iter_mut().zip(other).for_each(|(sum, &x)| *sum += x);
    }
}

wide_fn! {
    /// Adds the squares, in double precision and in lanes whose order is always the same.
    fn squares_of<'a, F>(numbers: &'a [F], total: &'a mut f64) {
        const LANES: usize = 16;
        let mut lanes = [0.0; LANES];
        let (chunks, rest) = numbers.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                let x = x.to_f64().unwrap_or(f64::NAN);
                *lane += x * x;
            }
        }
        let rest: f64 = rest.iter().map(|x| x.to_f64().unwrap_or(f64::NAN).powi(2)).sum();
        *total += lanes.iter().sum::<f64>() + rest;
    }
}

/// The averages of AdamW.
#[derive(Clone)]
pub(crate) struct AdamW {
    /// Decaying mean of the gradient.
    pub(crate) mean: Params,
    /// Decaying mean of its square.
    pub(crate) square: Params,
    /// Steps taken.
    pub(crate) step: i32,
}

impl AdamW {
    /// One step with the gradient scaled by `scale`.
    pub(crate) fn update(&mut self, params: &mut Params, grad: &Params, how: &Training, lr: f64, scale: f64) {
        self.step += 1;
        let correct1 = 1.0 - how.beta1.powi(self.step);
        let correct2 = 1.0 - how.beta2.powi(self.step);
        let step = |decays: bool| Step::<f32> {
            rate: (lr / correct1) as f32,
            root: (1.0 / correct2.sqrt()) as f32,
            b1: how.beta1 as f32,
            b2: how.beta2 as f32,
            scale: scale as f32,
            keep: if decays { (1.0 - lr * how.weight_decay) as f32 } else { 1.0 },
        };
        let steps: Vec<Step<f32>> = params.tensors().iter().map(|(_, t)| step(t.ndim() > 1)).collect();
        let grads = grad.slices();
        let state = self.mean.slices_mut().into_iter().zip(self.square.slices_mut());
        let tensors = params.slices_mut().into_iter().zip(&grads).zip(state).zip(steps);
        let chunks: Vec<_> = tensors
            .flat_map(|(((p, g), (m, v)), step)| {
                let chunks = p.chunks_mut(CHUNK).zip(g.chunks(CHUNK));
                let state = m.chunks_mut(CHUNK).zip(v.chunks_mut(CHUNK));
                chunks.zip(state).map(move |chunk| (chunk, step))
            })
            .collect();
        chunks.into_par_iter().for_each(|(((p, g), (m, v)), step)| adamw(p, g, m, v, step));
    }
}

/// The numbers of one step.
#[derive(Clone, Copy)]
struct Step<F> {
    rate: F,
    root: F,
    b1: F,
    b2: F,
    scale: F,
    keep: F,
}

wide_fn! {
    fn adamw<'a, F>(p: &'a mut [F], g: &'a [F], m: &'a mut [F], v: &'a mut [F], step: Step<F>) {
        let Step { rate, root, b1, b2, scale, keep } = step;
        let eps = F::of(1e-8);
        for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            let g = g * scale;
            *m = b1 * *m + (F::one() - b1) * g;
            *v = b2 * *v + (F::one() - b2) * g * g;
            *p = keep * *p - rate * *m / (v.sqrt() * root + eps);
        }
    }
}
