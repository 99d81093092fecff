//! What rust-analyzer has to know about the crates of an image: where their sources lie, which features are on.
//!
//! It is written down when the image is built, from what cargo said then, as a
//! [`rust-project.json`](https://rust-analyzer.github.io/book/non_cargo_based_projects.html), so that no cargo runs
//! beside a notebook. Crates that cargo renames for a dependent keep their own names here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::base::environment;
use crate::base::failure::Failure;

/// A crate by its name in code, and its version.
type Key = (String, String);

/// Describes the crates that `package` is built from.
///
/// `messages` are those of the build, as `cargo --message-format=json` gives them.
pub fn describe(
    cargo: &Path,
    manifest: &Path,
    package: &str,
    sysroot: &Path,
    messages: &str,
) -> Result<String, Failure> {
    let output = Command::new(cargo)
        .args(["tree", "-p", package, "-e", "normal", "--prefix", "depth", "--format", " {lib} {p}"])
        .arg("--manifest-path")
        .arg(manifest)
        .output()
        .map_err(|e| environment::no_cargo(&e))?;
    Ok(project(&dependencies(&String::from_utf8_lossy(&output.stdout)), messages, sysroot).to_string())
}

/// Stands for the folder of the workspace in a description that is kept: an image serves every clone with the same
/// files, also after the one that it was built from has moved or gone.
const PLACE: &str = "$WORKSPACE";

/// The description without the place of `workspace`.
pub fn without_place(description: &str, workspace: &Path) -> String {
    replaced(description, &in_json(workspace), PLACE)
}

/// The description for `workspace`.
pub fn at_place(description: &str, workspace: &Path) -> String {
    replaced(description, PLACE, &in_json(workspace))
}

/// Another folder for `from`, and for what lies in it.
fn replaced(description: &str, from: &str, to: &str) -> String {
    let below = description.replace(&format!("\"{from}/"), &format!("\"{to}/"));
    below.replace(&format!("\"{from}\""), &format!("\"{to}\""))
}

/// A path as a string of JSON has it, without quotes.
fn in_json(folder: &Path) -> String {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    json!(folder).to_string().trim_matches('"').to_string()
}

/// The lines of `cargo tree` as a graph: the crates, root first, and what each names.
fn dependencies(tree: &str) -> Vec<(Key, BTreeSet<Key>)> {
    let mut crates: Vec<(Key, BTreeSet<Key>)> = Vec::new();
    let mut above: Vec<usize> = Vec::new();
    for line in tree.lines() {
        let mut words = line.split_whitespace();
        let (Some(depth), Some(name), Some(version)) =
            (words.next().and_then(|n| n.parse::<usize>().ok()), words.next(), words.nth(1))
        else {
            continue;
        };
        let key = (name.to_string(), version.trim_start_matches('v').to_string());
        above.truncate(depth);
        if let Some((_, named)) = above.last().and_then(|parent| crates.get_mut(*parent)) {
            named.insert(key.clone());
        }
        let index = crates.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
            crates.push((key, BTreeSet::new()));
            crates.len() - 1
        });
        above.push(index);
    }
    crates
}

/// One library as cargo built it.
struct Built {
    root: PathBuf,
    edition: String,
    features: BTreeSet<String>,
    is_proc_macro: bool,
    package: String,
    manifest: PathBuf,
}

fn project(crates: &[(Key, BTreeSet<Key>)], messages: &str, sysroot: &Path) -> Value {
    let messages: Vec<Value> = messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let mut built: BTreeMap<Key, Built> = BTreeMap::new();
    for message in messages.iter().filter(|message| message["reason"] == "compiler-artifact") {
        if let Some((key, one)) = library(message) {
            let features = one.features.clone();
            built.entry(key).or_insert(one).features.extend(features);
        }
    }
    let needed = needed(crates, &built);
    let known: Vec<&(Key, BTreeSet<Key>)> = crates.iter().filter(|(key, _)| needed.contains(key)).collect();
    let index = |key: &Key| known.iter().position(|(other, _)| other == key);
    let described = known.iter().map(|(key, named)| {
        let one = &built[key];
        let script = messages.iter().find(|message| {
            message["reason"] == "build-script-executed" && message["package_id"] == one.package.as_str()
        });
        let deps = named.iter().filter_map(|dep| Some(json!({ "crate": index(dep)?, "name": dep.0 })));
        json!({
            "display_name": key.0,
            "version": key.1,
            "root_module": one.root,
            "edition": one.edition,
            "deps": deps.collect::<Vec<_>>(),
            "cfg": cfg(one, script),
            "env": env(key, one, script),
            "source": { "include_dirs": folders(one, script), "exclude_dirs": [] },
            "is_workspace_member": false,
            "is_proc_macro": one.is_proc_macro,
        })
    });
    let library = sysroot.join("lib/rustlib/src/rust/library");
    json!({
        "sysroot": sysroot,
        "sysroot_src": library,
        "sysroot_project": standard_library(sysroot, &library),
        "crates": described.collect::<Vec<_>>(),
    })
}

/// The standard library without what is inside it. The processors' instructions (`std::arch`) lie outside of these
/// folders and are not read: they would double rust-analyzer's memory.
fn standard_library(sysroot: &Path, library: &Path) -> Value {
    let one = |name: &str, deps: &[(usize, &str)]| {
        let folder = library.join(name).join("src");
        let deps: Vec<Value> = deps.iter().map(|(i, name)| json!({ "crate": i, "name": name })).collect();
        json!({
            "display_name": name,
            "root_module": folder.join("lib.rs"),
            "edition": "2024",
            "deps": deps,
            "cfg": [],
            "source": { "include_dirs": [folder], "exclude_dirs": [] },
            "is_workspace_member": false,
        })
    };
    let crates = [one("core", &[]), one("alloc", &[(0, "core")]), one("std", &[(0, "core"), (1, "alloc")])];
    json!({ "sysroot": sysroot, "sysroot_src": library, "crates": crates })
}

/// The crates worth reading. Looking up a method means knowing every trait of every crate, so what a crate uses only
/// inside costs seconds and hundreds of megabytes for nothing. Followed is what a crate re-exports; its other
/// dependencies, whose types may occur in signatures, are taken alone and if they are small. The first crate exists
/// to re-export: what it does not is not for cells.
fn needed<'c>(crates: &'c [(Key, BTreeSet<Key>)], built: &BTreeMap<Key, Built>) -> BTreeSet<&'c Key> {
    let mut needed = BTreeSet::new();
    let mut next: Vec<&Key> = crates.first().map(|(key, _)| key).into_iter().collect();
    let first = next.first().copied();
    while let Some(key) = next.pop() {
        let Some(one) = built.get(key) else { continue };
        needed.insert(key);
        if one.is_proc_macro {
            continue;
        }
        let source = Sources::read(one.root.parent());
        for dep in crates.iter().filter(|(other, _)| other == key).flat_map(|(_, named)| named) {
            let re_exported = source.re_exported.contains(&dep.0);
            let small = || built.get(dep).is_some_and(|one| Sources::read(one.root.parent()).bytes < SMALL);
            if re_exported && !needed.contains(dep) {
                next.push(dep);
            } else if Some(key) != first && built.contains_key(dep) && small() {
                needed.insert(dep);
            }
        }
    }
    needed
}

/// In bytes of source.
const SMALL: u64 = 250_000;

/// What the sources of a crate tell without being parsed.
#[derive(Default)]
struct Sources {
    bytes: u64,
    /// The crates, and everything else, that some `pub use` begins with.
    re_exported: BTreeSet<String>,
}

impl Sources {
    fn read(folder: Option<&Path>) -> Sources {
        let mut sources = Sources::default();
        let mut folders: Vec<PathBuf> = folder.map(Path::to_path_buf).into_iter().collect();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = std::fs::read(&path).unwrap_or_default();
                    sources.bytes += text.len() as u64;
                    sources.re_exported.extend(re_exported(&String::from_utf8_lossy(&text)));
                }
            }
        }
        sources
    }
}

/// The first names of `pub use` and `pub extern crate` declarations.
fn re_exported(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    let first_name = |path: &str| {
        let path = path.trim().trim_start_matches("::");
        let end = path.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(path.len());
        path[..end].to_string()
    };
    for start in ["pub use ", "pub extern crate "] {
        for (at, _) in source.match_indices(start) {
            let declared = source[at + start.len()..].split(';').next().unwrap_or_default();
            match declared.trim().strip_prefix('{') {
                Some(group) => names.extend(group.split(',').map(first_name)),
                None => names.push(first_name(declared)),
            }
        }
    }
    names
}

fn library(message: &Value) -> Option<(Key, Built)> {
    let target = &message["target"];
    let is = |kind: &str| target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|k| k == kind));
    if !["lib", "rlib", "dylib", "proc-macro"].iter().any(|kind| is(kind)) {
        return None;
    }
    let package = message["package_id"].as_str()?;
    let version = package.rsplit(['@', '#']).next()?;
    let features = message["features"].as_array()?.iter().filter_map(|f| f.as_str().map(str::to_string));
    let one = Built {
        root: target["src_path"].as_str()?.into(),
        edition: target["edition"].as_str()?.into(),
        features: features.collect(),
        is_proc_macro: is("proc-macro"),
        package: package.into(),
        manifest: message["manifest_path"].as_str()?.into(),
    };
    Some(((target["name"].as_str()?.replace('-', "_"), version.to_string()), one))
}

fn cfg(one: &Built, script: Option<&Value>) -> Vec<String> {
    let features = one.features.iter().map(|feature| format!("feature=\"{feature}\""));
    let set = script.and_then(|script| script["cfgs"].as_array()).into_iter().flatten();
    features.chain(set.filter_map(|cfg| cfg.as_str().map(str::to_string))).collect()
}

fn env(key: &Key, one: &Built, script: Option<&Value>) -> BTreeMap<String, Value> {
    let mut env = BTreeMap::from([
        ("CARGO_CRATE_NAME".to_string(), json!(key.0)),
        ("CARGO_PKG_VERSION".to_string(), json!(key.1)),
        ("CARGO_MANIFEST_DIR".to_string(), json!(one.manifest.parent())),
    ]);
    if let Some(script) = script {
        env.insert("OUT_DIR".into(), script["out_dir"].clone());
        for pair in script["env"].as_array().into_iter().flatten() {
            if let Some(name) = pair[0].as_str() {
                env.insert(name.into(), pair[1].clone());
            }
        }
    }
    env
}

/// What rust-analyzer reads: the crate's own folder and what its build script wrote.
fn folders(one: &Built, script: Option<&Value>) -> Vec<Value> {
    let own = one.root.parent().map(|folder| json!(folder));
    own.into_iter().chain(script.map(|script| script["out_dir"].clone())).collect()
}

/// A crate that cells can name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Crate {
    /// As Rust code writes it.
    pub name: String,
    /// As in `Cargo.lock`.
    pub version: String,
}

/// The crates that cells are meant to name: those that the first crate of the description depends on.
pub fn direct(project: &Value) -> Vec<(usize, Crate)> {
    let deps = project["crates"][0]["deps"].as_array().into_iter().flatten();
    let named = deps.filter_map(|dep| {
        let index = dep["crate"].as_u64()? as usize;
        let version = project["crates"][index]["version"].as_str()?.to_string();
        Some((index, Crate { name: dep["name"].as_str()?.to_string(), version }))
    });
    named.collect()
}

/// The description with one crate more: the session, whose only file is `root`.
pub fn with_session(mut project: Value, root: &Path) -> Value {
    let deps = direct(&project).into_iter().map(|(index, one)| json!({ "crate": index, "name": one.name }));
    let session = json!({
        "display_name": "notebook",
        "root_module": root,
        "edition": "2024",
        "deps": deps.collect::<Vec<_>>(),
        "cfg": [],
        "is_workspace_member": true,
    });
    if let Some(crates) = project["crates"].as_array_mut() {
        crates.push(session);
    }
    project
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "0 image image v0.1.0 (/w/image)\n1 libc libc v0.2.0\n1 shapes shapes v2.1.0\n2 derive derive v1.0.0 (proc-macro)\n3 syn syn v2.0.0\n2 inside inside v1.0.0\n3 deep deep v1.0.0\n2 zero zero v0.3.0\n1 zero zero v0.3.0 (*)\n";

    #[test]
    fn a_description_goes_with_the_workspace_and_leaves_other_folders_alone() {
        let at = |folder: &str| {
            json!({ "own": format!("{folder}/src/lib.rs"), "root": folder, "near": "/w/clone2/src/lib.rs" })
                .to_string()
        };
        let kept = without_place(&at("/w/clone"), Path::new("/w/clone"));
        assert!(!kept.contains("/w/clone/") && !kept.contains("/w/clone\""), "{kept}");
        assert_eq!(at_place(&kept, Path::new("/else/where")), at("/else/where"));
    }

    /// A registry with sources, and cargo's messages about them.
    fn described(folder: &Path) -> Value {
        let artifact = |id: &str, name: &str, kind: &str, source: &str, features: Value| {
            let root = folder.join(name).join("src");
            std::fs::create_dir_all(&root).unwrap();
            std::fs::write(root.join("lib.rs"), source).unwrap();
            json!({
                "reason": "compiler-artifact", "package_id": id, "manifest_path": folder.join(name).join("Cargo.toml"),
                "target": { "name": name, "kind": [kind], "src_path": root.join("lib.rs"), "edition": "2021" },
                "features": features,
            })
        };
        let script = json!({
            "reason": "build-script-executed", "package_id": "registry+x#zero@0.3.0",
            "cfgs": ["fast"], "env": [["LEVEL", "3"]], "out_dir": "/t/zero/out",
        });
        let large = format!("//{}", "x".repeat(300_000));
        let messages = [
            artifact("registry+x#zero@0.3.0", "build-script-build", "custom-build", "", json!([])),
            artifact("registry+x#zero@0.3.0", "zero", "lib", &large, json!(["std"])),
            artifact(
                "registry+x#shapes@2.1.0",
                "shapes",
                "lib",
                "pub use zero::Zero;\npub use derive::D;",
                json!([]),
            ),
            artifact("registry+x#inside@1.0.0", "inside", "lib", "pub use deep::Deep;", json!([])),
            artifact("registry+x#deep@1.0.0", "deep", "lib", &large, json!([])),
            artifact("registry+x#libc@0.2.0", "libc", "lib", "", json!([])),
            artifact("registry+x#syn@2.0.0", "syn", "lib", "", json!([])),
            artifact("registry+x#derive@1.0.0", "derive", "proc-macro", "pub use syn::x;", json!([])),
            artifact("path+file:///w/image#0.1.0", "image", "dylib", "pub use {shapes, zero};", json!([])),
            script,
        ];
        let messages = messages.map(|message| message.to_string()).join("\n");
        project(&dependencies(TREE), &messages, Path::new("/sysroot"))
    }

    #[test]
    fn what_is_re_exported_is_followed_and_what_is_inside_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let project = described(folder.path());
        let crates = project["crates"].as_array().unwrap();
        let names: Vec<&str> = crates.iter().map(|c| c["display_name"].as_str().unwrap()).collect();
        // `inside` is small, so it is there for its types, but not the large crate behind it; `libc` is not for
        // cells; a procedural macro is not run, so it needs no `syn`.
        assert_eq!(names, ["image", "shapes", "derive", "inside", "zero"]);
        let named = |i: usize| project["crates"][i]["deps"].clone();
        let dep = |i: usize| json!({ "crate": i, "name": names[i] });
        assert_eq!(named(1), json!([dep(2), dep(3), dep(4)]));
        assert_eq!((named(2), named(3)), (json!([]), json!([])));
        let direct: Vec<String> = direct(&project).into_iter().map(|(_, one)| one.name).collect();
        assert_eq!(direct, ["shapes", "zero"]);
    }

    #[test]
    fn features_and_what_a_build_script_said_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let project = described(folder.path());
        let zero = &project["crates"][4];
        assert_eq!(zero["cfg"], json!(["feature=\"std\"", "fast"]));
        assert_eq!((&zero["env"]["LEVEL"], &zero["env"]["OUT_DIR"]), (&json!("3"), &json!("/t/zero/out")));
        assert_eq!(zero["source"]["include_dirs"], json!([folder.path().join("zero/src"), "/t/zero/out"]));
    }

    #[test]
    fn re_exports_are_found_in_every_form() {
        let source =
            "pub use {a, b::c};\npub use ::d::{E, F};\nuse g;\npub extern crate h;\n    pub use i as j;";
        assert_eq!(re_exported(source), ["a", "b", "d", "i", "h"]);
    }
}
