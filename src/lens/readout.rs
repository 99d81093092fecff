//! What a model, or a lens, says of the next token, for rows at a time that no vocabulary makes too large for memory.

use std::ops::Range;

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, concatenate, s};
use rayon::prelude::*;

use super::{Lens, Updates};
use crate::model::Transformer;
use crate::num::{Real, largest, sum, wide_fn};
use crate::session;
use crate::{Error, ErrorKind, Result};

/// Logits that are in memory at a time, at most, for each thread: 32 MiB.
const LOGITS: usize = 1 << 23;

/// Rows whose logits are held together.
pub(crate) fn rows_at_once(d_vocab: usize) -> usize {
    (LOGITS / d_vocab.max(1)).max(1)
}

/// The sum of what the model predicts after the rows of the last stream `h: [rows, d_model]`: `Σ_i p_i`, `[d_vocab]`.
pub(crate) fn sum_of_predictions(model: &Transformer, h: ArrayView2<f32>) -> Array1<f64> {
    let d_vocab = model.config.d_vocab;
    let mut sums = Array1::zeros(d_vocab);
    for h in h.axis_chunks_iter(Axis(0), rows_at_once(d_vocab)) {
        let logits = model.logits(h);
        sums += &sum_of_softmax(logits.view());
    }
    sums
}

/// The sum over the rows of the distributions that logits, or log-probabilities, are: `[d_vocab]`.
pub(crate) fn sum_of_softmax(logits: ArrayView2<f32>) -> Array1<f64> {
    let mut sums = vec![0.0; logits.ncols()];
    let logits = logits.as_standard_layout();
    add_softmax(logits.as_slice().expect("stored row by row"), &mut sums);
    Array1::from(sums)
}

wide_fn! {
    fn add_softmax<'a, F>(rows: &'a [F], sums: &'a mut [f64]) {
        let mut p = vec![F::zero(); sums.len()];
        for row in rows.chunks_exact(sums.len().max(1)) {
            let max = largest(row);
            p.iter_mut().zip(row).for_each(|(p, &x)| *p = (x - max).exp_real());
            let scale = sum(&p).recip();
            sums.iter_mut().zip(&p).for_each(|(sum, &p)| *sum += (p * scale).wide());
        }
    }
}

/// Some rows of one sequence, and what the model makes of them in the end.
pub(crate) struct Block<'a> {
    /// Which sequence, and where in it the rows begin.
    pub(crate) sequence: usize,
    pub(crate) start: usize,
    /// The tokens that came next: one fewer than rows at the end of a sequence.
    next: &'a [u32],
    /// `[rows, d_model]`, one for each residual stream.
    pub(crate) streams: Vec<ArrayView2<'a, f32>>,
    /// What the final prediction says, at no distance from itself.
    pub(crate) last: Vec<Said>,
    /// Logits of the final prediction, `[rows, d_vocab]`, and its probabilities.
    logits: Array2<f32>,
    p: Array2<f32>,
    /// The sum of the probabilities of a row, which rounding keeps from 1.
    mass: Vec<f64>,
}

/// What a row of logits says, beside the final prediction at that row.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Said {
    /// `KL(p ‖ q)`, in nats.
    pub(crate) kl: f64,
    /// Entropy of `q`, in nats.
    pub(crate) entropy: f64,
    /// `ln Σ exp` of the logits: what to take from them for log-probabilities.
    pub(crate) log_z: f64,
    /// The most probable token, the first of equals.
    pub(crate) top: u32,
    /// `-ln q` of the token that came next, in nats, if one did.
    pub(crate) surprise: Option<f64>,
}

/// The sum over rows of `-ln q` of the tokens that came next, in nats.
pub(crate) fn surprise(said: &[Said]) -> f64 {
    said.iter().filter_map(|said| said.surprise).sum()
}

/// Tokens whose logits are made together: for the rows of a block they stay in a core's own cache while they are read.
const TILE: usize = 512;
/// Streams whose rows go through a product together: a part of the unembedding is packed once for all of them.
const TOGETHER: usize = 4;

fn tiles(d_vocab: usize) -> impl Iterator<Item = Range<usize>> {
    (0..d_vocab).step_by(TILE).map(move |start| start..d_vocab.min(start + TILE))
}

/// Logits of what the final norm gave, as [`Block::read_rows`] makes them: equal rows have equal logits.
fn logits_by_tiles(model: &Transformer, y: ArrayView2<f32>) -> Array2<f32> {
    let mut logits = Array2::zeros((y.nrows(), model.config.d_vocab));
    for columns in tiles(model.config.d_vocab) {
        let part = model.logits_of_part(y, columns.clone());
        logits.slice_mut(s![.., columns]).assign(&part);
    }
    logits
}

impl<'a> Block<'a> {
    fn new(
        (sequence, start): (usize, usize),
        next: &'a [u32],
        streams: Vec<ArrayView2<'a, f32>>,
        logits: Array2<f32>,
    ) -> Self {
        let p = Array2::zeros((0, 0));
        let mut block = Block { sequence, start, next, streams, last: vec![], logits, p, mass: vec![] };
        block.last = block.said(block.logits.view());
        block.p = block.logits.clone();
        for (mut p, last) in block.p.rows_mut().into_iter().zip(&block.last) {
            p.mapv_inplace(|x| if x > f32::NEG_INFINITY { (x - last.log_z as f32).exp_real() } else { 0.0 });
        }
        block.mass = block.p.rows().into_iter().map(|p| p.iter().map(|&p| f64::from(p)).sum()).collect();
        block
    }

    pub(crate) fn n_rows(&self) -> usize {
        self.logits.nrows()
    }

    /// The shape of the logits, `[rows, d_vocab]`.
    pub(crate) fn dim(&self) -> (usize, usize) {
        self.logits.dim()
    }

    /// What `lens` says at each of the residual streams `l`, row by row.
    pub(crate) fn read(
        &self,
        model: &Transformer,
        lens: &dyn Lens,
        l: impl IntoIterator<Item = usize>,
    ) -> Result<Vec<Vec<Said>>> {
        let streams: Vec<_> = l.into_iter().map(|l| (l, self.streams[l])).collect();
        self.read_rows(model, lens, &streams)
    }

    /// The same of any rows in the place of a stream's. The vocabulary goes by in parts, so that no more than one part
    /// of the logits is in memory, of [`TOGETHER`] streams at a time.
    pub(crate) fn read_rows(
        &self,
        model: &Transformer,
        lens: &dyn Lens,
        streams: &[(usize, ArrayView2<f32>)],
    ) -> Result<Vec<Vec<Said>>> {
        let mut all = Vec::with_capacity(streams.len());
        for streams in streams.chunks(TOGETHER) {
            let z = streams.iter().map(|(l, h)| lens.transport(*l, *h)).collect::<Result<Vec<_>>>()?;
            let y = z.iter().map(|z| lens.normalised(model, z.view())).collect::<Result<Option<Vec<_>>>>()?;
            let Some(y) = y else {
                for z in z {
                    all.push(self.said(lens.logits(model, z.view())?.view()));
                }
                continue;
            };
            let views: Vec<_> = y.iter().map(|y| y.view()).collect();
            let y = concatenate(Axis(0), &views).expect("all are as wide as the model");
            let mut sums = vec![vec![Sums::default(); self.n_rows()]; streams.len()];
            for columns in tiles(model.config.d_vocab) {
                let logits = model.logits_of_part(y.view(), columns.clone());
                for (sums, logits) in sums.iter_mut().zip(logits.axis_chunks_iter(Axis(0), self.n_rows())) {
                    self.add(sums, columns.clone(), logits);
                }
            }
            all.extend(sums.into_iter().map(|sums| self.finish(sums)));
        }
        Ok(all)
    }

    /// What `logits: [rows, d_vocab]` say, row by row.
    pub(crate) fn said(&self, logits: ArrayView2<f32>) -> Vec<Said> {
        let logits = logits.as_standard_layout();
        let mut sums = vec![Sums::default(); logits.nrows()];
        for columns in tiles(logits.ncols()) {
            self.add(&mut sums, columns.clone(), logits.slice(s![.., columns]));
        }
        self.finish(sums)
    }

    /// Adds the logits of some tokens.
    fn add(&self, sums: &mut [Sums], columns: Range<usize>, logits: ArrayView2<f32>) {
        for (i, (sums, x)) in sums.iter_mut().zip(logits.rows()).enumerate() {
            let stored = "stored row by row";
            let x = x.to_slice().expect(stored);
            // The final prediction itself has nothing to be compared with.
            let row = i * self.p.ncols();
            let here = if self.p.is_empty() { 0..0 } else { row + columns.start..row + columns.end };
            let last = &self.logits.as_slice().expect(stored)[here.clone()];
            let p = &self.p.as_slice().expect(stored)[here];
            let mut part = Sums::default();
            read_row(last, p, x, &mut part);
            if part.max > sums.max {
                let top = x.iter().position(|&x| f64::from(x) == part.max);
                part.top = (columns.start + top.unwrap_or(0)) as u32;
            }
            if let Some(&next) = self.next.get(i)
                && columns.contains(&(next as usize))
            {
                part.next = Some(f64::from(x[next as usize - columns.start]));
            }
            sums.join(part);
        }
    }

    fn finish(&self, sums: Vec<Sums>) -> Vec<Said> {
        let said = |(i, sums): (usize, Sums)| {
            let log_z = sums.max + sums.total.ln();
            let kl = match (self.mass.get(i), self.last.get(i)) {
                (Some(mass), Some(last)) => sums.cross + mass * (log_z - last.log_z),
                // Of the final prediction itself, which is made first.
                _ => 0.0,
            };
            Said {
                kl,
                entropy: sums.total.ln() - sums.spread / sums.total,
                log_z,
                top: sums.top,
                surprise: sums.next.map(|x| log_z - x),
            }
        };
        sums.into_iter().enumerate().map(said).collect()
    }
}

/// Sums over some logits `x` of one row, beside those of the final prediction `x'` and its probabilities `p`.
#[derive(Clone, Copy)]
struct Sums {
    max: f64,
    /// `Σ exp(x - max)`, and `Σ (x - max) exp(x - max)`.
    total: f64,
    spread: f64,
    /// `Σ p (x' - x)`.
    cross: f64,
    top: u32,
    next: Option<f64>,
}

impl Default for Sums {
    /// Of nothing.
    fn default() -> Self {
        Sums { max: f64::NEG_INFINITY, total: 0.0, spread: 0.0, cross: 0.0, top: 0, next: None }
    }
}

impl Sums {
    fn join(&mut self, more: Sums) {
        let (max, top) = if more.max > self.max { (more.max, more.top) } else { (self.max, self.top) };
        let about_max = |sums: &Sums| {
            if sums.total == 0.0 {
                return (0.0, 0.0);
            }
            let (by, scale) = (sums.max - max, (sums.max - max).exp());
            (sums.total * scale, (sums.spread + sums.total * by) * scale)
        };
        let (a, b) = (about_max(self), about_max(&more));
        *self = Sums {
            max,
            total: a.0 + b.0,
            spread: a.1 + b.1,
            cross: self.cross + more.cross,
            top,
            next: self.next.or(more.next),
        };
    }
}

/// The place of the largest, the first of equals.
pub(crate) fn most_probable<F: Real>(row: ArrayView1<F>) -> usize {
    let max = row.as_slice().map_or_else(|| row.iter().copied().fold(F::neg_infinity(), F::max), largest_of);
    row.iter().position(|&x| x == max).unwrap_or(0)
}

fn largest_of<F: Real>(row: &[F]) -> F {
    let mut max = F::neg_infinity();
    largest_into(row, &mut max);
    max
}

wide_fn! {
    fn largest_into<'a, F>(row: &'a [F], max: &'a mut F) {
        *max = largest(row);
    }
}

/// Numbers that are summed side by side, in `f64`, so that the sums are good to the precision of what is summed.
const LANES: usize = 16;

wide_fn! {
    /// Without `last` and `p` nothing is compared.
    fn read_row<'a, F>(last: &'a [F], p: &'a [F], x: &'a [F], sums: &'a mut Sums) {
        let max = largest(x);
        sums.max = max.wide();
        // Where all are -∞, none has a probability.
        if max > F::neg_infinity() {
            let (whole, rest) = x.as_chunks();
            let mut lanes = ([0.0; LANES], [0.0; LANES]);
            for x in whole {
                lanes = with_exponentials(lanes, x, max);
            }
            let (total, spread) = with_exponentials(lanes, &filled(rest, F::neg_infinity()), max);
            (sums.total, sums.spread) = (sum(&total), sum(&spread));
        }
        if !p.is_empty() {
            let ((last, rest_last), (p, rest_p), (x, rest)) = (last.as_chunks(), p.as_chunks(), x.as_chunks());
            let mut lanes = [0.0; LANES];
            for ((last, p), x) in last.iter().zip(p).zip(x) {
                lanes = with_distances(lanes, last, p, x);
            }
            let none = F::zero();
            let rest = (filled(rest_last, none), filled(rest_p, none), filled(rest, none));
            sums.cross = sum(&with_distances(lanes, &rest.0, &rest.1, &rest.2));
        }
    }
}

/// Lanes of `Σ exp(x - max)` and of `Σ (x - max) exp(x - max)` with more of them. One loop for each operation: the
/// compiler makes vector instructions of these.
#[inline(always)]
fn with_exponentials<F: Real>(
    (mut total, mut spread): ([f64; LANES], [f64; LANES]),
    x: &[F; LANES],
    max: F,
) -> ([f64; LANES], [f64; LANES]) {
    let (mut e, mut ed) = ([F::zero(); LANES], [F::zero(); LANES]);
    for i in 0..LANES {
        e[i] = (x[i] - max).exp_real();
    }
    for i in 0..LANES {
        // A token at -∞ adds nothing.
        ed[i] = if e[i] > F::zero() { e[i] * (x[i] - max) } else { F::zero() };
    }
    for i in 0..LANES {
        total[i] += e[i].wide();
    }
    for i in 0..LANES {
        spread[i] += ed[i].wide();
    }
    (total, spread)
}

/// Lanes of `Σ p (x' - x)` with more of them.
#[inline(always)]
fn with_distances<F: Real>(
    mut cross: [f64; LANES],
    last: &[F; LANES],
    p: &[F; LANES],
    x: &[F; LANES],
) -> [f64; LANES] {
    let mut more = [F::zero(); LANES];
    for i in 0..LANES {
        // What has no probability adds nothing, however little the lens gives it.
        let distance = p[i] * (last[i] - x[i]);
        more[i] = if p[i] > F::zero() { distance } else { F::zero() };
    }
    for i in 0..LANES {
        cross[i] += more[i].wide();
    }
    cross
}

/// A few numbers, and something in the place of those that lack to a whole chunk.
#[inline(always)]
fn filled<F: Real>(few: &[F], with: F) -> [F; LANES] {
    let mut all = [with; LANES];
    all[..few.len()].copy_from_slice(few);
    all
}

/// Runs the model over each of `tokens: [sequence, pos]` and hands `each` all of it, some rows at a time, so that
/// memory is bounded whatever the vocabulary. What it says comes in the order of the tokens.
///
/// Fails on tokens or lenses that do not fit the model, and where `each` does.
pub(crate) fn read_blocks<T: Send>(
    model: &Transformer,
    lenses: &[&dyn Lens],
    tokens: &Array2<u32>,
    each: impl Fn(Block) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    read_blocks_of(model, lenses, tokens, Updates::AsTheyAre, each)
}

/// The same of streams whose updates are changed, the last one's prediction with them.
pub(crate) fn read_blocks_of<T: Send>(
    model: &Transformer,
    lenses: &[&dyn Lens],
    tokens: &Array2<u32>,
    updates: Updates,
    each: impl Fn(Block) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    model.check_tokens(tokens)?;
    for lens in lenses {
        lens.check_model(model)?;
    }
    let n_pos = tokens.ncols();
    let at_once = rows_at_once(model.config.d_vocab);
    let read = |sequence: usize, streams: &[Array2<f32>]| -> Result<Vec<T>> {
        let tokens = tokens.row(sequence).to_vec();
        let blocks = (0..n_pos).step_by(at_once).map(|start| {
            let rows = start..n_pos.min(start + at_once);
            let streams: Vec<_> = streams.iter().map(|h| h.slice(s![rows.clone(), ..])).collect();
            let last = streams.last().expect("a model has streams");
            let logits = logits_by_tiles(model, model.normalised(*last).view());
            let next = &tokens[n_pos.min(start + 1)..n_pos.min(rows.end + 1)];
            each(Block::new((sequence, start), next, streams, logits))
        });
        blocks.collect()
    };
    let sequences: Vec<ArrayView2<u32>> = tokens.axis_chunks_iter(Axis(0), 1).collect();
    let at_a_time = 2 * rayon::current_num_threads();
    let mut all = Vec::new();
    for (round, sequences) in sequences.chunks(at_a_time).enumerate() {
        if session::interrupted() {
            return Err(Error::new(
                ErrorKind::Interrupted,
                format!("interrupted after {} of {} sequences", round * at_a_time, tokens.nrows()),
                "run it again, on fewer tokens or with fewer lenses if it takes too long",
            ));
        }
        let mut streams = model.streams(sequences);
        let first = |i: usize| round * at_a_time + i;
        streams.par_iter_mut().enumerate().for_each(|(i, streams)| updates.apply(streams, first(i), n_pos));
        let read = |(i, streams): (usize, &Vec<Array2<f32>>)| read(first(i), streams);
        all.extend(
            streams.par_iter().enumerate().map(read).collect::<Result<Vec<Vec<T>>>>()?.into_iter().flatten(),
        );
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::{entropy, kl_divergence, log_softmax_rows, rng, uniform_index};

    #[test]
    fn what_a_row_says_is_what_its_log_probabilities_say() {
        let mut random = rng(1, 0);
        // Lengths on either side of the lanes and of the tiles, and one that has no probability.
        for d in [1, 15, 16, 17, 300, TILE, TILE + 1, 3 * TILE + 5] {
            let mut row =
                || Array2::from_shape_simple_fn((1, d), || uniform_index(&mut random, 1000) as f32 / 40.0);
            let mut logits = row();
            if d > 1 {
                logits[(0, 1)] = f32::NEG_INFINITY;
            }
            let log_p = log_softmax_rows(logits.view());
            let next = [d as u32 - 1];
            let block = Block::new((0, 0), &next, vec![], logits);
            let x = row();
            let log_q = log_softmax_rows(x.view());
            let said = block.said(x.view())[0];
            let (kl, h) = (kl_divergence(log_p.row(0), log_q.row(0)), entropy(log_q.row(0)));
            assert!((said.kl - kl).abs() < 2e-6 * (1.0 + kl), "{d}: {} and {kl}", said.kl);
            assert!((said.entropy - h).abs() < 2e-6 * (1.0 + h), "{d}: {} and {h}", said.entropy);
            assert_eq!(said.top as usize, most_probable(x.row(0)), "{d}");
            let nats = said.surprise.unwrap();
            assert!((nats + f64::from(log_q[(0, d - 1)])).abs() < 1e-5, "{d}: {nats}");
            // A constant added to a row says the same.
            let moved = block.said((x + 50.0).view())[0];
            assert!((moved.kl - said.kl).abs() < 1e-5 * (1.0 + kl), "{d}: {} and {}", moved.kl, said.kl);
        }
    }

    #[test]
    fn a_reading_that_is_the_final_prediction_is_at_no_distance_from_it() {
        for d in [100, 2 * TILE + 7] {
            let logits = Array2::from_shape_fn((2, d), |(i, j)| ((i * 7 + j * 13) % 31) as f32 / 3.0);
            let block = Block::new((0, 0), &[], vec![], logits.clone());
            assert!(block.said(logits.view()).iter().all(|said| said.kl == 0.0));
        }
    }

    #[test]
    fn a_token_that_a_lens_rules_out_is_infinitely_far() {
        let block = Block::new((0, 0), &[], vec![], ndarray::array![[0.0, 1.0, 2.0]]);
        let said = block.said(ndarray::array![[0.0, f32::NEG_INFINITY, 2.0]].view());
        assert_eq!(said[0].kl, f64::INFINITY);
        assert!(said[0].entropy.is_finite());
    }

    #[test]
    fn the_most_probable_is_the_first_of_equals() {
        assert_eq!(most_probable(ndarray::array![0.0, 2.0, 1.0, 2.0].view()), 1);
    }
}
