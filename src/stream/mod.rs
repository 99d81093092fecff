//! Past memory, past one core, past one machine: statistics of texts of any size, and training, on any number of
//! processes.
//!
//! [`TextFiles`](crate::data::TextFiles) are read document by document and cut into *shards*, runs of whole documents.
//! Each shard gives [`LayerMoments`](crate::lens::LayerMoments) or [`Readings`], and those are merged along a binary
//! tree whose shape depends on the number of shards alone. So the result has the same bytes on one process or on many,
//! and after an interruption: finished shards are files, and are not computed again.
//!
//! | type | what it is |
//! |---|---|
//! | [`Streaming`] | how texts are cut, where finished shards are kept |
//! | [`Peers`] | the processes that share the work: [`Alone`], [`Threads`]; those of MPI are in `onelens`, the program |
//! | [`Streaming::refine`] | lenses refined in constant memory, and resumed |
//! | [`Readings`] | what lenses read, as means over all tokens |
//! | [`train_among`] | training with the gradient of each batch shared out, the same weights on any number of processes |
//! | [`ActivationFiles`] | residual streams as files, written once and read often |

mod activations;
mod moments;
mod peers;
mod readings;
mod reduction;
mod refinement;
mod shards;
mod training;
mod tree;

pub use activations::ActivationFiles;
pub use moments::Streaming;
pub use peers::{Alone, Peers, Threads};
pub use readings::{LensReadings, Readings};
pub use training::train_among;
