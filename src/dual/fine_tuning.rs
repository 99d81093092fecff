//! In-context learning beside fine-tuning: do demonstrations in the context move a query as training on them would?

use ndarray::{Array1, Array2, Axis, s};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::heads::cosine;
use crate::model::{Hook, Transformer};
use crate::num::{log_softmax_rows, mean_and_standard_error, rng, uniform_index};
use crate::{Error, ErrorKind, Result};

/// A question with demonstrations of how such questions are answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demonstrated {
    /// Questions with their answers, the answer last: `[n, len]`.
    pub demonstrations: Array2<u32>,
    /// The question.
    pub query: Vec<u32>,
    /// Its answer.
    pub answer: u32,
}

/// Fine-tuning of keys and values, as Dai et al. 2022 compare it with in-context learning.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FineTuning {
    /// Step size.
    pub lr: f64,
    /// Layer by layer, as in-context learning has to do it: each layer learns from the error that its own output makes
    /// when it is decoded, and the layers above learn from what it then gives (Deutch et al. 2024). Otherwise every
    /// layer learns from the error at the top.
    pub layer_causal: bool,
}

impl Default for FineTuning {
    fn default() -> Self {
        FineTuning { lr: 0.1, layer_causal: false }
    }
}

/// Cosines between what in-context learning and what fine-tuning add to the attention output at the query, by layer;
/// means over questions with standard errors (the "similarity of attention output updates" of Dai et al. 2022).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpdateSimilarity {
    /// With fine-tuning of all layers at once.
    pub fine_tuning: Vec<(f64, f64)>,
    /// With layer-causal fine-tuning.
    pub layer_causal: Vec<(f64, f64)>,
    /// With the update that another question's demonstrations bring: what any demonstrations do.
    pub other_context: Vec<(f64, f64)>,
}

/// How much the order of the demonstrations matters: standard deviation over orders of the answer's log-probability,
/// mean over questions with its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OrderSensitivity {
    /// Of in-context learning.
    pub in_context: (f64, f64),
    /// Of fine-tuning, one step for each demonstration in order.
    pub fine_tuning: (f64, f64),
    /// Of layer-causal fine-tuning, likewise.
    pub layer_causal: (f64, f64),
}

impl FineTuning {
    /// Returns the model after one step on all `demonstrations: [n, len]` together, on the loss of every token but the
    /// first.
    pub fn step(&self, model: &Transformer, demonstrations: &Array2<u32>) -> Result<Transformer> {
        if !(self.lr > 0.0 && self.lr.is_finite()) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("lr is {}", self.lr),
                "set lr to a positive number",
            ));
        }
        let mut tuned = model.clone();
        if !self.layer_causal {
            let (_, grad) = model.loss_and_grad(demonstrations)?;
            for (block, grad) in tuned.params.blocks.iter_mut().zip(&grad.blocks) {
                block.w_k.scaled_add(-self.lr as f32, &grad.w_k);
                block.w_v.scaled_add(-self.lr as f32, &grad.w_v);
            }
            return Ok(tuned);
        }
        for l in 0..model.config.n_layers {
            let mut lower = tuned.clone();
            lower.config.n_layers = l + 1;
            lower.params.blocks.truncate(l + 1);
            let (_, grad) = lower.loss_and_grad(demonstrations)?;
            let (block, grad) = (&mut tuned.params.blocks[l], &grad.blocks[l]);
            block.w_k.scaled_add(-self.lr as f32, &grad.w_k);
            block.w_v.scaled_add(-self.lr as f32, &grad.w_v);
        }
        Ok(tuned)
    }

    fn both(lr: f64) -> [FineTuning; 2] {
        [false, true].map(|layer_causal| FineTuning { lr, layer_causal })
    }
}

impl UpdateSimilarity {
    /// Compares over `questions`; `lr` is the step size of both kinds of fine-tuning, which the cosine hardly depends
    /// on if it is small.
    ///
    /// Fails with fewer than two questions, on looped blocks, and where the model refuses the tokens.
    pub fn new(model: &Transformer, questions: &[Demonstrated], lr: f64) -> Result<Self> {
        check(model, questions)?;
        let contexts: Vec<Vec<Array1<f64>>> = questions
            .par_iter()
            .map(|q| {
                let (with, _) = ask(model, &in_context(q))?;
                let (without, _) = ask(model, &q.query)?;
                Ok(with.iter().zip(&without).map(|(a, b)| a - b).collect())
            })
            .collect::<Result<_>>()?;
        let cosines: Vec<[Vec<f64>; 3]> = questions
            .par_iter()
            .enumerate()
            .map(|(i, q)| {
                let (without, _) = ask(model, &q.query)?;
                let against = |other: Vec<Array1<f64>>| -> Vec<f64> {
                    contexts[i].iter().zip(&other).map(|(a, b)| cosine(a.view(), b.view())).collect()
                };
                let mut tuned = Vec::new();
                for how in FineTuning::both(lr) {
                    let (with, _) = ask(&how.step(model, &q.demonstrations)?, &q.query)?;
                    tuned.push(against(with.iter().zip(&without).map(|(a, b)| a - b).collect()));
                }
                let layer_causal = tuned.pop().expect("two kinds");
                let fine_tuning = tuned.pop().expect("two kinds");
                // The same question after another one's demonstrations.
                let other = &questions[(i + 1) % questions.len()];
                let swapped = Demonstrated { demonstrations: other.demonstrations.clone(), ..q.clone() };
                let (with, _) = ask(model, &in_context(&swapped))?;
                let other = against(with.iter().zip(&without).map(|(a, b)| a - b).collect());
                Ok([fine_tuning, layer_causal, other])
            })
            .collect::<Result<_>>()?;
        let means = |kind: usize| {
            (0..model.config.n_layers)
                .map(|l| mean_and_standard_error(&cosines.iter().map(|c| c[kind][l]).collect::<Vec<_>>()))
                .collect()
        };
        Ok(UpdateSimilarity { fine_tuning: means(0), layer_causal: means(1), other_context: means(2) })
    }
}

impl OrderSensitivity {
    /// Measures over `questions`, each with its demonstrations in `n_orders` random orders.
    ///
    /// Fails, besides where [`UpdateSimilarity::new`] does, for fewer than two orders.
    pub fn new(
        model: &Transformer,
        questions: &[Demonstrated],
        lr: f64,
        n_orders: usize,
        seed: u64,
    ) -> Result<Self> {
        check(model, questions)?;
        if n_orders < 2 {
            return Err(Error::new(
                ErrorKind::Config,
                format!("the number of orders is {n_orders}"),
                "compare at least two",
            ));
        }
        let spreads: Vec<[f64; 3]> = questions
            .par_iter()
            .enumerate()
            .map(|(i, q)| {
                let mut rng = rng(seed, i as u64);
                let mut answers = [vec![], vec![], vec![]];
                for _ in 0..n_orders {
                    let mut order: Vec<usize> = (0..q.demonstrations.nrows()).collect();
                    for k in (1..order.len()).rev() {
                        order.swap(k, uniform_index(&mut rng, k + 1));
                    }
                    let shuffled = Demonstrated {
                        demonstrations: q.demonstrations.select(Axis(0), &order),
                        ..q.clone()
                    };
                    let log_p = |log_p: Array1<f64>| log_p[q.answer as usize];
                    answers[0].push(log_p(ask(model, &in_context(&shuffled))?.1));
                    for (how, answers) in FineTuning::both(lr).iter().zip(&mut answers[1..]) {
                        let mut tuned = model.clone();
                        for one in shuffled.demonstrations.axis_chunks_iter(Axis(0), 1) {
                            tuned = how.step(&tuned, &one.to_owned())?;
                        }
                        answers.push(log_p(ask(&tuned, &q.query)?.1));
                    }
                }
                Ok(answers.map(|a| {
                    let mean = a.iter().sum::<f64>() / a.len() as f64;
                    (a.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (a.len() - 1) as f64).sqrt()
                }))
            })
            .collect::<Result<_>>()?;
        let mean = |k: usize| mean_and_standard_error(&spreads.iter().map(|s| s[k]).collect::<Vec<_>>());
        Ok(OrderSensitivity { in_context: mean(0), fine_tuning: mean(1), layer_causal: mean(2) })
    }
}

fn check(model: &Transformer, questions: &[Demonstrated]) -> Result<()> {
    if questions.len() < 2 {
        return Err(Error::new(
            ErrorKind::Data,
            format!("the number of questions is {}", questions.len()),
            "pass at least two: means need standard errors",
        ));
    }
    if model.config.n_distinct_blocks() != model.config.n_layers {
        return Err(Error::new(
            ErrorKind::Config,
            "the blocks of this model share their weights, so a layer cannot learn alone",
            "pass a model with `blocks: Blocks::Distinct`",
        ));
    }
    match questions.iter().find(|q| {
        q.demonstrations.ncols() < 2
            || q.demonstrations.nrows() == 0
            || q.query.is_empty()
            || q.answer as usize >= model.config.d_vocab
    }) {
        None => Ok(()),
        Some(q) => Err(Error::new(
            ErrorKind::Data,
            format!(
                "a question of {} tokens with demonstrations {:?} and the answer {} cannot be asked",
                q.query.len(),
                q.demonstrations.dim(),
                q.answer
            ),
            format!(
                "a question has a token, its demonstrations a question and an answer each, and answers are 0 to {}",
                model.config.d_vocab - 1
            ),
        )),
    }
}

/// The demonstrations one after another, then the question.
fn in_context(q: &Demonstrated) -> Vec<u32> {
    q.demonstrations.iter().chain(&q.query).copied().collect()
}

/// At the last position: the attention output of every layer, and the log-probabilities.
fn ask(model: &Transformer, tokens: &[u32]) -> Result<(Vec<Array1<f64>>, Array1<f64>)> {
    let tokens = Array2::from_shape_vec((1, tokens.len()), tokens.to_vec()).expect("one row");
    let (logits, cache) = model.run_with_cache_of(&tokens, &[], &|hook| matches!(hook, Hook::AttnOut(_)))?;
    let last = tokens.ncols() - 1;
    let outs = (0..model.config.n_layers)
        .map(|l| Ok(cache.attn_out(l)?.slice(s![0, last, ..]).mapv(f64::from)))
        .collect::<Result<_>>()?;
    let log_p = log_softmax_rows(logits.slice(s![0, last..=last, ..])).row(0).mapv(f64::from);
    Ok((outs, log_p))
}
