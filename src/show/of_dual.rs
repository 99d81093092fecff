//! How gradient descent in a context looks in a notebook: contributions, updates, losses, alignments, retrievals,
//! slots.

use super::figure::show;
use super::{Figure, Heatmap, LineChart, Series, Table};
use crate::dual::{
    Alignment, Contributions, Descent, LinearAttentionFit, Retrieval, SlotRun, SlotUpdates, StepSizes,
    TaskLosses,
};
use crate::{Error, ErrorKind, Result};

/// More training pairs are left out, those that contribute least.
const MAX_PAIRS: usize = 40;
/// Points of a curve of training losses.
const MAX_POINTS: usize = 150;

impl Contributions {
    /// Draws what each training pair adds to the answer: outputs down, pairs across, in the order of training, of many
    /// pairs only those that add most.
    pub fn figure(&self) -> Result<Figure> {
        let n = self.values.nrows();
        if n == 0 {
            return Err(Error::new(
                ErrorKind::Data,
                "a layer that was never trained has no contributions",
                "train it first: `step` or `push`",
            ));
        }
        let size = |i: usize| self.values.row(i).dot(&self.values.row(i));
        let mut chosen: Vec<usize> = (0..n).collect();
        chosen.sort_by(|&a, &b| size(b).total_cmp(&size(a)));
        chosen.truncate(MAX_PAIRS);
        chosen.sort_unstable();
        let left_out = match n - chosen.len() {
            0 => String::new(),
            more => format!(" Left out: the {more} pairs that add least."),
        };
        let sum = &self.values.sum_axis(ndarray::Axis(0)) + &self.from_w0;
        let numbers = |a: &ndarray::Array1<f64>| {
            let mut words: Vec<String> = a.iter().take(6).map(|x| format!("{x:.3}")).collect();
            if a.len() > 6 {
                words.push("..".into());
            }
            words.join(", ")
        };
        let map = Heatmap {
            title: "Which training examples does the answer come from?".into(),
            x_label: "training pair".into(),
            y_label: "output".into(),
            x_ticks: chosen.iter().map(|i| i.to_string()).collect(),
            values: self.values.select(ndarray::Axis(0), &chosen).t().to_owned(),
            unit: "added".into(),
            diverging: true,
            note: format!(
                "The initial weights give {}; with all pairs the answer is {}.{left_out}",
                numbers(&self.from_w0),
                numbers(&sum)
            ),
            ..Default::default()
        };
        map.figure()
    }

    /// Shows the figure.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}

impl SlotUpdates {
    /// Draws what attention adds to every token above what gradient descent adds to every target.
    pub fn figure(&self) -> Result<Figure> {
        let mut x_ticks: Vec<String> = (1..=self.n()).map(|i| format!("y{i}")).collect();
        x_ticks.push("query".into());
        let map = |title: &str, values: &ndarray::Array2<f64>, note: String| {
            Heatmap {
                title: title.into(),
                x_label: "token".into(),
                y_label: "layer, or step".into(),
                x_ticks: x_ticks.clone(),
                values: values.clone(),
                unit: "added".into(),
                diverging: true,
                note,
                ..Default::default()
            }
            .figure()
        };
        let differ = format!("They differ by {:.1e} at most.", self.largest_difference());
        Ok(map("What attention adds to each token", &self.attention, String::new())?.above(&map(
            "What moving the weights subtracts: ΔW x",
            &self.descent,
            differ,
        )?))
    }

    /// Shows the figure.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}

impl Descent {
    /// Draws the context's loss before the first step and after each.
    pub fn figure(&self) -> Result<Figure> {
        LineChart {
            title: "Gradient descent on the context".into(),
            x_label: "steps".into(),
            y_label: "½ mean squared error".into(),
            series: vec![Series::new("loss", self.losses.clone())],
            y_from_zero: true,
            ..Default::default()
        }
        .figure()
    }

    /// Shows the figure.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}

impl TaskLosses {
    /// Draws the loss at the query over steps, mean over tasks with two standard errors to each side.
    pub fn figure(&self) -> Result<Figure> {
        let means = self.means();
        let edge = |sign: f64| means.iter().map(|(m, e)| m + sign * 2.0 * e).collect::<Vec<_>>();
        let y: Vec<f64> = means.iter().map(|m| m.0).collect();
        LineChart {
            title: "Gradient descent on the context, asked at the query".into(),
            x_label: "steps".into(),
            y_label: "½ squared error".into(),
            series: vec![Series::new("mean over tasks", y).band(edge(-1.0), edge(1.0))],
            y_from_zero: true,
            note: format!("{} tasks; the band is two standard errors to each side.", self.losses.nrows()),
            ..Default::default()
        }
        .figure()
    }

    /// Shows the figure.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}

impl LinearAttentionFit {
    /// Draws the loss over training, with lines at known losses, such as that of the best gradient step.
    ///
    /// ```
    /// use onelens::dual::{Inputs, LinearAttentionTraining};
    /// let how = LinearAttentionTraining { inputs: Inputs::uniform(2, 0.5)?, n: 4, steps: 20, ..Default::default() };
    /// let figure = how.fit()?.figure_against(&[("best gradient step", 0.05)])?;
    /// assert!(figure.text().contains("best gradient step"));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn figure_against(&self, known: &[(&str, f64)]) -> Result<Figure> {
        let width = self.losses.len().div_ceil(MAX_POINTS).max(1);
        let means: Vec<f64> =
            self.losses.chunks(width).map(|c| c.iter().sum::<f64>() / c.len() as f64).collect();
        let x: Vec<f64> = (0..means.len()).map(|i| ((i + 1) * width).min(self.losses.len()) as f64).collect();
        let mut series = vec![Series::new("trained", means)];
        series.extend(known.iter().map(|(name, loss)| Series::new(*name, vec![*loss; x.len()]).dashed()));
        LineChart {
            title: "Linear attention learns in-context regression".into(),
            x_label: "training steps".into(),
            y_label: "½ squared error at the query".into(),
            x,
            series,
            y_from_zero: true,
            note: match width {
                1 => String::new(),
                _ => format!("Means of {width} steps."),
            },
            ..Default::default()
        }
        .figure()
    }

    /// Draws the loss over training.
    pub fn figure(&self) -> Result<Figure> {
        self.figure_against(&[])
    }

    /// Shows the figure.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}

impl Alignment {
    /// Lists the measures with their standard errors.
    pub fn table(&self) -> Table {
        let row = |name: &str, (mean, error): (f64, f64)| vec![name.into(), mean.into(), error.into()];
        Table {
            title: "The same algorithm?".into(),
            header: ["measure", "mean over tasks", "standard error"].map(String::from).to_vec(),
            rows: vec![
                row("cosine of the sensitivities ∂ŷ/∂x", self.cosine),
                row("distance of the sensitivities", self.distance),
                row("distance of the answers", self.answers),
                row("loss of the first", self.loss),
                row("loss of the second", self.other_loss),
            ],
            ..Default::default()
        }
    }

    /// Draws the measures with their standard errors.
    pub fn figure(&self) -> Result<Figure> {
        self.table().figure()
    }

    /// Shows the table.
    pub fn evcxr_display(&self) {
        self.table().evcxr_display();
    }
}

impl StepSizes {
    /// Draws the steps and what they cost.
    pub fn figure(&self) -> Result<Figure> {
        let step = |(k, lr): (usize, &f64)| vec![format!("η of step {}", k + 1).into(), (*lr).into()];
        let mut rows: Vec<_> = self.lr.iter().enumerate().map(step).collect();
        if self.gamma != 0.0 {
            rows.push(vec!["γ of GD++".into(), self.gamma.into()]);
        }
        Table {
            title: "Best step sizes".into(),
            header: ["setting", "value"].map(String::from).to_vec(),
            rows,
            note: format!("Expected loss {:.5} ± {:.5} (standard error).", self.loss.0, self.loss.1),
        }
        .figure()
    }

    /// Shows the table.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}

impl Retrieval {
    /// Draws the attention to each pattern over steps, above the energy.
    pub fn figure(&self) -> Result<Figure> {
        let attention = Heatmap {
            title: "Retrieval: attention to each pattern".into(),
            x_label: "pattern".into(),
            y_label: "step".into(),
            values: self.attention.clone(),
            unit: "attention".into(),
            ..Default::default()
        };
        Ok(attention.figure()?.above(&energy_chart(&self.energies, "energy", "energy")?))
    }

    /// Shows the figure.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}

impl SlotRun {
    /// Draws which slot takes which datum, above the negative log-likelihood over steps.
    pub fn figure(&self) -> Result<Figure> {
        let taken = Heatmap {
            title: "Slots: who takes which datum".into(),
            x_label: "datum".into(),
            y_label: "slot".into(),
            values: self.responsibilities.t().to_owned(),
            unit: "share".into(),
            ..Default::default()
        };
        let likelihood = energy_chart(
            &self.energies,
            "negative log-likelihood",
            "negative log-likelihood (nats per datum)",
        )?;
        Ok(taken.figure()?.above(&likelihood))
    }

    /// Shows the figure.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}

/// What a descent should lower, step by step: `name` is the series', `what` the axis'.
fn energy_chart(energies: &[f64], name: &str, what: &str) -> Result<Figure> {
    let rises = energies.windows(2).filter(|w| w[1] > w[0] + 1e-12 * w[0].abs()).count();
    LineChart {
        title: String::new(),
        x_label: "step".into(),
        y_label: what.into(),
        series: vec![Series::new(name, energies)],
        note: match rises {
            0 => String::new(),
            n => format!("It rose in {n} of the steps."),
        },
        ..Default::default()
    }
    .figure()
}
