//! Eight tasks at a time: forward and backward through linear attention with the context mask, for training.
//!
//! With that mask a layer is a linear map of every token, `e_j ← e_j + B G A e_j`, where `G = Σ_i e_i e_iᵀ` runs over the context,
//! `A = W_Kᵀ W_Q` and `B = P W_V`. Of the last layer only the query is computed. A number is a [`Lane`] of one number per task, so that every
//! inner loop is eight tasks wide whatever the width of a token.

use ndarray::Array2;

pub(super) const LANES: usize = 8;

/// One number of eight tasks.
pub(super) type Lane = [f64; LANES];

const ZERO: Lane = [0.0; LANES];

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

/// Eight tasks: tokens `[n + 1, d]`, the query last, and the true answers `[d_out]`.
pub(super) struct Block {
    pub(super) tokens: Vec<Lane>,
    pub(super) answers: Vec<Lane>,
}

impl Merged<Lane> {
    pub(super) fn zeros(d: usize) -> Self {
        Merged { a: vec![ZERO; d * d], b: vec![ZERO; d * d] }
    }
}

/// What the forward pass through one of the layers before the last keeps: `G`, `B G` and `B G A`.
struct Kept {
    gram: Vec<Lane>,
    bg: Vec<Lane>,
    map: Vec<Lane>,
}

/// The answers' errors, `[d_out]`: prediction minus truth.
#[inline(always)]
pub(super) fn errors(layers: &[Merged<f64>], block: &Block, s: Sizes) -> Vec<Lane> {
    Forward::run(layers, block, s).errors
}

/// Adds the gradient of `½ Σ error²` over the block to `grads`; returns that sum for each task.
#[inline(always)]
pub(super) fn loss_and_gradient(
    layers: &[Merged<f64>],
    block: &Block,
    s: Sizes,
    grads: &mut [Merged<Lane>],
) -> Lane {
    let forward = Forward::run(layers, block, s);
    let mut loss = ZERO;
    for e in &forward.errors {
        fma_lane(&mut loss, e, e);
    }
    forward.backward(layers, s, grads);
    loss.map(|l| 0.5 * l)
}

struct Forward {
    /// Tokens before each layer.
    streams: Vec<Vec<Lane>>,
    kept: Vec<Kept>,
    /// Of the last layer: `A e_q`, each `e_i · A e_q`, and `G A e_q`.
    reach: Vec<Lane>,
    scores: Vec<Lane>,
    read: Vec<Lane>,
    errors: Vec<Lane>,
}

impl Forward {
    #[inline(always)]
    fn run(layers: &[Merged<f64>], block: &Block, s: Sizes) -> Self {
        let Sizes { n, d, d_out } = s;
        let mut streams = vec![block.tokens.clone()];
        let mut kept = Vec::new();
        let (last, before) = layers.split_last().expect("a network has a layer");
        for layer in before {
            let e = &streams[streams.len() - 1];
            let mut gram = vec![ZERO; d * d];
            for token in e.chunks_exact(d).take(n) {
                add_outer(&mut gram, token, token);
            }
            let bg = weights_times(&layer.b, &gram, d);
            let map = times_weights(&bg, &layer.a, d);
            let mut next = e.clone();
            for (out, token) in next.chunks_exact_mut(d).zip(e.chunks_exact(d)) {
                add_product(out, &map, token);
            }
            kept.push(Kept { gram, bg, map });
            streams.push(next);
        }
        let e = &streams[streams.len() - 1];
        let query = &e[n * d..];
        let mut reach = vec![ZERO; d];
        apply(&mut reach, &last.a, query);
        let (mut scores, mut read) = (vec![ZERO; n], vec![ZERO; d]);
        for (score, token) in scores.iter_mut().zip(e.chunks_exact(d)) {
            *score = dot(token, &reach);
            add_scaled(&mut read, score, token);
        }
        let mut update = query.to_vec();
        apply(&mut update, &last.b, &read);
        let answers = &update[d - d_out..];
        let errors = answers.iter().zip(&block.answers).map(|(y, t)| sub(&y.map(|y| -y), t)).collect();
        Forward { streams, kept, reach, scores, read, errors }
    }

    #[inline(always)]
    fn backward(&self, layers: &[Merged<f64>], s: Sizes, grads: &mut [Merged<Lane>]) {
        let Sizes { n, d, d_out } = s;
        let top = layers.len() - 1;
        let e = &self.streams[top];
        // The answer is minus the slot.
        let mut dy = vec![ZERO; d];
        for (dy, error) in dy[d - d_out..].iter_mut().zip(&self.errors) {
            *dy = error.map(|e| -e);
        }
        add_outer(&mut grads[top].b, &dy, &self.read);
        let mut dread = vec![ZERO; d];
        apply_transposed(&mut dread, &layers[top].b, &dy);
        let mut de = vec![ZERO; (n + 1) * d];
        let mut dreach = vec![ZERO; d];
        for ((de, token), score) in de.chunks_exact_mut(d).zip(e.chunks_exact(d)).zip(&self.scores) {
            let dscore = dot(token, &dread);
            add_scaled(&mut dreach, &dscore, token);
            add_scaled(de, score, &dread);
            add_scaled(de, &dscore, &self.reach);
        }
        add_outer(&mut grads[top].a, &dreach, &e[n * d..]);
        let dquery = &mut de[n * d..];
        dquery.copy_from_slice(&dy);
        apply_transposed(dquery, &layers[top].a, &dreach);

        for l in (0..top).rev() {
            let (e, kept) = (&self.streams[l], &self.kept[l]);
            let mut dmap = vec![ZERO; d * d];
            let mut before = de.clone();
            for ((before, dout), token) in
                before.chunks_exact_mut(d).zip(de.chunks_exact(d)).zip(e.chunks_exact(d))
            {
                add_outer(&mut dmap, dout, token);
                add_product_transposed(before, &kept.map, dout);
            }
            // map = (B G) A.
            add_transposed_times(&mut grads[l].a, &kept.bg, &dmap, d);
            let dbg = times_weights_transposed(&dmap, &layers[l].a, d);
            add_times_transposed(&mut grads[l].b, &dbg, &kept.gram, d);
            let dgram = weights_transposed_times(&layers[l].b, &dbg, d);
            for (before, token) in before.chunks_exact_mut(d).take(n).zip(e.chunks_exact(d)) {
                add_product(before, &dgram, token);
                add_product_transposed(before, &dgram, token);
            }
            de = before;
        }
    }
}

// Small products. Matrices are `[d, d]` row by row; what a name calls weights has one number for all lanes.

#[inline(always)]
fn fma_lane(out: &mut Lane, a: &Lane, b: &Lane) {
    for l in 0..LANES {
        out[l] += a[l] * b[l];
    }
}

#[inline(always)]
fn fma_scalar(out: &mut Lane, a: f64, b: &Lane) {
    for l in 0..LANES {
        out[l] += a * b[l];
    }
}

#[inline(always)]
fn sub(a: &Lane, b: &Lane) -> Lane {
    std::array::from_fn(|l| a[l] - b[l])
}

#[inline(always)]
pub(super) fn dot(x: &[Lane], y: &[Lane]) -> Lane {
    let mut out = ZERO;
    for (x, y) in x.iter().zip(y) {
        fma_lane(&mut out, x, y);
    }
    out
}

#[inline(always)]
pub(super) fn add_scaled(out: &mut [Lane], scale: &Lane, x: &[Lane]) {
    for (out, x) in out.iter_mut().zip(x) {
        fma_lane(out, scale, x);
    }
}

/// `out += x yᵀ`.
#[inline(always)]
fn add_outer(out: &mut [Lane], x: &[Lane], y: &[Lane]) {
    for (row, x) in out.chunks_exact_mut(y.len()).zip(x) {
        add_scaled(row, x, y);
    }
}

/// `out += m x`.
#[inline(always)]
pub(super) fn add_product(out: &mut [Lane], m: &[Lane], x: &[Lane]) {
    for (out, row) in out.iter_mut().zip(m.chunks_exact(x.len())) {
        let mut sum = *out;
        for (m, x) in row.iter().zip(x) {
            fma_lane(&mut sum, m, x);
        }
        *out = sum;
    }
}

/// `out += mᵀ x`.
#[inline(always)]
fn add_product_transposed(out: &mut [Lane], m: &[Lane], x: &[Lane]) {
    for (row, x) in m.chunks_exact(out.len()).zip(x) {
        add_scaled(out, x, row);
    }
}

/// `out += w x` with weights.
#[inline(always)]
fn apply(out: &mut [Lane], w: &[f64], x: &[Lane]) {
    for (out, row) in out.iter_mut().zip(w.chunks_exact(x.len())) {
        for (&w, x) in row.iter().zip(x) {
            fma_scalar(out, w, x);
        }
    }
}

/// `out += wᵀ x` with weights.
#[inline(always)]
fn apply_transposed(out: &mut [Lane], w: &[f64], x: &[Lane]) {
    for (row, x) in w.chunks_exact(out.len()).zip(x) {
        for (out, &w) in out.iter_mut().zip(row) {
            fma_scalar(out, w, x);
        }
    }
}

/// `w m`.
#[inline(always)]
fn weights_times(w: &[f64], m: &[Lane], d: usize) -> Vec<Lane> {
    let mut out = vec![ZERO; d * d];
    for (out, w) in out.chunks_exact_mut(d).zip(w.chunks_exact(d)) {
        for (&w, m) in w.iter().zip(m.chunks_exact(d)) {
            for (out, m) in out.iter_mut().zip(m) {
                fma_scalar(out, w, m);
            }
        }
    }
    out
}

/// `wᵀ m`.
#[inline(always)]
fn weights_transposed_times(w: &[f64], m: &[Lane], d: usize) -> Vec<Lane> {
    let mut out = vec![ZERO; d * d];
    for (w, m) in w.chunks_exact(d).zip(m.chunks_exact(d)) {
        for (out, &w) in out.chunks_exact_mut(d).zip(w) {
            for (out, m) in out.iter_mut().zip(m) {
                fma_scalar(out, w, m);
            }
        }
    }
    out
}

/// `m w`.
#[inline(always)]
fn times_weights(m: &[Lane], w: &[f64], d: usize) -> Vec<Lane> {
    let mut out = vec![ZERO; d * d];
    for (out, m) in out.chunks_exact_mut(d).zip(m.chunks_exact(d)) {
        for (m, w) in m.iter().zip(w.chunks_exact(d)) {
            for (out, &w) in out.iter_mut().zip(w) {
                fma_scalar(out, w, m);
            }
        }
    }
    out
}

/// `m wᵀ`.
#[inline(always)]
fn times_weights_transposed(m: &[Lane], w: &[f64], d: usize) -> Vec<Lane> {
    let mut out = vec![ZERO; d * d];
    for (out, m) in out.chunks_exact_mut(d).zip(m.chunks_exact(d)) {
        apply(out, w, m);
    }
    out
}

/// `out += xᵀ y`.
#[inline(always)]
fn add_transposed_times(out: &mut [Lane], x: &[Lane], y: &[Lane], d: usize) {
    for (x, y) in x.chunks_exact(d).zip(y.chunks_exact(d)) {
        add_outer(out, x, y);
    }
}

/// `out += x yᵀ`, matrices both.
#[inline(always)]
fn add_times_transposed(out: &mut [Lane], x: &[Lane], y: &[Lane], d: usize) {
    for (out, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
        add_product(out, y, x);
    }
}

/// The sum over tasks, as a matrix.
pub(super) fn summed(lanes: &[Lane], d: usize) -> Array2<f64> {
    Array2::from_shape_fn((d, d), |(i, j)| lanes[i * d + j].iter().sum())
}
