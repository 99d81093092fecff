//! How comparisons, transfer matrices and trajectories look in a notebook.

use super::figure::show;
use super::text;
use super::{Card, Figure, Heatmap, LineChart, Series, Table, TableCell, TrajectoryCell, TrajectoryTable};
use crate::Result;
use crate::lens::{Comparison, LensCurve, RidgeChoice, Trajectory, Transfer};
use crate::model::no_stream;
use crate::num::Mantel;

/// A confidence band of the usual 95 %, in standard errors.
const Z: f64 = 1.96;

impl Comparison {
    /// Lists every lens in a row: mean KL from the final prediction, mean cross-entropy with the next token, and
    /// agreement with the model's most probable token, over all streams but the last, which is the model's own; and the
    /// time it took to fit.
    pub fn table(&self) -> Table {
        let digits = |x: f64| TableCell::Number((x * 1e4).round() / 1e4);
        let mean = |values: &[f64]| {
            let earlier = &values[..values.len() - 1];
            earlier.iter().sum::<f64>() / earlier.len() as f64
        };
        let mut rows: Vec<Vec<TableCell>> = self
            .curves
            .iter()
            .map(|c| {
                vec![
                    c.name.clone().into(),
                    digits(mean(&c.kl)),
                    digits(mean(&c.cross_entropy)),
                    digits(mean(&c.agreement)),
                    TableCell::Text(seconds(c.fit_seconds)),
                ]
            })
            .collect();
        rows.push(vec!["baseline".into(), digits(self.baseline), "".into(), "".into(), "".into()]);
        rows.push(vec![
            "the model itself".into(),
            digits(0.0),
            digits(self.model_cross_entropy),
            digits(1.0),
            "".into(),
        ]);
        Table {
            title: "What each lens reads, mean over the streams before the last".into(),
            header: ["lens", "KL (nats)", "cross-entropy (nats)", "top-1 agreement", "fit time"]
                .map(String::from)
                .to_vec(),
            rows,
            note: format!(
                "{} held-out tokens in {} sequences. Fit time: from the moments on, or from where a refinement began.",
                self.n_tokens, self.n_seqs
            ),
        }
    }

    /// Lists every lens in a row, with its KL from the final prediction at some residual streams and the time it took
    /// to fit.
    ///
    /// Fails on a stream that does not exist.
    pub fn table_at(&self, streams: &[usize]) -> Result<Table> {
        let n = self.curves.first().map_or(0, |c| c.kl.len());
        if let Some(&l) = streams.iter().find(|&&l| l >= n) {
            return Err(no_stream(l, n));
        }
        let row = |c: &LensCurve| -> Vec<TableCell> {
            let kl = streams.iter().map(|&l| TableCell::Text(nats(c.kl[l])));
            let time = TableCell::Text(seconds(c.fit_seconds));
            std::iter::once(c.name.clone().into()).chain(kl).chain([time]).collect()
        };
        let header = streams.iter().map(|l| format!("stream {l}"));
        Ok(Table {
            title: "What each lens reads, stream by stream: KL in nats".into(),
            header: std::iter::once("lens".into()).chain(header).chain(["fit time".into()]).collect(),
            rows: self.curves.iter().map(row).collect(),
            note: format!(
                "The mean prediction is {:.3} nats away. {} held-out tokens in {} sequences. Fit time: from the moments on, or from where a \
                 refinement began.",
                self.baseline, self.n_tokens, self.n_seqs
            ),
        })
    }

    /// Draws the cross-entropy of each reading with the next token by residual stream, with the model's own.
    pub fn cross_entropy_figure(&self) -> Result<Figure> {
        let mut series: Vec<Series> =
            self.curves.iter().map(|c| Series::new(&c.name, c.cross_entropy.clone())).collect();
        let n = self.curves.first().map_or(0, |c| c.kl.len());
        series.push(Series::new("the model itself", vec![self.model_cross_entropy; n]).dashed());
        LineChart {
            title: "How well does each reading predict the next token?".into(),
            x_label: "residual stream (0 is the embedding)".into(),
            y_label: "cross-entropy (nats)".into(),
            series,
            note: format!("{} held-out tokens in {} sequences.", self.n_tokens, self.n_seqs),
            ..Default::default()
        }
        .figure()
    }

    /// Draws the agreement with the model's most probable token by residual stream.
    pub fn agreement_figure(&self) -> Result<Figure> {
        LineChart {
            title: "How often is the most probable token the model's?".into(),
            x_label: "residual stream (0 is the embedding)".into(),
            y_label: "share of tokens".into(),
            series: self.curves.iter().map(|c| Series::new(&c.name, c.agreement.clone())).collect(),
            y_from_zero: true,
            note: format!("{} held-out tokens in {} sequences.", self.n_tokens, self.n_seqs),
            ..Default::default()
        }
        .figure()
    }

    /// Draws the held-out KL by residual stream, one curve per lens, with the baseline.
    pub fn figure(&self) -> Result<Figure> {
        self.chart(self.scale()).figure()
    }

    /// Draws this comparison and another beside each other on one scale, each under a name of its own: a trained
    /// network and an untrained one.
    ///
    /// Fails if one of them holds no lens.
    pub fn figure_beside(&self, name: &str, other: &Comparison, other_name: &str) -> Result<Figure> {
        let ((least, most), (other_least, other_most)) = (self.scale(), other.scale());
        let scale = (least.min(other_least), most.max(other_most));
        let named = |comparison: &Comparison, name: &str| {
            let chart = comparison.chart(scale);
            LineChart {
                title: format!("{name}: how far is each reading from the final prediction?"),
                ..chart
            }
            .figure()
        };
        Ok(named(self, name)?.beside(&named(other, other_name)?))
    }

    /// The least and the greatest KL of a stream before the last, of which some lenses read everything.
    fn scale(&self) -> (f64, f64) {
        let earlier = |c: &LensCurve| c.kl.len().saturating_sub(1);
        let all = || self.curves.iter().flat_map(|c| c.kl.iter().take(earlier(c)).copied());
        (all().fold(f64::INFINITY, f64::min), all().fold(self.baseline, f64::max))
    }

    fn chart(&self, (least, most): (f64, f64)) -> LineChart {
        let mut series: Vec<Series> = self
            .curves
            .iter()
            .map(|c| {
                let lower: Vec<f64> = c.kl.iter().zip(&c.se).map(|(k, e)| k - Z * e).collect();
                let upper: Vec<f64> = c.kl.iter().zip(&c.se).map(|(k, e)| k + Z * e).collect();
                Series::new(&c.name, c.kl.clone()).band(lower, upper)
            })
            .collect();
        let n = self.curves.first().map_or(0, |c| c.kl.len());
        series.push(Series::new("baseline", vec![self.baseline; n]).dashed());
        // Near the end all curves lie on the axis, unless it is logarithmic.
        let log = least > 0.0 && least < most / 20.0;
        LineChart {
            y_log: log,
            y_lowest: log.then_some(least / 2.0),
            y_range: Some((if log { least / 2.0 } else { 0.0 }, most)),
            title: "How far is each reading from the final prediction?".into(),
            x_label: "residual stream (0 is the embedding)".into(),
            y_label: "KL (nats)".into(),
            series,
            y_from_zero: !log,
            note: format!(
                "{} held-out tokens in {} sequences; bands are 95 % over sequences. The baseline is the mean prediction.",
                self.n_tokens, self.n_seqs
            ),
            ..Default::default()
        }
    }

    /// Lists the shared fraction of every lens at every residual stream, against the lens called `own`, as a table.
    ///
    /// Where the own lens reads hardly more than the baseline, the fraction divides by almost nothing; those streams,
    /// with a difference under three standard errors, show `-`.
    pub fn fractions(&self, own: &str) -> Result<Table> {
        let reference = self.curve(own)?;
        let mut header = vec!["lens".to_string()];
        header.extend((0..reference.kl.len()).map(|l| format!("stream {l}")));
        let clear =
            |l: usize| self.baseline - reference.kl[l] > 3.0 * self.baseline_se.hypot(reference.se[l]);
        let mut rows = Vec::new();
        for curve in &self.curves {
            let fractions = self.shared_fraction(&curve.name, own)?;
            let mut row = vec![curve.name.clone().into()];
            let hundredths = |f: f64| TableCell::Number((f * 100.0).round() / 100.0);
            row.extend(
                fractions
                    .into_iter()
                    .enumerate()
                    .map(|(l, f)| if clear(l) { hundredths(f) } else { "-".into() }),
            );
            rows.push(row);
        }
        Ok(Table {
            title: format!("Share of what \"{own}\" reads"),
            header,
            rows,
            note: "1: reads as much as the layer's own lens. 0: as much as the baseline. -: the own lens reads too little to compare with.".into(),
        })
    }

    /// Shows the figure.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}

/// With as many digits as a comparison carries.
fn nats(kl: f64) -> String {
    if kl.abs() < 10.0 { format!("{kl:.3}") } else { format!("{kl:.1}") }
}

/// A time of fitting; `-` where nothing was fitted.
fn seconds(s: f64) -> String {
    match s {
        0.0 => "-".into(),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.1} s"),
    }
}

impl RidgeChoice {
    /// Lists for each residual stream the penalty chosen, its error on what was left out, the one that generalised
    /// cross-validation would choose, and how well the features determine the lens.
    pub fn table(&self) -> Table {
        let digits = |x: f64| TableCell::Text(text::digits(x, 3));
        let rows = (0..self.best.len()).map(|l| {
            let seen = &self.conditioning[l];
            vec![
                format!("{l}").into(),
                digits(self.lambdas[self.best[l]]),
                digits(self.held_out[(l, self.best[l])]),
                digits(self.lambdas[self.best_by_gcv(l)]),
                TableCell::Text(format!("{} of {}", seen.rank, seen.d)),
                TableCell::Text(format!("{:.1}", seen.effective_rank)),
                digits(seen.condition_number),
            ]
        });
        Table {
            title: "Penalty chosen for each residual stream".into(),
            header: ["stream", "lambda", "held-out error", "lambda by GCV", "rank", "effective rank", "condition"]
                .map(String::from)
                .to_vec(),
            rows: rows.collect(),
            note: "Held-out error: mean squared, over the features of the last stream. GCV takes tokens for independent.".into(),
        }
    }

    /// Shows the table.
    pub fn evcxr_display(&self) {
        self.table().evcxr_display();
    }
}

impl Transfer {
    /// Draws the matrix as a heat map, lenses down, residual streams across.
    pub fn figure(&self) -> Result<Figure> {
        let share = self.measure == "share of variance explained";
        let signed = self.values.iter().any(|v| *v < 0.0);
        let most = self.values.iter().copied().fold(0.0, f64::max);
        // The last lens on the last stream loses nothing: it must not make the rest one colour.
        let small = self.values.iter().copied().filter(|v| *v > most * 1e-3).fold(most, f64::min);
        let log = !share && !signed && small > 0.0 && small < most / 20.0;
        Heatmap {
            title: "Every layer's lens on every layer".into(),
            x_label: "read at residual stream".into(),
            y_label: "lens of residual stream".into(),
            values: self.values.clone(),
            unit: self.measure.clone(),
            diverging: signed && !share,
            log,
            // A lens that explains less than nothing is as useless as one that explains nothing.
            range: match (share, log) {
                (true, _) => Some((0.0, 1.0)),
                (false, true) => Some((small, most)),
                (false, false) => None,
            },
            ..Default::default()
        }
        .figure()
    }

    /// Shows the heat map.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}

impl Mantel {
    /// Shows the correlation and how often chance does as well.
    pub fn card(&self) -> Card {
        let rows = [
            ("rank correlation", format!("{:.2}", self.rho)),
            ("p", text::digits(self.p_value, 2)),
            ("permutations", self.n_permutations.to_string()),
        ];
        Card {
            title: "Mantel's test".into(),
            rows: rows.map(|(name, value)| (name.into(), value)).to_vec(),
            ..Default::default()
        }
    }

    /// Shows the card.
    pub fn evcxr_display(&self) {
        self.card().evcxr_display();
    }
}

impl Trajectory {
    /// Draws the table: layers up, positions across, coloured by KL from the final prediction.
    pub fn figure(&self) -> Result<Figure> {
        let n_streams = self.readings.nrows();
        TrajectoryTable {
            title: format!("What the {} reads", self.lens),
            tokens: self.tokens.clone(),
            targets: self.targets.clone(),
            layers: (0..n_streams)
                .map(|l| if l == 0 { "embedding".into() } else { format!("after block {}", l - 1) })
                .collect(),
            cells: self.readings.map(|r| TrajectoryCell {
                top: r.top.clone(),
                value: r.kl as f32,
                target_rank: Some(r.rank_of_target + 1),
            }),
            value_label: "KL (nats)".into(),
            note: "KL: from the final prediction.".into(),
        }
        .figure()
    }

    /// Shows the table.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}
