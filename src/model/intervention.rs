//! Changes made to activations while a network runs.

use ndarray::{Array, ArrayD, Axis, Dimension, IxDyn};

use super::hook::Axes;
use super::{ActivationCache, Config, Hook};
use crate::{Error, ErrorKind, Result};

/// What is done to the activation at a hook: everywhere, or at chosen positions and heads.
///
/// ```
/// use onelens::{model::{Config, Hook, Intervention, Transformer}, ndarray::array};
/// let model = Transformer::new(Config { d_vocab: 5, ..Default::default() })?;
/// let tokens = array![[0, 1, 2]];
/// let without_head = model.run_with(&tokens, &[Intervention::zero(Hook::Z(2)).head(1)])?;
/// assert_ne!(without_head, model.forward(&tokens)?);
/// // Nothing is added to nothing.
/// let same = model.run_with(&tokens, &[Intervention::add(Hook::ResidPre(0), array![0.0])])?;
/// assert_eq!(same, model.forward(&tokens)?);
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Intervention {
    /// Where.
    pub hook: Hook,
    /// What.
    pub change: Change,
    /// At which positions; for scores and patterns, of which queries. `None`: all.
    pub positions: Option<Vec<usize>>,
    /// At which heads; for keys and values, key/value heads. `None`: all.
    pub heads: Option<Vec<usize>>,
}

/// What happens to an activation. The numbers are spread over the shape of the activation as NumPy does.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// These take its place; no gradient flows back through them.
    Replace(ArrayD<f32>),
    /// These are added; the gradient flows as before.
    Add(ArrayD<f32>),
}

impl Intervention {
    /// Zero ablation.
    pub fn zero(hook: Hook) -> Self {
        Self::new(hook, Change::Replace(ArrayD::zeros(IxDyn(&[]))))
    }

    /// Puts `value` in the activation's place. Its shape is the hook's, or one that spreads to it: `[d_model]` for the same
    /// vector everywhere.
    pub fn replace<D: Dimension>(hook: Hook, value: Array<f32, D>) -> Self {
        Self::new(hook, Change::Replace(value.into_dyn()))
    }

    /// Adds `value`, for example a steering vector. Shapes as in [`replace`](Intervention::replace).
    pub fn add<D: Dimension>(hook: Hook, value: Array<f32, D>) -> Self {
        Self::new(hook, Change::Add(value.into_dyn()))
    }

    /// Puts the activation of another run in its place. With several sequences the `i`-th takes from the `i`-th.
    pub fn patch(hook: Hook, from: &ActivationCache) -> Result<Self> {
        Ok(Self::new(hook, Change::Replace(from.get(hook)?)))
    }

    /// Mean ablation: the mean over the sequences and positions of another run; for scores and patterns, over its sequences.
    pub fn mean(hook: Hook, over: &ActivationCache) -> Result<Self> {
        let all = over.view(hook)?;
        let mut mean = all.mean_axis(Axis(0)).expect("a cache has sequences");
        if !matches!(hook, Hook::AttnScores(_) | Hook::Pattern(_)) {
            mean = mean.mean_axis(Axis(0)).expect("a cache has positions");
        }
        Ok(Self::new(hook, Change::Replace(mean)))
    }

    fn new(hook: Hook, change: Change) -> Self {
        Intervention { hook, change, positions: None, heads: None }
    }

    /// Only at this position; for scores and patterns, of this query. More calls add more.
    pub fn at(mut self, position: usize) -> Self {
        self.positions.get_or_insert_default().push(position);
        self
    }

    /// Only at this head. More calls add more.
    pub fn head(mut self, head: usize) -> Self {
        self.heads.get_or_insert_default().push(head);
        self
    }

    /// Refuses what cannot be done to a batch of this shape.
    pub(crate) fn check(&self, config: &Config, n_seqs: usize, n_pos: usize) -> Result<()> {
        self.hook.check(config)?;
        let hook = self.hook;
        let shape = hook.shape(config, n_seqs, n_pos);
        let (Change::Replace(value) | Change::Add(value)) = &self.change;
        if value.broadcast(shape.clone()).is_none() {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("a value of shape {:?} does not spread to {shape:?} at `{hook}`", value.shape()),
                "give a value of that shape, or of its last axes, or a single number",
            ));
        }
        let outside = |chosen: &Option<Vec<usize>>, n| chosen.iter().flatten().copied().find(|&i| i >= n);
        if let Some(position) = outside(&self.positions, n_pos) {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("there is no position {position} at `{hook}` in sequences of {n_pos}"),
                format!("positions are 0 to {}", n_pos - 1),
            ));
        }
        match (hook.axes(config), &self.heads) {
            (Axes::Rows(_), Some(_)) => Err(Error::new(
                ErrorKind::Shape,
                format!("`{hook}` has no heads to choose from"),
                "leave `.head(..)` out, or change `attn.hook_z` or `attn.hook_result` of a head",
            )),
            (Axes::Heads(n, _) | Axes::Pattern(n), heads) => match outside(heads, n) {
                None => Ok(()),
                Some(head) => Err(Error::new(
                    ErrorKind::Shape,
                    format!("there is no head {head} at `{hook}`, which has {n}"),
                    format!("heads are 0 to {}", n - 1),
                )),
            },
            (Axes::Rows(_), None) => Ok(()),
        }
    }
}
