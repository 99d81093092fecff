//! Rotary position embedding (Su et al. 2021).

use ndarray::{Array2, ArrayView2};
use serde::{Deserialize, Serialize};

use crate::num::Real;

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
    /// The table of positions `0 .. n_pos`. `d_rotary` is even.
    pub fn new(n_pos: usize, d_rotary: usize, theta: f64, pairs: Pairs) -> Self {
        let angle = |(t, i): (usize, usize)| t as f64 * theta.powf(-2.0 * i as f64 / d_rotary as f64);
        let shape = (n_pos, d_rotary / 2);
        RotaryTable {
            pairs,
            cos: Array2::from_shape_fn(shape, |at| F::of(angle(at).cos())),
            sin: Array2::from_shape_fn(shape, |at| F::of(angle(at).sin())),
        }
    }

    fn turn(&self, x: ArrayView2<F>, d_head: usize, direction: F) -> Array2<F> {
        let mut y = x.as_standard_layout().into_owned();
        let (n_pos, n_pairs) = self.cos.dim();
        for (row, mut y) in y.rows_mut().into_iter().enumerate() {
            let (cos, sin) = (self.cos.row(row % n_pos), self.sin.row(row % n_pos));
            for head in (0..y.len()).step_by(d_head) {
                for i in 0..n_pairs {
                    let (a, b) = match self.pairs {
                        Pairs::Adjacent => (head + 2 * i, head + 2 * i + 1),
                        Pairs::Half => (head + i, head + i + n_pairs),
                    };
                    let (x_a, x_b, sin) = (y[a], y[b], direction * sin[i]);
                    y[a] = x_a * cos[i] - x_b * sin;
                    y[b] = x_a * sin + x_b * cos[i];
                }
            }
        }
        y
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
    table.turn(x, d_head, F::one())
}

/// `dx`: the gradient turned back.
pub fn rotary_backward<F: Real>(dy: ArrayView2<F>, d_head: usize, table: &RotaryTable<F>) -> Array2<F> {
    table.turn(dy, d_head, -F::one())
}
