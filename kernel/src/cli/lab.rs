//! `onelens lab`: JupyterLab on a folder of notebooks, with this kernel in it, without touching the user's files.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::install;
use crate::base::failure::Failure;
use crate::base::paths;
use crate::base::screen::Screen;
use crate::run;

/// What a private environment gets: what was tried is what people have. The second shows under each cell how long it
/// runs and ran (BSD licence); JupyterLab itself only notes it.
const PACKAGES: [&str; 2] = ["jupyterlab==4.6.6", "jupyterlab-execute-time==3.3.0"];

/// Where the environment keeps its defaults, and what they are: times are noted, and shown from one second up;
/// nothing is asked of the network unbidden.
const SETTINGS: (&str, &str) = (
    "share/jupyter/lab/settings/overrides.json",
    r#"{
  "@jupyterlab/notebook-extension:tracker": { "recordTiming": true },
  "jupyterlab-execute-time:settings": { "minTime": 1, "showDate": false, "highlight": false, "historyCount": 0 },
  "@jupyterlab/apputils-extension:notification": { "fetchNews": "false", "checkForUpdates": false }
}
"#,
);

/// What `onelens lab` was asked.
pub struct Options {
    /// The folder to open.
    pub folder: Option<PathBuf>,
    /// Whether to open a browser.
    pub browser: bool,
    /// The port, if not JupyterLab's own choice.
    pub port: Option<u16>,
    /// Further arguments for JupyterLab, as they are.
    pub jupyter: Vec<String>,
}

/// Prepares everything and becomes JupyterLab; returns only if that fails.
pub fn lab(options: &Options) -> Result<u8, Failure> {
    let folder = match &options.folder {
        Some(folder) => folder.clone(),
        None if Path::new("notebooks").is_dir() => "notebooks".into(),
        None => ".".into(),
    };
    if !folder.is_dir() {
        return Err(Failure::bad_input(
            format!("there is no folder {}", folder.display()),
            "give a folder with notebooks: onelens lab notebooks",
        ));
    }
    let mut screen = Screen::new();
    let lab = match find() {
        Some(lab) => lab,
        None => make_environment(&mut screen)?,
    };
    run::prepare(&mut screen)?;

    // A kernelspec of our own on the search path, so that nothing needs to be installed for the user.
    let jupyter = paths::onelens_data()?.join("jupyter");
    install::write_spec(&jupyter, crate::engines::EngineKind::Instant)?;
    let mut search = vec![jupyter];
    search.extend(env::var_os("JUPYTER_PATH").iter().flat_map(env::split_paths));
    let search = env::join_paths(search).unwrap_or_else(|_| OsString::new());

    if let Err(why) = trust(&lab, &folder) {
        // They open all the same, with a picture in place of each figure.
        screen.line(&format!(
            "the notebooks are not trusted, so that figures are pictures until they are run: {why}"
        ));
    }

    screen.line(&format!("starting {} in {} (stop it with Ctrl-C, twice)", lab.display(), folder.display()));
    let mut command = Command::new(&lab);
    command.env("JUPYTER_PATH", search).arg(&folder);
    if !options.browser {
        command.arg("--no-browser");
    }
    if let Some(port) = options.port {
        command.arg(format!("--port={port}"));
    }
    let e = command.args(&options.jupyter).exec();
    Err(Failure::new(format!("cannot start {}: {e}", lab.display()), "try it by hand: jupyter lab"))
}

/// Has Jupyter trust the notebooks that came with the sources of this program, as it trusts what the user has run: who
/// built the program has run more of them than their outputs. Of all others Jupyter shows outputs without styles and
/// scripts until they are run.
fn trust(lab: &Path, folder: &Path) -> Result<(), String> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../notebooks").canonicalize();
    let Ok(folder) = folder.canonicalize() else { return Ok(()) };
    if !shipped.is_ok_and(|shipped| shipped == folder) {
        return Ok(());
    }
    let notebooks = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let notebooks: Vec<PathBuf> =
        notebooks.filter(|path| path.extension().is_some_and(|ending| ending == "ipynb")).collect();
    let program = lab.with_file_name("jupyter-trust");
    let output = Command::new(&program).args(&notebooks).output();
    let output = output.map_err(|e| format!("{} does not start: {e}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or("it failed");
    if output.status.success() { Ok(()) } else { Err(format!("{}: {last}", program.display())) }
}

/// JupyterLab on the search path, else in the private environment, if that is as it should be now.
pub fn find() -> Option<PathBuf> {
    let private = || {
        let folder = environment().ok()?;
        let is_current = fs::read_to_string(folder.join(RECIPE)).is_ok_and(|text| text == recipe());
        Some(folder.join("bin/jupyter-lab")).filter(|file| is_current && paths::is_executable(file))
    };
    paths::program("jupyter-lab").or_else(private)
}

/// What the private environment was made from; the file is written last, so that one that was not finished is made
/// anew.
const RECIPE: &str = "onelens.txt";

fn recipe() -> String {
    format!("{}\n{}", PACKAGES.join("\n"), SETTINGS.1)
}

fn environment() -> Result<PathBuf, Failure> {
    Ok(paths::onelens_data()?.join("jupyterlab"))
}

fn make_environment(screen: &mut Screen) -> Result<PathBuf, Failure> {
    let folder = environment()?;
    let help =
        "install JupyterLab yourself (https://jupyter.org/install), or run notebooks with `onelens run`";
    let Some(python) = paths::program("python3") else {
        return Err(Failure::new("there is no JupyterLab, and no python3 on PATH to install it with", help));
    };
    screen.line(&format!(
        "{}; installing {} from PyPI into {}\n(about 250 MB, a minute or two; remove that folder to be rid of it)",
        if folder.exists() { "the private JupyterLab is out of date" } else { "JupyterLab was not found" },
        PACKAGES.join(" and "),
        folder.display()
    ));
    step(
        Command::new(&python).args(["-m", "venv", "--clear"]).arg(&folder),
        "python3 -m venv",
        &format!("on Debian and Ubuntu: apt install python3-venv; or {help}"),
    )?;
    step(
        Command::new(folder.join("bin/python"))
            .args(["-m", "pip", "install", "--disable-pip-version-check", "--quiet"])
            .args(PACKAGES),
        &format!("pip install {}", PACKAGES.join(" ")),
        &format!("check the network connection and any proxy; or {help}"),
    )?;
    let settings = folder.join(SETTINGS.0);
    let cannot = |e: std::io::Error| {
        Failure::new(format!("cannot write {}: {e}", settings.display()), "remove that folder and try again")
    };
    fs::create_dir_all(settings.parent().unwrap_or(&folder)).map_err(cannot)?;
    fs::write(&settings, SETTINGS.1).map_err(cannot)?;
    fs::write(folder.join(RECIPE), recipe()).map_err(cannot)?;
    Ok(folder.join("bin/jupyter-lab"))
}

fn step(command: &mut Command, name: &str, help: &str) -> Result<(), Failure> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::new(format!("`{name}` failed ({status})"), help)),
        Err(e) => Err(Failure::new(format!("`{name}` does not start: {e}"), help)),
    }
}
