//! Rows that become columns.

use super::wide_fn;

/// Rows that become columns together: what is written of each column is a line of the cache.
pub(crate) const ROWS_TURNED_TOGETHER: usize = 16;

wide_fn! {
    /// The first `n_columns` numbers of `n_rows` rows of `from` as columns of `to`; rows of both are so many numbers
    /// apart.
    pub(crate) fn turn<'a, F>(
        to: &'a mut [F],
        to_width: usize,
        from: &'a [F],
        width: usize,
        n_rows: usize,
        n_columns: usize,
    ) {
        let mut row = 0;
        while row + ROWS_TURNED_TOGETHER <= n_rows {
            let rows = &from[row * width..];
            for i in (0..n_columns / ROWS_TURNED_TOGETHER * ROWS_TURNED_TOGETHER).step_by(ROWS_TURNED_TOGETHER) {
                // A square at a time, whose places are all known.
                let mut square = [[F::zero(); ROWS_TURNED_TOGETHER]; ROWS_TURNED_TOGETHER];
                for (s, line) in square.iter_mut().enumerate() {
                    *line = *rows[s * width + i..].first_chunk().expect("a whole line");
                }
                for j in 0..ROWS_TURNED_TOGETHER {
                    let line: &mut [F; ROWS_TURNED_TOGETHER] =
                        to[(i + j) * to_width + row..].first_chunk_mut().expect("a whole line");
                    for (s, to) in line.iter_mut().enumerate() {
                        *to = square[s][j];
                    }
                }
            }
            for i in n_columns / ROWS_TURNED_TOGETHER * ROWS_TURNED_TOGETHER..n_columns {
                for s in 0..ROWS_TURNED_TOGETHER {
                    to[i * to_width + row + s] = rows[s * width + i];
                }
            }
            row += ROWS_TURNED_TOGETHER;
        }
        for row in row..n_rows {
            for i in 0..n_columns {
                to[i * to_width + row] = from[row * width + i];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns_whatever_their_number() {
        for (n_rows, n_columns) in [(1, 1), (15, 3), (16, 5), (33, 2), (16, 16), (35, 40)] {
            let (width, to_width) = (n_columns + 2, n_rows + 3);
            let from: Vec<f32> = (0..n_rows * width).map(|i| i as f32).collect();
            let mut to = vec![-1.0; n_columns * to_width];
            turn(&mut to, to_width, &from, width, n_rows, n_columns);
            for (i, column) in to.chunks(to_width).enumerate() {
                let expected: Vec<f32> = (0..n_rows).map(|row| (row * width + i) as f32).collect();
                assert_eq!(column[..n_rows], expected);
                assert_eq!(column[n_rows..], [-1.0; 3]);
            }
        }
    }
}
