//! What around this program can fail while it works: disks, mounts, the linker, the network. In sentences with a
//! remedy.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::base::failure::Failure;
use crate::base::os::system;

/// How to get a linker, on the systems that most people have.
pub const LINKER_HELP: &str =
    "install a C compiler: apt install gcc libc6-dev, dnf install gcc, or xcode-select --install";

/// Cargo, without what another cargo that started this program says of the package it belongs to: build scripts look at
/// that (ring's does), and crates would be compiled anew whenever a program started by cargo and one started by hand
/// take turns.
pub fn cargo(program: &Path) -> Command {
    let mut command = Command::new(program);
    let of_package = |name: &str| {
        ["CARGO_MANIFEST_", "CARGO_PKG_"].iter().any(|start| name.starts_with(start))
            || ["CARGO_BIN_NAME", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "OUT_DIR"].contains(&name)
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_package)) {
        command.env_remove(name);
    }
    command
}

/// What made cargo fail in `folder`, if what it said tells that nothing is wrong with the code.
pub fn explain(said: &str, folder: &Path) -> Option<Failure> {
    let folder = folder.display();
    let named =
        |text: &str| said.lines().find(|line| line.contains(text)).unwrap_or_default().trim().to_string();
    let not_found = said.contains("linker `") && said.contains("` not found");
    if not_found {
        let what = format!("Rust finds no linker: {}", named("` not found"));
        return Some(Failure::new(what, LINKER_HELP));
    }
    let temporary = std::env::temp_dir();
    if said.contains("No space left on device") || said.contains("Disk quota exceeded") {
        return Some(Failure::new(
            format!("no space is left in {folder} or in {}", temporary.display()),
            "free some, or set ONELENS_CACHE and TMPDIR to folders with half a gigabyte of it",
        ));
    }
    if said.contains("could not execute process") && said.contains("Permission denied") {
        return Some(Failure::new(
            format!("programs that lie in {folder} may not be run"),
            "if it is mounted `noexec`, set ONELENS_CACHE to a folder that is not",
        ));
    }
    if said.contains("Read-only file system") || said.contains("Permission denied") {
        let why = if said.contains("Read-only") { "it is read-only" } else { "permission denied" };
        return Some(Failure::new(
            format!("cannot write to {folder}: {why}"),
            "set ONELENS_CACHE to a folder you can write to",
        ));
    }
    let offline = ["Could not resolve host", "Couldn't connect to server", "failed to download", "--offline"];
    offline.iter().any(|sign| said.contains(sign)).then(|| {
        Failure::new(
            "crates that are needed are not on this machine, and cargo cannot fetch them",
            "connect to the network once; what was fetched stays in cargo's folder",
        )
    })
}

/// A failure to read or write, with the remedy if there is a known one.
pub fn file_error(verb: &str, path: &Path, error: &io::Error) -> Failure {
    let what = format!("cannot {verb} {}: {error}", path.display());
    let help = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space there, or set ONELENS_CACHE to a folder with half a gigabyte of it"
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            "set ONELENS_CACHE to a folder you can write to"
        }
        _ => return Failure::of(what),
    };
    Failure::new(what, help)
}

/// Cargo could not be run.
pub fn no_cargo(error: &io::Error) -> Failure {
    Failure::new(format!("cargo does not start: {error}"), "install Rust from https://rustup.rs")
}

/// Whether code that lies in this folder may be run: false on a file system that is mounted `noexec`.
pub fn may_run_code_in(folder: &Path) -> bool {
    system().may_run_code_in(folder)
}

/// The number of the user who runs this program.
#[allow(unsafe_code)]
pub fn user() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// `n` random bytes from the operating system, as hexadecimal digits.
pub fn random_hex(n: usize) -> Result<String, Failure> {
    let mut bytes = vec![0u8; n];
    let failed = |e| Failure::of(format!("the operating system gave no random bytes: {e}"));
    getrandom::fill(&mut bytes).map_err(failed)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Makes a file in `folder` whose name nobody can foretell, so that where others write, too, nobody can have put a link
/// in its place. `mode` is who may do what with it, from the beginning.
pub fn new_file(folder: &Path, begin: &str, mode: u32) -> io::Result<(PathBuf, File)> {
    let path = unforeseen(folder, begin)?;
    // It fails where there is something of that name, be it a link that leads nowhere.
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
    Ok((path, file))
}

/// Makes a folder of its owner's alone, whose name nobody can foretell.
pub fn new_folder(base: &Path, begin: &str) -> io::Result<PathBuf> {
    let path = unforeseen(base, begin)?;
    fs::DirBuilder::new().mode(0o700).create(&path)?;
    Ok(path)
}

fn unforeseen(folder: &Path, begin: &str) -> io::Result<PathBuf> {
    Ok(folder.join(format!("{begin}{}", random_hex(8).map_err(io::Error::other)?)))
}

/// Makes a folder that nobody else can write to, in a place where everybody can; an older one is taken if it is so too.
///
/// What lies there is loaded as code, so a folder that another user has prepared is refused.
pub fn private_folder(folder: &Path) -> Result<(), Failure> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => {
            return Err(Failure::new(
                file_error("create", folder, &e).what(),
                "set HOME or ONELENS_CACHE to a folder you can write to",
            ));
        }
    }
    let about = folder.symlink_metadata().map_err(|e| file_error("read", folder, &e))?;
    if about.is_dir() && about.uid() == user() && about.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(Failure::new(
        format!(
            "{} is not a folder that only you can write to, and code is loaded from it",
            folder.display()
        ),
        "set HOME or ONELENS_CACHE to a folder of your own",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_is_not_told_which_package_it_was_started_from() {
        let command = cargo(Path::new("cargo"));
        let removed: Vec<_> =
            command.get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
        // Cargo, or whoever else runs this test, has said it of this package.
        for name in ["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR"] {
            assert!(
                std::env::var_os(name).is_some() && removed.contains(&name.as_ref()),
                "{name}: {removed:?}"
            );
        }
        assert!(!removed.contains(&"PATH".as_ref()) && !removed.contains(&"CARGO_TARGET_DIR".as_ref()));
    }

    #[test]
    fn what_cargo_says_about_the_machine_becomes_a_sentence() {
        let folder = Path::new("/c");
        // As cargo 1.95 and rustc 1.95 print it.
        for (said, words) in [
            (
                "error: linker `cc` not found\n  |\n  = note: No such file or directory (os error 2)",
                "apt install gcc",
            ),
            (
                "error: failed to write `/c/x`\n\nCaused by:\n  No space left on device (os error 28)",
                "no space is left",
            ),
            (
                "error: could not execute process `/c/build-script-build` (never executed)\n\nCaused by:\n  Permission denied (os error 13)",
                "noexec",
            ),
            (
                "error: failed to open: /c/.cargo-lock\n\nCaused by:\n  Read-only file system (os error 30)",
                "it is read-only",
            ),
            (
                "warning: spurious network error (3 tries remaining): [6] Could not resolve hostname (Could not resolve host: index.crates.io)",
                "network",
            ),
        ] {
            let failure = explain(said, folder).unwrap();
            assert!(failure.to_string().contains(words) && failure.help().is_some(), "{failure}");
        }
        assert_eq!(explain("error[E0425]: cannot find value `x` in this scope", folder), None);
    }
}
