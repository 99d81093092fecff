//! How a model and its training look in a notebook.

use std::collections::BTreeMap;

use super::{Card, Figure, LineChart, Series, Table};
use crate::Result;
use crate::model::{ActivationCache, Config, Hook, Mlp, TrainingLog, Transformer};

impl Config {
    /// Shows the shape of the transformer that it describes.
    pub fn card(&self) -> Card {
        let rows = [
            ("architecture", self.describe()),
            ("blocks", self.n_layers.to_string()),
            ("d_model", self.d_model.to_string()),
            ("heads", format!("{} of width {}", self.n_heads, self.d_head)),
            ("d_mlp", if self.mlp == Mlp::None { "no MLP".into() } else { self.d_mlp.to_string() }),
            ("vocabulary", format!("{} tokens", self.d_vocab)),
            ("context", format!("{} tokens", self.n_ctx)),
            ("seed", self.seed.to_string()),
        ];
        Card {
            title: "Configuration".into(),
            rows: rows.into_iter().map(|(k, v)| (k.into(), v)).collect(),
            ..Default::default()
        }
    }

    /// Shows the card.
    pub fn evcxr_display(&self) {
        self.card().evcxr_display();
    }
}

impl Transformer {
    /// Makes the model card: shape, size and fingerprint.
    pub fn card(&self) -> Card {
        let mut card = self.config.card();
        card.title = "Transformer".into();
        let seed = card.rows.len() - 1;
        card.rows.insert(seed, ("parameters".into(), self.params.count().to_string()));
        card.rows.push(("fingerprint".into(), format!("{:016x}", self.fingerprint())));
        card
    }

    /// Shows the model card.
    pub fn evcxr_display(&self) {
        self.card().evcxr_display();
    }
}

impl ActivationCache {
    /// Lists what the cache holds: the names of its hooks with the layers and the shape.
    pub fn table(&self) -> Table {
        // In the order of the forward pass; the layers of one place together.
        let mut places: BTreeMap<Hook, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
        for (hook, shape) in self.shapes() {
            let (layers, _) = places.entry(hook.in_layer(0)).or_insert_with(|| (Vec::new(), shape));
            layers.extend(hook.layer());
        }
        let rows = places.into_iter().map(|(hook, (layers, shape))| {
            let name = hook.to_string().replacen(".0.", ".*.", 1);
            let layers = match layers[..] {
                [] => String::new(),
                [one] => one.to_string(),
                [first, .., last] => format!("{first} to {last}"),
            };
            vec![name.into(), layers.into(), format!("{shape:?}").into()]
        });
        Table {
            title: "Activations".into(),
            header: ["hook", "layers", "shape"].map(String::from).to_vec(),
            rows: rows.collect(),
            note: format!("{self:?}"),
        }
    }

    /// Shows the table.
    pub fn evcxr_display(&self) {
        self.table().evcxr_display();
    }
}

impl TrainingLog {
    /// Draws the loss curve, one point per step, each the mean of the last 2 % of steps.
    pub fn figure(&self) -> Result<Figure> {
        let window = (self.losses.len() / 50).max(1);
        let smooth: Vec<f64> = (0..self.losses.len())
            .map(|i| {
                let seen = &self.losses[(i + 1).saturating_sub(window)..=i];
                seen.iter().sum::<f64>() / seen.len() as f64
            })
            .collect();
        let stopped = match (self.interrupted, self.stopped_early) {
            (true, _) => " Training was interrupted.",
            (false, true) => " Training stopped early: the held-out loss no longer fell.",
            (false, false) => "",
        };
        LineChart {
            title: "Training loss".into(),
            x_label: "step".into(),
            y_label: "nats per token".into(),
            series: vec![Series::new("loss", smooth)],
            note: format!(
                "Mean over the last {window} steps. Held-out loss at the end: {:.3}.{stopped}",
                self.held_out_loss
            ),
            ..Default::default()
        }
        .figure()
    }

    /// Shows the loss curve.
    pub fn evcxr_display(&self) {
        super::figure::show(self.figure());
    }
}
