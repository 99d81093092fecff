//! What every `figure()` returns: one thing to look at, in the forms that a notebook, a file and a terminal show.

use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::canvas::{Anchor, Drawing, MARGIN};
use super::theme::{self, INK};
use super::{picture, text};
use crate::error::{Error, ErrorKind, Result};
use crate::record;
use crate::session::{self, Bundle, escape_html};

const CLOSE: &str = "</div>";

/// Something to look at: HTML, a drawing as SVG and as PNG, a text twin, and the numbers behind it as CSV.
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
    drawing: Drawing,
    /// One table for each figure in it.
    csv: Vec<String>,
}

/// What browsers are told that a figure's page may do: show itself.
const POLICY: &str =
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

impl Figure {
    /// A figure that is a drawing, in HTML too.
    pub(super) fn drawn(title: &str, drawing: Drawing, text: String, csv: String) -> Figure {
        let title = text::one_line(title);
        let body = drawing.inline(&title);
        Figure { html: wrap(&body), title, text, drawing, csv: vec![csv] }
    }

    /// The figure with more HTML below the drawing, where a page is too narrow to show all of that at once. It is escaped
    /// already.
    pub(super) fn on_narrow_pages(self, more: &str) -> Figure {
        if more.is_empty() {
            return self;
        }
        Figure { html: wrap(&format!("{}<div class=\"ol-narrow\">{more}</div>", self.body())), ..self }
    }

    /// A figure that is written as HTML and drawn for where that does not arrive; `body` is escaped already.
    pub(super) fn written(title: &str, body: &str, drawing: Drawing, text: String, csv: String) -> Figure {
        Figure { title: text::one_line(title), html: wrap(body), text, drawing, csv: vec![csv] }
    }

    /// The bytes of HTML that every figure has around its body.
    pub(super) fn overhead() -> usize {
        wrap("").len()
    }

    /// Returns the HTML, complete with its style sheet, to stand inside any page.
    pub fn html(&self) -> &str {
        &self.html
    }

    /// Returns the text twin, for terminals and for notebooks seen as text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the drawing as an SVG file, light and dark. Of a long table it holds the first rows and says so.
    pub fn svg(&self) -> String {
        self.drawing.standalone(&self.title)
    }

    /// Returns the drawing as a PNG file of at most 60 kB, light, usually with two pixels for one of the SVG.
    ///
    /// ```
    /// # use onelens::show::{LineChart, Series};
    /// let chart = LineChart { series: vec![Series::new("own", [1.0, 0.5])], ..Default::default() };
    /// assert!(chart.figure()?.png().starts_with(b"\x89PNG"));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn png(&self) -> Vec<u8> {
        picture::png(&self.drawing)
    }

    /// Returns the numbers behind the figure as CSV with a header, unrounded: of a chart one row per `x`, of a heat map
    /// one per row, of a trajectory one per cell.
    ///
    /// # Errors
    /// For a figure made of several, whose tables have different columns.
    ///
    /// ```
    /// # use onelens::show::{LineChart, Series};
    /// let chart = LineChart {
    ///     x_label: "layer".into(),
    ///     series: vec![Series::new("own", [1.0, 0.5])],
    ///     ..Default::default()
    /// };
    /// assert_eq!(chart.figure()?.to_csv()?, "layer,own\n0,1\n1,0.5\n");
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn to_csv(&self) -> Result<String> {
        match &self.csv[..] {
            [one] => Ok(one.clone()),
            several => Err(Error::new(
                ErrorKind::Data,
                format!("this figure is {} figures in one, each with columns of its own", several.len()),
                "write the numbers of each figure before putting them together",
            )),
        }
    }

    /// Puts `other` to the right of this one, in one figure; on a narrow page it moves below.
    pub fn beside(&self, other: &Figure) -> Figure {
        self.with(other, true)
    }

    /// Puts this one above `other`, in one figure.
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
        let drawing = self.drawing.with(&other.drawing, beside);
        let csv = self.csv.iter().chain(&other.csv).cloned().collect();
        Figure { html: wrap(&body), title, text, drawing, csv }
    }

    /// Puts a line of `words` over the figure, such as what it is of where two stand side by side.
    ///
    /// ```
    /// use onelens::show::Card;
    /// let card = Card { title: "size".into(), rows: vec![("layers".into(), "2".into())], ..Default::default() };
    /// assert_eq!(card.figure()?.headed("The small one").text(), "The small one\n\nsize\nlayers  2\n");
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn headed(&self, words: &str) -> Figure {
        const SIZE: f64 = 15.0;
        let words = text::one_line(words);
        if words.is_empty() {
            return self.clone();
        }
        let lines = text::wrap(&words, self.drawing.width / SIZE / 1.06, text::ems);
        let heading = Drawing::new(self.drawing.width, 22.0 * lines.len() as f64 - 12.0, |canvas| {
            for (i, line) in lines.iter().enumerate() {
                canvas.bold((0.0, 8.0 + 22.0 * i as f64), line, SIZE, Anchor::Start, INK);
            }
        });
        let body = format!("<div class=\"ol-head\"><b>{}</b></div>{}", escape_html(&words), self.body());
        Figure {
            html: wrap(&body),
            title: format!("{words}: {}", self.title),
            text: format!("{words}\n\n{}", self.text),
            drawing: heading.with(&self.drawing, false),
            csv: self.csv.clone(),
        }
    }

    /// Makes the figure one whose files [`save`](Figure::save) writes for dark pages: `.png` and `.svg` in the colours
    /// that others have where the theme is dark. In a notebook a figure follows the theme by itself.
    pub fn dark(&self) -> Figure {
        Figure { drawing: self.drawing.dark(), ..self.clone() }
    }

    /// The HTML inside the wrapping that every figure has.
    fn body(&self) -> &str {
        self.html.strip_prefix(&*open()).and_then(|rest| rest.strip_suffix(CLOSE)).unwrap_or(&self.html)
    }

    /// Returns the forms that a notebook chooses from, richest first: HTML, PNG in base64, text.
    ///
    /// The HTML holds the picture too. Who strips the styles shows the picture and not the rest: GitHub, JupyterLab
    /// with a notebook that it does not trust.
    pub fn bundle(&self) -> Bundle {
        let picture = BASE64.encode(self.png());
        vec![
            ("text/html".into(), self.with_still(&picture)),
            ("image/png".into(), picture),
            ("text/plain".into(), self.text.clone()),
        ]
    }

    /// The HTML with a picture that the style sheet hides, and all else in what is hidden without it: `hidden` is left
    /// in place by JupyterLab if it has a value, and `rp`, which no browser shows, by GitHub. The style sheet knows
    /// both by `data-ol`, which JupyterLab takes away with the style sheet: so that of another figure, in a cell that
    /// was run since, does not hide the picture.
    fn with_still(&self, picture: &str) -> String {
        wrap(&format!(
            "<div class=\"ol-still\" data-ol><img width=\"{}\" alt=\"{}\" src=\"data:image/png;base64,{picture}\"></div>\
             <div class=\"ol-live\" data-ol hidden=\"hidden\"><rp>{}</rp></div>",
            self.drawing.width + 2.0 * MARGIN,
            escape_html(if self.title.is_empty() { "figure" } else { &self.title }),
            self.body(),
        ))
    }

    /// Shows the figure in the notebook, now.
    pub fn evcxr_display(&self) {
        session::display(&self.bundle());
    }

    /// Writes the figure to a file, by the ending of the name: `.html` (a whole page), `.png`, `.svg`, `.txt`, or
    /// `.csv`, the numbers behind it.
    ///
    /// The file appears complete or not at all: it is written under another name beside `path` and then renamed.
    ///
    /// # Errors
    /// For any other ending, for `.csv` of a figure made of several, and when the file cannot be written.
    ///
    /// ```
    /// use onelens::show::{Table, TableCell};
    /// let table = Table { header: vec!["layer".into()], rows: vec![vec![TableCell::from(3)]], ..Default::default() };
    /// let error = table.figure()?.save("table.jpeg").unwrap_err();
    /// assert!(error.to_string().contains("help: end the name in .html, .png, .svg, .txt or .csv"));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let ending = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        let content = match ending.as_deref() {
            Some("html") => self.page().into_bytes(),
            Some("png") => self.png(),
            Some("svg") => self.svg().into_bytes(),
            Some("txt") => self.text.clone().into_bytes(),
            Some("csv") => self.to_csv()?.into_bytes(),
            _ => {
                return Err(Error::new(
                    ErrorKind::File,
                    format!("{}: a figure cannot be saved under this ending", path.display()),
                    "end the name in .html, .png, .svg, .txt or .csv",
                ));
            }
        };
        record::write_atomic(path, &content)
    }

    /// The figure as a page of its own, which runs nothing, loads nothing and sends nothing.
    fn page(&self) -> String {
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\
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

/// Shows the figure; where there is none, the cell ends with why.
pub(super) fn show(figure: Result<Figure>) {
    match figure {
        Ok(figure) => figure.evcxr_display(),
        Err(error) => session::fail(error),
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
        write!(f, "Figure({:?}, {:.1} kB of HTML)", self.title, self.html.len() as f64 / 1e3)
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
