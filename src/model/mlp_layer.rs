//! The MLP of a block with its hooks: forward next to backward.

use ndarray::{Array2, ArrayView2};

use super::architecture::Mlp;
use super::network::Network;
use super::taps::Taps;
use super::{BlockParams, Hook};
use crate::nn::{
    gelu, gelu_backward_in, gelu_exact, gelu_exact_backward, linear_backward, linear_backward_to, relu,
    relu_backward, swiglu, swiglu_backward,
};

/// What an MLP did; rows are `sequence · pos`.
#[derive(Clone)]
pub(crate) struct MlpTape {
    pre: Array2<f32>,
    /// What the gate multiplies; only with SwiGLU.
    pre_linear: Option<Array2<f32>>,
    post: Array2<f32>,
}

/// `x: [sequence · pos, d_model]` to what the MLP adds. Not for an architecture without MLP.
pub(crate) fn mlp(net: &Network, l: usize, x: ArrayView2<f32>, taps: &mut Taps) -> (MlpTape, Array2<f32>) {
    let p = net.block(l);
    let mut hidden = p.w_in.apply(x, p.b_in.view());
    let (pre, pre_linear, mut post);
    if net.config.mlp == Mlp::SwiGlu {
        let mut gate = p.w_gate.apply(x, ndarray::ArrayView1::from(&[]));
        taps.forward(Hook::MlpPre(l), &mut gate);
        taps.forward(Hook::MlpPreLinear(l), &mut hidden);
        post = swiglu(gate.view(), hidden.view());
        (pre, pre_linear) = (gate, Some(hidden));
    } else {
        taps.forward(Hook::MlpPre(l), &mut hidden);
        post = match net.config.mlp {
            Mlp::Gelu => gelu_exact(hidden.view()),
            Mlp::Relu => relu(hidden.view()),
            Mlp::GeluTanh | Mlp::SwiGlu | Mlp::None => gelu(hidden.view()),
        };
        (pre, pre_linear) = (hidden, None);
    }
    taps.forward(Hook::MlpPost(l), &mut post);
    let out = p.w_out.apply(post.view(), p.b_out.view());
    (MlpTape { pre, pre_linear, post }, out)
}

/// `dx` from the gradient `dout` of what was added; adds to `grad`.
pub(crate) fn mlp_backward(
    net: &Network,
    l: usize,
    dout: ArrayView2<f32>,
    x: ArrayView2<f32>,
    tape: &MlpTape,
    grad: &mut BlockParams,
    taps: &mut Taps,
) -> Array2<f32> {
    let p = net.block(l);
    let mut dpost =
        linear_backward(dout, tape.post.view(), p.w_out.view(), grad.w_out.view_mut(), grad.b_out.view_mut());
    taps.backward(Hook::MlpPost(l), &mut dpost);
    let (mut dpre, dlinear) = match (&tape.pre_linear, net.config.mlp) {
        (Some(pre_linear), _) => {
            let (dgate, dlinear) = swiglu_backward(dpost.view(), tape.pre.view(), pre_linear.view());
            (dgate, Some(dlinear))
        }
        (None, Mlp::Gelu) => (gelu_exact_backward(dpost.view(), tape.pre.view()), None),
        (None, Mlp::Relu) => (relu_backward(dpost.view(), tape.pre.view()), None),
        (None, _) => {
            gelu_backward_in(&mut dpost, tape.pre.view());
            (dpost, None)
        }
    };
    taps.backward(Hook::MlpPre(l), &mut dpre);
    let Some(mut dlinear) = dlinear else {
        return linear_backward(dpre.view(), x, p.w_in.view(), grad.w_in.view_mut(), grad.b_in.view_mut());
    };
    taps.backward(Hook::MlpPreLinear(l), &mut dlinear);
    let mut dx =
        linear_backward(dlinear.view(), x, p.w_in.view(), grad.w_in.view_mut(), grad.b_in.view_mut());
    let no_bias = ndarray::ArrayViewMut1::from(&mut []);
    linear_backward_to(&mut dx, dpre.view(), x, p.w_gate.view(), grad.w_gate.view_mut(), no_bias);
    dx
}
