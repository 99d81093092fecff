//! The command line.

mod batch;
pub mod doctor;
pub mod install;
pub mod lab;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, CommandFactory, Parser, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::base::failure::{BAD_INPUT, Failure};
use crate::base::paths;
use crate::base::signals::Arrived;
use crate::engines::EngineKind;
use crate::jupyter::history::History;
use crate::jupyter::server::Server;
use crate::notebook::convert::{self, To};
use crate::run::parameters::Given;
use crate::run::{self, parameters};
use crate::run::{Html, Resume};
use batch::{LensCommand, ModelCommand};

#[derive(Parser)]
#[command(
    name = "onelens",
    version,
    about = "Rust notebooks: run them, open them, and the kernel that does it",
    after_help = "Example:\n  onelens run notebooks/01_one_lens.ipynb"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a notebook and write it, with its outputs, and an HTML page beside it
    #[command(after_help = "Examples:
  onelens run notebooks/01_one_lens.ipynb
  onelens run lab.ipynb --output done/lab.ipynb --timeout 120
  onelens run lab.ipynb -p steps=300 -p name=\"small\" --output small.ipynb
  onelens run lab.ipynb --resume

Parameters: the notebook has a cell with the tag `parameters` that defines them, with default values, by `let`. The
values given with -p have the types of that cell; they go into a new cell after it, tagged `injected-parameters`.

Resuming: with --resume, a kernel in which a cell failed is kept for an hour, with all variables. Repair the cell
and give the same command again: cells that ran and stand as they did are not run again, and keep their outputs.
Without such a kernel the notebook runs from its first cell.

Exit codes:
  0    every cell ran, or failed as `--allow-errors` or the tag `raises-exception` permits
  1    a cell failed or took too long; outputs so far are written
  2    the command line or a file on it cannot be used; nothing is written
  3    the toolchain, the kernel process or the disk failed
  130  interrupted with Ctrl-C; outputs so far are written")]
    Run(RunArgs),
    /// Write a notebook, as it stands, as an HTML page or as a Rust program
    #[command(after_help = "Examples:
  onelens convert notebooks/01_one_lens.ipynb
  onelens convert notebooks/01_one_lens.ipynb --to rust --output examples/one_lens.rs

Nothing is run. The page holds the outputs that the notebook holds; HTML among them stands in it as it is. Browsers are
told that the page runs no script and loads nothing from elsewhere, but HTML can still look like what it is not, and its
links lead anywhere: open pages of trusted notebooks only.

The program has the items of all cells at the top and their statements in `main`; where a cell shows a value, the
program prints it with `{:?}`; text becomes comments.

Exit codes:
  0    the file is written
  2    the command line or a file on it cannot be used; nothing is written
  3    the disk failed")]
    Convert(ConvertArgs),
    /// Inspect, download, train or convert a model, or continue a text with it
    #[command(subcommand)]
    Model(ModelCommand),
    /// Lenses, which read a prediction off a layer: fit, refine and compare them on texts of any size
    #[command(subcommand)]
    Lens(LensCommand),
    /// A battery of networks and controls that asks whether one lens reads every layer, also of a language model
    #[command(after_help = batch::BATTERY_HELP)]
    Battery(batch::BatteryArgs),
    /// Print a script that completes commands in a shell
    #[command(
        after_help = "Example:\n  onelens completions bash > ~/.local/share/bash-completion/completions/onelens"
    )]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Register the kernel with Jupyter, for this user
    #[command(after_help = "Example:
  onelens install && jupyter lab

Writes kernels/onelens below $JUPYTER_DATA_DIR, else below ~/.local/share/jupyter (macOS: ~/Library/Jupyter).
Running it again repairs what is there. With --engine evcxr it writes kernels/onelens-evcxr.")]
    Install {
        /// What runs the cells; each engine has a kernel of its own in Jupyter
        #[arg(long, value_enum, default_value_t)]
        engine: EngineKind,
    },
    /// Remove what `onelens install` wrote
    #[command(after_help = "Example:\n  onelens uninstall")]
    Uninstall,
    /// Open a folder of notebooks in JupyterLab, with this kernel
    #[command(after_help = "Examples:
  onelens lab
  onelens lab notebooks --no-browser --port 8890
  onelens lab -- --allow-root

Without JupyterLab on PATH, a private one is installed from PyPI, after saying so.")]
    Lab(LabArgs),
    /// Check what is there, what is missing, and how to get it
    #[command(after_help = "Example:\n  onelens doctor\n\nEnds with 0 if notebooks can be run, else with 1.")]
    Doctor,
    /// Be a kernel; Jupyter calls this
    #[command(after_help = "Example:\n  onelens kernel connection.json")]
    Kernel {
        /// The connection file that Jupyter wrote
        connection_file: PathBuf,
        /// What runs the cells
        #[arg(long, value_enum, default_value_t)]
        engine: EngineKind,
        /// End when nobody has been connected for so many seconds; `onelens run --resume` sets it
        #[arg(long, hide = true, value_name = "SECONDS", value_parser = seconds)]
        linger: Option<Duration>,
        /// Do not remember cells for later sessions; `onelens run` sets it
        #[arg(long, hide = true)]
        no_history: bool,
    },
}

#[derive(Args)]
struct RunArgs {
    /// The notebook
    notebook: PathBuf,
    /// Where the executed notebook goes [default: over the notebook itself]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Where the HTML page goes [default: beside the executed notebook]
    #[arg(long, value_name = "FILE", conflicts_with = "no_html")]
    html: Option<PathBuf>,
    /// Write no HTML page
    #[arg(long)]
    no_html: bool,
    /// How many seconds one cell may take [default: no limit]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// A value for the cell tagged `parameters`; may be given several times
    #[arg(short, long = "parameter", value_name = "NAME=VALUE", value_parser = parameters::given)]
    parameter: Vec<Given>,
    /// Values in a JSON file, {"name": value, ..}; -p goes before them
    #[arg(long, value_name = "FILE")]
    parameters: Option<PathBuf>,
    /// What runs the cells
    #[arg(long, value_enum, default_value_t)]
    engine: EngineKind,
    /// Go on after a cell that fails
    #[arg(long)]
    allow_errors: bool,
    /// Go on where the last run with --resume stopped, and keep the kernel if a cell fails
    #[arg(long)]
    resume: bool,
    /// Resume at this cell, counted as the run shows it, in place of the first that changed or failed
    #[arg(long, value_name = "CELL", requires = "resume", value_parser = clap::value_parser!(u32).range(1..))]
    from: Option<u32>,
}

#[derive(Args)]
struct ConvertArgs {
    /// The notebook
    notebook: PathBuf,
    /// What to write
    #[arg(long, value_enum, default_value_t = Form::Html)]
    to: Form,
    /// Where it goes [default: beside the notebook]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Form {
    /// A page that needs nothing else, light and dark
    Html,
    /// A program
    Rust,
}

#[derive(Args)]
struct LabArgs {
    /// The folder to open [default: notebooks, if there is one here]
    folder: Option<PathBuf>,
    /// Do not open a browser
    #[arg(long)]
    no_browser: bool,
    /// The port [default: JupyterLab's choice]
    #[arg(long)]
    port: Option<u16>,
    /// Anything else for JupyterLab
    #[arg(last = true)]
    jupyter: Vec<String>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let positive = text.parse::<f64>().ok().filter(|s| *s > 0.0);
    positive
        .and_then(|s| Duration::try_from_secs_f64(s).ok())
        .ok_or_else(|| format!("{text:?} is not a positive number of seconds, such as 60 or 0.5"))
}

/// Does what the command line says; returns the exit code.
pub fn main() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version come this way too, and are no errors.
            let _ = e.print();
            return if e.use_stderr() { BAD_INPUT } else { 0 };
        }
    };
    let result = match cli.command {
        Command::Run(args) => run(args),
        Command::Convert(args) => {
            let to = match args.to {
                Form::Html => To::Html,
                Form::Rust => To::Rust,
            };
            convert::convert(&args.notebook, to, args.output)
        }
        Command::Model(command) => batch::run(&batch::model(command)),
        Command::Lens(command) => batch::run(&batch::lens(command)),
        Command::Battery(args) => batch::battery(args).and_then(|request| batch::run(&request)),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "onelens", &mut std::io::stdout());
            Ok(0)
        }
        Command::Install { engine } => install::install(engine),
        Command::Uninstall => install::uninstall(),
        Command::Lab(args) => {
            let LabArgs { folder, no_browser, port, jupyter } = args;
            lab::lab(&lab::Options { folder, browser: !no_browser, port, jupyter })
        }
        Command::Doctor => doctor::doctor(),
        Command::Kernel { connection_file, engine, linger, no_history } => {
            let history = match paths::onelens_data() {
                Ok(folder) if !no_history => History::open(&folder.join("history.jsonl")),
                _ => History::default(),
            };
            kernel(&connection_file, engine, linger, history)
        }
    };
    result.unwrap_or_else(|failure| {
        let code = failure.code();
        eprintln!("error: {}", failure.or_help("`onelens doctor` checks what is needed"));
        code
    })
}

fn run(args: RunArgs) -> Result<u8, Failure> {
    let mut parameters = match &args.parameters {
        Some(file) => parameters::from_file(file)?,
        None => Vec::new(),
    };
    parameters.extend(args.parameter);
    run::run(&run::Options {
        notebook: args.notebook,
        output: args.output,
        html: match args.html {
            Some(file) => Html::File(file),
            None if args.no_html => Html::No,
            None => Html::Beside,
        },
        timeout: args.timeout,
        parameters,
        engine: args.engine,
        allow_errors: args.allow_errors,
        resume: args.resume.then(|| Resume { from: args.from.map(|n| n as usize) }),
    })
}

fn kernel(
    connection_file: &std::path::Path,
    engine: EngineKind,
    linger: Option<Duration>,
    history: History,
) -> Result<u8, Failure> {
    // Jupyter interrupts by a message; a Ctrl-C in its terminal is not for us.
    let _ignored = Arrived::watch(&[SIGINT])?;
    let terminate = Arrived::watch(&[SIGTERM])?;
    let parent = std::env::var_os("JPY_PARENT_PID").map(|_| std::os::unix::process::parent_id());
    let server = Server::start_with_history(connection_file, engine.start()?, history)?;
    let mut last_seen = Instant::now();
    while !server.wait(Duration::from_millis(200)) {
        if server.has_client() {
            last_seen = Instant::now();
        }
        if linger.is_some_and(|limit| last_seen.elapsed() > limit) {
            server.stop();
        }
        let orphaned = parent.is_some_and(|parent| parent != std::os::unix::process::parent_id());
        if orphaned || terminate.take() {
            server.stop();
        }
    }
    Ok(0)
}
