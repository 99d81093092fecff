//! What a lens is: a map from a residual stream to a guess of the last one.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ndarray::{Array1, Array2, ArrayView1, ArrayView2};
use serde::{Deserialize, Serialize};

use super::layers::check_fingerprint;
use super::token_gradient::TokenGradient;
use super::{LayerMoments, LensKind, Scale, Target};
use crate::model::{Transformer, check_width, no_stream};
use crate::num::{log_softmax_rows, matmul};
use crate::{Error, ErrorKind, Result, record};

/// `z = A h + b`.
///
/// ```
/// use onelens::{lens::AffineLens, ndarray::array};
/// let lens = AffineLens { a: array![[2.0, 0.0], [0.0, 1.0]], b: array![0.5, 0.0] };
/// assert_eq!(lens.transport(array![[1.0, 3.0]].view())?, array![[2.5, 3.0]]);
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AffineLens {
    /// `[d_z, d_model]`, target first.
    pub a: Array2<f64>,
    /// `[d_z]`.
    pub b: Array1<f64>,
}

impl AffineLens {
    /// Makes the lens that changes nothing: the logit lens's.
    pub fn identity(d: usize) -> Self {
        AffineLens { a: Array2::eye(d), b: Array1::zeros(d) }
    }

    /// Maps `h: [rows, d_model]` to `[rows, d_z]`.
    ///
    /// Fails on rows of another width.
    pub fn transport(&self, h: ArrayView2<f32>) -> Result<Array2<f32>> {
        check_width("this lens reads", self.a.ncols(), h)?;
        Ok(self.map(h))
    }

    /// The same of rows that fit.
    pub(crate) fn map(&self, h: ArrayView2<f32>) -> Array2<f32> {
        let a = self.a.mapv(|x| x as f32);
        let mut z = matmul(h, a.t());
        z += &self.b.mapv(|x| x as f32);
        z
    }

    /// `A x + b` in f64.
    pub(crate) fn apply(&self, x: ArrayView1<f64>) -> Array1<f64> {
        self.a.dot(&x) + &self.b
    }
}

/// Something that reads a prediction of the next token off a residual stream: [`transport`](Lens::transport) it to what
/// the lens guesses, then [`decode`](Lens::decode) the guess.
pub trait Lens: Sync {
    /// A short name for legends.
    fn name(&self) -> String;

    /// Maps residual stream `layer` (0 is the embedding), `h: [rows, d_model]`, to a guess of the [`Target`], `[rows,
    /// d_z]`.
    ///
    /// Fails on a stream that does not exist, or rows of another width.
    fn transport(&self, layer: usize, h: ArrayView2<f32>) -> Result<Array2<f32>>;

    /// Logits `[rows, d_vocab]` of a guess, each row up to a constant. Unless the lens says otherwise the guess is one
    /// of the last residual stream, which the model's own final norm and unembedding decode.
    ///
    /// Fails on rows of another width than the target's.
    fn logits(&self, model: &Transformer, z: ArrayView2<f32>) -> Result<Array2<f32>> {
        Target::Residual.logits(model, z)
    }

    /// What the model's unembedding multiplies to give these logits, `[rows, d_model]`, so that large vocabularies are
    /// read in parts; `None` where logits come otherwise. A lens with `logits` of its own says this anew as well, or
    /// leaves it out.
    ///
    /// Fails where [`logits`](Lens::logits) does.
    fn normalised(&self, _model: &Transformer, _z: ArrayView2<f32>) -> Result<Option<Array2<f32>>> {
        Ok(None)
    }

    /// Log-probabilities `[rows, d_vocab]` of a guess.
    fn decode(&self, model: &Transformer, z: ArrayView2<f32>) -> Result<Array2<f32>> {
        Ok(log_softmax_rows(self.logits(model, z)?.view()))
    }

    /// What the lens reads at residual stream `layer`: log-probabilities, `[rows, d_vocab]`.
    fn read(&self, model: &Transformer, layer: usize, h: ArrayView2<f32>) -> Result<Array2<f32>> {
        self.decode(model, self.transport(layer, h)?.view())
    }

    /// The gradient by `h: [rows, d_model]` of the log-probability that the lens reads at residual stream `layer` for
    /// `tokens`, one for each row: `[rows, d_model]`, in nats per unit of the stream. It is the direction in which the
    /// lens says that the token becomes more probable, which [`Steering`](super::Steering) adds to the stream.
    ///
    /// Fails where [`read`](Lens::read) does, on a token outside the vocabulary, on another number of tokens than rows,
    /// and for a kind of lens that does not say how.
    ///
    /// ```
    /// use onelens::{lens::{Lens, LogitLens}, model::{Config, Norm, Transformer}, ndarray::array};
    /// // Without a norm, the logits of the logit lens are `U h`, and the gradient of `ln q_0` is `u_0 - Σ q_t u_t`.
    /// let config = Config { d_vocab: 2, d_model: 2, n_heads: 1, d_head: 2, norm: Norm::None, ..Default::default() };
    /// let mut model = Transformer::new(config)?;
    /// model.params.w_u = array![[3.0, 1.0], [0.0, 8.0]].into();
    /// // Nothing in the stream: both tokens have a half.
    /// let gradient = LogitLens.token_gradient(&model, 0, array![[0.0, 0.0]].view(), &[0])?;
    /// assert_eq!(gradient, array![[1.0, -4.0]]);
    /// # Ok::<(), onelens::Error>(())
    /// ```
    fn token_gradient(
        &self,
        _model: &Transformer,
        _layer: usize,
        _h: ArrayView2<f32>,
        _tokens: &[u32],
    ) -> Result<Array2<f32>> {
        Err(Error::new(
            ErrorKind::Config,
            format!("the {} has no gradient", self.name()),
            "implement `Lens::token_gradient` for this kind of lens",
        ))
    }

    /// Refuses a model that this lens was not made for, or to which it says nothing of tokens.
    fn check_model(&self, model: &Transformer) -> Result<()>;

    /// Seconds that fitting took, from the moments or the closed form on.
    fn fit_seconds(&self) -> f64 {
        0.0
    }
}

/// Reads every residual stream as it is (nostalgebraist 2020). Nothing to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogitLens;

impl Lens for LogitLens {
    fn name(&self) -> String {
        "logit lens".into()
    }

    fn normalised(&self, model: &Transformer, z: ArrayView2<f32>) -> Result<Option<Array2<f32>>> {
        Target::Residual.normalised(model, z)
    }

    fn transport(&self, _layer: usize, h: ArrayView2<f32>) -> Result<Array2<f32>> {
        Ok(h.to_owned())
    }

    fn token_gradient(
        &self,
        model: &Transformer,
        _layer: usize,
        h: ArrayView2<f32>,
        tokens: &[u32],
    ) -> Result<Array2<f32>> {
        TokenGradient { target: Target::Residual, scale: Scale::AsItIs, map: None }.of(model, h, tokens)
    }

    fn check_model(&self, _model: &Transformer) -> Result<()> {
        Ok(())
    }
}

/// One affine lens for each residual stream, own or shared.
#[derive(Clone, Serialize, Deserialize)]
#[serde(into = "Stored", try_from = "Stored")]
pub struct LayerLenses {
    name: String,
    fingerprint: u64,
    scale: Scale,
    target: Target,
    kind: LensKind,
    seconds: f64,
    // A shared lens is one matrix, however many layers read through it.
    lenses: Vec<Arc<AffineLens>>,
}

impl LayerLenses {
    /// Lenses fitted to these moments, since `began`.
    pub(crate) fn new(name: &str, m: &LayerMoments, lenses: Vec<Arc<AffineLens>>, began: Instant) -> Self {
        let unlike_most = match (m.scale, m.target) {
            (Scale::UnitRms, Target::Normalised) => "",
            (Scale::UnitRms, Target::Residual) => ", pre-norm",
            (Scale::AsItIs, Target::Residual) => ", raw pre-norm",
            (Scale::AsItIs, Target::Normalised) => ", raw",
            (Scale::AsItIs, Target::LogProbabilities | Target::Given) => ", probe",
            (Scale::UnitRms, Target::LogProbabilities | Target::Given) => ", unit rms, probe",
        };
        LayerLenses {
            name: format!("{name}{unlike_most}"),
            fingerprint: m.fingerprint,
            scale: m.scale,
            target: m.target,
            kind: LensKind::Own,
            seconds: began.elapsed().as_secs_f64(),
            lenses,
        }
    }

    /// Lenses from elsewhere, which predict the last residual stream from streams as they are.
    pub(super) fn published(name: &str, model: &Transformer, lenses: Vec<Arc<AffineLens>>) -> Self {
        LayerLenses {
            name: name.into(),
            fingerprint: model.fingerprint(),
            scale: Scale::AsItIs,
            target: Target::Residual,
            kind: LensKind::Own,
            seconds: 0.0,
            lenses,
        }
    }

    /// Puts another map in the place of that for the last stream.
    pub(super) fn set_last(&mut self, lens: Arc<AffineLens>) {
        *self.lenses.last_mut().expect("a model has an embedding") = lens;
    }

    /// Gives the same lenses under another name, for legends.
    pub fn named(&self, name: &str) -> Self {
        LayerLenses { name: name.into(), ..self.clone() }
    }

    /// The same lenses as those of a kind.
    pub(crate) fn of_kind(self, kind: LensKind) -> Self {
        LayerLenses { kind, ..self }
    }

    /// Says which streams the lens of each stream was fitted to, and what it has in common with the others. Those that
    /// others have published count as each stream's own.
    pub fn kind(&self) -> &LensKind {
        &self.kind
    }

    /// Says what the lenses read: of which `x` the [maps](LayerLenses::layer) are.
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// Says what the lenses predict.
    pub fn target(&self) -> Target {
        self.target
    }

    /// Returns the lens of one residual stream, if there is such a stream.
    pub fn layer(&self, layer: usize) -> Option<AffineLens> {
        self.lenses.get(layer).map(|l| l.as_ref().clone())
    }

    /// Returns the number of residual streams, one more than the model has blocks.
    #[allow(clippy::len_without_is_empty)] // a model has at least one block
    pub fn len(&self) -> usize {
        self.lenses.len()
    }

    pub(crate) fn lenses(&self) -> &[Arc<AffineLens>] {
        &self.lenses
    }

    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// What tells lenses of one model apart.
    pub(crate) fn checksum(&self) -> u32 {
        let mut checksum = crc32fast::Hasher::new();
        for lens in &self.lenses {
            lens.a.iter().chain(&lens.b).for_each(|x| checksum.update(&x.to_le_bytes()));
        }
        checksum.finalize()
    }

    /// Writes the lenses to `path`. The file appears whole or not at all.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        record::save(path.as_ref(), KIND, VERSION, self)
    }

    /// Reads lenses that [`save`](LayerLenses::save) wrote.
    ///
    /// Fails on a file that is damaged, or of another kind or version. That lenses are of another model is said where
    /// they are used.
    ///
    /// ```
    /// use onelens::{lens::{LayerLenses, LayerMoments, Ridge}, model::{Config, Transformer}, ndarray::Array2};
    /// let model = Transformer::new(Config { d_vocab: 4, n_layers: 1, ..Default::default() })?;
    /// let tokens = Array2::from_shape_fn((40, 16), |(i, t)| ((i * t + i) % 4) as u32);
    /// let own = Ridge::default().own(&LayerMoments::collect(&model, &tokens)?)?;
    /// let path = std::env::temp_dir().join(format!("onelens-doc-lenses-{}", std::process::id()));
    /// own.save(&path)?;
    /// assert!(LayerLenses::load(&path)? == own);
    /// # std::fs::remove_file(path).unwrap();
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        record::load(path.as_ref(), KIND, VERSION)
    }

    /// Whether these are lenses of this model, for whatever they predict.
    pub(crate) fn check_fits(&self, model: &Transformer) -> Result<()> {
        check_fingerprint(&format!("lenses ({}) are", self.name), self.fingerprint, model)
    }
}

const KIND: &str = "lenses";
/// 2: what the lenses read. 3: which streams they were fitted to. 4: their kind.
const VERSION: u32 = 4;

/// Lenses as a file holds them: a map that several streams share is there once.
#[derive(Serialize, Deserialize)]
struct Stored {
    name: String,
    fingerprint: u64,
    scale: Scale,
    target: Target,
    kind: LensKind,
    seconds: f64,
    maps: Vec<AffineLens>,
    /// For each residual stream, which of them.
    map_of: Vec<usize>,
}

impl From<LayerLenses> for Stored {
    fn from(all: LayerLenses) -> Stored {
        let mut maps: Vec<&Arc<AffineLens>> = Vec::new();
        let map_of = all
            .lenses
            .iter()
            .map(|lens| {
                maps.iter().position(|map| Arc::ptr_eq(map, lens)).unwrap_or_else(|| {
                    maps.push(lens);
                    maps.len() - 1
                })
            })
            .collect();
        Stored {
            maps: maps.into_iter().map(|map| map.as_ref().clone()).collect(),
            map_of,
            name: all.name,
            fingerprint: all.fingerprint,
            scale: all.scale,
            target: all.target,
            kind: all.kind,
            seconds: all.seconds,
        }
    }
}

impl TryFrom<Stored> for LayerLenses {
    type Error = &'static str;

    fn try_from(stored: Stored) -> std::result::Result<Self, &'static str> {
        let Stored { name, fingerprint, scale, target, kind, seconds, maps, map_of } = stored;
        let maps: Vec<Arc<AffineLens>> = maps.into_iter().map(Arc::new).collect();
        let lenses = map_of.into_iter().map(|i| maps.get(i).cloned()).collect::<Option<_>>();
        let lenses = lenses.ok_or("lenses name maps that are not there")?;
        Ok(LayerLenses { name, fingerprint, scale, target, kind, seconds, lenses })
    }
}

impl Lens for LayerLenses {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn transport(&self, layer: usize, h: ArrayView2<f32>) -> Result<Array2<f32>> {
        let lens = self.lenses.get(layer).ok_or_else(|| no_stream(layer, self.len()))?;
        lens.transport(self.scale.of(h).view())
    }

    fn logits(&self, model: &Transformer, z: ArrayView2<f32>) -> Result<Array2<f32>> {
        self.target.logits(model, z)
    }

    fn normalised(&self, model: &Transformer, z: ArrayView2<f32>) -> Result<Option<Array2<f32>>> {
        self.target.normalised(model, z)
    }

    fn token_gradient(
        &self,
        model: &Transformer,
        layer: usize,
        h: ArrayView2<f32>,
        tokens: &[u32],
    ) -> Result<Array2<f32>> {
        let map = self.lenses.get(layer).ok_or_else(|| no_stream(layer, self.len()))?;
        TokenGradient { target: self.target, scale: self.scale, map: Some(map) }.of(model, h, tokens)
    }

    fn check_model(&self, model: &Transformer) -> Result<()> {
        if self.target == Target::Given {
            return Err(Error::new(
                ErrorKind::Config,
                format!("the {} predicts numbers that were given, not the next token", self.name),
                "use `transport` to see what it reads, and `Transfer::r2` for how well",
            ));
        }
        self.check_fits(model)
    }

    fn fit_seconds(&self) -> f64 {
        self.seconds
    }
}

/// The same maps of the same model; how long they took to fit does not count.
impl PartialEq for LayerLenses {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.fingerprint, self.scale, self.target, &self.lenses)
            == (&other.name, other.fingerprint, other.scale, other.target, &other.lenses)
    }
}

impl std::fmt::Debug for LayerLenses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LayerLenses: {}, {} residual streams", self.name, self.len())
    }
}
