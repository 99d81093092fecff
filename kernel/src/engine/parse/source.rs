//! Generated source that remembers which of its bytes the user wrote, and where.

use std::ops::Range;
use std::sync::Arc;

/// The text of one cell, or of a module that it takes from files, shared by everything that quotes it. Numbers count
/// cells executed.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Text {
    pub(in crate::engine) cell: usize,
    pub(in crate::engine) code: Arc<str>,
    /// Where what comes from files begins, in order; empty for a cell.
    pub(super) files: Arc<[FromFile]>,
}

/// From this line of a text on, its lines are those of a file.
#[derive(Clone, Debug)]
pub(super) struct FromFile {
    /// From 1.
    pub(super) line: usize,
    pub(super) name: String,
    /// The line of the file, from 1.
    pub(super) line_there: usize,
}

impl Text {
    /// What the user wrote into a cell.
    pub(in crate::engine) fn of_cell(cell: usize, code: &str) -> Self {
        Text { cell, code: code.into(), files: Arc::default() }
    }

    /// Whether both are the same text, and not only of the same cell.
    pub(super) fn is(&self, other: &Text) -> bool {
        Arc::ptr_eq(&self.code, &other.code)
    }

    /// The file that a line is from, if it is from one, and its number there.
    pub(super) fn place(&self, line: usize) -> (Option<&str>, usize) {
        match self.files.iter().rfind(|from| from.line <= line) {
            Some(from) => (Some(&from.name), line - from.line + from.line_there),
            None => (None, line),
        }
    }

    /// All of it.
    pub(in crate::engine) fn whole(&self) -> Quote {
        Quote { text: self.clone(), range: 0..self.code.trim_end().len() }
    }
}

/// A part of a cell.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Quote {
    pub(in crate::engine) text: Text,
    pub(in crate::engine) range: Range<usize>,
}

impl Quote {
    pub(in crate::engine) fn as_str(&self) -> &str {
        &self.text.code[self.range.clone()]
    }

    /// Line (from 1) and column (from 1, in characters) of a byte of the cell.
    pub(in crate::engine) fn position(&self, byte: usize) -> (usize, usize) {
        let byte = byte.min(self.text.code.len());
        let before = &self.text.code[..byte];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// Source under construction.
#[derive(Default)]
pub(in crate::engine) struct Source {
    pub(in crate::engine) code: String,
    quotes: Vec<(usize, Quote)>,
    /// Generated text that stands for what the user wrote in other words.
    stand_ins: Vec<(Range<usize>, Quote)>,
}

impl Source {
    /// Appends generated text.
    pub(in crate::engine) fn push(&mut self, generated: &str) {
        self.code.push_str(generated);
    }

    /// Appends generated text of which errors are about `quote`.
    pub(super) fn push_for(&mut self, quote: &Quote, generated: &str) {
        let start = self.code.len();
        self.code.push_str(generated);
        self.stand_ins.push((start..self.code.len(), quote.clone()));
    }

    /// Appends what the user wrote.
    pub(in crate::engine) fn quote(&mut self, quote: &Quote) {
        self.quotes.push((self.code.len(), quote.clone()));
        self.code.push_str(quote.as_str());
    }

    /// The part of a cell that a range of this source came from; `None` if it was generated. A parenthesis that
    /// was put around what the user wrote counts as the user's.
    pub(in crate::engine) fn origin(&self, range: Range<usize>) -> Option<Quote> {
        let after = self.quotes.partition_point(|(start, _)| *start <= range.start);
        let before = after.checked_sub(1).and_then(|i| self.quotes.get(i));
        let holding = before.filter(|(start, quote)| {
            let offset = range.start - start;
            // A diagnostic may point just past the last byte.
            offset < quote.range.len() || (offset == quote.range.len() && range.is_empty())
        });
        let opened = || {
            let next = self.quotes.get(after)?;
            let parenthesis = next.0 == range.start + 1 && self.code[range.start..].starts_with('(');
            (parenthesis && range.end > next.0).then_some(next)
        };
        let Some((start, quote)) = holding.or_else(opened) else {
            let stands = |(generated, _): &&(Range<usize>, Quote)| generated.contains(&range.start);
            return self.stand_ins.iter().find(stands).map(|(_, quote)| quote.clone());
        };
        let begin = quote.range.start + range.start.saturating_sub(*start);
        // What was inserted into an item lies between two quotes.
        let last = self.quotes[..self.quotes.partition_point(|(start, _)| *start < range.end)].last();
        let (start, last) =
            last.filter(|last| last.1.text.is(&quote.text)).map_or((start, quote), |l| (&l.0, &l.1));
        let end = (last.range.start + range.end.saturating_sub(*start)).min(last.range.end).max(begin);
        Some(Quote { text: quote.text.clone(), range: begin..end })
    }

    /// The byte at a line and column, both from 1, as a panic's location gives them.
    pub(in crate::engine) fn byte_at(&self, line: usize, column: usize) -> usize {
        let line_start = match line {
            0 | 1 => 0,
            _ => self.code.match_indices('\n').nth(line - 2).map_or(self.code.len(), |(at, _)| at + 1),
        };
        let in_line = &self.code[line_start..];
        line_start + in_line.char_indices().nth(column.saturating_sub(1)).map_or(0, |(at, _)| at)
    }
}
