//! From the products of queries and keys to what the softmax is of.

use std::ops::Range;

use super::Mask;
use crate::num::Real;

/// How one head of softmax attention scores the keys that a query sees: `cap(scale · q k) + slope · (key - query)`,
/// with `cap(x) = c tanh(x / c)` where there is a cap `c`.
///
/// ```
/// use onelens::nn::{Mask, Scoring};
/// let scoring = Scoring { window: Some(2), ..Scoring::of_head(Mask::Causal, 4) };
/// assert_eq!(scoring.scale, 0.5);
/// assert_eq!(scoring.seen(3, 5), 2..4); // itself and the one before
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scoring {
    /// Which keys a query may see.
    pub mask: Mask,
    /// How many keys a query sees at most, itself included: those nearest before it. `None`: all that the mask lets it
    /// see.
    pub window: Option<usize>,
    /// What products are multiplied by.
    pub scale: f64,
    /// No score is larger than this (Gemma 2).
    pub soft_cap: Option<f64>,
    /// What each step back in position costs (ALiBi, Press et al. 2022).
    pub slope: f64,
}

impl Scoring {
    /// Makes the scoring `softmax(q kᵀ / √d_head)`.
    pub fn of_head(mask: Mask, d_head: usize) -> Self {
        Scoring { mask, window: None, scale: 1.0 / (d_head as f64).sqrt(), soft_cap: None, slope: 0.0 }
    }

    /// Returns the keys that the query at position `query` sees among `n_pos`.
    #[inline]
    pub fn seen(&self, query: usize, n_pos: usize) -> Range<usize> {
        let end = self.mask.n_visible(query, n_pos);
        let start = self.window.map_or(0, |n| (query + 1).saturating_sub(n));
        start.min(end)..end
    }

    /// Whether scores are anything but scaled products of the first keys.
    #[inline]
    pub(crate) fn is_special(&self) -> bool {
        self.window.is_some() || self.soft_cap.is_some() || self.slope != 0.0
    }

    /// Computes the score of a query for a key, from their product.
    #[inline]
    pub fn score<F: Real>(&self, product: F, query: usize, key: usize) -> F {
        let mut x = product * F::of(self.scale);
        if let Some(cap) = self.soft_cap {
            x = soft_cap(x, F::of(cap));
        }
        if self.slope != 0.0 {
            x += F::of(self.slope) * (F::of(key as f64) - F::of(query as f64));
        }
        x
    }

    /// Computes the derivative of the score by the product.
    #[inline]
    pub fn derivative<F: Real>(&self, product: F) -> F {
        let scale = F::of(self.scale);
        match self.soft_cap {
            None => scale,
            Some(cap) => {
                let y = soft_cap(product * scale, F::of(cap)) / F::of(cap);
                scale * (F::one() - y * y)
            }
        }
    }
}

/// Computes `cap tanh(x / cap)`.
///
/// ```
/// use onelens::nn::soft_cap;
/// assert_eq!((soft_cap(0.0, 5.0), soft_cap(1e9, 5.0)), (0.0, 5.0));
/// ```
#[inline]
pub fn soft_cap<F: Real>(x: F, cap: F) -> F {
    cap * (x / cap).tanh()
}

/// Says what ALiBi's head `head` of `n_heads` takes for each step back (Press et al. 2022, and their code where the
/// number of heads is no power of two).
///
/// ```
/// use onelens::nn::alibi_slope;
/// assert_eq!((alibi_slope(0, 8), alibi_slope(7, 8)), (0.5, 1.0 / 256.0));
/// ```
pub fn alibi_slope(head: usize, n_heads: usize) -> f64 {
    let whole = if n_heads.is_power_of_two() { n_heads } else { n_heads.next_power_of_two() / 2 };
    let exponent = if head < whole { (head + 1) as f64 } else { (head - whole) as f64 + 0.5 };
    (-8.0 * exponent / whole as f64).exp2()
}
