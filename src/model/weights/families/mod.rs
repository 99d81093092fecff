//! Families of Hugging Face checkpoints: for each its settings and where it keeps a tensor of ours, one file a family.

mod bloom;
mod cohere;
mod falcon;
mod gemma;
mod gpt2;
mod gpt_bigcode;
mod gpt_neo;
mod gpt_neox;
mod gptj;
mod granite;
mod layout;
mod llama;
mod mixtral;
mod mpt;
mod olmo;
mod opt;
mod phi;
mod phi3;
mod settings;
mod smollm3;
mod stablelm;
mod starcoder2;

use serde_json::Value;

use super::build;
use super::tensors::{Tensors, refuse};
use crate::Result;
use crate::model::{Config, Positions, RotaryScaling, Transformer};
use layout::How;
use settings::Settings;

/// Our name of a tensor, the name in the file (or several, of which it uses one, between bars), and how to get from
/// there to here.
type Row = (&'static str, &'static str, How);

/// A family of checkpoints.
struct Family {
    /// What it calls itself in `model_type`.
    model_type: &'static str,
    config: fn(&Settings) -> Result<Config>,
    /// What the names of all tensors but the unembedding may begin with, if anything.
    bodies: &'static [&'static str],
    /// Tensors outside the blocks.
    outside: &'static [Row],
    /// What the names of a block's tensors begin with; `{l}` is its number.
    block: &'static str,
    /// Tensors of a block.
    inside: &'static [Row],
}

/// All that are read.
const FAMILIES: &[Family] = &[
    bloom::FAMILY,
    cohere::FAMILY,
    falcon::FAMILY,
    gemma::GEMMA,
    gemma::GEMMA2,
    gemma::GEMMA3,
    gpt2::FAMILY,
    gpt_bigcode::FAMILY,
    gpt_neo::FAMILY,
    gpt_neox::FAMILY,
    gptj::FAMILY,
    granite::FAMILY,
    llama::LLAMA,
    llama::MISTRAL,
    llama::QWEN2,
    llama::QWEN3,
    mixtral::FAMILY,
    mpt::FAMILY,
    olmo::OLMO,
    olmo::OLMO2,
    opt::FAMILY,
    phi::FAMILY,
    phi3::FAMILY,
    smollm3::FAMILY,
    stablelm::FAMILY,
    starcoder2::FAMILY,
];

/// The network that these settings and tensors make; `shown` is what they were read from, for errors.
pub(super) fn transformer(shown: &str, config: Value, mut tensors: Tensors) -> Result<Transformer> {
    let settings = Settings::new(shown, config);
    // Compiled and parallel models are saved under longer names.
    while ["_orig_mod.", "module."].iter().any(|prefix| tensors.without_prefix(prefix)) {}
    let family = Family::of(&settings, &tensors)?;
    if settings.present("quantization_config") {
        return settings.bad(
            "quantization_config",
            "not read: fetch the model in F32, F16 or BF16, or quantised as a GGUF file",
        );
    }
    let config = with_longer_context((family.config)(&settings)?);
    settings.finish()?;
    // A model saved without its head has no prefix.
    let starts = |body: &&&str| tensors.left().any(|name| name.starts_with(**body));
    let body = family.bodies.iter().find(starts).copied().unwrap_or("");
    let head = family.place(&tensors, body, "unembed.W_U");
    if !config.tied && !tensors.has(&head.0) {
        return Err(refuse(
            shown,
            format!("has no tensor `{}`, and its embedding and unembedding are not tied", head.0),
            "set tie_word_embeddings to true in config.json if the embedding is both; else fetch the whole model",
        ));
    }
    let n_ones = family.inside.iter().filter(|row| row.2 == How::Ones).count() * config.n_layers
        + family.outside.iter().filter(|row| row.2 == How::Ones).count();
    let mut n = tensors.n_numbers().saturating_add(n_ones.saturating_mul(config.d_model));
    if let Some((_, &[d_model, narrow])) = tensors.ending("project_in.weight")
        && narrow > 0
    {
        // An embedding and an unembedding are made of one that is narrower.
        n = n.saturating_add(tensors.n_numbers() / narrow * 2 * d_model);
    }
    let params = build(&config, n, shown, |name, shape| {
        let (mut stored, mut how) = family.place(&tensors, body, name);
        if name == "embed.W_E" && config.tied && !tensors.has(&stored) && tensors.has(&head.0) {
            // Of a tied pair one is enough.
            (stored, how) = (head.0.clone(), How::AsIs);
        }
        how.load(&mut tensors, &stored, shape, &config)
    })?;
    if config.tied && tensors.left().any(|name| name == head.0) {
        let stored = tensors.take(&head.0, &[config.d_vocab, config.d_model])?;
        if params.w_e.flat() != stored {
            return Err(refuse(
                shown,
                format!("says that its unembedding is tied, but `{}` is not the embedding", head.0),
                "set tie_word_embeddings to false in config.json if the two differ on purpose",
            ));
        }
    }
    tensors.finish(is_a_buffer)?;
    Ok(Transformer { config, params })
}

/// Dynamic scaling is for contexts beyond that of the training, which is the one that the file tells.
fn with_longer_context(mut config: Config) -> Config {
    if let Positions::Rotary(rotary) = &config.positions
        && let RotaryScaling::Dynamic { factor, .. } = rotary.scaling
        && factor.is_finite()
    {
        config.n_ctx = (config.n_ctx as f64 * factor.max(1.0)) as usize;
    }
    config
}

/// What older versions stored although it carries nothing: masks, and frequencies that the configuration tells.
fn is_a_buffer(name: &str) -> bool {
    [".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// What is missing of the family that a checkpoint of none comes nearest to, for the help of an error.
fn nearest(settings: &Settings, tensors: &Tensors) -> String {
    let build = "a network of another kind can be built from its parts, `Transformer::new(Config { .. })`, whose \
                 `params` take the weights";
    let n_known = |family: &Family| tensors.left().filter(|name| family.knows(name)).count();
    let most = FAMILIES.iter().map(n_known).max().unwrap_or(0);
    // Of those with the same names, the one that knows most settings.
    let candidates = FAMILIES.iter().filter(|family| n_known(family) == most).map(|family| {
        let settings = settings.anew();
        let refused = (family.config)(&settings).err().map(|e| e.what().to_string());
        (family, settings.unknown(), refused)
    });
    let Some((family, unknown, refused)) =
        candidates.min_by_key(|(_, unknown, refused)| (refused.is_some(), unknown.len()))
    else {
        return build.into();
    };
    if most == 0 {
        return format!("None of its tensors has a name that these have; {build}");
    }
    let some = |names: &[String]| {
        let first: Vec<String> = names.iter().take(3).map(|name| format!("`{name}`")).collect();
        let more = names.len().saturating_sub(3);
        if more > 0 { format!("{} and {more} more", first.join(", ")) } else { first.join(", ") }
    };
    let without_place: Vec<String> =
        tensors.left().filter(|name| !family.knows(name)).map(String::from).collect();
    let mut missing = Vec::new();
    if !without_place.is_empty() {
        missing.push(format!("has no place for the tensors {}", some(&without_place)));
    }
    match refused {
        Some(why) => missing.push(format!("refuses its settings ({why})")),
        None if !unknown.is_empty() => missing.push(format!("does not know the settings {}", some(&unknown))),
        None => {}
    }
    let name = family.model_type;
    if missing.is_empty() {
        return format!(
            "Here every tensor has a place in `{name}` and every setting is known there: if it computes the same, set \
             model_type to \"{name}\" in config.json"
        );
    }
    format!("It comes nearest to `{name}`, which {}: that is what is missing; {build}", missing.join(" and "))
}

impl Family {
    fn of(settings: &Settings, tensors: &Tensors) -> Result<&'static Family> {
        let told = settings.text("model_type")?;
        match FAMILIES.iter().find(|family| Some(family.model_type) == told) {
            Some(family) => Ok(family),
            None => {
                let known: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
                settings.bad(
                    "model_type",
                    &format!("one of {}. {}", known.join(", "), nearest(settings, tensors)),
                )
            }
        }
    }

    /// Whether a tensor of this name has a place in the family.
    fn knows(&self, name: &str) -> bool {
        let is = |rows: &[Row], name: &str| {
            let mut names = rows.iter().flat_map(|(_, stored, _)| stored.split('|'));
            names.any(|stored| match stored.split_once("{e}") {
                None => stored == name,
                Some((start, end)) => {
                    let expert = name.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
                    expert.is_some_and(|expert| expert.parse::<usize>().is_ok())
                }
            })
        };
        let start = self.block.trim_end_matches("{l}.");
        let inside = |name: &str| {
            let part = name.strip_prefix(start).and_then(|rest| rest.split_once('.'));
            part.is_some_and(|(layer, name)| layer.parse::<usize>().is_ok() && is(self.inside, name))
        };
        let bodies = self.bodies.iter().chain(&[""]);
        let mut rests = bodies.filter_map(|body| name.strip_prefix(body));
        rests.any(|rest| is(self.outside, rest) || inside(rest)) || is_a_buffer(name)
    }

    /// The stored name of our tensor `name`, and how to get from there to here. Panics on a tensor that the family does
    /// not have.
    fn place(&self, tensors: &Tensors, body: &str, name: &str) -> (String, How) {
        let (start, rows, name) = match name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
            Some((layer, name)) => (format!("{body}{}", self.block.replace("{l}", layer)), self.inside, name),
            None => {
                let start = if name.starts_with("unembed.") { "" } else { body };
                (start.to_string(), self.outside, name)
            }
        };
        let row = rows.iter().find(|(ours, ..)| *ours == name);
        let Some((_, stored, how)) = row else { unreachable!("{} has no place for {name}", self.model_type) };
        let mut names = stored.split('|').map(|stored| format!("{start}{stored}"));
        let first = names.next().unwrap_or_default();
        let name = if tensors.has(&first) { None } else { names.find(|name| tensors.has(name)) };
        (name.unwrap_or(first), *how)
    }
}
