//! The tuned lens: the affine map of least KL, from the closed form on.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ndarray::{Array1, Array2, ArrayView2};
use serde::{Deserialize, Serialize};

use super::decoder::{Decoder, Decoding, Elsewhere};
use super::form::Form;
use super::inputs::Inputs;
use super::kind::Common;
use super::layers::check_fingerprint;
use super::lbfgs::Lbfgs;
use super::natural_gradient::Moving;
use super::objective::{Evaluation, Meter, Objective, SAMPLED_TOKENS};
use super::ridge::check_lambda;
use super::token_chunks::TokenChunks;
use super::whitened::Curvature;
use super::{AffineLens, LayerLenses, LayerMoments, Lens, LensKind, Ridge};
use crate::model::Transformer;
use crate::session::count;
use crate::{Error, ErrorKind, Result, record};

/// Refines affine lenses to the least mean `KL(p ‖ q_l)` (Belrose et al. 2023, equation 6) from lenses fitted in closed
/// form: pre-norm ones, `q_l = softmax(U N(A h_l + b))`, or post-norm ones, `q_l = softmax(U (A h_l + b))`, or probes,
/// `q_l = softmax(A h_l + b)`.
///
/// Two phases. *Epochs* go through the tokens in batches by steps of natural gradient, with momentum and a rate that
/// falls to 0; curvature is taken as the product of the input's covariance and the mean Fisher matrix of the output
/// (K-FAC; Martens & Grosse 2015), so that all directions are of one scale. After them *steps of L-BFGS* with a line
/// search look at all tokens, in the same coordinates; they take the layers that gain most, and all layers again when
/// none gains much. A layer that epochs did not better keeps its start.
///
/// The first stream repeats wherever tokens (and learned positions) do, and `Σ_i KL(p_i ‖ q)` over equal rows asks only
/// for the sum of the `p_i`. Where streams are kept and its distinct rows are less than half of the tokens, its lens
/// looks at all of those in each step, and each step of L-BFGS there is as many as cost what one of another layer does.
///
/// It keeps the [kind](LayerLenses::kind) of the lenses that it starts from: from [`Ridge::shared`] on it finds the one
/// lens for all streams whose mean KL over them is least, from [`Ridge::left_out`] on the best of the other streams for
/// each, from [`Ridge::shared_own_bias`] on one matrix with the biases that suit it best. A map of low rank moves as
/// two factors.
///
/// ```
/// use onelens::{data::{Corpus, Source}, lens::{LayerMoments, Refine, Ridge}, model::{Config, Transformer}, num::rng};
/// let corpus = Corpus::from_text("cats", &"the cat sat on the mat. ".repeat(20))?;
/// let model = Transformer::new(Config { d_vocab: corpus.d_vocab(), d_model: 8, n_heads: 1, d_head: 8, ..Config::default() })?;
/// let tokens = corpus.sample(8, 16, &mut rng(1, 0))?;
/// let moments = LayerMoments::collect(&model, &tokens)?;
/// let one = Refine { epochs: 2, lbfgs_steps: 1, ..Refine::default() }.fit(&model, &Ridge::default().shared(&moments)?, &moments, &tokens)?;
/// assert_eq!(one.lenses.layer(0), one.lenses.layer(6));
/// # Ok::<(), onelens::Error>(())
/// ```
///
/// For post-norm lenses and probes the problem is convex: where the gradient vanishes, no better lens is left to find.
/// Ask for `lbfgs_steps` to get there. (With gains or a rank it is not convex, and what is found is the best nearby.)
///
/// Streams are kept from step to step up to 1 GiB; beyond, the model runs again for each step, and they are never held
/// for more than a few sequences. For more text than memory there is
/// [`Streaming::refine`](crate::stream::Streaming::refine), which keeps up to 64 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refine {
    /// Times through the tokens in batches.
    pub epochs: usize,
    /// Steps on all tokens after that. With 0 of both nothing changes.
    pub lbfgs_steps: usize,
    /// Strength of a penalty `½ λ s² ‖A - I‖²` in nats (`‖A‖²` for probes), where `s²` is the mean variance of the
    /// stream's features, as for [`Ridge`]. 0 is none. It holds `A` back in directions in which a stream hardly varies.
    /// On new text 3e-5 lowered the KL by up to .0003 nats at most layers of two models, and raised it by .0001 at one
    /// (`benches/README.md`); 1e-4 was too much for one of the two.
    pub lambda: f64,
    /// About how many tokens of the vocabulary a step of an epoch looks at: the likeliest ones, and a sample of the
    /// others that stands for all of them, drawn anew for each chunk of text. A vocabulary of no more than that is
    /// looked at as a whole. The look at the curvature sees a part, too; what a step of L-BFGS lowers is over all of
    /// it.
    pub vocabulary: usize,
}

impl Default for Refine {
    fn default() -> Self {
        Refine { epochs: 12, lbfgs_steps: 3, lambda: 0.0, vocabulary: 4096 }
    }
}

/// Lenses of least KL, one for each residual stream, or one for each pool of them.
#[derive(Clone, Serialize, Deserialize)]
pub struct TunedLens {
    /// The maps.
    pub lenses: LayerLenses,
    /// Mean KL on the training tokens in nats, with the penalty if there is one, `[step, residual stream]`: where the
    /// search began, then after all epochs if there were any, then after each step of L-BFGS. No column ever rises. A
    /// lens that is [fitted to](LensKind::streams) several streams has the mean KL over those, the same for each that
    /// it reads. Without L-BFGS all of it is estimated from about 4096 tokens and, of many streams, from four at each,
    /// and from as much of the vocabulary as an epoch looks at, the same before and after, as nothing else asks for
    /// all.
    pub training_kl: Array2<f64>,
    /// Length of the gradient at the end, with input (and post-norm output) whitened, in nats; one per residual stream.
    pub gradient_norm: Vec<f64>,
    /// Time it took.
    pub seconds: f64,
}

/// How far a search goes, and where.
#[derive(Clone, Copy, Default)]
pub(crate) struct Until<'a> {
    /// Where the model runs and its vocabulary is read, if not on the processors.
    pub(crate) on: Option<&'a dyn Elsewhere>,
    /// It ends when no lens gains more than this in a step of L-BFGS, in nats.
    pub(crate) enough: f64,
    /// Only lenses that read these streams first are searched for, all if it is not said; the others stay as they are,
    /// and their KL is not known.
    pub(crate) only: Option<&'a [usize]>,
}

/// Where a search has ended.
pub(super) struct Refined {
    pub(super) lenses: Vec<Arc<AffineLens>>,
    pub(super) training_kl: Array2<f64>,
    pub(super) gradient_norm: Vec<f64>,
    pub(super) kind: LensKind,
}

impl Refine {
    /// Refines `start` on `tokens: [sequence, pos]`; `moments` are those it was fitted to.
    ///
    /// Fails if lenses, moments and model do not belong together, the lenses predict no tokens, a layer has no variance
    /// at all, the tokens do not fit, `lambda` is negative or not finite, or when interrupted.
    pub fn fit(
        &self,
        model: &Transformer,
        start: &LayerLenses,
        moments: &LayerMoments,
        tokens: &Array2<u32>,
    ) -> Result<TunedLens> {
        model.check_tokens(tokens)?;
        self.fit_until(&Until::default(), model, start, moments, tokens, None)
    }

    /// The same `until` something else, for tokens from anywhere, which fit the model. Where a search stands after each
    /// epoch and each step of L-BFGS is kept in a file, from which the same search goes on; a file that is damaged or
    /// not there is a search at its beginning.
    pub(crate) fn fit_until(
        &self,
        until: &Until,
        model: &Transformer,
        start: &LayerLenses,
        moments: &LayerMoments,
        tokens: &dyn TokenChunks,
        kept: Option<&Path>,
    ) -> Result<TunedLens> {
        let began = Instant::now();
        start.check_model(model)?;
        check_fingerprint("moments are", moments.fingerprint, model)?;
        if moments.target != start.target() {
            return Err(Error::new(
                ErrorKind::Config,
                format!("lenses with the target {:?} and moments with {:?}", start.target(), moments.target),
                "pass the moments that the lenses were fitted to",
            ));
        }
        moments.check_scale(start.scale(), "the lenses read another")?;
        let inputs = Inputs::new(model, tokens, None).scaled(moments.scale).run_on(until.on);
        let decoder = Decoder::new(model, moments.target);
        Ok(self.search_until(until, decoder, inputs, start, moments, kept)?.tuned(moments, began))
    }

    /// Goes from tokens to lenses: [collects](LayerMoments::collect) moments, fits `ridge` to each layer, and refines
    /// that. It is the same as the three calls one after the other, but where streams are kept, the model runs once for
    /// all of it.
    ///
    /// Fails where [`LayerMoments::collect`], [`Ridge::own`] or [`fit`](Refine::fit) do.
    ///
    /// ```
    /// use onelens::{data::{Corpus, Source}, lens::{Refine, Ridge}, model::{Config, Transformer}, num::rng};
    /// let corpus = Corpus::from_text("cats", &"the cat sat on the mat. ".repeat(20))?;
    /// let model = Transformer::new(Config { d_vocab: corpus.d_vocab(), d_model: 8, n_heads: 1, d_head: 8, ..Config::default() })?;
    /// let tokens = corpus.sample(8, 16, &mut rng(1, 0))?;
    /// let (moments, tuned) = Refine { epochs: 2, lbfgs_steps: 1, ..Refine::default() }.collect_and_fit(&model, &tokens, &Ridge::default())?;
    /// assert_eq!(moments.n(), 8 * 16);
    /// assert_eq!(tuned.lenses.len(), model.config.n_layers + 1);
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn collect_and_fit(
        &self,
        model: &Transformer,
        tokens: &Array2<u32>,
        ridge: &Ridge,
    ) -> Result<(LayerMoments, TunedLens)> {
        model.check_tokens(tokens)?;
        let mut moments = LayerMoments::new(model);
        let mut inputs = Inputs::new(model, tokens, None).scaled(moments.scale);
        if !inputs.keep(KEPT_BYTES, Some(&mut moments))? {
            moments.push(model, tokens)?;
        }
        let start = ridge.own(&moments)?;
        let began = Instant::now();
        let decoder = Decoder::new(model, moments.target);
        let tuned = self.search(decoder, inputs, &start, &moments, None)?.tuned(&moments, began);
        Ok((moments, tuned))
    }

    /// Lowers the KL on `inputs` from `start` on, all layers side by side.
    pub(super) fn search(
        &self,
        decoder: Decoder,
        inputs: Inputs,
        start: &LayerLenses,
        moments: &LayerMoments,
        kept: Option<&Path>,
    ) -> Result<Refined> {
        self.search_until(&Until::default(), decoder, inputs, start, moments, kept)
    }

    /// The same, for some of the lenses or not to the end.
    pub(super) fn search_until(
        &self,
        until: &Until,
        decoder: Decoder,
        mut inputs: Inputs,
        start: &LayerLenses,
        moments: &LayerMoments,
        kept: Option<&Path>,
    ) -> Result<Refined> {
        check_lambda(self.lambda)?;
        if self.vocabulary == 0 {
            return Err(Error::new(
                ErrorKind::Config,
                "a refinement that looks at 0 tokens of the vocabulary sees nothing",
                "set `vocabulary` to a few thousand, or to `usize::MAX` for all tokens",
            ));
        }
        inputs.keep(if kept.is_some() { STREAMED_BYTES } else { KEPT_BYTES }, None)?;
        let decoding = Decoding::new(decoder, until.on)?;
        let (mut objective, begin) = Objective::new(decoding, inputs, moments, start, self.lambda)?;
        objective.vocabulary = self.vocabulary;
        let n_maps = begin.len();
        let wanted: Vec<bool> = (0..n_maps)
            .map(|map| until.only.is_none_or(|only| only.contains(&objective.first_of(map))))
            .collect();
        // Without L-BFGS, which needs the gradient of all tokens and streams, some of them tell whether epochs have
        // helped.
        let sampled = (self.lbfgs_steps == 0).then_some(0);
        let n_tokens = objective.inputs.n_tokens();
        // Where it begins, and where epochs led.
        let n_looks = 1 + usize::from(self.epochs > 0);
        let look_tokens = sampled.map_or(n_tokens, |_| n_tokens.min(SAMPLED_TOKENS));
        let total = n_looks * look_tokens + (self.epochs + self.lbfgs_steps) * n_tokens;
        let found = kept.and_then(|path| record::load::<Standing>(path, KIND, STANDING_VERSION).ok());
        let done = found.as_ref().map_or(0, |at| {
            let n_looks = 1 + usize::from(self.epochs > 0 && at.done >= self.epochs);
            n_looks * look_tokens + at.done * n_tokens
        });
        let mut meter = Meter::new(total, done);
        let mut at = match found {
            Some(at) => at,
            None => {
                meter.what = "where it begins".into();
                let seen = objective.evaluate(&begin, &wanted, sampled, &mut meter)?;
                let phase = match self.epochs {
                    0 => Phase::lbfgs(&objective, &begin, &seen, objective.curvatures(&begin, &wanted)?)?,
                    _ => Phase::Epochs(Moving::from(&begin)),
                };
                let training_kl = seen.iter().map(|at| at.kl).collect();
                Standing { done: 0, training_kl, forms: begin, seen, phase }
            }
        };
        // Coordinates of L-BFGS, once known.
        let mut coordinates = None;
        // Not those that read what is wanted from the start, as from a last stream, from which nothing has to be
        // guessed.
        let can_fall: Vec<bool> = at.training_kl.iter().take(n_maps).map(|kl| *kl > NOTHING_LEFT).collect();
        while at.done < self.epochs + self.lbfgs_steps {
            let next = match &mut at.phase {
                Phase::Epochs(moving) => {
                    meter.what = format!("epoch {} of {}", at.done + 1, self.epochs);
                    moving.epoch(&objective, &can_fall, (at.done, self.epochs), &mut meter)?;
                    if at.done + 1 == self.epochs {
                        meter.what = "where epochs led".into();
                        let there = objective.evaluate(&moving.forms, &can_fall, sampled, &mut meter)?;
                        for (l, (form, there)) in moving.forms.iter().zip(there).enumerate() {
                            // False for a KL that is not a number, too.
                            if can_fall[l] && there.kl < at.seen[l].kl {
                                (at.forms[l], at.seen[l]) = (form.clone(), there);
                            }
                        }
                        at.training_kl.extend(at.seen.iter().map(|seen| seen.kl));
                        // L-BFGS wants the curvature where they begin; without any, the last one is scale enough.
                        let curvatures = match self.lbfgs_steps {
                            0 => moving.curvatures().to_vec(),
                            _ => objective.curvatures(&at.forms, &wanted)?,
                        };
                        Some(Phase::lbfgs(&objective, &at.forms, &at.seen, curvatures)?)
                    } else {
                        None
                    }
                }
                Phase::Lbfgs { curvatures, searches } => {
                    meter.what = format!("L-BFGS step {} of {}", at.done + 1 - self.epochs, self.lbfgs_steps);
                    let gains = searches
                        .iter()
                        .zip(&can_fall)
                        .map(|(s, can_fall)| (*can_fall && !s.done()).then(|| s.gain()))
                        .map(|gain| gain.filter(|gain| *gain > until.enough));
                    let active = worth_a_pass(&gains.collect::<Vec<_>>(), objective.cheap_looks() > 1);
                    if active.contains(&true) {
                        let whitened = match coordinates.take() {
                            Some(whitened) => whitened,
                            None => objective.whiten(curvatures)?,
                        };
                        let points: Vec<Array1<f64>> = searches.iter().map(Lbfgs::trial).collect();
                        let trials: Vec<Form> =
                            points.iter().zip(&whitened).map(|(point, w)| w.leave(point)).collect();
                        let seen = objective.evaluate(&trials, &active, None, &mut meter)?;
                        for (l, (there, trial)) in seen.into_iter().zip(trials).enumerate() {
                            if active[l]
                                && searches[l].tell(there.kl, whitened[l].gradient(&there, &points[l]))
                            {
                                at.forms[l] = trial;
                            }
                        }
                        // More steps of the first lens, where they are cheap.
                        for _ in 1..objective.cheap_looks() {
                            if !active[0] || searches[0].done() {
                                break;
                            }
                            let point = searches[0].trial();
                            let trial = whitened[0].leave(&point);
                            let Some(there) = objective.evaluate_first(&trial)? else { break };
                            if searches[0].tell(there.kl, whitened[0].gradient(&there, &point)) {
                                at.forms[0] = trial;
                            }
                        }
                        coordinates = Some(whitened);
                    }
                    at.training_kl.extend(searches.iter().map(Lbfgs::value));
                    None
                }
            };
            if let Some(next) = next {
                at.phase = next;
            }
            at.done += 1;
            if let Some(path) = kept {
                record::save(path, KIND, STANDING_VERSION, &at)?;
            }
        }
        meter.finish(&format!(
            "{}, {}, {}",
            count(n_maps, "lens"),
            count(self.epochs, "epoch"),
            count(self.lbfgs_steps, "L-BFGS step")
        ));
        let map_of = &objective.map_of;
        // A search without steps of either kind stands at L-BFGS, too.
        let gradient_norm: Vec<f64> = match &at.phase {
            Phase::Lbfgs { searches, .. } => searches.iter().map(Lbfgs::gradient_norm).collect(),
            Phase::Epochs(_) => unreachable!("the last epoch leads to L-BFGS"),
        };
        let n_steps = at.training_kl.len() / n_maps;
        let lenses = match start.kind().common() {
            Common::Everything => {
                let lenses: Vec<_> = at.forms.iter().map(|form| Arc::new(form.lens(0))).collect();
                map_of.iter().map(|&map| lenses[map].clone()).collect()
            }
            // One form for all streams.
            Common::Matrix | Common::Direction => {
                (0..map_of.len()).map(|l| Arc::new(at.forms[0].lens(l))).collect()
            }
        };
        Ok(Refined {
            lenses,
            training_kl: Array2::from_shape_fn((n_steps, map_of.len()), |(step, l)| {
                at.training_kl[step * n_maps + map_of[l]]
            }),
            gradient_norm: map_of.iter().map(|&map| gradient_norm[map]).collect(),
            kind: start.kind().clone(),
        })
    }
}

/// Streams that take no more memory than this are kept from step to step.
pub(super) const KEPT_BYTES: usize = 1 << 30;
/// The same for texts of any size, whose promise is little memory.
const STREAMED_BYTES: usize = 64 << 20;

/// A lens with less KL than this reads what is wanted, to the rounding of `f32`.
const NOTHING_LEFT: f64 = 1e-6;
/// In a step of L-BFGS a layer rests whose last step gained less than this share of the best one among all layers,
const GAINS: f64 = 0.2;
/// unless that gained no more than this, in nats: then all go on to their optimum.
const FINE: f64 = 1e-6;

/// Which layers a step of L-BFGS takes, from what the last step of each gained; `None` of a layer that is done. Where
/// looking at the first one costs next to nothing, it takes part in all of them.
fn worth_a_pass(gains: &[Option<f64>], first_is_cheap: bool) -> Vec<bool> {
    let dear = usize::from(first_is_cheap);
    let best = gains.iter().skip(dear).flatten().fold(0.0_f64, |best, gain| best.max(*gain));
    let enough = if best > FINE { GAINS * best } else { 0.0 };
    let worth = |(l, gain): (usize, &Option<f64>)| gain.is_some_and(|gain| l < dear || gain >= enough);
    gains.iter().enumerate().map(worth).collect()
}

const KIND: &str = "refinement";
const STANDING_VERSION: u32 = 3;
/// Of finished lenses. 2: with their pools. 3: with their kinds.
const VERSION: u32 = 3;

/// Where a search stands between two epochs or steps of L-BFGS.
#[derive(Serialize, Deserialize)]
struct Standing {
    /// Epochs and steps of L-BFGS.
    done: usize,
    /// One row after another.
    training_kl: Vec<f64>,
    /// The best so far, and what was seen there before L-BFGS.
    forms: Vec<Form>,
    seen: Vec<Evaluation>,
    phase: Phase,
}

#[derive(Serialize, Deserialize)]
enum Phase {
    Epochs(Moving),
    Lbfgs {
        /// Those of the coordinates that the searches are in.
        curvatures: Vec<Curvature>,
        searches: Vec<Lbfgs>,
    },
}

impl Phase {
    /// Searches from lenses at which the objective was seen, in coordinates of these curvatures.
    fn lbfgs(
        objective: &Objective,
        forms: &[Form],
        seen: &[Evaluation],
        curvatures: Vec<Curvature>,
    ) -> Result<Phase> {
        let whitened = objective.whiten(&curvatures)?;
        let searches = seen.iter().zip(forms.iter().zip(&whitened)).map(|(at, (form, w))| {
            let point = w.enter(form);
            let gradient = w.gradient(at, &point);
            Lbfgs::new(point, at.kl, gradient)
        });
        let searches = searches.collect();
        Ok(Phase::Lbfgs { curvatures, searches })
    }
}

impl Refined {
    /// Since `began`.
    pub(super) fn tuned(self, moments: &LayerMoments, began: Instant) -> TunedLens {
        let name = match self.kind {
            LensKind::Own => "tuned lens".into(),
            ref kind => format!("tuned {}", kind.name()),
        };
        TunedLens {
            lenses: LayerLenses::new(&name, moments, self.lenses, began).of_kind(self.kind),
            training_kl: self.training_kl,
            gradient_norm: self.gradient_norm,
            seconds: began.elapsed().as_secs_f64(),
        }
    }
}

impl TunedLens {
    /// Writes the lens to `path`, with the course of its search. The file appears whole or not at all.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        record::save(path.as_ref(), "tuned-lens", VERSION, self)
    }

    /// Reads a lens that [`save`](TunedLens::save) wrote.
    ///
    /// Fails on a file that is damaged, or of another kind or version. That a lens is of another model is said where it
    /// is used.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        record::load(path.as_ref(), "tuned-lens", VERSION)
    }
}

impl Lens for TunedLens {
    fn name(&self) -> String {
        self.lenses.name()
    }

    fn transport(&self, layer: usize, h: ArrayView2<f32>) -> Result<Array2<f32>> {
        self.lenses.transport(layer, h)
    }

    fn logits(&self, model: &Transformer, z: ArrayView2<f32>) -> Result<Array2<f32>> {
        self.lenses.logits(model, z)
    }

    fn normalised(&self, model: &Transformer, z: ArrayView2<f32>) -> Result<Option<Array2<f32>>> {
        self.lenses.normalised(model, z)
    }

    fn token_gradient(
        &self,
        model: &Transformer,
        layer: usize,
        h: ArrayView2<f32>,
        tokens: &[u32],
    ) -> Result<Array2<f32>> {
        self.lenses.token_gradient(model, layer, h, tokens)
    }

    fn check_model(&self, model: &Transformer) -> Result<()> {
        self.lenses.check_model(model)
    }

    fn fit_seconds(&self) -> f64 {
        self.seconds
    }
}

impl std::fmt::Debug for TunedLens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TunedLens: {} residual streams, fitted in {:.1} s", self.lenses.len(), self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_gain_little_rest_until_none_gains_much() {
        let worth = |gains: &[Option<f64>]| worth_a_pass(gains, false);
        assert_eq!(worth(&[Some(f64::INFINITY), Some(f64::INFINITY), None]), [true, true, false]);
        assert_eq!(worth(&[Some(1e-3), Some(3e-4), Some(1e-4)]), [true, true, false]);
        assert_eq!(worth(&[None, Some(1e-4), Some(1e-5)]), [false, true, false]);
        assert_eq!(worth(&[Some(9e-7), Some(1e-9), None]), [true, true, false]);
    }

    #[test]
    fn a_first_layer_that_costs_little_takes_every_pass_and_holds_up_no_other() {
        assert_eq!(worth_a_pass(&[Some(1e-2), Some(3e-4), Some(1e-5)], true), [true, true, false]);
        assert_eq!(worth_a_pass(&[Some(1e-9), Some(3e-4), Some(1e-5)], true), [true, true, false]);
        assert_eq!(worth_a_pass(&[None, Some(3e-4), Some(1e-5)], true), [false, true, false]);
    }
}
