//! Which parts of a network do what: attribution, patching, and what heads attend to.
//!
//! Axes: what has a number per part is `[layer, head]` or `[layer, pos]`. Numbers here are `f64`, in the unit of the
//! question: a logit difference, or a share of attention.
//!
//! | question | answer |
//! |---|---|
//! | Which heads and MLPs write the answer into the stream? | [`LogitAttribution`] |
//! | Where does the network keep what the answer needs? | [`patch_positions`], [`patch_heads`] |
//! | Which heads look where an induction head looks? | [`HeadScores`] |
//! | What does each head look at in this text? | [`AttentionPatterns`] |

mod attribution;
mod heads;
mod logit_difference;
mod patching;
mod patterns;

pub use attribution::LogitAttribution;
pub use heads::{HeadScores, RepeatedTokens};
pub use logit_difference::LogitDifference;
pub use patching::{PatchMap, patch_heads, patch_positions};
pub use patterns::AttentionPatterns;
