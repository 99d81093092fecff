//! What a notebook imports: `use onelens::prelude::*;`.

pub use crate::battery::{Answer, Battery, ImageBattery, LensKind, Network, Report, Streams, Verdict};
pub use crate::circuits::{
    AttentionPatterns, HeadScores, LogitAttribution, LogitDifference, PatchMap, RepeatedTokens, patch_heads,
    patch_positions,
};
pub use crate::data::{
    Copies, Corpus, Grammar, HiddenMarkov, Images, Lines, Markov, PieceTokenizer, Source, TextFiles, Texts,
    Tokenize, Tokenizer, Vocab,
};
pub use crate::dual::{
    Alignment, Construction, ContextSplit, Delta, Demonstrated, DualForm, FineTuning, HeadDeltas,
    HeadRelaxation, Hopfield, Inputs, Kernel, LinearAttention, LinearAttentionTraining, ManySteps, OneStep,
    OrderSensitivity, PredictiveCoding, PredictiveConfig, PredictiveHook, RandomFeatures, RegressionTask,
    RegressionTasks, Sgd, Slots, UpdateSimilarity, delta_coefficient, descend,
};
pub use crate::language::LanguageModel;
pub use crate::lens::{
    AffineLens, CausalBasis, Comparison, Conditioning, Detector, GroupedMoments, Jacobian, LayerLenses,
    LayerMoments, Lens, LogitLens, Moments, Probe, Refine, Ridge, RidgeChoice, RidgePath, Target, Towards,
    Trajectory, Transfer, TunedLens, compare, detect_anomalies,
};
pub use crate::model::{
    ActivationCache, Attention, AttentionScale, Bias, Blocks, Config, EarlyStop, Experts, Hook, Intervention,
    LayerKind, Mask, Mlp, Norm, NormAt, Pairs, Positions, Provenance, QkNorm, Residual, Rotary,
    RotaryScaling, Supervision, Training, TrainingLog, TrainingRun, Transformer,
};
pub use crate::num::{Rng, rng};
pub use crate::show::{Card, Figure, Heatmap, LineChart, Series, Simplex, Table};
pub use crate::stream::{ActivationFiles, Readings, Streaming};
pub use crate::vision::{ImageClassifier, ImageConfig, ImageNetwork, ImageTraining, MnistCnn};
pub use crate::{Error, ErrorKind, Result};
pub use ndarray::prelude::*;
