//! How softmax heads, taken apart, look in a notebook.

use super::figure::show;
use super::{Figure, Heatmap, LineChart, Series, Table, TableCell};
use crate::Result;
use crate::dual::{
    ContextSplit, Delta, FeatureCurve, HeadDeltas, HeadRelaxation, OrderSensitivity, UpdateSimilarity,
};

impl ContextSplit {
    /// Draws the share of each head that comes from the context, by query; mean over the batch.
    pub fn figure(&self) -> Result<Figure> {
        Heatmap {
            title: "How much of a head comes from the context?".into(),
            x_label: "query after the context".into(),
            y_label: "head".into(),
            // Sums of shares, rounded.
            values: self
                .lambda
                .mean_axis(ndarray::Axis(0))
                .expect("a batch has sequences")
                .mapv(|x| x.min(1.0)),
            unit: "λ".into(),
            range: Some((0.0, 1.0)),
            note: format!("The two parts mix to what the heads gathered, within {:.1e}.", self.error),
            ..Default::default()
        }
        .figure()
    }

    /// Shows the figure.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}

impl HeadRelaxation {
    /// Draws one row per head, those with the most varied scores last.
    pub fn figure(&self) -> Result<Figure> {
        let mut heads: Vec<(usize, usize)> = self.linear.indexed_iter().map(|(at, _)| at).collect();
        heads.sort_by(|&a, &b| self.score_variance[a].total_cmp(&self.score_variance[b]));
        let row = |&(l, h): &(usize, usize)| {
            let numbers =
                [&self.score_variance, &self.entropy, &self.linear, &self.first_order, &self.uniform];
            let mut row: Vec<TableCell> = vec![format!("{l}.{h}").into()];
            row.extend(numbers.map(|table| TableCell::from((table[(l, h)] * 1000.0).round() / 1000.0)));
            row
        };
        Table {
            title: "Is a head linear attention?".into(),
            header: ["head", "score variance", "entropy", "linear", "first order", "uniform"]
                .map(String::from)
                .to_vec(),
            rows: heads.iter().map(row).collect(),
            note: "Last three: cosine with what the head gathers. Entropy 1 is uniform attention.".into(),
        }
        .figure()
    }

    /// Shows the table.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}

impl FeatureCurve {
    /// Draws the error over the number of features, both logarithmic, beside one that falls as the root.
    pub fn figure(&self) -> Result<Figure> {
        let first = (self.n_features[0] as f64, self.errors[0].0);
        let root = self.n_features.iter().map(|&m| first.1 * (first.0 / m as f64).sqrt());
        LineChart {
            title: "A softmax head with random features".into(),
            x_label: "features".into(),
            y_label: "relative error".into(),
            x_ticks: self.n_features.iter().map(|m| m.to_string()).collect(),
            series: vec![
                Series::new("head", self.errors.iter().map(|e| e.0).collect::<Vec<_>>()),
                Series::new("1 / √features", root.collect::<Vec<_>>()).dashed(),
            ],
            y_log: true,
            y_range: Some((0.01, 1.0)),
            note: format!("Slope {:.2} on logarithmic axes.", self.slope),
            ..Default::default()
        }
        .figure()
    }

    /// Shows the figure.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}

impl UpdateSimilarity {
    /// Draws the cosines by layer, with two standard errors to each side.
    pub fn figure(&self) -> Result<Figure> {
        let series = |name: &str, values: &[(f64, f64)]| {
            let edge = |sign: f64| values.iter().map(|(m, e)| m + sign * 2.0 * e).collect::<Vec<_>>();
            let y: Vec<f64> = values.iter().map(|v| v.0).collect();
            Series::new(name, y).band(edge(-1.0), edge(1.0))
        };
        LineChart {
            title: "Do demonstrations move a query as training would?".into(),
            x_label: "layer".into(),
            y_label: "cosine of the updates".into(),
            x_ticks: (0..self.fine_tuning.len()).map(|l| l.to_string()).collect(),
            series: vec![
                series("fine-tuning", &self.fine_tuning),
                series("layer-causal", &self.layer_causal),
                series("other context", &self.other_context).dashed(),
            ],
            y_range: Some((-0.2, 1.0)),
            note: "Bands are two standard errors to each side.".into(),
            ..Default::default()
        }
        .figure()
    }

    /// Shows the figure.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}

impl OrderSensitivity {
    /// Draws the spread over orders, in nats.
    pub fn figure(&self) -> Result<Figure> {
        let row = |name: &str, (mean, error): (f64, f64)| vec![name.into(), mean.into(), error.into()];
        Table {
            title: "Does the order of the demonstrations matter?".into(),
            header: ["learning", "spread of the answer's log-probability", "standard error"]
                .map(String::from)
                .to_vec(),
            rows: vec![
                row("in context", self.in_context),
                row("fine-tuning", self.fine_tuning),
                row("layer-causal fine-tuning", self.layer_causal),
            ],
            note: "Standard deviation over orders, in nats, mean over questions.".into(),
        }
        .figure()
    }

    /// Shows the table.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}

impl Delta {
    /// Draws the coefficient with its interval.
    pub fn figure(&self) -> Result<Figure> {
        deltas("Delta coefficient", vec![("".into(), *self)])
    }

    /// Shows the table.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}

impl HeadDeltas {
    /// Draws one row per head.
    pub fn figure(&self) -> Result<Figure> {
        let heads = self.layers.iter().enumerate();
        let rows =
            heads.flat_map(|(l, heads)| heads.iter().enumerate().map(move |(h, d)| (format!("{l}.{h}"), *d)));
        deltas("What came (0), or its prediction error (-1)?", rows.collect())
    }

    /// Shows the table.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}

fn deltas(title: &str, rows: Vec<(String, Delta)>) -> Result<Figure> {
    let round = |x: f64| TableCell::from((x * 1000.0).round() / 1000.0);
    let row = |(name, d): (String, Delta)| {
        vec![name.into(), round(d.coefficient), round(d.interval.0), round(d.interval.1), round(d.r2)]
    };
    Table {
        title: title.into(),
        header: ["head", "δ", "from", "to", "R²"].map(String::from).to_vec(),
        rows: rows.into_iter().map(row).collect(),
        note: "Interval: the middle 95 % over resampled sequences.".into(),
    }
    .figure()
}
