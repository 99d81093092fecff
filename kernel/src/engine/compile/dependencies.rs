//! `:dep`: crates that a notebook asks for, beyond those of the image or in other versions than that has.

use std::collections::BTreeMap;
use std::path::Path;

use crate::base::failure::Failure;
use crate::engine::worker::interrupt::Control;
use crate::image::extension::{self, Extension, SHOWN, Trouble, Watcher};
use crate::image::{Image, Unit};

/// The crates of a session.
#[derive(Default)]
pub(in crate::engine) struct Dependencies {
    /// What was asked for and is there, by the name in front of the `=`.
    there: BTreeMap<String, toml::Value>,
    /// Of those that lie in folders, what tells an edited one.
    stamps: BTreeMap<String, u64>,
    extensions: Vec<Extension>,
}

/// What became of `:dep` lines.
pub(in crate::engine) enum Added {
    /// Everything is there already.
    Nothing,
    /// Further crates, beside those there were.
    Beside(Extension),
    /// All crates of the session anew, because these had been edited: values of the old ones can no longer be used.
    Anew(Extension, Vec<String>),
}

impl Dependencies {
    /// Makes the crates of some `:dep` lines available, building them if need be; lines about that go to `say`.
    ///
    /// `is_in_use` tells whether what the session defines may name a crate.
    pub(in crate::engine) fn add(
        &mut self,
        asked: &[String],
        image: &Image,
        control: &Control,
        is_in_use: &dyn Fn(&str) -> bool,
        say: &mut dyn FnMut(&str),
    ) -> Result<Added, Trouble> {
        let held = image.units()?;
        let mut wanted = BTreeMap::new();
        let mut edited = Vec::new();
        for line in asked {
            let (name, value) = parse(line)?;
            match self.there.get(&name) {
                Some(there) if *there == value => {
                    if self.stamps.get(&name).copied() != extension::stamp(&value)? {
                        edited.push(name);
                    }
                    continue;
                }
                Some(there) => {
                    let what = format!(
                        "`:dep {line}`: this session has `{name} = {there}` already, and a crate cannot be replaced while values of it may live"
                    );
                    let help = format!("restart the kernel, and give one `:dep` for {name}");
                    return Err(Failure::new(what, help).into());
                }
                None => {}
            }
            let code_name = name.replace('-', "_");
            let mut so_called = held.iter().filter(|unit| unit.name == code_name);
            // Of two with one name cells can name neither.
            let (Some(unit), None) = (so_called.next(), so_called.next()) else {
                wanted.insert(name, value);
                continue;
            };
            if is_held(line, &name, &value, unit)? {
                if lacks_defaults(&value, unit) {
                    say(&format!(
                        "`{code_name}` is the {} that the library takes and gives, with the features {} and without its defaults; name others (`features = [..]`) for a copy of your own",
                        unit.version,
                        unit.features.join(", ")
                    ));
                }
                continue;
            }
            if is_in_use(&code_name) {
                let what = format!(
                    "`:dep {line}`: earlier cells may use the {} {} that the kernel holds, and would mean another crate then",
                    unit.package, unit.version
                );
                let help = "restart the kernel, and give the `:dep` line first";
                return Err(Failure::new(what, help).into());
            }
            if SHOWN.contains(&code_name.as_str()) {
                say(&format!(
                    "`{code_name}` is the one asked for in this notebook's cells; onelens itself takes and gives values of {} {}, which is `onelens_image::{code_name}`",
                    unit.package, unit.version
                ));
            }
            wanted.insert(name, value);
        }
        if wanted.is_empty() && edited.is_empty() {
            return Ok(Added::Nothing);
        }
        let mut watcher = Watcher {
            say,
            working: &|process| control.compiling(process),
            interrupted: &|| control.is_interrupted(),
        };
        let mut stamps = BTreeMap::new();
        for (name, value) in wanted.iter().chain(self.there.iter().filter(|(name, _)| edited.contains(name)))
        {
            stamps.extend(extension::stamp(value)?.map(|stamp| (name.clone(), stamp)));
        }
        if edited.is_empty() {
            let extension = Extension::ensure(image, &self.extensions, &wanted, &mut watcher)?;
            self.there.extend(wanted);
            self.stamps.extend(stamps);
            self.extensions.push(extension.clone());
            return Ok(Added::Beside(extension));
        }
        let all: BTreeMap<String, toml::Value> = self.there.clone().into_iter().chain(wanted).collect();
        let extension = Extension::ensure(image, &[], &all, &mut watcher)?;
        self.there = all;
        self.stamps.extend(stamps);
        self.extensions = vec![extension.clone()];
        Ok(Added::Anew(extension, edited))
    }
}

impl Dependencies {
    /// The crates asked for, as lines.
    pub(in crate::engine) fn lines(&self) -> String {
        let lines: Vec<String> =
            self.there.iter().map(|(name, value)| format!(":dep {name} = {value}")).collect();
        if lines.is_empty() { "no crates were asked for by `:dep`".into() } else { lines.join("\n") }
    }
}

/// `name`, `name = "1.2"` or `name = { .. }`; a path counts from the working folder.
fn parse(line: &str) -> Result<(String, toml::Value), Failure> {
    let text = if line.contains('=') { line.to_string() } else { format!("{} = \"*\"", line.trim()) };
    let wrong = |why: &str| {
        Failure::new(
            format!("`:dep {line}`: {why}"),
            "write `:dep name`, `:dep name = \"1.2\"` or `:dep name = { version = \"1.2\", features = [\"f\"] }`",
        )
    };
    let table: toml::Table = toml::from_str(&text).map_err(|e| wrong(e.message()))?;
    let mut entries = table.into_iter();
    let (Some((name, mut value)), None) = (entries.next(), entries.next()) else {
        return Err(wrong("one crate belongs on a line"));
    };
    if !(value.is_str() || value.is_table()) {
        return Err(wrong("after the `=` belongs a version in quotes, or a table in braces"));
    }
    if let Some(path) = value.as_table_mut().and_then(|table| table.get_mut("path")) {
        let given = path.as_str().ok_or_else(|| wrong("a path is a text in quotes"))?;
        let whole = Path::new(given).canonicalize().map_err(|e| {
            let here = std::env::current_dir().unwrap_or_default();
            Failure::new(
                format!("`:dep {line}`: no folder {given}: {e}"),
                format!("`path` counts from the notebook's folder, {}", here.display()),
            )
        })?;
        *path = whole.to_string_lossy().into_owned().into();
    }
    Ok((name, value))
}

/// Whether the image has the crate as it is asked for; if not, the crate asked for stands beside it.
fn is_held(line: &str, name: &str, value: &toml::Value, unit: &Unit) -> Result<bool, Failure> {
    let get = |key: &str| value.get(key).and_then(toml::Value::as_str);
    let version = value.as_str().or_else(|| get("version"));
    let elsewhere = ["path", "git", "registry"].iter().any(|key| value.get(key).is_some());
    if get("package").unwrap_or(name) != unit.package
        || version.is_some_and(|v| !compatible(v, &unit.version))
        || (elsewhere && unit.from_registry)
    {
        return Ok(false);
    }
    if !unit.from_registry {
        return Ok(true);
    }
    let features = value.get("features").and_then(toml::Value::as_array).into_iter().flatten();
    let mut asked: Vec<&str> = features.filter_map(toml::Value::as_str).collect();
    // Of what the library shows, the defaults are those that it has.
    let defaults = ["default-features", "default_features"].iter().find_map(|key| value.get(key)?.as_bool());
    if defaults.unwrap_or(true) && !unit.has_no_defaults && !SHOWN.contains(&unit.name.as_str()) {
        asked.push("default");
    }
    let missing: Vec<&str> =
        asked.into_iter().filter(|feature| !unit.features.iter().any(|has| has == feature)).collect();
    // With another serde, what a cell derives would be of no use to the library and to `serde_json`.
    if !missing.is_empty() && unit.package == "serde" {
        let Unit { name, package, version, features, .. } = unit;
        return Err(Failure::new(
            format!(
                "`:dep {line}`: the kernel holds {package} {version} without the feature {}",
                missing.join(", ")
            ),
            format!(
                "its features there are: {}; a second copy with yours can stand beside it: `:dep my_{name} = {{ package = \"{package}\", .. }}`",
                features.join(", ")
            ),
        ));
    }
    Ok(missing.is_empty())
}

/// Whether somebody who names no features gets others of what the library shows than from the registry.
fn lacks_defaults(value: &toml::Value, unit: &Unit) -> bool {
    let says =
        ["features", "default-features", "default_features"].iter().any(|key| value.get(key).is_some());
    unit.from_registry
        && SHOWN.contains(&unit.name.as_str())
        && !says
        && !unit.features.is_empty()
        && !unit.features.iter().any(|feature| feature == "default")
}

/// As cargo does.
fn compatible(wanted: &str, held: &str) -> bool {
    let (wanted, held) = (semver::VersionReq::parse(wanted), semver::Version::parse(held));
    matches!((wanted, held), (Ok(wanted), Ok(held)) if wanted.matches(&held))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_agree_as_cargo_has_it() {
        assert!(compatible("0.17", "0.17.2") && compatible("1", "1.0.229") && compatible("*", "3.1.0"));
        assert!(compatible(">=0.8, <0.11", "0.10.4") && !compatible("0.15.1", "0.17.2"));
        assert!(!compatible("2", "1.0.0") && !compatible("nonsense", "1.0.0"));
    }

    #[test]
    fn lines_are_read_as_in_a_manifest() {
        assert_eq!(parse("itertools").unwrap(), ("itertools".into(), "*".into()));
        assert_eq!(parse("a-b = \"1.2\"").unwrap(), ("a-b".into(), "1.2".into()));
        let (_, table) = parse("x = { version = \"1\", features = [\"f\"] }").unwrap();
        assert_eq!(table["features"][0].as_str(), Some("f"));
        for wrong in ["x = 1", "x = { version = ", "x = { path = \"/no/such/folder\" }", "x y"] {
            let e = parse(wrong).unwrap_err();
            assert!(e.what().contains(wrong) && e.help().is_some(), "{e}");
        }
    }
}
