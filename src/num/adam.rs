//! One step of Adam (Kingma & Ba 2014) on weights that lie in any number of arrays.

use super::Real;

/// The averages of Adam.
pub(crate) struct Adam<F> {
    mean: Vec<F>,
    square: Vec<F>,
    step: i32,
    betas: (f64, f64),
    eps: f64,
}

impl<F: Real> Adam<F> {
    /// For `n` weights, with the decay of both averages and what is added to the root of the second.
    pub(crate) fn new(n: usize, betas: (f64, f64), eps: f64) -> Self {
        Adam { mean: vec![F::zero(); n], square: vec![F::zero(); n], step: 0, betas, eps }
    }

    /// One step of size `lr` with the gradient times `scale`. The weights come in the order of the gradient.
    pub(crate) fn step<'a>(
        &mut self,
        weights: impl Iterator<Item = &'a mut F>,
        grad: impl Iterator<Item = &'a F>,
        lr: f64,
        scale: f64,
    ) {
        let (beta1, beta2) = self.betas;
        self.step += 1;
        let rate = F::of(lr / (1.0 - beta1.powi(self.step)));
        let root = F::of(1.0 / (1.0 - beta2.powi(self.step)).sqrt());
        let (b1, b2, eps, scale) = (F::of(beta1), F::of(beta2), F::of(self.eps), F::of(scale));
        let (rest1, rest2) = (F::of(1.0 - beta1), F::of(1.0 - beta2));
        for (((w, &g), m), v) in weights.zip(grad).zip(&mut self.mean).zip(&mut self.square) {
            let g = g * scale;
            *m = b1 * *m + rest1 * g;
            *v = b2 * *v + rest2 * g * g;
            *w -= rate * *m / (v.sqrt() * root + eps);
        }
    }
}

/// By how much a gradient is shortened so that it is no longer than `clip`.
pub(crate) fn clipped<F: Real>(grad: &[F], clip: f64) -> f64 {
    let norm = grad.iter().map(|g| g.wide() * g.wide()).sum::<f64>().sqrt();
    (clip / norm).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: with both averages corrected, the first step is as long as the rate, whatever the gradient; the second,
    /// after gradients 2 and -1, is `rate · (0.9 · 0.2 - 0.1) / 0.19 / √((0.999 · 0.004 + 0.001) / 0.001999)`.
    #[test]
    fn two_steps_are_those_of_the_definition() {
        let (mut w, mut adam) = ([1.0], Adam::new(1, (0.9, 0.999), 0.0));
        adam.step(w.iter_mut(), [2.0].iter(), 0.1, 1.0);
        assert!((w[0] - 0.9_f64).abs() < 1e-12);
        adam.step(w.iter_mut(), [-1.0].iter(), 0.1, 1.0);
        let second = 0.1 * (0.08 / 0.19) / (0.004_996_f64 / 0.001_999).sqrt();
        assert!((w[0] - (0.9 - second)).abs() < 1e-12, "{}", w[0]);
        assert_eq!(clipped(&[3.0, 4.0], 2.5), 0.5);
        assert_eq!(clipped(&[3.0, 4.0], 9.0), 1.0);
    }
}
