//! `onelens battery`: which battery a file describes, its report as files and as text.

use std::path::{Path, PathBuf};

use onelens::battery::{Battery, ImageBattery, LanguageBattery, Report};
use onelens::data::{Copies, Corpus, Grammar, HiddenMarkov, Images, Markov, Source};
use onelens::language::LanguageModel;
use onelens::ndarray::{Array2, Axis};
use onelens::show::Figure;
use onelens::vision::ImageTraining;
use onelens::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::batch::{open, read_tokens};
use onelens_wire::request::Tokens;

/// What the file may hold.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    source: Option<Known>,
    checkpoint: Option<Checkpoint>,
    language: Option<Language>,
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

/// A language model at its own size.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Language {
    model: PathBuf,
    #[serde(default)]
    tokenizer: Option<PathBuf>,
    texts: Vec<PathBuf>,
    #[serde(default = "sequences_to_fit")]
    sequences: usize,
    #[serde(default = "sequences_held_out")]
    held_out: usize,
    #[serde(default = "positions")]
    context: usize,
}

fn sequences_to_fit() -> usize {
    256
}

fn sequences_held_out() -> usize {
    32
}

fn positions() -> usize {
    128
}

/// A model, by what to call it, with the first sequences of its texts.
struct Asked {
    name: String,
    model: LanguageModel,
    tokens: Array2<u32>,
}

impl Asked {
    fn open(
        path: &Path,
        tokenizer: Option<&Path>,
        texts: &[PathBuf],
        n_ctx: usize,
        n: usize,
        base: &Path,
    ) -> Result<Asked> {
        let tokenizer = tokenizer.map(|path| base.join(path));
        // A name of the hub is no path beside the file.
        let place = if base.join(path).exists() { base.join(path) } else { path.to_path_buf() };
        let model = open(&place, &tokenizer)?;
        let texts = Tokens { texts: texts.iter().map(|path| base.join(path)).collect(), tokenizer, n_ctx };
        let tokens = read_tokens(&model, &texts, n)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Asked { name, model, tokens })
    }
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
    let report = match (settings.source, settings.checkpoint, settings.images, settings.language) {
        (None, None, None, Some(language)) => return about(language, settings.battery.as_ref(), base, out),
        (Some(source), None, None, None) => {
            let mut battery: Battery = over(Battery::default(), settings.battery.as_ref())?;
            battery.folder.get_or_insert_with(|| out.to_path_buf());
            battery.run(&*known(source, &at)?)?
        }
        (None, Some(checkpoint), None, None) => {
            if settings.battery.is_some() {
                return Err(choose(
                    "[battery] says how networks are trained, and a checkpoint is trained already",
                ));
            }
            let Checkpoint { model, tokenizer, texts, sequences, context } = checkpoint;
            let Asked { name, model, tokens } =
                Asked::open(&model, tokenizer.as_deref(), &texts, context, sequences, base)?;
            Report::of_transformer(&name, &model, &tokens)?
        }
        (None, None, Some(pictures), None) => {
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
        _ => {
            return Err(choose(
                "the file has none of [source], [checkpoint], [language] and [images], or several",
            ));
        }
    };
    let figure = report.figure()?;
    let page = written(out, &figure, |path| report.save(path))?;
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

/// The report about a language model.
fn about(language: Language, said: Option<&Value>, base: &Path, out: &Path) -> Result<(String, Value)> {
    let Language { model, tokenizer, texts, sequences, held_out, context } = language;
    let Asked { name, model, tokens } =
        Asked::open(&model, tokenizer.as_deref(), &texts, context, sequences + held_out, base)?;
    let mut battery: LanguageBattery = over(LanguageBattery::default(), said)?;
    battery.folder.get_or_insert_with(|| out.to_path_buf());
    if tokens.nrows() <= held_out {
        return Err(Error::new(
            ErrorKind::Data,
            format!(
                "the texts have {} sequences of {context} tokens; {held_out} are held out",
                tokens.nrows()
            ),
            "give more text, shorter sequences (`context`), or hold out fewer (`held_out`)",
        ));
    }
    let (fit, read) = tokens.view().split_at(Axis(0), tokens.nrows() - held_out);
    let report = battery.run(&name, &model, &fit.to_owned(), &read.to_owned())?;
    let figure = report.figure()?;
    let page = written(out, &figure, |path| report.save(path))?;
    let sentences: serde_json::Map<String, Value> =
        report.sentences().into_iter().map(|(name, said)| (name, said.into())).collect();
    let value = json!({ "report": page, "answer": report.answer().name(), "sentences": sentences });
    Ok((format!("{}\n{}: the whole report", figure.text().trim_end(), page.display()), value))
}

/// Writes a report as data and as a page, which it names.
fn written(out: &Path, figure: &Figure, save: impl FnOnce(PathBuf) -> Result<()>) -> Result<PathBuf> {
    std::fs::create_dir_all(out).map_err(|e| {
        let what = format!("cannot make the folder {}: {e}", out.display());
        Error::new(ErrorKind::File, what, "name a folder that can be written to with --out")
    })?;
    save(out.join("report"))?;
    let page = out.join("report.html");
    figure.save(&page)?;
    Ok(page)
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
