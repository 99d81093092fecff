//! Rows and columns of words as a drawing: what a table looks like where HTML does not arrive. Axes: `[row][column]`.

use super::canvas::{Anchor, Drawing, NOTE_LINE};
use super::text;
use super::theme::{AXIS, GRID, INK, MUTED};

/// More than that is for the HTML; the drawing says how much it leaves out.
const MAX_ROWS: usize = 40;
const MAX_WIDTH: f64 = 1100.0;
/// Wider cells are broken into lines, of which the drawing shows the first few.
const MAX_COLUMN: f64 = 340.0;
const MAX_LINES: usize = 6;
const SIZE: f64 = 12.0;
const LINE: f64 = 16.0;
const PADDING: f64 = 6.0;
const GAP: f64 = 20.0;
const TITLE: f64 = 14.5;

/// Draws rows of cells under a header, or, without a header, names in the first column and their values.
pub(super) fn draw(
    title: &str,
    header: &[String],
    rows: &[Vec<String>],
    right: impl Fn(usize, usize) -> bool,
    note: &str,
) -> Drawing {
    let shown = &rows[..rows.len().min(MAX_ROWS)];
    let all = || std::iter::once(header).filter(|h| !h.is_empty()).chain(shown.iter().map(Vec::as_slice));
    let n_columns = all().map(<[String]>::len).max().unwrap_or(0);
    let widths: Vec<f64> = (0..n_columns)
        .map(|j| {
            let widest = all().filter_map(|row| row.get(j)).map(|cell| text::ems(cell)).fold(0.0, f64::max);
            (widest * SIZE).min(MAX_COLUMN)
        })
        .collect();
    let mut lefts = Vec::new();
    let mut width = 0.0;
    for w in &widths {
        if !lefts.is_empty() && width + w > MAX_WIDTH {
            break;
        }
        lefts.push(width);
        width += w + GAP;
    }
    width -= GAP;
    let left_out = match (rows.len() - shown.len(), n_columns - lefts.len()) {
        (0, 0) => String::new(),
        (n, 0) => format!("Not in this picture: {}.", text::count(n, "more row")),
        (0, m) => format!("Not in this picture: {}.", text::count(m, "more column")),
        (n, m) => {
            format!("Not in this picture: {}, {}.", text::count(n, "more row"), text::count(m, "more column"))
        }
    };
    let width = width.max(320.0).ceil();
    let titles = text::wrap(&text::one_line(title), width / TITLE / 1.06, text::ems);
    let notes = text::wrap(&text::sentences(&[&text::one_line(note), &left_out]), width / SIZE, text::ems);
    let broken: Vec<Vec<Vec<String>>> = all()
        .map(|row| {
            let cells = row.iter().zip(&widths).take(lefts.len());
            cells
                .map(|(cell, w)| {
                    let mut lines = text::wrap(cell, w / SIZE + 0.01, text::ems);
                    lines.truncate(MAX_LINES);
                    lines
                })
                .collect()
        })
        .collect();
    let heights: Vec<f64> = broken
        .iter()
        .map(|row| row.iter().map(Vec::len).max().unwrap_or(0).max(1) as f64 * LINE + PADDING)
        .collect();
    let top = titles.len() as f64 * 20.0 + if titles.is_empty() { 0.0 } else { 4.0 };
    let bottom = top + heights.iter().sum::<f64>();
    let height = bottom + if notes.is_empty() { 0.0 } else { 8.0 + notes.len() as f64 * NOTE_LINE };

    Drawing::new(width, height.ceil(), |canvas| {
        for (i, line) in titles.iter().enumerate() {
            canvas.bold((0.0, 10.0 + 20.0 * i as f64), line, TITLE, Anchor::Start, INK);
        }
        let mut y = top;
        for (i, (row, height)) in broken.iter().zip(&heights).enumerate() {
            let heading = i == 0 && !header.is_empty();
            let body_row = i - usize::from(!header.is_empty()).min(i);
            for (j, lines) in row.iter().enumerate() {
                let muted = heading || header.is_empty() && j == 0;
                let flush_right = right(body_row, j);
                for (k, line) in lines.iter().enumerate() {
                    let v = y + PADDING / 2.0 + LINE * (k as f64 + 0.5);
                    let (u, anchor) = if flush_right {
                        (lefts[j] + widths[j], Anchor::End)
                    } else {
                        (lefts[j], Anchor::Start)
                    };
                    canvas.text((u, v), line, SIZE, anchor, if muted { MUTED } else { INK });
                }
            }
            y += height;
            if !header.is_empty() {
                canvas.line((0.0, y), (width, y), if heading { AXIS } else { GRID }, 1.0);
            }
        }
    })
    .captioned(bottom + 16.0, &notes)
}
