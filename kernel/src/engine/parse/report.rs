//! What is wrong with a cell, told on its lines: what refuses it before rustc, and how any error points at them.

use super::source::{Quote, Text};
use crate::base::ansi::{BLUE, BOLD, CYAN, RED, RESET};
use crate::base::failure::with_help;
use crate::cells::CellError;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Something to point at, with what to say there.
pub(in crate::engine) struct Mark {
    pub(in crate::engine) at: Quote,
    pub(in crate::engine) label: String,
    pub(in crate::engine) primary: bool,
}

/// An error that does not come from a diagnostic of rustc: a sentence, a remedy, and where.
pub(in crate::engine) fn refusal(what: &str, help: &str, at: &Quote) -> CellError {
    report("CompileError", what, &[help.to_string()], at, "")
}

/// What the parser found wrong.
pub(super) fn syntax(error: &syn::Error, text: &Text) -> CellError {
    let range = error.span().byte_range();
    let len = text.code.len();
    let unread = unread_at(error, text);
    let range = if let Some(character) = unread {
        range.start..range.start + character.len_utf8()
    } else if range.start == range.end || range.end > len {
        // At the end of the input the parser points nowhere.
        let end = text.code.trim_end().len();
        end.min(len)..end.min(len)
    } else {
        range
    };
    let (message, help) = unread.map_or_else(|| explain_syntax(&error.to_string()), explain_unread);
    let at = Quote { text: text.clone(), range };
    let (line, column) = at.position(at.range.start);
    let mut reported = report("SyntaxError", &message, &help, &at, "");
    let (file, line) = text.place(line);
    let of_file = file.map_or(String::new(), |name| format!("{name}, "));
    reported.evalue = format!("{message} ({of_file}line {line}, column {column})");
    reported
}

/// The character with which something begins that is none of Rust's words.
fn unread_at(error: &syn::Error, text: &Text) -> Option<char> {
    let said = error.to_string();
    let unread = said.contains("token stream") || said.contains("lex error");
    text.code.get(error.span().byte_range().start..)?.chars().next().filter(|_| unread)
}

fn explain_unread(character: char) -> (String, Vec<String>) {
    let plain = match character {
        '\u{201c}' | '\u{201d}' | '\u{201e}' | '\u{ab}' | '\u{bb}' => '"',
        '\u{2018}' | '\u{2019}' | '\u{201a}' => '\'',
        '(' | '[' | '{' => return ("this bracket is never closed".into(), vec![]),
        ')' | ']' | '}' => return ("this bracket closes none that is open".into(), vec![]),
        '"' => return ("this text never ends".into(), vec!["a text ends with a quotation mark".into()]),
        _ if character.is_ascii() => {
            return ("something begins here that Rust cannot read to its end".into(), vec![]);
        }
        _ => return (format!("the character {character} is none that Rust code has here"), vec![]),
    };
    let what = format!("{character} is a quotation mark of printed text, not of Rust");
    (what, vec![format!("write {plain} instead; word processors and web pages change it")])
}

fn explain_syntax(message: &str) -> (String, Vec<String>) {
    if message.contains("unexpected end of input") {
        let help = "something that was begun is not finished: a bracket, or a `;` after `let`".to_string();
        return (message.to_string(), vec![help]);
    }
    (message.to_string(), vec![])
}

fn report(ename: &str, what: &str, helps: &[String], at: &Quote, label: &str) -> CellError {
    let mark = Mark { at: at.clone(), label: label.to_string(), primary: true };
    let mut text = format!("{RED}error{RESET}{BOLD}: {what}{RESET}\n");
    excerpt(&[mark], at.text.cell, &mut text);
    for help in helps {
        let _ = writeln!(text, "  {BLUE}={RESET} {CYAN}help{RESET}: {help}");
    }
    let evalue = with_help(what, helps.iter().map(String::as_str));
    CellError { ename: ename.into(), evalue, traceback: lines(&text) }
}

pub(in crate::engine) fn closure_sentence(name: &str) -> String {
    format!("`{name}` is a closure, or holds one: its type has no name, so it cannot be kept for later cells")
}

pub(in crate::engine) fn closure_help(name: &str) -> String {
    format!(
        "write a function (`fn {name}(..) {{ .. }}`), box it with a type (`let {name}: Box<dyn Fn(f64) -> f64> = Box::new(..);`), or use it within `{{ .. }}`"
    )
}

/// The lines that are pointed at, each with its marks below.
pub(in crate::engine) fn excerpt(marks: &[Mark], cell: usize, text: &mut String) {
    let Some(main) = marks.iter().find(|mark| mark.primary).or(marks.first()) else { return };
    let mut texts: Vec<&Text> = vec![&main.at.text];
    for mark in marks {
        if !texts.iter().any(|text| text.is(&mark.at.text)) {
            texts.push(&mark.at.text);
        }
    }
    for one in texts {
        let here: Vec<&Mark> = marks.iter().filter(|mark| mark.at.text.is(one)).collect();
        let head = here.iter().find(|mark| mark.primary).unwrap_or(&here[0]);
        let arrow = if one.is(&main.at.text) { "-->" } else { ":::" };
        let _ = writeln!(text, " {BLUE}{arrow}{RESET} {}", place(&head.at, cell));
        excerpt_of(&here, text);
    }
}

fn excerpt_of(marks: &[&Mark], text: &mut String) {
    let mut by_line: BTreeMap<usize, Vec<&Mark>> = BTreeMap::new();
    for mark in marks {
        by_line.entry(mark.at.position(mark.at.range.start).0).or_default().push(mark);
    }
    let there = |line: usize| marks[0].at.text.place(line).1;
    let width = by_line.keys().map(|line| there(*line).to_string().len()).max().unwrap_or(1);
    let blank = format!("{:width$} {BLUE}|{RESET}", "");
    let _ = writeln!(text, "{blank}");
    let mut previous = None;
    for (line, mut marks) in by_line {
        if previous.is_some_and(|before: usize| before + 1 < line) {
            let _ = writeln!(text, "{BLUE}...{RESET}");
        }
        previous = Some(line);
        let code = marks[0].at.text.code.lines().nth(line - 1).unwrap_or_default();
        let shown = there(line);
        let _ = writeln!(text, "{BLUE}{shown:width$} |{RESET} {}", code.replace('\t', "    "));
        marks.sort_by_key(|mark| (mark.at.range.start, !mark.primary));
        for mark in marks {
            let (colour, sign) = if mark.primary { (RED, "^") } else { (BLUE, "-") };
            let column = mark.at.position(mark.at.range.start).1 - 1;
            let indent: usize = code.chars().take(column).map(|c| if c == '\t' { 4 } else { 1 }).sum();
            let first = mark.at.as_str().lines().next().unwrap_or_default();
            let signs = sign.repeat(first.chars().count().max(1));
            let mut label = mark.label.lines();
            let begin = label.next().unwrap_or_default();
            let _ = writeln!(text, "{blank} {:indent$}{colour}{signs} {begin}{RESET}", "");
            let indent = indent + signs.len() + 1;
            for line in label {
                let _ = writeln!(text, "{blank} {:indent$}{colour}{line}{RESET}", "");
            }
        }
    }
}

/// The lines of a traceback.
pub(in crate::engine) fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_string).collect()
}

/// `cell:3:5`.
pub(in crate::engine) fn place(quote: &Quote, cell: usize) -> String {
    let (line, column) = quote.position(quote.range.start);
    let (file, line) = quote.text.place(line);
    let name = file.unwrap_or(if quote.text.cell == cell { "cell" } else { "earlier cell" });
    format!("{name}:{line}:{column}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_beside_the_bar_in_the_order_of_what_they_are_about() {
        let text = Text::of_cell(1, "let x: i32 = \"a\";");
        let mark = |range, label: &str, primary| {
            let at = Quote { text: text.clone(), range };
            Mark { at, label: label.into(), primary }
        };
        let marks =
            [mark(13..16, "expected `i32`\nfound `&str`", true), mark(7..10, "because of this", false)];
        let mut report = String::new();
        excerpt(&marks, 1, &mut report);
        let expected = " --> cell:1:14
  |
1 | let x: i32 = \"a\";
  |        --- because of this
  |              ^^^ expected `i32`
  |                  found `&str`
";
        assert_eq!(crate::base::ansi::strip(&report), expected);
    }
}
