//! See how a transformer arrives at its prediction, layer by layer.
pub use ndarray;

pub mod data;
mod error;
pub mod lens;
pub mod model;
pub mod nn;
pub mod num;
mod record;
pub mod session;
pub use error::{Error, ErrorKind, Result};
