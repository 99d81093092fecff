//! What refinement lowers: the mean KL from what is wanted to what a lens reads, with its gradient, streamed over
//! tokens.

use std::borrow::Cow;
use std::time::Instant;

use ndarray::{Array1, Array2, ArrayView2, Axis, stack};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::decoder::{Decoding, Wanted};
use super::form::Form;
use super::inputs::{Distinct, Inputs, ROUND, Read, check_interrupt};
use super::kind::Common;
use super::kinds::within;
use super::vocabulary::Part;
use super::whitened::{Curvature, LowRank, Whitened};
use super::{LayerLenses, LayerMoments, LensKind, Moments, Target, Towards};
use crate::Result;
use crate::nn::{add_rows, linear};
use crate::num::{Rng, SymmetricEigen, matmul, rng, sample_index};
use crate::session::Progress;

/// Outputs wider than this are not whitened.
const WIDEST: usize = 1024;
/// Streams of its pool that a lens is shown of each chunk in an epoch: as many steps as if it were all of them, for
/// less work each.
const SHOWN: usize = 4;
/// About how many tokens tell whether epochs have helped.
pub(super) const SAMPLED_TOKENS: usize = 4096;
/// Chunks that the curvature is looked at, and about how many tokens: chunks of long sequences are fewer.
const LOOKED: usize = 16;
const LOOKED_TOKENS: usize = 4096;

/// Lenses with one target on one set of tokens. Each is a map that reads the streams of its pool, and its KL is the
/// mean over those.
pub(super) struct Objective<'a> {
    pub(super) inputs: Inputs<'a>,
    decoder: Decoding,
    moments: &'a LayerMoments,
    maps: Vec<Map<'a>>,
    /// Which of the maps each stream is read through.
    pub(super) map_of: Vec<usize>,
    /// About how many tokens of the vocabulary are looked at where not all data are.
    pub(super) vocabulary: usize,
}

/// One form: the streams that it reads, and their moments together, about what they are centred at.
struct Map<'a> {
    pool: Vec<usize>,
    moments: Cow<'a, Moments>,
    /// A row for all streams, or one for each.
    centres: Array2<f64>,
    penalty: Penalty,
    low_rank: Option<LowRank>,
}

/// `½ weight ‖A - towards‖²`, in nats, of one layer.
struct Penalty {
    weight: f64,
    towards: Towards,
}

impl Penalty {
    /// Of this strength, relative to the mean variance of the stream's features.
    fn new(lambda: f64, m: &Moments, target: Target) -> Self {
        let weight = lambda * m.s_xx.diag().sum() / (m.weight * m.x_mean.len() as f64);
        let like_streams = matches!(target, Target::Residual | Target::Normalised);
        Penalty { weight, towards: if like_streams { Towards::Identity } else { Towards::Zero } }
    }

    fn add_to(&self, at: &mut Evaluation, lens: &Form) {
        if self.weight == 0.0 {
            return;
        }
        let mut off = lens.a.clone();
        if self.towards == Towards::Identity {
            off.diag_mut().mapv_inplace(|a| a - 1.0);
        }
        at.kl += 0.5 * self.weight * off.iter().map(|a| a * a).sum::<f64>();
        at.da.scaled_add(self.weight, &off);
    }
}

/// Mean KL of a lens, with its penalty, and the gradient.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Evaluation {
    pub(super) kl: f64,
    /// Mean of `g dz (h - x̄)ᵀ`.
    pub(super) da: Array2<f64>,
    /// Mean of `dz`, in the row of its bias.
    pub(super) db: Array2<f64>,
    /// Mean of `dz · A (h - x̄)` at the place of its gain.
    pub(super) dgains: Array1<f64>,
}

/// Tells how far a search is: in tokens, of all that its epochs and L-BFGS steps go through.
pub(super) struct Meter {
    progress: Progress,
    /// What the tokens are gone through for.
    pub(super) what: String,
    done: usize,
    here: usize,
    began: Instant,
}

impl Meter {
    /// Of `total` tokens, of which an earlier run has done some.
    pub(super) fn new(total: usize, done: usize) -> Self {
        let progress = Progress::new("refining", total);
        Meter { progress, what: String::new(), done, here: 0, began: Instant::now() }
    }

    fn add(&mut self, n_tokens: usize) {
        self.done += n_tokens;
        self.here += n_tokens;
        let rate = self.here as f64 / self.began.elapsed().as_secs_f64();
        self.progress.update(self.done, || format!("{}, {rate:.0} tokens a second", self.what));
    }

    pub(super) fn finish(self, note: &str) {
        self.progress.finish(note);
    }
}

impl<'a> Objective<'a> {
    /// Of inputs with the means of these moments, and penalties relative to their variances, for lenses of the kind of
    /// `start`, with where they begin: a form for each pool of streams.
    pub(super) fn new(
        decoder: Decoding,
        mut inputs: Inputs<'a>,
        moments: &'a LayerMoments,
        start: &LayerLenses,
        lambda: f64,
    ) -> Result<(Self, Vec<Form>)> {
        let x_means: Vec<Array1<f64>> = moments.layers.iter().map(|m| m.x_mean.clone()).collect();
        inputs.centre(&x_means)?;
        let kind = start.kind();
        let (pools, map_of) = kind.maps(moments)?;
        let (mut maps, mut forms) = (Vec::new(), Vec::new());
        for (map, pool) in pools.into_iter().enumerate() {
            let common = kind.common();
            let lenses = match common {
                // Those of a pool may read another stream.
                Common::Everything => {
                    let first = first_of(map, &map_of);
                    &start.lenses()[first..=first]
                }
                Common::Matrix | Common::Direction => start.lenses(),
            };
            let form = Form::of(lenses, common);
            let together = match (common, &pool[..]) {
                (Common::Everything, &[l]) => Cow::Borrowed(&moments.layers[l]),
                (Common::Everything, _) => Cow::Owned(moments.pooled(&pool)?),
                (Common::Matrix, _) => Cow::Owned(within(moments, &Array1::ones(pool.len()))),
                (Common::Direction, _) => Cow::Owned(within(moments, &form.gains)),
            };
            let centres = match common {
                Common::Everything => together.x_mean.clone().insert_axis(Axis(0)),
                Common::Matrix | Common::Direction => {
                    let means: Vec<_> = pool.iter().map(|&l| x_means[l].view()).collect();
                    stack(Axis(0), &means).expect("streams of one width")
                }
            };
            let low_rank = if let LensKind::LowRank(rank) = *kind {
                Some(LowRank { rank, from: counted_from(&form.a, rank)? })
            } else {
                None
            };
            let penalty = Penalty::new(lambda, &together, moments.target);
            maps.push(Map { pool, moments: together, centres, penalty, low_rank });
            forms.push(form);
        }
        Ok((Objective { inputs, decoder, moments, maps, map_of, vocabulary: usize::MAX }, forms))
    }

    /// The first stream that is read through a map.
    pub(super) fn first_of(&self, map: usize) -> usize {
        first_of(map, &self.map_of)
    }

    /// Coordinates for all lenses, from the curvatures that were seen ([`curvatures`](Objective::curvatures)).
    pub(super) fn whiten(&self, curvatures: &[Curvature]) -> Result<Vec<Whitened>> {
        let of = |(map, curvature): (&Map, &Curvature)| {
            let covariance = &map.moments.s_xx / map.moments.weight;
            let d_z = map.moments.z_mean.len();
            let (centres, low_rank) = (map.centres.clone(), map.low_rank.clone());
            Whitened::new(covariance, centres, curvature, map.penalty.weight, low_rank, d_z)
        };
        self.maps.par_iter().zip(curvatures).map(of).collect()
    }

    /// Looks at the first lens that cost no more than one at any other: more than one where it reads the first stream
    /// alone, and the rows of that are few.
    pub(super) fn cheap_looks(&self) -> usize {
        if self.maps[0].pool == [0] { self.inputs.cheap_looks() } else { 1 }
    }

    /// One pass over the tokens for all lenses that are `active`; zeros for the others. If `sampled`, over some of the
    /// tokens, and as in [`evaluate_on`](Objective::evaluate_on).
    pub(super) fn evaluate(
        &self,
        lenses: &[Form],
        active: &[bool],
        sampled: Option<usize>,
        meter: &mut Meter,
    ) -> Result<Vec<Evaluation>> {
        let looked = match sampled {
            Some(_) => self.inputs.some_chunks(SAMPLED_TOKENS),
            None => (0..self.inputs.n_chunks()).collect(),
        };
        self.evaluate_on(&looked, lenses, active, sampled, meter)
    }

    /// The same over some chunks of the tokens. Where the rows of the first stream are few, all of them are looked at.
    /// In epoch number `sampled`, a chunk shows each lens some streams of its pool, which take turns, and a part of the
    /// vocabulary.
    pub(super) fn evaluate_on(
        &self,
        chunks: &[usize],
        lenses: &[Form],
        active: &[bool],
        sampled: Option<usize>,
        meter: &mut Meter,
    ) -> Result<Vec<Evaluation>> {
        let mut sums: Vec<Evaluation> = lenses.iter().map(Evaluation::nothing).collect();
        let mut rows = vec![0; lenses.len()];
        for round in chunks.chunks(ROUND) {
            check_interrupt()?;
            let look = |&i: &usize| {
                let read = self.inputs.read(i)?;
                let part = sampled.map_or(Ok(None), |epoch| self.part(&read, (epoch, i)))?;
                let through = part.as_ref().map_or((&self.decoder, &read.wanted), |(d, wanted)| (d, wanted));
                let of_lens = |map: usize| {
                    let places = self.shown(map, i, sampled);
                    let mut sum = Evaluation::nothing(&lenses[map]);
                    for &k in &places {
                        sum.add(&self.look(&read, through, map, k, &lenses[map])?);
                    }
                    Ok((map, places.len(), sum))
                };
                let looked = (0..lenses.len()).filter(|&map| active[map]).map(of_lens);
                Ok((read.wanted.p.nrows(), looked.collect::<Result<Vec<_>>>()?))
            };
            for (n_tokens, seen) in round.par_iter().map(look).collect::<Result<Vec<_>>>()? {
                meter.add(n_tokens);
                for (map, n_streams, part) in seen {
                    rows[map] += n_tokens * n_streams;
                    sums[map].add(&part);
                }
            }
        }
        for (map, sum) in sums.iter_mut().enumerate().filter(|(map, _)| active[*map]) {
            let n_streams = self.maps[map].pool.len() as f64;
            sum.divide(rows[map].max(1) as f64);
            if self.maps[map].pool.contains(&0)
                && let Some(first) = self.look_at_first(map, &lenses[map])?
            {
                // From the mean over the other streams to that over all.
                sum.divide(1.0 / (n_streams - 1.0));
                sum.add(&first);
                sum.divide(n_streams);
            }
            self.maps[map].penalty.add_to(sum, &lenses[map]);
        }
        Ok(sums)
    }

    /// How many streams of its pool a token shows in an epoch to the lens that sees fewest.
    pub(super) fn streams_shown(&self) -> usize {
        self.maps.iter().map(|map| map.pool.len().min(SHOWN)).min().unwrap_or(1)
    }

    /// The places in a lens's pool of the streams that chunk `i` is looked at through; the first stream not where that
    /// is looked at apart.
    fn shown(&self, map: usize, i: usize, sampled: Option<usize>) -> Vec<usize> {
        let apart = self.inputs.first().is_some();
        let pool = &self.maps[map].pool;
        let places: Vec<usize> = (0..pool.len()).filter(|&k| !(apart && pool[k] == 0)).collect();
        match sampled {
            Some(epoch) if places.len() > SHOWN => {
                (0..SHOWN).map(|k| places[((i + epoch) * SHOWN + k) % places.len()]).collect()
            }
            Some(_) | None => places,
        }
    }

    /// All tokens for the lens of the first stream, if it has one of its own and the rows are few.
    pub(super) fn evaluate_first(&self, lens: &Form) -> Result<Option<Evaluation>> {
        if self.maps[0].pool != [0] {
            return Ok(None);
        }
        let mut seen = self.look_at_first(0, lens)?;
        if let Some(sum) = &mut seen {
            self.maps[0].penalty.add_to(sum, lens);
        }
        Ok(seen)
    }

    /// The mean over all tokens of what a lens makes of the first stream, if the rows of that are few.
    fn look_at_first(&self, map: usize, lens: &Form) -> Result<Option<Evaluation>> {
        let Some(Distinct { pieces, entropy, .. }) = self.inputs.first() else { return Ok(None) };
        let Some(k) = self.maps[map].pool.iter().position(|&l| l == 0) else { return Ok(None) };
        let look = |read: &Read| self.look(read, (&self.decoder, &read.wanted), map, k, lens);
        let parts: Vec<Evaluation> = pieces.par_iter().map(look).collect::<Result<_>>()?;
        let mut sum = Evaluation::nothing(lens);
        parts.iter().for_each(|part| sum.add(part));
        sum.kl -= entropy;
        sum.divide(self.inputs.n_tokens() as f64);
        Ok(Some(sum))
    }

    /// What decodes the part of the vocabulary that is looked at in chunk `i` in an epoch, and what is wanted of it;
    /// nothing if that is all of it.
    fn part(&self, read: &Read, (epoch, i): (usize, usize)) -> Result<Option<(Decoding, Wanted)>> {
        let mean = &self.moments.mean_prediction;
        Part::look(&self.decoder, &read.wanted, mean, self.vocabulary, (epoch, i))
    }

    /// Sums over the rows of the `k`-th stream of a lens's pool, of what `through` decodes and wants.
    fn look(
        &self,
        read: &Read,
        (decoder, wanted): (&Decoding, &Wanted),
        map: usize,
        k: usize,
        lens: &Form,
    ) -> Result<Evaluation> {
        let mut sum = Evaluation::nothing(lens);
        let l = self.maps[map].pool[k];
        let (kl, dz) = decoder.kl_and_gradient(wanted, self.guess(read, map, k, lens))?;
        let mut db = Array1::<f32>::zeros(dz.ncols());
        add_rows(db.view_mut(), dz.view());
        let mut da = matmul(dz.t(), read.streams[l].view()).mapv(f64::from);
        let db = db.mapv(f64::from);
        // Rows are kept about the mean of their own stream: `h - x̄ = (h - x̄_l) + (x̄_l - x̄)`.
        if self.maps[map].pool.len() > 1 && self.maps[map].centres.nrows() == 1 {
            let off = &self.moments.layers[l].x_mean - &self.maps[map].centres.row(0);
            for (mut row, &db) in da.rows_mut().into_iter().zip(&db) {
                row.scaled_add(db, &off);
            }
        }
        if let Some(dgain) = sum.dgains.get_mut(k) {
            *dgain = (&da * &lens.a).sum();
            da *= lens.gain(k);
        }
        (sum.kl, sum.da) = (kl, da);
        sum.db.row_mut(lens.row(k)).assign(&db);
        Ok(sum)
    }

    /// What a lens makes of the `k`-th stream of its pool, `[rows, d_z]`.
    fn guess(&self, read: &Read, map: usize, k: usize, lens: &Form) -> Array2<f32> {
        let l = self.maps[map].pool[k];
        let gain = lens.gain(k);
        let at_mean = lens.a.dot(&self.moments.layers[l].x_mean) * gain + lens.b.row(lens.row(k));
        let a = lens.a.mapv(|x| (gain * x) as f32);
        linear(read.streams[l].view(), a.t(), at_mean.mapv(|x| x as f32).view())
    }

    /// The curvature of the objective by what each lens says, averaged over some of the tokens: the mean Fisher matrix
    /// `E[g gᵀ]`, `[d_z, d_z]`, where `g` is the gradient by a guess `z` of `-ln q(y)` and `y` is drawn from the lens's
    /// own reading `q`; and by gains, to which a lens's guess is proportional. It serves as a scale, so that some
    /// tokens are enough.
    ///
    /// Without the matrix for outputs so wide that their curvature costs more than it saves, and for lenses that are
    /// not `active`.
    pub(super) fn curvatures(&self, lenses: &[Form], active: &[bool]) -> Result<Vec<Curvature>> {
        let outputs = self.fisher(lenses, active)?;
        let of = |((output, lens), map): ((Option<Array2<f64>>, &Form), &Map)| {
            // `E |F^(1/2) A (h - x̄_k)|²`, and each stream is as many of the rows.
            let by_gain = |&l: &usize| {
                let (m, a) = (&self.moments.layers[l], &lens.a);
                let spread = matmul(matmul(a.view(), m.s_xx.view()).view(), a.t()) / m.weight;
                let size = match &output {
                    Some(f) => (f * &spread).sum(),
                    None => spread.diag().sum(),
                };
                size / map.pool.len() as f64
            };
            let gains =
                if lens.gains.is_empty() { Vec::new() } else { map.pool.iter().map(by_gain).collect() };
            Curvature { output, gains: gains.into() }
        };
        Ok(outputs.into_iter().zip(lenses).zip(&self.maps).map(of).collect())
    }

    fn fisher(&self, lenses: &[Form], active: &[bool]) -> Result<Vec<Option<Array2<f64>>>> {
        if lenses.iter().any(|lens| lens.b.ncols() > WIDEST) {
            return Ok(vec![None; lenses.len()]);
        }
        let n_chunks = self.inputs.n_chunks();
        let chunk_tokens = self.inputs.n_tokens().div_ceil(n_chunks);
        let n_looked = n_chunks.min(LOOKED).min(LOOKED_TOKENS.div_ceil(chunk_tokens));
        let parts: Vec<(usize, Vec<Option<Array2<f64>>>)> = (0..n_looked)
            .into_par_iter()
            .map(|i_look| {
                // In equal distances: from all of the text.
                let i = i_look * n_chunks / n_looked;
                let read = self.inputs.read(i)?;
                let part = self.part(&read, (0, i))?;
                let decoder = part.as_ref().map_or(&self.decoder, |(decoder, _)| decoder);
                let mut random = rng(0, i as u64);
                let mut one = |map: usize| -> Result<Array2<f64>> {
                    // Of a pool a stream is enough: another one in each chunk.
                    let k = i_look % self.maps[map].pool.len();
                    let z = self.guess(&read, map, k, &lenses[map]);
                    let q = Wanted::of_logits(decoder.logits(z.view())?.view()).p;
                    let drawn = drawn(q.view(), &mut random);
                    let (_, g) = decoder.kl_and_gradient(&Wanted::of_classes(&drawn, q.ncols()), z)?;
                    Ok(matmul(g.t(), g.view()).mapv(f64::from))
                };
                let looked = (0..lenses.len()).map(|map| active[map].then(|| one(map)).transpose());
                Ok((read.wanted.p.nrows(), looked.collect::<Result<_>>()?))
            })
            .collect::<Result<_>>()?;
        let zeros = |(lens, active): (&Form, &bool)| {
            active.then(|| Array2::<f64>::zeros((lens.b.ncols(), lens.b.ncols())))
        };
        let mut sums: Vec<Option<Array2<f64>>> = lenses.iter().zip(active).map(zeros).collect();
        let mut n = 0;
        for (n_tokens, part) in parts {
            n += n_tokens;
            for (sum, part) in sums.iter_mut().zip(part) {
                if let (Some(sum), Some(part)) = (sum, part) {
                    *sum += &part;
                }
            }
        }
        Ok(sums.into_iter().map(|sum| sum.map(|sum| sum / n as f64)).collect())
    }
}

fn first_of(map: usize, map_of: &[usize]) -> usize {
    map_of.iter().position(|&of| of == map).expect("every map is of a stream")
}

/// What a map of low rank is that rank away from: nothing, or the identity, whichever a penalty has pulled towards.
fn counted_from(a: &Array2<f64>, rank: usize) -> Result<Array2<f64>> {
    let away = |from: &Array2<f64>| -> Result<f64> {
        let off = a - from;
        let sizes = SymmetricEigen::new(matmul(off.view(), off.t()).view())?.values;
        Ok(sizes.iter().take(sizes.len().saturating_sub(rank)).sum())
    };
    let zero = Array2::zeros(a.dim());
    if a.nrows() != a.ncols() {
        return Ok(zero);
    }
    let identity = Array2::eye(a.nrows());
    Ok(if away(&identity)? < away(&zero)? { identity } else { zero })
}

impl Evaluation {
    fn nothing(lens: &Form) -> Self {
        Evaluation {
            kl: 0.0,
            da: Array2::zeros(lens.a.dim()),
            db: Array2::zeros(lens.b.dim()),
            dgains: Array1::zeros(lens.gains.len()),
        }
    }

    fn add(&mut self, other: &Evaluation) {
        self.kl += other.kl;
        self.da += &other.da;
        self.db += &other.db;
        self.dgains += &other.dgains;
    }

    fn divide(&mut self, n: f64) {
        self.kl /= n;
        self.da /= n;
        self.db /= n;
        self.dgains /= n;
    }
}

/// One class drawn from each row of probabilities.
fn drawn(q: ArrayView2<f32>, random: &mut Rng) -> Vec<usize> {
    q.rows().into_iter().map(|q| sample_index(random, q.iter().map(|&q| f64::from(q)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lens::Ridge;
    use crate::lens::decoder::Decoder;
    use crate::model::{Config, Transformer};
    use crate::num::uniform_index;

    #[test]
    fn distinct_embeddings_give_the_kl_and_the_gradient_of_all_tokens() {
        let config = Config {
            d_vocab: 7,
            d_model: 8,
            n_heads: 2,
            d_head: 4,
            n_layers: 2,
            n_ctx: 5,
            ..Default::default()
        };
        let model = Transformer::new(config).unwrap();
        let mut random = rng(5, 0);
        let tokens = Array2::from_shape_simple_fn((90, 5), || uniform_index(&mut random, 7) as u32);
        let moments = LayerMoments::collect(&model, &tokens).unwrap();
        let start = Ridge::default().own(&moments).unwrap();
        let see = |keep| {
            let mut inputs = Inputs::new(&model, &tokens, None);
            assert_eq!(inputs.keep(keep, None).unwrap(), keep > 0);
            let decoder = Decoding::new(Decoder::new(&model, moments.target), None).unwrap();
            let (objective, lenses) = Objective::new(decoder, inputs, &moments, &start, 1e-3).unwrap();
            assert_eq!(objective.inputs.first().is_some(), keep > 0);
            objective.evaluate(&lenses, &[true; 3], None, &mut Meter::new(1, 0)).unwrap()
        };
        let (distinct, all) = (see(usize::MAX), see(0));
        for (distinct, all) in distinct.iter().zip(&all) {
            assert!((distinct.kl - all.kl).abs() < 1e-6 * all.kl.max(1.0), "{} {}", distinct.kl, all.kl);
            let off = (&distinct.da - &all.da)
                .iter()
                .chain(&(&distinct.db - &all.db))
                .fold(0.0_f64, |m, x| m.max(x.abs()));
            let size = all.da.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
            assert!(off < 1e-5 * size.max(0.01), "{off:e} of {size:e}");
        }
    }

    #[test]
    fn penalties_are_quadratic_in_the_distance_from_the_identity() {
        let mut m = Moments::new(2, 2);
        // Variances 4 and 2 over the rows: 3 in the mean.
        let x = ndarray::array![[2.0, 0.0], [-2.0, 0.0], [2.0, 2.0], [-2.0, -2.0]];
        m.push(x.view(), x.view()).unwrap();
        let lens = Form {
            a: ndarray::array![[1.5, 0.0], [-1.0, 1.0]],
            b: ndarray::array![[9.0, 9.0]],
            gains: Array1::zeros(0),
        };
        let seen = |target| {
            let mut at = Evaluation::nothing(&lens);
            Penalty::new(0.1, &m, target).add_to(&mut at, &lens);
            at
        };
        // ½ · 0.1 · 3 · (0.5² + 1²), and 0.1 · 3 times what is off.
        let at = seen(Target::Residual);
        assert!((at.kl - 0.1875).abs() < 1e-12);
        assert!((at.da - ndarray::array![[0.15, 0.0], [-0.3, 0.0]]).iter().all(|e| e.abs() < 1e-12));
        assert_eq!(at.db, ndarray::array![[0.0, 0.0]]);
        // Towards zero: ½ · 0.3 · (1.5² + 1² + 1²).
        assert!((seen(Target::Given).kl - 0.6375).abs() < 1e-12);
    }
}
