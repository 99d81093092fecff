//! Points between three corners, such as beliefs about three states, as a triangle of counts. Axes: `[point, corner]`.

use ndarray::Array2;

use super::axis::is_drawable;
use super::canvas::{Anchor, Canvas, Drawing, LABEL, NOTE_LINE};
use super::figure::{Figure, empty, same_length, show};
use super::table::caption;
use super::text;
use super::theme::{self, AXIS, INK, MUTED};
use crate::error::Result;

/// Pixels of a side of the triangle, of the square in which points are counted, and of the room around the triangle for
/// points that lie outside of it, as what is read off a network may.
const SIDE: f64 = 420.0;
const SQUARE: f64 = 5.0;
const ROOM: f64 = 20.0;
/// Squares across and down.
const COLUMNS: usize = ((SIDE + 2.0 * ROOM) / SQUARE) as usize;
const ROWS: usize = ((SIDE * 0.866 + 2.0 * ROOM) / SQUARE) as usize;
/// Colours of the bar.
const STEPS: usize = 64;

/// Where points lie between three corners: three weights each that sum to one, such as a belief about three states.
///
/// ```
/// use ndarray::array;
/// use onelens::show::Simplex;
/// let beliefs = Simplex {
///     title: "Beliefs".into(),
///     corners: ["rain", "sun", "snow"].map(String::from),
///     points: array![[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.4, 0.4, 0.2]],
///     ..Default::default()
/// };
/// assert!(beliefs.figure()?.text().contains("rain: lower left, sun: lower right, snow: top"));
/// assert_eq!(beliefs.figure()?.to_csv()?.lines().next(), Some("rain,sun,snow"));
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Simplex {
    /// Heading; may be empty.
    pub title: String,
    /// What stands at the lower left, the lower right and the top.
    pub corners: [String; 3],
    /// Weights of the corners, `[point, corner]`; those of a point need not be positive, as they are not where a probe
    /// reads them.
    pub points: Array2<f64>,
    /// Caption under the figure.
    pub note: String,
}

impl Simplex {
    /// Checks the data and draws them.
    ///
    /// # Errors
    /// Without points, and for points with more or fewer than three weights.
    pub fn figure(&self) -> Result<Figure> {
        Simplex::side_by_side(std::slice::from_ref(self))
    }

    /// Draws several triangles in one figure, with one scale of colours.
    ///
    /// ```
    /// use ndarray::array;
    /// use onelens::show::Simplex;
    /// let one = |title: &str| Simplex { title: title.into(), points: array![[0.5, 0.25, 0.25]], ..Default::default() };
    /// assert!(Simplex::side_by_side(&[one("true"), one("read")])?.text().contains("read"));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`figure`](Simplex::figure), and for no triangle at all.
    pub fn side_by_side(all: &[Simplex]) -> Result<Figure> {
        let counted: Vec<(&Simplex, Counts)> =
            all.iter().map(|one| Ok((one, one.counts()?))).collect::<Result<_>>()?;
        let most = counted.iter().flat_map(|(_, counts)| &counts.squares).copied().max().unwrap_or(1).max(1);
        let mut figures = counted.iter().map(|(one, counts)| one.drawn(counts, most));
        let first =
            figures.next().ok_or_else(|| empty("row of triangles", "", "give it at least one triangle"))?;
        Ok(figures.fold(first, |all, one| all.beside(&one)))
    }

    /// Shows the figure in the notebook, now. Where it cannot be drawn, the cell ends with why.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }

    fn counts(&self) -> Result<Counts> {
        if self.points.is_empty() {
            return Err(empty("triangle", &self.title, "give it at least one point with three weights"));
        }
        same_length("weights of a point", self.points.ncols(), 3, "corners of a triangle")?;
        let mut counts = Counts { squares: Array2::zeros((ROWS, COLUMNS)), outside: 0 };
        for p in self.points.rows() {
            let (x, y) = place(p[1], p[2]);
            let (column, row) = ((x / SQUARE).floor(), (y / SQUARE).floor());
            let inside = is_drawable(x) && is_drawable(y) && column >= 0.0 && row >= 0.0;
            match counts.squares.get_mut((row as usize, column as usize)) {
                Some(n) if inside => *n += 1,
                Some(_) | None => counts.outside += 1,
            }
        }
        Ok(counts)
    }

    fn drawn(&self, counts: &Counts, most: usize) -> Figure {
        let outside = match counts.outside {
            0 => String::new(),
            1 => "One point lies outside of the drawing.".into(),
            n => format!("{n} points lie outside of the drawing."),
        };
        let note = text::sentences(&[&self.note, &outside]);
        let header = (0..3).map(|i| self.corner(i)).collect();
        let rows = self.points.rows().into_iter().map(|row| row.iter().map(f64::to_string).collect());
        let csv = text::csv(std::iter::once(header).chain(rows));
        Figure::drawn(&self.title, self.drawing(counts, most, &note), self.text(counts, most, &note), csv)
            .on_narrow_pages(&caption(&note))
    }

    fn corner(&self, i: usize) -> String {
        let name = text::cut(&text::one_line(&self.corners[i]), 24);
        if name.is_empty() { ["lower left", "lower right", "top"][i].into() } else { name }
    }

    fn drawing(&self, counts: &Counts, most: usize, note: &str) -> Drawing {
        const TITLE: f64 = 14.5;
        let ticks: Vec<usize> = (0..).map(|e| 10usize.pow(e)).take_while(|n| *n <= most).collect();
        let widest = ticks.iter().map(|n| text::ems(&n.to_string())).fold(text::ems("points"), f64::max);
        let bar_left = SIDE + 2.0 * ROOM + 16.0;
        let width = (bar_left + 20.0 + widest * LABEL).ceil();
        let titles = text::wrap(&text::one_line(&self.title), width / TITLE / 1.06, text::ems);
        let notes = text::wrap(&text::one_line(note), width / LABEL, text::ems);
        let top = titles.len() as f64 * 20.0 + 14.0;
        let bottom = top + ROWS as f64 * SQUARE;
        let height = bottom + 20.0 + notes.len() as f64 * NOTE_LINE;
        let move_down = |(x, y): (f64, f64)| (x, top + y);
        let [left, right, apex] = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)].map(|(b, c)| move_down(place(b, c)));

        Drawing::new(width, height.ceil(), |canvas| {
            for (i, line) in titles.iter().enumerate() {
                canvas.bold((0.0, 10.0 + 20.0 * i as f64), line, TITLE, Anchor::Start, INK);
            }
            canvas.path(&[left, right, apex, left], AXIS, 1.2);
            draw_squares(canvas, counts, most, top);
            canvas.text((0.0, bottom + 6.0), &self.corner(0), LABEL, Anchor::Start, INK);
            canvas.text((SIDE + 2.0 * ROOM, bottom + 6.0), &self.corner(1), LABEL, Anchor::End, INK);
            canvas.text((apex.0, top - 4.0), &self.corner(2), LABEL, Anchor::Middle, INK);
            let (from, to) = (apex.1, left.1);
            canvas.text((bar_left, from - 13.0), "points", LABEL, Anchor::Start, MUTED);
            for k in 0..STEPS {
                // From the top, each step down to the bottom and covered by the next: so there are no seams between
                // them.
                let edge = (to - from) * k as f64 / STEPS as f64;
                let colour = theme::map_colour(1.0 - (k as f64 + 0.5) / STEPS as f64, false);
                canvas.rect((bar_left, from + edge), (12.0, to - from - edge), colour);
            }
            for n in ticks {
                let y = to - fraction(n, most) * (to - from);
                canvas.line((bar_left + 12.0, y), (bar_left + 16.0, y), AXIS, 1.0);
                canvas.text((bar_left + 19.0, y), &n.to_string(), 11.0, Anchor::Start, MUTED);
            }
        })
        .captioned(bottom + 26.0, &notes)
    }

    fn text(&self, counts: &Counts, most: usize, note: &str) -> String {
        // One character for two squares across and four down, which is about square.
        const ACROSS: usize = 2;
        const DOWN: usize = 4;
        let mut body = String::new();
        for block in 0..ROWS.div_ceil(DOWN) {
            let line: String = (0..COLUMNS / ACROSS)
                .map(|column| {
                    let rows = block * DOWN..ROWS.min((block + 1) * DOWN);
                    let squares = rows.flat_map(|r| (0..ACROSS).map(move |c| (r, column * ACROSS + c)));
                    let largest = squares.map(|at| counts.squares[at]).max().unwrap_or(0);
                    if largest == 0 { ' ' } else { text::shade(Some(0.25 + 0.75 * fraction(largest, most))) }
                })
                .collect();
            body += line.trim_end();
            body.push('\n');
        }
        let [a, b, c] = [0, 1, 2].map(|i| self.corner(i));
        body +=
            &format!("{a}: lower left, {b}: lower right, {c}: top; shades ░▒▓█ from 1 to {most} points\n");
        text::page(&self.title, &body, note)
    }
}

/// How many points lie in each square, `[row, column]`, and how many in none.
struct Counts {
    squares: Array2<usize>,
    outside: usize,
}

/// Pixels from the upper left of the squares, for the weights of the second and third corner.
fn place(second: f64, third: f64) -> (f64, f64) {
    let height = 0.75_f64.sqrt();
    (ROOM + SIDE * (second + third / 2.0), ROOM + SIDE * height * (1.0 - third))
}

/// Place on the colours, logarithmic, so that single points are seen beside thousands.
fn fraction(n: usize, most: usize) -> f64 {
    if most <= 1 { 1.0 } else { (n as f64).ln() / (most as f64).ln() }
}

fn draw_squares(canvas: &mut Canvas, counts: &Counts, most: usize, top: f64) {
    for (i, row) in counts.squares.outer_iter().enumerate() {
        let mut j = 0;
        while j < COLUMNS {
            // Neighbours of one count are one rectangle.
            let run = row.iter().skip(j).take_while(|n| **n == row[j]).count();
            if row[j] > 0 {
                let colour = theme::map_colour(fraction(row[j], most), false);
                let at = (j as f64 * SQUARE, top + i as f64 * SQUARE);
                canvas.rect(at, (run as f64 * SQUARE, SQUARE), colour);
            }
            j += run;
        }
    }
}
