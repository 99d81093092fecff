//! In-context linear regression: tasks, and explicit gradient descent on their context.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2};
use serde::{Deserialize, Serialize};

use super::dual_form::finite;
use super::one_step::Inputs;
use crate::num::{Rng, normal};
use crate::{Error, ErrorKind, Result};

/// One task: context pairs and a query whose answer is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegressionTask {
    /// Context inputs, `[n, d_in]`.
    pub x: Array2<f64>,
    /// Context targets, `[n, d_out]`.
    pub y: Array2<f64>,
    /// The query, `[d_in]`.
    pub x_query: Array1<f64>,
    /// Its true answer, `[d_out]`.
    pub y_query: Array1<f64>,
}

impl RegressionTask {
    /// Draws a random task `y = W x` with `W: [d_out, d_in]` of independent standard normal weights, `n` context pairs
    /// and a query from the same distribution of inputs (von Oswald et al. 2022, section 3.2).
    ///
    /// ```
    /// use onelens::{dual::{Inputs, RegressionTask}, num::rng};
    /// let task = RegressionTask::sample(&Inputs::uniform(10, 0.5)?, 1, 10, &mut rng(0, 0))?;
    /// assert_eq!((task.x.dim(), task.y.dim()), ((10, 10), (10, 1)));
    /// assert!(task.x.iter().all(|x| x.abs() <= 0.5));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn sample(inputs: &Inputs, d_out: usize, n: usize, rng: &mut Rng) -> Result<Self> {
        let d_in = inputs.d();
        let w = Array2::from_shape_simple_fn((d_out, d_in), || normal(rng));
        let mut x = Array2::zeros((n, d_in));
        for mut row in x.rows_mut() {
            row.assign(&inputs.draw(rng)?);
        }
        let x_query = inputs.draw(rng)?;
        let task = RegressionTask { y: x.dot(&w.t()), y_query: w.dot(&x_query), x, x_query };
        task.check()?;
        Ok(task)
    }

    /// Refuses an empty context, widths that do not fit and values that are not finite.
    pub fn check(&self) -> Result<()> {
        let (n, d_in) = self.x.dim();
        if n == 0 || d_in == 0 || self.y.ncols() == 0 {
            return Err(Error::new(
                ErrorKind::Data,
                format!("inputs {:?} and targets {:?} make no context", self.x.dim(), self.y.dim()),
                "pass at least one pair, with at least one number on each side",
            ));
        }
        if self.y.nrows() != n || self.x_query.len() != d_in || self.y_query.len() != self.y.ncols() {
            return Err(Error::new(
                ErrorKind::Shape,
                format!(
                    "context inputs {:?} and targets {:?} do not fit a query input of width {} and a target of width {}",
                    self.x.dim(),
                    self.y.dim(),
                    self.x_query.len(),
                    self.y_query.len()
                ),
                "inputs need one width, targets one width, and every input a target",
            ));
        }
        finite("the context's inputs", self.x.iter())?;
        finite("the context's targets", self.y.iter())?;
        finite("the query", self.x_query.iter().chain(&self.y_query))
    }
}

/// What explicit gradient descent on a context does, step by step.
#[derive(Clone, Debug, PartialEq)]
pub struct Descent {
    /// Weights before the first and after every step, each `[d_out, d_in]`.
    pub weights: Vec<Array2<f64>>,
    /// `½ Σ ‖W x_i - y_i‖² / n` at those weights.
    pub losses: Vec<f64>,
}

impl Descent {
    /// Returns the answer to `x` after each number of steps.
    pub fn predictions(&self, x: ArrayView1<f64>) -> Vec<Array1<f64>> {
        self.weights.iter().map(|w| w.dot(&x)).collect()
    }
}

/// Runs gradient descent on `L(W) = Σ ‖W x_i - y_i‖² / 2n` from `w0: [d_out, d_in]`: `W ← W - (η/n) Σ (W x_i - y_i)
/// x_iᵀ`.
///
/// Fails where a step would diverge, with the largest stable step size, `2 / λ_max(Σ x xᵀ / n)`.
///
/// ```
/// use onelens::{dual::descend, ndarray::array};
/// // One pair (1, 2): the loss is ½ (w - 2)², the first step of size ½ goes half way.
/// let d = descend(array![[1.0]].view(), array![[2.0]].view(), array![[0.0]].view(), 0.5, 2)?;
/// assert_eq!(d.weights, [array![[0.0]], array![[1.0]], array![[1.5]]]);
/// assert_eq!(d.losses, [2.0, 0.5, 0.125]);
/// # Ok::<(), onelens::Error>(())
/// ```
pub fn descend(
    x: ArrayView2<f64>,
    y: ArrayView2<f64>,
    w0: ArrayView2<f64>,
    lr: f64,
    n_steps: usize,
) -> Result<Descent> {
    let n = x.nrows();
    if n == 0 || y.nrows() != n || w0.dim() != (y.ncols(), x.ncols()) {
        return Err(Error::new(
            ErrorKind::Shape,
            format!(
                "inputs {:?}, targets {:?} and initial weights {:?} do not fit each other",
                x.dim(),
                y.dim(),
                w0.dim()
            ),
            "pass [n, d_in], [n, d_out] and [d_out, d_in] with n of at least 1",
        ));
    }
    finite("the inputs", x.iter())?;
    finite("the targets", y.iter())?;
    let largest = 2.0 / largest_eigenvalue(x);
    if !(lr >= 0.0 && lr < largest) {
        return Err(Error::new(
            ErrorKind::Config,
            format!("a step size of {lr} diverges on this context"),
            format!("use a step size from 0 to below {largest:.4}"),
        ));
    }
    let mut w = w0.to_owned();
    let mut descent = Descent { weights: vec![], losses: vec![] };
    loop {
        let error = x.dot(&w.t()) - y;
        descent.losses.push(error.mapv(|e| e * e).sum() / (2.0 * n as f64));
        descent.weights.push(w.clone());
        if descent.weights.len() > n_steps {
            return Ok(descent);
        }
        w.scaled_add(-lr / n as f64, &error.t().dot(&x));
    }
}

/// The largest eigenvalue of `Σ x xᵀ / n`, by power iteration.
pub(super) fn largest_eigenvalue(x: ArrayView2<f64>) -> f64 {
    let n = x.nrows() as f64;
    // A start that no eigenvector of a real data set is orthogonal to.
    let mut v = Array1::from_shape_fn(x.ncols(), |i| 1.0 + 0.1 * (i as f64 + 1.0).sin());
    let mut value = 0.0;
    for _ in 0..1000 {
        let next = x.t().dot(&x.dot(&v)) / n;
        let norm = next.dot(&next).sqrt();
        if norm == 0.0 {
            return 0.0;
        }
        let settled = (norm - value).abs() <= 1e-14 * norm;
        value = norm;
        v = next / norm;
        if settled {
            break;
        }
    }
    value
}
