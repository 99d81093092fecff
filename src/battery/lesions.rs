//! What a network loses when a block is taken out, moved, repeated or replaced by the affine map that predicts it best.

use ndarray::{Array2, Axis};
use serde::{Deserialize, Serialize};

use super::measure::{apply, moments};
use crate::lens::{Ridge, Towards};
use crate::model::{Blocks, Hook, Intervention, Transformer};
use crate::{Error, ErrorKind, Result};

/// What is done to the blocks (Veit et al. 2016). Blocks count from 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lesion {
    /// Without this block.
    Delete(usize),
    /// This block and the next change places.
    Swap(usize),
    /// This block twice in a row.
    Repeat(usize),
    /// Blocks in this order.
    Permute(Vec<usize>),
}

impl Lesion {
    /// The network with the lesion. Its weights are those of `model`.
    ///
    /// Fails on a block that is not there, on the only block deleted, or a looped network, which has one block only.
    ///
    /// ```
    /// use onelens::{battery::Lesion, model::{Config, Transformer}};
    /// let model = Transformer::new(Config { d_vocab: 5, n_layers: 3, ..Default::default() })?;
    /// assert_eq!(Lesion::Delete(1).apply(&model)?.config.n_layers, 2);
    /// assert_eq!(Lesion::Permute(vec![0, 1, 2]).apply(&model)?.fingerprint(), model.fingerprint());
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn apply(&self, model: &Transformer) -> Result<Transformer> {
        let n = model.config.n_layers;
        let mut order: Vec<usize> = (0..n).collect();
        let inside = match self {
            Lesion::Delete(l) if *l < n && n > 1 => {
                order.remove(*l);
                true
            }
            Lesion::Swap(l) if l + 1 < n => {
                order.swap(*l, l + 1);
                true
            }
            Lesion::Repeat(l) if *l < n => {
                order.insert(*l, *l);
                true
            }
            Lesion::Permute(wanted) => {
                order.clone_from(wanted);
                !wanted.is_empty() && wanted.iter().all(|l| *l < n)
            }
            _ => false,
        };
        if !inside || model.config.blocks != Blocks::Distinct {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{self:?} cannot be done to a network of {n} blocks ({})", model.config.describe()),
                format!(
                    "name blocks from 0 to {}, of a network whose blocks have weights of their own",
                    n - 1
                ),
            ));
        }
        let mut lesioned = model.clone();
        lesioned.params.blocks = order.iter().map(|&l| model.params.blocks[l].clone()).collect();
        lesioned.config.n_layers = order.len();
        Ok(lesioned)
    }
}

/// The loss on the second half of `tokens`, nats per token, when block `l` is replaced by the affine map of its input
/// that predicts its output best on the first half, for each block; and without any replacement.
///
/// Fails if the tokens do not fit, or the first half has too few of them for an affine map.
pub fn affine_replacement(model: &Transformer, tokens: &Array2<u32>) -> Result<(Vec<f64>, f64)> {
    let half = tokens.nrows() / 2;
    let (fit, read) = tokens.view().split_at(Axis(0), half);
    let (fit, read) = (fit.to_owned(), read.to_owned());
    let inputs = read.slice(ndarray::s![.., ..read.ncols().saturating_sub(1)]).to_owned();
    let keep = |h: Hook| matches!(h, Hook::ResidPre(_) | Hook::ResidPost(_));
    let (_, on_fit) = model.run_with_cache_of(&fit, &[], &keep)?;
    let (_, on_read) = model.run_with_cache_of(&inputs, &[], &keep)?;
    let rows = |h: ndarray::Array3<f32>| {
        let (seqs, pos, d) = h.dim();
        h.mapv(f64::from).into_shape_with_order((seqs * pos, d)).expect("a row per token")
    };
    let ridge = Ridge { lambda: 1e-4, towards: Towards::Zero };
    let losses = (0..model.config.n_layers)
        .map(|l| {
            let (x, z) = (rows(on_fit.resid_pre(l)?), rows(on_fit.resid_post(l)?));
            let map = ridge.fit(&moments(x.view(), z.view()))?;
            let predicted = apply(&map, rows(on_read.resid_pre(l)?).view()).mapv(|x| x as f32);
            let shape = (inputs.nrows(), inputs.ncols(), model.config.d_model);
            let predicted = predicted.into_shape_with_order(shape).expect("a row per token");
            model.loss_with(&read, &[Intervention::replace(Hook::ResidPost(l), predicted)])
        })
        .collect::<Result<_>>()?;
    Ok((losses, model.loss(&read)?))
}
