//! Colours, light and dark, and the style sheet that every figure carries.
//!
//! A drawing holds its light colours as plain attributes, so that it stands where styles are stripped. The style sheet
//! finds elements by these very attributes (`[fill="#1F2328"]`) and replaces them by variables that follow the theme.

use std::fmt::Write as _;
use std::sync::LazyLock;

/// Red, green, blue.
pub(super) type Rgb = (u8, u8, u8);

/// Text.
pub(super) const INK: Rgb = (0x1F, 0x23, 0x28);
/// Captions and axis labels.
pub(super) const MUTED: Rgb = (0x59, 0x63, 0x6E);
/// Grid lines.
pub(super) const GRID: Rgb = (0xE2, 0xE5, 0xE9);
/// Axes.
pub(super) const AXIS: Rgb = (0x8B, 0x94, 0x9E);
/// Background.
pub(super) const PAPER: Rgb = (0xFF, 0xFF, 0xFE);
/// Ground of a cell without a value.
pub(super) const NOTHING: Rgb = (0xD9, 0xDC, 0xE0);
/// Hatching of a cell without a value.
pub(super) const HATCH: Rgb = (0xA6, 0xAC, 0xB4);

/// Line colours, each at least 3:1 against the background. Those that meet in one chart are told apart without red and
/// green, or have different marks; the first few follow Okabe and Ito (2008).
pub(super) const LINES: [Rgb; 16] = [
    (0x00, 0x72, 0xB2),
    (0xD5, 0x5E, 0x00),
    (0x00, 0x9E, 0x73),
    (0xA6, 0x53, 0x9A),
    (0x6E, 0x6E, 0x6E),
    (0x4A, 0x3A, 0xA7),
    (0xA3, 0x77, 0x00),
    (0x7A, 0x3B, 0x12),
    (0x2E, 0x93, 0xCF),
    (0x00, 0x63, 0x6E),
    (0xA3, 0x24, 0x4F),
    (0x64, 0x75, 0x1A),
    (0x26, 0x2A, 0x2F),
    // Darker than the first three: the same lenses at least KL.
    (0x00, 0x45, 0x6B),
    (0x8F, 0x3F, 0x00),
    (0x00, 0x55, 0x40),
];

/// From one of the first three of [`LINES`] to the same lens at least KL.
const LEAST_KL: usize = 13;

/// Those of [`LINES`] that mean one thing among lenses and another among networks, which do not meet in a chart; names
/// without a meaning have them, too.
const FREE: std::ops::Range<usize> = 9..13;

/// What curves are about, by the words with which their names begin, and which of [`LINES`] they have in every figure; of
/// two that fit, the first counts.
const MEANINGS: [(&str, usize); 30] = [
    // Each stream's own lens of least KL, by another name.
    ("tuned lens", 13),
    ("own gain", 1),
    ("own bias", 1),
    ("own", 0),
    ("raw, no intercept", 0),
    ("shared", 1),
    ("one lens", 1),
    ("left out", 2),
    ("left-out", 2),
    ("logit lens", 3),
    ("mean prediction", 4),
    ("baseline", 4),
    ("all there is to read", 4),
    ("random", 4),
    ("trained", 5),
    ("the model", 5),
    ("residual twin", 5),
    ("twin", 5),
    ("the token's own update", 5),
    ("untrained", 6),
    ("chance weights", 6),
    ("rotated", 7),
    ("the update of another token", 8),
    ("predictive coding", 9),
    ("Jacobian lens", 9),
    ("every layer supervised", 10),
    ("later-layers lens", 10),
    ("plain", 11),
    ("one block looped", 12),
    ("hidden layer", 12),
];

/// Which of [`LINES`] a curve of this name has in every figure.
fn meaning(name: &str) -> Option<usize> {
    // Whatever it is of.
    if name.contains("shuffled") {
        return Some(8);
    }
    let begins =
        |words: &str| name.strip_prefix(words).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric));
    let (_, index) = MEANINGS.into_iter().find(|(words, _)| begins(words))?;
    Some(if index < 3 && name.contains("least KL") { index + LEAST_KL } else { index })
}

/// The colours of curves with these names: what they mean, and others in order, as long as there are any. In a chart in
/// which no name means anything, no colour does.
pub(super) fn line_colours<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Vec<Rgb> {
    let taken: Vec<usize> = names.clone().filter_map(meaning).collect();
    let others = if taken.is_empty() { 0..FREE.start } else { 0..0 };
    let left: Vec<usize> = FREE.chain(others).filter(|i| !taken.contains(i)).collect();
    // A chart may mean all of them.
    let left = if left.is_empty() { FREE.collect() } else { left };
    let mut free = left.into_iter().cycle();
    names.filter_map(|name| meaning(name).or_else(|| free.next())).map(|i| LINES[i]).collect()
}

/// Name, light and dark value of every colour that follows the theme.
const THEMED: [(&str, Rgb, Rgb); 23] = [
    ("ink", INK, (0xE6, 0xE8, 0xEB)),
    ("muted", MUTED, (0x9D, 0xA7, 0xB1)),
    ("grid", GRID, (0x30, 0x35, 0x3B)),
    ("axis", AXIS, (0x6E, 0x76, 0x81)),
    ("bg", PAPER, (0x15, 0x17, 0x1B)),
    ("none", NOTHING, (0x3A, 0x3F, 0x46)),
    ("hatch", HATCH, (0x6A, 0x70, 0x79)),
    ("s0", LINES[0], (0x4D, 0xA6, 0xE0)),
    ("s1", LINES[1], (0xF5, 0x84, 0x3C)),
    ("s2", LINES[2], (0x2F, 0xC2, 0x95)),
    ("s3", LINES[3], (0xE0, 0x9A, 0xC4)),
    ("s4", LINES[4], (0x8A, 0x8A, 0x8A)),
    ("s5", LINES[5], (0x9C, 0x8D, 0xF0)),
    ("s6", LINES[6], (0xF2, 0xBE, 0x4A)),
    ("s7", LINES[7], (0xC9, 0x8B, 0x5E)),
    ("s8", LINES[8], (0xA5, 0xDB, 0xFA)),
    ("s9", LINES[9], (0x4C, 0xC3, 0xD1)),
    ("s10", LINES[10], (0xFF, 0xB0, 0xC2)),
    ("s11", LINES[11], (0xB9, 0xCC, 0x5A)),
    ("s12", LINES[12], (0xEE, 0xF0, 0xF2)),
    ("s13", LINES[13], (0x2C, 0x7A, 0xB3)),
    ("s14", LINES[14], (0xBF, 0x5E, 0x1E)),
    ("s15", LINES[15], (0x1C, 0x8A, 0x67)),
];

/// The shading behind table cells where it is full, light and dark; it is mixed over the background.
const SHADE: (Rgb, Rgb) = ((0, 92, 168), (38, 118, 196));

/// Number of shades behind table cells; class `a` is the lightest that is not bare, and so on.
pub(super) const N_SHADES: usize = 12;

/// From this part of full shading on, white letters read better than dark ones.
const WHITE_FROM: f64 = 0.78;

/// `#1F2328`.
pub(super) fn hex((r, g, b): Rgb) -> String {
    format!("#{r:02X}{g:02X}{b:02X}")
}

/// The class of table shade `level` in `1..N_SHADES`; level 0 has none.
pub(super) fn shade_class(level: usize) -> char {
    (b'a' + level as u8 - 1) as char
}

/// How much of the full shading there is at `level`.
fn alpha(level: usize) -> f64 {
    level as f64 / (N_SHADES - 1) as f64
}

/// The level of shading at `fraction` of the range.
pub(super) fn level(fraction: f64) -> usize {
    (fraction.clamp(0.0, 1.0) * (N_SHADES - 1) as f64).round() as usize
}

/// The shading of table cells in a drawing: what [`shade_class`] is in HTML.
pub(super) fn shade(level: usize) -> Rgb {
    mixed(level, SHADE.0, PAPER)
}

fn mixed(level: usize, full: Rgb, ground: Rgb) -> Rgb {
    let mix = |over: u8, under: u8| {
        let (over, under) = (f64::from(over), f64::from(under));
        (under + alpha(level) * (over - under)).round() as u8
    };
    if level == 0 {
        return ground;
    }
    (mix(full.0, ground.0), mix(full.1, ground.1), mix(full.2, ground.2))
}

/// The colour of letters on that shading.
pub(super) fn on_shade(level: usize) -> Rgb {
    if alpha(level) > WHITE_FROM { (0xFF, 0xFF, 0xFF) } else { INK }
}

/// A colour of a light drawing as it is written in HTML that follows the theme.
pub(super) fn variable(colour: Rgb) -> String {
    let name = THEMED.iter().find(|(_, light, _)| *light == colour).map(|(name, _, _)| name);
    name.map_or_else(|| hex(colour), |name| format!("var(--ol-{name})"))
}

/// What a colour of a light drawing is in a dark one. Colours of data stay.
pub(super) fn dark(colour: Rgb) -> Rgb {
    let themed = THEMED.iter().find(|(_, light, _)| *light == colour).map(|(_, _, dark)| *dark);
    let shaded = || (1..N_SHADES).find(|&level| shade(level) == colour).map(dark_shade);
    themed.or_else(shaded).unwrap_or(colour)
}

fn dark_shade(level: usize) -> Rgb {
    mixed(level, SHADE.1, dark(PAPER))
}

/// SVG elements with the light values of their colours replaced by the dark ones.
pub(super) fn darkened(elements: &str) -> String {
    let mut out = elements.to_string();
    let themed = THEMED.iter().map(|(_, light, dark)| (*light, *dark));
    for (light, dark) in themed.chain((1..N_SHADES).map(|level| (shade(level), dark_shade(level)))) {
        out = out.replace(&format!("\"{}\"", hex(light)), &format!("\"{}\"", hex(dark)));
    }
    out
}

fn variables(dark: bool) -> String {
    let mut out = String::new();
    for (name, light_value, dark_value) in THEMED {
        _ = write!(out, "--ol-{name}:{};", hex(if dark { dark_value } else { light_value }));
    }
    let ((r, g, b), scheme) = if dark { (SHADE.1, "dark") } else { (SHADE.0, "light") };
    // The scheme colours scroll bars, which would else follow the system and not the notebook.
    _ = write!(out, "--ol-a:{r},{g},{b};color-scheme:{scheme}");
    out
}

/// Rules that give the drawing's light attributes their themed values, inside `scope`.
fn drawing_rules(scope: &str) -> String {
    let mut out = String::new();
    for (name, light, _) in THEMED {
        let light = hex(light);
        _ = write!(out, "{scope} [fill=\"{light}\"]{{fill:var(--ol-{name})}}");
        _ = write!(out, "{scope} [stroke=\"{light}\"]{{stroke:var(--ol-{name})}}");
    }
    _ = write!(
        out,
        "{scope} text{{font-family:system-ui,-apple-system,\"Segoe UI\",Roboto,\"DejaVu Sans\",sans-serif;font-variant-numeric:tabular-nums}}"
    );
    // Neighbouring cells of a heat map must touch without a seam.
    _ = write!(out, "{scope} rect{{shape-rendering:crispEdges}}");
    out
}

/// The style sheet of a figure in HTML. A notebook's own theme wins over the system's.
pub(super) static STYLE: LazyLock<String> = LazyLock::new(|| {
    let (light, dark) = (variables(false), variables(true));
    let mut css = format!(
        ".onelens{{{light};background:var(--ol-bg);color:var(--ol-ink);padding:10px 12px;max-width:100%;\
         box-sizing:border-box;font:13px/1.45 system-ui,-apple-system,\"Segoe UI\",Roboto,\"DejaVu Sans\",sans-serif;\
         font-variant-numeric:tabular-nums;text-align:left}}\
         @media(prefers-color-scheme:dark){{.onelens{{{dark}}}}}\
         [data-jp-theme-light=\"true\"] .onelens,.vscode-light .onelens{{{light}}}\
         [data-jp-theme-light=\"false\"] .onelens,.vscode-dark .onelens{{{dark}}}"
    );
    css += &drawing_rules(".onelens svg");
    css += include_str!("style.css");
    for level in 1..N_SHADES {
        let (class, alpha) = (shade_class(level), alpha(level));
        _ = write!(
            css,
            ".onelens .ol-traj td.{class},.onelens .ol-key .{class}{{background:rgba(var(--ol-a),{alpha:.2})}}"
        );
        if alpha > WHITE_FROM {
            _ = write!(css, ".onelens .ol-traj td.{class}{{color:#fff}}");
        }
    }
    css.lines().map(str::trim).collect()
});

/// The style sheet inside an SVG file that stands alone.
pub(super) static SVG_STYLE: LazyLock<String> = LazyLock::new(|| {
    let mut css = format!(
        ":root{{{}}}@media(prefers-color-scheme:dark){{:root{{{}}}}}{}",
        variables(false),
        variables(true),
        drawing_rules("svg")
    );
    for level in 1..N_SHADES {
        _ = write!(css, "svg [fill=\"{}\"]{{fill:rgba(var(--ol-a),{:.2})}}", hex(shade(level)), alpha(level));
    }
    css
});

/// Dark blue over green to yellow, even steps to the eye and in grey (nine stops of matplotlib's viridis).
const SEQUENTIAL: [Rgb; 9] = [
    (0x44, 0x01, 0x54),
    (0x47, 0x2D, 0x7B),
    (0x3B, 0x52, 0x8B),
    (0x2C, 0x72, 0x8E),
    (0x21, 0x91, 0x8C),
    (0x28, 0xAE, 0x80),
    (0x5E, 0xC9, 0x62),
    (0xAD, 0xDC, 0x30),
    (0xFD, 0xE7, 0x25),
];

/// Blue over near-white to red (ColorBrewer RdBu, reversed).
const DIVERGING: [Rgb; 9] = [
    (0x21, 0x66, 0xAC),
    (0x43, 0x93, 0xC3),
    (0x92, 0xC5, 0xDE),
    (0xD1, 0xE5, 0xF0),
    (0xF7, 0xF7, 0xF7),
    (0xFD, 0xDB, 0xC7),
    (0xF4, 0xA5, 0x82),
    (0xD6, 0x60, 0x4D),
    (0xB2, 0x18, 0x2B),
];

/// The colour at `fraction` (0 to 1) of a colour map.
pub(super) fn map_colour(fraction: f64, diverging: bool) -> Rgb {
    let stops = if diverging { &DIVERGING } else { &SEQUENTIAL };
    let at = fraction.clamp(0.0, 1.0) * 8.0;
    let (i, t) = ((at as usize).min(7), at - at.floor().min(7.0));
    let mix = |a: u8, b: u8| (a as f64 + t * (b as f64 - a as f64)).round() as u8;
    let (a, b) = (stops[i], stops[i + 1]);
    let colour = (mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2));
    // A data colour must not be taken for a themed one.
    if dark(colour) == colour { colour } else { (colour.0, colour.1, colour.2 ^ 1) }
}

/// Black or white, whichever reads better on `ground`.
pub(super) fn on((r, g, b): Rgb) -> Rgb {
    let linear = |c: u8| (c as f64 / 255.0).powf(2.2);
    let luminance = 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    if luminance > 0.22 { (0, 0, 0) } else { (0xFF, 0xFF, 0xFF) }
}

/// The background, for the page around a figure.
pub(super) fn paper(dark: bool) -> String {
    hex(if dark { self::dark(PAPER) } else { PAPER })
}
