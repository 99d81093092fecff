//! An executed notebook as one HTML page that needs nothing else: no network, no script, light and dark.
//!
//! HTML that a notebook holds as an output stands in the page as it is. What it could do there ends at the page's
//! `POLICY`.
//!
//! The same notebook gives the same page, byte for byte.

mod highlight;
mod markdown;

use std::fmt::Write;

use serde_json::Value;

use crate::base::ansi;
use crate::base::html::escape;
use crate::notebook::{Cell, Notebook, text_of};

/// What browsers are told a page may do: show itself and pictures that lie beside it. It runs nothing, loads nothing
/// from elsewhere, and sends nothing.
const POLICY: &str = "default-src 'none'; img-src 'self' file: data:; media-src data:; font-src data:; \
                      style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// The page. `fallback_title` is used when no cell has a heading.
pub fn render(notebook: &Notebook, fallback_title: &str) -> String {
    let title = notebook
        .cells()
        .filter(|cell| cell.kind == "markdown")
        .find_map(|cell| markdown::first_heading(&cell.source))
        .unwrap_or_else(|| fallback_title.to_string());
    let mut page = String::new();
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"generator\" content=\"onelens\">\n\
         <title>{}</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n",
        escape(&title),
        include_str!("page.css")
    );
    for cell in notebook.cells() {
        render_cell(&mut page, &cell);
    }
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn render_cell(page: &mut String, cell: &Cell<'_>) {
    match cell.kind {
        "markdown" => {
            let html = markdown::to_html(&cell.source, &cell.json["attachments"]);
            let _ = write!(page, "<section class=\"markdown\">\n{html}</section>\n");
        }
        "code" => {
            let count = cell.json["execution_count"].as_u64().map(|n| n.to_string()).unwrap_or_default();
            page.push_str("<section class=\"code\">\n");
            if !cell.source.trim().is_empty() {
                let _ = writeln!(
                    page,
                    "<div class=\"input\"><span class=\"count\">{count}</span><pre><code>{}</code></pre></div>",
                    highlight::to_html(&cell.source)
                );
            }
            for output in cell.json["outputs"].as_array().into_iter().flatten() {
                render_output(page, output);
            }
            page.push_str("</section>\n");
        }
        _ => {
            let _ = writeln!(page, "<section class=\"raw\"><pre>{}</pre></section>", escape(&cell.source));
        }
    }
}

fn render_output(page: &mut String, output: &Value) {
    match output["output_type"].as_str() {
        Some("stream") => {
            let class = if output["name"] == "stderr" { "stream stderr" } else { "stream" };
            let text = settled(&text_of(&output["text"]));
            let _ = writeln!(page, "<pre class=\"{class}\">{}</pre>", ansi::to_html(&text));
        }
        Some("error") => {
            let lines: Vec<&str> =
                output["traceback"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let mut text = lines.join("\n");
            if text.trim().is_empty() {
                let part = |name: &str| output[name].as_str().unwrap_or_default().to_string();
                text = format!("{}: {}", part("ename"), part("evalue"));
            }
            let _ = writeln!(page, "<pre class=\"error\">{}</pre>", ansi::to_html(&text));
        }
        Some("execute_result" | "display_data") => render_bundle(page, &output["data"]),
        _ => {}
    }
}

/// The richest form that a page can hold.
fn render_bundle(page: &mut String, data: &Value) {
    let get = |mime: &str| data.get(mime).map(text_of).filter(|text| !text.is_empty());
    let plain = get("text/plain").unwrap_or_default();
    if let Some(html) = get("text/html") {
        let _ = writeln!(page, "<div class=\"rich\">{html}</div>");
    } else if let Some(svg) = get("image/svg+xml") {
        // Inside HTML an SVG has no XML declaration and no document type.
        let svg = svg.find("<svg").map_or(svg.as_str(), |at| &svg[at..]);
        let _ = writeln!(page, "<div class=\"rich\">{svg}</div>");
    } else if let Some((mime, base64)) =
        ["image/png", "image/jpeg", "image/gif"].iter().find_map(|mime| Some((mime, get(mime)?)))
    {
        let base64: String =
            base64.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=')).collect();
        let _ = writeln!(
            page,
            "<div class=\"rich\"><img src=\"data:{mime};base64,{base64}\" alt=\"{}\"></div>",
            escape(plain.lines().next().unwrap_or_default())
        );
    } else if let Some(text) = get("text/markdown") {
        let _ = writeln!(page, "<div class=\"markdown\">{}</div>", markdown::to_html(&text, &Value::Null));
    } else if !plain.is_empty() {
        let _ = writeln!(page, "<pre class=\"result\">{}</pre>", ansi::to_html(&plain));
    }
}

/// Text after carriage returns have done their work: of each line, what was written last.
fn settled(text: &str) -> String {
    text.split('\n')
        .map(|line| {
            let line = line.trim_end_matches('\r');
            line.rsplit_once('\r').map_or(line, |(_, last)| last)
        })
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn page(cell: Value) -> String {
        let notebook = json!({ "cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5 });
        render(&Notebook::parse(&notebook.to_string(), "x").unwrap(), "<stem>")
    }

    fn output(output: Value) -> String {
        page(json!({ "cell_type": "code", "source": "x", "outputs": [output], "metadata": {} }))
    }

    #[test]
    fn text_from_anywhere_is_escaped() {
        let evil = "<script>alert(1)</script>";
        for html in [
            page(json!({ "cell_type": "code", "source": evil, "outputs": [] })),
            page(json!({ "cell_type": "markdown", "source": format!("{evil}\n\na {evil}\n\n# t {evil}") })),
            page(json!({ "cell_type": "raw", "source": evil })),
            output(json!({ "output_type": "stream", "name": "stdout", "text": evil })),
            output(json!({ "output_type": "error", "ename": evil, "evalue": evil, "traceback": [] })),
            output(json!({ "output_type": "error", "ename": "", "evalue": "", "traceback": [evil] })),
            output(json!({ "output_type": "display_data", "data": { "text/plain": evil } })),
            output(json!({ "output_type": "display_data", "data": { "image/png": "\"><script>" } })),
        ] {
            assert!(!html.contains("<script"), "{html}");
        }
    }

    #[test]
    fn a_page_says_first_of_all_that_it_runs_and_loads_nothing() {
        let stored = "<script>alert(1)</script><img src=\"https://x.org/seen.png\">";
        let html = output(json!({ "output_type": "display_data", "data": { "text/html": stored } }));
        let policy = html.find("<meta http-equiv=\"Content-Security-Policy\" content=\"").unwrap();
        let [head_end, first] = ["</head>", stored].map(|text| html.find(text).unwrap());
        assert!(policy < head_end && head_end < first, "{html}");
        let policy = html[policy..].split('"').nth(3).unwrap();
        assert!(policy.starts_with("default-src 'none';"), "{policy}");
        for open in ["http", "*", "script-src", "connect-src"] {
            assert!(!policy.contains(open), "{policy}");
        }
    }

    #[test]
    fn characters_that_command_a_terminal_are_left_out() {
        let text = "a\u{1b}[2J\u{8}b\u{9b}31mc\u{7}\td";
        for html in [
            output(json!({ "output_type": "stream", "name": "stdout", "text": text })),
            output(json!({ "output_type": "display_data", "data": { "text/plain": text } })),
            output(json!({ "output_type": "error", "ename": "", "evalue": "", "traceback": [text] })),
        ] {
            assert!(html.contains(">ab31mc\td</pre>"), "{html:?}");
        }
    }

    #[test]
    fn the_richest_form_is_shown() {
        let data =
            json!({ "text/plain": "plain", "image/png": "iVBO\n", "image/svg+xml": "<?xml?><svg></svg>" });
        assert!(
            output(json!({ "output_type": "display_data", "data": data }))
                .contains("<div class=\"rich\"><svg></svg>")
        );
        let data = json!({ "text/plain": "a \"b\"", "image/png": "iVBO\n" });
        assert!(
            output(json!({ "output_type": "execute_result", "data": data }))
                .contains("<img src=\"data:image/png;base64,iVBO\" alt=\"a &quot;b&quot;\">")
        );
    }

    #[test]
    fn the_title_is_the_first_heading_else_the_name() {
        let cell = json!({ "cell_type": "markdown", "source": "text\n\n## Does `one` <lens> read?\n" });
        assert!(page(cell).contains("<title>Does one &lt;lens&gt; read?</title>"), "raw HTML is text here");
        assert!(page(json!({ "cell_type": "raw", "source": "" })).contains("<title>&lt;stem&gt;</title>"));
    }

    #[test]
    fn a_carriage_return_overwrites_its_line() {
        assert_eq!(settled("1%\r2%\r3%\nend\r\n"), "3%\nend\n");
    }
}
