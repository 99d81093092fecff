//! Curves, points or bars over a common axis, such as a number per layer for several lenses. Axes: `[series][x]`.

use super::axis::{Axis, is_drawable, reason};
use super::canvas::{Anchor, Canvas, Drawing, LABEL, NOTE_LINE};
use super::figure::{Figure, empty, same_length, show};
use super::numbers::Numbers;
use super::table::caption;
use super::text;
use super::theme::{self, AXIS, GRID, INK, MUTED, Rgb};
use crate::error::Result;
use crate::session::escape_html;

/// Rows of numbers in the text twin, and the number of points up to which each gets a mark.
const TEXT_ROWS: usize = 40;
/// Curves and bars of more values are drawn as the lowest and highest of each of half as many stretches; of more points
/// so many are drawn.
const MAX_POINTS: usize = 1200;
/// Characters of a name.
const NAME: usize = 28;
/// A band over this part of the axis or more says no more than that: it is drawn as a line and not as an area.
const WIDE: f64 = 0.4;

/// How a [`Series`] is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// A curve through the values. Of several in a chart that have one colour, because they are of one kind, the later
    /// ones have dashes.
    #[default]
    Line,
    /// A curve with dashes: for baselines and references.
    Dashed,
    /// A mark at each value and nothing between them.
    Points,
    /// A bar from zero to each value. Those of several series stand beside each other; those at given [`LineChart::x`]
    /// touch, as in a histogram.
    Bars,
}

/// One curve of a [`LineChart`], or its points or bars.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// What stands at the end of the curve; may be empty.
    pub name: String,
    /// One value per `x`; NaN and infinities leave gaps.
    pub y: Vec<f64>,
    /// A curve, points or bars.
    pub style: Style,
    /// Lower and upper limits around `y`, such as a confidence interval.
    pub band: Option<(Vec<f64>, Vec<f64>)>,
}

impl Series {
    /// A solid curve without a band. An array of more than one axis is read row by row.
    ///
    /// ```
    /// use onelens::show::Series;
    /// assert_eq!(Series::new("own", [0.5_f32, 0.25]).y, [0.5, 0.25]);
    /// ```
    pub fn new(name: impl Into<String>, y: impl Numbers) -> Self {
        Series { name: name.into(), y: list(y), ..Default::default() }
    }

    /// The same curve with dashes.
    pub fn dashed(self) -> Self {
        Series { style: Style::Dashed, ..self }
    }

    /// The same values as points.
    pub fn points(self) -> Self {
        Series { style: Style::Points, ..self }
    }

    /// The same values as bars.
    pub fn bars(self) -> Self {
        Series { style: Style::Bars, ..self }
    }

    /// The same curve with a band from `lower` to `upper`; bars get a line.
    pub fn band(self, lower: impl Numbers, upper: impl Numbers) -> Self {
        Series { band: Some((list(lower), list(upper))), ..self }
    }
}

fn list(numbers: impl Numbers) -> Vec<f64> {
    numbers.numbers().into_iter().collect()
}

/// Curves, points or bars over a common axis.
///
/// ```
/// use onelens::show::{LineChart, Series};
/// let chart = LineChart {
///     title: "Held-out KL".into(),
///     x_label: "layer".into(),
///     y_label: "KL (nats)".into(),
///     series: vec![
///         Series::new("own", [2.0, 1.0, 0.25]),
///         Series::new("constant", [3.0, 3.0, 3.0]).dashed(),
///     ],
///     y_from_zero: true,
///     ..Default::default()
/// };
/// let text = chart.figure()?.to_string();
/// assert!(text.contains("layer   own  constant\n    0  2.00         3\n"));
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LineChart {
    /// Heading; may be empty.
    pub title: String,
    /// What the horizontal axis counts or measures.
    pub x_label: String,
    /// What the vertical axis measures, with its unit.
    pub y_label: String,
    /// Horizontal positions, common to all series; empty means 0, 1, 2, ...
    pub x: Vec<f64>,
    /// Names to write at the positions instead of their numbers; empty for numbers.
    pub x_ticks: Vec<String>,
    /// The curves, in the order of their colours.
    pub series: Vec<Series>,
    /// Let the vertical axis contain zero.
    pub y_from_zero: bool,
    /// What the vertical axis covers at the least, such as what that of another chart does, to compare with.
    pub y_range: Option<(f64, f64)>,
    /// Logarithmic vertical axis; values that are not positive leave gaps.
    pub y_log: bool,
    /// Values below this are drawn at it, as arrows that point down; in the text twin and as CSV they are what they
    /// are.
    pub y_lowest: Option<f64>,
    /// What gaps mean, such as "streams that do not count"; empty: the caption says in which series how many values are
    /// not drawn, and why.
    pub gaps: String,
    /// Caption under the figure.
    pub note: String,
}

impl LineChart {
    /// Checks the data and draws them.
    ///
    /// # Errors
    /// Without series or points, and when a series, a band or the tick names differ from `x` in length.
    pub fn figure(&self) -> Result<Figure> {
        let x = self.checked_x()?;
        let note = text::sentences(&[&self.note, &self.missing(&x)]);
        let layout = Layout::new(self, &x, &note);
        let narrow = layout.names_as_html() + &caption(&note);
        let figure = Figure::drawn(&self.title, layout.draw(), self.text(&x, &note), self.csv(&x));
        Ok(figure.on_narrow_pages(&narrow))
    }

    /// One row per `x`, one column per series, and two more for its band.
    fn csv(&self, x: &[f64]) -> String {
        let mut header = vec![if self.x_label.is_empty() { "x".into() } else { self.x_label.clone() }];
        for s in &self.series {
            let name = self.heading(s);
            header.push(name.to_string());
            if s.band.is_some() {
                header.extend(["lower limit", "upper limit"].map(|limit| format!("{name}, {limit}")));
            }
        }
        let rows = (0..x.len()).map(|i| {
            let mut row = vec![self.x_ticks.get(i).cloned().unwrap_or_else(|| x[i].to_string())];
            for s in &self.series {
                row.push(s.y[i].to_string());
                row.extend(
                    s.band.iter().flat_map(|(lower, upper)| [lower[i].to_string(), upper[i].to_string()]),
                );
            }
            row
        });
        text::csv(std::iter::once(header).chain(rows))
    }

    /// Shows the figure in the notebook, now. Where it cannot be drawn, the cell ends with why.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }

    fn checked_x(&self) -> Result<Vec<f64>> {
        let nothing =
            || empty("line chart", &self.title, "give it at least one series with at least one value");
        let first = self.series.first().ok_or_else(nothing)?;
        let name = |s: &Series| text::cut(&text::one_line(self.heading(s)), 60);
        let (n, of) = match (self.x.len(), self.x_ticks.len()) {
            (0, 0) => (first.y.len(), format!("values in series \"{}\"", name(first))),
            (0, n) => (n, "names in x_ticks".into()),
            (n, _) => (n, "values in x".into()),
        };
        if !self.x_ticks.is_empty() {
            same_length("names in x_ticks", self.x_ticks.len(), n, &of)?;
        }
        for s in &self.series {
            same_length(&format!("values in series \"{}\"", name(s)), s.y.len(), n, &of)?;
            if let Some((lower, upper)) = &s.band {
                same_length(&format!("lower limits in the band of \"{}\"", name(s)), lower.len(), n, &of)?;
                same_length(&format!("upper limits in the band of \"{}\"", name(s)), upper.len(), n, &of)?;
            }
        }
        if n == 0 {
            return Err(nothing());
        }
        Ok(if self.x.is_empty() { (0..n).map(|i| i as f64).collect() } else { self.x.clone() })
    }

    /// The name of a series in tables, where there has to be one.
    fn heading<'a>(&'a self, series: &'a Series) -> &'a str {
        [&series.name, &self.y_label].into_iter().find(|name| !name.is_empty()).map_or("y", String::as_str)
    }

    fn has_place(&self, y: f64) -> bool {
        is_drawable(y) && !(self.y_log && self.drawn(y) <= 0.0)
    }

    /// Where a value is drawn.
    fn drawn(&self, y: f64) -> f64 {
        self.y_lowest.map_or(y, |lowest| y.max(lowest))
    }

    fn is_below(&self, y: f64) -> bool {
        is_drawable(y) && self.drawn(y) != y
    }

    /// What the reader does not see, as sentences.
    fn missing(&self, x: &[f64]) -> String {
        let mut gaps: Vec<String> = Vec::new();
        for s in &self.series {
            let n = s.y.iter().zip(x).filter(|(y, x)| !self.has_place(**y) || !is_drawable(**x)).count();
            if n > 0 {
                let name = text::cut(&text::one_line(&s.name), 60);
                let of = if name.is_empty() { name } else { format!(" in \"{name}\"") };
                gaps.push(text::count(n, "value") + &of);
            }
        }
        if gaps.len() > 6 {
            let more = gaps.len() - 5;
            gaps.truncate(5);
            gaps.push(format!("values in {more} more series"));
        }
        let why = reason(self.series.iter().flat_map(|s| &s.y).chain(x), self.y_log);
        let below = match self.y_lowest {
            Some(lowest) if self.series.iter().flat_map(|s| &s.y).any(|y| self.is_below(*y)) => {
                format!("Arrows: values below {}.", text::limit(lowest))
            }
            Some(_) | None => String::new(),
        };
        let missing = match (gaps.is_empty(), self.gaps.is_empty()) {
            (true, _) => String::new(),
            (false, true) => format!("Not drawn, because {why}: {}.", gaps.join(", ")),
            (false, false) => format!("Gaps: {}.", self.gaps),
        };
        let points = self.series.iter().filter(|s| s.style == Style::Points).map(|s| s.y.len()).max();
        let thinned = match points {
            Some(n) if n > MAX_POINTS => format!("{MAX_POINTS} of {n} points are drawn, evenly picked."),
            Some(_) | None => String::new(),
        };
        text::sentences(&[&below, &missing, &thinned])
    }

    fn x_name(&self, x: &[f64]) -> Vec<String> {
        if self.x_ticks.is_empty() {
            text::column(x, 6)
        } else {
            self.x_ticks.iter().map(|t| text::one_line(t)).collect()
        }
    }

    fn text(&self, x: &[f64], note: &str) -> String {
        let rows = text::pick(x.len(), TEXT_ROWS);
        let names: Vec<String> = self.x_name(x).iter().map(|name| text::cut(name, 28)).collect();
        let columns: Vec<Vec<String>> = self
            .series
            .iter()
            .map(|s| {
                let shown: Vec<f64> = rows.iter().map(|&i| s.y[i]).collect();
                let heading = std::iter::once(text::cut(&text::one_line(self.heading(s)), NAME));
                // On a logarithmic axis the small values matter as much as the large ones.
                let numbers = if self.y_log {
                    shown.iter().map(|v| text::digits(*v, 3)).collect()
                } else {
                    text::column(&shown, 4)
                };
                heading.chain(numbers).collect()
            })
            .collect();
        let label = text::one_line(&self.x_label);
        // A heading is short; what explains it stands above.
        let short = match label.split_once(" (") {
            Some((short, _)) if text::columns(&label) > 24 => short,
            Some(_) | None => label.as_str(),
        };
        let x_column: Vec<String> =
            std::iter::once(if label.is_empty() { "x".into() } else { text::cut(short, 24) })
                .chain(rows.iter().map(|&i| names[i].clone()))
                .collect();
        let width = |c: &Vec<String>| c.iter().map(|cell| text::columns(cell)).max().unwrap_or(0) + 2;

        let mut body = String::new();
        let by = if text::columns(&label) > 24 { format!("by {label}") } else { String::new() };
        // Series without a name have that of the axis.
        let unnamed = self.series.iter().all(|s| s.name.is_empty());
        let y_label = if unnamed { String::new() } else { text::one_line(&self.y_label) };
        let heading = text::sentences(&[&y_label, &by]);
        if !heading.is_empty() {
            body += &format!("{heading}\n");
        }
        // As many series side by side as fit a terminal, then the next block below.
        let mut from = 0;
        while from < columns.len() {
            let mut to = from + 1;
            while to < columns.len()
                && width(&x_column) + columns[from..=to].iter().map(width).sum::<usize>() <= text::COLUMNS
            {
                to += 1;
            }
            let table: Vec<Vec<String>> = (0..x_column.len())
                .map(|r| std::iter::once(&x_column).chain(&columns[from..to]).map(|c| c[r].clone()).collect())
                .collect();
            body += &text::aligned(&table, &vec![true; to - from + 1]);
            body.push('\n');
            from = to;
        }
        if rows.len() < x.len() {
            body += &format!("({} of {} rows, evenly spread)\n", rows.len(), x.len());
        }
        // Points need not come in the order of the axis.
        let sparks: Vec<Vec<String>> = self
            .series
            .iter()
            .filter(|s| s.style != Style::Points)
            .map(|s| {
                let ends: Vec<f64> = s.y.iter().copied().filter(|v| v.is_finite()).collect();
                let ends = match ends[..] {
                    [] => "no values".into(),
                    [only] => text::number(only),
                    [first, .., last] => format!("{} -> {}", text::number(first), text::number(last)),
                };
                vec![text::cut(&text::one_line(self.heading(s)), NAME), text::sparkline(&s.y), ends]
            })
            .collect();
        body += &text::aligned(&sparks, &[false, false, false]);
        text::page(&self.title, &body, note)
    }
}

const WIDTH: f64 = 700.0;
const TICK_SIZE: f64 = 11.0;
const TITLE_SIZE: f64 = 14.5;
/// Height of a name at the right.
const NAME_STEP: f64 = 16.0;

/// Where everything goes, in pixels.
struct Layout<'a> {
    chart: &'a LineChart,
    x: &'a [f64],
    x_axis: Axis,
    y_axis: Axis,
    x_names: Vec<(f64, String)>,
    upright: bool,
    names: Vec<String>,
    colours: Vec<Rgb>,
    dashed: Vec<bool>,
    titles: Vec<String>,
    notes: Vec<String>,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    height: f64,
    /// What the bars of one `x` have to share, and how many they are.
    step: f64,
    n_bars: usize,
}

impl<'a> Layout<'a> {
    fn new(chart: &'a LineChart, x: &'a [f64], note: &str) -> Layout<'a> {
        let y_axis = y_axis(chart);
        let tick_width = y_axis.ticks.iter().map(|(_, t)| text::ems(t)).fold(0.0, f64::max) * TICK_SIZE;
        let names: Vec<String> =
            chart.series.iter().map(|s| text::cut(&text::one_line(&s.name), NAME)).collect();
        let name_width = names.iter().map(|n| text::ems(n)).fold(0.0, f64::max) * LABEL;
        let left = tick_width + 16.0;
        let right = WIDTH - if name_width > 0.0 { name_width + 44.0 } else { 16.0 };

        let (lo, hi) = range(x.iter().copied().filter(|v| is_drawable(*v))).unwrap_or((0.0, 1.0));
        let n_bars = chart.series.iter().filter(|s| s.style == Style::Bars).count();
        let step = if n_bars > 0 { least_step(x) } else { 0.0 };
        let (lo, hi) = (lo - step / 2.0, hi + step / 2.0);
        let named = !chart.x_ticks.is_empty();
        let whole = x.iter().all(|v| !is_drawable(*v) || v.fract() == 0.0);
        let x_axis = Axis::tight(lo, hi, 10, whole);
        let (x_names, upright) = if named {
            named_ticks(chart, x, right - left)
        } else {
            // Bars that touch have ticks at round numbers, which are their edges more often than their middles.
            let own = if n_bars > 0 && !chart.x.is_empty() { &[][..] } else { x };
            (numbered_ticks(own, &x_axis, right - left), false)
        };
        let x_name_height = if upright {
            x_names.iter().map(|(_, n)| text::ems(n)).fold(0.0, f64::max) * TICK_SIZE + 8.0
        } else {
            20.0
        };

        let titles = text::wrap(&text::one_line(&chart.title), WIDTH / TITLE_SIZE / 1.06, text::ems);
        let notes = text::wrap(&text::one_line(note), WIDTH / LABEL, text::ems);
        let y_label_height = if chart.y_label.is_empty() { 10.0 } else { 22.0 };
        let top = titles.len() as f64 * 20.0 + y_label_height + 4.0;
        let bottom = top + f64::max(260.0, names.len() as f64 * NAME_STEP);
        let x_label_height = if chart.x_label.is_empty() { 6.0 } else { 20.0 };
        let height = bottom
            + x_name_height
            + x_label_height
            + if notes.is_empty() { 0.0 } else { 6.0 }
            + notes.len() as f64 * NOTE_LINE
            + 2.0;
        let colours = theme::line_colours(chart.series.iter().map(|s| s.name.as_str()));
        Layout {
            chart,
            x,
            x_axis,
            y_axis,
            x_names,
            upright,
            names,
            dashed: dashed(&chart.series, &colours),
            colours,
            titles,
            notes,
            left,
            right,
            top,
            bottom,
            height: height.ceil(),
            step,
            n_bars,
        }
    }

    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let u = self.left + 10.0 + self.x_axis.place(x) * (self.right - self.left - 20.0);
        (u, self.bottom - self.y_axis.place(self.chart.drawn(y)) * (self.bottom - self.top))
    }

    fn draw(&self) -> Drawing {
        Drawing::new(WIDTH, self.height, |canvas| {
            self.draw_frame(canvas);
            for (i, series) in self.chart.series.iter().enumerate() {
                self.draw_band(canvas, series, self.colours[i]);
            }
            // The first series is the one the chart is about: it is drawn last, on top.
            for (i, series) in self.chart.series.iter().enumerate().rev() {
                self.draw_curve(canvas, series, i);
            }
            self.draw_names(canvas);
        })
        .captioned(self.notes_top() + 8.0, &self.notes)
    }

    fn notes_top(&self) -> f64 {
        self.height - 2.0 - self.notes.len() as f64 * NOTE_LINE
    }

    fn draw_frame(&self, canvas: &mut Canvas) {
        let (left, right, top, bottom) = (self.left, self.right, self.top, self.bottom);
        for (i, line) in self.titles.iter().enumerate() {
            canvas.bold((0.0, 10.0 + 20.0 * i as f64), line, TITLE_SIZE, Anchor::Start, INK);
        }
        canvas.text(
            (0.0, top - 17.0),
            &text::cut(&text::one_line(&self.chart.y_label), 90),
            LABEL,
            Anchor::Start,
            MUTED,
        );
        for (value, label) in &self.y_axis.ticks {
            let y = self.at(0.0, *value).1;
            canvas.line((left, y), (right, y), GRID, 1.0);
            canvas.text((left - 7.0, y), label, TICK_SIZE, Anchor::End, MUTED);
        }
        if !self.chart.y_log && self.y_axis.place(0.0) > 0.0 && self.y_axis.place(0.0) < 1.0 {
            let y = self.at(0.0, 0.0).1;
            canvas.line((left, y), (right, y), AXIS, 1.0);
        }
        canvas.line((left, bottom), (right, bottom), AXIS, 1.0);
        for (value, label) in &self.x_names {
            let u = self.at(*value, 1.0).0;
            canvas.line((u, bottom), (u, bottom + 4.0), AXIS, 1.0);
            if self.upright {
                canvas.text((u, bottom + 8.0), label, TICK_SIZE, Anchor::UpEnd, MUTED);
            } else {
                canvas.text((u, bottom + 14.0), label, TICK_SIZE, Anchor::Middle, MUTED);
            }
        }
        if !self.chart.x_label.is_empty() {
            let y = self.notes_top() - if self.notes.is_empty() { 10.0 } else { 16.0 };
            canvas.text(
                ((left + right) / 2.0, y),
                &text::cut(&text::one_line(&self.chart.x_label), 80),
                LABEL,
                Anchor::Middle,
                MUTED,
            );
        }
    }

    /// Stretches of indices without a gap.
    fn runs(&self, has_place: impl Fn(usize) -> bool) -> Vec<Vec<usize>> {
        let mut runs: Vec<Vec<usize>> = vec![vec![]];
        for i in 0..self.x.len() {
            if is_drawable(self.x[i]) && has_place(i) {
                if let Some(run) = runs.last_mut() {
                    run.push(i);
                }
            } else if runs.last().is_some_and(|run| !run.is_empty()) {
                runs.push(vec![]);
            }
        }
        runs.retain(|run| !run.is_empty());
        runs
    }

    fn draw_band(&self, canvas: &mut Canvas, series: &Series, c: Rgb) {
        let Some((lower, upper)) = &series.band else { return };
        if series.style == Style::Bars {
            return;
        }
        let has_place = |i: usize| self.chart.has_place(lower[i]) && self.chart.has_place(upper[i]);
        let place = |y: f64| self.y_axis.place(self.chart.drawn(y)).clamp(0.0, 1.0);
        let wide = |i: usize| place(upper[i]) - place(lower[i]) >= WIDE;
        for i in self.runs(|i| has_place(i) && wide(i)).concat() {
            let (from, to) = (self.at(self.x[i], lower[i]), self.at(self.x[i], upper[i]));
            canvas.polygon(
                &[(from.0 - 0.7, from.1), (from.0 + 0.7, from.1), (to.0 + 0.7, to.1), (to.0 - 0.7, to.1)],
                c,
                0.5,
            );
        }
        for run in self.runs(|i| has_place(i) && !wide(i)) {
            let run: Vec<usize> = text::pick(run.len(), MAX_POINTS).into_iter().map(|i| run[i]).collect();
            let there = run.iter().map(|&i| self.at(self.x[i], upper[i]));
            let back = run.iter().rev().map(|&i| self.at(self.x[i], lower[i]));
            canvas.polygon(&there.chain(back).collect::<Vec<_>>(), c, 0.16);
        }
    }

    fn draw_curve(&self, canvas: &mut Canvas, series: &Series, i: usize) {
        let c = self.colours[i];
        let few = self.x.len() <= TEXT_ROWS;
        match series.style {
            Style::Bars => self.draw_bars(canvas, series, i),
            Style::Points => {
                let all = self.runs(|j| self.chart.has_place(series.y[j])).concat();
                for k in text::pick(all.len(), MAX_POINTS) {
                    self.draw_mark(canvas, series, i, all[k]);
                }
            }
            Style::Line | Style::Dashed => {
                for run in self.runs(|j| self.chart.has_place(series.y[j])) {
                    let single = run.len() == 1;
                    let points: Vec<(f64, f64)> =
                        thin(&run, &series.y).into_iter().map(|j| self.at(self.x[j], series.y[j])).collect();
                    if self.dashed[i] {
                        canvas.dashed(&points, c, 2.0);
                    } else if !single {
                        canvas.path(&points, c, 2.0);
                    }
                    for &j in run.iter().filter(|_| few) {
                        if single || series.style == Style::Line || self.chart.is_below(series.y[j]) {
                            self.draw_mark(canvas, series, i, j);
                        }
                    }
                    if single && !few {
                        canvas.mark(points[0], i, c);
                    }
                }
            }
        }
    }

    /// A mark at the `j`-th value, or an arrow where that lies below the axis.
    fn draw_mark(&self, canvas: &mut Canvas, series: &Series, i: usize, j: usize) {
        let at = self.at(self.x[j], series.y[j]);
        if self.chart.is_below(series.y[j]) {
            canvas.arrow_down(at, self.colours[i]);
        } else {
            canvas.mark(at, i, self.colours[i]);
        }
    }

    fn draw_bars(&self, canvas: &mut Canvas, series: &Series, i: usize) {
        let before = self.chart.series[..i].iter().filter(|s| s.style == Style::Bars).count();
        let whole = self.at(self.step, 1.0).0 - self.at(0.0, 1.0).0;
        // Bars at given places touch up to a hairline; others stand apart.
        let all = if self.chart.x.is_empty() { 0.75 * whole } else { whole };
        let width = (all / self.n_bars as f64).max(1.0);
        let gap = if width > 4.0 { 1.0 } else { 0.0 };
        let zero = if self.chart.y_log { self.bottom } else { self.at(0.0, 0.0).1 };
        let run = self.runs(|j| self.chart.has_place(series.y[j])).concat();
        for j in thin(&run, &series.y) {
            let (x, y) = self.at(self.x[j], series.y[j]);
            let left = x - all / 2.0 + before as f64 * width;
            let size = (width - gap, (zero - y).abs());
            canvas.rect((left, y.min(zero)), size, self.colours[i]);
            if let Some((lower, upper)) = &series.band
                && self.chart.has_place(lower[j])
                && self.chart.has_place(upper[j])
            {
                let middle = left + (width - gap) / 2.0;
                let ends = [lower[j], upper[j]].map(|limit| (middle, self.at(self.x[j], limit).1));
                canvas.line(ends[0], ends[1], INK, 1.5);
            }
        }
    }

    /// The names once more, for pages on which those at the right are out of sight.
    fn names_as_html(&self) -> String {
        let named = self.names.iter().zip(&self.colours).filter(|(name, _)| !name.is_empty());
        let name = |(name, c): (&String, &Rgb)| {
            format!("<span><i style=\"background:{}\"></i>{}</span>", theme::variable(*c), escape_html(name))
        };
        named.map(name).collect()
    }

    /// Names at the right, each as near to the end of its curve as the others allow.
    fn draw_names(&self, canvas: &mut Canvas) {
        let end = |s: &Series| {
            (0..self.x.len()).rev().find(|&i| is_drawable(self.x[i]) && self.chart.has_place(s.y[i]))
        };
        let ends: Vec<Option<(f64, f64)>> =
            self.chart.series.iter().map(|s| end(s).map(|i| self.at(self.x[i], s.y[i]))).collect();
        // Points and bars have no end: their names stand at the top.
        let is_curve = |s: &Series| matches!(s.style, Style::Line | Style::Dashed);
        let place = |(end, s): (&Option<(f64, f64)>, &Series)| {
            if is_curve(s) { end.map_or(self.bottom, |(_, y)| y) } else { self.top }
        };
        let wanted: Vec<f64> = ends.iter().zip(&self.chart.series).map(place).collect();
        let places = spread(&wanted, NAME_STEP, self.top, self.bottom);
        for (i, series) in self.chart.series.iter().enumerate().filter(|(i, _)| !self.names[*i].is_empty()) {
            let (y, u) = (places[i], self.right + 12.0);
            if let Some((end_x, end_y)) = ends[i]
                && end_x > self.right - 12.0
                && is_curve(series)
            {
                canvas.line((end_x + 5.0, end_y), (u - 3.0, y), GRID, 1.0);
            }
            let c = self.colours[i];
            match series.style {
                Style::Points => canvas.mark((u + 10.0, y), i, c),
                Style::Bars => canvas.rect((u + 5.0, y - 5.0), (10.0, 10.0), c),
                Style::Line | Style::Dashed => {
                    if self.dashed[i] {
                        canvas.dashed(&[(u, y), (u + 20.0, y)], c, 2.0);
                    } else {
                        canvas.path(&[(u, y), (u + 20.0, y)], c, 2.0);
                    }
                    if series.style == Style::Line && self.x.len() <= TEXT_ROWS {
                        canvas.mark((u + 10.0, y), i, c);
                    }
                }
            }
            canvas.text((u + 26.0, y), &self.names[i], LABEL, Anchor::Start, INK);
        }
    }
}

/// Which curves have dashes: those that were given them, and of several in one colour all but the first.
fn dashed(series: &[Series], colours: &[Rgb]) -> Vec<bool> {
    let again = |i: usize| {
        let earlier = series[..i].iter().zip(colours);
        series[i].style == Style::Line
            && earlier.into_iter().any(|(s, c)| *c == colours[i] && s.style == Style::Line)
    };
    (0..series.len()).map(|i| series[i].style == Style::Dashed || again(i)).collect()
}

/// The least distance between two places; 1 where there is one place.
fn least_step(x: &[f64]) -> f64 {
    let mut all: Vec<f64> = x.iter().copied().filter(|v| is_drawable(*v)).collect();
    all.sort_by(f64::total_cmp);
    all.dedup();
    all.windows(2).map(|w| w[1] - w[0]).reduce(f64::min).unwrap_or(1.0)
}

fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |r, v| Some(r.map_or((v, v), |(lo, hi): (f64, f64)| (lo.min(v), hi.max(v)))))
}

fn y_axis(chart: &LineChart) -> Axis {
    let curves = chart.series.iter().flat_map(|s| s.y.iter());
    let bands = chart
        .series
        .iter()
        .filter_map(|s| s.band.as_ref())
        .flat_map(|(lower, upper)| lower.iter().chain(upper));
    let all = curves.chain(bands).copied().filter(|v| chart.has_place(*v)).map(|v| chart.drawn(v));
    let from_zero = chart.y_from_zero || chart.series.iter().any(|s| s.style == Style::Bars);
    let zero = (from_zero && !chart.y_log).then_some(0.0);
    let covered = chart.y_range.into_iter().flat_map(|(lo, hi)| [lo, hi]).filter(|v| chart.has_place(*v));
    let (lo, hi) =
        range(all.chain(zero).chain(covered)).unwrap_or((if chart.y_log { 0.1 } else { 0.0 }, 1.0));
    if chart.y_log { Axis::log(lo, hi, false) } else { Axis::linear(lo, hi, 5) }
}

/// Every name if there is room, upright if they are long and few, else every second, third, ...
fn named_ticks(chart: &LineChart, x: &[f64], width: f64) -> (Vec<(f64, String)>, bool) {
    let names: Vec<String> = chart.x_ticks.iter().map(|t| text::cut(&text::one_line(t), 28)).collect();
    let widest = names.iter().map(|n| text::ems(n)).fold(0.0, f64::max) * TICK_SIZE + 10.0;
    let room = width / x.len() as f64;
    let upright = widest > room && room >= 15.0;
    let every = ((if upright { 15.0 } else { widest }) / room).ceil().max(1.0) as usize;
    let ticks =
        names.into_iter().zip(x).map(|(n, x)| (*x, n)).step_by(every).filter(|(x, _)| is_drawable(*x));
    (ticks.collect(), upright)
}

/// The axis' own ticks; but a handful of points each get theirs.
fn numbered_ticks(x: &[f64], axis: &Axis, width: f64) -> Vec<(f64, String)> {
    let labels = text::column(x, 4);
    let widest = labels.iter().map(|n| text::ems(n)).fold(0.0, f64::max) * TICK_SIZE + 14.0;
    let mut own: Vec<(f64, String)> =
        x.iter().copied().zip(labels).filter(|(x, _)| is_drawable(*x)).collect();
    own.sort_by(|a, b| a.0.total_cmp(&b.0));
    own.dedup_by(|a, b| a.0 == b.0);
    let apart = own.windows(2).all(|w| (axis.place(w[1].0) - axis.place(w[0].0)) * width >= widest);
    if !own.is_empty() && own.len() <= 16 && apart { own } else { axis.ticks.clone() }
}

/// Indices that look the same when drawn: the lowest and highest of each stretch, in order.
fn thin(run: &[usize], y: &[f64]) -> Vec<usize> {
    if run.len() <= MAX_POINTS {
        return run.to_vec();
    }
    let mut kept = vec![run[0]];
    for stretch in run.chunks(run.len().div_ceil(MAX_POINTS / 2)) {
        let lowest = stretch.iter().copied().min_by(|a, b| y[*a].total_cmp(&y[*b]));
        let highest = stretch.iter().copied().max_by(|a, b| y[*a].total_cmp(&y[*b]));
        let mut pair: Vec<usize> = lowest.into_iter().chain(highest).collect();
        pair.sort_unstable();
        kept.extend(pair);
    }
    kept.extend(run.last());
    kept.dedup();
    kept
}

/// Places at least `step` apart, inside `top..=bottom`, in the order of `wanted` and close to it.
fn spread(wanted: &[f64], step: f64, top: f64, bottom: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|&a, &b| wanted[a].total_cmp(&wanted[b]));
    // Groups of neighbours that touch: each sits centred on the mean of what its members want.
    let mut groups: Vec<(f64, usize)> = Vec::new();
    let start = |(sum, n): (f64, usize)| {
        let room = (n - 1) as f64 * step;
        (sum / n as f64 - room / 2.0).min(bottom - room).max(top)
    };
    for &i in &order {
        groups.push((wanted[i], 1));
        while let [.., a, b] = groups[..]
            && start(a) + a.1 as f64 * step > start(b)
        {
            groups.truncate(groups.len() - 2);
            groups.push((a.0 + b.0, a.1 + b.1));
        }
    }
    let places = groups.iter().flat_map(|&g| (0..g.1).map(move |k| start(g) + k as f64 * step));
    let mut out = vec![0.0; wanted.len()];
    for (i, place) in order.into_iter().zip(places) {
        out[i] = place;
    }
    out
}
