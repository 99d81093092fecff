//! The battery on image classifiers: a network without skips and its residual twin.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::kept::{CELL, check_seeds, go_on, kept};
use super::report::{Cell, Report};
use super::run::{Battery, Network, lenses};
use super::streams::Streams;
use crate::data::Images;
use crate::session::{Progress, quietly};
use crate::vision::{ImageClassifier, ImageConfig, ImageTraining};
use crate::{Error, ErrorKind, Result};

/// Name of the networks with skips in a report about images.
const RESIDUAL: &str = "residual twin";
/// Names of the networks whose layers' bases were turned onto each other.
const RESIDUAL_ALIGNED: &str = "twin, bases aligned";
const PLAIN_ALIGNED: &str = "plain, bases aligned";

/// Image classifiers without skip connections, their residual twins and the same twins untrained: one of each for every
/// seed. The residual twin is in question; the others are its controls. Lenses predict centred log-probabilities.
///
/// Nothing ties the basis of a layer without skips to that of the next, so that one lens for both would fail by
/// construction. Both kinds are therefore there a second time, with bases [aligned](Streams::aligned).
///
/// Of the truth the labels are known; alignment is with the network's own final prediction, above that of shuffled
/// updates.
///
/// ```no_run
/// use onelens::{battery::ImageBattery, data::Images};
/// let (train, held_out) = Images::digits("digits.csv")?.split();
/// println!("{}", ImageBattery::default().run(&train, &held_out)?.verdict().sentence);
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageBattery {
    /// The networks; `residual` and `seed` are set for each, sizes and classes by the images.
    pub config: ImageConfig,
    /// How each is trained; its seed is each of `seeds`.
    pub training: ImageTraining,
    /// At least two.
    pub seeds: Vec<u64>,
    /// Streams of convolutional networks are averaged over so many parts of the image, on each side.
    pub cells: usize,
    /// Ridge penalty of every lens, relative to the mean variance of a feature.
    pub lambda: f64,
    /// Where finished networks are kept, so that an interrupted battery can continue; `None`: nowhere.
    pub folder: Option<PathBuf>,
}

impl Default for ImageBattery {
    /// Eight seeds of six fully connected layers of width 9, which ten classes determine: seconds on the small digits.
    fn default() -> Self {
        ImageBattery {
            config: ImageConfig { n_layers: 6, d_model: 9, ..Default::default() },
            training: ImageTraining::default(),
            seeds: (0..8).collect(),
            cells: 2,
            lambda: Battery::default().lambda,
            folder: None,
        }
    }
}

impl ImageBattery {
    /// Trains on `train`, asks of `held_out` images whether one lens reads every layer, with progress. An interrupt
    /// stops between two networks; with a `folder`, running it again continues from there.
    ///
    /// Fails on fewer than two seeds or layers, and where training or a lens does.
    pub fn run(&self, train: &Images, held_out: &Images) -> Result<Report> {
        check_seeds(&self.seeds)?;
        if self.config.n_layers < 2 {
            return Err(Error::new(
                ErrorKind::Config,
                format!("n_layers is {}", self.config.n_layers),
                "set n_layers to 2 or more: one lens for all layers is a question for two layers or more",
            ));
        }
        let kinds = [
            (RESIDUAL, true, true, false),
            (Network::Plain.name(), false, true, false),
            (RESIDUAL_ALIGNED, true, true, true),
            (PLAIN_ALIGNED, false, true, true),
            (Network::Untrained.name(), true, false, false),
        ];
        let total = kinds.len() * self.seeds.len();
        let mut progress = Progress::new("battery", total);
        let mut groups = Vec::new();
        let mut done = 0;
        // Trained once, for reading them as they are and aligned.
        let mut models: BTreeMap<(bool, bool, u64), ImageClassifier> = BTreeMap::new();
        // What is in the images, without writing them down.
        let held = |images: &Images| {
            let sum: f64 =
                images.pixels.iter().enumerate().map(|(i, x)| f64::from(*x) * (i % 97) as f64).sum();
            format!("{}x{}x{} {sum}", images.len(), images.height, images.width)
        };
        let images = format!("{} {}", held(train), held(held_out));
        for (name, residual, trained, aligned) in kinds {
            let mut cells = Vec::new();
            for &seed in &self.seeds {
                go_on(self.folder.as_deref(), done, total)?;
                let config = ImageConfig {
                    residual,
                    seed,
                    height: train.height,
                    width: train.width,
                    n_classes: train.n_classes,
                    ..self.config.clone()
                };
                let how = ImageTraining { seed, ..self.training.clone() };
                let depends_on =
                    format!("{config:?} {how:?} {trained} {aligned} {} {} {images}", self.cells, self.lambda);
                let label = format!("{}-{seed}", name.replace([' ', '(', ')'], "-"));
                cells.push(kept(self.folder.as_deref(), CELL, &depends_on, &label, || {
                    let model = match models.entry((residual, trained, seed)) {
                        Entry::Occupied(there) => there.into_mut(),
                        Entry::Vacant(free) => {
                            let mut model = ImageClassifier::new(config)?;
                            if trained {
                                quietly(|| model.train(train, &how))?;
                                go_on(self.folder.as_deref(), done, total)?;
                            }
                            free.insert(model)
                        }
                    };
                    let mut streams = Streams::of_images(model, &held_out.pixels, self.cells)?
                        .with_labels(&held_out.labels)?;
                    if aligned {
                        streams = streams.aligned()?;
                    }
                    let mut cell = Cell::measure(&streams, self.lambda, seed)?;
                    cell.fingerprint = model.fingerprint();
                    cell.loss = model.evaluate(held_out)?.0;
                    Ok(cell)
                })?);
                done += 1;
                progress.update(done, || format!("{name}, seed {seed}"));
            }
            groups.push((name.to_string(), cells));
        }
        progress.finish(&format!("{done} networks"));
        let controls = [Network::Plain.name()];
        let title = "Does one lens read every layer of an image classifier?";
        Report::new(title, &groups, &controls, self.methods(train, held_out))
    }

    fn methods(&self, train: &Images, held_out: &Images) -> Vec<(String, String)> {
        let c = &self.config;
        let rows = [
            ("images", format!("{} of {}x{} pixels to train on", train.len(), train.height, train.width)),
            ("network", format!("{:?} of {} layers, d_model {}", c.network, c.n_layers, c.d_model)),
            (
                "training",
                format!(
                    "{} steps of {} images, Adam at {}",
                    self.training.steps, self.training.batch_size, self.training.lr
                ),
            ),
            ("seeds", format!("{:?}, of weights and batches", self.seeds)),
            ("held out", format!("{} images; half fit the lenses, half are read", held_out.len())),
            ("lenses", format!("to centred log-probabilities, {}", lenses(self.lambda))),
            (
                "pooling",
                match c.network {
                    crate::vision::ImageNetwork::Mlp => "none: fully connected".into(),
                    crate::vision::ImageNetwork::Cnn => {
                        format!("streams are means over {0} x {0} parts of the image", self.cells)
                    }
                },
            ),
            (
                "bases aligned",
                "each stream turned as a whole onto the last one, on the first half of the images".into(),
            ),
            ("truth", "the label; alignment is with the network's own final prediction".into()),
            ("intervals", "95 %, studentised bootstrap over networks; the range of fewer than six".into()),
            ("version", format!("onelens {}", env!("CARGO_PKG_VERSION"))),
        ];
        rows.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
    }
}
