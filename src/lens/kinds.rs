//! Least-squares lenses between "every layer its own" and "one for all": what may differ from layer to layer, and what
//! may not.

use std::sync::Arc;
use std::time::Instant;

use ndarray::{Array1, Array2, s};

use super::{AffineLens, LayerLenses, LayerMoments, LensKind, Moments, Ridge, Towards};
use crate::num::{SymmetricEigen, matmul};
use crate::{Error, ErrorKind, Result};

/// Alternations that a gain may take to settle; ten are usual.
const MAX_ALTERNATIONS: usize = 200;

impl Ridge {
    /// Fits the lenses of a kind.
    ///
    /// Fails on a stream that does not exist, where there is none to fit to, on a rank beyond the width of the target,
    /// and where [`fit`](Ridge::fit) does.
    ///
    /// ```
    /// use onelens::{lens::{LayerMoments, LensKind, Ridge}, model::{Config, Transformer}, ndarray::Array2};
    /// let model = Transformer::new(Config { d_vocab: 4, n_layers: 2, ..Default::default() })?;
    /// let tokens = Array2::from_shape_fn((40, 16), |(i, t)| ((i * t + i) % 4) as u32);
    /// let moments = LayerMoments::collect(&model, &tokens)?;
    /// let shared = Ridge::default().lenses(&moments, &LensKind::Shared)?;
    /// assert_eq!(shared.kind(), &LensKind::Shared);
    /// assert_eq!(shared.layer(0), shared.layer(2));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn lenses(&self, m: &LayerMoments, kind: &LensKind) -> Result<LayerLenses> {
        let began = Instant::now();
        let lenses = match *kind {
            LensKind::OwnBias => self.own_biases(m)?,
            LensKind::OwnGain => self.own_gains(m)?,
            LensKind::LowRank(rank) => self.of_rank(m, rank)?,
            LensKind::Own
            | LensKind::Shared
            | LensKind::Streams(_)
            | LensKind::LeftOut
            | LensKind::LeftOutWithoutLast
            | LensKind::Later
            | LensKind::Every(_)
            | LensKind::Folds(_) => self.of_pools(m, kind)?,
        };
        Ok(LayerLenses::new(&kind.name(), m, lenses, began).of_kind(kind.clone()))
    }

    /// Fits a lens of its own for every layer.
    pub fn own(&self, m: &LayerMoments) -> Result<LayerLenses> {
        self.lenses(m, &LensKind::Own)
    }

    /// Fits one lens for all layers, to all of them.
    pub fn shared(&self, m: &LayerMoments) -> Result<LayerLenses> {
        self.lenses(m, &LensKind::Shared)
    }

    /// Fits one lens for all layers, to some of them.
    ///
    /// Fails on a layer that does not exist, or on none.
    pub fn fitted_on(&self, m: &LayerMoments, layers: &[usize]) -> Result<LayerLenses> {
        self.lenses(m, &LensKind::Streams(layers.to_vec()))
    }

    /// Fits for each layer one lens to all *other* layers: what a lens that has never seen this layer makes of it.
    pub fn left_out(&self, m: &LayerMoments) -> Result<LayerLenses> {
        self.lenses(m, &LensKind::LeftOut)
    }

    /// Fits for each layer one lens to all *later* layers ([`LensKind::Later`]).
    pub fn later(&self, m: &LayerMoments) -> Result<LayerLenses> {
        self.lenses(m, &LensKind::Later)
    }

    /// Fits one matrix for all layers, and for each a bias of its own: `z = A h + b_l`.
    pub fn shared_own_bias(&self, m: &LayerMoments) -> Result<LayerLenses> {
        self.lenses(m, &LensKind::OwnBias)
    }

    /// Fits one matrix for all layers, and for each a gain, which is one number, and a bias of its own: `z = g_l A h +
    /// b_l`. Streams grow from layer to layer; a gain makes up for that and nothing else.
    pub fn shared_own_gain(&self, m: &LayerMoments) -> Result<LayerLenses> {
        self.lenses(m, &LensKind::OwnGain)
    }

    /// Fits a lens of its own for every layer, `T` plus a matrix of `rank`, where `T` is what the penalty pulls
    /// towards: the least-squares one of that rank (reduced-rank regression, Izenman 1975).
    ///
    /// Fails on a rank beyond the width of the target.
    pub fn low_rank(&self, m: &LayerMoments, rank: usize) -> Result<LayerLenses> {
        self.lenses(m, &LensKind::LowRank(rank))
    }

    fn of_pools(&self, m: &LayerMoments, kind: &LensKind) -> Result<Vec<Arc<AffineLens>>> {
        let (maps, map_of) = kind.maps(m)?;
        let fit = |(map, streams): (usize, &Vec<usize>)| {
            let moments = m.pooled(streams)?;
            self.fit(&moments).map(Arc::new).map_err(|e| {
                let of: Vec<usize> = (0..map_of.len()).filter(|&l| map_of[l] == map).collect();
                at_streams(&of, e)
            })
        };
        let fitted = maps.iter().enumerate().map(fit).collect::<Result<Vec<_>>>()?;
        Ok(map_of.iter().map(|&map| fitted[map].clone()).collect())
    }

    /// With `b_l = z̄ - A x̄_l` the means drop out, so that `A` is fitted to the sum of the second moments, each about
    /// the mean of its own layer.
    fn own_biases(&self, m: &LayerMoments) -> Result<Vec<Arc<AffineLens>>> {
        let shared = self.fit(&within(m, &Array1::ones(m.layers.len())))?;
        Ok(m.layers.iter().map(|layer| Arc::new(scaled(&shared.a, 1.0, layer))).collect())
    }

    /// Matrix and gains are fitted in turn, each in closed form, until the gains stand still. They begin with 1, so
    /// that least squares ends no worse than with own bias alone.
    fn own_gains(&self, m: &LayerMoments) -> Result<Vec<Arc<AffineLens>>> {
        let mut gains = Array1::ones(m.layers.len());
        let mut shared = self.fit(&within(m, &gains))?;
        for _ in 0..MAX_ALTERNATIONS {
            let fitted: Array1<f64> = m.layers.iter().map(|layer| gain(&shared.a, layer)).collect();
            let moved = (&fitted - &gains).fold(0.0_f64, |m, e| m.max(e.abs()));
            gains = fitted;
            shared = self.fit(&within(m, &gains))?;
            if moved < 1e-9 {
                break;
            }
        }
        let lens = |layer: &Moments| Arc::new(scaled(&shared.a, gain(&shared.a, layer), layer));
        Ok(m.layers.iter().map(lens).collect())
    }

    /// With `B = A - T` of full rank and `K` as in [`Ridge`], it is `T + V Vᵀ B`, `V` the first `rank` eigenvectors of
    /// `B K Bᵀ`.
    fn of_rank(&self, m: &LayerMoments, rank: usize) -> Result<Vec<Arc<AffineLens>>> {
        let of_layer = |moments: &Moments| {
            let d_z = moments.z_mean.len();
            if rank > d_z {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!("a lens of {d_z} outputs has no rank {rank}"),
                    format!("ask for a rank of 0 to {d_z}"),
                ));
            }
            let target = match self.towards {
                Towards::Zero => Array2::zeros(moments.s_zx.dim()),
                Towards::Identity => Array2::eye(d_z),
            };
            let from_target = self.fit(moments)?.a - &target;
            let s_yx = &moments.s_zx - &matmul(target.view(), moments.s_xx.view());
            let explained = matmul(from_target.view(), s_yx.t());
            let SymmetricEigen { vectors, .. } =
                SymmetricEigen::new(((&explained + &explained.t()) * 0.5).view())?;
            let first = vectors.slice(s![.., d_z - rank..]);
            let a = target + matmul(first, matmul(first.t(), from_target.view()).view());
            let b = &moments.z_mean - &a.dot(&moments.x_mean);
            Ok(Arc::new(AffineLens { a, b }))
        };
        m.layers.iter().enumerate().map(|(l, m)| of_layer(m).map_err(|e| at_streams(&[l], e))).collect()
    }
}

/// What went wrong with the lens of these streams.
fn at_streams(streams: &[usize], e: Error) -> Error {
    let which = match streams {
        [l] => format!("residual stream {l}"),
        _ => format!("residual streams {streams:?}"),
    };
    Error::new(e.kind(), format!("{which}: {}", e.what()), e.help())
}

/// The sum of all layers' second moments, each about the mean of its own layer and with its inputs scaled.
pub(super) fn within(m: &LayerMoments, gains: &Array1<f64>) -> Moments {
    let (d_z, d_x) = m.layers[0].s_zx.dim();
    let mut sum = Moments::new(d_x, d_z);
    for (layer, &gain) in m.layers.iter().zip(gains) {
        sum.n += layer.n;
        sum.weight += layer.weight;
        sum.s_xx.scaled_add(gain * gain, &layer.s_xx);
        sum.s_zx.scaled_add(gain, &layer.s_zx);
        sum.s_zz += &layer.s_zz;
    }
    sum
}

/// The number `g` for which `g A` has the least squared error about the means: `tr(A S_xz) / tr(A S_xx Aᵀ)`.
fn gain(a: &Array2<f64>, m: &Moments) -> f64 {
    let spread = (&matmul(a.view(), m.s_xx.view()) * a).sum();
    // A layer of which `A` reads nothing has any gain.
    if spread > 0.0 { (a * &m.s_zx).sum() / spread } else { 1.0 }
}

/// `g A` with the bias that suits this layer.
fn scaled(a: &Array2<f64>, gain: f64, m: &Moments) -> AffineLens {
    let a = a * gain;
    let b = &m.z_mean - &a.dot(&m.x_mean);
    AffineLens { a, b }
}
