//! What a battery finds of a language model, and what it says about it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Answer, Interval};
#[cfg(doc)]
use crate::lens::{HiddenLayer, LensKind};
use crate::{Error, ErrorKind, Result, record};

/// What one lens reads of every stream of one network, over held-out tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LensReads {
    /// Name of the lens.
    pub name: String,
    /// By how much it beats the mean prediction, `KL(p ‖ p̄) - KL(p ‖ q_l)` in nats; one per stream that it was asked
    /// for.
    pub nats: Vec<Option<Interval>>,
    /// That as a share of what the stream's own lens of the same criterion reads; `None` where that is less than
    /// [`SOMETHING`] of the baseline or not clearly above 0.
    pub share: Vec<Option<Interval>>,
}

/// One network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkReads {
    /// What it is.
    pub name: String,
    /// `KL(p ‖ p̄)` of the mean prediction in nats: all that there is to read.
    pub baseline: Interval,
    /// One for each lens.
    pub lenses: Vec<LensReads>,
    /// What the update of each block does under the one lens for all streams, in closed form, in which networks are
    /// compared.
    pub updates: Vec<UpdateEffect>,
    /// The same under that of least KL; of the model alone.
    pub updates_kl: Vec<UpdateEffect>,
}

/// What the update of one block does to the reading of the one lens, in nats: by how much KL falls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpdateEffect {
    /// By the token's own update.
    pub own: Interval,
    /// By the update of another token of the same sequence.
    pub shuffled: Interval,
    /// By how much more the own one.
    pub difference: Interval,
}

/// Tokens of one kind, and how their prediction comes about under the one lens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenClass {
    /// What they have in common.
    pub name: String,
    /// How many.
    pub n: usize,
    /// Mean KL by stream, nats.
    pub kl: Vec<f64>,
    /// Share of them that jump: one block brings half or more of the fall from the highest KL to the lowest after it.
    pub jumps: f64,
    /// Mean prediction depth: the first stream from which on the most probable token is the final one.
    pub depth: f64,
}

/// Steering one stream of one network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SteeringEffect {
    /// Which network.
    pub network: String,
    /// Which stream.
    pub stream: usize,
    /// Mean change of the token's final log-probability in nats, with half the width of its 95 % interval: by the one
    /// lens, the logit lens, a rotated and a random direction.
    pub change: Vec<(String, f64, f64)>,
    /// By how much more the one lens changes it than a rotated and a random direction, nats.
    pub advantage: [(f64, f64); 2],
    /// `KL(p ‖ p')` in nats between predictions without and with the same additions, with half the width of its 95 %
    /// interval: how much of everything changed.
    pub disturbance: Vec<(String, f64, f64)>,
}

/// What a block is worth: by how much the loss grows, nats per token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockLoss {
    /// Without it.
    pub deleted: Interval,
    /// With it twice.
    pub repeated: Interval,
    /// With it in two halves, one after the other.
    pub halved: Interval,
}

/// What was found about a language model, as data: saved, loaded and drawn again without it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LanguageReport {
    /// The model.
    pub name: String,
    /// The model, its architecture with chance weights, and the model with shuffled updates.
    pub networks: Vec<NetworkReads>,
    /// All tokens, then by frequency, by position and by entropy.
    pub tokens: Vec<TokenClass>,
    /// Model and chance weights.
    pub steering: Vec<SteeringEffect>,
    /// One per block.
    pub blocks: Vec<BlockLoss>,
    /// Name and value of everything that was chosen.
    pub methods: Vec<(String, String)>,
}

/// A stream counts if its own lens reads this share of the baseline or more.
pub const SOMETHING: f64 = 0.05;
/// Share of what there is to read that a lens which never saw the stream has to read.
pub(super) const HALF: f64 = 0.5;
/// What the one lens is called where it steers.
pub(super) const ONE_LENS: &str = "one lens";
const KIND: &str = "language-report";
pub(super) const VERSION: u32 = 2;

impl LensReads {
    /// Own lens of each stream, in closed form.
    pub const OWN: &str = "own, least squares";
    /// One lens for all streams, in closed form.
    pub const SHARED: &str = "shared, least squares";
    /// Of all other streams but the last, in closed form.
    pub const LEFT_OUT: &str = "left out, least squares";
    /// Reads every stream as it is.
    pub const LOGIT: &str = "logit lens";
    /// Own lens of some streams, at least KL.
    pub const OWN_KL: &str = "own, least KL";
    /// One lens for all streams, at least KL.
    pub const SHARED_KL: &str = "shared, least KL";
    /// Of the streams of the other fold ([`LensKind::Folds`]), at least KL.
    pub const LEFT_OUT_KL: &str = "left out, least KL";
    /// One lens for every third stream ([`LensKind::Every`]), in closed form.
    pub const EVERY_THIRD: &str = "every third, least squares";
    /// The own lens at least KL of some streams with a hidden layer beside it ([`HiddenLayer`]): what affine lenses miss.
    pub const HIDDEN: &str = "own, hidden layer";

    /// The own lens that a share is taken of: that of the same criterion.
    pub(super) fn own_of(name: &str) -> &'static str {
        match name {
            Self::OWN_KL | Self::SHARED_KL | Self::LEFT_OUT_KL | Self::HIDDEN => Self::OWN_KL,
            _ => Self::OWN,
        }
    }
}

impl LanguageReport {
    /// Says what was found of the question, in sentences with their numbers: whether one lens reads, whether updates
    /// bring it nearer, whether the model uses what it reads; then how single tokens and blocks fare.
    pub fn sentences(&self) -> Vec<(String, String)> {
        let (model, chance, shuffled) = (&self.networks[0], &self.networks[1], &self.networks[2]);
        let shares = |n: &NetworkReads, lens: &str| match n.shares(lens) {
            shares if shares.is_empty() => "nowhere is there enough to read".to_string(),
            mut shares => {
                shares.sort_by(f64::total_cmp);
                let (low, middle, high) = (shares[0], shares[shares.len() / 2], shares[shares.len() - 1]);
                format!("{low:.2} to {high:.2} (median {middle:.2}) at {} streams", shares.len())
            }
        };
        let most = |n: &NetworkReads| n.most(LensReads::OWN);
        // Reports of before these were asked for do not have them.
        let others = [
            (LensReads::EVERY_THIRD, "one lens for every third stream"),
            (LensReads::HIDDEN, "the own lens with a hidden layer, which shows what affine ones miss,"),
        ];
        let others = others.iter().filter(|(lens, _)| model.lens(lens).is_some());
        let others: String = others
            .map(|(lens, what)| format!(" Of the same, {what} reads: {}.", shares(model, lens)))
            .collect();
        let read = format!(
            "A lens that has never seen the stream reads, of what the stream's own lens reads: {} in closed form, {} at least KL. \
             With updates shuffled over tokens: {}. With chance weights: {}, of at most {:.3} nats that there are to read there, \
             and {:.2} in the model.{others}",
            shares(model, LensReads::LEFT_OUT),
            shares(model, LensReads::LEFT_OUT_KL),
            shares(shuffled, LensReads::LEFT_OUT),
            shares(chance, LensReads::LEFT_OUT),
            most(chance),
            most(model)
        );
        let updates = |updates: &[UpdateEffect]| {
            let of = |holds: &dyn Fn(&UpdateEffect) -> bool| updates.iter().filter(|u| holds(u)).count();
            let sum = |pick: &dyn Fn(&UpdateEffect) -> f64| updates.iter().map(pick).sum::<f64>();
            format!(
                "in {} of {} blocks, in sum by {:.2} nats (another token's update: in {}, {:.2} nats)",
                of(&|u| u.refines()),
                updates.len(),
                sum(&|u| u.own.estimate),
                of(&|u| u.shuffled.above(0.0)),
                sum(&|u| u.shuffled.estimate)
            )
        };
        let updates = format!(
            "Under one lens, a block's update brings the reading nearer to the final prediction, and more than the same block's \
             update of another token, {} at least KL, and in closed form {}. In closed form with updates shuffled over tokens: {}. \
             With chance weights: {}.",
            updates(&model.updates_kl),
            updates(&model.updates),
            updates(&shuffled.updates),
            updates(&chance.updates)
        );
        let steered = |network: &str| {
            let of = self.steered_in(network);
            let works = of.iter().filter(|s| s.works()).count();
            let random: Vec<String> = of.iter().map(|s| format!("{:.2}", s.advantage[1].0)).collect();
            let per_nat = |kind: &str| {
                let sum = |of_kind: &dyn Fn(&SteeringEffect) -> Option<f64>| {
                    of.iter().filter_map(|s| of_kind(s)).sum::<f64>()
                };
                sum(&|s| s.changed_by(kind)) / sum(&|s| s.disturbed_by(kind))
            };
            format!(
                "at {works} of {} streams ({} nats more than a random one; for each nat by which the whole prediction moves {:.2}, \
                 random {:.2})",
                of.len(),
                random.join(" "),
                per_nat(ONE_LENS),
                per_nat("random")
            )
        };
        let steering = format!(
            "What that lens reads for a token, added to the stream at a quarter of its length, raises the token in the final \
             prediction more than a rotated and a random direction do {}; with chance weights {}.",
            steered(&model.name),
            steered(&chance.name),
        );
        let tokens = match self.tokens.split_first() {
            None => String::new(),
            Some((all, classes)) => {
                let mut by_jumps: Vec<&TokenClass> = classes.iter().collect();
                by_jumps.sort_by(|a, b| a.jumps.total_cmp(&b.jumps));
                let said = |c: &TokenClass| format!("{} ({:.0} %)", c.name, 100.0 * c.jumps);
                let (least, most) = (by_jumps.first(), by_jumps.last());
                format!(
                    "At {:.0} % of the tokens one block brings half of the fall or more; fewest: {}; most: {}. The most probable \
                     token is the final one from stream {:.1} on, in the mean.",
                    100.0 * all.jumps,
                    least.map_or_else(String::new, |c| said(c)),
                    most.map_or_else(String::new, |c| said(c)),
                    all.depth
                )
            }
        };
        let costs = |pick: &dyn Fn(&BlockLoss) -> f64| {
            let mut costs: Vec<f64> = self.blocks.iter().map(pick).collect();
            costs.sort_by(f64::total_cmp);
            match (costs.first(), costs.get(costs.len() / 2), costs.last()) {
                (Some(low), Some(middle), Some(high)) => {
                    format!("{low:.3} to {high:.3} (median {middle:.3})")
                }
                _ => "nothing".into(),
            }
        };
        let blocks = format!(
            "Without a block the loss grows by {} nats; with it twice by {}; with it in two halves by {}.",
            costs(&|b| b.deleted.estimate),
            costs(&|b| b.repeated.estimate),
            costs(&|b| b.halved.estimate)
        );
        let answer = self.answer();
        vec![
            ("answer".into(), format!("{}. {}", capital(answer.name()), self.why())),
            ("one lens reads".into(), read),
            ("updates refine".into(), updates),
            ("the model uses it".into(), steering),
            ("token by token".into(), tokens),
            ("block by block".into(), blocks),
        ]
    }

    /// Gives the answer: *supported* if all [`parts`](LanguageReport::parts) hold of the model and no null does as
    /// well, *hierarchy* if none of them does, *cannot tell* where fewer than half of the streams count, else *mixed*.
    ///
    /// What a part asks was fixed after stories260K had been looked at and before SmolLM2 was, but for the comparison
    /// with nulls in nats in its second and third, which was asked for after a first report about SmolLM2.
    pub fn answer(&self) -> Answer {
        let counted = self.networks[0].counted().len();
        let parts = self.parts();
        let tells = |part: &Part| part.holds && part.of_nulls.is_empty();
        if 2 * counted < self.networks[0].updates.len() {
            Answer::CannotTell
        } else if parts.iter().all(tells) {
            Answer::Supported
        } else if parts.iter().any(tells) {
            Answer::Mixed
        } else {
            Answer::Hierarchy
        }
    }

    /// Lists what the answer rests on, each by its 95 % intervals. *Holds* means in two thirds of the places.
    ///
    /// * *One lens reads*: at the streams that count and have a lens of their own at least KL, a lens that has never
    ///   seen the stream reads half of what that does, at least KL; and in closed form more nats than in a null.
    /// * *Updates refine what it reads*: the token's own update in a block brings the one lens's reading nearer to the
    ///   final prediction, and more than another token's, at least KL; and in closed form by more nats than in a null.
    /// * *The model uses it*: at the steered streams the one lens beats a rotated and a random direction; and the
    ///   random one by more nats than in a null.
    ///
    /// A null does as well if the model does not lead it in nats in two thirds of the places; then the part is no
    /// evidence, which is said.
    pub fn parts(&self) -> [Part; 3] {
        let (model, nulls) = self.networks.split_first().expect("a report is about a model");
        // Only where a lens of the stream's own was searched for by the same criterion.
        let has_own = |l: &usize| model.lens(LensReads::OWN_KL).is_some_and(|own| own.nats[*l].is_some());
        let streams: Vec<usize> = model.counted().into_iter().filter(has_own).collect();
        let nats = |network: &NetworkReads, lens: &str, l: usize| network.lens(lens)?.nats[l];
        let reads_half = |l: usize| -> Option<bool> {
            let own = nats(model, LensReads::OWN_KL, l)?;
            Some(nats(model, LensReads::LEFT_OUT_KL, l)?.lower >= HALF * own.estimate)
        };
        let reads_more = |null: &NetworkReads, l: usize| -> Option<bool> {
            let of = |network| nats(network, LensReads::LEFT_OUT, l);
            Some(of(model)?.lower > of(null)?.upper)
        };
        let blocks: Vec<usize> = (0..model.updates.len()).collect();
        let refines_more = |null: &NetworkReads, l: usize| {
            let of = |network: &NetworkReads| network.updates.get(l).map(|update| update.difference);
            Some(of(model)?.lower > of(null)?.upper)
        };
        let steered = self.steered_in(&model.name);
        let places: Vec<usize> = (0..steered.len()).collect();
        let steers_more = |null: &NetworkReads, i: usize| {
            // Shuffled updates are made of streams that are there: no pass goes on from them that could be steered.
            let of_null = self.steered_in(&null.name);
            let other = of_null.iter().find(|other| other.stream == steered[i].stream);
            let end = |(mean, half): (f64, f64), sign: f64| mean + sign * half;
            Some(other.is_none_or(|o| end(steered[i].advantage[1], -1.0) > end(o.advantage[1], 1.0)))
        };
        [
            part("One lens reads", &streams, nulls, &reads_half, &reads_more),
            part(
                "Updates refine what it reads",
                &blocks,
                nulls,
                &|l| model.updates_kl.get(l).map(UpdateEffect::refines),
                &refines_more,
            ),
            part("The model uses it", &places, nulls, &|i| Some(steered[i].works()), &steers_more),
        ]
    }

    fn steered_in(&self, network: &str) -> Vec<&SteeringEffect> {
        self.steering.iter().filter(|s| s.network == network).collect()
    }

    /// Returns the model (0), chance weights (1), shuffled updates (2).
    ///
    /// Fails on another number.
    pub fn network(&self, i: usize) -> Result<&NetworkReads> {
        self.networks.get(i).ok_or_else(|| {
            Error::new(
                ErrorKind::Config,
                format!("there is no network {i} in this report"),
                "0 is the model, 1 its architecture with chance weights, 2 the model with shuffled updates",
            )
        })
    }

    fn why(&self) -> String {
        let each = self.parts().map(|part| match (part.holds, part.of_nulls.is_empty()) {
            (true, true) => format!("{}: yes", part.name),
            (true, false) => format!(
                "{}: yes, but {} may do as much, so that it says nothing",
                part.name,
                part.of_nulls.join(" and ")
            ),
            (false, _) => format!("{}: not in two thirds", part.name),
        });
        each.join(". ") + "."
    }

    /// Saves the report; written under a temporary name first.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        record::save(path.as_ref(), KIND, VERSION, self)
    }

    /// Reads a saved report. A file that is cut off, damaged or something else is refused.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        record::load(path.as_ref(), KIND, VERSION)
    }
}

impl NetworkReads {
    /// Returns what the lens with this name read.
    pub fn lens(&self, name: &str) -> Option<&LensReads> {
        self.lenses.iter().find(|lens| lens.name == name)
    }

    /// Lists the streams that count: not the last one, and only where the own lens of least squares reads enough for a
    /// share.
    pub fn counted(&self) -> Vec<usize> {
        let own = self.lens(LensReads::OWN).map_or(&[][..], |lens| &lens.share);
        (0..own.len().saturating_sub(1)).filter(|&l| own[l].is_some()).collect()
    }

    /// Shares of a lens at the streams that count, where it was asked.
    fn shares(&self, lens: &str) -> Vec<f64> {
        let counted = self.counted();
        let shares = self.lens(lens).map_or(&[][..], |lens| &lens.share);
        counted.iter().filter_map(|&l| Some(shares.get(l)?.as_ref()?.estimate)).collect()
    }

    /// The most that a lens reads before the last stream, nats.
    fn most(&self, lens: &str) -> f64 {
        let nats = self.lens(lens).map_or(&[][..], |lens| &lens.nats);
        let before = nats.iter().take(nats.len().saturating_sub(1));
        before.flatten().map(|i| i.estimate).fold(0.0, f64::max)
    }
}

/// One of the things that the answer rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it says.
    pub name: &'static str,
    /// Whether it holds of the model.
    pub holds: bool,
    /// The nulls that may do as much, in nats.
    pub of_nulls: Vec<String>,
}

impl UpdateEffect {
    /// Tells whether the token's own update brings the reading nearer, and more than another token's, by their 95 %
    /// intervals.
    pub fn refines(&self) -> bool {
        self.own.above(0.0) && self.difference.above(0.0)
    }
}

impl SteeringEffect {
    /// Returns the mean change of the token's log-probability in nats by what was added under this name.
    pub fn changed_by(&self, kind: &str) -> Option<f64> {
        self.change.iter().find(|(name, ..)| name == kind).map(|(_, mean, _)| *mean)
    }

    /// Returns the mean `KL(p ‖ p')` in nats of the same.
    pub fn disturbed_by(&self, kind: &str) -> Option<f64> {
        self.disturbance.iter().find(|(name, ..)| name == kind).map(|(_, mean, _)| *mean)
    }

    /// Tells whether the one lens does more than both controls, by their 95 % intervals.
    pub fn works(&self) -> bool {
        self.advantage.iter().all(|(mean, half)| mean - half > 0.0)
    }
}

/// Whether something holds in two thirds of the places, and of which nulls it is not clear that they do less there.
fn part(
    name: &'static str,
    places: &[usize],
    nulls: &[NetworkReads],
    holds: &dyn Fn(usize) -> Option<bool>,
    beyond: &dyn Fn(&NetworkReads, usize) -> Option<bool>,
) -> Part {
    let most = |of: &dyn Fn(usize) -> Option<bool>| {
        let n = places.iter().filter(|place| of(**place) == Some(true)).count();
        !places.is_empty() && 3 * n >= 2 * places.len()
    };
    let as_well = |null: &&NetworkReads| !most(&|place| beyond(null, place));
    Part {
        name,
        holds: most(holds),
        of_nulls: nulls.iter().filter(as_well).map(|null| null.name.clone()).collect(),
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
