//! What tests need that is not in the repository.
#![allow(dead_code)] // Each program of tests uses some of it.

use std::io::Write;
use std::path::{Path, PathBuf};

/// The folder `name` of the data: in `ONELENS_DATA`, else in `../shared/data`. A test that gets none is skipped.
pub(crate) fn data(name: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("ONELENS_DATA") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
    };
    let folder = root.join(name);
    if !folder.exists() {
        skipped(&format!("{} is not there", folder.display()), "set ONELENS_DATA to the folder of the data");
        return None;
    }
    Some(folder)
}

/// Says that this test is skipped, why, and what it takes to run it, past the capture of what tests print; in CI, where
/// everything has to be there, the test fails.
#[track_caller]
pub(crate) fn skipped(why: &str, help: &str) {
    assert!(std::env::var_os("CI").is_none(), "{why}, and in CI no test is skipped\nhelp: {help}");
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    // One call for one line: others write at the same time.
    let _ = std::io::stderr().write_all(format!("skipped {name}: {why}; to run it, {help}\n").as_bytes());
}
