//! Moments kept apart by groups of sequences, so that some can be left out later.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ndarray::{Array2, Array3, Axis};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Conditioning, LayerLenses, LayerMoments, RidgePath, Scale, Target, Towards};
use crate::model::Transformer;
use crate::num::{Rng, uniform_index};
use crate::{Error, ErrorKind, Result, record};

/// One [`LayerMoments`] for each group of whole sequences. Cross-validation leaves groups out, the bootstrap draws them
/// with replacement; neither looks at data again. Tokens of one sequence depend on each other, so a sequence is never
/// split.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupedMoments {
    /// At least one, all of one model.
    pub groups: Vec<LayerMoments>,
}

/// The ridge path of every layer, each with the penalty that predicts left-out groups best.
#[derive(Clone, Debug)]
pub struct RidgeChoice {
    /// The penalties tried, as given.
    pub lambdas: Vec<f64>,
    /// Mean squared error on groups left out, `[residual stream, lambda]`.
    pub held_out: Array2<f64>,
    /// Generalised cross-validation on all groups, `[residual stream, lambda]`.
    pub gcv: Array2<f64>,
    /// Which penalty has the least held-out error, one per residual stream.
    pub best: Vec<usize>,
    /// How well each residual stream determines its lens.
    pub conditioning: Vec<Conditioning>,
    /// The lenses with those penalties, fitted to all groups.
    pub lenses: LayerLenses,
}

const KIND: &str = "grouped-moments";
/// 2: what the lenses predict.
const VERSION: u32 = 2;

impl RidgeChoice {
    /// The place of the penalty that generalised cross-validation would choose for residual stream `layer`.
    pub(crate) fn best_by_gcv(&self, layer: usize) -> usize {
        least(&self.gcv.row(layer).to_vec())
    }
}

impl GroupedMoments {
    /// Runs `model` over `tokens: [sequence, pos]`; sequence `i` goes to group `i mod n_groups`.
    ///
    /// Fails with no group or more groups than sequences, and where [`LayerMoments::collect`] does.
    pub fn collect(model: &Transformer, tokens: &Array2<u32>, n_groups: usize) -> Result<Self> {
        Self::collect_with(model, tokens, n_groups, Scale::default(), Target::default())
    }

    /// Does the same for lenses that read streams at another scale, or predict another target.
    ///
    /// Fails, besides, where [`LayerMoments::collect_with`] does.
    pub fn collect_with(
        model: &Transformer,
        tokens: &Array2<u32>,
        n_groups: usize,
        scale: Scale,
        target: Target,
    ) -> Result<Self> {
        Self::by_group(tokens.nrows(), n_groups, |rows| {
            LayerMoments::collect_with(model, &tokens.select(Axis(0), rows), scale, target)
        })
    }

    /// Does the same with `numbers: [sequence, pos, d_z]` from outside of the model.
    ///
    /// Fails, besides, where [`LayerMoments::collect_given`] does.
    pub fn collect_given(
        model: &Transformer,
        tokens: &Array2<u32>,
        numbers: &Array3<f32>,
        n_groups: usize,
    ) -> Result<Self> {
        if numbers.len_of(Axis(0)) != tokens.nrows() {
            // The message of who knows what the numbers have to be.
            LayerMoments::collect_given(model, tokens, numbers)?;
        }
        Self::by_group(tokens.nrows(), n_groups, |rows| {
            let (tokens, numbers) = (tokens.select(Axis(0), rows), numbers.select(Axis(0), rows));
            LayerMoments::collect_given(model, &tokens, &numbers)
        })
    }

    /// Sequence `i` of `n_seqs` in group `i mod n_groups`.
    fn by_group(
        n_seqs: usize,
        n_groups: usize,
        collect: impl Fn(&[usize]) -> Result<LayerMoments>,
    ) -> Result<Self> {
        if n_groups == 0 || n_groups > n_seqs {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{n_seqs} sequences cannot make {n_groups} groups"),
                format!("ask for 1 to {n_seqs} groups; 5 or 10 are usual"),
            ));
        }
        let groups = (0..n_groups).map(|k| {
            let rows: Vec<usize> = (k..n_seqs).step_by(n_groups).collect();
            collect(&rows)
        });
        Ok(GroupedMoments { groups: groups.collect::<Result<_>>()? })
    }

    /// Sums the moments of all groups together.
    pub fn all(&self) -> Result<LayerMoments> {
        self.sum(0..self.groups.len())
    }

    /// Sums the moments of all groups but one anew: subtracting would lose digits.
    pub fn without(&self, group: usize) -> Result<LayerMoments> {
        if group >= self.groups.len() {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("there is no group {group} among {}", self.groups.len()),
                format!("groups are 0 to {}", self.groups.len() - 1),
            ));
        }
        self.sum((0..self.groups.len()).filter(|&k| k != group))
    }

    /// Draws as many groups as there are, with replacement: one bootstrap sample (Efron 1979).
    pub fn resample(&self, rng: &mut Rng) -> Result<LayerMoments> {
        let drawn: Vec<usize> =
            (0..self.groups.len()).map(|_| uniform_index(rng, self.groups.len())).collect();
        self.sum(drawn.into_iter())
    }

    fn sum(&self, mut groups: impl Iterator<Item = usize>) -> Result<LayerMoments> {
        let Some(first) = groups.next() else {
            return Err(Error::new(
                ErrorKind::Config,
                format!("nothing is left of {} group", self.groups.len()),
                "collect at least two groups",
            ));
        };
        let mut sum = self.groups[first].clone();
        groups.try_for_each(|k| sum.merge(&self.groups[k]))?;
        Ok(sum)
    }

    /// Fits every layer with each penalty to all groups but one, measures the error on that one, for each group in
    /// turn, and takes for each layer the penalty with the least. Touches no data: the error follows from the moments.
    ///
    /// Fails with fewer than two groups, without penalties, or where a penalty cannot be fitted.
    pub fn choose_ridge(&self, lambdas: &[f64], towards: Towards) -> Result<RidgeChoice> {
        let began = Instant::now();
        if lambdas.is_empty() {
            return Err(Error::new(
                ErrorKind::Config,
                "no lambda to choose from",
                "pass some, for example 1e-6, 1e-5, .. 1e2",
            ));
        }
        let all = self.all()?;
        let left: Vec<LayerMoments> =
            (0..self.groups.len()).into_par_iter().map(|k| self.without(k)).collect::<Result<_>>()?;
        let layers: Vec<(Vec<f64>, RidgePath)> = (0..all.layers.len())
            .into_par_iter()
            .map(|l| {
                let mut held_out = vec![0.0; lambdas.len()];
                for (train, test) in left.iter().zip(&self.groups) {
                    let test = &test.layers[l];
                    let errors = RidgePath::new(&train.layers[l], towards)?.mse(lambdas, test)?;
                    let share = test.weight / all.layers[l].weight;
                    held_out.iter_mut().zip(errors).for_each(|(sum, e)| *sum += share * e);
                }
                Ok((held_out, RidgePath::new(&all.layers[l], towards)?))
            })
            .collect::<Result<_>>()?;
        let table = |rows: Vec<f64>| {
            Array2::from_shape_vec((layers.len(), lambdas.len()), rows).expect("one row per layer")
        };
        let held_out = table(layers.iter().flat_map(|(errors, _)| errors.clone()).collect());
        let gcv: Vec<Vec<f64>> = layers.iter().map(|(_, path)| path.gcv(lambdas)).collect::<Result<_>>()?;
        let best: Vec<usize> = held_out.rows().into_iter().map(|errors| least(&errors.to_vec())).collect();
        let fitted = layers.iter().zip(&best).map(|((_, path), &i)| Ok(Arc::new(path.fit(lambdas[i])?)));
        let lenses = LayerLenses::new("own lens, lambda chosen", &all, fitted.collect::<Result<_>>()?, began);
        Ok(RidgeChoice {
            lambdas: lambdas.to_vec(),
            gcv: table(gcv.into_iter().flatten().collect()),
            conditioning: layers.iter().map(|(_, path)| path.conditioning()).collect(),
            held_out,
            best,
            lenses,
        })
    }

    /// Saves these moments; written under a temporary name first.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        record::save(path.as_ref(), KIND, VERSION, self)
    }

    /// Reads saved moments. A file that is cut off, damaged or something else is refused.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let grouped: GroupedMoments = record::load(path, KIND, VERSION)?;
        match grouped.groups.iter().flat_map(|g| &g.layers).find_map(|m| m.check_shapes().err()) {
            None => Ok(grouped),
            Some(what) => Err(Error::new(
                ErrorKind::File,
                format!("{} {what}", path.display()),
                "save the moments anew",
            )),
        }
    }
}

/// The place of the least value, the first of equals.
fn least(values: &[f64]) -> usize {
    (0..values.len()).min_by(|&i, &j| values[i].total_cmp(&values[j])).unwrap_or(0)
}

impl std::fmt::Debug for GroupedMoments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let n: u64 = self.groups.iter().map(LayerMoments::n).sum();
        write!(f, "GroupedMoments: {} groups, {n} tokens", self.groups.len())
    }
}
