//! Small products of which only a part is wanted: what attention under a mask is made of.

use super::Real;
use super::wide::wide_fn;

/// What one row of a product needs: which terms of the inner sum, and how many columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowBounds {
    pub(crate) inner_from: usize,
    pub(crate) inner_to: usize,
    pub(crate) n_columns: usize,
}

/// A matrix in numbers that it may share with others: element `(i, p)` is `numbers[i · width + p]`, or
/// `numbers[p · width + i]` if it is transposed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strided<'a, F> {
    pub(crate) numbers: &'a [F],
    pub(crate) width: usize,
    pub(crate) transposed: bool,
}

/// Rows of a tile, and its columns: what fits 16 registers of eight numbers. Two tiles beside each other fit 32 of
/// sixteen.
const HEIGHT: usize = 6;
const WIDTH: usize = 16;

/// Whether a register holds a row of a tile in `f32`, and there are 32 of them.
fn fits_two_tiles() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

wide_fn! {
    /// `c[i, j] = Σ_p a[i, p] b[p, j]`, for as many `j` and over those `p` that `rows[i]` asks for; with `add`, added
    /// to `c`. Rows of `b` and `c` begin `b_width` and `c_width` numbers after one another.
    ///
    /// Rows come in blocks, and a block does what any of its rows asks for: terms that a row did not ask for must be
    /// zero in `a`, and `c` has room for `n_columns` of the block's widest row, rounded up to eight where that is no
    /// more than `most_columns`.
    pub(crate) fn tiled_product<'a, F>(
        c: &'a mut [F],
        c_width: usize,
        add: bool,
        a: Strided<'a, F>,
        b: &'a [F],
        b_width: usize,
        rows: &'a [RowBounds],
        most_columns: usize,
    ) {
        let mut i = 0;
        while i < rows.len() {
            let c = &mut c[i * c_width..];
            if i + HEIGHT <= rows.len() {
                row_block::<F, HEIGHT>(c, c_width, add, a, i, b, b_width, &rows[i..i + HEIGHT], most_columns);
                i += HEIGHT;
            } else if i + 4 <= rows.len() {
                row_block::<F, 4>(c, c_width, add, a, i, b, b_width, &rows[i..i + 4], most_columns);
                i += 4;
            } else {
                row_block::<F, 1>(c, c_width, add, a, i, b, b_width, &rows[i..=i], most_columns);
                i += 1;
            }
        }
    }
}

/// `R` rows from row `i` on; `c` begins there.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn row_block<F: Real, const R: usize>(
    c: &mut [F],
    c_width: usize,
    add: bool,
    a: Strided<F>,
    i: usize,
    b: &[F],
    b_width: usize,
    rows: &[RowBounds],
    most_columns: usize,
) {
    let (mut from, mut to, mut n_columns) = (usize::MAX, 0, 0);
    for row in rows {
        from = from.min(row.inner_from);
        to = to.max(row.inner_to);
        n_columns = n_columns.max(row.n_columns);
    }
    let n_columns = n_columns.next_multiple_of(8).min(most_columns);
    let b = &b[from * b_width..];
    let n = to - from;
    if a.transposed {
        let columns = &a.numbers[from * a.width + i..];
        let at = |p: usize| *columns[p * a.width..].first_chunk::<R>().expect("a has a row for each of c");
        columns_of(c, c_width, add, n, at, b, b_width, n_columns);
    } else {
        let mut lines: [&[F]; R] = [&[]; R];
        for (r, line) in lines.iter_mut().enumerate() {
            *line = &a.numbers[(i + r) * a.width + from..][..n];
        }
        let at = |p: usize| {
            let mut column = [F::zero(); R];
            for r in 0..R {
                column[r] = lines[r][p];
            }
            column
        };
        columns_of(c, c_width, add, n, at, b, b_width, n_columns);
    }
}

/// `R` rows, of which `a(p)` gives the elements of term `p` among `n`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn columns_of<F: Real, const R: usize>(
    c: &mut [F],
    c_width: usize,
    add: bool,
    n: usize,
    a: impl Fn(usize) -> [F; R] + Copy,
    b: &[F],
    b_width: usize,
    n_columns: usize,
) {
    let mut j = 0;
    let two_fit = fits_two_tiles();
    while two_fit && j + 2 * WIDTH <= n_columns {
        two_tiles(&mut c[j..], c_width, add, n, a, &b[j..], b_width);
        j += 2 * WIDTH;
    }
    while j + WIDTH <= n_columns {
        tile::<F, R, WIDTH>(&mut c[j..], c_width, add, n, a, &b[j..], b_width);
        j += WIDTH;
    }
    while j + 8 <= n_columns {
        tile::<F, R, 8>(&mut c[j..], c_width, add, n, a, &b[j..], b_width);
        j += 8;
    }
    while j < n_columns {
        tile::<F, R, 1>(&mut c[j..], c_width, add, n, a, &b[j..], b_width);
        j += 1;
    }
}

/// `R` rows and `W` columns of the product, summed in registers.
#[inline(always)]
fn tile<F: Real, const R: usize, const W: usize>(
    c: &mut [F],
    c_width: usize,
    add: bool,
    n: usize,
    a: impl Fn(usize) -> [F; R],
    b: &[F],
    b_width: usize,
) {
    let mut sums = [[F::zero(); W]; R];
    for p in 0..n {
        let b: &[F; W] = b[p * b_width..].first_chunk().expect("a row of b has the columns of c");
        let a = a(p);
        add_term(&mut sums, a, *b);
    }
    write(c, c_width, add, &sums);
}

/// A term of each sum of a tile.
#[inline(always)]
fn add_term<F: Real, const R: usize, const W: usize>(sums: &mut [[F; W]; R], a: [F; R], b: [F; W]) {
    for r in 0..R {
        for w in 0..W {
            // One rounding, as in `gemm`.
            sums[r][w] = a[r].mul_add(b[w], sums[r][w]);
        }
    }
}

/// Two tiles beside each other: while one waits for its sums, the other adds. One of twice the width would not be
/// unrolled by the compiler.
#[inline(always)]
fn two_tiles<F: Real, const R: usize>(
    c: &mut [F],
    c_width: usize,
    add: bool,
    n: usize,
    a: impl Fn(usize) -> [F; R],
    b: &[F],
    b_width: usize,
) {
    let (mut left, mut right) = ([[F::zero(); WIDTH]; R], [[F::zero(); WIDTH]; R]);
    for p in 0..n {
        let b = b[p * b_width..].as_chunks().0;
        let (b_left, b_right) = (b[0], b[1]);
        let a = a(p);
        add_term(&mut left, a, b_left);
        add_term(&mut right, a, b_right);
    }
    write(c, c_width, add, &left);
    write(&mut c[WIDTH..], c_width, add, &right);
}

#[inline(always)]
fn write<F: Real, const R: usize, const W: usize>(
    c: &mut [F],
    c_width: usize,
    add: bool,
    sums: &[[F; W]; R],
) {
    for r in 0..R {
        let row: &mut [F; W] = c[r * c_width..].first_chunk_mut().expect("a row of c has its columns");
        for w in 0..W {
            row[w] = if add { row[w] + sums[r][w] } else { sums[r][w] };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tiled_product_is_the_sum_of_its_definition_where_it_is_asked_for() {
        for (n_rows, inner, columns) in [(1, 1, 1), (4, 16, 16), (7, 9, 25), (13, 5, 40), (8, 33, 8)] {
            // Every row sees the terms below a bound of its own.
            let rows: Vec<RowBounds> = (0..n_rows)
                .map(|i| RowBounds { inner_from: 0, inner_to: 1 + i % inner, n_columns: columns })
                .collect();
            let (a_width, b_width, c_width) = (inner + 2, columns + 3, columns + 1);
            let mut a = vec![0.0; n_rows * a_width];
            for (i, row) in rows.iter().enumerate() {
                (0..row.inner_to).for_each(|p| a[i * a_width + p] = ((i * 3 + p * 5) % 7) as f64 - 3.0);
            }
            let b: Vec<f64> = (0..inner * b_width).map(|i| ((i * 11) % 17) as f64 - 8.0).collect();
            let mut c = vec![1.0; n_rows * c_width];
            // Once as it is, once transposed.
            let mut columns_first = vec![0.0; a.len()];
            for i in 0..n_rows {
                (0..inner).for_each(|p| columns_first[p * n_rows + i] = a[i * a_width + p]);
            }
            let mut d = c.clone();
            let a_rows = Strided { numbers: &a, width: a_width, transposed: false };
            tiled_product(&mut c, c_width, true, a_rows, &b, b_width, &rows, columns);
            let a_columns = Strided { numbers: &columns_first, width: n_rows, transposed: true };
            tiled_product(&mut d, c_width, true, a_columns, &b, b_width, &rows, columns);
            assert_eq!(c, d);
            for i in 0..n_rows {
                for j in 0..columns {
                    let want: f64 = (0..inner).map(|p| a[i * a_width + p] * b[p * b_width + j]).sum();
                    assert_eq!(c[i * c_width + j], 1.0 + want, "{n_rows}x{inner}x{columns} at {i}, {j}");
                }
                assert_eq!(c[i * c_width + columns], 1.0, "beyond the columns nothing is written");
            }
        }
    }
}
