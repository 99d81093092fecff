//! Linear self-attention on in-context regression, and the weights with which it is gradient descent.

use ndarray::{Array1, Array2, ArrayView2, Axis, s};
use serde::{Deserialize, Serialize};

use super::dual_form::finite;
use super::regression::RegressionTask;
use crate::{Error, ErrorKind, Result};

/// Which tokens a token reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mask {
    /// Every token reads the context, and nobody the query: gradient descent.
    Context,
    /// Every token reads every token, the query included. The query's own term is zero in the first layer of the
    /// construction with `W₀ = 0`, and no longer after that.
    Everything,
    /// A token reads itself and those before it. Each token then follows the gradient of another loss: not gradient
    /// descent on any one.
    Causal,
}

/// One layer of linear (unnormalised) self-attention with one head: `e_j ← e_j + P Σ_i (W_V e_i) (W_K e_i)ᵀ (W_Q e_j)`.
///
/// All four are `[d, d]` with `d = d_in + d_out`, the width of a token `(x, y)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearAttentionLayer {
    /// Queries.
    pub w_q: Array2<f64>,
    /// Keys.
    pub w_k: Array2<f64>,
    /// Values.
    pub w_v: Array2<f64>,
    /// Output projection `P`.
    pub p: Array2<f64>,
}

/// The weights of [`LinearAttention::construct`]: steps of gradient descent, with the variants of the literature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Construction {
    /// `W₀: [d_out, d_in]`, the weights that the first step starts from.
    pub w0: Array2<f64>,
    /// Number of pairs in a context, the `n` of the mean.
    pub n: usize,
    /// Step sizes `η`, one per layer.
    pub lr: Vec<f64>,
    /// GD++: each layer also maps every input, `x ← (I - γ Σ x_i x_iᵀ) x` (von Oswald et al. 2022, section 4). 0 is
    /// plain descent.
    pub gamma: f64,
    /// A preconditioner of the step, `[d_in, d_in]` (Ahn et al. 2023); `None` for the identity.
    pub preconditioner: Option<Array2<f64>>,
}

impl Construction {
    /// Describes `n_steps` plain steps of size `lr` from zero weights on contexts of `n` pairs.
    pub fn plain(d_in: usize, d_out: usize, n: usize, lr: f64, n_steps: usize) -> Self {
        let w0 = Array2::zeros((d_out, d_in));
        Construction { w0, n, lr: vec![lr; n_steps], gamma: 0.0, preconditioner: None }
    }
}

/// Layers of linear self-attention on tokens `e = (x, y)`, the query's `y` being filled with `-W₀ x`.
///
/// The answer to the query is read from its `y` slot, with the sign turned: every layer of the construction subtracts
/// `ΔW x` from *every* token's slot, the context's targets and the query's guess alike. That uniform update is the
/// whole trick: moving the training targets by `-ΔW x` is the same as moving the weights by `ΔW`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearAttention {
    /// The layers, first to last.
    pub layers: Vec<LinearAttentionLayer>,
    /// Which tokens a token reads.
    pub mask: Mask,
    /// What the query's slot starts from, `[d_out, d_in]`.
    pub w0: Array2<f64>,
}

impl LinearAttention {
    /// Constructs the weights with which the layers are steps of gradient descent on the context (von Oswald et al.
    /// 2022, proposition 1): `W_Q = W_K` reads `x`, `W_V = [[0, 0], [W₀, -I]]` writes `W₀ x - y`, `P = η/n` on the `y`
    /// slots. The slots then hold `y - (W - W₀) x`, so that `W₀ x` minus the slot is the error at the current weights
    /// `W` in every layer.
    ///
    /// Fails without layers, with an empty context, and on shapes or values that do not fit.
    ///
    /// ```
    /// use onelens::{dual::{Construction, LinearAttention, RegressionTask}, ndarray::array};
    /// let task = RegressionTask { x: array![[1.0]], y: array![[2.0]], x_query: array![3.0], y_query: array![6.0] };
    /// let net = LinearAttention::construct(&Construction::plain(1, 1, 1, 0.5, 1))?;
    /// // One step of ½ from w = 0 on ½ (w - 2)² gives w = 1; the query 3 is answered by 3.
    /// assert_eq!(net.predict(&task)?, array![3.0]);
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn construct(c: &Construction) -> Result<Self> {
        let (d_out, d_in) = c.w0.dim();
        if d_in == 0 || d_out == 0 || c.n == 0 || c.lr.is_empty() {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "{} layers for contexts of {} pairs from width {d_in} to {d_out} make no network",
                    c.lr.len(),
                    c.n
                ),
                "use at least 1 of each",
            ));
        }
        finite("the initial weights", c.w0.iter())?;
        finite("the step sizes", c.lr.iter().chain([&c.gamma]))?;
        let metric = match &c.preconditioner {
            None => Array2::eye(d_in),
            Some(m) if m.dim() == (d_in, d_in) => m.clone(),
            Some(m) => {
                return Err(Error::new(
                    ErrorKind::Shape,
                    format!("a preconditioner of shape {:?} does not fit inputs of width {d_in}", m.dim()),
                    format!("pass [{d_in}, {d_in}]"),
                ));
            }
        };
        finite("the preconditioner", metric.iter())?;
        let d = d_in + d_out;
        let layer = |k: usize| {
            let (mut w_q, mut w_k, mut w_v) =
                (Array2::zeros((d, d)), Array2::zeros((d, d)), Array2::zeros((d, d)));
            let mut p = Array2::zeros((d, d));
            w_q.slice_mut(s![..d_in, ..d_in]).assign(&metric);
            w_k.slice_mut(s![..d_in, ..d_in]).assign(&Array2::eye(d_in));
            w_v.slice_mut(s![d_in.., d_in..]).assign(&-Array2::<f64>::eye(d_out));
            w_v.slice_mut(s![d_in.., ..d_in]).assign(&c.w0);
            w_v.slice_mut(s![..d_in, ..d_in]).assign(&Array2::eye(d_in));
            p.slice_mut(s![..d_in, ..d_in]).assign(&(Array2::<f64>::eye(d_in) * -c.gamma));
            p.slice_mut(s![d_in.., d_in..]).assign(&(Array2::<f64>::eye(d_out) * (c.lr[k] / c.n as f64)));
            LinearAttentionLayer { w_q, w_k, w_v, p }
        };
        Ok(LinearAttention {
            layers: (0..c.lr.len()).map(layer).collect(),
            mask: Mask::Context,
            w0: c.w0.clone(),
        })
    }

    /// Returns the tokens before the first and after every layer: each `[n + 1, d_in + d_out]`, the query last.
    ///
    /// Fails on a bad task or one of other widths.
    pub fn streams(&self, task: &RegressionTask) -> Result<Vec<Array2<f64>>> {
        let mut streams = vec![self.tokens(task)?];
        for layer in &self.layers {
            let e = &streams[streams.len() - 1];
            streams.push(e + &layer.update(e.view(), self.mask));
        }
        Ok(streams)
    }

    /// Returns the answer to the query after the last layer, `[d_out]`.
    pub fn predict(&self, task: &RegressionTask) -> Result<Array1<f64>> {
        let streams = self.streams(task)?;
        Ok(self.answer(&streams[streams.len() - 1]))
    }

    /// Returns the answer to the query after each layer, before the first included.
    pub fn predictions(&self, task: &RegressionTask) -> Result<Vec<Array1<f64>>> {
        Ok(self.streams(task)?.iter().map(|e| self.answer(e)).collect())
    }

    fn answer(&self, tokens: &Array2<f64>) -> Array1<f64> {
        tokens.slice(s![tokens.nrows() - 1, self.w0.ncols()..]).mapv(|y| -y)
    }

    fn tokens(&self, task: &RegressionTask) -> Result<Array2<f64>> {
        task.check()?;
        let (d_out, d_in) = self.w0.dim();
        if task.x.ncols() != d_in || task.y.ncols() != d_out {
            return Err(Error::new(
                ErrorKind::Shape,
                format!(
                    "a task from width {} to {} does not fit a network from width {d_in} to {d_out}",
                    task.x.ncols(),
                    task.y.ncols()
                ),
                "make the network for the task's widths",
            ));
        }
        let n = task.x.nrows();
        let mut e = Array2::zeros((n + 1, d_in + d_out));
        e.slice_mut(s![..n, ..d_in]).assign(&task.x);
        e.slice_mut(s![..n, d_in..]).assign(&task.y);
        e.slice_mut(s![n, ..d_in]).assign(&task.x_query);
        e.slice_mut(s![n, d_in..]).assign(&-self.w0.dot(&task.x_query));
        Ok(e)
    }
}

impl LinearAttentionLayer {
    /// What the layer adds to every token, `[n + 1, d]`.
    fn update(&self, e: ArrayView2<f64>, mask: Mask) -> Array2<f64> {
        let last = e.nrows() - 1;
        let values = e.dot(&self.w_v.t()).dot(&self.p.t());
        let keys = e.dot(&self.w_k.t());
        let queries = e.dot(&self.w_q.t());
        let sum = |n: usize| values.slice(s![..n, ..]).t().dot(&keys.slice(s![..n, ..]));
        match mask {
            Mask::Context => queries.dot(&sum(last).t()),
            Mask::Everything => queries.dot(&sum(last + 1).t()),
            Mask::Causal => {
                let mut out = Array2::zeros(e.raw_dim());
                let mut memory = Array2::<f64>::zeros((e.ncols(), e.ncols()));
                for j in 0..e.nrows() {
                    let (v, k) = (values.row(j).insert_axis(Axis(1)), keys.row(j).insert_axis(Axis(0)));
                    memory += &v.dot(&k);
                    out.row_mut(j).assign(&memory.dot(&queries.row(j)));
                }
                out
            }
        }
    }
}
