//! Whether Enter should run what is typed, or give it another line.

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
/// use onelens_kernel::engine::{Completeness, completeness};
/// assert_eq!(completeness("let x = 1;"), Completeness::Complete);
/// assert_eq!(completeness("fn f() {"), Completeness::Incomplete { indent: "    ".into() });
/// assert_eq!(completeness("let = ;"), Completeness::Invalid);
/// ```
pub fn completeness(code: &str) -> Completeness {
    let code = super::commands::without_commands(code);
    let answer = match scan(&code) {
        Scan::Open(depth) => Completeness::Incomplete { indent: "    ".repeat(depth) },
        Scan::Mismatch => Completeness::Invalid,
        Scan::Balanced => match syn::Block::parse_within.parse_str(&code) {
            Ok(_) => Completeness::Complete,
            Err(error) if at_end(&error, &code) => Completeness::Incomplete { indent: String::new() },
            Err(_) => Completeness::Invalid,
        },
    };
    proc_macro2::extra::invalidate_current_thread_spans();
    answer
}

/// Whether the parser ran out of input.
fn at_end(error: &syn::Error, code: &str) -> bool {
    let range = error.span().byte_range();
    error.to_string().contains("end of input") || range.end >= code.trim_end().len() && range.is_empty()
}

enum Scan {
    Balanced,
    /// With how many brackets open.
    Open(usize),
    Mismatch,
}

/// Brackets, strings and comments, which is all that tells whether a line can end here.
fn scan(code: &str) -> Scan {
    let bytes = code.as_bytes();
    let mut open = Vec::new();
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'/' if bytes.get(i + 1) == Some(&b'/') => i += code[i..].find('\n').unwrap_or(code.len() - i),
            b'/' if bytes.get(i + 1) == Some(&b'*') => match block_comment(bytes, i) {
                Some(end) => i = end,
                None => return Scan::Open(open.len()),
            },
            b'r' if !part_of_word(bytes, i) && raw_hashes(&code[i + 1..]).is_some() => {
                let hashes = raw_hashes(&code[i + 1..]).unwrap_or_default();
                let body = i + 1 + hashes + 1;
                match code[body..].find(&format!("\"{}", "#".repeat(hashes))) {
                    Some(end) => i = body + end + 1 + hashes,
                    None => return Scan::Open(open.len()),
                }
            }
            b'"' => match string_end(bytes, i + 1) {
                Some(end) => i = end,
                None => return Scan::Open(open.len()),
            },
            b'\'' => i = after_quote(code, i),
            b @ (b'(' | b'[' | b'{') => {
                open.push(b);
                i += 1;
            }
            b @ (b')' | b']' | b'}') => {
                let wanted = if b == b')' { b'(' } else { b - 2 };
                if open.pop() != Some(wanted) {
                    return Scan::Mismatch;
                }
                i += 1;
            }
            _ => i += 1,
        }
    }
    if open.is_empty() { Scan::Balanced } else { Scan::Open(open.len()) }
}

fn part_of_word(bytes: &[u8], i: usize) -> bool {
    // `br"` and `cr"` are raw strings too.
    let before = |n: usize| i.checked_sub(n).map(|at| bytes[at]);
    let is_word = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_' || b >= 128);
    let prefix = matches!(before(1), Some(b'b' | b'c')) && !is_word(before(2));
    is_word(before(1)) && !prefix
}

/// The number of `#` between `r` and `"`.
fn raw_hashes(after_r: &str) -> Option<usize> {
    let hashes = after_r.bytes().take_while(|b| *b == b'#').count();
    (after_r.as_bytes().get(hashes) == Some(&b'"')).then_some(hashes)
}

fn block_comment(bytes: &[u8], mut i: usize) -> Option<usize> {
    let mut depth = 0;
    while i + 1 < bytes.len() {
        match &bytes[i..i + 2] {
            b"/*" => {
                depth += 1;
                i += 2;
            }
            b"*/" => {
                depth -= 1;
                i += 2;
                if depth == 0 {
                    return Some(i);
                }
            }
            _ => i += 1,
        }
    }
    None
}

fn string_end(bytes: &[u8], mut i: usize) -> Option<usize> {
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => i += 2,
            b'"' => return Some(i + 1),
            _ => i += 1,
        }
    }
    None
}

/// Behind a character literal, or behind the quote of a lifetime.
fn after_quote(code: &str, i: usize) -> usize {
    let mut chars = code[i + 1..].char_indices();
    match chars.next() {
        Some((_, '\\')) => {
            let body = i + 3.min(code.len() - i);
            code.get(body..).and_then(|rest| rest.find('\'')).map_or(code.len(), |end| body + end + 1)
        }
        Some(_) => match chars.next() {
            Some((at, '\'')) => i + 1 + at + 1,
            _ => i + 1,
        },
        None => i + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(code: &str) -> Option<usize> {
        match completeness(code) {
            Completeness::Incomplete { indent } => Some(indent.len()),
            _ => None,
        }
    }

    #[test]
    fn whole_cells_are_complete() {
        for code in [
            "",
            "1 + 1",
            "let c = '{';",
            "// (",
            "r#\"(\"#",
            "fn f<'a>(x: &'a str) {}",
            ":vars",
            "'\\''",
            "\"\\\"(\"",
        ] {
            assert_eq!(completeness(code), Completeness::Complete, "{code}");
        }
    }

    #[test]
    fn open_brackets_strings_and_comments_want_more() {
        assert_eq!(open("fn f() { if x {"), Some(8));
        for code in ["let s = \"a", "/* a", "r#\"a\"", "let x ="] {
            assert_eq!(open(code), Some(0), "{code}");
        }
    }

    #[test]
    fn what_no_line_can_repair_is_invalid() {
        for code in ["fn f( }", ")", "let = 1;"] {
            assert_eq!(completeness(code), Completeness::Invalid, "{code}");
        }
    }
}
