//! Limited-memory BFGS (Nocedal & Wright 2006, algorithm 7.4) that asks for one evaluation at a time, so that many
//! problems can share one pass over the data.

use std::collections::VecDeque;

use ndarray::Array1;
use serde::{Deserialize, Serialize};

/// Pairs of steps and gradient changes kept.
const MEMORY: usize = 10;
/// Share of the decrease promised by the slope that a step must bring (Armijo).
const DECREASE: f64 = 1e-4;
/// Steps shortened this often in a row find nothing but rounding.
const MAX_SHORTENED: usize = 12;

/// A minimisation in progress: evaluate at [`trial`](Lbfgs::trial), tell the result, repeat.
#[derive(Serialize, Deserialize)]
pub(crate) struct Lbfgs {
    at: Array1<f64>,
    value: f64,
    gradient: Array1<f64>,
    direction: Array1<f64>,
    step: f64,
    shortened: usize,
    gain: f64,
    pairs: VecDeque<(Array1<f64>, Array1<f64>)>,
}

impl Lbfgs {
    /// From a point whose value and gradient are known.
    pub(crate) fn new(at: Array1<f64>, value: f64, gradient: Array1<f64>) -> Self {
        let direction = -&gradient;
        let step = first_step(&gradient);
        Lbfgs {
            at,
            value,
            gradient,
            direction,
            step,
            shortened: 0,
            gain: f64::INFINITY,
            pairs: VecDeque::new(),
        }
    }

    /// Where to evaluate next.
    pub(crate) fn trial(&self) -> Array1<f64> {
        &self.at + &(&self.direction * self.step)
    }

    /// Takes the value and gradient at [`trial`](Lbfgs::trial). True if the point became the best; it never gets worse.
    pub(crate) fn tell(&mut self, value: f64, gradient: Array1<f64>) -> bool {
        let slope = self.gradient.dot(&self.direction);
        let promised = self.step * slope;
        // False for a value that is not a number, too.
        let enough = value <= self.value + DECREASE * promised;
        if !enough {
            // The least of the parabola through both values and the slope.
            let parabola = -promised / (2.0 * (value - self.value - promised));
            self.step *= if parabola.is_finite() { parabola.clamp(0.1, 0.5) } else { 0.1 };
            self.shortened += 1;
            if self.shortened > MAX_SHORTENED && !self.pairs.is_empty() {
                // Near the optimum pairs are made of rounding: once more without them.
                self.pairs.clear();
                self.direction = -&self.gradient;
                (self.step, self.shortened) = (first_step(&self.gradient), 0);
            }
            return false;
        }
        let (s, y) = (&self.direction * self.step, &gradient - &self.gradient);
        self.at += &s;
        self.gain = self.value - value;
        (self.value, self.gradient) = (value, gradient);
        if s.dot(&y) > 1e-10 * norm(&s) * norm(&y) {
            self.pairs.push_back((s, y));
            if self.pairs.len() > MEMORY {
                self.pairs.pop_front();
            }
        }
        self.direction = self.two_loops();
        if self.direction.dot(&self.gradient) >= 0.0 {
            self.pairs.clear();
            self.direction = -&self.gradient;
        }
        self.step = if self.pairs.is_empty() { 2.0 * self.step } else { 1.0 };
        self.shortened = 0;
        true
    }

    /// Whether there is nothing left to gain.
    pub(crate) fn done(&self) -> bool {
        self.shortened > MAX_SHORTENED || norm(&self.gradient) == 0.0
    }

    pub(crate) fn value(&self) -> f64 {
        self.value
    }

    /// By how much the last step that was taken lowered the value; infinite before the first.
    pub(crate) fn gain(&self) -> f64 {
        self.gain
    }

    pub(crate) fn gradient_norm(&self) -> f64 {
        norm(&self.gradient)
    }

    /// `-H g`, with the inverse Hessian that the kept pairs suggest.
    fn two_loops(&self) -> Array1<f64> {
        let mut q = -&self.gradient;
        let mut alphas = Vec::with_capacity(self.pairs.len());
        for (s, y) in self.pairs.iter().rev() {
            let alpha = s.dot(&q) / s.dot(y);
            q.scaled_add(-alpha, y);
            alphas.push(alpha);
        }
        if let Some((s, y)) = self.pairs.back() {
            q *= s.dot(y) / y.dot(y);
        }
        for ((s, y), alpha) in self.pairs.iter().zip(alphas.into_iter().rev()) {
            let beta = y.dot(&q) / s.dot(y);
            q.scaled_add(alpha - beta, s);
        }
        q
    }
}

/// Of steepest descent, while nothing is known of the curvature.
fn first_step(gradient: &Array1<f64>) -> f64 {
    1.0 / norm(gradient).max(1.0)
}

fn norm(x: &Array1<f64>) -> f64 {
    x.dot(x).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn rosenbrocks_valley_is_followed_to_its_end_without_ever_rising() {
        let f = |p: &Array1<f64>| {
            let (x, y) = (p[0], p[1]);
            let bend = y - x * x;
            let value = (1.0 - x).powi(2) + 100.0 * bend * bend;
            (value, array![-2.0 * (1.0 - x) - 400.0 * x * bend, 200.0 * bend])
        };
        let start = array![-1.2, 1.0];
        let (value, gradient) = f(&start);
        let mut search = Lbfgs::new(start, value, gradient);
        let mut best = value;
        for _ in 0..120 {
            if search.done() {
                break;
            }
            let (value, gradient) = f(&search.trial());
            search.tell(value, gradient);
            assert!(search.value() <= best);
            best = search.value();
        }
        // The minimum is 0 at (1, 1).
        assert!(best < 1e-10 && (search.at[0] - 1.0).abs() < 1e-4, "{best:e} at {}", search.at);
    }
}
