//! Text with ANSI escapes as HTML: colours and weights become spans, every other escape and control character vanishes.

use super::html::escape;

// Of the colours that are the same everywhere those that can be read on every ground: what a theme makes of "red" is
// often too dark for a dark one, and for bold text JupyterLab takes a darker one still.
pub(crate) const RED: &str = "\x1b[1;38;5;196m";
pub(crate) const BLUE: &str = "\x1b[1;38;5;32m";
pub(crate) const BOLD: &str = "\x1b[1m";
pub(crate) const CYAN: &str = "\x1b[1;38;5;31m";
pub(crate) const YELLOW: &str = "\x1b[1;38;5;166m";
pub(crate) const RESET: &str = "\x1b[0m";

/// What is in force at a place of the text.
#[derive(Clone, Default, PartialEq)]
struct Style {
    bold: bool,
    dim: bool,
    italic: bool,
    underline: bool,
    front: Option<Colour>,
    back: Option<Colour>,
}

#[derive(Clone, Copy, PartialEq)]
enum Colour {
    /// One of the sixteen that a theme may choose.
    Named(u8),
    Exact(u8, u8, u8),
}

/// The text as HTML.
pub(crate) fn to_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut style = Style::default();
    for piece in pieces(text) {
        match piece {
            Piece::Text(text) => {
                let (open, close) = style.tags();
                out.push_str(&format!("{open}{}{close}", escape(&readable(text))));
            }
            Piece::Sgr(codes) => style.apply(codes),
        }
    }
    out
}

/// The text without its escapes and control characters.
pub(crate) fn strip(text: &str) -> String {
    let text_of = |piece| if let Piece::Text(text) = piece { Some(readable(text)) } else { None };
    pieces(text).filter_map(text_of).collect()
}

/// The text with colours and weights, and without everything else by which it could command a terminal.
pub(crate) fn only_colours(text: &str) -> String {
    let kept = |piece| match piece {
        Piece::Text(text) => readable(text),
        Piece::Sgr(codes) => format!("\x1b[{codes}m"),
    };
    pieces(text).map(kept).collect()
}

/// What can be read of text without escapes. Some terminals take characters beyond ASCII for the beginning of an
/// escape.
fn readable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t' | '\r')).collect()
}

enum Piece<'a> {
    Text(&'a str),
    /// The numbers of "select graphic rendition", such as `1;31`.
    Sgr(&'a str),
}

fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            if rest.is_empty() {
                return None;
            }
            let Some(after) = rest.strip_prefix('\x1b') else {
                let (plain, after) = rest.split_at(rest.find('\x1b').unwrap_or(rest.len()));
                rest = after;
                return Some(Piece::Text(plain));
            };
            if let Some(body) = after.strip_prefix('[') {
                let end = body.find(|c: char| ('\x40'..='\x7e').contains(&c));
                let (codes, kind, after) = match end {
                    Some(at) => (&body[..at], &body[at..=at], &body[at + 1..]),
                    None => (body, "", ""),
                };
                rest = after;
                if kind == "m" && codes.bytes().all(|b| b.is_ascii_digit() || b";:".contains(&b)) {
                    return Some(Piece::Sgr(codes));
                }
            } else if let Some(body) = after.strip_prefix(']') {
                // A link or a title: up to the bell or the string terminator.
                let end = [body.find('\x07').map(|at| at + 1), body.find("\x1b\\").map(|at| at + 2)];
                rest = &body[end.into_iter().flatten().min().unwrap_or(body.len())..];
            } else {
                rest = &after[after.chars().next().map_or(0, char::len_utf8)..];
            }
        }
    })
}

impl Style {
    fn apply(&mut self, codes: &str) {
        let mut codes = codes.split([';', ':']).map(|code| code.parse::<u16>().unwrap_or(0));
        while let Some(code) = codes.next() {
            match code {
                0 => *self = Style::default(),
                1 => self.bold = true,
                2 => self.dim = true,
                3 => self.italic = true,
                4 => self.underline = true,
                22 => (self.bold, self.dim) = (false, false),
                23 => self.italic = false,
                24 => self.underline = false,
                30..=37 => self.front = Some(Colour::Named(code as u8 - 30)),
                38 => self.front = extended(&mut codes).or(self.front),
                39 => self.front = None,
                40..=47 => self.back = Some(Colour::Named(code as u8 - 40)),
                48 => self.back = extended(&mut codes).or(self.back),
                49 => self.back = None,
                90..=97 => self.front = Some(Colour::Named(code as u8 - 90 + 8)),
                100..=107 => self.back = Some(Colour::Named(code as u8 - 100 + 8)),
                _ => {}
            }
        }
    }

    fn tags(&self) -> (String, &'static str) {
        let mut classes = Vec::new();
        let mut exact = String::new();
        for (on, class) in [(self.bold, "ab"), (self.dim, "ad"), (self.italic, "ai"), (self.underline, "au")]
        {
            if on {
                classes.push(class.to_string());
            }
        }
        for (colour, class, property) in [(self.front, "af", "color"), (self.back, "ak", "background")] {
            match colour {
                Some(Colour::Named(n)) => classes.push(format!("{class}{n}")),
                Some(Colour::Exact(r, g, b)) => exact.push_str(&format!("{property}:rgb({r},{g},{b});")),
                None => {}
            }
        }
        match (classes.is_empty(), exact.is_empty()) {
            (true, true) => (String::new(), ""),
            (false, true) => (format!("<span class=\"{}\">", classes.join(" ")), "</span>"),
            (_, false) => (format!("<span class=\"{}\" style=\"{exact}\">", classes.join(" ")), "</span>"),
        }
    }
}

/// What follows 38 or 48: `5;n` or `2;r;g;b`.
fn extended(codes: &mut impl Iterator<Item = u16>) -> Option<Colour> {
    let mut byte = || codes.next().and_then(|n| u8::try_from(n).ok());
    match byte()? {
        2 => Some(Colour::Exact(byte()?, byte()?, byte()?)),
        5 => Some(match byte()? {
            n @ 0..=15 => Colour::Named(n),
            n @ 16..=231 => {
                let level = |i: u8| if i == 0 { 0 } else { 55 + 40 * i };
                Colour::Exact(level((n - 16) / 36), level((n - 16) / 6 % 6), level((n - 16) % 6))
            }
            n => Colour::Exact(8 + 10 * (n - 232), 8 + 10 * (n - 232), 8 + 10 * (n - 232)),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_become_spans_and_other_escapes_vanish() {
        assert_eq!(
            to_html("\x1b[1;31merror\x1b[0m: <a>\x1b[K\x1b]8;;x\x07"),
            "<span class=\"ab af1\">error</span>: &lt;a&gt;"
        );
        assert_eq!(to_html("\x1b[38;5;196mx"), "<span class=\"\" style=\"color:rgb(255,0,0);\">x</span>");
        assert_eq!(strip("\x1b[1;38;5;9merror\x1b[0m[E0425]"), "error[E0425]");
    }

    #[test]
    fn what_commands_a_terminal_is_left_out_and_colours_stay() {
        // Clears the screen, sets the title, writes to the clipboard, goes back, rings, and the short form of an
        // escape.
        let text = "\x1b[2J\x1b]0;t\x07\x1b]52;c;eA==\x1b\\a\x08\x07\u{9b}2Jb\n\x1b[31mc\x1b[0m\t\x1b";
        assert_eq!(only_colours(text), "a2Jb\n\x1b[31mc\x1b[0m\t");
        assert_eq!(strip(text), "a2Jb\nc\t");
        // What sets how keys are sent ends as a colour does.
        assert_eq!(only_colours("\x1b[>4;2mx"), "x");
    }

    #[test]
    fn an_escape_cut_anywhere_is_harmless() {
        let text = "a\x1b[38;2;1;2;3mb\x1b]0;é\x1b\\c\x1b(B";
        for (end, _) in text.char_indices() {
            to_html(&text[..end]);
        }
        assert_eq!(strip(text), "abcB");
    }
}
