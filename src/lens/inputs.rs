//! What refinement reads: the residual streams of some tokens and what is wanted of them, kept or run again.

use std::sync::Arc;

use ndarray::{Array1, Array2, s};
use rayon::prelude::*;

use super::decoder::{Elsewhere, Wanted};
use super::token_chunks::{CHUNK, TokenChunks};
use super::{Accumulator, LayerMoments, Scale, Seen};
use crate::model::{Positions, Transformer};
use crate::session::{self, Progress};
use crate::{Error, ErrorKind, Result};

/// Chunks between two looks at an interrupt: what bounds the memory.
pub(super) const ROUND: usize = 16;
/// Rows of distinct embeddings that one thread takes at a time.
const PIECE: usize = 256;

/// What refinement reads, and what is kept of it.
#[derive(Clone)]
pub(super) struct Inputs<'a> {
    origin: Origin<'a>,
    /// Taken from all rows of a stream; one per stream, or none yet.
    x_means: Vec<Array1<f32>>,
    /// By chunk, or empty.
    kept: Vec<Arc<Read>>,
    /// The first stream with each of its rows once, where streams are kept and that is worth it.
    first: Option<Arc<Distinct>>,
}

/// Where streams come from.
#[derive(Clone, Copy)]
enum Origin<'a> {
    /// A model that runs over tokens.
    Run {
        model: &'a Transformer,
        tokens: &'a dyn TokenChunks,
        /// The classes wanted, one per token, and how many there are; without them, the model's final prediction.
        labels: Option<(&'a Array2<u32>, usize)>,
        /// At which lenses read the streams.
        scale: Scale,
        /// Where it runs, if not on the processors.
        on: Option<&'a dyn Elsewhere>,
    },
    /// So many rows that were there already, all of them kept.
    Given { n_rows: usize },
}

/// What lenses are asked to read of a few rows: from where, and what should come out.
pub(super) struct Read {
    /// `h - x̄`, `[rows, d_model]`, one per residual stream.
    pub(super) streams: Vec<Array2<f32>>,
    pub(super) wanted: Wanted,
}

/// The embeddings of all tokens, each distinct one once. What is wanted of equal rows adds up:
/// `Σ_i KL(p_i ‖ q) = -(Σ_i p_i) · ln q - Σ_i H(p_i)`.
pub(super) struct Distinct {
    /// Of the first stream only, without the entropies.
    pub(super) pieces: Vec<Read>,
    n_rows: usize,
    /// `Σ_i H(p_i)` over all tokens, in nats.
    pub(super) entropy: f64,
}

impl<'a> Inputs<'a> {
    /// Of tokens that fit the model.
    pub(super) fn new(
        model: &'a Transformer,
        tokens: &'a dyn TokenChunks,
        labels: Option<(&'a Array2<u32>, usize)>,
    ) -> Self {
        let origin = Origin::Run { model, tokens, labels, scale: Scale::AsItIs, on: None };
        Inputs { origin, x_means: Vec::new(), kept: Vec::new(), first: None }
    }

    /// Of rows of streams, as lenses read them, with what is wanted of each.
    pub(super) fn given(chunks: Vec<Read>) -> Self {
        let n_rows = chunks.iter().map(|read| read.wanted.p.nrows()).sum();
        let kept = chunks.into_iter().map(Arc::new).collect();
        Inputs { origin: Origin::Given { n_rows }, x_means: Vec::new(), kept, first: None }
    }

    /// The same of a model's streams at this scale. Given rows are at theirs.
    pub(super) fn scaled(mut self, wanted: Scale) -> Self {
        match &mut self.origin {
            Origin::Run { scale, .. } => *scale = wanted,
            Origin::Given { .. } => {}
        }
        self
    }

    /// The same of a model that runs there.
    pub(super) fn run_on(mut self, there: Option<&'a dyn Elsewhere>) -> Self {
        match &mut self.origin {
            Origin::Run { on, .. } => *on = there,
            Origin::Given { .. } => {}
        }
        self
    }

    pub(super) fn n_chunks(&self) -> usize {
        match self.origin {
            Origin::Run { tokens, .. } => tokens.n_chunks(),
            Origin::Given { .. } => self.kept.len(),
        }
    }

    /// Chunks in equal distances, from all of the text, with about so many tokens.
    pub(super) fn some_chunks(&self, n_tokens: usize) -> Vec<usize> {
        let n = self.n_chunks();
        let some = n.min(n_tokens.div_ceil(self.n_tokens().div_ceil(n)));
        (0..some).map(|k| k * n / some).collect()
    }

    pub(super) fn n_tokens(&self) -> usize {
        match self.origin {
            Origin::Run { tokens, .. } => tokens.n_tokens(),
            Origin::Given { n_rows } => n_rows,
        }
    }

    /// Runs the model now, once for all, if what it gives takes no more than `most_bytes`; else it runs again each
    /// time. Moments at the same scale, if any (and no labels), are added up in the same run. False if nothing is kept.
    pub(super) fn keep(&mut self, most_bytes: usize, mut moments: Option<&mut LayerMoments>) -> Result<bool> {
        let Origin::Run { model, labels, scale, .. } = self.origin else { return Ok(true) };
        if !self.kept.is_empty() {
            return Ok(true);
        }
        let config = &model.config;
        let n_classes = labels.map_or(config.d_vocab, |(_, n_classes)| n_classes);
        let per_token = config.d_model * (config.n_layers + 1) + n_classes;
        if self.n_tokens() * per_token * size_of::<f32>() > most_bytes {
            return Ok(false);
        }
        let of = moments.as_ref().map(|m| (m.scale, m.target));
        let mut sums = moments.as_ref().map(|m| Accumulator::new(m));
        let all: Vec<usize> = (0..self.n_chunks()).collect();
        let mut progress = Progress::new("running the model", self.n_tokens());
        let mut n = 0;
        for round in all.chunks(ROUND) {
            check_interrupt()?;
            let run = |&i: &usize| {
                let (streams, wanted) = self.run(i)?;
                let seen = match of {
                    Some(of) => Seen::new(model, streams, of, None),
                    None => Seen::streams(scale.of_all(streams)),
                };
                Ok((seen, wanted))
            };
            for (seen, wanted) in round.par_iter().map(run).collect::<Result<Vec<(Seen, Wanted)>>>()? {
                n += wanted.p.nrows();
                if let Some(sums) = &mut sums {
                    seen.add_to(sums)?;
                }
                self.kept.push(Arc::new(Read { streams: seen.streams, wanted }));
            }
            progress.update(n, || format!("{n} tokens"));
        }
        if let (Some(moments), Some(sums)) = (&mut moments, sums) {
            **moments = sums.finish();
        }
        progress.finish(&format!("{n} tokens, streams kept"));
        Ok(true)
    }

    /// Takes their means from all streams, once: where that is done, nothing changes.
    pub(super) fn centre(&mut self, x_means: &[Array1<f64>]) -> Result<()> {
        if !self.x_means.is_empty() {
            return Ok(());
        }
        self.x_means = x_means.iter().map(|mean| mean.mapv(|x| x as f32)).collect();
        let x_means = &self.x_means;
        self.kept.par_iter_mut().filter_map(Arc::get_mut).for_each(|read| centre(&mut read.streams, x_means));
        if !self.kept.is_empty() {
            self.first = self.distinct_embeddings()?.map(Arc::new);
        }
        Ok(())
    }

    /// The first stream holds the embedding of a token, and of its position if that is learned: it repeats where they
    /// do.
    fn distinct_embeddings(&self) -> Result<Option<Distinct>> {
        let Origin::Run { model, tokens, .. } = self.origin else { return Ok(None) };
        let by_position = model.config.positions == Positions::Learned;
        // Token and position, and where they stand: chunk and row.
        let mut places: Vec<[u32; 4]> = Vec::with_capacity(self.n_tokens());
        for i in 0..self.n_chunks() {
            for (row, ((_, pos), &token)) in tokens.chunk(i)?.indexed_iter().enumerate() {
                places.push([token, if by_position { pos as u32 } else { 0 }, i as u32, row as u32]);
            }
        }
        places.sort_unstable();
        let same: Vec<_> = places.chunk_by(|a, b| a[..2] == b[..2]).collect();
        if same.len() > places.len() / 2 {
            return Ok(None);
        }
        let read = |place: &[u32; 4]| (&self.kept[place[2] as usize], place[3] as usize);
        let piece = |same: &[&[[u32; 4]]]| {
            let mut h = Array2::zeros((same.len(), model.config.d_model));
            let mut p = Array2::zeros((same.len(), self.kept[0].wanted.p.ncols()));
            let mut sum = Array1::<f64>::zeros(p.ncols());
            for ((mut h, mut p), places) in h.rows_mut().into_iter().zip(p.rows_mut()).zip(same) {
                sum.fill(0.0);
                for (read, row) in places.iter().map(read) {
                    sum.zip_mut_with(&read.wanted.p.row(row), |sum, p| *sum += f64::from(*p));
                }
                let (read, row) = read(&places[0]);
                h.assign(&read.streams[0].row(row));
                p.zip_mut_with(&sum, |p, sum| *p = *sum as f32);
            }
            Read { streams: vec![h], wanted: Wanted::new(p, 0.0) }
        };
        Ok(Some(Distinct {
            n_rows: same.len(),
            pieces: same.par_chunks(PIECE).map(piece).collect(),
            entropy: self.kept.iter().map(|read| read.wanted.entropy).sum(),
        }))
    }

    /// The first stream, if its rows are few.
    pub(super) fn first(&self) -> Option<&Distinct> {
        self.first.as_deref()
    }

    /// Looks at the first stream that cost no more than one at any other.
    pub(super) fn cheap_looks(&self) -> usize {
        self.first.as_ref().map_or(1, |first| self.n_tokens() / first.n_rows)
    }

    /// Of chunk `i`.
    pub(super) fn read(&self, i: usize) -> Result<Arc<Read>> {
        if let Some(read) = self.kept.get(i) {
            return Ok(Arc::clone(read));
        }
        let Origin::Run { scale, .. } = self.origin else { unreachable!("rows that were given are kept") };
        let (streams, wanted) = self.run(i)?;
        let mut streams = scale.of_all(streams);
        centre(&mut streams, &self.x_means);
        Ok(Arc::new(Read { streams, wanted }))
    }

    /// Runs the model over chunk `i`: streams as they are.
    fn run(&self, i: usize) -> Result<(Vec<Array2<f32>>, Wanted)> {
        let Origin::Run { model, tokens, labels, on, .. } = self.origin else {
            unreachable!("rows that were given are kept")
        };
        let chunk = tokens.chunk(i)?;
        let (streams, logits) = match on {
            Some(on) => on.run(chunk.view()).map(|(streams, logits)| (streams, Some(logits)))?,
            None => (model.streams(&[chunk.view()]).remove(0), None),
        };
        let wanted = match labels {
            None => {
                let last = || model.logits(streams.last().expect("a model has streams").view());
                Wanted::of_logits(logits.unwrap_or_else(last).view())
            }
            Some((labels, n_classes)) => {
                let labels = labels.slice(s![i * CHUNK..i * CHUNK + chunk.nrows(), ..]);
                Wanted::of_classes(&labels.iter().map(|&label| label as usize).collect::<Vec<_>>(), n_classes)
            }
        };
        Ok((streams, wanted))
    }
}

fn centre(streams: &mut [Array2<f32>], x_means: &[Array1<f32>]) {
    streams.iter_mut().zip(x_means).for_each(|(h, mean)| *h -= mean);
}

pub(super) fn check_interrupt() -> Result<()> {
    if session::interrupted() {
        return Err(Error::new(
            ErrorKind::Interrupted,
            "interrupted while refining lenses",
            "run it again, with fewer `epochs` or `lbfgs_steps` if it takes too long; `Streaming::refine` would go on where it was",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Config;
    use crate::num::{rng, uniform_index};

    /// Two whole chunks and a half, of seven tokens.
    fn example(positions: Positions) -> (Transformer, Array2<u32>) {
        let config = Config {
            d_vocab: 7,
            d_model: 8,
            n_heads: 2,
            d_head: 4,
            n_layers: 2,
            positions,
            ..Default::default()
        };
        let mut random = rng(5, 0);
        let tokens =
            Array2::from_shape_simple_fn((2 * CHUNK + 2, 5), || uniform_index(&mut random, 7) as u32);
        (Transformer::new(config).unwrap(), tokens)
    }

    #[test]
    fn what_is_kept_is_what_is_run_again_and_no_more_than_fits() {
        let (model, tokens) = example(Positions::Learned);
        let means: Vec<Array1<f64>> = (0..3).map(|l| Array1::linspace(0.0, f64::from(l), 8)).collect();
        let mut again = Inputs::new(&model, &tokens, None);
        assert!(!again.keep((3 * 8 + 7) * 4 * 50 - 1, None).unwrap());
        let mut kept = Inputs::new(&model, &tokens, None);
        assert!(kept.keep((3 * 8 + 7) * 4 * 50, None).unwrap());
        again.centre(&means).unwrap();
        kept.centre(&means).unwrap();
        assert_eq!(kept.kept.len(), 3);
        for i in 0..3 {
            let (kept, again) = (kept.read(i).unwrap(), again.read(i).unwrap());
            assert_eq!(kept.streams, again.streams);
            assert_eq!(kept.wanted.p, again.wanted.p);
        }
    }

    #[test]
    fn moments_of_a_run_that_is_kept_are_those_collected() {
        let (model, tokens) = example(Positions::Learned);
        let mut moments = LayerMoments::new(&model);
        let mut inputs = Inputs::new(&model, &tokens, None).scaled(moments.scale);
        assert!(inputs.keep(usize::MAX, Some(&mut moments)).unwrap());
        assert!(moments == LayerMoments::collect(&model, &tokens).unwrap());
    }

    #[test]
    fn distinct_embeddings_stand_for_all_tokens_that_have_them() {
        let (model, tokens) = example(Positions::None);
        let mut inputs = Inputs::new(&model, &tokens, None);
        inputs.keep(usize::MAX, None).unwrap();
        inputs.centre(&[]).unwrap();
        let first = inputs.first().unwrap();
        assert_eq!((first.n_rows, inputs.cheap_looks()), (7, 50 / 7));
        for token in 0..7 {
            // Distinct rows are in the order of tokens.
            let (h, p) = (first.pieces[0].streams[0].row(token), first.pieces[0].wanted.p.row(token));
            assert_eq!(h, model.params.w_e.row(token));
            let n = tokens.iter().filter(|&&t| t as usize == token).count();
            assert!((p.sum() - n as f32).abs() < 1e-5 * n as f32);
        }
        // Learned positions: 7 · 5 rows at most are not half of 50.
        let (model, tokens) = example(Positions::Learned);
        let mut inputs = Inputs::new(&model, &tokens, None);
        inputs.keep(usize::MAX, None).unwrap();
        inputs.centre(&[]).unwrap();
        assert!(inputs.first().is_none() && inputs.cheap_looks() == 1);
    }
}
