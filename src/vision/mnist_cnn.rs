//! A trained convolutional classifier without skip connections, as burn's MNIST example stores it.

use std::path::Path;

use ndarray::iter::AxisChunksIter;
use ndarray::{Array1, Array2, ArrayView2, Axis, Ix2};

use crate::data::Images;
use crate::model::Tensors;
use crate::nn::{Grid, linear, patches, relu};
use crate::num::log_softmax_rows;
use crate::{Error, ErrorKind, Result};

/// Three 3x3 convolutions without a rim (8, 16 and 24 channels, ReLU after each), a batch norm, two fully connected
/// layers, a batch norm. Its layers have unequal widths; it is read, not trained.
#[derive(Clone, Debug, PartialEq)]
pub struct MnistCnn {
    /// `[9 · channels in, channels out]`, and biases.
    convolutions: Vec<(Array2<f32>, Array1<f32>)>,
    /// After the convolutions: factor and shift per channel.
    norm1: (Array1<f32>, Array1<f32>),
    fc1: (Array2<f32>, Array1<f32>),
    fc2: (Array2<f32>, Array1<f32>),
    /// Of the logits.
    norm2: (Array1<f32>, Array1<f32>),
}

const SIDE: usize = 28;
/// Inside the root of a batch norm.
const EPS: f32 = 1e-5;

impl MnistCnn {
    /// Reads the network from a safetensors file with PyTorch's names and layouts.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (mut t, _) = Tensors::open(path, &[path.to_path_buf()])?;
        let mut convolutions = Vec::new();
        for (i, (channels_in, channels)) in [(1, 8), (8, 16), (16, 24)].into_iter().enumerate() {
            let stored = t.take(&format!("conv{}.weight", i + 1), &[channels, channels_in, 3, 3])?;
            // From [out, in, 3, 3].
            let w = Array2::from_shape_fn((9 * channels_in, channels), |(row, out)| {
                stored[(out * channels_in + row % channels_in) * 9 + row / channels_in]
            });
            convolutions.push((w, t.take(&format!("conv{}.bias", i + 1), &[channels])?.into()));
        }
        let side = SIDE - 6;
        let stored = t.take("fc1.weight", &[32, 24 * side * side])?;
        // From [out, channel · pixel] to [pixel · channel, out].
        let fc1 = Array2::from_shape_fn((24 * side * side, 32), |(row, out)| {
            stored[out * 24 * side * side + row % 24 * side * side + row / 24]
        });
        let stored = t.take("fc2.weight", &[10, 32])?;
        let fc2 = Array2::from_shape_fn((32, 10), |(row, out)| stored[out * 32 + row]);
        let network = MnistCnn {
            convolutions,
            norm1: batch_norm(&mut t, "norm1", 24)?,
            fc1: (fc1, t.take("fc1.bias", &[32])?.into()),
            fc2: (fc2, t.take("fc2.bias", &[10])?.into()),
            norm2: batch_norm(&mut t, "norm2", 10)?,
        };
        t.finish(|name| name.ends_with("num_batches_tracked"))?;
        Ok(network)
    }

    /// Computes the log-probabilities of the digits, `[image, 10]`.
    pub fn forward(&self, images: &Images) -> Result<Array2<f32>> {
        let parts: Vec<Array2<f32>> =
            self.parts(images)?.map(|pixels| self.run(pixels, &mut |_| {})).collect();
        Ok(stacked(&parts, 10))
    }

    /// Computes the log-probabilities of the digits and what each layer leaves, `[image, ..]`: the three convolutions
    /// (8, 16 and 24 channels of 26x26, 24x24 and 22x22 pixels, the channel last) and the hidden layer of 32. No two
    /// streams have one width, and none is added to: the control without skip connections.
    pub fn run_with_cache(&self, images: &Images) -> Result<(Array2<f32>, Vec<Array2<f32>>)> {
        let mut kept: Vec<Vec<Array2<f32>>> = vec![Vec::new(); self.convolutions.len() + 1];
        let mut log_p = Vec::new();
        for pixels in self.parts(images)? {
            let mut layers = kept.iter_mut();
            log_p.push(
                self.run(pixels, &mut |h| layers.next().expect("a place for each layer").push(h.clone())),
            );
        }
        let streams =
            kept.iter().map(|parts| stacked(parts, parts.first().map_or(0, Array2::ncols))).collect();
        Ok((stacked(&log_p, 10), streams))
    }

    /// A few images at a time, which bounds the memory of their patches.
    fn parts<'a>(&self, images: &'a Images) -> Result<AxisChunksIter<'a, f32, Ix2>> {
        if (images.height, images.width) != (SIDE, SIDE) {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("images of {}x{} pixels do not fit a network for 28x28", images.height, images.width),
                "give images of MNIST",
            ));
        }
        Ok(images.pixels.axis_chunks_iter(Axis(0), 64))
    }

    /// Log-probabilities of some images; `keep` sees what each layer leaves, an image per row.
    fn run(&self, pixels: ArrayView2<f32>, keep: &mut dyn FnMut(&Array2<f32>)) -> Array2<f32> {
        let x = pixels.mapv(|x| (x - 0.1307) / 0.3081);
        let n = x.nrows();
        let images = |x: Array2<f32>| {
            let width = x.len() / n;
            x.into_shape_with_order((n, width)).expect("an image per row")
        };
        let mut x = x.into_shape_with_order((n * SIDE * SIDE, 1)).expect("a pixel per row");
        let mut side = SIDE;
        for (w, b) in &self.convolutions {
            let grid = Grid { height: side, width: side, padded: false };
            let h = relu(linear(patches(x.view(), grid).view(), w.view(), b.view()).view());
            side -= 2;
            let h = images(h);
            keep(&h);
            x = h.into_shape_with_order((n * side * side, w.ncols())).expect("a pixel per row");
        }
        let x = images(x * &self.norm1.0 + &self.norm1.1);
        let x = relu(linear(x.view(), self.fc1.0.view(), self.fc1.1.view()).view());
        keep(&x);
        let x = linear(x.view(), self.fc2.0.view(), self.fc2.1.view());
        let x = x * &self.norm2.0 + &self.norm2.1;
        log_softmax_rows(x.view())
    }

    /// Measures the share of images whose most probable digit is their label.
    pub fn accuracy(&self, images: &Images) -> Result<f64> {
        Ok(super::classifier::accuracy(&self.forward(images)?, &images.labels))
    }
}

/// Rows of all parts under one another.
fn stacked(parts: &[Array2<f32>], width: usize) -> Array2<f32> {
    let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
    // Of no images there are no parts.
    ndarray::concatenate(Axis(0), &views).unwrap_or_else(|_| Array2::zeros((0, width)))
}

/// A batch norm as it is used: `x · factor + shift`, from running mean and variance.
fn batch_norm(t: &mut Tensors, name: &str, n: usize) -> Result<(Array1<f32>, Array1<f32>)> {
    let mut take =
        |part: &str| -> Result<Array1<f32>> { Ok(t.take(&format!("{name}.{part}"), &[n])?.into()) };
    let (gain, bias, mean, variance) =
        (take("weight")?, take("bias")?, take("running_mean")?, take("running_var")?);
    if let Some(v) = variance.iter().find(|v| **v < 0.0) {
        return Err(Error::new(
            ErrorKind::File,
            format!("`{name}.running_var` holds {v}"),
            "a variance is not negative: the file is damaged",
        ));
    }
    let factor = gain / variance.mapv(|v| (v + EPS).sqrt());
    let shift = bias - mean * &factor;
    Ok((factor, shift))
}
