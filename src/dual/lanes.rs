//! Many tasks at a time: forward and backward through linear attention with the context mask, for training.
//!
//! With that mask a layer is a linear map of every token, `e_j ← e_j + B G A e_j`, where `G = Σ_i e_i e_iᵀ` runs over
//! the context, `A = W_Kᵀ W_Q` and `B = P W_V`. Of the last layer only the query is computed, and of its update only
//! the answer. A number is a lane of one number per task, so that every inner loop is as wide as there are tasks in a
//! block, whatever the width of a token.

use ndarray::Array2;

use crate::num::{Real, wide_fn};

/// Tasks of a block in training.
pub(super) const LANES: usize = 16;

/// One number of each task of a block.
pub(super) type Lane<F> = [F; LANES];

/// What a layer does, or the gradient by it. Both `[d * d]`, row by row.
#[derive(Clone)]
pub(super) struct Merged<T> {
    pub(super) a: Vec<T>,
    pub(super) b: Vec<T>,
}

/// Sizes of a task: `n` context tokens of width `d`, of which the last `d_out` numbers are the target.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) n: usize,
    pub(super) d: usize,
    pub(super) d_out: usize,
}

/// Tasks side by side: tokens `[n + 1, d]`, the query last, the true answers `[d_out]`, and the weights that they come
/// from, `[d_out, d - d_out]`.
pub(super) struct Block<F> {
    pub(super) tokens: Vec<Lane<F>>,
    pub(super) answers: Vec<Lane<F>>,
    pub(super) weights: Vec<Lane<F>>,
}

impl<F: Real> Block<F> {
    pub(super) fn zeros(s: Sizes) -> Self {
        Block {
            tokens: zeros((s.n + 1) * s.d),
            answers: zeros(s.d_out),
            weights: zeros(s.d_out * (s.d - s.d_out)),
        }
    }
}

impl<F: Real> Merged<Lane<F>> {
    pub(super) fn zeros(d: usize) -> Self {
        Merged { a: zeros(d * d), b: zeros(d * d) }
    }

    pub(super) fn clear(&mut self) {
        clear(&mut self.a);
        clear(&mut self.b);
    }
}

fn zeros<F: Real>(n: usize) -> Vec<Lane<F>> {
    vec![[F::zero(); LANES]; n]
}

/// What passes through a network of one size work in, used again for each block.
pub(super) struct Work<F> {
    /// Tokens before each layer after the first; those before the first are the block's.
    streams: Vec<Vec<Lane<F>>>,
    /// Of each layer before the last: `G`, `B G` and `B G A`.
    kept: Vec<[Vec<Lane<F>>; 3]>,
    /// Of the last layer: `A e_q`, each `e_i · A e_q`, and `G A e_q`.
    reach: Vec<Lane<F>>,
    scores: Vec<Lane<F>>,
    read: Vec<Lane<F>>,
    /// Predictions minus truths, `[d_out]`.
    pub(super) errors: Vec<Lane<F>>,
    /// Gradients by what the last layer read, by `A e_q`, by tokens and by tokens one layer down.
    dread: Vec<Lane<F>>,
    dreach: Vec<Lane<F>>,
    de: Vec<Lane<F>>,
    before: Vec<Lane<F>>,
    /// Gradients by `B G A`, `B G` and `G`.
    dmaps: [Vec<Lane<F>>; 3],
}

impl<F: Real> Work<F> {
    pub(super) fn new(n_layers: usize, s: Sizes) -> Self {
        let Sizes { n, d, d_out } = s;
        let maps = || [zeros(d * d), zeros(d * d), zeros(d * d)];
        Work {
            streams: vec![zeros((n + 1) * d); n_layers - 1],
            kept: (1..n_layers).map(|_| maps()).collect(),
            reach: zeros(d),
            scores: zeros(n),
            read: zeros(d),
            errors: zeros(d_out),
            dread: zeros(d),
            dreach: zeros(d),
            de: zeros((n + 1) * d),
            before: zeros((n + 1) * d),
            dmaps: maps(),
        }
    }

    #[inline(always)]
    fn forward(&mut self, layers: &[Merged<F>], block: &Block<F>, s: Sizes) {
        let Sizes { n, d, d_out } = s;
        let top = layers.len() - 1;
        for (l, layer) in layers[..top].iter().enumerate() {
            let (below, above) = self.streams.split_at_mut(l);
            let e = below.last().unwrap_or(&block.tokens);
            let [gram, bg, map] = &mut self.kept[l];
            clear(gram);
            for token in e.chunks_exact(d).take(n) {
                add_outer(gram, token, token);
            }
            clear(bg);
            add_weights_times(bg, &layer.b, gram, d);
            clear(map);
            add_times_weights(map, bg, &layer.a, d);
            let next = &mut above[0];
            next.copy_from_slice(e);
            for (out, token) in next.chunks_exact_mut(d).zip(e.chunks_exact(d)) {
                add_product(out, map, token);
            }
        }
        let last = &layers[top];
        let e = self.streams.last().unwrap_or(&block.tokens);
        let query = &e[n * d..];
        clear(&mut self.reach);
        apply(&mut self.reach, &last.a, query);
        clear(&mut self.read);
        for (score, token) in self.scores.iter_mut().zip(e.chunks_exact(d)) {
            *score = dot(token, &self.reach);
            add_scaled(&mut self.read, score, token);
        }
        // The answer is minus the slot.
        let from = d - d_out;
        self.errors.copy_from_slice(&query[from..]);
        apply(&mut self.errors, &last.b[from * d..], &self.read);
        for (error, answer) in self.errors.iter_mut().zip(&block.answers) {
            *error = std::array::from_fn(|l| -error[l] - answer[l]);
        }
    }

    /// Adds the gradient of `½ Σ error²` to `grads`, after [`forward`](Work::forward).
    #[inline(always)]
    fn backward(&mut self, layers: &[Merged<F>], block: &Block<F>, s: Sizes, grads: &mut [Merged<Lane<F>>]) {
        let Sizes { n, d, d_out } = s;
        let (top, from) = (layers.len() - 1, d - d_out);
        let e = self.streams.last().unwrap_or(&block.tokens);
        let dy = &mut self.errors;
        dy.iter_mut().for_each(|e| *e = e.map(|e| -e));
        add_outer(&mut grads[top].b[from * d..], dy, &self.read);
        clear(&mut self.dread);
        apply_transposed(&mut self.dread, &layers[top].b[from * d..], dy);
        clear(&mut self.dreach);
        if top == 0 {
            for token in e.chunks_exact(d).take(n) {
                let dscore = dot(token, &self.dread);
                add_scaled(&mut self.dreach, &dscore, token);
            }
            add_outer(&mut grads[0].a, &self.dreach, &e[n * d..]);
            return;
        }
        clear(&mut self.de);
        for ((de, token), score) in self.de.chunks_exact_mut(d).zip(e.chunks_exact(d)).zip(&self.scores) {
            let dscore = dot(token, &self.dread);
            add_scaled(&mut self.dreach, &dscore, token);
            add_scaled(de, score, &self.dread);
            add_scaled(de, &dscore, &self.reach);
        }
        add_outer(&mut grads[top].a, &self.dreach, &e[n * d..]);
        let dquery = &mut self.de[n * d..];
        dquery[from..].copy_from_slice(dy);
        apply_transposed(dquery, &layers[top].a, &self.dreach);

        for l in (0..top).rev() {
            let e = if l == 0 { &block.tokens } else { &self.streams[l - 1] };
            let [gram, bg, map] = &self.kept[l];
            let [dmap, dbg, dgram] = &mut self.dmaps;
            clear(dmap);
            self.before.copy_from_slice(&self.de);
            let tokens = self.de.chunks_exact(d).zip(e.chunks_exact(d));
            for (before, (dout, token)) in self.before.chunks_exact_mut(d).zip(tokens) {
                add_outer(dmap, dout, token);
                if l > 0 {
                    add_product_transposed(before, map, dout);
                }
            }
            // map = (B G) A.
            add_transposed_times(&mut grads[l].a, bg, dmap, d);
            clear(dbg);
            add_times_weights_transposed(dbg, dmap, &layers[l].a, d);
            add_times_transposed(&mut grads[l].b, dbg, gram, d);
            if l == 0 {
                // Nothing below asks for the gradient of the tokens.
                return;
            }
            clear(dgram);
            add_weights_transposed_times(dgram, &layers[l].b, dbg, d);
            for (before, token) in self.before.chunks_exact_mut(d).take(n).zip(e.chunks_exact(d)) {
                add_product(before, dgram, token);
                add_product_transposed(before, dgram, token);
            }
            std::mem::swap(&mut self.de, &mut self.before);
        }
    }
}

wide_fn! {
    /// Targets and answers of the inputs and weights of a block; the query's slots become 0.
    pub(super) fn find_answers<'a, F>(block: &'a mut Block<F>, s: Sizes) {
        let from = s.d - s.d_out;
        for (i, token) in block.tokens.chunks_exact_mut(s.d).enumerate() {
            let (x, slots) = token.split_at_mut(from);
            clear(slots);
            let y = if i < s.n { slots } else { &mut block.answers };
            clear(y);
            add_product(y, &block.weights, x);
        }
    }
}

wide_fn! {
    /// The answers' errors, prediction minus truth, into `work.errors`.
    pub(super) fn find_errors<'a, F>(
        work: &'a mut Work<F>,
        layers: &'a [Merged<F>],
        block: &'a Block<F>,
        s: Sizes,
    ) {
        work.forward(layers, block, s);
    }
}

wide_fn! {
    /// Adds `½ Σ error²` of each task to `loss`, and its gradient to `grads`.
    pub(super) fn add_loss_and_gradient<'a, F>(
        work: &'a mut Work<F>,
        layers: &'a [Merged<F>],
        block: &'a Block<F>,
        s: Sizes,
        grads: &'a mut [Merged<Lane<F>>],
        loss: &'a mut Lane<F>,
    ) {
        work.forward(layers, block, s);
        let half = F::of(0.5);
        for e in &work.errors {
            for l in 0..LANES {
                loss[l] += half * e[l] * e[l];
            }
        }
        work.backward(layers, block, s, grads);
    }
}

// Small products, for blocks of any number of tasks. Matrices are `[d, d]` row by row; what a name calls weights has
// one number for all tasks. One rounding for a product and its sum: these run below `wide_fn`, where there is an
// instruction for it.

#[inline(always)]
fn clear<F: Real, const N: usize>(x: &mut [[F; N]]) {
    x.fill([F::zero(); N]);
}

#[inline(always)]
fn fma_lane<F: Real, const N: usize>(out: &mut [F; N], a: &[F; N], b: &[F; N]) {
    for l in 0..N {
        out[l] = a[l].mul_add(b[l], out[l]);
    }
}

#[inline(always)]
fn fma_scalar<F: Real, const N: usize>(out: &mut [F; N], a: F, b: &[F; N]) {
    for l in 0..N {
        out[l] = a.mul_add(b[l], out[l]);
    }
}

#[inline(always)]
pub(super) fn dot<F: Real, const N: usize>(x: &[[F; N]], y: &[[F; N]]) -> [F; N] {
    // Two sums, which do not wait for each other.
    let (mut even, mut odd) = ([F::zero(); N], [F::zero(); N]);
    let (x_pairs, x_rest) = x.as_chunks::<2>();
    let (y_pairs, y_rest) = y.as_chunks::<2>();
    for (x, y) in x_pairs.iter().zip(y_pairs) {
        fma_lane(&mut even, &x[0], &y[0]);
        fma_lane(&mut odd, &x[1], &y[1]);
    }
    for (x, y) in x_rest.iter().zip(y_rest) {
        fma_lane(&mut even, x, y);
    }
    std::array::from_fn(|l| even[l] + odd[l])
}

#[inline(always)]
pub(super) fn add_scaled<F: Real, const N: usize>(out: &mut [[F; N]], scale: &[F; N], x: &[[F; N]]) {
    for (out, x) in out.iter_mut().zip(x) {
        fma_lane(out, scale, x);
    }
}

/// `out += x yᵀ`.
#[inline(always)]
fn add_outer<F: Real, const N: usize>(out: &mut [[F; N]], x: &[[F; N]], y: &[[F; N]]) {
    for (row, x) in out.chunks_exact_mut(y.len()).zip(x) {
        add_scaled(row, x, y);
    }
}

/// `out += m x`.
#[inline(always)]
pub(super) fn add_product<F: Real, const N: usize>(out: &mut [[F; N]], m: &[[F; N]], x: &[[F; N]]) {
    for (out, row) in out.iter_mut().zip(m.chunks_exact(x.len())) {
        let sum = dot(row, x);
        (0..N).for_each(|l| out[l] += sum[l]);
    }
}

/// `out += mᵀ x`.
#[inline(always)]
fn add_product_transposed<F: Real, const N: usize>(out: &mut [[F; N]], m: &[[F; N]], x: &[[F; N]]) {
    for (row, x) in m.chunks_exact(out.len()).zip(x) {
        add_scaled(out, x, row);
    }
}

/// `out += w x` with weights.
#[inline(always)]
fn apply<F: Real, const N: usize>(out: &mut [[F; N]], w: &[F], x: &[[F; N]]) {
    for (out, row) in out.iter_mut().zip(w.chunks_exact(x.len())) {
        let mut sum = *out;
        for (&w, x) in row.iter().zip(x) {
            fma_scalar(&mut sum, w, x);
        }
        *out = sum;
    }
}

/// `out += wᵀ x` with weights.
#[inline(always)]
fn apply_transposed<F: Real, const N: usize>(out: &mut [[F; N]], w: &[F], x: &[[F; N]]) {
    for (row, x) in w.chunks_exact(out.len()).zip(x) {
        for (out, &w) in out.iter_mut().zip(row) {
            fma_scalar(out, w, x);
        }
    }
}

/// `out += w m`.
#[inline(always)]
fn add_weights_times<F: Real, const N: usize>(out: &mut [[F; N]], w: &[F], m: &[[F; N]], d: usize) {
    for (out, w) in out.chunks_exact_mut(d).zip(w.chunks_exact(d)) {
        for (&w, m) in w.iter().zip(m.chunks_exact(d)) {
            for (out, m) in out.iter_mut().zip(m) {
                fma_scalar(out, w, m);
            }
        }
    }
}

/// `out += wᵀ m`.
#[inline(always)]
fn add_weights_transposed_times<F: Real, const N: usize>(
    out: &mut [[F; N]],
    w: &[F],
    m: &[[F; N]],
    d: usize,
) {
    for (w, m) in w.chunks_exact(d).zip(m.chunks_exact(d)) {
        for (out, &w) in out.chunks_exact_mut(d).zip(w) {
            for (out, m) in out.iter_mut().zip(m) {
                fma_scalar(out, w, m);
            }
        }
    }
}

/// `out += m w`.
#[inline(always)]
fn add_times_weights<F: Real, const N: usize>(out: &mut [[F; N]], m: &[[F; N]], w: &[F], d: usize) {
    for (out, m) in out.chunks_exact_mut(d).zip(m.chunks_exact(d)) {
        apply_transposed(out, w, m);
    }
}

/// `out += m wᵀ`.
#[inline(always)]
fn add_times_weights_transposed<F: Real, const N: usize>(
    out: &mut [[F; N]],
    m: &[[F; N]],
    w: &[F],
    d: usize,
) {
    for (out, m) in out.chunks_exact_mut(d).zip(m.chunks_exact(d)) {
        apply(out, w, m);
    }
}

/// `out += xᵀ y`.
#[inline(always)]
fn add_transposed_times<F: Real, const N: usize>(out: &mut [[F; N]], x: &[[F; N]], y: &[[F; N]], d: usize) {
    for (x, y) in x.chunks_exact(d).zip(y.chunks_exact(d)) {
        add_outer(out, x, y);
    }
}

/// `out += x yᵀ`, matrices both.
#[inline(always)]
fn add_times_transposed<F: Real, const N: usize>(out: &mut [[F; N]], x: &[[F; N]], y: &[[F; N]], d: usize) {
    for (out, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
        add_product(out, y, x);
    }
}

/// The sum over tasks, as a matrix.
pub(super) fn summed<F: Real>(lanes: &[Lane<F>], d: usize) -> Array2<f64> {
    let sum = |lane: &Lane<F>| lane.iter().map(|x| x.to_f64().unwrap_or(f64::NAN)).sum();
    Array2::from_shape_fn((d, d), |(i, j)| sum(&lanes[i * d + j]))
}
