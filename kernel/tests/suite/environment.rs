//! Bad surroundings: no compiler, no linker, full and read-only disks, no home, damaged caches. Each gives a sentence,
//! a remedy and an exit code, never a crash, and nothing half done is taken as whole.
//!
//! Most scenes build a stand-in for the library for cells, a crate without content, so that they take a second. Scenes
//! with mounts play in a mount namespace of their own; where the system permits none, they say so and test nothing.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::json;
use tempfile::TempDir;

const ONELENS: &str = env!("CARGO_BIN_EXE_onelens");

/// A machine with a source to build, a cache and nothing else.
struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new() -> Scene {
        let scene = Scene { folder: tempfile::tempdir().unwrap() };
        for folder in ["src", "kernel/image/src", "kernel/wire"] {
            fs::create_dir_all(scene.source().join(folder)).unwrap();
        }
        fs::create_dir(scene.path("tmp")).unwrap();
        scene.write("Cargo.toml", "[workspace]\nmembers = [\"kernel/image\"]\nresolver = \"3\"\n");
        scene.write(
            "kernel/image/Cargo.toml",
            "[package]\nname = \"onelens-image\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"dylib\"]\n",
        );
        scene.write("kernel/image/src/lib.rs", "");
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn source(&self) -> PathBuf {
        self.path("source")
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.source().join(name), text).unwrap();
    }

    /// A command of this machine; the toolchain is found without rustup, so that a home is not needed.
    fn command(&self, program: &str) -> Command {
        let path = std::env::var_os("PATH").unwrap();
        let path =
            std::env::join_paths([sysroot().join("bin")].into_iter().chain(std::env::split_paths(&path)));
        let mut command = Command::new(program);
        command
            .env("PATH", path.unwrap())
            .env("ONELENS_SOURCE", self.source())
            .env("ONELENS_CACHE", self.path("cache"))
            .env("JUPYTER_DATA_DIR", self.path("jupyter"))
            .env("TMPDIR", self.path("tmp"))
            .env_remove("RUSTC")
            .env_remove("CARGO");
        command
    }

    /// `onelens install` prepares the library for cells.
    fn install(&self) -> Command {
        let mut command = self.command(ONELENS);
        command.arg("install");
        command
    }

    fn doctor(&self) -> String {
        said(&self.command(ONELENS).arg("doctor").output().unwrap())
    }

    /// The finished images.
    fn images(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("cache/images")).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }

    /// A shell script in a mount namespace of its own, in which `$1` is the program; `None`, loudly, where that is
    /// not permitted.
    fn with_mounts(&self, scene: &str, script: &str) -> Option<Command> {
        let try_it = "mount -t tmpfs -o size=64k tmpfs \"$1\"";
        let namespace = ["--user", "--map-root-user", "--mount", "sh", "-ec"];
        let tried =
            Command::new("unshare").args(namespace).args([try_it, "sh"]).arg(self.path("tmp")).output();
        if !tried.as_ref().is_ok_and(|output| output.status.success()) {
            // Not by `eprintln!`, which the test harness hides when a test passes.
            let _ = writeln!(
                std::io::stderr(),
                "\nNOT TESTED: {scene}: this system permits no mount namespaces ({tried:?})\n"
            );
            return None;
        }
        let mut command = self.command("unshare");
        command.args(namespace).args([script, "sh", ONELENS]).current_dir(self.folder.path());
        Some(command)
    }
}

fn sysroot() -> PathBuf {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap();
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn succeeds(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    said(&output)
}

/// Runs what must fail because of its surroundings, with these words and a remedy.
#[track_caller]
fn fails(mut command: Command, words: &[&str]) {
    let output = command.output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    for word in words.iter().chain(&["help: "]) {
        assert!(said.contains(word), "no \"{word}\" in: {said}");
    }
}

/// The library inside a finished image.
fn library(image: &Path) -> PathBuf {
    image.join("libonelens_image.so")
}

#[test]
fn without_a_compiler_the_way_to_get_one_is_named() {
    let scene = Scene::new();
    let empty = scene.path("tmp");
    let mut install = scene.install();
    install.env("PATH", &empty);
    fails(install, &["the Rust compiler `rustc` does not start", "https://rustup.rs"]);
    assert!(scene.images().is_empty());
}

#[test]
fn without_a_linker_the_way_to_get_one_is_named() {
    let scene = Scene::new();
    let bare = |mut command: Command| {
        command.env("PATH", sysroot().join("bin"));
        command
    };
    fails(bare(scene.install()), &["Rust finds no linker", "`cc` not found", "apt install gcc"]);
    assert!(scene.images().is_empty());
    let output = bare(scene.command(ONELENS)).arg("doctor").output().unwrap();
    let said = said(&output);
    assert!(output.status.code() == Some(1) && said.contains("MISSING linker"), "{said}");
    succeeds(scene.install());
}

#[test]
fn a_full_disk_leaves_nothing_that_is_taken_as_whole() {
    let scene = Scene::new();
    fs::create_dir(scene.path("cache")).unwrap();
    // No room for cargo to begin; for it to end; for a copy of what it built.
    scene.write("kernel/image/src/lib.rs", "pub static FILLING: [u8; 300_000] = [1; 300_000];");
    for size in ["4k", "200k", "500k"] {
        let script = format!(
            "mount -t tmpfs -o size={size} tmpfs cache
             \"$1\" install && exit 77
             code=$?
             [ -z \"$(find cache -path '*/images/*' -name crates)\" ] || exit 78
             exit $code"
        );
        let Some(command) = scene.with_mounts("a full disk", &script) else { return };
        fails(command, &["ace is left", "ONELENS_CACHE"]);
    }
    succeeds(scene.install());
    assert_eq!(scene.images().len(), 1);
}

#[test]
fn a_full_folder_for_temporary_files_is_named() {
    let scene = Scene::new();
    let tmp = scene.path("tmp").display().to_string();
    // The linker needs room there, if Rust does not.
    let script = "mount -t tmpfs -o nr_inodes=1 tmpfs tmp; exec \"$1\" install";
    let Some(command) = scene.with_mounts("a full TMPDIR", script) else { return };
    fails(command, &["no space is left", &tmp, "TMPDIR"]);
    assert!(scene.images().is_empty());
}

#[test]
fn a_home_that_cannot_be_written_to_is_named() {
    let scene = Scene::new();
    let script = "mkdir home; mount -t tmpfs -o ro tmpfs home; HOME=$PWD/home exec \"$1\" install";
    let Some(mut command) = scene.with_mounts("a read-only home", script) else { return };
    command.env_remove("ONELENS_CACHE").env_remove("XDG_CACHE_HOME");
    fails(command, &["cannot create", "home/.cache/onelens", "Read-only file system", "ONELENS_CACHE"]);
}

#[test]
fn without_a_home_the_cache_is_a_private_folder_among_the_temporary_files() {
    let scene = Scene::new();
    let homeless = || {
        let mut install = scene.install();
        install.env_remove("HOME").env_remove("ONELENS_CACHE").env_remove("XDG_CACHE_HOME");
        install
    };
    succeeds(homeless());
    let mut entries = fs::read_dir(scene.path("tmp")).unwrap().flatten().map(|entry| entry.path());
    let cache = entries.find(|path| path.to_string_lossy().contains("onelens-cache-")).unwrap();
    assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);

    // Whoever can write there can have their code run.
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).unwrap();
    fails(homeless(), &["only you can write to", "HOME"]);
}

#[test]
fn two_kernels_at_once_on_an_empty_cache_share_one_build() {
    let scene = Scene::new();
    let start = || scene.install().stdout(std::process::Stdio::piped()).spawn().unwrap();
    let both = [start(), start()];
    for child in both {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    }
    assert_eq!(scene.images().len(), 1);
}

#[test]
fn a_damaged_library_is_noticed_and_built_again() {
    let scene = Scene::new();
    succeeds(scene.install());
    let library = library(&scene.images()[0]);
    let size = fs::metadata(&library).unwrap().len();
    fs::File::options().write(true).open(&library).unwrap().set_len(size / 2).unwrap();
    let said = scene.doctor();
    let damage = format!("libonelens_image.so has {} bytes instead of {size}", size / 2);
    assert!(said.contains("damaged") && said.contains(&damage), "{said}");
    succeeds(scene.install());
    assert_eq!(fs::metadata(&library).unwrap().len(), size);
    assert!(!scene.doctor().contains("damaged"));
}

#[test]
fn what_a_killed_build_left_behind_is_removed() {
    let scene = Scene::new();
    let left = scene.path("cache/images/.unfinished-1");
    fs::create_dir_all(&left).unwrap();
    succeeds(scene.install());
    assert!(!left.exists());
}

#[test]
fn a_source_that_changes_while_it_is_built_is_built_again() {
    let scene = Scene::new();
    // As if somebody saved a file: the first build happens before, and must not count as one of what is there after.
    scene.write(
        "kernel/image/build.rs",
        "fn main() { std::fs::write(\"../../src/saved\", \"\").unwrap(); println!(\"cargo::rerun-if-changed=build.rs\"); }",
    );
    succeeds(scene.install());
    assert_eq!(scene.images().len(), 1);
    assert!(!scene.doctor().contains("not built yet"), "{}", scene.doctor());

    scene.write(
        "kernel/image/build.rs",
        "fn main() {
            let file = \"../../src/saved\";
            let text = std::fs::read_to_string(file).unwrap();
            std::fs::write(file, text + \"again\").unwrap();
            println!(\"cargo::rerun-if-changed=never\");
        }",
    );
    fails(scene.install(), &["the source of the library changed each of 3 times", "try again"]);
    assert_eq!(scene.images().len(), 1);
}

fn write_notebook(scene: &Scene, cells: &[&str]) {
    let cell = |source: &&str| json!({ "cell_type": "code", "metadata": {}, "source": source, "outputs": [], "execution_count": null });
    let cells: Vec<_> = cells.iter().map(cell).collect();
    let notebook = json!({ "nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": cells });
    fs::write(scene.path("n.ipynb"), notebook.to_string()).unwrap();
}

/// With the real library: a notebook of one cell, in a folder of its own.
fn run_a_cell(scene: &Scene, name: &str, script: &str) -> Option<Command> {
    write_notebook(scene, &["let x = 6 * 7;\nx"]);
    let mut command = scene.with_mounts(name, script)?;
    let cache = onelens_kernel::image::Image::folder();
    onelens_kernel::image::Image::ensure(&mut |line| eprintln!("{line}")).unwrap();
    command.env_remove("ONELENS_SOURCE").env("ONELENS_CACHE", cache);
    Some(command)
}

#[test]
fn cells_run_where_nothing_in_the_folder_for_temporary_files_may_be_run() {
    let scene = Scene::new();
    let script = "mount -t tmpfs -o noexec tmpfs tmp; exec \"$1\" run --no-html n.ipynb";
    let Some(command) = run_a_cell(&scene, "TMPDIR mounted noexec", script) else { return };
    succeeds(command);
    assert!(fs::read_to_string(scene.path("n.ipynb")).unwrap().contains("\"42\""));
}

#[test]
fn a_cell_that_finds_the_disk_full_says_so_and_the_notebook_is_written() {
    let scene = Scene::new();
    let script = "mount -t tmpfs -o size=32k tmpfs tmp; exec \"$1\" run --no-html n.ipynb";
    let Some(mut command) = run_a_cell(&scene, "a full TMPDIR for cells", script) else { return };
    let output = command.output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    assert!(fs::read_to_string(scene.path("n.ipynb")).unwrap().contains("\"output_type\": \"error\""));
}

#[test]
fn a_compiler_that_is_replaced_under_a_session_is_noticed_and_the_notebook_goes_on() {
    use onelens_kernel::image::Image;
    let scene = Scene::new();
    let image = Image::ensure(&mut |line| eprintln!("{line}")).unwrap();
    // A compiler that calls itself another version, and is otherwise the real one.
    let (real, fake) = (sysroot(), scene.path("rust"));
    fs::create_dir_all(fake.join("bin")).unwrap();
    std::os::unix::fs::symlink(real.join("lib"), fake.join("lib")).unwrap();
    let rustc = fake.join("bin/rustc");
    let script = |version: &str| {
        format!(
            "#!/bin/sh\ncase \"$*\" in\n'--print sysroot') echo '{}' ;;\n-vV) '{1}' -vV; echo 'of: {version}' ;;\n*) exec '{1}' \"$@\" ;;\nesac\n",
            fake.display(),
            real.join("bin/rustc").display()
        )
    };
    let command = |argument: &str| {
        let mut command = scene.command(ONELENS);
        command.env_remove("ONELENS_SOURCE").env("RUSTC", &rustc).arg(argument);
        command
    };
    for version in ["after", "before"] {
        fs::write(&rustc, script(version)).unwrap();
        fs::set_permissions(&rustc, fs::Permissions::from_mode(0o755)).unwrap();
        let said = said(&command("doctor").output().unwrap());
        let place =
            said.split('(').find_map(|part| part.split(')').next().filter(|p| p.contains("/images/")));
        let place = Path::new(place.unwrap_or_else(|| panic!("{said}")));
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(image.library().parent().unwrap(), place).unwrap();
    }
    let update = format!("std::fs::write({rustc:?}, {:?}).unwrap();", script("after"));
    write_notebook(
        &scene,
        &["let kept = 41;\nfn next(n: i32) -> i32 { n + 1 }", &update, "kept", "next(41)"],
    );
    let output =
        command("run").args(["--no-html", "--allow-errors"]).arg(scene.path("n.ipynb")).output().unwrap();
    let notebook = fs::read_to_string(scene.path("n.ipynb")).unwrap();
    let said = said(&output);
    for words in [
        "was replaced",
        "the variables are gone",
        "`kept` was dropped when the Rust compiler was replaced",
        "\"42\"",
    ] {
        assert!(notebook.contains(words), "no {words} in {notebook}\n{said}");
    }
}
