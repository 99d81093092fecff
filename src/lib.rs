//! See how a transformer arrives at its prediction, layer by layer.
pub use ndarray;

pub mod num;
pub mod data;
pub mod nn;
pub mod model;
mod error;
pub mod session;
pub use error::{Error, ErrorKind, Result};
