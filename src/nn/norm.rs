//! The kinds of normalisation: forward next to backward.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2};
use serde::{Deserialize, Serialize};

use super::{layer_norm, layer_norm_backward_in, rms_norm, rms_norm_backward_in};
use crate::num::Real;

/// How rows are normalised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Norm {
    /// Layer normalisation (Ba et al. 2016), as in GPT-2 and GPT-NeoX.
    #[default]
    Layer,
    /// Root mean square normalisation (Zhang & Sennrich 2019), as in Llama: no centring, no bias.
    Rms,
    /// None.
    None,
}

impl Norm {
    /// Normalises `x: [pos, d]`, and also returns what its rows (centred, if the norm centres) were multiplied by,
    /// `[pos]`. Without a norm, `x` and ones.
    ///
    /// ```
    /// use onelens::{ndarray::array, nn::Norm};
    /// let (y, rstd) = Norm::Rms.forward(array![[2.0, 14.0]].view(), 0.0); // the mean of 4 and 196 is 10²
    /// assert_eq!((y, rstd), (array![[0.2, 1.4000000000000001]], array![0.1]));
    /// ```
    pub fn forward<F: Real>(self, x: ArrayView2<F>, eps: f64) -> (Array2<F>, Array1<F>) {
        match self {
            Norm::Layer => layer_norm(x, eps),
            Norm::Rms => rms_norm(x, eps),
            Norm::None => (x.to_owned(), Array1::ones(x.nrows())),
        }
    }

    /// Turns `dy` into `dx` in its place, with `y` and `rstd` of the forward pass.
    pub fn backward_in<F: Real>(self, dy: &mut Array2<F>, y: ArrayView2<F>, rstd: ArrayView1<F>) {
        match self {
            Norm::Layer => layer_norm_backward_in(dy, y, rstd),
            Norm::Rms => rms_norm_backward_in(dy, y, rstd),
            Norm::None => {}
        }
    }

    /// Tells whether it subtracts the mean, and may then have a bias.
    pub fn centres(self) -> bool {
        match self {
            Norm::Layer => true,
            Norm::Rms | Norm::None => false,
        }
    }
}
