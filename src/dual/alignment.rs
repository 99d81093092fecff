//! Is a trained network the same algorithm as gradient descent? Answers, sensitivities, and weights in between.

use ndarray::{Array2, s};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Inputs, LinearAttention, LinearAttentionLayer, Mask, RegressionTask};
use crate::num::{mean_and_standard_error, rng};
use crate::{Error, ErrorKind, Result};

/// How alike two networks answer, over random tasks; each value with its standard error over tasks.
///
/// The measures of von Oswald et al. 2022, section 3.2. The answer is linear in the query, `ŷ = J x_q`, so the
/// sensitivity `∂ŷ/∂x_q` is `J` itself, the model that the context has made of the network.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alignment {
    /// Mean cosine between the sensitivities: 1 for the same model up to scale.
    pub cosine: (f64, f64),
    /// Mean Frobenius distance between the sensitivities.
    pub distance: (f64, f64),
    /// Mean Euclidean distance between the answers.
    pub answers: (f64, f64),
    /// Mean loss `½ ‖ŷ - y‖²` of the first network.
    pub loss: (f64, f64),
    /// The same of the second.
    pub other_loss: (f64, f64),
}

impl LinearAttention {
    /// Computes the sensitivity `J = ∂ŷ/∂x_q: [d_out, d_in]`: what the context has made of the network. The answer to
    /// any query is `J x_q`.
    ///
    /// Fails on a bad task, and with masks under which the query is read: its answer is then not linear in it.
    ///
    /// ```
    /// use onelens::{dual::{Construction, LinearAttention, RegressionTask}, ndarray::array};
    /// let task = RegressionTask { x: array![[1.0]], y: array![[2.0]], x_query: array![3.0], y_query: array![6.0] };
    /// let net = LinearAttention::construct(&Construction::plain(1, 1, 1, 0.5, 1))?;
    /// assert_eq!(net.sensitivity(&task)?, array![[1.0]]); // the weight after one step of ½ towards 2
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn sensitivity(&self, task: &RegressionTask) -> Result<Array2<f64>> {
        if self.mask != Mask::Context {
            return Err(Error::new(
                ErrorKind::Config,
                format!("the answer under Mask::{:?} is not linear in the query", self.mask),
                "use Mask::Context",
            ));
        }
        let (d_out, d_in) = self.w0.dim();
        let n = task.x.nrows();
        let streams = self.streams(task)?;
        let mut map = Array2::zeros((d_in + d_out, d_in));
        map.slice_mut(s![..d_in, ..]).assign(&Array2::eye(d_in));
        map.slice_mut(s![d_in.., ..]).assign(&-&self.w0);
        for (layer, e) in self.layers.iter().zip(&streams) {
            let context = e.slice(s![..n, ..]);
            let read = context.t().dot(&context.dot(&layer.w_k.t().dot(&layer.w_q).dot(&map)));
            map += &layer.p.dot(&layer.w_v).dot(&read);
        }
        Ok(map.slice(s![d_in.., ..]).mapv(|y| -y))
    }

    /// Compares the answers and sensitivities of two networks on `n_tasks` random tasks of `n` context pairs.
    pub fn alignment(
        &self,
        other: &LinearAttention,
        inputs: &Inputs,
        n: usize,
        n_tasks: usize,
        seed: u64,
    ) -> Result<Alignment> {
        let measured: Vec<[f64; 5]> = (0..n_tasks as u64)
            .into_par_iter()
            .map(|i| {
                let task = RegressionTask::sample(inputs, self.w0.nrows(), n, &mut rng(seed, i))?;
                let (a, b) = (self.sensitivity(&task)?, other.sensitivity(&task)?);
                let norm = |m: &Array2<f64>| (m * m).sum().sqrt();
                let (y, z) = (a.dot(&task.x_query), b.dot(&task.x_query));
                let half_square = |d: &ndarray::Array1<f64>| 0.5 * d.dot(d);
                Ok([
                    (&a * &b).sum() / (norm(&a) * norm(&b)),
                    norm(&(&a - &b)),
                    (2.0 * half_square(&(&y - &z))).sqrt(),
                    half_square(&(&y - &task.y_query)),
                    half_square(&(&z - &task.y_query)),
                ])
            })
            .collect::<Result<_>>()?;
        let column = |k: usize| mean_and_standard_error(&measured.iter().map(|m| m[k]).collect::<Vec<_>>());
        Ok(Alignment {
            cosine: column(0),
            distance: column(1),
            answers: column(2),
            loss: column(3),
            other_loss: column(4),
        })
    }

    /// Writes the same function with each layer in one standard form: `W_K = I`, `W_Q = A`, `W_V = B`, `P = I`, with `A
    /// = W_Kᵀ W_Q` of norm `√d_in` and positive trace. Only `A` and `B` matter, and only up to a factor between them.
    pub fn standard_form(&self) -> Self {
        let d_in = self.w0.ncols();
        let layers = self.layers.iter().map(|layer| {
            let (a, b) = (layer.w_k.t().dot(&layer.w_q), layer.p.dot(&layer.w_v));
            let size = (&a * &a).sum().sqrt() / (d_in as f64).sqrt();
            let factor = if a.diag().sum() < 0.0 { -size } else { size };
            // A layer that reads nothing stays as it is.
            let factor = if factor == 0.0 { 1.0 } else { factor };
            let identity = Array2::eye(a.nrows());
            LinearAttentionLayer { w_q: a / factor, w_k: identity.clone(), w_v: b * factor, p: identity }
        });
        LinearAttention { layers: layers.collect(), ..self.clone() }
    }

    /// Makes the network `t` of the way from this one to `other`, both in [standard form](Self::standard_form).
    ///
    /// If both are the same algorithm, every network in between should solve the tasks as well (von Oswald et al. 2022,
    /// figure 2).
    ///
    /// Fails if the two differ in layers or widths.
    pub fn interpolate(&self, other: &LinearAttention, t: f64) -> Result<Self> {
        if self.layers.len() != other.layers.len() || self.w0.dim() != other.w0.dim() {
            return Err(Error::new(
                ErrorKind::Shape,
                format!(
                    "{} layers of {:?} and {} layers of {:?} have no network between them",
                    self.layers.len(),
                    self.w0.dim(),
                    other.layers.len(),
                    other.w0.dim()
                ),
                "pass networks with as many layers and the same widths",
            ));
        }
        let between = |a: &Array2<f64>, b: &Array2<f64>| a * (1.0 - t) + b * t;
        let (a, b) = (self.standard_form(), other.standard_form());
        let layers = a.layers.iter().zip(&b.layers).map(|(a, b)| LinearAttentionLayer {
            w_q: between(&a.w_q, &b.w_q),
            w_v: between(&a.w_v, &b.w_v),
            ..a.clone()
        });
        Ok(LinearAttention { layers: layers.collect(), mask: self.mask, w0: between(&self.w0, &other.w0) })
    }
}
