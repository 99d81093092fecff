//! The null of every claim about what layers add: the same updates, at other tokens.

use ndarray::{Array2, s};

use crate::num::{Rng, rng, uniform_index};

/// What becomes of the updates `h_{l+1} - h_l` before lenses see the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Updates {
    /// Nothing.
    AsTheyAre,
    /// Those of each block change places over the positions of their sequence after the first, which sees nothing but
    /// itself and whose stream is enormous in many models. Embeddings stay, and streams are sums of updates as before.
    Shuffled {
        /// Of the orders.
        seed: u64,
    },
}

impl Updates {
    /// Changes the streams of sequences of `n_pos` rows each, the first of which is number `first`.
    pub(crate) fn apply(self, streams: &mut [Array2<f32>], first: usize, n_pos: usize) {
        let Updates::Shuffled { seed } = self else { return };
        let n_rows = streams[0].nrows();
        for l in (1..streams.len()).rev() {
            let (before, after) = streams.split_at_mut(l);
            after[0] -= &before[l - 1];
        }
        for l in 1..streams.len() {
            let order: Vec<usize> = (0..n_rows / n_pos)
                .flat_map(|i| {
                    let mut random = rng(seed ^ ((first + i) as u64) << 16, l as u64);
                    other_positions(n_pos, &mut random).into_iter().map(move |pos| i * n_pos + pos)
                })
                .collect();
            let (before, after) = streams.split_at_mut(l);
            let mut sum = before[l - 1].clone();
            for (mut row, from) in sum.rows_mut().into_iter().zip(order) {
                row += &after[0].slice(s![from, ..]);
            }
            after[0] = sum;
        }
    }
}

/// An order of positions in which the first keeps its place and no other does, if there are two others or more.
pub(crate) fn other_positions(n_pos: usize, random: &mut Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n_pos).collect();
    // Sattolo's: one cycle, so that none stays.
    for i in (2..n_pos).rev() {
        order.swap(i, 1 + uniform_index(random, i - 1));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffled_updates_are_those_of_other_tokens_and_sum_to_the_same() {
        // Two sequences of four positions, three streams of one feature: updates 10 (row + 1) and 1000 (row + 1).
        let stream = |l: usize| {
            Array2::from_shape_fn((8, 1), |(row, _)| 1.0 + [0.0, 10.0, 1010.0][l] * (row + 1) as f32)
        };
        let mut streams: Vec<Array2<f32>> = (0..3).map(stream).collect();
        Updates::Shuffled { seed: 3 }.apply(&mut streams, 5, 4);
        assert_eq!(streams[0], stream(0));
        for l in [1, 2] {
            for i in [0, 4] {
                assert_eq!(streams[l][(i, 0)], stream(l)[(i, 0)], "the first position keeps its own");
                for row in i + 1..i + 4 {
                    let own = stream(l)[(row, 0)] - stream(l - 1)[(row, 0)];
                    assert_ne!(streams[l][(row, 0)] - streams[l - 1][(row, 0)], own, "stream {l} row {row}");
                }
                let sum = |all: &Array2<f32>| all.slice(s![i..i + 4, 0]).sum();
                assert_eq!(sum(&streams[l]), sum(&stream(l)));
            }
        }
    }
}
