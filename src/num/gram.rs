//! Second moments of many rows: products of tall matrices, in `f32` where they are fast and in `f64` where they add up.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut2, Axis, CowArray, Ix2, s};
use rayon::prelude::*;

use super::product::matmul_into;
use super::wide::wide_fn;

/// Rows whose products are summed in `f32`, at most: few enough to bound rounding, enough for a fast product.
pub(crate) const BLOCK: usize = 256;
/// Rows and columns of a tile: its sums stay in a core's own cache while all rows go by.
const TILE: (usize, usize) = (96, 576);

/// Rows of numbers, in strips of [`TILE`]'s columns: what a tile reads over and over lies together in memory. Rows that
/// are kilobytes apart would fall on few sets of the caches and on a page each.
#[derive(Default)]
pub(crate) struct Strips {
    width: usize,
    n_rows: usize,
    /// Each of as many rows as there is room for; none as long as nothing was added.
    strips: Vec<Array2<f32>>,
}

impl Strips {
    /// No rows yet.
    pub(crate) fn new(width: usize) -> Self {
        Strips { width, ..Strips::default() }
    }

    /// Of these rows.
    pub(crate) fn of(rows: ArrayView2<f32>) -> Self {
        let mut strips = Strips::new(rows.ncols());
        strips.add(rows, rows.nrows());
        strips
    }

    /// Adds rows, for which, and for those before them, there is `room`; the same one each time.
    pub(crate) fn add(&mut self, rows: ArrayView2<f32>, room: usize) {
        if self.strips.is_empty() {
            let widths = (0..self.width).step_by(TILE.1).map(|column| TILE.1.min(self.width - column));
            self.strips = widths.map(|width| Array2::zeros((room, width))).collect();
        }
        let upto = self.n_rows + rows.nrows();
        for (strip, rows) in self.strips.iter_mut().zip(rows.axis_chunks_iter(Axis(1), TILE.1)) {
            strip.slice_mut(s![self.n_rows..upto, ..]).assign(&rows);
        }
        self.n_rows = upto;
    }

    /// Forgets the rows, not the room.
    pub(crate) fn clear(&mut self) {
        self.n_rows = 0;
    }

    fn iter(&self) -> impl Iterator<Item = ArrayView2<'_, f32>> {
        self.strips.iter().map(|strip| strip.slice(s![..self.n_rows, ..]))
    }
}

/// Rows shifted close to their mean.
pub(crate) struct Centred {
    /// `x - s`, where `s` is the mean rounded to `f32`.
    pub(crate) rows: Strips,
    /// The mean of `x`.
    pub(crate) mean: Array1<f64>,
    /// The mean of what is left in `rows`.
    pub(crate) rest: Array1<f64>,
}

impl Centred {
    /// Of rows with weights that sum to `weight`; without them every row counts once.
    pub(crate) fn new(mut rows: Strips, weights: Option<ArrayView1<f32>>, weight: f64) -> Centred {
        let weights: Vec<f64> = weights.map_or_else(Vec::new, |w| w.iter().map(|&w| f64::from(w)).collect());
        let mean_of = |strip: &[f32], width: usize| {
            let mut sums = vec![0.0; width];
            add_columns(strip, width, &weights, &mut sums);
            sums.iter_mut().for_each(|sum| *sum /= weight);
            sums
        };
        let (mut mean, mut rest) = (Vec::with_capacity(rows.width), Vec::with_capacity(rows.width));
        for strip in &mut rows.strips {
            let width = strip.ncols();
            let numbers = strip.as_slice_mut().expect("stored row by row");
            let numbers = &mut numbers[..rows.n_rows * width];
            let here = mean_of(numbers, width);
            let shift: Vec<f32> = here.iter().map(|&m| m as f32).collect();
            subtract_from_rows(numbers, &shift);
            rest.extend(mean_of(numbers, width));
            mean.extend(here);
        }
        Centred { rows, mean: mean.into(), rest: rest.into() }
    }
}

wide_fn! {
    /// Adds each column to its sum, in `f64`; a row counts as often as its weight says, or once if there are none.
    fn add_columns<'a, F>(rows: &'a [F], d: usize, weights: &'a [f64], sums: &'a mut [f64]) {
        if d == 0 {
            return;
        }
        for (i, row) in rows.chunks_exact(d).enumerate() {
            let weight = if weights.is_empty() { 1.0 } else { weights[i] };
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += weight * x.wide();
            }
        }
    }
}

wide_fn! {
    fn subtract_from_rows<'a, F>(rows: &'a mut [F], shift: &'a [F]) {
        for row in rows.chunks_exact_mut(shift.len().max(1)) {
            for (x, &s) in row.iter_mut().zip(shift) {
                *x -= s;
            }
        }
    }
}

/// Which part of a matrix of sums is added to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it.
    All,
    /// What a symmetric matrix has below its diagonal, with the diagonal; [`mirror`] brings the rest.
    Lower,
}

/// `s ← s + leftᵀ W right + Σ_k c_k u_k v_kᵀ`, where `W` are the rows' weights and each `(c_k, u_k, v_k)` is one of
/// `outer`.
///
/// Products of up to [`BLOCK`] rows are summed in `f32`, everything else in `f64`. Bands of `s` go to all threads;
/// nothing depends on their number.
pub(crate) fn add_products(
    s: &mut Array2<f64>,
    part: Part,
    left: &Strips,
    right: &Strips,
    weights: Option<ArrayView1<f32>>,
    outer: &[(f64, &[f64], &[f64])],
) {
    let n_columns = s.ncols();
    let weighted = |strip: ArrayView2<f32>| &strip * &weights.expect("there are").insert_axis(Axis(1));
    let strips: Vec<CowArray<f32, Ix2>> = match weights {
        Some(_) => right.iter().map(|strip| weighted(strip).into()).collect(),
        None => right.iter().map(CowArray::from).collect(),
    };
    let bands: Vec<(usize, ArrayViewMut2<f64>)> =
        s.axis_chunks_iter_mut(Axis(0), TILE.0).enumerate().collect();
    bands.into_par_iter().for_each(|(band, mut sums)| {
        let (from, height) = (band * TILE.0, sums.nrows());
        let upto = if part == Part::Lower { from + height } else { n_columns };
        let mut product = Array2::<f32>::zeros((height, TILE.1.min(upto)));
        let mut total = Array2::<f64>::zeros(product.dim());
        // A strip is some whole bands wide.
        let left_strip = left.strips[from / TILE.1].slice(s![.., from % TILE.1..from % TILE.1 + height]);
        for (strip, right) in strips.iter().enumerate() {
            let column = strip * TILE.1;
            if column >= upto {
                break;
            }
            let width = TILE.1.min(upto - column);
            let mut total = total.slice_mut(s![.., ..width]);
            total.fill(0.0);
            let mut product = product.slice_mut(s![.., ..width]);
            for row in (0..left.n_rows).step_by(BLOCK) {
                let rows = row..(row + BLOCK).min(left.n_rows);
                let left = left_strip.slice(s![rows.clone(), ..]);
                let right = right.slice(s![rows, ..width]);
                matmul_into(product.view_mut(), left.t(), right);
                for (mut total, product) in total.rows_mut().into_iter().zip(product.rows()) {
                    add_wide(total.as_slice_mut().expect("a row"), product.as_slice().expect("a row"));
                }
            }
            for (i, (mut sums, total)) in sums.rows_mut().into_iter().zip(total.rows()).enumerate() {
                let sums = &mut sums.as_slice_mut().expect("a row")[column..column + width];
                add(sums, 1.0, total.as_slice().expect("a row"));
                for (c, u, v) in outer {
                    add(sums, c * u[from + i], &v[column..column + width]);
                }
            }
        }
    });
}

/// `s ← s + other + Σ_k c_k u_k v_kᵀ`, in one pass over the memory.
pub(crate) fn add_matrix(s: &mut Array2<f64>, other: ArrayView2<f64>, outer: &[(f64, &[f64], &[f64])]) {
    let bands: Vec<(usize, ArrayViewMut2<f64>)> =
        s.axis_chunks_iter_mut(Axis(0), TILE.0).enumerate().collect();
    bands.into_par_iter().for_each(|(band, mut sums)| {
        let from = band * TILE.0;
        for (i, mut sums) in sums.rows_mut().into_iter().enumerate() {
            let sums = sums.as_slice_mut().expect("a row");
            match other.row(from + i).as_slice() {
                Some(other) => add(sums, 1.0, other),
                None => sums.iter_mut().zip(other.row(from + i)).for_each(|(s, o)| *s += o),
            }
            for (c, u, v) in outer {
                add(sums, c * u[from + i], v);
            }
        }
    });
}

wide_fn! {
    fn add_wide<'a, F>(sums: &'a mut [f64], more: &'a [F]) {
        for (sum, x) in sums.iter_mut().zip(more) {
            *sum += x.wide();
        }
    }
}

wide_fn! {
    fn add<'a, F>(sums: &'a mut [F], scale: F, more: &'a [F]) {
        for (sum, &x) in sums.iter_mut().zip(more) {
            *sum += scale * x;
        }
    }
}

/// Copies what is below the diagonal to above it.
pub(crate) fn mirror(s: &mut Array2<f64>) {
    // In squares, so that neither rows nor columns leave the cache.
    const SQUARE: usize = 32;
    let n = s.nrows();
    for i in (0..n).step_by(SQUARE) {
        for j in (0..=i).step_by(SQUARE) {
            for row in i..(i + SQUARE).min(n) {
                for column in j..(j + SQUARE).min(row) {
                    s[(column, row)] = s[(row, column)];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_every_part_are_those_of_the_definition() {
        // Small integers: nothing rounds. More rows than a block, more columns than a tile.
        let (n, d) = (BLOCK + 40, TILE.1 + 7);
        let x = Array2::from_shape_fn((n, d), |(i, j)| ((i * 5 + j * 3) % 7) as f32 - 3.0);
        let z = Array2::from_shape_fn((n, 5), |(i, j)| ((i * 2 + j) % 5) as f32 - 2.0);
        let w = Array1::from_shape_fn(n, |i| (i % 3) as f32);
        let wide = |a: &Array2<f32>| a.mapv(f64::from);
        let (u, v): (Vec<f64>, Vec<f64>) =
            ((0..d).map(|i| (i % 4) as f64).collect(), (0..d).map(|i| (i % 3) as f64).collect());
        let outer = Array2::from_shape_fn((d, d), |(i, j)| -2.0 * u[i] * u[j]);

        let mut s = Array2::<f64>::ones((d, d));
        let (x_strips, z_strips) = (Strips::of(x.view()), Strips::of(z.view()));
        add_products(&mut s, Part::Lower, &x_strips, &x_strips, None, &[(-2.0, &u, &u)]);
        mirror(&mut s);
        assert_eq!(s, wide(&x).t().dot(&wide(&x)) + outer + 1.0);

        let mut s = Array2::<f64>::zeros((5, d));
        add_products(&mut s, Part::All, &z_strips, &x_strips, Some(w.view()), &[(3.0, &u, &v)]);
        let weighted = wide(&x) * w.mapv(f64::from).insert_axis(Axis(1));
        let want = wide(&z).t().dot(&weighted) + Array2::from_shape_fn((5, d), |(i, j)| 3.0 * u[i] * v[j]);
        assert_eq!(s, want);
        add_matrix(&mut s, want.view(), &[]);
        assert_eq!(s, want * 2.0);
    }
}
