//! What heads look at, as one number each.

use ndarray::{Array2, Array4};

use crate::model::{Hook, Transformer};
use crate::num::{rng, uniform_index};
use crate::{Error, ErrorKind, Result};

/// A number for each head: the share of its attention, averaged over queries and sequences, that goes where a kind of
/// head looks.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadScores {
    /// What is scored.
    pub name: String,
    /// Between 0 and 1, `[layer, head]`.
    pub values: Array2<f64>,
}

/// Random tokens, repeated: input on which nothing but repetition can be predicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepeatedTokens {
    /// Different tokens before they repeat.
    pub period: usize,
    /// How often they come.
    pub n_repeats: usize,
    /// Sequences.
    pub n_seqs: usize,
    /// Seed of the tokens.
    pub seed: u64,
}

impl Default for RepeatedTokens {
    fn default() -> Self {
        RepeatedTokens { period: 16, n_repeats: 4, n_seqs: 32, seed: 0 }
    }
}

impl RepeatedTokens {
    /// Draws the sequences, `[n_seqs, period · n_repeats]`: each repeats its own random tokens, all different.
    ///
    /// ```
    /// use onelens::circuits::RepeatedTokens;
    /// let how = RepeatedTokens { period: 3, n_repeats: 2, n_seqs: 1, seed: 0 };
    /// let tokens = how.sample(9)?;
    /// assert_eq!(tokens.dim(), (1, 6));
    /// assert!(tokens[(0, 0)] == tokens[(0, 3)] && tokens[(0, 0)] != tokens[(0, 1)]);
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn sample(&self, d_vocab: usize) -> Result<Array2<u32>> {
        if self.period == 0 || self.period > d_vocab || self.n_repeats < 2 || self.n_seqs == 0 {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "{} sequences of {} different tokens of {d_vocab}, repeated {} times, cannot be drawn",
                    self.n_seqs, self.period, self.n_repeats
                ),
                "use a period from 1 to the vocabulary, at least 2 repeats and 1 sequence",
            ));
        }
        let mut rng = rng(self.seed, 4);
        let mut all: Vec<u32> = (0..d_vocab as u32).collect();
        let mut out = Array2::zeros((self.n_seqs, self.period * self.n_repeats));
        for mut row in out.rows_mut() {
            // The first steps of a Fisher-Yates shuffle.
            for i in 0..self.period {
                let j = i + uniform_index(&mut rng, d_vocab - i);
                all.swap(i, j);
            }
            row.iter_mut().enumerate().for_each(|(t, token)| *token = all[t % self.period]);
        }
        Ok(out)
    }
}

impl HeadScores {
    /// Scores induction by prefix matching (Olsson et al. 2022): on random tokens that repeat, the share of attention
    /// that goes from a token to those that came *after* its earlier occurrences, averaged over all repeats but the
    /// first.
    ///
    /// A head that looks everywhere alike scores about `1 / period`.
    ///
    /// ```
    /// use onelens::{circuits::{HeadScores, RepeatedTokens}, model::{Config, Transformer}};
    /// let model = Transformer::new(Config { n_layers: 2, ..Default::default() })?;
    /// let scores = HeadScores::induction(&model, &RepeatedTokens::default())?;
    /// assert_eq!(scores.values.dim(), (2, 4));
    /// assert!(scores.values.iter().all(|s| *s < 0.1), "an untrained network has no induction heads");
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn induction(model: &Transformer, how: &RepeatedTokens) -> Result<Self> {
        let (period, len) = (how.period, how.period * how.n_repeats);
        Self::on_repeats(model, how, "induction (prefix matching)", period..len, |query, key| {
            key <= query && (query + 1 - key).is_multiple_of(period) && key + period <= query + 1
        })
    }

    /// Measures the share of attention that goes to the token before, on the same input.
    pub fn previous_token(model: &Transformer, how: &RepeatedTokens) -> Result<Self> {
        let len = how.period * how.n_repeats;
        Self::on_repeats(model, how, "previous token", 1..len, |query, key| key + 1 == query)
    }

    /// Measures the share of attention that goes to earlier occurrences of the token itself, on the same input.
    pub fn duplicate_token(model: &Transformer, how: &RepeatedTokens) -> Result<Self> {
        let (period, len) = (how.period, how.period * how.n_repeats);
        Self::on_repeats(model, how, "duplicate token", period..len, |query, key| {
            key < query && (query - key).is_multiple_of(period)
        })
    }

    fn on_repeats(
        model: &Transformer,
        how: &RepeatedTokens,
        name: &str,
        queries: std::ops::Range<usize>,
        looked_for: impl Fn(usize, usize) -> bool,
    ) -> Result<Self> {
        let c = &model.config;
        let tokens = how.sample(c.d_vocab)?;
        let (_, cache) = model.run_with_cache_of(&tokens, &[], &|h| matches!(h, Hook::Pattern(_)))?;
        let mut values = Array2::zeros((c.n_layers, c.n_heads));
        for l in 0..c.n_layers {
            let pattern: Array4<f32> = cache.pattern(l)?;
            for ((_, head, query, key), &share) in pattern.indexed_iter() {
                if queries.contains(&query) && looked_for(query, key) {
                    values[(l, head)] += f64::from(share);
                }
            }
        }
        values /= (queries.len() * how.n_seqs) as f64;
        Ok(HeadScores { name: name.into(), values })
    }

    /// Finds the head with the highest score: its layer and number.
    pub fn best(&self) -> (usize, usize) {
        let above = |best: ((usize, usize), f64), (at, &v): ((usize, usize), &f64)| {
            if v > best.1 { (at, v) } else { best }
        };
        self.values.indexed_iter().fold(((0, 0), f64::NEG_INFINITY), above).0
    }
}
