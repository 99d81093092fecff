//! `onelens model ..`, `onelens lens ..` and `onelens battery`: the library's work without a notebook.
//!
//! The program does not hold the library; it loads the one that cells use, and hands it a
//! [`Request`].

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::base::failure::Failure;
use crate::engine;
use crate::image::Image;

pub(crate) use onelens_wire::request::{Network, Request, Tokens, Work};

const EXIT_CODES: &str = "Exit codes:
  0    done
  1    a number was not finite, or the library failed
  2    the command line or a file on it cannot be used
  3    the toolchain or the library for cells failed
  130  interrupted with Ctrl-C; finished shards stay";

/// Inspect, download, train or convert a model, or continue a text with it
#[derive(Subcommand)]
#[command(after_help = EXIT_CODES)]
pub(crate) enum ModelCommand {
    /// Show a model's architecture, size, fingerprint and where its weights come from
    #[command(
        after_help = "Examples:\n  onelens model info stories260K.bin\n  onelens model info pythia-70m/ --json"
    )]
    Info {
        #[command(flatten)]
        model: Model,
        #[command(flatten)]
        output: Output,
    },
    /// Fetch a model of the Hugging Face hub into its cache
    #[command(after_help = "Example:
  onelens model download HuggingFaceTB/SmolLM2-135M

The cache is the one of Hugging Face's own programs (HF_HUB_CACHE, or hub in HF_HOME); what is there is not fetched
again. Every other command takes the name of a model that is there.")]
    Download {
        /// As it stands in the model's address: owner/name
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Continue a text
    #[command(after_help = "Examples:
  onelens model generate SmolLM2-135M.gguf --prompt \"The capital of France is\"
  onelens model generate stories260K.bin --prompt \"Once upon a time\" -n 60 --temperature 0.8")]
    Generate {
        #[command(flatten)]
        model: Model,
        #[command(flatten)]
        tokenizer: TokenizerFile,
        /// What to begin with
        #[arg(long)]
        prompt: String,
        /// How many tokens
        #[arg(short, default_value_t = 50)]
        n: usize,
        /// Draw tokens at this temperature [default: take the most probable]
        #[arg(long, value_parser = finite)]
        temperature: Option<f64>,
        /// Seed of the draws
        #[arg(long, default_value_t = 0)]
        seed: u64,
        #[command(flatten)]
        output: Output,
    },
    /// Train a network on the characters of a text
    #[command(after_help = "Examples:
  onelens model train --text stories/ --out stories.safetensors --steps 2000
  mpirun -n 4 onelens model train --text stories/ --out stories.safetensors --batch 256 --layers 8 --width 256

Every fifth file is held out; of a single file the last fifth. The characters of the text are the tokens, and the file
keeps them. Processes started by mpirun share each batch, four sequences at a time (the library for cells is built with
MPI once); the file has the same bytes for any number of them. Ctrl-C keeps what is trained, and --resume goes on.")]
    Train {
        /// A text file or a folder of them
        #[arg(long, value_name = "PATH")]
        text: PathBuf,
        /// Where the model goes
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Blocks
        #[arg(long, default_value_t = 6)]
        layers: usize,
        /// Width of the residual stream; the MLPs are four times as wide
        #[arg(long, default_value_t = 64)]
        width: usize,
        /// Attention heads, which share the width
        #[arg(long, default_value_t = 4)]
        heads: usize,
        /// Tokens of a sequence
        #[arg(long, default_value_t = 64)]
        context: usize,
        /// Optimisation steps
        #[arg(long, default_value_t = 1000)]
        steps: usize,
        /// Sequences of a step
        #[arg(long, default_value_t = 32)]
        batch: usize,
        /// Peak learning rate
        #[arg(long, default_value_t = 3e-3, value_parser = finite)]
        lr: f64,
        /// Seed of the weights and batches
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Go on with the run that was interrupted; its own settings count
        #[arg(long)]
        resume: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Write a model that can be read as one safetensors file of onelens
    #[command(after_help = "Example:\n  onelens model convert stories260K.bin stories.safetensors")]
    Convert {
        #[command(flatten)]
        model: Model,
        /// Where it goes
        to: PathBuf,
        #[command(flatten)]
        output: Output,
    },
}

/// Lenses, which read a prediction off a layer: fit, refine and compare them on texts of any size
#[derive(Subcommand)]
#[command(after_help = EXIT_CODES)]
pub(crate) enum LensCommand {
    /// Gather from texts the moments to which every lens is fitted
    #[command(after_help = "Examples:
  onelens lens fit --model stories260K.bin --text stories/ --out stories.moments
  mpirun -n 4 onelens lens fit --model pythia-70m --text pile/ --out pile.moments --keep shards

Memory is constant however much text there is. With --keep, finished shards are files, and after an interruption the
same command goes on from them. Processes started by mpirun share the shards (the library for cells is built with MPI
once); the result has the same bytes for any number of them. Own, shared and all other lenses follow from the moments
at once: see `onelens lens compare`.")]
    Fit {
        #[command(flatten)]
        texts: TextArgs,
        /// Where the moments go
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// A shard ends with the document at which it has so many bytes of text
        #[arg(long, default_value_t = 1 << 20, value_name = "BYTES")]
        shard_bytes: usize,
        /// Keep finished shards in this folder
        #[arg(long, value_name = "FOLDER")]
        keep: Option<PathBuf>,
        #[command(flatten)]
        output: Output,
    },
    /// Refine the lenses of moments on texts, to the least KL
    #[command(after_help = "Example:
  onelens lens refine --model stories260K.bin --moments stories.moments --text stories/ --keep shards --out stories.lens
  onelens lens eval --model stories260K.bin --moments stories.moments --text held_out.txt --lens stories.lens

Memory is constant however much text there is; the folder of --keep holds the tokens, 4 bytes each. After an
interruption the same command goes on after the last epoch or step.")]
    Refine {
        #[command(flatten)]
        texts: TextArgs,
        /// What `onelens lens fit` wrote
        #[arg(long, value_name = "FILE")]
        moments: PathBuf,
        /// Where the lenses go
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Keep the tokens, and how far the search is, in this folder
        #[arg(long, value_name = "FOLDER")]
        keep: PathBuf,
        /// Which kind of lens: own, shared, left-out, left-out-without-last, later, own-bias, own-gain, every-3,
        /// folds-2, rank-8
        #[arg(long, default_value = "own")]
        kind: String,
        /// Times through the tokens in batches [default: the library's]
        #[arg(long)]
        epochs: Option<usize>,
        /// Steps on all tokens after that [default: the library's]
        #[arg(long)]
        lbfgs_steps: Option<usize>,
        /// Strength of a penalty that pulls lenses towards the identity, relative to the stream's variance [default: 0]
        #[arg(long)]
        lambda: Option<f64>,
        #[command(flatten)]
        output: Output,
    },
    /// Show what one lens reads at every residual stream of other texts
    #[command(after_help = "Example:
  onelens lens eval --model stories260K.bin --moments stories.moments --text held_out.txt --lens shared")]
    Eval {
        #[command(flatten)]
        texts: TextArgs,
        #[command(flatten)]
        fitted: Fitted,
        /// Which lens: logit, own, shared, left-out, left-out-without-last, later, own-bias, own-gain, every-3,
        /// folds-2, rank-8, or a file of `onelens lens refine`
        #[arg(long, default_value = "own")]
        lens: String,
        #[command(flatten)]
        output: Output,
    },
    /// Compare several lenses, side by side, on other texts
    #[command(after_help = "Example:
  onelens lens compare --model stories260K.bin --moments stories.moments --text held_out.txt --html lenses.html")]
    Compare {
        #[command(flatten)]
        texts: TextArgs,
        #[command(flatten)]
        fitted: Fitted,
        /// Which lenses, separated by commas: those of `eval`
        #[arg(long, value_delimiter = ',', default_value = "logit,own,shared,left-out")]
        lenses: Vec<String>,
        /// Write the figure there, as one page
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
        #[command(flatten)]
        output: Output,
    },
}

/// A model on disk.
#[derive(Args)]
pub(crate) struct Model {
    /// A folder from Hugging Face, a GGUF file, a file that onelens wrote (.safetensors), one of llama2.c (.bin), or
    /// the name of a downloaded model
    model: PathBuf,
}

/// A tokenizer on disk.
#[derive(Args)]
pub(crate) struct TokenizerFile {
    /// A tokenizer.json or its folder, a GGUF file, a tokenizer.bin of llama2.c, or for a model that onelens trained
    /// the text or folder whose characters are its tokens [default: the one that is with the model]
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
}

/// A number, and a finite one.
fn finite(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if number.is_finite() { Ok(number) } else { Err(format!("{text} is not a finite number")) }
}

/// Texts for a model.
#[derive(Args)]
pub(crate) struct TextArgs {
    /// A folder from Hugging Face, a GGUF file, a file that onelens wrote (.safetensors), one of llama2.c (.bin), or
    /// the name of a downloaded model
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    #[command(flatten)]
    tokenizer: TokenizerFile,
    /// A text file or a folder of them (plain, .jsonl, .json; also .gz, .zst); may be given several times
    #[arg(long = "text", value_name = "PATH", required = true)]
    texts: Vec<PathBuf>,
    /// Tokens of a sequence [default: the model's context]
    #[arg(long, value_name = "TOKENS")]
    context: Option<usize>,
}

impl TextArgs {
    fn tokens(self) -> (PathBuf, Tokens) {
        let TextArgs { model, tokenizer, texts, context } = self;
        (model, Tokens { texts, tokenizer: tokenizer.tokenizer, n_ctx: context.unwrap_or(0) })
    }
}

/// Lenses from moments.
#[derive(Args)]
pub(crate) struct Fitted {
    /// What `onelens lens fit` wrote
    #[arg(long, value_name = "FILE")]
    moments: PathBuf,
    /// Strength of the ridge, relative to the mean variance of a feature [default: the library's]
    #[arg(long, value_name = "LAMBDA", value_parser = finite)]
    lambda: Option<f64>,
    /// How many sequences
    #[arg(long, default_value_t = 64)]
    sequences: usize,
}

/// How answers are printed.
#[derive(Args)]
pub(crate) struct Output {
    /// Print one JSON value
    #[arg(long)]
    json: bool,
}

/// A battery as a file describes it.
#[derive(Args)]
pub(crate) struct BatteryArgs {
    /// What to ask of which networks
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Where report and finished networks go [default: a folder beside the file, named after it]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

pub(crate) const BATTERY_HELP: &str = "\
The file has one of [source], [checkpoint], [language] and [images]; paths in it are relative to it.

  # Networks trained on a source whose answer is known, with all controls; eight seeds take about a quarter of an hour.
  [source]
  copies = { d_vocab = 20, shortest = 4, longest = 8 }
  # or brackets = { kinds = 9, nest = 0.7 }, markov = { n_states = 20, alpha = 0.05 },
  # mess3 = { alpha = 0.85, x = 0.05 }, or text = \"input.txt\", of which only what comes next is known
  [battery]                          # any field of onelens::battery::Battery; what is not there keeps its default
  seeds = [0, 1, 2, 3, 4, 5, 6, 7]
  config = { n_layers = 6, d_model = 16 }   # fewer numbers than the source has tokens: else the test is void
  training = { steps = 1000 }

  # A checkpoint.
  [checkpoint]
  model = \"stories260K.bin\"
  tokenizer = \"tok512.bin\"
  texts = [\"stories.json\"]
  sequences = 128
  context = 128

  # A language model at its own size, with chance weights and shuffled updates beside it: about 23 minutes for 135
  # million parameters on two cores.
  [language]
  model = \"HuggingFaceTB/SmolLM2-135M\"   # or a file, as above
  texts = [\"stories.json\"]
  sequences = 256                    # to fit lenses to, of `context` tokens; the next `held_out` are read
  held_out = 32
  context = 128
  [battery]                          # any field of onelens::battery::LanguageBattery
  n_refined = 32768

  # Image classifiers without skip connections and their residual twins.
  [images]
  digits = \"digits.csv\"              # or mnist = [\"images-idx3-ubyte.gz\", \"labels-idx1-ubyte.gz\"]
  [battery]                          # any field of onelens::battery::ImageBattery
  config = { network = \"Cnn\", d_model = 12 }

FOLDER/report.html is the report, FOLDER/report the same for `Report::load`. Networks that are finished stay in FOLDER,
and after an interruption the same command goes on from them.

Exit codes:
  0    done
  1    a number was not finite, or the library failed
  2    the command line, the file or a file that it names cannot be used
  3    the toolchain or the library for cells failed
  130  interrupted with Ctrl-C; finished networks stay";

const BEGIN: &str = "see `onelens battery --help` for a file to begin with";

/// The request that `onelens battery` makes.
pub(crate) fn battery(args: BatteryArgs) -> Result<Request, Failure> {
    let BatteryArgs { config, out, output } = args;
    let text = std::fs::read_to_string(&config)
        .map_err(|e| Failure::bad_input(format!("cannot read {}: {e}", config.display()), BEGIN))?;
    let settings: serde_json::Value = toml::from_str(&text).map_err(|e| {
        Failure::bad_input(format!("{} is not TOML: {}", config.display(), e.message()), BEGIN)
    })?;
    let config = std::path::absolute(&config).unwrap_or(config);
    let base = config.parent().map(PathBuf::from).unwrap_or_default();
    let out = out.unwrap_or_else(|| config.with_extension(""));
    Ok(Request { json: output.json, work: Work::Battery { settings, base, out } })
}

/// The request that a command about a model makes.
pub(crate) fn model(command: ModelCommand) -> Request {
    match command {
        ModelCommand::Info { model, output } => {
            Request { json: output.json, work: Work::Info { model: model.model } }
        }
        ModelCommand::Download { name, output } => {
            Request { json: output.json, work: Work::Download { name } }
        }
        ModelCommand::Generate { model, tokenizer, prompt, n, temperature, seed, output } => {
            let (model, tokenizer) = (model.model, tokenizer.tokenizer);
            Request {
                json: output.json,
                work: Work::Generate { model, tokenizer, prompt, n, temperature, seed },
            }
        }
        ModelCommand::Train {
            text,
            out,
            layers,
            width,
            heads,
            context,
            steps,
            batch,
            lr,
            seed,
            resume,
            output,
        } => {
            let network = Network { n_layers: layers, d_model: width, n_heads: heads, n_ctx: context, seed };
            let work = Work::Train { text, output: out, network, steps, batch_size: batch, lr, resume };
            Request { json: output.json, work }
        }
        ModelCommand::Convert { model, to, output } => {
            Request { json: output.json, work: Work::Convert { model: model.model, output: to } }
        }
    }
}

/// The request that a command about lenses makes.
pub(crate) fn lens(command: LensCommand) -> Request {
    match command {
        LensCommand::Fit { texts, out, shard_bytes, keep, output } => {
            let (model, texts) = texts.tokens();
            Request { json: output.json, work: Work::Fit { model, texts, output: out, shard_bytes, keep } }
        }
        LensCommand::Refine { texts, moments, out, keep, kind, epochs, lbfgs_steps, lambda, output } => {
            let (model, texts) = texts.tokens();
            let work =
                Work::Refine { model, texts, moments, output: out, keep, kind, epochs, lbfgs_steps, lambda };
            Request { json: output.json, work }
        }
        LensCommand::Eval { texts, fitted, lens, output } => {
            compare(texts, fitted, vec![lens], None, &output)
        }
        LensCommand::Compare { texts, fitted, lenses, html, output } => {
            compare(texts, fitted, lenses, html, &output)
        }
    }
}

fn compare(
    texts: TextArgs,
    fitted: Fitted,
    lenses: Vec<String>,
    html: Option<PathBuf>,
    output: &Output,
) -> Request {
    let (model, texts) = texts.tokens();
    let Fitted { moments, lambda, sequences } = fitted;
    Request {
        json: output.json,
        work: Work::Compare { model, moments, texts, lenses, lambda, sequences, html },
    }
}

/// Has the library do it, building that first where it is not there; the exit code.
pub(crate) fn run(request: &Request) -> Result<u8, Failure> {
    let image = Image::ensure(&mut |line| eprintln!("{line}"))?;
    let std_library = image.std_library()?;
    let text = serde_json::to_string(request).map_err(|e| Failure::of(e.to_string()))?;
    let code = engine::batch(&std_library, &image.library(), &text)?;
    Ok(u8::try_from(code).unwrap_or(1))
}
