//! Activation patching (causal tracing): which activations of one run carry its answer into another.

use ndarray::Array2;
use rayon::prelude::*;

use super::LogitDifference;
use crate::data::{TokenText, Tokens};
use crate::model::{ActivationCache, Hook, Intervention, Transformer};
use crate::session::{self, Progress};
use crate::{Error, ErrorKind, Result};

/// How much of the clean run's answer each activation restores in the corrupted run (Meng et al. 2022; Heimersheim &
/// Nanda 2024).
///
/// 0: the corrupted run's answer; 1: the clean run's. Rows are layers, columns positions or heads.
#[derive(Clone, Debug, PartialEq)]
pub struct PatchMap {
    /// What was patched: the hook's name, with `*` for the layer.
    pub hook: String,
    /// What the columns are: "position" or "head".
    pub columns: String,
    /// Names of the columns, such as tokens; empty: their numbers.
    pub ticks: Vec<String>,
    /// Share restored, `[layer, column]`.
    pub values: Array2<f64>,
    /// Logit difference of the clean run.
    pub clean: f64,
    /// Logit difference of the corrupted run.
    pub corrupted: f64,
}

impl PatchMap {
    /// Names the positions of the map by these tokens.
    pub fn with_tokens(&self, tokens: impl Tokens, texts: &dyn TokenText) -> Self {
        PatchMap { ticks: tokens.tokens().iter().map(|&t| texts.token_text(t)).collect(), ..self.clone() }
    }
}

/// Runs `corrupted`, and again with the activation of the `clean` run at one layer and one position at a time.
///
/// `hook` is one with a layer: `Hook::ResidPre`, `Hook::AttnOut`, `Hook::MlpOut`. Both inputs are `[batch, pos]`, alike
/// in shape; the `i`-th sequence is patched from the `i`-th.
///
/// ```
/// use onelens::circuits::{LogitDifference, patch_positions};
/// use onelens::{model::{Config, Hook, Transformer}, ndarray::array};
/// let model = Transformer::new(Config { d_vocab: 5, n_layers: 2, ..Default::default() })?;
/// let question = LogitDifference { correct: vec![3], wrong: vec![4], pos: None };
/// // The inputs differ at position 1 alone. There the first stream restores everything, and position 0 nothing.
/// let map = patch_positions(&model, &array![[0, 1, 2]], &array![[0, 4, 2]], Hook::ResidPre, &question)?;
/// assert_eq!(map.values.dim(), (2, 3));
/// assert_eq!((map.values[(0, 0)], map.values[(0, 1)]), (0.0, 1.0));
/// # Ok::<(), onelens::Error>(())
/// ```
pub fn patch_positions(
    model: &Transformer,
    clean: &Array2<u32>,
    corrupted: &Array2<u32>,
    hook: fn(usize) -> Hook,
    question: &LogitDifference,
) -> Result<PatchMap> {
    let n_pos = corrupted.ncols();
    patch(model, clean, corrupted, hook, question, "position", n_pos, |patch, pos| patch.at(pos))
}

/// Does the same for one head at a time, at all positions: `hook` is `Hook::Z`, `Hook::Result`, `Hook::Q`,
/// `Hook::Pattern` and their like.
pub fn patch_heads(
    model: &Transformer,
    clean: &Array2<u32>,
    corrupted: &Array2<u32>,
    hook: fn(usize) -> Hook,
    question: &LogitDifference,
) -> Result<PatchMap> {
    let n_heads = hook(0).n_heads(&model.config);
    patch(model, clean, corrupted, hook, question, "head", n_heads, |patch, head| patch.head(head))
}

#[allow(clippy::too_many_arguments)] // Two public functions with five share it.
fn patch(
    model: &Transformer,
    clean: &Array2<u32>,
    corrupted: &Array2<u32>,
    hook: fn(usize) -> Hook,
    question: &LogitDifference,
    columns: &str,
    n_columns: usize,
    choose: impl Fn(Intervention, usize) -> Intervention + Sync,
) -> Result<PatchMap> {
    if clean.dim() != corrupted.dim() {
        return Err(Error::new(
            ErrorKind::Shape,
            format!("the clean input is {:?}, the corrupted one {:?}", clean.dim(), corrupted.dim()),
            "give inputs of the same shape, so that every position has its counterpart",
        ));
    }
    let n_layers = model.config.n_layers;
    let (logits, cache): (_, ActivationCache) =
        model.run_with_cache_of(clean, &[], &|h| h.layer().is_some_and(|l| h == hook(l)))?;
    let clean = question.of(&logits)?;
    let corrupted_difference = question.of(&model.forward(corrupted)?)?;
    let effect = clean - corrupted_difference;
    if effect.is_nan() || effect.abs() <= 1e-6 {
        return Err(Error::new(
            ErrorKind::Numeric,
            format!(
                "the clean run answers {clean}, the corrupted one {corrupted_difference}: nothing to restore"
            ),
            "corrupt the input where it changes the answer",
        ));
    }
    // One run for each square.
    let model = &*model.expanded();
    let mut values = Array2::zeros((n_layers, n_columns));
    let mut progress = Progress::new("patching", n_layers * n_columns);
    for (l, mut row) in values.outer_iter_mut().enumerate() {
        if session::interrupted() {
            return Err(Error::new(
                ErrorKind::Interrupted,
                format!("interrupted after {l} of {n_layers} layers"),
                "run the cell again",
            ));
        }
        let whole = Intervention::patch(hook(l), &cache)?;
        let restored: Result<Vec<f64>> = (0..n_columns)
            .into_par_iter()
            .map(|column| {
                let logits = model.run_with(corrupted, &[choose(whole.clone(), column)])?;
                Ok((question.of(&logits)? - corrupted_difference) / effect)
            })
            .collect();
        row.assign(&ndarray::Array1::from(restored?));
        progress.update((l + 1) * n_columns, || format!("layer {l}"));
    }
    progress.finish(&format!("{} runs", n_layers * n_columns));
    Ok(PatchMap {
        hook: hook(0).to_string().replacen(".0.", ".*.", 1),
        columns: columns.into(),
        ticks: Vec::new(),
        values,
        clean,
        corrupted: corrupted_difference,
    })
}
