//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::engine::Engine;
use crate::failure::{BAD_INPUT, Failure};
use crate::image::Image;
use crate::jupyter::server::Server;
use crate::run::Html;
use crate::session::{Session, Start};
use crate::signals::Arrived;
use crate::{doctor, install, lab, run};

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

Exit codes:
  0    every cell ran
  1    a cell failed or took too long; outputs so far are written
  2    the command line or a file on it cannot be used; nothing is written
  3    the toolchain, the kernel process or the disk failed
  130  interrupted with Ctrl-C; outputs so far are written")]
    Run(RunArgs),
    /// Register the kernel with Jupyter, for this user
    #[command(after_help = "Example:
  onelens install && jupyter lab

Writes kernels/onelens below $JUPYTER_DATA_DIR, else below ~/.local/share/jupyter (macOS: ~/Library/Jupyter).
Running it again repairs what is there.")]
    Install,
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
        Command::Run(args) => run::run(&run::Options {
            notebook: args.notebook,
            output: args.output,
            html: match args.html {
                Some(file) => Html::File(file),
                None if args.no_html => Html::No,
                None => Html::Beside,
            },
            timeout: args.timeout,
        }),
        Command::Install => install::install(),
        Command::Uninstall => install::uninstall(),
        Command::Lab(args) => {
            let LabArgs { folder, no_browser, port, jupyter } = args;
            lab::lab(&lab::Options { folder, browser: !no_browser, port, jupyter })
        }
        Command::Doctor => doctor::doctor(),
        Command::Kernel { connection_file } => kernel(&connection_file),
    };
    result.unwrap_or_else(|failure| {
        eprintln!("error: {failure}");
        failure.code()
    })
}

fn kernel(connection_file: &std::path::Path) -> Result<u8, Failure> {
    // Jupyter interrupts by a message; a Ctrl-C in its terminal is not for us.
    let _ignored = Arrived::watch(&[SIGINT])?;
    let terminate = Arrived::watch(&[SIGTERM])?;
    let parent = std::env::var_os("JPY_PARENT_PID").map(|_| std::os::unix::process::parent_id());
    let start: Start = Box::new(|progress| {
        let image = Image::ensure(progress)?;
        Ok(Box::new(Engine::start(&image)?) as Box<dyn Session>)
    });
    let server = Server::start(connection_file, start)?;
    while !server.wait(Duration::from_millis(200)) {
        let orphaned = parent.is_some_and(|parent| parent != std::os::unix::process::parent_id());
        if orphaned || terminate.take() {
            server.stop();
        }
    }
    Ok(0)
}
