//! Figures: the only place in this crate that writes HTML or SVG.
//!
//! A figure starts as plain data, one struct per kind of thing shown: [`LineChart`] (`[series][x]`), [`Heatmap`] (`[y,
//! x]`), [`TrajectoryTable`] (`[layer, pos]`), [`Table`] (`[row, column]`) and [`Card`] (`[row]`). Its `figure()`
//! checks the data and returns a [`Figure`]: HTML for a notebook, the same drawing as SVG and as PNG for where styles
//! are stripped, a text twin for a terminal. [`plot()`], [`scatter`], [`bar`], [`histogram`] and [`image()`] fill one
//! in from whatever holds numbers; [`display()`] shows it in the middle of a cell. Those know nothing of lenses and
//! models, whose figures (of a [`Comparison`](crate::lens::Comparison), a [`Transfer`](crate::lens::Transfer) and their
//! like) are in the files `of_*`. Nothing here computes, but that a histogram counts.
//!
//! The same data give the same bytes: no time, no chance, no element ids. No script runs, nothing is fetched, every
//! text is escaped, and long data are cut at a bound that the figure states. Colours follow the notebook's light or
//! dark theme; where a page strips styles, the light colours stand in the drawing itself.
//!
//! ```
//! use onelens::show::{LineChart, Series};
//! let chart = LineChart {
//!     title: "KL to the final layer".into(),
//!     x_label: "layer".into(),
//!     y_label: "nats".into(),
//!     series: vec![Series::new("own lens", [1.5, 0.5, 0.0])],
//!     ..Default::default()
//! };
//! let figure = chart.figure()?;
//! assert!(figure.text().contains("own lens  █▃▁  1.5 -> 0"));
//! assert!(figure.svg().starts_with("<svg"));
//! # Ok::<(), onelens::Error>(())
//! ```

mod axis;
mod canvas;
mod card;
mod display;
mod figure;
mod heatmap;
mod line_chart;
mod numbers;
mod of_battery;
mod of_circuits;
mod of_dual;
mod of_heads;
mod of_language;
mod of_language_report;
mod of_lens;
mod of_model;
mod of_predictive;
mod of_settings;
mod of_steering;
mod picture;
mod plots;
mod sheet;
mod simplex;
mod table;
mod text;
mod theme;
mod trajectory_table;

pub use card::Card;
pub use display::{Show, display};
pub use figure::Figure;
pub use heatmap::Heatmap;
pub use line_chart::{LineChart, Series, Style};
pub use numbers::{Number, Numbers};
pub use plots::{Plot, bar, histogram, image, plot, scatter};
pub use simplex::Simplex;
pub use table::{Table, TableCell};
pub use trajectory_table::{TrajectoryCell, TrajectoryTable};
