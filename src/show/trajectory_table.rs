//! What each layer would predict at each position of one text. Axes: `[layer, pos]`, drawn with the last layer on top,
//! so that one reads upwards from the token that went in to the token that came next.

use std::fmt::Write as _;

use ndarray::Array2;

use super::canvas::{Anchor, Drawing, NOTE_LINE};
use super::figure::{Figure, empty, same_length, show};
use super::table::{caption, heading};
use super::text;
use super::theme::{self, AXIS, HATCH, INK, MUTED, N_SHADES, NOTHING};
use crate::error::Result;
use crate::session::escape_html;

/// The HTML of one table stays under this many bytes.
const MAX_BYTES: usize = 1_000_000;
/// Height in pixels of a row and of a hover text of seven lines, as the style sheet makes them.
const ROW: i32 = 22;
const HOVER: i32 = 133;
/// Fewer layers are never too many to look at.
const ZOOMED_FROM: usize = 8;
/// Ranges of layers to choose from, as many as the style sheet has rules for.
const MOST_RANGES: usize = 6;
/// How much of a large table its drawing holds.
const MAX_DRAWN_LAYERS: usize = 40;
const MAX_DRAWN_WIDTH: f64 = 1000.0;
/// Tokens that a cell lists.
const LISTED: usize = 5;

/// One layer's prediction at one position.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrajectoryCell {
    /// The most probable tokens with their probabilities, best first; the first stands in the cell, five are listed.
    pub top: Vec<(String, f32)>,
    /// The number that the colour shows, such as a KL or a probability.
    pub value: f32,
    /// The place of the true next token among all tokens, 1 for the most probable; `None` where it is not known.
    pub target_rank: Option<usize>,
}

/// Layers by positions: the most probable token in each cell, the colour by a number, the five best on hover. Of eight
/// and more layers a range can be looked at alone: buttons above the table hide the others, without any script.
///
/// Row 0 of `cells` is the first layer and is drawn at the bottom.
///
/// ```
/// use ndarray::array;
/// use onelens::show::{TrajectoryCell, TrajectoryTable};
/// let cell = |token: &str, value| TrajectoryCell {
///     top: vec![(token.into(), 0.75)],
///     value,
///     target_rank: Some(if token == "\n" { 1 } else { 9 }),
/// };
/// let table = TrajectoryTable {
///     tokens: vec![";".into()],
///     targets: vec!["\n".into()],
///     layers: vec!["layer 0".into(), "layer 1".into()],
///     cells: array![[cell("x", 2.0)], [cell("\n", 0.5)]],
///     value_label: "KL".into(),
///     ..Default::default()
/// };
/// let figure = table.figure()?;
/// assert!(figure.html().contains("title=\"KL 0.5\ntarget is no. 1\n⏎  75%\""));
/// assert!(figure.text().contains("layer 1      0.5   ⏎*\n"));
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrajectoryTable {
    /// Heading; may be empty.
    pub title: String,
    /// The token that goes in, one per position.
    pub tokens: Vec<String>,
    /// The true next token, one per position; empty if it is not known.
    pub targets: Vec<String>,
    /// Names of the layers, first layer first.
    pub layers: Vec<String>,
    /// The predictions, `[layer, pos]`.
    pub cells: Array2<TrajectoryCell>,
    /// What the number in the cells is, with its unit.
    pub value_label: String,
    /// Caption under the table.
    pub note: String,
}

impl TrajectoryTable {
    /// Checks that names and cells fit and writes the table.
    ///
    /// The HTML stays under one megabyte: where there are more cells than that holds, first the hover texts get shorter
    /// and then the last positions are left out, and the caption says which.
    ///
    /// # Errors
    /// Without layers or positions, and when `layers`, `tokens` or `targets` do not fit `cells`.
    pub fn figure(&self) -> Result<Figure> {
        let (n_layers, n_positions) = self.cells.dim();
        if self.cells.is_empty() {
            return Err(empty("trajectory", &self.title, "give it at least one layer and one position"));
        }
        same_length("names in layers", self.layers.len(), n_layers, "rows of cells")?;
        same_length("tokens", self.tokens.len(), n_positions, "columns of cells")?;
        if !self.targets.is_empty() {
            same_length("targets", self.targets.len(), n_positions, "columns of cells")?;
        }
        let view = View::new(self);
        Ok(Figure::written(&self.title, &view.html(), view.draw(), view.text(), self.csv()))
    }

    /// One row per cell: first layer and position first.
    fn csv(&self) -> String {
        let header = ["layer", "position", "token", "next token", "value", "rank of next token", "best", "p"];
        let rows = self.cells.indexed_iter().map(|((layer, pos), cell)| {
            let (best, p) = cell.top.first().map_or(Default::default(), |(t, p)| (t.clone(), p.to_string()));
            vec![
                self.layers[layer].clone(),
                pos.to_string(),
                self.tokens[pos].clone(),
                self.targets.get(pos).cloned().unwrap_or_default(),
                cell.value.to_string(),
                cell.target_rank.map(|rank| rank.to_string()).unwrap_or_default(),
                best,
                p,
            ]
        });
        text::csv(std::iter::once(header.map(String::from).to_vec()).chain(rows))
    }

    /// Shows the table in the notebook, now. Where it cannot be drawn, the cell ends with why.
    pub fn evcxr_display(&self) {
        show(self.figure());
    }
}

/// How much a hovered cell tells.
#[derive(Clone, Copy)]
struct Detail {
    listed: usize,
    numbers: bool,
}

/// The table with what is common to its cells.
struct View<'a> {
    table: &'a TrajectoryTable,
    /// Least and greatest finite value.
    range: Option<(f32, f32)>,
    /// A few large values would leave the others without a colour: colours go by `ln (1 + value)`.
    log: bool,
    value_label: String,
}

impl View<'_> {
    fn new(table: &TrajectoryTable) -> View<'_> {
        let finite = table.cells.iter().map(|c| c.value).filter(|v| v.is_finite());
        let range = finite
            .fold(None, |range, v| Some(range.map_or((v, v), |(lo, hi): (f32, f32)| (lo.min(v), hi.max(v)))));
        let label = text::cut(&text::one_line(&table.value_label), 40);
        let mut sorted: Vec<f32> = table.cells.iter().map(|c| c.value).filter(|v| v.is_finite()).collect();
        sorted.sort_by(f32::total_cmp);
        let log = range.is_some_and(|(lo, hi)| lo >= 0.0 && sorted[sorted.len() / 2] < hi / 8.0);
        let label = if label.is_empty() { "value".into() } else { label };
        View { table, range, log, value_label: label }
    }

    /// Place in the range of values, 0 for the least.
    fn fraction(&self, value: f32) -> Option<f64> {
        let (lo, hi) = self.range.filter(|_| value.is_finite())?;
        // In f64, where the difference of two f32 cannot overflow.
        let place = |v: f32| if self.log { f64::from(v).ln_1p() } else { f64::from(v) };
        let (value, lo, hi) = (place(value), place(lo), place(hi));
        Some(if hi > lo { (value - lo) / (hi - lo) } else { 0.0 })
    }

    /// What the colours leave unsaid, as a sentence.
    fn missing(&self) -> String {
        let hatched = match self.table.cells.iter().filter(|c| !c.value.is_finite()).count() {
            0 => String::new(),
            1 => "Hatched: one value, not finite.".into(),
            n => format!("Hatched: {n} values, not finite."),
        };
        let log = if self.log { "Colours are logarithmic: ln (1 + value)." } else { "" };
        text::sentences(&[log, &hatched])
    }

    fn has_hits(&self) -> bool {
        self.table.cells.iter().any(|c| c.target_rank == Some(1))
    }

    fn html(&self) -> String {
        let TrajectoryTable { title, tokens, targets, cells, note, .. } = self.table;
        let (n_layers, n_positions) = cells.dim();
        // What does not grow with the positions, with room to spare for the sentences about what was left out.
        let names: usize = (0..n_layers).map(|l| self.row_name(l).len()).sum();
        let frame = Figure::overhead()
            + heading(title).len()
            + caption(note).len()
            + self.key().len()
            + self.zoom().len()
            + names
            + 2000;
        let column = |pos: usize, detail: Detail| -> usize {
            let cells: usize = cells.column(pos).iter().map(|c| self.cell(c, detail).len()).sum();
            cells + end_cell(&tokens[pos]).len() + targets.get(pos).map_or(0, |t| end_cell(t).len()) + 16
        };
        let fitting = |detail: Detail| {
            let bytes = (0..n_positions).scan(frame, |sum, pos| {
                *sum += column(pos, detail);
                Some(*sum)
            });
            bytes.take_while(|sum| *sum <= MAX_BYTES).count()
        };
        let full = Detail { listed: LISTED, numbers: true };
        let bare = Detail { listed: LISTED, numbers: false };
        let short = Detail { listed: 3, numbers: false };
        let (detail, n_shown, less) = if fitting(full) == n_positions {
            (full, n_positions, "")
        } else if fitting(bare) == n_positions {
            (
                bare,
                n_positions,
                "Hover lists tokens without the number behind the colour, to keep this figure under 1 MB.",
            )
        } else {
            (short, fitting(short), "Hover lists three tokens only, to keep this figure under 1 MB.")
        };
        let elided = match n_positions - n_shown {
            0 => String::new(),
            n => format!(
                "The first {n_shown} of {n_positions} positions are shown; {n} more would take this figure over 1 MB."
            ),
        };

        let mut out = heading(title);
        // A hover text must fit beside a table of one or two layers too, or the table would scroll under the mouse.
        let room = (HOVER - self.rows_above() * ROW - (n_layers as i32 + 2) * ROW).max(0);
        let zoom = self.zoom();
        out += &zoom;
        _ = write!(
            out,
            "<div class=\"ol-scroll\" style=\"padding-bottom:{room}px\"><table class=\"ol-traj\">"
        );
        if !targets.is_empty() {
            out += "<thead><tr class=\"ol-ends\"><th scope=\"row\">next token";
            targets[..n_shown].iter().for_each(|t| out += &end_cell(t));
            out += "</thead>";
        }
        out += "<tbody>";
        for layer in (0..n_layers).rev() {
            out += &self.row_name(layer);
            (0..n_shown).for_each(|pos| out += &self.cell(&cells[(layer, pos)], detail));
        }
        out += "</tbody><tfoot><tr class=\"ol-ends\"><th scope=\"row\">token";
        tokens[..n_shown].iter().for_each(|t| out += &end_cell(t));
        out += "<tr class=\"ol-pos\"><th scope=\"row\">position";
        for pos in 0..n_shown {
            // Every fifth is enough to find one's way.
            _ = if pos % 5 == 0 { write!(out, "<td>{pos}") } else { write!(out, "<td>") };
        }
        out += "</tfoot></table></div>";
        if !zoom.is_empty() {
            out += "</form>";
        }
        out + &self.key() + &caption(&text::sentences(&[note, &self.missing(), less, &elided]))
    }

    /// In which of the ranges to choose from a layer is, counted from 1; 0 where there is nothing to choose.
    fn range_of(&self, layer: usize) -> usize {
        let n = self.table.layers.len();
        if n < ZOOMED_FROM {
            return 0;
        }
        let n_ranges = (n / 5).clamp(2, MOST_RANGES);
        1 + layer * n_ranges / n
    }

    /// The buttons that choose a range of layers, in a form that ends after the table; a form, so that the buttons of
    /// two figures on a page have nothing to do with each other, and one that Enter does not send anywhere.
    fn zoom(&self) -> String {
        let layers = &self.table.layers;
        let n_ranges = layers.len().checked_sub(1).map_or(0, |last| self.range_of(last));
        if n_ranges == 0 {
            return String::new();
        }
        let button = |value: usize, checked: &str, name: &str| {
            format!("<label><input type=radio name=z value={value}{checked}>{name}</label>")
        };
        let mut out = "<form class=\"ol-zoom\" method=dialog><div class=\"ol-ranges\" role=radiogroup aria-label=\"layers shown\">".to_string();
        out += &button(0, " checked", "all layers");
        for range in 1..=n_ranges {
            let mut inside = (0..layers.len()).filter(|&l| self.range_of(l) == range);
            let name = |l: usize| escape_html(&text::cut(&text::one_line(&layers[l]), 20));
            if let Some(first) = inside.next() {
                let last = inside.next_back().unwrap_or(first);
                out += &button(range, "", &format!("{} to {}", name(first), name(last)));
            }
        }
        out + "</div>"
    }

    /// Rows of given tokens above the layers.
    fn rows_above(&self) -> i32 {
        if self.table.targets.is_empty() { 0 } else { 1 }
    }

    /// The start of a row, with the place of its hover texts: centred on the row, but inside the table, because what
    /// scrolls sideways cuts whatever leaves it upwards or downwards.
    fn row_name(&self, layer: usize) -> String {
        let above = (self.rows_above() + (self.table.layers.len() - 1 - layer) as i32) * ROW;
        let below = (layer as i32 + 2) * ROW;
        let top = ((ROW - HOVER) / 2).min(below + ROW - HOVER).max(-above);
        let name = escape_html(&text::cut(&text::one_line(&self.table.layers[layer]), 40));
        match self.range_of(layer) {
            0 => format!("<tr style=--t:{top}px><th scope=row>{name}"),
            range => format!("<tr class=z{range} style=--t:{top}px><th scope=row>{name}"),
        }
    }

    /// One cell. Closing tags are left out, as HTML allows: there may be 15 000 cells in a megabyte.
    fn cell(&self, cell: &TrajectoryCell, detail: Detail) -> String {
        let class = match self.fraction(cell.value) {
            None => " class=n".into(),
            Some(f) => match theme::level(f) {
                0 => String::new(),
                level => format!(" class={}", theme::shade_class(level)),
            },
        };
        let mut lines: Vec<String> = Vec::new();
        if detail.numbers {
            lines.push(format!("{} {}", self.value_label, text::number(significant(cell.value))));
            lines.extend(cell.target_rank.map(|rank| format!("target is no. {rank}")));
        }
        let listed = cell.top.iter().take(detail.listed);
        lines
            .extend(listed.map(|(token, p)| {
                format!("{}  {}", text::cut(&text::visible(token), 40), text::percent(*p))
            }));
        let hover = escape_html(&lines.join("\n"));
        let best = cell.top.first().map_or("–".into(), |(token, _)| shown_token(token));
        if cell.target_rank == Some(1) {
            format!("<td{class} title=\"{hover}\"><b>{best}</b>")
        } else {
            format!("<td{class} title=\"{hover}\">{best}")
        }
    }

    /// The legend.
    fn key(&self) -> String {
        let mut out = format!("<div class=\"ol-key\"><span>{}</span>", escape_html(&self.value_label));
        if let Some((lo, hi)) = self.range {
            _ = write!(out, "<span>{}</span><span>", text::number(significant(lo)));
            for level in 0..N_SHADES {
                _ = if level == 0 {
                    write!(out, "<i></i>")
                } else {
                    write!(out, "<i class={}></i>", theme::shade_class(level))
                };
            }
            _ = write!(out, "</span><span>{}</span>", text::number(significant(hi)));
        }
        if self.table.cells.iter().any(|c| !c.value.is_finite()) {
            out += "<span><i class=n></i> not finite</span>";
        }
        if self.has_hits() {
            out += "<span>· <b><u>bold</u></b>: the next token</span>";
        }
        out + "<span>· hover a cell for its best tokens</span></div>"
    }

    /// The table as a drawing: as many positions as a page is wide, of many layers some, evenly spread.
    fn draw(&self) -> Drawing {
        const SIZE: f64 = 11.0;
        const TITLE: f64 = 14.5;
        const HEIGHT: f64 = 20.0;
        let TrajectoryTable { title, tokens, targets, layers, cells, note, .. } = self.table;
        let (n_layers, n_positions) = cells.dim();
        let picked: Vec<usize> = text::pick(n_layers, MAX_DRAWN_LAYERS).into_iter().rev().collect();
        let word = |token: &str| text::cut(&text::visible(token), 10);
        let best = |layer: usize, pos: usize| {
            cells[(layer, pos)].top.first().map_or("–".into(), |(token, _)| word(token))
        };
        let name = |l: usize| text::cut(&text::one_line(&layers[l]), 24);
        let names = picked.iter().map(|&l| text::ems(&name(l)));
        let left = names.fold(text::ems("next token"), f64::max) * SIZE + 10.0;
        let mut edges = vec![left];
        for pos in 0..n_positions {
            let column = picked.iter().map(|&l| best(l, pos)).chain([word(&tokens[pos])]);
            let column = column.chain(targets.get(pos).map(|t| word(t)));
            // Where the next token is best it is bold, and wider.
            let widest = column.map(|w| text::ems(&w)).fold(0.0, f64::max) * SIZE * 1.12 + 8.0;
            let right = edges[pos] + widest.max(20.0);
            if pos > 0 && right > MAX_DRAWN_WIDTH {
                break;
            }
            edges.push(right);
        }
        let n_shown = edges.len() - 1;
        let more = match (n_positions - n_shown, n_layers - picked.len()) {
            (0, 0) => String::new(),
            (n, 0) => format!("Not in this picture: {}.", text::count(n, "more position")),
            (0, m) => format!("Not in this picture: {}.", text::count(m, "more layer")),
            (n, m) => format!(
                "Not in this picture: {}, {}.",
                text::count(n, "more position"),
                text::count(m, "more layer")
            ),
        };
        let hits = if self.has_hits() { "Underlined: the next token." } else { "" };
        let width = edges[n_shown].max(320.0).ceil();
        let titles = text::wrap(&text::one_line(title), width / TITLE / 1.06, text::ems);
        let note = text::sentences(&[hits, note, &self.missing(), &more]);
        let notes = text::wrap(&text::one_line(&note), width / 12.0, text::ems);
        let top = titles.len() as f64 * 20.0 + if titles.is_empty() { 0.0 } else { 6.0 };
        let body = top + if targets.is_empty() { 0.0 } else { HEIGHT + 2.0 };
        let under = body + HEIGHT * picked.len() as f64;
        let key = under + HEIGHT + 20.0;
        let height = (key + 10.0 + notes.len() as f64 * NOTE_LINE + 4.0).ceil();
        let middle = |pos: usize| (edges[pos] + edges[pos + 1]) / 2.0;
        Drawing::new(width, height, |canvas| {
            for (i, line) in titles.iter().enumerate() {
                canvas.bold((0.0, 10.0 + 20.0 * i as f64), line, TITLE, Anchor::Start, INK);
            }
            if !targets.is_empty() {
                canvas.text((0.0, top + HEIGHT / 2.0), "next token", SIZE, Anchor::Start, MUTED);
                for (pos, target) in targets.iter().enumerate().take(n_shown) {
                    let at = (middle(pos), top + HEIGHT / 2.0);
                    canvas.text(at, &word(target), SIZE, Anchor::Middle, INK);
                }
                canvas.line((left, body - 1.0), (edges[n_shown], body - 1.0), AXIS, 1.0);
            }
            for (row, &layer) in picked.iter().enumerate() {
                let y = body + HEIGHT * row as f64;
                canvas.text((0.0, y + HEIGHT / 2.0), &name(layer), SIZE, Anchor::Start, MUTED);
                for pos in 0..n_shown {
                    let cell = &cells[(layer, pos)];
                    let size = (edges[pos + 1] - edges[pos] - 1.0, HEIGHT - 1.0);
                    let ink = match self.fraction(cell.value) {
                        None => {
                            canvas.hatched((edges[pos], y), size, NOTHING, HATCH);
                            INK
                        }
                        Some(fraction) => {
                            let level = theme::level(fraction);
                            canvas.rect((edges[pos], y), size, theme::shade(level));
                            theme::on_shade(level)
                        }
                    };
                    let (at, words) = ((middle(pos), y + HEIGHT / 2.0), best(layer, pos));
                    if cell.target_rank == Some(1) {
                        let half = text::ems(&words) * SIZE / 2.2;
                        canvas.bold(at, &words, SIZE, Anchor::Middle, ink);
                        canvas.line((at.0 - half, at.1 + 7.0), (at.0 + half, at.1 + 7.0), ink, 1.0);
                    } else {
                        canvas.text(at, &words, SIZE, Anchor::Middle, ink);
                    }
                }
            }
            canvas.line((left, under), (edges[n_shown], under), AXIS, 1.0);
            canvas.text((0.0, under + HEIGHT / 2.0 + 2.0), "token", SIZE, Anchor::Start, MUTED);
            for (pos, token) in tokens.iter().enumerate().take(n_shown) {
                let at = (middle(pos), under + HEIGHT / 2.0 + 2.0);
                canvas.text(at, &word(token), SIZE, Anchor::Middle, INK);
            }
            if let Some((lo, hi)) = self.range {
                let (lo, hi) = (text::number(significant(lo)), text::number(significant(hi)));
                let before = format!("{}  {lo}", self.value_label);
                canvas.text((0.0, key), &before, SIZE, Anchor::Start, MUTED);
                let from = text::ems(&before) * SIZE + 8.0;
                for step in 0..N_SHADES {
                    canvas.rect((from + 12.0 * step as f64, key - 6.0), (12.0, 12.0), theme::shade(step));
                }
                canvas.text((from + 12.0 * N_SHADES as f64 + 8.0, key), &hi, SIZE, Anchor::Start, MUTED);
            }
        })
        .captioned(key + 20.0, &notes)
    }

    fn text(&self) -> String {
        let TrajectoryTable { title, tokens, targets, layers, cells, note, .. } = self.table;
        let (n_layers, n_positions) = cells.dim();
        let short = |token: &str| text::cut(&text::visible(token), 8);
        let word = |layer: usize, pos: usize| {
            let cell = &cells[(layer, pos)];
            let best = cell.top.first().map_or("–".into(), |(token, _)| short(token));
            let hit = if cell.target_rank == Some(1) { "*" } else { "" };
            format!("{}{best}{hit}", text::shade(self.fraction(cell.value)))
        };
        let means: Vec<f64> = cells
            .outer_iter()
            .map(|row| {
                let finite = row.iter().map(|c| f64::from(c.value)).filter(|v| v.is_finite());
                let (sum, n) = finite.fold((0.0, 0.0), |(sum, n), v| (sum + v, n + 1.0));
                sum / n
            })
            .collect();
        let means: Vec<String> = text::column(&means, 3);

        // One column after another, top row first, until the terminal is full.
        let top_down = || (0..n_layers).rev();
        let edge = |words: &[String], name: &str, pos: Option<usize>| match pos {
            None => name.to_string(),
            Some(pos) => words.get(pos).map_or(String::new(), |t| format!(" {}", short(t))),
        };
        let mut names = vec![edge(targets, "next token", None)];
        names.extend(top_down().map(|l| text::cut(&text::one_line(&layers[l]), 24)));
        names.push(edge(tokens, "token", None));
        let mut numbers = vec!["mean".to_string()];
        numbers.extend(top_down().map(|l| means[l].clone()));
        numbers.push(String::new());
        let mut columns = vec![names, numbers];
        let width = |column: &[String]| column.iter().map(|cell| text::columns(cell)).max().unwrap_or(0) + 2;
        let mut used = columns.iter().map(|c| width(c)).sum::<usize>() - 2;
        let mut n_shown = 0;
        while n_shown < n_positions {
            let mut column = vec![edge(targets, "", Some(n_shown))];
            column.extend(top_down().map(|l| word(l, n_shown)));
            column.push(edge(tokens, "", Some(n_shown)));
            used += width(&column);
            if used > text::COLUMNS {
                break;
            }
            columns.push(column);
            n_shown += 1;
        }
        let first = if targets.is_empty() { 1 } else { 0 };
        let rows: Vec<Vec<String>> =
            (first..n_layers + 2).map(|r| columns.iter().map(|c| c[r].clone()).collect()).collect();
        let mut right = vec![false; columns.len()];
        right[1] = true;
        let mut body = text::aligned(&rows, &right);
        if n_shown < n_positions {
            let more = text::count(n_positions - n_shown, "more position");
            _ = writeln!(body, "({more} to the right do not fit in {} characters)", text::COLUMNS);
        }
        if let Some((lo, hi)) = self.range {
            let (lo, hi) = (text::number(significant(lo)), text::number(significant(hi)));
            _ = writeln!(body, "shades ░▒▓█: {} from {lo} to {hi}", self.value_label);
        }
        if self.has_hits() {
            body += "*: the next token\n";
        }
        text::page(
            &text::one_line(title),
            &body,
            &text::sentences(&[note, &self.missing().replace("Hatched", "?")]),
        )
    }
}

/// Three digits, of which two f32 computed in different ways do not usually differ.
fn significant(v: f32) -> f64 {
    if v == 0.0 || !v.is_finite() {
        return f64::from(v);
    }
    format!("{v:.2e}").parse().unwrap_or(f64::from(v))
}

/// A cell of the rows of given tokens.
fn end_cell(token: &str) -> String {
    format!("<td>{}", shown_token(token))
}

/// A token short enough for a column.
fn shown_token(token: &str) -> String {
    escape_html(&text::cut(&text::visible(token), 12))
}
