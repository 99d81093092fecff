//! Rows and columns of words and numbers, as they are. Axes: `[row][column]`.

use std::fmt::{self, Write as _};

use super::canvas::Drawing;
use super::figure::{Figure, empty, same_length, show};
use super::{sheet, text};
use crate::error::Result;
use crate::session::escape_html;

/// More rows are left out, and the caption says so.
const MAX_ROWS: usize = 500;
const TEXT_ROWS: usize = 60;
/// Longer words are cut, or one of them would fill the page.
const MAX_CHARS: usize = 400;

/// One cell of a [`Table`], made from a text or a number with `.into()`.
#[derive(Clone, Debug, PartialEq)]
pub enum TableCell {
    /// Words, flush left.
    Text(String),
    /// A number, flush right, with as many decimals as the others in its column.
    Number(f64),
}

impl fmt::Display for TableCell {
    /// The words, or the number with as many digits as it takes to get it back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TableCell::Text(words) => f.write_str(words),
            TableCell::Number(number) => write!(f, "{number}"),
        }
    }
}

impl From<&str> for TableCell {
    fn from(words: &str) -> Self {
        TableCell::Text(words.into())
    }
}

impl From<String> for TableCell {
    fn from(words: String) -> Self {
        TableCell::Text(words)
    }
}

impl From<f64> for TableCell {
    fn from(number: f64) -> Self {
        TableCell::Number(number)
    }
}

impl From<f32> for TableCell {
    fn from(number: f32) -> Self {
        TableCell::Number(number.into())
    }
}

impl From<usize> for TableCell {
    fn from(number: usize) -> Self {
        TableCell::Number(number as f64)
    }
}

/// Rows under a header; numbers are aligned so that they can be compared down a column.
///
/// ```
/// use onelens::show::Table;
/// let table = Table {
///     header: vec!["lens".into(), "KL".into()],
///     rows: vec![vec!["own".into(), 0.25.into()], vec!["shared".into(), 12.5.into()]],
///     ..Default::default()
/// };
/// assert_eq!(table.figure()?.text(), "lens       KL\nown      0.25\nshared  12.50\n");
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Heading; may be empty.
    pub title: String,
    /// One name per column.
    pub header: Vec<String>,
    /// The cells, as many in each row as there are columns.
    pub rows: Vec<Vec<TableCell>>,
    /// Caption under the table.
    pub note: String,
}

impl Table {
    /// Checks that the rows are as long as the header and writes them.
    ///
    /// # Errors
    /// Without a header or rows, and when a row and the header differ in length.
    pub fn figure(&self) -> Result<Figure> {
        let Parts { html, drawing, text } = self.parts("")?;
        Ok(Figure::written(&self.title, &html, drawing, text, self.to_csv()))
    }

    /// Returns the table as CSV with its header, every number unrounded.
    ///
    /// ```
    /// use onelens::show::Table;
    /// let table = Table {
    ///     header: vec!["lens".into(), "KL".into()],
    ///     rows: vec![vec!["own, refined".into(), 0.25.into()]],
    ///     ..Default::default()
    /// };
    /// assert_eq!(table.to_csv(), "lens,KL\n\"own, refined\",0.25\n");
    /// ```
    pub fn to_csv(&self) -> String {
        text::csv(self.fields())
    }

    /// The header and the rows, as CSV has them.
    pub(super) fn fields(&self) -> Vec<Vec<String>> {
        let rows = self.rows.iter().map(|row| row.iter().map(TableCell::to_string).collect());
        std::iter::once(self.header.clone()).chain(rows).collect()
    }

    /// Shows the table in the notebook, now. Where it cannot be drawn, the cell ends with why.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }

    /// HTML without its wrapping, drawing and text twin; `under` is for the drawing, where it stands in another figure.
    pub(super) fn parts(&self, under: &str) -> Result<Parts> {
        if self.header.is_empty() || self.rows.is_empty() {
            return Err(empty("table", &self.title, "give it a header and at least one row"));
        }
        for (i, row) in self.rows.iter().enumerate() {
            same_length(&format!("cells in row {i}"), row.len(), self.header.len(), "names in the header")?;
        }
        let left_out = self.rows.len().saturating_sub(MAX_ROWS);
        let elided = if left_out > 0 {
            format!(
                "The last {} left out.",
                text::count(left_out, "row") + if left_out == 1 { " is" } else { " are" }
            )
        } else {
            String::new()
        };
        let note = text::sentences(&[&self.note, &elided]);
        let rows = &self.rows[..self.rows.len() - left_out];
        let columns: Vec<Column> = (0..self.header.len())
            .map(|j| Column::new(&self.header[j], rows.iter().map(|r| &r[j])))
            .collect();
        let header: Vec<String> = columns.iter().map(|c| c.name.clone()).collect();
        let cells: Vec<Vec<String>> =
            (0..rows.len()).map(|i| columns.iter().map(|c| c.cells[i].clone()).collect()).collect();
        let right = |i: usize, j: usize| columns[j].right || columns[j].numeric[i];
        Ok(Parts {
            html: self.html(&columns, &note),
            drawing: sheet::draw(&self.title, &header, &cells, right, &text::sentences(&[&note, under])),
            text: self.text(&columns, &note),
        })
    }

    fn html(&self, columns: &[Column], note: &str) -> String {
        let class = |right: bool| if right { " class=\"r\"" } else { "" };
        let mut out = heading(&self.title) + "<div class=\"ol-scroll\"><table class=\"ol-table\"><thead><tr>";
        for column in columns {
            _ = write!(out, "<th scope=\"col\"{}>{}</th>", class(column.right), escape_html(&column.name));
        }
        out += "</tr></thead><tbody>";
        for i in 0..columns[0].cells.len() {
            out += "<tr>";
            for column in columns {
                let right = column.right || column.numeric[i];
                _ = write!(out, "<td{}>{}</td>", class(right), escape_html(&column.cells[i]));
            }
            out += "</tr>";
        }
        out + "</tbody></table></div>" + &caption(note)
    }

    fn text(&self, columns: &[Column], note: &str) -> String {
        let n = columns[0].cells.len();
        let mut lines: Vec<Vec<String>> = vec![columns.iter().map(|c| text::cut(&c.name, 40)).collect()];
        lines.extend(
            (0..n.min(TEXT_ROWS)).map(|i| columns.iter().map(|c| text::cut(&c.cells[i], 40)).collect()),
        );
        let mut body = text::aligned(&lines, &columns.iter().map(|c| c.right).collect::<Vec<_>>());
        if n > TEXT_ROWS {
            _ = writeln!(body, "(and {} more)", text::count(n - TEXT_ROWS, "row"));
        }
        text::page(&self.title, &body, note)
    }
}

/// The forms of a table.
pub(super) struct Parts {
    pub(super) html: String,
    pub(super) drawing: Drawing,
    pub(super) text: String,
}

/// A column as text.
struct Column {
    name: String,
    cells: Vec<String>,
    numeric: Vec<bool>,
    /// Flush right: there are numbers in it.
    right: bool,
}

impl Column {
    fn new<'a>(name: &str, cells: impl Iterator<Item = &'a TableCell> + Clone) -> Column {
        let numbers: Vec<f64> = cells
            .clone()
            .filter_map(|c| if let TableCell::Number(v) = c { Some(*v) } else { None })
            .collect();
        let numeric: Vec<bool> = cells.clone().map(|c| matches!(c, TableCell::Number(_))).collect();
        let mut written = text::column(&numbers, 4).into_iter();
        let cells = cells
            .filter_map(|c| match c {
                TableCell::Text(words) => Some(text::cut(&text::one_line(words), MAX_CHARS)),
                TableCell::Number(_) => written.next(),
            })
            .collect();
        let right = !numbers.is_empty();
        Column { name: text::cut(&text::one_line(name), MAX_CHARS), cells, numeric, right }
    }
}

/// A title over HTML that is not a drawing.
pub(super) fn heading(title: &str) -> String {
    match text::one_line(title) {
        title if title.is_empty() => title,
        title => format!("<div class=\"ol-title\"><b>{}</b></div>", escape_html(&title)),
    }
}

/// A caption as HTML.
pub(super) fn caption(note: &str) -> String {
    match text::one_line(note) {
        note if note.is_empty() => note,
        note => format!("<div class=\"ol-note\">{}</div>", escape_html(&note)),
    }
}
