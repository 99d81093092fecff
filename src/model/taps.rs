//! What a pass does at each hook: change the activation, and keep it.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::{Array, Array2, ArrayD, ArrayViewD, ArrayViewMutD, Axis, CowArray, Dimension, Ix2, Slice};

use super::hook::Axes;
use super::intervention::Change;
use super::{Config, Hook, Intervention};

/// The hooks of one part of a batch. Without interventions and with nothing to keep, it does nothing at all.
pub(crate) struct Taps<'a> {
    config: &'a Config,
    interventions: &'a [Intervention],
    /// Where this part begins in the batch, and how many sequences the batch has.
    first_seq: usize,
    batch: usize,
    n_pos: usize,
    /// This part of each array that is kept.
    kept: BTreeMap<Hook, ArrayViewMutD<'a, f32>>,
    /// The hooks that were kept already; the others hold what was there before.
    written: BTreeSet<Hook>,
    /// Whether layers keep what a backward pass needs.
    tape: bool,
}

/// What was not reached is zero.
impl Drop for Taps<'_> {
    fn drop(&mut self) {
        let unwritten = self.kept.iter_mut().filter(|(hook, _)| !self.written.contains(hook));
        unwritten.for_each(|(_, kept)| kept.fill(0.0));
    }
}

impl<'a> Taps<'a> {
    /// Hooks that change and keep nothing.
    pub(crate) fn none(config: &'a Config) -> Self {
        Taps {
            config,
            interventions: &[],
            first_seq: 0,
            batch: 0,
            n_pos: 0,
            kept: BTreeMap::new(),
            written: BTreeSet::new(),
            tape: true,
        }
    }

    /// Hooks of the part that begins at `first_seq` of a batch of `batch` sequences with `n_pos` positions; the
    /// interventions were checked against it.
    pub(crate) fn new(
        config: &'a Config,
        interventions: &'a [Intervention],
        first_seq: usize,
        (batch, n_pos): (usize, usize),
        kept: BTreeMap<Hook, ArrayViewMutD<'a, f32>>,
    ) -> Self {
        Taps { config, interventions, first_seq, batch, n_pos, kept, written: BTreeSet::new(), tape: true }
    }

    /// The same for a pass that nobody goes back through: layers need not keep what they did.
    pub(crate) fn without_tape(mut self) -> Self {
        self.tape = false;
        self
    }

    /// Whether layers keep what a backward pass needs.
    pub(crate) fn keeps_tape(&self) -> bool {
        self.tape
    }

    /// Whether the activation is changed here.
    pub(crate) fn changes(&self, hook: Hook) -> bool {
        self.interventions.iter().any(|i| i.hook == hook)
    }

    /// Whether anything happens here.
    pub(crate) fn wants(&self, hook: Hook) -> bool {
        self.kept.contains_key(&hook) || self.changes(hook)
    }

    /// Changes the activation, then keeps it.
    pub(crate) fn forward<D: Dimension>(&mut self, hook: Hook, x: &mut Array<f32, D>) {
        if !self.wants(hook) {
            return;
        }
        let mut x = self.shaped(hook, x);
        for i in self.interventions.iter().filter(|i| i.hook == hook) {
            for region in self.regions(i) {
                let mut x = x.view_mut();
                region.iter().for_each(|&(axis, range)| x.slice_axis_inplace(axis, range));
                let n_seqs = x.len_of(Axis(0));
                let value = |value| {
                    let mut value = self.part_of(value, hook, n_seqs);
                    region.iter().for_each(|&(axis, range)| value.slice_axis_inplace(axis, range));
                    value
                };
                match &i.change {
                    Change::Replace(by) => x.assign(&value(by)),
                    Change::Add(what) => {
                        let what = value(what);
                        x += &what;
                    }
                    Change::Map(change) => {
                        let sequences = x.outer_iter_mut().enumerate();
                        sequences.for_each(|(i, x)| change(self.first_seq + i, x));
                    }
                }
            }
        }
        self.copy(hook, x.as_slice());
    }

    /// Keeps an activation that is not changed.
    pub(crate) fn keep(&mut self, hook: Hook, x: &Array2<f32>) {
        self.copy(hook, x.as_slice());
    }

    /// Where an activation that is not changed is kept, for whoever computes it to write all of it there, row by row.
    pub(crate) fn place(&mut self, hook: Hook) -> Option<&mut [f32]> {
        let kept = self.kept.get_mut(&hook)?;
        self.written.insert(hook);
        Some(kept.as_slice_mut().expect("kept in one piece"))
    }

    /// [`place`](Taps::place) of two hooks.
    pub(crate) fn places(&mut self, hooks: [Hook; 2]) -> [Option<&mut [f32]>; 2] {
        let mut places = [None, None];
        for (hook, kept) in &mut self.kept {
            if let Some(i) = hooks.iter().position(|wanted| wanted == hook) {
                self.written.insert(*hook);
                places[i] = Some(kept.as_slice_mut().expect("kept in one piece"));
            }
        }
        places
    }

    /// Keeps numbers that lie row by row.
    fn copy(&mut self, hook: Hook, from: Option<&[f32]>) {
        if let Some(to) = self.place(hook) {
            to.copy_from_slice(from.expect("an activation is stored row by row"));
        }
    }

    /// Keeps the gradient of the activation, then stops it where the activation was replaced.
    pub(crate) fn backward<D: Dimension>(&mut self, hook: Hook, dx: &mut Array<f32, D>) {
        if !self.wants(hook) {
            return;
        }
        let mut dx = self.shaped(hook, dx);
        self.copy(hook, dx.as_slice());
        for i in self.interventions.iter().filter(|i| i.hook == hook) {
            match i.change {
                Change::Add(_) => continue,
                // Nobody asks for a gradient through a function: it was refused.
                Change::Replace(_) | Change::Map(_) => {}
            }
            for region in self.regions(i) {
                let mut dx = dx.view_mut();
                region.into_iter().for_each(|(axis, range)| dx.slice_axis_inplace(axis, range));
                dx.fill(0.0);
            }
        }
    }

    /// The gradient on a branch of the network that begins at `hook`: `dx` itself, or a copy that the hook has changed.
    pub(crate) fn branch<'x>(&mut self, hook: Hook, dx: &'x Array2<f32>) -> CowArray<'x, f32, Ix2> {
        if !self.wants(hook) {
            return dx.view().into();
        }
        let mut branch = dx.clone();
        self.backward(hook, &mut branch);
        branch.into()
    }

    /// The activation with the axes of its hook.
    fn shaped<'x, D: Dimension>(&self, hook: Hook, x: &'x mut Array<f32, D>) -> ArrayViewMutD<'x, f32> {
        let width: usize = match hook.axes(self.config) {
            Axes::Rows(width) => width,
            Axes::Heads(heads, width) => heads * width,
            Axes::Pattern(heads) => heads * self.n_pos,
        };
        let n_seqs = x.len() / (width * self.n_pos);
        let shape = hook.shape(self.config, n_seqs, self.n_pos);
        let numbers = x.as_slice_mut().expect("an activation is stored row by row");
        ArrayViewMutD::from_shape(shape, numbers).expect("an activation has the shape of its hook")
    }

    /// The value spread over the batch, of which these `n_seqs` sequences are taken.
    fn part_of<'v>(&self, value: &'v ArrayD<f32>, hook: Hook, n_seqs: usize) -> ArrayViewD<'v, f32> {
        let shape = hook.shape(self.config, self.batch, self.n_pos);
        let mut value = value.broadcast(shape).expect("interventions were checked");
        value.slice_axis_inplace(Axis(0), Slice::from(self.first_seq..self.first_seq + n_seqs));
        value
    }

    /// What an intervention has chosen: one region for each pair of a position and a head.
    fn regions(&self, i: &Intervention) -> Vec<Vec<(Axis, Slice)>> {
        let (pos_axis, head_axis) = match i.hook.axes(self.config) {
            Axes::Pattern(_) => (Axis(2), Axis(1)),
            Axes::Heads(..) | Axes::Rows(_) => (Axis(1), Axis(2)),
        };
        let ranges = |axis: Axis, chosen: &Option<Vec<usize>>| -> Vec<Vec<(Axis, Slice)>> {
            match chosen {
                None => vec![vec![]],
                // Chosen twice is chosen once.
                Some(chosen) => {
                    let once: BTreeSet<usize> = chosen.iter().copied().collect();
                    once.into_iter().map(|at| vec![(axis, Slice::from(at..=at))]).collect()
                }
            }
        };
        let heads = ranges(head_axis, &i.heads);
        let positions = ranges(pos_axis, &i.positions).into_iter();
        positions.flat_map(|p| heads.iter().map(move |h| [p.clone(), h.clone()].concat())).collect()
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn what_a_pass_does_not_reach_is_zero_whatever_was_there_before() {
        let config =
            Config { d_vocab: 5, d_model: 2, d_head: 1, n_heads: 2, n_layers: 1, ..Default::default() };
        let hooks = [Hook::Embed, Hook::ResidPre(0), Hook::ResidPost(0)];
        let mut before = [[7.0_f32; 2]; 3];
        let views =
            before.iter_mut().map(|numbers| ArrayViewMutD::from_shape(vec![1, 1, 2], numbers).unwrap());
        let mut taps = Taps::new(&config, &[], 0, (1, 1), hooks.into_iter().zip(views).collect());
        taps.keep(Hook::Embed, &array![[1.0, 2.0]]);
        taps.forward(Hook::ResidPre(0), &mut array![[3.0, 4.0]]);
        drop(taps);
        assert_eq!(before, [[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]]);
    }
}
