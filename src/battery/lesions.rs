//! What a network loses when a block is taken out, moved, repeated or replaced by the affine map that predicts it best.

use ndarray::{Array2, Axis};
use serde::{Deserialize, Serialize};

use super::measure::{apply, moments};
use crate::lens::{Ridge, Towards};
use crate::model::{AttentionScale, BlockParams, Blocks, Hook, Intervention, Norm, Residual, Transformer};
use crate::{Error, ErrorKind, Result, memory};

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
    /// A block `times` in a row, each time with a step of `1/times`: `h ← h + block(h) / times`. If blocks refine one
    /// prediction step by step, smaller steps along the same way do little harm, or help; if each does something of
    /// its own, the block is fed what it never saw.
    ///
    /// What is divided is what attention and MLP add. Where both read the same stream (a parallel residual) the block
    /// is one step, exactly as written; where the MLP reads what attention has changed, both are, one after the other:
    /// `h ← h + attention(h) / times`, then `h ← h + mlp(h) / times`. Once is the network itself.
    Damped {
        /// Which block.
        block: usize,
        /// How often, at least once.
        times: usize,
    },
}

impl Lesion {
    /// Makes the network with the lesion. Its weights are those of `model`, but that what a damped block adds is
    /// divided.
    ///
    /// Fails on a block that is not there, on the only block deleted, a looped network, which has one block only, and a
    /// network whose blocks multiply scores by a number that depends on their place. A damped block has to add to the
    /// stream: there is none without skip connections or with a norm of the stream itself.
    ///
    /// ```
    /// use onelens::{battery::Lesion, model::{Config, Transformer}};
    /// let model = Transformer::new(Config { d_vocab: 5, n_layers: 3, ..Default::default() })?;
    /// assert_eq!(Lesion::Delete(1).apply(&model)?.config.n_layers, 2);
    /// assert_eq!(Lesion::Permute(vec![0, 1, 2]).apply(&model)?.fingerprint(), model.fingerprint());
    /// let damped = Lesion::Damped { block: 1, times: 4 }.apply(&model)?;
    /// assert_eq!(damped.config.n_layers, 6);
    /// assert_eq!(damped.params.blocks[2].w_o[(0, 0)], model.params.blocks[1].w_o[(0, 0)] / 4.0);
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn apply(&self, model: &Transformer) -> Result<Transformer> {
        let (n, config) = (model.config.n_layers, &model.config);
        let by_place = match config.attention_scale {
            AttentionScale::Head | AttentionScale::Fixed { by_layer: false, .. } => false,
            AttentionScale::Fixed { by_layer: true, .. } => true,
        };
        let Some(order) = self.order(n).filter(|_| config.blocks == Blocks::Distinct && !by_place) else {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{self:?} cannot be done to a network of {n} blocks ({})", config.describe()),
                format!(
                    "name blocks from 0 to {}, of a network whose blocks have weights of their own and do the same \
                     wherever they stand",
                    n - 1
                ),
            ));
        };
        let mut lesioned = model.clone();
        if let Lesion::Damped { block, times } = *self {
            let normed = config.norm != Norm::None;
            if config.residual == Residual::None || (normed && config.norm_at.sum()) {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!("blocks of this network do not add to the stream ({})", config.describe()),
                    "damp the steps of a network with skip connections and without norms of the stream itself",
                ));
            }
            memory::check(
                4 * (times as u128).saturating_sub(1) * (model.params.count() / n) as u128,
                &format!("{times} copies of a block"),
                "repeat it less often",
            )?;
            damp(&mut lesioned.params.blocks[block], times, normed && config.norm_at.output());
        }
        lesioned.params.blocks = order.iter().map(|&l| lesioned.params.blocks[l].clone()).collect();
        lesioned.config.n_layers = order.len();
        // Windows and positions of their own go where the blocks go.
        if !config.layers.is_empty() {
            let kind_of = |&l: &usize| config.layers[l % config.layers.len()].clone();
            let kinds: Vec<_> = order.iter().map(kind_of).collect();
            if (0..order.len()).any(|i| kinds[i] != config.layers[i % config.layers.len()]) {
                lesioned.config.layers = kinds;
            }
        }
        Ok(lesioned)
    }

    /// Which blocks follow each other, of `n`; `None` where there is no such thing.
    fn order(&self, n: usize) -> Option<Vec<usize>> {
        let mut order: Vec<usize> = (0..n).collect();
        let is_there = match self {
            Lesion::Delete(l) => *l < n && n > 1,
            Lesion::Swap(l) => *l < n - 1,
            Lesion::Repeat(l) => *l < n,
            Lesion::Permute(wanted) => !wanted.is_empty() && wanted.iter().all(|l| *l < n),
            Lesion::Damped { block, times } => *block < n && (1..=1 << 12).contains(times),
        };
        if !is_there {
            return None;
        }
        match self {
            Lesion::Delete(l) => drop(order.remove(*l)),
            Lesion::Swap(l) => order.swap(*l, l + 1),
            Lesion::Repeat(l) => order.insert(*l, *l),
            Lesion::Permute(wanted) => order.clone_from(wanted),
            Lesion::Damped { block, times } => {
                drop(order.splice(*block..=*block, std::iter::repeat_n(*block, *times)));
            }
        }
        Some(order)
    }
}

/// Divides what attention and MLP add: the maps that give it, or the gains and biases of the norms after them.
fn damp(block: &mut BlockParams, times: usize, normed: bool) {
    if times == 1 {
        return;
    }
    let share = 1.0 / times as f32;
    if normed {
        let gains =
            [&mut block.ln1_post_w, &mut block.ln1_post_b, &mut block.ln2_post_w, &mut block.ln2_post_b];
        gains.into_iter().for_each(|gain| *gain *= share);
    } else {
        [&mut block.w_o, &mut block.w_out].into_iter().for_each(|w| **w *= share);
        [&mut block.b_o, &mut block.b_out].into_iter().for_each(|b| *b *= share);
    }
}

/// Measures the loss on the second half of `tokens`, nats per token, when block `l` is replaced by the affine map of
/// its input that predicts its output best on the first half, for each block; and without any replacement.
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
