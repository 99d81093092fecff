//! Softmax attention of one head, whose numbers lie between those of other heads, over one sequence.
//!
//! What a mask hides is not computed: a causal head does half of the work that full products would.

use std::ops::Range;

use ndarray::{Array2, CowArray, Ix2};

use super::Scoring;
use crate::num::{Real, RowBounds, Strided, dot, largest, sum, tiled_product, turn, wide_fn};

/// One head of `[pos, head · d_head]`: the numbers from its first one on, and the width of all heads together.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a, F> {
    pub(crate) numbers: &'a [F],
    pub(crate) width: usize,
}

impl<'a, F: Real> Head<'a, F> {
    /// The only head of `x: [pos, d_head]`.
    pub(super) fn of(x: &'a CowArray<F, Ix2>) -> Self {
        Head { numbers: x.as_slice().expect("contiguous"), width: x.ncols() }
    }

    /// The head that begins at row `row` and column `column` of `x`.
    pub(crate) fn at(x: &'a Array2<F>, row: usize, column: usize) -> Self {
        let width = x.ncols();
        Head { numbers: &x.as_slice().expect("contiguous")[row * width + column..], width }
    }

    fn rows(self) -> Strided<'a, F> {
        Strided { numbers: self.numbers, width: self.width, transposed: false }
    }
}

/// The same to write to.
pub(crate) struct HeadMut<'a, F> {
    pub(crate) numbers: &'a mut [F],
    pub(crate) width: usize,
}

impl<'a, F: Real> HeadMut<'a, F> {
    /// The head that begins at row `row` and column `column` of `x`.
    pub(crate) fn at(x: &'a mut Array2<F>, row: usize, column: usize) -> Self {
        let width = x.ncols();
        HeadMut { numbers: &mut x.as_slice_mut().expect("contiguous")[row * width + column..], width }
    }
}

/// What heads of one shape share: which products are needed, and memory to work in.
pub(crate) struct HeadWork<F> {
    n_pos: usize,
    d_head: usize,
    scoring: Scoring,
    /// Scores, of which a query needs those of the keys it sees.
    scores: Vec<RowBounds>,
    /// Sums over the keys that a query sees.
    over_keys: Vec<RowBounds>,
    /// Sums over the queries that see a key.
    over_queries: Vec<RowBounds>,
    /// Keys or values, `[d_head, pos]`.
    transposed: Vec<F>,
    /// The gradient of the scores, `[query pos, key pos]`.
    dscores: Vec<F>,
    /// Products of queries and keys once more, where the derivative of a score depends on them.
    products: Vec<F>,
}

impl<F: Real> HeadWork<F> {
    pub(crate) fn new(scoring: Scoring, n_pos: usize, d_head: usize) -> Self {
        let seen: Vec<Range<usize>> = (0..n_pos).map(|query| scoring.seen(query, n_pos)).collect();
        let keys =
            |seen: &Range<usize>| RowBounds { inner_from: seen.start, inner_to: seen.end, n_columns: d_head };
        // No later query sees less than an earlier one, and none looks back further.
        let queries = |key| {
            let inner_from = seen.partition_point(|seen| seen.end <= key);
            let inner_to = seen.partition_point(|seen| seen.start <= key).max(inner_from);
            RowBounds { inner_from, inner_to, n_columns: d_head }
        };
        HeadWork {
            n_pos,
            d_head,
            scoring,
            scores: seen
                .iter()
                .map(|seen| RowBounds { inner_from: 0, inner_to: d_head, n_columns: seen.end })
                .collect(),
            over_keys: seen.iter().map(keys).collect(),
            over_queries: (0..n_pos).map(queries).collect(),
            transposed: Vec::new(),
            dscores: Vec::new(),
            products: Vec::new(),
        }
    }

    /// For the next heads, what each step back costs.
    pub(crate) fn set_slope(&mut self, slope: f64) {
        self.scoring.slope = slope;
    }

    /// `pattern = softmax(q kᵀ / √d_head)`, `[query pos, key pos]`, zero where the mask hides; `z = pattern v`.
    /// `scores` gets what the softmax is of, minus infinity where the mask hides.
    pub(crate) fn forward(
        &mut self,
        [q, k, v]: [Head<F>; 3],
        scores: Option<&mut [F]>,
        pattern: &mut [F],
        z: HeadMut<F>,
    ) {
        let (n, d) = (self.n_pos, self.d_head);
        transpose(&mut self.transposed, k, n, d);
        let keys = &self.transposed;
        tiled_product(pattern, n, false, q.rows(), keys, n, &self.scores, n);
        let mut scale = F::of(self.scoring.scale);
        if self.scoring.is_special() {
            special(pattern, n, self.scoring);
            scale = F::one();
        }
        if let Some(scores) = scores {
            visible(scores, pattern, &self.scores, scale);
        }
        softmax(pattern, &self.scores, scale);
        let pattern = Strided { numbers: pattern, width: n, transposed: false };
        let rows = &self.over_keys;
        tiled_product(z.numbers, z.width, false, pattern, v.numbers, v.width, rows, d);
    }

    /// `[dq, dk, dv]` from `dz`, with `[q, k, v]`; with `add`, `dk` and `dv` are added to what is there.
    pub(crate) fn backward(
        &mut self,
        dz: Head<F>,
        [q, k, v]: [Head<F>; 3],
        pattern: &[F],
        [dq, dk, dv]: [HeadMut<F>; 3],
        add: bool,
    ) {
        let (n, d) = (self.n_pos, self.d_head);
        transpose(&mut self.transposed, v, n, d);
        self.dscores.resize(n * n, F::zero());
        let ds = &mut self.dscores;
        tiled_product(ds, n, false, dz.rows(), &self.transposed, n, &self.scores, n);
        if self.scoring.soft_cap.is_some() {
            softmax_backward(ds, pattern, &self.scores, F::one());
            // What a cap lets through depends on the product that it cut.
            transpose(&mut self.transposed, k, n, d);
            self.products.resize(n * n, F::zero());
            tiled_product(&mut self.products, n, false, q.rows(), &self.transposed, n, &self.scores, n);
            for (i, (ds, products)) in ds.chunks_exact_mut(n).zip(self.products.chunks_exact(n)).enumerate() {
                for at in self.over_keys[i].inner_from..self.over_keys[i].inner_to {
                    ds[at] *= self.scoring.derivative(products[at]);
                }
            }
        } else {
            softmax_backward(ds, pattern, &self.scores, F::of(self.scoring.scale));
        }
        let rows = Strided { numbers: ds, width: n, transposed: false };
        tiled_product(dq.numbers, dq.width, false, rows, k.numbers, k.width, &self.over_keys, d);
        let columns = Strided { numbers: ds, width: n, transposed: true };
        tiled_product(dk.numbers, dk.width, add, columns, q.numbers, q.width, &self.over_queries, d);
        let columns = Strided { numbers: pattern, width: n, transposed: true };
        tiled_product(dv.numbers, dv.width, add, columns, dz.numbers, dz.width, &self.over_queries, d);
    }
}

/// Scores in place of products, minus infinity before a window.
fn special<F: Real>(products: &mut [F], n: usize, scoring: Scoring) {
    for (query, row) in products.chunks_exact_mut(n).enumerate() {
        let seen = scoring.seen(query, n);
        row[..seen.start].fill(F::neg_infinity());
        for key in seen {
            row[key] = scoring.score(row[key], query, key);
        }
    }
}

/// Numbers that are worked on at once.
const VECTOR: usize = 16;

/// `[pos, d_head]` to `[d_head, pos]`.
fn transpose<F: Real>(to: &mut Vec<F>, from: Head<F>, n_pos: usize, d_head: usize) {
    to.resize(n_pos * d_head, F::zero());
    if n_pos > 0 && d_head > 0 {
        turn(to, n_pos, from.numbers, from.width, n_pos, d_head);
    }
}

wide_fn! {
    /// `scale · products` of what each query sees; minus infinity elsewhere.
    fn visible<'a, F>(scores: &'a mut [F], products: &'a [F], rows: &'a [RowBounds], scale: F) {
        let n = rows.len();
        for ((row, products), bounds) in scores.chunks_exact_mut(n).zip(products.chunks_exact(n)).zip(rows) {
            let (row, hidden) = row.split_at_mut(bounds.n_columns);
            row.iter_mut().zip(products).for_each(|(to, &x)| *to = x * scale);
            hidden.fill(F::neg_infinity());
        }
    }
}

wide_fn! {
    /// `softmax(scale · scores)` of what each query sees, in place; zero elsewhere.
    fn softmax<'a, F>(scores: &'a mut [F], rows: &'a [RowBounds], scale: F) {
        for (row, bounds) in scores.chunks_exact_mut(rows.len()).zip(rows) {
            // What is hidden up to the next whole vector comes along and becomes zero: cheaper than single numbers.
            let n_whole = bounds.n_columns.next_multiple_of(VECTOR).min(row.len());
            for x in &mut row[bounds.n_columns..n_whole] {
                *x = F::neg_infinity();
            }
            let (row, hidden) = row.split_at_mut(n_whole);
            let max = largest(row);
            for x in &mut *row {
                *x = ((*x - max) * scale).exp_real();
            }
            let share = F::one() / sum(row);
            for x in row {
                *x *= share;
            }
            for x in hidden {
                *x = F::zero();
            }
        }
    }
}

wide_fn! {
    /// `P ∘ (dP - rowsum(P ∘ dP)) · scale`, in place of `dP`; zero where the mask hides.
    fn softmax_backward<'a, F>(d: &'a mut [F], pattern: &'a [F], rows: &'a [RowBounds], scale: F) {
        let n = rows.len();
        for ((d, p), bounds) in d.chunks_exact_mut(n).zip(pattern.chunks_exact(n)).zip(rows) {
            let n_whole = bounds.n_columns.next_multiple_of(VECTOR).min(n);
            d[bounds.n_columns..n_whole].fill(F::zero());
            let (d, hidden) = d.split_at_mut(n_whole);
            let total = dot(d, &p[..d.len()]);
            for (d, &p) in d.iter_mut().zip(p) {
                *d = p * (*d - total) * scale;
            }
            hidden.fill(F::zero());
        }
    }
}
