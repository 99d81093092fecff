//! Moments of every layer, multiplied on the device.

use candle_core::{D, Tensor};
use ndarray::{Array1, Array2, s};

use super::{DeviceTransformer, Streams, failed};
use crate::lens::{LayerMoments, Moments, NOTHING, Scale, Target};
use crate::session::{self, Progress};
use crate::{Error, ErrorKind, Result};

/// Rows that are multiplied in one product: more than on the processor, as a card needs them to be busy. Its `f32` sums
/// are good to about five digits.
const ROWS: usize = 4096;

impl DeviceTransformer {
    /// Gathers the moments of every residual stream at unit root mean square with the last one after the final norm, as
    /// [`LayerMoments::collect`] gathers them, with progress.
    ///
    /// Fails if an activation is not finite, where the device does, or when interrupted.
    pub fn moments(&self, tokens: &Array2<u32>) -> Result<LayerMoments> {
        self.check(tokens)?;
        let d = self.config.d_model;
        let mut all = LayerMoments {
            fingerprint: self.fingerprint,
            scale: Scale::UnitRms,
            target: Target::Normalised,
            layers: (0..=self.config.n_layers).map(|_| Moments::new(d, d)).collect(),
            mean_prediction: Array1::zeros(self.config.d_vocab),
        };
        let each = (ROWS / tokens.ncols()).max(1);
        let mut progress = Progress::new("moments", tokens.nrows());
        let mut done = 0;
        while done < tokens.nrows() {
            if session::interrupted() {
                return Err(Error::new(
                    ErrorKind::Interrupted,
                    format!("interrupted after {done} of {} sequences", tokens.nrows()),
                    "run it again, with fewer sequences if it takes too long",
                ));
            }
            let upto = (done + each).min(tokens.nrows());
            let part = tokens.slice(s![done..upto, ..]).to_owned();
            self.add(&mut all, &self.run(&part)?, done * tokens.ncols())?;
            done = upto;
            progress.update(done, || "sequences".into());
        }
        progress.finish(&format!("{} tokens", tokens.len()));
        Ok(all)
    }

    /// Adds some sequences; `before` rows were there already.
    fn add(&self, all: &mut LayerMoments, run: &Streams, before: usize) -> Result<()> {
        let last = run.streams.last().expect("a network has an embedding");
        let n = last.dim(0).map_err(|e| failed(&e))?;
        let z = Centred::new(&self.final_norm.run(&self.config, last).map_err(|e| failed(&e))?)?;
        for (l, (sum, h)) in all.layers.iter_mut().zip(&run.streams).enumerate() {
            let x = Centred::new(&unit_rms(h).map_err(|e| failed(&e))?)?;
            if !x.mean.iter().all(|m| m.is_finite()) {
                return Err(Error::new(
                    ErrorKind::Numeric,
                    format!("residual stream {l} is not finite"),
                    "look for a weight that is not, or for tokens that are not text",
                ));
            }
            sum.merge(&Moments {
                n: n as u64,
                weight: n as f64,
                s_xx: product(&x, &x)?,
                s_zx: product(&z, &x)?,
                s_zz: product(&z, &z)?.into_shared(),
                x_mean: x.mean,
                z_mean: z.mean.clone(),
            })?;
        }
        let mean = probabilities(&run.logits).map_err(|e| failed(&e))?;
        let share = n as f64 / (before + n) as f64;
        all.mean_prediction.zip_mut_with(&mean, |sum, p| *sum += share * (p - *sum));
        Ok(())
    }
}

/// [`Scale::UnitRms`].
fn unit_rms(h: &Tensor) -> candle_core::Result<Tensor> {
    let mean_square = h.sqr()?.mean_keepdim(D::Minus1)?;
    h.broadcast_div(&(mean_square + NOTHING)?.sqrt()?)
}

/// Rows about their mean.
struct Centred {
    rows: Tensor,
    mean: Array1<f64>,
}

impl Centred {
    fn new(h: &Tensor) -> Result<Self> {
        let work = || -> candle_core::Result<Centred> {
            let mean = h.mean_keepdim(0)?;
            let rows = h.broadcast_sub(&mean)?;
            // What rounding has left of the mean in `f32`.
            let rest = rows.mean_keepdim(0)?;
            let mean =
                mean.flatten_all()?.to_vec1::<f32>()?.into_iter().zip(rest.flatten_all()?.to_vec1::<f32>()?);
            Ok(Centred {
                rows: rows.broadcast_sub(&rest)?,
                mean: mean.map(|(m, r)| f64::from(m) + f64::from(r)).collect(),
            })
        };
        work().map_err(|e| failed(&e))
    }
}

/// `aᵀ b`, `[d_a, d_b]`.
fn product(a: &Centred, b: &Centred) -> Result<Array2<f64>> {
    let work = || -> candle_core::Result<(usize, usize, Vec<f32>)> {
        let product = a.rows.t()?.contiguous()?.matmul(&b.rows)?;
        let (rows, columns) = product.dims2()?;
        Ok((rows, columns, product.flatten_all()?.to_vec1()?))
    };
    let (rows, columns, numbers) = work().map_err(|e| failed(&e))?;
    let numbers = numbers.into_iter().map(f64::from).collect();
    Ok(Array2::from_shape_vec((rows, columns), numbers).expect("as many numbers as the shape says"))
}

/// The mean of the distributions that rows of logits are.
fn probabilities(logits: &Tensor) -> candle_core::Result<Array1<f64>> {
    let p = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?.exp()?;
    let p = p.broadcast_div(&p.sum_keepdim(D::Minus1)?)?.mean(0)?;
    Ok(p.to_vec1::<f32>()?.into_iter().map(f64::from).collect())
}
