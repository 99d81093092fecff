//! A packaged program carries the sources of the library for cells: where it is installed there is no clone to build it
//! from. They lie in `library`, where the links of a clone have become files.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the package is"));
    let mut files = Vec::new();
    // In a clone they are beside it and read where they are, so that a change of the library does not compile the
    // program anew.
    if !package.join("image/Cargo.toml").exists() {
        collect(&package.join("library"), &mut files);
    }
    files.sort();
    let mut text = String::from("&[\n");
    for file in files {
        let name = file.strip_prefix(package.join("library")).expect("below it").to_string_lossy();
        text.push_str(&format!("({:?}, include_bytes!({:?})),\n", name, file.to_string_lossy()));
    }
    text.push_str("]\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where to write")).join("library.rs");
    fs::write(&out, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", out.display()));
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("cannot read {}: {e}", folder.display()));
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}
