//! The tuned lens: the affine map of least KL, from the closed form on.

use std::sync::Arc;
use std::time::Instant;

use ndarray::{Array1, Array2, ArrayView2};

use super::layers::check_fingerprint;
use super::lbfgs::Lbfgs;
use super::objective::Objective;
use super::{AffineLens, LayerLenses, LayerMoments, Lens, sweeps};
use crate::model::Transformer;
use crate::session::Progress;
use crate::{Error, ErrorKind, Result};

/// Refines affine lenses to the least mean `KL(p ‖ q_l)` (Belrose et al. 2023, equation 6) from lenses fitted in closed form:
/// pre-norm ones, `q_l = softmax(U N(A h_l + b))`, or post-norm ones, `q_l = softmax(U (A h_l + b))`, or probes,
/// `q_l = softmax(A h_l + b)`.
///
/// Two phases. *Sweeps* are natural-gradient steps on batches of the tokens, with momentum and a rate that falls to 0; curvature is taken as
/// the product of the input's covariance and the mean Fisher matrix of the output (K-FAC; Martens & Grosse 2015), so that all directions are
/// of one scale. *Passes* are steps of L-BFGS with a line search on all tokens in the same coordinates. A layer that sweeps did not better
/// keeps its start.
///
/// For post-norm lenses and probes the problem is convex: where the gradient vanishes, no better lens is left to find. Ask for passes
/// to get there.
///
/// Streams are kept from pass to pass up to 1 GiB; beyond, the model runs again for each pass, and they are never held for more than a
/// few sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refine {
    /// Times through the tokens in batches.
    pub sweeps: usize,
    /// Steps on all tokens after that. With 0 of both nothing changes.
    pub passes: usize,
}

impl Default for Refine {
    fn default() -> Self {
        Refine { sweeps: 12, passes: 3 }
    }
}

/// Lenses of least KL, one for each residual stream.
#[derive(Clone)]
pub struct TunedLens {
    /// The maps.
    pub lenses: LayerLenses,
    /// Mean KL on the training tokens in nats, `[step, residual stream]`: where the search began, then after all sweeps if there were
    /// any, then after each pass. No column ever rises.
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
        let objective = Objective::new(model, tokens, start.target(), None);
        let Refined { lenses, training_kl, gradient_norm } = self.search(objective, start, moments)?;
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
        mut objective: Objective,
        start: &LayerLenses,
        moments: &LayerMoments,
    ) -> Result<Refined> {
        objective.keep_streams();
        let mut lenses: Vec<AffineLens> = start.lenses().iter().map(|l| l.as_ref().clone()).collect();
        let every = vec![true; lenses.len()];
        let x_means: Vec<Array1<f64>> = moments.layers.iter().map(|m| m.x_mean.clone()).collect();
        let mut progress = Progress::new("refining", self.sweeps + self.passes);
        let mut at = objective.evaluate(&lenses, &every, &x_means)?;
        let mut training_kl: Vec<f64> = at.iter().map(|at| at.kl).collect();
        if self.sweeps > 0 {
            let mut moved = lenses.clone();
            sweeps::descend(&objective, moments, &mut moved, self.sweeps, &mut progress)?;
            let there = objective.evaluate(&moved, &every, &x_means)?;
            for (l, (lens, there)) in moved.into_iter().zip(there).enumerate() {
                // False for a KL that is not a number, too.
                if there.kl < at[l].kl {
                    (lenses[l], at[l]) = (lens, there);
                }
            }
            training_kl.extend(at.iter().map(|at| at.kl));
        }
        let whitened = sweeps::whiten(&objective, moments, &lenses)?;
        let mut searches: Vec<Lbfgs> = at
            .iter()
            .zip(lenses.iter().zip(&whitened))
            .map(|(at, (lens, w))| Lbfgs::new(w.enter(lens), at.kl, w.gradient(at)))
            .collect();
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
            progress.update(self.sweeps + pass + 1, || "passes".into());
        }
        progress.finish(&format!("{} layers, {} sweeps, {} passes", lenses.len(), self.sweeps, self.passes));
        let shape = (training_kl.len() / lenses.len(), lenses.len());
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
        write!(f, "TunedLens: {} residual streams, fitted in {:.1} s", self.lenses.len(), self.seconds)
    }
}
