//! Copies of a network's streams that keep something and destroy something else: the nulls.

use ndarray::{Array2, Axis};

use super::{Streams, Truth};
use crate::Result;
use crate::num::{Cholesky, Rng, matmul, normal, random_rotation, uniform_index};

impl Streams {
    /// Makes the exact rotated copy: another random rotation `R_l` of every stream but the last, `h_l → R_l h_l`.
    ///
    /// It is the network with `R_l` after block `l - 1` and its inverse inside block `l`: the same function with the
    /// same intermediate predictions, own lenses read it equally well, and no lens is shared. What a shared lens shows
    /// is therefore a property of the basis too.
    pub fn rotated(&self, rng: &mut Rng) -> Self {
        let mut copy = self.clone();
        for h in copy.streams.iter_mut().take(self.n_layers()) {
            let r = random_rotation(h.ncols(), rng);
            *h = matmul(h.view(), r.t());
        }
        copy
    }

    /// Gives every token, at each layer, the update of another: `h_l = h_0 + Σ_{k<l} Δ_k[π_k]`, with another
    /// permutation `π_k` for each layer, inside each half of the sequences. Updates as large and as shaped as the
    /// network's, that know nothing of the token.
    ///
    /// Since its updates are independent of what was there before, the least-squares lens of each layer is the
    /// identity, up to an intercept: *one lens reads every layer of a random walk*. A shared fraction near 1 is no
    /// evidence by itself; that is what this copy is for.
    pub fn shuffled(&self, rng: &mut Rng) -> Self {
        let half = self.half();
        let n = self.target.nrows();
        self.with_updates(|update| {
            let mut order: Vec<usize> = (0..n).collect();
            shuffle(&mut order[..half], rng);
            shuffle(&mut order[half..], rng);
            Ok(update.select(Axis(0), &order))
        })
        .expect("a permutation cannot fail")
    }

    /// Draws every update anew from the normal distribution of that layer's mean and covariance.
    ///
    /// Fails if a covariance cannot be factorised.
    pub fn gaussian(&self, rng: &mut Rng) -> Result<Self> {
        self.with_updates(|update| {
            let n = update.nrows() as f64;
            let mean = update.mean_axis(Axis(0)).expect("there are rows");
            let rest = update - &mean;
            let mut covariance = matmul(rest.t(), rest.view()) / n;
            // Directions without any variance would stop the factorisation; the share is far below sampling error.
            let little = 1e-9 * covariance.diag().sum() / covariance.nrows() as f64 + f64::MIN_POSITIVE;
            covariance.diag_mut().mapv_inplace(|v| v + little);
            let root = Cholesky::new(covariance.view())?.lower();
            let drawn = Array2::from_shape_simple_fn(update.dim(), || normal(rng));
            Ok(matmul(drawn.view(), root.t()) + &mean)
        })
    }

    /// Takes the true conditionals of other tokens; everything else stays. `None` if they are not known.
    pub fn permuted_targets(&self, rng: &mut Rng) -> Option<Self> {
        let half = self.half();
        let mut order: Vec<usize> = (0..self.target.nrows()).collect();
        shuffle(&mut order[..half], rng);
        shuffle(&mut order[half..], rng);
        let Truth::Known(log_truth) = &self.truth else { return None };
        let truth = Truth::Known(log_truth.select(Axis(0), &order));
        Some(Streams { truth, ..self.clone() })
    }

    /// The same with other updates. Where lenses predict the last stream, the new last stream is the target, and is
    /// read out.
    fn with_updates(&self, mut other: impl FnMut(&Array2<f64>) -> Result<Array2<f64>>) -> Result<Self> {
        let mut copy = self.clone();
        for l in 0..self.n_layers() {
            let update = other(&(&self.streams[l + 1] - &self.streams[l]))?;
            copy.streams[l + 1] = &copy.streams[l] + &update;
        }
        let last = self.n_layers();
        if self.target == self.streams[last] {
            copy.target = copy.streams[last].clone();
        } else {
            // Pooled streams: the part of the target that the last stream gives by least squares.
            let (x, z) = (&self.streams[last], &self.target);
            let lens = crate::lens::Ridge { lambda: 1e-4, towards: crate::lens::Towards::Zero }
                .fit(&super::measure::moments(x.view(), z.view()))?;
            copy.target = super::measure::apply(&lens, copy.streams[last].view());
        }
        copy.log_p = self.readout.decode(copy.target.view());
        Ok(copy)
    }
}

fn shuffle(order: &mut [usize], rng: &mut Rng) {
    for i in (1..order.len()).rev() {
        order.swap(i, uniform_index(rng, i + 1));
    }
}
