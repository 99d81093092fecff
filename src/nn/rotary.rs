//! Rotary position embedding (Su et al. 2021).

use ndarray::{Array2, ArrayView2};
use serde::{Deserialize, Serialize};

use crate::num::{Real, wide_fn};

/// Which dimensions of a head turn together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pairs {
    /// `(0, 1), (2, 3), ..`, as in the paper, in GPT-J and in llama2.c.
    #[default]
    Adjacent,
    /// `(0, d/2), (1, d/2 + 1), ..`, as in GPT-NeoX and in Llama's Hugging Face form.
    Half,
}

/// The cosines and sines of a range of positions: pair `i` at position `t` turns by `t · theta^(-2i / d_rotary)`.
#[derive(Clone, Debug, PartialEq)]
pub struct RotaryTable<F> {
    pairs: Pairs,
    /// `[pos, d_rotary / 2]`.
    cos: Array2<F>,
    sin: Array2<F>,
}

impl<F: Real> RotaryTable<F> {
    /// Makes the table of positions `0 .. n_pos`. `d_rotary` is even.
    pub fn new(n_pos: usize, d_rotary: usize, theta: f64, pairs: Pairs) -> Self {
        Self::after(0, n_pos, d_rotary, theta, pairs)
    }

    /// Makes the table of `n_pos` positions after the first `past`.
    pub fn after(past: usize, n_pos: usize, d_rotary: usize, theta: f64, pairs: Pairs) -> Self {
        let frequencies: Vec<f64> =
            (0..d_rotary / 2).map(|i| theta.powf(-2.0 * i as f64 / d_rotary as f64)).collect();
        Self::of_frequencies(past, n_pos, &frequencies, 1.0, pairs)
    }

    /// Makes the table where pair `i` turns by `t · frequencies[i]` and becomes `length` times as long.
    pub fn of_frequencies(past: usize, n_pos: usize, frequencies: &[f64], length: f64, pairs: Pairs) -> Self {
        let angle = |(t, i): (usize, usize)| (past + t) as f64 * frequencies[i];
        let shape = (n_pos, frequencies.len());
        RotaryTable {
            pairs,
            cos: Array2::from_shape_fn(shape, |at| F::of(length * angle(at).cos())),
            sin: Array2::from_shape_fn(shape, |at| F::of(length * angle(at).sin())),
        }
    }

    fn turn(&self, x: &mut Array2<F>, d_head: usize, direction: F) {
        let (n_pos, n_pairs) = self.cos.dim();
        let width = x.ncols();
        let x = x.as_slice_mut().expect("queries and keys lie row by row");
        let cos = self.cos.as_slice().expect("a table is contiguous");
        let sin = self.sin.as_slice().expect("a table is contiguous");
        for (row, x) in x.chunks_exact_mut(width.max(1)).enumerate() {
            let at = (row % n_pos) * n_pairs;
            turn_row(x, self.pairs, d_head, &cos[at..at + n_pairs], &sin[at..at + n_pairs], direction);
        }
    }
}

wide_fn! {
    fn turn_row<'a, F>(x: &'a mut [F], pairs: Pairs, d_head: usize, cos: &'a [F], sin: &'a [F], direction: F) {
        for head in x.chunks_exact_mut(d_head) {
            match pairs {
                Pairs::Adjacent => {
                    for (i, pair) in head.as_chunks_mut::<2>().0[..cos.len()].iter_mut().enumerate() {
                        let ([a, b], cos, sin) = (*pair, cos[i], sin[i]);
                        *pair = [a * cos - b * direction * sin, a * direction * sin + b * cos];
                    }
                }
                Pairs::Half => {
                    let (first, second) = head.split_at_mut(cos.len());
                    for (i, x_a) in first.iter_mut().enumerate() {
                        let (a, b, cos, sin) = (*x_a, second[i], cos[i], sin[i]);
                        *x_a = a * cos - b * direction * sin;
                        second[i] = a * direction * sin + b * cos;
                    }
                }
            }
        }
    }
}

/// Turns every pair of every head: `(a, b) → (a cos - b sin, a sin + b cos)`; dimensions beyond `d_rotary` stay.
///
/// `x: [sequence · pos, head · d_head]`, positions of the table after one another; returns the same shape.
///
/// ```
/// use onelens::{ndarray::array, nn::{Pairs, RotaryTable, rotary}};
/// // With a base of 1 the pair turns by one radian per position; the third dimension stays.
/// let table = RotaryTable::new(2, 2, 1.0, Pairs::Adjacent);
/// let y = rotary(array![[1.0_f64, 0.0, 7.0], [1.0, 0.0, 7.0]].view(), 3, &table);
/// assert_eq!(y, array![[1.0, 0.0, 7.0], [1_f64.cos(), 1_f64.sin(), 7.0]]);
/// ```
pub fn rotary<F: Real>(x: ArrayView2<F>, d_head: usize, table: &RotaryTable<F>) -> Array2<F> {
    let mut y = x.as_standard_layout().into_owned();
    table.turn(&mut y, d_head, F::one());
    y
}

/// The same in place of `x`.
pub(crate) fn rotary_in<F: Real>(x: &mut Array2<F>, d_head: usize, table: &RotaryTable<F>) {
    table.turn(x, d_head, F::one());
}

/// Computes `dx`, the gradient turned back.
pub fn rotary_backward<F: Real>(dy: ArrayView2<F>, d_head: usize, table: &RotaryTable<F>) -> Array2<F> {
    let mut dx = dy.as_standard_layout().into_owned();
    table.turn(&mut dx, d_head, -F::one());
    dx
}
