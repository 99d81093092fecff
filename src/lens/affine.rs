//! What a lens is: a map from a residual stream to a guess of the last one.

use std::sync::Arc;

use ndarray::{Array1, Array2, ArrayView1, ArrayView2};
use serde::{Deserialize, Serialize};

use super::layers::check_fingerprint;
use crate::Result;
use crate::model::Transformer;
use crate::num::matmul;

/// `z = A h + b`.
///
/// ```
/// use onelens::{lens::AffineLens, ndarray::array};
/// let lens = AffineLens { a: array![[2.0, 0.0], [0.0, 1.0]], b: array![0.5, 0.0] };
/// assert_eq!(lens.transport(array![[1.0, 3.0]].view()), array![[2.5, 3.0]]);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AffineLens {
    /// `[d_model, d_model]`, target first.
    pub a: Array2<f64>,
    /// `[d_model]`.
    pub b: Array1<f64>,
}

impl AffineLens {
    /// The lens that changes nothing: the logit lens's.
    pub fn identity(d: usize) -> Self {
        AffineLens { a: Array2::eye(d), b: Array1::zeros(d) }
    }

    /// `h: [rows, d_model]` to `[rows, d_model]`.
    pub fn transport(&self, h: ArrayView2<f32>) -> Array2<f32> {
        let a = self.a.mapv(|x| x as f32);
        let mut z = matmul(h, a.t());
        z += &self.b.mapv(|x| x as f32);
        z
    }

    /// `A x + b` in f64.
    pub(crate) fn apply(&self, x: ArrayView1<f64>) -> Array1<f64> {
        self.a.dot(&x) + &self.b
    }
}

/// Something that reads a residual stream as if it were the last one.
pub trait Lens: Sync {
    /// A short name for legends.
    fn name(&self) -> String;

    /// Maps residual stream `layer` (0 is the embedding), `h: [rows, d_model]`, to a guess of the last, `[rows, d_model]`.
    fn transport(&self, layer: usize, h: ArrayView2<f32>) -> Array2<f32>;

    /// Refuses a model that this lens was not made for.
    fn check_model(&self, model: &Transformer) -> Result<()>;
}

/// Reads every residual stream as it is (nostalgebraist 2020). Nothing to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogitLens;

impl Lens for LogitLens {
    fn name(&self) -> String {
        "logit lens".into()
    }

    fn transport(&self, _layer: usize, h: ArrayView2<f32>) -> Array2<f32> {
        h.to_owned()
    }

    fn check_model(&self, _model: &Transformer) -> Result<()> {
        Ok(())
    }
}

/// One affine lens for each residual stream, own or shared.
#[derive(Clone, PartialEq)]
pub struct LayerLenses {
    name: String,
    fingerprint: u64,
    // A shared lens is one matrix, however many layers read through it.
    lenses: Vec<Arc<AffineLens>>,
}

impl LayerLenses {
    pub(crate) fn new(name: &str, fingerprint: u64, lenses: Vec<Arc<AffineLens>>) -> Self {
        LayerLenses { name: name.into(), fingerprint, lenses }
    }

    /// The lens of one residual stream, if there is such a stream.
    pub fn layer(&self, layer: usize) -> Option<AffineLens> {
        self.lenses.get(layer).map(|l| l.as_ref().clone())
    }

    /// Number of residual streams, one more than the model has blocks.
    #[allow(clippy::len_without_is_empty)] // a model has at least one block
    pub fn len(&self) -> usize {
        self.lenses.len()
    }

    pub(crate) fn lenses(&self) -> &[Arc<AffineLens>] {
        &self.lenses
    }

    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

impl Lens for LayerLenses {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn transport(&self, layer: usize, h: ArrayView2<f32>) -> Array2<f32> {
        self.lenses[layer].transport(h)
    }

    fn check_model(&self, model: &Transformer) -> Result<()> {
        check_fingerprint(&format!("lenses ({}) are", self.name), self.fingerprint, model)
    }
}

impl std::fmt::Debug for LayerLenses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LayerLenses: {}, {} residual streams", self.name, self.len())
    }
}
