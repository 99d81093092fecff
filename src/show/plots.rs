//! One line from numbers to a picture: whatever holds numbers goes in, and what comes out shows itself.

use ndarray::{ArrayD, Axis, Ix1};

use super::axis::{is_drawable, nice_step};
use super::figure::show;
use super::numbers::Numbers;
use super::{Figure, Heatmap, LineChart, Series};
use crate::error::{Error, ErrorKind, Result};

/// More curves in one chart cannot be told apart.
const MAX_CURVES: usize = 12;
/// Bars of a histogram, about: the square root of the number of values, within these.
const BARS: (f64, f64) = (5.0, 40.0);

/// A chart or a map from one call, or the sentence that says why there is none. As the last expression of a cell it
/// shows itself.
///
/// For more than a title and names of the axes, fill in a [`LineChart`] or a [`Heatmap`] yourself.
///
/// ```
/// use onelens::show::plot;
/// let losses = [3.0, 2.0, 1.5];
/// let figure = plot(&losses).titled("Training").labelled("step", "loss (nats)").figure()?;
/// assert!(figure.text().starts_with("Training\nstep  loss (nats)\n   0          3.0\n"));
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    content: Result<Content>,
}

#[derive(Clone, Debug, PartialEq)]
enum Content {
    Chart(LineChart),
    Map(Heatmap),
}

impl Plot {
    fn chart(chart: Result<LineChart>) -> Plot {
        Plot { content: chart.map(Content::Chart) }
    }

    fn changed(mut self, chart: impl FnOnce(&mut LineChart), map: impl FnOnce(&mut Heatmap)) -> Plot {
        match &mut self.content {
            Ok(Content::Chart(it)) => chart(it),
            Ok(Content::Map(it)) => map(it),
            Err(_) => {}
        }
        self
    }

    /// Puts a heading over the plot.
    pub fn titled(self, title: &str) -> Plot {
        self.changed(|chart| chart.title = title.into(), |map| map.title = title.into())
    }

    /// Names the horizontal and the vertical axis.
    pub fn labelled(self, x: &str, y: &str) -> Plot {
        let chart = |chart: &mut LineChart| (chart.x_label, chart.y_label) = (x.into(), y.into());
        self.changed(chart, |map| (map.x_label, map.y_label) = (x.into(), y.into()))
    }

    /// Puts names along the horizontal axis instead of numbers, as many as there are values: under bars, say.
    ///
    /// ```
    /// use onelens::show::bar;
    /// let bars = bar([0.25, 0.5]).ticks(["own", "shared"]);
    /// assert!(bars.figure()?.text().contains("shared  0.50"));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn ticks(self, names: impl IntoIterator<Item: Into<String>>) -> Plot {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        let also = names.clone();
        self.changed(|chart| chart.x_ticks = names, |map| map.x_ticks = also)
    }

    /// Returns the figure, to save or to put beside another.
    ///
    /// # Errors
    /// What was wrong with the numbers, and [`ticks`](Plot::ticks) of another length than they.
    pub fn figure(&self) -> Result<Figure> {
        match &self.content {
            Ok(Content::Chart(chart)) => chart.figure(),
            Ok(Content::Map(map)) => map.figure(),
            Err(error) => Err(error.clone()),
        }
    }

    /// Shows the figure in the notebook, now. Where it cannot be drawn, the cell ends with why.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}

/// Draws curves: `y: [x]`, or `[curve, x]` for at most 12 of them, over 0, 1, 2, ...
///
/// Fails, when it is shown or asked for its figure, for no values at all, none that is finite, another number of axes,
/// and for more curves.
///
/// ```
/// use ndarray::array;
/// use onelens::show::plot;
/// let two = plot(array![[1.0_f32, 2.0], [4.0, 0.5]]);
/// assert_eq!(two.figure()?.to_csv()?, "x,0,1\n0,1,4\n1,2,0.5\n");
/// let error = plot([f64::NAN]).figure().unwrap_err();
/// assert_eq!(error.what(), "there is nothing to draw: none of the values is a finite number (1 value)");
/// # Ok::<(), onelens::Error>(())
/// ```
pub fn plot(y: impl Numbers) -> Plot {
    Plot::chart(rows("plot", y.numbers(), |series| series))
}

/// Draws bars from zero: `y: [bar]`, or `[group, bar]` for at most 12 groups, whose bars stand side by side.
///
/// Fails, when it is shown or asked for its figure, for no values at all, none that is finite, another number of axes,
/// and for more groups.
///
/// ```
/// use onelens::show::bar;
/// assert!(bar([3, 1]).figure()?.text().starts_with("x  y\n0  3\n1  1\n"));
/// # Ok::<(), onelens::Error>(())
/// ```
pub fn bar(y: impl Numbers) -> Plot {
    Plot::chart(rows("bar", y.numbers(), Series::bars))
}

/// Draws a point for each pair: `x: [point]`, `y: [point]`.
///
/// Fails, when it is shown or asked for its figure, for lists of different lengths, no values at all, no pair that is
/// finite, and more than one axis.
///
/// ```
/// use onelens::show::scatter;
/// assert_eq!(scatter([0.5, 0.25], [1.0, 2.0]).figure()?.to_csv()?, "x,y\n0.5,1\n0.25,2\n");
/// let error = scatter([1.0], [1.0, 2.0]).figure().unwrap_err();
/// assert_eq!(error.what(), "1 value for x, but 2 values for y");
/// # Ok::<(), onelens::Error>(())
/// ```
pub fn scatter(x: impl Numbers, y: impl Numbers) -> Plot {
    let chart = |x: ArrayD<f64>, y: ArrayD<f64>| {
        let (x, y) = (one_axis("scatter", x)?, one_axis("scatter", y)?);
        if x.len() != y.len() {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("{} for x, but {} for y", values(x.len()), values(y.len())),
                "give each point one of both",
            ));
        }
        let drawn = x.iter().zip(&y).map(|(x, y)| if is_drawable(*x) { *y } else { f64::NAN });
        something(drawn)?;
        Ok(LineChart { x, series: vec![Series::new("", y).points()], ..Default::default() })
    };
    Plot::chart(chart(x.numbers(), y.numbers()))
}

/// Draws how often values occur: bars over intervals of equal width, with ends at round numbers, for all values of an
/// array of any shape. Whole numbers that span at most 40 get a bar each. The upper end of an interval belongs to the
/// next, but for the last one.
///
/// Values that are not finite are left out, which the caption says. Fails, when it is shown or asked for its figure,
/// for no values at all, and none that is finite.
///
/// ```
/// use onelens::show::histogram;
/// let dice = histogram([1, 3, 3, 6]);
/// assert_eq!(dice.figure()?.to_csv()?, "value,count\n1,1\n2,0\n3,2\n4,0\n5,0\n6,1\n");
/// # Ok::<(), onelens::Error>(())
/// ```
pub fn histogram(values: impl Numbers) -> Plot {
    Plot::chart(counted(&values.numbers().into_iter().collect::<Vec<f64>>()))
}

/// Draws numbers as colours, `a: [y, x]` with row 0 at the top, in square cells: a picture, a matrix of weights, a
/// pattern of attention.
///
/// Fails, when it is shown or asked for its figure, for no values at all, none that is finite, and for more or fewer
/// than two axes.
///
/// ```
/// use ndarray::array;
/// use onelens::show::image;
/// assert_eq!(image(array![[0.0, 1.0], [2.0, 3.0]]).figure()?.to_csv()?, ",0,1\n0,0,1\n1,2,3\n");
/// # Ok::<(), onelens::Error>(())
/// ```
pub fn image(a: impl Numbers) -> Plot {
    let map = |a: ArrayD<f64>| {
        something(a.iter().copied())?;
        Ok(Content::Map(Heatmap { square: true, ..Heatmap::new("", a)? }))
    };
    Plot { content: map(a.numbers()) }
}

/// One series a row.
fn rows(call: &str, y: ArrayD<f64>, style: fn(Series) -> Series) -> Result<LineChart> {
    something(y.iter().copied())?;
    let series = match y.ndim() {
        1 => vec![style(Series::new("", y))],
        2 if y.len_of(Axis(0)) > MAX_CURVES => {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("{} rows of values in one chart cannot be told apart", y.len_of(Axis(0))),
                format!(
                    "draw a few of them, as in `{call}(a.slice(s![..3, ..]))`, or all as colours: `image(a)`"
                ),
            ));
        }
        2 => y.outer_iter().enumerate().map(|(i, row)| style(Series::new(i.to_string(), row))).collect(),
        _ => return Err(wrong_axes(call, "one axis or two", y.shape())),
    };
    Ok(LineChart { series, ..Default::default() })
}

fn one_axis(call: &str, values: ArrayD<f64>) -> Result<Vec<f64>> {
    let shape = values.shape().to_vec();
    let values = values.into_dimensionality::<Ix1>().map_err(|_| wrong_axes(call, "one axis", &shape))?;
    Ok(values.to_vec())
}

fn wrong_axes(call: &str, wanted: &str, shape: &[usize]) -> Error {
    Error::new(
        ErrorKind::Shape,
        format!("`{call}` takes values of {wanted}, and these have the shape {shape:?}"),
        "choose a part, such as `a.index_axis(Axis(0), 0)`, or see how all values are spread: `histogram(a)`",
    )
}

/// An error unless one of the values has a place in a drawing.
fn something(all: impl Iterator<Item = f64> + Clone) -> Result<()> {
    if all.clone().any(is_drawable) {
        return Ok(());
    }
    let (why, help) = match all.count() {
        0 => ("there are no values".into(), "give at least one value"),
        n => {
            let why = format!("none of the values is a finite number ({})", values(n));
            (why, "look where the first NaN or infinity comes from, for example at each step of a training")
        }
    };
    Err(Error::new(ErrorKind::Data, format!("there is nothing to draw: {why}"), help))
}

fn values(n: usize) -> String {
    super::text::count(n, "value")
}

fn counted(all: &[f64]) -> Result<LineChart> {
    something(all.iter().copied())?;
    let finite: Vec<f64> = all.iter().copied().filter(|v| is_drawable(*v)).collect();
    let (lo, hi) =
        finite.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
    let whole = finite.iter().all(|v| v.fract() == 0.0) && hi - lo <= BARS.1;
    let (first, step) = if whole {
        (lo - 0.5, 1.0)
    } else {
        let range = if hi > lo { hi - lo } else { lo.abs() };
        let step = nice_step(range / (finite.len() as f64).sqrt().clamp(BARS.0, BARS.1));
        (step * (lo / step + 1e-9).floor(), step)
    };
    // A hair of tolerance: a value that is an edge up to rounding belongs to the interval above.
    let interval = |v: f64| ((v - first) / step + 1e-9).floor().max(0.0) as usize;
    let n = if whole { interval(hi) + 1 } else { (((hi - first) / step - 1e-9).ceil() as usize).max(1) };
    let mut counts = vec![0_usize; n];
    for v in &finite {
        counts[interval(*v).min(n - 1)] += 1;
    }
    let width =
        if whole { String::new() } else { format!("Each bar is {} wide.", super::text::number(step)) };
    let left_out = match all.len() - finite.len() {
        0 => String::new(),
        n => format!("Not counted, because not finite: {}.", values(n)),
    };
    Ok(LineChart {
        x_label: "value".into(),
        y_label: "count".into(),
        x: (0..n).map(|i| first + (i as f64 + 0.5) * step).collect(),
        series: vec![Series::new("", counts).bars()],
        note: super::text::sentences(&[&format!("{}.", values(finite.len())), &width, &left_out]),
        ..Default::default()
    })
}
