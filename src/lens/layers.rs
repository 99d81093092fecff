//! Moments of every layer of one model, from one pass over its tokens.

use std::path::Path;

use ndarray::{Array1, Array2, Array3, ArrayView2, ArrayView3, Axis, s};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::decoder::Wanted;
use super::target::centred_rows;
use super::{Moments, Target};
use crate::model::{Tape, Transformer};
use crate::num::log_softmax_rows;
use crate::session::{self, Progress};
use crate::{Error, ErrorKind, Result, record};

/// For each residual stream `h_l`, `l = 0 ..= L`, the moments of `(h_l, z)`, where `z` is `h_L` or another [`Target`]; and the mean
/// prediction, the best one that does not look.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerMoments {
    /// The model these are from ([`Transformer::fingerprint`]).
    pub fingerprint: u64,
    /// What lenses fitted to these moments predict.
    pub target: Target,
    /// One per residual stream, the embedding first.
    pub layers: Vec<Moments>,
    /// Mean over tokens of the model's final distribution, `[d_vocab]`. Of all constant predictions it has the least KL.
    pub mean_prediction: Array1<f64>,
}

/// Sequences run at a time by one thread: what bounds the memory.
const CHUNK: usize = 4;
/// Chunks between two looks at the clock and at an interrupt.
const ROUND: usize = 16;
const KIND: &str = "layer-moments";
/// 2: sums of weights. 3: what the lenses predict.
const VERSION: u32 = 3;

impl LayerMoments {
    /// The moments of nothing yet, for this model.
    pub fn new(model: &Transformer) -> Self {
        Self::empty(model, Target::Residual, model.config.d_model)
    }

    /// What two moments have in common only if every number is the same (CRC-32).
    pub(crate) fn checksum(&self) -> u32 {
        let mut checksum = crc32fast::Hasher::new();
        for m in &self.layers {
            let numbers = [&m.s_xx, &m.s_zx, &m.s_zz].into_iter().flatten().chain(&m.x_mean).chain(&m.z_mean);
            numbers.chain([&m.weight]).for_each(|x| checksum.update(&x.to_le_bytes()));
        }
        checksum.finalize()
    }

    fn empty(model: &Transformer, target: Target, d_z: usize) -> Self {
        let d = model.config.d_model;
        LayerMoments {
            fingerprint: model.fingerprint(),
            target,
            layers: (0..=model.config.n_layers).map(|_| Moments::new(d, d_z)).collect(),
            mean_prediction: Array1::zeros(model.config.d_vocab),
        }
    }

    /// Runs `model` over `tokens: [sequence, pos]` and gathers the moments of every layer, with progress.
    ///
    /// Fails if an activation is not finite, or when interrupted.
    pub fn collect(model: &Transformer, tokens: &Array2<u32>) -> Result<Self> {
        let mut all = Self::new(model);
        all.push(model, tokens)?;
        Ok(all)
    }

    /// The same for lenses with another target than the last residual stream.
    ///
    /// Fails, besides, for [`Target::Given`], which [`collect_given`](LayerMoments::collect_given) is for.
    pub fn collect_for(model: &Transformer, tokens: &Array2<u32>, target: Target) -> Result<Self> {
        let Some(width) = target.width(&model.config) else {
            return Err(Error::new(
                ErrorKind::Config,
                "the target `Given` has no numbers to predict",
                "use `LayerMoments::collect_given(model, tokens, numbers)`",
            ));
        };
        let mut all = Self::empty(model, target, width);
        all.push(model, tokens)?;
        Ok(all)
    }

    /// The moments of every residual stream with `numbers: [sequence, pos, d_z]` from outside of the model: belief states, labels as
    /// one-hot rows, whatever may be read off a stream. [`Transfer::r2`](super::Transfer::r2) tells how well it can.
    ///
    /// Fails, besides, if the numbers do not fit the tokens or are not finite.
    pub fn collect_given(model: &Transformer, tokens: &Array2<u32>, numbers: &Array3<f32>) -> Result<Self> {
        let (n_seqs, n_pos, d_z) = numbers.dim();
        if (n_seqs, n_pos) != tokens.dim() || d_z == 0 {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("numbers of shape {:?} for tokens of shape {:?}", numbers.dim(), tokens.dim()),
                "give `[sequence, pos, d_z]`: one row of numbers for each token",
            ));
        }
        let mut all = Self::empty(model, Target::Given, d_z);
        all.push_with(model, tokens, Some(numbers))?;
        Ok(all)
    }

    /// Adds more tokens of the same model. Activations are never held for more than a few sequences at a time.
    ///
    /// Fails, besides where [`collect`](LayerMoments::collect) does, on moments of another model, or of given numbers.
    pub fn push(&mut self, model: &Transformer, tokens: &Array2<u32>) -> Result<()> {
        if self.target == Target::Given {
            return Err(Error::new(
                ErrorKind::Config,
                "these moments are of numbers that were given; tokens alone do not bring more of them",
                "collect the new tokens with their numbers (`collect_given`), then `merge`",
            ));
        }
        self.push_with(model, tokens, None)
    }

    fn push_with(
        &mut self,
        model: &Transformer,
        tokens: &Array2<u32>,
        given: Option<&Array3<f32>>,
    ) -> Result<()> {
        model.check_tokens(tokens)?;
        self.check_model(model)?;
        let mut more = Self::new_like(self);
        let mut first = 0;
        let mut progress = Progress::new("moments", tokens.nrows());
        for round in tokens.axis_chunks_iter(Axis(0), CHUNK * ROUND) {
            if session::interrupted() {
                return Err(Error::new(
                    ErrorKind::Data,
                    format!("interrupted after {} of {} tokens", more.n(), tokens.len()),
                    "run the cell again; the moments are as they were before it",
                ));
            }
            let chunks: Vec<_> = round.axis_chunks_iter(Axis(0), CHUNK).enumerate().collect();
            let parts: Vec<Result<LayerMoments>> = chunks
                .into_par_iter()
                .map(|(i, chunk)| {
                    let begin = first + i * CHUNK;
                    let given = given.map(|numbers| numbers.slice(s![begin..begin + chunk.nrows(), .., ..]));
                    more.of_chunk(model, chunk, given)
                })
                .collect();
            for part in parts {
                more.merge(&part?)?;
            }
            first += round.nrows();
            progress.update(more.layers[0].n as usize / tokens.ncols(), || format!("{} tokens", more.n()));
        }
        progress.finish(&format!("{} tokens, {} layers", more.n(), more.layers.len()));
        self.merge(&more)
    }

    /// The moments of a few sequences, for the same target as these; with `given: [sequence, pos, d_z]` of those numbers.
    pub(crate) fn of_chunk(
        &self,
        model: &Transformer,
        chunk: ArrayView2<u32>,
        given: Option<ArrayView3<f32>>,
    ) -> Result<Self> {
        let tape = model.tape(chunk);
        self.of_tape(&tape, &Wanted::of_logits(tape.logits.view()), given)
    }

    /// The same of the forward pass, and of what the model predicted in it.
    pub(super) fn of_tape(
        &self,
        tape: &Tape,
        predicted: &Wanted,
        given: Option<ArrayView3<f32>>,
    ) -> Result<Self> {
        let mut part = Self::new_like(self);
        let made;
        let target: ArrayView2<f32> = match (self.target, given) {
            (_, Some(numbers)) => {
                let shape = (tape.logits.nrows(), numbers.len_of(Axis(2)));
                made = numbers.to_shape(shape).expect("one row per token").into_owned();
                made.view()
            }
            (Target::Normalised, None) => tape.ln_final.out.view(),
            (Target::LogProbabilities, None) => {
                made = centred_rows(log_softmax_rows(tape.logits.view()).view());
                made.view()
            }
            (Target::Residual | Target::Given, None) => tape.resid(self.layers.len() - 1).view(),
        };
        for (l, moments) in part.layers.iter_mut().enumerate() {
            moments
                .push(tape.resid(l).view(), target)
                .map_err(|e| Error::new(e.kind(), format!("residual stream {l}: {}", e.what()), e.help()))?;
        }
        for p in predicted.p.rows() {
            part.mean_prediction.zip_mut_with(&p, |sum, p| *sum += f64::from(*p));
        }
        part.mean_prediction /= predicted.p.nrows() as f64;
        Ok(part)
    }

    pub(crate) fn new_like(other: &LayerMoments) -> Self {
        let empty = |m: &Moments| Moments::new(m.x_mean.len(), m.z_mean.len());
        LayerMoments {
            fingerprint: other.fingerprint,
            target: other.target,
            layers: other.layers.iter().map(empty).collect(),
            mean_prediction: Array1::zeros(other.mean_prediction.len()),
        }
    }

    /// Number of tokens seen.
    pub fn n(&self) -> u64 {
        self.layers.first().map_or(0, |m| m.n)
    }

    /// Adds what `other` has seen. Fails if it is of another model.
    pub fn merge(&mut self, other: &LayerMoments) -> Result<()> {
        if self.fingerprint != other.fingerprint || self.layers.len() != other.layers.len() {
            return Err(Error::new(
                ErrorKind::Shape,
                format!(
                    "moments of model {:016x} cannot merge with moments of model {:016x}",
                    self.fingerprint, other.fingerprint
                ),
                "merge moments that were collected with the same weights",
            ));
        }
        other.check_target(self.target, "moments merge with moments of the same target")?;
        let weight = |m: &LayerMoments| m.layers.first().map_or(0.0, |m| m.weight);
        let total = weight(self) + weight(other);
        let share = if total > 0.0 { weight(other) / total } else { 0.0 };
        self.mean_prediction = &self.mean_prediction * (1.0 - share) + &other.mean_prediction * share;
        for (a, b) in self.layers.iter_mut().zip(&other.layers) {
            a.merge(b)?;
        }
        Ok(())
    }

    /// The same about 0 instead of about the means, for lenses without intercept ([`Moments::about_zero`]).
    pub fn about_zero(&self) -> Self {
        LayerMoments { layers: self.layers.iter().map(Moments::about_zero).collect(), ..self.clone() }
    }

    /// The sum over some of the layers: what a lens shared by them is fitted to.
    ///
    /// Fails on a layer that does not exist, or on none.
    pub fn pooled(&self, layers: &[usize]) -> Result<Moments> {
        let mut sum: Option<Moments> = None;
        for &l in layers {
            let m = self.layers.get(l).ok_or_else(|| {
                Error::new(
                    ErrorKind::Shape,
                    format!("there is no residual stream {l} among {}", self.layers.len()),
                    format!("streams are 0 (the embedding) to {}", self.layers.len() - 1),
                )
            })?;
            match &mut sum {
                None => sum = Some(m.clone()),
                Some(sum) => sum.merge(m)?,
            }
        }
        sum.ok_or_else(|| {
            Error::new(ErrorKind::Config, "no layers to fit a lens to", "name at least one layer")
        })
    }

    /// Refuses a model whose weights are not those of these moments.
    pub(crate) fn check_model(&self, model: &Transformer) -> Result<()> {
        check_fingerprint("moments are", self.fingerprint, model)
    }

    /// Refuses moments of another target than this.
    pub(crate) fn check_target(&self, wanted: Target, why: &str) -> Result<()> {
        if self.target == wanted {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Config,
            format!("these moments have the target {:?}; {why}, {wanted:?}", self.target),
            "collect moments for that target (`LayerMoments::collect_for`)",
        ))
    }

    /// Saves these moments; written under a temporary name first.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        record::save(path.as_ref(), KIND, VERSION, self)
    }

    /// Reads saved moments. A file that is cut off, damaged or something else is refused.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::checked(record::load(path, KIND, VERSION)?, &path.display().to_string())
    }

    /// The bytes that [`save`](LayerMoments::save) writes.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        record::to_bytes("a peer", KIND, VERSION, self)
    }

    /// Reads what [`to_bytes`](LayerMoments::to_bytes) made.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::checked(record::from_bytes("a peer's message", bytes, KIND, VERSION)?, "a peer's message")
    }

    fn checked(all: LayerMoments, shown: &str) -> Result<Self> {
        match all.layers.iter().find_map(|m| m.check_shapes().err()) {
            None => Ok(all),
            Some(what) => {
                Err(Error::new(ErrorKind::File, format!("{shown} {what}"), "save the moments anew"))
            }
        }
    }
}

/// Refuses to use something fitted on one model with another.
pub(crate) fn check_fingerprint(what: &str, fingerprint: u64, model: &Transformer) -> Result<()> {
    let actual = model.fingerprint();
    if fingerprint == actual {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Shape,
        format!("these {what} of model {fingerprint:016x}, the model at hand is {actual:016x}"),
        "collect moments and fit again: weights changed, or this is another model",
    ))
}

impl std::fmt::Debug for LayerMoments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let d = self.layers.first().map_or(0, |m| m.x_mean.len());
        write!(f, "LayerMoments: {} tokens, {} residual streams of width {d}", self.n(), self.layers.len())
    }
}
