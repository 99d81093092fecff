//! Documentation of a name, from what rust-analyzer shows when one hovers over it.

use serde_json::Value;

use super::Documentation;
use super::analyzer::Asking;

/// Longer definitions are cut.
const MOST_LINES: usize = 300;

/// Signature and documentation of what is asked about; with its definition, if that is wanted.
pub(super) fn inspect(asking: &Asking<'_>, with_source: bool) -> Option<Documentation> {
    let hover = asking.ask("textDocument/hover")?;
    let mut markdown = text(&hover)?.to_string();
    let is_variable = is_variable(&markdown);
    if is_variable && (markdown.contains("{unknown}") || markdown.contains(": !")) {
        return None;
    }
    // Of a variable one wants to know what its type can do.
    let of_type = is_variable.then(|| asking.ask("textDocument/typeDefinition")).flatten();
    let of_type = of_type.as_ref().and_then(first_target);
    if let Some(target) = &of_type
        && let Some(hover) =
            asking.ask_at("textDocument/hover", target.uri, &target.link["targetSelectionRange"]["start"])
        && let Some(more) = text(&hover)
    {
        markdown = format!("{markdown}\n\n---\n\n{more}");
    }
    if with_source {
        let defined = if is_variable { None } else { asking.ask("textDocument/definition") };
        let target = of_type.or_else(|| defined.as_ref().and_then(first_target));
        if let Some(source) = target.and_then(|target| source(asking, &target)) {
            markdown = format!("{markdown}\n\n---\n\n{source}");
        }
    }
    Some(Documentation { markdown: crate::cells::with_aliases(&small_headings(&markdown)) })
}

fn text(hover: &Value) -> Option<&str> {
    hover["contents"]["value"].as_str().map(str::trim).filter(|text| !text.is_empty())
}

/// A tooltip has no room for headings: they become bold lines.
fn small_headings(markdown: &str) -> String {
    let mut in_code = false;
    let mut lines = Vec::new();
    for line in markdown.lines() {
        in_code ^= line.trim_start().starts_with("```");
        let heading =
            line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#') && !in_code);
        lines.push(heading.map_or_else(|| line.to_string(), |heading| format!("**{}**", heading.trim())));
    }
    lines.join("\n")
}

fn is_variable(markdown: &str) -> bool {
    markdown.strip_prefix("```rust\n").is_some_and(|code| code.starts_with("let "))
}

struct Target<'r> {
    uri: &'r str,
    link: &'r Value,
}

fn first_target(reply: &Value) -> Option<Target<'_>> {
    let link = reply.as_array()?.first()?;
    Some(Target { uri: link["targetUri"].as_str()?, link })
}

/// The definition as a block of code with its place above.
fn source(asking: &Asking<'_>, target: &Target<'_>) -> Option<String> {
    let text = asking.read(target.uri)?;
    let range = &target.link["targetRange"];
    let (first, last) = (range["start"]["line"].as_u64()? as usize, range["end"]["line"].as_u64()? as usize);
    let mut lines: Vec<&str> = text.lines().skip(first).take(last + 1 - first.min(last)).collect();
    let left_out = lines.len().saturating_sub(MOST_LINES);
    lines.truncate(MOST_LINES);
    let indent = lines.iter().filter(|l| !l.trim().is_empty()).map(|l| l.len() - l.trim_start().len()).min();
    let mut code: String = lines
        .iter()
        .map(|line| format!("{}\n", line.get(indent.unwrap_or(0)..).unwrap_or_default()))
        .collect();
    if left_out > 0 {
        code.push_str(&format!("// .. {left_out} more lines\n"));
    }
    Some(format!("{}\n\n```rust\n{code}```", place(target.uri, first + 1)))
}

/// `ndarray-0.17.2/src/impl_methods.rs:120`, without what the machine has before it.
fn place(uri: &str, line: usize) -> String {
    let parts: Vec<&str> = uri.split('/').collect();
    match parts.iter().rposition(|part| *part == "src").filter(|at| *at > 0) {
        Some(src) => format!("Defined in `{}:{line}`:", parts[src - 1..].join("/")),
        None => "Defined in this notebook:".into(),
    }
}

/// Markdown as a terminal shows it.
pub(super) fn plain(markdown: &str) -> String {
    use pulldown_cmark::{Event, Tag, TagEnd};
    let mut out = String::new();
    let mut in_code = false;
    let mut depth = 0usize;
    for event in pulldown_cmark::Parser::new(markdown) {
        match event {
            Event::Start(Tag::CodeBlock(_)) => in_code = true,
            Event::End(TagEnd::CodeBlock) => {
                in_code = false;
                out.push('\n');
            }
            Event::Start(Tag::List(_)) => depth += 1,
            Event::End(TagEnd::List(_)) => {
                depth = depth.saturating_sub(1);
                out.push_str("\n\n");
            }
            Event::Start(Tag::Item) => {
                if !out.ends_with('\n') {
                    out.push('\n');
                }
                out.push_str(&format!("{}* ", "  ".repeat(depth.saturating_sub(1))));
            }
            Event::End(TagEnd::Paragraph | TagEnd::Heading(_)) => out.push_str("\n\n"),
            // Lines that rustdoc hides are no part of what it shows.
            Event::Text(text) if in_code => {
                out.extend(text.lines().filter(|l| !l.starts_with("# ")).map(|l| format!("{l}\n")))
            }
            Event::Text(text) | Event::Code(text) | Event::InlineHtml(text) | Event::Html(text) => {
                out.push_str(&text)
            }
            Event::SoftBreak | Event::HardBreak => out.push('\n'),
            _ => {}
        }
    }
    let mut lines: Vec<&str> = Vec::new();
    for line in out.lines().map(str::trim_end) {
        if !(line.is_empty() && lines.last().is_none_or(|last| last.is_empty())) {
            lines.push(line);
        }
    }
    lines.join("\n").trim_end().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_has_no_marks_and_keeps_code_and_lists() {
        let markdown = "```rust\npub fn f()\n```\n\n---\n\n# Panics\n\nIf [`x`](https://a.b) is *0*:\n\n* one\n* two\n\n```\nf();\n```\n";
        assert_eq!(plain(markdown), "pub fn f()\n\nPanics\n\nIf x is 0:\n\n* one\n* two\n\nf();");
    }

    #[test]
    fn headings_become_bold_lines_and_code_stays() {
        let markdown = "## Panics\n\n```\n# hidden\n#[test]\n```\n#tag";
        assert_eq!(small_headings(markdown), "**Panics**\n\n```\n# hidden\n#[test]\n```\n#tag");
    }

    #[test]
    fn places_lose_what_is_the_machines() {
        let uri = "file:///x/registry/src/index/ndarray-0.17.2/src/a/b.rs";
        assert_eq!(place(uri, 7), "Defined in `ndarray-0.17.2/src/a/b.rs:7`:");
        assert_eq!(place("file:///x/images/0/notebook.rs", 7), "Defined in this notebook:");
    }
}
