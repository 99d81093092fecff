//! Modern Hopfield retrieval: attention as descent on an energy.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2};
use serde::{Deserialize, Serialize};

use super::dual_form::finite;
use crate::{Error, ErrorKind, Result};

/// A memory of patterns `x_j`, read by attention (Ramsauer et al. 2020, equations 2 and 3).
///
/// ```text
///  E(ξ) = -1/β log Σ_j exp(β x_j·ξ) + ½ ξ·ξ + 1/β log N + ½ max ‖x‖²,       ξ ← ξ - ∇E(ξ) = Σ_j softmax(β x_j·ξ)_j x_j
/// ```
///
/// One step is softmax attention with the patterns as keys and values. It never raises the energy, and neither does a
/// part of it, `ξ ← ξ + η Σ_j a_j (x_j - ξ)` with `0 < η ≤ 1`: cross-attention between latents and data, written as the
/// errors between them.
///
/// ```
/// use onelens::{dual::Hopfield, ndarray::array};
/// let memory = Hopfield::new(array![[1.0, 0.0], [0.0, 1.0]], 10.0)?;
/// // Nearer to the first pattern than to the second: one step all but completes it.
/// let run = memory.retrieve(array![0.9, 0.1].view(), 1.0, 2)?;
/// assert!((run.states[(1, 0)] - 1.0 / (1.0 + (-8.0_f64).exp())).abs() < 1e-15);
/// assert!(run.energies[1] < run.energies[0]);
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hopfield {
    /// One pattern per row, `[n, d]`.
    pub patterns: Array2<f64>,
    /// Inverse temperature `β`.
    pub beta: f64,
}

/// A retrieval, step by step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retrieval {
    /// The state before the first step and after each, `[n_steps + 1, d]`.
    pub states: Array2<f64>,
    /// How much attention each state pays to each pattern, `[n_steps + 1, n]`.
    pub attention: Array2<f64>,
    /// The energy of each state.
    pub energies: Vec<f64>,
}

impl Hopfield {
    /// Makes a memory of `patterns: [n, d]`.
    ///
    /// Fails without patterns, on values that are not finite and on `beta` that is not positive.
    pub fn new(patterns: Array2<f64>, beta: f64) -> Result<Self> {
        if patterns.is_empty() {
            return Err(Error::new(
                ErrorKind::Data,
                format!("a memory of shape {:?} holds no pattern", patterns.dim()),
                "store at least one pattern",
            ));
        }
        finite("the patterns", patterns.iter())?;
        if !(beta > 0.0 && beta.is_finite()) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("beta is {beta}"),
                "set beta to a positive number",
            ));
        }
        Ok(Hopfield { patterns, beta })
    }

    /// Computes the energy of a state `ξ: [d]`.
    pub fn energy(&self, state: ArrayView1<f64>) -> Result<f64> {
        self.check(state)?;
        let scores = self.patterns.dot(&state) * self.beta;
        let max = scores.fold(f64::NEG_INFINITY, |m, &s| m.max(s));
        let log_sum = max + scores.mapv(|s| (s - max).exp()).sum().ln();
        let longest = self.patterns.rows().into_iter().map(|x| x.dot(&x)).fold(0.0, f64::max);
        Ok((scores.len() as f64).ln() / self.beta - log_sum / self.beta + 0.5 * (state.dot(&state) + longest))
    }

    /// Computes how much attention a state pays to each pattern, `[n]`.
    pub fn attention(&self, state: ArrayView1<f64>) -> Result<Array1<f64>> {
        self.check(state)?;
        Ok(softmax(self.patterns.dot(&state) * self.beta))
    }

    /// Takes the step to `ξ + η Σ_j a_j (x_j - ξ)`: with `η = 1` the attention itself.
    pub fn step(&self, state: ArrayView1<f64>, lr: f64) -> Result<Array1<f64>> {
        let attention = self.attention(state)?;
        Ok(&state + &((self.patterns.t().dot(&attention) - state) * lr))
    }

    /// Takes several steps of size `lr` from `state`.
    ///
    /// Fails unless `0 < lr ≤ 1`: larger steps may raise the energy.
    pub fn retrieve(&self, state: ArrayView1<f64>, lr: f64, n_steps: usize) -> Result<Retrieval> {
        if !(lr > 0.0 && lr <= 1.0) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("a step size of {lr} may raise the energy"),
                "use a step size above 0 and up to 1, the largest that is sure not to",
            ));
        }
        let mut run = Retrieval {
            states: Array2::zeros((n_steps + 1, state.len())),
            attention: Array2::zeros((n_steps + 1, self.patterns.nrows())),
            energies: Vec::with_capacity(n_steps + 1),
        };
        let mut state = state.to_owned();
        for k in 0..=n_steps {
            run.states.row_mut(k).assign(&state);
            run.attention.row_mut(k).assign(&self.attention(state.view())?);
            run.energies.push(self.energy(state.view())?);
            state = self.step(state.view(), lr)?;
        }
        Ok(run)
    }

    /// Takes one step of cross-attention for many latents: every row of `latents: [m, d]` moves by `η` times its
    /// attention-weighted errors.
    pub fn cross_attend(&self, latents: ArrayView2<f64>, lr: f64) -> Result<Array2<f64>> {
        let mut moved = latents.to_owned();
        for mut row in moved.rows_mut() {
            let next = self.step(row.view(), lr)?;
            row.assign(&next);
        }
        Ok(moved)
    }

    fn check(&self, state: ArrayView1<f64>) -> Result<()> {
        let d = self.patterns.ncols();
        if state.len() != d {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("the state has width {}, the patterns have width {d}", state.len()),
                format!("pass a state of width {d}"),
            ));
        }
        finite("the state", state.iter())
    }
}

/// `softmax` of scores.
pub(super) fn softmax(mut scores: Array1<f64>) -> Array1<f64> {
    let max = scores.fold(f64::NEG_INFINITY, |m, &s| m.max(s));
    scores.mapv_inplace(|s| (s - max).exp());
    let sum = scores.sum();
    scores / sum
}
