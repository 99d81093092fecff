//! Lines that begin with a colon: the commands of Rust notebooks.

use crate::image::Image;

/// One command line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Command {
    Vars,
    Help,
    Opt(String),
    Dep(String),
    Unknown(String),
}

/// Takes the commands off the top of a cell. The code keeps its line numbers.
pub(super) fn split(code: &str) -> (Vec<Command>, String) {
    let mut commands = Vec::new();
    let mut rest = String::with_capacity(code.len());
    let mut at_top = true;
    for line in code.split_inclusive('\n') {
        let text = line.trim();
        if at_top && is_command(text) {
            commands.push(parse(text));
            rest.extend(line.ends_with('\n').then_some('\n'));
            continue;
        }
        at_top &= text.is_empty() || text.starts_with("//");
        rest.push_str(line);
    }
    (commands, rest)
}

/// The code of a cell alone.
pub(crate) fn without_commands(code: &str) -> String {
    split(code).1
}

fn is_command(line: &str) -> bool {
    line.strip_prefix(':').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic()))
}

fn parse(line: &str) -> Command {
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim().to_string();
    match name {
        ":vars" => Command::Vars,
        ":help" => Command::Help,
        ":opt" => Command::Opt(rest),
        ":dep" => Command::Dep(rest),
        _ => Command::Unknown(name.to_string()),
    }
}

pub(super) const HELP: &str = "\
:vars              the variables and their types
:opt 0 .. 3        how much the following cells are optimised; 0 compiles fastest
:dep name = \"..\"   accepted for crates that are there already: onelens, ndarray, plotters, rayon, serde, ..
:help              this text
A last line without `;` is shown: through `evcxr_display` if its type has that, else through `Debug`.
`?` ends the cell with the error. Interrupting keeps all variables.";

/// The commands with what they do, for completion.
pub(crate) fn names() -> Vec<(&'static str, &'static str)> {
    let commands = HELP.lines().filter(|line| line.starts_with(':'));
    commands
        .filter_map(|line| line.split_once(char::is_whitespace))
        .map(|(n, help)| (n, help.trim()))
        .collect()
}

/// The level that `:opt` asks for; without one, stock notebooks mean 2.
pub(super) fn opt_level(asked: &str) -> Result<String, String> {
    match asked {
        "" => Ok("2".into()),
        "0" | "1" | "2" | "3" | "s" | "z" => Ok(asked.into()),
        _ => Err(format!(
            "`:opt {asked}` is not a level of optimisation\nhelp: `:opt 0`, `:opt 1`, `:opt 2` or `:opt 3`"
        )),
    }
}

/// `:dep` for a crate that the image holds does nothing, so that notebooks run on other kernels too.
pub(super) fn dep(asked: &str, image: &Image) -> Result<(), String> {
    let (name, value) = asked.split_once('=').map_or((asked, ""), |(name, value)| (name, value.trim()));
    let name = name.trim().trim_matches('"').replace('-', "_");
    let held = image.crates().iter().find(|one| one.name == name);
    let names = ["onelens", "ndarray", "plotters", "rayon", "serde", "serde_json"].join(", ");
    let Some(held) = held else {
        return Err(format!(
            "`:dep {asked}`: this kernel cannot add crates to a notebook yet\nhelp: the crates that are there without `:dep` are {names}"
        ));
    };
    match version_of(value) {
        Some(wanted) if !compatible(&wanted, &held.version) => Err(format!(
            "`:dep {asked}`: the kernel holds {name} {}, and a notebook can have only one version\nhelp: remove the line, or ask for \"{}\"",
            held.version, held.version
        )),
        _ => Ok(()),
    }
}

/// The version in `"0.17"` or `{ version = "0.17", .. }`; none in `{ path = ".." }`.
fn version_of(value: &str) -> Option<String> {
    let text = match value.strip_prefix('{') {
        Some(table) => table.split("version").nth(1)?,
        None => value,
    };
    let quoted = text.split('"').nth(1)?;
    Some(quoted.trim_start_matches(['^', '=', '~', '>', '<', ' ', 'v']).to_string())
}

/// As cargo does: the first number that is not 0 must agree.
fn compatible(wanted: &str, held: &str) -> bool {
    let wanted: Vec<&str> = wanted.split('.').collect();
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
    fn commands_are_taken_off_the_top_and_lines_keep_their_numbers() {
        let (commands, code) = split("// first\n:dep ndarray = \"0.17\"\nlet x = 1;\n:vars\n");
        assert_eq!(commands, [Command::Dep("ndarray = \"0.17\"".into())]);
        assert_eq!(code, "// first\n\nlet x = 1;\n:vars\n");
    }

    #[test]
    fn versions_agree_as_cargo_has_it() {
        assert!(compatible("0.17", "0.17.2") && compatible("1", "1.0.229") && compatible("*", "3.1"));
        assert!(!compatible("0.15.1", "0.17.2") && !compatible("2", "1.0"));
    }
}
