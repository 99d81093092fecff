//! A classifier whose layers all write into a stream of one width.

use ndarray::{Array1, Array2, ArrayView2, Axis};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::data::Images;
use crate::nn::{
    Grid, cross_entropy, linear, linear_backward, patches, patches_backward, relu, relu_backward,
};
use crate::num::{Adam, Real, log_softmax_rows, normal, rng, uniform_index};
use crate::record::Fnv;
use crate::session::{self, Progress};
use crate::{Error, ErrorKind, Result};

/// What a layer computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageNetwork {
    /// Fully connected layers; the stream has `d_model` numbers per image.
    #[default]
    Mlp,
    /// 3x3 convolutions with a rim of zeros; the stream has `d_model` channels per pixel.
    Cnn,
}

/// The shape of an image classifier: `h_0 = x W_in + b`, `h_{l+1} = h_l + relu(h_l W_l + b_l)`, logits `h_L W_out + b`;
/// without `residual`, `h_{l+1} = relu(h_l W_l + b_l)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
    /// Number of different labels.
    pub n_classes: usize,
    /// What a layer computes.
    pub network: ImageNetwork,
    /// Whether a layer adds to the stream, or replaces it.
    pub residual: bool,
    /// Width of the stream, or its channels.
    pub d_model: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// Seed of the initial weights.
    pub seed: u64,
}

impl Default for ImageConfig {
    /// A residual MLP of four layers for digits of 8x8 pixels.
    fn default() -> Self {
        ImageConfig {
            height: 8,
            width: 8,
            n_classes: 10,
            network: ImageNetwork::Mlp,
            residual: true,
            d_model: 32,
            n_layers: 4,
            seed: 0,
        }
    }
}

impl ImageConfig {
    pub(super) fn check(&self) -> Result<()> {
        let counts = [
            ("height", self.height, 1),
            ("width", self.width, 1),
            ("n_classes", self.n_classes, 2),
            ("d_model", self.d_model, 1),
            ("n_layers", self.n_layers, 1),
        ];
        for (name, value, least) in counts {
            if value < least || value > 4096 {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!("{name} is {value}"),
                    format!("set {name} to a number from {least} to 4096"),
                ));
            }
        }
        Ok(())
    }

    fn grid(&self) -> Grid {
        Grid { height: self.height, width: self.width, padded: true }
    }

    /// Returns how many numbers are in the stream of one image.
    pub fn d_stream(&self) -> usize {
        match self.network {
            ImageNetwork::Mlp => self.d_model,
            ImageNetwork::Cnn => self.height * self.width * self.d_model,
        }
    }

    /// Rows and columns of every matrix: into the stream, of each layer, out of it.
    fn shapes(&self) -> Vec<(usize, usize)> {
        let (first, fan_in) = match self.network {
            ImageNetwork::Mlp => (self.height * self.width, self.d_model),
            ImageNetwork::Cnn => (9, 9 * self.d_model),
        };
        let mut shapes = vec![(first, self.d_model)];
        shapes.extend(std::iter::repeat_n((fan_in, self.d_model), self.n_layers));
        shapes.push((self.d_stream(), self.n_classes));
        shapes
    }
}

/// A matrix and a bias.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Affine<F> {
    w: Array2<F>,
    b: Array1<F>,
}

/// An image classifier with its weights.
///
/// ```
/// use onelens::{data::Images, ndarray::array, vision::{ImageClassifier, ImageConfig}};
/// let config = ImageConfig { height: 1, width: 2, n_classes: 3, ..Default::default() };
/// let model = ImageClassifier::new(config)?;
/// let (log_p, streams) = model.run_with_cache(&array![[0.0, 1.0]])?;
/// assert_eq!((log_p.dim(), streams.len(), streams[4].dim()), ((1, 3), 5, (1, 32)));
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageClassifier {
    /// The shape.
    pub config: ImageConfig,
    /// Into the stream, each layer, out of it.
    params: Vec<Affine<f32>>,
}

/// How to train an image classifier: Adam (Kingma & Ba 2015) at a rate that falls linearly to zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageTraining {
    /// Optimisation steps.
    pub steps: usize,
    /// Images per step.
    pub batch_size: usize,
    /// Learning rate at the start.
    pub lr: f64,
    /// Seed of the batches.
    pub seed: u64,
}

impl Default for ImageTraining {
    fn default() -> Self {
        ImageTraining { steps: 500, batch_size: 64, lr: 3e-3, seed: 0 }
    }
}

impl ImageClassifier {
    /// Makes a network with the initial weights of `config.seed` (He et al. 2015), biases zero.
    pub fn new(config: ImageConfig) -> Result<Self> {
        config.check()?;
        let rng = &mut rng(config.seed, 0);
        let params = config
            .shapes()
            .into_iter()
            .map(|(rows, columns)| {
                let std = (2.0 / rows as f64).sqrt();
                let w = Array2::from_shape_simple_fn((rows, columns), || (normal(rng) * std) as f32);
                Affine { w, b: Array1::zeros(columns) }
            })
            .collect();
        Ok(ImageClassifier { config, params })
    }

    /// Returns a number that two classifiers share only if shape and weights are the same, bit for bit (FNV-1a).
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Fnv::new("classifier 2");
        hash.settings(
            &ImageConfig { seed: 0, ..self.config.clone() },
            &ImageConfig { seed: 0, ..Default::default() },
        );
        for p in &self.params {
            [p.w.nrows(), p.w.ncols()].into_iter().for_each(|n| hash.word(n as u64));
            p.w.iter().chain(&p.b).for_each(|x| hash.word(u64::from(x.to_bits())));
        }
        hash.finish()
    }

    /// The first matrix that has not the shape that `config` gives it, or holds a number that is not finite.
    pub(super) fn what_does_not_fit(&self) -> Option<String> {
        let shapes = self.config.shapes();
        if self.params.len() != shapes.len() {
            return Some(format!("{} matrices where {} belong", self.params.len(), shapes.len()));
        }
        self.params.iter().zip(shapes).enumerate().find_map(|(i, (p, shape))| {
            if p.w.dim() != shape || p.b.len() != shape.1 {
                return Some(format!("matrix {i} is {:?} where {shape:?} belongs", p.w.dim()));
            }
            let wrong = p.w.iter().chain(&p.b).find(|x| !x.is_finite());
            wrong.map(|x| format!("matrix {i} holds {x}"))
        })
    }

    /// Counts the parameters.
    pub fn n_params(&self) -> usize {
        self.params.iter().map(|p| p.w.len() + p.b.len()).sum()
    }

    /// Computes the log-probabilities `[image, class]` of `pixels: [image, height · width]` and the stream before the
    /// first layer and after each, `[image, d_stream]`.
    pub fn run_with_cache(&self, pixels: &Array2<f32>) -> Result<(Array2<f32>, Vec<Array2<f32>>)> {
        self.check_pixels(pixels)?;
        let d = self.config.d_stream();
        // What a layer reads takes nine times what it leaves in a convolutional network, and is not kept.
        let parts: Vec<_> = pixels.axis_chunks_iter(Axis(0), IMAGES_AT_A_TIME).collect();
        let parts: Vec<_> = parts
            .into_par_iter()
            .map(|pixels| {
                let tape = forward(&self.config, &self.params, pixels);
                (tape.logits, tape.streams)
            })
            .collect();
        let mut logits = Array2::zeros((0, self.config.n_classes));
        let mut streams = vec![Array2::zeros((0, d)); self.config.n_layers + 1];
        for (part, of_part) in parts {
            logits.append(Axis(0), part.view()).expect("a score for each class");
            for (all, h) in streams.iter_mut().zip(of_part) {
                let h = h.into_shape_with_order((part.nrows(), d)).expect("an image per row");
                all.append(Axis(0), h.view()).expect("an image per row");
            }
        }
        Ok((log_softmax_rows(logits.view()), streams))
    }

    /// Reads any stream as if it were the last: log-probabilities `[image, class]` of `h: [image, d_stream]`, the logit
    /// lens.
    ///
    /// Fails on rows of another width.
    pub fn decode(&self, h: ArrayView2<f32>) -> Result<Array2<f32>> {
        let out = &self.params[self.params.len() - 1];
        if h.ncols() != out.w.nrows() {
            return Err(Error::new(
                ErrorKind::Shape,
                format!(
                    "the last layer reads rows of {} numbers; these are rows of {}",
                    out.w.nrows(),
                    h.ncols()
                ),
                "pass a stream of this network, as `run_with_cache` gives them",
            ));
        }
        Ok(log_softmax_rows(linear(h, out.w.view(), out.b.view()).view()))
    }

    /// Measures the mean cross-entropy in nats and the share of images whose most probable class is their label.
    pub fn evaluate(&self, images: &Images) -> Result<(f64, f64)> {
        self.check_images(images)?;
        let (mut loss, mut right) = (0.0, 0.0);
        let read: Vec<_> = in_parts(images)
            .into_par_iter()
            .map(|(pixels, labels)| {
                let logits = forward(&self.config, &self.params, pixels).logits;
                let right = accuracy(&logits, labels) * labels.len() as f64;
                (cross_entropy(logits.view(), labels).0, right)
            })
            .collect();
        for (part_loss, part_right) in read {
            loss += part_loss;
            right += part_right;
        }
        let n = images.len() as f64;
        Ok((loss / n, right / n))
    }

    /// Trains on `images`, showing progress; returns the loss of each step's batch. An interrupt stops between two
    /// steps. A loss that is not finite is an error that names the step; the model keeps the last weights that gave a
    /// finite one.
    pub fn train(&mut self, images: &Images, how: &ImageTraining) -> Result<Vec<f64>> {
        self.check_images(images)?;
        if how.batch_size == 0 || !(how.lr > 0.0 && how.lr.is_finite()) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("batch_size is {} and lr {}", how.batch_size, how.lr),
                "set both to a positive number",
            ));
        }
        let mut rng = rng(how.seed, 1);
        let mut last_good = self.params.clone();
        let mut adam = Adam::new(numbers(&self.params).count(), (0.9, 0.999), 1e-8);
        let mut losses = Vec::new();
        let mut progress = Progress::new("training", how.steps);
        for step in 0..how.steps {
            if session::interrupted() {
                break;
            }
            let which: Vec<usize> =
                (0..how.batch_size).map(|_| uniform_index(&mut rng, images.len())).collect();
            let batch = images.select(&which);
            let (loss, grad) = loss_and_grad_of(&self.config, &self.params, &batch);
            if !(loss.is_finite() && numbers(&grad).all(|g| g.is_finite())) {
                self.params = last_good;
                return Err(Error::new(
                    ErrorKind::Numeric,
                    format!("training broke down at step {step}: loss {loss}"),
                    format!(
                        "the model is back at its last good weights; use a smaller `lr` (it was {})",
                        how.lr
                    ),
                ));
            }
            last_good.clone_from(&self.params);
            let lr = how.lr * (1.0 - step as f64 / how.steps as f64);
            adam.step(numbers_mut(&mut self.params), numbers(&grad), lr, 1.0);
            losses.push(loss);
            progress.update(step + 1, || format!("loss {loss:.3}"));
        }
        let steps = session::count(losses.len(), "step");
        progress.finish(&format!("{steps}, loss {:.3}", losses.last().unwrap_or(&f64::NAN)));
        Ok(losses)
    }

    pub(crate) fn check_pixels(&self, pixels: &Array2<f32>) -> Result<()> {
        let (height, width) = (self.config.height, self.config.width);
        if pixels.is_empty() || pixels.ncols() != height * width {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("{:?} pixels are no images of {height}x{width}", pixels.shape()),
                format!("give at least one row of {} pixels", height * width),
            ));
        }
        Ok(())
    }

    pub(crate) fn check_images(&self, images: &Images) -> Result<()> {
        self.check_pixels(&images.pixels)?;
        match images.labels.iter().find(|&&l| l as usize >= self.config.n_classes) {
            None if images.labels.len() == images.pixels.nrows() => Ok(()),
            None => Err(Error::new(
                ErrorKind::Shape,
                format!("{} labels do not fit {} images", images.labels.len(), images.pixels.nrows()),
                "give a label for each image",
            )),
            Some(label) => Err(Error::new(
                ErrorKind::Data,
                format!("the label {label} is none of {} classes", self.config.n_classes),
                format!("build the classifier with `n_classes: {}` or more", label + 1),
            )),
        }
    }
}

impl std::fmt::Debug for ImageClassifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let c = &self.config;
        let kind = if c.residual { "residual" } else { "plain" };
        write!(
            f,
            "ImageClassifier: {kind} {:?}, {} layers, d_model {}, {}x{} pixels, {} classes, {} parameters",
            c.network,
            c.n_layers,
            c.d_model,
            c.height,
            c.width,
            c.n_classes,
            self.n_params()
        )
    }
}

/// The share of rows whose largest number is at their label.
pub(super) fn accuracy(scores: &Array2<f32>, labels: &[u32]) -> f64 {
    let best = |row: ndarray::ArrayView1<f32>| {
        row.iter().enumerate().fold((0, f32::NEG_INFINITY), |b, (i, &x)| if x > b.1 { (i, x) } else { b }).0
    };
    let right =
        scores.axis_iter(Axis(0)).zip(labels).filter(|(row, label)| best(*row) == **label as usize).count();
    right as f64 / labels.len().max(1) as f64
}

/// What the network did: what each layer read (pixels or patches), what it computed before the ReLU, and the streams.
/// Rows are images, or pixels of images.
struct Tape<F> {
    read: Vec<Array2<F>>,
    pre: Vec<Array2<F>>,
    streams: Vec<Array2<F>>,
    last: Array2<F>,
    logits: Array2<F>,
}

fn forward<F: Real>(c: &ImageConfig, params: &[Affine<F>], pixels: ArrayView2<F>) -> Tape<F> {
    let n = pixels.nrows();
    let read_by = |h: &Array2<F>| match c.network {
        ImageNetwork::Mlp => h.clone(),
        ImageNetwork::Cnn => patches(h.view(), c.grid()),
    };
    let columns = if c.network == ImageNetwork::Cnn { 1 } else { c.height * c.width };
    let pixels: Vec<F> = pixels.iter().copied().collect();
    let pixels = Array2::from_shape_vec((pixels.len() / columns, columns), pixels).expect("whole images");
    let mut read = vec![read_by(&pixels)];
    let mut streams = vec![linear(read[0].view(), params[0].w.view(), params[0].b.view())];
    let mut pre = Vec::new();
    for (l, p) in params[1..=c.n_layers].iter().enumerate() {
        read.push(read_by(&streams[l]));
        pre.push(linear(read[l + 1].view(), p.w.view(), p.b.view()));
        let mut h = relu(pre[l].view());
        if c.residual {
            h += &streams[l];
        }
        streams.push(h);
    }
    let last =
        streams[c.n_layers].clone().into_shape_with_order((n, c.d_stream())).expect("an image per row");
    let out = &params[c.n_layers + 1];
    let logits = linear(last.view(), out.w.view(), out.b.view());
    Tape { read, pre, streams, last, logits }
}

/// Images that a thread takes at a time; a number of its own, so that sums do not depend on the number of threads.
const IMAGES_AT_A_TIME: usize = 16;

/// Pixels and labels.
fn in_parts(images: &Images) -> Vec<(ArrayView2<'_, f32>, &[u32])> {
    let pixels = images.pixels.axis_chunks_iter(Axis(0), IMAGES_AT_A_TIME);
    pixels.zip(images.labels.chunks(IMAGES_AT_A_TIME)).collect()
}

/// [`loss_and_grad`] of any number of images.
fn loss_and_grad_of(c: &ImageConfig, params: &[Affine<f32>], images: &Images) -> (f64, Vec<Affine<f32>>) {
    let parts: Vec<_> = in_parts(images)
        .into_par_iter()
        .map(|(pixels, labels)| (labels.len(), loss_and_grad(c, params, pixels, labels)))
        .collect();
    let mut loss = 0.0;
    let mut grad = zeros_like(params);
    for (n, (part_loss, part_grad)) in &parts {
        let share = *n as f64 / images.len() as f64;
        loss += share * part_loss;
        numbers_mut(&mut grad).zip(numbers(part_grad)).for_each(|(sum, g)| *sum += share as f32 * g);
    }
    (loss, grad)
}

/// Mean cross-entropy, and its gradient with respect to every parameter.
fn loss_and_grad<F: Real>(
    c: &ImageConfig,
    params: &[Affine<F>],
    pixels: ArrayView2<F>,
    labels: &[u32],
) -> (f64, Vec<Affine<F>>) {
    let tape = forward(c, params, pixels);
    let (loss, mut dlogits) = cross_entropy(tape.logits.view(), labels);
    let n = labels.len() as f64;
    dlogits.mapv_inplace(|d| d / F::of(n));
    let mut grad = zeros_like(params);
    let back = |at: usize, dy: &Array2<F>, x: &Array2<F>, grad: &mut Vec<Affine<F>>| {
        let g = &mut grad[at];
        linear_backward(dy.view(), x.view(), params[at].w.view(), g.w.view_mut(), g.b.view_mut())
    };
    let dlast = back(c.n_layers + 1, &dlogits, &tape.last, &mut grad);
    let mut dh = dlast.into_shape_with_order(tape.streams[c.n_layers].dim()).expect("the stream's shape");
    for l in (0..c.n_layers).rev() {
        let dpre = relu_backward(dh.view(), tape.pre[l].view());
        let dread = back(l + 1, &dpre, &tape.read[l + 1], &mut grad);
        let dx = match c.network {
            ImageNetwork::Mlp => dread,
            ImageNetwork::Cnn => patches_backward(dread.view(), c.grid()),
        };
        dh = if c.residual { dh + dx } else { dx };
    }
    back(0, &dh, &tape.read[0], &mut grad);
    (loss / n, grad)
}

fn zeros_like<F: Real>(params: &[Affine<F>]) -> Vec<Affine<F>> {
    params.iter().map(|p| Affine { w: Array2::zeros(p.w.dim()), b: Array1::zeros(p.b.dim()) }).collect()
}

fn numbers(params: &[Affine<f32>]) -> impl Iterator<Item = &f32> {
    params.iter().flat_map(|p| p.w.iter().chain(&p.b))
}

fn numbers_mut(params: &mut [Affine<f32>]) -> impl Iterator<Item = &mut f32> {
    params.iter_mut().flat_map(|p| p.w.iter_mut().chain(&mut p.b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gradient_is_that_of_central_differences() {
        for (network, residual) in [
            (ImageNetwork::Mlp, true),
            (ImageNetwork::Mlp, false),
            (ImageNetwork::Cnn, true),
            (ImageNetwork::Cnn, false),
        ] {
            let c = ImageConfig {
                height: 3,
                width: 4,
                n_classes: 3,
                network,
                residual,
                d_model: 2,
                n_layers: 2,
                seed: 1,
            };
            let rng = &mut rng(5, 0);
            let mut params: Vec<Affine<f64>> = c
                .shapes()
                .into_iter()
                .map(|shape| Affine {
                    w: Array2::from_shape_simple_fn(shape, || 0.5 * normal(rng)),
                    b: Array1::from_shape_simple_fn(shape.1, || 0.5 * normal(rng)),
                })
                .collect();
            let pixels = Array2::from_shape_simple_fn((4, 12), || normal(rng));
            let labels = [0, 1, 2, 1];
            let (_, grad) = loss_and_grad(&c, &params, pixels.view(), &labels);
            let h = 1e-6;
            for at in 0..params.len() {
                for i in 0..params[at].w.len() + params[at].b.len() {
                    let mut loss_at = |change: f64| {
                        let n = params[at].w.len();
                        let p = &mut params[at];
                        let x =
                            if i < n { p.w.iter_mut().nth(i) } else { p.b.iter_mut().nth(i - n) }.unwrap();
                        *x += change;
                        loss_and_grad(&c, &params, pixels.view(), &labels).0
                    };
                    let (up, down) = (loss_at(h), loss_at(-2.0 * h));
                    loss_at(h);
                    let want = (up - down) / (2.0 * h);
                    let got = *grad[at].w.iter().chain(&grad[at].b).nth(i).unwrap();
                    assert!((got - want).abs() < 1e-7, "{network:?} {residual} {at} {i}: {got}, {want}");
                }
            }
        }
    }
}
