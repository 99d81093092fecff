//! A norm with its gain, bias and hooks: forward next to backward.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut1, Axis};

use super::Hook;
use super::taps::Taps;
use crate::nn::{Norm, gain_bias, gain_bias_backward_in, gain_bias_in};

/// What a norm did.
#[derive(Clone)]
pub(crate) struct NormTape {
    /// The rows normalised, before the gain. Empty without a norm, and without a tape.
    y: Array2<f32>,
    /// What the rows were multiplied by. Empty without a norm.
    rstd: Array1<f32>,
    /// The same before an intervention changed it.
    unchanged_rstd: Option<Array1<f32>>,
    /// What is read: after gain and bias.
    pub(crate) out: Array2<f32>,
}

/// The hooks of one norm.
#[derive(Clone, Copy)]
pub(crate) struct NormHooks {
    pub(crate) scale: Hook,
    pub(crate) normalized: Hook,
}

/// Normalises the rows of `x: [sequence · pos, d_model]`. The norm of the embedding has no hooks.
pub(crate) fn norm(
    (kind, eps): (Norm, f64),
    x: ArrayView2<f32>,
    gain: ArrayView1<f32>,
    bias: ArrayView1<f32>,
    hooks: Option<NormHooks>,
    taps: &mut Taps,
) -> NormTape {
    if kind == Norm::None {
        let (y, rstd) = (Array2::zeros((0, 0)), Array1::zeros(0));
        return NormTape { y, rstd, unchanged_rstd: None, out: x.to_owned() };
    }
    let (mut y, mut rstd) = kind.forward(x, eps);
    let mut unchanged_rstd = None;
    if let Some(NormHooks { scale: hook, .. }) = hooks
        && taps.wants(hook)
    {
        let mut scale = rstd.mapv(f32::recip);
        taps.forward(hook, &mut scale);
        if taps.changes(hook) {
            let changed = scale.mapv(f32::recip);
            y *= &(&changed / &rstd).insert_axis(Axis(1));
            unchanged_rstd = Some(std::mem::replace(&mut rstd, changed));
        }
    }
    let mut out;
    if taps.keeps_tape() {
        out = gain_bias(y.view(), gain, bias);
    } else {
        gain_bias_in(&mut y, gain, bias);
        out = std::mem::take(&mut y);
    }
    if let Some(hooks) = hooks {
        taps.forward(hooks.normalized, &mut out);
    }
    NormTape { y, rstd, unchanged_rstd, out }
}

/// `dx` from `dout`; adds to `dgain` and `dbias`.
pub(crate) fn norm_backward(
    kind: Norm,
    mut dout: Array2<f32>,
    tape: &NormTape,
    gain: ArrayView1<f32>,
    (dgain, dbias): (ArrayViewMut1<f32>, ArrayViewMut1<f32>),
    hooks: Option<NormHooks>,
    taps: &mut Taps,
) -> Array2<f32> {
    if kind == Norm::None {
        return dout;
    }
    if let Some(hooks) = hooks {
        taps.backward(hooks.normalized, &mut dout);
    }
    gain_bias_backward_in(&mut dout, tape.y.view(), gain, dgain, dbias);
    let mut dy = dout;
    // y = (x - mean) / scale, so that the gradient of the scale is -Σ dy y / scale.
    let mut dscale = None;
    if let Some(NormHooks { scale: hook, .. }) = hooks
        && taps.wants(hook)
    {
        let mut d = -(&dy * &tape.y).sum_axis(Axis(1)) * &tape.rstd;
        taps.backward(hook, &mut d);
        dscale = Some(d);
    }
    match (dscale, &tape.unchanged_rstd) {
        (Some(dscale), Some(unchanged)) => changed_scale_backward(kind, &dy, tape, &dscale, unchanged),
        (Some(_) | None, _) => {
            kind.backward_in(&mut dy, tape.y.view(), tape.rstd.view());
            dy
        }
    }
}

/// The gradient where an intervention changed the scale: once through the numerator, and through the root
/// `√(mean(c²) + eps)` of the centred rows `c` as far as the intervention lets it.
fn changed_scale_backward(
    kind: Norm,
    dy: &Array2<f32>,
    tape: &NormTape,
    dscale: &Array1<f32>,
    unchanged_rstd: &Array1<f32>,
) -> Array2<f32> {
    let n = dy.ncols() as f32;
    let mut dx = dy * &tape.rstd.view().insert_axis(Axis(1));
    for (i, mut dx) in dx.rows_mut().into_iter().enumerate() {
        // c / (n · root), with c = y / rstd.
        let through_root = dscale[i] * unchanged_rstd[i] / (n * tape.rstd[i]);
        dx.scaled_add(through_root, &tape.y.row(i));
        if kind.centres() {
            let mean = dx.sum() / n;
            dx -= mean;
        }
    }
    dx
}
