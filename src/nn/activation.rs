//! The nonlinearities of an MLP, alone and as gates: forward next to backward.

use ndarray::{Array2, ArrayView2};
use serde::{Deserialize, Serialize};

use super::{
    gelu, gelu_backward_in, gelu_exact, gelu_exact_backward, relu, relu_backward, swiglu, swiglu_backward,
};
use crate::num::Real;

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
