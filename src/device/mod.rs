//! Forward passes, moments, refined lenses and comparisons on a device of candle, such as a graphics card. A card of
//! NVIDIA needs the feature `cuda`.
//!
//! `[sequence · pos, d_model]` for residual streams, `f32`. Moments are `f32` sums over the rows of a few sequences,
//! about their mean, added up in `f64` on the host, so that a lens is fitted from them as from those of the processor.
//!
//! ```
//! use onelens::{device::{self, DeviceTransformer}, lens::{LayerMoments, Refine, Ridge}, model::{Config, Transformer}, ndarray::Array2};
//! let model = Transformer::new(Config { d_vocab: 7, n_ctx: 16, n_layers: 2, ..Default::default() })?;
//! let tokens = Array2::from_shape_fn((40, 16), |(i, t)| ((i * t + i) % 7) as u32);
//! // `device::cuda(0)?` is the first card; this is the processor, by the same code.
//! let on_device = DeviceTransformer::new(&model, &device::cpu())?;
//! let moments = on_device.moments(&tokens)?;
//! assert_eq!(moments.n(), LayerMoments::collect(&model, &tokens)?.n());
//! let lenses = Ridge { lambda: 1e-2, ..Ridge::default() }.own(&moments)?;
//! let refine = Refine { epochs: 2, lbfgs_steps: 1, ..Refine::default() };
//! let tuned = on_device.refine(&model, &refine, &lenses, &moments, &tokens)?;
//! let read = on_device.compare(&model, &[&lenses, &tuned], &moments, &tokens)?;
//! assert_eq!(read.curves[1].name, "tuned lens");
//! # Ok::<(), onelens::Error>(())
//! ```

mod block;
mod moments;
mod reading;
mod refinement;

use candle_core::{Device, Tensor};
use ndarray::{Array2, Array3};

use crate::model::{
    Attention, AttentionScale, Blocks, Config, NormAt, Positions, QkNorm, Residual, Rotary, Transformer,
    to_candle,
};
use crate::{Error, ErrorKind, Result};
use block::{Block, Norms, Turn, linear};

/// Chooses the processor.
pub fn cpu() -> Device {
    Device::Cpu
}

/// Chooses the card of NVIDIA with this number, from 0.
///
/// Fails without the feature `cuda`, and where there is no such card. With the feature, candle links NVIDIA's driver,
/// so that a program does not even start where there is none (`libcuda.so.1: cannot open shared object file`): build it
/// without for such a machine.
pub fn cuda(number: usize) -> Result<Device> {
    if !cfg!(feature = "cuda") {
        return Err(Error::new(
            ErrorKind::Config,
            "this onelens was built without CUDA",
            "build it with the feature `cuda`, which needs NVIDIA's toolkit (nvcc), or use `device::cpu()`",
        ));
    }
    Device::new_cuda(number).map_err(|e| {
        Error::new(
            ErrorKind::Config,
            format!("there is no CUDA device {number}: {e}"),
            "`nvidia-smi` lists the cards that the driver sees; `device::cpu()` needs none",
        )
    })
}

/// A transformer whose weights lie on a device. The architectures of GPT-2, Llama and GPT-NeoX and what lies between
/// them; a setting of [`Config`] that is not computed here is refused by name.
pub struct DeviceTransformer {
    config: Config,
    fingerprint: u64,
    device: Device,
    embedding: Tensor,
    /// `[n_ctx, d_model]`, if positions are learned.
    positions: Option<Tensor>,
    /// One per layer; a single one if it is looped.
    blocks: Vec<Block>,
    final_norm: Norms,
    /// `[d_model, d_vocab]`.
    unembedding: Tensor,
    b_u: Option<Tensor>,
}

/// What went through the network, on the device.
pub(crate) struct Streams {
    /// `h_0 ..= h_L`, each `[sequence · pos, d_model]`.
    pub(crate) streams: Vec<Tensor>,
    /// `[sequence · pos, d_vocab]`.
    pub(crate) logits: Tensor,
}

impl DeviceTransformer {
    /// Copies the weights of `model` to `device`.
    ///
    /// Fails on linear attention, and where the device has no room.
    pub fn new(model: &Transformer, device: &Device) -> Result<Self> {
        let (c, p) = (&model.config, &model.params);
        if let Some(setting) = not_computed(c) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{setting} is not computed on a device"),
                "run the model itself, or one of the architecture of GPT-2, Llama or GPT-NeoX",
            ));
        }
        if c.attention == Attention::Linear {
            return Err(Error::new(
                ErrorKind::Config,
                "attention is Linear, which is not computed on a device",
                "run the model itself, or one with softmax attention",
            ));
        }
        let place = Place(device);
        let blocks = p.blocks.iter().map(|b| Block::new(c, b, &place)).collect::<Result<_>>()?;
        Ok(DeviceTransformer {
            fingerprint: model.fingerprint(),
            device: device.clone(),
            embedding: place.matrix(&p.w_e)?,
            positions: match c.positions {
                Positions::Learned => Some(place.matrix(&p.w_pos)?),
                Positions::Rotary(_) | Positions::Alibi | Positions::None => None,
            },
            blocks,
            final_norm: Norms::new(c, &p.ln_final_w, &p.ln_final_b, &place)?,
            unembedding: place.matrix(&p.unembedding().to_owned())?,
            b_u: place.vector(&p.b_u)?,
            config: c.clone(),
        })
    }

    /// Computes the logits `[sequence, pos, d_vocab]` of `tokens: [sequence, pos]`.
    ///
    /// Fails on tokens that the model does not have or that are too many, and where the device does.
    pub fn forward(&self, tokens: &Array2<u32>) -> Result<Array3<f32>> {
        let run = self.run(tokens)?;
        host(&run.logits, (tokens.nrows(), tokens.ncols(), self.config.d_vocab))
    }

    /// Computes every residual stream `h_0 ..= h_L`, each `[sequence, pos, d_model]`.
    ///
    /// Fails where [`forward`](DeviceTransformer::forward) does.
    pub fn residuals(&self, tokens: &Array2<u32>) -> Result<Vec<Array3<f32>>> {
        let shape = (tokens.nrows(), tokens.ncols(), self.config.d_model);
        self.run(tokens)?.streams.iter().map(|h| host(h, shape)).collect()
    }

    fn check(&self, tokens: &Array2<u32>) -> Result<()> {
        let c = &self.config;
        let refuse = |what: String, help: String| Err(Error::new(ErrorKind::Shape, what, help));
        if tokens.is_empty() {
            return refuse(
                "there are no tokens".into(),
                "give `[sequence, pos]` with at least one of each".into(),
            );
        }
        if tokens.ncols() > c.n_ctx {
            return refuse(
                format!("{} tokens are longer than the context", tokens.ncols()),
                format!("give sequences of at most {} tokens", c.n_ctx),
            );
        }
        match tokens.iter().find(|&&t| t as usize >= c.d_vocab) {
            None => Ok(()),
            Some(t) => refuse(
                format!("token {t} is not in the vocabulary"),
                format!("tokens are 0 to {}", c.d_vocab - 1),
            ),
        }
    }

    /// Everything at once, on the device.
    pub(crate) fn run(&self, tokens: &Array2<u32>) -> Result<Streams> {
        self.check(tokens)?;
        let c = &self.config;
        let (n_seqs, n_pos) = tokens.dim();
        let work = || -> candle_core::Result<Streams> {
            let flat: Vec<u32> = tokens.iter().copied().collect();
            let mut h =
                self.embedding.index_select(&Tensor::from_vec(flat, n_seqs * n_pos, &self.device)?, 0)?;
            if let Some(positions) = &self.positions {
                let positions = positions.narrow(0, 0, n_pos)?;
                h = h
                    .reshape((n_seqs, n_pos, c.d_model))?
                    .broadcast_add(&positions)?
                    .reshape((n_seqs * n_pos, c.d_model))?;
            }
            let turn = match &c.positions {
                Positions::Rotary(rotary) => Some(self.turn(rotary, n_pos)?),
                Positions::Learned | Positions::Alibi | Positions::None => None,
            };
            let hidden = self.hidden(n_pos)?;
            let mut streams = vec![h.clone()];
            for l in 0..c.n_layers {
                let block = &self.blocks[if c.blocks == Blocks::Distinct { l } else { 0 }];
                let injects = l > 0 && c.blocks == Blocks::Looped { inject: true };
                let pre = if injects { (&h + &streams[0])? } else { h };
                h = block.run(c, &pre, (n_seqs, n_pos), turn.as_ref(), &hidden)?;
                streams.push(h.clone());
            }
            let logits = linear(&self.final_norm.run(c, &h)?, &self.unembedding, self.b_u.as_ref())?;
            Ok(Streams { streams, logits })
        };
        work().map_err(|e| failed(&e))
    }

    /// The cosines and sines of positions `0 .. n_pos`, `[pos, d_rotary / 2]`.
    fn turn(&self, rotary: &Rotary, n_pos: usize) -> candle_core::Result<Turn> {
        let (frequencies, length) = rotary.frequencies(self.config.d_head, n_pos);
        let pairs = frequencies.len();
        let angle = |at: usize| (at / pairs) as f64 * frequencies[at % pairs];
        let table = |of: fn(f64) -> f64| {
            let numbers: Vec<f32> = (0..n_pos * pairs).map(|at| (length * of(angle(at))) as f32).collect();
            Tensor::from_vec(numbers, (n_pos, pairs), &self.device)
        };
        Ok(Turn { pairs: rotary.pairs, cos: table(f64::cos)?, sin: table(f64::sin)? })
    }

    /// What is added to scores: nothing where a query sees a key, minus infinity elsewhere; `[query, key]`.
    fn hidden(&self, n_pos: usize) -> candle_core::Result<Tensor> {
        let of = |at: usize| {
            let visible = at % n_pos < self.config.mask.n_visible(at / n_pos, n_pos);
            if visible { 0.0 } else { f32::NEG_INFINITY }
        };
        Tensor::from_vec((0..n_pos * n_pos).map(of).collect::<Vec<f32>>(), (n_pos, n_pos), &self.device)
    }
}

/// The first setting that changes the computation in a way that is not here.
fn not_computed(c: &Config) -> Option<String> {
    let all = [
        ("norm_at", c.norm_at != NormAt::Input),
        ("layers", !c.layers.is_empty()),
        ("qk_norm", c.qk_norm != QkNorm::None),
        ("attention_scale", c.attention_scale != AttentionScale::Head),
        ("attention_cap", c.attention_cap.is_some()),
        ("positions: Alibi", c.positions == Positions::Alibi),
        ("experts", c.experts.is_some()),
        ("residual: ParallelOneNorm", c.residual == Residual::ParallelOneNorm),
        ("embed_norm", c.embed_norm),
        ("embed_scale", c.embed_scale != 1.0),
        ("resid_scale", c.resid_scale != 1.0),
        ("logit_scale", c.logit_scale != 1.0),
        ("logit_cap", c.logit_cap.is_some()),
    ];
    all.into_iter().find(|(_, is_there)| *is_there).map(|(name, _)| name.into())
}

/// Where weights go.
struct Place<'a>(&'a Device);

impl Place<'_> {
    fn matrix(&self, w: &Array2<f32>) -> Result<Tensor> {
        let tensor = to_candle(&w.to_owned().into_dyn())?;
        tensor.to_device(self.0).map_err(|e| failed(&e))
    }

    /// `None` for what an architecture does not have.
    fn vector(&self, w: &ndarray::Array1<f32>) -> Result<Option<Tensor>> {
        if w.is_empty() {
            return Ok(None);
        }
        to_candle(&w.to_owned().into_dyn())?.to_device(self.0).map(Some).map_err(|e| failed(&e))
    }
}

fn failed(e: &candle_core::Error) -> Error {
    Error::new(
        ErrorKind::Numeric,
        format!("the device failed: {e}"),
        "give it fewer sequences at a time, or use `device::cpu()`",
    )
}

/// A tensor of rows as an array on the host.
fn host(x: &Tensor, shape: (usize, usize, usize)) -> Result<Array3<f32>> {
    let read = || x.flatten_all()?.to_vec1::<f32>();
    let numbers = read().map_err(|e| failed(&e))?;
    Ok(Array3::from_shape_vec(shape, numbers).expect("as many numbers as the shape says"))
}
