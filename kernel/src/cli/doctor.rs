//! `onelens doctor`: what is there, what is missing, how to get it.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use super::{install, lab};
use crate::assist;
use crate::base::failure::Failure;
use crate::base::screen::Screen;
use crate::base::{environment, paths};
use crate::image::Image;

/// What one check found.
enum Finding {
    Good(String),
    /// Nothing to worry about, with what it is good for.
    Optional(String, String),
    /// Needed and missing, with how to get it.
    Missing(String, String),
}

use Finding::{Good, Missing, Optional};

/// Prints a table; the exit code says whether notebooks can be run.
pub fn doctor() -> Result<u8, Failure> {
    let mut screen = Screen::new();
    let checks = [
        ("Rust compiler", rustc()),
        ("cargo", cargo()),
        ("linker", linker()),
        ("cache", cache()),
        ("library for cells", image()),
        ("Jupyter kernel", kernelspec()),
        ("JupyterLab", jupyterlab()),
        ("rust-analyzer", rust_analyzer()),
    ];
    let mut sound = true;
    for (name, finding) in checks {
        let (mark, what, help) = match finding {
            Good(what) => ("ok", what, None),
            Optional(what, help) => ("-", what, Some(help)),
            Missing(what, help) => {
                sound = false;
                ("MISSING", what, Some(help))
            }
        };
        screen.line(&format!("{mark:<8}{name:<19}{what}"));
        if let Some(help) = help {
            screen.line(&format!("{:<27}help: {help}", ""));
        }
    }
    screen.line(if sound { "\nnotebooks can be run" } else { "\nnotebooks cannot be run yet" });
    Ok(u8::from(!sound))
}

/// The first line of what a program says of its version, or why there is none.
fn version(program: &str) -> Result<String, String> {
    let output = Command::new(program).arg("--version").output().map_err(|e| e.to_string())?;
    let text = if output.status.success() { &output.stdout } else { &output.stderr };
    let line = String::from_utf8_lossy(text).lines().next().unwrap_or_default().to_string();
    if output.status.success() { Ok(line) } else { Err(line) }
}

fn tool(variable: &str, name: &str) -> Finding {
    let program = std::env::var(variable).ok().filter(|v| !v.is_empty()).unwrap_or_else(|| name.into());
    match version(&program) {
        Ok(line) => Good(line),
        Err(why) => Missing(format!("`{program}`: {why}"), "install Rust from https://rustup.rs".into()),
    }
}

fn rustc() -> Finding {
    tool("RUSTC", "rustc")
}

fn cargo() -> Finding {
    tool("CARGO", "cargo")
}

/// Links an empty program, since a `cc` on the path proves little.
fn linker() -> Finding {
    let temporary = std::env::temp_dir();
    match environment::new_folder(&temporary, "onelens-doctor-") {
        Ok(folder) => {
            let finding = link_in(&folder);
            let _ = fs::remove_dir_all(&folder);
            finding
        }
        Err(e) => cannot_link_in(&temporary, &e),
    }
}

fn cannot_link_in(folder: &Path, error: &io::Error) -> Finding {
    let help = "free space there, or set TMPDIR to a folder you can write to";
    Missing(format!("cannot write to {}: {error}", folder.display()), help.into())
}

fn link_in(folder: &Path) -> Finding {
    let help = environment::LINKER_HELP;
    let source = folder.join("empty.rs");
    if let Err(e) = fs::write(&source, "fn main() {}\n") {
        return cannot_link_in(folder, &e);
    }
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    match Command::new(rustc).arg(&source).arg("--out-dir").arg(folder).output() {
        Ok(output) if output.status.success() => Good("links a program".into()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            if let Some(why) = environment::explain(&said, folder) {
                return missing(&why, help);
            }
            let line = said.lines().find(|line| line.starts_with("error")).unwrap_or("it fails").to_string();
            Missing(line, help.into())
        }
        Err(e) => {
            Missing(format!("not tried, as the compiler does not start: {e}"), "see the first line".into())
        }
    }
}

/// Writes a file there, since permissions, quotas and mounts all have a say.
fn cache() -> Finding {
    let folder = match Image::make_folder() {
        Ok(folder) => folder,
        Err(why) => return missing(&why, "set ONELENS_CACHE to a folder you can write to"),
    };
    let tried = environment::new_file(&folder, ".doctor-", 0o600).and_then(|(path, mut file)| {
        let written = file.write_all(&[0; 4096]);
        fs::remove_file(&path).and(written)
    });
    match tried {
        Ok(()) if environment::may_run_code_in(&folder) => Good(folder.display().to_string()),
        Ok(()) => Missing(
            format!(
                "{} is mounted `noexec`, and cells link against a library that lies there",
                folder.display()
            ),
            "set ONELENS_CACHE to a folder that is not".into(),
        ),
        Err(e) => Missing(
            format!("cannot write to {}: {e}", folder.display()),
            "free space there, or set ONELENS_CACHE to a folder you can write to".into(),
        ),
    }
}

fn image() -> Finding {
    match (Image::damage(), Image::existing()) {
        (Ok(Some(damage)), _) => Optional(
            format!("damaged: {damage}"),
            "the next `onelens run` or `onelens install` builds it again".into(),
        ),
        (_, Ok(Some(image))) => Good(image.library().display().to_string()),
        (_, Ok(None)) => Optional(
            format!(
                "not built yet for this compiler and this library ({})",
                Image::place().unwrap_or_else(|_| Image::folder()).display()
            ),
            "the first `onelens run` or `onelens install` builds it, in a minute or two".into(),
        ),
        (_, Err(why)) => missing(&why, "see the lines above"),
    }
}

/// What a failure says, with its own remedy or else this one.
fn missing(failure: &Failure, help: &str) -> Finding {
    Missing(failure.what().into(), failure.help().unwrap_or(help).into())
}

fn kernelspec() -> Finding {
    let found = paths::jupyter_search().into_iter().find_map(|j| Some((install::installed_program(&j)?, j)));
    match found {
        Some((program, jupyter)) if paths::is_executable(&program) => {
            Good(format!("{}, starts {}", install::spec_folder(&jupyter).display(), program.display()))
        }
        Some((program, jupyter)) => Missing(
            format!(
                "{} starts {}, which is gone",
                install::spec_folder(&jupyter).display(),
                program.display()
            ),
            "onelens install".into(),
        ),
        None => Optional(
            "not registered".into(),
            "`onelens install` registers it; `onelens lab` needs no registration".into(),
        ),
    }
}

fn jupyterlab() -> Finding {
    match lab::find() {
        Some(lab) => Good(lab.display().to_string()),
        None => Optional(
            "not found".into(),
            "`onelens lab` offers a private one; `onelens run` needs none".into(),
        ),
    }
}

/// Completion works without it, for names; the rest needs the program and the sources of the standard library.
fn rust_analyzer() -> Finding {
    let help =
        "`rustup component add rust-analyzer rust-src` gives completion and documentation of everything";
    let Ok(sysroot) = Command::new("rustc").args(["--print", "sysroot"]).output() else {
        return Optional("not looked for, as the compiler does not start".into(), help.into());
    };
    let sysroot = Path::new(String::from_utf8_lossy(&sysroot.stdout).trim()).to_path_buf();
    match assist::program(&sysroot.join("bin/rustc")) {
        None => Optional("not found: only names that the notebook defines complete".into(), help.into()),
        Some(_) if !sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists() => Optional(
            "the sources of the standard library are missing, so its methods do not complete".into(),
            help.into(),
        ),
        Some(program) => Good(program.display().to_string()),
    }
}
