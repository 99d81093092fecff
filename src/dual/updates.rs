//! The uniform update, laid open: what a layer adds to every token beside what a gradient step adds.

use ndarray::{Array2, Axis, s};
use serde::{Deserialize, Serialize};

use super::{Descent, LinearAttention, RegressionTask};
use crate::{Error, ErrorKind, Result};

/// What each layer adds to the slot of each token, and what moving the weights by a step of gradient descent subtracts
/// from its target. Only the first of the `d_out` numbers in a slot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlotUpdates {
    /// What attention adds, `[layer, n + 1]`, the query last.
    pub attention: Array2<f64>,
    /// `-ΔW x` of explicit descent, `[layer, n + 1]`.
    pub descent: Array2<f64>,
}

impl LinearAttention {
    /// Puts every layer's updates of a task beside those of an explicit descent on its context.
    ///
    /// Fails on a bad task, and if the descent has another number of steps than there are layers.
    ///
    /// ```
    /// use onelens::{dual::{Construction, LinearAttention, RegressionTask, descend}, ndarray::array};
    /// let task = RegressionTask { x: array![[1.0]], y: array![[2.0]], x_query: array![3.0], y_query: array![6.0] };
    /// let net = LinearAttention::construct(&Construction::plain(1, 1, 1, 0.5, 1))?;
    /// let step = descend(task.x.view(), task.y.view(), net.w0.view(), 0.5, 1)?;
    /// // ΔW = 1: the target of x = 1 falls by 1, the slot of the query x = 3 by 3.
    /// let updates = net.updates(&task, &step)?;
    /// assert_eq!((updates.attention, updates.descent), (array![[-1.0, -3.0]], array![[-1.0, -3.0]]));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn updates(&self, task: &RegressionTask, descent: &Descent) -> Result<SlotUpdates> {
        let streams = self.streams(task)?;
        let d_in = self.w0.ncols();
        let fits = descent.weights.iter().all(|w| w.dim() == self.w0.dim());
        if descent.weights.len() != streams.len() || !fits {
            return Err(Error::new(
                ErrorKind::Shape,
                format!(
                    "a descent of {} steps cannot be compared with {} layers",
                    descent.weights.len().saturating_sub(1),
                    self.layers.len()
                ),
                "descend on the same task with as many steps as there are layers",
            ));
        }
        let n = task.x.nrows();
        let mut x = task.x.clone();
        x.push_row(task.x_query.view()).expect("a checked task has one width");
        let mut updates = SlotUpdates {
            attention: Array2::zeros((self.layers.len(), n + 1)),
            descent: Array2::zeros((self.layers.len(), n + 1)),
        };
        for l in 0..self.layers.len() {
            let moved = &streams[l + 1].column(d_in) - &streams[l].column(d_in);
            updates.attention.row_mut(l).assign(&moved);
            let dw = &descent.weights[l + 1] - &descent.weights[l];
            let fall: ndarray::Array1<f64> = x.dot(&dw.slice(s![0, ..]));
            updates.descent.row_mut(l).assign(&-fall);
        }
        Ok(updates)
    }
}

impl SlotUpdates {
    /// Returns the largest difference between the two.
    pub fn largest_difference(&self) -> f64 {
        (&self.attention - &self.descent).iter().fold(0.0, |m, e| m.max(e.abs()))
    }

    /// Returns the number of context pairs.
    pub fn n(&self) -> usize {
        self.attention.len_of(Axis(1)) - 1
    }
}
