//! Which tokens begin and end a text, and how a chat is written.

use std::path::Path;

use serde_json::Value;

use crate::Result;
use crate::data::{Gguf, Tokenizer, is_gguf};

/// What a model's makers agreed on besides its weights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conventions {
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// Tokens that end one: [`generate`](super::LanguageModel::generate) stops there.
    pub eos: Vec<u32>,
    /// How a chat is written as one text, a Jinja template. Known, not applied.
    pub chat_template: Option<String>,
}

impl Conventions {
    /// Those that go with the model at `path`; none where nothing is said.
    pub(super) fn of(path: &Path, tokenizer: &Tokenizer) -> Result<Self> {
        if path.is_dir() {
            return Ok(of_folder(path, tokenizer));
        }
        if is_gguf(path) {
            return of_gguf(path);
        }
        let llama2c = path.extension().is_some_and(|e| e == "bin");
        // llama2.c writes texts one after the other, each begun by the token that ends the one before.
        Ok(Conventions {
            bos: llama2c.then_some(1),
            eos: if llama2c { vec![1, 2] } else { Vec::new() },
            chat_template: None,
        })
    }
}

fn of_gguf(path: &Path) -> Result<Conventions> {
    let head = Gguf::open(path)?;
    let token = |key: &str| Ok::<_, crate::Error>(head.count(key)?.and_then(|id| u32::try_from(id).ok()));
    Ok(Conventions {
        bos: token("tokenizer.ggml.bos_token_id")?,
        eos: token("tokenizer.ggml.eos_token_id")?
            .into_iter()
            .chain(token("tokenizer.ggml.eot_token_id")?)
            .collect(),
        chat_template: head.text("tokenizer.chat_template")?.map(String::from),
    })
}

/// From the files beside `tokenizer.json`. They are extras: one that is missing or broken says nothing.
fn of_folder(folder: &Path, tokenizer: &Tokenizer) -> Conventions {
    let json = |name: &str| -> Value {
        let bytes = std::fs::read(folder.join(name)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    };
    let (about, generation, config) =
        (json("tokenizer_config.json"), json("generation_config.json"), json("config.json"));
    // A token is told by its name, or by an object with the name in it.
    let named = |value: &Value| {
        value.as_str().or_else(|| value["content"].as_str()).and_then(|name| tokenizer.token(name))
    };
    let ids = |value: &Value| -> Vec<u32> {
        let all = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
        all.iter().filter_map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
    };
    let mut eos: Vec<u32> = named(&about["eos_token"]).into_iter().collect();
    for id in [&generation["eos_token_id"], &config["eos_token_id"]].into_iter().flat_map(ids) {
        if !eos.contains(&id) {
            eos.push(id);
        }
    }
    let bos = named(&about["bos_token"]).or_else(|| ids(&config["bos_token_id"]).first().copied());
    let chat_template = about["chat_template"]
        .as_str()
        .map(String::from)
        .or_else(|| std::fs::read_to_string(folder.join("chat_template.jinja")).ok());
    Conventions { bos, eos, chat_template }
}
