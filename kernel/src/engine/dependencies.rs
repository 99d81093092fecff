//! `:dep`: crates that a notebook asks for, beyond those of the image.

use std::collections::BTreeMap;
use std::path::Path;

use super::interrupt::Control;
use crate::extension::{Extension, Trouble, Watcher};
use crate::image::{Image, Unit};

/// The crates of a session.
#[derive(Default)]
pub(super) struct Dependencies {
    /// What was asked for and is there, by the name in front of the `=`.
    there: BTreeMap<String, toml::Value>,
    extensions: Vec<Extension>,
}

impl Dependencies {
    /// Makes the crates of some `:dep` lines available, building them if need be; lines about that go to `say`.
    ///
    /// Returns the new extension, if the crates were not there already.
    pub(super) fn add(
        &mut self,
        asked: &[String],
        image: &Image,
        control: &Control,
        say: &mut dyn FnMut(&str),
    ) -> Result<Option<Extension>, Trouble> {
        let held = image.units()?;
        let mut wanted = BTreeMap::new();
        for line in asked {
            let (name, value) = parse(line)?;
            if is_held(line, &name, &value, &held)? {
                continue;
            }
            match self.there.get(&name) {
                Some(there) if *there == value => continue,
                Some(there) => {
                    return Err(Trouble::Failed(format!(
                        "`:dep {line}`: this session has `{name} = {there}` already, and a crate cannot be replaced while values of it may live\nhelp: restart the kernel, and give one `:dep` for {name}"
                    )));
                }
                None => wanted.insert(name, value),
            };
        }
        if wanted.is_empty() {
            return Ok(None);
        }
        let mut watcher = Watcher {
            say,
            working: &|process| control.compiling(process),
            interrupted: &|| control.is_interrupted(),
        };
        let extension = Extension::ensure(image, &self.extensions, &wanted, &mut watcher)?;
        self.there.extend(wanted);
        self.extensions.push(extension.clone());
        Ok(Some(extension))
    }
}

/// `name`, `name = "1.2"` or `name = { .. }`; a path counts from the working folder.
fn parse(line: &str) -> Result<(String, toml::Value), String> {
    let text = if line.contains('=') { line.to_string() } else { format!("{} = \"*\"", line.trim()) };
    let wrong = |why: &str| {
        format!(
            "`:dep {line}`: {why}\nhelp: write `:dep name`, `:dep name = \"1.2\"` or `:dep name = {{ version = \"1.2\", features = [\"f\"] }}`"
        )
    };
    let table: toml::Table = toml::from_str(&text).map_err(|e| wrong(e.message()))?;
    let mut entries = table.into_iter();
    let (Some((name, mut value)), None) = (entries.next(), entries.next()) else {
        return Err(wrong("one crate belongs on a line"));
    };
    if !(value.is_str() || value.is_table()) {
        return Err(wrong("behind the `=` belongs a version in quotes, or a table in braces"));
    }
    if let Some(path) = value.as_table_mut().and_then(|table| table.get_mut("path")) {
        let given = path.as_str().ok_or_else(|| wrong("a path is a text in quotes"))?;
        let whole = Path::new(given).canonicalize().map_err(|e| {
            format!(
                "`:dep {line}`: no folder {given}: {e}\nhelp: `path` counts from the notebook's folder, {}",
                std::env::current_dir().unwrap_or_default().display()
            )
        })?;
        *path = whole.to_string_lossy().into_owned().into();
    }
    Ok((name, value))
}

/// Whether the image has the crate, as it is asked for.
fn is_held(line: &str, name: &str, value: &toml::Value, held: &[Unit]) -> Result<bool, String> {
    let code_name = name.replace('-', "_");
    let Some(unit) = held.iter().find(|unit| unit.name == code_name) else { return Ok(false) };
    let package = value.get("package").and_then(toml::Value::as_str).unwrap_or(name);
    let version = value.as_str().or_else(|| value.get("version").and_then(toml::Value::as_str));
    if package != unit.package || version.is_some_and(|v| !compatible(v, &unit.version)) {
        return Err(format!(
            "`:dep {line}`: the kernel holds {} {} under that name\nhelp: remove the line, or give the other one another name: `:dep my_{code_name} = {{ package = \"{package}\", version = .. }}`",
            unit.package, unit.version
        ));
    }
    let features = value.get("features").and_then(toml::Value::as_array).into_iter().flatten();
    let missing: Vec<&str> = features
        .filter_map(toml::Value::as_str)
        .filter(|feature| !unit.features.iter().any(|has| has == feature))
        .collect();
    if !missing.is_empty() && unit.from_registry {
        return Err(format!(
            "`:dep {line}`: the kernel holds {} {} without the feature {}\nhelp: its features there are: {}; a second copy with yours can stand beside it: `:dep my_{code_name} = {{ package = \"{package}\", .. }}`",
            unit.package,
            unit.version,
            missing.join(", "),
            if unit.features.is_empty() { "none".into() } else { unit.features.join(", ") },
        ));
    }
    Ok(true)
}

/// As cargo does: the first number that is not 0 must agree.
fn compatible(wanted: &str, held: &str) -> bool {
    let wanted: Vec<&str> =
        wanted.trim_start_matches(['^', '=', '~', '>', '<', ' ', 'v']).split('.').collect();
    let held: Vec<&str> = held.split('.').collect();
    for (want, have) in wanted.iter().zip(&held) {
        if *want == "*" {
            return true;
        }
        if want != have {
            return false;
        }
        if *want != "0" {
            return true;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_agree_as_cargo_has_it() {
        assert!(compatible("0.17", "0.17.2") && compatible("1", "1.0.229") && compatible("*", "3.1"));
        assert!(!compatible("0.15.1", "0.17.2") && !compatible("2", "1.0"));
    }

    #[test]
    fn lines_are_read_as_in_a_manifest() {
        assert_eq!(parse("itertools").unwrap(), ("itertools".into(), "*".into()));
        assert_eq!(parse("a-b = \"1.2\"").unwrap(), ("a-b".into(), "1.2".into()));
        let (_, table) = parse("x = { version = \"1\", features = [\"f\"] }").unwrap();
        assert_eq!(table["features"][0].as_str(), Some("f"));
        for wrong in ["x = 1", "x = { version = ", "x = { path = \"/no/such/folder\" }", "x y"] {
            let e = parse(wrong).unwrap_err();
            assert!(e.contains(wrong) && e.contains("help:"), "{e}");
        }
    }
}
