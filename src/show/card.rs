//! What a thing is, at a glance: names and their values, perhaps with a table below. Axes: `[row]`.

use std::fmt::Write as _;

use super::figure::{Figure, empty, show};
use super::table::{Table, caption, heading};
use super::{sheet, text};
use crate::error::Result;
use crate::session::escape_html;

/// More rows are left out, and the caption says so.
const MAX_ROWS: usize = 200;

/// Names and values under a title: how a model, a lens or a set of moments shows itself.
///
/// ```
/// use onelens::show::Card;
/// let card = Card {
///     title: "Transformer".into(),
///     rows: vec![("layers".into(), "6".into()), ("width".into(), "64".into())],
///     ..Default::default()
/// };
/// assert_eq!(card.figure()?.text(), "Transformer\nlayers  6\nwidth   64\n");
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Card {
    /// What it is.
    pub title: String,
    /// Names and values.
    pub rows: Vec<(String, String)>,
    /// More, where names and values are not enough.
    pub table: Option<Table>,
    /// Caption under the card.
    pub note: String,
}

impl Card {
    /// Writes the card.
    ///
    /// # Errors
    /// Without rows, and when the table is impossible (see [`Table::figure`]).
    pub fn figure(&self) -> Result<Figure> {
        if self.rows.is_empty() {
            return Err(empty("card", &self.title, "give it at least one name and value"));
        }
        let shown = &self.rows[..self.rows.len().min(MAX_ROWS)];
        let elided = match self.rows.len() - shown.len() {
            0 => String::new(),
            n => format!("Left out: {}.", text::count(n, "row")),
        };
        let note = text::sentences(&[&self.note, &elided]);
        let rows: Vec<Vec<String>> = shown
            .iter()
            .map(|(name, value)| {
                vec![text::cut(&text::one_line(name), 60), text::cut(&text::one_line(value), 1000)]
            })
            .collect();
        let mut html = heading(&self.title) + "<table class=\"ol-card\"><tbody>";
        for row in &rows {
            _ = write!(
                html,
                "<tr><th scope=\"row\">{}</th><td>{}</td></tr>",
                escape_html(&row[0]),
                escape_html(&row[1])
            );
        }
        html += "</tbody></table>";
        let mut body = text::aligned(&rows, &[false, false]);
        // The caption is under everything, in the drawing as in the HTML.
        let last = if self.table.is_some() { "" } else { &note };
        let mut drawing = sheet::draw(&self.title, &[], &rows, |_, _| false, last);
        let mut csv = rows.clone();
        if let Some(table) = &self.table {
            let parts = table.parts(&note)?;
            html += &parts.html;
            body += &format!("\n{}", parts.text);
            drawing = drawing.with(&parts.drawing, false);
            csv.extend(table.fields());
        }
        html += &caption(&note);
        let text = text::page(&self.title, &body, &note);
        Ok(Figure::written(&self.title, &html, drawing, text, text::csv(csv)))
    }

    /// Shows the card in the notebook, now. Where it cannot be drawn, the cell ends with why.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}
