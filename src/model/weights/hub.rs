//! Models from the Hugging Face hub. The only place of this crate that uses the network, and only when called.

use std::path::{Path, PathBuf};

use hf_hub::Cache;
use hf_hub::api::sync::ApiBuilder;

use super::hugging_face::{SHARDS, shard_names};
use crate::session::Progress;
use crate::{Error, ErrorKind, Result};

/// Downloads a model of the Hugging Face hub by its name (`owner/name`) and returns the folder where it lies, with
/// `config.json`, the weights, and `tokenizer.json` with what goes with it where there is one. What is in the hub's
/// cache is taken from there, without a question to the network; the rest is fetched, showing progress.
///
/// The cache is the one of Hugging Face's own programs: `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else
/// `~/.cache/huggingface/hub`. A token for models that need one is read from there too.
///
/// Fails if it is no name, with `HF_HUB_OFFLINE=1` if the model is not in the cache, and where a file cannot be
/// fetched.
///
/// ```no_run
/// use onelens::model::{Transformer, download};
/// let pythia = Transformer::from_hugging_face(download("EleutherAI/pythia-14m")?)?;
/// # Ok::<(), onelens::Error>(())
/// ```
pub fn download(model: &str) -> Result<PathBuf> {
    let offline = std::env::var("HF_HUB_OFFLINE")
        .is_ok_and(|v| ["1", "ON", "YES", "TRUE"].contains(&v.to_uppercase().as_str()));
    fetch(ApiBuilder::from_env().with_cache_dir(cache().path().clone()), &cache(), model, offline)
}

/// Finds the folder of a model that is in the hub's cache, whole. Uses no network.
pub fn downloaded(model: &str) -> Option<PathBuf> {
    is_name(model).then(|| in_cache(&cache(), model))?
}

fn cache() -> Cache {
    match std::env::var_os("HF_HUB_CACHE").filter(|folder| !folder.is_empty()) {
        Some(folder) => Cache::new(PathBuf::from(folder)),
        None => Cache::from_env(),
    }
}

/// Names go into addresses and paths.
fn is_name(model: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let parts: Vec<&str> = model.split('/').collect();
    parts.len() <= 2 && parts.iter().all(|p| !p.is_empty() && !p.starts_with('.') && p.chars().all(letter))
}

/// In which forms a model has its weights, the better ones first: one file, or an index and its shards.
const WEIGHTS: [(&str, &str); 2] =
    [("model.safetensors", SHARDS), ("pytorch_model.bin", "pytorch_model.bin.index.json")];

/// What goes with a model, where it is there.
const EXTRAS: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"];

fn in_cache(cache: &Cache, model: &str) -> Option<PathBuf> {
    let cached = cache.model(model.to_string());
    let folder = cached.get("config.json")?.parent()?.to_path_buf();
    let whole = WEIGHTS.iter().any(|(single, index)| {
        let shards = || shard_names(&cached.get(index)?).ok();
        cached.get(single).is_some()
            || shards().is_some_and(|names| names.iter().all(|name| cached.get(name).is_some()))
    });
    whole.then_some(folder)
}

fn fetch(from: ApiBuilder, cache: &Cache, model: &str, offline: bool) -> Result<PathBuf> {
    let failed = |what: String| {
        let help = "check the name, as it stands in the model's address (`owner/name`), and the connection; for a model with \
                    conditions, log in with `hf auth login`";
        Error::new(ErrorKind::File, what, help)
    };
    if !is_name(model) {
        return Err(failed(format!("{model:?} is no name of a model")));
    }
    if let Some(folder) = in_cache(cache, model) {
        return Ok(folder);
    }
    if offline {
        return Err(Error::new(
            ErrorKind::File,
            format!("{model} is not in {}, and HF_HUB_OFFLINE forbids to fetch it", cache.path().display()),
            "unset HF_HUB_OFFLINE once, or open a folder or file that is there",
        ));
    }
    let api = from.with_progress(false).build().map_err(|e| failed(format!("no connection: {e}")))?;
    let repo = api.model(model.to_string());
    let cached = cache.model(model.to_string());
    let get = |name: &str| {
        if let Some(path) = cached.get(name) {
            return Ok(path);
        }
        repo.download_with_progress(name, Shown::default())
            .map_err(|e| failed(format!("`{name}` of {model} cannot be fetched: {e}")))
    };
    let config = get("config.json")?;
    let folder = config.parent().unwrap_or(Path::new(".")).to_path_buf();
    // Which form the weights have is only known by asking.
    let mut missing = None;
    let mut found = false;
    for (single, index) in WEIGHTS {
        match get(single) {
            Ok(_) => found = true,
            Err(e) => {
                if let Ok(index) = get(index) {
                    for name in shard_names(&index)? {
                        get(&name)?;
                    }
                    found = true;
                }
                missing.get_or_insert(e);
            }
        }
        if found {
            break;
        }
    }
    if let Some(e) = missing.filter(|_| !found) {
        return Err(e);
    }
    // Not every model has all of them.
    for name in EXTRAS {
        let _ = get(name);
    }
    Ok(folder)
}

/// Progress of one file, in megabytes.
#[derive(Default)]
struct Shown {
    progress: Option<Progress>,
    name: String,
    done: usize,
}

impl hf_hub::api::Progress for Shown {
    fn init(&mut self, size: usize, name: &str) {
        self.name = name.into();
        self.progress = Some(Progress::new("download", size));
    }

    fn update(&mut self, size: usize) {
        self.done += size;
        if let Some(progress) = &mut self.progress {
            progress.update(self.done, || format!("{}, {:.1} MB", self.name, self.done as f64 / 1e6));
        }
    }

    fn finish(&mut self) {
        if let Some(progress) = self.progress.take() {
            progress.finish(&format!("{}, {:.1} MB", self.name, self.done as f64 / 1e6));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A hub with these files of the model `someone/small`; returns its address, and counts requests.
    fn hub(files: BTreeMap<&'static str, Vec<u8>>) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let count = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let first = lines.next().unwrap().unwrap();
                let headers: Vec<String> = lines.map_while(|l| l.ok().filter(|l| !l.is_empty())).collect();
                count.fetch_add(1, Ordering::SeqCst);
                let path = first.split(' ').nth(1).unwrap();
                let file = path.strip_prefix("/someone/small/resolve/main/").and_then(|name| files.get(name));
                let Some(bytes) = file else {
                    stream
                        .write_all(
                            b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                        )
                        .unwrap();
                    continue;
                };
                let range = headers.iter().find_map(|h| {
                    let (name, value) = h.split_once(": ")?;
                    let range = value.trim().strip_prefix("bytes=")?.split_once('-')?;
                    let to = range.1.parse().unwrap_or(bytes.len() - 1).min(bytes.len() - 1);
                    name.eq_ignore_ascii_case("range").then(|| (range.0.parse::<usize>().unwrap(), to))
                });
                let (from, to) = range.unwrap_or((0, bytes.len() - 1));
                let part = &bytes[from..=to];
                let head = format!(
                    "HTTP/1.1 206 Partial Content\r\ncontent-length: {}\r\ncontent-range: bytes {from}-{to}/{}\r\n\
                     etag: \"{}\"\r\nx-repo-commit: abc\r\nconnection: close\r\n\r\n",
                    part.len(),
                    bytes.len(),
                    crc32fast::hash(bytes)
                );
                stream.write_all(&[head.as_bytes(), part].concat()).unwrap();
            }
        });
        (address, requests)
    }

    #[test]
    fn a_model_is_fetched_once_and_read_and_what_is_missing_is_told() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gpt2");
        let file = |name| std::fs::read(golden.join(name)).unwrap();
        let files = ["config.json", "model.safetensors"];
        let (address, requests) = hub(files.into_iter().map(|name| (name, file(name))).collect());
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().to_path_buf());
        let from = || ApiBuilder::from_cache(cache.clone()).with_endpoint(address.clone()).with_retries(0);
        let fetched = fetch(from(), &cache, "someone/small", false).unwrap();
        let read = crate::model::Transformer::from_hugging_face(&fetched).unwrap();
        assert!(read == crate::model::Transformer::from_hugging_face(&golden).unwrap());
        // Once it is there, nobody is asked, and nothing else is needed.
        let before = requests.load(Ordering::SeqCst);
        assert_eq!(fetch(from(), &cache, "someone/small", false).unwrap(), fetched);
        assert_eq!(fetch(from(), &cache, "someone/small", true).unwrap(), fetched);
        assert_eq!(requests.load(Ordering::SeqCst), before);
        let e = fetch(from(), &cache, "someone/other", true).unwrap_err();
        assert!(e.what().contains("HF_HUB_OFFLINE") && e.help().contains("unset"), "{e}");

        let e = fetch(from(), &cache, "someone/other", false).unwrap_err();
        assert!(
            e.what().contains("`config.json` of someone/other") && e.help().contains("owner/name"),
            "{e}"
        );
        for name in ["", "..", "a/b/c", "a/../b", "a b", "https://x/y"] {
            assert!(fetch(from(), &cache, name, false).unwrap_err().what().contains("is no name"), "{name}");
        }
    }
}
