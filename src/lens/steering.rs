//! Does the model say what a lens reads, when it is put into the stream? Reading is not using.

use ndarray::{Array1, Array2, Array4, ArrayView2, Axis, s};
use rayon::prelude::*;

use super::Lens;
use super::readout::{most_probable, rows_at_once};
use crate::model::{Transformer, Trunk, no_stream};
use crate::num::{
    kl_divergence, log_softmax_rows, matmul, mean_and_standard_error, normal, random_rotation, rng,
    sample_index, student_quantile, uniform_index,
};
use crate::session::{self, Progress};
use crate::{Error, ErrorKind, Result, memory};

/// Causal steering: adds the direction in which a lens says that a token becomes more probable to a residual stream, at
/// one position, and measures by how much the model's *final* log-probability of that token changes there.
///
/// A lens shows what can be read off a stream. If the model uses what the lens reads, more of it in the stream is more
/// of it in the prediction; if one lens steers at every stream, all streams hold the prediction in one language.
///
/// ```text
///  h' = h + dose ‖h‖ g/‖g‖,    g = ∂ ln q(token) / ∂h,    change = ln p'(token) - ln p(token)
/// ```
///
/// `h` is the stream at that position, so that a dose is a share of its own length: blocks read the stream through a
/// norm, and streams are of very different lengths from layer to layer and from token to token. `q` is what the lens
/// reads, `p` and `p'` what the model says in the end without and with the addition. Beside the lenses stand two
/// controls of the same length: a *random* direction, new for each stream, position and token, and that of the first
/// lens turned by one random *rotation*, which keeps how the directions of tokens lie to each other and loses where
/// they lie in the stream. Large additions of any kind flatten the prediction, which makes improbable tokens more
/// probable; only what a lens does beyond the controls is its own.
///
/// Positions are drawn without the first, which sees nothing but itself and whose stream is enormous in many models.
/// All kinds steer the same positions to the same tokens.
///
/// ```
/// use onelens::lens::{LogitLens, Steering};
/// use onelens::{data::{Markov, Source}, model::{Config, Transformer}, num::rng};
/// let model = Transformer::new(Config { d_vocab: 5, n_layers: 2, ..Default::default() })?;
/// let tokens = Markov::new(5, 0.3)?.sample(3, 12, &mut rng(0, 0))?;
/// let how = Steering { streams: vec![1, 2], doses: vec![0.5], ..Default::default() };
/// let seen = how.run(&model, &[("logit lens", &LogitLens)], &tokens)?;
/// assert_eq!(seen.kinds, ["logit lens", "rotated", "random"]);
/// // At the last stream the logit lens reads what the model says.
/// assert!(seen.interval("logit lens", 2, 0.5)?.0 > 0.0);
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Steering {
    /// Residual streams to steer, each in runs of its own; empty: all of them.
    pub streams: Vec<usize>,
    /// Lengths of what is added, as shares of the length of the stream at that position. Negative ones take away.
    pub doses: Vec<f64>,
    /// Which tokens to steer to.
    pub aim: Aim,
    /// Positions of each sequence, each in runs of its own.
    pub n_positions: usize,
    /// Tokens to steer to at each position, each in runs of its own.
    pub n_tokens: usize,
    /// Seed of positions, drawn tokens and controls.
    pub seed: u64,
}

impl Default for Steering {
    /// A tenth, a quarter and a half of each stream's length, at two positions of a sequence towards two tokens each.
    fn default() -> Self {
        Steering {
            streams: Vec::new(),
            doses: vec![0.1, 0.25, 0.5],
            aim: Aim::default(),
            n_positions: 2,
            n_tokens: 2,
            seed: 0,
        }
    }
}

/// Which tokens a model is steered to. No lens has a say in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aim {
    /// Those that the model itself finds most probable at that position after the first: likely, and not said.
    #[default]
    RunnersUp,
    /// Tokens drawn from the model's mean prediction over all positions that are steered: likely anywhere, not there.
    Unigram,
}

/// How much the model was changed by what was added to its streams.
#[derive(Clone, Debug, PartialEq)]
pub struct SteeringResult {
    /// What was added: the names of the lenses, then "rotated" and "random".
    pub kinds: Vec<String>,
    /// Residual streams it was added to.
    pub streams: Vec<usize>,
    /// Lengths, as shares of the stream's own.
    pub doses: Vec<f64>,
    /// Change of the final log-probability of the tokens steered to, in nats, mean over positions and tokens:
    /// `[kind, stream, dose, sequence]`.
    pub change: Array4<f64>,
    /// `KL(p ‖ p')` between the predictions without and with the addition, in nats: how much of everything changed.
    /// `[kind, stream, dose, sequence]`.
    pub kl: Array4<f64>,
    /// Mean final log-probability of those tokens without any addition, in nats.
    pub log_prob: f64,
    /// Which tokens.
    pub aim: Aim,
    /// Positions of each sequence.
    pub n_positions: usize,
    /// Tokens at each position.
    pub n_tokens: usize,
}

const ROTATED: &str = "rotated";
const RANDOM: &str = "random";

/// A position of a sequence, what the model says there, and the tokens to steer to.
struct Place {
    sequence: usize,
    pos: usize,
    log_p: Array1<f32>,
    tokens: Vec<u32>,
}

impl Steering {
    /// Steers `tokens: [sequence, pos]` by each lens, under the name that stands before it.
    ///
    /// Each sequence runs once. A change at a position reaches none before it, so that one row for each kind, dose and
    /// token goes on from there.
    ///
    /// Fails without a lens or doses, on a dose that is not finite, a stream that does not exist, a lens of another
    /// model or without a [gradient](Lens::token_gradient), names that are not different, sequences with fewer
    /// positions after the first than are to be steered, tokens that do not fit, a network in which a change reaches
    /// positions before it, or when interrupted.
    pub fn run(
        &self,
        model: &Transformer,
        lenses: &[(&str, &dyn Lens)],
        tokens: &Array2<u32>,
    ) -> Result<SteeringResult> {
        let streams = self.check(model, lenses, tokens)?;
        let model = &*model.expanded();
        let run = |sequence: usize| model.trunk(&tokens.row(sequence).to_vec());
        let trunks: Vec<Trunk> = (0..tokens.nrows()).into_par_iter().map(run).collect();
        let places = self.places(model, &trunks, tokens);
        let kinds: Vec<String> =
            lenses.iter().map(|(name, _)| *name).chain([ROTATED, RANDOM]).map(String::from).collect();
        let shape = (kinds.len(), streams.len(), self.doses.len(), tokens.nrows());
        let (mut change, mut kl) = (Array4::zeros(shape), Array4::zeros(shape));
        let turn = random_rotation(model.config.d_model, &mut rng(self.seed, 1)).mapv(|x| x as f32);
        let mut progress = Progress::new("steering", streams.len());
        for (at, &l) in streams.iter().enumerate() {
            if session::interrupted() {
                return Err(Error::new(
                    ErrorKind::Interrupted,
                    format!("interrupted after {at} of {} streams", streams.len()),
                    "run the cell again, with fewer streams, doses or positions if it takes too long",
                ));
            }
            let h = self.steered_rows(&trunks, &places, l);
            let directions = self.directions(model, lenses, l, &h, &places, &turn)?;
            let seen: Vec<Array2<f64>> = places
                .par_iter()
                .enumerate()
                .map(|(i, place)| {
                    let rows = i * self.n_tokens..(i + 1) * self.n_tokens;
                    let of_place = |all: &Array2<f32>| all.slice(s![rows.clone(), ..]).to_owned();
                    let directions: Vec<Array2<f32>> = directions.iter().map(of_place).collect();
                    self.at_place(model, &trunks[place.sequence], place, l, &directions)
                })
                .collect();
            for (place, seen) in places.iter().zip(seen) {
                let seen = seen.to_shape((kinds.len(), self.doses.len(), 2)).expect("one row for each");
                for ((kind, dose, what), value) in seen.indexed_iter() {
                    let sum = if what == 0 { &mut change } else { &mut kl };
                    sum[(kind, at, dose, place.sequence)] += value / self.n_positions as f64;
                }
            }
            progress.update(at + 1, || format!("stream {l}"));
        }
        progress.finish(&format!("{} streams of {} sequences", streams.len(), tokens.nrows()));
        let before = |place: &Place| -> f64 {
            place.tokens.iter().map(|&t| f64::from(place.log_p[t as usize])).sum::<f64>()
                / self.n_tokens as f64
        };
        Ok(SteeringResult {
            kinds,
            streams,
            doses: self.doses.clone(),
            change,
            kl,
            log_prob: places.iter().map(before).sum::<f64>() / places.len() as f64,
            aim: self.aim,
            n_positions: self.n_positions,
            n_tokens: self.n_tokens,
        })
    }

    /// Refuses what cannot be run; the streams to steer.
    fn check(
        &self,
        model: &Transformer,
        lenses: &[(&str, &dyn Lens)],
        tokens: &Array2<u32>,
    ) -> Result<Vec<usize>> {
        let refuse =
            |what: String, help: &str| -> Result<()> { Err(Error::new(ErrorKind::Config, what, help)) };
        model.check_tokens(tokens)?;
        model.check_branches()?;
        if lenses.is_empty() {
            refuse(
                "no lens to steer by".into(),
                "give at least one, such as `(\"logit lens\", &LogitLens)`",
            )?;
        }
        for (i, (name, lens)) in lenses.iter().enumerate() {
            if [ROTATED, RANDOM].contains(name) || lenses[..i].iter().any(|(other, _)| other == name) {
                let what = format!("\"{name}\" is the name of something else that is added");
                refuse(
                    what,
                    "give every lens a name of its own; \"rotated\" and \"random\" are the controls",
                )?;
            }
            lens.check_model(model)?;
        }
        if self.doses.is_empty() {
            refuse("there are no doses".into(), "give shares of the stream's length, such as 0.1 and 0.5")?;
        }
        if let Some(dose) = self.doses.iter().find(|dose| !dose.is_finite()) {
            refuse(
                format!("a dose is {dose}"),
                "give finite shares of the stream's length, such as 0.1 and 0.5",
            )?;
        }
        let (d_vocab, n_streams) = (model.config.d_vocab, model.config.n_layers + 1);
        if self.n_tokens == 0 || self.n_tokens >= d_vocab {
            let what = format!("n_tokens is {} in a vocabulary of {d_vocab}", self.n_tokens);
            refuse(what, "steer to one token or more, and fewer than there are")?;
        }
        if self.n_positions == 0 || self.n_positions >= tokens.ncols() {
            return Err(Error::new(
                ErrorKind::Data,
                format!(
                    "n_positions is {} in sequences of {} tokens, of which the first is never steered",
                    self.n_positions,
                    tokens.ncols()
                ),
                "steer one position or more, in sequences with at least one token more",
            ));
        }
        if let Some(&l) = self.streams.iter().find(|&&l| l >= n_streams) {
            return Err(no_stream(l, n_streams));
        }
        let n_seqs = tokens.nrows() as u128;
        let c = &model.config;
        let of_token = n_streams * c.d_model + 2 * c.n_layers * c.n_kv_heads() * c.d_head;
        memory::check(
            4 * n_seqs * (tokens.ncols() * of_token + self.n_positions * d_vocab) as u128,
            &format!("the streams, keys, values and predictions of {} tokens", tokens.len()),
            "steer fewer sequences, or shorter ones",
        )?;
        Ok(if self.streams.is_empty() { (0..n_streams).collect() } else { self.streams.clone() })
    }

    /// The positions to steer, sequence by sequence, with what the model says there and the tokens to steer to.
    fn places(&self, model: &Transformer, trunks: &[Trunk], tokens: &Array2<u32>) -> Vec<Place> {
        let mut random = rng(self.seed, 0);
        let mut places = Vec::with_capacity(trunks.len() * self.n_positions);
        for (sequence, trunk) in trunks.iter().enumerate() {
            // A part of a random order, without the first position.
            let mut order: Vec<usize> = (1..tokens.ncols()).collect();
            for i in 0..self.n_positions {
                let other = i + uniform_index(&mut random, order.len() - i);
                order.swap(i, other);
            }
            let chosen = &mut order[..self.n_positions];
            chosen.sort_unstable();
            let last = trunk.stream(model.config.n_layers).select(Axis(0), chosen);
            let log_p = log_softmax_rows(model.logits(last.view()).view());
            for (pos, log_p) in chosen.iter().zip(log_p.rows()) {
                places.push(Place { sequence, pos: *pos, log_p: log_p.to_owned(), tokens: Vec::new() });
            }
        }
        match self.aim {
            Aim::RunnersUp => places.iter_mut().for_each(|place| {
                let mut left = place.log_p.clone();
                place.tokens = (0..=self.n_tokens)
                    .map(|_| {
                        let top = most_probable(left.view());
                        left[top] = f32::NEG_INFINITY;
                        top as u32
                    })
                    .skip(1)
                    .collect();
            }),
            Aim::Unigram => {
                let mut mean = Array1::<f64>::zeros(model.config.d_vocab);
                places.iter().for_each(|place| mean += &place.log_p.mapv(|x| f64::from(x).exp()));
                for place in &mut places {
                    let draw = |_| sample_index(&mut random, mean.iter().copied()) as u32;
                    place.tokens = (0..self.n_tokens).map(draw).collect();
                }
            }
        }
        places
    }

    /// Stream `l` at each place, once for each token to steer to: `[place · token, d_model]`.
    fn steered_rows(&self, trunks: &[Trunk], places: &[Place], l: usize) -> Array2<f32> {
        let d = trunks[0].stream(l).ncols();
        let mut rows = Array2::zeros((places.len() * self.n_tokens, d));
        for (mut rows, place) in rows.axis_chunks_iter_mut(Axis(0), self.n_tokens).zip(places) {
            rows.assign(&trunks[place.sequence].stream(l).row(place.pos));
        }
        rows
    }

    /// For each kind what is added to stream `l` at a dose of 1, `[place · token, d_model]`: as long as the stream.
    fn directions(
        &self,
        model: &Transformer,
        lenses: &[(&str, &dyn Lens)],
        l: usize,
        h: &Array2<f32>,
        places: &[Place],
        turn: &Array2<f32>,
    ) -> Result<Vec<Array2<f32>>> {
        let tokens: Vec<u32> = places.iter().flat_map(|place| place.tokens.iter().copied()).collect();
        let mut all = Vec::with_capacity(lenses.len() + 2);
        for (name, lens) in lenses {
            let gradient = lens.token_gradient(model, l, h.view(), &tokens)?;
            if gradient.dim() != h.dim() || gradient.iter().any(|x| !x.is_finite()) {
                return Err(Error::new(
                    ErrorKind::Numeric,
                    format!(
                        "the gradient of \"{name}\" at stream {l} is {:?} numbers, or not all are finite",
                        gradient.dim()
                    ),
                    format!(
                        "a gradient has the shape of the stream, {:?}; look at the lens's weights",
                        h.dim()
                    ),
                ));
            }
            all.push(gradient);
        }
        all.push(matmul(all[0].view(), turn.t()));
        // A stream has the same random directions whichever others are steered.
        let mut random = rng(self.seed, 2 + l as u64);
        all.push(Array2::from_shape_simple_fn(h.dim(), || normal(&mut random) as f32));
        all.iter_mut().for_each(|rows| make_as_long(rows, h.view()));
        Ok(all)
    }

    /// Mean over tokens of both changes, for one place, each kind and each dose: `[kind · dose, 2]`.
    fn at_place(
        &self,
        model: &Transformer,
        trunk: &Trunk,
        place: &Place,
        l: usize,
        directions: &[Array2<f32>],
    ) -> Array2<f64> {
        let stream = trunk.stream(l);
        let h = stream.row(place.pos);
        let mut rows = Array2::zeros((directions.len() * self.doses.len() * self.n_tokens, h.len()));
        let mut to = rows.rows_mut().into_iter();
        for direction in directions {
            for &dose in &self.doses {
                for v in direction.rows() {
                    let mut row = to.next().expect("a row for each kind, dose and token");
                    row.assign(&h);
                    row.scaled_add(dose as f32, &v);
                }
            }
        }
        let mut seen = Array2::zeros((directions.len() * self.doses.len(), 2));
        let at_once = rows_at_once(model.config.d_vocab);
        for (part, rows) in rows.axis_chunks_iter(Axis(0), at_once).enumerate() {
            let log_q = log_softmax_rows(model.branch_logits(trunk, place.pos, l, rows).view());
            for (i, log_q) in log_q.rows().into_iter().enumerate() {
                let i = part * at_once + i;
                let token = place.tokens[i % self.n_tokens] as usize;
                let change = f64::from(log_q[token]) - f64::from(place.log_p[token]);
                let kl = kl_divergence(place.log_p.view(), log_q);
                seen[(i / self.n_tokens, 0)] += change / self.n_tokens as f64;
                seen[(i / self.n_tokens, 1)] += kl / self.n_tokens as f64;
            }
        }
        seen
    }
}

/// Each row at the length of that of `h`; a row of zeros has no direction and stays one.
fn make_as_long(rows: &mut Array2<f32>, h: ArrayView2<f32>) {
    let length =
        |row: ndarray::ArrayView1<f32>| row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    for (mut row, h) in rows.rows_mut().into_iter().zip(h.rows()) {
        let own = length(row.view());
        if own > 0.0 {
            let scale = length(h) / own;
            row.mapv_inplace(|x| (f64::from(x) * scale) as f32);
        }
    }
}

impl SteeringResult {
    /// Returns the mean change of the log-probability over sequences in nats, and half the width of its 95 % interval:
    /// Student's t with the sequences as units. The width of a single sequence is NaN.
    ///
    /// Fails on a kind, a stream or a dose that was not run.
    pub fn interval(&self, kind: &str, stream: usize, dose: f64) -> Result<(f64, f64)> {
        Ok(mean_and_half_width(&self.values(&self.change, kind, stream, dose)?))
    }

    /// Returns by how much more one kind changes the log-probability than another does on the same sequences, in nats,
    /// with half the width of its 95 % interval.
    ///
    /// Fails where [`interval`](SteeringResult::interval) does.
    pub fn advantage(&self, kind: &str, over: &str, stream: usize, dose: f64) -> Result<(f64, f64)> {
        let of = |kind| self.values(&self.change, kind, stream, dose);
        let difference: Vec<f64> = of(kind)?.iter().zip(of(over)?).map(|(a, b)| a - b).collect();
        Ok(mean_and_half_width(&difference))
    }

    /// Returns the mean `KL(p ‖ p')` over sequences in nats, with half the width of its 95 % interval.
    ///
    /// Fails where [`interval`](SteeringResult::interval) does.
    pub fn disturbance(&self, kind: &str, stream: usize, dose: f64) -> Result<(f64, f64)> {
        Ok(mean_and_half_width(&self.values(&self.kl, kind, stream, dose)?))
    }

    fn values(&self, all: &Array4<f64>, kind: &str, stream: usize, dose: f64) -> Result<Vec<f64>> {
        let missing = |what: String, there: String| Error::new(ErrorKind::Config, what, there);
        let kind = self.kinds.iter().position(|k| k == kind).ok_or_else(|| {
            missing(format!("nothing was steered by \"{kind}\""), format!("there are {:?}", self.kinds))
        })?;
        let l = self.streams.iter().position(|&l| l == stream).ok_or_else(|| {
            missing(format!("stream {stream} was not steered"), format!("there are {:?}", self.streams))
        })?;
        let dose = self.doses.iter().position(|&d| d == dose).ok_or_else(|| {
            missing(format!("there was no dose {dose}"), format!("there are {:?}", self.doses))
        })?;
        Ok(all.slice(s![kind, l, dose, ..]).to_vec())
    }
}

fn mean_and_half_width(values: &[f64]) -> (f64, f64) {
    let (mean, error) = mean_and_standard_error(values);
    (mean, error * student_quantile(0.975, values.len() as f64 - 1.0))
}
