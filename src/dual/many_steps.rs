//! The expected loss of several gradient steps in context, plain or GD++, and of Newton's, and the best sizes.

use ndarray::{Array1, Array2};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::nelder_mead::minimise;
use super::{Construction, Inputs, OneStep};
use crate::num::{SymmetricEigen, mean_and_standard_error, rng};
use crate::{Error, ErrorKind, Result};

/// Several steps of gradient descent from zero weights on contexts of `n` pairs with `y = w x`, `w ~ N(0, I)`.
///
/// No formula in moments of the inputs is known to us beyond [one step](OneStep), so contexts are sampled. Everything
/// else is exact: every step and every map of GD++ is a polynomial in `S = Σ x_i x_iᵀ`, so in the eigenvectors of `S`
/// all of them are products of numbers, and the expectation over tasks and queries is `½ Σ_i c_i m_i²`, with
/// `c_i = u_iᵀ E[x xᵀ] u_i` and
///
/// ```text
///  m ← m (1 - (η_k / n) μ t²),     t ← t (1 - γ μ t²)        from m = t = 1, for each eigenvalue μ of S
/// ```
///
/// The same contexts serve all step sizes, so that differences between them are not noise.
///
/// ```
/// use onelens::dual::{Inputs, ManySteps};
/// let steps = ManySteps::new(&Inputs::uniform(10, 0.5)?, 10, 2000, 0)?;
/// // No step at all: ½ tr E[x xᵀ] = ½ · 10 / 12.
/// assert!((steps.loss(&[], 0.0).0 - 10.0 / 24.0).abs() < 1e-12);
/// // Two good steps are better than one, and GD++ better still.
/// let (one, two, plus) = (steps.best(1)?, steps.best(2)?, steps.best_plus_plus(2)?);
/// assert!(two.loss.0 < one.loss.0 - 0.02 && plus.loss.0 < two.loss.0 - 0.02);
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ManySteps {
    inputs: Inputs,
    n: usize,
    contexts: Vec<Spectrum>,
}

/// A context: eigenvalues of `S`, and how much of a query's expected square lies along each eigenvector.
#[derive(Clone, Debug, PartialEq)]
struct Spectrum {
    values: Array1<f64>,
    weights: Array1<f64>,
}

/// Step sizes, and what they cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepSizes {
    /// `η` of each step.
    pub lr: Vec<f64>,
    /// `γ` of GD++; 0 is plain descent.
    pub gamma: f64,
    /// Expected loss `½ (ŷ - y)²` for each output, with its standard error over contexts.
    pub loss: (f64, f64),
}

/// Newton's method in context: where it begins, and what it costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewtonSteps {
    /// `α`, of the first guess `α S` at the inverse of `S`.
    pub alpha: f64,
    /// Expected loss `½ (ŷ - y)²` for each output, with its standard error over contexts.
    pub loss: (f64, f64),
}

impl StepSizes {
    /// Describes the weights of the layers that take these steps on contexts of `n` pairs.
    pub fn construction(&self, d_in: usize, d_out: usize, n: usize) -> Construction {
        Construction {
            lr: self.lr.clone(),
            gamma: self.gamma,
            ..Construction::plain(d_in, d_out, n, 0.0, self.lr.len())
        }
    }
}

impl ManySteps {
    /// Draws `n_contexts` contexts of `n` pairs.
    ///
    /// Fails for fewer than two contexts, or empty ones.
    pub fn new(inputs: &Inputs, n: usize, n_contexts: usize, seed: u64) -> Result<Self> {
        if n == 0 || n_contexts < 2 {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{n_contexts} contexts of {n} pairs are too few"),
                "use at least 2 contexts, for a standard error, of at least 1 pair",
            ));
        }
        let contexts = (0..n_contexts as u64)
            .into_par_iter()
            .map(|i| {
                let mut rng = rng(seed, i);
                let mut x = Array2::zeros((n, inputs.d()));
                for mut row in x.rows_mut() {
                    row.assign(&inputs.draw(&mut rng)?);
                }
                let eigen = SymmetricEigen::new(x.t().dot(&x).view())?;
                let weights = (inputs.second.dot(&eigen.vectors) * &eigen.vectors).sum_axis(ndarray::Axis(0));
                Ok(Spectrum { values: eigen.values, weights })
            })
            .collect::<Result<_>>()?;
        Ok(ManySteps { inputs: inputs.clone(), n, contexts })
    }

    /// Computes the expected loss for each output after steps of sizes `lr`, with `gamma` the `γ` of GD++ (0: plain),
    /// and its standard error.
    pub fn loss(&self, lr: &[f64], gamma: f64) -> (f64, f64) {
        self.expected(|mu| {
            let (mut m, mut t) = (1.0, 1.0);
            for lr in lr {
                let squared = mu * t * t;
                m *= 1.0 - lr / self.n as f64 * squared;
                t *= 1.0 - gamma * squared;
            }
            m
        })
    }

    /// Computes the expected loss of least squares by Newton's method for the inverse, as Fu et al. 2023
    /// (arXiv:2310.17086) run it in context, and its standard error: `M ← 2 M - M S M` from `M = α S`, after which the
    /// answer is `Σ_i y_i x_iᵀ M x_q`. An iteration squares what there is still to learn, `m ← m²` from `m = 1 - α μ²`.
    ///
    /// Begun at `M = α I` instead, `k` iterations are `2ᵏ` [steps of one size](Self::best_equal).
    ///
    /// ```
    /// use onelens::dual::{Inputs, ManySteps};
    /// let steps = ManySteps::new(&Inputs::uniform(10, 0.5)?, 10, 2000, 0)?;
    /// // From nothing it learns nothing: ½ tr E[x xᵀ] = ½ · 10 / 12.
    /// assert!((steps.newton_loss(3, 0.0).0 - 10.0 / 24.0).abs() < 1e-12);
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn newton_loss(&self, n_iterations: usize, alpha: f64) -> (f64, f64) {
        self.expected(|mu| (0..n_iterations).fold(1.0 - alpha * mu * mu, |m, _| m * m))
    }

    /// The expected loss if of the weight along an eigenvector of `S` with eigenvalue `μ` the share `left(μ)` is still
    /// to be learnt, and its standard error.
    fn expected(&self, left: impl Fn(f64) -> f64) -> (f64, f64) {
        let loss = |s: &Spectrum| {
            let along = s.values.iter().zip(&s.weights).map(|(&mu, &weight)| weight * left(mu).powi(2));
            0.5 * along.sum::<f64>()
        };
        mean_and_standard_error(&self.contexts.iter().map(loss).collect::<Vec<_>>())
    }

    /// Finds the best sizes of `n_steps` plain steps.
    ///
    /// Fails without steps.
    pub fn best(&self, n_steps: usize) -> Result<StepSizes> {
        let start = vec![self.first_guess()?; steps(n_steps)?];
        let lr = minimise(|lr| self.loss(lr, 0.0).0, &start, 0.3 * start[0]);
        Ok(StepSizes { loss: self.loss(&lr, 0.0), lr, gamma: 0.0 })
    }

    /// Finds the best size that all of `n_steps` plain steps have, as of layers that share their weights.
    ///
    /// Fails without steps.
    ///
    /// ```
    /// use onelens::dual::{Inputs, ManySteps};
    /// let steps = ManySteps::new(&Inputs::uniform(10, 0.5)?, 10, 2000, 0)?;
    /// let (equal, free) = (steps.best_equal(2)?, steps.best(2)?);
    /// assert!(equal.lr[0] == equal.lr[1] && equal.loss.0 > free.loss.0);
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn best_equal(&self, n_steps: usize) -> Result<StepSizes> {
        let n = steps(n_steps)?;
        let start = self.first_guess()?;
        let lr = vec![minimise(|lr| self.loss(&vec![lr[0]; n], 0.0).0, &[start], 0.3 * start)[0]; n];
        Ok(StepSizes { loss: self.loss(&lr, 0.0), lr, gamma: 0.0 })
    }

    /// Finds the best sizes of `n_steps` steps of GD++, with one `γ` for all.
    pub fn best_plus_plus(&self, n_steps: usize) -> Result<StepSizes> {
        // In units of the best single step, so that one size fits all coordinates of the search.
        let (unit, n) = (self.first_guess()?, self.n as f64);
        let parts = |x: &[f64]| {
            let (gamma, lr) = x.split_last().expect("a γ");
            (lr.iter().map(|lr| lr * unit).collect::<Vec<_>>(), gamma * unit / n)
        };
        let loss = |x: &[f64]| {
            let (lr, gamma) = parts(x);
            self.loss(&lr, gamma).0
        };
        let mut start = vec![1.0; steps(n_steps)?];
        start.push(0.3);
        let (lr, gamma) = parts(&minimise(loss, &start, 0.3));
        Ok(StepSizes { loss: self.loss(&lr, gamma), lr, gamma })
    }

    /// Finds the `α` from which `n_iterations` of Newton's method lose least, and the [loss](Self::newton_loss).
    ///
    /// Fails without iterations.
    ///
    /// ```
    /// use onelens::dual::{Inputs, ManySteps};
    /// let steps = ManySteps::new(&Inputs::uniform(10, 0.5)?, 10, 2000, 0)?;
    /// let (once, twice) = (steps.best_newton(1)?, steps.best_newton(2)?);
    /// assert!(twice.loss.0 < once.loss.0);
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn best_newton(&self, n_iterations: usize) -> Result<NewtonSteps> {
        let n = steps(n_iterations)?;
        // The square of the best single step, so that one size fits all inputs.
        let unit = (self.first_guess()? / self.n as f64).powi(2);
        let alpha = minimise(|x| self.newton_loss(n, x[0] * unit).0, &[1.0], 0.3)[0] * unit;
        Ok(NewtonSteps { alpha, loss: self.newton_loss(n, alpha) })
    }

    /// The best size of a single step, exactly.
    fn first_guess(&self) -> Result<f64> {
        Ok(OneStep::new(self.inputs.clone(), self.n)?.best_scale() * self.n as f64)
    }
}

fn steps(n: usize) -> Result<usize> {
    if n == 0 || n > 20 {
        return Err(Error::new(
            ErrorKind::Config,
            format!("sizes of {n} steps cannot be found"),
            "use 1 to 20",
        ));
    }
    Ok(n)
}
