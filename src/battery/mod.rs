//! Does one lens read every layer? The experiment: networks, their nulls, the statistics, and a decision rule that is
//! fixed in code.
//!
//! Axes are `[row, feature]` for streams, rows being tokens, one sequence after the other; `[sequence, stream]` for
//! what is measured; `f64` throughout, since the exact rotated copy is compared to eight digits.
//!
//! Lenses are affine maps of streams at unit size to what the final norm makes of the last stream, at least KL
//! ([`KINDS`]); those of least squares and the logit lens stand beside them. A conclusion
//! may depend on the lens, and a report shows where.
//!
//! | question | statistic | its null |
//! |---|---|---|
//! | is the reading shared? | left-out fraction `(baseline - KL_left out) / (baseline - KL_own)` at the best temperature ([`KINDS`]) | the rotated copy ([`Streams::rotated`]), 200 rotations with a p value, a trained network without skips |
//! | in one basis? | what own lenses of single streams read of others ([`Measured::pair_kl`]) | as above |
//! | does it come nearer to the truth? | KL to the truth under the shared lens, block by block ([`TruthRead`]) | none to pass: it has to fall by a stated share |
//! | do updates sharpen it? | Aitchison cosine of what an update changes in the reading with the error left ([`Measured::alignment`]) | updates shuffled over tokens ([`Streams::shuffled`]) |
//! | do updates follow the gradient? | cosine and inner product with `-∂L/∂h_l` of the expected loss, one preconditioner against own ([`LiteralGradient`]) | an untrained network |
//! | what if a block is missing? | loss after a [`Lesion`] | the network as it is |
//! | how many blocks does a path pass? | the gradient by length of its paths ([`path_lengths`]) | an untrained network, the number of paths |
//!
//! [`decide`] turns the first four into an [`Answer`]; [`Battery`] trains the networks and writes the [`Report`],
//! [`ImageBattery`] those that classify images, and [`Report::of_transformer`] is about a checkpoint.
//!
//! What the test cannot see: a network whose layers each use another basis and otherwise do the same is called a
//! hierarchy. That is why the rotated copy stands in every report. And with `V - 1 < d` the KL does not look at all of
//! the stream: predictions of later layers might be hidden in what it does not see, and the answer is that nothing can
//! be told.

mod copies;
mod gradient;
mod images;
mod interval;
mod kept;
mod language;
mod language_report;
mod lesions;
mod measure;
mod paths;
mod report;
mod run;
mod streams;
mod summary;
mod temperature;
mod verdict;

pub use gradient::{LiteralGradient, LossGradient};
pub use images::ImageBattery;
pub use interval::{Equivalence, Interval, Resamples, equivalence};
pub use language::LanguageBattery;
pub use language_report::{
    BlockLoss, LanguageReport, LensReads, NetworkReads, Part, SOMETHING, SteeringEffect, TokenClass,
    UpdateEffect,
};
pub use lesions::{Lesion, affine_replacement};
pub use measure::{KINDS, Measured, Rotations, TruthRead, measure};
pub(crate) use measure::{LEFT_OUT, LEFT_OUT_WITHOUT_LAST, OWN, SHARED};
pub use paths::{path_gradients, path_lengths};
pub use report::{Cell, Copies, Group, Lesions, Report};
pub use run::{Battery, Network};
pub use streams::{Readout, Streams, Truth};
pub use summary::{LayerSummary, LayerTruth, Pair, Summary, TruthSummary};
pub use verdict::{
    Answer, BEYOND, BLOCKS, DONE, GAINED, LEARNED, LayerEvidence, READS, READS_NOT, Verdict, decide,
};
