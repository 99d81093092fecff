//! What a model, or a lens, says of the next token, for rows at a time that no vocabulary makes too large for memory.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, s};
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
    pub(crate) next: &'a [u32],
    /// `[rows, d_model]`, one for each residual stream.
    pub(crate) streams: Vec<ArrayView2<'a, f32>>,
    /// Log-probabilities of the final prediction, `[rows, d_vocab]`, and their exponentials.
    pub(crate) log_p: Array2<f32>,
    p: Array2<f32>,
}

/// What a row of logits says, beside the final prediction at that row.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Said {
    /// `KL(p ‖ q)`, in nats.
    pub(crate) kl: f64,
    /// Entropy of `q`, in nats.
    pub(crate) entropy: f64,
    /// `ln Σ exp` of the logits: what to take from them for log-probabilities.
    pub(crate) log_z: f32,
}

impl Block<'_> {
    /// What `logits: [rows, d_vocab]` say, row by row.
    pub(crate) fn said(&self, logits: ArrayView2<f32>) -> Vec<Said> {
        let logits = logits.as_standard_layout();
        let rows = self.log_p.rows().into_iter().zip(self.p.rows()).zip(logits.rows());
        rows.map(|((log_p, p), x)| {
            let stored = "stored row by row";
            let (log_p, p) = (log_p.to_slice().expect(stored), p.to_slice().expect(stored));
            let mut said = Said::default();
            read_row(log_p, p, x.to_slice().expect(stored), &mut said);
            said
        })
        .collect()
    }

    /// The sum over the rows of `-ln q` of the tokens that came next, in nats.
    pub(crate) fn cross_entropy(&self, logits: ArrayView2<f32>, said: &[Said]) -> f64 {
        let rows = self.next.iter().zip(logits.rows()).zip(said);
        rows.map(|((&t, x), said)| f64::from(said.log_z - x[t as usize])).sum()
    }
}

/// Logits minus `ln Σ exp` of their row, by the sum that [`Block::said`] takes: equal logits are then at no distance at
/// all.
fn log_probabilities(mut logits: Array2<f32>) -> Array2<f32> {
    for mut row in logits.rows_mut() {
        let mut said = Said::default();
        read_row(&[], &[], row.as_slice().expect("a product lies row by row"), &mut said);
        row -= said.log_z;
    }
    logits
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

wide_fn! {
    /// In 16 lanes of `f64`, so that the sums are good to the precision of what is summed.
    fn read_row<'a, F>(log_p: &'a [F], p: &'a [F], x: &'a [F], said: &'a mut Said) {
        const LANES: usize = 16;
        let max = largest(x);
        let (mut total, mut spread) = ([0.0_f64; LANES], [0.0_f64; LANES]);
        for x in x.chunks(LANES) {
            for ((&x, total), spread) in x.iter().zip(&mut total).zip(&mut spread) {
                let e = (x - max).exp_real();
                *total += e.wide();
                *spread += (e * (x - max)).wide();
            }
        }
        let (total, spread): (f64, f64) = (sum(&total), sum(&spread));
        let log_z = max + F::of(total.ln());
        let mut kl = [0.0_f64; LANES];
        for ((log_p, p), x) in log_p.chunks(LANES).zip(p.chunks(LANES)).zip(x.chunks(LANES)) {
            for (((&log_p, &p), &x), kl) in log_p.iter().zip(p).zip(x).zip(&mut kl) {
                // What has no probability adds nothing, however little the lens gives it.
                let more = p * (log_p - (x - log_z));
                *kl += if p > F::zero() { more.wide() } else { 0.0 };
            }
        }
        *said = Said {
            kl: sum(&kl),
            entropy: total.ln() - spread / total,
            log_z: log_z.wide() as f32,
        };
    }
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
            let log_p = log_probabilities(model.logits(*last));
            let p = log_p.mapv(|x| if x > f32::NEG_INFINITY { x.exp_real() } else { 0.0 });
            let next = &tokens[n_pos.min(start + 1)..n_pos.min(rows.end + 1)];
            each(Block { sequence, start, next, streams, log_p, p })
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
        // Lengths on either side of the lanes, and one that has no probability.
        for d in [1, 15, 16, 17, 300] {
            let mut row =
                || Array2::from_shape_simple_fn((1, d), || uniform_index(&mut random, 1000) as f32 / 40.0);
            let mut logits = row();
            if d > 1 {
                logits[(0, 1)] = f32::NEG_INFINITY;
            }
            let log_p = log_softmax_rows(logits.view());
            let p = log_p.mapv(|x| if x > f32::NEG_INFINITY { x.exp_real() } else { 0.0 });
            let block = Block { sequence: 0, start: 0, next: &[0], streams: vec![], log_p, p };
            let x = row();
            let log_q = log_softmax_rows(x.view());
            let said = block.said(x.view());
            let (kl, h) = (kl_divergence(block.log_p.row(0), log_q.row(0)), entropy(log_q.row(0)));
            assert!((said[0].kl - kl).abs() < 2e-6 * (1.0 + kl), "{d}: {} and {kl}", said[0].kl);
            assert!((said[0].entropy - h).abs() < 2e-6 * (1.0 + h), "{d}: {} and {h}", said[0].entropy);
            let nats = block.cross_entropy(x.view(), &said);
            assert!((nats + f64::from(log_q[(0, 0)])).abs() < 1e-5, "{d}: {nats}");
        }
    }

    #[test]
    fn a_reading_that_is_the_final_prediction_is_at_no_distance_from_it() {
        let logits = Array2::from_shape_fn((2, 100), |(i, j)| ((i * 7 + j * 13) % 31) as f32 / 3.0);
        let log_p = log_probabilities(logits.clone());
        let p = log_p.mapv(f32::exp);
        let block = Block { sequence: 0, start: 0, next: &[], streams: vec![], log_p, p };
        assert!(block.said(logits.view()).iter().all(|said| said.kl == 0.0));
    }

    #[test]
    fn the_most_probable_is_the_first_of_equals() {
        assert_eq!(most_probable(ndarray::array![0.0, 2.0, 1.0, 2.0].view()), 1);
    }
}
