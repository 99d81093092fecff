//! The battery on image classifiers: a network without skips and its residual twin.

use super::report::{Cell, Report};
use super::run::{Battery, Network};
use super::streams::Streams;
use crate::data::Images;
use crate::session::{self, Progress, quietly};
use crate::vision::{ImageClassifier, ImageConfig, ImageTraining};
use crate::{Error, ErrorKind, Result};

/// Name of the networks with skips in a report about images.
const RESIDUAL: &str = "residual twin";

impl Report {
    /// Trains `config` without skips, its residual twin, and keeps the twin untrained, one of each for every seed, on `train`; and asks of each whether
    /// one lens reads every layer of `held_out` images. The residual twin stands first; the others are its controls. Lenses predict centred
    /// log-probabilities from streams that are averaged over `cells` x `cells` parts of the image, if the network is convolutional.
    ///
    /// The truth is not known: alignment is with the network's own final prediction, above that of shuffled updates.
    ///
    /// Fails on fewer than two seeds or layers, where training or a lens does, or when interrupted.
    pub fn of_images(
        (train, held_out): (&Images, &Images),
        config: &ImageConfig,
        how: &ImageTraining,
        seeds: &[u64],
        cells: usize,
    ) -> Result<Self> {
        if seeds.len() < 2 {
            return Err(Error::new(
                ErrorKind::Config,
                format!("a battery of {} seeds", seeds.len()),
                "give at least two, better eight: the network is the unit of the statistics",
            ));
        }
        let kinds = [
            (RESIDUAL, true, true),
            (Network::Plain.name(), false, true),
            (Network::Untrained.name(), true, false),
        ];
        let mut progress = Progress::new("battery", kinds.len() * seeds.len());
        let mut groups = Vec::new();
        let mut done = 0;
        for (name, residual, trained) in kinds {
            let mut measured = Vec::new();
            for &seed in seeds {
                if session::interrupted() {
                    return Err(Error::new(
                        ErrorKind::Data,
                        format!("interrupted after {done} of {} networks", kinds.len() * seeds.len()),
                        "run the cell again, with fewer seeds or steps if it takes too long",
                    ));
                }
                let mut model = ImageClassifier::new(ImageConfig { residual, seed, ..config.clone() })?;
                if trained {
                    quietly(|| model.train(train, &ImageTraining { seed, ..how.clone() }))?;
                }
                let streams = Streams::of_images(&model, &held_out.pixels, cells)?;
                let mut cell = Cell::measure(&streams, Battery::default().lambda, seed)?;
                cell.fingerprint = model.fingerprint();
                cell.loss = model.evaluate(held_out)?.0;
                measured.push(cell);
                done += 1;
                progress.update(done, || format!("{name}, seed {seed}"));
            }
            groups.push((name.to_string(), measured));
        }
        progress.finish(&format!("{done} networks"));
        let row = |name: &str, value: String| (name.to_string(), value);
        let methods = vec![
            row("network", format!("{config:?}")),
            row("training", format!("{} images, {how:?}", train.len())),
            row("seeds", format!("{seeds:?}, of weights and batches")),
            row("held out", format!("{} images; half fit the lenses, half are read", held_out.len())),
            row(
                "pooling",
                format!("convolutional streams are means over {cells} x {cells} parts of the image"),
            ),
            row("truth", "not known: alignment is with the network's own final prediction".into()),
            row("intervals", "95 %, bootstrap of 1000 resamples of networks, each with all images".into()),
            row("version", format!("onelens {}", env!("CARGO_PKG_VERSION"))),
        ];
        let controls = [Network::Plain.name(), Network::Untrained.name()];
        Report::new("Does one lens read every layer of an image classifier?", &groups, &controls, methods)
    }
}
