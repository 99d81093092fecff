//! The question asked of a language model at its own size: does one lens read every stream, do updates bring what it
//! reads nearer to the final prediction, and does the model use what it reads? With what there was to read, in nats,
//! and two nulls that pull apart.

use std::path::PathBuf;
use std::time::Instant;

use ndarray::{Array2, Array3, ArrayView1, Axis, s};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::kept::kept;
use super::language_report::{
    BlockLoss, HALF, LanguageReport, LensReads, NetworkReads, ONE_LENS, SOMETHING, SteeringEffect,
    TokenClass, UpdateEffect, VERSION,
};
use super::{Interval, Lesion, Resamples};
use crate::lens::{
    Aim, Block, HiddenLayer, LayerLenses, LayerMoments, Lens, LensKind, LogitLens, Refine, Ridge, Said,
    Scale, Steering, SteeringResult, Target, Until, Updates, other_positions, read_blocks_of,
};
use crate::model::{Config, Transformer};
use crate::num::rng;
use crate::session::Progress;
use crate::{Error, ErrorKind, Result, record};

/// What is asked of a language model, and how long it may take. Lenses read streams at unit size and guess what the
/// final norm makes of the last one.
///
/// ```no_run
/// use onelens::{battery::LanguageBattery, language::LanguageModel};
/// let lm = LanguageModel::open("SmolLM2-135M-Instruct.Q4_1.gguf")?;
/// let tokens = lm.to_tokens(&std::fs::read_to_string("stories.txt").unwrap())?;
/// let rows = onelens::ndarray::Array2::from_shape_vec((288, 128), tokens[..288 * 128].to_vec()).unwrap();
/// let (fit, read) = rows.view().split_at(onelens::ndarray::Axis(0), 256);
/// let report = LanguageBattery::default().run("SmolLM2", &lm.model, &fit.to_owned(), &read.to_owned())?;
/// println!("{}", report.sentences()[0].1);
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LanguageBattery {
    /// Ridge penalty of the closed-form lenses, as a share of the mean variance of a stream's features.
    pub lambda: f64,
    /// Tokens, of those that lenses are fitted to, from which lenses go on to the least KL.
    pub n_refined: usize,
    /// Times through these.
    pub epochs: usize,
    /// So many streams, evenly spread from the embedding on, have a lens of their own at least KL, and are steered.
    pub n_streams: usize,
    /// Held-out sequences that are steered and that lose blocks, and positions of each.
    pub causal: (usize, usize),
    /// Where finished parts are kept, so that an interrupted report can go on.
    pub folder: Option<PathBuf>,
    /// Of the untrained network and everything that is drawn.
    pub seed: u64,
}

impl Default for LanguageBattery {
    fn default() -> Self {
        LanguageBattery {
            lambda: 1e-3,
            n_refined: 32_768,
            epochs: 1,
            n_streams: 6,
            causal: (16, 32),
            folder: None,
            seed: 0,
        }
    }
}

/// What holds lenses at least KL near their closed form: without it one lens for all streams of a large model finds
/// nothing better.
const PENALTY: f64 = 1e-3;
/// How often a hidden layer goes through the tokens for each time that affine lenses do: on SmolLM2 and 16,384 tokens
/// that is 96 steps, which read 3 to 9 % less KL at most streams, where 4 bettered nothing (`benches/README.md`).
const EPOCHS_OF_HIDDEN: usize = 6;
/// Dose of steering, as a share of the stream's length.
const DOSE: f64 = 0.25;

impl LanguageBattery {
    /// Makes the report about `model`: lenses are fitted to `fit: [sequence, pos]` and read `held_out: [sequence,
    /// pos]`.
    ///
    /// Fails if the tokens do not fit, on fewer than six held-out sequences, fewer tokens to fit than the streams are
    /// wide, fewer than three blocks, or when interrupted; finished parts are kept in `folder`.
    pub fn run(
        &self,
        name: &str,
        model: &Transformer,
        fit: &Array2<u32>,
        held_out: &Array2<u32>,
    ) -> Result<LanguageReport> {
        self.check(model, fit, held_out)?;
        let began = Instant::now();
        let n_layers = model.config.n_layers;
        let work = Work { how: self, fit, held_out, every: self.streams(n_layers) };
        let mut progress = Progress::new("report", 5);
        let mut step = |done: usize, what: &str| progress.update(done, || what.to_string());
        step(0, "lenses of the model");
        let (reads, tokens, one) = work.trained(model)?;
        step(1, "shuffled updates");
        let (shuffled, _) =
            work.null(model, "updates shuffled over tokens", Updates::Shuffled { seed: self.seed })?;
        step(2, "chance weights");
        let untrained = Transformer::new(Config { seed: self.seed, ..model.config.clone() })?;
        let (chance, one_of_chance) = work.null(&untrained, "chance weights", Updates::AsTheyAre)?;
        step(3, "steering");
        let (n_seqs, n_pos) = self.causal;
        let some =
            held_out.slice(s![..n_seqs.min(held_out.nrows()), ..n_pos.min(held_out.ncols())]).to_owned();
        let mut steering = work.steering(model, &reads.name, &some, &one)?;
        steering.extend(work.steering(&untrained, &chance.name, &some, &one_of_chance)?);
        step(4, "without blocks");
        let blocks = work.blocks(model, &some)?;
        progress.finish(&format!("{:.0} s", began.elapsed().as_secs_f64()));
        let text = |n: usize| n.to_string();
        let methods = vec![
            ("tokens for least squares".into(), text(fit.len())),
            (
                "tokens for least KL".into(),
                format!("{}, {} epochs", self.n_refined.min(fit.len()), self.epochs),
            ),
            ("held-out tokens".into(), format!("{} in {} sequences", held_out.len(), held_out.nrows())),
            ("steered and without blocks".into(), format!("{} sequences of {}", some.nrows(), some.ncols())),
            ("ridge penalty".into(), format!("{:e}", self.lambda)),
            ("seed".into(), self.seed.to_string()),
            ("model".into(), format!("{:016x}", model.fingerprint())),
            ("onelens".into(), env!("CARGO_PKG_VERSION").into()),
        ];
        Ok(LanguageReport {
            name: name.into(),
            networks: vec![reads, chance, shuffled],
            tokens,
            steering,
            blocks,
            methods,
        })
    }

    /// Streams with a lens of their own at least KL.
    fn streams(&self, n_layers: usize) -> Vec<usize> {
        (0..n_layers).step_by(n_layers.div_ceil(self.n_streams)).collect()
    }

    fn check(&self, model: &Transformer, fit: &Array2<u32>, held_out: &Array2<u32>) -> Result<()> {
        model.check_tokens(fit)?;
        model.check_tokens(held_out)?;
        let c = &model.config;
        let refuse = |what: String, help: String| Err(Error::new(ErrorKind::Data, what, help));
        if c.n_layers < 3 {
            return refuse(
                format!("a model of {} blocks has no layers to compare", c.n_layers),
                "ask a model of three blocks or more".into(),
            );
        }
        if held_out.nrows() < 6 || held_out.ncols() < 8 {
            return refuse(
                format!("{} held-out sequences of {} tokens are too few", held_out.nrows(), held_out.ncols()),
                "hold out six sequences or more, of eight tokens or more: sequences are the unit of every interval".into(),
            );
        }
        if fit.len() < 2 * c.d_model {
            return refuse(
                format!("{} tokens are too few for lenses of width {}", fit.len(), c.d_model),
                format!("give {} or more: better some ten thousand", 2 * c.d_model),
            );
        }
        if self.n_streams < 3 || self.epochs == 0 || self.causal.0 < 2 || self.causal.1 < 4 {
            return refuse(
                format!("{} streams, {} epochs, {:?} for causes", self.n_streams, self.epochs, self.causal),
                "ask for three `n_streams` or more, an epoch or more, and two sequences of four positions or more"
                    .into(),
            );
        }
        Ok(())
    }
}

/// What the parts of a report have in common.
struct Work<'a> {
    how: &'a LanguageBattery,
    fit: &'a Array2<u32>,
    held_out: &'a Array2<u32>,
    /// Streams with a lens of their own at least KL.
    every: Vec<usize>,
}

/// A lens, and the streams that it is asked for.
struct Asked<'a> {
    name: &'static str,
    lens: &'a dyn Lens,
    streams: Option<&'a [usize]>,
    /// Whether also after updates of other tokens.
    updates: bool,
}

impl<'a> Asked<'a> {
    /// For all streams.
    fn everywhere(name: &'static str, lens: &'a dyn Lens) -> Self {
        Asked { name, lens, streams: None, updates: false }
    }
}

impl Asked<'_> {
    /// Also after updates of other tokens.
    fn and_updates(self) -> Self {
        Asked { updates: true, ..self }
    }
}

/// What was read at every token.
struct TokenReadings {
    n_pos: usize,
    /// `KL(p ‖ q)` in nats, `[lens, stream, token]`; NaN where a lens was not asked.
    kl: Array3<f32>,
    /// `KL(p ‖ p̄)`, nats.
    baseline: Vec<f64>,
    /// Entropy of the final prediction, nats.
    entropy: Vec<f64>,
    /// Its most probable token.
    top: Vec<u32>,
    /// Where the last lens's most probable token becomes the final one.
    depth: Vec<usize>,
    /// `KL(p ‖ q)` after another token's update, `[lens, block, token]`; NaN at first positions and where a lens was
    /// not asked.
    shuffled: Array3<f32>,
}

impl Work<'_> {
    fn depends_on(&self, model: &Transformer, what: &str) -> String {
        let mut hash = record::Fnv::new("tokens");
        self.fit.iter().chain(self.held_out).for_each(|&t| hash.word(u64::from(t)));
        let how = LanguageBattery { folder: None, ..self.how.clone() };
        format!(
            "{what} {:016x} {:016x} {:?} {:?} {how:?}",
            model.fingerprint(),
            hash.finish(),
            self.fit.dim(),
            self.held_out.dim()
        )
    }

    fn kept<T: Serialize + DeserializeOwned>(
        &self,
        model: &Transformer,
        label: &str,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let folder = self.how.folder.as_deref();
        kept(folder, ("language-part", VERSION), &self.depends_on(model, label), label, make)
    }

    fn tokens_refined_on(&self) -> Array2<u32> {
        let rows = (self.how.n_refined / self.fit.ncols()).clamp(1, self.fit.nrows());
        self.fit.slice(s![..rows, ..]).to_owned()
    }

    /// Lenses at least KL, or those of streams `only`, from closed form on.
    fn refined(
        &self,
        model: &Transformer,
        label: &str,
        start: &LayerLenses,
        moments: &LayerMoments,
        only: Option<&[usize]>,
    ) -> Result<LayerLenses> {
        self.kept(model, label, || {
            let tokens = self.tokens_refined_on();
            let refine =
                Refine { epochs: self.how.epochs, lbfgs_steps: 0, lambda: PENALTY, ..Refine::default() };
            let until = Until { only, ..Until::default() };
            Ok(refine.fit_until(&until, model, start, moments, &tokens, None)?.lenses)
        })
    }

    fn moments(&self, model: &Transformer, updates: Updates) -> Result<LayerMoments> {
        LayerMoments::collect_of(model, self.fit, Scale::UnitRms, Target::Normalised, updates)
    }

    /// Everything about the model itself that lenses say, with the one lens for all its streams.
    fn trained(&self, model: &Transformer) -> Result<(NetworkReads, Vec<TokenClass>, LayerLenses)> {
        self.kept(model, "the-model", || {
            let moments = self.moments(model, Updates::AsTheyAre)?;
            let ridge = Ridge { lambda: self.how.lambda, ..Ridge::default() };
            let of = |kind: LensKind| ridge.lenses(&moments, &kind);
            let (own, shared, left_out) =
                (of(LensKind::Own)?, of(LensKind::Shared)?, of(LensKind::LeftOutWithoutLast)?);
            let shared_kl = self.refined(model, "shared", &shared, &moments, None)?;
            let folds_kl = self.refined(model, "folds", &of(LensKind::Folds(2))?, &moments, None)?;
            let own_kl = self.refined(model, "own", &own, &moments, Some(&self.every))?;
            let every_third = of(LensKind::Every(3))?;
            let epochs = EPOCHS_OF_HIDDEN * self.how.epochs;
            let hidden = HiddenLayer { epochs, seed: self.how.seed, ..HiddenLayer::default() };
            let hidden =
                hidden.fit_streams(model, &own_kl, &moments, &self.tokens_refined_on(), Some(&self.every))?;
            let asked = [
                Asked::everywhere(LensReads::LOGIT, &LogitLens),
                Asked::everywhere(LensReads::OWN, &own),
                Asked::everywhere(LensReads::SHARED, &shared).and_updates(),
                Asked::everywhere(LensReads::LEFT_OUT, &left_out),
                Asked::everywhere(LensReads::EVERY_THIRD, &every_third),
                Asked { name: LensReads::OWN_KL, lens: &own_kl, streams: Some(&self.every), updates: false },
                Asked { name: LensReads::HIDDEN, lens: &hidden, streams: Some(&self.every), updates: false },
                Asked::everywhere(LensReads::LEFT_OUT_KL, &folds_kl),
                Asked::everywhere(LensReads::SHARED_KL, &shared_kl).and_updates(),
            ];
            let seen = self.read(model, &asked, &moments, Updates::AsTheyAre)?;
            Ok((self.reads("the model", &asked, &seen), self.classes(model, &seen), shared_kl))
        })
    }

    /// A null, by lenses of least squares only, with the one lens for all its streams.
    fn null(&self, model: &Transformer, name: &str, updates: Updates) -> Result<(NetworkReads, LayerLenses)> {
        self.kept(model, &name.replace(' ', "-"), || {
            let moments = self.moments(model, updates)?;
            let ridge = Ridge { lambda: self.how.lambda, ..Ridge::default() };
            let of = |kind: LensKind| ridge.lenses(&moments, &kind);
            let (own, shared, left_out) =
                (of(LensKind::Own)?, of(LensKind::Shared)?, of(LensKind::LeftOutWithoutLast)?);
            let asked = [
                Asked::everywhere(LensReads::OWN, &own),
                Asked::everywhere(LensReads::LEFT_OUT, &left_out),
                Asked::everywhere(LensReads::SHARED, &shared).and_updates(),
            ];
            let seen = self.read(model, &asked, &moments, updates)?;
            Ok((self.reads(name, &asked, &seen), shared))
        })
    }

    /// Reads the held-out tokens by each lens; by the last one also after updates of other tokens.
    fn read(
        &self,
        model: &Transformer,
        asked: &[Asked],
        moments: &LayerMoments,
        updates: Updates,
    ) -> Result<TokenReadings> {
        let (n_seqs, n_pos) = self.held_out.dim();
        let n_streams = model.config.n_layers + 1;
        let lenses: Vec<&dyn Lens> = asked.iter().map(|asked| asked.lens).collect();
        let log_mean = moments.mean_prediction.mapv(|p| p.max(f64::MIN_POSITIVE).ln() as f32);
        let log_mean = log_mean.view();
        let parts = read_blocks_of(model, &lenses, self.held_out, updates, |block| {
            self.read_block(model, asked, log_mean, &block)
        })?;
        let mut seen = TokenReadings {
            n_pos,
            kl: Array3::from_elem((asked.len(), n_streams, n_seqs * n_pos), f32::NAN),
            baseline: Vec::new(),
            entropy: Vec::new(),
            top: Vec::new(),
            depth: Vec::new(),
            shuffled: Array3::from_elem((asked.len(), n_streams - 1, n_seqs * n_pos), f32::NAN),
        };
        for part in parts {
            let rows = seen.baseline.len()..seen.baseline.len() + part.baseline.len();
            seen.kl.slice_mut(s![.., .., rows.clone()]).assign(&part.kl);
            seen.shuffled.slice_mut(s![.., .., rows]).assign(&part.shuffled);
            seen.baseline.extend(part.baseline);
            seen.entropy.extend(part.entropy);
            seen.top.extend(part.top);
            seen.depth.extend(part.depth);
        }
        Ok(seen)
    }

    fn read_block(
        &self,
        model: &Transformer,
        asked: &[Asked],
        log_mean: ArrayView1<f32>,
        block: &Block,
    ) -> Result<TokenReadings> {
        let (n_rows, n_streams) = (block.n_rows(), block.streams.len());
        let mean = log_mean.broadcast(block.dim()).expect("a row of the vocabulary");
        let mut seen = TokenReadings {
            n_pos: n_rows,
            kl: Array3::from_elem((asked.len(), n_streams, n_rows), f32::NAN),
            baseline: block.said(mean).iter().map(|said| said.kl).collect(),
            entropy: block.last.iter().map(|last| last.entropy).collect(),
            depth: vec![n_streams - 1; n_rows],
            shuffled: Array3::from_elem((asked.len(), n_streams - 1, n_rows), f32::NAN),
            top: block.last.iter().map(|last| last.top).collect(),
        };
        let put = |mut to: ndarray::ArrayViewMut1<f32>, said: &[Said]| {
            to.iter_mut().zip(said).for_each(|(to, said)| *to = said.kl as f32);
        };
        let last = asked.len() - 1;
        for (i, Asked { lens, streams, .. }) in asked.iter().enumerate() {
            let wanted: Vec<usize> =
                (0..n_streams).filter(|l| streams.is_none_or(|streams| streams.contains(l))).collect();
            let said = block.read(model, *lens, wanted.iter().copied())?;
            // Backwards, so that a stream at which the final token is not first ends the way to it.
            let mut on_the_way = vec![true; n_rows];
            for (&l, said) in wanted.iter().zip(&said).rev() {
                put(seen.kl.slice_mut(s![i, l, ..]), said);
                if i == last {
                    for (row, said) in said.iter().enumerate() {
                        on_the_way[row] &= said.top == seen.top[row];
                        if on_the_way[row] {
                            seen.depth[row] = l;
                        }
                    }
                }
            }
        }
        let moved: Vec<Array2<f32>> = (0..n_streams - 1)
            .map(|l| {
                let (h, after) = (block.streams[l], block.streams[l + 1]);
                let mut random = rng(self.how.seed ^ (block.sequence as u64) << 16, 1 + l as u64);
                let order = other_positions(n_rows, &mut random);
                let mut moved = h.to_owned();
                for (mut row, from) in moved.rows_mut().into_iter().zip(order) {
                    row += &(&after.row(from) - &h.row(from));
                }
                moved
            })
            .collect();
        let moved: Vec<_> = moved.iter().enumerate().map(|(l, moved)| (l + 1, moved.view())).collect();
        for (i, Asked { lens, .. }) in asked.iter().enumerate().filter(|(_, asked)| asked.updates) {
            for (l, said) in block.read_rows(model, *lens, &moved)?.iter().enumerate() {
                put(seen.shuffled.slice_mut(s![i, l, ..]), said);
                // The first of the rows keeps its own.
                seen.shuffled[(i, l, 0)] = f32::NAN;
            }
        }
        Ok(seen)
    }

    fn resamples(&self) -> Resamples {
        Resamples::new(&[self.held_out.nrows()], &mut rng(self.how.seed, 0xb007))
    }

    /// Sums over the tokens of each sequence.
    fn by_sequence(&self, values: impl Iterator<Item = f64>) -> Vec<f64> {
        let values: Vec<f64> = values.collect();
        values.chunks(self.held_out.ncols()).map(|tokens| tokens.iter().sum()).collect()
    }

    fn reads(&self, name: &str, asked: &[Asked], seen: &TokenReadings) -> NetworkReads {
        let resamples = self.resamples();
        let n_pos = seen.n_pos as f64;
        let baseline = self.by_sequence(seen.baseline.iter().map(|kl| kl / n_pos));
        let n_streams = seen.kl.len_of(Axis(1));
        // By how much each lens beats the baseline, by sequence; `None` where it was not asked.
        let gains = |i: usize, l: usize| -> Option<Vec<f64>> {
            asked[i].streams.is_none_or(|streams| streams.contains(&l)).then(|| {
                let kl = seen.kl.slice(s![i, l, ..]);
                self.by_sequence(kl.iter().zip(&seen.baseline).map(|(&kl, b)| (b - f64::from(kl)) / n_pos))
            })
        };
        let least = SOMETHING * resamples.mean(&baseline).estimate;
        let lenses = (0..asked.len()).map(|i| {
            let own = asked.iter().position(|a| a.name == LensReads::own_of(asked[i].name));
            let share = |l: usize| {
                let (of_lens, of_own) = (gains(i, l)?, gains(own?, l)?);
                let there = resamples.mean(&of_own);
                (there.estimate >= least && there.above(0.0)).then(|| resamples.ratio(&of_lens, &of_own))
            };
            LensReads {
                name: asked[i].name.into(),
                nats: (0..n_streams).map(|l| gains(i, l).map(|g| resamples.mean(&g))).collect(),
                share: (0..n_streams).map(share).collect(),
            }
        });
        let updates = |lens: &str| {
            asked.iter().position(|asked| asked.name == lens).map_or_else(Vec::new, |i| self.updates(seen, i))
        };
        NetworkReads {
            name: name.into(),
            baseline: resamples.mean(&baseline),
            lenses: lenses.collect(),
            updates: updates(LensReads::SHARED),
            updates_kl: updates(LensReads::SHARED_KL),
        }
    }

    /// What each block's update does to the reading of one lens, at the positions at which another one's is known.
    fn updates(&self, seen: &TokenReadings, lens: usize) -> Vec<UpdateEffect> {
        let resamples = self.resamples();
        (0..seen.shuffled.len_of(Axis(1)))
            .map(|l| {
                let kl = |l: usize, t: usize| f64::from(seen.kl[(lens, l, t)]);
                let other = |t: usize| f64::from(seen.shuffled[(lens, l, t)]);
                let tokens =
                    || (0..seen.baseline.len()).map(|t| if other(t).is_nan() { None } else { Some(t) });
                let counted = self.by_sequence(tokens().map(|t| t.map_or(0.0, |_| 1.0)));
                let mean = |of: &dyn Fn(usize) -> f64| {
                    resamples.ratio(&self.by_sequence(tokens().map(|t| t.map_or(0.0, of))), &counted)
                };
                UpdateEffect {
                    own: mean(&|t| kl(l, t) - kl(l + 1, t)),
                    shuffled: mean(&|t| kl(l, t) - other(t)),
                    difference: mean(&|t| other(t) - kl(l + 1, t)),
                }
            })
            .collect()
    }

    /// Tokens by how often the predicted token comes, by position, and by entropy of the prediction, in quarters.
    fn classes(&self, model: &Transformer, seen: &TokenReadings) -> Vec<TokenClass> {
        let mut counts = vec![0_u64; model.config.d_vocab];
        self.fit.iter().for_each(|&t| counts[t as usize] += 1);
        let frequency: Vec<f64> = seen.top.iter().map(|&t| counts[t as usize] as f64).collect();
        let position: Vec<f64> = (0..seen.top.len()).map(|t| (t % seen.n_pos) as f64).collect();
        let all: Vec<usize> = (0..seen.top.len()).collect();
        let mut classes = vec![class("all tokens", seen, &all)];
        for (values, names) in [
            (
                &frequency,
                [
                    "rarest predicted tokens",
                    "rather rare",
                    "rather frequent",
                    "most frequent predicted tokens",
                ],
            ),
            (
                &position,
                [
                    "first quarter of the sequence",
                    "second quarter",
                    "third quarter",
                    "last quarter of the sequence",
                ],
            ),
            (&seen.entropy, ["surest predictions", "rather sure", "rather unsure", "least sure predictions"]),
        ] {
            let mut order = all.clone();
            order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
            let quarter = order.len().div_ceil(4);
            classes.extend(order.chunks(quarter).zip(names).map(|(tokens, name)| class(name, seen, tokens)));
        }
        classes
    }

    fn steering(
        &self,
        model: &Transformer,
        network: &str,
        tokens: &Array2<u32>,
        one: &LayerLenses,
    ) -> Result<Vec<SteeringEffect>> {
        self.kept(model, &format!("steering-{}", network.replace(' ', "-")), || {
            let steer = Steering {
                streams: self.every.clone(),
                doses: vec![DOSE],
                aim: Aim::Unigram,
                seed: self.how.seed,
                ..Steering::default()
            };
            let lenses: [(&str, &dyn Lens); 2] = [(ONE_LENS, one), (LensReads::LOGIT, &LogitLens)];
            let seen = steer.run(model, &lenses, tokens)?;
            let effect = |&stream: &usize| {
                type Of = fn(&SteeringResult, &str, usize, f64) -> Result<(f64, f64)>;
                let each = |of: Of| -> Result<Vec<_>> {
                    let one = |kind: &String| {
                        let (mean, half) = of(&seen, kind, stream, DOSE)?;
                        Ok((kind.clone(), mean, half))
                    };
                    seen.kinds.iter().map(one).collect()
                };
                Ok(SteeringEffect {
                    network: network.into(),
                    stream,
                    change: each(SteeringResult::interval)?,
                    disturbance: each(SteeringResult::disturbance)?,
                    advantage: [
                        seen.advantage(ONE_LENS, "rotated", stream, DOSE)?,
                        seen.advantage(ONE_LENS, "random", stream, DOSE)?,
                    ],
                })
            };
            self.every.iter().map(effect).collect()
        })
    }

    /// The loss without each block, with it twice, and with it in two halves.
    fn blocks(&self, model: &Transformer, tokens: &Array2<u32>) -> Result<Vec<BlockLoss>> {
        let resamples = Resamples::new(&[tokens.nrows()], &mut rng(self.how.seed, 0xb10c));
        let whole = model.sequence_losses(tokens)?;
        let more = |lesion: Lesion| -> Result<Interval> {
            let with = lesion.apply(model)?.sequence_losses(tokens)?;
            Ok(resamples.mean(&with.iter().zip(&whole).map(|(a, b)| a - b).collect::<Vec<_>>()))
        };
        let mut all = Vec::new();
        for block in 0..model.config.n_layers {
            all.push(self.kept(model, &format!("block-{block}"), || {
                Ok(BlockLoss {
                    deleted: more(Lesion::Delete(block))?,
                    repeated: more(Lesion::Repeat(block))?,
                    halved: more(Lesion::Damped { block, times: 2 })?,
                })
            })?);
        }
        Ok(all)
    }
}

/// What tokens have in common under the last lens.
fn class(name: &str, seen: &TokenReadings, tokens: &[usize]) -> TokenClass {
    let last = seen.kl.len_of(Axis(0)) - 1;
    let n_streams = seen.kl.len_of(Axis(1));
    let n = tokens.len().max(1) as f64;
    let kl = |l: usize, t: usize| f64::from(seen.kl[(last, l, t)]);
    let jumps =
        tokens.iter().filter(|&&t| jumps(&(0..n_streams).map(|l| kl(l, t)).collect::<Vec<_>>())).count();
    TokenClass {
        name: name.into(),
        n: tokens.len(),
        kl: (0..n_streams).map(|l| tokens.iter().map(|&t| kl(l, t)).sum::<f64>() / n).collect(),
        jumps: jumps as f64 / n,
        depth: tokens.iter().map(|&t| seen.depth[t] as f64).sum::<f64>() / n,
    }
}

/// Whether one block brings half or more of the fall from the highest KL to the lowest after it.
fn jumps(kl: &[f64]) -> bool {
    let highest = (0..kl.len()).max_by(|&a, &b| kl[a].total_cmp(&kl[b])).unwrap_or(0);
    let after = &kl[highest..];
    let lowest = after.iter().copied().fold(f64::INFINITY, f64::min);
    let steepest = after.windows(2).map(|pair| pair[0] - pair[1]).fold(0.0, f64::max);
    let fall = after[0] - lowest;
    fall > 0.0 && steepest >= HALF * fall
}
