//! Where the cursor is. Positions count characters, as the protocol has it since 5.2.

/// The name around or before the cursor, and what stands before it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Cursor {
    /// Where the name begins.
    pub(super) start: usize,
    /// The cursor itself.
    pub(super) at: usize,
    /// The part of the name before the cursor.
    pub(super) prefix: String,
    /// The whole name.
    pub(super) name: String,
    /// Whether a `.` or `::` stands before the name: then it is no variable.
    pub(super) is_member: bool,
    /// The cursor's line, up to the cursor.
    pub(super) line: String,
}

fn in_name(c: &char) -> bool {
    c.is_alphanumeric() || *c == '_'
}

impl Cursor {
    /// The cursor at character `at`; one past the end is at the end.
    pub(super) fn new(code: &str, at: usize) -> Cursor {
        let code: Vec<char> = code.chars().collect();
        let at = at.min(code.len());
        let start = at - code[..at].iter().rev().take_while(|c| in_name(c)).count();
        let end = at + code[at..].iter().take_while(|c| in_name(c)).count();
        let line = code[..at].iter().rposition(|c| *c == '\n').map_or(0, |newline| newline + 1);
        // The two dots of a range are not followed by a member.
        let is_member = match &code[..start] {
            [.., '.', '.'] => false,
            [.., '.'] | [.., ':', ':'] => true,
            _ => false,
        };
        Cursor {
            start,
            at,
            prefix: code[start..at].iter().collect(),
            name: code[start..end].iter().collect(),
            is_member,
            line: code[line..at].iter().collect(),
        }
    }
}

/// The character to ask about when documentation is wanted at `at`: in the name at the cursor, else in the name of
/// the function or macro in whose parentheses the cursor is.
pub(super) fn subject(code: &str, at: usize) -> Option<usize> {
    let code: Vec<char> = code.chars().collect();
    let at = at.min(code.len());
    if code.get(at).is_some_and(in_name) {
        return Some(at);
    }
    if at > 0 && in_name(&code[at - 1]) {
        return Some(at - 1);
    }
    // After the `!` of a macro, or after an opening parenthesis, the cursor means its name.
    let mut depth = 0;
    for i in (0..at).rev() {
        match code[i] {
            ')' | ']' | '}' => depth += 1,
            '(' | '[' | '{' if depth > 0 => depth -= 1,
            '(' | '[' | '{' => return name_before(&code, i),
            '!' if i + 1 == at => return name_before(&code, i),
            ';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// The last character of a name that ends before `at`, with `!` or type arguments between.
fn name_before(code: &[char], mut at: usize) -> Option<usize> {
    if at > 0 && code[at - 1] == '!' {
        at -= 1;
    }
    if at > 0 && code[at - 1] == '>' {
        let mut depth = 0;
        while at > 0 {
            at -= 1;
            match code[at] {
                '>' => depth += 1,
                '<' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
        while at > 0 && code[at - 1] == ':' {
            at -= 1;
        }
    }
    (at > 0 && in_name(&code[at - 1])).then(|| at - 1)
}

/// Line and column, from 0 and in characters, of a character.
pub(super) fn line_and_column(code: &str, at: usize) -> (usize, usize) {
    let before: String = code.chars().take(at).collect();
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count(), line.chars().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(code: &str, at: usize) -> (String, usize, bool) {
        let c = Cursor::new(code, at);
        (c.name, c.start, c.is_member)
    }

    #[test]
    fn the_name_at_the_cursor_is_found_in_characters_not_bytes() {
        assert_eq!(cursor("é + alpha", 6), ("alpha".into(), 4, false));
        assert_eq!(cursor("a.len", 5), ("len".into(), 2, true));
        assert_eq!(cursor("0..len", 6), ("len".into(), 3, false));
        assert_eq!(cursor("let x: Ve", 9), ("Ve".into(), 7, false));
        assert_eq!(cursor("", 99), (String::new(), 0, false));
        assert_eq!(cursor("größe", 5), ("größe".into(), 0, false));
    }

    /// The name that documentation is given for; `|` marks the cursor.
    fn asked(code: &str) -> Option<String> {
        let at = code.chars().position(|c| c == '|').unwrap();
        let code = code.replace('|', "");
        subject(&code, at).map(|at| Cursor::new(&code, at).name)
    }

    #[test]
    fn documentation_is_about_the_name_at_the_cursor_or_about_the_call_around_it() {
        for (code, name) in [
            ("v.pu|sh", Some("push")),
            ("push|", Some("push")),
            ("v.push(|", Some("push")),
            ("v.push(1, f(2), |)", Some("push")),
            ("é(|)", Some("é")),
            ("println!|", Some("println")),
            ("println!(\"{}\", |", Some("println")),
            ("it.collect::<Vec<_>>(|", Some("collect")),
            ("f(1); |", None),
            ("1 + |", None),
            ("|", None),
        ] {
            assert_eq!(asked(code).as_deref(), name, "{code}");
        }
    }

    #[test]
    fn lines_and_columns_count_characters() {
        assert_eq!(line_and_column("é\nüx.", 5), (1, 3));
        assert_eq!(line_and_column("", 0), (0, 0));
    }
}
