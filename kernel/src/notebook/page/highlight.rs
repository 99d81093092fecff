//! Rust source as HTML with its words coloured: a lexer that never fails, not a parser.

use crate::base::html::escape;

const KEYWORDS: &[&str] = &[
    "as", "async", "await", "break", "const", "continue", "crate", "dyn", "else", "enum", "extern", "false",
    "fn", "for", "if", "impl", "in", "let", "loop", "match", "mod", "move", "mut", "pub", "ref", "return",
    "self", "Self", "static", "struct", "super", "trait", "true", "type", "union", "unsafe", "use", "where",
    "while",
];

/// Classes: `k` keyword, `t` type, `f` function, `m` macro, `s` text, `n` number, `c` comment, `a` attribute,
/// `l` lifetime.
pub(super) fn to_html(source: &str) -> String {
    let mut out = String::with_capacity(source.len() * 2);
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let (length, class) = token(rest, first);
        let (text, after) = rest.split_at(length);
        match class {
            Some(class) => out.push_str(&format!("<span class=\"{class}\">{}</span>", escape(text))),
            None => out.push_str(&escape(text)),
        }
        rest = after;
    }
    out
}

/// The length in bytes of the token that `rest` starts with, at least one character, and its class.
fn token(rest: &str, first: char) -> (usize, Option<&'static str>) {
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), Some("c"));
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), Some("c"));
    }
    if rest.starts_with("#[") || rest.starts_with("#![") {
        return (rest.find(']').map_or(rest.len(), |at| at + 1), Some("a"));
    }
    if let Some(length) = text_literal(rest) {
        return (length, Some("s"));
    }
    if first == '\'' {
        return quote(rest);
    }
    if first.is_ascii_digit() {
        let mut end = run(rest, |c| c.is_ascii_alphanumeric() || c == '_');
        let fraction = &rest[end..];
        if fraction.starts_with('.') && fraction[1..].starts_with(|c: char| c.is_ascii_digit()) {
            end += 1 + run(&fraction[1..], |c| c.is_ascii_alphanumeric() || c == '_');
        }
        let is_decimal = !rest.starts_with("0x") && rest[..end].ends_with(['e', 'E']);
        if is_decimal && rest[end..].starts_with(['-', '+']) {
            end += 1 + run(&rest[end + 1..], |c| c.is_ascii_alphanumeric() || c == '_');
        }
        return (end, Some("n"));
    }
    if first.is_alphabetic() || first == '_' {
        let end = run(rest, |c| c.is_alphanumeric() || c == '_');
        let (word, after) = rest.split_at(end);
        let class = if KEYWORDS.contains(&word) {
            Some("k")
        } else if after.starts_with('!') && !after.starts_with("!=") {
            Some("m")
        } else if first.is_uppercase() {
            Some("t")
        } else if after.starts_with('(') || after.starts_with("::<") {
            Some("f")
        } else {
            None
        };
        return (end, class);
    }
    (first.len_utf8(), None)
}

fn run(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|c| !belongs(c)).unwrap_or(text.len())
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// `"..."`, `b"..."`, `c"..."`, `r#"..."#` and their combinations.
fn text_literal(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|p| {
        text.strip_prefix(p).is_some_and(|t| t.starts_with('"') || (p.ends_with('r') && t.starts_with('#')))
    })?;
    let body = &text[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = run(body, |c| c == '#');
        let inside = body[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let start = text.len() - inside.len();
        return Some(inside.find(&end).map_or(text.len(), |at| start + at + end.len()));
    }
    let start = prefix.len() + 1;
    let mut escaped = false;
    for (at, c) in text[start..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(start + at + 1),
            _ => {}
        }
    }
    Some(text.len())
}

/// A character such as `'a'` or `'\n'`, else a lifetime such as `'a`.
fn quote(text: &str) -> (usize, Option<&'static str>) {
    let mut inside = text[1..].char_indices();
    match inside.next() {
        Some((_, '\\')) => {
            inside.next();
            let end = inside.find(|(_, c)| *c == '\'').map_or(text.len(), |(at, _)| at + 2);
            (end, Some("s"))
        }
        Some((_, c)) if text[1 + c.len_utf8()..].starts_with('\'') => (c.len_utf8() + 2, Some("s")),
        _ => (1 + run(&text[1..], |c| c.is_alphanumeric() || c == '_'), Some("l")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page without its tags and entities, to compare with the source.
    fn text(html: &str) -> String {
        let mut out = String::new();
        let mut inside = false;
        for c in html.chars() {
            match c {
                '<' => inside = true,
                '>' => inside = false,
                c if !inside => out.push(c),
                _ => {}
            }
        }
        out.replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&quot;", "\"")
            .replace("&#39;", "'")
            .replace("&amp;", "&")
    }

    #[test]
    fn nothing_is_lost_however_the_source_is_cut() {
        let source = "/* a /* b */ é */ fn f<'a>(x: &'a str) -> u8 { r#\"q\"#; b'\\n'; '\"'; \"\\\"\"; 1.5e3 } #[x] // z";
        for (end, _) in source.char_indices() {
            assert_eq!(text(&to_html(&source[..end])), source[..end]);
        }
    }

    #[test]
    fn words_have_their_classes() {
        assert_eq!(
            to_html("let x = Foo::new(1.0); println!(\"a\")"),
            "<span class=\"k\">let</span> x = <span class=\"t\">Foo</span>::<span class=\"f\">new</span>(\
             <span class=\"n\">1.0</span>); <span class=\"m\">println</span>!(<span class=\"s\">&quot;a&quot;</span>)"
        );
        assert_eq!(to_html("'a' 'b"), "<span class=\"s\">&#39;a&#39;</span> <span class=\"l\">&#39;b</span>");
        assert_eq!(to_html("1.5e-3f64"), "<span class=\"n\">1.5e-3f64</span>");
        assert_eq!(to_html("0..n"), "<span class=\"n\">0</span>..n");
    }
}
