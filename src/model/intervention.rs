//! Changes made to activations while a network runs.

use std::fmt;
use std::sync::Arc;

use ndarray::{Array, ArrayD, ArrayViewMutD, Axis, Dimension, IxDyn};

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
#[derive(Clone)]
pub enum Change {
    /// These take its place; no gradient flows back through them.
    Replace(ArrayD<f32>),
    /// These are added; the gradient flows as before.
    Add(ArrayD<f32>),
    /// A function of the sequence's number in the batch and its activation changes it in place; there is no gradient
    /// through it.
    Map(Function),
}

/// What [`Intervention::map`] is given.
pub type Function = Arc<dyn Fn(usize, ArrayViewMutD<f32>) + Send + Sync>;

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Replace(value) => f.debug_tuple("Replace").field(value).finish(),
            Change::Add(value) => f.debug_tuple("Add").field(value).finish(),
            Change::Map(_) => f.write_str("Map(a function)"),
        }
    }
}

/// Two functions are equal if they are one.
impl PartialEq for Change {
    fn eq(&self, other: &Change) -> bool {
        match (self, other) {
            (Change::Replace(a), Change::Replace(b)) | (Change::Add(a), Change::Add(b)) => a == b,
            (Change::Map(a), Change::Map(b)) => Arc::ptr_eq(a, b),
            (Change::Replace(_) | Change::Add(_) | Change::Map(_), _) => false,
        }
    }
}

impl Intervention {
    /// Replaces the activation by zeros (zero ablation).
    pub fn zero(hook: Hook) -> Self {
        Self::new(hook, Change::Replace(ArrayD::zeros(IxDyn(&[]))))
    }

    /// Puts `value` in the activation's place. Its shape is the hook's, or one that spreads to it: `[d_model]` for the
    /// same vector everywhere.
    pub fn replace<D: Dimension>(hook: Hook, value: Array<f32, D>) -> Self {
        Self::new(hook, Change::Replace(value.into_dyn()))
    }

    /// Adds `value`, for example a steering vector. Shapes as in [`replace`](Intervention::replace).
    pub fn add<D: Dimension>(hook: Hook, value: Array<f32, D>) -> Self {
        Self::new(hook, Change::Add(value.into_dyn()))
    }

    /// Lets a function change the activation in place, as a hook function of TransformerLens does. It is called once
    /// for each sequence (and each position and head that is [chosen](Intervention::at)), with the number of the
    /// sequence in the batch and its activation: the hook's axes without `batch`.
    ///
    /// Gradients cannot be taken through it.
    ///
    /// ```
    /// use onelens::{model::{Config, Hook, Intervention, Transformer}, ndarray::array};
    /// let model = Transformer::new(Config { d_vocab: 5, ..Default::default() })?;
    /// let tokens = array![[0, 1, 2]];
    /// let halved = Intervention::map(Hook::ResidPre(3), |_, mut x| x *= 0.5);
    /// let flipped = Intervention::map(Hook::ResidPre(3), |_, mut x| x *= -1.0).at(2);
    /// assert_ne!(model.run_with(&tokens, &[halved])?, model.run_with(&tokens, &[flipped])?);
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn map(hook: Hook, change: impl Fn(usize, ArrayViewMutD<f32>) + Send + Sync + 'static) -> Self {
        Self::new(hook, Change::Map(Arc::new(change)))
    }

    /// Puts the activation of another run in its place. With several sequences the `i`-th takes from the `i`-th.
    pub fn patch(hook: Hook, from: &ActivationCache) -> Result<Self> {
        Ok(Self::new(hook, Change::Replace(from.get(hook)?)))
    }

    /// Replaces the activation by a mean (mean ablation), the one over the sequences and positions of another run; for
    /// scores and patterns, over its sequences.
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

    /// Restricts the change to this position, or for scores and patterns to this query. More calls add more.
    pub fn at(mut self, position: usize) -> Self {
        self.positions.get_or_insert_default().push(position);
        self
    }

    /// Restricts the change to this head. More calls add more.
    pub fn head(mut self, head: usize) -> Self {
        self.heads.get_or_insert_default().push(head);
        self
    }

    /// Refuses what cannot be done to a batch of this shape.
    pub(crate) fn check(&self, config: &Config, n_seqs: usize, n_pos: usize) -> Result<()> {
        self.hook.check(config)?;
        let hook = self.hook;
        let shape = hook.shape(config, n_seqs, n_pos);
        if let Change::Replace(value) | Change::Add(value) = &self.change
            && value.broadcast(shape.clone()).is_none()
        {
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

    /// Refuses a function where a gradient is asked for.
    pub(crate) fn check_gradient(&self) -> Result<()> {
        match self.change {
            Change::Replace(_) | Change::Add(_) => Ok(()),
            Change::Map(_) => Err(Error::new(
                ErrorKind::Config,
                format!("a function changes `{}`, and there is no gradient through it", self.hook),
                "take the gradient with `Intervention::replace` or `Intervention::add`",
            )),
        }
    }

    /// The same for some sequences of the batch and some of their positions, both in order, as if there were no others.
    pub(crate) fn restricted(
        &self,
        config: &Config,
        (n_seqs, n_pos): (usize, usize),
        seqs: &[usize],
        kept: &[usize],
    ) -> Self {
        let of = |value: &ArrayD<f32>| -> ArrayD<f32> {
            if value.len() == 1 {
                return value.clone();
            }
            let all = value.broadcast(self.hook.shape(config, n_seqs, n_pos));
            let mut part = all.expect("interventions were checked").select(Axis(0), seqs);
            for &axis in self.hook.axes(config).positions() {
                part = part.select(axis, kept);
            }
            part
        };
        let change = match &self.change {
            Change::Replace(value) => Change::Replace(of(value)),
            Change::Add(value) => Change::Add(of(value)),
            Change::Map(change) => {
                let (change, seqs) = (change.clone(), seqs.to_vec());
                Change::Map(Arc::new(move |seq, x| change(seqs[seq], x)))
            }
        };
        let place = |&position: &usize| kept.iter().position(|&k| k == position);
        let positions = self.positions.as_ref().map(|all| all.iter().filter_map(place).collect());
        Intervention { hook: self.hook, change, positions, heads: self.heads.clone() }
    }
}
