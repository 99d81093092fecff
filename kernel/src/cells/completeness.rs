//! Whether Enter should run what is typed, or give it another line.

use super::open::{Open, Scan, scan};
use syn::parse::Parser;

/// Whether code is a whole cell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Completeness {
    /// It can be run.
    Complete,
    /// Something that was begun is not finished.
    Incomplete {
        /// White space for the next line.
        indent: String,
    },
    /// No further line can make it right.
    Invalid,
}

/// Whether `code` is a whole cell.
///
/// ```
/// use onelens_kernel::cells::{Completeness, completeness};
/// assert_eq!(completeness("let x = 1;"), Completeness::Complete);
/// assert_eq!(completeness("fn f() {"), Completeness::Incomplete { indent: "    ".into() });
/// assert_eq!(completeness("let = ;"), Completeness::Invalid);
/// ```
pub fn completeness(code: &str) -> Completeness {
    // A question, which is no Rust.
    if code.trim_start().starts_with('?') {
        return Completeness::Complete;
    }
    let code = super::commands::without_commands(code);
    let answer = match scan(&code) {
        // Another line would become part of the text.
        Scan::InText => Completeness::Incomplete { indent: String::new() },
        Scan::Mismatch => Completeness::Invalid,
        Scan::Brackets(open) => judge(&code, &open),
    };
    proc_macro2::extra::invalidate_current_thread_spans();
    answer
}

/// The attributes and statements of a cell.
pub(crate) fn whole(input: syn::parse::ParseStream) -> syn::Result<(Vec<syn::Attribute>, Vec<syn::Stmt>)> {
    Ok((syn::Attribute::parse_inner(input)?, syn::Block::parse_within(input)?))
}

/// Closes what is open and lets the parser say where it stumbles: at the end something is missing, before the end
/// something is wrong.
fn judge(code: &str, open: &[Open]) -> Completeness {
    let closed: String = open.iter().rev().map(|one| one.closing()).collect();
    // A comment at the end must not swallow what closes.
    let text = format!("{}\n{closed}", code.trim_end());
    let end = code.trim_end().len();
    match whole.parse_str(&text) {
        Ok(_) if open.is_empty() => Completeness::Complete,
        Ok(_) => Completeness::Incomplete { indent: inside(code, open) },
        Err(error) if !missing_at(&error, end) => Completeness::Invalid,
        Err(_) if open.is_empty() => Completeness::Incomplete { indent: continued(code) },
        Err(_) => Completeness::Incomplete { indent: inside(code, open) },
    }
}

/// Whether the parser ran out of input at byte `end`.
fn missing_at(error: &syn::Error, end: usize) -> bool {
    let range = error.span().byte_range();
    // Without input left there is no place to point at, and the span is that of the macro that does not exist.
    error.to_string().contains("end of input") || range.start >= end || range == (0..0)
}

/// White space for a line within the innermost bracket that is open.
fn inside(code: &str, open: &[Open]) -> String {
    let at = open.last().map_or(0, |one| one.at);
    let line = code[..at].rfind('\n').map_or(0, |newline| newline + 1);
    format!("{}    ", indent_of(&code[line..]))
}

/// White space for a line that goes on with the last one; what an attribute or a comment is about stands below it.
fn continued(code: &str) -> String {
    let last = code.trim_end().lines().last().unwrap_or_default();
    let about_the_next = last.trim_start().starts_with("#[") || last.trim_start().starts_with("//");
    let goes_on = last.trim_start().starts_with('.');
    format!("{}{}", indent_of(last), if about_the_next || goes_on { "" } else { "    " })
}

fn indent_of(line: &str) -> &str {
    &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: &str) -> String {
        match completeness(code) {
            Completeness::Complete => "complete".into(),
            Completeness::Incomplete { indent } => format!("more{}", indent.len()),
            Completeness::Invalid => "invalid".into(),
        }
    }

    #[track_caller]
    fn all(answers: &[(&str, &str)]) {
        for (code, expected) in answers {
            assert_eq!(answer(code), *expected, "{code}");
        }
    }

    #[test]
    fn whole_cells_are_complete() {
        all(&[
            ("", "complete"),
            ("\n\n", "complete"),
            ("1 + 1", "complete"),
            ("let x = 1;", "complete"),
            ("let x = 1;\nx", "complete"),
            ("fn f<'a>(x: &'a str) {}", "complete"),
            ("if a { 1 } else { 2 }", "complete"),
            ("a?", "complete"),
            ("f().await?", "complete"),
            ("#[derive(Debug)]\nstruct S;", "complete"),
            ("loop {}", "complete"),
            ("vec![1, 2]", "complete"),
            ("println!(\"{}\", 1)", "complete"),
            ("macro_rules! m { () => {} }", "complete"),
        ]);
    }

    #[test]
    fn commands_and_questions_are_complete() {
        all(&[
            (":vars", "complete"),
            (":dep ndarray = { version = \"0.17\" }", "complete"),
            (":dep a\n:dep b\nlet x = 1;", "complete"),
            (":dep a\nlet x =", "more4"),
            ("?x", "complete"),
            ("??Vec::push", "complete"),
        ]);
    }

    #[test]
    fn text_is_not_taken_for_code() {
        all(&[
            ("let c = '{';", "complete"),
            ("'\\''", "complete"),
            ("b'('", "complete"),
            ("'\\u{7b}'", "complete"),
            ("\"\\\"(\"", "complete"),
            ("\"(\\\\\"", "complete"),
            ("// (", "complete"),
            ("/* ( */ 1", "complete"),
            ("/* /* */ ( */ 1", "complete"),
            ("1 // \"", "complete"),
            ("r#\"(\"#", "complete"),
            ("r##\"\"# (\"##", "complete"),
            ("br\"\\\"", "complete"),
            ("c\"(\"", "complete"),
            ("let r#fn = 1;", "complete"),
            ("let var = \"a\";", "complete"),
            ("'outer: loop { break 'outer; }", "complete"),
        ]);
    }

    #[test]
    fn open_text_and_comments_want_more_and_no_indent() {
        all(&[
            ("let s = \"a", "more0"),
            ("fn f() {\n    let s = \"a", "more0"),
            ("/* a", "more0"),
            ("/* /* */", "more0"),
            ("r#\"a\"", "more0"),
            ("\"a\\", "more0"),
        ]);
    }

    #[test]
    fn open_brackets_want_more_indented_below_their_line() {
        all(&[
            ("fn f() {", "more4"),
            ("fn f() {\n    if x {", "more8"),
            ("fn f() {\n    g();", "more4"),
            ("items.iter().map(|x| {", "more4"),
            ("match x {\n    1 => 2,", "more4"),
            ("match x {\n    1 =>", "more4"),
            ("f(1,", "more4"),
            ("f(\n    1,\n    g(", "more8"),
            ("let v = vec![", "more4"),
            ("let t: (u8,", "more4"),
            ("struct S {\n    a: u8,", "more4"),
            ("fn f() { // {", "more4"),
            ("macro_rules! m {", "more4"),
            ("println!(\"{}\",", "more4"),
            ("#[derive(", "more4"),
            ("if a { 1 } else {", "more4"),
        ]);
    }

    #[test]
    fn what_stops_in_the_middle_wants_more() {
        all(&[
            ("let x =", "more4"),
            ("let x", "more4"),
            ("let x = 1 +", "more4"),
            ("a &&", "more4"),
            ("let x: Vec<", "more4"),
            ("let x: Vec<u8", "more4"),
            ("Vec::<", "more4"),
            ("x.iter().", "more4"),
            ("x\n    .iter().", "more4"),
            ("let f = |x|", "more4"),
            ("let f = |x", "more4"),
            ("let f = move", "more4"),
            ("fn f()", "more4"),
            ("fn f() ->", "more4"),
            ("struct", "more4"),
            ("impl S", "more4"),
            ("impl<T: Clone", "more4"),
            ("use std::", "more4"),
            ("use std::fs", "more4"),
            ("if x", "more4"),
            ("if a { 1 } else", "more4"),
            ("match x", "more4"),
            ("for i in", "more4"),
            ("unsafe", "more4"),
            ("x as", "more4"),
            ("!", "more4"),
            ("&mut", "more4"),
            ("println!", "more4"),
            ("macro_rules! m", "more4"),
        ]);
    }

    #[test]
    fn an_attribute_or_a_doc_comment_wants_its_item() {
        all(&[
            ("#[derive(Debug)]", "more0"),
            ("#[derive(Debug)]\n#[allow(unused)]", "more0"),
            ("/// What it is.", "more0"),
            ("#[test]\n// why", "more0"),
            ("    #[inline]", "more4"),
        ]);
    }

    #[test]
    fn what_no_line_can_repair_is_invalid() {
        all(&[
            ("fn f( }", "invalid"),
            (")", "invalid"),
            ("let = 1;", "invalid"),
            ("let = (", "invalid"),
            ("1 2", "invalid"),
            ("let x = = 1;", "invalid"),
            ("match x { 1 => => ", "invalid"),
            ("fn f() { let 1 2", "invalid"),
            ("struct 1", "invalid"),
            ("a b (", "invalid"),
        ]);
    }
}
