//! From data to a place on an axis: range, ticks, tick labels.

use super::text;

/// Beyond this a difference of two values can overflow; such values are treated like infinities.
const HUGE: f64 = 1e150;

/// Whether a value can have a place in a drawing.
pub(super) fn is_drawable(v: f64) -> bool {
    v.is_finite() && v.abs() < HUGE
}

/// Why some of the values have no place, in words.
pub(super) fn reason<'a>(mut values: impl Iterator<Item = &'a f64>, log: bool) -> &'static str {
    match (log, values.any(|v| v.is_finite() && !is_drawable(*v))) {
        (false, false) => "not finite",
        (false, true) => "not finite or too large",
        (true, false) => "not finite or not positive",
        (true, true) => "not finite, not positive or too large",
    }
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

    /// A logarithmic axis for positive values: ticks at powers of ten, at 2 and 5 too where the range is short. It ends
    /// where the data end if `tight`, else at the next 1, 2 or 5 times a power of ten.
    pub(super) fn log(lo: f64, hi: f64, tight: bool) -> Axis {
        const HAIR: f64 = 1.0 + 1e-9;
        let (lo, hi) = if hi > lo { (lo, hi) } else { (lo / 2.0, hi * 2.0) };
        let (first, last) = (lo.log10().floor() as i32, hi.log10().ceil() as i32);
        let round = |e: i32| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(e));
        let below = round(first).into_iter().rfind(|v| *v <= lo * HAIR).unwrap_or(lo);
        let above = round(last - 1).into_iter().chain(round(last)).find(|v| *v * HAIR >= hi).unwrap_or(hi);
        let (lo, hi) = if tight { (lo, hi) } else { (below, above) };
        let short = (hi / lo).log10() <= 2.0;
        let every = if short { 1 } else { ((last - first) / 7).max(1) as usize };
        let powers = (first..=last).step_by(every);
        let all = powers.flat_map(|e| round(e).into_iter().take(if short { 3 } else { 1 }));
        let ticks =
            all.filter(|v| *v * HAIR >= lo && *v <= hi * HAIR).map(|v| (v, text::number(v))).collect();
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
pub(super) fn nice_step(step: f64) -> f64 {
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
            (
                v,
                if plain {
                    format!("{:.decimals$}", v + 0.0)
                } else if v == 0.0 {
                    "0".into()
                } else {
                    format!("{v:.1e}")
                },
            )
        })
        .collect()
}
