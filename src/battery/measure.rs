//! One network, one pass of lenses: what each kind of lens reads at each stream, and where updates point.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, concatenate};
use serde::{Deserialize, Serialize};

use super::Streams;
use super::streams::centred;
use crate::Result;
use crate::lens::{AffineLens, Moments, Ridge, Towards};
use crate::num::{kl_divergence, matmul};

/// How much a lens knows of the layer that it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LensKind {
    /// Fitted to this layer alone.
    Own,
    /// One matrix and one intercept for all layers.
    Shared,
    /// One matrix for all; an intercept for each.
    OwnBias,
    /// One matrix for all; an intercept and a factor for each.
    OwnGain,
    /// Fitted to all other layers.
    LeftOut,
    /// Fitted to all later layers.
    Later,
}

impl LensKind {
    /// Every kind.
    pub const ALL: [LensKind; 6] = [
        LensKind::Own,
        LensKind::Shared,
        LensKind::OwnBias,
        LensKind::OwnGain,
        LensKind::LeftOut,
        LensKind::Later,
    ];

    /// How figures call it.
    pub fn name(self) -> &'static str {
        match self {
            LensKind::Own => "own",
            LensKind::Shared => "shared",
            LensKind::OwnBias => "own bias",
            LensKind::OwnGain => "own gain",
            LensKind::LeftOut => "left out",
            LensKind::Later => "later layers",
        }
    }
}

/// What was measured on the held-out half of one network's sequences. Everything is a mean over the tokens of a
/// sequence, `[sequence, stream]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// `KL(p ‖ p̄)` of the mean prediction of the other half, nats, `[sequence]`.
    pub floor: Array1<f64>,
    /// `KL(p ‖ q_l)` in nats for each of [`LensKind::ALL`]; streams are `h_0 .. h_{L-1}`.
    pub kl: Vec<Array2<f64>>,
    /// Aitchison cosine between the decoded update `U A Δ_l` and the error that is left against the reference,
    /// `l = 0 .. L-1`.
    pub alignment: Array2<f64>,
    /// Whether the reference is the true conditional; if not, it is the network's own final prediction, whose null is
    /// not 0.
    pub truth_known: bool,
    /// `‖Δ_l‖ / ‖h_l‖`.
    pub update_size: Array2<f64>,
    /// Prediction depth: the first stream from which on the own lenses' most probable token is the final one,
    /// `[sequence]`.
    pub depth: Array1<f64>,
    /// Share of the variance of `Δ_l` that an affine map of `h_l` explains on the held-out half, and of `Δ_l` beyond
    /// what `h_l` alone predicts of it by one number (`Δ_l = c h_l`, decay or growth).
    pub update_linear: Vec<[f64; 2]>,
    /// Mean squared error of the lens of stream i on stream j, above that of the own lens, over the variance of the
    /// target, `[i, j]`.
    pub transfer_penalty: Array2<f64>,
    /// How alike the covariances of two streams are, `⟨S_i, S_j⟩ / (‖S_i‖ ‖S_j‖)`, `[i, j]`.
    pub likeness: Array2<f64>,
}

impl Measured {
    /// KL of a kind of lens.
    pub fn kl_of(&self, kind: LensKind) -> &Array2<f64> {
        &self.kl[LensKind::ALL.iter().position(|k| *k == kind).expect("every kind is measured")]
    }

    /// How much the penalty grows per layer between lens and stream, by least squares over all pairs.
    pub fn transfer_slope(&self) -> f64 {
        let pairs: Vec<(f64, f64)> =
            self.transfer_penalty.indexed_iter().map(|((i, j), t)| (i.abs_diff(j) as f64, *t)).collect();
        let n = pairs.len() as f64;
        let (x, y) = (pairs.iter().map(|p| p.0).sum::<f64>() / n, pairs.iter().map(|p| p.1).sum::<f64>() / n);
        pairs.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>()
            / pairs.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>()
    }
}

/// Fits every lens on one half of the sequences, `swapped` on the second, and reads the other.
pub fn measure(all: &Streams, lambda: f64, swapped: bool) -> Result<Measured> {
    let (n, half) = (all.target.nrows(), all.half());
    let (fit, read) = if swapped { (half..n, 0..half) } else { (0..half, half..n) };
    let mut fitting = Fitting::default();
    fitting.push(&all.rows(fit))?;
    let mut reading = fitting.finish(lambda)?;
    reading.push(&all.rows(read));
    Ok(reading.finish())
}

/// What lenses are fitted from, some sequences after the other.
#[derive(Default)]
pub(super) struct Fitting {
    /// Of each stream with the target.
    per_layer: Vec<Moments>,
    /// Of each stream with its update.
    updates: Vec<Moments>,
    /// Sum of the final predictions.
    sum_p: Option<Array1<f64>>,
}

impl Fitting {
    /// Takes in some sequences.
    pub(super) fn push(&mut self, s: &Streams) -> Result<()> {
        let layers = s.n_layers();
        if self.per_layer.is_empty() {
            let d = s.streams[0].ncols();
            self.per_layer = vec![Moments::new(d, s.target.ncols()); layers + 1];
            self.updates = vec![Moments::new(d, d); layers];
        }
        for (sum, h) in self.per_layer.iter_mut().zip(&s.streams) {
            sum.merge(&moments(h.view(), s.target.view()))?;
        }
        for (sum, pair) in self.updates.iter_mut().zip(s.streams.windows(2)) {
            sum.merge(&moments(pair[0].view(), (&pair[1] - &pair[0]).view()))?;
        }
        let p = s.log_p.mapv(f64::exp).sum_axis(Axis(0));
        self.sum_p = Some(self.sum_p.take().map_or(p.clone(), |sum| sum + p));
        Ok(())
    }

    /// Fits every lens.
    pub(super) fn finish(self, lambda: f64) -> Result<Reading> {
        let ridge = Ridge { lambda, towards: Towards::Zero };
        let n = self.per_layer.first().map_or(0.0, |m| m.weight);
        let update_maps = self.updates.iter().map(|m| UpdateMaps::fit(&ridge, m)).collect::<Result<_>>()?;
        Ok(Reading {
            lenses: Lenses::fit(&ridge, &self.per_layer)?,
            mean_p: (self.sum_p.unwrap_or_default() / n).mapv(f64::ln),
            update_maps,
            held_out: Vec::new(),
            unexplained: vec![[[0.0; 2]; 2]; self.updates.len()],
            parts: Vec::new(),
            truth_known: false,
        })
    }
}

/// Affine predictions of an update from its stream.
struct UpdateMaps {
    x_mean: Array1<f64>,
    mean: Array1<f64>,
    /// `Δ ≈ factor · h`: what decay or growth explains.
    factor: f64,
    /// Of the whole update, and of what is left without that.
    maps: [AffineLens; 2],
}

impl UpdateMaps {
    fn fit(ridge: &Ridge, m: &Moments) -> Result<Self> {
        let factor = m.s_zx.diag().sum() / m.s_xx.diag().sum().max(f64::MIN_POSITIVE);
        let mut rest = m.clone();
        rest.s_zx.scaled_add(-factor, &m.s_xx);
        let maps = [ridge.fit(m)?, ridge.fit(&rest)?];
        Ok(UpdateMaps { x_mean: m.x_mean.clone(), mean: m.z_mean.clone(), factor, maps })
    }

    /// Squared errors and squared sizes of updates, whole and without the part along the stream.
    fn unexplained(&self, h: &Array2<f64>, update: &Array2<f64>) -> [[f64; 2]; 2] {
        let size = |e: Array2<f64>| e.iter().map(|v| v * v).sum::<f64>();
        let of = |update: &Array2<f64>, map: &AffineLens| {
            [size(update - &apply(map, h.view())), size(update - &self.mean)]
        };
        let rest = update - &((h - &self.x_mean) * self.factor);
        [of(update, &self.maps[0]), of(&rest, &self.maps[1])]
    }
}

/// Lenses, and what they have read so far.
pub(super) struct Reading {
    lenses: Lenses,
    /// Logarithm of the mean prediction of the half that lenses are fitted on.
    mean_p: Array1<f64>,
    update_maps: Vec<UpdateMaps>,
    held_out: Vec<Moments>,
    /// For each layer, as [`UpdateMaps::unexplained`].
    unexplained: Vec<[[f64; 2]; 2]>,
    parts: Vec<Part>,
    truth_known: bool,
}

/// Of some sequences: `[sequence]` and `[sequence, stream]`.
struct Part {
    floor: Array1<f64>,
    kl: Vec<Array2<f64>>,
    alignment: Array2<f64>,
    update_size: Array2<f64>,
    depth: Array1<f64>,
}

impl Reading {
    /// Reads some sequences.
    pub(super) fn push(&mut self, s: &Streams) {
        let layers = s.n_layers();
        let by_sequence = |values: Vec<f64>| -> Array1<f64> {
            values.chunks(s.n_pos).map(|c| c.iter().sum::<f64>() / c.len() as f64).collect()
        };
        let (log_p, streams) = (&s.log_p, &s.streams);
        let floor =
            by_sequence(log_p.rows().into_iter().map(|p| kl_divergence(p, self.mean_p.view())).collect());
        let n_seqs = floor.len();
        let mut kl = Vec::new();
        let mut tops: Vec<Vec<usize>> = Vec::new();
        for kind in LensKind::ALL {
            let mut table = Array2::zeros((n_seqs, layers));
            for (l, h) in streams.iter().take(layers).enumerate() {
                let log_q = s.readout.decode(apply(self.lenses.of(kind, l), h.view()).view());
                let each =
                    log_p.rows().into_iter().zip(log_q.rows()).map(|(p, q)| kl_divergence(p, q)).collect();
                table.column_mut(l).assign(&by_sequence(each));
                if kind == LensKind::Own {
                    tops.push(log_q.rows().into_iter().map(top).collect());
                }
            }
            kl.push(table);
        }
        let last: Vec<usize> = log_p.rows().into_iter().map(top).collect();
        let depth = by_sequence(
            (0..last.len())
                .map(|i| (0..layers).rev().take_while(|&l| tops[l][i] == last[i]).count())
                .map(|kept| (layers - kept) as f64)
                .collect(),
        );
        let reference = centred(s.log_truth.as_ref().unwrap_or(log_p).clone());
        let mut alignment = Array2::zeros((n_seqs, layers));
        let mut update_size = Array2::zeros((n_seqs, layers));
        for l in 0..layers {
            let update = &streams[l + 1] - &streams[l];
            let z = apply(&self.lenses.shared, streams[l].view());
            let decoded = s.readout.change(z.view(), matmul(update.view(), self.lenses.shared.a.t()).view());
            let left = &reference - &centred(s.readout.decode(z.view()));
            let cosines = decoded.rows().into_iter().zip(left.rows()).map(|(a, b)| cosine(a, b)).collect();
            alignment.column_mut(l).assign(&by_sequence(cosines));
            let sizes = update
                .rows()
                .into_iter()
                .zip(streams[l].rows())
                .map(|(u, h)| (u.dot(&u) / h.dot(&h).max(f64::MIN_POSITIVE)).sqrt())
                .collect();
            update_size.column_mut(l).assign(&by_sequence(sizes));
            let more = self.update_maps[l].unexplained(&streams[l], &update);
            for (sum, more) in self.unexplained[l].iter_mut().flatten().zip(more.iter().flatten()) {
                *sum += more;
            }
        }
        let seen: Vec<Moments> = streams.iter().map(|h| moments(h.view(), s.target.view())).collect();
        if self.held_out.is_empty() {
            self.held_out = seen;
        } else {
            for (sum, more) in self.held_out.iter_mut().zip(&seen) {
                sum.merge(more).expect("streams of one network have one width");
            }
        }
        self.truth_known = s.log_truth.is_some();
        self.parts.push(Part { floor, kl, alignment, update_size, depth });
    }

    /// Everything that was read. Panics if that is nothing.
    pub(super) fn finish(self) -> Measured {
        let (held_out, own) = (&self.held_out, &self.lenses.own);
        let layers = own.len();
        let error = |i: usize, j: usize| squared_error(&own[i], &held_out[j]);
        let transfer_penalty = Array2::from_shape_fn((layers, layers), |(i, j)| {
            (error(i, j) - error(j, j)) / held_out[j].s_zz.diag().sum() * held_out[j].weight
        });
        let inner = |i: usize, j: usize| (&held_out[i].s_xx * &held_out[j].s_xx).sum();
        let likeness = Array2::from_shape_fn((layers, layers), |(i, j)| {
            inner(i, j) / (inner(i, i) * inner(j, j)).sqrt()
        });
        let explained = |[error, size]: [f64; 2]| 1.0 - error / size.max(f64::MIN_POSITIVE);
        let rows = |of: &dyn Fn(&Part) -> ArrayView2<'_, f64>| {
            let views: Vec<_> = self.parts.iter().map(of).collect();
            concatenate(Axis(0), &views).expect("as many streams in each part")
        };
        let column = |of: fn(&Part) -> &Array1<f64>| -> Array1<f64> {
            self.parts.iter().flat_map(|part| of(part).iter().copied()).collect()
        };
        Measured {
            floor: column(|part| &part.floor),
            kl: (0..LensKind::ALL.len()).map(|k| rows(&|part| part.kl[k].view())).collect(),
            alignment: rows(&|part| part.alignment.view()),
            truth_known: self.truth_known,
            update_size: rows(&|part| part.update_size.view()),
            depth: column(|part| &part.depth),
            update_linear: self.unexplained.iter().map(|both| both.map(explained)).collect(),
            transfer_penalty,
            likeness,
        }
    }
}

/// Every kind of lens for every stream below the last.
struct Lenses {
    own: Vec<AffineLens>,
    shared: AffineLens,
    own_bias: Vec<AffineLens>,
    own_gain: Vec<AffineLens>,
    left_out: Vec<AffineLens>,
    later: Vec<AffineLens>,
}

impl Lenses {
    fn fit(ridge: &Ridge, per_layer: &[Moments]) -> Result<Self> {
        let layers = per_layer.len() - 1;
        let pooled = |which: &dyn Fn(usize) -> bool| -> Result<Moments> {
            let mut sum = Moments::new(per_layer[0].x_mean.len(), per_layer[0].z_mean.len());
            for (_, m) in per_layer.iter().enumerate().filter(|(l, _)| which(*l)) {
                sum.merge(m)?;
            }
            Ok(sum)
        };
        let each = |f: &dyn Fn(usize) -> Result<AffineLens>| -> Result<Vec<AffineLens>> {
            (0..layers).map(f).collect()
        };
        // About each layer's own mean, and in units of its own deviation: intercepts and factors are then each layer's
        // own.
        let deviation = |m: &Moments| (m.s_xx.diag().sum() / m.weight).sqrt().max(f64::MIN_POSITIVE);
        let about_own_mean = |scale: &dyn Fn(&Moments) -> f64| -> Result<AffineLens> {
            let mut sum = Moments::new(per_layer[0].x_mean.len(), per_layer[0].z_mean.len());
            for m in per_layer {
                let s = scale(m);
                let mut centred = m.clone();
                centred.x_mean.fill(0.0);
                centred.z_mean.fill(0.0);
                centred.s_xx /= s * s;
                centred.s_zx /= s;
                sum.merge(&centred)?;
            }
            ridge.fit(&sum)
        };
        let with_intercept = |a: Array2<f64>, m: &Moments| {
            let b = &m.z_mean - &a.dot(&m.x_mean);
            AffineLens { a, b }
        };
        let bias = about_own_mean(&|_| 1.0)?.a;
        let gain = about_own_mean(&deviation)?.a;
        let best_factor = |m: &Moments| {
            let along = (&gain * &m.s_zx).sum();
            along / (&gain.dot(&m.s_xx) * &gain).sum().max(f64::MIN_POSITIVE)
        };
        Ok(Lenses {
            own: each(&|l| ridge.fit(&per_layer[l]))?,
            shared: ridge.fit(&pooled(&|_| true)?)?,
            own_bias: each(&|l| Ok(with_intercept(bias.clone(), &per_layer[l])))?,
            own_gain: each(&|l| Ok(with_intercept(&gain * best_factor(&per_layer[l]), &per_layer[l])))?,
            left_out: each(&|l| ridge.fit(&pooled(&|k| k != l)?))?,
            later: each(&|l| ridge.fit(&pooled(&|k| k > l)?))?,
        })
    }

    fn of(&self, kind: LensKind, l: usize) -> &AffineLens {
        match kind {
            LensKind::Own => &self.own[l],
            LensKind::Shared => &self.shared,
            LensKind::OwnBias => &self.own_bias[l],
            LensKind::OwnGain => &self.own_gain[l],
            LensKind::LeftOut => &self.left_out[l],
            LensKind::Later => &self.later[l],
        }
    }
}

/// Moments of rows in `f64`; [`Moments::push`] multiplies in `f32`, and the rotated copy is compared to more digits
/// than that.
pub(crate) fn moments(x: ArrayView2<f64>, z: ArrayView2<f64>) -> Moments {
    let mean = |a: &ArrayView2<f64>| a.mean_axis(Axis(0)).expect("there are rows");
    let (x_mean, z_mean) = (mean(&x), mean(&z));
    let (x, z) = (&x - &x_mean, &z - &z_mean);
    Moments {
        n: x.nrows() as u64,
        weight: x.nrows() as f64,
        s_xx: matmul(x.t(), x.view()),
        s_zx: matmul(z.t(), x.view()),
        s_zz: matmul(z.t(), z.view()).into_shared(),
        x_mean,
        z_mean,
    }
}

/// `h Aᵀ + b`, rows.
pub(crate) fn apply(lens: &AffineLens, h: ArrayView2<f64>) -> Array2<f64> {
    matmul(h, lens.a.t()) + &lens.b
}

/// Mean squared error of a lens from moments.
fn squared_error(lens: &AffineLens, m: &Moments) -> f64 {
    let spread =
        m.s_zz.diag().sum() - 2.0 * (&lens.a * &m.s_zx).sum() + (&lens.a.dot(&m.s_xx) * &lens.a).sum();
    let offset = &m.z_mean - &lens.apply(m.x_mean.view());
    (spread / m.weight + offset.dot(&offset)).max(0.0)
}

fn top(log_q: ArrayView1<f64>) -> usize {
    let best =
        log_q.iter().enumerate().fold((0, f64::NEG_INFINITY), |b, (i, &x)| if x > b.1 { (i, x) } else { b });
    best.0
}

/// Cosine of two rows; 0 where one of them is nothing.
pub(crate) fn cosine(a: ArrayView1<f64>, b: ArrayView1<f64>) -> f64 {
    let size = (a.dot(&a) * b.dot(&b)).sqrt();
    if size > 0.0 { a.dot(&b) / size } else { 0.0 }
}
