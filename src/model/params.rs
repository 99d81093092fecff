//! The weights. A gradient, and each of AdamW's averages, is a `Params` too.

use std::borrow::Cow;
use std::ops::Range;

use ndarray::{Array1, Array2, ArrayView, ArrayView2, ArrayViewD, Dimension};
use rayon::prelude::*;

use super::architecture::{Mlp, Norm, Positions};
use super::{Config, Matrix};
use crate::num::{Rng, normal, rng};

/// The weights of one block. Matrices are `[in, out]`, heads side by side in the head axis. What an architecture does not
/// have is empty: biases without `bias`, gains without a norm, the gate without SwiGLU.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockParams {
    /// Gain of the norm before attention, `[d_model]`.
    pub ln1_w: Array1<f32>,
    /// Bias of the norm before attention, `[d_model]`.
    pub ln1_b: Array1<f32>,
    /// Queries, `[d_model, n_heads · d_head]`.
    pub w_q: Matrix,
    /// Bias of the queries, `[n_heads · d_head]`.
    pub b_q: Array1<f32>,
    /// Keys, `[d_model, n_kv_heads · d_head]`.
    pub w_k: Matrix,
    /// Bias of the keys, `[n_kv_heads · d_head]`.
    pub b_k: Array1<f32>,
    /// Values, `[d_model, n_kv_heads · d_head]`.
    pub w_v: Matrix,
    /// Bias of the values, `[n_kv_heads · d_head]`.
    pub b_v: Array1<f32>,
    /// Attention output, `[n_heads · d_head, d_model]`.
    pub w_o: Matrix,
    /// Bias of the attention output, `[d_model]`.
    pub b_o: Array1<f32>,
    /// Gain of the norm before the MLP, `[d_model]`.
    pub ln2_w: Array1<f32>,
    /// Bias of the norm before the MLP, `[d_model]`.
    pub ln2_b: Array1<f32>,
    /// Gate of the MLP, `[d_model, d_mlp]`.
    pub w_gate: Matrix,
    /// MLP in, `[d_model, d_mlp]`.
    pub w_in: Matrix,
    /// Bias of the MLP's hidden layer, `[d_mlp]`.
    pub b_in: Array1<f32>,
    /// MLP out, `[d_mlp, d_model]`.
    pub w_out: Matrix,
    /// Bias of the MLP's output, `[d_model]`.
    pub b_out: Array1<f32>,
}

/// All weights of a transformer. As in [`BlockParams`], what an architecture does not have is empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// Token embedding, `[d_vocab, d_model]`.
    pub w_e: Matrix,
    /// Position embedding, `[n_ctx, d_model]`; empty unless positions are learned.
    pub w_pos: Matrix,
    /// One per layer; a single one if it is looped.
    pub blocks: Vec<BlockParams>,
    /// Gain of the final norm, `[d_model]`.
    pub ln_final_w: Array1<f32>,
    /// Bias of the final norm, `[d_model]`.
    pub ln_final_b: Array1<f32>,
    /// Unembedding, `[d_model, d_vocab]`; empty if tied, see [`unembedding`](Params::unembedding).
    pub w_u: Matrix,
    /// Bias of the logits, `[d_vocab]`.
    pub b_u: Array1<f32>,
}

/// Calls `$each!(field)` for every tensor of a block: the one list of them, and their order.
macro_rules! block_fields {
    ($each:ident) => {
        $each!(ln1_w);
        $each!(ln1_b);
        $each!(w_q);
        $each!(b_q);
        $each!(w_k);
        $each!(b_k);
        $each!(w_v);
        $each!(b_v);
        $each!(w_o);
        $each!(b_o);
        $each!(ln2_w);
        $each!(ln2_b);
        $each!(w_gate);
        $each!(w_in);
        $each!(b_in);
        $each!(w_out);
        $each!(b_out);
    };
}

/// A tensor's place among the weights.
pub(crate) enum Place<'a> {
    Vector(&'a mut Array1<f32>),
    Matrix(&'a mut Matrix),
}

impl<'a> From<&'a mut Array1<f32>> for Place<'a> {
    fn from(vector: &'a mut Array1<f32>) -> Self {
        Place::Vector(vector)
    }
}

impl<'a> From<&'a mut Matrix> for Place<'a> {
    fn from(matrix: &'a mut Matrix) -> Self {
        Place::Matrix(matrix)
    }
}

/// What the list of tensors asks of each.
trait Tensor {
    fn count(&self) -> usize;
    fn n_bytes(&self) -> usize;
    /// The numbers row by row.
    fn flat(&self) -> Cow<'_, [f32]>;
    fn flat_mut(&mut self) -> &mut [f32];
}

impl Tensor for Array1<f32> {
    fn count(&self) -> usize {
        self.len()
    }

    fn n_bytes(&self) -> usize {
        4 * self.len()
    }

    fn flat(&self) -> Cow<'_, [f32]> {
        Cow::Borrowed(self.as_slice().expect("a vector of its own is contiguous"))
    }

    fn flat_mut(&mut self) -> &mut [f32] {
        self.as_slice_mut().expect("a vector of its own is contiguous")
    }
}

impl Tensor for Matrix {
    fn count(&self) -> usize {
        self.len()
    }

    fn n_bytes(&self) -> usize {
        self.n_bytes()
    }

    fn flat(&self) -> Cow<'_, [f32]> {
        self.flat()
    }

    fn flat_mut(&mut self) -> &mut [f32] {
        self.make_own().as_slice_mut().expect("a matrix of its own lies row by row")
    }
}

impl BlockParams {
    fn matrices(&self) -> [&Matrix; 7] {
        [&self.w_q, &self.w_k, &self.w_v, &self.w_o, &self.w_gate, &self.w_in, &self.w_out]
    }

    /// Whether a matrix has to be expanded before a product.
    pub(crate) fn is_packed(&self) -> bool {
        self.matrices().into_iter().any(Matrix::is_packed)
    }

    /// A copy whose matrices are `f32`, for one pass. Weights of its own are not copied by this: ask [`is_packed`](BlockParams::is_packed).
    pub(crate) fn expanded(&self) -> BlockParams {
        let block = self.clone();
        block.matrices().into_par_iter().for_each(|matrix| {
            matrix.view();
        });
        block
    }

    fn zeros(c: &Config) -> Self {
        let (d, heads, kv_heads) = (c.d_model, c.n_heads * c.d_head, c.n_kv_heads() * c.d_head);
        let d_mlp = if c.mlp == Mlp::None { 0 } else { c.d_mlp };
        // With a width of zero a matrix and its gain vanish.
        let d_mlp_in = if c.mlp == Mlp::None { 0 } else { d };
        let bias = |n: usize| Array1::zeros(if c.bias { n } else { 0 });
        let matrix = |rows, columns| Matrix::from(Array2::zeros((rows, columns)));
        BlockParams {
            ln1_w: Array1::zeros(n_gains(c, d)),
            ln1_b: Array1::zeros(n_norm_biases(c, d)),
            w_q: matrix(d, heads),
            b_q: bias(heads),
            w_k: matrix(d, kv_heads),
            b_k: bias(kv_heads),
            w_v: matrix(d, kv_heads),
            b_v: bias(kv_heads),
            w_o: matrix(heads, d),
            b_o: bias(d),
            ln2_w: Array1::zeros(n_gains(c, d_mlp_in)),
            ln2_b: Array1::zeros(n_norm_biases(c, d_mlp_in)),
            w_gate: if c.mlp == Mlp::SwiGlu { matrix(d, d_mlp) } else { matrix(0, 0) },
            w_in: matrix(d_mlp_in, d_mlp),
            b_in: bias(d_mlp),
            w_out: matrix(d_mlp, d_mlp_in),
            b_out: bias(d_mlp_in),
        }
    }
}

fn n_gains(c: &Config, n: usize) -> usize {
    if c.norm == Norm::None { 0 } else { n }
}

fn n_norm_biases(c: &Config, n: usize) -> usize {
    if c.bias && c.norm == Norm::Layer { n } else { 0 }
}

impl Params {
    /// All zeros: the start of a gradient.
    pub fn zeros(c: &Config) -> Self {
        let matrix = |rows, columns| Matrix::from(Array2::zeros((rows, columns)));
        Params {
            w_e: matrix(c.d_vocab, c.d_model),
            w_pos: match c.positions {
                Positions::Learned => matrix(c.n_ctx, c.d_model),
                Positions::Rotary(_) | Positions::None => matrix(0, 0),
            },
            blocks: (0..c.n_distinct_blocks()).map(|_| BlockParams::zeros(c)).collect(),
            ln_final_w: Array1::zeros(n_gains(c, c.d_model)),
            ln_final_b: Array1::zeros(n_norm_biases(c, c.d_model)),
            w_u: if c.tied { matrix(0, 0) } else { matrix(c.d_model, c.d_vocab) },
            b_u: Array1::zeros(if c.bias_u { c.d_vocab } else { 0 }),
        }
    }

    /// The initial weights of `c.seed`, as GPT-2's: normal with standard deviation 0.02, what writes into the residual stream
    /// smaller by `√(2 n_layers)`, gains 1, biases 0 (Radford et al. 2019). Narrow networks take `½/√d_model` instead
    /// of 0.02 where that is larger, else they start out almost linear.
    pub fn init(c: &Config) -> Self {
        let mut params = Params::zeros(c);
        let rng = &mut rng(c.seed, 0);
        let std = (0.02_f64).max(0.5 / (c.d_model as f64).sqrt());
        let out = std / (2.0 * c.n_layers as f64).sqrt();
        fill(&mut params.w_e, std, rng);
        fill(&mut params.w_pos, std, rng);
        for b in &mut params.blocks {
            b.ln1_w.fill(1.0);
            b.ln2_w.fill(1.0);
            for w in [&mut b.w_q, &mut b.w_k, &mut b.w_v, &mut b.w_in] {
                fill(w, std, rng);
            }
            for w in [&mut b.w_o, &mut b.w_out] {
                fill(w, out, rng);
            }
            fill(&mut b.w_gate, std, rng);
        }
        params.ln_final_w.fill(1.0);
        fill(&mut params.w_u, std, rng);
        params
    }

    /// The unembedding, `[d_model, d_vocab]`: `w_u`, or the embedding transposed if the two are tied.
    pub fn unembedding(&self) -> ArrayView2<'_, f32> {
        if self.w_u.is_empty() { self.w_e.view().reversed_axes() } else { self.w_u.view() }
    }

    /// Every tensor that the architecture has with its name, in a fixed order. Names are TransformerLens's.
    ///
    /// ```
    /// use onelens::model::{Config, Params};
    /// let params = Params::zeros(&Config::default());
    /// let (name, w_e) = &params.tensors()[0];
    /// assert_eq!((name.as_str(), w_e.shape()), ("embed.W_E", [96, 64].as_slice()));
    /// ```
    pub fn tensors(&self) -> Vec<(String, ArrayViewD<'_, f32>)> {
        fn entry<'a, D: Dimension>(name: String, a: ArrayView<'a, f32, D>) -> (String, ArrayViewD<'a, f32>) {
            (name, a.into_dyn())
        }
        let mut all = vec![
            entry("embed.W_E".into(), self.w_e.view()),
            entry("pos_embed.W_pos".into(), self.w_pos.view()),
        ];
        for (l, b) in self.blocks.iter().enumerate() {
            macro_rules! each {
                ($field:ident) => {
                    all.push(entry(
                        format!("blocks.{l}.{}", hooked_name(stringify!($field))),
                        b.$field.view(),
                    ))
                };
            }
            block_fields!(each);
        }
        all.push(entry("ln_final.w".into(), self.ln_final_w.view()));
        all.push(entry("ln_final.b".into(), self.ln_final_b.view()));
        all.push(entry("unembed.W_U".into(), self.w_u.view()));
        all.push(entry("unembed.b_U".into(), self.b_u.view()));
        all.retain(|(_, tensor)| !tensor.is_empty());
        all
    }

    /// The numbers of every tensor, in the order of [`tensors`](Params::tensors). Those of a stored matrix are expanded for this call.
    pub fn slices(&self) -> Vec<Cow<'_, [f32]>> {
        self.each().into_iter().map(Tensor::flat).collect()
    }

    /// The same to write to; a stored matrix becomes one of its own.
    pub fn slices_mut(&mut self) -> Vec<&mut [f32]> {
        let mut all = vec![self.w_e.flat_mut(), self.w_pos.flat_mut()];
        for b in &mut self.blocks {
            macro_rules! each {
                ($field:ident) => {
                    all.push(b.$field.flat_mut())
                };
            }
            block_fields!(each);
        }
        all.extend([
            self.ln_final_w.flat_mut(),
            self.ln_final_b.flat_mut(),
            self.w_u.flat_mut(),
            self.b_u.flat_mut(),
        ]);
        all.retain(|s| !s.is_empty());
        all
    }

    /// Where each tensor goes, in the order of [`tensors`](Params::tensors).
    pub(crate) fn places(&mut self) -> Vec<Place<'_>> {
        let mut all: Vec<Place> = vec![(&mut self.w_e).into(), (&mut self.w_pos).into()];
        for b in &mut self.blocks {
            macro_rules! each {
                ($field:ident) => {
                    all.push((&mut b.$field).into())
                };
            }
            block_fields!(each);
        }
        all.push((&mut self.ln_final_w).into());
        all.push((&mut self.ln_final_b).into());
        all.push((&mut self.w_u).into());
        all.push((&mut self.b_u).into());
        all.retain(|place| match place {
            Place::Vector(vector) => !vector.is_empty(),
            Place::Matrix(matrix) => !matrix.is_empty(),
        });
        all
    }

    /// Every tensor that the architecture has, in the order of [`tensors`](Params::tensors).
    fn each(&self) -> Vec<&dyn Tensor> {
        let mut all: Vec<&dyn Tensor> = vec![&self.w_e, &self.w_pos];
        for b in &self.blocks {
            macro_rules! each {
                ($field:ident) => {
                    all.push(&b.$field)
                };
            }
            block_fields!(each);
        }
        all.extend([&self.ln_final_w as &dyn Tensor, &self.ln_final_b, &self.w_u, &self.b_u]);
        all.retain(|tensor| tensor.count() > 0);
        all
    }

    /// Calls `see` with the numbers of one tensor after the other, in the order of [`tensors`](Params::tensors): of what is stored, one
    /// matrix at a time is expanded.
    pub(crate) fn for_each(&self, mut see: impl FnMut(&[f32])) {
        self.each().into_iter().for_each(|tensor| see(&tensor.flat()));
    }

    /// Number of parameters.
    pub fn count(&self) -> usize {
        self.each().into_iter().map(Tensor::count).sum()
    }

    /// Bytes that they take as they are kept, in memory or in a mapped file.
    pub fn n_bytes(&self) -> usize {
        self.each().into_iter().map(Tensor::n_bytes).sum()
    }

    /// The logits of a few normalised rows, `[rows, d_vocab]`, without expanding the unembedding.
    pub(crate) fn logits_of_few(&self, x: ArrayView2<f32>) -> Array2<f32> {
        if self.w_u.is_empty() {
            let mut logits = self.w_e.apply_transposed(x);
            if !self.b_u.is_empty() {
                logits += &self.b_u;
            }
            return logits;
        }
        self.w_u.apply(x, self.b_u.view())
    }

    /// Whether the unembedding has to be expanded before a product.
    pub(crate) fn unembedding_is_packed(&self) -> bool {
        if self.w_u.is_empty() { self.w_e.is_packed() } else { self.w_u.is_packed() }
    }

    /// Columns of the [`unembedding`](Params::unembedding) for a part of the vocabulary, `[d_model, part]`, without expanding the rest.
    pub(crate) fn unembedding_of(&self, part: Range<usize>) -> Array2<f32> {
        if self.w_u.is_empty() { self.w_e.columns(part, true) } else { self.w_u.columns(part, false) }
    }

    /// A copy whose matrices are expanded once, for many passes: as much memory as `f32` takes. Weights of its own are copied by this.
    pub(crate) fn expanded(&self) -> Params {
        let all = self.clone();
        let embeddings = [&all.w_e, &all.w_pos, &all.w_u];
        let matrices = all.blocks.iter().flat_map(BlockParams::matrices).chain(embeddings);
        matrices.collect::<Vec<_>>().into_par_iter().for_each(|matrix| {
            matrix.view();
        });
        all
    }

    /// Whether a block has to be expanded whenever it runs.
    pub(crate) fn is_packed(&self) -> bool {
        self.blocks.iter().any(BlockParams::is_packed)
    }

    /// Takes over the numbers of `other`, which has the same shapes.
    pub(crate) fn copy_from(&mut self, other: &Params) {
        self.slices_mut().into_iter().zip(other.slices()).for_each(|(a, b)| a.copy_from_slice(&b));
    }

    /// Sets every number to zero.
    pub(crate) fn clear(&mut self) {
        self.slices_mut().into_iter().for_each(|a| a.fill(0.0));
    }
}

fn fill(w: &mut Matrix, std: f64, rng: &mut Rng) {
    w.mapv_inplace(|_| (normal(rng) * std) as f32);
}

/// `w_q` as TransformerLens writes it, `attn.W_Q`; biases keep their small `b`.
fn hooked_name(field: &str) -> String {
    let (kind, part) = field.split_once('_').unwrap_or((field, ""));
    let kind = if kind == "w" { "W" } else { kind };
    match part {
        "q" | "k" | "v" | "o" => format!("attn.{kind}_{}", part.to_uppercase()),
        "gate" | "in" | "out" => format!("mlp.{kind}_{part}"),
        _ => format!("{kind}.{part}"),
    }
}
