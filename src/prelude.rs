//! What a notebook imports: `use onelens::prelude::*;`. The names that most notebooks need; others by their module, and
//! those of attention as gradient descent with `use onelens::dual::prelude::*;`.

pub use crate::battery::Battery;
pub use crate::circuits::{
    AttentionPatterns, HeadScores, LogitAttribution, LogitDifference, RepeatedTokens, patch_heads,
    patch_positions,
};
pub use crate::data::{Copies, Corpus, HiddenMarkov, Markov, Source};
pub use crate::language::LanguageModel;
pub use crate::lens::{
    LayerMoments, Lens, LogitLens, Refine, Ridge, Target, Towards, Trajectory, Transfer, compare,
};
pub use crate::model::{Config, Hook, Intervention, Mlp, Positions, Rotary, Training, Transformer};
pub use crate::num::{Rng, rng};
pub use crate::session::quietly;
pub use crate::show::{
    Figure, Heatmap, LineChart, Series, Table, bar, display, histogram, image, plot, scatter,
};
pub use crate::{Error, Result};
pub use ndarray::prelude::*;
