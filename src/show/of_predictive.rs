//! How a network that predicts and corrects looks in a notebook.

use super::figure::show;
use super::{Card, Figure, Heatmap};
use crate::Result;
use crate::data::{Source, Tokens};
use crate::dual::{PredictiveCache, PredictiveCoding};

impl PredictiveCoding {
    /// Makes the model card: shape and size.
    pub fn card(&self) -> Card {
        let c = &self.config;
        let rows = [
            ("corrections", format!("{}{}", c.n_layers, if c.looped { ", one set of weights" } else { "" })),
            ("kernel", format!("{}, width {}", c.kernel.name(), c.d_key)),
            ("d_model", c.d_model.to_string()),
            ("vocabulary", format!("{} tokens", c.d_vocab)),
            ("unembedding", if c.tied { "the embedding".into() } else { "its own".into() }),
            (
                "step sizes",
                self.params.layers.iter().map(|l| format!("{:.3}", l.lr)).collect::<Vec<_>>().join(", "),
            ),
            ("parameters", self.params.count().to_string()),
        ];
        Card {
            title: "Predictive coding".into(),
            rows: rows.into_iter().map(|(k, v)| (k.into(), v)).collect(),
            ..Default::default()
        }
    }

    /// Shows the model card.
    pub fn evcxr_display(&self) {
        self.card().evcxr_display();
    }
}

impl PredictiveCache {
    /// Draws how large the errors are: corrections down, positions across, mean over the batch.
    pub fn figure(&self) -> Result<Figure> {
        self.errors_figure(vec![])
    }

    /// Draws the same with the tokens of a sequence under it: `tokens` are those that were run, of which the errors are
    /// about all but the first.
    pub fn figure_with(&self, tokens: impl Tokens, source: &dyn Source) -> Result<Figure> {
        self.errors_figure(tokens.tokens().iter().skip(1).map(|&t| source.token_text(t)).collect())
    }

    fn errors_figure(&self, x_ticks: Vec<String>) -> Result<Figure> {
        let values = self.error_sizes();
        Heatmap {
            title: "Prediction errors, ‖ε‖² / ‖e‖²".into(),
            x_label: if x_ticks.is_empty() { "position of the error" } else { "token that came" }.into(),
            y_label: "corrections so far".into(),
            y_ticks: (0..values.nrows()).map(|l| l.to_string()).collect(),
            x_ticks,
            values,
            unit: "error".into(),
            ..Default::default()
        }
        .figure()
    }

    /// Shows the figure.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}
