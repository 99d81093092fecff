//! Many regression tasks at once: explicit gradient descent on each, eight tasks at a time.

use ndarray::{Array2, Array3, ArrayView2, Axis, s};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::dual_form::finite;
use super::lanes::{add_scaled, dot};
use super::{Inputs, RegressionTask};
use crate::num::{Real, mean_and_standard_error, rng, wide_fn};
use crate::{Error, ErrorKind, Result};

/// Tasks that descend side by side.
const LANES: usize = 8;

/// One number of each of them.
type Lane = [f64; LANES];

/// Regression tasks of one size. Axes: `[task, pair, coordinate]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegressionTasks {
    /// Context inputs, `[task, n, d_in]`.
    pub x: Array3<f64>,
    /// Context targets, `[task, n, d_out]`.
    pub y: Array3<f64>,
    /// Queries, `[task, d_in]`.
    pub x_query: Array2<f64>,
    /// Their true answers, `[task, d_out]`.
    pub y_query: Array2<f64>,
}

/// The loss at the query after each number of steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskLosses {
    /// `½ ‖W x_q - y_q‖²`, `[task, n_steps + 1]`.
    pub losses: Array2<f64>,
}

impl TaskLosses {
    /// Returns the mean over tasks after each number of steps, with its standard error.
    pub fn means(&self) -> Vec<(f64, f64)> {
        self.losses.columns().into_iter().map(|c| mean_and_standard_error(&c.to_vec())).collect()
    }
}

impl RegressionTasks {
    /// Draws random tasks, each as [`RegressionTask::sample`] draws it.
    ///
    /// ```
    /// use onelens::dual::{Inputs, RegressionTasks};
    /// let tasks = RegressionTasks::sample(&Inputs::uniform(10, 0.5)?, 1, 10, 500, 0)?;
    /// // From zero weights, ½ E y² = ½ · 10 / 12; a step makes it less.
    /// let means = tasks.descend(5.0, 1)?.means();
    /// assert!((means[0].0 - 10.0 / 24.0).abs() < 4.0 * means[0].1 && means[1].0 < means[0].0);
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn sample(inputs: &Inputs, d_out: usize, n: usize, n_tasks: usize, seed: u64) -> Result<Self> {
        if n_tasks == 0 {
            return Err(Error::new(ErrorKind::Config, "the number of tasks is 0", "draw at least one"));
        }
        let tasks: Vec<RegressionTask> = (0..n_tasks as u64)
            .into_par_iter()
            .map(|i| RegressionTask::sample(inputs, d_out, n, &mut rng(seed, i)))
            .collect::<Result<_>>()?;
        let d_in = inputs.d();
        let mut all = RegressionTasks {
            x: Array3::zeros((n_tasks, n, d_in)),
            y: Array3::zeros((n_tasks, n, d_out)),
            x_query: Array2::zeros((n_tasks, d_in)),
            y_query: Array2::zeros((n_tasks, d_out)),
        };
        for (i, task) in tasks.iter().enumerate() {
            all.x.index_axis_mut(Axis(0), i).assign(&task.x);
            all.y.index_axis_mut(Axis(0), i).assign(&task.y);
            all.x_query.row_mut(i).assign(&task.x_query);
            all.y_query.row_mut(i).assign(&task.y_query);
        }
        Ok(all)
    }

    /// Returns one of the tasks.
    ///
    /// Fails if there is no such task.
    pub fn task(&self, i: usize) -> Result<RegressionTask> {
        let n_tasks = self.x.len_of(Axis(0));
        if i >= n_tasks {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("there is no task {i} among {n_tasks}"),
                format!("tasks are 0 to {}", n_tasks.saturating_sub(1)),
            ));
        }
        Ok(RegressionTask {
            x: self.x.index_axis(Axis(0), i).to_owned(),
            y: self.y.index_axis(Axis(0), i).to_owned(),
            x_query: self.x_query.row(i).to_owned(),
            y_query: self.y_query.row(i).to_owned(),
        })
    }

    /// Runs gradient descent from zero weights on the context of every task, as [`descend`](super::descend) does it,
    /// and measures the loss at the query after each step. A step size too large for some of the tasks is a question
    /// like any other here, so those are not refused.
    ///
    /// Fails on bad tasks, on a step size that is negative or not finite, and if the loss of a task overflows.
    pub fn descend(&self, lr: f64, n_steps: usize) -> Result<TaskLosses> {
        self.check()?;
        if !(lr >= 0.0 && lr.is_finite()) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("the step size is {lr}"),
                "use a number from 0 up",
            ));
        }
        let mut losses = Array2::zeros((self.x.len_of(Axis(0)), n_steps + 1));
        let chunk = 16 * LANES;
        let chunks: Vec<_> = losses.axis_chunks_iter_mut(Axis(0), chunk).enumerate().collect();
        chunks.into_par_iter().for_each(|(c, mut rows)| {
            let mut side_by_side = vec![[0.0; LANES]; n_steps + 1];
            for (b, mut rows) in rows.axis_chunks_iter_mut(Axis(0), LANES).enumerate() {
                let block = self.block(c * chunk + b * LANES, rows.nrows());
                descend(&block, lr, &mut side_by_side);
                for (lane, mut row) in rows.rows_mut().into_iter().enumerate() {
                    row.iter_mut().zip(&side_by_side).for_each(|(to, from)| *to = from[lane]);
                }
            }
        });
        if let Some(((task, step), loss)) = losses.indexed_iter().find(|(_, l)| !l.is_finite()) {
            let largest = 2.0 / super::regression::largest_eigenvalue(self.x.index_axis(Axis(0), task));
            return Err(Error::new(
                ErrorKind::Numeric,
                format!("steps of {lr} diverge: the loss of task {task} is {loss} after {step} of them"),
                format!("for that task the largest stable step size is {largest:.4}"),
            ));
        }
        Ok(TaskLosses { losses })
    }

    fn check(&self) -> Result<()> {
        let (n_tasks, n, d_in) = self.x.dim();
        let d_out = self.y.len_of(Axis(2));
        if n_tasks == 0
            || n == 0
            || d_in == 0
            || d_out == 0
            || self.y.dim() != (n_tasks, n, d_out)
            || self.x_query.dim() != (n_tasks, d_in)
            || self.y_query.dim() != (n_tasks, d_out)
        {
            return Err(Error::new(
                ErrorKind::Shape,
                format!(
                    "contexts {:?} and {:?} and queries {:?} and {:?} do not fit each other",
                    self.x.dim(),
                    self.y.dim(),
                    self.x_query.dim(),
                    self.y_query.dim()
                ),
                "pass [task, n, d_in], [task, n, d_out], [task, d_in] and [task, d_out], none of them empty",
            ));
        }
        finite("the contexts' inputs", self.x.iter())?;
        finite("the contexts' targets", self.y.iter())?;
        finite("the queries", self.x_query.iter().chain(&self.y_query))
    }

    /// Up to eight tasks side by side; lanes beyond the last stay zero.
    fn block(&self, first: usize, n_tasks: usize) -> TaskBlock<f64> {
        let (_, n, d_in) = self.x.dim();
        let d_out = self.y.len_of(Axis(2));
        let tasks = s![first..first + n_tasks, .., ..];
        let queries = s![first..first + n_tasks, ..];
        let flat = |a: ndarray::ArrayView3<f64>| {
            let shape = (a.len_of(Axis(0)), a.len() / a.len_of(Axis(0)));
            lanes(a.to_shape(shape).expect("whole tasks").view())
        };
        TaskBlock {
            x: flat(self.x.slice(tasks)),
            y: flat(self.y.slice(tasks)),
            x_query: lanes(self.x_query.slice(queries)),
            y_query: lanes(self.y_query.slice(queries)),
            n,
            d_in,
            d_out,
        }
    }
}

/// `[task, number]` as numbers of eight tasks each.
fn lanes(rows: ArrayView2<f64>) -> Vec<Lane> {
    let mut out = vec![[0.0; LANES]; rows.ncols()];
    for (lane, row) in rows.rows().into_iter().enumerate() {
        for (out, &x) in out.iter_mut().zip(row) {
            out[lane] = x;
        }
    }
    out
}

struct TaskBlock<F> {
    x: Vec<[F; LANES]>,
    y: Vec<[F; LANES]>,
    x_query: Vec<[F; LANES]>,
    y_query: Vec<[F; LANES]>,
    n: usize,
    d_in: usize,
    d_out: usize,
}

wide_fn! {
    /// The loss at the query before the first step and after each.
    fn descend<'a, F>(block: &'a TaskBlock<F>, lr: f64, losses: &'a mut [[F; LANES]]) {
        let (d_in, d_out) = (block.d_in, block.d_out);
        let zero = [F::zero(); LANES];
        let mut w = vec![zero; d_out * d_in];
        let mut gradient = w.clone();
        let rate = [F::of(-lr / block.n as f64); LANES];
        let (last, before) = losses.split_last_mut().expect("there is a loss before the first step");
        for loss in before {
            *loss = block.query_loss(&w);
            gradient.fill(zero);
            let pairs = block.x.chunks_exact(2 * d_in).zip(block.y.chunks_exact(2 * d_out));
            for (x, y) in pairs {
                let ((x0, x1), (y0, y1)) = (x.split_at(d_in), y.split_at(d_out));
                for (k, (g, w)) in gradient.chunks_exact_mut(d_in).zip(w.chunks_exact(d_in)).enumerate() {
                    // Two pairs at a time: their sums do not wait for each other, and `w` and `g` are touched once.
                    let (mut e0, mut e1) = (y0[k].map(|y| -y), y1[k].map(|y| -y));
                    for ((w, x0), x1) in w.iter().zip(x0).zip(x1) {
                        for l in 0..LANES {
                            e0[l] = w[l].mul_add(x0[l], e0[l]);
                            e1[l] = w[l].mul_add(x1[l], e1[l]);
                        }
                    }
                    for ((g, x0), x1) in g.iter_mut().zip(x0).zip(x1) {
                        for l in 0..LANES {
                            g[l] = e1[l].mul_add(x1[l], e0[l].mul_add(x0[l], g[l]));
                        }
                    }
                }
            }
            if block.n % 2 == 1 {
                let (x, y) = (&block.x[(block.n - 1) * d_in..], &block.y[(block.n - 1) * d_out..]);
                for ((g, w), y) in gradient.chunks_exact_mut(d_in).zip(w.chunks_exact(d_in)).zip(y) {
                    let prediction = dot(w, x);
                    let error = std::array::from_fn(|l| prediction[l] - y[l]);
                    add_scaled(g, &error, x);
                }
            }
            add_scaled(&mut w, &rate, &gradient);
        }
        *last = block.query_loss(&w);
    }
}

impl<F: Real> TaskBlock<F> {
    #[inline(always)]
    fn query_loss(&self, w: &[[F; LANES]]) -> [F; LANES] {
        let mut loss = [F::zero(); LANES];
        for (w, y) in w.chunks_exact(self.d_in).zip(&self.y_query) {
            let prediction = dot(w, &self.x_query);
            for l in 0..LANES {
                let error = prediction[l] - y[l];
                loss[l] += F::of(0.5) * error * error;
            }
        }
        loss
    }
}
