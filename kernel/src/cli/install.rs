//! `onelens install` and `onelens uninstall`: the kernelspec, by which Jupyter finds the kernel.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::base::failure::Failure;
use crate::base::paths;
use crate::base::screen::Screen;
use crate::engines::EngineKind;
use crate::notebook::{DISPLAY_NAME, KERNEL_NAME, write_whole};
use crate::run;

/// The files of the kernelspec, by name.
fn files(engine: EngineKind) -> Result<[(&'static str, String); 2], Failure> {
    let program = paths::this_program()?;
    let Some(program) = program.to_str() else {
        return Err(Failure::new(
            format!("the path {} is not UTF-8, and kernel.json can hold nothing else", program.display()),
            "move the program to a folder with a plain name",
        ));
    };
    let argv = match engine {
        EngineKind::Instant => vec![program, "kernel", "{connection_file}"],
        EngineKind::Evcxr => vec![program, "kernel", "--engine", engine.name(), "{connection_file}"],
    };
    let spec = json!({
        "argv": argv,
        "display_name": display_name(engine),
        "interrupt_mode": "message",
        "language": "rust",
        "metadata": { "debugger": false },
    });
    Ok([("kernel.json", format!("{spec:#}\n")), ("logo-svg.svg", include_str!("logo.svg").to_string())])
}

/// What Jupyter's menus call the kernel.
fn display_name(engine: EngineKind) -> &'static str {
    match engine {
        EngineKind::Instant => DISPLAY_NAME,
        EngineKind::Evcxr => "Rust (onelens, evcxr engine)",
    }
}

/// The folder of the kernelspec below one of Jupyter's folders.
pub fn spec_folder(jupyter: &Path) -> PathBuf {
    spec_folder_of(jupyter, EngineKind::Instant)
}

fn spec_folder_of(jupyter: &Path, engine: EngineKind) -> PathBuf {
    let name = match engine {
        EngineKind::Instant => KERNEL_NAME.to_string(),
        EngineKind::Evcxr => format!("{KERNEL_NAME}-{}", engine.name()),
    };
    jupyter.join("kernels").join(name)
}

/// Writes the kernelspec below `jupyter` where it differs from what is there; returns whether it did.
pub fn write_spec(jupyter: &Path, engine: EngineKind) -> Result<bool, Failure> {
    let folder = spec_folder_of(jupyter, engine);
    fs::create_dir_all(&folder).map_err(|e| {
        Failure::new(
            format!("cannot create {}: {e}", folder.display()),
            "set JUPYTER_DATA_DIR to a folder you can write to",
        )
    })?;
    let mut changed = false;
    for (name, content) in files(engine)? {
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
pub fn install(engine: EngineKind) -> Result<u8, Failure> {
    // Refuses an engine that this program does not have.
    drop(engine.start()?);
    let mut screen = Screen::new();
    let jupyter = paths::jupyter_data()?;
    let folder = spec_folder_of(&jupyter, engine);
    let changed = write_spec(&jupyter, engine)?;
    screen.line(&format!("{} {}", if changed { "wrote" } else { "unchanged:" }, folder.display()));
    if engine == EngineKind::Instant {
        run::prepare(&mut screen)?;
    }
    screen.line(&format!(
        "Jupyter now offers the kernel \"{}\"; remove it with `onelens uninstall`",
        display_name(engine)
    ));
    let program = paths::this_program()?;
    if program.components().any(|part| part.as_os_str() == "target") {
        screen.line(&format!("note: it starts {}; run this again if you move that file", program.display()));
    }
    Ok(0)
}

/// `onelens uninstall`: the kernelspecs of both engines.
pub fn uninstall() -> Result<u8, Failure> {
    let mut screen = Screen::new();
    let jupyter = paths::jupyter_data()?;
    let mut removed = 0;
    for engine in [EngineKind::Instant, EngineKind::Evcxr] {
        let folder = spec_folder_of(&jupyter, engine);
        match fs::remove_dir_all(&folder) {
            Ok(()) => {
                screen.line(&format!("removed {}", folder.display()));
                removed += 1;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => {
                return Err(Failure::new(
                    format!("cannot remove {}: {e}", folder.display()),
                    "check who owns the folder, or remove it by hand",
                ));
            }
        }
    }
    if removed == 0 {
        screen.line(&format!("nothing to remove: {} does not exist", spec_folder(&jupyter).display()));
    }
    Ok(0)
}

/// Which program the kernelspec below `jupyter` starts, if there is one.
pub fn installed_program(jupyter: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(spec_folder(jupyter).join("kernel.json")).ok()?;
    let spec: Value = serde_json::from_str(&text).ok()?;
    Some(PathBuf::from(spec["argv"][0].as_str()?))
}
