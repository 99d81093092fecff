//! One sequence through the layers, forward and backward. Arrays are `[pos, d_model]`; patterns `[query, pair]`.

use ndarray::{Array2, ArrayView2, Axis, Zip, s};

use super::{Kernel, PredictiveConfig, PredictiveLayer, PredictiveParams};
use crate::model::Mask;
use crate::num::log_softmax_rows;

/// Everything the layers computed for one sequence.
pub(super) struct Pass {
    pub(super) e: Array2<f64>,
    /// Before the first layer and after each.
    pub(super) predictions: Vec<Array2<f64>>,
    /// `κ` of each layer, zero where the mask hides.
    pub(super) patterns: Vec<Array2<f64>>,
}

impl Pass {
    pub(super) fn run(c: &PredictiveConfig, params: &PredictiveParams, e: Array2<f64>, mask: Mask) -> Self {
        let mut predictions = vec![e.dot(&params.w_0.t())];
        let mut patterns = Vec::with_capacity(c.n_layers);
        for l in 0..c.n_layers {
            let layer = layer(params, l);
            let pattern = pattern(c, layer, e.view(), mask);
            let p = &predictions[l];
            predictions.push(p + &(pattern.dot(&errors(e.view(), p.view())) * layer.lr));
            patterns.push(pattern);
        }
        Pass { e, predictions, patterns }
    }

    /// `ε_j = e_{j+1} - p_j` of the predictions after `l` layers.
    pub(super) fn errors(&self, l: usize) -> Array2<f64> {
        errors(self.e.view(), self.predictions[l].view())
    }
}

fn layer(params: &PredictiveParams, l: usize) -> &PredictiveLayer {
    &params.layers[l % params.layers.len()]
}

fn errors(e: ArrayView2<f64>, p: ArrayView2<f64>) -> Array2<f64> {
    &e.slice(s![1.., ..]) - &p.slice(s![..-1, ..])
}

fn scale(c: &PredictiveConfig) -> f64 {
    match c.kernel {
        Kernel::Linear => 1.0,
        Kernel::Softmax => 1.0 / (c.d_key as f64).sqrt(),
    }
}

/// How many pairs position `i` sees: pair `j` is known to who sees token `j + 1`.
fn n_pairs(mask: Mask, i: usize, n_pos: usize) -> usize {
    mask.n_visible(i, n_pos) - 1
}

fn pattern(c: &PredictiveConfig, layer: &PredictiveLayer, e: ArrayView2<f64>, mask: Mask) -> Array2<f64> {
    let q = e.dot(&layer.w_q.t());
    let k = e.slice(s![..-1, ..]).dot(&layer.w_k.t());
    let mut pattern = q.dot(&k.t()) * scale(c);
    for (i, mut row) in pattern.rows_mut().into_iter().enumerate() {
        let seen = n_pairs(mask, i, e.nrows());
        row.slice_mut(s![seen..]).fill(0.0);
        let mut row = row.slice_mut(s![..seen]);
        if c.kernel == Kernel::Softmax {
            let max = row.fold(f64::NEG_INFINITY, |m, &x| m.max(x));
            row.mapv_inplace(|x| (x - max).exp());
            let sum = row.sum();
            row.mapv_inplace(|x| x / sum);
        }
    }
    pattern
}

/// Summed cross-entropy of a sequence's next tokens under a causal mask; adds its gradient times `weight` to `grad`.
pub(super) fn loss_and_grad(
    c: &PredictiveConfig,
    params: &PredictiveParams,
    tokens: &[u32],
    weight: f64,
    grad: &mut PredictiveParams,
) -> f64 {
    let ids: Vec<usize> = tokens.iter().map(|&t| t as usize).collect();
    let n_pos = ids.len() - 1;
    let e = params.w_e.select(Axis(0), &ids[..n_pos]);
    let pass = Pass::run(c, params, e, Mask::Causal);
    let last = &pass.predictions[c.n_layers];
    let u = params.unembedding();
    let log_p = log_softmax_rows((last.dot(&u.t()) + &params.b_u).view());
    let mut dlogits = log_p.mapv(f64::exp);
    let mut loss = 0.0;
    for t in 0..n_pos {
        loss -= log_p[(t, ids[t + 1])];
        dlogits[(t, ids[t + 1])] -= 1.0;
    }
    dlogits *= weight;

    grad.b_u += &dlogits.sum_axis(Axis(0));
    let du = dlogits.t().dot(last);
    if c.tied {
        grad.w_e += &du;
    } else {
        grad.w_u += &du;
    }
    let mut dp = dlogits.dot(u);
    let mut de = Array2::zeros(pass.e.raw_dim());
    for l in (0..c.n_layers).rev() {
        let at = l % grad.layers.len();
        correction_backward(c, layer(params, l), &pass, l, &mut dp, &mut de, &mut grad.layers[at]);
    }
    grad.w_0 += &dp.t().dot(&pass.e);
    de += &dp.dot(&params.w_0);
    for (row, &id) in de.rows().into_iter().zip(&ids) {
        let mut into = grad.w_e.row_mut(id);
        into += &row;
    }
    loss
}

/// Backward through layer `l`: `dp` is the gradient of the predictions after it, and becomes that of those before it.
fn correction_backward(
    c: &PredictiveConfig,
    layer: &PredictiveLayer,
    pass: &Pass,
    l: usize,
    dp: &mut Array2<f64>,
    de: &mut Array2<f64>,
    grad: &mut PredictiveLayer,
) {
    let (pattern, e) = (&pass.patterns[l], &pass.e);
    let errors = pass.errors(l);
    grad.lr += (&pattern.dot(&errors) * &*dp).sum();
    let mut dscores = dp.dot(&errors.t()) * layer.lr;
    let derrors = pattern.t().dot(dp) * layer.lr;
    match c.kernel {
        // The softmax's derivative; hidden pairs have a pattern of zero.
        Kernel::Softmax => {
            for (mut d, a) in dscores.rows_mut().into_iter().zip(pattern.rows()) {
                let mean = d.dot(&a);
                Zip::from(&mut d).and(a).for_each(|d, &a| *d = a * (*d - mean));
            }
        }
        Kernel::Linear => {
            let n_pos = e.nrows();
            for (i, mut d) in dscores.rows_mut().into_iter().enumerate() {
                d.slice_mut(s![n_pairs(Mask::Causal, i, n_pos)..]).fill(0.0);
            }
        }
    }
    dscores *= scale(c);
    let sources = e.slice(s![..-1, ..]);
    let dq = dscores.dot(&sources.dot(&layer.w_k.t()));
    let dk = dscores.t().dot(&e.dot(&layer.w_q.t()));
    grad.w_q += &dq.t().dot(e);
    grad.w_k += &dk.t().dot(&sources);
    *de += &dq.dot(&layer.w_q);
    let mut rows = de.slice_mut(s![..-1, ..]);
    rows += &dk.dot(&layer.w_k);
    let mut rows = de.slice_mut(s![1.., ..]);
    rows += &derrors;
    let mut rows = dp.slice_mut(s![..-1, ..]);
    rows -= &derrors;
}

#[cfg(test)]
mod tests {
    use super::super::PredictiveCoding;
    use super::*;
    use ndarray::array;

    /// Central differences on every weight, for both kernels, tied or free, looped or not.
    #[test]
    fn gradient_is_the_slope_of_the_loss() {
        let tokens = array![[0, 1, 2, 0, 3, 1, 2], [3, 3, 1, 0, 3, 2, 1]];
        for kernel in [Kernel::Linear, Kernel::Softmax] {
            for (tied, looped) in [(true, false), (false, true)] {
                let config = PredictiveConfig {
                    d_vocab: 4,
                    n_ctx: 6,
                    d_model: 3,
                    d_key: 2,
                    n_layers: 3,
                    kernel,
                    tied,
                    looped,
                    seed: 1,
                };
                let mut net = PredictiveCoding::new(config).unwrap();
                net.params.b_u = array![0.1, -0.2, 0.3, 0.0];
                net.params.layers.iter_mut().for_each(|l| l.lr = 0.4);
                let (loss, grad) = net.loss_and_grad(&tokens).unwrap();
                assert!((loss - net.loss(&tokens).unwrap()).abs() < 1e-14);
                for (t, slopes) in grad.slices().iter().enumerate() {
                    for (i, analytic) in slopes.iter().enumerate() {
                        let mut at = |by: f64| {
                            net.params.slices_mut()[t][i] += by;
                            let loss = net.loss(&tokens).unwrap();
                            net.params.slices_mut()[t][i] -= by;
                            loss
                        };
                        let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                        assert!(
                            (slope - analytic).abs() < 1e-8,
                            "{kernel:?}, tied {tied}, looped {looped}, tensor {t}, {i}: {slope} {analytic}"
                        );
                    }
                }
            }
        }
    }
}
