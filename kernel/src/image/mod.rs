//! The image: the one shared library that cells link against, built once per compiler and library version.
//!
//! It lies in a per-user cache, in a folder named after everything that could change it, so that a new compiler
//! or a changed library gives a new image and kernels that run on the old one are not disturbed.

pub mod extension;
pub mod intact;
pub mod project;
mod sources;

use std::env::consts::{DLL_EXTENSION, DLL_SUFFIX};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::base::environment;
pub(crate) use crate::base::environment::file_error as cannot;
use crate::base::failure::Failure;
use crate::base::os;
use crate::base::paths;

/// A finished image.
#[derive(Clone, Debug)]
pub struct Image {
    folder: PathBuf,
    rustc: PathBuf,
    cargo: PathBuf,
    source: PathBuf,
    std_folder: PathBuf,
    crates: Vec<Crate>,
    /// By which another compiler in the place of this one is noticed.
    compiler_stamp: Option<(u64, SystemTime)>,
}

/// Which file this is, and when it was written.
fn stamp(file: &Path) -> Option<(u64, SystemTime)> {
    let about = fs::metadata(file).ok()?;
    Some((about.ino(), about.modified().ok()?))
}

/// A crate that the image holds.
#[derive(Clone, Debug)]
pub struct Crate {
    /// As Rust code writes it.
    pub name: String,
    /// As in `Cargo.lock`.
    pub version: String,
    /// The name of its metadata file in [`Image::deps`].
    pub file: String,
}

/// A library as cargo built it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Unit {
    /// As Rust code writes it.
    pub name: String,
    /// As crates.io has it.
    pub package: String,
    /// As in `Cargo.lock`.
    pub version: String,
    /// Cargo's name for the package.
    pub package_id: String,
    /// The features that are on.
    pub features: Vec<String>,
    /// Whether there are none that are on unless somebody says otherwise. Images of before this was looked at may have some.
    #[serde(default)]
    pub has_no_defaults: bool,
    /// Its metadata, or for procedural macros the library itself.
    pub file: PathBuf,
    /// Whether it comes from crates.io.
    pub from_registry: bool,
    /// Whether it is run by the compiler.
    pub proc_macro: bool,
    /// Whether it was built for build scripts and procedural macros.
    pub for_build: bool,
}

impl Unit {
    /// The name of its file.
    pub fn file_name(&self) -> String {
        self.file.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The file with its code, beside the metadata.
    pub fn link_file(&self) -> PathBuf {
        self.file.with_extension("rlib")
    }
}

/// Of a package that cargo calls `source#name@version`, or `source#version` where the source ends with the name.
pub fn name_and_version(package_id: &str) -> Option<(&str, &str)> {
    let (source, end) = package_id.split_once('#')?;
    Some(end.split_once('@').unwrap_or((source.rsplit('/').next()?, end)))
}

/// The libraries among cargo's messages.
pub fn units(messages: &[Value]) -> Vec<Unit> {
    let unit = |message: &Value| {
        let kinds: Vec<&str> =
            message["target"]["kind"].as_array()?.iter().filter_map(Value::as_str).collect();
        let proc_macro = kinds == ["proc-macro"];
        let is_library = kinds.iter().any(|kind| ["lib", "rlib", "dylib"].contains(kind));
        if message["reason"] != "compiler-artifact" || !(proc_macro || is_library) {
            return None;
        }
        let files = message["filenames"].as_array()?;
        let wanted = if proc_macro { DLL_EXTENSION } else { "rmeta" };
        let file = files.iter().filter_map(Value::as_str).map(PathBuf::from);
        let file = file.into_iter().find(|file| file.extension().is_some_and(|e| e == wanted))?;
        let package_id = message["package_id"].as_str()?;
        let (package, version) = name_and_version(package_id)?;
        Some(Unit {
            name: message["target"]["name"].as_str()?.replace('-', "_"),
            package: package.into(),
            version: version.into(),
            package_id: package_id.into(),
            features: message["features"]
                .as_array()?
                .iter()
                .filter_map(|f| f.as_str().map(String::from))
                .collect(),
            has_no_defaults: message["manifest_path"].as_str().is_some_and(has_no_defaults),
            file,
            from_registry: package_id.starts_with("registry+"),
            proc_macro,
            // `profile.dev.build-override` of the workspace, which nothing else is compiled with.
            for_build: message["profile"]["overflow_checks"] == true,
        })
    };
    messages.iter().filter_map(unit).collect()
}

/// Whether a manifest says that no features are on unless somebody asks for them.
fn has_no_defaults(manifest: &str) -> bool {
    let text = fs::read_to_string(manifest).unwrap_or_default();
    let table = text.parse::<toml::Table>().ok().filter(|table| table.contains_key("package"));
    table.is_some_and(|table| table.get("features").and_then(|features| features.get("default")).is_none())
}

impl Image {
    /// The image for this compiler and this library, built if it is not there yet. Lines about a build under
    /// way go to `on_progress`.
    pub fn ensure(on_progress: &mut dyn FnMut(&str)) -> Result<Image, Failure> {
        let mut changing = PathBuf::new();
        for _ in 0..MOST_BUILDS {
            let (toolchain, source, folder) = Self::wanted()?;
            changing.clone_from(&source);
            if let Some(damage) = damage(&folder) {
                on_progress(&format!("the library for cells is damaged ({damage}) and is built again"));
            }
            if is_whole(&folder) || build(&toolchain, &source, &folder, on_progress)? {
                return Self::open(folder, toolchain, source);
            }
            on_progress("the source of the library changed while it was built");
        }
        Err(Failure::new(
            format!("the source of the library changed each of {MOST_BUILDS} times that it was built"),
            format!("try again when nothing writes to {}", changing.display()),
        ))
    }

    /// The image for this compiler and this library, if it was built before.
    pub fn existing() -> Result<Option<Image>, Failure> {
        let (toolchain, source, folder) = Self::wanted()?;
        if is_whole(&folder) { Self::open(folder, toolchain, source).map(Some) } else { Ok(None) }
    }

    /// Where the image for this compiler and this library is, or will be.
    pub fn place() -> Result<PathBuf, Failure> {
        Self::wanted().map(|(_, _, folder)| folder)
    }

    /// What is wrong with the image for this compiler and this library, if it is there and damaged.
    pub fn damage() -> Result<Option<String>, Failure> {
        let (_, _, folder) = Self::wanted()?;
        Ok(damage(&folder).map(|what| format!("{}: {what}", folder.display())))
    }

    /// What an image is built with and from, and the folder it belongs in.
    fn wanted() -> Result<(Toolchain, PathBuf, PathBuf), Failure> {
        let toolchain = Toolchain::find()?;
        let source = sources::folder(&toolchain.cargo)?;
        if Self::own_folder().is_none() {
            Self::make_folder()?;
        }
        let folder = Self::folder().join("images").join(key(&toolchain, &source)?);
        Ok((toolchain, source, folder))
    }

    /// Where images are kept: `$ONELENS_CACHE`, else `onelens` in `$XDG_CACHE_HOME` or `~/.cache`; for a user without a
    /// home a folder among the temporary files.
    pub fn folder() -> PathBuf {
        let shared = || std::env::temp_dir().join(format!("onelens-cache-{}", environment::user()));
        Self::own_folder().unwrap_or_else(shared)
    }

    /// The same, made if it is not there.
    pub fn make_folder() -> Result<PathBuf, Failure> {
        let folder = Self::folder();
        match Self::own_folder() {
            Some(own) => fs::create_dir_all(own).map_err(|e| cannot("create", &folder, &e))?,
            None => environment::private_folder(&folder)?,
        }
        Ok(folder)
    }

    /// The same, where the user has a place of their own.
    fn own_folder() -> Option<PathBuf> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self::named_folder()
            .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("onelens")))
            .or_else(|| set("HOME").map(|home| home.join(".cache/onelens")))
    }

    /// The same, where the user has named one for all that is built.
    fn named_folder() -> Option<PathBuf> {
        std::env::var_os("ONELENS_CACHE").filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// The shared library itself.
    pub fn library(&self) -> PathBuf {
        self.folder.join(LIBRARY)
    }

    /// The folder with the metadata of the crates in the image.
    pub fn deps(&self) -> PathBuf {
        self.folder.join("deps")
    }

    /// The workspace that the image was built from, or one with the same files.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// The description of all crates in the image for rust-analyzer.
    pub fn project(&self) -> PathBuf {
        self.folder.join(PROJECT)
    }

    /// The crates a cell can name.
    pub fn crates(&self) -> &[Crate] {
        &self.crates
    }

    /// The compiler that built the image, and compiles cells.
    pub fn rustc(&self) -> &Path {
        &self.rustc
    }

    /// As `rustc --version` says it.
    pub fn compiler_version(&self) -> String {
        ask(&self.rustc, &["--version"]).map_or_else(|_| "rustc".into(), |text| text.trim().to_string())
    }

    /// Whether another compiler has taken the place of the one that the image was opened with.
    pub fn compiler_was_replaced(&self) -> bool {
        stamp(&self.rustc) != self.compiler_stamp
    }

    /// Cargo of the same toolchain.
    pub fn cargo(&self) -> &Path {
        &self.cargo
    }

    /// Where cargo built the image, and builds what goes beside it.
    pub fn build_folder(&self) -> PathBuf {
        build_folder(&self.cargo, &self.source)
    }

    /// Where cargo puts libraries there.
    pub fn built_libraries(&self) -> PathBuf {
        self.build_folder().join("debug/deps")
    }

    /// The versions that the image was built with, if they are written down.
    pub fn lock_file(&self) -> Option<PathBuf> {
        Some(self.source.join("Cargo.lock")).filter(|file| file.exists())
    }

    /// The libraries in the image, as cargo built them.
    pub fn units(&self) -> Result<Vec<Unit>, Failure> {
        let path = self.folder.join(UNITS);
        let text = fs::read(&path).map_err(|e| cannot("read", &path, &e))?;
        serde_json::from_slice(&text).map_err(|e| {
            Failure::new(
                format!("{} is damaged: {e}", path.display()),
                format!("remove {} and restart the kernel", self.folder.display()),
            )
        })
    }

    /// The shared standard library that the image and the cells run on.
    pub fn std_library(&self) -> Result<PathBuf, Failure> {
        let is_std = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libstd-"))
                && path.extension().is_some_and(|extension| extension == DLL_EXTENSION)
        };
        let found = fs::read_dir(&self.std_folder)
            .ok()
            .and_then(|entries| entries.flatten().map(|entry| entry.path()).find(is_std));
        found.ok_or_else(|| {
            Failure::new(
                format!("no shared standard library (libstd-*{DLL_SUFFIX}) in {}", self.std_folder.display()),
                "install Rust through https://rustup.rs, whose toolchains have it",
            )
        })
    }

    fn open(folder: PathBuf, toolchain: Toolchain, source: PathBuf) -> Result<Image, Failure> {
        let manifest = folder.join(MANIFEST);
        let text = fs::read_to_string(&manifest).map_err(|e| cannot("read", &manifest, &e))?;
        let crates = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace().map(str::to_string);
            Some(Crate { name: words.next()?, version: words.next()?, file: words.next()? })
        });
        // What marks the image as used, so that old ones can be told from those in use.
        let _ = File::create(folder.join("used"));
        Ok(Image {
            crates: crates.collect(),
            compiler_stamp: stamp(&toolchain.rustc),
            folder,
            rustc: toolchain.rustc,
            cargo: toolchain.cargo,
            source,
            std_folder: toolchain.std_folder,
        })
    }
}

/// How the image's own crate is compiled: with a shared standard library, and at the highest level of
/// optimisation at which rustc shares generics, so that cells find instances in the image (see its `shared.rs`).
const FLAGS: [&str; 2] = ["-Cprefer-dynamic", "-Copt-level=s"];

/// Features of the image: MPI where `mpirun` or its like has started several processes, so that nobody has to ask for
/// it.
fn features() -> &'static [&'static str] {
    let several = |name| std::env::var(name).is_ok_and(|n| n.parse::<usize>().is_ok_and(|n| n > 1));
    let in_a_job = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS"].into_iter().any(several);
    if in_a_job { &["--features", "mpi"] } else { &[] }
}

fn without_mpi() -> Failure {
    Failure::new(
        "mpirun has started several processes, and MPI's headers or libclang, with which the library for cells is built for them, are not on this machine",
        "install them (Debian: apt install libopenmpi-dev libclang-dev), or start onelens without mpirun",
    )
}

/// Settings of the environment with which cargo compiles something else.
fn settings(environment: impl Iterator<Item = (String, String)>) -> Vec<(String, String)> {
    let counts = |name: &str| {
        name.starts_with("CARGO_PROFILE_DEV_")
            || ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS"].contains(&name)
            || (name.starts_with("CARGO_TARGET_") && name.ends_with("_RUSTFLAGS"))
    };
    let mut settings: Vec<_> = environment.filter(|(name, _)| counts(name)).collect();
    settings.sort();
    settings
}
const LIBRARY: &str =
    if cfg!(target_vendor = "apple") { "libonelens_image.dylib" } else { "libonelens_image.so" };
const MANIFEST: &str = "crates";
const UNITS: &str = "units.json";
const PROJECT: &str = "rust-project.json";
/// Raised when the files of an image change, so that one without them is built anew.
const LAYOUT: &str = "7";
/// How often the source may change under a build before that is an error.
const MOST_BUILDS: usize = 3;

/// Whether a finished image is there.
fn is_whole(folder: &Path) -> bool {
    folder.join(MANIFEST).exists() && intact::damage(folder).is_none()
}

/// What is wrong with an image that is there.
fn damage(folder: &Path) -> Option<String> {
    if folder.exists() { intact::damage(folder) } else { None }
}

struct Toolchain {
    rustc: PathBuf,
    cargo: PathBuf,
    sysroot: PathBuf,
    std_folder: PathBuf,
    version: String,
}

impl Toolchain {
    /// The real compiler, not rustup's stand-in, which would cost each cell some milliseconds.
    fn find() -> Result<Self, Failure> {
        let named = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let sysroot = PathBuf::from(ask(Path::new(&named), &["--print", "sysroot"])?.trim());
        let inside = sysroot.join("bin/rustc");
        let rustc = if inside.exists() { inside } else { PathBuf::from(named) };
        let version = ask(&rustc, &["-vV"])?;
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
        let std_folder = sysroot.join("lib/rustlib").join(host).join("lib");
        let cargo = sysroot.join("bin/cargo");
        let cargo =
            if cargo.exists() { cargo } else { std::env::var_os("CARGO").unwrap_or("cargo".into()).into() };
        Ok(Toolchain { rustc, cargo, sysroot, std_folder, version })
    }
}

fn ask(program: &Path, arguments: &[&str]) -> Result<String, Failure> {
    let help = "install Rust from https://rustup.rs, or name the compiler in the variable RUSTC";
    let output = Command::new(program).args(arguments).output().map_err(|e| {
        Failure::new(format!("the Rust compiler `{}` does not start: {e}", program.display()), help)
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
        let failed = |said: &str| format!("`{} {}` failed: {said}", program.display(), arguments.join(" "));
        return Err(match said.split_once("\nhelp: ") {
            // Rustup has a remedy of its own for a toolchain that is not there.
            Some((said, its_own)) => Failure::new(failed(said), its_own).and_help(help),
            None => Failure::new(failed(&said), help),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A name for everything the image depends on.
fn key(toolchain: &Toolchain, source: &Path) -> Result<String, Failure> {
    let mut hash = Name::default();
    hash.add(toolchain.version.as_bytes());
    hash.add(FLAGS.join(" ").as_bytes());
    hash.add(LAYOUT.as_bytes());
    hash.add(features().join(" ").as_bytes());
    let readable =
        |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    for (name, value) in settings(std::env::vars_os().filter_map(readable)) {
        hash.add(name.as_bytes());
        hash.add(value.as_bytes());
    }
    let mut files = Vec::new();
    for folder in ["src", "kernel/image", "kernel/wire"] {
        collect(&source.join(folder), &mut files)?;
    }
    files.extend(
        ["Cargo.toml", "Cargo.lock"].map(|name| source.join(name)).into_iter().filter(|f| f.exists()),
    );
    files.sort();
    for file in files {
        hash.add(file.strip_prefix(source).unwrap_or(&file).to_string_lossy().as_bytes());
        hash.add(&fs::read(&file).map_err(|e| cannot("read", &file, &e))?);
    }
    Ok(format!("{}-{:016x}", env!("CARGO_PKG_VERSION"), hash.value()))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    for entry in fs::read_dir(folder).map_err(|e| cannot("read", folder, &e))?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// A name for all that was added, in this order.
#[derive(Default)]
pub(crate) struct Name(Sha256);

impl Name {
    /// As many bits as a name of a folder needs.
    pub(crate) fn value(self) -> u64 {
        let digest = self.0.finalize();
        digest.iter().take(8).fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        // With its length before it, so that no two lists run into the same bytes.
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}

/// Builds the image; false if the source was another at the end than at the beginning, so that nobody knows what is in
/// it.
fn build(
    toolchain: &Toolchain,
    source: &Path,
    folder: &Path,
    on_progress: &mut dyn FnMut(&str),
) -> Result<bool, Failure> {
    let cache = Image::folder();
    let images = cache.join("images");
    fs::create_dir_all(&images).map_err(|e| {
        let help = "set the variable ONELENS_CACHE to a folder you can write to";
        cannot("create", &images, &e).or_help(help)
    })?;
    let lock_file = cache.join("build.lock");
    let lock = File::create(&lock_file).map_err(|e| cannot("create", &lock_file, &e))?;
    if lock.try_lock().is_err() {
        on_progress("waiting for another kernel that is building the library");
        lock.lock().map_err(|e| cannot("lock", &lock_file, &e))?;
    }
    if is_whole(folder) {
        return Ok(true);
    }
    remove_unfinished(&images);
    // What the build would find out after minutes.
    let named =
        ["MPICC", "MPI_PKG_CONFIG", "CRAY_MPICH_DIR"].iter().any(|name| std::env::var_os(name).is_some());
    if !features().is_empty() && !named && paths::program("mpicc").is_none() {
        return Err(without_mpi());
    }
    on_progress("building the library for cells (once per version of Rust and of onelens)");
    let messages = run_cargo(toolchain, source, &build_folder(&toolchain.cargo, source), on_progress)?;
    let versions = linked_crates(toolchain, source, &[])?;
    // The library's own dependencies: image, library, and what it names.
    let named = linked_crates(toolchain, source, &["--depth", "2"])?;
    let manifest = source.join("Cargo.toml");
    let project =
        project::describe(&toolchain.cargo, &manifest, "onelens-image", &toolchain.sysroot, &messages)?;
    let project = project::without_place(&project, source);
    let name = key(toolchain, source)?;
    if folder.file_name() != Some(name.as_ref()) {
        return Ok(false);
    }
    let unfinished = images.join(format!("{UNFINISHED}{}", std::process::id()));
    let parsed: Vec<Value> = messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let is_linked = |unit: &Unit| versions.contains(&(unit.name.clone(), unit.version.clone()));
    let held: Vec<Unit> =
        units(&parsed).into_iter().filter(|u| is_linked(u) && !u.proc_macro && !u.for_build).collect();
    let assembled = assemble(&artifacts(&messages), &versions, &named, &held, &project, &unfinished)
        .and_then(|()| {
            let _ = fs::remove_dir_all(folder);
            fs::rename(&unfinished, folder).map_err(|e| cannot("rename", &unfinished, &e))
        });
    if assembled.is_err() {
        remove_unfinished(&images);
    }
    assembled?;
    remove_old(&images, folder);
    on_progress("the library is ready");
    Ok(true)
}

const UNFINISHED: &str = ".unfinished-";

/// Removes what broken builds left behind; only for who holds the lock.
fn remove_unfinished(images: &Path) {
    for entry in fs::read_dir(images).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// In a clone its own folder of builds, so that the program, the library for cells and tests, which are compiled alike,
/// are compiled once; `build` in the cache for what is unpacked there, where the cache was named, and where the clone
/// cannot be written to.
fn build_folder(cargo: &Path, source: &Path) -> PathBuf {
    let cache = Image::folder();
    let in_clone = || {
        let mut command = environment::cargo(cargo);
        command.args(["metadata", "--format-version=1", "--no-deps", "--offline", "--manifest-path"]);
        let output = command.arg(source.join("Cargo.toml")).output().ok()?;
        let metadata: Value = serde_json::from_slice(&output.stdout).ok()?;
        let folder = PathBuf::from(metadata["target_directory"].as_str()?);
        fs::create_dir_all(&folder).ok()?;
        let probe = folder.join(format!(".onelens-{}", std::process::id()));
        File::create(&probe).and_then(|_| fs::remove_file(&probe)).ok().map(|()| folder)
    };
    let in_cache = Image::named_folder().is_some() || source.starts_with(&cache);
    (!in_cache).then(in_clone).flatten().unwrap_or_else(|| cache.join("build"))
}

/// Builds the image and returns cargo's messages, one JSON object per line.
fn run_cargo(
    toolchain: &Toolchain,
    source: &Path,
    target: &Path,
    on_progress: &mut dyn FnMut(&str),
) -> Result<String, Failure> {
    let mut child = environment::cargo(&toolchain.cargo)
        .args(["rustc", "-p", "onelens-image", "--message-format=json-render-diagnostics"])
        .args(features())
        .arg("--manifest-path")
        .arg(source.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .arg("--")
        .args(FLAGS)
        .args(os::searched_for(LIBRARY))
        .args(
            cfg!(target_vendor = "apple").then(|| os::searching_in(&toolchain.std_folder.to_string_lossy())),
        )
        .env("RUSTC", &toolchain.rustc)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| environment::no_cargo(&e))?;
    let stdout = child.stdout.take();
    let messages = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.map(|mut pipe| pipe.read_to_string(&mut text));
        text
    });
    let mut said = Vec::new();
    let stderr = child.stderr.take().ok_or_else(|| Failure::of("no pipe from cargo"))?;
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        on_progress(line.trim());
        said.push(line);
    }
    let messages = messages.join().unwrap_or_default();
    let status = child.wait().map_err(|e| Failure::of(format!("cargo cannot be waited for: {e}")))?;
    if !status.success() {
        if let Some(why) = environment::explain(&said.join("\n"), target) {
            return Err(why);
        }
        if said.iter().any(|line| line.contains("build command for `mpi-sys")) {
            return Err(without_mpi());
        }
        let end = said[said.len().saturating_sub(30)..].join("\n");
        return Err(Failure::new(
            format!("the library for cells does not build ({status}):\n{end}"),
            format!("run `cargo build -p onelens-image` in {} to see the whole report", source.display()),
        ));
    }
    Ok(messages)
}

/// The files cargo made: metadata, procedural macros, and the library itself.
fn artifacts(messages: &str) -> Vec<PathBuf> {
    let artifacts = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default())
        .filter_map(|file| file.as_str().map(PathBuf::from))
        .filter(|file| {
            file.extension().is_some_and(|extension| extension == "rmeta" || extension == DLL_EXTENSION)
        });
    artifacts.collect()
}

/// Names and versions of the crates inside the image: no build scripts, no procedural macros.
fn linked_crates(
    toolchain: &Toolchain,
    source: &Path,
    which: &[&str],
) -> Result<Vec<(String, String)>, Failure> {
    let output = environment::cargo(&toolchain.cargo)
        .args(["tree", "-p", "onelens-image", "-e", "normal,no-proc-macro", "--prefix", "none"])
        .args(["--format", "{lib} {p}"])
        .args(which)
        .args(features())
        .arg("--manifest-path")
        .arg(source.join("Cargo.toml"))
        .output()
        .map_err(|e| environment::no_cargo(&e))?;
    let mut crates: Vec<(String, String)> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_string(), words.nth(1)?.trim_start_matches('v').to_string()))
        })
        .collect();
    crates.sort();
    crates.dedup();
    Ok(crates)
}

fn assemble(
    artifacts: &[PathBuf],
    versions: &[(String, String)],
    named: &[(String, String)],
    held: &[Unit],
    project: &str,
    folder: &Path,
) -> Result<(), Failure> {
    let deps = folder.join("deps");
    fs::create_dir_all(&deps).map_err(|e| cannot("create", &deps, &e))?;
    let mut manifest = String::new();
    for artifact in artifacts {
        let file = artifact.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let to = if file == LIBRARY { folder.join(&file) } else { deps.join(&file) };
        fs::copy(artifact, &to).map_err(|e| cannot("copy", artifact, &e))?;
        let name = file.strip_prefix("lib").and_then(|f| f.rsplit_once('-')).map_or("", |(name, _)| name);
        if !file.ends_with(".rmeta") {
            continue;
        }
        // Of a crate that is there in two versions a cell can name the one that the library names, whose types it hands
        // out.
        let same: Vec<_> = versions.iter().filter(|(lib, _)| lib == name).collect();
        let its_own: Vec<_> = named.iter().filter(|(lib, _)| lib == name).collect();
        let is_it =
            |version: &str| held.iter().any(|unit| unit.file_name() == file && unit.version == version);
        match (&same[..], &its_own[..]) {
            ([(name, version)], _) => manifest.push_str(&format!("{name} {version} {file}\n")),
            ([_, _, ..], [(name, version)]) if is_it(version) => {
                manifest.push_str(&format!("{name} {version} {file}\n"));
            }
            _ => {}
        }
    }
    let path = folder.join(PROJECT);
    fs::write(&path, project).map_err(|e| cannot("write", &path, &e))?;
    let path = folder.join(UNITS);
    fs::write(&path, serde_json::to_string(held).unwrap_or_default())
        .map_err(|e| cannot("write", &path, &e))?;
    let path = folder.join(MANIFEST);
    fs::write(&path, manifest).map_err(|e| cannot("write", &path, &e))?;
    intact::write_list(folder).map_err(|e| cannot("list", folder, &e))
}

/// Removes images that no kernel opened for a month.
fn remove_old(images: &Path, current: &Path) {
    let month = std::time::Duration::from_secs(30 * 24 * 3600);
    for entry in fs::read_dir(images).into_iter().flatten().flatten() {
        let path = entry.path();
        let used =
            fs::metadata(path.join("used")).or_else(|_| fs::metadata(&path)).and_then(|m| m.modified());
        let old = used.ok().and_then(|at| at.elapsed().ok()).is_some_and(|age| age > month);
        if path != current && old {
            let _ = fs::remove_dir_all(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_change_what_is_compiled_are_those_of_flags_and_of_the_profile() {
        let set = |names: &[&str]| {
            let environment = names.iter().map(|name| (name.to_string(), "1".to_string()));
            settings(environment).into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        let counting = [
            "CARGO_BUILD_RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_PROFILE_DEV_OPT_LEVEL",
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            "RUSTFLAGS",
        ];
        assert_eq!(set(&counting), counting);
        let others = [
            "CARGO_PROFILE_RELEASE_OPT_LEVEL",
            "CARGO_TARGET_DIR",
            "CARGO_TERM_COLOR",
            "RUSTDOCFLAGS",
            "PATH",
        ];
        assert!(set(&others).is_empty());
    }
}
