//! The two float widths, and the elementary functions the network spends its time in.

use ndarray::NdFloat;

/// `f32`, in which networks run, or `f64`, in which their derivatives are checked.
pub trait Real: NdFloat + std::iter::Sum {
    /// `eˣ`. For `f32` a form without branches that the compiler turns into vector instructions.
    ///
    /// ```
    /// use onelens::num::Real;
    /// assert_eq!(0_f32.exp_real(), 1.0);
    /// assert!((1_f32.exp_real() - std::f32::consts::E).abs() < 3e-7);
    /// ```
    fn exp_real(self) -> Self;

    /// `tanh x = 1 - 2 / (e²ˣ + 1)`, as fast as [`exp_real`](Real::exp_real).
    #[inline(always)]
    fn tanh_real(self) -> Self {
        let two = Self::one() + Self::one();
        Self::one() - two / ((two * self).exp_real() + Self::one())
    }

    /// The error function, `erf x = 2/√π ∫₀ˣ e^(-t²) dt`, within one unit in the last place.
    ///
    /// ```
    /// use onelens::num::Real;
    /// assert!((1_f64.erf_real() - 0.842_700_792_949_714_9).abs() < 1e-15);
    /// ```
    fn erf_real(self) -> Self;

    /// The number as this width, rounded.
    fn of(x: f64) -> Self;

    /// The number in `f64`, exactly.
    fn wide(self) -> f64;
}

impl Real for f32 {
    /// Range reduction `x = n ln 2 + r`, `|r| ≤ ½ ln 2`, then a polynomial for `eʳ` (Cody & Waite 1980; the
    /// coefficients are the minimax ones of the Cephes library's `expf`), within 2 units in the last place.
    #[inline(always)]
    fn exp_real(self) -> f32 {
        // Adding 1.5 · 2²³ rounds to an integer and leaves that integer in the low bits.
        const ROUND: f32 = 12_582_912.0;
        let x = self.clamp(-87.3, 88.7);
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
        let mut p = 1.987_569_2e-4_f32;
        for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = p * r + c;
        }
        let e_r = p * r * r + r + 1.0;
        // 2ⁿ in two halves, so that n = 128 does not overflow the exponent before the product does.
        let n = shifted.to_bits() as i32 - ROUND.to_bits() as i32;
        let half = n >> 1;
        let power = |k: i32| f32::from_bits(((k + 127) << 23) as u32);
        let y = e_r * power(half) * power(n - half);
        if self < -87.3 {
            0.0
        } else if self > 88.7 {
            f32::INFINITY
        } else {
            y
        }
    }

    fn erf_real(self) -> f32 {
        libm::erff(self)
    }

    #[inline(always)]
    fn of(x: f64) -> f32 {
        x as f32
    }

    #[inline(always)]
    fn wide(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    fn exp_real(self) -> f64 {
        self.exp()
    }

    fn erf_real(self) -> f64 {
        libm::erf(self)
    }

    fn of(x: f64) -> f64 {
        x
    }

    #[inline(always)]
    fn wide(self) -> f64 {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_within_two_units_in_the_last_place_of_the_double() {
        let mut x = -87.0_f32;
        while x < 88.6 {
            let exact = (x as f64).exp();
            let unit = (exact as f32).to_bits();
            let unit = (f32::from_bits(unit + 1) - f32::from_bits(unit)) as f64;
            let error = (x.exp_real() as f64 - exact).abs() / unit;
            assert!(error <= 2.0, "exp({x}) is {error} units off");
            x += 0.0137;
        }
    }

    #[test]
    fn exponential_at_the_edges() {
        assert_eq!(f32::NEG_INFINITY.exp_real(), 0.0);
        assert_eq!(f32::INFINITY.exp_real(), f32::INFINITY);
        assert!(f32::NAN.exp_real().is_nan());
        assert_eq!((-200.0_f32).exp_real(), 0.0);
    }

    #[test]
    fn tanh_is_close_to_the_library_one() {
        for i in -400..400 {
            let x = i as f32 * 0.05;
            assert!((x.tanh_real() - x.tanh()).abs() < 3e-7, "tanh({x})");
        }
    }
}
