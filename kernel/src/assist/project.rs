//! What rust-analyzer has to know about the crates of an image: where their sources lie, which features are on.
//!
//! It is written down when the image is built, from what cargo said then, as a
//! [`rust-project.json`](https://rust-analyzer.github.io/book/non_cargo_based_projects.html), so that no cargo runs
//! beside a notebook. Crates that cargo renames for a dependent keep their own names here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

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
) -> Result<String, String> {
    let output = Command::new(cargo)
        .args(["tree", "-p", package, "-e", "normal", "--prefix", "depth", "--format", " {lib} {p}"])
        .arg("--manifest-path")
        .arg(manifest)
        .output()
        .map_err(|e| format!("cargo does not start: {e}\nhelp: install Rust from https://rustup.rs"))?;
    Ok(project(&dependencies(&String::from_utf8_lossy(&output.stdout)), messages, sysroot).to_string())
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
    json!({
        "sysroot": sysroot,
        "sysroot_src": sysroot.join("lib/rustlib/src/rust/library"),
        "crates": described.collect::<Vec<_>>(),
    })
}

/// The crates that are reached from the first one without passing through a procedural macro: that is not run, so
/// what it is made of does not matter.
fn needed<'c>(crates: &'c [(Key, BTreeSet<Key>)], built: &BTreeMap<Key, Built>) -> BTreeSet<&'c Key> {
    let mut needed = BTreeSet::new();
    let mut next: Vec<&Key> = crates.first().map(|(key, _)| key).into_iter().collect();
    while let Some(key) = next.pop() {
        let Some(one) = built.get(key) else { continue };
        if needed.insert(key) && !one.is_proc_macro {
            next.extend(crates.iter().filter(|(other, _)| other == key).flat_map(|(_, named)| named));
        }
    }
    needed
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

    const TREE: &str = "0 image image v0.1.0 (/w/image)\n1 shapes shapes v2.1.0\n2 zero zero v0.3.0\n1 derive derive v1.0.0 (proc-macro)\n2 syn syn v2.0.0\n1 zero zero v0.3.0 (*)\n";

    fn messages() -> String {
        let artifact = |id: &str, name: &str, kind: &str, features: Value| {
            json!({
                "reason": "compiler-artifact", "package_id": id, "manifest_path": format!("/r/{name}/Cargo.toml"),
                "target": { "name": name, "kind": [kind], "src_path": format!("/r/{name}/src/lib.rs"), "edition": "2021" },
                "features": features,
            })
        };
        let script = json!({
            "reason": "build-script-executed", "package_id": "registry+x#zero@0.3.0",
            "cfgs": ["fast"], "env": [["LEVEL", "3"]], "out_dir": "/t/zero/out",
        });
        [
            artifact("registry+x#zero@0.3.0", "build-script-build", "custom-build", json!([])),
            artifact("registry+x#zero@0.3.0", "zero", "lib", json!(["std"])),
            artifact("registry+x#shapes@2.1.0", "shapes", "lib", json!([])),
            artifact("registry+x#syn@2.0.0", "syn", "lib", json!([])),
            artifact("registry+x#derive@1.0.0", "derive", "proc-macro", json!([])),
            artifact("path+file:///w/image#0.1.0", "image", "dylib", json!([])),
            script,
        ]
        .map(|message| message.to_string())
        .join("\n")
    }

    #[test]
    fn crates_name_each_other_as_cargo_tree_has_it() {
        let project = project(&dependencies(TREE), &messages(), Path::new("/sysroot"));
        let names: Vec<&str> = project["crates"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["display_name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["image", "shapes", "zero", "derive"]);
        let named = |i: usize| project["crates"][i]["deps"].clone();
        assert_eq!(named(1), json!([{ "crate": 2, "name": "zero" }]));
        assert_eq!(named(3), json!([]), "a procedural macro is not run, so it needs no `syn`");
        let direct: Vec<String> = direct(&project).into_iter().map(|(_, one)| one.name).collect();
        assert_eq!(direct, ["derive", "shapes", "zero"]);
    }

    #[test]
    fn features_and_what_a_build_script_said_are_kept() {
        let project = project(&dependencies(TREE), &messages(), Path::new("/sysroot"));
        let zero = &project["crates"][2];
        assert_eq!(zero["cfg"], json!(["feature=\"std\"", "fast"]));
        assert_eq!((&zero["env"]["LEVEL"], &zero["env"]["OUT_DIR"]), (&json!("3"), &json!("/t/zero/out")));
        assert_eq!(zero["source"]["include_dirs"], json!(["/r/zero/src", "/t/zero/out"]));
    }
}
