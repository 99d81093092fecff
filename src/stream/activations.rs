//! Residual streams as files: written once by a model, read as often as one likes without it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ndarray::{Array1, Array2, ArrayView2};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::Streaming;
use super::shards::{Sequences, Shards};
use crate::data::{TextFiles, Tokenize};
use crate::lens::{Accumulator, LayerMoments, Moments, Scale, Target, sum_of_predictions};
use crate::model::Transformer;
use crate::record;
use crate::session::{self, Progress};
use crate::{Error, ErrorKind, Result};

/// A folder of residual streams: one safetensors file for each shard of the texts, with the tensors `resid.0` to
/// `resid.L` (`[token, d_model]`, f32, the embedding first) and `mean_prediction` (`[d_vocab]`, f64), and `index.json`,
/// which is written last.
///
/// ```
/// use onelens::data::{TextFiles, Vocab};
/// use onelens::model::{Config, Transformer};
/// use onelens::stream::{ActivationFiles, Streaming};
/// let folder = std::env::temp_dir().join(format!("onelens-doc-activations-{}", std::process::id()));
/// std::fs::create_dir_all(&folder).unwrap();
/// std::fs::write(folder.join("text.txt"), "abcabcab").unwrap();
/// let vocab = Vocab::from_text("abc", 1);
/// let model = Transformer::new(Config { d_vocab: 4, n_layers: 1, n_ctx: 8, ..Default::default() })?;
/// let texts = TextFiles::open([folder.join("text.txt")])?;
///
/// let files = ActivationFiles::write(folder.join("streams"), &model, &vocab, &texts, &Streaming::default())?;
/// assert_eq!((files.n_files(), files.n_tokens()), (1, 8));
/// let moments = ActivationFiles::open(folder.join("streams"))?.moments()?;
/// assert_eq!(moments.n(), 8);
/// # std::fs::remove_dir_all(folder).unwrap();
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActivationFiles {
    folder: PathBuf,
    index: Index,
}

/// What `index.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Index {
    onelens: u32,
    /// The model, in hexadecimal.
    fingerprint: String,
    d_model: usize,
    d_vocab: usize,
    n_streams: usize,
    /// Tokens of each file.
    tokens: Vec<u64>,
}

const VERSION: u32 = 1;
const KEY: &str = "onelens";
const INDEX: &str = "index.json";
/// Sequences that the model runs at a time.
const ROWS: usize = 4;

impl ActivationFiles {
    /// Runs `model` over `texts` and writes its residual streams to `folder`, one shard in memory at a time. Files that
    /// an interrupted call has left, whole and of the same model and texts, are kept.
    ///
    /// Fails where [`Streaming::moments`] does, and if a file cannot be written; what is finished stays.
    pub fn write(
        folder: impl AsRef<Path>,
        model: &Transformer,
        tokenizer: &dyn Tokenize,
        texts: &TextFiles,
        how: &Streaming,
    ) -> Result<Self> {
        let folder = folder.as_ref();
        let n_ctx = how.checked(model, tokenizer)?;
        std::fs::create_dir_all(folder).map_err(|e| cannot("make", folder, e))?;
        let shards = Shards::plan(texts, how.shard_bytes)?;
        let run = how.run(n_ctx, &shards);
        let fingerprint = format!("{:016x}", model.fingerprint());
        let mut sequences = Sequences::new(texts, tokenizer, n_ctx, how.shortest);
        let mut progress = Progress::new("activation files", shards.len());
        let mut tokens = Vec::new();
        for shard in 0..shards.len() {
            let path = file(folder, shard);
            let about = About { fingerprint: fingerprint.clone(), shard, n_shards: shards.len(), run };
            let there = Shard::read(&path).ok().filter(|there| there.about == about);
            let n = match there {
                Some(there) => there.streams[0].nrows(),
                None => {
                    let sequences = sequences.of_documents(shards.first[shard], shards.first[shard + 1])?;
                    let made = Shard::run(model, &sequences, about)?;
                    made.write(&path)?;
                    made.streams[0].nrows()
                }
            };
            tokens.push(n as u64);
            progress.update(shard + 1, || format!("{} tokens", tokens.iter().sum::<u64>()));
        }
        progress.finish(&format!("{} tokens in {} files", tokens.iter().sum::<u64>(), tokens.len()));
        let c = &model.config;
        let (d_model, d_vocab, n_streams) = (c.d_model, c.d_vocab, c.n_layers + 1);
        let index = Index { onelens: VERSION, fingerprint, d_model, d_vocab, n_streams, tokens };
        let text = serde_json::to_vec_pretty(&index).expect("plain data");
        record::write_atomic(&folder.join(INDEX), &text)?;
        Ok(ActivationFiles { folder: folder.into(), index })
    }

    /// Opens a folder that was [written](ActivationFiles::write) to its end.
    ///
    /// Fails if it has no index, which is written last, or one of another version.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let path = folder.join(INDEX);
        let bytes = std::fs::read(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                refuse(&path, "is not there, so this is no folder of activations, or not all of one")
            }
            _ => cannot("read", &path, e),
        })?;
        let index: Index = serde_json::from_slice(&bytes)
            .map_err(|e| refuse(&path, &format!("is no index of activation files: {e}")))?;
        if index.onelens != VERSION || index.n_streams == 0 || index.tokens.is_empty() {
            return Err(refuse(
                &path,
                &format!("is of format {}, this version reads {VERSION}", index.onelens),
            ));
        }
        Ok(ActivationFiles { folder: folder.into(), index })
    }

    /// Returns how many files there are.
    pub fn n_files(&self) -> usize {
        self.index.tokens.len()
    }

    /// Counts the tokens of all files together.
    pub fn n_tokens(&self) -> u64 {
        self.index.tokens.iter().sum()
    }

    /// Reads the residual streams of one file: for each stream `[token, d_model]`, the embedding first.
    ///
    /// Fails if the file is missing, cut off, or of another model.
    pub fn streams(&self, file: usize) -> Result<Vec<Array2<f32>>> {
        Ok(self.shard(file)?.streams)
    }

    /// Gathers the moments of all tokens, of streams as they are towards the last one, as files know nothing of a final
    /// norm; with one file in memory at a time.
    pub fn moments(&self) -> Result<LayerMoments> {
        let mut progress = Progress::new("activation files", self.n_files());
        let Index { d_model, d_vocab, n_streams, .. } = self.index;
        let mut all = Accumulator::new(&LayerMoments {
            fingerprint: u64::from_str_radix(&self.index.fingerprint, 16).unwrap_or_default(),
            scale: Scale::AsItIs,
            target: Target::Residual,
            layers: (0..n_streams).map(|_| Moments::new(d_model, d_model)).collect(),
            mean_prediction: Array1::zeros(d_vocab),
        });
        for file in 0..self.n_files() {
            if session::interrupted() {
                return Err(Error::new(
                    ErrorKind::Interrupted,
                    format!("interrupted after {file} of {} files", self.n_files()),
                    "run it again; the files are as they were",
                ));
            }
            let shard = self.shard(file)?;
            let streams: Vec<_> = shard.streams.iter().map(|h| h.view()).collect();
            all.absorb(&streams, None, &(shard.mean_prediction * streams[0].nrows() as f64))?;
            progress.update(file + 1, || format!("{} tokens", all.n()));
        }
        progress.finish(&format!("{} tokens", self.n_tokens()));
        Ok(all.finish())
    }

    fn shard(&self, n: usize) -> Result<Shard> {
        let path = file(&self.folder, n);
        let shard = Shard::read(&path)?;
        let (is, wanted) = (&shard.about.fingerprint, &self.index.fingerprint);
        if is != wanted {
            return Err(refuse(&path, &format!("is of model {is}, the index of model {wanted}")));
        }
        let wanted = (self.index.n_streams, self.index.tokens[n] as usize, self.index.d_model);
        let is = (shard.streams.len(), shard.streams[0].nrows(), shard.streams[0].ncols());
        if is != wanted || shard.mean_prediction.len() != self.index.d_vocab {
            return Err(refuse(
                &path,
                &format!("has (streams, tokens, width) = {is:?}, the index says {wanted:?}"),
            ));
        }
        Ok(shard)
    }
}

/// What a file says about itself, as the metadata `onelens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct About {
    fingerprint: String,
    shard: usize,
    n_shards: usize,
    /// By which another cut or other texts are told.
    run: u32,
}

/// One file.
struct Shard {
    about: About,
    streams: Vec<Array2<f32>>,
    mean_prediction: Array1<f64>,
}

impl Shard {
    fn run(model: &Transformer, sequences: &[Vec<u32>], about: About) -> Result<Self> {
        let d = model.config.d_model;
        let n: usize = sequences.iter().map(Vec::len).sum();
        let mut streams = vec![Array2::zeros((n, d)); model.config.n_layers + 1];
        let mut sum = Array1::<f64>::zeros(model.config.d_vocab);
        let mut at = 0;
        for run in sequences.chunk_by(|a, b| a.len() == b.len()) {
            for chunk in run.chunks(ROWS) {
                if session::interrupted() {
                    return Err(Error::new(
                        ErrorKind::Interrupted,
                        "interrupted within a file",
                        "the same call continues after the last finished file",
                    ));
                }
                let tokens: Vec<u32> = chunk.iter().flatten().copied().collect();
                let shape = (chunk.len(), chunk[0].len());
                let views = [ArrayView2::from_shape(shape, &tokens).expect("equal lengths")];
                let made = model.streams(&views).remove(0);
                for (stream, made) in streams.iter_mut().zip(&made) {
                    stream.slice_mut(ndarray::s![at..at + tokens.len(), ..]).assign(made);
                }
                sum += &sum_of_predictions(model, made.last().expect("a model has streams").view());
                at += tokens.len();
            }
        }
        Ok(Shard { about, streams, mean_prediction: sum / n.max(1) as f64 })
    }

    fn write(&self, path: &Path) -> Result<()> {
        let bytes: Vec<Vec<u8>> =
            self.streams.iter().map(|stream| stream.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
        let about = serde_json::to_string(&self.about).expect("plain data");
        let mean: Vec<u8> = self.mean_prediction.iter().flat_map(|x| x.to_le_bytes()).collect();
        let views = self.streams.iter().zip(&bytes).enumerate().map(|(l, (stream, bytes))| {
            Ok((format!("resid.{l}"), TensorView::new(Dtype::F32, stream.shape().to_vec(), bytes)?))
        });
        let last = TensorView::new(Dtype::F64, vec![self.mean_prediction.len()], &mean)
            .map(|view| ("mean_prediction".to_string(), view));
        let all = views
            .chain([last])
            .collect::<std::result::Result<Vec<_>, _>>()
            .and_then(|views| safetensors::serialize(views, Some(HashMap::from([(KEY.to_string(), about)]))));
        let bytes = all.map_err(|e| refuse(path, &format!("cannot be written: {e}")))?;
        record::write_atomic(path, &bytes)
    }

    fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => refuse(path, "is missing"),
            _ => cannot("read", path, e),
        })?;
        let broken =
            |e: safetensors::SafeTensorError| refuse(path, &format!("is no whole safetensors file: {e}"));
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(broken)?;
        let about = metadata.metadata().as_ref().and_then(|told| serde_json::from_str(told.get(KEY)?).ok());
        let about = about.ok_or_else(|| refuse(path, "does not say that onelens wrote it"))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(broken)?;
        let mut streams = Vec::new();
        while let Ok(view) = tensors.tensor(&format!("resid.{}", streams.len())) {
            let numbers =
                view.data().chunks_exact(4).map(|b| f32::from_le_bytes(*b.first_chunk().expect("4 bytes")));
            let shape = match (view.dtype(), view.shape()) {
                (Dtype::F32, &[rows, columns]) => (rows, columns),
                (dtype, shape) => {
                    let l = streams.len();
                    return Err(refuse(
                        path,
                        &format!("holds `resid.{l}` as {dtype:?} {shape:?}, not F32 [token, d_model]"),
                    ));
                }
            };
            let stream = Array2::from_shape_vec(shape, numbers.collect());
            streams
                .push(stream.map_err(|e| refuse(path, &format!("holds a tensor of the wrong size: {e}")))?);
        }
        let mean = tensors.tensor("mean_prediction").map_err(broken)?;
        let mean_prediction = mean
            .data()
            .chunks_exact(8)
            .map(|b| f64::from_le_bytes(*b.first_chunk().expect("8 bytes")))
            .collect();
        if streams.is_empty() {
            return Err(refuse(path, "holds no `resid.0`"));
        }
        Ok(Shard { about, streams, mean_prediction })
    }
}

fn file(folder: &Path, n: usize) -> PathBuf {
    folder.join(format!("activations-{n:06}.safetensors"))
}

fn refuse(path: &Path, why: &str) -> Error {
    Error::new(
        ErrorKind::File,
        format!("{} {why}", path.display()),
        "write the folder again with the same model and texts (`ActivationFiles::write`); files that are whole are kept",
    )
}

fn cannot(what: &str, path: &Path, e: std::io::Error) -> Error {
    Error::of_file(
        format!("cannot {what} {}", path.display()),
        e,
        "check the path, its permissions, and that the disk is not full",
    )
}
