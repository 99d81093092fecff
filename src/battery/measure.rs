//! One network, one pass of lenses: what each kind of lens reads at each stream, where updates point, and how much of
//! the truth is read on the way.

use std::sync::Arc;

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, concatenate};
use serde::{Deserialize, Serialize};

use super::Streams;
use super::streams::{Truth, centred};
use super::temperature::Temperature;
pub(crate) use crate::lens::exact_moments as moments;
use crate::lens::{
    AffineLens, GivenRows, LayerLenses, LayerMoments, LensKind, Moments, Ridge, Towards, most_probable,
};
use crate::num::{kl_divergence, matmul, random_rotation, rng};
use crate::{Error, ErrorKind, Result};

/// Steps of the search for the least KL from the closed form on, and from another lens of least KL on.
const PASSES: usize = 60;
const PASSES_FROM_SHARED: usize = 40;
/// Rows of one part that the lenses of single streams are compared on.
const COMPARED: usize = 256;
/// Rotated copies of which a left-out lens is fitted in closed form.
const ROTATIONS: usize = 200;
/// Those of streams wider than [`WIDE`]: as many as a p value of .05 needs.
const ROTATIONS_IF_WIDE: usize = 19;
const WIDE: usize = 48;

/// The kinds of lenses that the battery reads with, from most to least of what a lens may know of the layer that it
/// reads.
pub const KINDS: [LensKind; 7] = [
    LensKind::Own,
    LensKind::Shared,
    LensKind::OwnBias,
    LensKind::OwnGain,
    LensKind::LeftOut,
    LensKind::LeftOutWithoutLast,
    LensKind::Later,
];

/// Where a kind stands among [`KINDS`].
///
/// Fails on a kind that the battery does not read with.
pub(crate) fn place(kind: &LensKind) -> Result<usize> {
    KINDS.iter().position(|known| known == kind).ok_or_else(|| {
        Error::new(
            ErrorKind::Config,
            format!("the battery reads nothing with the kind {kind:?}"),
            format!("it reads with {KINDS:?}; `compare` takes lenses of any kind"),
        )
    })
}

/// The same of the kinds that are compared throughout.
pub(crate) const OWN: usize = 0;
pub(crate) const SHARED: usize = 1;
pub(crate) const LEFT_OUT: usize = 4;
pub(crate) const LEFT_OUT_WITHOUT_LAST: usize = 5;

/// What was measured on the held-out half of one network's sequences. Everything is a mean over the tokens of a
/// sequence, `[sequence, stream]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// `KL(p ‖ p̄)` of the mean prediction of the other half, nats, `[sequence]`.
    pub baseline: Array1<f64>,
    /// `KL(p ‖ q_l)` in nats for each of [`KINDS`], at least KL where that was looked for; streams are
    /// `h_0 .. h_{L-1}`.
    pub kl: Vec<Array2<f64>>,
    /// The same of the least-squares lens of each kind.
    pub least_squares: Vec<Array2<f64>>,
    /// `KL(p ‖ q_l)` of the own lens and of the left-out lens without the last stream, the logits of each stream times
    /// the one number that suits it best: a lens that is only too sure, or not sure enough, of a stream reads it.
    pub scale_free: [Array2<f64>; 2],
    /// `KL(p ‖ q_l)` of the logit lens.
    pub logit_lens: Array2<f64>,
    /// The largest length that the gradient of a lens's KL has where its search ended, in nats, with inputs and outputs
    /// whitened; `None` if there was no search.
    pub gradient_norm: Option<f64>,
    /// What is read of the truth on the way, where something is known of it.
    pub truth: Option<TruthRead>,
    /// Aitchison cosine between what the update changes in the shared lens's reading (to first order, before a cap of
    /// the logits) and the error that is left against the reference, `l = 0 .. L-1`. The reference is the true
    /// conditional where that is known; if not, the network's own final prediction, whose null is not 0.
    pub alignment: Array2<f64>,
    /// `‖Δ_l‖ / ‖h_l‖`.
    pub update_size: Array2<f64>,
    /// Prediction depth: the first stream from which on the own lenses' most probable token is the final one,
    /// `[sequence]`.
    pub depth: Array1<f64>,
    /// Share of the variance of `Δ_l` that an affine map of `h_l` explains on the held-out half, and of `Δ_l` beyond
    /// what `h_l` alone predicts of it by one number (`Δ_l = c h_l`, decay or growth).
    pub update_linear: Vec<[f64; 2]>,
    /// Mean KL of the own lens of stream i on stream j, its logits times the one number that suits j best, `[i, j]`.
    pub pair_kl: Array2<f64>,
    /// Mean squared error of the lens of stream i on stream j, above that of the own lens, over the variance of the
    /// target, `[i, j]`.
    pub transfer_penalty: Array2<f64>,
    /// How alike the covariances of two streams are, `⟨S_i, S_j⟩ / (‖S_i‖ ‖S_j‖)`, `[i, j]`.
    pub likeness: Array2<f64>,
    /// Mean squared error of left-out lenses without the last stream, as it is and of rotated copies.
    pub rotations: Rotations,
    /// Width of the streams, and number of classes.
    pub widths: [usize; 2],
}

/// What the shared lens says of the truth: `KL(p* ‖ q)` where the true conditional is known, else the cross-entropy
/// with what came next, which differs from it by a constant. Logits of each stream are multiplied by the one number
/// that suits the stream best, so that confidence that only grows counts for nothing. Nats, `[sequence]` and
/// `[sequence, stream]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TruthRead {
    /// Whether it is the true conditional.
    pub known: bool,
    /// Of the mean prediction.
    pub baseline: Array1<f64>,
    /// Of the network's own final prediction, read like the others.
    pub last: Array1<f64>,
    /// Of the shared lens at `h_0 ..= h_L`.
    pub shared: Array2<f64>,
}

/// Squared errors of left-out lenses in other bases: what the basis alone is worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rotations {
    /// Of the left-out lens without the last stream, `[1 + rotated copies, stream]`, the network as it is first.
    pub left_out: Array2<f64>,
    /// Of the own lens, which no rotation changes, `[stream]`.
    pub own: Array1<f64>,
    /// Of the mean.
    pub baseline: f64,
}

impl Measured {
    /// Returns the KL of a kind of lens.
    ///
    /// Fails on a kind that is none of [`KINDS`].
    pub fn kl_of(&self, kind: &LensKind) -> Result<&Array2<f64>> {
        Ok(&self.kl[place(kind)?])
    }

    /// Fits how much the penalty grows per layer between lens and stream, by least squares over all pairs.
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
///
/// Lenses read streams at the scale that the streams ask for and guess what the final norm makes of the last stream.
/// All are ridge regressions with the penalty `lambda`; those of the kinds `refined`, of [`KINDS`], go on from there to
/// the least KL. With all of these, left-out lenses are fitted to rotated copies as well ([`Rotations`]).
pub fn measure(all: &Streams, lambda: f64, swapped: bool, refined: &[LensKind]) -> Result<Measured> {
    let (n, half) = (all.target.nrows(), all.half());
    let (fit, read) = if swapped { (half..n, 0..half) } else { (0..half, half..n) };
    let mut fitting = Fitting::default();
    fitting.push(&all.rows(fit))?;
    let mut reading = fitting.finish(lambda, refined)?;
    reading.push(&all.rows(read));
    Ok(reading.finish())
}

/// What lenses are fitted from, some sequences after the other.
#[derive(Default)]
pub(super) struct Fitting {
    rows: Option<(GivenRows, Streams)>,
    /// Of each stream with its update.
    updates: Vec<Moments>,
}

impl Fitting {
    /// Takes in some sequences.
    pub(super) fn push(&mut self, s: &Streams) -> Result<()> {
        let layers = s.n_layers();
        let z = s.readout.normalised(s.target.view());
        if self.rows.is_none() {
            let d = s.streams[0].ncols();
            self.updates = vec![Moments::new(d, d); layers];
            let rows = GivenRows::new(layers + 1, (d, z.ncols()), s.log_p.ncols(), s.scale);
            // Of the streams nothing but what is no row.
            self.rows = Some((rows, s.rows(0..0)));
        }
        if let Some((rows, _)) = &mut self.rows {
            rows.push(&s.scaled(), z.view(), s.log_p.view())?;
        }
        for (sum, pair) in self.updates.iter_mut().zip(s.streams.windows(2)) {
            sum.merge(&moments(pair[0].view(), (&pair[1] - &pair[0]).view()))?;
        }
        Ok(())
    }

    /// Fits every lens, and searches the least KL for those of `refined`.
    pub(super) fn finish(self, lambda: f64, refined: &[LensKind]) -> Result<Reading> {
        let ridge = Ridge { lambda, towards: Towards::Zero };
        let (mut rows, s) = self.rows.expect("rows were pushed");
        let least_squares =
            KINDS.iter().map(|kind| ridge.lenses(rows.moments(), kind)).collect::<Result<Vec<_>>>()?;
        let readout = (s.readout.w_u.view(), &s.readout.b_u, s.readout.cap);
        let mut lenses = least_squares.clone();
        let mut gradient_norm: Option<f64> = None;
        // The shared lens before those that begin with it.
        for (place, kind) in KINDS.iter().enumerate().filter(|(_, kind)| refined.contains(kind)) {
            let (start, lbfgs_steps) = match place {
                OWN | SHARED => (lenses[place].clone(), PASSES),
                _ => (lenses[SHARED].clone().of_kind(kind.clone()), PASSES_FROM_SHARED),
            };
            if let Some((found, steepest)) = rows.refine(lbfgs_steps, readout, &start)? {
                gradient_norm = Some(gradient_norm.map_or(steepest, |norm| norm.max(steepest)));
                lenses[place] = found;
            }
        }
        let update_maps = self.updates.iter().map(|m| UpdateMaps::fit(&ridge, m)).collect::<Result<_>>()?;
        let maps = |of: &[LayerLenses]| -> Vec<Vec<Arc<AffineLens>>> {
            of.iter().map(|lenses| lenses.lenses().to_vec()).collect()
        };
        Ok(Reading {
            lenses: maps(&lenses),
            least_squares: maps(&least_squares),
            ridge,
            fitted: rows.moments().clone(),
            gradient_norm,
            n_rotations: match (refined.len() == KINDS.len(), s.streams[0].ncols() > WIDE) {
                (false, _) => 0,
                (true, false) => ROTATIONS,
                (true, true) => ROTATIONS_IF_WIDE,
            },
            update_maps,
            held_out: Vec::new(),
            unexplained: vec![[[0.0; 2]; 2]; self.updates.len()],
            parts: Vec::new(),
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
    /// By kind and stream.
    lenses: Vec<Vec<Arc<AffineLens>>>,
    least_squares: Vec<Vec<Arc<AffineLens>>>,
    ridge: Ridge,
    /// What lenses were fitted to.
    fitted: LayerMoments,
    gradient_norm: Option<f64>,
    n_rotations: usize,
    update_maps: Vec<UpdateMaps>,
    held_out: Vec<Moments>,
    /// For each layer, as [`UpdateMaps::unexplained`].
    unexplained: Vec<[[f64; 2]; 2]>,
    parts: Vec<Part>,
}

/// Of some sequences: `[sequence]` and `[sequence, stream]`.
struct Part {
    baseline: Array1<f64>,
    kl: Vec<Array2<f64>>,
    least_squares: Vec<Array2<f64>>,
    scale_free: [Array2<f64>; 2],
    logit_lens: Array2<f64>,
    truth: Option<TruthRead>,
    alignment: Array2<f64>,
    update_size: Array2<f64>,
    depth: Array1<f64>,
    pair_kl: Array2<f64>,
}

impl Reading {
    fn shared(&self) -> &AffineLens {
        &self.lenses[SHARED][0]
    }

    /// Reads some sequences.
    pub(super) fn push(&mut self, s: &Streams) {
        let layers = s.n_layers();
        let by_sequence = |values: Vec<f64>| -> Array1<f64> {
            values.chunks(s.n_pos).map(|c| c.iter().sum::<f64>() / c.len() as f64).collect()
        };
        let (log_p, scaled) = (&s.log_p, s.scaled());
        let kl_to = |log_q: ArrayView2<f64>| {
            by_sequence(
                log_p.rows().into_iter().zip(log_q.rows()).map(|(p, q)| kl_divergence(p, q)).collect(),
            )
        };
        let log_mean = self.fitted.mean_prediction.mapv(f64::ln);
        let baseline =
            by_sequence(log_p.rows().into_iter().map(|p| kl_divergence(p, log_mean.view())).collect());
        let table = |log_q: &dyn Fn(usize) -> Array2<f64>| {
            let mut table = Array2::zeros((baseline.len(), layers));
            for l in 0..layers {
                table.column_mut(l).assign(&kl_to(log_q(l).view()));
            }
            table
        };
        let through = |lens: &AffineLens, l: usize| s.readout.read(apply(lens, scaled[l].view()).view());
        let of_kind = |lenses: &Vec<Arc<AffineLens>>| table(&|l| through(&lenses[l], l));
        let least_squares: Vec<Array2<f64>> = self.least_squares.iter().map(of_kind).collect();
        let kl = self.lenses.iter().zip(&self.least_squares).zip(&least_squares);
        // Where there was no search, it is the same lens.
        let kl = kl.map(|((lenses, closed), seen)| {
            let same = lenses.iter().zip(closed).all(|(a, b)| Arc::ptr_eq(a, b));
            if same { seen.clone() } else { of_kind(lenses) }
        });
        let kl: Vec<Array2<f64>> = kl.collect();
        let p = log_p.mapv(f64::exp);
        let scale_free = [OWN, LEFT_OUT_WITHOUT_LAST]
            .map(|kind| table(&|l| Temperature::best_of(p.view(), through(&self.lenses[kind][l], l))));
        // Pooled streams of another width than the target have no logit lens.
        let logit_lens = match s.streams[0].ncols() == s.target.ncols() {
            true => table(&|l| s.readout.decode(s.streams[l].view())),
            false => Array2::from_elem((baseline.len(), layers), f64::NAN),
        };
        let own = &self.lenses[OWN];
        let tops: Vec<Vec<usize>> = (0..layers)
            .map(|l| through(&own[l], l).rows().into_iter().map(most_probable).collect())
            .collect();
        let last: Vec<usize> = log_p.rows().into_iter().map(most_probable).collect();
        let depth = by_sequence(
            (0..last.len())
                .map(|i| (0..layers).rev().take_while(|&l| tops[l][i] == last[i]).count())
                .map(|kept| (layers - kept) as f64)
                .collect(),
        );
        let shared: Vec<Array2<f64>> = (0..=layers).map(|l| through(self.shared(), l)).collect();
        let truth = s.truth.read(s.n_pos, &shared, log_p, &log_mean);
        let reference = centred(match &s.truth {
            Truth::Known(log_truth) => log_truth.clone(),
            Truth::Seen(_) | Truth::Unknown => log_p.clone(),
        });
        let mut alignment = Array2::zeros((baseline.len(), layers));
        let mut update_size = Array2::zeros((baseline.len(), layers));
        for (l, now) in shared[..layers].iter().enumerate() {
            // To first order: a long step that knows nothing makes a reading less sure, which would count as knowing.
            let update = &s.streams[l + 1] - &s.streams[l];
            let step = s.scaled_change(&s.streams[l], &update);
            let decoded = matmul(matmul(step.view(), self.shared().a.t()).view(), s.readout.w_u.view());
            let (change, left) = (centred(decoded), &reference - &centred(now.clone()));
            let cosines = change.rows().into_iter().zip(left.rows()).map(|(a, b)| cosine(a, b)).collect();
            alignment.column_mut(l).assign(&by_sequence(cosines));
            let sizes = update
                .rows()
                .into_iter()
                .zip(s.streams[l].rows())
                .map(|(u, h)| (u.dot(&u) / h.dot(&h).max(f64::MIN_POSITIVE)).sqrt())
                .collect();
            update_size.column_mut(l).assign(&by_sequence(sizes));
            let more = self.update_maps[l].unexplained(&s.streams[l], &update);
            for (sum, more) in self.unexplained[l].iter_mut().flatten().zip(more.iter().flatten()) {
                *sum += more;
            }
        }
        // Rows in equal distances.
        let rows: Vec<usize> = {
            let n = log_p.nrows();
            let compared = n.min(COMPARED);
            (0..compared).map(|k| k * n / compared).collect()
        };
        let few = |x: &Array2<f64>| x.select(Axis(0), &rows);
        let wanted = few(log_p).mapv(f64::exp);
        let entropy = -(&wanted * &few(log_p)).sum() / rows.len() as f64;
        let few: Vec<Array2<f64>> = scaled[..layers].iter().map(few).collect();
        let pair_kl = Array2::from_shape_fn((layers, layers), |(i, j)| {
            let log_q = s.readout.read(apply(&own[i], few[j].view()).view());
            Temperature::best(wanted.view(), log_q.view()).cross_entropy - entropy
        });
        let z = s.readout.normalised(s.target.view());
        let seen: Vec<Moments> = scaled.iter().map(|h| moments(h.view(), z.view())).collect();
        if self.held_out.is_empty() {
            self.held_out = seen;
        } else {
            for (sum, more) in self.held_out.iter_mut().zip(&seen) {
                sum.merge(more).expect("streams of one network have one width");
            }
        }
        self.parts.push(Part {
            baseline,
            kl,
            least_squares,
            scale_free,
            logit_lens,
            truth,
            alignment,
            update_size,
            depth,
            pair_kl,
        });
    }

    /// Everything that was read. Panics if that is nothing.
    pub(super) fn finish(self) -> Measured {
        let held_out = &self.held_out;
        let own = &self.least_squares[OWN];
        let layers = held_out.len() - 1;
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
        let column = |of: &dyn Fn(&Part) -> &Array1<f64>| -> Array1<f64> {
            self.parts.iter().flat_map(|part| of(part).iter().copied()).collect()
        };
        let kinds = 0..KINDS.len();
        let known = self.parts.iter().map(|part| part.truth.as_ref().map(|truth| truth.known));
        let truth = known.reduce(|a, b| if a == b { a } else { None }).flatten().map(|known| {
            fn of(part: &Part) -> &TruthRead {
                part.truth.as_ref().expect("every part has it")
            }
            TruthRead {
                known,
                baseline: column(&|part| &of(part).baseline),
                last: column(&|part| &of(part).last),
                shared: rows(&|part| of(part).shared.view()),
            }
        });
        let n = |part: &Part| part.baseline.len() as f64;
        let n_seqs: f64 = self.parts.iter().map(n).sum();
        let pair_kl = self.parts.iter().map(|part| &part.pair_kl * (n(part) / n_seqs));
        Measured {
            baseline: column(&|part| &part.baseline),
            kl: kinds.clone().map(|k| rows(&|part| part.kl[k].view())).collect(),
            least_squares: kinds.map(|k| rows(&|part| part.least_squares[k].view())).collect(),
            scale_free: [0, 1].map(|i| rows(&|part| part.scale_free[i].view())),
            logit_lens: rows(&|part| part.logit_lens.view()),
            gradient_norm: self.gradient_norm,
            truth,
            alignment: rows(&|part| part.alignment.view()),
            update_size: rows(&|part| part.update_size.view()),
            depth: column(&|part| &part.depth),
            update_linear: self.unexplained.iter().map(|both| both.map(explained)).collect(),
            pair_kl: pair_kl.reduce(|a, b| a + b).expect("there are parts"),
            transfer_penalty,
            likeness,
            rotations: self.rotations(),
            widths: [self.fitted.layers[0].x_mean.len(), self.fitted.mean_prediction.len()],
        }
    }

    /// Left-out lenses of rotated copies, from the moments alone: with `h → R h`, `S_xx → R S_xx Rᵀ`.
    fn rotations(&self) -> Rotations {
        let layers = self.held_out.len() - 1;
        let d = self.fitted.layers[0].x_mean.len();
        let n = self.n_rotations;
        let error_of = |fitted: Vec<Moments>, read: Vec<Moments>| -> Vec<f64> {
            (0..layers)
                .map(|l| {
                    let others = fitted.iter().enumerate().filter(|(k, _)| *k != l).map(|(_, m)| m);
                    let pool = others.cloned().reduce(|mut sum, m| {
                        sum.merge(&m).expect("of one width");
                        sum
                    });
                    let lens = pool.map(|pool| self.ridge.fit(&pool));
                    lens.and_then(Result::ok).map_or(f64::NAN, |lens| squared_error(&lens, &read[l]))
                })
                .collect()
        };
        let mut left_out = Array2::zeros((1 + n, layers));
        for copy in 0..=n {
            let mut numbers = rng(copy as u64, 0xc006);
            let (fitted, read) = (0..layers)
                .map(|l| {
                    let (fitted, read) = (&self.fitted.layers[l], &self.held_out[l]);
                    if copy == 0 {
                        return (fitted.clone(), read.clone());
                    }
                    let r = random_rotation(d, &mut numbers);
                    (rotated(fitted, &r), rotated(read, &r))
                })
                .unzip();
            left_out.row_mut(copy).assign(&Array1::from(error_of(fitted, read)));
        }
        let own = &self.least_squares[OWN];
        Rotations {
            left_out,
            own: (0..layers).map(|l| squared_error(&own[l], &self.held_out[l])).collect(),
            baseline: self.held_out[0].s_zz.diag().sum() / self.held_out[0].weight,
        }
    }
}

/// Moments of `R x` in place of `x`.
fn rotated(m: &Moments, r: &Array2<f64>) -> Moments {
    Moments {
        x_mean: r.dot(&m.x_mean),
        s_xx: matmul(matmul(r.view(), m.s_xx.view()).view(), r.t()),
        s_zx: matmul(m.s_zx.view(), r.t()),
        ..m.clone()
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

/// Cosine of two rows; 0 where one of them is nothing.
pub(crate) fn cosine(a: ArrayView1<f64>, b: ArrayView1<f64>) -> f64 {
    let size = (a.dot(&a) * b.dot(&b)).sqrt();
    if size > 0.0 { a.dot(&b) / size } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_their_kinds() {
        let places = [OWN, SHARED, LEFT_OUT, LEFT_OUT_WITHOUT_LAST];
        let kinds = [LensKind::Own, LensKind::Shared, LensKind::LeftOut, LensKind::LeftOutWithoutLast];
        assert_eq!(kinds.map(|kind| place(&kind).unwrap()), places);
        assert!(place(&LensKind::Every(2)).unwrap_err().help().contains("OwnBias"));
    }
}
