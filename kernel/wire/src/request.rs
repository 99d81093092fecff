//! What `onelens model ..`, `onelens lens ..` and `onelens battery` ask of the library: written by the program, read by
//! the image.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One command, with paths and numbers as the user gave them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Print one JSON value instead of text.
    pub json: bool,
    /// What to do.
    pub work: Work,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Work {
    /// What a model is.
    Info { model: PathBuf },
    /// Fetch a model of the Hugging Face hub.
    Download { name: String },
    /// Continue a text.
    Generate {
        model: PathBuf,
        tokenizer: Option<PathBuf>,
        prompt: String,
        n: usize,
        temperature: Option<f64>,
        seed: u64,
    },
    /// Train a model on a text, or go on where `output` was interrupted.
    Train {
        text: PathBuf,
        output: PathBuf,
        network: Network,
        steps: usize,
        batch_size: usize,
        lr: f64,
        resume: bool,
    },
    /// Write a model as a file of our own.
    Convert { model: PathBuf, output: PathBuf },
    /// Gather the moments that every lens is fitted from.
    Fit { model: PathBuf, texts: Tokens, output: PathBuf, shard_bytes: usize, keep: Option<PathBuf> },
    /// Refine the lenses fitted to moments.
    Refine {
        model: PathBuf,
        texts: Tokens,
        moments: PathBuf,
        output: PathBuf,
        keep: PathBuf,
        /// Which streams a lens is fitted to, by its name on the command line.
        kind: String,
        epochs: Option<usize>,
        lbfgs_steps: Option<usize>,
        lambda: Option<f64>,
    },
    /// Lenses fitted to moments, on other texts.
    Compare {
        model: PathBuf,
        moments: PathBuf,
        texts: Tokens,
        lenses: Vec<String>,
        lambda: Option<f64>,
        sequences: usize,
        html: Option<PathBuf>,
    },
    /// The battery that a file describes; paths in it are relative to `base`, the report goes to `out`.
    Battery { settings: serde_json::Value, base: PathBuf, out: PathBuf },
}

/// Texts as tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tokens {
    pub texts: Vec<PathBuf>,
    /// Where it is not with the model.
    pub tokenizer: Option<PathBuf>,
    /// Tokens of a sequence; 0 for the model's context.
    pub n_ctx: usize,
}

/// The sizes of a network to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    pub n_layers: usize,
    pub d_model: usize,
    pub n_heads: usize,
    pub n_ctx: usize,
    /// Of the weights, and of the batches.
    pub seed: u64,
}
