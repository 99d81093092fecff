//! The tuned lens: the affine map of least KL, from the closed form on.

use std::sync::Arc;
use std::time::Instant;

use ndarray::{Array1, Array2, ArrayView2};

use super::layers::check_fingerprint;
use super::lbfgs::Lbfgs;
use super::objective::Objective;
use super::whitened::Whitened;
use super::{AffineLens, LayerLenses, LayerMoments, Lens, Target};
use crate::model::Transformer;
use crate::session::Progress;
use crate::{Error, ErrorKind, Result};

/// Refines affine lenses to the least mean `KL(p ‖ q_l)` (Belrose et al. 2023, equation 6), by L-BFGS with a line search, from lenses
/// fitted in closed form: pre-norm ones, `q_l = softmax(U N(A h_l + b))`, or post-norm ones, `q_l = softmax(U (A h_l + b))`, or
/// probes, `q_l = softmax(A h_l + b)`.
///
/// For post-norm lenses and probes the problem is convex: where the gradient vanishes, no better lens is left to find.
///
/// Each layer's input is whitened with its `S_xx`, so that all directions are of one scale, and the output of a post-norm lens with the
/// mean Fisher matrix `Uᵀ E[diag p - p pᵀ] U`. A pass runs the model over all tokens once and serves every layer; activations are
/// never held for more than a few sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refine {
    /// Passes over the tokens after the first, which measures where the search begins. 0 changes nothing.
    pub passes: usize,
}

impl Default for Refine {
    fn default() -> Self {
        Refine { passes: 10 }
    }
}

/// Lenses of least KL, one for each residual stream.
#[derive(Clone)]
pub struct TunedLens {
    /// The maps.
    pub lenses: LayerLenses,
    /// Mean KL on the training tokens in nats, `[pass, residual stream]`; row 0 is where the search began. No column ever rises.
    pub training_kl: Array2<f64>,
    /// Length of the gradient at the end, with input (and post-norm output) whitened, in nats; one per residual stream.
    pub gradient_norm: Vec<f64>,
    /// Time it took.
    pub seconds: f64,
}

/// Where a search has ended.
pub(super) struct Refined {
    pub(super) lenses: Vec<Arc<AffineLens>>,
    pub(super) training_kl: Array2<f64>,
    pub(super) gradient_norm: Vec<f64>,
}

impl Refine {
    /// Refines `start` on `tokens: [sequence, pos]`; `moments` are those it was fitted to.
    ///
    /// Fails if lenses, moments and model do not belong together, the lenses predict no tokens, a layer has no variance at all,
    /// the tokens do not fit, or when interrupted.
    pub fn fit(
        &self,
        model: &Transformer,
        start: &LayerLenses,
        moments: &LayerMoments,
        tokens: &Array2<u32>,
    ) -> Result<TunedLens> {
        let began = Instant::now();
        start.check_model(model)?;
        check_fingerprint("moments are", moments.fingerprint, model)?;
        if moments.target != start.target() {
            return Err(Error::new(
                ErrorKind::Config,
                format!("lenses with the target {:?} and moments with {:?}", start.target(), moments.target),
                "pass the moments that the lenses were fitted to",
            ));
        }
        model.check_tokens(tokens)?;
        let objective = Objective { model, tokens, target: start.target(), labels: None };
        let Refined { lenses, training_kl, gradient_norm } = self.search(&objective, start, moments)?;
        Ok(TunedLens {
            lenses: LayerLenses::new("tuned lens", moments, lenses, began),
            training_kl,
            gradient_norm,
            seconds: began.elapsed().as_secs_f64(),
        })
    }

    /// Lowers the objective from `start` on, all layers side by side.
    pub(super) fn search(
        &self,
        objective: &Objective,
        start: &LayerLenses,
        moments: &LayerMoments,
    ) -> Result<Refined> {
        let fisher = (objective.target == Target::Normalised).then(|| objective.fisher());
        let fisher = fisher.as_ref().map(|f| f.view());
        let whitened: Vec<Whitened> =
            moments.layers.iter().map(|m| Whitened::new(m, fisher)).collect::<Result<_>>()?;
        let x_means: Vec<Array1<f64>> = whitened.iter().map(|w| w.x_mean.clone()).collect();
        let mut lenses: Vec<AffineLens> = start.lenses().iter().map(|l| l.as_ref().clone()).collect();
        let mut progress = Progress::new("refining", self.passes + 1);
        let every = vec![true; lenses.len()];
        let mut searches: Vec<Lbfgs> = objective
            .evaluate(&lenses, &every, &x_means)?
            .into_iter()
            .zip(lenses.iter().zip(&whitened))
            .map(|(at, (lens, w))| Lbfgs::new(w.enter(lens), at.kl, w.gradient(&at)))
            .collect();
        let mut training_kl: Vec<f64> = searches.iter().map(Lbfgs::value).collect();
        for pass in 0..self.passes {
            let active: Vec<bool> = searches.iter().map(|s| !s.done()).collect();
            if active.contains(&true) {
                let trials: Vec<AffineLens> =
                    searches.iter().zip(&whitened).map(|(s, w)| w.leave(&s.trial())).collect();
                let seen = objective.evaluate(&trials, &active, &x_means)?;
                for (l, (at, trial)) in seen.into_iter().zip(trials).enumerate() {
                    if active[l] && searches[l].tell(at.kl, whitened[l].gradient(&at)) {
                        lenses[l] = trial;
                    }
                }
            }
            training_kl.extend(searches.iter().map(Lbfgs::value));
            progress.update(pass + 1, || "passes".into());
        }
        progress.finish(&format!("{} layers, {} passes", lenses.len(), self.passes));
        let shape = (self.passes + 1, lenses.len());
        Ok(Refined {
            lenses: lenses.into_iter().map(Arc::new).collect(),
            training_kl: Array2::from_shape_vec(shape, training_kl).expect("one row per pass"),
            gradient_norm: searches.iter().map(Lbfgs::gradient_norm).collect(),
        })
    }
}

impl Lens for TunedLens {
    fn name(&self) -> String {
        self.lenses.name()
    }

    fn transport(&self, layer: usize, h: ArrayView2<f32>) -> Array2<f32> {
        self.lenses.transport(layer, h)
    }

    fn decode(&self, model: &Transformer, z: ArrayView2<f32>) -> Array2<f32> {
        self.lenses.decode(model, z)
    }

    fn check_model(&self, model: &Transformer) -> Result<()> {
        self.lenses.check_model(model)
    }

    fn fit_seconds(&self) -> f64 {
        self.seconds
    }
}

impl std::fmt::Debug for TunedLens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let passes = self.training_kl.nrows() - 1;
        write!(f, "TunedLens: {} residual streams, {passes} passes, {:.1} s", self.lenses.len(), self.seconds)
    }
}
