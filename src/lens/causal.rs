//! Which directions of a residual stream a lens relies on, and whether the model relies on the same.

use ndarray::{Array1, Array2, Array3, ArrayView1, Axis};
use rayon::prelude::*;

use super::decoder::{Decoder, Wanted};
use super::lbfgs::Lbfgs;
use super::{AffineLens, LayerLenses, Lens, Scale};
use crate::model::{Hook, Intervention, Transformer, no_stream};
use crate::num::{SymmetricEigen, kl_divergence, log_softmax_rows, matmul, spearman};
use crate::session;
use crate::{Error, ErrorKind, Result};

/// The directions of one residual stream that a lens relies on most (causal basis extraction, Belrose et al. 2023,
/// section 4): each maximises the lens's change when the stream is replaced by its mean along it, among directions
/// orthogonal to those before.
///
/// The change is `E KL(q(h) ‖ q(h - v vᵀ(h - h̄)))`. If the lens is faithful, directions that matter to it matter to
/// the model, too: the ranks of both influences agree.
#[derive(Clone, Debug, PartialEq)]
pub struct CausalBasis {
    /// The residual stream.
    pub layer: usize,
    /// Orthonormal rows, most influential first, `[n, d_model]`.
    pub directions: Array2<f64>,
    /// Change of the lens's reading by ablating each, in nats.
    pub lens_influence: Vec<f64>,
    /// Change of the model's final prediction by ablating each in the running model, in nats.
    pub model_influence: Vec<f64>,
}

/// Evaluations for each direction; a direction changes little after half of them.
const STEPS: usize = 40;
/// Searches for each direction.
const STARTS: usize = 3;

impl CausalBasis {
    /// Finds the `n` most influential directions of residual stream `layer`, measured on `tokens: [sequence, pos]`,
    /// whose activations at that stream are held in memory: a few thousand tokens serve.
    ///
    /// Fails on a stream that does not exist, more directions than its width, a lens or tokens that do not fit the
    /// model, or when interrupted.
    pub fn new(
        model: &Transformer,
        lens: &LayerLenses,
        layer: usize,
        n: usize,
        tokens: &Array2<u32>,
    ) -> Result<Self> {
        lens.check_model(model)?;
        model.check_tokens(tokens)?;
        let d = model.config.d_model;
        let map = lens.layer(layer).ok_or_else(|| no_stream(layer, lens.len()))?;
        if lens.scale() != Scale::AsItIs {
            return Err(Error::new(
                ErrorKind::Config,
                format!("the {} reads streams at the scale {:?}", lens.name(), lens.scale()),
                "ablate with a lens of streams as they are (`LayerMoments::collect_with`)",
            ));
        }
        if n == 0 || n > d {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{n} directions of a stream of width {d}"),
                format!("ask for 1 to {d}"),
            ));
        }
        let ablation = Ablation::new(model, lens, map, layer, tokens)?;
        let mut directions = Array2::<f64>::zeros((0, d));
        let mut lens_influence = Vec::new();
        for _ in 0..n {
            if session::interrupted() {
                return Err(Error::new(
                    ErrorKind::Interrupted,
                    format!("interrupted after {} of {n} directions", directions.nrows()),
                    "run the cell again, with fewer directions or tokens if it takes too long",
                ));
            }
            let (direction, influence) = ablation.most_influential(&directions)?;
            directions.push_row(direction.view()).expect("of the same width");
            lens_influence.push(influence);
        }
        let model_influence = directions.rows().into_iter().map(|v| ablation.of_model(tokens, v));
        let model_influence = model_influence.collect::<Result<_>>()?;
        Ok(CausalBasis { layer, directions, lens_influence, model_influence })
    }

    /// Computes Spearman's rank correlation of both influences: 1 if the model relies on the directions in the order in
    /// which the lens does.
    pub fn rank_correlation(&self) -> f64 {
        spearman(&self.lens_influence, &self.model_influence)
    }
}

/// What replacing a stream by its mean along a direction does.
struct Ablation<'a> {
    model: &'a Transformer,
    map: AffineLens,
    layer: usize,
    /// `h - h̄`, in pieces for threads, each with what the lens reads before.
    pieces: Vec<(Array2<f32>, Wanted)>,
    decoder: Decoder,
    mean: Array1<f32>,
    n_tokens: f64,
}

const PIECE: usize = 256;

impl<'a> Ablation<'a> {
    fn new(
        model: &'a Transformer,
        lens: &'a LayerLenses,
        map: AffineLens,
        layer: usize,
        tokens: &Array2<u32>,
    ) -> Result<Self> {
        let hook = Hook::of_stream(layer);
        let (_, cache) = model.run_with_cache_of(tokens, &[], &|h| h == hook)?;
        let kept = cache.get(hook)?;
        let shape = (tokens.len(), model.config.d_model);
        let h = kept.into_shape_with_order(shape).expect("one row per token");
        let mean = h.mapv(f64::from).mean_axis(Axis(0)).expect("there are tokens").mapv(|x| x as f32);
        let pieces = h
            .axis_chunks_iter(Axis(0), PIECE)
            .map(|rows| Ok((&rows - &mean, Wanted::of_log_probabilities(lens.read(model, layer, rows)?))))
            .collect::<Result<_>>()?;
        let decoder = Decoder::new(model, lens.target());
        Ok(Ablation { model, map, layer, pieces, decoder, mean, n_tokens: tokens.len() as f64 })
    }

    /// The lens's change in nats when the unit vector `v` is ablated, and its gradient by `v`.
    fn of_lens(&self, v: &Array1<f64>) -> (f64, Array1<f64>) {
        let column = v.mapv(|x| x as f32).insert_axis(Axis(1));
        let a = self.map.a.mapv(|x| x as f32);
        let parts: Vec<(f64, Array1<f64>)> = self
            .pieces
            .par_iter()
            .map(|(centred, wanted)| {
                let along = matmul(centred.view(), column.view());
                let ablated = centred - &matmul(along.view(), column.t()) + &self.mean;
                let (kl, dz) = self.decoder.kl_and_gradient(wanted, self.map.map(ablated.view()));
                let dh = matmul(dz.view(), a.view());
                // h' = c - v (vᵀc) + h̄, so dv = -Σ (vᵀc) dh' + (dh'ᵀv) c.
                let back = matmul(dh.view(), column.view());
                let dv = matmul(dh.t(), along.view()) + matmul(centred.t(), back.view());
                (kl, dv.column(0).mapv(|x| -f64::from(x)))
            })
            .collect();
        let (mut kl, mut dv) = (0.0, Array1::zeros(v.len()));
        for (part, dpart) in parts {
            kl += part;
            dv += &dpart;
        }
        (kl / self.n_tokens, dv / self.n_tokens)
    }

    /// The unit vector of most influence that is orthogonal to the rows of `before`.
    fn most_influential(&self, before: &Array2<f64>) -> Result<(Array1<f64>, f64)> {
        let free = |x: &Array1<f64>| x - &before.t().dot(&before.dot(x));
        let unit = |w: &Array1<f64>| {
            let u = free(w);
            let length = u.dot(&u).sqrt();
            (u / length, length)
        };
        // Searches begin at those principal directions, still free, that have most influence; each ends at a maximum of
        // its own.
        let mut covariance = Array2::<f64>::zeros((self.mean.len(), self.mean.len()));
        for (centred, _) in &self.pieces {
            covariance += &matmul(centred.t(), centred.view()).mapv(f64::from);
        }
        let away = Array2::<f64>::eye(self.mean.len()) - before.t().dot(before);
        let left = away.dot(&covariance).dot(&away);
        let principal = SymmetricEigen::new(((&left + &left.t()) * 0.5).view())?.vectors;
        let candidates = principal.columns().into_iter().rev().take(8.min(self.mean.len() - before.nrows()));
        let mut starts: Vec<(f64, Array1<f64>)> =
            candidates.map(|v| (self.of_lens(&unit(&v.to_owned()).0).0, v.to_owned())).collect();
        starts.sort_by(|a, b| b.0.total_cmp(&a.0));
        // Along w with v = P w / |P w|: the slope is that of v without its part along v, divided by |P w|.
        let evaluate = |w: &Array1<f64>| {
            let (v, length) = unit(w);
            let (influence, dv) = self.of_lens(&v);
            let dv = free(&dv);
            let tangent = &dv - &(&v * v.dot(&dv));
            (-influence, tangent / -length)
        };
        let climb = |start: Array1<f64>| {
            let (value, slope) = evaluate(&start);
            let mut search = Lbfgs::new(start.clone(), value, slope);
            let mut best = start;
            for _ in 0..STEPS {
                if search.done() {
                    break;
                }
                let trial = search.trial();
                let (value, slope) = evaluate(&trial);
                if search.tell(value, slope) {
                    best = trial;
                }
            }
            (unit(&best).0, -search.value())
        };
        let ends = starts.into_iter().take(STARTS).map(|(_, start)| climb(start));
        Ok(ends.max_by(|a, b| a.1.total_cmp(&b.1)).expect("fewer directions than the width were asked for"))
    }

    /// The change of the model's own prediction when `v` is ablated while it runs.
    fn of_model(&self, tokens: &Array2<u32>, v: ArrayView1<f64>) -> Result<f64> {
        let column = v.mapv(|x| x as f32).insert_axis(Axis(1));
        let d = self.mean.len();
        let ablated: Vec<f32> = self
            .pieces
            .iter()
            .flat_map(|(centred, _)| {
                let along = matmul(centred.view(), column.view());
                (centred - &matmul(along.view(), column.t()) + &self.mean).into_iter()
            })
            .collect();
        let (n_seqs, n_pos) = tokens.dim();
        let ablated = Array3::from_shape_vec((n_seqs, n_pos, d), ablated).expect("one row per token");
        let change = [Intervention::replace(Hook::of_stream(self.layer), ablated)];
        let rows = |logits: Array3<f32>| -> Array2<f32> {
            let width = logits.len_of(Axis(2));
            let logits = logits.into_shape_with_order((tokens.len(), width)).expect("one row per token");
            log_softmax_rows(logits.view())
        };
        let (before, after) =
            (rows(self.model.forward(tokens)?), rows(self.model.run_with(tokens, &change)?));
        let total: f64 = before.rows().into_iter().zip(after.rows()).map(|(p, q)| kl_divergence(p, q)).sum();
        Ok(total / self.n_tokens)
    }
}
