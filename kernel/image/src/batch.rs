//! `onelens model ..`, `onelens lens ..` and `onelens battery`: the same library calls as in a cell, from the command
//! line.

use ndarray::ArrayView1;
use onelens::data::{Corpus, Source, TextFiles, Tokenizer};
use onelens::language::{LanguageModel, read_model};
use onelens::lens::{LayerMoments, Lens, LogitLens, Refine, Ridge, TunedLens, compare};
use onelens::model::{Config, Provenance, Training, TrainingRun, Transformer, download, downloaded};
use onelens::session::{self, Bundle, Sink};
use onelens::stream::{Alone, Peers, Streaming, train_among};
use onelens::{Error, ErrorKind, Result};
use onelens_wire::request::{Network, Request, Tokens, Work};
use serde_json::{Value, json};
use std::ffi::{CStr, c_char, c_int};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

#[cfg(feature = "mpi")]
use crate::mpi_job::Mpi;

/// Exit codes, as the program's help tells them.
const FAILED: c_int = 1;
const BAD_INPUT: c_int = 2;
const INTERRUPTED: c_int = 130;

/// Does what a [`Request`], given as JSON, asks for; the exit code.
///
/// # Safety
/// `request` is a terminated string.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onelens_batch(request: *const c_char) -> c_int {
    // SAFETY: the caller promises it.
    let text = unsafe { CStr::from_ptr(request) }.to_string_lossy();
    session::set_sink(Box::new(Terminal { shows: std::io::stderr().is_terminal(), open: false }));
    crate::serve::stop_politely_on_interrupt();
    let Ok(request) = serde_json::from_str::<Request>(&text) else {
        eprintln!("error: the program and its library do not fit together\nhelp: build `onelens` anew");
        return FAILED;
    };
    match std::panic::catch_unwind(|| run(&request)) {
        Ok(code) => code,
        // The panic hook has told what happened.
        Err(_) => FAILED,
    }
}

fn run(request: &Request) -> c_int {
    let peers = match peers() {
        Ok(peers) => peers,
        Err(e) => return tell(&e, 0, 1),
    };
    match answer(request, &*peers) {
        Ok(Some(text)) => match writeln!(std::io::stdout(), "{text}") {
            Ok(()) => 0,
            // Who reads has enough.
            Err(_) => FAILED,
        },
        Ok(None) => 0,
        Err(e) => {
            let code = tell(&e, peers.rank(), peers.size());
            peers.abort(code);
            code
        }
    }
}

fn tell(e: &Error, rank: usize, size: usize) -> c_int {
    let who = if size > 1 { format!("process {rank} of {size}: ") } else { String::new() };
    eprintln!("error: {who}{e}");
    match e.kind() {
        _ if session::interrupted() => INTERRUPTED,
        ErrorKind::Numeric => FAILED,
        _ => BAD_INPUT,
    }
}

/// The processes that share the work, and a way to end them all.
trait Job: Peers {
    fn abort(&self, code: c_int);
}

impl Job for Alone {
    fn abort(&self, _: c_int) {}
}

#[cfg(feature = "mpi")]
impl Job for Mpi {
    fn abort(&self, code: c_int) {
        if self.size() > 1 {
            Mpi::abort(self, code);
        }
    }
}

/// The processes that `mpirun` or its like has started; the program takes an image with MPI for them.
#[cfg(feature = "mpi")]
fn peers() -> Result<Box<dyn Job>> {
    Ok(Box::new(Mpi::start()?))
}

#[cfg(not(feature = "mpi"))]
fn peers() -> Result<Box<dyn Job>> {
    Ok(Box::new(Alone))
}

/// What to print, if anything.
fn answer(request: &Request, peers: &dyn Job) -> Result<Option<String>> {
    let (text, value) = match &request.work {
        Work::Fit { model, texts, output, shard_bytes, keep } => {
            check_folder(output)?;
            let (model, path) = (open(model, &texts.tokenizer)?, output);
            let documents = TextFiles::open(&texts.texts)?;
            let how = Streaming {
                n_ctx: texts.n_ctx,
                shard_bytes: *shard_bytes,
                folder: keep.clone(),
                ..Default::default()
            };
            let Some(moments) = how.moments_among(peers, &model, &model.tokenizer, &documents)? else {
                return Ok(None);
            };
            moments.save(path)?;
            let n = moments.n();
            let value = json!({
                "moments": path, "tokens": n, "streams": moments.layers.len(), "processes": peers.size(),
                "fingerprint": format!("{:016x}", moments.fingerprint),
            });
            (
                format!(
                    "{}: moments of {n} tokens, {} residual streams",
                    path.display(),
                    moments.layers.len()
                ),
                value,
            )
        }
        Work::Train { text, output, network, steps, batch_size, lr, resume } => {
            check_folder(output)?;
            let corpus = Corpus::open(text)?;
            // A run that goes on has its own settings, of which the model's file tells the seed.
            let seed = if *resume { Provenance::of_file(output)?.seed } else { network.seed };
            let how =
                Training { steps: *steps, batch_size: *batch_size, lr: *lr, seed, ..Default::default() };
            let mut run = match resume {
                true => TrainingRun::load(output)?,
                false => TrainingRun::new(Transformer::new(config(network, &corpus))?, &how)?,
            };
            let Some(log) = train_among(peers, &mut run, &corpus)? else { return Ok(None) };
            let steps = log.losses.len();
            if log.interrupted {
                run.save(output, &corpus)?;
                return Err(Error::new(
                    ErrorKind::Interrupted,
                    format!("interrupted after {steps} steps, which are in {}", output.display()),
                    "the same command with --resume goes on from there",
                ));
            }
            let model = run.model();
            model.save(output, &Provenance::trained(&corpus, &how, &log))?;
            let fingerprint = format!("{:016x}", model.fingerprint());
            let text = format!(
                "{}: {steps} steps, held-out loss {:.4} nats per token, fingerprint {fingerprint}",
                output.display(),
                log.held_out_loss
            );
            let value = json!({
                "model": output, "steps": steps, "held_out_loss": log.held_out_loss, "fingerprint": fingerprint,
                "processes": peers.size(),
            });
            (text, value)
        }
        _ if peers.rank() > 0 => return Ok(None),
        Work::Info { model } => info(&find(model)?)?,
        Work::Download { name } => {
            let folder = download(name)?;
            (format!("{name} is in {}", folder.display()), json!({ "name": name, "folder": folder }))
        }
        Work::Battery { settings, base, out } => crate::battery::run(settings, base, out)?,
        Work::Generate { model, tokenizer, prompt, n, temperature, seed } => {
            let model = open(model, tokenizer)?;
            let live = !request.json;
            let say = |text: &str| {
                let mut out = std::io::stdout();
                // Who reads may have enough; that is told at the end.
                let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            };
            if live {
                say(prompt);
            }
            let sampled = temperature.map(|temperature| (temperature, *seed));
            let told = model.continue_with(prompt, *n, sampled, &mut |text| {
                if live {
                    say(text);
                }
            })?;
            // The text is out already; what is printed now ends its line.
            (String::new(), json!({ "prompt": prompt, "text": told.text, "tokens": told.tokens }))
        }
        Work::Convert { model: from, output } => {
            let model = read_model(&find(from)?)?;
            let provenance = Provenance::of_file(from).unwrap_or_else(|_| Provenance {
                data: format!("read from {}", from.display()),
                ..Default::default()
            });
            model.save(output, &provenance)?;
            let told = format!(
                "{}: {} parameters, fingerprint {:016x}",
                output.display(),
                model.params.count(),
                model.fingerprint()
            );
            (told, json!({ "model": output, "fingerprint": format!("{:016x}", model.fingerprint()) }))
        }
        Work::Refine { model, texts, moments, output, keep, kind, epochs, lbfgs_steps, lambda } => {
            check_folder(output)?;
            let (model, moments) = (open(model, &texts.tokenizer)?, LayerMoments::load(moments)?);
            let documents = TextFiles::open(&texts.texts)?;
            let how = Streaming { n_ctx: texts.n_ctx, folder: Some(keep.clone()), ..Default::default() };
            let usual = Refine::default();
            let refine = Refine {
                epochs: epochs.unwrap_or(usual.epochs),
                lbfgs_steps: lbfgs_steps.unwrap_or(usual.lbfgs_steps),
                lambda: lambda.unwrap_or(usual.lambda),
                ..usual
            };
            let start = Ridge::default().lenses(&moments, &kind.parse()?)?;
            let tuned = how.refine(&refine, &model, &model.tokenizer, &documents, &start, &moments)?;
            tuned.save(output)?;
            let (before, after) =
                (tuned.training_kl.row(0), tuned.training_kl.row(tuned.training_kl.nrows() - 1));
            let row = |name: &str, kl: ArrayView1<f64>| {
                format!("{name:28}{}", kl.iter().map(|x| format!("{x:9.4}")).collect::<String>())
            };
            let text = format!(
                "{}: lenses of {} residual streams; KL{} on the texts (nats)\n{}\n{}",
                output.display(),
                before.len(),
                if refine.lambda > 0.0 { " and penalty" } else { "" },
                row("in closed form", before),
                row("refined", after)
            );
            let value = json!({
                "lens": output, "kl_before": before.to_vec(), "kl": after.to_vec(),
                "gradient_norm": tuned.gradient_norm, "seconds": tuned.seconds,
            });
            (text, value)
        }
        Work::Compare { model, moments, texts, lenses, lambda, sequences, html } => {
            let (model, moments) = (open(model, &texts.tokenizer)?, LayerMoments::load(moments)?);
            let tokens = read_tokens(&model, texts, *sequences)?;
            let mut ridge = Ridge::default();
            ridge.lambda = lambda.unwrap_or(ridge.lambda);
            let fitted: Vec<Box<dyn Lens>> =
                lenses.iter().map(|name| fit(name, &ridge, &moments)).collect::<Result<_>>()?;
            let fitted: Vec<&dyn Lens> = fitted.iter().map(|lens| &**lens).collect();
            let seen = compare(&model, &fitted, &moments, &tokens)?;
            if let Some(path) = html {
                seen.figure()?.save(path)?;
            }
            let numbers = |all: &[f64]| all.iter().map(|x| format!("{x:9.4}")).collect::<String>();
            let mut text = format!(
                "KL to the final prediction (nats), {} tokens; the best constant prediction: {:.4}\n{:28}",
                seen.n_tokens, seen.baseline, "residual stream"
            );
            text.extend((0..moments.layers.len()).map(|l| format!("{l:9}")));
            for curve in &seen.curves {
                text.push_str(&format!("\n{:28}{}", curve.name, numbers(&curve.kl)));
            }
            let curves: Vec<Value> = seen
                .curves
                .iter()
                .map(|c| {
                    json!({ "lens": c.name, "kl": c.kl, "se": c.se, "cross_entropy": c.cross_entropy, "agreement": c.agreement,
                            "fit_seconds": c.fit_seconds })
                })
                .collect();
            let value = json!({
                "tokens": seen.n_tokens, "sequences": seen.n_seqs, "baseline": seen.baseline, "baseline_se": seen.baseline_se,
                "model_cross_entropy": seen.model_cross_entropy, "lenses": curves,
            });
            (text, value)
        }
    };
    Ok(Some(if request.json { value.to_string() } else { text }))
}

/// Says before long work, not after it, that its result has no place.
fn check_folder(output: &Path) -> Result<()> {
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() && !output.is_dir() {
        return Ok(());
    }
    let why = if output.is_dir() { "it is a folder" } else { "there is no such folder" };
    Err(Error::new(
        ErrorKind::File,
        format!("cannot write {}: {why}", output.display()),
        format!("name a file in a folder that exists, or make it: mkdir -p {}", folder.display()),
    ))
}

/// A network whose tokens are those of the corpus.
fn config(network: &Network, corpus: &Corpus) -> Config {
    let &Network { n_layers, d_model, n_heads, n_ctx, seed } = network;
    let d_head = d_model / n_heads.max(1);
    Config {
        d_vocab: corpus.d_vocab(),
        n_layers,
        d_model,
        n_heads,
        d_head,
        d_mlp: 4 * d_model,
        n_ctx,
        seed,
        ..Default::default()
    }
}

fn info(path: &Path) -> Result<(String, Value)> {
    let model = read_model(path)?;
    let mut text = format!("{}\n", path.display());
    text.extend(model.card().rows.iter().map(|(key, value)| format!("{key:14}{value}\n")));
    let provenance = Provenance::of_file(path).ok();
    if let Some(p) = &provenance {
        text.push_str(&format!(
            "trained on    {} ({} steps, seed {})\nwritten by    onelens {}\n",
            p.data, p.steps, p.seed, p.version
        ));
    }
    let value = json!({
        "path": path, "config": model.config, "parameters": model.params.count(),
        "fingerprint": format!("{:016x}", model.fingerprint()), "provenance": provenance,
    });
    Ok((text.trim_end().into(), value))
}

/// Where a model is that is named by its path, or by the name under which it was downloaded.
pub(crate) fn find(model: &Path) -> Result<PathBuf> {
    if model.exists() {
        return Ok(model.to_path_buf());
    }
    Ok(model.to_str().and_then(downloaded).unwrap_or_else(|| model.to_path_buf()))
}

/// A model with its own tokenizer, or the one that was named.
pub(crate) fn open(model: &Path, tokenizer: &Option<PathBuf>) -> Result<LanguageModel> {
    let path = find(model)?;
    let Some(named) = tokenizer else { return LanguageModel::open(path) };
    match LanguageModel::open_with(&path, named) {
        // The characters of a text are the tokens of a model that was trained on it; that there are as many is checked.
        Err(e)
            if path.is_file()
                && (e.what().ends_with("is no tokenizer") || e.what().ends_with("no tokenizer.json")) =>
        {
            let vocab = Corpus::open(named)?.vocab().clone();
            LanguageModel::open_as(&path, Tokenizer::characters(vocab))
        }
        opened => opened,
    }
}

/// The first sequences of full length.
pub(crate) fn read_tokens(model: &LanguageModel, texts: &Tokens, n: usize) -> Result<ndarray::Array2<u32>> {
    let how = Streaming { n_ctx: texts.n_ctx, ..Default::default() };
    how.sequences(model, &model.tokenizer, &TextFiles::open(&texts.texts)?, n)
}

/// A lens by its name on the command line.
fn fit(name: &str, ridge: &Ridge, moments: &LayerMoments) -> Result<Box<dyn Lens>> {
    let lenses = match name {
        "logit" => return Ok(Box::new(LogitLens)),
        file if Path::new(file).is_file() => return Ok(Box::new(TunedLens::load(file)?)),
        _ => match name.parse() {
            Ok(kind) => ridge.lenses(moments, &kind)?,
            Err(_) => {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!("there is no lens {name:?}, and no such file"),
                    "lenses are logit, own, shared, left-out, left-out-without-last, later, own-bias, own-gain, every-3 and rank-8, or a \
                     file of `onelens lens refine`",
                ));
            }
        },
    };
    Ok(Box::new(lenses))
}

/// Progress on a terminal, in place; elsewhere nothing.
struct Terminal {
    shows: bool,
    open: bool,
}

impl Sink for Terminal {
    fn display(&mut self, bundle: &Bundle, id: Option<&str>, _update: bool) {
        if !self.shows || id.is_none() {
            return;
        }
        let text = bundle.last().map(|(_, text)| text.as_str()).unwrap_or_default();
        // `name: ..` is the last word of a progress line, `name 3/10 ..` one on the way.
        let done = text.split_whitespace().next().is_some_and(|word| word.ends_with(':'));
        eprint!("\r\x1b[K{text}{}", if done { "\n" } else { "" });
        self.open = !done;
    }

    fn clear(&mut self, _wait: bool) {}
}
