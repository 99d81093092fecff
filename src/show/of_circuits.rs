//! How attributions, patch maps, head scores and attention patterns look in a notebook.

use ndarray::Axis;

use super::figure::show;
use super::{Figure, Heatmap};
use crate::circuits::{AttentionPatterns, HeadScores, LogitAttribution, PatchMap};
use crate::{Error, ErrorKind, Result};

/// More heads are left out, and the caption says so.
const MAX_HEADS: usize = 8;

impl LogitAttribution {
    /// Draws heads and MLPs by layer, coloured by what they contribute; the rest in the caption.
    pub fn figure(&self) -> Result<Figure> {
        let n_heads = self.heads.ncols();
        let mut values = self.heads.clone();
        let mut x_ticks: Vec<String> = (0..n_heads).map(|h| format!("head {h}")).collect();
        if !self.mlps.is_empty() {
            values.push_column(self.mlps.view()).expect("one MLP per layer");
            x_ticks.push("MLP".into());
        }
        let rest = [
            ("heads", self.heads.sum()),
            ("MLPs", self.mlps.sum()),
            ("embedding", self.embed),
            ("positions", self.pos_embed),
            ("biases", self.attn_biases.sum() + self.final_bias),
        ];
        // What an architecture does not have contributes exactly nothing.
        let rest = rest.iter().filter(|(_, v)| *v != 0.0).map(|(name, v)| format!("{name} {v:.3}"));
        Heatmap {
            title: "Who writes the answer?".into(),
            x_label: "part of the block".into(),
            y_label: "layer".into(),
            x_ticks,
            values,
            unit: "logit difference".into(),
            diverging: true,
            note: format!(
                "The logit difference is {:.3}: {}.",
                self.total(),
                rest.collect::<Vec<_>>().join(", ")
            ),
            ..Default::default()
        }
        .figure()
    }

    /// Shows the figure.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}

impl PatchMap {
    /// Draws the share of the clean answer restored, layers down, positions or heads across.
    pub fn figure(&self) -> Result<Figure> {
        Heatmap {
            title: "What brings the clean answer back?".into(),
            x_label: self.columns.clone(),
            y_label: "layer".into(),
            x_ticks: self.ticks.clone(),
            values: self.values.clone(),
            unit: "restored".into(),
            diverging: true,
            note: format!(
                "Patched at {}. 0: as the corrupted run (logit difference {:.2}), 1: as the clean run ({:.2}).",
                self.hook, self.corrupted, self.clean
            ),
            ..Default::default()
        }
        .figure()
    }

    /// Shows the map.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}

impl HeadScores {
    /// Draws the scores, layers down, heads across.
    pub fn figure(&self) -> Result<Figure> {
        let (layer, head) = self.best();
        Heatmap {
            title: format!("Heads: {}", self.name),
            x_label: "head".into(),
            y_label: "layer".into(),
            // Sums of shares, rounded.
            values: self.values.mapv(|x| x.min(1.0)),
            unit: "share of attention".into(),
            range: Some((0.0, 1.0)),
            note: format!("Highest: head {layer}.{head}, {:.2}.", self.values[(layer, head)]),
            ..Default::default()
        }
        .figure()
    }

    /// Shows the scores.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}

impl AttentionPatterns {
    /// Draws one square per head, queries down, keys across.
    pub fn figure(&self) -> Result<Figure> {
        let mut all: Option<Figure> = None;
        for (pattern, head) in self.patterns.axis_iter(Axis(0)).zip(&self.heads).take(MAX_HEADS) {
            let left_out = self.heads.len().saturating_sub(MAX_HEADS);
            let figure = Heatmap {
                title: format!("Head {}.{head}", self.layer),
                x_label: "key".into(),
                y_label: "query".into(),
                x_ticks: self.tokens.clone(),
                y_ticks: self.tokens.clone(),
                values: pattern.mapv(f64::from),
                unit: "share of attention".into(),
                range: Some((0.0, 1.0)),
                note: match left_out {
                    0 => String::new(),
                    n => format!("The first {MAX_HEADS} heads; {n} more are left out."),
                },
                ..Default::default()
            }
            .figure()?;
            all = Some(match all {
                None => figure,
                Some(all) => all.beside(&figure),
            });
        }
        all.ok_or_else(|| {
            Error::new(ErrorKind::Shape, "there are no heads to show", "choose at least one head")
        })
    }

    /// Shows the patterns.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}
