//! Bad surroundings: no compiler, no linker, full and read-only disks, no home. Each gives a sentence, a
//! remedy and an exit code, never a crash, and nothing half done is taken as whole.
//!
//! The scenes build a stand-in for the library for cells, a crate without content, so that they take a second. Scenes
//! with mounts play in a mount namespace of their own; where the system permits none, they say so and test nothing.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

const ONELENS: &str = env!("CARGO_BIN_EXE_onelens");

/// A machine with a source to build, a cache and nothing else.
struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new() -> Scene {
        let scene = Scene { folder: tempfile::tempdir().unwrap() };
        for folder in ["src", "kernel/image/src"] {
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
