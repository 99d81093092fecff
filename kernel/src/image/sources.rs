//! Where the sources of the library for cells are: in the clone in which this program was built, or, when it was
//! installed from a package, in the program itself, from which they are unpacked once.

use std::fs;
use std::path::{Path, PathBuf};

use crate::base::environment::{self, file_error as cannot};
use crate::base::failure::Failure;
use crate::image::{Image, Name};

/// The files that a packaged program carries, by their names in `kernel/library`; none in a clone.
const CARRIED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/library.rs"));

const NAME_A_CLONE: &str = "set the variable ONELENS_SOURCE to a clone of the onelens repository";

/// The workspace that the library is built from: `$ONELENS_SOURCE`, else the clone that this program was built in, else
/// what it carries.
pub(crate) fn folder(cargo: &Path) -> Result<PathBuf, Failure> {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let named = std::env::var_os("ONELENS_SOURCE").map(PathBuf::from);
    if named.is_none() && !CARRIED.is_empty() {
        return unpacked(CARRIED, &Image::folder().join("sources"), cargo);
    }
    let folder = named.unwrap_or_else(|| built_from.to_path_buf());
    if folder.join("kernel/image/Cargo.toml").exists() {
        return Ok(folder);
    }
    Err(Failure::new(
        format!(
            "the source of onelens is not in {}: cells link against a library that is built from it",
            folder.display()
        ),
        NAME_A_CLONE,
    ))
}

/// Writes the files as a workspace into a folder below `cache` that is named after what is in them, if it is not there.
fn unpacked(carried: &[(&str, &[u8])], cache: &Path, cargo: &Path) -> Result<PathBuf, Failure> {
    let mut hash = Name::default();
    for (name, bytes) in carried {
        hash.add(name.as_bytes());
        hash.add(bytes);
    }
    let folder = cache.join(format!("{}-{:016x}", env!("CARGO_PKG_VERSION"), hash.value()));
    if folder.join("kernel/image/Cargo.toml").exists() {
        return Ok(folder);
    }
    let unfinished = cache.join(format!(".unfinished-{}", std::process::id()));
    for (name, bytes) in carried {
        let changed;
        let (place, bytes) = match *name {
            "workspace.toml" => {
                changed = workspace(bytes)?;
                ("Cargo.toml".to_string(), changed.as_bytes())
            }
            "workspace.lock" => ("Cargo.lock".to_string(), *bytes),
            "image.toml" => ("kernel/image/Cargo.toml".to_string(), *bytes),
            "wire.toml" => ("kernel/wire/Cargo.toml".to_string(), *bytes),
            name if name.starts_with("src/") => (name.to_string(), *bytes),
            name => (format!("kernel/{name}"), *bytes),
        };
        let path = unfinished.join(place);
        let parent = path.parent().unwrap_or(&unfinished);
        fs::create_dir_all(parent).map_err(|e| cannot("create", parent, &e))?;
        fs::write(&path, bytes).map_err(|e| cannot("write", &path, &e))?;
    }
    settle(&unfinished, cargo)?;
    // Another process that does the same has the same files.
    match fs::rename(&unfinished, &folder) {
        Err(e) if !folder.join("kernel/image/Cargo.toml").exists() => Err(cannot("rename", &unfinished, &e)),
        _ => {
            let _ = fs::remove_dir_all(&unfinished);
            Ok(folder)
        }
    }
}

fn parsed(bytes: &[u8], name: &str) -> Result<toml::Table, Failure> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| Failure::of(format!("{name}, which this program carries, is no text: {e}")))?;
    text.parse().map_err(|e| Failure::of(format!("{name}, which this program carries, is damaged: {e}")))
}

/// The manifest of the workspace without the program, and without what only a clone has.
fn workspace(bytes: &[u8]) -> Result<String, Failure> {
    let mut manifest = parsed(bytes, "Cargo.toml")?;
    for section in ["bench", "example", "test"] {
        manifest.remove(section);
    }
    if let Some(workspace) = manifest.get_mut("workspace").and_then(toml::Value::as_table_mut) {
        workspace.insert("members".into(), vec!["kernel/image", "kernel/wire"].into());
        workspace.remove("default-members");
    }
    Ok(manifest.to_string())
}

/// Lets cargo drop from the lock file what only the program needs, with every version as it is: what is built is named
/// after this file, which therefore must not change later.
fn settle(folder: &Path, cargo: &Path) -> Result<(), Failure> {
    let mut command = environment::cargo(cargo);
    command.current_dir(folder).args(["tree", "--quiet", "--package", "onelens-image", "--edges", "normal"]);
    let output = command.output().map_err(|e| environment::no_cargo(&e))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(environment::explain(&said, folder).unwrap_or_else(|| {
        let what = format!("cargo does not take the sources that this program carries:\n{}", said.trim());
        Failure::new(what, NAME_A_CLONE)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { files(&path, found) } else { found.push(path) }
        }
    }

    /// What a package carries, read from the clone, and unpacked: cargo takes it as it is, and the image's key holds.
    #[test]
    fn what_a_package_carries_is_a_workspace_whose_lock_file_is_settled() {
        let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("library");
        let mut found = Vec::new();
        files(&library, &mut found);
        let name = |path: &Path| path.strip_prefix(&library).unwrap().to_str().unwrap().to_string();
        let read: Vec<(String, Vec<u8>)> =
            found.iter().map(|path| (name(path), fs::read(path).unwrap())).collect();
        let carried: Vec<(&str, &[u8])> = read.iter().map(|(name, bytes)| (&**name, &**bytes)).collect();
        let cache = tempfile::tempdir().unwrap();
        let folder = unpacked(&carried, cache.path(), Path::new(env!("CARGO"))).unwrap();
        assert_eq!(unpacked(&carried, cache.path(), Path::new(env!("CARGO"))).unwrap(), folder);
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 1);
        let mut cargo = environment::cargo(Path::new(env!("CARGO")));
        cargo.args(["tree", "--locked", "--offline", "--package", "onelens-image", "--edges", "normal"]);
        let output = cargo.current_dir(&folder).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.trim().is_empty(), "{said}");
        let tree = String::from_utf8(output.stdout).unwrap();
        assert!(tree.contains("onelens v") && !tree.contains("onelens-kernel"), "{tree}");
    }
}
