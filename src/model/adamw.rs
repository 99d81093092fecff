//! One step of AdamW (Loshchilov & Hutter 2019).

use super::{Params, Training};

/// The length of a gradient.
pub(crate) fn norm(grad: &Params) -> f64 {
    let square = |s: &[f32]| s.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
    grad.slices().into_iter().map(square).sum::<f64>().sqrt()
}

/// The averages of AdamW.
#[derive(Clone)]
pub(crate) struct AdamW {
    /// Decaying mean of the gradient.
    pub(crate) mean: Params,
    /// Decaying mean of its square.
    pub(crate) square: Params,
    /// Steps taken.
    pub(crate) step: i32,
}

impl AdamW {
    /// One step with the gradient scaled by `scale`.
    pub(crate) fn update(&mut self, params: &mut Params, grad: &Params, how: &Training, lr: f64, scale: f64) {
        self.step += 1;
        let correct1 = 1.0 - how.beta1.powi(self.step);
        let correct2 = 1.0 - how.beta2.powi(self.step);
        let rate = (lr / correct1) as f32;
        let root = (1.0 / correct2.sqrt()) as f32;
        let (b1, b2, scale) = (how.beta1 as f32, how.beta2 as f32, scale as f32);
        let decays: Vec<bool> = params.tensors().iter().map(|(_, t)| t.ndim() > 1).collect();
        let state = self.mean.slices_mut().into_iter().zip(self.square.slices_mut());
        for (((p, g), (m, v)), decays) in
            params.slices_mut().into_iter().zip(grad.slices()).zip(state).zip(decays)
        {
            let keep = if decays { (1.0 - lr * how.weight_decay) as f32 } else { 1.0 };
            for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                let g = g * scale;
                *m = b1 * *m + (1.0 - b1) * g;
                *v = b2 * *v + (1.0 - b2) * g * g;
                *p = keep * *p - rate * *m / (v.sqrt() * root + 1e-8);
            }
        }
    }
}
