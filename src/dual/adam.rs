//! One step of Adam (Kingma & Ba 2014) on weights that lie in any number of arrays.

/// The averages of Adam.
pub(super) struct Adam {
    mean: Vec<f64>,
    square: Vec<f64>,
    step: i32,
    beta1: f64,
    beta2: f64,
}

impl Adam {
    pub(super) fn new(n: usize, beta1: f64, beta2: f64) -> Self {
        Adam { mean: vec![0.0; n], square: vec![0.0; n], step: 0, beta1, beta2 }
    }

    /// One step of size `lr` with the gradient shortened to length `clip`. The weights come in the order of the
    /// gradient.
    pub(super) fn step<'a>(
        &mut self,
        weights: impl Iterator<Item = &'a mut f64>,
        grad: &[f64],
        lr: f64,
        clip: f64,
    ) {
        let (b1, b2) = (self.beta1, self.beta2);
        self.step += 1;
        let norm = grad.iter().map(|g| g * g).sum::<f64>().sqrt();
        let scale = (clip / norm).min(1.0);
        let (rate, root) = (lr / (1.0 - b1.powi(self.step)), (1.0 - b2.powi(self.step)).sqrt());
        for (((w, g), m), v) in weights.zip(grad).zip(&mut self.mean).zip(&mut self.square) {
            let g = g * scale;
            *m = b1 * *m + (1.0 - b1) * g;
            *v = b2 * *v + (1.0 - b2) * g * g;
            *w -= rate * *m / (v.sqrt() / root + 1e-12);
        }
    }
}
