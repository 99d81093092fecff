//! A drawing as PNG: coverage of outlines by `ab_glyph_rasterizer`, letters from DejaVu Sans, at most 256 colours.
//!
//! Light colours on white paper, unless dark ones are asked for: for every place that shows neither styles nor SVG:
//! GitHub, a notebook that is not trusted, a PDF. The same drawing gives the same bytes.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::LazyLock;

use ab_glyph_rasterizer::{Point, Rasterizer, point};
use ttf_parser::{Face, OutlineBuilder};

use super::canvas::{Anchor, Drawing, MARGIN, Shape};
use super::theme::{self, MUTED, PAPER, Rgb};

/// A picture has at most this many bytes, where that can be had with fewer pixels.
const MAX_BYTES: usize = 60_000;
/// Pixels of the picture for one of the drawing, from the sharpest down. Letters of fewer pixels than the last gives
/// could not be read: what is still too large then is cut off below, and says so.
const SCALES: [f64; 3] = [2.0, 1.5, 1.0];

/// The drawing as a PNG file of two pixels for one of the drawing, or of fewer where the file would be large.
pub(super) fn png(drawing: &Drawing) -> Vec<u8> {
    for scale in SCALES {
        let file = Pixels::of(drawing, scale).png(scale);
        if file.len() <= MAX_BYTES {
            return file;
        }
    }
    let mut pixels = Pixels::of(drawing, 1.0);
    loop {
        pixels.cut(drawing.ground);
        let file = pixels.png(1.0);
        // Noise of the height of the last line would fit.
        if file.len() <= MAX_BYTES || pixels.height <= 2 * CUT {
            return file;
        }
    }
}

/// Pixel rows of the line that says that a picture was cut.
const CUT: usize = 30;

/// Steps of cover between none and all of a pixel.
const STEPS: f32 = 8.0;

/// Regular and bold. The files are part of the crate and have been read by everybody: failing is a bug.
static FACES: LazyLock<[Face<'static>; 2]> = LazyLock::new(|| {
    [dejavu::sans::regular(), dejavu::sans::bold()].map(|file| Face::parse(file, 0).expect("DejaVu Sans"))
});

/// `[y][x]`, red, green and blue.
struct Pixels {
    width: usize,
    height: usize,
    colours: Vec<Rgb>,
    scale: f64,
}

impl Pixels {
    fn of(drawing: &Drawing, scale: f64) -> Pixels {
        let side = |length: f64| ((length + 2.0 * MARGIN) * scale).ceil().max(1.0) as usize;
        let (width, height) = (side(drawing.width), side(drawing.height));
        let mut pixels =
            Pixels { width, height, colours: vec![white(drawing.ground); width * height], scale };
        for shape in &drawing.shapes {
            pixels.draw(shape);
        }
        pixels
    }

    /// Takes off the last sixth and says so on the last line.
    fn cut(&mut self, ground: Rgb) {
        self.height = (self.height * 5 / 6).max(CUT);
        self.colours.truncate(self.width * self.height);
        let top = self.width * (self.height - CUT);
        self.colours[top..].fill(white(ground));
        let words = Shape::Words {
            at: (0.0, (self.height - CUT / 2) as f64 - MARGIN),
            words: "The picture is cut off here: all of the figure would be too large for one.".into(),
            size: 12.0,
            anchor: Anchor::Start,
            bold: false,
            colour: if ground == PAPER { MUTED } else { theme::dark(MUTED) },
        };
        self.draw(&words);
    }

    fn at(&self, (x, y): (f64, f64)) -> Point {
        point(((x + MARGIN) * self.scale) as f32, ((y + MARGIN) * self.scale) as f32)
    }

    fn draw(&mut self, shape: &Shape) {
        match shape {
            Shape::Area { outline, colour, alpha } => {
                let outline: Vec<Point> = outline.iter().map(|p| self.at(*p)).collect();
                self.fill(vec![outline], *colour, *alpha as f32);
            }
            Shape::Rect { at, size, colour } => {
                let (from, to) = (self.at(*at), self.at((at.0 + size.0, at.1 + size.1)));
                let inside = |v: f32, limit: usize| (v.round().max(0.0) as usize).min(limit);
                let columns = inside(from.x, self.width)..inside(to.x, self.width);
                for y in inside(from.y, self.height)..inside(to.y, self.height) {
                    self.colours[y * self.width..][columns.clone()].fill(white(*colour));
                }
            }
            Shape::Disc { centre, radius, colour } => {
                let outline = disc(self.at(*centre), (radius * self.scale) as f32);
                self.fill(vec![outline], *colour, 1.0);
            }
            Shape::Stroke { points, width, colour } => {
                let points: Vec<Point> = points.iter().map(|p| self.at(*p)).collect();
                self.fill(stroke(&points, (width * self.scale) as f32), *colour, 1.0);
            }
            Shape::Words { at, words, size, anchor, bold, colour } => {
                let mut letters = Letters::default();
                letters.write(words, &FACES[usize::from(*bold)], size * self.scale);
                let at = self.at(*at);
                let back = match anchor {
                    Anchor::Start => 0.0,
                    Anchor::Middle => letters.pen / 2.0,
                    Anchor::End | Anchor::UpEnd => letters.pen,
                };
                // Centred on the height of an x, as the SVG is.
                let drop = 0.27 * (size * self.scale) as f32;
                // At whole pixels, as the letters: see `Letters::write`.
                let start = match anchor {
                    Anchor::UpEnd => point((at.x + drop).round(), (at.y + back).round()),
                    Anchor::Start | Anchor::Middle | Anchor::End => {
                        point((at.x - back).round(), (at.y + drop).round())
                    }
                };
                let place = |(x, y): (f32, f32)| match anchor {
                    Anchor::UpEnd => point(start.x + y, start.y - x),
                    Anchor::Start | Anchor::Middle | Anchor::End => point(start.x + x, start.y + y),
                };
                let outlines: Vec<Vec<Point>> = letters
                    .outlines
                    .iter()
                    .map(|outline| outline.iter().map(|p| place(*p)).collect())
                    .collect();
                self.fill(outlines, *colour, 1.0);
            }
        }
    }

    /// Mixes the colour in, as far as the closed outlines cover each pixel.
    fn fill(&mut self, outlines: Vec<Vec<Point>>, colour: Rgb, alpha: f32) {
        let all = || outlines.iter().flatten();
        let least = |of: fn(&Point) -> f32| all().map(of).fold(f32::INFINITY, f32::min).floor() - 1.0;
        let most = |of: fn(&Point) -> f32| all().map(of).fold(f32::NEG_INFINITY, f32::max).ceil() + 1.0;
        let (left, top, right, bottom) = (least(|p| p.x), least(|p| p.y), most(|p| p.x), most(|p| p.y));
        // Nothing to draw, or nothing that a drawing can hold.
        if !(right - left <= 20_000.0 && bottom - top <= 20_000.0) {
            return;
        }
        let width = (right - left) as usize;
        let mut cover = Rasterizer::new(width, (bottom - top) as usize);
        for outline in &outlines {
            let from = |p: &Point| point(p.x - left, p.y - top);
            let ends = outline.iter().skip(1).chain(outline.first());
            for (a, b) in outline.iter().zip(ends) {
                cover.draw_line(from(a), from(b));
            }
        }
        let (left, top) = (left as i64, top as i64);
        cover.for_each_pixel_2d(|x, y, covered| {
            // Few steps of cover look smooth, and the file stays small.
            let covered = (covered.min(1.0) * STEPS).round() / STEPS * alpha;
            let (x, y) = (i64::from(x) + left, i64::from(y) + top);
            if covered > 0.0 && x >= 0 && y >= 0 && x < self.width as i64 && y < self.height as i64 {
                let below = &mut self.colours[y as usize * self.width + x as usize];
                let mix =
                    |a: u8, b: u8| (f32::from(a) + covered * (f32::from(b) - f32::from(a))).round() as u8;
                *below = (mix(below.0, colour.0), mix(below.1, colour.1), mix(below.2, colour.2));
            }
        });
    }

    /// The file, one byte a pixel.
    fn png(&self, scale: f64) -> Vec<u8> {
        let (palette, indices) = self.palette();
        let mut file = Vec::new();
        let mut header = png::Encoder::new(&mut file, self.width as u32, self.height as u32);
        header.set_color(png::ColorType::Indexed);
        header.set_depth(png::BitDepth::Eight);
        header.set_palette(palette.iter().flat_map(|c| [c.0, c.1, c.2]).collect::<Vec<_>>());
        // Pixels a metre, so that paper shows it as large as a screen does: 96 an inch for one of the drawing.
        let density = (96.0 * scale / 0.0254) as u32;
        header.set_pixel_dims(Some(png::PixelDimensions {
            xppu: density,
            yppu: density,
            unit: png::Unit::Meter,
        }));
        // Neighbours among indices are not alike in number: a filter would not help.
        header.set_filter(png::Filter::NoFilter);
        header.set_deflate_compression(png::DeflateCompression::Level(9));
        let written = header.write_header().and_then(|mut image| image.write_image_data(&indices));
        written.expect("writes into memory");
        file
    }

    /// At most 256 colours and which of them each pixel has. Where there are more, the rarest, which are edges of
    /// letters and curves, become the nearest of the others; white comes first.
    fn palette(&self) -> (Vec<Rgb>, Vec<u8>) {
        let mut counts: HashMap<Rgb, usize> = HashMap::new();
        for colour in &self.colours {
            *counts.entry(*colour).or_default() += 1;
        }
        let mut all: Vec<(Rgb, usize)> = counts.into_iter().collect();
        all.sort_by_key(|&(colour, n)| (Reverse(n), Reverse(colour)));
        let palette: Vec<Rgb> = all.iter().take(256).map(|&(colour, _)| colour).collect();
        let square = |a: u8, b: u8| (i32::from(a) - i32::from(b)).pow(2);
        let away = |a: Rgb, b: Rgb| square(a.0, b.0) + square(a.1, b.1) + square(a.2, b.2);
        let nearest = |colour: Rgb| (0..palette.len()).min_by_key(|&i| away(palette[i], colour)).unwrap_or(0);
        let index: HashMap<Rgb, u8> = all
            .iter()
            .enumerate()
            .map(|(i, &(c, _))| (c, if i < 256 { i } else { nearest(c) } as u8))
            .collect();
        let indices = self.colours.iter().map(|colour| index[colour]).collect();
        (palette, indices)
    }
}

/// The paper is a hair off white, so that the style sheet can tell it from data; a picture has no need of that.
fn white(colour: Rgb) -> Rgb {
    if colour == PAPER { (255, 255, 255) } else { colour }
}

fn disc(centre: Point, radius: f32) -> Vec<Point> {
    const CORNERS: usize = 20;
    let corner = |k: usize| std::f32::consts::TAU * k as f32 / CORNERS as f32;
    (0..CORNERS)
        .map(|k| point(centre.x + radius * corner(k).cos(), centre.y + radius * corner(k).sin()))
        .collect()
}

/// A line as areas: one for each piece, a disc at each bend; all turn the same way, so that they add up.
fn stroke(points: &[Point], width: f32) -> Vec<Vec<Point>> {
    let half = width / 2.0;
    let pieces = points.windows(2).filter_map(|ends| {
        let (dx, dy) = (ends[1].x - ends[0].x, ends[1].y - ends[0].y);
        let length = dx.hypot(dy);
        let (u, v) = (-dy / length * half, dx / length * half);
        let corner = |p: Point, sign: f32| point(p.x + sign * u, p.y + sign * v);
        (length > 0.0).then(|| {
            vec![corner(ends[0], -1.0), corner(ends[1], -1.0), corner(ends[1], 1.0), corner(ends[0], 1.0)]
        })
    });
    let bends = points.iter().skip(1).take(points.len().saturating_sub(2)).map(|p| disc(*p, half));
    pieces.chain(bends).collect()
}

/// Outlines of letters on a baseline at 0, curves as short lines.
#[derive(Default)]
struct Letters {
    outlines: Vec<Vec<(f32, f32)>>,
    /// Where the next letter begins.
    pen: f32,
    /// How far it stands above the line.
    rise: f32,
    scale: f32,
    last: (f32, f32),
}

impl Letters {
    fn write(&mut self, words: &str, face: &Face<'_>, size: f64) {
        let scale = size as f32 / f32::from(face.units_per_em());
        for letter in words.chars() {
            let Some(glyph) = face.glyph_index(letter) else {
                self.write_code(letter, face, size);
                continue;
            };
            self.scale = scale;
            face.outline_glyph(glyph, self);
            // Whole pixels: so that a letter has the same pixels wherever it stands, and the file stays small.
            self.pen += (f32::from(face.glyph_hor_advance(glyph).unwrap_or(0)) * self.scale).round();
        }
    }

    /// A letter that the font lacks, such as a Chinese one or an emoji: its code point, in two rows in a box.
    fn write_code(&mut self, letter: char, face: &Face<'_>, size: f64) {
        let code = format!("{:04X}", letter as u32);
        let (upper, lower) = code.split_at(code.len().div_ceil(2));
        let (left, height, line) =
            (self.pen.round() + 1.0, size as f32, (size as f32 / 16.0).max(1.0).round());
        let mut right = left;
        for (row, rise) in [(upper, 0.47 * height), (lower, 0.0)] {
            (self.pen, self.rise) = (left + 2.0 * line, rise);
            self.write(row, face, 0.5 * size);
            right = right.max(self.pen + line);
        }
        self.rise = 0.0;
        let (top, bottom) = ((-0.92 * height).round(), (0.1 * height).round());
        let corners = |in_by: f32| {
            let (l, t, r, b) = (left + in_by, top + in_by, right - in_by, bottom - in_by);
            vec![(l, t), (r, t), (r, b), (l, b)]
        };
        // The inner corners turn the other way, so that the box is not filled.
        let inner = corners(line).into_iter().rev().collect();
        self.outlines.extend([corners(0.0), inner]);
        self.pen = right + 1.0;
    }

    fn place(&self, x: f32, y: f32) -> (f32, f32) {
        (self.pen + x * self.scale, -y * self.scale - self.rise)
    }

    fn push(&mut self, p: (f32, f32)) {
        self.last = p;
        if let Some(outline) = self.outlines.last_mut() {
            outline.push(p);
        }
    }
}

/// Pieces of a curve: letters are a dozen pixels high.
const PIECES: usize = 5;

impl OutlineBuilder for Letters {
    fn move_to(&mut self, x: f32, y: f32) {
        self.outlines.push(vec![]);
        self.push(self.place(x, y));
    }

    fn line_to(&mut self, x: f32, y: f32) {
        self.push(self.place(x, y));
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let (a, b, c) = (self.last, self.place(x1, y1), self.place(x, y));
        for k in 1..=PIECES {
            let t = k as f32 / PIECES as f32;
            let at = |a: f32, b: f32, c: f32| (1.0 - t) * ((1.0 - t) * a + 2.0 * t * b) + t * t * c;
            self.push((at(a.0, b.0, c.0), at(a.1, b.1, c.1)));
        }
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let (a, b, c, d) = (self.last, self.place(x1, y1), self.place(x2, y2), self.place(x, y));
        for k in 1..=PIECES {
            let t = k as f32 / PIECES as f32;
            let s = 1.0 - t;
            let at = |a: f32, b: f32, c: f32, d: f32| {
                s * s * s * a + 3.0 * s * t * (s * b + t * c) + t * t * t * d
            };
            self.push((at(a.0, b.0, c.0, d.0), at(a.1, b.1, c.1, d.1)));
        }
    }

    fn close(&mut self) {}
}
