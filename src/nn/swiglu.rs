//! The gated linear unit with SiLU (Shazeer 2020).

use ndarray::{Array2, ArrayView2};

use crate::num::{Real, wide};

/// `silu(gate) ∘ linear`, with `silu(x) = x / (1 + e⁻ˣ)`, element by element; both `[pos, d_mlp]`.
///
/// ```
/// use onelens::{ndarray::array, nn::swiglu};
/// assert_eq!(swiglu(array![[0.0, 100.0]].view(), array![[5.0, 5.0]].view()), array![[0.0, 500.0]]);
/// ```
pub fn swiglu<F: Real>(gate: ArrayView2<F>, linear: ArrayView2<F>) -> Array2<F> {
    let mut y = gate.as_standard_layout().into_owned();
    let linear = linear.as_standard_layout();
    let (elements, linear) = (y.as_slice_mut().expect("contiguous"), linear.as_slice().expect("contiguous"));
    wide(|| {
        for (y, &linear) in elements.iter_mut().zip(linear) {
            *y = *y * sigmoid(*y) * linear;
        }
    });
    y
}

/// `(dgate, dlinear)`, with `silu'(x) = σ + x σ (1 - σ)`.
pub fn swiglu_backward<F: Real>(
    dy: ArrayView2<F>,
    gate: ArrayView2<F>,
    linear: ArrayView2<F>,
) -> (Array2<F>, Array2<F>) {
    let mut dgate = dy.as_standard_layout().into_owned();
    let mut dlinear = dgate.clone();
    let (gate, linear) = (gate.as_standard_layout(), linear.as_standard_layout());
    let inputs = gate.as_slice().expect("contiguous").iter().zip(linear.as_slice().expect("contiguous"));
    let gradients = dgate.as_slice_mut().expect("contiguous").iter_mut();
    let gradients = gradients.zip(dlinear.as_slice_mut().expect("contiguous"));
    wide(|| {
        for ((dgate, dlinear), (&gate, &linear)) in gradients.zip(inputs) {
            let s = sigmoid(gate);
            *dgate *= linear * (s + gate * s * (F::one() - s));
            *dlinear *= gate * s;
        }
    });
    (dgate, dlinear)
}

#[inline(always)]
fn sigmoid<F: Real>(x: F) -> F {
    F::one() / (F::one() + (-x).exp_real())
}
