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

/// Line colours, told apart by colour-blind readers (Okabe and Ito 2008), the pale yellow left out.
pub(super) const LINES: [Rgb; 7] = [
    (0x00, 0x72, 0xB2),
    (0xD5, 0x5E, 0x00),
    (0x00, 0x9E, 0x73),
    (0xCC, 0x79, 0xA7),
    (0xE6, 0x9F, 0x00),
    (0x56, 0xB4, 0xE9),
    (0x6E, 0x6E, 0x6E),
];

/// Name, light and dark value of every colour that follows the theme.
const THEMED: [(&str, Rgb, Rgb); 14] = [
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
    ("s4", LINES[4], (0xF2, 0xBE, 0x4A)),
    ("s5", LINES[5], (0xA5, 0xDB, 0xFA)),
    ("s6", LINES[6], (0xA8, 0xA8, 0xA8)),
];

/// Base of the shading behind table cells, light and dark, mixed over the background.
const SHADE: (&str, &str) = ("0,92,168", "38,118,196");

/// Number of shades behind table cells; class `a` is the lightest that is not bare, and so on.
pub(super) const N_SHADES: usize = 12;

/// `#1F2328`.
pub(super) fn hex((r, g, b): Rgb) -> String {
    format!("#{r:02X}{g:02X}{b:02X}")
}

/// The class of table shade `level` in `1..N_SHADES`; level 0 has none.
pub(super) fn shade_class(level: usize) -> char {
    (b'a' + level as u8 - 1) as char
}

fn variables(dark: bool) -> String {
    let mut out = String::new();
    for (name, light_value, dark_value) in THEMED {
        _ = write!(out, "--ol-{name}:{};", hex(if dark { dark_value } else { light_value }));
    }
    let (shade, scheme) = if dark { (SHADE.1, "dark") } else { (SHADE.0, "light") };
    // The scheme colours scroll bars, which would else follow the system and not the notebook.
    _ = write!(out, "--ol-a:{shade};color-scheme:{scheme}");
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
        let (class, alpha) = (shade_class(level), level as f64 / (N_SHADES - 1) as f64);
        _ = write!(
            css,
            ".onelens .ol-traj td.{class},.onelens .ol-key .{class}{{background:rgba(var(--ol-a),{alpha:.2})}}"
        );
        if alpha > 0.6 {
            _ = write!(css, ".onelens .ol-traj td.{class}{{color:#fff}}");
        }
    }
    css.lines().map(str::trim).collect()
});

/// The style sheet inside an SVG file that stands alone.
pub(super) static SVG_STYLE: LazyLock<String> = LazyLock::new(|| {
    format!(
        ":root{{{}}}@media(prefers-color-scheme:dark){{:root{{{}}}}}{}",
        variables(false),
        variables(true),
        drawing_rules("svg")
    )
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
    if THEMED.iter().any(|themed| themed.1 == colour) { (colour.0, colour.1, colour.2 ^ 1) } else { colour }
}

/// Black or white, whichever reads better on `ground`.
pub(super) fn on((r, g, b): Rgb) -> Rgb {
    let linear = |c: u8| (c as f64 / 255.0).powf(2.2);
    let luminance = 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    if luminance > 0.22 { (0, 0, 0) } else { (0xFF, 0xFF, 0xFF) }
}

/// The background, for the page around a figure.
pub(super) fn paper(dark: bool) -> String {
    THEMED.iter().find(|t| t.1 == PAPER).map_or(String::new(), |t| hex(if dark { t.2 } else { t.1 }))
}
