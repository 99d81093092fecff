//! Does the way from layer to layer give strange inputs away?

use ndarray::{Array2, Axis};

use super::Lens;
use super::readout::{read_blocks, surprise};
use crate::model::Transformer;
use crate::num::{auroc, local_outlier_factor, mahalanobis, mean_and_standard_error, rng, uniform_index};
use crate::{Error, ErrorKind, Result};

/// How strange a row of features is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detector {
    /// Distance from the mean of normal rows, in their covariance.
    Mahalanobis,
    /// Local outlier factor among normal rows, of features scaled to unit variance.
    LocalOutlierFactor {
        /// Number of neighbours; 20 are usual.
        k: usize,
    },
}

/// How well a detector tells anomalous sequences from normal ones that it has not seen, over several splits.
#[derive(Clone, Debug, PartialEq)]
pub struct AnomalyReport {
    /// The detector.
    pub detector: Detector,
    /// Area under the ROC curve from all streams, one per split.
    pub auroc: Vec<f64>,
    /// The same from the last stream alone, the model's own prediction: what one has without a lens.
    pub final_layer: Vec<f64>,
}

impl AnomalyReport {
    /// Computes the mean over splits of the gain that the earlier streams bring, with its standard error. Splits share
    /// rows, so that the error is a lower bound.
    pub fn gain(&self) -> (f64, f64) {
        let gains: Vec<f64> = self.auroc.iter().zip(&self.final_layer).map(|(a, f)| a - f).collect();
        mean_and_standard_error(&gains)
    }
}

/// Turns the trajectory of each of `tokens: [sequence, pos]` into numbers: for each residual stream the mean over
/// positions of KL from the final prediction, entropy, and cross-entropy with the next token, in nats:
/// `[sequence, 3 (L + 1)]`, streams in order.
///
/// Fails on sequences of one token, and where lens and tokens do not fit the model.
pub fn trajectory_features(
    model: &Transformer,
    lens: &dyn Lens,
    tokens: &Array2<u32>,
) -> Result<Array2<f64>> {
    if tokens.ncols() < 2 {
        return Err(Error::new(
            ErrorKind::Data,
            format!("sequences of {} tokens have no next token", tokens.ncols()),
            "pass at least two tokens per sequence",
        ));
    }
    let parts = read_blocks(model, &[lens], tokens, |block| {
        let mut sums = Vec::with_capacity(3 * block.streams.len());
        for said in block.read(model, lens, 0..block.streams.len())? {
            let kl: f64 = said.iter().map(|said| said.kl).sum();
            let spread: f64 = said.iter().map(|said| said.entropy).sum();
            sums.extend([kl, spread, surprise(&said)]);
        }
        Ok((block.sequence, sums))
    })?;
    let n = tokens.ncols() as f64;
    let per = [n, n, n - 1.0];
    let mut features = Array2::zeros((tokens.nrows(), 3 * (model.config.n_layers + 1)));
    for (sequence, sums) in parts {
        let mut row = features.row_mut(sequence);
        row.iter_mut().zip(sums).zip(per.iter().cycle()).for_each(|((x, sum), n)| *x += sum / n);
    }
    Ok(features)
}

/// Fits each detector to a half of the `normal` rows of [`trajectory_features`] and asks how well it tells the other
/// half from the `anomalous` rows, over `n_splits` random halves; beside it the same from the last stream's features
/// alone.
///
/// Fails on features that do not fit each other, too few normal rows (Mahalanobis needs more in a half than there are
/// features), or no split.
pub fn detect_anomalies(
    normal: &Array2<f64>,
    anomalous: &Array2<f64>,
    detectors: &[Detector],
    n_splits: usize,
    seed: u64,
) -> Result<Vec<AnomalyReport>> {
    let n = normal.nrows();
    if n_splits == 0 || anomalous.nrows() == 0 || normal.ncols() < 3 {
        return Err(Error::new(
            ErrorKind::Config,
            format!("{n_splits} splits of {n} normal and {} anomalous sequences", anomalous.nrows()),
            "use at least one split and one anomalous sequence, with `trajectory_features` of both",
        ));
    }
    let mut random = rng(seed, 0);
    let splits: Vec<(Array2<f64>, Array2<f64>)> = (0..n_splits)
        .map(|_| {
            let mut order: Vec<usize> = (0..n).collect();
            (1..n).rev().for_each(|i| order.swap(i, uniform_index(&mut random, i + 1)));
            let (known, unseen) = order.split_at(n / 2);
            (normal.select(Axis(0), known), normal.select(Axis(0), unseen))
        })
        .collect();
    // The last stream's KL is 0 always and says nothing.
    let last = [normal.ncols() - 2, normal.ncols() - 1];
    let all: Vec<usize> = (0..normal.ncols()).filter(|&j| j + 3 != normal.ncols()).collect();
    detectors
        .iter()
        .map(|&detector| {
            let over = |features: &[usize]| -> Result<Vec<f64>> {
                let of = |rows: &Array2<f64>| rows.select(Axis(1), features);
                let scores =
                    |known: &Array2<f64>, asked: &Array2<f64>| detector.scores(&of(known), &of(asked));
                splits
                    .iter()
                    .map(|(known, unseen)| Ok(auroc(&scores(known, unseen)?, &scores(known, anomalous)?)))
                    .collect()
            };
            Ok(AnomalyReport { detector, auroc: over(&all)?, final_layer: over(&last)? })
        })
        .collect()
}

impl Detector {
    /// Measures how strange each row of `asked` is beside the rows of `known`; larger is stranger.
    ///
    /// Fails where [`mahalanobis`] and [`local_outlier_factor`] do.
    pub fn scores(self, known: &Array2<f64>, asked: &Array2<f64>) -> Result<Vec<f64>> {
        match self {
            Detector::Mahalanobis => mahalanobis(known, asked),
            Detector::LocalOutlierFactor { k } => {
                // A feature that never varies says nothing, whatever it is divided by.
                let scale = known.std_axis(Axis(0), 0.0).mapv(|s| if s > 0.0 { s } else { 1.0 });
                local_outlier_factor(&(known / &scale), &(asked / &scale), k)
            }
        }
    }
}
