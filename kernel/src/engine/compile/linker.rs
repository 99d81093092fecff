//! Links a cell for the process that it is going to run in, about 15 ms sooner than a compiler's driver does.
//!
//! A cell needs the image and the standard library, which the worker has loaded for everybody, so they need not be read
//! again to link it: what it takes from them is found when it is loaded. The linker is called without `cc` before it.
//! What does not link that way is linked by rustc's own means, which also words the error.

use crate::base::os::system;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Leaves out what the worker has loaded. One segment instead of two for code and constants, and no page of its own for
/// relocated constants: a cell stays in memory as long as its values.
const SCRIPT: &str = r#"#!/bin/sh
for one do
  shift
  case $one in
    LOADED | */libstd-*.so | -lgcc_s | -lutil | -lrt | -lpthread | -lm | -ldl | -lc) ;;
    *) set -- "$@" "$one" ;;
  esac
done
exec LINKER "$@" -z noseparate-code -z norelro
"#;

/// Writes the program that rustc calls to link a cell; `None` where there is no `ld`, or one of another kind.
pub(super) fn install(folder: &Path, image: &Path) -> Option<PathBuf> {
    if !system().links_with_gnu() {
        return None;
    }
    let path = std::env::var_os("PATH")?;
    let linker = std::env::split_paths(&path).map(|folder| folder.join("ld")).find(|file| file.is_file())?;
    let script = SCRIPT.replace("LOADED", &quoted(image)?).replace("LINKER", &quoted(&linker)?);
    let program = folder.join("link");
    std::fs::write(&program, script).ok()?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).ok()?;
    Some(program)
}

/// For the shell.
fn quoted(path: &Path) -> Option<String> {
    Some(format!("'{}'", path.to_str()?.replace('\'', r"'\''")))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_linker_gets_everything_but_what_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("it's $HOME.so");
        let program = install(folder.path(), &image).unwrap();
        // In place of the linker, a program that prints its arguments.
        let script = std::fs::read_to_string(&program).unwrap();
        let (before, _) = script.split_once("exec ").unwrap();
        std::fs::write(&program, format!("{before}printf '%s\\n' \"$@\"\n")).unwrap();
        let arguments = ["a b.o", image.to_str().unwrap(), "/x/libstd-0.so", "-lm", "-lz", "-o", "$x"];
        let output = Command::new(&program).args(arguments).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "a b.o\n-lz\n-o\n$x\n");
    }
}
