//! What every `figure()` returns: one thing to look at, in the forms that a notebook, a file and a terminal show.

use std::fmt;
use std::path::Path;

use super::canvas::Drawing;
use super::{text, theme};
use crate::error::{Error, ErrorKind, Result};
use crate::record;
use crate::session::{self, Bundle, escape_html};

const CLOSE: &str = "</div>";

/// Something to look at: HTML, a text twin, and SVG where it is a drawing.
///
/// Left as the last expression of a notebook cell it shows itself; two figures make one with
/// [`beside`](Figure::beside) and [`above`](Figure::above).
///
/// ```
/// use onelens::show::Card;
/// let card = |title: &str, value: &str| {
///     Card { title: title.into(), rows: vec![("layers".into(), value.into())], ..Default::default() }.figure()
/// };
/// let both = card("small", "2")?.above(&card("large", "12")?);
/// assert_eq!(both.text(), "small\nlayers  2\n\nlarge\nlayers  12\n");
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone)]
pub struct Figure {
    title: String,
    html: String,
    text: String,
    drawing: Option<Drawing>,
    svg: Option<String>,
}

impl Figure {
    /// A figure that is a drawing.
    pub(super) fn drawn(title: &str, drawing: Drawing, text: String) -> Figure {
        let title = text::one_line(title);
        let body = drawing.inline(&title);
        let svg = Some(drawing.standalone(&title));
        Figure { html: wrap(&body), title, text, drawing: Some(drawing), svg }
    }

    /// A figure that is HTML alone; `body` is escaped already.
    pub(super) fn written(title: &str, body: &str, text: String) -> Figure {
        Figure { title: text::one_line(title), html: wrap(body), text, drawing: None, svg: None }
    }

    /// The bytes of HTML that every figure has around its body.
    pub(super) fn overhead() -> usize {
        wrap("").len()
    }

    /// The HTML, complete with its style sheet, to stand inside any page.
    pub fn html(&self) -> &str {
        &self.html
    }

    /// The text twin, for terminals and for notebooks seen as text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The drawing as an SVG file; `None` for tables and for whatever contains one.
    pub fn svg(&self) -> Option<&str> {
        self.svg.as_deref()
    }

    /// One figure with `other` to the right of this one; on a narrow page it moves below.
    pub fn beside(&self, other: &Figure) -> Figure {
        self.with(other, true)
    }

    /// One figure with this one above `other`.
    pub fn above(&self, other: &Figure) -> Figure {
        self.with(other, false)
    }

    fn with(&self, other: &Figure, beside: bool) -> Figure {
        let class = if beside { "ol-beside" } else { "ol-above" };
        let body =
            format!("<div class=\"{class}\"><div>{}</div><div>{}</div></div>", self.body(), other.body());
        let title = text::sentences(&[
            &self.title,
            if self.title.is_empty() || other.title.is_empty() { "" } else { "/" },
            &other.title,
        ]);
        let text = (if beside { side_by_side(&self.text, &other.text) } else { None })
            .unwrap_or_else(|| format!("{}\n{}", self.text, other.text));
        let drawing = self.drawing.as_ref().zip(other.drawing.as_ref()).map(|(a, b)| a.with(b, beside));
        let svg = drawing.as_ref().map(|d| d.standalone(&title));
        Figure { html: wrap(&body), title, text, drawing, svg }
    }

    /// The HTML inside the wrapping that every figure has.
    fn body(&self) -> &str {
        self.html.strip_prefix(&*open()).and_then(|rest| rest.strip_suffix(CLOSE)).unwrap_or(&self.html)
    }

    /// The forms that a notebook chooses from, richest first.
    pub fn bundle(&self) -> Bundle {
        vec![("text/html".into(), self.html.clone()), ("text/plain".into(), self.text.clone())]
    }

    /// Shows the figure in the notebook, now.
    pub fn evcxr_display(&self) {
        session::display(&self.bundle());
    }

    /// Writes the figure to a file: `.html` (a whole page), `.svg` or `.txt`, by the ending of the name.
    ///
    /// The file appears complete or not at all: it is written under another name beside `path` and then renamed.
    ///
    /// # Errors
    /// For any other ending, for `.svg` of a figure with a table in it, and when the file cannot be written.
    ///
    /// ```
    /// use onelens::show::{Table, TableCell};
    /// let table = Table { header: vec!["layer".into()], rows: vec![vec![TableCell::from(3)]], ..Default::default() };
    /// let error = table.figure()?.save("table.jpeg").unwrap_err();
    /// assert!(error.to_string().contains("help: end the name in .html, .svg or .txt"));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let ending = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        let content = match ending.as_deref() {
            Some("html") => self.page(),
            Some("txt") => self.text.clone(),
            Some("svg") => self.svg.clone().ok_or_else(|| {
                Error::new(
                    ErrorKind::File,
                    format!(
                        "{}: this figure has no SVG form, because it is or contains a table",
                        path.display()
                    ),
                    "end the name in .html or .txt",
                )
            })?,
            _ => {
                return Err(Error::new(
                    ErrorKind::File,
                    format!("{}: a figure cannot be saved under this ending", path.display()),
                    "end the name in .html, .svg or .txt",
                ));
            }
        };
        record::write_atomic(path, content.as_bytes())
    }

    /// The figure as a page of its own.
    fn page(&self) -> String {
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>{}</title>\
             <style>:root{{color-scheme:light dark}}body{{margin:0;background:{}}}\
             @media(prefers-color-scheme:dark){{body{{background:{}}}}}</style></head>\n<body>{}</body></html>\n",
            escape_html(&self.title),
            theme::paper(false),
            theme::paper(true),
            self.html
        )
    }
}

fn open() -> String {
    format!("<style>{}</style><div class=\"onelens\">", *theme::STYLE)
}

fn wrap(body: &str) -> String {
    open() + body + CLOSE
}

/// Two texts as columns, if they fit a terminal.
fn side_by_side(a: &str, b: &str) -> Option<String> {
    let width = |s: &str| s.lines().map(text::columns).max().unwrap_or(0);
    let left = width(a) + 4;
    if left + width(b) > text::COLUMNS {
        return None;
    }
    let (mut a, mut b) = (a.lines(), b.lines());
    let mut out = String::new();
    loop {
        let (l, r) = (a.next(), b.next());
        if l.is_none() && r.is_none() {
            return Some(out);
        }
        out.push_str((text::pad(l.unwrap_or(""), left, false) + r.unwrap_or("")).trim_end());
        out.push('\n');
    }
}

/// Shows the figure, or in its place why there is none.
pub(super) fn show(figure: Result<Figure>) {
    match figure {
        Ok(figure) => figure.evcxr_display(),
        Err(error) => session::display(&vec![("text/plain".into(), error.to_string())]),
    }
}

/// `error unless got == expected`, with both numbers.
pub(super) fn same_length(what: &str, got: usize, expected: usize, of: &str) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Shape,
        format!("{what}: {got}, but {of}: {expected}"),
        "give both the same length, or cut the longer one",
    ))
}

/// The error for a figure without anything in it.
pub(super) fn empty(kind: &str, title: &str, help: &str) -> Error {
    let name = if title.is_empty() {
        String::new()
    } else {
        format!(" \"{}\"", text::cut(&text::one_line(title), 60))
    };
    Error::new(ErrorKind::Data, format!("the {kind}{name} is empty"), help)
}

impl fmt::Debug for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Figure({:?}, {:.1} kB of HTML", self.title, self.html.len() as f64 / 1e3)?;
        f.write_str(if self.svg.is_some() { ", with SVG)" } else { ")" })
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
