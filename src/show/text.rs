//! Numbers and words as text: for terminals (columns of characters) and for drawings (widths in ems).

use std::fmt::Write as _;

pub(super) use crate::session::count;

/// The widest line a text twin aims for, in terminal columns.
pub(super) const COLUMNS: usize = 100;

const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Four significant digits, trailing zeros dropped; scientific, with two digits, below 0.001 and from a million on.
pub(super) fn number(v: f64) -> String {
    trimmed(digits(v, 4))
}

/// Two significant digits, for where something ends: written as a [`number`].
pub(super) fn limit(v: f64) -> String {
    trimmed(digits(v, 2))
}

fn trimmed(number: String) -> String {
    if number.contains('.') && !number.contains('e') {
        number.trim_end_matches('0').trim_end_matches('.').into()
    } else {
        number
    }
}

/// So many significant digits, zeros too; scientific, with two digits, below 0.001 and from a million on.
pub(super) fn digits(v: f64, significant: i32) -> String {
    let size = v.abs();
    if !v.is_finite() || v == 0.0 {
        return if v == 0.0 { "0".into() } else { not_finite(v) };
    }
    if !(1e-3..1e6).contains(&size) {
        return format!("{v:.1e}").replace(".0e", "e");
    }
    let decimals = (significant - 1 - size.log10().floor() as i32).max(0) as usize;
    format!("{v:.decimals$}")
}

/// What stands where there is no number.
fn not_finite(v: f64) -> String {
    if v.is_nan() { "-".into() } else { format!("{v}") }
}

/// The values with one number of decimals for all, so that they can be compared down a column: integers as integers,
/// otherwise `significant` digits for the largest.
pub(super) fn column(values: &[f64], significant: i32) -> Vec<String> {
    let finite = || values.iter().copied().filter(|v| v.is_finite());
    let largest = finite().map(f64::abs).fold(0.0, f64::max);
    if largest >= 1e6 && !finite().all(|v| v.fract() == 0.0 && v.abs() < 1e12)
        || largest > 0.0 && largest < 1e-3
    {
        return values.iter().map(|v| number(*v)).collect();
    }
    let digits = if finite().all(|v| v.fract() == 0.0) {
        0
    } else {
        (significant - 1 - largest.log10().floor() as i32).clamp(0, 6) as usize
    };
    // `-0.000` would claim a sign that the digits do not show.
    let smallest = 0.5 * 10f64.powi(-(digits as i32));
    let rounded = values.iter().map(|v| if v.abs() < smallest { 0.0 } else { *v });
    let written: Vec<String> = rounded.map(|v| format!("{v:.digits$}")).collect();
    // Zeros that end every number in the column say nothing.
    let zeros = |text: &String| text.len() - text.trim_end_matches('0').len();
    let spare = written
        .iter()
        .zip(values)
        .filter(|(_, v)| v.is_finite())
        .map(|(text, _)| zeros(text))
        .min()
        .unwrap_or(0);
    let shorter = if digits == 0 { 0 } else { spare.min(digits) };
    let keep = |text: String, v: &f64| {
        if v.is_finite() { text[..text.len() - shorter].trim_end_matches('.').into() } else { not_finite(*v) }
    };
    written.into_iter().zip(values).map(|(text, v)| keep(text, v)).collect()
}

/// A probability as a percentage of two digits or so: `41%`, `4.1%`, `<0.1%`.
pub(super) fn percent(p: f32) -> String {
    match 100.0 * p {
        p if p.is_nan() => "?".into(),
        p if p >= 99.95 || (10.0..99.0).contains(&p) => format!("{p:.0}%"),
        p if p >= 0.1 => format!("{p:.1}%"),
        _ => "<0.1%".into(),
    }
}

/// A token made visible: space `·`, newline `⏎`, tab `⇥`, other invisible characters by their code.
pub(super) fn visible(token: &str) -> String {
    if token.is_empty() {
        return "∅".into();
    }
    let mut out = String::with_capacity(token.len() + 2);
    for c in token.chars() {
        match c {
            ' ' => out.push('·'),
            '\n' => out.push('⏎'),
            '\t' => out.push('⇥'),
            '\r' => out.push('␍'),
            c if is_invisible(c) => _ = write!(out, "‹{:X}›", c as u32),
            c => out.push(c),
        }
    }
    out
}

/// A title, label or caption made safe for one line: line breaks and tabs become spaces, other invisible characters go.
pub(super) fn one_line(text: &str) -> String {
    let spaced: String = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    spaced.chars().filter(|&c| !is_invisible(c)).collect::<String>().trim().into()
}

/// Control characters, which XML forbids, and characters without width or that reorder the text around them, with
/// which one token could rearrange a table.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c as u32, 0xAD | 0x61C | 0x180E | 0x200B..=0x200F | 0x2028..=0x202F | 0x2060..=0x206F | 0xFEFF
            | 0xFFF9..=0xFFFB | 0xFFFE | 0xFFFF | 0xE0000..=0xE007F)
}

/// Terminal columns of one character: East Asian wide characters and emoji take two, combining marks none.
fn char_columns(c: char) -> usize {
    match c as u32 {
        0x300..=0x36F | 0x1AB0..=0x1AFF | 0x20D0..=0x20FF | 0xFE00..=0xFE0F => 0,
        0x1100..=0x115F
        | 0x2E80..=0xA4CF
        | 0xAC00..=0xD7A3
        | 0xF900..=0xFAFF
        | 0xFE30..=0xFE6F
        | 0xFF00..=0xFF60
        | 0xFFE0..=0xFFE6
        | 0x1F300..=0x1FAFF
        | 0x20000..=0x3FFFD => 2,
        _ => 1,
    }
}

/// Terminal columns of a text.
pub(super) fn columns(text: &str) -> usize {
    text.chars().map(char_columns).sum()
}

/// The text in at most `limit` columns, with `…` where it was cut.
pub(super) fn cut(text: &str, limit: usize) -> String {
    if columns(text) <= limit {
        return text.into();
    }
    let mut used = 1;
    let head: String = text
        .chars()
        .take_while(|&c| {
            used += char_columns(c);
            used <= limit
        })
        .collect();
    head + "…"
}

/// The text padded to `width` columns, flush left or right.
pub(super) fn pad(text: &str, width: usize, right: bool) -> String {
    let space = " ".repeat(width.saturating_sub(columns(text)));
    if right { space + text } else { text.to_owned() + &space }
}

/// Rows of cells as aligned lines, two spaces between columns; `right[j]` sets column `j` flush right.
pub(super) fn aligned(rows: &[Vec<String>], right: &[bool]) -> String {
    let widths: Vec<usize> = (0..right.len())
        .map(|j| rows.iter().filter_map(|row| row.get(j)).map(|cell| columns(cell)).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().enumerate().map(|(j, cell)| pad(cell, widths[j], right[j])).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// One block character for a value at `fraction` of its range; `?` where there is no value.
pub(super) fn shade(fraction: Option<f64>) -> char {
    fraction.map_or('?', |f| SHADES[(f * 4.0).round().clamp(0.0, 4.0) as usize])
}

/// A curve in block characters, at most 40 wide; a gap is a space.
pub(super) fn sparkline(values: &[f64]) -> String {
    let picked: Vec<f64> = pick(values.len(), 40).into_iter().map(|i| values[i]).collect();
    let finite = || picked.iter().copied().filter(|v| v.is_finite());
    let (lo, hi) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    // Halves first: the difference of two huge numbers must not overflow.
    let height = |v: f64| if hi > lo { (v / 2.0 - lo / 2.0) / (hi / 2.0 - lo / 2.0) } else { 0.5 };
    picked
        .iter()
        .map(|v| if v.is_finite() { BARS[(height(*v) * 7.0).round() as usize] } else { ' ' })
        .collect()
}

/// At most `limit` of the indices `0..n`, evenly spread, first and last included.
pub(super) fn pick(n: usize, limit: usize) -> Vec<usize> {
    if n <= limit { (0..n).collect() } else { (0..limit).map(|i| i * (n - 1) / (limit - 1)).collect() }
}

/// Estimated width of a drawn text in ems. The reader's font is unknown: this is the wide end (DejaVu Sans), so that
/// labels may stand a little loose but are never cut.
pub(super) fn ems(text: &str) -> f64 {
    text.chars()
        .map(|c| match c {
            'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | ';' | '|' | '!' | '\'' | ' ' | '·' => 0.34,
            'f' | 't' | 'r' | '(' | ')' | '[' | ']' | '-' | '/' => 0.43,
            'm' | 'w' | 'M' | 'W' | '%' | '@' | '—' => 0.98,
            'A'..='Z' => 0.74,
            c if char_columns(c) == 2 => 1.1,
            c if char_columns(c) == 0 => 0.0,
            _ => 0.64,
        })
        .sum()
}

/// The text broken at spaces into lines of at most `width`, as `measure` counts; words longer than a line break too.
pub(super) fn wrap(text: &str, width: f64, measure: fn(&str) -> f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && measure(&format!("{line} {word}")) > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        for c in word.chars() {
            line.push(c);
            if line.len() > c.len_utf8() && measure(&line) > width {
                line.pop();
                lines.push(std::mem::replace(&mut line, c.into()));
            }
        }
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// [`columns`] as a measure for [`wrap`].
fn columns_of(text: &str) -> f64 {
    columns(text) as f64
}

/// Sentences that are not empty, joined by spaces.
pub(super) fn sentences(parts: &[&str]) -> String {
    parts.iter().map(|p| p.trim()).filter(|p| !p.is_empty()).collect::<Vec<_>>().join(" ")
}

/// A text twin: title, body, caption, whichever are not empty.
pub(super) fn page(title: &str, body: &str, note: &str) -> String {
    let (title, note) = (one_line(title), one_line(note));
    let note = if note.is_empty() { vec![] } else { wrap(&format!("({note})"), COLUMNS as f64, columns_of) };
    let parts = [&title, body.trim_end_matches('\n'), &note.join("\n")];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n") + "\n"
}

/// Rows of fields as CSV (RFC 4180, with line feeds): quoted where a comma, a quote or a line break stands in them.
pub(super) fn csv(rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut out = String::new();
    for row in rows {
        for (i, field) in row.iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            if field.contains(['"', ',', '\n', '\r']) {
                _ = write!(out, "\"{}\"", field.replace('"', "\"\""));
            } else {
                out += field;
            }
        }
        out.push('\n');
    }
    out
}
