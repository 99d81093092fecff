//! Where files of a user lie, on this system and with these environment variables.

use std::env;
use std::path::{Path, PathBuf};

use crate::base::failure::Failure;

fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn home() -> Result<PathBuf, Failure> {
    variable("HOME").filter(|home| home.is_absolute()).ok_or_else(|| {
        Failure::new(
            "the variable HOME is not set",
            "set HOME, or JUPYTER_DATA_DIR and XDG_DATA_HOME, to a writable folder",
        )
    })
}

/// Jupyter's folder for files of this user: `JUPYTER_DATA_DIR`, else the platform's.
pub fn jupyter_data() -> Result<PathBuf, Failure> {
    if let Some(folder) = variable("JUPYTER_DATA_DIR") {
        return Ok(folder);
    }
    if cfg!(target_os = "macos") {
        return Ok(home()?.join("Library/Jupyter"));
    }
    Ok(data()?.join("jupyter"))
}

/// The folder for files of this user that belong to no program in particular.
fn data() -> Result<PathBuf, Failure> {
    match variable("XDG_DATA_HOME") {
        Some(folder) => Ok(folder),
        None if cfg!(target_os = "macos") => Ok(home()?.join("Library/Application Support")),
        None => Ok(home()?.join(".local/share")),
    }
}

/// Our own folder there.
pub fn onelens_data() -> Result<PathBuf, Failure> {
    Ok(data()?.join("onelens"))
}

/// Every folder in which Jupyter looks for kernels of this user, first found first.
pub fn jupyter_search() -> Vec<PathBuf> {
    let listed = env::var_os("JUPYTER_PATH");
    let listed = listed.iter().flat_map(env::split_paths).filter(|folder| !folder.as_os_str().is_empty());
    let global = ["/usr/local/share/jupyter", "/usr/share/jupyter"].map(PathBuf::from);
    listed.chain(jupyter_data().ok()).chain(global).collect()
}

/// The first executable file of this name on `PATH`.
pub fn program(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(name)).find(|file| is_executable(file))
}

/// Whether this is a file that may be run.
pub fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// This program's own file.
pub fn this_program() -> Result<PathBuf, Failure> {
    env::current_exe().map_err(|e| {
        Failure::new(format!("this program does not know where it lies: {e}"), "run it by its full path")
    })
}
