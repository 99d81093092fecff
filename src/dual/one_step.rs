//! What one gradient step in context achieves, exactly: no sampling, from the second and fourth moments of the inputs.

use ndarray::{Array1, Array2, ArrayView2};
use serde::{Deserialize, Serialize};

use super::dual_form::finite;
use crate::num::{Cholesky, Real, Rng, SymmetricEigen, normal, uniform, uniform_f32, uniform_index};
use crate::{Error, ErrorKind, Result};

/// The most dimensions for which fourth moments are held, `64⁴` numbers or 134 MB.
const MAX_D: usize = 64;

/// A distribution of input vectors: how to draw one, and its second and fourth moments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    /// `E[x xᵀ]`, `[d, d]`.
    pub second: Array2<f64>,
    /// `E[vec(x xᵀ) vec(x xᵀ)ᵀ]`, `[d², d²]`.
    pub fourth: Array2<f64>,
    draw: Draw,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Draw {
    Uniform {
        half_width: f64,
    },
    /// `factor · normal`, `[d, d]`.
    Gaussian {
        factor: Array2<f64>,
    },
    Rows(Array2<f64>),
}

impl Inputs {
    /// Makes independent coordinates, uniform on `[-half_width, half_width]`. The setting of von Oswald et al. 2022 is
    /// `d = 10`, `half_width = ½`.
    ///
    /// ```
    /// use onelens::dual::Inputs;
    /// let inputs = Inputs::uniform(2, 0.5)?;
    /// assert!((inputs.second[(0, 0)] - 1.0 / 12.0).abs() < 1e-15);  // E x²
    /// assert!((inputs.fourth[(0, 0)] - 1.0 / 80.0).abs() < 1e-15);  // E x⁴
    /// assert!((inputs.fourth[(0, 3)] - 1.0 / 144.0).abs() < 1e-15); // E x₁² x₂²
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn uniform(d: usize, half_width: f64) -> Result<Self> {
        check_d(d)?;
        if !(half_width > 0.0 && half_width.is_finite()) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("half_width is {half_width}"),
                "use a positive number, for example 0.5",
            ));
        }
        let (m2, m4) = (half_width.powi(2) / 3.0, half_width.powi(4) / 5.0);
        let second = Array2::eye(d) * m2;
        let fourth = fourth_moments(d, |i, j, k, l| match pairs(i, j, k, l) {
            Pairs::AllEqual => m4,
            Pairs::Two => m2 * m2,
            Pairs::Odd => 0.0,
        });
        Ok(Inputs { second, fourth, draw: Draw::Uniform { half_width } })
    }

    /// Makes a centred Gaussian. Its fourth moments are sums of products of second ones (Isserlis 1918).
    ///
    /// Fails if `covariance: [d, d]` is not symmetric positive definite.
    pub fn gaussian(covariance: Array2<f64>) -> Result<Self> {
        let d = covariance.nrows();
        check_d(d)?;
        let factor = Cholesky::new(covariance.view())?.lower();
        let c = &covariance;
        let asymmetry = (c - &c.t()).iter().fold(0.0_f64, |m, e| m.max(e.abs()));
        if asymmetry > 1e-12 * c.diag().iter().fold(0.0_f64, |m, e| m.max(e.abs())) {
            return Err(Error::new(
                ErrorKind::Data,
                format!("the covariance is not symmetric: entries differ by up to {asymmetry:e}"),
                "pass (C + Cᵀ) / 2",
            ));
        }
        let fourth = fourth_moments(d, |i, j, k, l| {
            c[(i, j)] * c[(k, l)] + c[(i, k)] * c[(j, l)] + c[(i, l)] * c[(j, k)]
        });
        Ok(Inputs { second: covariance, fourth, draw: Draw::Gaussian { factor } })
    }

    /// Makes the empirical distribution of `rows: [n, d]`, drawn with replacement: any data set at all.
    pub fn empirical(rows: Array2<f64>) -> Result<Self> {
        let (n, d) = rows.dim();
        check_d(d)?;
        if n == 0 {
            return Err(Error::new(ErrorKind::Data, "the sample has no rows", "pass at least one row"));
        }
        finite("the sample", rows.iter())?;
        let squares = Array2::from_shape_fn((n, d * d), |(r, ij)| rows[(r, ij / d)] * rows[(r, ij % d)]);
        let second = rows.t().dot(&rows) / n as f64;
        let fourth = squares.t().dot(&squares) / n as f64;
        Ok(Inputs { second, fourth, draw: Draw::Rows(rows) })
    }

    /// Returns the number of coordinates.
    pub fn d(&self) -> usize {
        self.second.nrows()
    }

    /// Draws one input, `[d]`.
    pub fn draw(&self, rng: &mut Rng) -> Result<Array1<f64>> {
        let d = self.d();
        Ok(match &self.draw {
            Draw::Uniform { half_width } => {
                Array1::from_shape_simple_fn(d, || half_width * (2.0 * uniform(rng) - 1.0))
            }
            Draw::Gaussian { factor } => factor.dot(&Array1::from_shape_simple_fn(d, || normal(rng))),
            Draw::Rows(rows) => rows.row(uniform_index(rng, rows.nrows())).to_owned(),
        })
    }

    /// `N` inputs side by side, `[d]`: number `j` of input `l` is `x[j][l]`.
    pub(super) fn draw_side_by_side<F: Real, const N: usize>(
        &self,
        rng: &mut Rng,
        x: &mut [[F; N]],
    ) -> Result<()> {
        if let Draw::Uniform { half_width } = self.draw {
            let (low, width) = (-half_width as f32, 2.0 * half_width as f32);
            for x in x {
                *x = std::array::from_fn(|_| F::of(f64::from(low + width * uniform_f32(rng))));
            }
            return Ok(());
        }
        for l in 0..N {
            for (to, from) in x.iter_mut().zip(self.draw(rng)?) {
                to[l] = F::of(from);
            }
        }
        Ok(())
    }

    /// `E[x xᵀ A x xᵀ]`: `[d, d]`.
    fn sandwich(&self, a: ArrayView2<f64>) -> Array2<f64> {
        let d = self.d();
        let flat = Array1::from_iter(a.iter().copied());
        self.fourth.dot(&flat).into_shape_with_order((d, d)).expect("d² numbers")
    }
}

fn check_d(d: usize) -> Result<()> {
    if d == 0 || d > MAX_D {
        return Err(Error::new(
            ErrorKind::Config,
            format!("the inputs have {d} coordinates"),
            format!("use 1 to {MAX_D}: the fourth moments hold d⁴ numbers"),
        ));
    }
    Ok(())
}

enum Pairs {
    AllEqual,
    Two,
    Odd,
}

/// How four indices of independent centred coordinates pair up.
fn pairs(i: usize, j: usize, k: usize, l: usize) -> Pairs {
    match (i == j && k == l, i == k && j == l, i == l && j == k) {
        (true, true, _) => Pairs::AllEqual,
        (false, false, false) => Pairs::Odd,
        _ => Pairs::Two,
    }
}

fn fourth_moments(d: usize, moment: impl Fn(usize, usize, usize, usize) -> f64) -> Array2<f64> {
    Array2::from_shape_fn((d * d, d * d), |(ij, kl)| moment(ij / d, ij % d, kl / d, kl % d))
}

/// One step of (preconditioned) gradient descent from zero weights, on contexts of `n` pairs with `y = w x`,
/// `w ~ N(0, I)` or [of another second moment](OneStep::with_weights).
///
/// After the step the answer to a query is `ŷ = Σ_i y_i x_iᵀ Γ x_q` with `Γ = (η/n) I` for plain descent (von Oswald et
/// al. 2022) and any matrix for preconditioned descent (Ahn et al. 2023). The expected loss `½ E (ŷ - y_q)²` over
/// contexts, queries and tasks is a quadratic in `Γ`: with `C = E x xᵀ`, `W = E wᵀ w` for each output, and
/// `Q = E[S W S] = n E[x xᵀ W x xᵀ] + n (n - 1) C W C`, where `S = Σ x_i x_iᵀ`, it is
/// `½ (tr W C - 2 n tr(W C Γ C) + tr(Γᵀ Q Γ C))`.
///
/// ```
/// use onelens::dual::{Inputs, OneStep};
/// let step = OneStep::new(Inputs::uniform(10, 0.5)?, 10)?;
/// // The paper's setting, by hand: η/n = (100/12) / 13.75 and a loss of (10 - 8.3333 · 0.60606) / 24.
/// assert!((step.best_scale() - 0.606_060_606).abs() < 1e-9);
/// assert!((step.loss_at_scale(step.best_scale()) - 0.206_228_956).abs() < 1e-9);
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct OneStep {
    inputs: Inputs,
    n: usize,
    /// `W = E[wᵀ w]`.
    weights: Array2<f64>,
    /// `Q = E[S W S]`.
    q: Array2<f64>,
}

impl OneStep {
    /// Makes the step on contexts of `n` pairs.
    pub fn new(inputs: Inputs, n: usize) -> Result<Self> {
        let weights = Array2::eye(inputs.d());
        Self::with_weights(inputs, n, weights)
    }

    /// Makes the step for tasks whose weights have the second moment `E[wᵀ w]: [d, d]` for each output, for instance a
    /// covariance. Nothing else of their distribution matters.
    ///
    /// Fails if it is not a second moment of `d` numbers, that is, symmetric without a negative direction, or all 0.
    ///
    /// ```
    /// use ndarray::array;
    /// use onelens::dual::{Inputs, OneStep};
    /// // One input of two matters: the other has no share in what there is to learn, ½ · E x₁² = 1 / 24.
    /// let step = OneStep::with_weights(Inputs::uniform(2, 0.5)?, 4, array![[1.0, 0.0], [0.0, 0.0]])?;
    /// assert!((step.loss_at_scale(0.0) - 1.0 / 24.0).abs() < 1e-15);
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn with_weights(inputs: Inputs, n: usize, weights: Array2<f64>) -> Result<Self> {
        if n == 0 {
            return Err(Error::new(ErrorKind::Config, "the context has 0 pairs", "use at least one pair"));
        }
        let d = inputs.d();
        let refused = |what: String| {
            let help = format!("pass E[wᵀ w], [{d}, {d}], for instance the covariance of weights around 0");
            Error::new(ErrorKind::Data, what, help)
        };
        if weights.dim() != (d, d) {
            return Err(refused(format!(
                "a second moment of weights of shape {:?} does not fit inputs of {d} coordinates",
                weights.dim()
            )));
        }
        finite("the second moment of the weights", weights.iter())?;
        let largest = weights.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        let least = SymmetricEigen::new(weights.view())?.values.iter().copied().fold(f64::INFINITY, f64::min);
        let asymmetry = (&weights - &weights.t()).iter().fold(0.0f64, |most, x| most.max(x.abs()));
        if largest == 0.0 {
            return Err(refused("weights that are all 0 leave nothing to learn".into()));
        }
        if asymmetry > 1e-9 * largest || least < -1e-9 * largest {
            return Err(refused(format!(
                "no weights have this second moment: entries across the diagonal differ by up to {asymmetry:e}, and the least eigenvalue is {least:e}"
            )));
        }
        let (count, c) = (n as f64, &inputs.second);
        let q = inputs.sandwich(weights.view()) * count + c.dot(&weights).dot(c) * (count * (count - 1.0));
        Ok(OneStep { inputs, n, weights, q })
    }

    /// Computes the expected loss of `Γ: [d, d]`.
    ///
    /// Fails if `Γ` has another shape.
    pub fn loss(&self, gamma: ArrayView2<f64>) -> Result<f64> {
        let d = self.inputs.d();
        if gamma.dim() != (d, d) {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("a preconditioner of shape {:?} does not fit inputs of {d} coordinates", gamma.dim()),
                format!("pass [{d}, {d}]"),
            ));
        }
        let c = &self.inputs.second;
        let gamma_c = gamma.dot(c);
        let cross = self.n as f64 * self.weights.dot(c).dot(&gamma_c).diag().sum();
        // tr(Γᵀ Q Γ C): the sum over entries of (Q Γ C) ∘ Γ, C being symmetric.
        let square = (self.q.dot(&gamma_c) * gamma).sum();
        Ok(0.5 * (self.unlearnt() - 2.0 * cross + square))
    }

    /// Computes the expected loss of plain descent with `η/n = scale`.
    pub fn loss_at_scale(&self, scale: f64) -> f64 {
        let (linear, square) = self.traces();
        0.5 * (self.unlearnt() - 2.0 * scale * linear + scale * scale * square)
    }

    /// Finds the best `η/n` of plain descent.
    pub fn best_scale(&self) -> f64 {
        let (linear, square) = self.traces();
        linear / square
    }

    /// Finds the best `Γ = n Q⁻¹ C W`, which is no worse than any scale.
    ///
    /// Fails if some direction of the inputs has no variance, or no share in any target.
    pub fn best_preconditioner(&self) -> Result<Array2<f64>> {
        Ok(Cholesky::new(self.q.view())?
            .solve((self.inputs.second.dot(&self.weights) * self.n as f64).view()))
    }

    /// `tr(W C)`: twice the loss of no step.
    fn unlearnt(&self) -> f64 {
        (&self.weights * &self.inputs.second).sum()
    }

    /// `n tr(W C C)` and `tr(Q C)`.
    fn traces(&self) -> (f64, f64) {
        let c = &self.inputs.second;
        (self.n as f64 * (&self.weights * &c.dot(c)).sum(), (&self.q * c).sum())
    }
}
