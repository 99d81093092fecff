//! How the report about a language model looks.

use super::figure::show;
use super::{Card, Figure, LineChart, Series, Table, TableCell};
use crate::Result;
use crate::battery::{
    BlockLoss, Interval, LanguageReport, LensReads, NetworkReads, SteeringEffect, TokenClass, UpdateEffect,
};

/// Shares below this are cut: a lens in the wrong basis does worse than the baseline, without limit.
const LOWEST: f64 = -0.5;
const STREAM: &str = "residual stream (0 is the embedding)";

impl LanguageReport {
    /// Draws the whole report: the answer in sentences, figures, methods. [`Figure::save`] makes it a page.
    pub fn figure(&self) -> Result<Figure> {
        let answer = Card {
            title: format!("Does one lens read every layer of {}?", self.name),
            rows: self.sentences(),
            note: "Intervals are 95 % over sequences.".into(),
            ..Default::default()
        };
        let methods = Card { title: "How".into(), rows: self.methods.clone(), ..Default::default() };
        Ok(answer
            .figure()?
            .above(&self.reads(0)?.beside(&self.shares()?))
            .above(&self.reads(1)?.beside(&self.reads(2)?))
            .above(&self.update_effects()?.beside(&self.steered()?))
            .above(&self.ways()?.beside(&self.block_losses()?))
            .above(&self.token_classes().figure()?)
            .above(&self.streams().figure()?)
            .above(&methods.figure()?))
    }

    /// Draws what lenses read off each stream in nats: of the model (0), of its architecture with chance weights (1),
    /// of the model with shuffled updates (2).
    ///
    /// Fails on another number.
    pub fn reads(&self, network: usize) -> Result<Figure> {
        let network = self.network(network)?;
        let baseline = network.baseline.estimate;
        let mut series: Vec<Series> =
            network.lenses.iter().map(|lens| curve(&lens.name, &lens.nats)).collect();
        let n = network.lenses.first().map_or(0, |lens| lens.nats.len());
        series.push(Series::new("all there is to read", vec![baseline; n]).dashed());
        LineChart {
            title: format!("What lenses read: {}", network.name),
            x_label: STREAM.into(),
            y_label: "less KL than the mean prediction (nats)".into(),
            series,
            y_from_zero: true,
            y_lowest: Some(-0.25 * baseline),
            note: "Bands are 95 % over sequences. Below 0 a lens is worse than the mean prediction; arrows: far below.".into(),
            ..Default::default()
        }
        .figure()
    }

    /// Draws the share of what each stream's own lens reads that a lens reads which has never seen the stream, in the
    /// model and its nulls.
    pub fn shares(&self) -> Result<Figure> {
        let mut series = Vec::new();
        for (network, lens, name) in [
            (0, LensReads::LEFT_OUT, "the model"),
            (0, LensReads::LEFT_OUT_KL, "the model, least KL"),
            (1, LensReads::LEFT_OUT, "chance weights"),
            (2, LensReads::LEFT_OUT, "shuffled updates"),
        ] {
            let network = self.network(network)?;
            if let Some(lens) = network.lens(lens) {
                let shares = &lens.share[..lens.share.len().saturating_sub(1)];
                let one = curve(name, shares);
                if one.y.iter().any(|y| y.is_finite()) {
                    series.push(one);
                }
            }
        }
        LineChart {
            title: "Does a lens that has never seen the stream read it?".into(),
            x_label: STREAM.into(),
            y_label: "share of what the own lens reads".into(),
            series,
            y_from_zero: true,
            y_lowest: Some(LOWEST),
            gaps: "the own lens reads too little for a share".into(),
            note: "A share says nothing of how much there is to read: of chance weights that is next to nothing.".into(),
            ..Default::default()
        }
        .figure()
    }

    /// Draws by how much the update of each block but the first brings the one lens's reading nearer to the final
    /// prediction, beside the update of another token. The first one's stand in the note: they would hide the others.
    pub fn update_effects(&self) -> Result<Figure> {
        let of = |updates: &[UpdateEffect], pick: fn(&UpdateEffect) -> Interval| -> Vec<Option<Interval>> {
            updates.iter().map(|u| Some(pick(u))).collect()
        };
        let (model, shuffled) = (self.network(0)?, self.network(2)?);
        let curves = [
            ("the token's own update", of(&model.updates_kl, |u| u.own)),
            ("the update of another token", of(&model.updates_kl, |u| u.shuffled)),
            ("own, updates shuffled", of(&shuffled.updates, |u| u.own)),
        ];
        let first: Vec<String> = curves
            .iter()
            .map(|(name, at)| format!("{name} {:.2}", at[0].map_or(f64::NAN, |i| i.estimate)))
            .collect();
        let [own, other, shuffled] = curves.map(|(name, at)| curve(name, &at[1..]));
        LineChart {
            title: "Does an update refine what one lens reads?".into(),
            x_label: "block".into(),
            y_label: "KL falls by (nats)".into(),
            x: (1..self.network(0)?.updates.len()).map(|l| l as f64).collect(),
            series: vec![own, other, shuffled.dashed()],
            y_from_zero: true,
            note: format!(
                "One lens for all streams, of the model at least KL. Below 0 the reading is further from the final prediction than \
                 before. Block 0, not drawn: {}.",
                first.join(", ")
            ),
            ..Default::default()
        }
        .figure()
    }

    /// Draws how much the final log-probability of a token changes when what a lens reads for it is added to a stream.
    pub fn steered(&self) -> Result<Figure> {
        let Some(first) = self.steering.first() else {
            return LineChart::default().figure();
        };
        let of: Vec<&SteeringEffect> = self.steering.iter().filter(|s| s.network == first.network).collect();
        let series = first.change.iter().map(|(kind, ..)| {
            let at = |s: &&SteeringEffect| s.change.iter().find(|(k, ..)| k == kind).cloned();
            let ends: Vec<(f64, f64)> =
                of.iter().filter_map(at).map(|(_, mean, half)| (mean, half)).collect();
            let line = Series::new(kind, ends.iter().map(|e| e.0).collect::<Vec<_>>());
            line.band(
                ends.iter().map(|e| e.0 - e.1).collect::<Vec<_>>(),
                ends.iter().map(|e| e.0 + e.1).collect::<Vec<_>>(),
            )
        });
        LineChart {
            title: "Does the model say what is put into its stream?".into(),
            x_label: STREAM.into(),
            y_label: "change of the token's log-probability (nats)".into(),
            x: of.iter().map(|s| s.stream as f64).collect(),
            series: series.collect(),
            y_from_zero: true,
            note: "A quarter of the stream's length in the direction in which the lens makes the token more probable. Rotated and random directions are as long.".into(),
            ..Default::default()
        }
        .figure()
    }

    /// Draws how the predictions of all tokens and of the surest and least sure come about under the one lens.
    pub fn ways(&self) -> Result<Figure> {
        LineChart {
            title: "Whose prediction comes when?".into(),
            x_label: STREAM.into(),
            y_label: "KL to the final prediction (nats)".into(),
            series: self
                .tokens
                .iter()
                .enumerate()
                // All, and the ends of each way to sort them by what was predicted.
                .filter(|(i, _)| [0, 1, 4, 9, 12].contains(i))
                .map(|(_, class)| Series::new(&class.name, class.kl.clone()))
                .collect(),
            y_from_zero: true,
            note: "One lens for all streams, at least KL.".into(),
            ..Default::default()
        }
        .figure()
    }

    /// Draws what a block is worth: by how much the loss grows without it, with it twice, and with it in two halves.
    pub fn block_losses(&self) -> Result<Figure> {
        let of = |pick: &dyn Fn(&BlockLoss) -> Interval| -> Vec<Option<Interval>> {
            self.blocks.iter().map(|b| Some(pick(b))).collect()
        };
        LineChart {
            title: "What is a block worth?".into(),
            x_label: "block".into(),
            y_label: "more loss (nats per token)".into(),
            series: vec![
                curve("deleted", &of(&|b| b.deleted)),
                curve("twice", &of(&|b| b.repeated)),
                curve("in two halves", &of(&|b| b.halved)),
            ],
            y_log: true,
            y_lowest: Some(1e-3),
            note: "A gain is an arrow, too.".into(),
            ..Default::default()
        }
        .figure()
    }

    /// Lists tokens by frequency, position and entropy.
    pub fn token_classes(&self) -> Table {
        let n = self.networks[0].updates.len();
        let places = [n / 4, n / 2, 3 * n / 4];
        let mut header: Vec<String> =
            ["tokens", "number", "jump (%)", "final from stream"].map(String::from).to_vec();
        header.extend(places.iter().map(|l| format!("KL at {l}")));
        let row = |class: &TokenClass| -> Vec<TableCell> {
            let mut row: Vec<TableCell> = vec![
                class.name.clone().into(),
                class.n.into(),
                format!("{:.0}", 100.0 * class.jumps).into(),
                format!("{:.1}", class.depth).into(),
            ];
            row.extend(places.iter().map(|&l| TableCell::from(format!("{:.2}", class.kl[l]))));
            row
        };
        Table {
            title: "Which tokens are refined, and which jump?".into(),
            header,
            rows: self.tokens.iter().map(row).collect(),
            note: "A token jumps if one block brings half or more of the fall of its KL. Under the one lens, at least KL.".into(),
        }
    }

    /// Lists what every lens reads off every stream of the model in nats, and what there is to read in the nulls.
    pub fn streams(&self) -> Table {
        let mut columns: Vec<(String, &[Option<Interval>])> = Vec::new();
        for (network, suffix) in self.networks.iter().zip(["", ", chance", ", shuffled"]) {
            for lens in &network.lenses {
                columns.push((format!("{}{suffix}", lens.name), &lens.nats));
            }
        }
        let n = self.networks[0].updates.len() + 1;
        let cell = |interval: Option<&Option<Interval>>| -> TableCell {
            match interval.copied().flatten() {
                Some(i) => format!("{:.2} ({:.2} to {:.2})", i.estimate, i.lower, i.upper).into(),
                None => "".into(),
            }
        };
        let mut header = vec!["stream".to_string()];
        header.extend(columns.iter().map(|(name, _)| name.clone()));
        let row = |l: usize| -> Vec<TableCell> {
            let mut row: Vec<TableCell> = vec![l.into()];
            row.extend(columns.iter().map(|(_, nats)| cell(nats.get(l))));
            row
        };
        Table {
            title: "Nats by which each lens beats the mean prediction".into(),
            header,
            rows: (0..n).map(row).collect(),
            note: format!("All there is to read: {}.", self.baselines()),
        }
    }

    fn baselines(&self) -> String {
        let said = |n: &NetworkReads| format!("{} {:.3}", n.name, n.baseline.estimate);
        self.networks.iter().map(said).collect::<Vec<_>>().join(", ")
    }
}

/// A curve with its intervals as a band, or points where a lens was asked for some streams only.
fn curve(name: &str, at: &[Option<Interval>]) -> Series {
    let end = |pick: &dyn Fn(&Interval) -> f64| -> Vec<f64> {
        at.iter().map(|i| i.as_ref().map_or(f64::NAN, pick)).collect()
    };
    let line = Series::new(name, end(&|i| i.estimate));
    let alone = |l: usize| {
        at[l].is_some() && at.get(l + 1).is_none_or(Option::is_none) && (l == 0 || at[l - 1].is_none())
    };
    if (0..at.len()).any(alone) {
        return line.points();
    }
    line.band(end(&|i| i.lower), end(&|i| i.upper))
}

impl LanguageReport {
    /// Shows the report.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}
