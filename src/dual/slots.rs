//! Slot attention as expectation maximisation.

use ndarray::{Array2, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

use super::dual_form::finite;
use crate::{Error, ErrorKind, Result};

/// Slots `μ_k` that compete for data `x_j` (Locatello et al. 2020, algorithm 1, without the learned maps, the GRU and
/// the MLP).
///
/// Attention is normalised over *slots*, then over data: `r_jk = softmax_k((x_j·μ_k - ½ ‖μ_k‖²) / σ²)`,
/// `μ_k ← Σ_j r_jk x_j / Σ_j r_jk`. With the term `-½ ‖μ_k‖²`, the bias that keys of unequal length need, that is one
/// step of expectation maximisation for a mixture of Gaussians of equal weight and covariance `σ² I`, and the negative
/// log-likelihood never rises (Dempster, Laird & Rubin 1977).
///
/// ```
/// use onelens::{dual::Slots, ndarray::array};
/// // Two clusters of one point each, two slots near them: each slot takes its own.
/// let run = Slots { sigma: 0.1 }.run(array![[0.0], [1.0]].view(), array![[0.2], [0.7]].view(), 1)?;
/// assert!((run.slots[1][(0, 0)]).abs() < 1e-4 && (run.slots[1][(1, 0)] - 1.0).abs() < 1e-4);
/// assert!(run.energies[1] < run.energies[0]);
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slots {
    /// Standard deviation `σ` of a slot's data about it.
    pub sigma: f64,
}

impl Default for Slots {
    fn default() -> Self {
        Slots { sigma: 1.0 }
    }
}

/// Slots moving to their data, step by step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlotRun {
    /// The slots before the first step and after each, each `[n_slots, d]`.
    pub slots: Vec<Array2<f64>>,
    /// How much of each datum each slot has taken, after the last step: `[n, n_slots]`.
    pub responsibilities: Array2<f64>,
    /// The negative log-likelihood per datum, in nats, of the slots before the first step and after each.
    pub energies: Vec<f64>,
}

impl Slots {
    /// Computes how much of each datum each slot takes, `[n, n_slots]`; rows sum to 1.
    pub fn responsibilities(&self, x: ArrayView2<f64>, slots: ArrayView2<f64>) -> Result<Array2<f64>> {
        Ok(self.assign(x, slots)?.0)
    }

    /// Takes one step and returns the slots after it.
    pub fn step(&self, x: ArrayView2<f64>, slots: ArrayView2<f64>) -> Result<Array2<f64>> {
        let r = self.responsibilities(x, slots)?;
        let mut next = r.t().dot(&x);
        for ((mut row, taken), old) in next.rows_mut().into_iter().zip(r.sum_axis(Axis(0))).zip(slots.rows())
        {
            // A slot that nothing is near enough to for a number stays where it is.
            if taken > 0.0 {
                row /= taken;
            } else {
                row.assign(&old);
            }
        }
        Ok(next)
    }

    /// Computes the negative log-likelihood per datum, in nats, under the mixture whose means the slots are.
    pub fn energy(&self, x: ArrayView2<f64>, slots: ArrayView2<f64>) -> Result<f64> {
        Ok(self.assign(x, slots)?.1)
    }

    /// Takes several steps from `slots`.
    pub fn run(&self, x: ArrayView2<f64>, slots: ArrayView2<f64>, n_steps: usize) -> Result<SlotRun> {
        let mut all = vec![slots.to_owned()];
        for k in 0..n_steps {
            all.push(self.step(x, all[k].view())?);
        }
        let energies = all.iter().map(|s| self.energy(x, s.view())).collect::<Result<_>>()?;
        let responsibilities = self.responsibilities(x, all[n_steps].view())?;
        Ok(SlotRun { slots: all, responsibilities, energies })
    }

    /// Responsibilities and energy.
    fn assign(&self, x: ArrayView2<f64>, slots: ArrayView2<f64>) -> Result<(Array2<f64>, f64)> {
        if !(self.sigma > 0.0 && self.sigma.is_finite()) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("sigma is {}", self.sigma),
                "set sigma to a positive number",
            ));
        }
        if x.is_empty() || slots.is_empty() || x.ncols() != slots.ncols() {
            return Err(Error::new(
                ErrorKind::Shape,
                format!(
                    "data of shape {:?} and slots of shape {:?} do not fit each other",
                    x.dim(),
                    slots.dim()
                ),
                "pass at least one of each, of the same width",
            ));
        }
        finite("the data", x.iter())?;
        finite("the slots", slots.iter())?;
        let variance = self.sigma * self.sigma;
        let lengths = slots.map_axis(Axis(1), |s| 0.5 * s.dot(&s));
        let mut r = (x.dot(&slots.t()) - lengths) / variance;
        let mut energy = 0.0;
        for (mut row, x) in r.rows_mut().into_iter().zip(x.rows()) {
            let max = row.fold(f64::NEG_INFINITY, |m, &s| m.max(s));
            row.mapv_inplace(|s| (s - max).exp());
            let sum = row.sum();
            row /= sum;
            energy += 0.5 * x.dot(&x) / variance - max - sum.ln();
        }
        let constant = 0.5 * x.ncols() as f64 * (std::f64::consts::TAU * variance).ln();
        Ok((r, energy / x.nrows() as f64 + constant + (slots.nrows() as f64).ln()))
    }
}
