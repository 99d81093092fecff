//! The Gaussian error linear unit with the normal distribution itself (Hendrycks & Gimpel 2016), as in GPT-NeoX.

use ndarray::{Array2, ArrayView2, Zip};

use crate::num::Real;

/// Computes `x Φ(x) = ½ x (1 + erf(x / √2))`, element by element.
///
/// ```
/// use onelens::{ndarray::array, nn::gelu_exact};
/// let y = gelu_exact(array![[0.0, 1.0, -100.0]].view());
/// // Φ(1) = 0.8413447460685429
/// assert!((y - array![[0.0, 0.8413447460685429, 0.0]]).iter().all(|e: &f64| e.abs() < 1e-15));
/// ```
pub fn gelu_exact<F: Real>(x: ArrayView2<F>) -> Array2<F> {
    x.mapv(|x| x * normal_cdf(x))
}

/// Computes `dx = dy (Φ(x) + x φ(x))`, with the normal density `φ(x) = e^(-x²/2) / √(2π)`.
pub fn gelu_exact_backward<F: Real>(dy: ArrayView2<F>, x: ArrayView2<F>) -> Array2<F> {
    let peak = F::of((2.0 * std::f64::consts::PI).sqrt().recip());
    let half = F::of(0.5);
    Zip::from(&dy).and(&x).map_collect(|&dy, &x| dy * (normal_cdf(x) + x * peak * (-half * x * x).exp_real()))
}

fn normal_cdf<F: Real>(x: F) -> F {
    F::of(0.5) * (F::one() + (x * F::of(std::f64::consts::FRAC_1_SQRT_2)).erf_real())
}
