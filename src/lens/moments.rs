//! The one sufficient statistic of every least-squares lens.

use std::path::Path;

use ndarray::{Array1, Array2, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

use crate::num::{add_matmul, matmul};
use crate::{Error, ErrorKind, Result, record};

/// Count, means and centred second moments of pairs `(x, z)`, in f64.
///
/// Any split of the same rows, pushed or merged in any order, gives the same moments up to rounding (Chan, Golub &
/// LeVeque 1983): with `δ = x̄_b - x̄_a`, `S ← S_a + S_b + (n_a n_b / n) δ δᵀ`.
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
    /// Number of rows seen.
    pub n: u64,
    /// Mean of `x`, `[d_x]`.
    pub x_mean: Array1<f64>,
    /// Mean of `z`, `[d_z]`.
    pub z_mean: Array1<f64>,
    /// `Σ (x - x̄)(x - x̄)ᵀ`, `[d_x, d_x]`.
    pub s_xx: Array2<f64>,
    /// `Σ (z - z̄)(x - x̄)ᵀ`, `[d_z, d_x]`.
    pub s_zx: Array2<f64>,
    /// `Σ (z - z̄)(z - z̄)ᵀ`, `[d_z, d_z]`.
    pub s_zz: Array2<f64>,
}

/// Rows centred and multiplied at a time: enough for a fast product, small enough to stay in cache.
const BLOCK: usize = 256;
const KIND: &str = "moments";
const VERSION: u32 = 1;

impl Moments {
    /// The moments of nothing yet, for inputs of width `d_x` and targets of width `d_z`.
    pub fn new(d_x: usize, d_z: usize) -> Self {
        Moments {
            n: 0,
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
        for (x, z) in x.axis_chunks_iter(Axis(0), BLOCK).zip(z.axis_chunks_iter(Axis(0), BLOCK)) {
            self.absorb(&Moments::of_block(x, z));
        }
        Ok(())
    }

    /// Moments of one block, centred on its own mean, so that a large mean costs no digits.
    fn of_block(x: ArrayView2<f32>, z: ArrayView2<f32>) -> Moments {
        let n = x.nrows() as f64;
        let (mut x, mut z) = (x.mapv(f64::from), z.mapv(f64::from));
        let (x_mean, z_mean) = (x.sum_axis(Axis(0)) / n, z.sum_axis(Axis(0)) / n);
        x -= &x_mean;
        z -= &z_mean;
        let s_xx = matmul(x.t(), x.view());
        let s_zx = matmul(z.t(), x.view());
        let s_zz = matmul(z.t(), z.view());
        Moments { n: n as u64, x_mean, z_mean, s_xx, s_zx, s_zz }
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
        if other.n == 0 {
            return;
        }
        let (a, b) = (self.n as f64, other.n as f64);
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
