//! The tuned lens: the affine map of least KL, from the closed form on.

use std::sync::Arc;
use std::time::Instant;

use ndarray::{Array1, Array2, ArrayView2, Axis};
use rayon::prelude::*;

use super::layers::check_fingerprint;
use super::lbfgs::Lbfgs;
use super::{AffineLens, LayerLenses, LayerMoments, Lens};
use crate::model::{Norm, Transformer};
use crate::nn::{gain_bias, layer_norm, layer_norm_backward, linear, rms_norm, rms_norm_backward};
use crate::num::{SymmetricEigen, kl_divergence, log_softmax_rows, matmul};
use crate::session::{self, Progress};
use crate::{Error, ErrorKind, Result};

/// Refines affine lenses to the least mean `KL(p ‖ q_l)`, `q_l = softmax(U N(A h_l + b))` (Belrose et al. 2023, equation 6), by
/// L-BFGS with a line search, from lenses fitted in closed form.
///
/// Each layer's input is whitened with its `S_xx`, so that all directions are of one scale. A pass runs the model over all
/// tokens once and serves every layer; activations are never held for more than a few sequences.
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
    /// Length of the gradient at the end, with the input whitened, in nats; one per residual stream.
    pub gradient_norm: Vec<f64>,
    /// Time it took.
    pub seconds: f64,
}

/// Sequences run at a time by one thread.
const CHUNK: usize = 4;
/// Chunks between two looks at an interrupt: what bounds the memory.
const ROUND: usize = 16;

impl Refine {
    /// Refines `start` on `tokens: [sequence, pos]`; `moments` are those it was fitted to.
    ///
    /// Fails if lenses, moments and model do not belong together, a layer has no variance at all, the tokens do not fit, or when
    /// interrupted.
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
        model.check_tokens(tokens)?;
        let whitened: Vec<Whitened> = moments
            .layers
            .iter()
            .map(|m| Whitened::new(m.s_xx.view(), m.weight, m.x_mean.clone()))
            .collect::<Result<_>>()?;
        let mut lenses: Vec<AffineLens> = start.lenses().iter().map(|l| l.as_ref().clone()).collect();
        let mut progress = Progress::new("refining", self.passes + 1);
        let every = vec![true; lenses.len()];
        let mut searches: Vec<Lbfgs> = evaluate(model, &lenses, &every, &whitened, tokens)?
            .into_iter()
            .zip(lenses.iter().zip(&whitened))
            .map(|(at, (lens, w))| Lbfgs::new(w.enter(lens), at.kl, w.gradient(&at)))
            .collect();
        let mut training_kl: Vec<f64> = searches.iter().map(Lbfgs::value).collect();
        for pass in 0..self.passes {
            let active: Vec<bool> = searches.iter().map(|s| !s.done()).collect();
            let trials: Vec<AffineLens> =
                searches.iter().zip(&whitened).map(|(s, w)| w.leave(&s.trial())).collect();
            let seen = evaluate(model, &trials, &active, &whitened, tokens)?;
            for (l, (at, trial)) in seen.into_iter().zip(trials).enumerate() {
                if active[l] && searches[l].tell(at.kl, whitened[l].gradient(&at)) {
                    lenses[l] = trial;
                }
            }
            training_kl.extend(searches.iter().map(Lbfgs::value));
            progress.update(pass + 1, || "passes".into());
        }
        progress.finish(&format!("{} layers, {} passes", lenses.len(), self.passes));
        let n_streams = lenses.len();
        Ok(TunedLens {
            lenses: LayerLenses::new(
                "tuned lens",
                moments,
                lenses.into_iter().map(Arc::new).collect(),
                began,
            ),
            training_kl: Array2::from_shape_vec((self.passes + 1, n_streams), training_kl)
                .expect("one row per pass"),
            gradient_norm: searches.iter().map(Lbfgs::gradient_norm).collect(),
            seconds: began.elapsed().as_secs_f64(),
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

/// Coordinates in which the input has mean 0 and covariance 1: `A h + b = M W (h - x̄) + c`.
struct Whitened {
    /// `W = (S_xx / n)^(-1/2)`.
    w: Array2<f64>,
    /// `W⁻¹`.
    w_inverse: Array2<f64>,
    x_mean: Array1<f64>,
}

impl Whitened {
    fn new(s_xx: ArrayView2<f64>, weight: f64, x_mean: Array1<f64>) -> Result<Self> {
        let SymmetricEigen { values, vectors } = SymmetricEigen::new(s_xx)?;
        let largest = values.fold(0.0_f64, |m, s| m.max(*s));
        if largest <= 0.0 {
            return Err(Error::new(
                ErrorKind::Numeric,
                "a residual stream has no variance: it is the same at every token",
                "collect moments of more, or of different, tokens",
            ));
        }
        // Directions below the rounding of f32 products are left at that scale instead of being blown up.
        let deviations = values.mapv(|s| (s.max(1e-6 * largest) / weight).sqrt());
        let of = |scales: Array1<f64>| matmul((&vectors * &scales).view(), vectors.t());
        Ok(Whitened { w: of(deviations.recip()), w_inverse: of(deviations), x_mean })
    }

    /// `M` and `c` of a lens, one after the other.
    fn enter(&self, lens: &AffineLens) -> Array1<f64> {
        let m = matmul(lens.a.view(), self.w_inverse.view());
        let c = lens.apply(self.x_mean.view());
        m.into_iter().chain(c).collect()
    }

    fn leave(&self, point: &Array1<f64>) -> AffineLens {
        let d = self.x_mean.len();
        let m =
            Array2::from_shape_vec((d, d), point.iter().take(d * d).copied().collect()).expect("d² numbers");
        let a = matmul(m.view(), self.w.view());
        let c: Array1<f64> = point.iter().skip(d * d).copied().collect();
        let b = c - a.dot(&self.x_mean);
        AffineLens { a, b }
    }

    /// The gradient by `M` and `c`. (`W` is symmetric.)
    fn gradient(&self, at: &Evaluation) -> Array1<f64> {
        matmul(at.da.view(), self.w.view()).into_iter().chain(at.db.iter().copied()).collect()
    }
}

/// Mean KL of a lens with its gradient.
struct Evaluation {
    kl: f64,
    /// Mean of `dz (h - x̄)ᵀ`.
    da: Array2<f64>,
    /// Mean of `dz`.
    db: Array1<f64>,
}

/// One pass over the tokens for all lenses that are `active`; zeros for the others.
fn evaluate(
    model: &Transformer,
    lenses: &[AffineLens],
    active: &[bool],
    whitened: &[Whitened],
    tokens: &Array2<u32>,
) -> Result<Vec<Evaluation>> {
    let d = model.config.d_model;
    let nothing = || Evaluation { kl: 0.0, da: Array2::zeros((d, d)), db: Array1::zeros(d) };
    let mut sums: Vec<Evaluation> = lenses.iter().map(|_| nothing()).collect();
    for round in tokens.axis_chunks_iter(Axis(0), CHUNK * ROUND) {
        if session::interrupted() {
            return Err(Error::new(
                ErrorKind::Data,
                "interrupted while refining lenses",
                "run the cell again, with fewer `passes` if it takes too long",
            ));
        }
        let chunks: Vec<_> = round.axis_chunks_iter(Axis(0), CHUNK).collect();
        let parts: Vec<Vec<Evaluation>> = chunks
            .into_par_iter()
            .map(|chunk| {
                let tape = model.tape(chunk);
                let log_p = log_softmax_rows(tape.logits.view());
                let one = |l: usize| {
                    if !active[l] {
                        return nothing();
                    }
                    let h = tape.resid(l);
                    let (kl, dz) = kl_and_gradient(model, log_p.view(), lenses[l].transport(h.view()).view());
                    let centred = h - &whitened[l].x_mean.mapv(|x| x as f32);
                    Evaluation {
                        kl,
                        da: matmul(dz.t(), centred.view()).mapv(f64::from),
                        db: dz.mapv(f64::from).sum_axis(Axis(0)),
                    }
                };
                (0..lenses.len()).map(one).collect()
            })
            .collect();
        for part in parts {
            for (sum, part) in sums.iter_mut().zip(part) {
                sum.kl += part.kl;
                sum.da += &part.da;
                sum.db += &part.db;
            }
        }
    }
    let n = tokens.len() as f64;
    for sum in &mut sums {
        sum.kl /= n;
        sum.da /= n;
        sum.db /= n;
    }
    Ok(sums)
}

/// `Σ KL(p ‖ softmax(U N(z)))` over the rows of `z: [rows, d_model]`, and its gradient by `z`.
fn kl_and_gradient(model: &Transformer, log_p: ArrayView2<f32>, z: ArrayView2<f32>) -> (f64, Array2<f32>) {
    let (config, params) = (&model.config, &model.params);
    let normed = match config.norm {
        Norm::Layer => Some(layer_norm(z, config.eps)),
        Norm::Rms => Some(rms_norm(z, config.eps)),
        Norm::None => None,
    };
    let read = match &normed {
        Some((y, _)) => gain_bias(y.view(), params.ln_final_w.view(), params.ln_final_b.view()),
        None => z.to_owned(),
    };
    let log_q = log_softmax_rows(linear(read.view(), params.unembedding(), params.b_u.view()).view());
    let kl = log_p.rows().into_iter().zip(log_q.rows()).map(|(p, q)| kl_divergence(p, q)).sum();
    let dlogits = log_q.mapv(f32::exp) - log_p.mapv(f32::exp);
    let dread = matmul(dlogits.view(), params.unembedding().t());
    let dz = match &normed {
        None => dread,
        Some((y, rstd)) => {
            let dy = &dread * &params.ln_final_w;
            match config.norm {
                Norm::Rms => rms_norm_backward(dy.view(), y.view(), rstd.view()),
                Norm::Layer | Norm::None => layer_norm_backward(dy.view(), y.view(), rstd.view()),
            }
        }
    };
    (kl, dz)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lens::Ridge;
    use crate::model::Config;
    use crate::num::{rng, uniform_index};

    #[test]
    fn gradient_of_the_kl_is_its_central_difference_for_every_norm() {
        for norm in [Norm::Layer, Norm::Rms, Norm::None] {
            let model = Transformer::new(Config {
                d_vocab: 7,
                d_model: 6,
                n_heads: 2,
                d_head: 3,
                norm,
                ..Default::default()
            })
            .unwrap();
            let mut random = rng(3, 0);
            let mut row = |rows: usize, columns: usize| {
                Array2::from_shape_simple_fn((rows, columns), || {
                    uniform_index(&mut random, 1000) as f32 / 250.0 - 2.0
                })
            };
            let (log_p, z) = (log_softmax_rows(row(2, 7).view()), row(2, 6));
            let (_, dz) = kl_and_gradient(&model, log_p.view(), z.view());
            for ((i, j), &got) in dz.indexed_iter() {
                let kl = |step: f32| {
                    let mut moved = z.clone();
                    moved[(i, j)] += step;
                    kl_and_gradient(&model, log_p.view(), moved.view()).0
                };
                let want = (kl(0.02) - kl(-0.02)) / 0.04;
                assert!(
                    (f64::from(got) - want).abs() < 1e-3 * (0.1 + want.abs()),
                    "{norm:?} {i} {j}: {got} and {want}"
                );
            }
        }
    }

    #[test]
    fn whitened_coordinates_lead_back_to_the_lens() {
        let model = Transformer::new(Config { d_vocab: 9, n_layers: 1, ..Default::default() }).unwrap();
        let mut random = rng(4, 0);
        let tokens = Array2::from_shape_simple_fn((40, 16), || uniform_index(&mut random, 9) as u32);
        let moments = LayerMoments::collect(&model, &tokens).unwrap();
        let m = &moments.layers[0];
        let w = Whitened::new(m.s_xx.view(), m.weight, m.x_mean.clone()).unwrap();
        let lens = Ridge::default().fit(m).unwrap();
        let back = w.leave(&w.enter(&lens));
        assert!((&back.a - &lens.a).iter().chain(&(&back.b - &lens.b)).all(|e| e.abs() < 1e-9));
    }
}
