//! The one sufficient statistic of every least-squares lens.

use std::path::Path;

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

use crate::num::{add_matmul, matmul};
use crate::{Error, ErrorKind, Result, record};

/// Count, means and centred second moments of pairs `(x, z)`, in f64.
///
/// Any split of the same rows, pushed or merged in any order, gives the same moments up to rounding (Chan, Golub &
/// LeVeque 1983): with `δ = x̄_b - x̄_a`, `S ← S_a + S_b + (n_a n_b / n) δ δᵀ`. With a weight for each row, sums of weights
/// take the place of the counts `n`.
///
/// # Rounding
///
/// Rows come in `f32`. Blocks of `B = 256` of them are shifted close to their mean, multiplied in `f32`, and added up in `f64`.
/// A sum of `B` products with four roundings each is off by at most `(B + 4) u` of the sum of their sizes, `u = 2⁻²⁴`
/// (Higham 2002, section 3.1). By Cauchy and Schwarz those sizes sum to at most `√(S_ii S_jj)`, or twice that, since a mean
/// rounded to `f32` may be off by as much as a feature varies:
///
/// ```text
///  |Ŝ_ij - S_ij| ≤ ε √(S_ii S_jj),    ε = 2 (B + 4) u = 3.1e-5
/// ```
///
/// whatever the mean and however many rows. This is the worst case; errors of both signs leave about `√B u`, 1e-6. Means are
/// sums in `f64`.
///
/// ```
/// use onelens::{lens::Moments, ndarray::array};
/// let mut m = Moments::new(1, 1);
/// m.push(array![[1.0], [3.0]].view(), array![[10.0], [30.0]].view())?;
/// assert_eq!(m.x_mean[0], 2.0);
/// assert_eq!(m.s_xx[(0, 0)], 2.0); // (1 - 2)² + (3 - 2)²
/// assert_eq!(m.s_zx[(0, 0)], 20.0);
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    /// Number of rows seen, without those of weight 0.
    pub n: u64,
    /// Sum of the rows' weights; without weights, the number of rows.
    pub weight: f64,
    /// Mean of `x`, `[d_x]`.
    pub x_mean: Array1<f64>,
    /// Mean of `z`, `[d_z]`.
    pub z_mean: Array1<f64>,
    /// `Σ w (x - x̄)(x - x̄)ᵀ`, `[d_x, d_x]`.
    pub s_xx: Array2<f64>,
    /// `Σ w (z - z̄)(x - x̄)ᵀ`, `[d_z, d_x]`.
    pub s_zx: Array2<f64>,
    /// `Σ w (z - z̄)(z - z̄)ᵀ`, `[d_z, d_z]`.
    pub s_zz: Array2<f64>,
}

/// Rows centred and multiplied at a time: enough for a fast product, small enough to stay in cache and to bound rounding.
const BLOCK: usize = 256;
const KIND: &str = "moments";
/// 2: sums of weights.
const VERSION: u32 = 2;

impl Moments {
    /// The moments of nothing yet, for inputs of width `d_x` and targets of width `d_z`.
    pub fn new(d_x: usize, d_z: usize) -> Self {
        Moments {
            n: 0,
            weight: 0.0,
            x_mean: Array1::zeros(d_x),
            z_mean: Array1::zeros(d_z),
            s_xx: Array2::zeros((d_x, d_x)),
            s_zx: Array2::zeros((d_z, d_x)),
            s_zz: Array2::zeros((d_z, d_z)),
        }
    }

    /// Adds the rows of `x: [rows, d_x]` with their targets `z: [rows, d_z]`.
    ///
    /// Fails, and changes nothing, if the widths or the numbers of rows differ or a value is not finite.
    pub fn push(&mut self, x: ArrayView2<f32>, z: ArrayView2<f32>) -> Result<()> {
        self.check_rows(x, z)?;
        for (x, z) in x.axis_chunks_iter(Axis(0), BLOCK).zip(z.axis_chunks_iter(Axis(0), BLOCK)) {
            self.absorb(&Moments::of_block(x, z, None));
        }
        Ok(())
    }

    /// Adds rows that count `weights: [rows]` times: the weights enter every sum. A row of weight 0 is as if it were not there.
    ///
    /// Fails, and changes nothing, where [`push`](Moments::push) does, or if a weight is negative or not finite.
    ///
    /// ```
    /// use onelens::{lens::Moments, ndarray::array};
    /// let mut m = Moments::new(1, 1);
    /// m.push_weighted(array![[1.0], [4.0]].view(), array![[0.0], [0.0]].view(), array![2.0, 1.0].view())?;
    /// assert_eq!((m.weight, m.x_mean[0]), (3.0, 2.0)); // (2 · 1 + 4) / 3
    /// assert_eq!(m.s_xx[(0, 0)], 6.0); // 2 (1 - 2)² + (4 - 2)²
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn push_weighted(
        &mut self,
        x: ArrayView2<f32>,
        z: ArrayView2<f32>,
        weights: ArrayView1<f32>,
    ) -> Result<()> {
        self.check_rows(x, z)?;
        if weights.len() != x.nrows() {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("{} weights for {} rows", weights.len(), x.nrows()),
                "pass one weight for each row",
            ));
        }
        if let Some((row, w)) = weights.iter().enumerate().find(|(_, w)| !(w.is_finite() && **w >= 0.0)) {
            return Err(Error::new(
                ErrorKind::Data,
                format!("the weight of row {row} is {w}"),
                "weights are 0 or positive, and finite",
            ));
        }
        let chunks = x.axis_chunks_iter(Axis(0), BLOCK).zip(z.axis_chunks_iter(Axis(0), BLOCK));
        for ((x, z), w) in chunks.zip(weights.axis_chunks_iter(Axis(0), BLOCK)) {
            if w.iter().any(|w| *w > 0.0) {
                self.absorb(&Moments::of_block(x, z, Some(w)));
            }
        }
        Ok(())
    }

    fn check_rows(&self, x: ArrayView2<f32>, z: ArrayView2<f32>) -> Result<()> {
        let (d_x, d_z) = (self.x_mean.len(), self.z_mean.len());
        if x.ncols() != d_x || z.ncols() != d_z || x.nrows() != z.nrows() {
            return Err(Error::new(
                ErrorKind::Shape,
                format!(
                    "cannot push x: {:?} and z: {:?} to moments of widths {d_x} and {d_z}",
                    x.dim(),
                    z.dim()
                ),
                format!("pass x: [rows, {d_x}] and z: [rows, {d_z}] with as many rows"),
            ));
        }
        for (name, a) in [("x", x), ("z", z)] {
            if let Some(((row, column), value)) = a.indexed_iter().find(|(_, v)| !v.is_finite()) {
                return Err(Error::new(
                    ErrorKind::Numeric,
                    format!("{name} holds {value} at row {row}, column {column}"),
                    "find out which layer of the model first gives it (`run_with_cache`); moments take finite numbers only",
                ));
            }
        }
        Ok(())
    }

    /// Moments of one block, multiplied in `f32` near its own mean, so that a large mean costs no digits.
    fn of_block(x: ArrayView2<f32>, z: ArrayView2<f32>, weights: Option<ArrayView1<f32>>) -> Moments {
        let (n, weight) = match weights {
            None => (x.nrows(), x.nrows() as f64),
            Some(w) => (w.iter().filter(|w| **w > 0.0).count(), w.iter().map(|w| f64::from(*w)).sum()),
        };
        let (x, z) = (Centred::new(x, weights, weight), Centred::new(z, weights, weight));
        let product = |left: &Centred, right: &Centred| {
            let product = match weights {
                None => matmul(left.rows.t(), right.rows.view()),
                Some(w) => matmul(left.rows.t(), (&right.rows * &w.insert_axis(Axis(1))).view()),
            };
            let mut s = product.mapv(f64::from);
            // The rows were shifted by a mean rounded to f32: Σ w (c - c̄)(c - c̄)ᵀ = Σ w c cᵀ - W c̄ c̄ᵀ.
            let column = |m: &Array1<f64>| m.clone().insert_axis(Axis(1));
            add_matmul(s.view_mut(), -weight, column(&left.rest).view(), column(&right.rest).t());
            s
        };
        let (s_xx, s_zx, s_zz) = (product(&x, &x), product(&z, &x), product(&z, &z));
        Moments { n: n as u64, weight, x_mean: x.mean, z_mean: z.mean, s_xx, s_zx, s_zz }
    }

    /// Adds the rows that `other` has seen. Fails if the widths differ.
    pub fn merge(&mut self, other: &Moments) -> Result<()> {
        let widths = |m: &Moments| (m.x_mean.len(), m.z_mean.len());
        if widths(self) != widths(other) {
            return Err(Error::new(
                ErrorKind::Shape,
                format!(
                    "moments of widths {:?} cannot merge with moments of widths {:?}",
                    widths(self),
                    widths(other)
                ),
                "merge moments of the same model",
            ));
        }
        self.absorb(other);
        Ok(())
    }

    fn absorb(&mut self, other: &Moments) {
        if other.weight == 0.0 {
            return;
        }
        let (a, b) = (self.weight, other.weight);
        let n = a + b;
        let column = |v: Array1<f64>| v.insert_axis(Axis(1));
        let dx = column(&other.x_mean - &self.x_mean);
        let dz = column(&other.z_mean - &self.z_mean);
        let scale = a * b / n;
        for (s, o, left, right) in [
            (&mut self.s_xx, &other.s_xx, &dx, &dx),
            (&mut self.s_zx, &other.s_zx, &dz, &dx),
            (&mut self.s_zz, &other.s_zz, &dz, &dz),
        ] {
            *s += o;
            add_matmul(s.view_mut(), scale, left.view(), right.t());
        }
        self.x_mean.scaled_add(b / n, &dx.column(0));
        self.z_mean.scaled_add(b / n, &dz.column(0));
        self.n += other.n;
        self.weight += other.weight;
    }

    /// The second moments about 0 instead of about the mean: what a lens without intercept is fitted to (Din et al. 2023). For fitting
    /// and measuring only; rows pushed to it would count about their mean again.
    ///
    /// ```
    /// use onelens::{lens::{Moments, Ridge, Towards}, ndarray::array};
    /// let mut m = Moments::new(1, 1);
    /// m.push(array![[1.0], [3.0]].view(), array![[2.0], [6.5]].view())?;
    /// let lens = Ridge { lambda: 0.0, towards: Towards::Zero }.fit(&m.about_zero())?;
    /// assert_eq!((lens.a[(0, 0)], lens.b[0]), (2.15, 0.0)); // (1 · 2 + 3 · 6.5) / (1² + 3²)
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn about_zero(&self) -> Moments {
        let mut all = Moments::new(self.x_mean.len(), self.z_mean.len());
        let column = |mean: &Array1<f64>| mean.clone().insert_axis(Axis(1));
        let (x, z) = (column(&self.x_mean), column(&self.z_mean));
        (all.n, all.weight) = (self.n, self.weight);
        for (sum, s, left, right) in [
            (&mut all.s_xx, &self.s_xx, &x, &x),
            (&mut all.s_zx, &self.s_zx, &z, &x),
            (&mut all.s_zz, &self.s_zz, &z, &z),
        ] {
            sum.assign(s);
            add_matmul(sum.view_mut(), self.weight, left.view(), right.t());
        }
        all
    }

    /// Saves these moments; written under a temporary name first, so that no half-written file is left.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        record::save(path.as_ref(), KIND, VERSION, self)
    }

    /// Reads saved moments. A file that is cut off, damaged or something else is refused.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let m: Moments = record::load(path, KIND, VERSION)?;
        m.check_shapes().map(|()| m).map_err(|what| {
            Error::new(ErrorKind::File, format!("{} {what}", path.display()), "save the moments anew")
        })
    }

    pub(crate) fn check_shapes(&self) -> std::result::Result<(), String> {
        let (d_x, d_z) = (self.x_mean.len(), self.z_mean.len());
        let fits =
            self.s_xx.dim() == (d_x, d_x) && self.s_zx.dim() == (d_z, d_x) && self.s_zz.dim() == (d_z, d_z);
        if fits {
            Ok(())
        } else {
            Err(format!(
                "holds moments whose sizes disagree: {:?}, {:?}, {:?}",
                self.s_xx.dim(),
                self.s_zx.dim(),
                self.s_zz.dim()
            ))
        }
    }
}

/// Rows shifted close to their mean.
struct Centred {
    /// `x - s`, where `s` is the mean rounded to `f32`.
    rows: Array2<f32>,
    /// The mean in `f64`.
    mean: Array1<f64>,
    /// The mean of what is left in `rows`.
    rest: Array1<f64>,
}

impl Centred {
    fn new(x: ArrayView2<f32>, weights: Option<ArrayView1<f32>>, weight: f64) -> Centred {
        let mean_of = |x: ArrayView2<f32>| {
            let mut sum = Array1::<f64>::zeros(x.ncols());
            for (i, row) in x.rows().into_iter().enumerate() {
                let w = weights.map_or(1.0, |w| f64::from(w[i]));
                sum.zip_mut_with(&row, |s, &x| *s += w * f64::from(x));
            }
            sum / weight
        };
        let mean = mean_of(x);
        let mut rows = x.as_standard_layout().into_owned();
        rows -= &mean.mapv(|m| m as f32);
        let rest = mean_of(rows.view());
        Centred { rows, mean, rest }
    }
}
