//! Which streams a lens is fitted to: between "every layer its own" and "one for all".

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::LayerMoments;
use crate::model::no_stream;
use crate::{Error, ErrorKind, Result};

/// Which residual streams the lens of each stream is fitted to, in closed form
/// ([`Ridge::pooled`](super::Ridge::pooled)) or at least KL ([`Refine`](super::Refine), which keeps the pool of the
/// lenses that it starts from).
///
/// ```
/// use onelens::lens::Pool;
/// // Of streams 0 to 4, that is of a model with four blocks.
/// assert_eq!(Pool::Own.of(2, 5), [2]);
/// assert_eq!(Pool::LeftOut.of(2, 5), [0, 1, 3, 4]);
/// assert_eq!(Pool::LeftOutWithoutLast.of(2, 5), [0, 1, 3]);
/// assert_eq!(Pool::Later.of(2, 5), [3, 4]);
/// assert_eq!(Pool::Every(2).of(1, 5), [1, 3]);
/// assert_eq!(Pool::Folds(2).of(1, 5), [0, 2]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pool {
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
    /// Cross-validation over streams: `m` lenses, each of which reads every `m`-th stream and is fitted to the others but
    /// the last. With two, streams of even number have the lens of those of odd number, and the other way round. Like
    /// [`LeftOutWithoutLast`](Pool::LeftOutWithoutLast) for the price of `m` lenses.
    Folds(usize),
}

impl Pool {
    /// The streams that the lens of stream `l` is fitted to, of `n_streams`.
    pub fn of(&self, l: usize, n_streams: usize) -> Vec<usize> {
        let all = 0..n_streams;
        match self {
            Pool::Own => vec![l],
            Pool::Shared => all.collect(),
            Pool::Streams(streams) => streams.clone(),
            Pool::LeftOut => all.filter(|&k| k != l).collect(),
            Pool::LeftOutWithoutLast => (0..n_streams.saturating_sub(1)).filter(|&k| k != l).collect(),
            Pool::Later if l + 1 == n_streams => vec![l],
            Pool::Later => (l + 1..n_streams).collect(),
            Pool::Every(m) => all.filter(|&k| k % m == l % m).collect(),
            Pool::Folds(m) => (0..n_streams.saturating_sub(1)).filter(|&k| k % m != l % m).collect(),
        }
    }

    /// What such lenses are called.
    pub fn name(&self) -> String {
        match self {
            Pool::Own => "own lens".into(),
            Pool::Shared => "shared lens".into(),
            Pool::Streams(streams) => format!("lens of streams {streams:?}"),
            Pool::LeftOut => "left-out lens".into(),
            Pool::LeftOutWithoutLast => "left-out lens, without the last stream".into(),
            Pool::Later => "later-layers lens".into(),
            Pool::Every(m) => format!("shared by streams {m} apart"),
            Pool::Folds(m) => format!("left-out lens, {m} folds of streams"),
        }
    }

    /// The different pools of the streams of `moments`, and which of them the lens of each stream is fitted to.
    ///
    /// Fails on a stream that does not exist, or where there is none to fit a lens to.
    pub(crate) fn maps(&self, moments: &LayerMoments) -> Result<(Vec<Vec<usize>>, Vec<usize>)> {
        let n = moments.layers.len();
        if *self == Pool::Every(0) {
            return Err(Error::new(
                ErrorKind::Config,
                "no two streams are 0 apart",
                "name a distance of 1 or more: 1 is one lens for all",
            ));
        }
        if let Pool::Folds(m @ (0 | 1)) = self {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{m} folds leave no other streams to fit a lens to"),
                "name two folds or more",
            ));
        }
        if let Pool::Streams(streams) = self
            && let Some(&l) = streams.iter().find(|&&l| l >= n)
        {
            return Err(no_stream(l, n));
        }
        let mut maps: Vec<Vec<usize>> = Vec::new();
        let mut map_of = Vec::with_capacity(n);
        for l in 0..n {
            let pool = self.of(l, n);
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

impl FromStr for Pool {
    type Err = Error;

    /// Reads `own`, `shared`, `left-out`, `left-out-without-last`, `later`, `every-3`, `folds-2` (or other numbers), or numbers
    /// of streams with commas between them, as the command line has them.
    fn from_str(name: &str) -> Result<Pool> {
        let unknown = || {
            Error::new(
                ErrorKind::Config,
                format!("no streams are called {name:?}"),
                "say own, shared, left-out, left-out-without-last, later, every-3, folds-2 or numbers such as 0,3,6",
            )
        };
        match name {
            "own" => Ok(Pool::Own),
            "shared" => Ok(Pool::Shared),
            "left-out" => Ok(Pool::LeftOut),
            "left-out-without-last" => Ok(Pool::LeftOutWithoutLast),
            "later" => Ok(Pool::Later),
            _ => match (name.strip_prefix("every-"), name.strip_prefix("folds-")) {
                (Some(m), _) => m.parse().map(Pool::Every).map_err(|_| unknown()),
                (None, Some(m)) => m.parse().map(Pool::Folds).map_err(|_| unknown()),
                (None, None) => {
                    let streams: Result<Vec<usize>, _> = name.split(',').map(str::parse).collect();
                    streams.map(Pool::Streams).map_err(|_| unknown())
                }
            },
        }
    }
}
