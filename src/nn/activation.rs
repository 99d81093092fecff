//! The nonlinearities of an MLP, alone and as gates: forward next to backward.

use ndarray::{Array2, ArrayView2};
use serde::{Deserialize, Serialize};

use super::{
    gelu, gelu_backward_in, gelu_exact, gelu_exact_backward, relu, relu_backward, swiglu, swiglu_backward,
    swiglu_in,
};
use crate::num::Real;

/// Numbers that are worked on in place at a time: what comes of them stays in the first cache until it is copied.
const AT_A_TIME: usize = 1 << 12;

/// A nonlinearity, applied element by element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// GELU in its tanh form.
    GeluTanh,
    /// Exact GELU, `x Φ(x)`.
    Gelu,
    /// `max(x, 0)`.
    Relu,
    /// `x / (1 + e⁻ˣ)` (Elfwing et al. 2018).
    Silu,
}

impl Activation {
    /// Computes `f(x)`.
    ///
    /// ```
    /// use onelens::{ndarray::array, nn::Activation};
    /// assert_eq!(Activation::Relu.forward(array![[-1.0, 2.0]].view()), array![[0.0, 2.0]]);
    /// assert_eq!(Activation::Silu.forward(array![[0.0, 100.0]].view()), array![[0.0, 100.0]]);
    /// ```
    pub fn forward<F: Real>(self, x: ArrayView2<F>) -> Array2<F> {
        match self {
            Activation::GeluTanh => gelu(x),
            Activation::Gelu => gelu_exact(x),
            Activation::Relu => relu(x),
            Activation::Silu => swiglu(x, Array2::ones(x.dim()).view()),
        }
    }

    /// [`forward`](Activation::forward) in place.
    pub(crate) fn forward_in<F: Real>(self, x: &mut Array2<F>) {
        for x in x.as_slice_mut().expect("contiguous").chunks_mut(AT_A_TIME) {
            let y = self.forward(one_row(x));
            x.copy_from_slice(y.as_slice().expect("contiguous"));
        }
    }

    /// [`gate`](Activation::gate) in place of `linear`.
    pub(crate) fn gate_in<F: Real>(self, gate: &Array2<F>, linear: &mut Array2<F>) {
        let gate = gate.as_slice().expect("contiguous").chunks(AT_A_TIME);
        for (gate, linear) in gate.zip(linear.as_slice_mut().expect("contiguous").chunks_mut(AT_A_TIME)) {
            match self {
                Activation::Silu => swiglu_in(gate, linear),
                Activation::GeluTanh | Activation::Gelu | Activation::Relu => {
                    let y = self.gate(one_row(gate), one_row(linear));
                    linear.copy_from_slice(y.as_slice().expect("contiguous"));
                }
            }
        }
    }

    /// Computes `dx = dy f'(x)`.
    pub fn backward<F: Real>(self, mut dy: Array2<F>, x: ArrayView2<F>) -> Array2<F> {
        match self {
            Activation::GeluTanh => {
                gelu_backward_in(&mut dy, x);
                dy
            }
            Activation::Gelu => gelu_exact_backward(dy.view(), x),
            Activation::Relu => relu_backward(dy.view(), x),
            Activation::Silu => swiglu_backward(dy.view(), x, Array2::ones(x.dim()).view()).0,
        }
    }

    /// Computes `f(gate) ∘ linear` (Shazeer 2020).
    ///
    /// ```
    /// use onelens::{ndarray::array, nn::Activation};
    /// let y = Activation::Relu.gate(array![[-1.0, 2.0]].view(), array![[5.0, 5.0]].view());
    /// assert_eq!(y, array![[0.0, 10.0]]);
    /// ```
    pub fn gate<F: Real>(self, gate: ArrayView2<F>, linear: ArrayView2<F>) -> Array2<F> {
        match self {
            Activation::Silu => swiglu(gate, linear),
            Activation::GeluTanh | Activation::Gelu | Activation::Relu => self.forward(gate) * linear,
        }
    }

    /// Computes `(dgate, dlinear)`.
    pub fn gate_backward<F: Real>(
        self,
        dy: ArrayView2<F>,
        gate: ArrayView2<F>,
        linear: ArrayView2<F>,
    ) -> (Array2<F>, Array2<F>) {
        match self {
            Activation::Silu => swiglu_backward(dy, gate, linear),
            Activation::GeluTanh | Activation::Gelu | Activation::Relu => {
                let dlinear = self.forward(gate) * dy;
                (self.backward(&dy * &linear, gate), dlinear)
            }
        }
    }
}

/// Numbers as one row.
fn one_row<F>(x: &[F]) -> ArrayView2<'_, F> {
    ArrayView2::from_shape((1, x.len()), x).expect("a row of all of them")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_place_the_numbers_are_the_same() {
        let x = Array2::from_shape_fn((3, AT_A_TIME), |(i, j)| (i as f64 - 1.0) * 0.01 * j as f64);
        let gates = &x * 0.3 - 1.0;
        for activation in [Activation::GeluTanh, Activation::Gelu, Activation::Relu, Activation::Silu] {
            let (mut alone, mut gated) = (x.clone(), x.clone());
            activation.forward_in(&mut alone);
            activation.gate_in(&gates, &mut gated);
            assert_eq!(alone, activation.forward(x.view()));
            assert_eq!(gated, activation.gate(gates.view(), x.view()));
        }
    }
}
