//! `onelens battery`: which battery a file describes, its report as files and as text.

use std::path::{Path, PathBuf};

use onelens::battery::{Battery, ImageBattery, Report};
use onelens::data::{Copies, Corpus, Grammar, HiddenMarkov, Images, Markov, Source};
use onelens::vision::ImageTraining;
use onelens::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::batch::{open, read_tokens};
use crate::request::Tokens;

/// What the file may hold.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    source: Option<Known>,
    checkpoint: Option<Checkpoint>,
    images: Option<Pictures>,
    battery: Option<Value>,
}

/// A source by its name and numbers.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Known {
    Markov { n_states: usize, alpha: f64 },
    Copies { d_vocab: usize, shortest: usize, longest: usize },
    Brackets { kinds: usize, nest: f64 },
    Mess3 { alpha: f64, x: f64 },
    Text(PathBuf),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Checkpoint {
    model: PathBuf,
    #[serde(default)]
    tokenizer: Option<PathBuf>,
    texts: Vec<PathBuf>,
    #[serde(default = "some_sequences")]
    sequences: usize,
    #[serde(default)]
    context: usize,
}

fn some_sequences() -> usize {
    128
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Pictures {
    Digits(PathBuf),
    Mnist([PathBuf; 2]),
}

/// Runs the battery; what to print, as text and as JSON.
pub(crate) fn run(settings: &Value, base: &Path, out: &Path) -> Result<(String, Value)> {
    let settings: Settings = serde_json::from_value(settings.clone()).map_err(unusable)?;
    let at = |path: &Path| base.join(path);
    let report = match (settings.source, settings.checkpoint, settings.images) {
        (Some(source), None, None) => {
            let mut battery: Battery = over(Battery::default(), settings.battery.as_ref())?;
            battery.folder.get_or_insert_with(|| out.to_path_buf());
            battery.run(&*known(source, &at)?)?
        }
        (None, Some(checkpoint), None) => {
            if settings.battery.is_some() {
                return Err(choose(
                    "[battery] says how networks are trained, and a checkpoint is trained already",
                ));
            }
            let Checkpoint { model: path, tokenizer, texts, sequences, context } = checkpoint;
            let tokenizer = tokenizer.as_deref().map(at);
            // A name of the hub is no path beside the file.
            let place = if at(&path).exists() { at(&path) } else { path.clone() };
            let model = open(&place, &tokenizer)?;
            let texts =
                Tokens { texts: texts.iter().map(|path| at(path)).collect(), tokenizer, n_ctx: context };
            let tokens = read_tokens(&model, &texts, sequences)?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            Report::of_transformer(&name, &model, &tokens)?
        }
        (None, None, Some(pictures)) => {
            let (images, steps) = match pictures {
                Pictures::Digits(path) => (Images::digits(at(&path))?, ImageTraining::default().steps),
                Pictures::Mnist([images, labels]) => (Images::mnist(at(&images), at(&labels))?, 200),
            };
            let training = ImageTraining { steps, ..Default::default() };
            let mut battery: ImageBattery =
                over(ImageBattery { training, ..Default::default() }, settings.battery.as_ref())?;
            battery.folder.get_or_insert_with(|| out.to_path_buf());
            let (train, held_out) = images.split();
            battery.run(&train, &held_out)?
        }
        _ => return Err(choose("the file has none of [source], [checkpoint] and [images], or several")),
    };
    std::fs::create_dir_all(out).map_err(|e| {
        let what = format!("cannot make the folder {}: {e}", out.display());
        Error::new(ErrorKind::File, what, "name a folder that can be written to with --out")
    })?;
    report.save(out.join("report"))?;
    let figure = report.figure()?;
    let page = out.join("report.html");
    figure.save(&page)?;
    let groups: Vec<Value> = report
        .groups
        .iter()
        .map(|g| {
            json!({
                "network": g.summary.name, "networks": g.summary.n_networks, "loss": number(g.loss),
                "answer": g.verdict.answer.name(), "sentence": g.verdict.sentence,
                "left_out": g.summary.left_out(), "layers_counted": g.summary.kept(),
                "fingerprints": g.fingerprints.iter().map(|f| format!("{f:016x}")).collect::<Vec<_>>(),
            })
        })
        .collect();
    let value = json!({ "report": page, "answer": report.verdict().answer.name(), "sentence": report.verdict().sentence,
                        "second_split": report.groups[0].second_split.sentence, "groups": groups });
    Ok((format!("{}\n{}: the whole report", figure.text().trim_end(), page.display()), value))
}

fn known(source: Known, at: &dyn Fn(&Path) -> PathBuf) -> Result<Box<dyn Source>> {
    Ok(match source {
        Known::Markov { n_states, alpha } => Box::new(Markov::new(n_states, alpha)?),
        Known::Copies { d_vocab, shortest, longest } => Box::new(Copies::new(d_vocab, shortest, longest)?),
        Known::Brackets { kinds, nest } => Box::new(Grammar::brackets(kinds, nest)?),
        Known::Mess3 { alpha, x } => Box::new(HiddenMarkov::mess3(alpha, x)?),
        Known::Text(path) => Box::new(Corpus::open(at(&path))?),
    })
}

/// `usual` with what the file says instead. A name that `usual` does not have is refused with those that it has.
fn over<T: Serialize + for<'de> Deserialize<'de>>(usual: T, said: Option<&Value>) -> Result<T> {
    let mut all = serde_json::to_value(usual).map_err(unusable)?;
    if let Some(said) = said {
        lay(&mut all, said, "battery")?;
    }
    serde_json::from_value(all).map_err(unusable)
}

fn lay(usual: &mut Value, said: &Value, path: &str) -> Result<()> {
    let (Value::Object(usual), Value::Object(said)) = (&mut *usual, said) else {
        *usual = said.clone();
        return Ok(());
    };
    for (name, value) in said {
        let known: Vec<String> = usual.keys().cloned().collect();
        match usual.get_mut(name) {
            Some(usual) => lay(usual, value, &format!("{path}.{name}"))?,
            None => {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!("there is no setting {path}.{name}"),
                    format!("settings of {path} are {}", known.join(", ")),
                ));
            }
        }
    }
    Ok(())
}

fn unusable(e: serde_json::Error) -> Error {
    Error::new(ErrorKind::Config, format!("the file cannot be used: {e}"), "see `onelens battery --help`")
}

fn choose(what: &str) -> Error {
    Error::new(ErrorKind::Config, what, "give exactly one of them; see `onelens battery --help`")
}

/// JSON has no NaN.
fn number(x: f64) -> Option<f64> {
    x.is_finite().then_some(x)
}
