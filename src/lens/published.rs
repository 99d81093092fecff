//! Lenses that others have published, and ours for them to read.

use std::path::Path;
use std::sync::Arc;

use ndarray::{Array1, Array2};
use serde::{Deserialize, Serialize};

use super::{AffineLens, LayerLenses, Scale, Target};
use crate::model::{TorchFile, Transformer, save_state_dict};
use crate::{Error, ErrorKind, Result, record};

/// `config.json` of a tuned lens (tuned-lens 0.2, `TunedLensConfig`).
#[derive(Serialize, Deserialize)]
struct TunedLensConfig {
    base_model_name_or_path: String,
    d_model: usize,
    num_hidden_layers: usize,
    #[serde(default = "yes")]
    bias: bool,
    #[serde(default)]
    base_model_revision: Option<String>,
    /// A hash of the printed unembedding, which no other program can repeat; where it is missing, tuned-lens does not
    /// compare it.
    #[serde(default)]
    unembed_hash: Option<String>,
    #[serde(default = "linear")]
    lens_type: String,
}

fn yes() -> bool {
    true
}

fn linear() -> String {
    LINEAR.into()
}

const LINEAR: &str = "linear_tuned_lens";

impl LayerLenses {
    /// Reads a folder of the Python package tuned-lens (`config.json`, `params.pt`; Belrose et al. 2023) as lenses of
    /// `model`.
    ///
    /// Its translator of layer `l` reads stream `l` and adds `W h + b` to it, so that `A = I + W`. The last stream has
    /// no translator and is read as it is. The file does not say which weights it was trained with, other than by a
    /// name: that they are those of `model` is for the caller to know.
    ///
    /// Fails if the folder is not one, or if its lenses are for another width or number of layers.
    pub fn from_tuned_lens(model: &Transformer, folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let path = folder.join("config.json");
        let config = std::fs::read_to_string(&path).map_err(|e| no_tuned_lens(&path, &e))?;
        let config: TunedLensConfig = serde_json::from_str(&config).map_err(|e| no_tuned_lens(&path, &e))?;
        if config.lens_type != LINEAR {
            let kind = format!("its `lens_type` is {:?}, and only {LINEAR:?} is read", config.lens_type);
            return Err(no_tuned_lens(&path, &kind));
        }
        let (d, n) = (model.config.d_model, model.config.n_layers);
        check_size(&path, model, config.d_model, config.num_hidden_layers)?;
        let path = folder.join("params.pt");
        let file = TorchFile::open(&path)?;
        let mut lenses = Vec::with_capacity(n + 1);
        for l in 0..n {
            let a = matrix(&file, &path, &format!("{l}.weight"), d)? + Array2::<f64>::eye(d);
            let b = match config.bias {
                true => file.numbers(&path, &format!("{l}.bias"), &[d])?.into(),
                false => Array1::zeros(d),
            };
            lenses.push(Arc::new(AffineLens { a, b }));
        }
        lenses.push(Arc::new(AffineLens::identity(d)));
        Ok(Self::published("tuned lens", model, lenses))
    }

    /// Writes these lenses as a folder that the Python package tuned-lens reads with
    /// `TunedLens.from_model_and_pretrained`. `base_model` is the model's name there, such as `EleutherAI/pythia-70m`.
    ///
    /// Fails for lenses that tuned-lens has no place for: of another target than the last residual stream, of streams
    /// at unit rms, or with a map other than the identity for the last stream (set that one right with
    /// [`reading_last_as_is`]).
    ///
    /// [`reading_last_as_is`]: LayerLenses::reading_last_as_is
    pub fn save_tuned_lens(&self, folder: impl AsRef<Path>, base_model: &str) -> Result<()> {
        let folder = folder.as_ref();
        if (self.scale(), self.target()) != (Scale::AsItIs, Target::Residual) {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "tuned-lens has no place for lenses of the scale {:?} and the target {:?}",
                    self.scale(),
                    self.target()
                ),
                "fit lenses to `LayerMoments::collect_with(.., Scale::AsItIs, Target::Residual)`",
            ));
        }
        let (last, others) = self.lenses().split_last().expect("a model has an embedding");
        let d = last.b.len();
        if **last != AffineLens::identity(d) {
            return Err(Error::new(
                ErrorKind::Config,
                "tuned-lens reads the last stream as it is, and these lenses change it",
                "write `lenses.reading_last_as_is()`",
            ));
        }
        let mut tensors = Vec::with_capacity(2 * others.len());
        for (l, lens) in others.iter().enumerate() {
            let w = &lens.a - &Array2::<f64>::eye(d);
            tensors.push((format!("{l}.weight"), w.mapv(|x| x as f32).into_dyn()));
            tensors.push((format!("{l}.bias"), lens.b.mapv(|x| x as f32).into_dyn()));
        }
        let config = TunedLensConfig {
            base_model_name_or_path: base_model.into(),
            d_model: d,
            num_hidden_layers: others.len(),
            bias: true,
            base_model_revision: None,
            unembed_hash: None,
            lens_type: linear(),
        };
        std::fs::create_dir_all(folder).map_err(|e| {
            let what = format!("cannot make the folder {}", folder.display());
            Error::of_file(what, e, "name a folder that can be written to")
        })?;
        save_state_dict(&folder.join("params.pt"), &tensors)?;
        let config = serde_json::to_vec_pretty(&config).expect("text and numbers");
        record::write_atomic(&folder.join("config.json"), &config)
    }

    /// Returns the same lenses with the last residual stream read as it is, which is the model's own prediction.
    pub fn reading_last_as_is(&self) -> Self {
        let mut lenses = self.clone();
        lenses.set_last(Arc::new(AffineLens::identity(self.lenses()[0].b.len())));
        lenses
    }

    /// Reads a file of the Jacobian lens's reference program (`J`, `n_prompts`, `source_layers`, `d_model`; Gurnee et
    /// al. 2026) as lenses of `model`.
    ///
    /// Its source layer `l` is what block `l` leaves, stream `l + 1` here, and `A = J_l` without a constant. Streams
    /// that the file has no Jacobian for, the embedding among them, are read as they are, like the logit lens does; the
    /// name says which those are. That its weights are those of `model` is for the caller to know.
    ///
    /// Fails if the file is not one, or is for another width or for layers that the model does not have.
    pub fn from_jacobian_lens(model: &Transformer, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = TorchFile::open(path)?;
        let number = |name: &str| file.counts.get(name).map(Vec::as_slice).unwrap_or_default();
        let (d, n) = (model.config.d_model, model.config.n_layers);
        let ([width], sources) = (number("d_model"), number("source_layers")) else {
            let has: Vec<&String> = file.counts.keys().chain(file.tensors.keys()).take(6).collect();
            return Err(no_jacobian_lens(path, &format!("it has {has:?}")));
        };
        if sources.is_empty() {
            return Err(no_jacobian_lens(path, &"it has no `source_layers`"));
        }
        check_size(path, model, usize::try_from(*width).unwrap_or(0), n)?;
        let as_it_is = Arc::new(AffineLens::identity(d));
        let mut lenses: Vec<_> = (0..=n).map(|_| as_it_is.clone()).collect();
        for &layer in sources {
            let stream = usize::try_from(layer).ok().map(|layer| layer + 1).filter(|stream| *stream <= n);
            let Some(stream) = stream else {
                return Err(no_jacobian_lens(
                    path,
                    &format!("the model has no layer {layer}, but 0 to {}", n - 1),
                ));
            };
            let a = matrix(&file, path, &format!("J.{layer}"), d)?;
            lenses[stream] = Arc::new(AffineLens { a, b: Array1::zeros(d) });
        }
        let as_they_are: Vec<String> =
            (0..n).filter(|l| !sources.contains(&(*l as i64 - 1))).map(|l| l.to_string()).collect();
        let name = format!("Jacobian lens (streams {} as they are)", as_they_are.join(", "));
        Ok(Self::published(&name, model, lenses))
    }
}

/// A map between streams of width `d`.
fn matrix(file: &TorchFile, path: &Path, name: &str, d: usize) -> Result<Array2<f64>> {
    Ok(Array2::from_shape_vec((d, d), file.numbers(path, name, &[d, d])?).expect("the shape was compared"))
}

/// Refuses lenses for another shape.
fn check_size(path: &Path, model: &Transformer, d_model: usize, n_layers: usize) -> Result<()> {
    let own = (model.config.d_model, model.config.n_layers);
    if own == (d_model, n_layers) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Config,
        format!(
            "{} is for a model of width {d_model} and {n_layers} layers; this one has width {} and {} layers",
            path.display(),
            own.0,
            own.1
        ),
        "open the model that the lens was made for",
    ))
}

fn no_tuned_lens(path: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::File,
        format!("{} is no description of a tuned lens: {why}", path.display()),
        "name a folder of the package tuned-lens, with `config.json` and `params.pt`",
    )
}

fn no_jacobian_lens(path: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::File,
        format!("{} is no Jacobian lens of this model: {why}", path.display()),
        "name a file with `J`, `n_prompts`, `source_layers` and `d_model`",
    )
}
