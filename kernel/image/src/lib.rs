//! The shared library that notebook cells link against.
//!
//! One process, the *worker*, loads this library once and every cell after it. The library holds what outlives
//! a cell: the variables ([`store`]), the thread and thread pool that cells run on ([`stage`]), the channel to
//! the kernel ([`channel`]) and the loop that forks a sleeping copy before each cell ([`serve`]). Cells name
//! only [`rt`]. The crates a cell can name are re-exported, so that there is exactly one copy of each.
pub use {ndarray, onelens, plotters, rayon, serde, serde_json};

pub mod batch;
mod battery;
pub mod channel;
pub mod future;
#[cfg(feature = "mpi")]
mod mpi_job;
mod overflow;
pub mod rt;
pub mod serve;
pub mod shared;
pub mod stage;
pub mod store;
