//! Does one lens read every layer? The experiment: networks, their nulls, the statistics, and a decision rule that is
//! fixed in code.
//!
//! Axes are `[row, feature]` for streams, rows being tokens, one sequence after the other; `[sequence, stream]` for
//! what is measured; `f64` throughout, since the exact rotated copy is compared to eight digits.
//!
//! | question | statistic | its null |
//! |---|---|---|
//! | is the reading shared? | left-out fraction `(floor - KL_left out) / (floor - KL_own)` ([`LensKind`]) | the rotated copy ([`Streams::rotated`]), a network without skips |
//! | do updates sharpen it? | Aitchison cosine of the decoded update `U A Δ_l` with the error left against `p*` ([`Measured::alignment`]) | updates shuffled over tokens ([`Streams::shuffled`]) |
//! | do updates follow the gradient? | cosine with `-∂L/∂h_l`, one preconditioner against own ([`LiteralGradient`]) | an untrained network |
//! | what if a block is missing? | loss after a [`Lesion`] | the network as it is |
//! | how many blocks does a path pass? | the gradient by length of its paths ([`path_lengths`]) | an untrained network, the number of paths |
//!
//! [`decide`] turns the first two into an [`Answer`]; [`Battery`] trains the networks and writes the [`Report`],
//! [`ImageBattery`] those that classify images, and [`Report::of_transformer`] is about a checkpoint.
//!
//! What the test cannot see: a network whose layers each use another basis and otherwise do the same is called a
//! hierarchy. That is why the rotated copy stands in every report. And with `V - 1 < d` the KL does not look at all of
//! the stream: predictions of later layers might be hidden in what it does not see.

mod copies;
mod gradient;
mod images;
mod interval;
mod kept;
mod lesions;
mod measure;
mod paths;
mod report;
mod run;
mod streams;
mod summary;
mod verdict;

pub use gradient::LiteralGradient;
pub use images::ImageBattery;
pub use interval::{Equivalence, Interval, Resamples, equivalence};
pub use lesions::{Lesion, affine_replacement};
pub use measure::{LensKind, Measured, measure};
pub use paths::{path_gradients, path_lengths};
pub use report::{Cell, Copies, Group, Lesions, Report};
pub use run::{Battery, Network};
pub use streams::{Readout, Streams};
pub use summary::{LayerSummary, Pair, Summary};
pub use verdict::{Answer, BEYOND, LayerEvidence, READS, READS_NOT, Verdict, decide};
