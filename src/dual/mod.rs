//! Attention as gradient descent: small theory objects in `f64`, each with the identity it rests on as a test.
//!
//! | type | identity | source |
//! |---|---|---|
//! | [`DualForm`] | a trained linear layer is attention over its training history | Irie et al. 2022 |
//! | [`OneStep`] | the exact loss of one gradient step in context | von Oswald et al. 2022, Ahn et al. 2023 |
//! | [`ManySteps`] | the expected loss of several steps, plain, GD++ or Newton's, and the best sizes | von Oswald et al. 2022, Fu et al. 2023 |
//! | [`LinearAttention`] | a layer of linear self-attention is a gradient step | von Oswald et al. 2022 |
//! | [`PredictiveCoding`] | a layer that predicts and corrects is a gradient step on the prediction of the next embedding | |
//! | [`Hopfield`] | softmax attention is a descent on an energy; so is cross-attention between latents and data | Ramsauer et al. 2020 |
//! | [`Slots`] | slot attention is a step of expectation maximisation | Locatello et al. 2020 |
//!
//! And what they say about transformers that were trained to do something else:
//!
//! | type | question | source |
//! |---|---|---|
//! | [`ContextSplit`] | how much of a head comes from the context? | Dai et al. 2022 |
//! | [`HeadRelaxation`], [`RandomFeatures`] | is a softmax head linear attention, with a few features or many? | Dai et al. 2022, Choromanski et al. 2021 |
//! | [`UpdateSimilarity`], [`OrderSensitivity`] | is in-context learning fine-tuning? | Dai et al. 2022, Deutch et al. 2024 |
//! | [`HeadDeltas`] | does a head write what came, or the error of what was predicted? | |
//!
//! Samples are rows: `x: [n, d_in]`, `y: [n, d_out]`; weights map columns, `W: [d_out, d_in]`, as in the papers.

mod alignment;
mod delta;
mod dual_form;
mod fine_tuning;
mod fit;
mod heads;
mod hopfield;
mod lanes;
mod linear_attention;
mod many_steps;
mod nelder_mead;
mod one_step;
mod predictive;
pub mod prelude;
mod regression;
mod slots;
mod tasks;
mod updates;

pub use alignment::Alignment;
pub use delta::{Delta, HeadDeltas, delta_coefficient};
pub use dual_form::{Contributions, DualForm, Sgd};
pub use fine_tuning::{Demonstrated, FineTuning, OrderSensitivity, UpdateSimilarity};
pub use fit::{LinearAttentionFit, LinearAttentionTraining};
pub use heads::{ContextSplit, FeatureCurve, HeadRelaxation, RandomFeatures};
pub use hopfield::{Hopfield, Retrieval};
pub use linear_attention::{Construction, LinearAttention, LinearAttentionLayer, Mask};
pub use many_steps::{ManySteps, NewtonSteps, StepSizes};
pub use one_step::{Inputs, OneStep};
pub use predictive::{
    Kernel, PredictiveCache, PredictiveCoding, PredictiveConfig, PredictiveHook, PredictiveLayer,
    PredictiveParams,
};
pub use regression::{Descent, RegressionTask, descend};
pub use slots::{SlotRun, Slots};
pub use tasks::{RegressionTasks, TaskLosses};
pub use updates::SlotUpdates;
