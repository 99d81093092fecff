//! From data to a place on an axis: range, ticks, tick labels.

use super::text;

/// Beyond this a difference of two values can overflow; such values are treated like infinities.
const HUGE: f64 = 1e150;

/// Whether a value can have a place in a drawing.
pub(super) fn is_drawable(v: f64) -> bool {
    v.is_finite() && v.abs() < HUGE
}

/// A linear or logarithmic axis with its ticks.
pub(super) struct Axis {
    lo: f64,
    hi: f64,
    log: bool,
    /// Value and label of each tick, inside the range.
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// A linear axis widened to whole ticks, for values from `lo` to `hi`.
    pub(super) fn linear(lo: f64, hi: f64, about: usize) -> Axis {
        let (lo, hi) = if hi > lo { (lo, hi) } else { widen(lo) };
        let step = nice_step((hi - lo) / about as f64);
        // A hair of tolerance, or a maximum that is a tick up to rounding would gain an empty interval.
        let (first, last) = ((lo / step + 1e-9).floor(), (hi / step - 1e-9).ceil());
        Axis { lo: first * step, hi: last * step, log: false, ticks: ticks(first, last, step) }
    }

    /// A linear axis that ends where the data end; ticks at whole numbers if `whole`.
    pub(super) fn tight(lo: f64, hi: f64, about: usize, whole: bool) -> Axis {
        let (lo, hi) = if hi > lo { (lo, hi) } else { widen(lo) };
        let step = nice_step((hi - lo) / about as f64);
        let step = if whole { step.max(1.0) } else { step };
        let (first, last) = ((lo / step - 1e-9).ceil(), (hi / step + 1e-9).floor());
        Axis { lo, hi, log: false, ticks: ticks(first, last, step) }
    }

    /// A logarithmic axis for positive values: ticks at powers of ten, with 2 and 5 between where the range is short.
    pub(super) fn log(lo: f64, hi: f64) -> Axis {
        let (lo, hi) = if hi > lo { (lo, hi) } else { (lo / 2.0, hi * 2.0) };
        let (first, last) = (lo.log10().floor() as i32, hi.log10().ceil() as i32);
        let every = ((last - first) / 8).max(1);
        let multiples: &[f64] = if last - first <= 2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let all = (first..=last).step_by(every as usize).flat_map(|e| multiples.iter().map(move |m| (e, m * 10f64.powi(e))));
        // Widen to the next tick on both sides, not to the next power of ten.
        let all: Vec<f64> = all.map(|(_, v)| v).collect();
        let lo = all.iter().copied().rfind(|v| *v <= lo * (1.0 + 1e-9)).unwrap_or(lo);
        let hi = all.iter().copied().find(|v| *v >= hi * (1.0 - 1e-9)).unwrap_or(hi);
        let ticks = all.into_iter().filter(|v| (lo..=hi).contains(v)).map(|v| (v, text::number(v))).collect();
        Axis { lo: lo.log10(), hi: hi.log10(), log: true, ticks }
    }

    /// Where `v` lies, 0 at the lower end and 1 at the upper.
    pub(super) fn place(&self, v: f64) -> f64 {
        let v = if self.log { v.log10() } else { v };
        (v - self.lo) / (self.hi - self.lo)
    }
}

/// A range around a single value.
fn widen(v: f64) -> (f64, f64) {
    let room = if v == 0.0 { 1.0 } else { 0.1 * v.abs() };
    (v - room, v + room)
}

/// The least of 1, 2, 5 times a power of ten that is at least `step`.
fn nice_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|f| f * power >= step * (1.0 - 1e-9)).unwrap_or(10.0);
    factor * power
}

/// Ticks at `first * step ..= last * step`, labelled with the decimals of the step.
fn ticks(first: f64, last: f64, step: f64) -> Vec<(f64, String)> {
    // The step is at least about a twentieth of the range, except where rounding swallows it.
    let n = (last - first).clamp(0.0, 50.0) as usize;
    let largest = first.abs().max(last.abs()) * step;
    let decimals = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
    (0..=n)
        .map(|i| {
            let v = (first + i as f64) * step;
            let plain = largest < 1e6 && step > 0.9e-5;
            (v, if plain { format!("{:.decimals$}", v + 0.0) } else if v == 0.0 { "0".into() } else { format!("{v:.1e}") })
        })
        .collect()
}
