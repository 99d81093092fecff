//! The decision rule, fixed before any network is looked at.

use serde::{Deserialize, Serialize};

use super::measure::LensKind;
use super::summary::Summary;

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// One lens reads the layers, and what the layers write moves its reading towards the truth: iterative inference in
    /// one basis.
    Supported,
    /// One lens reads the layers because the stream carries what was there before.
    CarryOnly,
    /// Layers do not share a lens although their own lenses improve.
    Hierarchy,
    /// None of these in two thirds of the layers.
    Mixed,
}

impl Answer {
    /// In a word or two, as reports have it.
    ///
    /// ```
    /// assert_eq!(onelens::battery::Answer::CarryOnly.name(), "carry only");
    /// ```
    pub fn name(self) -> &'static str {
        match self {
            Answer::Supported => "supported",
            Answer::CarryOnly => "carry only",
            Answer::Hierarchy => "hierarchy",
            Answer::Mixed => "mixed",
        }
    }
}

/// The answer with what led to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The answer.
    pub answer: Answer,
    /// In a sentence, with numbers.
    pub sentence: String,
    /// Each layer that counts.
    pub layers: Vec<LayerEvidence>,
    /// The first counted layer from which on every left-out fraction is [`READS`] or more.
    pub crossing: Option<usize>,
}

/// What one layer says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerEvidence {
    /// The stream `h_l`.
    pub layer: usize,
    /// The lower bound of the left-out fraction is [`READS`] or more.
    pub reads: bool,
    /// The upper bound is [`READS_NOT`] or less.
    pub reads_not: bool,
    /// The lower bound is above the upper bound of the rotated copy.
    pub beats_rotation: bool,
    /// The lower bound of the alignment, above that of shuffled updates, is over 0.
    pub aligned: bool,
    /// The left-out fraction or the alignment is [`BEYOND`] or more above that of every control.
    pub beats_controls: bool,
}

/// A left-out fraction from which on a lens is said to read a layer.
pub const READS: f64 = 0.9;
/// A left-out fraction up to which it is said not to.
pub const READS_NOT: f64 = 0.5;
/// By how much a control has to be beaten.
pub const BEYOND: f64 = 0.3;

/// Decides about `network`, with the rotated copies of the same networks, and control networks (without skips,
/// untrained) that have as many layers.
///
/// * **supported**: in two thirds of the layers that count, the left-out fraction's lower bound is at least 0.9 and
///   above the rotated copy's upper bound, the alignment's lower bound is above that of shuffled updates, and every
///   control is at least 0.3 below in one of both;
/// * **carry only**: in two thirds the left-out fraction is at least 0.9, and in two thirds alignment does not beat
///   shuffled updates;
/// * **hierarchy**: in two thirds the left-out fraction's upper bound is at most 0.5, and own lenses improve with depth;
/// * **mixed**: anything else, with the layer where the left-out fraction crosses 0.9.
///
/// Shuffled updates are the null of the alignment alone. Of the left-out fraction they cannot be: the own least-squares
/// lens of a random walk is the identity at every layer, so one lens reads all of it. For the same reason an untrained
/// network may share a lens fully, and has to be beaten in one of both numbers, not in both.
pub fn decide(network: &Summary, rotated: &Summary, controls: &[&Summary]) -> Verdict {
    let layers: Vec<LayerEvidence> = network
        .kept()
        .into_iter()
        .map(|l| {
            let at = &network.layers[l];
            let left_out = at.fraction_of(LensKind::LeftOut);
            let beaten = |control: &&Summary| match control.layers.get(l) {
                Some(c) if c.dropped.is_none() => {
                    let by_fraction = left_out.estimate - c.fraction_of(LensKind::LeftOut).estimate;
                    let by_alignment = at.excess.estimate - c.excess.estimate;
                    by_fraction >= BEYOND || by_alignment >= BEYOND
                }
                // Where a control's own lens reads nothing, there is nothing to share.
                _ => true,
            };
            LayerEvidence {
                layer: l,
                reads: left_out.lower >= READS,
                reads_not: left_out.upper <= READS_NOT,
                beats_rotation: left_out.lower
                    > rotated
                        .layers
                        .get(l)
                        .map_or(f64::NEG_INFINITY, |r| r.fraction_of(LensKind::LeftOut).upper),
                aligned: at.excess.above(0.0),
                beats_controls: controls.iter().all(beaten),
            }
        })
        .collect();
    let n = layers.len();
    let count = |f: &dyn Fn(&LayerEvidence) -> bool| layers.iter().filter(|l| f(l)).count();
    let most = |n_true: usize| n > 0 && 3 * n_true >= 2 * n;
    let supporting = count(&|l| l.reads && l.beats_rotation && l.aligned && l.beats_controls);
    let reading = count(&|l| l.reads);
    let not_aligned = count(&|l| !l.aligned);
    let not_reading = count(&|l| l.reads_not);
    let improves = network.improvement.above(0.0);
    let answer = if most(supporting) {
        Answer::Supported
    } else if most(reading) && most(not_aligned) {
        Answer::CarryOnly
    } else if most(not_reading) && improves {
        Answer::Hierarchy
    } else {
        Answer::Mixed
    };
    let fraction = |l: usize| network.layers[l].fraction_of(LensKind::LeftOut).estimate;
    let from_end = layers.iter().rev().take_while(|l| fraction(l.layer) >= READS).count();
    let crossing = (from_end > 0).then(|| layers[n - from_end].layer);
    let of = |k: usize| format!("{k} of {n} layers");
    let mean = network.left_out().unwrap_or(f64::NAN);
    let because = match answer {
        Answer::Supported => format!(
            "Supported: one lens that never saw the layer reads {:.0} % of what the layer's own lens reads, and updates move its reading towards the truth, in {}.",
            100.0 * mean,
            of(supporting)
        ),
        Answer::CarryOnly => format!(
            "Carry only: one lens reads {} ({:.0} % on average), but updates are no better aligned than shuffled ones in {}.",
            of(reading),
            100.0 * mean,
            of(not_aligned)
        ),
        Answer::Hierarchy => format!(
            "Hierarchy: own lenses improve with depth, and a lens of other layers reads at most half of what they read in {} ({:.0} % on average).",
            of(not_reading),
            100.0 * mean
        ),
        Answer::Mixed if n == 0 => {
            "Mixed: no layer counts, because no own lens reads clearly more than the mean prediction.".into()
        }
        Answer::Mixed => format!(
            "Mixed: a lens of other layers reads {} ({:.0} % on average), and updates beat shuffled ones in {}; {}.",
            of(reading),
            100.0 * mean,
            of(n - not_aligned),
            match crossing {
                Some(l) => format!("from stream {l} on it reads 90 % or more"),
                None => "it never stays at 90 % or more".into(),
            }
        ),
    };
    Verdict { answer, sentence: because, layers, crossing }
}
