//! Weights as files: our own, and those of other people's models.
//!
//! | what | read with | names and layout |
//! |---|---|---|
//! | our own `.safetensors` | [`Transformer::load`](super::Transformer::load) | TransformerLens's, `[in, out]` |
//! | a Hugging Face folder, 26 families | [`Transformer::from_hugging_face`](super::Transformer::from_hugging_face) | theirs |
//! | PyTorch's `pytorch_model.bin` in such a folder | [`Transformer::from_hugging_face`](super::Transformer::from_hugging_face) | theirs |
//! | GGUF, quantised or not | [`Transformer::from_gguf`](super::Transformer::from_gguf) | llama.cpp's |
//! | llama2.c's `.bin` | [`Transformer::from_llama2c`](super::Transformer::from_llama2c) | by position, `[out, in]` |
//!
//! A reader checks every size against the file before it allocates, so that memory is bounded by the file; then the
//! name, shape and type of every tensor and that its numbers are finite. An error names the first tensor that is wrong.
//! A tensor that the architecture has no place for is an error too: nothing is dropped, folded or centred silently.

mod candle;
mod count;
mod families;
mod gguf;
mod hub;
mod hugging_face;
mod llama2c;
mod own;
mod tensors;
mod torch_file;

pub use candle::{from_candle, to_candle};
pub use hub::{download, downloaded};
pub use own::Provenance;
pub(crate) use own::{read_document, write_document};
pub(crate) use tensors::Tensors;
pub(crate) use torch_file::{TorchFile, save_state_dict};

use std::path::Path;

use ndarray::{Array1, Array2};

use super::params::Place;
use super::{Config, Matrix, Params};
use crate::{Error, Result};

/// A tensor as a reader gives it.
enum Loaded {
    /// Our numbers, row by row.
    Numbers(Vec<f32>),
    /// A matrix as its file stores it.
    Stored(Matrix),
}

/// The weights of this shape, each tensor asked for by name and shape. `n_stored` is how many numbers there are to
/// read.
fn build(
    config: &Config,
    n_stored: usize,
    shown: &str,
    mut tensor: impl FnMut(&str, &[usize]) -> Result<Loaded>,
) -> Result<Params> {
    config.check()?;
    let n = count::n_params(config);
    if n > n_stored as u128 {
        return Err(tensors::refuse(
            shown,
            format!("describes a model of {n} numbers and holds {n_stored}"),
            "is the file complete, and does the configuration belong to it?",
        ));
    }
    let mut params = Params::zeros(config);
    let wanted: Vec<(String, Vec<usize>)> =
        params.tensors().into_iter().map(|(name, t)| (name, t.shape().to_vec())).collect();
    for ((name, shape), place) in wanted.iter().zip(params.places()) {
        match (tensor(name, shape)?, place) {
            (Loaded::Numbers(numbers), Place::Vector(vector)) => *vector = Array1::from_vec(numbers),
            (Loaded::Numbers(numbers), Place::Matrix(matrix)) => {
                *matrix = Array2::from_shape_vec(matrix.dim(), numbers).expect("as many as asked for").into();
            }
            (Loaded::Stored(stored), Place::Matrix(matrix)) => {
                assert_eq!(stored.dim(), matrix.dim(), "`{name}` is placed with its shape");
                *matrix = stored;
            }
            (Loaded::Stored(stored), Place::Vector(vector)) => *vector = stored.flat().into_owned().into(),
        }
    }
    Ok(params)
}

/// The bytes of a file, or a sentence.
fn read_file(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::unread(path, e))
}
