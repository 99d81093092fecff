//! `onelens install` and `onelens uninstall`: the kernelspec, by which Jupyter finds the kernel.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::notebook::{DISPLAY_NAME, KERNEL_NAME, write_whole};
use crate::{paths, run, screen::Screen};

/// The files of the kernelspec, by name.
fn files() -> Result<[(&'static str, String); 2], Failure> {
    let program = paths::this_program()?;
    let Some(program) = program.to_str() else {
        return Err(Failure::new(
            format!("the path {} is not UTF-8, and kernel.json can hold nothing else", program.display()),
            "move the program to a folder with a plain name",
        ));
    };
    let spec = json!({
        "argv": [program, "kernel", "{connection_file}"],
        "display_name": DISPLAY_NAME,
        "interrupt_mode": "message",
        "language": "rust",
        "metadata": { "debugger": false },
    });
    Ok([("kernel.json", format!("{spec:#}\n")), ("logo-svg.svg", include_str!("logo.svg").to_string())])
}

/// The folder of the kernelspec below one of Jupyter's folders.
pub fn spec_folder(jupyter: &Path) -> PathBuf {
    jupyter.join("kernels").join(KERNEL_NAME)
}

/// Writes the kernelspec below `jupyter` where it differs from what is there; returns whether it did.
pub fn write_spec(jupyter: &Path) -> Result<bool, Failure> {
    let folder = spec_folder(jupyter);
    fs::create_dir_all(&folder).map_err(|e| {
        Failure::new(
            format!("cannot create {}: {e}", folder.display()),
            "set JUPYTER_DATA_DIR to a folder you can write to",
        )
    })?;
    let mut changed = false;
    for (name, content) in files()? {
        let path = folder.join(name);
        if fs::read_to_string(&path).is_ok_and(|old| old == content) {
            continue;
        }
        write_whole(&path, &content)?;
        changed = true;
    }
    Ok(changed)
}

/// `onelens install`.
pub fn install() -> Result<u8, Failure> {
    let mut screen = Screen::new();
    let jupyter = paths::jupyter_data()?;
    let folder = spec_folder(&jupyter);
    let changed = write_spec(&jupyter)?;
    screen.line(&format!("{} {}", if changed { "wrote" } else { "unchanged:" }, folder.display()));
    run::prepare(&mut screen)?;
    screen.line(&format!(
        "Jupyter now offers the kernel \"{DISPLAY_NAME}\"; remove it with `onelens uninstall`"
    ));
    let program = paths::this_program()?;
    if program.components().any(|part| part.as_os_str() == "target") {
        screen.line(&format!("note: it starts {}; run this again if you move that file", program.display()));
    }
    Ok(0)
}

/// `onelens uninstall`.
pub fn uninstall() -> Result<u8, Failure> {
    let mut screen = Screen::new();
    let folder = spec_folder(&paths::jupyter_data()?);
    match fs::remove_dir_all(&folder) {
        Ok(()) => screen.line(&format!("removed {}", folder.display())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            screen.line(&format!("nothing to remove: {} does not exist", folder.display()));
        }
        Err(e) => {
            return Err(Failure::new(
                format!("cannot remove {}: {e}", folder.display()),
                "check who owns the folder, or remove it by hand",
            ));
        }
    }
    Ok(0)
}

/// Which program the kernelspec below `jupyter` starts, if there is one.
pub fn installed_program(jupyter: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(spec_folder(jupyter).join("kernel.json")).ok()?;
    let spec: Value = serde_json::from_str(&text).ok()?;
    Some(PathBuf::from(spec["argv"][0].as_str()?))
}
