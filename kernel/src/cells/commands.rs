//! Lines that begin with a colon or an exclamation mark: the commands of Rust notebooks.

use super::Bundle;
use crate::base::failure::Failure;
use std::collections::BTreeMap;

/// One command line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    Vars,
    Help,
    Opt(String),
    Dep(String),
    Type(String),
    Explain(String),
    LastErrorJson,
    Toolchain(String),
    ShowDeps,
    Timing,
    Env(String),
    /// How values are shown that have no way of their own.
    Fmt(String),
    /// How errors are shown that `?` ends a cell with.
    ErrorFmt(String),
    Clear,
    Version,
    Shell(String),
    /// A setting of stock evcxr's that has nothing to set here.
    Setting(String),
    Unknown(String),
}

/// Takes the commands off the top of a cell. The code keeps its line numbers.
pub(crate) fn split(code: &str) -> (Vec<Command>, String) {
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

/// As in evcxr, `!` at the top of a cell calls the shell; to negate there, write `!(..)`.
fn is_command(line: &str) -> bool {
    let followed_by = |c: char| c.is_ascii_alphabetic();
    line.strip_prefix(':').is_some_and(|rest| rest.starts_with(followed_by))
        || line.strip_prefix('!').is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['(', '=']))
}

fn parse(line: &str) -> Command {
    if let Some(shell) = line.strip_prefix('!') {
        return Command::Shell(shell.trim().to_string());
    }
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim().to_string();
    match name {
        ":vars" => Command::Vars,
        ":help" => Command::Help,
        ":opt" => Command::Opt(rest),
        ":dep" => Command::Dep(rest),
        ":type" | ":t" => Command::Type(rest),
        ":explain" => Command::Explain(rest),
        ":last_error_json" => Command::LastErrorJson,
        ":toolchain" => Command::Toolchain(rest),
        ":show_deps" => Command::ShowDeps,
        ":timing" => Command::Timing,
        ":env" => Command::Env(rest),
        ":fmt" => Command::Fmt(rest),
        ":efmt" => Command::ErrorFmt(rest),
        ":clear" => Command::Clear,
        ":version" => Command::Version,
        _ if SETTINGS.contains(&name) => Command::Setting(name.to_string()),
        _ => Command::Unknown(name.to_string()),
    }
}

/// How stock evcxr builds and shows; notebooks that came from there may set it and run on.
const SETTINGS: [&str; 10] = [
    ":allow_static_linking",
    ":cache",
    ":codegen_backend",
    ":linker",
    ":load_config",
    ":offline",
    ":preserve_vars_on_panic",
    ":sccache",
    ":time_passes",
    ":types",
];

/// What to say about `:type` of what is no variable.
pub(crate) fn no_variable<'n>(name: &str, there: impl Iterator<Item = &'n String>) -> Failure {
    let there: Vec<&str> = there.map(String::as_str).collect();
    let there = if there.is_empty() { "there are none yet".into() } else { there.join(", ") };
    Failure::new(
        format!("`:type {name}`: there is no variable of that name"),
        format!("the variables: {there}"),
    )
}

/// What rustc has to say about one of its errors.
pub(crate) fn explanation(code: Option<&str>, rustc: &std::path::Path) -> Result<String, Failure> {
    let Some(code) = code else {
        return Err(Failure::new(
            "no cell has failed yet with an error that has a code",
            "`:explain E0382` explains that one",
        ));
    };
    let asked = std::process::Command::new(rustc).args(["--explain", code]).output();
    let text = asked.map_err(|e| {
        Failure::new(format!("{} does not start: {e}", rustc.display()), "restart the kernel")
    })?;
    if !text.status.success() {
        return Err(Failure::new(
            format!("rustc knows no error `{code}`"),
            "a code is an E and four digits, as in `:explain E0382`",
        ));
    }
    Ok(String::from_utf8_lossy(&text.stdout).trim().to_string())
}

pub(crate) fn other_toolchain(asked: &str) -> Failure {
    Failure::new(
        format!("`:toolchain {asked}`: a session stays with the compiler that its library was built with"),
        format!("set RUSTUP_TOOLCHAIN={asked} for the kernel, as in its kernel.json, and restart it"),
    )
}

/// A format as `println!` takes it, for one value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Format {
    pub(crate) text: String,
    /// The trait of `std::fmt` that a value needs for it.
    pub(crate) of: &'static str,
}

/// The format that `:fmt` or `:efmt` asks for; none is the one of the beginning.
pub(crate) fn format(command: &str, asked: &str) -> Result<Option<Format>, Failure> {
    if asked.is_empty() {
        return Ok(None);
    }
    let inside = asked.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    let how = inside.and_then(|inside| if inside.is_empty() { Some("") } else { inside.strip_prefix(':') });
    // A width or a precision may be written as numbers, not as names.
    let plain = |how: &&str| how.chars().all(|c| c.is_ascii_digit() || "<^>+-#.?xXobeEp ".contains(c));
    let Some(how) = how.filter(plain) else {
        return Err(Failure::new(
            format!("`{command} {asked}` is not how one value can be shown"),
            format!("write it as for `println!`, such as `{command} {{:#?}}`"),
        ));
    };
    let of = match how.chars().last() {
        Some('?') => "Debug",
        Some('x') => "LowerHex",
        Some('X') => "UpperHex",
        Some('o') => "Octal",
        Some('b') => "Binary",
        Some('e') => "LowerExp",
        Some('E') => "UpperExp",
        Some('p') => "Pointer",
        _ => "Display",
    };
    Ok(Some(Format { text: asked.into(), of }))
}

/// `NAME=value`.
pub(crate) fn setting_of_environment(setting: &str) -> Result<(String, String), Failure> {
    let parts = setting.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
    match parts {
        Some((name, value)) if !name.is_empty() && !setting.contains('\0') => Ok((name.into(), value.into())),
        _ => Err(Failure::new(format!("`:env {setting}` sets nothing"), "write `:env NAME=value`")),
    }
}

/// What to say about a command that there is not.
pub(crate) fn unknown(name: &str) -> Failure {
    let near = names().into_iter().map(|(known, _)| known).max_by(|a, b| {
        let [a, b] = [a, b].map(|known| strsim::jaro_winkler(known, name));
        a.total_cmp(&b)
    });
    let near = near.filter(|known| strsim::jaro_winkler(known, name) > 0.8);
    let meant = near.map_or(String::new(), |known| format!("did you mean `{known}`? "));
    Failure::new(
        format!("`{name}` is not a command of this kernel"),
        format!("{meant}`:help` lists the commands"),
    )
}

pub(crate) const HELP: &str = "\
:vars              the variables and their types
:opt 0 .. 3        how much the following cells are optimised; 0 compiles fastest
:dep name = \"1.2\"  makes a crate available, as a line in Cargo.toml would; onelens, ndarray, plotters, rayon, serde are there already
:type name         the type of a variable; also `:t name`
:explain           what rustc has to say about the last error, or about another: `:explain E0382`
:last_error_json   the last errors as rustc gave them
:show_deps         the crates asked for
:fmt {:#?}         how values are shown that have no `evcxr_display`; `:fmt` alone as in the beginning, `{:?}`
:efmt {:?}         how errors are shown that end a cell by `?`; `:efmt` alone as in the beginning, `{:#}`
:env NAME=value    sets a variable of the environment, for cells and for their compiler
:timing            turns on, and off again, that each cell says how long it took
:toolchain         the compiler
:clear             forgets all variables, items and declarations
:version           of the kernel and of Rust
!command           is run by the shell, in the notebook's folder
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

/// The variables as a table, and as lines `name: type`.
pub(crate) fn variables(types: &BTreeMap<String, String>) -> Bundle {
    if types.is_empty() {
        return vec![("text/plain".into(), "no variables yet".into())];
    }
    let lines: Vec<String> = types.iter().map(|(name, ty)| format!("{name}: {ty}")).collect();
    let rows = types.iter().map(|(name, ty)| {
        let [name, ty] = [name, ty].map(|text| crate::base::html::escape(text));
        format!("<tr><td><code>{name}</code></td><td style=\"text-align:left\"><code>{ty}</code></td></tr>")
    });
    let html = format!(
        "<table><thead><tr><th>variable</th><th style=\"text-align:left\">type</th></tr></thead><tbody>{}</tbody></table>",
        rows.collect::<String>()
    );
    vec![("text/html".into(), html), ("text/plain".into(), lines.join("\n"))]
}

/// The level that `:opt` asks for; without one, stock notebooks mean 2.
pub(crate) fn opt_level(asked: &str) -> Result<String, Failure> {
    match asked {
        "" => Ok("2".into()),
        "0" | "1" | "2" | "3" | "s" | "z" => Ok(asked.into()),
        _ => Err(Failure::new(
            format!("`:opt {asked}` is not a level of optimisation"),
            "`:opt 0`, `:opt 1`, `:opt 2` or `:opt 3`",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_those_of_one_value() {
        let of = |asked: &str| format(":fmt", asked).map(|format| format.map(|format| format.of));
        for (asked, expected) in [
            ("{:#?}", "Debug"),
            ("{}", "Display"),
            ("{:8.3}", "Display"),
            ("{:#x}", "LowerHex"),
            ("{:x?}", "Debug"),
        ] {
            assert_eq!(of(asked), Ok(Some(expected)), "{asked}");
        }
        assert_eq!(of(""), Ok(None));
        for asked in ["json", "{x}", "{:?} {:?}", "{:width$}", "{", "{:?}\"); f("] {
            assert!(of(asked).unwrap_err().help().is_some(), "{asked}");
        }
    }

    #[test]
    fn an_exclamation_mark_at_the_top_calls_the_shell_except_before_a_parenthesis() {
        assert_eq!(split("!ls -l | wc\n1").0, [Command::Shell("ls -l | wc".into())]);
        assert!(split("!(a && b)").0.is_empty() && split("let x = 1;\n!x").0.is_empty());
    }

    #[test]
    fn a_mistyped_command_gets_the_nearest_name() {
        assert!(unknown(":var").to_string().contains("did you mean `:vars`?"));
        assert!(!unknown(":nonsense").to_string().contains("did you mean"), "{}", unknown(":nonsense"));
    }

    #[test]
    fn commands_are_taken_off_the_top_and_lines_keep_their_numbers() {
        let (commands, code) = split("// first\n:dep ndarray = \"0.17\"\nlet x = 1;\n:vars\n");
        assert_eq!(commands, [Command::Dep("ndarray = \"0.17\"".into())]);
        assert_eq!(code, "// first\n\nlet x = 1;\n:vars\n");
    }
}
