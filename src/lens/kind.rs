//! The kinds of affine lenses: between "every layer its own" and "one for all".

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::LayerMoments;
use crate::model::no_stream;
use crate::{Error, ErrorKind, Result};

/// Which residual streams the lens of each stream is fitted to, and what it has in common with the others: the same
/// kinds in closed form ([`Ridge::lenses`](super::Ridge::lenses)) and at least KL ([`Refine`](super::Refine), which
/// keeps the kind of the lenses that it starts from), in notebooks, on the command line and in the battery.
///
/// ```
/// use onelens::lens::LensKind;
/// // Of streams 0 to 4, that is of a model with four blocks.
/// assert_eq!(LensKind::Own.streams(2, 5), [2]);
/// assert_eq!(LensKind::LeftOut.streams(2, 5), [0, 1, 3, 4]);
/// assert_eq!(LensKind::LeftOutWithoutLast.streams(2, 5), [0, 1, 3]);
/// assert_eq!(LensKind::Later.streams(2, 5), [3, 4]);
/// assert_eq!(LensKind::Every(2).streams(1, 5), [1, 3]);
/// assert_eq!(LensKind::Folds(2).streams(1, 5), [0, 2]);
/// // As the command line has it.
/// assert_eq!("rank-8".parse::<LensKind>()?, LensKind::LowRank(8));
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LensKind {
    /// Each stream has a lens of its own.
    Own,
    /// One lens for all, fitted to all of them.
    Shared,
    /// One lens for all, fitted to some of them.
    Streams(Vec<usize>),
    /// For each stream one fitted to all *others*: what a lens that has never seen this stream makes of it.
    LeftOut,
    /// The same without the last stream, from which nothing has to be guessed.
    LeftOutWithoutLast,
    /// For each stream one fitted to all *later* ones: does what is said here stand already in the words that later
    /// layers use? The last stream has none after it and keeps its own.
    Later,
    /// One for each `m`-th stream: streams `l`, `l + m`, .. share a lens.
    Every(usize),
    /// Cross-validation over streams: `m` lenses, each of which reads every `m`-th stream and is fitted to the others
    /// but the last. With two, streams of even number have the lens of those of odd number, and the other way round.
    /// Like [`LeftOutWithoutLast`](LensKind::LeftOutWithoutLast) for the price of `m` lenses.
    Folds(usize),
    /// One matrix for all streams, and for each a bias of its own: `z = A h + b_l`.
    OwnBias,
    /// One matrix for all streams, and for each a gain, which is one number, and a bias of its own: `z = g_l A h +
    /// b_l`.
    OwnGain,
    /// Each stream has a lens of its own, what the penalty pulls towards plus a matrix of this rank.
    LowRank(usize),
}

/// What the lenses of one fit have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Common {
    /// All of it.
    Everything,
    /// The matrix.
    Matrix,
    /// The matrix but for its size.
    Direction,
}

impl LensKind {
    /// Lists the streams that the lens of stream `l` is fitted to, of `n_streams`.
    pub fn streams(&self, l: usize, n_streams: usize) -> Vec<usize> {
        let all = 0..n_streams;
        match self {
            LensKind::Own | LensKind::LowRank(_) => vec![l],
            LensKind::Shared | LensKind::OwnBias | LensKind::OwnGain => all.collect(),
            LensKind::Streams(streams) => streams.clone(),
            LensKind::LeftOut => all.filter(|&k| k != l).collect(),
            LensKind::LeftOutWithoutLast => (0..n_streams.saturating_sub(1)).filter(|&k| k != l).collect(),
            LensKind::Later if l + 1 == n_streams => vec![l],
            LensKind::Later => (l + 1..n_streams).collect(),
            LensKind::Every(m) => all.filter(|&k| k % m == l % m).collect(),
            LensKind::Folds(m) => (0..n_streams.saturating_sub(1)).filter(|&k| k % m != l % m).collect(),
        }
    }

    /// Says what such lenses are called.
    pub fn name(&self) -> String {
        match self {
            LensKind::Own => "own lens".into(),
            LensKind::Shared => "shared lens".into(),
            LensKind::Streams(streams) => format!("lens of streams {streams:?}"),
            LensKind::LeftOut => "left-out lens".into(),
            LensKind::LeftOutWithoutLast => "left-out lens, without the last stream".into(),
            LensKind::Later => "later-layers lens".into(),
            LensKind::Every(m) => format!("shared by streams {m} apart"),
            LensKind::Folds(m) => format!("left-out lens, {m} folds of streams"),
            LensKind::OwnBias => "shared lens, own bias".into(),
            LensKind::OwnGain => "shared lens, own gain".into(),
            LensKind::LowRank(rank) => format!("own lens of rank {rank}"),
        }
    }

    /// What its lenses have in common that are fitted together.
    pub(super) fn common(&self) -> Common {
        match self {
            LensKind::OwnBias => Common::Matrix,
            LensKind::OwnGain => Common::Direction,
            LensKind::Own
            | LensKind::Shared
            | LensKind::Streams(_)
            | LensKind::LeftOut
            | LensKind::LeftOutWithoutLast
            | LensKind::Later
            | LensKind::Every(_)
            | LensKind::Folds(_)
            | LensKind::LowRank(_) => Common::Everything,
        }
    }

    /// The different pools of the streams of `moments`, and which of them the lens of each stream is fitted to.
    ///
    /// Fails on a stream that does not exist, or where there is none to fit a lens to.
    pub(crate) fn maps(&self, moments: &LayerMoments) -> Result<(Vec<Vec<usize>>, Vec<usize>)> {
        let n = moments.layers.len();
        if *self == LensKind::Every(0) {
            return Err(Error::new(
                ErrorKind::Config,
                "no two streams are 0 apart",
                "name a distance of 1 or more: 1 is one lens for all",
            ));
        }
        if let LensKind::Folds(m @ (0 | 1)) = self {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{m} folds leave no other streams to fit a lens to"),
                "name two folds or more",
            ));
        }
        if let LensKind::Streams(streams) = self
            && let Some(&l) = streams.iter().find(|&&l| l >= n)
        {
            return Err(no_stream(l, n));
        }
        let mut maps: Vec<Vec<usize>> = Vec::new();
        let mut map_of = Vec::with_capacity(n);
        for l in 0..n {
            let pool = self.streams(l, n);
            if pool.is_empty() {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!("the {} of stream {l} has no streams to be fitted to", self.name()),
                    "name at least one stream, or take a model with more layers",
                ));
            }
            map_of.push(maps.iter().position(|known| *known == pool).unwrap_or_else(|| {
                maps.push(pool);
                maps.len() - 1
            }));
        }
        Ok((maps, map_of))
    }
}

/// The kinds by their names on the command line.
const NAMES: &str =
    "own, shared, left-out, left-out-without-last, later, own-bias, own-gain, every-3, folds-2 and rank-8";

impl FromStr for LensKind {
    type Err = Error;

    /// Reads `own`, `shared`, `left-out`, `left-out-without-last`, `later`, `own-bias`, `own-gain`, `every-3`,
    /// `folds-2`, `rank-8` (or other numbers), or numbers of streams with commas between them, as the command line has
    /// them.
    fn from_str(name: &str) -> Result<LensKind> {
        let unknown = || {
            Error::new(
                ErrorKind::Config,
                format!("there is no kind of lens {name:?}"),
                format!("kinds are {NAMES}, or the streams to fit one lens to, such as 0,3,6"),
            )
        };
        let number = |of: &str| of.parse().map_err(|_| unknown());
        match name {
            "own" => Ok(LensKind::Own),
            "shared" => Ok(LensKind::Shared),
            "left-out" => Ok(LensKind::LeftOut),
            "left-out-without-last" => Ok(LensKind::LeftOutWithoutLast),
            "later" => Ok(LensKind::Later),
            "own-bias" => Ok(LensKind::OwnBias),
            "own-gain" => Ok(LensKind::OwnGain),
            _ => match name.split_once('-') {
                Some(("every", m)) => number(m).map(LensKind::Every),
                Some(("folds", m)) => number(m).map(LensKind::Folds),
                Some(("rank", r)) => number(r).map(LensKind::LowRank),
                Some(_) | None => {
                    let streams: Result<Vec<usize>> = name.split(',').map(number).collect();
                    streams.map(LensKind::Streams)
                }
            },
        }
    }
}
