//! A number per pair, such as what the lens of one layer loses on another. Axes: `[y, x]`, row 0 at the top.

use ndarray::{Array2, Ix2};

use super::axis::{Axis, is_drawable, reason};
use super::canvas::{Anchor, Canvas, Drawing, LABEL, NOTE_LINE};
use super::figure::{Figure, empty, same_length, show};
use super::numbers::Numbers;
use super::table::caption;
use super::text;
use super::theme::{self, AXIS, HATCH, INK, MUTED, NOTHING};
use crate::error::{Error, ErrorKind, Result};

/// Up to this many rows and columns each cell holds its number.
const PRINTED: usize = 12;
/// More rows or columns are drawn as means of blocks.
const MAX_SIDE: usize = 100;

/// A matrix as coloured cells, with a colour bar.
///
/// ```
/// use ndarray::array;
/// use onelens::show::Heatmap;
/// let map = Heatmap {
///     title: "Transfer".into(),
///     y_label: "lens of".into(),
///     x_label: "read at".into(),
///     values: array![[0.0, 0.5], [0.25, 0.0]],
///     unit: "nats".into(),
///     ..Default::default()
/// };
/// assert!(map.figure()?.text().contains("1  0.25▒  0.00\n"));
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heatmap {
    /// Heading; may be empty.
    pub title: String,
    /// What the columns are.
    pub x_label: String,
    /// What the rows are.
    pub y_label: String,
    /// Names of the columns; empty means 0, 1, 2, ...
    pub x_ticks: Vec<String>,
    /// Names of the rows; empty means 0, 1, 2, ...
    pub y_ticks: Vec<String>,
    /// The numbers, `[y, x]`; NaN and infinities are hatched.
    pub values: Array2<f64>,
    /// What stands over the colour bar.
    pub unit: String,
    /// Colours centred on zero, one hue for each sign.
    pub diverging: bool,
    /// Logarithmic colours; values that are not positive are hatched.
    pub log: bool,
    /// The ends of the colours, such as those of another map to compare with; values beyond have the colour of the end,
    /// and a triangle that points down or up. None: from the least value to the greatest.
    pub range: Option<(f64, f64)>,
    /// Cells as high as they are wide, as pixels are.
    pub square: bool,
    /// What hatched cells mean, such as "streams that do not count"; empty: the caption says how many there are, and why.
    pub hatched: String,
    /// Caption under the figure.
    pub note: String,
}

impl Heatmap {
    /// A map of these values, `[y, x]`, without names.
    ///
    /// # Errors
    /// For values of more or fewer than two axes.
    ///
    /// ```
    /// use ndarray::array;
    /// use onelens::show::Heatmap;
    /// assert_eq!(Heatmap::new("weights", array![[0.5_f32, 2.0]])?.values, array![[0.5, 2.0]]);
    /// assert!(Heatmap::new("weights", [0.5, 2.0]).unwrap_err().to_string().contains("the shape [2]"));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn new(title: impl Into<String>, values: impl Numbers) -> Result<Self> {
        let values = values.numbers();
        let shape = values.shape().to_vec();
        let values = values.into_dimensionality::<Ix2>().map_err(|_| {
            Error::new(
                ErrorKind::Shape,
                format!("a heat map takes values of two axes, and these have the shape {shape:?}"),
                "choose a part of two axes, such as `a.index_axis(Axis(0), 0)`, or make a row of them: `a.insert_axis(Axis(0))`",
            )
        })?;
        Ok(Heatmap { title: title.into(), values, ..Default::default() })
    }

    /// Checks the data and draws them.
    ///
    /// # Errors
    /// Without values, when tick names and values differ in number, and for `log` together with `diverging`.
    pub fn figure(&self) -> Result<Figure> {
        let (n_rows, n_columns) = self.values.dim();
        if self.values.is_empty() {
            return Err(empty("heat map", &self.title, "give it at least one row and one column of values"));
        }
        if self.log && self.diverging {
            return Err(Error::new(
                ErrorKind::Config,
                "log and diverging are both set, but the logarithm of a negative number does not exist",
                "set one of the two",
            ));
        }
        if let Some((lo, hi)) = self.range
            && !(lo < hi && is_drawable(lo) && is_drawable(hi) && (!self.log || lo > 0.0))
        {
            return Err(Error::new(
                ErrorKind::Config,
                format!("colours cannot range from {lo} to {hi}"),
                "give two finite numbers, the smaller one first, and both positive where colours are logarithmic",
            ));
        }
        if !self.x_ticks.is_empty() {
            same_length("names in x_ticks", self.x_ticks.len(), n_columns, "columns of values")?;
        }
        if !self.y_ticks.is_empty() {
            same_length("names in y_ticks", self.y_ticks.len(), n_rows, "rows of values")?;
        }
        let cells = Cells::new(self);
        let note = text::sentences(&[&self.note, &cells.missing(self)]);
        let figure = Figure::drawn(&self.title, cells.draw(self, &note), cells.text(self, &note), self.csv());
        Ok(figure.on_narrow_pages(&caption(&note)))
    }

    /// One row per row, after its name.
    fn csv(&self) -> String {
        let name = |names: &[String], i: usize| names.get(i).cloned().unwrap_or_else(|| i.to_string());
        let header = std::iter::once(self.y_label.clone())
            .chain((0..self.values.ncols()).map(|j| name(&self.x_ticks, j)))
            .collect();
        let rows = self.values.outer_iter().enumerate().map(|(i, row)| {
            std::iter::once(name(&self.y_ticks, i)).chain(row.iter().map(f64::to_string)).collect()
        });
        text::csv(std::iter::once(header).chain(rows))
    }

    /// Shows the figure in the notebook, now. Where it cannot be drawn, the cell ends with why.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}

/// The values as drawn: perhaps means of blocks, with names and with a place on the colour bar.
struct Cells {
    values: Array2<f64>,
    /// Rows and columns of `values` in one cell.
    block: (usize, usize),
    /// Where the colours end, if that was asked for.
    ends: Option<(f64, f64)>,
    x_names: Vec<String>,
    y_names: Vec<String>,
    bar: Axis,
    log: bool,
    diverging: bool,
    square: bool,
}

impl Cells {
    fn new(map: &Heatmap) -> Cells {
        let (n_rows, n_columns) = map.values.dim();
        let block = (n_rows.div_ceil(MAX_SIDE), n_columns.div_ceil(MAX_SIDE));
        let block = if map.square { (block.0.max(block.1), block.0.max(block.1)) } else { block };
        let names = |given: &[String], n: usize, block: usize| -> Vec<String> {
            let all: Vec<String> =
                if given.is_empty() { (0..n).map(|i| i.to_string()).collect() } else { given.to_vec() };
            all.iter().step_by(block).map(|name| text::cut(&text::one_line(name), 24)).collect()
        };
        // What is not positive has a place at the lower end of logarithmic colours only if that end was given.
        let has_place = |v: f64| is_drawable(v) && !(map.log && map.range.is_none() && v <= 0.0);
        let values = if block == (1, 1) {
            map.values.clone()
        } else {
            Array2::from_shape_fn((n_rows.div_ceil(block.0), n_columns.div_ceil(block.1)), |(i, j)| {
                let rows = i * block.0..n_rows.min((i + 1) * block.0);
                let columns = j * block.1..n_columns.min((j + 1) * block.1);
                let all = rows.flat_map(|r| columns.clone().map(move |c| (r, c))).map(|at| map.values[at]);
                let (sum, n) =
                    all.filter(|v| has_place(*v)).fold((0.0, 0.0), |(sum, n), v| (sum + v, n + 1.0));
                sum / n
            })
        };
        let range = values.iter().copied().filter(|v| has_place(*v));
        let (lo, hi) = range.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(v), hi.max(v)));
        let (lo, hi) = if lo <= hi { (lo, hi) } else { (if map.log { 0.1 } else { 0.0 }, 1.0) };
        let (lo, hi) = map.range.unwrap_or((lo, hi));
        let bar = if map.log {
            Axis::log(lo, hi, true)
        } else if map.diverging {
            let largest = lo.abs().max(hi.abs());
            let largest = if largest > 0.0 { largest } else { 1.0 };
            Axis::tight(-largest, largest, 5, false)
        } else {
            Axis::tight(lo, hi, 5, false)
        };
        Cells {
            values,
            block,
            ends: map.range,
            x_names: names(&map.x_ticks, n_columns, block.1),
            y_names: names(&map.y_ticks, n_rows, block.0),
            bar,
            log: map.log,
            diverging: map.diverging,
            square: map.square,
        }
    }

    /// Place on the colour bar, from 0 to 1.
    fn fraction(&self, v: f64) -> Option<f64> {
        let drawn = self.ends.map_or(v, |(lo, hi)| v.clamp(lo, hi));
        (is_drawable(v) && !(self.log && drawn <= 0.0)).then(|| self.bar.place(drawn).clamp(0.0, 1.0))
    }

    /// The mark of a value that the scale ends before.
    fn outside(&self, v: f64) -> &'static str {
        match self.ends {
            Some((lo, _)) if v < lo => "▾",
            Some((_, hi)) if v > hi => "▴",
            Some(_) | None => "",
        }
    }

    /// What the reader does not see, as sentences.
    fn missing(&self, map: &Heatmap) -> String {
        let n = map.values.iter().filter(|v| self.fraction(**v).is_none()).count();
        let why = reason(map.values.iter(), self.log);
        let hatched = match n {
            0 => String::new(),
            _ if !map.hatched.is_empty() => format!("Hatched: {}.", map.hatched),
            1 => format!("Hatched: one value, {why}."),
            n => format!("Hatched: {n} values, {why}."),
        };
        let (rows, columns) = map.values.dim();
        let blocks = if self.block == (1, 1) {
            String::new()
        } else {
            format!(
                "Each cell is the mean of {} x {} of the {rows} x {columns} values.",
                self.block.0, self.block.1
            )
        };
        let cut = self.ends.map_or(String::new(), |(lo, hi)| {
            let (below, above) = (self.values.iter().any(|v| *v < lo), self.values.iter().any(|v| *v > hi));
            let (lo, hi) = (text::limit(lo), text::limit(hi));
            match (below, above) {
                (false, false) => String::new(),
                (true, false) => format!("▾: below {lo}."),
                (false, true) => format!("▴: above {hi}."),
                (true, true) => format!("▾: below {lo}; ▴: above {hi}."),
            }
        });
        text::sentences(&[&blocks, &cut, &hatched])
    }

    /// The numbers, all with as many decimals as the largest needs; on a logarithmic scale each with two or three
    /// digits.
    fn numbers(&self) -> Vec<String> {
        let values = self.values.as_standard_layout();
        let values = values.as_slice().unwrap_or(&[]);
        if self.log { values.iter().map(|v| text::digits(*v, 2)).collect() } else { text::column(values, 3) }
    }

    fn printed(&self) -> Option<Vec<String>> {
        let (rows, columns) = self.values.dim();
        let labels = self.numbers();
        (rows <= PRINTED && columns <= PRINTED && labels.iter().all(|l| l.len() <= 9)).then_some(labels)
    }

    fn draw(&self, map: &Heatmap, note: &str) -> Drawing {
        const TICK: f64 = 11.0;
        const TITLE: f64 = 14.5;
        let (n_rows, n_columns) = self.values.dim();
        let printed = self.printed();
        let print_width = printed.iter().flatten().map(|l| text::ems(l)).fold(0.0, f64::max) * TICK + 8.0;
        let side = if printed.is_some() { print_width.clamp(38.0, 64.0) } else { 4.0 };
        let square = map.square || n_rows == n_columns;
        let room = if map.square {
            f64::min(460.0 / n_columns as f64, 400.0 / n_rows as f64)
        } else {
            460.0 / n_columns as f64
        };
        let cell_width = room.clamp(side, side.max(46.0));
        let cell_height = (if square { cell_width } else { 360.0 / n_rows as f64 })
            .clamp(4.0, if map.square { 64.0 } else { 34.0 });

        let widest = |names: &[String]| names.iter().map(|n| text::ems(n)).fold(0.0, f64::max) * TICK;
        let x_every = |room: f64| ((widest(&self.x_names) + 8.0) / room).ceil().max(1.0) as usize;
        let upright = x_every(cell_width) > 1 && cell_width >= 14.0 && !map.x_ticks.is_empty();
        let x_step = if upright { 1 } else { round_step(x_every(cell_width), map.x_ticks.is_empty()) };
        let y_step = round_step((14.0 / cell_height).ceil() as usize, map.y_ticks.is_empty());

        let title_words = text::one_line(&map.title);
        let left = widest(&self.y_names) + 12.0;
        let (plot_width, plot_height) = (cell_width * n_columns as f64, cell_height * n_rows as f64);
        let bar_labels = self.bar.ticks.iter().map(|(_, t)| text::ems(t)).fold(0.0, f64::max) * TICK;
        let bar_left = left + plot_width + 24.0;
        let unit_words = text::cut(&text::one_line(&map.unit), 40);
        // The unit stands over the bar and may run to the right of it.
        let width =
            (bar_left + f64::max(22.0 + bar_labels, text::ems(&unit_words) * TICK) + 4.0).max(320.0).ceil();
        let titles = text::wrap(&title_words, width / TITLE / 1.06, text::ems);
        let notes = text::wrap(&text::one_line(note), width / LABEL, text::ems);
        let head = titles.len() as f64 * 20.0;
        let top = head + 26.0;
        let bar_height = plot_height.max(80.0);
        let bottom = top + plot_height;
        let x_names_height = if upright { widest(&self.x_names) + 10.0 } else { 20.0 };
        let x_label_height = if map.x_label.is_empty() { 0.0 } else { 20.0 };
        let below = f64::max(bottom + x_names_height + x_label_height, top + bar_height + 8.0);
        let height = (below + 6.0 + notes.len() as f64 * NOTE_LINE).ceil();

        Drawing::new(width, height, |canvas| {
            for (i, line) in titles.iter().enumerate() {
                canvas.bold((0.0, 10.0 + 20.0 * i as f64), line, TITLE, Anchor::Start, INK);
            }
            let y_label = text::one_line(&map.y_label);
            canvas.text((0.0, top - 13.0), &text::cut(&y_label, 60), LABEL, Anchor::Start, MUTED);
            canvas.text((bar_left, top - 13.0), &unit_words, TICK, Anchor::Start, MUTED);
            self.draw_cells(canvas, (left, top), (cell_width, cell_height), printed.as_deref());
            for (i, name) in self.y_names.iter().enumerate().step_by(y_step) {
                let y = top + (i as f64 + 0.5) * cell_height;
                canvas.text((left - 6.0, y), name, TICK, Anchor::End, MUTED);
            }
            for (j, name) in self.x_names.iter().enumerate().step_by(x_step) {
                let x = left + (j as f64 + 0.5) * cell_width;
                if upright {
                    canvas.text((x, bottom + 6.0), name, TICK, Anchor::UpEnd, MUTED);
                } else {
                    canvas.text((x, bottom + 12.0), name, TICK, Anchor::Middle, MUTED);
                }
            }
            let x_label = text::cut(&text::one_line(&map.x_label), 60);
            canvas.text(
                (left + plot_width / 2.0, bottom + x_names_height + 8.0),
                &x_label,
                LABEL,
                Anchor::Middle,
                MUTED,
            );
            self.draw_bar(canvas, (bar_left, top), bar_height);
        })
        .captioned(below + 12.0, &notes)
    }

    fn draw_cells(
        &self,
        canvas: &mut Canvas,
        (left, top): (f64, f64),
        (w, h): (f64, f64),
        printed: Option<&[String]>,
    ) {
        let n_columns = self.values.ncols();
        // A hairline between cells where they are large enough to spare it, but not between the pixels of an image.
        let spare = w >= 14.0 && h >= 14.0 && (printed.is_some() || !self.square);
        let gap = if spare { 1.0 } else { 0.0 };
        for (i, row) in self.values.outer_iter().enumerate() {
            let mut j = 0;
            while j < n_columns {
                let at = (left + j as f64 * w, top + i as f64 * h);
                let colour = |j: usize| self.fraction(row[j]).map(|f| theme::map_colour(f, self.diverging));
                // Without hairlines, neighbours of one colour are one rectangle.
                let mut run = 1;
                while gap == 0.0 && j + run < n_columns && colour(j + run) == colour(j) {
                    run += 1;
                }
                let size = (run as f64 * w - gap, h - gap);
                match colour(j) {
                    Some(c) => canvas.rect(at, size, c),
                    None => canvas.hatched(at, size, NOTHING, HATCH),
                }
                let ink = colour(j).map_or(INK, theme::on);
                if let Some((lo, hi)) = self.ends
                    && gap > 0.0
                    && (row[j] < lo || row[j] > hi)
                {
                    let (x, y, down) =
                        (at.0 + size.0 - 6.0, at.1 + 6.0, if row[j] < lo { 1.0 } else { -1.0 });
                    let y = |offset: f64| y + down * offset;
                    canvas.polygon(&[(x - 3.5, y(-2.5)), (x + 3.5, y(-2.5)), (x, y(3.0))], ink, 1.0);
                }
                if let Some(labels) = printed {
                    let centre = (at.0 + size.0 / 2.0, at.1 + size.1 / 2.0);
                    if colour(j).is_some() {
                        canvas.text(centre, &labels[i * n_columns + j], 11.0, Anchor::Middle, ink);
                    }
                }
                j += run;
            }
        }
    }

    fn draw_bar(&self, canvas: &mut Canvas, (left, top): (f64, f64), height: f64) {
        const STEPS: usize = 64;
        for k in 0..STEPS {
            // From the top, each step down to the bottom and covered by the next: so there are no seams between them.
            let edge = height * k as f64 / STEPS as f64;
            let fraction = 1.0 - (k as f64 + 0.5) / STEPS as f64;
            canvas.rect(
                (left, top + edge),
                (12.0, height - edge),
                theme::map_colour(fraction, self.diverging),
            );
        }
        for (value, label) in &self.bar.ticks {
            let y = top + (1.0 - self.bar.place(*value)) * height;
            canvas.line((left + 12.0, y), (left + 16.0, y), AXIS, 1.0);
            canvas.text((left + 19.0, y), label, 11.0, Anchor::Start, MUTED);
        }
    }

    fn text(&self, map: &Heatmap, note: &str) -> String {
        let (n_rows, n_columns) = self.values.dim();
        let numbers = self.numbers();
        let rows = text::pick(n_rows, 40);
        let shade = |i: usize, j: usize| text::shade(self.fraction(self.values[(i, j)]));
        let heading = |columns: &[usize]| {
            let names = columns.iter().map(|&j| format!("{} ", text::cut(&self.x_names[j], 10)));
            std::iter::once(String::new()).chain(names).collect::<Vec<_>>()
        };
        let with_numbers = |columns: &[usize]| {
            let mut table = vec![heading(columns)];
            for &i in &rows {
                let cells = columns.iter().map(|&j| {
                    let (v, number) = (self.values[(i, j)], &numbers[i * n_columns + j]);
                    let shade = if v.is_nan() { ' ' } else { shade(i, j) };
                    format!("{number}{}{shade}", self.outside(v))
                });
                table.push(std::iter::once(self.y_names[i].clone()).chain(cells).collect());
            }
            text::aligned(&table, &vec![true; columns.len() + 1])
        };
        let all: Vec<usize> = (0..n_columns).collect();
        let mut body = match (map.y_label.is_empty(), map.x_label.is_empty()) {
            (true, true) => String::new(),
            _ => {
                format!("rows: {}; columns: {}\n", text::one_line(&map.y_label), text::one_line(&map.x_label))
            }
        };
        let full = with_numbers(&all);
        if full.lines().all(|line| text::columns(line) <= text::COLUMNS) {
            body += &full;
        } else {
            let name_width = self.y_names.iter().map(|n| text::columns(n)).max().unwrap_or(0);
            let columns = text::pick(n_columns, text::COLUMNS - name_width - 2);
            for &i in &rows {
                let line: String = columns.iter().map(|&j| shade(i, j)).collect();
                body += &format!("{}  {line}\n", text::pad(&self.y_names[i], name_width, true));
            }
            body += &format!(
                "(shades only: the numbers of {n_columns} columns do not fit in {} characters)\n",
                text::COLUMNS
            );
        }
        if rows.len() < n_rows {
            body += &format!("({} of {n_rows} rows, evenly spread)\n", rows.len());
        }
        let shown: Vec<f64> = self.values.iter().copied().filter(|v| self.fraction(*v).is_some()).collect();
        let lowest = shown.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = shown.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if !shown.is_empty() {
            let (lo, hi) = if self.diverging {
                let largest = lowest.abs().max(highest.abs());
                (-largest, largest)
            } else {
                self.ends.unwrap_or((lowest, highest))
            };
            body += &format!(
                "shades ░▒▓█ from {} to {} {}\n",
                text::number(lo),
                text::number(hi),
                text::one_line(&map.unit)
            );
        }
        text::page(&map.title, &body, note)
    }
}

/// Every how many names to write: for numbers 1, 2, 5, 10, ..., so that they stay round.
fn round_step(at_least: usize, numbers: bool) -> usize {
    let round = || [1, 2, 5, 10, 20, 50, 100].into_iter().find(|s| *s >= at_least);
    numbers.then(round).flatten().unwrap_or(at_least.max(1))
}
