//! Moments of every layer of one model, from one pass over its tokens.

use std::path::Path;

use ndarray::{Array1, Array2, Array3, ArrayView2, ArrayView3, Axis, s};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::accumulator::Accumulator;
use super::readout::sum_of_predictions;
use super::target::centred_rows;
use super::{Moments, Scale, Target, Updates};
use crate::model::{Transformer, no_stream};
use crate::num::log_softmax_rows;
use crate::session::{self, Progress};
use crate::{Error, ErrorKind, Result, record};

/// For each residual stream `h_l`, `l = 0 ..= L`, the moments of `(x, z)`, where `x` is `h_l` at some [`Scale`] and `z`
/// what the final norm makes of `h_L`, or another [`Target`]; and the mean prediction, the best one that does not look.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerMoments {
    /// The model these are from ([`Transformer::fingerprint`]).
    pub fingerprint: u64,
    /// What lenses fitted to these moments read.
    pub scale: Scale,
    /// What they predict.
    pub target: Target,
    /// One per residual stream, the embedding first.
    #[serde(with = "stored")]
    pub layers: Vec<Moments>,
    /// Mean over tokens of the model's final distribution, `[d_vocab]`. Of all constant predictions it has the least
    /// KL.
    pub mean_prediction: Array1<f64>,
}

/// Sequences run at a time by one thread: what bounds the memory.
const CHUNK: usize = 4;
const KIND: &str = "layer-moments";
/// 2: sums of weights. 3: what the lenses predict. 4: matrices as bytes, that of the targets once; what the lenses
/// read.
const VERSION: u32 = 4;

impl LayerMoments {
    /// Makes the moments of nothing yet, for this model.
    pub fn new(model: &Transformer) -> Self {
        Self::empty(model, Scale::default(), Target::default(), model.config.d_model)
    }

    /// What two moments have in common only if every number is the same (CRC-32).
    pub(crate) fn checksum(&self) -> u32 {
        let mut checksum = crc32fast::Hasher::new();
        for m in &self.layers {
            let numbers = m.s_xx.iter().chain(&m.s_zx).chain(&m.s_zz).chain(&m.x_mean).chain(&m.z_mean);
            numbers.chain([&m.weight]).for_each(|x| checksum.update(&x.to_le_bytes()));
        }
        checksum.finalize()
    }

    fn empty(model: &Transformer, scale: Scale, target: Target, d_z: usize) -> Self {
        let d = model.config.d_model;
        LayerMoments {
            fingerprint: model.fingerprint(),
            scale,
            target,
            layers: (0..=model.config.n_layers).map(|_| Moments::new(d, d_z)).collect(),
            mean_prediction: Array1::zeros(model.config.d_vocab),
        }
    }

    /// Runs `model` over `tokens: [sequence, pos]` and gathers the moments of every layer, with progress.
    ///
    /// They are of streams at unit root mean square with the last one after the final norm: in the mean over the
    /// streams, lenses of these read most and share most on every model on which they were compared with lenses of
    /// streams as they are (`benches/README.md`). [`collect_with`](LayerMoments::collect_with) makes any others.
    ///
    /// Fails if an activation is not finite, or when interrupted.
    pub fn collect(model: &Transformer, tokens: &Array2<u32>) -> Result<Self> {
        let mut all = Self::new(model);
        all.push(model, tokens)?;
        Ok(all)
    }

    /// Does the same for lenses that read streams at another scale, or predict another target.
    ///
    /// ```
    /// use onelens::{lens::{LayerMoments, Scale, Target}, model::{Config, Transformer}, ndarray::Array2};
    /// let model = Transformer::new(Config { d_vocab: 4, d_model: 8, n_heads: 1, d_head: 8, ..Config::default() })?;
    /// let tokens = Array2::from_shape_fn((10, 16), |(i, t)| ((i * t + i) % 4) as u32);
    /// let raw = LayerMoments::collect_with(&model, &tokens, Scale::AsItIs, Target::Residual)?;
    /// // The last stream is the target.
    /// assert_eq!(raw.layers[6].s_xx, raw.layers[6].s_zx);
    /// // At unit size squares of each row sum to `d_model`: of 160 rows of 8, to 1280 about the origin.
    /// let unit = LayerMoments::collect_with(&model, &tokens, Scale::UnitRms, Target::LogProbabilities)?;
    /// assert!((unit.about_zero().layers[0].s_xx.diag().sum() - 1280.0).abs() < 0.01);
    /// # Ok::<(), onelens::Error>(())
    /// ```
    ///
    /// Fails, besides, for [`Target::Given`], which [`collect_given`](LayerMoments::collect_given) is for.
    pub fn collect_with(
        model: &Transformer,
        tokens: &Array2<u32>,
        scale: Scale,
        target: Target,
    ) -> Result<Self> {
        Self::collect_of(model, tokens, scale, target, Updates::AsTheyAre)
    }

    /// The same of streams whose updates are changed.
    pub(crate) fn collect_of(
        model: &Transformer,
        tokens: &Array2<u32>,
        scale: Scale,
        target: Target,
        updates: Updates,
    ) -> Result<Self> {
        let mut all = Self::nothing(model, scale, target)?;
        all.push_with(model, tokens, None, updates)?;
        Ok(all)
    }

    /// The moments of nothing yet. Fails for numbers that have to be given.
    pub(crate) fn nothing(model: &Transformer, scale: Scale, target: Target) -> Result<Self> {
        let Some(width) = target.width(&model.config) else {
            return Err(Error::new(
                ErrorKind::Config,
                "the target `Given` has no numbers to predict",
                "use `LayerMoments::collect_given(model, tokens, numbers)`",
            ));
        };
        Ok(Self::empty(model, scale, target, width))
    }

    /// Gathers the moments of every residual stream with `numbers: [sequence, pos, d_z]` from outside of the model:
    /// belief states, labels as one-hot rows, whatever may be read off a stream. [`Transfer::r2`](super::Transfer::r2)
    /// tells how well it can.
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
        let mut all = Self::empty(model, Scale::AsItIs, Target::Given, d_z);
        all.push_with(model, tokens, Some(numbers), Updates::AsTheyAre)?;
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
        self.push_with(model, tokens, None, Updates::AsTheyAre)
    }

    fn push_with(
        &mut self,
        model: &Transformer,
        tokens: &Array2<u32>,
        given: Option<&Array3<f32>>,
        updates: Updates,
    ) -> Result<()> {
        model.check_tokens(tokens)?;
        self.check_model(model)?;
        let mut more = Accumulator::new(self);
        let mut progress = Progress::new("moments", tokens.nrows());
        let chunks: Vec<_> = tokens.axis_chunks_iter(Axis(0), CHUNK).enumerate().collect();
        // Threads share chunks while the model runs, then layers while rows are added.
        for round in chunks.chunks(2 * rayon::current_num_threads()) {
            if session::interrupted() {
                return Err(Error::new(
                    ErrorKind::Interrupted,
                    format!("interrupted after {} of {} tokens", more.n(), tokens.len()),
                    "run the cell again; the moments are as they were before it",
                ));
            }
            let views: Vec<ArrayView2<u32>> = round.iter().map(|(_, chunk)| *chunk).collect();
            let see = |(mut streams, (i, chunk)): (Vec<Array2<f32>>, &(usize, ArrayView2<u32>))| {
                updates.apply(&mut streams, i * CHUNK, tokens.ncols());
                let given = given.map(|all| all.slice(s![i * CHUNK..i * CHUNK + chunk.nrows(), .., ..]));
                Seen::new(model, streams, (self.scale, self.target), given)
            };
            let parts: Vec<Seen> = model.streams(&views).into_par_iter().zip(round).map(see).collect();
            parts.iter().try_for_each(|part| part.add_to(&mut more))?;
            progress.update(more.n() as usize / tokens.ncols(), || format!("{} tokens", more.n()));
        }
        progress.finish(&format!("{} tokens, {} layers", more.n(), self.layers.len()));
        let more = more.finish();
        if self.n() == 0 {
            *self = more;
            return Ok(());
        }
        self.merge(&more)
    }

    pub(crate) fn new_like(other: &LayerMoments) -> Self {
        let empty = |m: &Moments| Moments::new(m.x_mean.len(), m.z_mean.len());
        let mut empty = LayerMoments {
            fingerprint: other.fingerprint,
            scale: other.scale,
            target: other.target,
            layers: other.layers.iter().map(empty).collect(),
            mean_prediction: Array1::zeros(other.mean_prediction.len()),
        };
        empty.share_s_zz();
        empty
    }

    /// All streams have the same targets: their second moments once in memory.
    fn share_s_zz(&mut self) {
        if let Some((first, others)) = self.layers.split_first_mut() {
            others.iter_mut().for_each(|m| m.s_zz = first.s_zz.clone());
        }
    }

    /// Whether it is once in memory.
    fn shares_s_zz(&self) -> bool {
        self.layers.iter().all(|m| m.s_zz.as_ptr() == self.layers[0].s_zz.as_ptr())
    }

    /// Returns the number of tokens seen.
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
        other.check_scale(self.scale, "moments merge with moments of the same scale")?;
        let weight = |m: &LayerMoments| m.layers.first().map_or(0.0, |m| m.weight);
        let total = weight(self) + weight(other);
        let share = if total > 0.0 { weight(other) / total } else { 0.0 };
        self.mean_prediction = &self.mean_prediction * (1.0 - share) + &other.mean_prediction * share;
        if !(self.shares_s_zz() && other.shares_s_zz()) {
            return self.layers.iter_mut().zip(&other.layers).try_for_each(|(a, b)| a.merge(b));
        }
        let (a, b) = (&self.layers[0], &other.layers[0]);
        a.check_widths(b)?;
        if b.weight > 0.0 {
            let s_zz = a.joined_s_zz(b);
            for (a, b) in self.layers.iter_mut().zip(&other.layers) {
                a.s_zz = s_zz.clone();
                a.absorb_x(b);
            }
        }
        Ok(())
    }

    /// Returns the same about 0 instead of about the means, for lenses without intercept ([`Moments::about_zero`]).
    pub fn about_zero(&self) -> Self {
        let shares = self.shares_s_zz();
        let mut all =
            LayerMoments { layers: self.layers.iter().map(Moments::about_zero).collect(), ..self.clone() };
        if shares {
            all.share_s_zz();
        }
        all
    }

    /// Sums the moments of some of the layers: what a lens shared by them is fitted to.
    ///
    /// Fails on a layer that does not exist, or on none.
    pub fn pooled(&self, layers: &[usize]) -> Result<Moments> {
        let mut sum: Option<Moments> = None;
        for &l in layers {
            let m = self.layers.get(l).ok_or_else(|| no_stream(l, self.layers.len()))?;
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
            "collect moments for that target (`LayerMoments::collect_with`)",
        ))
    }

    /// Refuses moments of streams at another scale than this.
    pub(crate) fn check_scale(&self, wanted: Scale, why: &str) -> Result<()> {
        if self.scale == wanted {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Config,
            format!("these moments are of streams at the scale {:?}; {why}, {wanted:?}", self.scale),
            "collect moments at that scale (`LayerMoments::collect_with`)",
        ))
    }

    /// Whether the target is the last stream just as lenses read it, so that its moments are there already.
    pub(crate) fn target_is_last_stream(&self) -> bool {
        self.scale == Scale::AsItIs && self.target == Target::Residual
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

/// Layers as a file holds them: second moments of targets that they share are there once.
mod stored {
    use ndarray::ArcArray2;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Moments;
    use crate::record;

    /// Moments as they are written, but with nothing for `s_zz`.
    struct Without<'a>(&'a Moments);

    impl Serialize for Without<'_> {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            self.0.serialize_with(ArcArray2::zeros((0, 0)), to)
        }
    }

    #[derive(Serialize, Deserialize)]
    struct Matrix(#[serde(with = "record::matrix")] ArcArray2<f64>);

    pub(super) fn serialize<S: Serializer>(layers: &[Moments], to: S) -> Result<S::Ok, S::Error> {
        let first = layers.first().map(|m| &m.s_zz);
        let shared = first.filter(|first| layers.iter().all(|m| m.s_zz.as_ptr() == first.as_ptr()));
        let Some(s_zz) = shared else { return (None::<Matrix>, layers).serialize(to) };
        let without: Vec<Without> = layers.iter().map(Without).collect();
        (Some(Matrix(s_zz.clone())), without).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Moments>, D::Error> {
        let (s_zz, mut layers) = <(Option<Matrix>, Vec<Moments>)>::deserialize(from)?;
        if let Some(Matrix(s_zz)) = s_zz {
            layers.iter_mut().for_each(|m| m.s_zz = s_zz.clone());
        }
        Ok(layers)
    }
}

/// What a model makes of a few sequences.
pub(crate) struct Seen {
    pub(crate) streams: Vec<Array2<f32>>,
    /// Targets that are no stream.
    z: Option<Array2<f32>>,
    sum_p: Array1<f64>,
}

impl Seen {
    /// Of the streams of some sequences; with `given: [sequence, pos, d_z]` of those numbers.
    pub(crate) fn new(
        model: &Transformer,
        streams: Vec<Array2<f32>>,
        (scale, target): (Scale, Target),
        given: Option<ArrayView3<f32>>,
    ) -> Self {
        let last = streams.last().expect("a model has streams").view();
        let z = match (target, given) {
            (Target::Residual, _) => (scale != Scale::AsItIs).then(|| last.to_owned()),
            (Target::Given, None) => None,
            (Target::Given, Some(numbers)) => {
                let shape = (last.nrows(), numbers.len_of(Axis(2)));
                Some(numbers.to_shape(shape).expect("one row per token").into_owned())
            }
            (Target::Normalised, _) => Some(model.normalised(last)),
            (Target::LogProbabilities, _) => {
                Some(centred_rows(log_softmax_rows(model.logits(last).view()).view()))
            }
        };
        let sum_p = sum_of_predictions(model, last);
        let streams = scale.of_all(streams);
        Seen { streams, z, sum_p }
    }

    /// Streams alone, as lenses read them: not for moments.
    pub(crate) fn streams(streams: Vec<Array2<f32>>) -> Self {
        Seen { streams, z: None, sum_p: Array1::zeros(0) }
    }

    pub(crate) fn add_to(&self, moments: &mut Accumulator) -> Result<()> {
        let streams: Vec<_> = self.streams.iter().map(|h| h.view()).collect();
        moments.absorb(&streams, self.z.as_ref().map(|z| z.view()), &self.sum_p)
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
