//! Markdown cells as HTML. HTML inside Markdown is shown as text; formulas are shown as they were written. A picture
//! that would have to be fetched is a link, as a page fetches nothing.

use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd, html};
use serde_json::Value;

use super::highlight;
use crate::base::html::escape;
use crate::notebook::text_of;

fn parser(source: &str) -> Parser<'_> {
    Parser::new_ext(
        source,
        Options::ENABLE_TABLES
            | Options::ENABLE_STRIKETHROUGH
            | Options::ENABLE_FOOTNOTES
            | Options::ENABLE_TASKLISTS
            | Options::ENABLE_MATH,
    )
}

/// The HTML of one cell; `attachments` are the images that the cell carries.
pub(super) fn to_html(source: &str, attachments: &Value) -> String {
    let mut events = Vec::new();
    // Inside a fenced block of Rust: its text so far.
    let mut rust: Option<String> = None;
    // The pictures that are open, each with whether it is a link instead, and whether a link is around them.
    let (mut pictures, mut in_link) = (Vec::new(), false);
    for event in parser(source) {
        if let Some(code) = &mut rust {
            match event {
                Event::Text(text) => code.push_str(&text),
                Event::End(TagEnd::CodeBlock) => {
                    let block = format!("<pre><code>{}</code></pre>\n", highlight::to_html(code));
                    events.push(Event::Html(block.into()));
                    rust = None;
                }
                _ => {}
            }
            continue;
        }
        events.push(match event {
            Event::Start(Tag::CodeBlock(kind)) if is_rust(&kind) => {
                rust = Some(String::new());
                continue;
            }
            Event::Html(text) | Event::InlineHtml(text) => Event::Text(text),
            Event::InlineMath(text) => {
                Event::Html(format!("<code class=\"math\">{}</code>", escape(&text)).into())
            }
            Event::DisplayMath(text) => {
                Event::Html(format!("<code class=\"math display\">{}</code>", escape(text.trim())).into())
            }
            Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
                in_link = true;
                Event::Start(Tag::Link { link_type, dest_url: page_of(harmless(dest_url)), title, id })
            }
            Event::End(TagEnd::Link) => {
                in_link = false;
                Event::End(TagEnd::Link)
            }
            Event::Start(Tag::Image { link_type, dest_url, title, id }) => {
                let remote = is_remote(&dest_url);
                pictures.push(remote);
                match (remote, in_link) {
                    (true, true) => continue,
                    (true, false) => {
                        Event::Start(Tag::Link { link_type, dest_url: harmless(dest_url), title, id })
                    }
                    (false, _) => {
                        let dest_url = attached(&dest_url, attachments).unwrap_or(dest_url);
                        Event::Start(Tag::Image { link_type, dest_url, title, id })
                    }
                }
            }
            Event::End(TagEnd::Image) => match (pictures.pop(), in_link) {
                (Some(true), true) => continue,
                (Some(true), false) => Event::End(TagEnd::Link),
                _ => Event::End(TagEnd::Image),
            },
            other => other,
        });
    }
    let mut out = String::new();
    html::push_html(&mut out, events.into_iter());
    out
}

/// The text of the first heading.
pub(super) fn first_heading(source: &str) -> Option<String> {
    let mut title: Option<String> = None;
    for event in parser(source) {
        match (&mut title, event) {
            (None, Event::Start(Tag::Heading { .. })) => title = Some(String::new()),
            (Some(_), Event::End(TagEnd::Heading(_))) => break,
            (Some(title), Event::Text(t) | Event::Code(t) | Event::InlineHtml(t) | Event::InlineMath(t)) => {
                title.push_str(&t);
            }
            _ => {}
        }
    }
    title.map(|t| t.trim().to_string()).filter(|t| !t.is_empty())
}

fn is_rust(kind: &pulldown_cmark::CodeBlockKind<'_>) -> bool {
    match kind {
        pulldown_cmark::CodeBlockKind::Fenced(info) => {
            matches!(info.split([',', ' ']).next(), Some("rust" | "rs"))
        }
        pulldown_cmark::CodeBlockKind::Indented => false,
    }
}

/// The target of a link unless following it would run something.
fn harmless(target: CowStr<'_>) -> CowStr<'_> {
    let scheme: String = target
        .chars()
        .take_while(|c| *c != ':')
        .filter(|c| !c.is_whitespace() && !c.is_control())
        .collect::<String>()
        .to_ascii_lowercase();
    if matches!(scheme.as_str(), "javascript" | "vbscript" | "data") { CowStr::Borrowed("#") } else { target }
}

/// Whether a picture lies on another machine.
fn is_remote(target: &str) -> bool {
    let target = target.trim_start().to_ascii_lowercase();
    ["http:", "https:", "ftp:", "//"].iter().any(|start| target.starts_with(start))
}

/// A link to a notebook of the same collection leads from a page to its page.
fn page_of(target: CowStr<'_>) -> CowStr<'_> {
    let (path, part) = target.split_at(target.find(['#', '?']).unwrap_or(target.len()));
    match path.strip_suffix(".ipynb") {
        Some(stem) if !path.contains(':') => format!("{stem}.html{part}").into(),
        Some(_) | None => target,
    }
}

/// `attachment:name` as a data address.
fn attached<'a>(target: &str, attachments: &Value) -> Option<CowStr<'a>> {
    let bundle = attachments.get(target.strip_prefix("attachment:")?)?.as_object()?;
    let (mime, base64) = bundle.iter().find(|(mime, _)| mime.starts_with("image/"))?;
    let base64: String = text_of(base64).split_whitespace().collect();
    Some(format!("data:{mime};base64,{base64}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_stay_readable_and_rust_is_coloured() {
        let html = to_html("$a < b$\n\n```rust\nlet x = 1;\n```\n", &Value::Null);
        assert!(html.contains("<code class=\"math\">a &lt; b</code>"), "{html}");
        assert!(html.contains("<span class=\"k\">let</span>"), "{html}");
    }

    #[test]
    fn a_link_to_another_notebook_leads_to_its_page() {
        let html =
            to_html("[a](08_b.ipynb) [c](../d.ipynb#e) [f](https://x.org/g.ipynb) [h](i.md)", &Value::Null);
        for link in ["\"08_b.html\"", "\"../d.html#e\"", "\"https://x.org/g.ipynb\"", "\"i.md\""] {
            assert!(html.contains(link), "{html}");
        }
    }

    #[test]
    fn a_picture_from_elsewhere_is_a_link_and_one_that_is_there_a_picture() {
        let html = to_html(
            "![far](https://x.org/a.png \"t\") ![near](b.png) [![badge](//x.org/c.svg)](https://y.org)",
            &Value::Null,
        );
        assert!(html.contains("<a href=\"https://x.org/a.png\" title=\"t\">far</a>"), "{html}");
        assert!(html.contains("<img src=\"b.png\" alt=\"near\" />"), "{html}");
        assert!(html.contains("<a href=\"https://y.org\">badge</a>"), "{html}");
        assert_eq!(html.matches("<img").count(), 1, "{html}");
    }

    #[test]
    fn links_that_would_run_something_lead_nowhere() {
        let html = to_html("[a](javascript:alert) [b](java&#10;script:x) [c](https://x.org)", &Value::Null);
        assert!(!html.contains("javascript") && html.contains("https://x.org"), "{html}");
    }
}
