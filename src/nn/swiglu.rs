//! The gated linear unit with SiLU (Shazeer 2020).

use ndarray::{Array2, ArrayView2};

use crate::num::{Real, push_all, wide_fn};

/// Computes `silu(gate) ∘ linear`, with `silu(x) = x / (1 + e⁻ˣ)`, element by element; both `[pos, d_mlp]`.
///
/// ```
/// use onelens::{ndarray::array, nn::swiglu};
/// assert_eq!(swiglu(array![[0.0, 100.0]].view(), array![[5.0, 5.0]].view()), array![[0.0, 500.0]]);
/// ```
pub fn swiglu<F: Real>(gate: ArrayView2<F>, linear: ArrayView2<F>) -> Array2<F> {
    let mut y = Vec::with_capacity(gate.len());
    let (gate, linear) = (gate.as_standard_layout(), linear.as_standard_layout());
    apply(&mut y, gate.as_slice().expect("contiguous"), linear.as_slice().expect("contiguous"));
    Array2::from_shape_vec(gate.dim(), y).expect("as many numbers as there are gates")
}

wide_fn! {
    fn apply<'a, F>(y: &'a mut Vec<F>, gate: &'a [F], linear: &'a [F]) {
        push_all(y, gate, linear, |gate, linear| gate * sigmoid(gate) * linear);
    }
}

wide_fn! {
    /// [`swiglu`] in place of `linear`, which has as many numbers as there are gates.
    pub(crate) fn swiglu_in<'a, F>(gate: &'a [F], linear: &'a mut [F]) {
        let gate = &gate[..linear.len()];
        for i in 0..linear.len() {
            linear[i] = gate[i] * sigmoid(gate[i]) * linear[i];
        }
    }
}

/// Computes `(dgate, dlinear)`, with `silu'(x) = σ + x σ (1 - σ)`.
pub fn swiglu_backward<F: Real>(
    dy: ArrayView2<F>,
    gate: ArrayView2<F>,
    linear: ArrayView2<F>,
) -> (Array2<F>, Array2<F>) {
    let mut dgate = dy.as_standard_layout().into_owned();
    let mut dlinear = dgate.clone();
    let (gate, linear) = (gate.as_standard_layout(), linear.as_standard_layout());
    apply_backward(
        dgate.as_slice_mut().expect("contiguous"),
        dlinear.as_slice_mut().expect("contiguous"),
        gate.as_slice().expect("contiguous"),
        linear.as_slice().expect("contiguous"),
    );
    (dgate, dlinear)
}

wide_fn! {
    fn apply_backward<'a, F>(dgate: &'a mut [F], dlinear: &'a mut [F], gate: &'a [F], linear: &'a [F]) {
        for ((dgate, dlinear), (&gate, &linear)) in dgate.iter_mut().zip(dlinear).zip(gate.iter().zip(linear)) {
            let s = sigmoid(gate);
            *dgate *= linear * (s + gate * s * (F::one() - s));
            *dlinear *= gate * s;
        }
    }
}

#[inline(always)]
fn sigmoid<F: Real>(x: F) -> F {
    F::one() / (F::one() + (-x).exp_real())
}
