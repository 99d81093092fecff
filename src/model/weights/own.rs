//! Our own weight files: safetensors under TransformerLens's names, with configuration, provenance and checksum.
//!
//! The file's metadata has one entry, `onelens`: a JSON object with `version`, `config`, `provenance`, for a training
//! run its `state`, and `crc32`, the checksum of the other entries and of every tensor's name and bytes.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::tensors::{Tensors, refuse};
use super::{Loaded, build, read_file};
use crate::data::{Source, Vocab};
use crate::model::{Config, Params, Training, TrainingLog, Transformer};
use crate::{Result, record};

/// Where weights come from.
///
/// ```
/// use onelens::model::Provenance;
/// let provenance = Provenance { data: "a corpus".into(), ..Default::default() };
/// assert_eq!(provenance.version, env!("CARGO_PKG_VERSION"));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// What the weights were trained on.
    pub data: String,
    /// Seed of the batches.
    pub seed: u64,
    /// Training steps that were taken.
    pub steps: usize,
    /// Version of this crate that wrote the file.
    pub version: String,
    /// The characters that are the tokens, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocab: Option<Vocab>,
}

impl Default for Provenance {
    /// No data and no steps: initial weights.
    fn default() -> Self {
        Provenance {
            data: String::new(),
            seed: 0,
            steps: 0,
            version: env!("CARGO_PKG_VERSION").into(),
            vocab: None,
        }
    }
}

impl Provenance {
    /// Writes down what a training run says about its weights.
    pub fn trained(source: &dyn Source, how: &Training, log: &TrainingLog) -> Self {
        let (seed, steps) = (how.seed, log.losses.len());
        Provenance {
            data: source.describe(),
            seed,
            steps,
            vocab: source.vocab().cloned(),
            ..Default::default()
        }
    }

    /// Reads what the file at `path`, written by [`Transformer::save`], says about its weights.
    pub fn of_file(path: impl AsRef<Path>) -> Result<Self> {
        Ok(read_document(path.as_ref())?.provenance)
    }
}

impl Transformer {
    /// Writes the network to `path` as safetensors, with its configuration, where its weights come from, and a
    /// checksum. The file appears whole or not at all.
    ///
    /// ```
    /// use onelens::model::{Config, Provenance, Transformer};
    /// let model = Transformer::new(Config { d_vocab: 5, n_layers: 1, ..Default::default() })?;
    /// let path = std::env::temp_dir().join(format!("onelens-doc-{}.safetensors", std::process::id()));
    /// model.save(&path, &Provenance::default())?;
    /// assert!(Transformer::load(&path)? == model);
    /// # std::fs::remove_file(path).unwrap();
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn save(&self, path: impl AsRef<Path>, provenance: &Provenance) -> Result<()> {
        write_document(path.as_ref(), &self.config, provenance, &Value::Null, &[("", &self.params)])
    }

    /// Reads a network that [`save`](Transformer::save) has written: the same numbers, bit for bit.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let mut document = read_document(path.as_ref())?;
        let params = document.params("")?;
        document.tensors.finish(|name| name.starts_with("run."))?;
        Ok(Transformer { config: document.config, params })
    }
}

const VERSION: u64 = 1;
const KEY: &str = "onelens";

/// A file of ours, read and verified.
pub(crate) struct Document {
    shown: String,
    pub(crate) config: Config,
    pub(crate) provenance: Provenance,
    /// What else was saved, as JSON; null for a network alone.
    pub(crate) state: Value,
    pub(crate) tensors: Tensors,
}

impl Document {
    /// The tensors whose names begin with `prefix`, as weights of the file's configuration.
    pub(crate) fn params(&mut self, prefix: &str) -> Result<Params> {
        let (config, n) = (&self.config, self.tensors.n_numbers());
        build(config, n, &self.shown, |name, shape| {
            self.tensors.take(&format!("{prefix}{name}"), shape).map(Loaded::Numbers)
        })
    }
}

/// Writes weights, each set under its prefix, with what there is to say about them.
pub(crate) fn write_document(
    path: &Path,
    config: &Config,
    provenance: &Provenance,
    state: &Value,
    sets: &[(&str, &Params)],
) -> Result<()> {
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for (prefix, params) in sets {
        for ((name, tensor), numbers) in params.tensors().into_iter().zip(params.slices()) {
            let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
            tensors.insert(format!("{prefix}{name}"), (tensor.shape().to_vec(), bytes));
        }
    }
    let about = json!({ "version": VERSION, "config": config, "provenance": provenance, "state": state });
    let crc = checksum(
        &in_order(&about),
        tensors.iter().map(|(name, (_, bytes))| (name.as_str(), bytes.as_slice())),
    );
    let mut about = about;
    about["crc32"] = json!(crc);
    let shown = path.display().to_string();
    let cannot = |e: &dyn std::fmt::Display| {
        refuse(&shown, format!("cannot be written: {e}"), "please report this: it should not happen")
    };
    let views: Vec<(&String, TensorView)> = tensors
        .iter()
        .map(|(name, (shape, bytes))| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<std::result::Result<_, safetensors::SafeTensorError>>()
        .map_err(|e| cannot(&e))?;
    let metadata = HashMap::from([(KEY.to_string(), about.to_string())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| cannot(&e))?;
    record::write_atomic(path, &bytes)
}

/// Reads what [`write_document`] wrote; weights are still to be taken.
pub(crate) fn read_document(path: &Path) -> Result<Document> {
    parse_document(&path.display().to_string(), read_file(path)?)
}

fn parse_document(shown: &str, bytes: Vec<u8>) -> Result<Document> {
    let (tensors, about) = Tensors::parse(shown, bytes)?;
    let foreign = |why: String| {
        refuse(
            shown,
            why,
            "give a file that `Transformer::save` wrote, or a folder to `Transformer::from_hugging_face`",
        )
    };
    let about = about.get(KEY).ok_or_else(|| foreign("does not say that onelens wrote it".into()))?;
    let mut about: Value =
        serde_json::from_str(about).map_err(|e| foreign(format!("says what is no JSON: {e}")))?;
    match about.get("version").and_then(Value::as_u64) {
        Some(VERSION) => {}
        Some(other) => return Err(foreign(format!("has format {other}, this version reads {VERSION}"))),
        None => return Err(foreign("does not tell its format".into())),
    }
    let told = about.as_object_mut().and_then(|o| o.remove("crc32")).and_then(|crc| crc.as_u64());
    let in_order = checksum(&in_order(&about), tensors.bytes());
    // Of earlier files it is that of the names in whichever order the program that wrote them kept.
    if told != Some(in_order.into()) && told != Some(checksum(&about, tensors.bytes()).into()) {
        return Err(foreign("is damaged: its checksum does not fit its content".into()));
    }
    let (config, provenance) = (about["config"].take(), about["provenance"].take());
    let config: Config = serde_json::from_value(config)
        .map_err(|e| foreign(format!("has a configuration that cannot be read: {e}")))?;
    let provenance = serde_json::from_value(provenance)
        .map_err(|e| foreign(format!("has a provenance that cannot be read: {e}")))?;
    Ok(Document { shown: shown.into(), config, provenance, state: about["state"].take(), tensors })
}

/// The same with its names in order: one build of serde_json keeps the order in which they come, another sorts them.
fn in_order(about: &Value) -> Value {
    let mut about = about.clone();
    about.sort_all_objects();
    about
}

/// CRC-32 over what the file says, then over the name and the bytes of every tensor in the order of names.
fn checksum<'a>(about: &Value, tensors: impl Iterator<Item = (&'a str, &'a [u8])>) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(about.to_string().as_bytes());
    for (name, bytes) in tensors {
        crc.update(name.as_bytes());
        crc.update(bytes);
    }
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_whichever_order_its_names_are_in() {
        let model = Transformer::new(Config { d_vocab: 5, n_layers: 1, ..Default::default() }).unwrap();
        let path = std::env::temp_dir().join(format!("onelens-order-{}.safetensors", std::process::id()));
        model.save(&path, &Provenance::default()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let about: Value = serde_json::from_str(&metadata.metadata().as_ref().unwrap()[KEY]).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let parts: Vec<String> =
            about.as_object().unwrap().iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
        let mut backwards = parts.clone();
        backwards.reverse();
        for parts in [parts, backwards] {
            let about = HashMap::from([(KEY.to_string(), format!("{{{}}}", parts.join(",")))]);
            let bytes = safetensors::serialize(file.iter(), Some(about)).unwrap();
            let mut document = parse_document("a file", bytes).unwrap();
            assert_eq!(document.config, model.config);
            assert!(document.params("").unwrap() == model.params);
        }
    }
}
