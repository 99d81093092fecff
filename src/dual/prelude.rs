//! What a notebook about theory imports besides [`crate::prelude`]: `use onelens::dual::prelude::*;`.

pub use super::{
    Alignment, Construction, ContextSplit, Delta, Demonstrated, DualForm, FineTuning, HeadDeltas,
    HeadRelaxation, Hopfield, Inputs, Kernel, LinearAttention, LinearAttentionTraining, ManySteps, OneStep,
    OrderSensitivity, PredictiveCoding, PredictiveConfig, PredictiveHook, RandomFeatures, RegressionTask,
    RegressionTasks, Sgd, Slots, UpdateSimilarity, delta_coefficient, descend,
};
pub use crate::num::{normal, uniform};
