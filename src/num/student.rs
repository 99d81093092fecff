//! Student's t distribution.

/// `P(T ≤ t)` with `nu` degrees of freedom, by the incomplete beta function.
pub(crate) fn student_cdf(t: f64, nu: f64) -> f64 {
    let tail = 0.5 * incomplete_beta(0.5 * nu, 0.5, nu / (nu + t * t));
    if t > 0.0 { 1.0 - tail } else { tail }
}

/// What a share `p`, more than a half, of the distribution lies below; NaN without degrees of freedom.
pub(crate) fn student_quantile(p: f64, nu: f64) -> f64 {
    if nu <= 0.0 {
        return f64::NAN;
    }
    let (mut low, mut high) = (0.0, 1e4);
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if student_cdf(middle, nu) < p { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// The regularised incomplete beta function `I_x(a, b)` by its continued fraction (DLMF 8.17.22).
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    // The fraction converges fast below the mean; above it the other tail does.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(b, a, 1.0 - x);
    }
    let front =
        (libm::lgamma(a + b) - libm::lgamma(a) - libm::lgamma(b) + a * x.ln() + b * (1.0 - x).ln()).exp() / a;
    let mut fraction = 1.0;
    for m in (1..=200).rev() {
        let (k, m) = (f64::from(m), f64::from(m / 2));
        let d = if k as i64 % 2 == 0 {
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
        } else {
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
        };
        fraction = 1.0 + d / fraction;
    }
    front / fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_tables() {
        // NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2.
        for (nu, want) in [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (15, 2.131), (100, 1.984)] {
            let got = student_quantile(0.975, f64::from(nu));
            assert!((got - want).abs() < 6e-4, "{nu}: {got} for {want}");
        }
        assert!(student_quantile(0.975, 0.0).is_nan());
    }
}
