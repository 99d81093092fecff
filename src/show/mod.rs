//! Figures: the only place in this crate that writes HTML or SVG.
//!
//! A figure starts as plain data, one struct per kind of thing shown: [`LineChart`] (`[x]` per series), [`Heatmap`]
//! (`[y, x]`), [`TrajectoryTable`] (`[layer, pos]`), [`Table`] (`[row, column]`) and [`Card`] (`[row]`). Its `figure()`
//! checks the data and returns a [`Figure`]: HTML for a notebook, the same drawing as SVG and as PNG for where styles are
//! stripped, a text twin for a terminal. Those know nothing of lenses and models. `of_model`, `of_circuits`, `of_dual`, `of_predictive`, `of_heads` and `of_lens` fill them in, as the `figure()` of
//! [`Comparison`](crate::lens::Comparison), [`Transfer`](crate::lens::Transfer) and their like. Nothing here computes.
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
mod figure;
mod heatmap;
mod line_chart;
mod of_battery;
mod of_circuits;
mod of_dual;
mod of_heads;
mod of_language;
mod of_lens;
mod of_model;
mod of_predictive;
mod picture;
mod sheet;
mod simplex;
mod table;
mod text;
mod theme;
mod trajectory_table;

pub use card::Card;
pub use figure::Figure;
pub use heatmap::Heatmap;
pub use line_chart::{LineChart, Series};
pub use simplex::Simplex;
pub use table::{Table, TableCell};
pub use trajectory_table::{TrajectoryCell, TrajectoryTable};
