//! How settings look in a notebook: each by the name that it is set by.

use serde::Serialize;
use serde_json::Value;

use super::{Card, text};
use crate::battery::{Battery, LanguageBattery};
use crate::dual::PredictiveConfig;
use crate::lens::{HiddenLayer, LayerMoments, Refine, Ridge};
use crate::model::Training;
use crate::vision::{ImageConfig, ImageTraining};

macro_rules! settings {
    ($($settings:ty: $title:literal),* $(,)?) => {
        $(impl $settings {
            /// Makes a card of the settings, one row for each.
            pub fn card(&self) -> Card {
                card($title, self)
            }

            /// Shows the card.
            pub fn evcxr_display(&self) {
                self.card().evcxr_display();
            }
        })*
    };
}

settings!(
    Battery: "Battery",
    HiddenLayer: "Hidden layer",
    ImageConfig: "Image classifier",
    ImageTraining: "Training of an image classifier",
    LanguageBattery: "Battery of a language model",
    PredictiveConfig: "Predictive coding",
    Refine: "Refinement",
    Ridge: "Ridge regression",
    Training: "Training",
);

fn card(title: &str, settings: &impl Serialize) -> Card {
    // Settings are numbers, words, and lists of them: they have a place in JSON.
    let fields = match serde_json::to_value(settings) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) | Err(_) => serde_json::Map::new(),
    };
    let rows = fields.iter().map(|(name, value)| (name.clone(), written(value))).collect();
    Card { title: title.into(), rows, ..Default::default() }
}

fn written(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.into(),
        Value::Number(number) if number.is_f64() => number.as_f64().map_or_else(String::new, text::number),
        Value::Number(number) => number.to_string(),
        Value::String(words) => words.clone(),
        Value::Array(values) if values.is_empty() => "none".into(),
        Value::Array(values) => values.iter().map(written).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|(name, value)| format!("{name} {}", written(value))).collect();
            fields.join(", ")
        }
    }
}

impl LayerMoments {
    /// Makes a card of what was gathered.
    pub fn card(&self) -> Card {
        let width = self.layers.first().map_or(0, |m| m.x_mean.len());
        let rows = [
            ("tokens", self.n().to_string()),
            ("residual streams", format!("{} of width {width}", self.layers.len())),
            ("scale", written(&serde_json::json!(self.scale))),
            ("target", written(&serde_json::json!(self.target))),
            ("vocabulary", format!("{} tokens", self.mean_prediction.len())),
            ("of the model", format!("{:016x}", self.fingerprint)),
        ];
        Card {
            title: "Moments of each layer".into(),
            rows: rows.into_iter().map(|(name, value)| (name.into(), value)).collect(),
            ..Default::default()
        }
    }

    /// Shows the card.
    pub fn evcxr_display(&self) {
        self.card().evcxr_display();
    }
}
