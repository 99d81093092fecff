//! What is compiled once where the program, its tests and the library for cells are built in one folder.

use std::collections::BTreeSet;
use std::process::Command;

/// Crates with their features, as cargo builds them for these packages.
fn crates(arguments: &[&str]) -> BTreeSet<String> {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).arg("tree").args(arguments);
    let output = command.args(["--prefix", "none", "--format", "{p} {f}"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.trim_end_matches(" (*)").to_string()).collect()
}

#[test]
fn the_library_for_cells_is_made_of_the_crates_that_tests_are_made_of() {
    let image = crates(&["-p", "onelens-image", "-e", "normal,build"]);
    let tests = crates(&["--workspace", "-e", "normal,build,dev"]);
    assert!(image.len() > 50);
    let other: Vec<&String> = image.difference(&tests).collect();
    assert!(
        other.is_empty(),
        "these crates have other features in the library for cells, so that they and what needs them are compiled twice: \
         {other:#?}\nhelp: name the features that they have in the workspace in kernel/image/Cargo.toml"
    );
}
