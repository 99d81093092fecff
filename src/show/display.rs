//! What a cell shows before it ends.

use std::fmt;

use ndarray::{ArrayBase, Data, Dimension};

use super::{Card, Figure, Heatmap, LineChart, Plot, Simplex, Table, TrajectoryTable};
use crate::battery::{Battery, LanguageBattery, LanguageReport, Report};
use crate::circuits::{AttentionPatterns, HeadScores, LogitAttribution, PatchMap};
use crate::data::Corpus;
use crate::dual::{
    Alignment, ContextSplit, Contributions, Delta, Descent, FeatureCurve, HeadDeltas, HeadRelaxation,
    LinearAttentionFit, OrderSensitivity, PredictiveCache, PredictiveCoding, PredictiveConfig, Retrieval,
    SlotRun, SlotUpdates, StepSizes, TaskLosses, UpdateSimilarity,
};
use crate::language::{Continuation, LanguageModel};
use crate::lens::{
    Comparison, HiddenLayer, LayerMoments, Refine, Ridge, RidgeChoice, SteeringResult, Trajectory, Transfer,
};
use crate::model::{ActivationCache, Config, Training, TrainingLog, Transformer};
use crate::num::Mantel;
use crate::session;
use crate::vision::{ImageConfig, ImageTraining};

/// What can show itself: everything here and elsewhere that has a figure, arrays and texts.
pub trait Show {
    /// Shows it in the notebook, now.
    fn show(&self);
}

/// Shows a value now, in the middle of a cell or in a loop, as often as you like; the last expression of a cell is
/// shown without it. (The stock kernel of evcxr keeps the last figure of a cell only.)
///
/// ```
/// use ndarray::array;
/// use onelens::show::{display, plot};
/// for power in 1..3 {
///     display(&plot([1.0, 2.0, 3.0].map(|x: f64| x.powi(power))));
/// }
/// display(&array![1.0, 2.0]);
/// display("and words");
/// ```
pub fn display(value: &(impl Show + ?Sized)) {
    value.show();
}

macro_rules! show {
    ($($shown:ty),* $(,)?) => {
        $(impl Show for $shown {
            fn show(&self) {
                self.evcxr_display();
            }
        })*
    };
}

show!(
    ActivationCache,
    Alignment,
    AttentionPatterns,
    Battery,
    Card,
    Comparison,
    Config,
    ContextSplit,
    Continuation,
    Contributions,
    Corpus,
    Delta,
    Descent,
    FeatureCurve,
    Figure,
    HeadDeltas,
    HeadRelaxation,
    HeadScores,
    Heatmap,
    HiddenLayer,
    ImageConfig,
    ImageTraining,
    LanguageBattery,
    LanguageModel,
    LanguageReport,
    LayerMoments,
    LineChart,
    LinearAttentionFit,
    LogitAttribution,
    Mantel,
    OrderSensitivity,
    PatchMap,
    Plot,
    PredictiveCache,
    PredictiveCoding,
    PredictiveConfig,
    Refine,
    Report,
    Retrieval,
    Ridge,
    RidgeChoice,
    Simplex,
    SlotRun,
    SlotUpdates,
    SteeringResult,
    StepSizes,
    Table,
    TaskLosses,
    Training,
    TrainingLog,
    Trajectory,
    TrajectoryTable,
    Transfer,
    Transformer,
    UpdateSimilarity,
);

fn show_text(text: &impl fmt::Display) {
    session::display(&vec![("text/plain".into(), text.to_string())]);
}

impl<S: Data<Elem: fmt::Display>, D: Dimension> Show for ArrayBase<S, D> {
    fn show(&self) {
        show_text(self);
    }
}

impl Show for str {
    fn show(&self) {
        show_text(&self);
    }
}

impl Show for String {
    fn show(&self) {
        show_text(self);
    }
}
