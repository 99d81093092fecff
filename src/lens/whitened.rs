//! Coordinates in which refinement is well conditioned.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, s};
use serde::{Deserialize, Serialize};

use super::form::Form;
use super::objective::Evaluation;
use crate::num::{Cholesky, SymmetricEigen, matmul};
use crate::{Error, ErrorKind, Result};

/// Coordinates in which the input has mean 0 and covariance 1, and the curvature by the output is 1 on average: `g_k A
/// h + b_k = F^(-1/2) (g_k M W (h - x̄_k) + c_k)`. To the extent that inputs and curvatures are independent, the
/// curvature by `M` and `c` is then 1 (Martens & Grosse 2015, section 2). The curvature of a penalty is divided by that
/// of the output and counted as the input's (compare section 6.3).
///
/// Of a map of low rank `r` they are factors instead, `M = M_T + P Qᵀ` with `P: [d_z, r]` and `Q: [d_x, r]`, where
/// `M_T` is what the rank is counted from.
pub(super) struct Whitened {
    /// `W = S^(-1/2)` of the covariance `S` of the input, and its inverse.
    input: (Array2<f64>, Array2<f64>),
    /// `F^(1/2)` and its inverse, where `F` is the mean Fisher matrix of the output, if that is known.
    output: Option<(Array2<f64>, Array2<f64>)>,
    /// What inputs are centred at: a row for each of a form's biases.
    centres: Array2<f64>,
    /// A unit of a bias and of each gain: one that few rows see has as much less curvature.
    bias_unit: f64,
    gain_units: Array1<f64>,
    low_rank: Option<LowRank>,
    d_z: usize,
}

/// That a map is `from` plus a matrix of this rank.
#[derive(Clone)]
pub(super) struct LowRank {
    pub(super) rank: usize,
    /// `[d_z, d_x]`.
    pub(super) from: Array2<f64>,
}

/// The curvature of an objective by what a form says of a row.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Curvature {
    /// Mean Fisher matrix of the output, `[d_z, d_z]`, if it is known.
    pub(super) output: Option<Array2<f64>>,
    /// By each gain of the form.
    pub(super) gains: Array1<f64>,
}

impl Whitened {
    /// Of inputs with this covariance about these centres, and a penalty of this weight.
    pub(super) fn new(
        covariance: Array2<f64>,
        centres: Array2<f64>,
        curvature: &Curvature,
        penalty: f64,
        low_rank: Option<LowRank>,
        d_z: usize,
    ) -> Result<Self> {
        let fisher = curvature.output.as_ref().map(|f| f.view());
        let mut s = covariance;
        if penalty > 0.0 {
            let by_output = fisher.map_or(1.0, |f| f.diag().sum() / f.nrows() as f64);
            s.diag_mut().mapv_inplace(|s| s + penalty / by_output);
        }
        let input = input_powers(s.view())?;
        let output = fisher.map(|f| powers(f, OUTPUT_FLOOR)).transpose()?;
        let output = output.map(|(inverse, root)| (root, inverse));
        let bias_unit = (centres.nrows() as f64).sqrt();
        let most = curvature.gains.fold(0.0_f64, |m, c| m.max(*c));
        let gain_units =
            curvature.gains.mapv(|c| c.max(GAIN_FLOOR * most).max(f64::MIN_POSITIVE).sqrt().recip());
        Ok(Whitened { input, output, centres, bias_unit, gain_units, low_rank, d_z })
    }

    /// `M` or its factors, `c` and gains of a form, one after the other.
    pub(super) fn enter(&self, form: &Form) -> Array1<f64> {
        let centred = self.at_centres(form) + &form.b;
        match &self.low_rank {
            None => self.point(&[self.whitened(&form.a)], &centred, &form.gains),
            Some(low) => {
                let (p, q) = factors(&self.whitened(&(&form.a - &low.from)), low.rank);
                self.point(&[p, q], &centred, &form.gains)
            }
        }
    }

    /// The form at a point.
    pub(super) fn leave(&self, point: &Array1<f64>) -> Form {
        let (mut form, _) = self.apart(point);
        if let Some(low) = &self.low_rank {
            form.a += &low.from;
        }
        form.b = &form.b - &self.at_centres(&form);
        form
    }

    /// The gradient by the coordinates, at the point `at` is of. (Both roots are symmetric.)
    pub(super) fn gradient(&self, at: &Evaluation, point: &Array1<f64>) -> Array1<f64> {
        let g = self.by_matrix(at);
        match self.factors_of(point) {
            None => self.gradient_point(&[g], at),
            Some((p, q)) => {
                let (dp, dq) = (matmul(g.view(), q.view()), matmul(g.t(), p.view()));
                self.gradient_point(&[dp, dq], at)
            }
        }
    }

    /// A step down whose length is that of a natural gradient. Of factors it is that of scaled gradient descent, `G Q
    /// (QᵀQ)⁻¹` and `Gᵀ P (PᵀP)⁻¹` (Tong, Ma & Chi 2021), which does not depend on how a map is shared out among them.
    pub(super) fn step(&self, at: &Evaluation, point: &Array1<f64>) -> Array1<f64> {
        let step = match self.factors_of(point) {
            None => self.gradient(at, point),
            Some((p, q)) => {
                let g = self.by_matrix(at);
                let dp = over_gram(&matmul(g.view(), q.view()), q);
                let dq = over_gram(&matmul(g.t(), p.view()), p);
                self.gradient_point(&[dp, dq], at)
            }
        };
        -step
    }

    /// What a step in other coordinates is in these. One of factors is not known here any more.
    pub(super) fn carried(&self, step: &Array1<f64>, from: &Whitened) -> Array1<f64> {
        if self.low_rank.is_some() {
            return Array1::zeros(step.len());
        }
        let (form, _) = from.apart(step);
        self.point(&[self.whitened(&form.a)], &form.b, &form.gains)
    }

    /// `g_k A x̄_k`, a row for each bias.
    fn at_centres(&self, form: &Form) -> Array2<f64> {
        let mut rows = matmul(self.centres.view(), form.a.t());
        for (k, mut row) in rows.rows_mut().into_iter().enumerate() {
            row *= form.gain(k);
        }
        rows
    }

    /// `F^(1/2) A W⁻¹`.
    fn whitened(&self, a: &Array2<f64>) -> Array2<f64> {
        let m = matmul(a.view(), self.input.1.view());
        match &self.output {
            None => m,
            Some((root, _)) => matmul(root.view(), m.view()),
        }
    }

    /// The gradient by `M`: `F^(-1/2) dA W`.
    fn by_matrix(&self, at: &Evaluation) -> Array2<f64> {
        let g = matmul(at.da.view(), self.input.0.view());
        match &self.output {
            None => g,
            Some((_, inverse)) => matmul(inverse.view(), g.view()),
        }
    }

    /// Coordinates of what is whitened but for its biases, which are those about the centres, and gains.
    fn point(&self, matrices: &[Array2<f64>], centred: &Array2<f64>, gains: &Array1<f64>) -> Array1<f64> {
        let c = match &self.output {
            None => centred / self.bias_unit,
            Some((root, _)) => matmul(centred.view(), root.view()) / self.bias_unit,
        };
        flat(matrices, c, gains / &self.gain_units)
    }

    /// The same of a gradient.
    fn gradient_point(&self, matrices: &[Array2<f64>], at: &Evaluation) -> Array1<f64> {
        let c = match &self.output {
            None => &at.db * self.bias_unit,
            Some((_, inverse)) => matmul(at.db.view(), inverse.view()) * self.bias_unit,
        };
        flat(matrices, c, &at.dgains * &self.gain_units)
    }

    /// What a point says: a form whose biases are those about the centres, and how many numbers its matrix takes.
    fn apart(&self, point: &Array1<f64>) -> (Form, usize) {
        let (m, n) = match self.factors_of(point) {
            Some((p, q)) => (matmul(p, q.t()), p.len() + q.len()),
            None => {
                let n = self.d_z * self.centres.ncols();
                (matrix(point.slice(s![..n]), self.d_z).to_owned(), n)
            }
        };
        let n_biases = self.centres.nrows() * self.d_z;
        let mut a = matmul(m.view(), self.input.0.view());
        let mut b =
            matrix(point.slice(s![n..n + n_biases]), self.centres.nrows()).mapv(|c| c * self.bias_unit);
        if let Some((_, inverse)) = &self.output {
            (a, b) = (matmul(inverse.view(), a.view()), matmul(b.view(), inverse.view()));
        }
        let gains = &point.slice(s![n + n_biases..]) * &self.gain_units;
        (Form { a, b, gains }, n)
    }

    /// `P` and `Q`, if the map is of low rank.
    fn factors_of<'a>(&self, point: &'a Array1<f64>) -> Option<(ArrayView2<'a, f64>, ArrayView2<'a, f64>)> {
        let rank = self.low_rank.as_ref()?.rank;
        let (n_p, n_q) = (self.d_z * rank, self.centres.ncols() * rank);
        let p = matrix(point.slice(s![..n_p]), self.d_z);
        Some((p, matrix(point.slice(s![n_p..n_p + n_q]), self.centres.ncols())))
    }
}

fn matrix(numbers: ArrayView1<f64>, n_rows: usize) -> ArrayView2<f64> {
    let n_columns = numbers.len() / n_rows.max(1);
    numbers.into_shape_with_order((n_rows, n_columns)).expect("a part of a point, in its order")
}

fn flat(matrices: &[Array2<f64>], biases: Array2<f64>, gains: Array1<f64>) -> Array1<f64> {
    matrices.iter().flatten().copied().chain(biases).chain(gains).collect()
}

/// `P` and `Q` with `P Qᵀ` nearest to `m` among the matrices of this rank, each with half of its size.
fn factors(m: &Array2<f64>, rank: usize) -> (Array2<f64>, Array2<f64>) {
    let gram = matmul(m.view(), m.t());
    // A symmetric matrix without values that are not finite has its eigenvectors; one with such has no nearest either.
    let Ok(SymmetricEigen { vectors, .. }) = SymmetricEigen::new(gram.view()) else {
        return (
            Array2::from_elem((m.nrows(), rank), f64::NAN),
            Array2::from_elem((m.ncols(), rank), f64::NAN),
        );
    };
    let p = vectors.slice(s![.., m.nrows() - rank..]).to_owned();
    let q = matmul(m.t(), p.view());
    let sizes: Array1<f64> = q.columns().into_iter().map(|q| q.dot(&q).sqrt()).collect();
    let largest = sizes.fold(0.0_f64, |m, s| m.max(*s));
    // A direction that is not there yet begins with something to grow from.
    let halves =
        sizes.mapv(|s| if largest > 0.0 { s.max(FACTOR_FLOOR * largest).sqrt() } else { FACTOR_FLOOR });
    (p * &halves, q / &halves)
}

/// `x (yᵀy)⁻¹`.
fn over_gram(x: &Array2<f64>, y: ArrayView2<f64>) -> Array2<f64> {
    let mut gram = matmul(y.t(), y);
    let most = gram.diag().fold(f64::MIN_POSITIVE, |m, s| m.max(*s));
    gram.diag_mut().mapv_inplace(|s| s + FACTOR_FLOOR * most);
    match Cholesky::new(gram.view()) {
        Ok(factor) => factor.solve(x.t()).reversed_axes(),
        // Not finite: neither is the step, which whoever looks at where it led refuses.
        Err(_) => x.mapv(|_| f64::NAN),
    }
}

/// Variances below this share of the largest are the rounding of f32 products.
const INPUT_FLOOR: f64 = 1e-6;
/// Curvatures below this share of the largest are not known well enough from the tokens that were looked at: steps
/// along them fit noise. (On the character model of the benchmarks, from .01 to .03 make no difference that could be
/// seen; .1 is slower.)
const OUTPUT_FLOOR: f64 = 0.03;
/// The same for those by gains.
const GAIN_FLOOR: f64 = 1e-3;
/// And for the sizes of factors.
const FACTOR_FLOOR: f64 = 1e-3;

/// `W` and its inverse, of the covariance of an input.
pub(super) fn input_powers(covariance: ArrayView2<f64>) -> Result<(Array2<f64>, Array2<f64>)> {
    powers(covariance, INPUT_FLOOR)
}

/// `S^(-1/2)` and `S^(1/2)`. Directions below `floor` are left at that scale instead of being blown up.
fn powers(s: ArrayView2<f64>, floor: f64) -> Result<(Array2<f64>, Array2<f64>)> {
    let SymmetricEigen { values, vectors } = SymmetricEigen::new(s)?;
    let largest = values.fold(0.0_f64, |m, s| m.max(*s));
    if largest <= 0.0 {
        return Err(Error::new(
            ErrorKind::Numeric,
            "a residual stream has no variance: it is the same at every token",
            "collect moments of more, or of different, tokens",
        ));
    }
    let roots = values.mapv(|s| s.max(floor * largest).sqrt());
    let of = |scales: Array1<f64>| matmul((&vectors * &scales).view(), vectors.t());
    Ok((of(roots.recip()), of(roots)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::{normal, rng};

    fn random(seed: u64, n: usize, m: usize) -> Array2<f64> {
        let mut random = rng(seed, 0);
        Array2::from_shape_simple_fn((n, m), || normal(&mut random))
    }

    fn covariance(seed: u64, d: usize) -> Array2<f64> {
        let x = random(seed, 4 * d, d);
        x.t().dot(&x) / (4 * d) as f64
    }

    /// A form of three streams, six wide, that predict four numbers, with its coordinates.
    fn of(biases: usize, gains: usize, rank: Option<usize>, fisher: bool) -> (Form, Whitened) {
        let from = random(1, 4, 6);
        let a = match rank {
            None => random(2, 4, 6),
            Some(rank) => &from + &random(2, 4, rank).dot(&random(3, rank, 6)),
        };
        let form = Form { a, b: random(4, biases, 4), gains: random(5, 1, gains).row(0).mapv(f64::abs) };
        let curvature = Curvature {
            output: fisher.then(|| covariance(6, 4)),
            gains: random(7, 1, gains).row(0).mapv(|x| x * x + 0.1),
        };
        let low_rank = rank.map(|rank| LowRank { rank, from });
        let centres = random(8, biases, 6);
        let w = Whitened::new(covariance(9, 6), centres, &curvature, 1e-3, low_rank, 4).unwrap();
        (form, w)
    }

    fn worst(x: &Form, y: &Form) -> f64 {
        let off = (&x.a - &y.a).into_iter().chain(&x.b - &y.b).chain(&x.gains - &y.gains);
        off.fold(0.0, |m, e| m.max(e.abs()))
    }

    #[test]
    fn whitened_coordinates_lead_back_to_the_form() {
        for (biases, gains, rank) in [(1, 0, None), (3, 0, None), (3, 3, None), (1, 0, Some(2))] {
            for fisher in [false, true] {
                let (form, w) = of(biases, gains, rank, fisher);
                let back = w.leave(&w.enter(&form));
                assert!(worst(&back, &form) < 1e-8, "{biases} {gains} {rank:?}: {}", worst(&back, &form));
            }
        }
    }

    /// A function that is linear in what a form says about its centres has its gradient by any coordinates.
    #[test]
    fn gradients_are_those_of_differences() {
        for (biases, gains, rank) in [(1, 0, None), (3, 0, None), (3, 3, None), (1, 0, Some(2))] {
            let (form, w) = of(biases, gains, rank, true);
            let at = Evaluation {
                kl: 0.0,
                da: random(10, 4, 6),
                db: random(11, biases, 4),
                dgains: random(12, 1, gains).row(0).to_owned(),
            };
            let value = |point: &Array1<f64>| {
                let form = w.leave(point);
                (&form.a * &at.da).sum()
                    + ((&form.b + &w.at_centres(&form)) * &at.db).sum()
                    + form.gains.dot(&at.dgains)
            };
            let point = w.enter(&form);
            let gradient = w.gradient(&at, &point);
            for i in 0..point.len() {
                let moved = |by: f64| {
                    let mut point = point.clone();
                    point[i] += by;
                    value(&point)
                };
                let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                assert!((slope - gradient[i]).abs() < 1e-6 * slope.abs().max(1.0), "{rank:?} {i}");
            }
        }
    }

    #[test]
    fn a_step_of_scaled_gradient_descent_does_not_depend_on_how_the_factors_share() {
        let (form, w) = of(1, 0, Some(2), true);
        let at =
            Evaluation { kl: 0.0, da: random(10, 4, 6), db: Array2::zeros((1, 4)), dgains: Array1::zeros(0) };
        let point = w.enter(&form);
        let led = |point: &Array1<f64>| w.leave(&(point + &(w.step(&at, point) * 1e-4)));
        let mut other = point.clone();
        other.slice_mut(s![..8]).mapv_inplace(|p| 3.0 * p);
        other.slice_mut(s![8..20]).mapv_inplace(|q| q / 3.0);
        assert!(worst(&led(&point), &led(&other)) < 1e-9);
        assert!(worst(&led(&point), &form) > 1e-6);
    }
}
