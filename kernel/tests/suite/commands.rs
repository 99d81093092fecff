//! `onelens install`, `uninstall`, `doctor`, and how a kernel process ends.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const ONELENS: &str = env!("CARGO_BIN_EXE_onelens");

fn onelens(arguments: &[&str], jupyter: &Path) -> (Option<i32>, String) {
    let output = Command::new(ONELENS).args(arguments).env("JUPYTER_DATA_DIR", jupyter).output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code(), said)
}

#[test]
fn install_is_idempotent_and_uninstall_removes_what_it_wrote() {
    let jupyter = tempfile::tempdir().unwrap();
    let folder = jupyter.path().join("kernels/onelens");
    assert_eq!(onelens(&["uninstall"], jupyter.path()).0, Some(0));
    let (code, said) = onelens(&["install"], jupyter.path());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&folder.display().to_string()), "{said}");
    let read = || fs::read_to_string(folder.join("kernel.json")).unwrap();
    let spec: Value = serde_json::from_str(&read()).unwrap();
    assert_eq!((&spec["interrupt_mode"], &spec["language"]), (&"message".into(), &"rust".into()));
    assert_eq!(spec["argv"][2], "{connection_file}");
    assert!(folder.join("logo-svg.svg").exists());

    let before = read();
    let (code, said) = onelens(&["install"], jupyter.path());
    assert_eq!((code, read()), (Some(0), before));
    assert!(said.contains("unchanged"), "{said}");

    assert_eq!(onelens(&["uninstall"], jupyter.path()).0, Some(0));
    assert!(!folder.exists());
}

#[test]
fn doctor_names_what_is_missing_and_how_to_get_it() {
    let jupyter = tempfile::tempdir().unwrap();
    let (code, said) = onelens(&["doctor"], jupyter.path());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("notebooks can be run"), "{said}");

    let output = Command::new(ONELENS).arg("doctor").env("ONELENS_CACHE", jupyter.path()).output().unwrap();
    let said_of_image = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said_of_image.contains("not built yet for this compiler"), "{said_of_image}");
    let output = Command::new(ONELENS).arg("doctor").env("RUSTC", "no-such-rustc").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("MISSING") && said.contains("rustup.rs"), "{said}");
}

/// A shell knows its number before it becomes the program.
#[test]
fn doctor_follows_no_link_that_somebody_has_put_in_its_way() {
    let folder = tempfile::tempdir().unwrap();
    let [victim, temporary, cache] = ["victim", "tmp", "cache"].map(|name| folder.path().join(name));
    for folder in [&victim, &temporary, &cache] {
        std::fs::create_dir(folder).unwrap();
    }
    let script = "ln -s \"$1\" \"$TMPDIR/onelens-doctor-$$\"\nln -s \"$1/file\" \"$ONELENS_CACHE/.doctor-$$\"\nexec \"$2\" doctor";
    let output = Command::new("sh")
        .args(["-c", script, "sh"])
        .args([victim.as_os_str(), ONELENS.as_ref()])
        .env("TMPDIR", &temporary)
        .env("ONELENS_CACHE", &cache)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("links a program") && said.contains(&cache.display().to_string()), "{said}");
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0, "{said}");
    // Nothing of its own stays either.
    for folder in [&temporary, &cache] {
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1, "{said}");
    }
}

#[test]
fn the_help_of_convert_says_what_a_page_is_trusted_with() {
    let folder = tempfile::tempdir().unwrap();
    let (_, said) = onelens(&["convert", "--help"], folder.path());
    assert!(said.contains("trusted") && said.contains("no script"), "{said}");
}

#[test]
fn every_command_has_help_with_an_example() {
    for command in ["run", "convert", "install", "uninstall", "lab", "doctor", "kernel"] {
        let (code, said) = onelens(&[command, "--help"], Path::new("/nonexistent"));
        assert_eq!(code, Some(0));
        assert!(said.contains("Example") && said.contains(&format!("onelens {command}")), "{said}");
    }
}

#[test]
fn a_connection_file_that_cannot_be_used_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.json");
    let (code, said) = onelens(&["kernel", file.to_str().unwrap()], folder.path());
    assert!(code == Some(3) && said.contains("help: "), "{said}");
    fs::write(&file, "{").unwrap();
    let (code, said) = onelens(&["kernel", file.to_str().unwrap()], folder.path());
    assert!(code == Some(3) && said.contains("not a connection file"), "{said}");
}

#[test]
fn a_connection_file_that_others_can_read_is_warned_of() {
    use onelens_kernel::jupyter::connection::Connection;
    use std::io::{BufRead, BufReader};
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.json");
    Connection::any_ports().unwrap().write(&file).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let mut kernel = Command::new(ONELENS)
        .args(["kernel", "--no-history", file.to_str().unwrap()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(kernel.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let _ = kernel.kill();
    let _ = kernel.wait();
    assert!(line.contains("other users may read") && line.contains("chmod 600"), "{line}");
}

/// Starts a kernel whose parent ends at once, as when a Jupyter server is killed, and waits for it to end too.
#[cfg(target_os = "linux")]
#[test]
fn a_kernel_whose_server_has_gone_ends_by_itself() {
    use onelens_kernel::jupyter::connection::Connection;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.json");
    Connection::any_ports().unwrap().write(&file).unwrap();
    let script = format!(
        "JPY_PARENT_PID=$$ '{ONELENS}' kernel '{}' >/dev/null & echo $!; sleep 1; exit 0",
        file.display()
    );
    let output = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let pid = String::from_utf8(output.unwrap().stdout).unwrap();
    let process = Path::new("/proc").join(pid.trim());
    let since = Instant::now();
    while fs::read_to_string(process.join("cmdline")).is_ok_and(|line| line.contains("kernel")) {
        assert!(since.elapsed() < Duration::from_secs(20), "the kernel lives on");
        std::thread::sleep(Duration::from_millis(20));
    }
}
