//! The gated linear unit with SiLU (Shazeer 2020).

use ndarray::{Array2, ArrayView2, Zip};

use crate::num::Real;

/// `silu(gate) ∘ linear`, with `silu(x) = x / (1 + e⁻ˣ)`, element by element; both `[pos, d_mlp]`.
///
/// ```
/// use onelens::{ndarray::array, nn::swiglu};
/// assert_eq!(swiglu(array![[0.0, 100.0]].view(), array![[5.0, 5.0]].view()), array![[0.0, 500.0]]);
/// ```
pub fn swiglu<F: Real>(gate: ArrayView2<F>, linear: ArrayView2<F>) -> Array2<F> {
    Zip::from(&gate).and(&linear).map_collect(|&gate, &linear| gate * sigmoid(gate) * linear)
}

/// `(dgate, dlinear)`, with `silu'(x) = σ + x σ (1 - σ)`.
pub fn swiglu_backward<F: Real>(
    dy: ArrayView2<F>,
    gate: ArrayView2<F>,
    linear: ArrayView2<F>,
) -> (Array2<F>, Array2<F>) {
    let dgate = Zip::from(&dy).and(&gate).and(&linear).map_collect(|&dy, &gate, &linear| {
        let s = sigmoid(gate);
        dy * linear * (s + gate * s * (F::one() - s))
    });
    let dlinear = Zip::from(&dy).and(&gate).map_collect(|&dy, &gate| dy * gate * sigmoid(gate));
    (dgate, dlinear)
}

fn sigmoid<F: Real>(x: F) -> F {
    F::one() / (F::one() + (-x).exp_real())
}
