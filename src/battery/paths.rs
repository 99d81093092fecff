//! The gradient, split by how many blocks it went through.

use ndarray::Array1;

/// Splits the gradient at the input of `n_blocks` residual blocks by path length: entry `k` is what comes back through exactly `k` of them.
///
/// Each block is `h + f(h)`, so its transposed Jacobian is `I + J_lᵀ` and the gradient is `Π (I + J_lᵀ) g`, the sum over all `2^L` sets of blocks.
/// Veit et al. (2016) sample paths; carrying one vector per length, `v_k ← v_k + J_lᵀ v_{k-1}` from the top block to the bottom, gives every
/// length exactly. `Σ_k v_k` is the gradient. `branch_vjp(l, v)` is `J_lᵀ v`, without the skip.
///
/// ```
/// use onelens::{battery::path_gradients, ndarray::array};
/// // Three blocks that each double: J = 1. Of 8 paths, 1, 3, 3 and 1 pass 0, 1, 2 and 3 blocks.
/// let paths = path_gradients(3, array![1.0], |_, v| v.clone());
/// assert_eq!(paths, [array![1.0], array![3.0], array![3.0], array![1.0]]);
/// ```
pub fn path_gradients(
    n_blocks: usize,
    top: Array1<f64>,
    mut branch_vjp: impl FnMut(usize, &Array1<f64>) -> Array1<f64>,
) -> Vec<Array1<f64>> {
    let mut by_length = vec![top];
    for l in (0..n_blocks).rev() {
        let through: Vec<Array1<f64>> = by_length.iter().map(|v| branch_vjp(l, v)).collect();
        by_length.push(Array1::zeros(by_length[0].len()));
        for (k, v) in through.into_iter().enumerate() {
            by_length[k + 1] += &v;
        }
    }
    by_length
}
