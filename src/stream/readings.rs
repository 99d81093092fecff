//! What lenses read at every layer of texts of any size: the sums over [`Trajectory`](crate::lens::Trajectory)'s
//! numbers.

use ndarray::{Array2, Array3};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::moments::CHUNK;
use super::reduction::{Reduced, Reduction, interrupted};
use super::shards::{as_array, chunks};
use super::{Alone, Peers, Streaming};
use crate::data::{TextFiles, Tokenize};
use crate::lens::{Lens, read_blocks, surprise};
use crate::model::Transformer;
use crate::num::{normal, rng};
use crate::{Error, ErrorKind, Result, record, session};

/// Means over all tokens of what lenses read, however much text there is.
///
/// ```
/// use onelens::{data::{TextFiles, Vocab}, lens::LogitLens, model::{Config, Transformer}, stream::Streaming};
/// let folder = std::env::temp_dir().join(format!("onelens-doc-readings-{}", std::process::id()));
/// std::fs::create_dir_all(&folder).unwrap();
/// std::fs::write(folder.join("text.jsonl"), "\"abcabc\"\n\"cab\"\n").unwrap();
/// let model = Transformer::new(Config { d_vocab: 4, n_layers: 2, n_ctx: 8, ..Default::default() })?;
/// let texts = TextFiles::open([folder.join("text.jsonl")])?;
/// let seen = Streaming::default().readings(&model, &Vocab::from_text("abc", 1), &texts, &[&LogitLens])?;
/// assert_eq!((seen.n_tokens, seen.n_next), (9, 7)); // the last token of a sequence has no next
/// assert!(seen.lenses[0].kl[2] < 1e-6); // the last stream is the prediction itself
/// assert!((seen.lenses[0].depth.iter().sum::<f64>() - 1.0).abs() < 1e-12);
/// # std::fs::remove_dir_all(folder).unwrap();
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Readings {
    /// Sequences read.
    pub n_seqs: u64,
    /// Tokens read.
    pub n_tokens: u64,
    /// Tokens with a next one.
    pub n_next: u64,
    /// One for each lens, in the order given.
    pub lenses: Vec<LensReadings>,
}

/// What one lens reads, one number for each residual stream, the embedding first.
#[derive(Clone, Debug, PartialEq)]
pub struct LensReadings {
    /// Name of the lens.
    pub name: String,
    /// Mean `KL(p ‖ q_l)` from the final prediction `p` to the reading `q_l`, in nats.
    pub kl: Vec<f64>,
    /// Standard error of `kl`, with sequences as units: that of a ratio of two means (Cochran 1977, equation 2.46). NaN
    /// with fewer than two sequences.
    pub se: Vec<f64>,
    /// Mean entropy of the reading, in nats.
    pub entropy: Vec<f64>,
    /// Mean cross-entropy of the reading with the next token, in nats; NaN if no token has one.
    pub cross_entropy: Vec<f64>,
    /// Share of tokens at which the reading's most probable token is that of the final prediction.
    pub agreement: Vec<f64>,
    /// Share of tokens with this [prediction depth](crate::lens::Trajectory::prediction_depth): the first stream from
    /// which on the most probable token stays that of the lens's last reading.
    pub depth: Vec<f64>,
}

impl Streaming {
    /// Measures what `lenses` read at every layer of `model` over `texts`, in constant memory; finished shards are kept
    /// as for [`moments`](Streaming::moments).
    ///
    /// Fails where `moments` does, or if a lens is of another model or predicts no tokens.
    pub fn readings(
        &self,
        model: &Transformer,
        tokenizer: &dyn Tokenize,
        texts: &TextFiles,
        lenses: &[&dyn Lens],
    ) -> Result<Readings> {
        Ok(self.readings_among(&Alone, model, tokenizer, texts, lenses)?.expect("alone, it is rank 0"))
    }

    /// Does the same among processes that all call this with the same arguments. The result is at rank 0, the same for
    /// any number.
    pub fn readings_among(
        &self,
        peers: &dyn Peers,
        model: &Transformer,
        tokenizer: &dyn Tokenize,
        texts: &TextFiles,
        lenses: &[&dyn Lens],
    ) -> Result<Option<Readings>> {
        lenses.iter().try_for_each(|lens| lens.check_model(model))?;
        let job = Reduction { how: self, peers, model, tokenizer, texts };
        let of_sequences = |sequences: &[Vec<u32>]| of_sequences(model, lenses, sequences);
        let Some(sums) = job.run("readings", checksum(model, lenses)?, &of_sequences)? else {
            return Ok(None);
        };
        if sums.n_tokens == 0 {
            return Err(Error::new(
                ErrorKind::Data,
                format!("no document has {} tokens", self.shortest),
                "lower `shortest`, or name other texts",
            ));
        }
        let names = lenses.iter().map(|lens| lens.name());
        Ok(Some(Readings {
            n_seqs: sums.n_seqs,
            n_tokens: sums.n_tokens,
            n_next: sums.n_next,
            lenses: names.zip(&sums.lenses).map(|(name, streams)| sums.means(name, streams)).collect(),
        }))
    }
}

/// What tells lenses apart: what they read of a few rows that chance has made.
fn checksum(model: &Transformer, lenses: &[&dyn Lens]) -> Result<u32> {
    let mut random = rng(0, 0);
    let rows = Array2::from_shape_simple_fn((4, model.config.d_model), || normal(&mut random) as f32);
    let mut checksum = crc32fast::Hasher::new();
    for lens in lenses {
        for l in 0..=model.config.n_layers {
            lens.read(model, l, rows.view())?.iter().for_each(|x| checksum.update(&x.to_le_bytes()));
        }
    }
    Ok(checksum.finalize())
}

/// Sums over tokens.
#[derive(Clone, Serialize, Deserialize)]
struct Sums {
    fingerprint: u64,
    n_seqs: u64,
    n_tokens: u64,
    n_next: u64,
    /// Sum of the squared lengths of sequences.
    squared_lengths: f64,
    /// `[lens][stream]`.
    lenses: Vec<Vec<StreamSums>>,
}

/// Those of one lens at one stream.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct StreamSums {
    kl: f64,
    /// Of the squares of each sequence's sum.
    squared_kl: f64,
    /// Of each sequence's sum times its length.
    kl_by_length: f64,
    entropy: f64,
    cross_entropy: f64,
    agree: u64,
    /// Tokens of this prediction depth.
    deep: u64,
}

const KIND: &str = "readings";
const VERSION: u32 = 1;

impl Reduced for Sums {
    fn n_tokens(&self) -> u64 {
        self.n_tokens
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    fn join(mut self, right: Self) -> Result<Self> {
        let shape = |sums: &Sums| (sums.lenses.len(), sums.lenses.first().map_or(0, Vec::len));
        if shape(&self) != shape(&right) {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("readings of {:?} (lenses, streams) cannot join {:?}", shape(&right), shape(&self)),
                "let all processes read the same model with the same lenses",
            ));
        }
        self.n_seqs += right.n_seqs;
        self.n_tokens += right.n_tokens;
        self.n_next += right.n_next;
        self.squared_lengths += right.squared_lengths;
        for (a, b) in self.lenses.iter_mut().flatten().zip(right.lenses.iter().flatten()) {
            a.kl += b.kl;
            a.squared_kl += b.squared_kl;
            a.kl_by_length += b.kl_by_length;
            a.entropy += b.entropy;
            a.cross_entropy += b.cross_entropy;
            a.agree += b.agree;
            a.deep += b.deep;
        }
        Ok(self)
    }

    fn to_bytes(&self) -> Result<Vec<u8>> {
        record::to_bytes("a peer", KIND, VERSION, self)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self> {
        record::from_bytes("a peer's message", bytes, KIND, VERSION)
    }
}

impl Sums {
    fn nothing(model: &Transformer, n_lenses: usize) -> Self {
        Sums {
            fingerprint: model.fingerprint(),
            n_seqs: 0,
            n_tokens: 0,
            n_next: 0,
            squared_lengths: 0.0,
            lenses: vec![vec![StreamSums::default(); model.config.n_layers + 1]; n_lenses],
        }
    }

    fn means(&self, name: String, streams: &[StreamSums]) -> LensReadings {
        let (n, n_seqs, n_next) = (self.n_tokens as f64, self.n_seqs as f64, self.n_next as f64);
        let mean =
            |of: &dyn Fn(&StreamSums) -> f64, n: f64| streams.iter().map(|sums| of(sums) / n).collect();
        let standard_error = |sums: &StreamSums| {
            let mean = sums.kl / n;
            let squares =
                sums.squared_kl - 2.0 * mean * sums.kl_by_length + mean * mean * self.squared_lengths;
            (squares.max(0.0) * n_seqs / (n_seqs - 1.0)).sqrt()
        };
        LensReadings {
            name,
            kl: mean(&|sums| sums.kl, n),
            se: mean(&standard_error, n),
            entropy: mean(&|sums| sums.entropy, n),
            cross_entropy: mean(&|sums| sums.cross_entropy, n_next),
            agreement: mean(&|sums| sums.agree as f64, n),
            depth: mean(&|sums| sums.deep as f64, n),
        }
    }
}

/// Chunks between two looks at an interrupt.
const ROUND: usize = 64;

/// The sums over some sequences, in their order.
fn of_sequences(model: &Transformer, lenses: &[&dyn Lens], sequences: &[Vec<u32>]) -> Result<Sums> {
    let mut all = Sums::nothing(model, lenses.len());
    for round in chunks(sequences, CHUNK).chunks(ROUND) {
        if session::interrupted() {
            return Err(interrupted());
        }
        let of = |chunk: &&[Vec<u32>]| of_chunk(model, lenses, &as_array(chunk));
        for part in round.par_iter().map(of).collect::<Result<Vec<Sums>>>()? {
            all = all.join(part)?;
        }
    }
    Ok(all)
}

/// Sums over some rows of one sequence, for one lens at one stream.
#[derive(Clone, Copy, Default)]
struct Row {
    kl: f64,
    entropy: f64,
    cross_entropy: f64,
    agree: u64,
    deep: u64,
}

fn of_chunk(model: &Transformer, lenses: &[&dyn Lens], tokens: &Array2<u32>) -> Result<Sums> {
    let (n_seqs, n_pos) = tokens.dim();
    let mut sums = Sums::nothing(model, lenses.len());
    sums.n_seqs = n_seqs as u64;
    sums.n_tokens = tokens.len() as u64;
    sums.n_next = (n_seqs * (n_pos - 1)) as u64;
    sums.squared_lengths = (n_seqs * n_pos * n_pos) as f64;
    let blocks = read_blocks(model, lenses, tokens, |block| {
        let read = |lens: &&dyn Lens| {
            let mut tops: Vec<Vec<u32>> = Vec::new();
            let mut rows: Vec<Row> = Vec::new();
            for said in block.read(model, *lens, 0..block.streams.len())? {
                rows.push(Row {
                    kl: said.iter().map(|said| said.kl).sum(),
                    entropy: said.iter().map(|said| said.entropy).sum(),
                    cross_entropy: surprise(&said),
                    agree: said.iter().zip(&block.last).filter(|(a, b)| a.top == b.top).count() as u64,
                    deep: 0,
                });
                tops.push(said.iter().map(|said| said.top).collect());
            }
            for (row, last) in tops[tops.len() - 1].iter().enumerate() {
                let same = tops.iter().rev().take_while(|top| top[row] == *last).count();
                rows[tops.len() - same].deep += 1;
            }
            Ok(rows)
        };
        Ok((block.sequence, lenses.iter().map(read).collect::<Result<Vec<_>>>()?))
    })?;
    // Of each lens at each stream, for each sequence.
    let mut kl = Array3::<f64>::zeros((n_seqs, lenses.len(), model.config.n_layers + 1));
    for (sequence, read) in blocks {
        for (i, (streams, rows)) in sums.lenses.iter_mut().zip(read).enumerate() {
            for (l, (sums, row)) in streams.iter_mut().zip(rows).enumerate() {
                kl[(sequence, i, l)] += row.kl;
                sums.entropy += row.entropy;
                sums.cross_entropy += row.cross_entropy;
                sums.agree += row.agree;
                sums.deep += row.deep;
            }
        }
    }
    for ((_, i, l), &kl) in kl.indexed_iter() {
        let sums = &mut sums.lenses[i][l];
        sums.kl += kl;
        sums.squared_kl += kl * kl;
        sums.kl_by_length += kl * n_pos as f64;
    }
    Ok(sums)
}

impl std::fmt::Debug for Readings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Readings: {} lenses on {} tokens of {} sequences",
            self.lenses.len(),
            self.n_tokens,
            self.n_seqs
        )
    }
}
