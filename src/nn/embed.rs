//! Rows of a table, chosen by token.

use ndarray::{Array2, ArrayView2, ArrayViewMut2};

use crate::num::Real;

/// Looks up `y[t] = table[tokens[t]]`: `table: [d_vocab, d_model]`; returns `[pos, d_model]`. Panics on a token outside
/// the table.
///
/// ```
/// use onelens::{ndarray::array, nn::embed};
/// assert_eq!(embed(&[1, 0, 1], array![[5.0], [7.0]].view()), array![[7.0], [5.0], [7.0]]);
/// ```
pub fn embed<F: Real>(tokens: &[u32], table: ArrayView2<F>) -> Array2<F> {
    let mut y = Array2::zeros((tokens.len(), table.ncols()));
    for (mut row, &token) in y.rows_mut().into_iter().zip(tokens) {
        row.assign(&table.row(token as usize));
    }
    y
}

/// Adds each row of `dy` to the row of `dtable` that its token chose.
pub fn embed_backward<F: Real>(dy: ArrayView2<F>, tokens: &[u32], mut dtable: ArrayViewMut2<F>) {
    for (dy, &token) in dy.rows().into_iter().zip(tokens) {
        let mut row = dtable.row_mut(token as usize);
        row += &dy;
    }
}
