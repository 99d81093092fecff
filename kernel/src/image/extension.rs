//! An extension: a shared library with further crates, beside the image, for `:dep`.
//!
//! Cargo builds the crates in the folder in which it built the image, told to use every crate of the image in just that
//! version, with just those features: so what both need is the same crate, with the same types, and is not built
//! again. Where that cannot be, as for a crate that wants a newer version of one of them, only those stay the same
//! whose types the library shows. One call of rustc then links what is new into a library that leaves everything else
//! to the image. The result lies in the cache under a name for all it depends on, and is found there by the next
//! notebook, offline.

use std::collections::{BTreeMap, BTreeSet};
use std::env::consts::DLL_SUFFIX;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::base::environment;
use crate::base::failure::Failure;
use crate::base::os;
use crate::image::{Image, Name, Unit, cannot, name_and_version, units};

/// A finished extension.
#[derive(Clone, Debug)]
pub struct Extension {
    /// The name of its crate.
    pub name: String,
    folder: PathBuf,
    /// Crates a cell can name, with their files in [`Extension::deps`], of this extension or of one below.
    pub crates: Vec<(String, String)>,
}

/// What went wrong, in the words for the user.
#[derive(Debug)]
pub enum Trouble {
    /// It was interrupted.
    Interrupted,
    /// A sentence and a remedy.
    Failed(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Trouble::Failed(failure)
    }
}

/// Who is told what goes on, and can end it.
pub struct Watcher<'a> {
    /// Lines about a build.
    pub say: &'a mut dyn FnMut(&str),
    /// Told the process (and group) that works now.
    pub working: &'a dyn Fn(Option<u32>),
    /// Whether the user asked to stop.
    pub interrupted: &'a dyn Fn() -> bool,
}

impl Extension {
    /// The extension with the crates `wanted` (name to what stands after `=`), on top of `below`; built if need be.
    pub fn ensure(
        image: &Image,
        below: &[Extension],
        wanted: &BTreeMap<String, toml::Value>,
        watcher: &mut Watcher,
    ) -> Result<Extension, Trouble> {
        let name = format!("onelens_extension_{:016x}", key(image, below, wanted)?);
        let folder = Image::folder().join("extensions").join(&name);
        if let Some(there) = Self::open(&name, &folder) {
            return Ok(there);
        }
        let cache = Image::folder();
        let lock_file = cache.join("build.lock");
        let lock = File::create(&lock_file).map_err(|e| cannot("create", &lock_file, &e))?;
        if lock.try_lock().is_err() {
            (watcher.say)("waiting for another kernel that is building");
            while lock.try_lock().is_err() {
                if (watcher.interrupted)() {
                    return Err(Trouble::Interrupted);
                }
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        }
        match Self::open(&name, &folder) {
            Some(there) => Ok(there),
            None => build(image, below, wanted, &name, &folder, watcher),
        }
    }

    /// The shared library.
    pub fn library(&self) -> PathBuf {
        self.folder.join(library_file(&self.name))
    }

    /// The folder that the loader has to search.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder with the metadata of its crates.
    pub fn deps(&self) -> PathBuf {
        self.folder.join("deps")
    }

    fn open(name: &str, folder: &Path) -> Option<Extension> {
        let text = fs::read_to_string(folder.join(MANIFEST)).ok()?;
        let mut extension = Extension { name: name.into(), folder: folder.into(), crates: vec![] };
        for line in text.lines() {
            let (name, file) = line.strip_prefix("crate ")?.split_once(' ')?;
            extension.crates.push((name.into(), file.into()));
        }
        Some(extension)
    }
}

/// The crates of the image whose types the library takes and gives, or that its types implement traits of.
pub(crate) const SHOWN: [&str; 6] = ["ndarray", "onelens", "plotters", "rayon", "serde", "serde_json"];

const MANIFEST: &str = "crates";

fn library_file(name: &str) -> String {
    format!("lib{name}{DLL_SUFFIX}")
}

/// A number for all that an extension depends on.
fn key(image: &Image, below: &[Extension], wanted: &BTreeMap<String, toml::Value>) -> Result<u64, Failure> {
    let mut hash = Name::default();
    hash.add(image.library().as_os_str().as_encoded_bytes());
    for one in below {
        hash.add(one.name.as_bytes());
    }
    for (name, value) in wanted {
        hash.add(name.as_bytes());
        hash.add(value.to_string().as_bytes());
        if let Some(stamp) = stamp(value)? {
            hash.add(&stamp.to_le_bytes());
        }
    }
    Ok(hash.value())
}

/// A number for what is in the folder of a crate that lies in one.
pub(crate) fn stamp(value: &toml::Value) -> Result<Option<u64>, Failure> {
    let Some(path) = value.get("path").and_then(toml::Value::as_str) else { return Ok(None) };
    let mut hash = Name::default();
    hash_package(Path::new(path), &mut BTreeSet::new(), &mut hash)?;
    Ok(Some(hash.value()))
}

/// A crate that lies in a folder, and those in other folders that it is built from.
fn hash_package(folder: &Path, seen: &mut BTreeSet<PathBuf>, hash: &mut Name) -> Result<(), Failure> {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    if !seen.insert(whole.clone()) {
        return Ok(());
    }
    hash_folder(folder, hash)?;
    let mut paths = paths_in(&whole);
    // A workspace around it may name folders for all its members, and how they are built.
    if let Some(root) = whole.ancestors().skip(1).find(|root| is_workspace(root)) {
        hash.add(&fs::read(root.join("Cargo.toml")).unwrap_or_default());
        let inherits = fs::read_to_string(whole.join("Cargo.toml")).unwrap_or_default().contains("workspace");
        paths.extend(paths_in(root).into_iter().filter(|_| inherits));
    }
    for path in paths.into_iter().filter(|path| path.is_dir()) {
        hash_package(&path, seen, hash)?;
    }
    Ok(())
}

fn is_workspace(folder: &Path) -> bool {
    let text = fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
    text.lines().any(|line| line.trim_start().starts_with("[workspace"))
}

/// The folders that a manifest names by `path`, as those of its dependencies.
fn paths_in(folder: &Path) -> Vec<PathBuf> {
    fn collect(value: &toml::Value, folder: &Path, paths: &mut Vec<PathBuf>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    match (key.as_str(), value) {
                        ("path", toml::Value::String(path)) => paths.push(folder.join(path)),
                        _ => collect(value, folder, paths),
                    }
                }
            }
            toml::Value::Array(values) => values.iter().for_each(|value| collect(value, folder, paths)),
            _ => {}
        }
    }
    let text = fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
    let mut paths = Vec::new();
    if let Ok(table) = text.parse::<toml::Table>() {
        collect(&toml::Value::Table(table), folder, &mut paths);
    }
    paths
}

/// The files of a crate that lies in a folder, by name, size and time.
fn hash_folder(folder: &Path, hash: &mut Name) -> Result<(), Failure> {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .map_err(|e| {
            let help = "`path` counts from the notebook's folder; the crate's Cargo.toml must lie in it";
            cannot("read", folder, &e).and_help(help)
        })?
        .flatten()
        .collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        if name == "target" || name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            hash_folder(&path, hash)?;
        } else {
            hash.add(path.as_os_str().as_encoded_bytes());
            hash.add(format!("{} {:?}", meta.len(), meta.modified().ok()).as_bytes());
        }
    }
    Ok(())
}

fn build(
    image: &Image,
    below: &[Extension],
    wanted: &BTreeMap<String, toml::Value>,
    name: &str,
    folder: &Path,
    watcher: &mut Watcher,
) -> Result<Extension, Trouble> {
    let parent = folder.parent().unwrap_or(folder);
    let work = parent.join(format!(".unfinished-{}", std::process::id()));
    let _ = fs::remove_dir_all(&work);
    let result = build_in(&work, image, below, wanted, name, watcher).and_then(|()| {
        let _ = fs::remove_dir_all(folder);
        fs::rename(&work, folder).map_err(|e| cannot("rename", &work, &e))?;
        Extension::open(name, folder).ok_or_else(|| Failure::of("the extension cannot be read back").into())
    });
    let _ = fs::remove_dir_all(&work);
    result
}

fn build_in(
    work: &Path,
    image: &Image,
    below: &[Extension],
    wanted: &BTreeMap<String, toml::Value>,
    name: &str,
    watcher: &mut Watcher,
) -> Result<(), Trouble> {
    let package = work.join("package");
    let write = |path: PathBuf, text: &str| fs::write(&path, text).map_err(|e| cannot("write", &path, &e));
    fs::create_dir_all(package.join("src")).map_err(|e| cannot("create", &package, &e))?;
    write(package.join("src/lib.rs"), "")?;
    let held = image.units()?;
    let asked = &not_older(wanted, &held);
    let pinned: [&dyn Fn(&Unit) -> bool; 3] =
        [&|_| true, &|unit| SHOWN.contains(&unit.name.as_str()), &|_| false];
    let mut chosen = Err(Failure::of("no way to choose versions").into());
    for pin in pinned {
        let pins: Vec<&Unit> = held.iter().filter(|unit| pin(unit) && !is_wanted(unit, wanted)).collect();
        write(package.join("Cargo.toml"), &manifest(&pins, asked, how_built(image)?))?;
        if let Some(lock) = image.lock_file() {
            let to = package.join("Cargo.lock");
            fs::copy(&lock, &to).map_err(|e| cannot("copy", &lock, &e))?;
        }
        chosen = resolved(image, &package, watcher);
        let versions = |failure: &Failure| failure.what().contains("failed to select a version");
        if !matches!(&chosen, Err(Trouble::Failed(failure)) if versions(failure)) {
            break;
        }
    }
    let direct = chosen?;
    let package_of =
        |name: &str, value: &toml::Value| match value.get("package").and_then(toml::Value::as_str) {
            Some(package) => package.to_string(),
            None => name.to_string(),
        };
    // Cargo passes over a crate that is only a program.
    let is_there =
        |package: String| direct.iter().any(|(_, id)| name_and_version(id).is_some_and(|p| p.0 == package));
    if let Some((name, _)) = wanted.iter().find(|(name, value)| !is_there(package_of(name, value))) {
        return Err(no_library(name).into());
    }
    // Those asked for and what they are made of. The rest of the image, which now may have further features, is not needed.
    let mut build = vec!["build", "--message-format=json-render-diagnostics"];
    build.extend(direct.iter().flat_map(|(_, id)| ["--package", id]));
    let folder = image.build_folder();
    let folder = folder.to_string_lossy();
    build.extend(["--target-dir", &folder]);
    let messages = cargo(image, &package, &build, true, watcher)?;
    let messages: Vec<Value> = messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let built = units(&messages);
    let deps = work.join("deps");
    fs::create_dir_all(&deps).map_err(|e| cannot("create", &deps, &e))?;
    let known = known_files(image, below)?;
    let mut text = String::new();
    for unit in built.iter().filter(|unit| !known.contains(&unit.file_name())) {
        let to = deps.join(unit.file_name());
        fs::copy(&unit.file, &to).map_err(|e| cannot("copy", &unit.file, &e))?;
    }
    let mut source = String::from("#![allow(warnings)]\npub extern crate onelens_image;\n");
    let mut command = Command::new(image.rustc());
    command.args([
        "--edition=2024",
        "--crate-type=dylib",
        "-Cprefer-dynamic",
        "-Copt-level=s",
        "-Cdebuginfo=0",
    ]);
    command.arg(format!("--crate-name={name}")).arg("lib.rs").arg("-o").arg(work.join(library_file(name)));
    command.args(os::searched_for(&library_file(name)));
    command.arg(format!("--extern=onelens_image={}", image.library().display()));
    for one in below {
        source.push_str(&format!("pub extern crate {};\n", one.name));
        command.arg(format!("--extern={}={}", one.name, one.library().display()));
        command.arg(format!("-Ldependency={}", one.deps().display()));
    }
    for (code_name, package_id) in &direct {
        let is_it = |unit: &&Unit| unit.package_id == *package_id && (unit.proc_macro || !unit.for_build);
        let unit = built.iter().find(is_it).ok_or_else(|| no_library(code_name))?;
        text.push_str(&format!("crate {code_name} {}\n", unit.file_name()));
        // A crate of an extension below comes with that.
        if !unit.proc_macro && !known.contains(&unit.file_name()) {
            source.push_str(&format!("pub extern crate {code_name};\n"));
            command.arg(format!("--extern={code_name}={}", unit.link_file().display()));
        }
    }
    // First where nobody builds: the library's own crate may be another in the folder of builds by now.
    command.arg(format!("-Ldependency={}", image.deps().display()));
    command.arg(format!("-Ldependency={}", image.built_libraries().display()));
    for path in messages.iter().filter(|m| m["reason"] == "build-script-executed") {
        for path in path["linked_paths"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            command.arg(format!("-L{path}"));
        }
    }
    write(work.join("lib.rs"), &source)?;
    let (status, _, said) = run(command.current_dir(work), watcher)?;
    if !status {
        let what = format!("the crates were built, but cannot be linked into one library:\n{}", said.trim());
        let help = "a crate with C code may need a library of the system that is not installed";
        return Err(Failure::new(what, help).into());
    }
    let _ = fs::remove_dir_all(&package);
    let _ = fs::remove_file(work.join("lib.rs"));
    Ok(write(work.join(MANIFEST), &text)?)
}

/// What to say about a crate that is only a program.
fn no_library(name: &str) -> Failure {
    Failure::new(
        format!("`:dep {name}`: this crate has no library"),
        "programs and examples cannot be used in a cell",
    )
}

/// How the crates of the image were compiled: what is compiled otherwise is another crate to Rust.
#[derive(Default)]
struct HowBuilt {
    /// `profile.dev` of the workspace.
    profile: Option<toml::Value>,
    /// `build-dependencies` of the image: they give features to what procedural macros consist of, and with other
    /// features those, and all crates that use them, are others.
    build_dependencies: toml::Table,
}

fn how_built(image: &Image) -> Result<HowBuilt, Failure> {
    let manifest = |path: &str| -> Result<toml::Table, Failure> {
        let path = image.source().join(path);
        let text = fs::read_to_string(&path).map_err(|e| cannot("read", &path, &e))?;
        text.parse().map_err(|e| Failure::of(format!("{} is damaged: {e}", path.display())))
    };
    Ok(HowBuilt {
        profile: manifest("Cargo.toml")?.get("profile").and_then(|profiles| profiles.get("dev")).cloned(),
        build_dependencies: match manifest("kernel/image/Cargo.toml")?.remove("build-dependencies") {
            Some(toml::Value::Table(table)) => table,
            Some(_) | None => toml::Table::new(),
        },
    })
}

/// Whether a crate of the image would be there in the same version as one that was asked for: the two are one to cargo,
/// and cannot have two names.
fn is_wanted(unit: &Unit, wanted: &BTreeMap<String, toml::Value>) -> bool {
    wanted.iter().any(|(name, value)| {
        let get = |key: &str| value.get(key).and_then(toml::Value::as_str);
        let version = value.as_str().or_else(|| get("version")).unwrap_or("*");
        let fits = semver::VersionReq::parse(version).is_ok_and(|wanted| {
            semver::Version::parse(&unit.version).is_ok_and(|version| wanted.matches(&version))
        });
        get("package").unwrap_or(name) == unit.package && fits
    })
}

/// The crates `wanted`, those of any version in none before the one that is `held`: without the network cargo takes an old
/// one in silence rather than miss something that a new one is made of.
fn not_older(wanted: &BTreeMap<String, toml::Value>, held: &[Unit]) -> BTreeMap<String, toml::Value> {
    let mut wanted = wanted.clone();
    for (name, value) in wanted.iter_mut().filter(|(_, value)| value.as_str() == Some("*")) {
        let versions = held.iter().filter(|unit| unit.package == *name);
        let newest = versions.filter_map(|unit| semver::Version::parse(&unit.version).ok()).max();
        if let Some(newest) = newest {
            *value = format!(">={newest}").into();
        }
    }
    wanted
}

/// The manifest of a package with the crates asked for, and with those `held` as they are in the image.
fn manifest(held: &[&Unit], wanted: &BTreeMap<String, toml::Value>, how_built: HowBuilt) -> String {
    let mut dependencies = toml::Table::new();
    for (i, unit) in held.iter().filter(|unit| unit.from_registry).enumerate() {
        let mut table = toml::Table::new();
        table.insert("package".into(), unit.package.clone().into());
        table.insert("version".into(), format!("={}", unit.version).into());
        table.insert("default-features".into(), false.into());
        let features: Vec<toml::Value> = unit.features.iter().map(|f| f.clone().into()).collect();
        table.insert("features".into(), features.into());
        dependencies.insert(format!("held-by-the-image-{i}"), table.into());
    }
    dependencies.extend(wanted.clone());
    let mut package = toml::Table::new();
    package.insert("name".into(), PACKAGE.into());
    package.insert("version".into(), "0.0.0".into());
    package.insert("edition".into(), "2024".into());
    let mut table = toml::Table::new();
    table.insert("package".into(), package.into());
    table.insert("workspace".into(), toml::Table::new().into());
    table.insert("dependencies".into(), dependencies.into());
    // Under names by which they are known for the image's, not for crates that were asked for.
    let renamed = how_built.build_dependencies.into_iter().map(|(name, value)| {
        let mut table = match value {
            toml::Value::Table(table) => table,
            version => toml::Table::from_iter([("version".to_string(), version)]),
        };
        table.entry("package").or_insert(name.clone().into());
        (format!("held-by-the-image-{name}"), toml::Value::Table(table))
    });
    table.insert("build-dependencies".into(), renamed.collect::<toml::Table>().into());
    if let Some(profile) = how_built.profile {
        table.insert("profile".into(), toml::Table::from_iter([("dev".to_string(), profile)]).into());
    }
    table.to_string()
}

const PACKAGE: &str = "onelens-extension";

/// What cargo answers about the package, without the network or with it.
fn cargo(
    image: &Image,
    package: &Path,
    asked: &[&str],
    offline: bool,
    watcher: &mut Watcher,
) -> Result<String, Trouble> {
    let mut command = environment::cargo(image.cargo());
    command.args(asked).args(offline.then_some("--offline"));
    command.arg("--manifest-path").arg(package.join("Cargo.toml"));
    command.env("RUSTC", image.rustc()).env("CARGO_TERM_COLOR", "never").current_dir(package);
    let (success, answer, said) = run(&mut command, watcher)?;
    if success { Ok(answer) } else { Err(explain(&said).into()) }
}

/// What cargo said, with the remedy where it is known.
fn explain(said: &str) -> Failure {
    let errors: Vec<&str> = said
        .lines()
        .skip_while(|line| !line.trim_start().starts_with("error"))
        .filter(|line| {
            !line.trim().is_empty() && !line.contains("held-by-the-image") && !line.contains(PACKAGE)
        })
        .take(25)
        .collect();
    let has = |words: &str| said.contains(words);
    let help = if has("no matching package") {
        "look for the crate's name on crates.io"
    } else if has("failed to select a version") && has("feature") {
        "name only features that the crate has; `cargo info NAME` lists them"
    } else if has("failed to select a version") {
        "ask for a version that exists, such as \"*\" for the newest"
    } else if has("Could not resolve host")
        || has("failed to download")
        || has("failed to get")
        || has("network")
    {
        "the crate is not on this machine yet, and the network does not answer; try again when it does"
    } else if has("requires rustc") {
        "ask for an older version of the crate, or update Rust"
    } else {
        "the crate itself does not build here; its own documentation may say what it needs"
    };
    Failure::new(errors.join("\n"), help)
}

/// Runs a program in a process group of its own: whether it succeeded, its standard output, and what it said.
fn run(command: &mut Command, watcher: &mut Watcher) -> Result<(bool, String, String), Trouble> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|e| {
            Failure::new(format!("{program} does not start: {e}"), "install Rust from https://rustup.rs")
        })?;
    (watcher.working)(Some(child.id()));
    let stdout = child.stdout.take();
    let output = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.map(|mut pipe| pipe.read_to_string(&mut text));
        text
    });
    let mut said = String::new();
    for line in
        child.stderr.take().into_iter().flat_map(|pipe| BufReader::new(pipe).lines().map_while(Result::ok))
    {
        if (line.trim_start().starts_with("Compiling") && !line.contains(PACKAGE))
            || line.trim_start().starts_with("Downloaded ")
        {
            (watcher.say)(line.trim());
        }
        said.push_str(&line);
        said.push('\n');
    }
    let status = child.wait();
    (watcher.working)(None);
    if (watcher.interrupted)() {
        return Err(Trouble::Interrupted);
    }
    let status = status.map_err(|e| Failure::of(format!("{program} cannot be waited for: {e}")))?;
    Ok((status.success(), output.join().unwrap_or_default(), said))
}

/// The crates asked for, as code names them and as cargo names the packages that it chose and has downloaded.
///
/// Of this platform only: what others need is not downloaded.
fn resolved(image: &Image, package: &Path, watcher: &mut Watcher) -> Result<Vec<(String, String)>, Trouble> {
    let asked = ["metadata", "--format-version=1", "--filter-platform=host-tuple"];
    // What is on this machine is enough, mostly; the network is asked only if it is not.
    let answer = match cargo(image, package, &asked, true, watcher) {
        Err(Trouble::Failed(_)) => cargo(image, package, &asked, false, watcher),
        other => other,
    };
    let metadata: Value = serde_json::from_str(&answer?).map_err(|e| {
        let what = format!("cargo does not describe what it chose: {e}");
        Failure::new(what, "try again; if it stays so, report this")
    })?;
    let resolve = &metadata["resolve"];
    let nodes = resolve["nodes"].as_array().into_iter().flatten();
    let deps = nodes.filter(|node| node["id"] == resolve["root"]).filter_map(|node| node["deps"].as_array());
    let named = deps.flatten().filter_map(|dep| Some((dep["name"].as_str()?, dep["pkg"].as_str()?)));
    let asked_for = named.filter(|(name, _)| !name.starts_with("held_by_the_image"));
    Ok(asked_for.map(|(name, id)| (name.to_string(), id.to_string())).collect())
}

/// Files of crates that the image or an extension below has.
fn known_files(image: &Image, below: &[Extension]) -> Result<BTreeSet<String>, Failure> {
    let mut known = BTreeSet::new();
    for folder in [image.deps()].into_iter().chain(below.iter().map(Extension::deps)) {
        let entries = fs::read_dir(&folder).map_err(|e| cannot("read", &folder, &e))?;
        known.extend(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()));
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_version_is_none_before_the_newest_that_is_held() {
        let unit = |version: &str| Unit {
            name: "rand".into(),
            package: "rand".into(),
            version: version.into(),
            package_id: String::new(),
            features: vec![],
            has_no_defaults: false,
            file: PathBuf::new(),
            from_registry: true,
            proc_macro: false,
            for_build: false,
        };
        let held = [unit("0.10.4"), unit("0.9.5")];
        let wanted = |version: &str| BTreeMap::from([("rand".to_string(), toml::Value::from(version))]);
        assert_eq!(not_older(&wanted("*"), &held), wanted(">=0.10.4"));
        assert_eq!(not_older(&wanted("0.8"), &held), wanted("0.8"));
        assert_eq!(not_older(&wanted("*"), &[]), wanted("*"));
    }
}
