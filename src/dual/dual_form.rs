//! A linear layer, remembered as the training that made it.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// Stochastic gradient descent: `v ← μ v + g`, `W ← (1 - η ω) W - η v`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sgd {
    /// Step size `η`.
    pub lr: f64,
    /// Momentum `μ`, in `[0, 1)`.
    pub momentum: f64,
    /// Weight decay `ω`, decoupled from the gradient.
    pub weight_decay: f64,
}

impl Default for Sgd {
    fn default() -> Self {
        Sgd { lr: 0.1, momentum: 0.0, weight_decay: 0.0 }
    }
}

/// A linear layer in its dual form: its initial weights and every training pair it has seen.
///
/// Gradient descent changes a linear layer by outer products only, `W = s W₀ + Σ_t c_t e_t x_tᵀ`, where `x_t` is a
/// training input, `e_t = -∂L/∂y` the error signal at its output, and the numbers `c_t` and `s` come from step size,
/// momentum and weight decay. So the layer's answer to `q` is unnormalised attention over the training history (Irie et
/// al. 2022, section 3): `W q = s W₀ q + Σ_t c_t e_t (x_tᵀ q)`. The values are the errors, the keys the inputs.
///
/// ```
/// use onelens::{dual::{DualForm, Sgd}, ndarray::array};
/// let mut layer = DualForm::new(array![[0.0, 0.0]])?;
/// // One example: input (1, 2), output gradient -3. With η = 0.1 the weights become 0.1 · 3 · (1, 2).
/// layer.step(array![[1.0, 2.0]].view(), array![[-3.0]].view(), &Sgd::default())?;
/// assert!((layer.weight()[(0, 1)] - 0.6).abs() < 1e-15);
/// // The query (1, 0) attends to the example with weight 0.1 · (1·1 + 2·0) and reads its error, 3.
/// let q = array![1.0, 0.0];
/// assert!((layer.attention(q.view())?[0] - 0.1).abs() < 1e-15);
/// assert!((layer.apply(q.view())?[0] - 0.3).abs() < 1e-15);
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DualForm {
    w0: Array2<f64>,
    /// What weight decay has left of `w0`.
    w0_scale: f64,
    /// `[pair, d_in]`.
    inputs: Vec<f64>,
    /// `[pair, d_out]`.
    errors: Vec<f64>,
    coefficients: Vec<f64>,
    /// How much of each pair's gradient is in the momentum buffer now.
    velocities: Vec<f64>,
}

impl DualForm {
    /// Makes a layer that has not been trained: `w0: [d_out, d_in]`.
    ///
    /// Fails if `w0` is empty or not finite.
    pub fn new(w0: Array2<f64>) -> Result<Self> {
        if w0.is_empty() {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("initial weights of {} x {} make no layer", w0.nrows(), w0.ncols()),
                "pass at least one row and one column",
            ));
        }
        finite("the initial weights", w0.iter())?;
        Ok(DualForm {
            w0,
            w0_scale: 1.0,
            inputs: vec![],
            errors: vec![],
            coefficients: vec![],
            velocities: vec![],
        })
    }

    /// Adds one pair as it stands: `W ← W + error inputᵀ`.
    pub fn push(&mut self, error: ArrayView1<f64>, input: ArrayView1<f64>) -> Result<()> {
        self.remember(input.insert_axis(Axis(0)), error.insert_axis(Axis(0)), 1.0, 1.0, 0.0)
    }

    /// Takes one step of gradient descent on a batch: `x: [batch, d_in]` and the gradient at the outputs, `dy = ∂L/∂y:
    /// [batch, d_out]`, whose rows are already divided by the batch size if the loss is a mean.
    ///
    /// Fails on other widths, on unequal numbers of rows, and on values or settings that are not finite.
    pub fn step(&mut self, x: ArrayView2<f64>, dy: ArrayView2<f64>, sgd: &Sgd) -> Result<()> {
        let settings = [sgd.lr, sgd.momentum, sgd.weight_decay];
        if settings.iter().any(|s| !(s.is_finite() && *s >= 0.0)) || sgd.momentum >= 1.0 {
            return Err(Error::new(
                ErrorKind::Config,
                format!("lr is {}, momentum {}, weight_decay {}", sgd.lr, sgd.momentum, sgd.weight_decay),
                "use finite numbers from 0, and a momentum below 1",
            ));
        }
        self.check(x, dy)?;
        let kept = 1.0 - sgd.lr * sgd.weight_decay;
        self.w0_scale *= kept;
        for (c, v) in self.coefficients.iter_mut().zip(&mut self.velocities) {
            *v *= sgd.momentum;
            *c = kept * *c + sgd.lr * *v;
        }
        self.remember(x, dy, -1.0, sgd.lr, 1.0)
    }

    fn check(&self, x: ArrayView2<f64>, e: ArrayView2<f64>) -> Result<()> {
        let (d_out, d_in) = self.w0.dim();
        if x.ncols() != d_in || e.ncols() != d_out || x.nrows() != e.nrows() {
            return Err(Error::new(
                ErrorKind::Shape,
                format!(
                    "inputs {:?} and errors {:?} do not fit a layer from {d_in} to {d_out}",
                    x.dim(),
                    e.dim()
                ),
                format!("pass [n, {d_in}] and [n, {d_out}] with the same n"),
            ));
        }
        finite("the inputs", x.iter())?;
        finite("the errors", e.iter())
    }

    fn remember(
        &mut self,
        x: ArrayView2<f64>,
        e: ArrayView2<f64>,
        sign: f64,
        coefficient: f64,
        velocity: f64,
    ) -> Result<()> {
        self.check(x, e)?;
        self.inputs.extend(x.iter());
        self.errors.extend(e.iter().map(|e| sign * e));
        self.coefficients.resize(self.coefficients.len() + x.nrows(), coefficient);
        self.velocities.resize(self.coefficients.len(), velocity);
        Ok(())
    }

    /// Returns the number of training pairs remembered.
    pub fn n_pairs(&self) -> usize {
        self.coefficients.len()
    }

    fn x(&self) -> ArrayView2<'_, f64> {
        ArrayView2::from_shape((self.n_pairs(), self.w0.ncols()), &self.inputs).expect("pairs are whole rows")
    }

    fn e(&self) -> ArrayView2<'_, f64> {
        ArrayView2::from_shape((self.n_pairs(), self.w0.nrows()), &self.errors).expect("pairs are whole rows")
    }

    /// Returns the layer's answer to `q: [d_in]`, read off the training history: `s W₀ q + Σ_t c_t e_t (x_tᵀ q)`,
    /// `[d_out]`.
    pub fn apply(&self, q: ArrayView1<f64>) -> Result<Array1<f64>> {
        Ok(self.w0.dot(&q) * self.w0_scale + self.e().t().dot(&self.attention(q)?))
    }

    /// Returns the attention weight of every training pair, `c_t x_tᵀ q: [pair]`. They neither sum to one nor stay
    /// positive.
    ///
    /// Fails if `q` has another width or is not finite.
    pub fn attention(&self, q: ArrayView1<f64>) -> Result<Array1<f64>> {
        if q.len() != self.w0.ncols() {
            return Err(Error::new(
                ErrorKind::Shape,
                format!(
                    "a query of width {} does not fit a layer of input width {}",
                    q.len(),
                    self.w0.ncols()
                ),
                format!("pass a query of width {}", self.w0.ncols()),
            ));
        }
        finite("the query", q.iter())?;
        let mut weights = self.x().dot(&q);
        weights.iter_mut().zip(&self.coefficients).for_each(|(w, c)| *w *= c);
        Ok(weights)
    }

    /// Shows how much of the answer to `q` came from each training pair.
    pub fn contributions(&self, q: ArrayView1<f64>) -> Result<Contributions> {
        let weights = self.attention(q)?;
        let mut values = self.e().to_owned();
        for (mut row, &w) in values.rows_mut().into_iter().zip(&weights) {
            row *= w;
        }
        Ok(Contributions { from_w0: self.w0.dot(&q) * self.w0_scale, weights, values })
    }

    /// Returns the weights that all this amounts to, `W: [d_out, d_in]`.
    pub fn weight(&self) -> Array2<f64> {
        let mut scaled = self.e().to_owned();
        for (mut row, &c) in scaled.rows_mut().into_iter().zip(&self.coefficients) {
            row *= c;
        }
        &self.w0 * self.w0_scale + scaled.t().dot(&self.x())
    }
}

/// What each training pair contributes to one answer of a [`DualForm`].
#[derive(Clone, Debug, PartialEq)]
pub struct Contributions {
    /// What the initial weights answer, `[d_out]`.
    pub from_w0: Array1<f64>,
    /// Attention weight of each pair, `[pair]`.
    pub weights: Array1<f64>,
    /// Weight times error of each pair, `[pair, d_out]`. With `from_w0` they sum to the answer.
    pub values: Array2<f64>,
}

/// Refuses values that are not finite, saying how many.
pub(super) fn finite<'a>(what: &str, values: impl Iterator<Item = &'a f64>) -> Result<()> {
    match values.filter(|v| !v.is_finite()).count() {
        0 => Ok(()),
        n => Err(Error::new(
            ErrorKind::Data,
            format!("{n} of the numbers in {what} are NaN or infinite"),
            "look for a division by zero or a step size that diverged",
        )),
    }
}
