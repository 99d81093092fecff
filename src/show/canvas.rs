//! A drawing surface: `plotters`' SVG writer with tenths of a pixel and with text that is safe to draw.

use plotters::backend::{DrawingBackend, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{
    Color, FontStyle, FontTransform, IntoFont, RGBAColor, RGBColor, ShapeStyle, TextStyle,
};

use super::text;
use super::theme::{self, MUTED, PAPER, Rgb};
use crate::session::escape_html;

/// `plotters` draws at whole units; ten units to the pixel keep curves smooth.
const UNITS: f64 = 10.0;

/// The margin around a drawing that stands alone; in HTML the page gives it one.
pub(super) const MARGIN: f64 = 12.0;

/// Where a text stands relative to its point; vertically it is always centred.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
    /// Reads upwards and ends at the point.
    UpEnd,
}

/// Size of labels and captions.
pub(super) const LABEL: f64 = 12.0;
/// From one line of a caption to the next.
pub(super) const NOTE_LINE: f64 = 17.0;

/// Drawings side by side that would be wider than this continue below, as they do on a page.
const MAX_ROW: f64 = 1300.0;
/// Between drawings that are put together.
const GAP: f64 = 28.0;

/// What a drawing is made of, in pixels: what a picture is painted from.
#[derive(Clone)]
pub(super) enum Shape {
    Area { outline: Vec<(f64, f64)>, colour: Rgb, alpha: f64 },
    Rect { at: (f64, f64), size: (f64, f64), colour: Rgb },
    Disc { centre: (f64, f64), radius: f64, colour: Rgb },
    Stroke { points: Vec<(f64, f64)>, width: f64, colour: Rgb },
    Words { at: (f64, f64), words: String, size: f64, anchor: Anchor, bold: bool, colour: Rgb },
}

impl Shape {
    /// The same shape further right and down.
    fn moved(mut self, dx: f64, dy: f64) -> Shape {
        let shift = |p: &mut (f64, f64)| *p = (p.0 + dx, p.1 + dy);
        match &mut self {
            Shape::Area { outline, .. } => outline.iter_mut().for_each(shift),
            Shape::Stroke { points, .. } => points.iter_mut().for_each(shift),
            Shape::Rect { at, .. } | Shape::Words { at, .. } => shift(at),
            Shape::Disc { centre, .. } => shift(centre),
        }
        self
    }

    /// The same shape in the colours of a dark page.
    fn dark(mut self) -> Shape {
        match &mut self {
            Shape::Area { colour, .. }
            | Shape::Rect { colour, .. }
            | Shape::Disc { colour, .. }
            | Shape::Stroke { colour, .. }
            | Shape::Words { colour, .. } => *colour = theme::dark(*colour),
        }
        self
    }
}

/// A finished drawing: as SVG elements in units of a tenth of a pixel, and as the shapes that a picture is painted
/// from.
#[derive(Clone)]
pub(super) struct Drawing {
    pub(super) width: f64,
    pub(super) height: f64,
    elements: String,
    pub(super) shapes: Vec<Shape>,
    /// Behind everything.
    pub(super) ground: Rgb,
    /// Right end and top of the last row of drawings in it.
    row: (f64, f64),
}

impl Drawing {
    /// Draws on a canvas of `width` by `height` pixels.
    pub(super) fn new(width: f64, height: f64, draw: impl FnOnce(&mut Canvas)) -> Drawing {
        let (elements, shapes) = painted(width, height, draw);
        Drawing { width, height, elements, shapes, ground: PAPER, row: (width, 0.0) }
    }

    /// The drawing with the lines of its caption, the middle of the first at `top`. A narrow page leaves them out, as
    /// [`Figure::on_narrow_pages`](super::Figure::on_narrow_pages) says them where they break as the page does.
    pub(super) fn captioned(mut self, top: f64, lines: &[String]) -> Drawing {
        if !lines.is_empty() {
            let (elements, shapes) = painted(self.width, self.height, |canvas| {
                for (i, line) in lines.iter().enumerate() {
                    canvas.text((0.0, top + NOTE_LINE * i as f64), line, LABEL, Anchor::Start, MUTED);
                }
            });
            self.elements += &format!("<g class=\"ol-under\">{elements}</g>");
            self.shapes.extend(shapes);
        }
        self
    }

    /// The drawing in the colours of a dark page, whatever page it is seen on.
    pub(super) fn dark(&self) -> Drawing {
        Drawing {
            elements: theme::darkened(&self.elements),
            shapes: self.shapes.iter().cloned().map(Shape::dark).collect(),
            ground: theme::dark(PAPER),
            ..*self
        }
    }

    /// The drawing inside HTML, where the page's style sheet colours it.
    pub(super) fn inline(&self, title: &str) -> String {
        format!(
            "<svg width=\"{}\" height=\"{}\" viewBox=\"0 0 {} {}\" stroke-linejoin=\"round\" role=\"img\" aria-label=\"{}\">{}</svg>",
            self.width,
            self.height,
            units(self.width),
            units(self.height),
            escape_html(title),
            self.elements
        )
    }

    /// The drawing as a file that stands alone, with a margin that HTML has from its page.
    pub(super) fn standalone(&self, title: &str) -> String {
        let (width, height) = (self.width + 2.0 * MARGIN, self.height + 2.0 * MARGIN);
        let [x, y, w, h] = [-MARGIN, -MARGIN, width, height].map(units);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"{x} {y} {w} {h}\" \
             stroke-linejoin=\"round\" role=\"img\"><title>{}</title><style>{}</style>\
             <rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" fill=\"{}\"/>{}</svg>\n",
            escape_html(title),
            *theme::SVG_STYLE,
            theme::hex(self.ground),
            self.elements,
        )
    }

    /// Both drawings in one, `other` to the right, where there is room, or below.
    pub(super) fn with(&self, other: &Drawing, beside: bool) -> Drawing {
        let shapes = |x: f64, y: f64| {
            self.shapes.iter().cloned().chain(other.shapes.iter().map(|s| s.clone().moved(x, y))).collect()
        };
        let fits = self.row.0 + GAP + other.width <= MAX_ROW;
        let (x, y) = if beside && fits { (self.row.0 + GAP, self.row.1) } else { (0.0, self.height + GAP) };
        let width = self.width.max(x + other.width);
        let elements = format!(
            "{}<g transform=\"translate({} {})\">{}</g>",
            self.elements,
            units(x),
            units(y),
            other.elements
        );
        Drawing {
            width,
            height: self.height.max(y + other.height),
            elements,
            shapes: shapes(x, y),
            ground: self.ground,
            row: if beside { (x + other.width, y) } else { (width, 0.0) },
        }
    }
}

/// What `draw` draws: its SVG elements, and its shapes.
fn painted(width: f64, height: f64, draw: impl FnOnce(&mut Canvas)) -> (String, Vec<Shape>) {
    let mut svg = String::new();
    let mut canvas = Canvas {
        backend: SVGBackend::with_string(&mut svg, (units(width) as u32, units(height) as u32)),
        shapes: Vec::new(),
    };
    draw(&mut canvas);
    let shapes = std::mem::take(&mut canvas.shapes);
    drop(canvas);
    // `plotters` writes one opening tag first and one closing tag last; all between are the elements.
    let start = svg.find('>').map_or(0, |i| i + 1);
    let end = svg.rfind("</svg>").unwrap_or(svg.len());
    let elements = svg[start..end]
        .replace(" opacity=\"1\"", "")
        .replace(" stroke=\"none\"", "")
        .replace(" \"/>", "\"/>")
        .replace(">\n", ">")
        .replace("\n<", "<");
    (elements, shapes)
}

/// What a figure draws on while it is being drawn; all lengths in pixels.
pub(super) struct Canvas<'a> {
    backend: SVGBackend<'a>,
    shapes: Vec<Shape>,
}

fn units(pixels: f64) -> i32 {
    (pixels * UNITS).round() as i32
}

fn at((x, y): (f64, f64)) -> (i32, i32) {
    (units(x), units(y))
}

fn colour((r, g, b): Rgb, alpha: f64) -> RGBAColor {
    RGBColor(r, g, b).mix(alpha)
}

fn stroke(c: Rgb, width: f64) -> ShapeStyle {
    ShapeStyle { color: colour(c, 1.0), filled: false, stroke_width: units(width) as u32 }
}

fn fill(c: Rgb, alpha: f64) -> ShapeStyle {
    ShapeStyle { color: colour(c, alpha), filled: true, stroke_width: 0 }
}

/// Writing into a `String` has no way to fail, so a failure is a bug here and not a user's.
const WRITES: &str = "plotters writes into a String";

impl Canvas<'_> {
    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), c: Rgb, width: f64) {
        self.backend.draw_line(at(from), at(to), &stroke(c, width)).expect(WRITES);
        self.shapes.push(Shape::Stroke { points: vec![from, to], width, colour: c });
    }

    pub(super) fn path(&mut self, points: &[(f64, f64)], c: Rgb, width: f64) {
        self.backend.draw_path(points.iter().map(|&p| at(p)), &stroke(c, width)).expect(WRITES);
        self.shapes.push(Shape::Stroke { points: points.to_vec(), width, colour: c });
    }

    /// A path in strokes of 6 pixels with gaps of 4.
    pub(super) fn dashed(&mut self, points: &[(f64, f64)], c: Rgb, width: f64) {
        let (on, off) = (6.0, 4.0);
        let mut left = on;
        let mut drawing = true;
        let mut dash: Vec<(f64, f64)> = points.first().copied().into_iter().collect();
        for pair in points.windows(2) {
            let (mut from, to) = (pair[0], pair[1]);
            let mut length = (to.0 - from.0).hypot(to.1 - from.1);
            while length > left {
                let t = left / length;
                from = (from.0 + t * (to.0 - from.0), from.1 + t * (to.1 - from.1));
                length -= left;
                if drawing {
                    dash.push(from);
                    self.path(&dash, c, width);
                    dash.clear();
                } else {
                    dash.push(from);
                }
                drawing = !drawing;
                left = if drawing { on } else { off };
            }
            left -= length;
            if drawing {
                dash.push(to);
            }
        }
        if dash.len() > 1 {
            self.path(&dash, c, width);
        }
    }

    pub(super) fn polygon(&mut self, points: &[(f64, f64)], c: Rgb, alpha: f64) {
        self.backend.fill_polygon(points.iter().map(|&p| at(p)), &fill(c, alpha)).expect(WRITES);
        self.shapes.push(Shape::Area { outline: points.to_vec(), colour: c, alpha });
    }

    pub(super) fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), c: Rgb) {
        self.backend.draw_rect(at((x, y)), at((x + width, y + height)), &fill(c, 1.0), true).expect(WRITES);
        self.shapes.push(Shape::Rect { at: (x, y), size: (width, height), colour: c });
    }

    /// A rectangle hatched with diagonals: there is no value here.
    pub(super) fn hatched(
        &mut self,
        (x, y): (f64, f64),
        (width, height): (f64, f64),
        ground: Rgb,
        lines: Rgb,
    ) {
        self.rect((x, y), (width, height), ground);
        // The lines `u + v = s` across the rectangle, each from where it enters to where it leaves.
        let mut s = 5.0;
        while s < width + height {
            let from = (x + (s - height).max(0.0), y + s.min(height));
            let to = (x + s.min(width), y + (s - width).max(0.0));
            self.line(from, to, lines, 1.0);
            s += 6.0;
        }
    }

    /// A mark at a data point; the shape says the series where colours do not.
    pub(super) fn mark(&mut self, (x, y): (f64, f64), shape: usize, c: Rgb) {
        let around = |r: f64, corners: &[(f64, f64)]| {
            corners.iter().map(|(u, v)| (x + r * u, y + r * v)).collect::<Vec<_>>()
        };
        match shape % 6 {
            0 => self.disc((x, y), 3.0, c),
            1 => self.polygon(&around(2.8, &[(-1., -1.), (1., -1.), (1., 1.), (-1., 1.)]), c, 1.0),
            2 => self.polygon(&around(3.8, &[(0., -1.), (0.95, 0.75), (-0.95, 0.75)]), c, 1.0),
            3 => self.polygon(&around(4.0, &[(0., -1.), (1., 0.), (0., 1.), (-1., 0.)]), c, 1.0),
            4 => self.polygon(&around(3.8, &[(0., 1.), (-0.95, -0.75), (0.95, -0.75)]), c, 1.0),
            _ => {
                // A cross on its side.
                self.line((x - 3.0, y - 3.0), (x + 3.0, y + 3.0), c, 1.8);
                self.line((x - 3.0, y + 3.0), (x + 3.0, y - 3.0), c, 1.8);
            }
        }
    }

    /// A mark at the lower edge of what is drawn: the value is further down.
    pub(super) fn arrow_down(&mut self, (x, y): (f64, f64), c: Rgb) {
        self.line((x, y - 9.0), (x, y), c, 1.6);
        self.polygon(&[(x - 4.5, y - 4.0), (x + 4.5, y - 4.0), (x, y + 3.0)], c, 1.0);
    }

    pub(super) fn disc(&mut self, centre: (f64, f64), radius: f64, c: Rgb) {
        self.backend.draw_circle(at(centre), units(radius) as u32, &fill(c, 1.0), true).expect(WRITES);
        self.shapes.push(Shape::Disc { centre, radius, colour: c });
    }

    pub(super) fn text(&mut self, at_point: (f64, f64), words: &str, size: f64, anchor: Anchor, c: Rgb) {
        self.words(at_point, words, size, anchor, c, FontStyle::Normal);
    }

    pub(super) fn bold(&mut self, at_point: (f64, f64), words: &str, size: f64, anchor: Anchor, c: Rgb) {
        self.words(at_point, words, size, anchor, c, FontStyle::Bold);
    }

    fn words(&mut self, point: (f64, f64), words: &str, size: f64, anchor: Anchor, c: Rgb, style: FontStyle) {
        let words = text::one_line(words);
        if words.is_empty() {
            return;
        }
        let h_pos = match anchor {
            Anchor::Start => HPos::Left,
            Anchor::Middle => HPos::Center,
            Anchor::End | Anchor::UpEnd => HPos::Right,
        };
        // `plotters` divides sizes by 1.24 when it writes them.
        let mut font = ("sans-serif", size * UNITS * 1.24).into_font().style(style);
        if matches!(anchor, Anchor::UpEnd) {
            font = font.transform(FontTransform::Rotate270);
        }
        let bold = matches!(style, FontStyle::Bold);
        self.shapes.push(Shape::Words { at: point, words: words.clone(), size, anchor, bold, colour: c });
        let c = colour(c, 1.0);
        let style = TextStyle::from(font).color(&c).pos(Pos::new(h_pos, VPos::Center));
        self.backend.draw_text(&words, &style, at(point)).expect(WRITES);
    }
}
