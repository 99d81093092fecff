//! What is still open at the end of code: brackets, or a text or comment.

/// A bracket that is not closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Open {
    /// Where it stands.
    pub(super) at: usize,
    bracket: u8,
}

impl Open {
    pub(super) fn closing(self) -> char {
        match self.bracket {
            b'(' => ')',
            b'[' => ']',
            _ => '}',
        }
    }
}

/// What a look at the brackets finds.
pub(super) enum Scan {
    /// Brackets that are open, outermost first.
    Brackets(Vec<Open>),
    /// The end is within a string or a comment.
    InText,
    /// A bracket closes what is not open.
    Mismatch,
}

/// Brackets outside of strings, characters and comments.
pub(super) fn scan(code: &str) -> Scan {
    let bytes = code.as_bytes();
    let mut open: Vec<Open> = Vec::new();
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'/' if bytes.get(i + 1) == Some(&b'/') => i += code[i..].find('\n').unwrap_or(code.len() - i),
            b'/' if bytes.get(i + 1) == Some(&b'*') => match block_comment(bytes, i) {
                Some(end) => i = end,
                None => return Scan::InText,
            },
            b'r' if !part_of_word(bytes, i) && raw_hashes(&code[i + 1..]).is_some() => {
                let hashes = raw_hashes(&code[i + 1..]).unwrap_or_default();
                let body = i + 1 + hashes + 1;
                match code[body..].find(&format!("\"{}", "#".repeat(hashes))) {
                    Some(end) => i = body + end + 1 + hashes,
                    None => return Scan::InText,
                }
            }
            b'"' => match string_end(bytes, i + 1) {
                Some(end) => i = end,
                None => return Scan::InText,
            },
            b'\'' => i = after_quote(code, i),
            bracket @ (b'(' | b'[' | b'{') => {
                open.push(Open { at: i, bracket });
                i += 1;
            }
            bracket @ (b')' | b']' | b'}') => {
                if open.pop().map(Open::closing) != Some(char::from(bracket)) {
                    return Scan::Mismatch;
                }
                i += 1;
            }
            _ => i += 1,
        }
    }
    Scan::Brackets(open)
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

/// The place after a character literal, or after the quote of a lifetime.
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
