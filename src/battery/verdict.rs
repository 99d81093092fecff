//! The decision rule, fixed before any network is looked at.

use serde::{Deserialize, Serialize};

use super::summary::Summary;

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// One lens reads the layers, and layer by layer its reading comes nearer to the truth: iterative inference in one
    /// basis.
    Supported,
    /// One lens reads the layers because the stream carries what was there before.
    CarryOnly,
    /// Layers do not share a lens although their own lenses improve.
    Hierarchy,
    /// None of these in two thirds of the layers.
    Mixed,
    /// Something is missing without which none of these can be said.
    CannotTell,
}

impl Answer {
    /// Names the answer in a word or two, as reports have it.
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
            Answer::CannotTell => "cannot tell",
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
    /// Own lenses of two thirds of the other streams read half or more of it.
    pub one_basis: bool,
    /// Whether the next block brings the shared lens's reading nearer to the truth by half its fair share of what is
    /// missing, or more; `None` where less than [`DONE`] is missing.
    pub falls: Option<bool>,
    /// The lower bound of the alignment, above that of shuffled updates, is over 0.
    pub aligned: bool,
    /// The left-out fraction, the alignment or the share of the truth that blocks bring is [`BEYOND`] or more above
    /// that of every control that has learned, if any has.
    pub beats_controls: bool,
}

impl LayerEvidence {
    fn supports(&self) -> bool {
        let refines = match self.falls {
            Some(falls) => falls && self.aligned,
            None => true,
        };
        self.reads && self.beats_rotation && self.one_basis && refines && self.beats_controls
    }
}

/// A left-out fraction from which on a lens is said to read a layer.
pub const READS: f64 = 0.9;
/// A left-out fraction up to which it is said not to.
pub const READS_NOT: f64 = 0.5;
/// By how much a control has to be beaten.
pub const BEYOND: f64 = 0.3;
/// Share of what a network has learned that its blocks have to bring after the first counted stream; with less, the
/// stream carries what was there.
pub const GAINED: f64 = 0.25;
/// With less than this share of it missing, nothing is left for a block to bring.
pub const DONE: f64 = 0.02;
/// So many blocks at least have to bring something: what one or two do is no iteration.
pub const BLOCKS: usize = 3;
/// So much of what the network has learned has a control to have learned, to be one.
pub const LEARNED: f64 = 0.5;

/// Decides about `network`, with the rotated copies of the same networks, and control networks that have as many
/// layers, such as trained ones without skips.
///
/// * **cannot tell**, if the networks have learned nothing of the truth, or nothing is known of it; if fewer than half
///   of the layers, or fewer than three, count; if the predictions do not determine the stream (`V - 1 < d`), so that
///   several predictions can stand side by side in it and one wide lens reads them all; or if all else speaks for
///   *supported* and no control has learned half of what the networks have;
/// * **supported**: in two thirds of the layers that count, the left-out fraction's lower bound is at least 0.9 and
///   above the rotated copy's upper bound; own lenses of two thirds of the other layers read half of it; the next block
///   brings half its fair share of what is missing of the truth, or more, and its update is better aligned than
///   shuffled ones, unless less than 2 % is missing; and every control that has learned is at least 0.3 below in the
///   left-out fraction, the alignment above shuffled updates, or the share of the truth that blocks bring. Three blocks
///   at least bring something, and a quarter of all that was learned comes after the first counted stream;
/// * **carry only**: in two thirds the left-out fraction is at least 0.9, and less than a quarter of what was learned
///   comes after the first counted stream;
/// * **hierarchy**: in two thirds the left-out fraction's upper bound is at most 0.5, and own lenses improve with
///   depth;
/// * **mixed**: anything else.
///
/// Left-out lenses are those without the last stream in their pool, at the temperature that suits each stream. Shuffled
/// updates are the null of the alignment alone. Of the left-out fraction they cannot be: the own least-squares lens of
/// a random walk is the identity at every layer, so one lens reads all of it. That a lens does *not* read is said
/// without knowing what the stream hides, so that a hierarchy does not need `V - 1 ≥ d`.
pub fn decide(network: &Summary, rotated: &Summary, controls: &[&Summary]) -> Verdict {
    let learned = |s: &Summary| s.truth.map_or(f64::NAN, |t| t.learned.estimate);
    let have_learned: Vec<&Summary> = controls
        .iter()
        .copied()
        .filter(|c| c.truth.is_some_and(|t| t.learned.above(0.0)) && learned(c) >= LEARNED * learned(network))
        .collect();
    let evidence = |l: usize| {
        let at = &network.layers[l];
        let left_out = at.scale_free;
        let beaten = |control: &&Summary| {
            let gained = |s: &Summary| s.truth.map_or(f64::NAN, |t| t.gained.estimate);
            match control.layers.get(l) {
                Some(c) if c.dropped.is_none() => {
                    left_out.estimate - c.scale_free.estimate >= BEYOND
                        || at.excess.estimate - c.excess.estimate >= BEYOND
                        || gained(network) - gained(control) >= BEYOND
                }
                // Where a control's own lens reads nothing, there is nothing to share.
                _ => true,
            }
        };
        let null = rotated.layers.get(l).map(|r| r.scale_free.upper);
        LayerEvidence {
            layer: l,
            reads: left_out.lower >= READS,
            reads_not: left_out.upper <= READS_NOT,
            beats_rotation: null.is_some_and(|null| left_out.lower > null),
            one_basis: at.read_by >= 2.0 / 3.0,
            falls: at.truth.and_then(|t| (t.left.estimate >= DONE).then(|| t.beyond_fair.above(0.0))),
            aligned: at.excess.above(0.0),
            beats_controls: have_learned.iter().all(beaten),
        }
    };
    let layers: Vec<LayerEvidence> = network.kept().into_iter().map(evidence).collect();
    let n = layers.len();
    let count = |f: &dyn Fn(&LayerEvidence) -> bool| layers.iter().filter(|l| f(l)).count();
    let most = |n_true: usize| n > 0 && 3 * n_true >= 2 * n;
    let reading = count(&|l| l.reads);
    let bring = count(&|l| l.falls == Some(true));
    let hierarchy = most(count(&|l| l.reads_not)) && network.improvement.above(0.0);
    let gained = network.truth.map(|t| t.gained);
    let supported = most(count(&LayerEvidence::supports))
        && bring >= BLOCKS
        && gained.is_some_and(|share| share.estimate >= GAINED);
    let fraction = |l: usize| network.layers[l].scale_free.estimate;
    let from_end = layers.iter().rev().take_while(|l| fraction(l.layer) >= READS).count();
    let crossing = (from_end > 0).then(|| layers[n - from_end].layer);
    let of = |k: usize| format!("{k} of {n} layers");
    let mean = 100.0 * network.left_out().unwrap_or(f64::NAN);
    let blocks = if bring == 1 { "1 block brings".into() } else { format!("{bring} blocks bring") };
    let share = gained.map_or(String::new(), |share| format!("{:.0} %", 100.0 * share.estimate));
    let alone = match controls.is_empty() {
        true => " No other trained network stands beside it.",
        false => "",
    };
    let beaten = match (controls.is_empty(), have_learned.is_empty()) {
        (true, _) => "no control stands beside it".into(),
        (false, true) => "no control has learned half as much, to be beaten".into(),
        (false, false) => format!("{} beat every control", of(count(&|l| l.beats_controls))),
    };
    let no_control = || {
        let names: Vec<&str> = controls.iter().map(|c| c.name.as_str()).collect();
        (supported && !names.is_empty() && have_learned.is_empty()).then(|| {
            let names = names.join(", ");
            format!("all else speaks for one lens, but no control has learned half of what the networks have ({names})")
        })
    };
    let missing = knows_too_little(network)
        // What a lens does not read, it does not read, whatever else the stream may hide.
        .or_else(|| if hierarchy { None } else { is_void(network) })
        .or_else(no_control);
    let (answer, sentence) = if let Some(why) = missing {
        (Answer::CannotTell, format!("Cannot tell: {why}."))
    } else if supported {
        let sentence = format!(
            "Supported: one lens that never saw the layer reads {mean:.0} % of what own lenses read, and {blocks} its reading nearer to the truth; {share} of \
             what was learned comes after the first of the layers that count.{alone}"
        );
        (Answer::Supported, sentence)
    } else if most(reading) && gained.is_some_and(|share| share.upper < GAINED) {
        let sentence = format!(
            "Carry only: one lens reads {} ({mean:.0} % on average), but only {share} of what was learned comes after the first of them.",
            of(reading)
        );
        (Answer::CarryOnly, sentence)
    } else if hierarchy {
        let sentence = format!(
            "Hierarchy: own lenses improve with depth, and a lens of other layers reads at most half of what they read in {} ({mean:.0} % on average).",
            of(count(&|l| l.reads_not))
        );
        (Answer::Hierarchy, sentence)
    } else {
        let sentence = format!(
            "Mixed: a lens of other layers reads {} ({mean:.0} % on average), lenses of single layers read most others in {}, {blocks} the reading nearer to \
             the truth, and {beaten}; {}.",
            of(reading),
            of(count(&|l| l.one_basis)),
            match crossing {
                Some(l) => format!("from stream {l} on it reads 90 % or more"),
                None => "it never stays at 90 % or more".into(),
            }
        );
        (Answer::Mixed, sentence)
    };
    Verdict { answer, sentence, layers, crossing }
}

/// Why nothing can be told of networks whatever their lenses read, if so.
fn knows_too_little(network: &Summary) -> Option<String> {
    let Some(truth) = network.truth else {
        return Some("nothing is known of what really comes next".into());
    };
    if !truth.learned.above(0.0) {
        return Some(format!(
            "the networks are no nearer to the truth than a constant prediction ({:+.3} nats)",
            truth.learned.estimate
        ));
    }
    let (n, kept) = (network.layers.len(), network.kept().len());
    let enough = BLOCKS.max(n.div_ceil(2));
    (kept < enough).then(|| {
        format!(
            "{kept} of {n} layers count, and {enough} have to: the own lenses of the others read nothing for certain"
        )
    })
}

/// Why it shows nothing that a lens reads, if so: the predictions do not determine the stream.
fn is_void(network: &Summary) -> Option<String> {
    let [d, v] = network.widths;
    (v <= d).then(|| {
        format!(
            "the test is void with {v} classes and streams of {d} numbers: {} of these can hide other predictions that one wide lens reads as well; more \
             classes, or a smaller `d_model`, leave no room for them",
            d + 1 - v
        )
    })
}
