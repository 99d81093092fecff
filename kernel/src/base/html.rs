//! Text on pages.

/// Text made safe to stand in HTML, in content and in double-quoted attributes.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    pulldown_cmark_escape::escape_html(&mut out, text).expect("a String takes everything");
    out
}
