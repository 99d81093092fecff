//! Image classifiers that remember every layer: plain and residual, of fully connected and of convolutional layers.
//!
//! A stream has the same width after every layer, so that one lens can be asked to read them all. Streams are
//! `[image, d_stream]`; for a convolutional network that is `height · width · channels`, channels innermost.

mod classifier;
mod file;
mod mnist_cnn;

pub use classifier::{ImageClassifier, ImageConfig, ImageNetwork, ImageTraining};
pub use mnist_cnn::MnistCnn;
