//! Lines that begin with a colon or an exclamation mark: the commands of Rust notebooks.

/// One command line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Command {
    Vars,
    Help,
    Opt(String),
    Dep(String),
    Clear,
    Version,
    Shell(String),
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
        ":clear" => Command::Clear,
        ":version" => Command::Version,
        _ => Command::Unknown(name.to_string()),
    }
}

pub(super) const HELP: &str = "\
:vars              the variables and their types
:opt 0 .. 3        how much the following cells are optimised; 0 compiles fastest
:dep name = \"1.2\"  makes a crate available, as a line in Cargo.toml would; onelens, ndarray, plotters, rayon, serde are there already
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exclamation_mark_at_the_top_calls_the_shell_except_before_a_parenthesis() {
        assert_eq!(split("!ls -l | wc\n1").0, [Command::Shell("ls -l | wc".into())]);
        assert!(split("!(a && b)").0.is_empty() && split("let x = 1;\n!x").0.is_empty());
    }

    #[test]
    fn commands_are_taken_off_the_top_and_lines_keep_their_numbers() {
        let (commands, code) = split("// first\n:dep ndarray = \"0.17\"\nlet x = 1;\n:vars\n");
        assert_eq!(commands, [Command::Dep("ndarray = \"0.17\"".into())]);
        assert_eq!(code, "// first\n\nlet x = 1;\n:vars\n");
    }
}
