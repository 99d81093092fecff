//! How the report of a battery looks: verdict, table of controls, figures, methods.

use super::figure::show;
use super::{Card, Figure, Heatmap, LineChart, Series, Table, TableCell};
use crate::battery::{
    Group, Interval, LEFT_OUT, LEFT_OUT_WITHOUT_LAST, LayerTruth, LiteralGradient, LossGradient, Network,
    OWN, Report, SHARED, Summary, TruthSummary, Verdict,
};
use crate::num::mean_and_standard_error;
use crate::{Error, ErrorKind, Result};

/// Fractions below this are drawn here, as arrows: a lens in the wrong basis does worse than the baseline, without
/// limit.
const LOWEST: f64 = -0.5;
/// What has neither a curve nor a colour.
const NOT_COUNTED: &str = "streams that do not count, because their own lens reads hardly anything";

impl Report {
    /// The whole report: the verdict in a sentence, the table of controls, figures, methods. [`Figure::save`] makes it
    /// a page.
    pub fn figure(&self) -> Result<Figure> {
        let mut all = self.verdict_card().figure()?.above(&self.controls().figure()?);
        // Curves over layers that count, if there are any.
        all = match self.some_count() {
            Ok(()) => all
                .above(&match self.have_learned() {
                    true => self.fractions()?.beside(&self.truth()?),
                    false => self.fractions()?,
                })
                .above(&self.lens_kinds()?.beside(&self.pairs()?))
                .above(&self.alignment()?.beside(&self.own_lenses()?)),
            Err(_) => all.above(&self.lens_kinds()?),
        };
        all = all.above(&self.layers().figure()?);
        // Not of every kind of network.
        let tables = [self.gradients(), self.lesions()].into_iter().flatten().map(|table| table.figure());
        for extra in self.paths().into_iter().map(Ok).chain(tables) {
            all = all.above(&extra?);
        }
        Ok(all.above(&self.methods_card().figure()?))
    }

    /// The answers about the networks in question and the positive controls.
    fn verdict_card(&self) -> Card {
        let first = &self.groups[0];
        let same = first.verdict.answer == first.second_split.answer;
        Card {
            title: self.title.clone(),
            rows: vec![
                (first.summary.name.clone(), first.verdict.sentence.clone()),
                (
                    "second split".into(),
                    if same { "The same answer".into() } else { first.second_split.sentence.clone() },
                ),
            ],
            note: "The second split fits lenses to the half of the sequences that the first one read.".into(),
            ..Default::default()
        }
    }

    /// One row for every kind of network and every null of the first.
    pub fn controls(&self) -> Table {
        let header = [
            "network",
            "networks",
            "loss",
            "learned (nats)",
            "after the first",
            "left-out share",
            "in one basis",
            "above shuffled",
            "answer",
        ];
        let row = |name: &str, s: &Summary, loss: Option<f64>, answer: Option<&Verdict>| -> Vec<TableCell> {
            let kept = s.kept();
            let mean = |of: &dyn Fn(usize) -> f64| {
                let sum: f64 = kept.iter().map(|&l| of(l)).sum();
                if kept.is_empty() { "-".into() } else { hundredths(sum / kept.len() as f64) }
            };
            let truth = |of: &dyn Fn(&TruthSummary) -> TableCell| s.truth.as_ref().map_or("-".into(), of);
            let learned = s.truth.is_some_and(|t| t.learned.above(0.0));
            vec![
                name.into(),
                s.n_networks.into(),
                loss.filter(|l| l.is_finite()).map_or("-".into(), |l| format!("{l:.3}").into()),
                truth(&|t| thousandths(t.learned.estimate).into()),
                // A share of nothing is no number.
                truth(&|t| if learned { percent(t.gained.estimate) } else { "-".into() }),
                mean(&|l| s.layers[l].scale_free.estimate),
                mean(&|l| s.layers[l].read_by),
                mean(&|l| s.layers[l].excess.estimate),
                answer.map_or("-", |v| v.answer.name()).into(),
            ]
        };
        let mut rows: Vec<Vec<TableCell>> = self
            .groups
            .iter()
            .map(|g| row(&g.summary.name, &g.summary, Some(g.loss), Some(&g.verdict)))
            .collect();
        let first = &self.groups[0];
        rows.extend(
            first.nulls.iter().map(|s| row(&format!("{} of {}", s.name, first.summary.name), s, None, None)),
        );
        Table {
            title: "The networks and their controls".into(),
            header: header.map(String::from).to_vec(),
            rows,
            note: format!(
                "Learned: how much nearer to {} the final prediction is than a constant one. After the first: the share of that which blocks bring after \
                 the first stream that counts. The others are means over the streams that count. Left-out share: of what a stream's own lens reads, how \
                 much a lens of the others reads, each at the best temperature. In one basis: the share of the other streams whose own lenses read \
                 half of it. Above shuffled: the cosine of the update with the error left, above that of updates of other tokens.",
                match first.summary.truth {
                    Some(truth) if truth.known => "the true conditional",
                    Some(_) => "what comes next",
                    None => "the truth, had anything been known of it,",
                }
            ),
        }
    }

    /// Left-out fraction at each stream, for every kind of network and the rotated and shuffled copies of the first.
    pub fn fractions(&self) -> Result<Figure> {
        self.curves(
            "Does a lens of the other layers read the layer?",
            "share of what the own lens reads",
            &|s, l| Some(s.layers[l].scale_free),
            Some(LOWEST),
            "Each lens at the temperature that suits the stream best.",
        )
    }

    /// How far the shared lens's reading is from the truth at each stream, as a share of what was learned.
    ///
    /// Fails where no network has learned anything of the truth, or nothing is known of that.
    pub fn truth(&self) -> Result<Figure> {
        if !self.have_learned() {
            return Err(Error::new(
                ErrorKind::Data,
                "no network of this report is nearer to the truth than a constant prediction, or nothing is known of the truth",
                "train for more `steps`; of images, give the labels (`Streams::with_labels`)",
            ));
        }
        // A share of what little an odd network has learned has no bounds to speak of: its band would hide all others.
        let without_bands = |interval: Interval| Interval { lower: f64::NAN, upper: f64::NAN, ..interval };
        self.curves(
            "Does its reading come nearer to the truth?",
            "still missing, as a share of what was learned",
            &|s, l| {
                let learned = s.truth.is_some_and(|t| t.learned.above(0.0));
                s.layers[l].truth.filter(|_| learned).map(|truth| without_bands(truth.left))
            },
            None,
            "One lens for all layers; 0 is what it reads off the last stream. A network that refines comes down step by step; one that carries is flat.",
        )
    }

    /// What the own lens of one stream reads of another, in the networks in question.
    ///
    /// Fails if no stream counts.
    pub fn pairs(&self) -> Result<Figure> {
        self.some_count()?;
        let first = &self.groups[0].summary;
        let mut shares = first.pairs.clone();
        // Of a stream off which hardly anything is read, a share is noise.
        for (l, mut column) in shares.columns_mut().into_iter().enumerate() {
            if first.layers[l].dropped.is_some() {
                column.fill(f64::NAN);
            }
        }
        Heatmap {
            title: format!("Who reads whom: {}", first.name),
            x_label: "stream that is read".into(),
            y_label: "stream that the lens was fitted to".into(),
            unit: "share of the own lens".into(),
            range: Some((0.0, 1.0)),
            square: true,
            hatched: NOT_COUNTED.into(),
            note: "At the best temperature. In one basis every lens reads every stream.".into(),
            ..Heatmap::new("", shares)?
        }
        .figure()
    }

    /// Alignment of updates at each stream.
    pub fn alignment(&self) -> Result<Figure> {
        self.curves(
            "Do updates point to what is still missing?",
            "Aitchison cosine",
            &|s, l| Some(s.layers[l].alignment),
            None,
            "Shuffled updates know nothing of the token: what they score is nothing. Those of the rotated copy go from one basis to another.",
        )
    }

    /// Whether a network with a layer that counts has learned something of the truth.
    fn have_learned(&self) -> bool {
        let learned = |s: &Summary| s.truth.is_some_and(|t| t.learned.above(0.0)) && !s.kept().is_empty();
        self.groups.iter().any(|g| learned(&g.summary))
    }

    /// Fails if no layer of any network counts, so that there is no curve.
    fn some_count(&self) -> Result<()> {
        if self.groups.iter().any(|g| !g.summary.kept().is_empty()) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Data,
            "no layer of any network counts: no own lens reads clearly more than the mean prediction",
            "train for more `steps`, or hold out more; `lens_kinds` and `layers` show what was read",
        ))
    }

    fn curves(
        &self,
        title: &str,
        y_label: &str,
        of: &dyn Fn(&Summary, usize) -> Option<Interval>,
        y_lowest: Option<f64>,
        note: &str,
    ) -> Result<Figure> {
        self.some_count()?;
        let n = self.groups[0].summary.layers.len();
        let curve = |s: &Summary| -> Series {
            let at = |l: usize| s.layers.get(l).filter(|at| at.dropped.is_none()).and_then(|_| of(s, l));
            let y: Vec<f64> = (0..n).map(|l| at(l).map_or(f64::NAN, |i| i.estimate)).collect();
            let end = |pick: &dyn Fn(Interval) -> f64| -> Vec<f64> {
                (0..n).map(|l| at(l).map_or(f64::NAN, pick)).collect()
            };
            let (lower, upper) = (end(&|i| i.lower), end(&|i| i.upper));
            let line = Series::new(&s.name, y);
            if lower.iter().any(|x| x.is_finite()) { line.band(lower, upper) } else { line }
        };
        let mut series: Vec<Series> = self.groups.iter().map(|g| curve(&g.summary)).collect();
        series
            .extend(self.groups[0].nulls.iter().take(2).map(|s| Series { band: None, ..curve(s) }.dashed()));
        let (series, without): (Vec<Series>, Vec<Series>) =
            series.into_iter().partition(|s| s.y.iter().any(|y| y.is_finite()));
        let series_have_bands = series.iter().any(|s| s.band.is_some());
        let without: Vec<String> = without.into_iter().map(|s| s.name).collect();
        let without = match without.is_empty() {
            true => String::new(),
            false => format!(" Nothing to draw of: {}.", without.join(", ")),
        };
        LineChart {
            title: title.into(),
            x_label: "residual stream (0 is the embedding)".into(),
            y_label: y_label.into(),
            series,
            y_from_zero: true,
            y_lowest,
            gaps: NOT_COUNTED.into(),
            note: match series_have_bands {
                true => format!("{} {note}{without}", self.bands()),
                false => format!("{note}{without}"),
            },
            ..Default::default()
        }
        .figure()
    }

    /// What the ends of intervals are.
    fn bands(&self) -> String {
        let first = &self.groups[0].summary;
        match first.layers.first().is_some_and(|l| l.alignment.is_range) {
            true => format!("Bands are the range of {} networks, too few for more.", first.n_networks),
            false => "Bands are 95 %.".into(),
        }
    }

    /// What each kind of lens reads in the networks in question.
    pub fn lens_kinds(&self) -> Result<Figure> {
        let first = &self.groups[0];
        let n = first.summary.layers.len();
        let layers = &first.summary.layers;
        let mut series: Vec<Series> = [("own", OWN), ("shared", SHARED), ("left out", LEFT_OUT_WITHOUT_LAST)]
            .map(|(name, kind)| Series::new(name, layers.iter().map(|l| l.kl[kind]).collect::<Vec<_>>()))
            .into();
        let closed: Vec<f64> = layers.iter().map(|l| l.least_squares[LEFT_OUT_WITHOUT_LAST]).collect();
        let logit: Vec<f64> = layers.iter().map(|l| l.logit_lens).collect();
        series.push(Series::new("left out, least squares", closed).dashed());
        if logit.iter().any(|kl| kl.is_finite()) {
            series.push(Series::new("logit lens", logit).dashed());
        }
        series.push(Series::new("baseline", vec![first.summary.baseline; n]).dashed());
        LineChart {
            title: format!("What each kind of lens reads: {}", first.summary.name),
            x_label: "residual stream (0 is the embedding)".into(),
            y_label: "KL (nats)".into(),
            series,
            y_log: true,
            note: format!(
                "The baseline is the mean prediction. {}",
                match first.summary.gradient_norm {
                    Some(norm) =>
                        format!("Lenses of least KL: no gradient is longer than {norm:.2} nats in the end."),
                    None => "Lenses of least squares.".into(),
                }
            ),
            ..Default::default()
        }
        .figure()
    }

    /// Own lenses of every kind of network, as shares of the baseline: that they improve proves nothing.
    pub fn own_lenses(&self) -> Result<Figure> {
        self.some_count()?;
        let series = |g: &Group| {
            let kl = g.summary.layers.iter().map(|l| l.kl[OWN] / g.summary.baseline).collect::<Vec<_>>();
            Series::new(&g.summary.name, kl)
        };
        LineChart {
            title: "Own lenses improve with depth in any network".into(),
            x_label: "residual stream (0 is the embedding)".into(),
            y_label: "KL, as a share of the baseline's".into(),
            series: self.groups.iter().filter(|g| !g.summary.kept().is_empty()).map(series).collect(),
            y_from_zero: true,
            ..Default::default()
        }
        .figure()
    }

    /// Layer by layer, for the networks in question.
    pub fn layers(&self) -> Table {
        let first = &self.groups[0];
        let header = [
            "stream",
            "to read",
            "left out",
            "share",
            if self.groups[0].summary.n_networks == 1 || !first.summary.improvement.is_range {
                "95 %"
            } else {
                "range"
            },
            "as it is",
            "with the last",
            "least squares",
            "one basis",
            "p",
            "missing",
            "brought",
            "counted",
        ];
        let rows = first.summary.layers.iter().enumerate().map(|(l, at)| {
            let of = |kind: usize| hundredths(at.fraction[kind].estimate);
            let truth =
                |of: &dyn Fn(&LayerTruth) -> f64| at.truth.as_ref().map_or("-".into(), |t| percent(of(t)));
            vec![
                format!("{l}").into(),
                thousandths(at.nats[0].estimate).into(),
                thousandths(at.nats[1].estimate).into(),
                hundredths(at.scale_free.estimate),
                interval(at.scale_free.lower, at.scale_free.upper).into(),
                of(LEFT_OUT_WITHOUT_LAST),
                of(LEFT_OUT),
                hundredths(at.fraction_of_least_squares),
                hundredths(at.read_by),
                if at.rotation_p < 1.0 { format!("{:.3}", at.rotation_p).into() } else { "1".into() },
                truth(&|t| t.left.estimate),
                truth(&|t| t.fall.estimate),
                if at.dropped.is_none() { "yes" } else { "no" }.into(),
            ]
        });
        let mean = |of: &dyn Fn(usize) -> f64| {
            (0..first.update_size.len()).map(of).sum::<f64>() / first.update_size.len() as f64
        };
        Table {
            title: format!("Stream by stream: {}", first.summary.name),
            header: header.map(String::from).to_vec(),
            rows: rows.collect(),
            note: format!(
                "To read: the nats that the own lens reads beyond the mean prediction; left out: those that a lens of the other streams reads; share: of \
                 the first, at the best temperature, then as it is, with the last stream among the others, and in least squares. p: how probable so good a lens is in random bases (200, or 19 of streams of more than 48 numbers; squared error; \
                 Holm's correction). Missing, and brought by the block: shares of what was learned of the truth. Counted: whether the own lens clearly reads more than the mean prediction. Updates are {:.2} as long as streams on average; {} of their \
                 variance is affine in the stream. Transfer costs {:.3} of the target's variance per layer of distance{}. Prediction depth: {:.2} streams; \
                 {:.2} with shuffled updates.",
                mean(&|l| first.update_size[l]),
                percent_text(mean(&|l| first.update_linear[l][0])),
                first.transfer_slope,
                first.mantel.map_or(String::new(), |[rho, p]| format!(
                    ", and its rank correlation with the likeness of both streams' covariances is {rho:.2} (Mantel, p {p:.3})"
                )),
                first.depth[0],
                first.depth[1]
            ),
        }
    }

    /// How many blocks the gradient passes on its way to the embedding. Fails if no network is a transformer with skip
    /// connections.
    pub fn paths(&self) -> Result<Figure> {
        let with_paths: Vec<&Group> = self.groups.iter().filter(|g| !g.paths.is_empty()).collect();
        let first = with_paths.first().ok_or_else(|| not_there("paths of the gradient"))?;
        let n = first.paths[0].len() - 1;
        let mut series: Vec<Series> = with_paths
            .iter()
            .map(|g| {
                let mean = |k: usize| g.paths.iter().map(|p| p[k]).sum::<f64>() / g.paths.len() as f64;
                Series::new(&g.summary.name, (0..=n).map(mean).collect::<Vec<f64>>())
            })
            .collect();
        // C(n, k) / 2^n
        let mut paths = vec![0.5_f64.powi(n as i32)];
        (0..n).for_each(|k| paths.push(paths[k] * (n - k) as f64 / (k + 1) as f64));
        series.push(Series::new("share of the paths", paths).dashed());
        LineChart {
            title: "How long are the paths that the gradient takes?".into(),
            x_label: "blocks passed".into(),
            y_label: "share of the gradient at the embedding".into(),
            series,
            y_from_zero: true,
            note: "Exact, over all sets of blocks; a block, attention and MLP together, is passed or not. Negative: paths that work against the whole.".into(),
            ..Default::default()
        }
        .figure()
    }

    /// Updates against the literal gradient, layer by layer: of the networks in question, and of untrained ones, whose
    /// updates know nothing. Fails if no network is a transformer.
    pub fn gradients(&self) -> Result<Table> {
        let untrained = Network::Untrained.name();
        let shown: Vec<&Group> = self
            .groups
            .iter()
            .enumerate()
            .filter(|(i, g)| (*i == 0 || g.summary.name == untrained) && !g.gradients.is_empty())
            .map(|(_, g)| g)
            .collect();
        let first = shown.first().ok_or_else(|| not_there("gradients"))?;
        let header = |g: &&Group| {
            let of = |what: &str| format!("{what}, {}", g.summary.name);
            [of("cosine"), of("positive in"), of("falls by (nats)")]
        };
        let layer = |l: usize| {
            let of = |g: &&Group| {
                let each = |of: fn(&LiteralGradient) -> &Vec<f64>| -> Vec<f64> {
                    g.gradients.iter().map(|x| of(x)[l]).collect()
                };
                let (cosines, inner) = (each(|x| &x.cosine), each(|x| &x.inner));
                let (mean, error) = mean_and_standard_error(&cosines);
                let spread = if cosines.len() > 1 { format!(" ± {error:.3}") } else { String::new() };
                let positive = cosines.iter().filter(|c| **c > 0.0).count();
                let falls = inner.iter().sum::<f64>() / inner.len() as f64;
                [
                    TableCell::Text(signed_thousandths(mean) + &spread),
                    format!("{positive} of {}", cosines.len()).into(),
                    signed_thousandths(falls).into(),
                ]
            };
            std::iter::once(format!("{l}").into()).chain(shown.iter().flat_map(of)).collect()
        };
        let psd = |g: &&Group| {
            let mean = g.gradients.iter().map(|x| x.psd_fraction).sum::<f64>() / g.gradients.len() as f64;
            format!("{mean:.2} ({})", g.summary.name)
        };
        let psd: Vec<String> = shown.iter().map(psd).collect();
        Ok(Table {
            title: "Are updates gradient steps, literally?".into(),
            header: std::iter::once("block".to_string()).chain(shown.iter().flat_map(header)).collect(),
            rows: (0..first.gradients[0].cosine.len()).map(layer).collect(),
            note: format!(
                "Updates against -∂L/∂h, where L is {}. Cosine: mean over networks with its standard error; positive in: so many of them. Falls by: the \
                 inner product of both. Share of a common preconditioner in directions in which it leads down: {}; a half for a random matrix.",
                match first.gradients[0].gradient {
                    LossGradient::Expected => "the expected loss under the true conditional",
                    LossGradient::Sampled => "the loss of the tokens that came, which is mostly chance",
                },
                psd.join(", ")
            ),
        })
    }

    /// Loss after lesions of the networks in question, above that of the whole network. Fails if these are not
    /// transformers of distinct blocks with skip connections.
    pub fn lesions(&self) -> Result<Table> {
        let all = &self.groups[0].lesions;
        let first = all.first().ok_or_else(|| not_there("lesions"))?;
        let mean = |of: &dyn Fn(usize) -> f64| -> TableCell {
            let total: f64 = (0..all.len()).map(|i| of(i) - all[i].whole).sum();
            signed_thousandths(total / all.len() as f64).into()
        };
        let rows = (0..first.delete.len()).map(|l| {
            let swap = if l < first.swap.len() { mean(&|i| all[i].swap[l]) } else { "-".into() };
            vec![
                format!("{l}").into(),
                mean(&|i| all[i].delete[l]),
                swap,
                mean(&|i| all[i].repeat[l]),
                mean(&|i| all[i].affine[l]),
            ]
        });
        let reverse = all.iter().map(|x| x.reverse - x.whole).sum::<f64>() / all.len() as f64;
        Ok(Table {
            title: format!("What a block is worth: {}", self.groups[0].summary.name),
            header: ["block", "deleted", "swapped with the next", "repeated", "affine instead"]
                .map(String::from)
                .to_vec(),
            rows: rows.collect(),
            note: format!(
                "Loss above that of the whole network, nats per token. All blocks in reverse: {reverse:+.3}."
            ),
        })
    }

    fn methods_card(&self) -> Card {
        let mut rows = self.methods.clone();
        let rule = "supported, carry only, hierarchy, mixed, or cannot tell, by the rule of `battery::decide`, fixed in code";
        rows.push(("rule".into(), rule.into()));
        for g in &self.groups {
            let prints: Vec<String> = g.fingerprints.iter().map(|f| format!("{f:016x}")).collect();
            rows.push((format!("weights, {}", g.summary.name), prints.join(" ")));
        }
        Card { title: "Methods".into(), rows, ..Default::default() }
    }

    /// Shows the report.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}

fn not_there(what: &str) -> Error {
    Error::new(
        ErrorKind::Data,
        format!("this report has no {what}"),
        "they are measured in transformers with skip connections: `Battery::run`, `Report::of_transformer`",
    )
}

fn percent(x: f64) -> TableCell {
    percent_text(x).into()
}

fn percent_text(x: f64) -> String {
    match 100.0 * x {
        x if !x.is_finite() => "-".into(),
        // Of little, a share may be as far below as it likes.
        x if x < -100.0 => "< -100 %".into(),
        // Adding 0 makes of a -0 that rounding has left a 0.
        x => format!("{:.0} %", x.round() + 0.0),
    }
}

fn hundredths(x: f64) -> TableCell {
    match x {
        x if !x.is_finite() => "-".into(),
        x if x < -1.0 => "< -1".into(),
        x => ((x * 100.0).round() / 100.0 + 0.0).into(),
    }
}

/// In one piece, so that a narrow column does not break it.
fn interval(lower: f64, upper: f64) -> String {
    let end =
        |x: f64| if x < -1.0 { "< -1".into() } else { format!("{:.2}", (x * 100.0).round() / 100.0 + 0.0) };
    format!("{}\u{a0}to\u{a0}{}", end(lower), end(upper))
}

fn signed_thousandths(x: f64) -> String {
    format!("{:+.3}", (x * 1000.0).round() / 1000.0 + 0.0)
}

fn thousandths(x: f64) -> String {
    format!("{:.3}", (x * 1000.0).round() / 1000.0 + 0.0)
}
