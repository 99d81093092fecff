//! How steering looks in a notebook.

use super::figure::show;
use super::{Figure, LineChart, Series, Table, TableCell};
use crate::Result;
use crate::lens::{Aim, SteeringResult};

impl SteeringResult {
    /// Draws the change of the log-probability by residual stream at the largest dose, a curve for each kind, with 95 %
    /// bands.
    pub fn figure(&self) -> Result<Figure> {
        self.by_stream(self.doses.iter().copied().fold(f64::NEG_INFINITY, f64::max))
    }

    /// Draws the same at a dose that was run.
    pub fn by_stream(&self, dose: f64) -> Result<Figure> {
        let series = self.series(|kind| self.streams.iter().map(|&l| self.interval(kind, l, dose)).collect());
        self.chart(
            format!("Does the model say what is put into its stream? Dose {dose}"),
            "residual stream (0 is the embedding)",
            self.streams.iter().map(|&l| l as f64).collect(),
            series?,
        )
    }

    /// Draws the change of the log-probability by dose at one residual stream.
    ///
    /// Fails if that stream was not steered.
    pub fn by_dose(&self, stream: usize) -> Result<Figure> {
        let series = self.series(|kind| self.doses.iter().map(|&d| self.interval(kind, stream, d)).collect());
        self.chart(
            format!("Does the model say what is put into its stream? Stream {stream}"),
            "dose (share of the stream's length)",
            self.doses.clone(),
            series?,
        )
    }

    /// Lists the change of the log-probability for every stream and dose, a column for each kind, with half the width
    /// of its 95 % interval.
    pub fn table(&self) -> Result<Table> {
        self.table_of("Does the model say what is put into its stream?", |kind, l, dose| {
            self.interval(kind, l, dose)
        })
    }

    /// Lists the same for how much the whole prediction changed, `KL(p ‖ p')`.
    pub fn disturbances(&self) -> Result<Table> {
        let title = "How far does the prediction move, whatever it then says?";
        self.table_of(title, |kind, l, dose| self.disturbance(kind, l, dose))
    }

    fn table_of(&self, title: &str, of: impl Fn(&str, usize, f64) -> Result<(f64, f64)>) -> Result<Table> {
        let mut rows = Vec::new();
        for (&stream, &dose) in self.streams.iter().flat_map(|l| self.doses.iter().map(move |dose| (l, dose)))
        {
            let mut row: Vec<TableCell> = vec![stream.into(), dose.into()];
            for kind in &self.kinds {
                let (mean, half) = of(kind, stream, dose)?;
                // A single sequence has no interval.
                let interval = if half.is_nan() { String::new() } else { format!(" ± {half:.3}") };
                row.push(format!("{mean:.3}{interval}").into());
            }
            rows.push(row);
        }
        let header = ["stream", "dose"].into_iter().map(String::from).chain(self.kinds.iter().cloned());
        Ok(Table {
            title: title.into(),
            header: header.collect(),
            rows,
            note: format!("Nats. {}", self.note()),
        })
    }

    fn series(&self, of: impl Fn(&str) -> Result<Vec<(f64, f64)>>) -> Result<Vec<Series>> {
        let curve = |kind: &String| {
            let (mean, half): (Vec<f64>, Vec<f64>) = of(kind)?.into_iter().unzip();
            let lower: Vec<f64> = mean.iter().zip(&half).map(|(m, h)| m - h).collect();
            let upper: Vec<f64> = mean.iter().zip(&half).map(|(m, h)| m + h).collect();
            let series = Series::new(kind, mean);
            // A single sequence has no interval.
            Ok(if half.iter().any(|h| h.is_nan()) { series } else { series.band(lower, upper) })
        };
        self.kinds.iter().map(curve).collect()
    }

    fn chart(&self, title: String, x_label: &str, x: Vec<f64>, series: Vec<Series>) -> Result<Figure> {
        LineChart {
            title,
            x_label: x_label.into(),
            y_label: "change of the log-probability (nats)".into(),
            x,
            series,
            y_from_zero: true,
            note: self.note(),
            ..Default::default()
        }
        .figure()
    }

    fn note(&self) -> String {
        let aim = match self.aim {
            Aim::RunnersUp => "the model's runners-up there",
            Aim::Unigram => "tokens drawn from the model's mean prediction",
        };
        let n_seqs = self.change.shape()[3];
        format!(
            "{n_seqs} sequences, {} positions each, towards {} of {aim}, whose log-probability is {:.2} nats before; \
             intervals are 95 % over sequences.",
            self.n_positions, self.n_tokens, self.log_prob
        )
    }

    /// Shows the figure.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}
