//! The MLP of a block with its hooks, or its experts: forward next to backward.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut1, Axis, s};

use super::architecture::Experts;
use super::network::Network;
use super::taps::Taps;
use super::{BlockParams, Hook};
use crate::nn::{Activation, linear_backward, linear_backward_to, softmax_backward, softmax_rows};
use crate::num::{Precision, add_matmul, matmul};

/// What an MLP did; rows are `sequence · pos`.
#[derive(Clone)]
pub(crate) enum MlpTape {
    /// One MLP for every row.
    One(Hidden),
    /// For each expert, what it did for the rows that chose it.
    Experts(Vec<Expert>),
}

/// The hidden layer of an MLP.
#[derive(Clone)]
pub(crate) struct Hidden {
    /// Empty without a tape.
    pre: Array2<f32>,
    /// What the gate multiplies, if there is one and there is a tape.
    pre_linear: Option<Array2<f32>>,
    post: Array2<f32>,
}

/// What an expert did.
#[derive(Clone)]
pub(crate) struct Expert {
    /// The rows that chose it.
    rows: Vec<usize>,
    /// How much of it each of them takes.
    weights: Array1<f32>,
    hidden: Hidden,
    /// What it gave, before the weights.
    out: Array2<f32>,
}

/// `x: [sequence · pos, d_model]` to what the MLP adds. Not for an architecture without MLP.
pub(crate) fn mlp(net: &Network, l: usize, x: ArrayView2<f32>, taps: &mut Taps) -> (MlpTape, Array2<f32>) {
    let (activation, gated) = activation(net);
    let p = net.block(l);
    if let Some(experts) = net.config.experts {
        return choose(&p, experts, activation, x, net.precision);
    }
    let mut hidden = p.w_in.apply(x, p.b_in.view(), net.precision);
    let (pre, pre_linear, mut post);
    if gated {
        let mut gate = p.w_gate.apply(x, p.b_gate.view(), net.precision);
        taps.forward(Hook::MlpPre(l), &mut gate);
        taps.forward(Hook::MlpPreLinear(l), &mut hidden);
        if taps.keeps_tape() {
            post = activation.gate(gate.view(), hidden.view());
            (pre, pre_linear) = (gate, Some(hidden));
        } else {
            activation.gate_in(&gate, &mut hidden);
            (pre, pre_linear, post) = (Array2::default((0, 0)), None, hidden);
        }
    } else {
        taps.forward(Hook::MlpPre(l), &mut hidden);
        if taps.keeps_tape() {
            post = activation.forward(hidden.view());
            (pre, pre_linear) = (hidden, None);
        } else {
            activation.forward_in(&mut hidden);
            (pre, pre_linear, post) = (Array2::default((0, 0)), None, hidden);
        }
    }
    taps.forward(Hook::MlpPost(l), &mut post);
    let out = p.w_out.apply(post.view(), p.b_out.view(), net.precision);
    (MlpTape::One(Hidden { pre, pre_linear, post }), out)
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
    let (activation, _) = activation(net);
    let p = net.block(l);
    let hidden = match tape {
        MlpTape::One(hidden) => hidden,
        MlpTape::Experts(experts) => return choose_backward(&p, experts, activation, dout, x, grad),
    };
    let post = hidden.post.view();
    let mut dpost = linear_backward(dout, post, p.w_out.view(), grad.w_out.view_mut(), grad.b_out.view_mut());
    taps.backward(Hook::MlpPost(l), &mut dpost);
    let Some(pre_linear) = &hidden.pre_linear else {
        let mut dpre = activation.backward(dpost, hidden.pre.view());
        taps.backward(Hook::MlpPre(l), &mut dpre);
        return linear_backward(dpre.view(), x, p.w_in.view(), grad.w_in.view_mut(), grad.b_in.view_mut());
    };
    let (mut dgate, mut dlinear) =
        activation.gate_backward(dpost.view(), hidden.pre.view(), pre_linear.view());
    taps.backward(Hook::MlpPre(l), &mut dgate);
    taps.backward(Hook::MlpPreLinear(l), &mut dlinear);
    let (dw_in, db_in) = (grad.w_in.view_mut(), grad.b_in.view_mut());
    let mut dx = linear_backward(dlinear.view(), x, p.w_in.view(), dw_in, db_in);
    let (dw_gate, db_gate) = (grad.w_gate.view_mut(), grad.b_gate.view_mut());
    linear_backward_to(&mut dx, dgate.view(), x, p.w_gate.view(), dw_gate, db_gate);
    dx
}

/// The nonlinearity, and whether it is a gate.
fn activation(net: &Network) -> (Activation, bool) {
    net.config.mlp.activation().expect("asked only where there is an MLP")
}

/// Row `t` of the result is `Σ_e w_te · mlp_e(x_t)` over the experts with the largest `x_t W_router`, `w_t` the softmax
/// of those.
fn choose(
    p: &BlockParams,
    experts: Experts,
    activation: Activation,
    x: ArrayView2<f32>,
    precision: Precision,
) -> (MlpTape, Array2<f32>) {
    // Exactly: a little more or less would choose another expert.
    let mut shares = p.w_router.apply(x, ArrayView1::from(&[]), Precision::F32);
    for mut row in shares.rows_mut() {
        let mut order: Vec<usize> = (0..experts.n).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        order[experts.n_chosen..].iter().for_each(|&not_chosen| row[not_chosen] = f32::NEG_INFINITY);
    }
    softmax_rows(&mut shares.view_mut());
    let (d, d_mlp) = (x.ncols(), p.w_out.dim().0 / experts.n);
    let (w_gate, w_in, w_out) = (p.w_gate.view(), p.w_in.view(), p.w_out.view());
    let mut all = Array2::zeros(x.dim());
    let mut tape = Vec::new();
    for (e, shares) in shares.columns().into_iter().enumerate() {
        let rows: Vec<usize> = (0..x.nrows()).filter(|&row| shares[row] > 0.0).collect();
        let weights = shares.select(Axis(0), &rows);
        let read = x.select(Axis(0), &rows);
        let pre = precision.matmul(read.view(), w_gate.slice(s![e * d..(e + 1) * d, ..]));
        let pre_linear = precision.matmul(read.view(), w_in.slice(s![e * d..(e + 1) * d, ..]));
        let post = activation.gate(pre.view(), pre_linear.view());
        let out = precision.matmul(post.view(), w_out.slice(s![e * d_mlp..(e + 1) * d_mlp, ..]));
        for ((&row, &weight), out) in rows.iter().zip(&weights).zip(out.rows()) {
            all.row_mut(row).scaled_add(weight, &out);
        }
        tape.push(Expert { rows, weights, hidden: Hidden { pre, pre_linear: Some(pre_linear), post }, out });
    }
    (MlpTape::Experts(tape), all)
}

/// `dx`; adds to `grad`. The choice itself has no gradient, the weights of the chosen ones do.
fn choose_backward(
    p: &BlockParams,
    tape: &[Expert],
    activation: Activation,
    dout: ArrayView2<f32>,
    x: ArrayView2<f32>,
    grad: &mut BlockParams,
) -> Array2<f32> {
    let (d, d_mlp) = (x.ncols(), p.w_out.dim().0 / tape.len());
    let (w_gate, w_in, w_out) = (p.w_gate.view(), p.w_in.view(), p.w_out.view());
    let mut dx = Array2::zeros(x.dim());
    let mut shares = Array2::zeros((x.nrows(), tape.len()));
    let mut dshares = Array2::zeros(shares.dim());
    for (e, expert) in tape.iter().enumerate() {
        let Hidden { pre, pre_linear, post } = &expert.hidden;
        let pre_linear = pre_linear.as_ref().expect("experts are gated");
        let read = x.select(Axis(0), &expert.rows);
        let mut dout = dout.select(Axis(0), &expert.rows);
        for (i, (&row, &weight)) in expert.rows.iter().zip(&expert.weights).enumerate() {
            shares[(row, e)] = weight;
            dshares[(row, e)] = dout.row(i).dot(&expert.out.row(i));
            dout.row_mut(i).mapv_inplace(|d| d * weight);
        }
        let (wide, narrow) = (s![e * d..(e + 1) * d, ..], s![e * d_mlp..(e + 1) * d_mlp, ..]);
        add_matmul(grad.w_out.slice_mut(narrow), 1.0, post.t(), dout.view());
        let dpost = matmul(dout.view(), w_out.slice(narrow).t());
        let (dgate, dlinear) = activation.gate_backward(dpost.view(), pre.view(), pre_linear.view());
        add_matmul(grad.w_gate.slice_mut(wide), 1.0, read.t(), dgate.view());
        add_matmul(grad.w_in.slice_mut(wide), 1.0, read.t(), dlinear.view());
        let mut dread = matmul(dgate.view(), w_gate.slice(wide).t());
        add_matmul(dread.view_mut(), 1.0, dlinear.view(), w_in.slice(wide).t());
        for (&row, dread) in expert.rows.iter().zip(dread.rows()) {
            dx.row_mut(row).scaled_add(1.0, &dread);
        }
    }
    softmax_backward(&mut dshares.view_mut(), shares.view(), 1.0);
    let (dw_router, none) = (grad.w_router.view_mut(), ArrayViewMut1::from(&mut []));
    linear_backward_to(&mut dx, dshares.view(), x, p.w_router.view(), dw_router, none);
    dx
}
