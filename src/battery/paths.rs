//! The gradient, split by how many blocks it went through.

use std::ops::AddAssign;

use ndarray::{Array, Array2, Dimension, LinalgScalar};

use crate::model::{Blocks, NormAt, Residual, Transformer};
use crate::{Error, ErrorKind, Result};

/// Splits the gradient at the input of `n_blocks` residual blocks by path length: entry `k` is what comes back through
/// exactly `k` of them.
///
/// Each block is `h + f(h)`, so its transposed Jacobian is `I + J_lᵀ` and the gradient is `Π (I + J_lᵀ) g`, the sum
/// over all `2^L` sets of blocks. Veit et al. (2016) sample paths; carrying one vector per length,
/// `v_k ← v_k + J_lᵀ v_{k-1}` from the top block to the bottom, gives every length exactly. `Σ_k v_k` is the gradient.
/// `branch_vjp(l, v)` is `J_lᵀ v`, without the skip.
///
/// ```
/// use onelens::{battery::path_gradients, ndarray::array};
/// // Three blocks that each double: J = 1. Of 8 paths, 1, 3, 3 and 1 pass 0, 1, 2 and 3 blocks.
/// let paths = path_gradients(3, array![1.0], |_, v| v.clone());
/// assert_eq!(paths, [array![1.0], array![3.0], array![3.0], array![1.0]]);
/// ```
pub fn path_gradients<A: LinalgScalar + AddAssign, D: Dimension>(
    n_blocks: usize,
    top: Array<A, D>,
    mut branch_vjp: impl FnMut(usize, &Array<A, D>) -> Array<A, D>,
) -> Vec<Array<A, D>> {
    let mut by_length = vec![top];
    for l in (0..n_blocks).rev() {
        let through: Vec<Array<A, D>> = by_length.iter().map(|v| branch_vjp(l, v)).collect();
        by_length.push(Array::zeros(by_length[0].raw_dim()));
        for (k, v) in through.into_iter().enumerate() {
            by_length[k + 1] += &v;
        }
    }
    by_length
}

/// Measures how much of the gradient of the loss at the embedding comes through paths of each length: entry `k` is
/// `⟨v_k, g⟩ / ⟨g, g⟩` over `tokens: [sequence, pos + 1]`, with `v_k` of [`path_gradients`] and `g = Σ_k v_k`. The
/// entries sum to 1; one is negative where paths of that length work against the whole. A block, attention and MLP
/// together, is passed or not.
///
/// Fails without skip connections, which are the paths, where the embedding is injected into every block, and where the
/// loss does.
///
/// ```
/// use onelens::{battery::path_lengths, model::{Config, Transformer}, ndarray::array};
/// let model = Transformer::new(Config { d_vocab: 5, n_layers: 2, ..Default::default() })?;
/// let shares = path_lengths(&model, &array![[0, 1, 2, 3]])?;
/// assert!(shares.len() == 3 && (shares.iter().sum::<f64>() - 1.0).abs() < 1e-5);
/// # Ok::<(), onelens::Error>(())
/// ```
pub fn path_lengths(model: &Transformer, tokens: &Array2<u32>) -> Result<Vec<f64>> {
    if !has_paths(model) {
        return Err(Error::new(
            ErrorKind::Config,
            format!(
                "a network with residual {:?} and blocks {:?} is no sum over paths",
                model.config.residual, model.config.blocks
            ),
            "pass a network with skip connections, and without an embedding injected into every block",
        ));
    }
    let n = model.config.n_layers;
    let parts = model.each_branch_vjp(tokens, |top, branch_vjp| {
        let by_length = path_gradients(n, top, branch_vjp);
        let whole = by_length[1..].iter().fold(by_length[0].clone(), |sum, v| sum + v);
        let along = |v: &Array2<f32>| v.iter().zip(&whole).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        by_length.iter().map(along).collect::<Vec<f64>>()
    })?;
    let along: Vec<f64> = (0..=n).map(|k| parts.iter().map(|part| part[k]).sum()).collect();
    let size = along.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    Ok(along.into_iter().map(|a| a / size).collect())
}

/// Whether a network is a sum over paths.
pub(super) fn has_paths(model: &Transformer) -> bool {
    // A norm of the sum is passed by every path, so that none goes past the block.
    let c = &model.config;
    c.residual != Residual::None && c.blocks != Blocks::Looped { inject: true } && c.norm_at != NormAt::Sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Markov, Source};
    use crate::model::{Config, Hook};
    use crate::num::rng;
    use ndarray::Array2;

    #[test]
    fn paths_of_no_block_are_the_gradient_at_the_top_and_all_paths_that_at_the_embedding() {
        let source = Markov::new(6, 0.5).unwrap();
        let tokens = source.sample(3, 9, &mut rng(1, 0)).unwrap();
        for residual in [Residual::Sequential, Residual::Parallel] {
            let config = Config { d_vocab: 6, n_ctx: 8, n_layers: 3, residual, ..Default::default() };
            let model = Transformer::new(config).unwrap();
            let d = model.config.d_model;
            let parts = model.each_branch_vjp(&tokens, |top, vjp| path_gradients(3, top, vjp)).unwrap();
            let rows = |k: usize| {
                let views: Vec<_> = parts.iter().map(|part| part[k].view()).collect();
                ndarray::concatenate(ndarray::Axis(0), &views).unwrap()
            };
            let whole = (0..4).fold(Array2::zeros((24, d)), |sum: Array2<f32>, k| sum + rows(k));
            // The other backward pass of the library, of the mean over 24 predictions.
            let keep = |h: Hook| matches!(h, Hook::ResidPre(0) | Hook::ResidPost(2));
            let (_, grads) = model.loss_and_hook_grads(&tokens, &[], &keep).unwrap();
            let same = |a: &Array2<f32>, b: ndarray::Array3<f32>| {
                let size = a.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
                assert!(a.iter().zip(&b).all(|(a, b)| (a - 24.0 * b).abs() < 1e-5 * size), "{residual:?}");
            };
            same(&rows(0), grads.resid_post(2).unwrap());
            same(&whole, grads.resid_pre(0).unwrap());
        }
    }
}
