//! What rustc says about a cell, told about the user's own lines.

use super::generate::Generated;
use crate::base::ansi::{BLUE, BOLD, CYAN, RED, RESET, YELLOW};
use crate::base::failure::with_help;
use crate::cells::CellError;
use crate::engine::parse::report::{Mark, excerpt, lines};
use crate::engine::parse::source::{Quote, Source};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;

pub(super) fn borrowed_sentence(name: &str) -> String {
    format!("`{name}` borrows from another value, so it cannot be kept for later cells")
}

pub(super) fn borrowed_help() -> &'static str {
    "keep a value of its own (`.clone()`, `.to_owned()`, `.to_vec()`), or put the lines that need the borrow within `{ .. }`"
}

/// What to say about a variable whose type no later cell can write.
pub(in crate::engine) fn private_hint(name: &str, ty: &str) -> String {
    format!(
        "`{name}` cannot be used in a later cell: its type, {ty}, is private; annotate it if you know a public name for the type (`let {name}: .. = ..;`), or keep what you need of it in a variable of another type, in the cell that makes it"
    )
}

/// The report on a cell that does not compile. `hints` maps names to what is known about them.
pub(super) fn compile_error(
    errors: &[Value],
    generated: &Generated,
    cell: usize,
    hints: &BTreeMap<String, String>,
) -> CellError {
    let mut text = String::new();
    let mut first = None;
    // "aborting due to .." and the like have no place; they matter only when nothing else does.
    let placed: Vec<&Value> = errors.iter().filter(|e| has_spans(e)).collect();
    let shown = if placed.is_empty() { errors.iter().collect() } else { placed };
    for error in shown {
        let (message, helps) = explain(error, generated, hints);
        let code = error["code"]["code"].as_str();
        let title = code.map_or("error".to_string(), |code| format!("error[{code}]"));
        let _ = writeln!(text, "{RED}{title}{RESET}{BOLD}: {message}{RESET}");
        match (&generated.tail, cannot_show(error, generated)) {
            (Some(tail), true) => {
                let mark = Mark { at: tail.clone(), label: String::new(), primary: true };
                excerpt(&[mark], cell, &mut text);
            }
            _ => diagnostic_body(error, &generated.source, cell, &mut text),
        }
        for help in &helps {
            let _ = writeln!(text, "  {BLUE}={RESET} {CYAN}help{RESET}: {help}");
        }
        text.push('\n');
        first.get_or_insert_with(|| {
            let evalue = with_help(&message, helps.iter().map(String::as_str));
            (code.unwrap_or("CompileError").to_string(), evalue)
        });
    }
    let (ename, evalue) =
        first.unwrap_or_else(|| ("CompileError".into(), "the cell does not compile".into()));
    CellError { ename, evalue, traceback: lines(text.trim_end()) }
}

/// A warning, as text for standard error.
pub(super) fn warning(warning: &Value, source: &Source, cell: usize) -> Option<String> {
    if warning["code"]["code"] != "unused_must_use" {
        return None;
    }
    let message = warning["message"].as_str()?;
    let mut text = format!("{YELLOW}warning{RESET}{BOLD}: {message}{RESET}\n");
    diagnostic_body(warning, source, cell, &mut text);
    Some(text)
}

/// The message, in words that fit a notebook where rustc's are about generated code.
fn explain(error: &Value, generated: &Generated, hints: &BTreeMap<String, String>) -> (String, Vec<String>) {
    let message = error["message"].as_str().unwrap_or("the cell does not compile").to_string();
    let code = error["code"]["code"].as_str().unwrap_or_default();
    if cannot_show(error, generated) {
        // "`T` doesn't implement `Debug`", or "the method `evcxr_display` exists for struct `T`, but .."
        let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        let ty = quoted.iter().find(|word| **word != "evcxr_display").map_or("this value", |word| word);
        let help = "put `#[derive(Debug)]` on its type, or end the line with `;`".to_string();
        return (format!("`{ty}` cannot be shown: it has neither `Debug` nor `evcxr_display`"), vec![help]);
    }
    if matches!(code, "E0514" | "E0460" | "E0463" | "E0461") && message.contains("onelens_image") {
        let help = "restart the kernel, which builds the library anew where needed".to_string();
        return ("the Rust compiler is not the one that built the library for cells".into(), vec![help]);
    }
    // The closure is the stage that the statements run in.
    let message = match code {
        "E0267" => message.replace("inside of a closure", "outside of a loop"),
        _ => message,
    };
    let mut helps = Vec::new();
    // Where nothing says which type is wanted, rustc tries the one that no value has.
    if code == "E0277" && message.contains("`!: ") {
        helps.push("say which type is wanted, as in `let x: f64 = ..`".to_string());
        return ("type annotations needed".into(), helps);
    }
    if let Some(name) = between(&message, "`", "`")
        && matches!(code, "E0425" | "E0384" | "E0596" | "E0594")
        && let Some(hint) = hints.get(name)
    {
        helps.push(hint.clone());
    }
    helps.extend(missing_crate(error).map(|name| {
        format!("if `{name}` is a crate, begin a cell with `:dep {name} = \"*\"`, which makes it known to this notebook")
    }));
    helps.extend(two_versions(error).map(|name| {
        format!(
            "`{name}` is in this notebook twice, and a value of one is of no use to the other: make every `:dep` ask for the same version with the same features, or make the value with the crate that takes it, if that gives away its `{name}`"
        )
    }));
    (message, helps)
}

/// The crate that rustc would have one add to `Cargo.toml`.
fn missing_crate(error: &Value) -> Option<String> {
    let about = ["cargo add ", "missing a crate named", "extern crate "];
    let unresolved = matches!(error["code"]["code"].as_str(), Some("E0432" | "E0433" | "E0463"));
    let child = messages_of(error).find(|text| about.iter().any(|words| text.contains(words)))?;
    between(child, "`", "`")
        .filter(|_| unresolved)
        .map(|name| name.trim_start_matches("extern crate ").trim_end_matches(';').to_string())
}

/// The crate of which a type of one version stands where one of another is wanted.
fn two_versions(error: &Value) -> Option<String> {
    let about = ["different versions of crate", "multiple different versions"];
    let child = messages_of(error).find(|text| about.iter().any(|words| text.contains(words)))?;
    between(&child[child.find("crate `")?..], "`", "`").map(str::to_string)
}

/// What rustc says below the error itself, and at the places it points to.
fn messages_of(error: &Value) -> impl Iterator<Item = &str> {
    let children = error["children"].as_array().into_iter().flatten();
    let said = children.filter_map(|child| child["message"].as_str());
    said.chain(spans(error).filter_map(|span| span["label"].as_str()))
}

/// Whether the error is that the last value cannot be shown.
pub(super) fn cannot_show(error: &Value, generated: &Generated) -> bool {
    let Some(shown) = &generated.shown else { return false };
    let here = |span: &Value| {
        span["is_primary"] == true
            && shown.contains(&byte(span, "byte_start"))
            && origin(span, &generated.source).is_none()
    };
    matches!(error["code"]["code"].as_str(), Some("E0599" | "E0277")) && spans(error).any(here)
}

fn between<'t>(text: &'t str, open: &str, close: &str) -> Option<&'t str> {
    let rest = &text[text.find(open)? + open.len()..];
    Some(&rest[..rest.find(close)?])
}

fn has_spans(error: &Value) -> bool {
    error["spans"].as_array().is_some_and(|spans| !spans.is_empty())
}

/// The spans of a diagnostic.
pub(super) fn spans(error: &Value) -> impl Iterator<Item = &Value> {
    error["spans"].as_array().into_iter().flatten()
}

/// A byte position of a span.
pub(super) fn byte(span: &Value, key: &str) -> usize {
    span[key].as_u64().unwrap_or_default() as usize
}

/// Whether a span is in the crate of the cell; everything else that rustc names has a path.
pub(super) fn is_cells(span: &Value) -> bool {
    span["file_name"].as_str().is_some_and(|file| file.starts_with("cell") && !file.contains('/'))
}

/// What the user wrote there; a span inside of a macro is where the macro was called.
pub(super) fn origin(span: &Value, source: &Source) -> Option<Quote> {
    if is_cells(span)
        && let Some(quote) = source.origin(byte(span, "byte_start")..byte(span, "byte_end"))
    {
        return Some(quote);
    }
    span["expansion"]["span"].is_object().then(|| origin(&span["expansion"]["span"], source)).flatten()
}

fn diagnostic_body(error: &Value, source: &Source, cell: usize, text: &mut String) {
    excerpt(&marks(error, source), cell, text);
    // A notebook has no tree for cargo to show.
    let is_said =
        |child: &&Value| !child["message"].as_str().is_some_and(|said| said.contains("`cargo tree`"));
    for child in error["children"].as_array().into_iter().flatten().filter(is_said) {
        child_message(child, source, cell, text);
    }
}

fn marks(error: &Value, source: &Source) -> Vec<Mark> {
    let mark = |span: &Value| {
        let label = in_users_words(span["label"].as_str().unwrap_or_default());
        Some(Mark { at: origin(span, source)?, label, primary: span["is_primary"] == true })
    };
    spans(error).filter_map(mark).collect()
}

/// Statements run inside closures, which the user did not write.
fn in_users_words(label: &str) -> String {
    label
        .replace("variable moved due to use in closure", "value moved here")
        .replace(" occurs due to use in closure", "ed here")
        .replace("variable moved due to use in coroutine", "value moved here")
        .replace(" occurs due to use in coroutine", "ed here")
        .replace(" due to use in coroutine", "")
        .replace(" due to use in closure", "")
        .replace(" inside of a closure", " outside of a loop")
}

fn child_message(child: &Value, source: &Source, cell: usize, text: &mut String) {
    let message = child["message"].as_str().unwrap_or_default();
    let about_generated = [
        "cargo add",
        "missing a crate named",
        "onelens_image::rt",
        "__onelens",
        "onelens_cell",
        "`evcxr_display`",
        "`Show`",
        "`__Onelens",
    ];
    let in_image = |span: &Value| {
        span["file_name"]
            .as_str()
            .is_some_and(|f| f.ends_with("image/src/stage.rs") || f.ends_with("image/src/store.rs"))
    };
    if message.is_empty()
        || about_generated.iter().any(|word| message.contains(word))
        || spans(child).any(in_image)
    {
        return;
    }
    let level = child["level"].as_str().unwrap_or("note");
    let first_line = message.lines().next().unwrap_or_default();
    let _ = write!(text, "  {BLUE}={RESET} {CYAN}{level}{RESET}: {first_line}");
    let suggestions: Vec<&str> =
        spans(child).filter_map(|span| span["suggested_replacement"].as_str()).map(str::trim).collect();
    let placed: Vec<Mark> = marks(child, source);
    let is_import = suggestions.iter().all(|s| s.starts_with("use ")) && !suggestions.is_empty();
    if is_import || (!placed.is_empty() && suggestions.len() == 1 && !suggestions[0].is_empty()) {
        let shown: Vec<String> = suggestions.iter().take(4).map(|s| format!("`{s}`")).collect();
        let _ = write!(text, ": {}", shown.join(", "));
    }
    text.push('\n');
    for line in message.lines().skip(1) {
        let _ = writeln!(text, "      {line}");
    }
    if suggestions.is_empty() {
        excerpt(&placed, cell, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the contrast of the Web Content Accessibility Guidelines, which ask for 3 where letters are bold.
    #[test]
    fn colours_can_be_read_on_light_and_on_dark_grounds() {
        let light = |(r, g, b): (u8, u8, u8)| {
            let [r, g, b] = [r, g, b].map(|part| {
                let part = f64::from(part) / 255.0;
                if part <= 0.03928 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
            });
            0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05
        };
        // JupyterLab's outputs and errors, light and dark; a terminal; VS Code; the pages of `onelens convert`.
        let grounds = [
            (0xff, 0xff, 0xff),
            (0xff, 0xdd, 0xdd),
            (0x11, 0x11, 0x11),
            (0x51, 0x1f, 0x1b),
            (0, 0, 0),
            (0x1e, 0x1e, 0x1e),
            (0xfd, 0xf1, 0xf0),
            (0x2d, 0x1c, 0x1b),
        ];
        for colour in [RED, BLUE, CYAN, YELLOW] {
            let n: u8 = between(colour, "38;5;", "m").unwrap().parse().unwrap();
            let level = |i: u8| if i == 0 { 0 } else { 55 + 40 * i };
            let here = light((level((n - 16) / 36), level((n - 16) / 6 % 6), level((n - 16) % 6)));
            for ground in grounds {
                let there = light(ground);
                let contrast = here.max(there) / here.min(there);
                assert!(contrast >= 3.0, "{colour:?} on {ground:x?}: {contrast:.2}");
            }
        }
    }
}
