//! The one sufficient statistic of every least-squares lens.

use std::path::Path;

use ndarray::{ArcArray2, Array1, Array2, ArrayView1, ArrayView2, Axis};
use serde::{Deserialize, Serialize, Serializer};

use crate::num::{Centred, Part, Strips, add_matrix, add_products, mirror};
use crate::{Error, ErrorKind, Result, record};

/// Count, means and centred second moments of pairs `(x, z)`, in f64.
///
/// Any split of the same rows, pushed or merged in any order, gives the same moments up to rounding (Chan, Golub &
/// LeVeque 1983): with `δ = x̄_b - x̄_a`, `S ← S_a + S_b + (n_a n_b / n) δ δᵀ`. With a weight for each row, sums of
/// weights take the place of the counts `n`.
///
/// # Rounding
///
/// Rows come in `f32`. Up to 2048 of them are shifted close to their mean, multiplied in `f32` in blocks of `B = 256`,
/// and blocks are added up in `f64`. A sum of `B` products with four roundings each is off by at most `(B + 4) u` of
/// the sum of their sizes, `u = 2⁻²⁴` (Higham 2002, section 3.1). By Cauchy and Schwarz those sizes sum to at most
/// `√(S_ii S_jj)`, or twice that, since a mean rounded to `f32` may be off by as much as a feature varies:
///
/// ```text
///  |Ŝ_ij - S_ij| ≤ ε √(S_ii S_jj),    ε = 2 (B + 4) u = 3.1e-5
/// ```
///
/// whatever the mean and however many rows. This is the worst case; errors of both signs leave about `√B u`, 1e-6.
/// Means are sums in `f64`.
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
    #[serde(with = "record::matrix")]
    pub s_xx: Array2<f64>,
    /// `Σ w (z - z̄)(x - x̄)ᵀ`, `[d_z, d_x]`.
    #[serde(with = "record::matrix")]
    pub s_zx: Array2<f64>,
    /// `Σ w (z - z̄)(z - z̄)ᵀ`, `[d_z, d_z]`. The streams of one model have the same targets and share this matrix in
    /// memory.
    #[serde(with = "record::matrix")]
    pub s_zz: ArcArray2<f64>,
}

/// Rows that are centred together. Sums over that many are added to the matrices at a time, which are much larger than
/// a cache.
pub(super) const ROWS: usize = 2048;
const KIND: &str = "moments";
/// 2: sums of weights. 3: matrices as bytes.
const VERSION: u32 = 3;

/// Rows whose products are to be added: how many, the sum of their weights, and the weights unless all are 1.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) n: u64,
    pub(super) weight: f64,
    pub(super) weights: Option<ArrayView1<'a, f32>>,
}

impl Rows<'_> {
    pub(super) fn unweighted(n: usize) -> Self {
        Rows { n: n as u64, weight: n as f64, weights: None }
    }
}

impl Moments {
    /// Makes the moments of nothing yet, for inputs of width `d_x` and targets of width `d_z`.
    pub fn new(d_x: usize, d_z: usize) -> Self {
        Moments {
            n: 0,
            weight: 0.0,
            x_mean: Array1::zeros(d_x),
            z_mean: Array1::zeros(d_z),
            s_xx: Array2::zeros((d_x, d_x)),
            s_zx: Array2::zeros((d_z, d_x)),
            s_zz: ArcArray2::zeros((d_z, d_z)),
        }
    }

    /// Adds the rows of `x: [rows, d_x]` with their targets `z: [rows, d_z]`.
    ///
    /// Fails, and changes nothing, if the widths or the numbers of rows differ or a value is not finite.
    pub fn push(&mut self, x: ArrayView2<f32>, z: ArrayView2<f32>) -> Result<()> {
        self.check_rows(x, z)?;
        for (x, z) in x.axis_chunks_iter(Axis(0), ROWS).zip(z.axis_chunks_iter(Axis(0), ROWS)) {
            self.add_rows(x, z, Rows::unweighted(x.nrows()));
        }
        mirror(&mut self.s_xx);
        Ok(())
    }

    /// Adds rows that count `weights: [rows]` times: the weights enter every sum. A row of weight 0 is as if it were
    /// not there.
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
        let chunks = x.axis_chunks_iter(Axis(0), ROWS).zip(z.axis_chunks_iter(Axis(0), ROWS));
        for ((x, z), w) in chunks.zip(weights.axis_chunks_iter(Axis(0), ROWS)) {
            let n = w.iter().filter(|w| **w > 0.0).count() as u64;
            if n > 0 {
                let weight = w.iter().map(|w| f64::from(*w)).sum();
                self.add_rows(x, z, Rows { n, weight, weights: Some(w) });
            }
        }
        mirror(&mut self.s_xx);
        Ok(())
    }

    /// Adds rows that were checked; of `s_xx`, what is below the diagonal.
    fn add_rows(&mut self, x: ArrayView2<f32>, z: ArrayView2<f32>, rows: Rows) {
        if rows.n == 0 {
            return;
        }
        let centred = |a: ArrayView2<f32>| Centred::new(Strips::of(a), rows.weights, rows.weight);
        let (x, z) = (centred(x), centred(z));
        let dz = &z.mean - &self.z_mean;
        let mut s_zz = std::mem::replace(&mut self.s_zz, ArcArray2::zeros((0, 0))).into_owned();
        rows.add(self.weight, &mut s_zz, Part::Lower, (&z, &dz), (&z, &dz));
        mirror(&mut s_zz);
        self.s_zz = s_zz.into_shared();
        self.add_centred(&x, &z, rows, true);
    }

    /// The same of rows that are centred, without `s_zz`, and if it is not asked for without `s_zx`.
    pub(super) fn add_centred(&mut self, x: &Centred, z: &Centred, rows: Rows, with_zx: bool) {
        let (dx, dz) = (&x.mean - &self.x_mean, &z.mean - &self.z_mean);
        rows.add(self.weight, &mut self.s_xx, Part::Lower, (x, &dx), (x, &dx));
        if with_zx {
            rows.add(self.weight, &mut self.s_zx, Part::All, (z, &dz), (x, &dx));
        }
        let share = rows.weight / (self.weight + rows.weight);
        self.x_mean.scaled_add(share, &dx);
        self.z_mean.scaled_add(share, &dz);
        self.n += rows.n;
        self.weight += rows.weight;
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
            check_finite(name, a)?;
        }
        Ok(())
    }

    /// Adds the rows that `other` has seen. Fails if the widths differ.
    pub fn merge(&mut self, other: &Moments) -> Result<()> {
        self.check_widths(other)?;
        self.absorb(other);
        Ok(())
    }

    /// Refuses moments of other widths.
    pub(super) fn check_widths(&self, other: &Moments) -> Result<()> {
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
        Ok(())
    }

    fn absorb(&mut self, other: &Moments) {
        if other.weight > 0.0 {
            self.s_zz = self.joined_s_zz(other);
            self.absorb_x(other);
        }
    }

    /// The sum of both `s_zz` about the mean of both.
    pub(super) fn joined_s_zz(&self, other: &Moments) -> ArcArray2<f64> {
        let dz = &other.z_mean - &self.z_mean;
        let mut sum = self.s_zz.to_owned();
        add_matrix(&mut sum, other.s_zz.view(), &[(self.pull(other), numbers(&dz), numbers(&dz))]);
        sum.into_shared()
    }

    /// Adds all but `s_zz`.
    pub(super) fn absorb_x(&mut self, other: &Moments) {
        let (dx, dz) = (&other.x_mean - &self.x_mean, &other.z_mean - &self.z_mean);
        let pull = self.pull(other);
        add_matrix(&mut self.s_xx, other.s_xx.view(), &[(pull, numbers(&dx), numbers(&dx))]);
        add_matrix(&mut self.s_zx, other.s_zx.view(), &[(pull, numbers(&dz), numbers(&dx))]);
        let share = other.weight / (self.weight + other.weight);
        self.x_mean.scaled_add(share, &dx);
        self.z_mean.scaled_add(share, &dz);
        self.n += other.n;
        self.weight += other.weight;
    }

    /// How strongly the distance of two means enters the sum of second moments: `n_a n_b / n`.
    fn pull(&self, other: &Moments) -> f64 {
        self.weight * other.weight / (self.weight + other.weight)
    }

    /// Returns the second moments about 0 instead of about the mean: what a lens without intercept is fitted to (Din et
    /// al. 2023). For fitting and measuring only; rows pushed to it would count about their mean again.
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
        let (x, z) = (numbers(&self.x_mean), numbers(&self.z_mean));
        let about_zero = |s: ArrayView2<f64>, left: &[f64], right: &[f64]| {
            let mut sum = s.to_owned();
            let nothing = Array2::zeros(s.dim());
            add_matrix(&mut sum, nothing.view(), &[(self.weight, left, right)]);
            sum
        };
        Moments {
            n: self.n,
            weight: self.weight,
            x_mean: Array1::zeros(self.x_mean.len()),
            z_mean: Array1::zeros(self.z_mean.len()),
            s_xx: about_zero(self.s_xx.view(), x, x),
            s_zx: about_zero(self.s_zx.view(), z, x),
            s_zz: about_zero(self.s_zz.view(), z, z).into_shared(),
        }
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

    /// Written as these are, with another `s_zz`.
    pub(super) fn serialize_with<S: Serializer>(
        &self,
        s_zz: ArcArray2<f64>,
        to: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Borrowed<'a> {
            n: u64,
            weight: f64,
            x_mean: &'a Array1<f64>,
            z_mean: &'a Array1<f64>,
            #[serde(with = "record::matrix")]
            s_xx: ArrayView2<'a, f64>,
            #[serde(with = "record::matrix")]
            s_zx: ArrayView2<'a, f64>,
            #[serde(with = "record::matrix")]
            s_zz: ArcArray2<f64>,
        }
        let Moments { n, weight, x_mean, z_mean, .. } = self;
        let (s_xx, s_zx) = (self.s_xx.view(), self.s_zx.view());
        Borrowed { n: *n, weight: *weight, x_mean, z_mean, s_xx, s_zx, s_zz }.serialize(to)
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

impl Rows<'_> {
    /// Adds `Σ w (l - l̄)(r - r̄)ᵀ` over these rows to `s`, which is about the mean of `before` rows, from which theirs
    /// is `delta` away.
    pub(super) fn add(
        self,
        before: f64,
        s: &mut Array2<f64>,
        part: Part,
        (left, left_delta): (&Centred, &Array1<f64>),
        (right, right_delta): (&Centred, &Array1<f64>),
    ) {
        // The rows were shifted by a mean rounded to f32: Σ w (c - c̄)(c - c̄)ᵀ = Σ w c cᵀ - W c̄ c̄ᵀ.
        let rest = (-self.weight, numbers(&left.rest), numbers(&right.rest));
        let pull = before * self.weight / (before + self.weight);
        let apart = (pull, numbers(left_delta), numbers(right_delta));
        add_products(s, part, &left.rows, &right.rows, self.weights, &[rest, apart]);
    }
}

fn numbers(v: &Array1<f64>) -> &[f64] {
    v.as_slice().expect("vectors are contiguous")
}

/// Numbers beyond this have squares of which 256 have no sum in `f32`.
const LARGEST: f32 = 1e17;

/// Refuses numbers that have no second moments in single precision.
pub(super) fn check_finite(name: &str, a: ArrayView2<f32>) -> Result<()> {
    // Without a way out in the middle, so that it runs on vectors.
    if a.iter().fold(true, |fine, x| fine & (x.abs() <= LARGEST)) {
        return Ok(());
    }
    let Some(((row, column), value)) = a.indexed_iter().find(|(_, v)| v.is_nan() || v.abs() > LARGEST) else {
        return Ok(());
    };
    let help = match value.is_finite() {
        true => "moments are made of squares, and take numbers up to 1e17; scale what you give",
        false => {
            "find out which layer of the model first gives it (`run_with_cache`); moments take finite numbers only"
        }
    };
    Err(Error::new(ErrorKind::Numeric, format!("{name} holds {value} at row {row}, column {column}"), help))
}
