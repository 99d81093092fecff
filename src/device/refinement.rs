//! Refinement whose products with the unembedding are made on the device.

use std::sync::Arc;

use candle_core::{D, Device, Tensor};
use ndarray::{Array1, Array2, ArrayView2};

use super::{DeviceTransformer, Place, failed};
use crate::lens::{Elsewhere, LayerLenses, LayerMoments, Products, Refine, TunedLens, Until, Wanted};
use crate::model::Transformer;
use crate::{Error, ErrorKind, Result};

impl DeviceTransformer {
    /// Refines lenses as [`Refine::fit`] does. The model runs on the device, and the vocabulary is read there, in
    /// `f32`; maps, their gradients and the steps are made on the host.
    ///
    /// Fails where [`Refine::fit`] does, if `model` is not the one whose weights are on the device, and where the
    /// device does.
    pub fn refine(
        &self,
        model: &Transformer,
        refine: &Refine,
        start: &LayerLenses,
        moments: &LayerMoments,
        tokens: &Array2<u32>,
    ) -> Result<TunedLens> {
        self.check_same(model)?;
        self.check(tokens)?;
        let there = Until { on: Some(self), ..Until::default() };
        refine.fit_until(&there, model, start, moments, tokens, None)
    }

    pub(super) fn check_same(&self, model: &Transformer) -> Result<()> {
        if model.fingerprint() == self.fingerprint {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Config,
            format!(
                "the weights on the device are of model {:016x}, and this is model {:016x}",
                self.fingerprint,
                model.fingerprint()
            ),
            "pass the model that `DeviceTransformer::new` was given, or copy this one to the device",
        ))
    }
}

impl Elsewhere for DeviceTransformer {
    fn run(&self, tokens: ArrayView2<u32>) -> Result<(Vec<Array2<f32>>, Array2<f32>)> {
        let run = DeviceTransformer::run(self, &tokens.to_owned())?;
        Ok((run.streams.iter().map(rows).collect::<Result<_>>()?, rows(&run.logits)?))
    }

    fn products(&self, u: &Array2<f32>, b: &Array1<f32>) -> Result<Arc<dyn Products>> {
        let place = Place(&self.device);
        Ok(Arc::new(Unembedding { u: place.matrix(u)?, b: place.vector(b)? }))
    }
}

/// A matrix on the device, `logits = y u + b`.
struct Unembedding {
    /// `[d_z, n_classes]`.
    u: Tensor,
    /// `[n_classes]`, with what is added to logits.
    b: Option<Tensor>,
}

impl Unembedding {
    fn device(&self) -> &Device {
        self.u.device()
    }

    fn of(&self, y: ArrayView2<f32>) -> Result<Tensor> {
        let y = Place(self.device()).matrix(&y.to_owned())?;
        super::linear(&y, &self.u, self.b.as_ref()).map_err(|e| failed(&e))
    }

    /// The distributions that are wanted, which stay on the device once they are there.
    fn wanted(&self, wanted: &Wanted) -> Result<Tensor> {
        if let Some(p) = wanted.elsewhere.get().and_then(|p| p.downcast_ref::<Tensor>()) {
            return Ok(p.clone());
        }
        let p = Place(self.device()).matrix(&wanted.p)?;
        // Of two threads that come at once one is heard; both have brought the same.
        let _ = wanted.elsewhere.set(Arc::new(p.clone()));
        Ok(p)
    }
}

impl Products for Unembedding {
    fn of_tokens(&self, tokens: &[usize], shift: &Array1<f32>) -> Result<Arc<dyn Products>> {
        let work = || -> candle_core::Result<Unembedding> {
            let which: Vec<u32> = tokens.iter().map(|&token| token as u32).collect();
            let which = Tensor::from_vec(which, tokens.len(), self.device())?;
            let shift = Tensor::from_vec(shift.to_vec(), tokens.len(), self.device())?;
            let b = match &self.b {
                Some(b) => (b.index_select(&which, 0)? + shift)?,
                None => shift,
            };
            Ok(Unembedding { u: self.u.index_select(&which, 1)?.contiguous()?, b: Some(b) })
        };
        Ok(Arc::new(work().map_err(|e| failed(&e))?))
    }

    fn logits(&self, y: ArrayView2<f32>) -> Result<Array2<f32>> {
        rows(&self.of(y)?)
    }

    fn kl_and_gradient(&self, wanted: &Wanted, y: ArrayView2<f32>) -> Result<(f64, Array2<f32>)> {
        let (logits, p) = (self.of(y)?, self.wanted(wanted)?);
        let work = || -> candle_core::Result<(Vec<f32>, Tensor)> {
            let x = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
            let e = x.exp()?;
            let (z, n) = (e.sum_keepdim(D::Minus1)?, p.sum_keepdim(D::Minus1)?);
            // `n ln Σ exp x - Σ p x` in each row, and `n q - p`.
            let cross = ((&n * z.log()?)? - (&p * &x)?.sum_keepdim(D::Minus1)?)?;
            let gradient = (e.broadcast_mul(&(n / z)?)? - &p)?.matmul(&self.u.t()?)?;
            Ok((cross.flatten_all()?.to_vec1()?, gradient))
        };
        let (cross, gradient) = work().map_err(|e| failed(&e))?;
        let cross: f64 = cross.into_iter().map(f64::from).sum();
        Ok((cross - wanted.entropy, rows(&gradient)?))
    }
}

/// A matrix as an array on the host.
pub(super) fn rows(x: &Tensor) -> Result<Array2<f32>> {
    let (n, width) = x.dims2().map_err(|e| failed(&e))?;
    let numbers = x.flatten_all().and_then(|x| x.to_vec1::<f32>()).map_err(|e| failed(&e))?;
    Ok(Array2::from_shape_vec((n, width), numbers).expect("as many numbers as the shape says"))
}
