//! The weights. A gradient, and each of AdamW's averages, is a `Params` too.

use std::borrow::Cow;
use std::ops::Range;

use ndarray::{Array1, Array2, ArrayView, ArrayView2, ArrayViewD, Dimension};
use rayon::prelude::*;

use super::architecture::{Mlp, Positions, QkNorm, Residual};
use super::{Config, Matrix};
use crate::nn::Norm;
use crate::num::{Precision, Rng, normal, rng};
use crate::record::Fnv;

/// The weights of one block. Matrices are `[in, out]`, heads side by side in the head axis. What an architecture does
/// not have is empty: biases without `bias`, gains without a norm, the gate where nothing is gated.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockParams {
    /// Gain of the norm before attention, `[d_model]`.
    pub ln1_w: Array1<f32>,
    /// Bias of the norm before attention, `[d_model]`.
    pub ln1_b: Array1<f32>,
    /// Gain of the norm of what attention gives, `[d_model]`.
    pub ln1_post_w: Array1<f32>,
    /// Bias of the norm of what attention gives, `[d_model]`.
    pub ln1_post_b: Array1<f32>,
    /// Queries, `[d_model, n_heads · d_head]`.
    pub w_q: Matrix,
    /// Bias of the queries, `[n_heads · d_head]`.
    pub b_q: Array1<f32>,
    /// Gain of the norm of the queries, `[d_head]` or `[n_heads · d_head]`.
    pub q_norm: Array1<f32>,
    /// Gain of the norm of the keys, `[d_head]` or `[n_kv_heads · d_head]`.
    pub k_norm: Array1<f32>,
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
    /// Gain of the norm of what the MLP gives, `[d_model]`.
    pub ln2_post_w: Array1<f32>,
    /// Bias of the norm of what the MLP gives, `[d_model]`.
    pub ln2_post_b: Array1<f32>,
    /// How well each expert fits, `[d_model, n_experts]`.
    pub w_router: Matrix,
    /// Gate of the MLP, `[d_model, d_mlp]`; of experts one after the other, `[n_experts · d_model, d_mlp]`.
    pub w_gate: Matrix,
    /// Bias of the gate, `[d_mlp]`.
    pub b_gate: Array1<f32>,
    /// MLP in, `[d_model, d_mlp]`; of experts as the gate.
    pub w_in: Matrix,
    /// Bias of the MLP's hidden layer, `[d_mlp]`.
    pub b_in: Array1<f32>,
    /// MLP out, `[d_mlp, d_model]`; of experts one after the other, `[n_experts · d_mlp, d_model]`.
    pub w_out: Matrix,
    /// Bias of the MLP's output, `[d_model]`.
    pub b_out: Array1<f32>,
}

/// All weights of a transformer. As in [`BlockParams`], what an architecture does not have is empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// Token embedding, `[d_vocab, d_model]`.
    pub w_e: Matrix,
    /// Gain of the norm of the embedding, `[d_model]`.
    pub ln_embed_w: Array1<f32>,
    /// Bias of the norm of the embedding, `[d_model]`.
    pub ln_embed_b: Array1<f32>,
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

/// Calls `$each!(field, name)` for every tensor of a block: the one list of them, their names as TransformerLens has
/// them, and their order.
macro_rules! block_fields {
    ($each:ident) => {
        $each!(ln1_w, "ln1.w");
        $each!(ln1_b, "ln1.b");
        $each!(w_q, "attn.W_Q");
        $each!(b_q, "attn.b_Q");
        $each!(w_k, "attn.W_K");
        $each!(b_k, "attn.b_K");
        $each!(w_v, "attn.W_V");
        $each!(b_v, "attn.b_V");
        $each!(w_o, "attn.W_O");
        $each!(b_o, "attn.b_O");
        $each!(q_norm, "attn.q_norm.w");
        $each!(k_norm, "attn.k_norm.w");
        $each!(ln1_post_w, "ln1_post.w");
        $each!(ln1_post_b, "ln1_post.b");
        $each!(ln2_w, "ln2.w");
        $each!(ln2_b, "ln2.b");
        $each!(w_router, "mlp.W_router");
        $each!(w_gate, "mlp.W_gate");
        $each!(b_gate, "mlp.b_gate");
        $each!(w_in, "mlp.W_in");
        $each!(b_in, "mlp.b_in");
        $each!(w_out, "mlp.W_out");
        $each!(b_out, "mlp.b_out");
        $each!(ln2_post_w, "ln2_post.w");
        $each!(ln2_post_b, "ln2_post.b");
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

/// A tensor of zeros; a vector takes the columns.
trait Zeros {
    fn zeros(shape: [usize; 2]) -> Self;
}

impl Zeros for Array1<f32> {
    fn zeros([_, columns]: [usize; 2]) -> Self {
        Array1::zeros(columns)
    }
}

impl Zeros for Matrix {
    fn zeros(shape: [usize; 2]) -> Self {
        Matrix::from(Array2::zeros(shape))
    }
}

/// What the list of tensors asks of each.
trait Tensor: Sync {
    fn rows_and_columns(&self) -> [usize; 2];
    fn count(&self) -> usize;
    fn n_bytes(&self) -> usize;
    /// The numbers row by row.
    fn flat(&self) -> Cow<'_, [f32]>;
    fn flat_mut(&mut self) -> &mut [f32];
}

impl Tensor for Array1<f32> {
    fn rows_and_columns(&self) -> [usize; 2] {
        [1, self.len()]
    }

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
    fn rows_and_columns(&self) -> [usize; 2] {
        self.dim().into()
    }

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
    fn matrices(&self) -> [&Matrix; 8] {
        [&self.w_q, &self.w_k, &self.w_v, &self.w_o, &self.w_router, &self.w_gate, &self.w_in, &self.w_out]
    }

    /// Whether a matrix has to be expanded before a product.
    pub(crate) fn is_packed(&self) -> bool {
        self.matrices().into_iter().any(Matrix::is_packed)
    }

    /// A copy whose matrices are `f32`, for one pass, in the memory of the block `before` it if there is one. Weights of
    /// its own are not copied by this: ask [`is_packed`](BlockParams::is_packed).
    pub(crate) fn expanded(&self, before: Option<BlockParams>) -> BlockParams {
        let block = self.clone();
        let spare = before.map_or_else(Default::default, BlockParams::into_expanded);
        block.matrices().into_par_iter().zip(spare).for_each(|(matrix, spare)| matrix.expand(spare));
        block
    }

    /// What its [`matrices`](BlockParams::matrices) were expanded to.
    fn into_expanded(self) -> [Option<Array2<f32>>; 8] {
        let BlockParams { w_q, w_k, w_v, w_o, w_router, w_gate, w_in, w_out, .. } = self;
        [w_q, w_k, w_v, w_o, w_router, w_gate, w_in, w_out].map(Matrix::into_expanded)
    }

    fn zeros(c: &Config) -> Self {
        macro_rules! zeros_of {
            ($($field:ident)*) => { BlockParams { $($field: Zeros::zeros(block_shape(c, stringify!($field)))),* } };
        }
        zeros_of!(
            ln1_w ln1_b w_q b_q w_k b_k w_v b_v w_o b_o q_norm k_norm ln1_post_w ln1_post_b
            ln2_w ln2_b w_router w_gate b_gate w_in b_in w_out b_out ln2_post_w ln2_post_b
        )
    }
}

/// Rows and columns of a block's tensor; a vector is one row, and what the architecture does not have has no columns.
fn block_shape(c: &Config, field: &str) -> [usize; 2] {
    let (d, heads, kv_heads) = (c.d_model, c.n_heads * c.d_head, c.n_kv_heads() * c.d_head);
    let there = |is_there: bool, shape: [usize; 2]| if is_there { shape } else { [0, 0] };
    let normed = c.norm != Norm::None;
    let before = normed && (c.norm_at.input() || c.norm_at.sum());
    let after = normed && c.norm_at.output();
    let shifted = c.norm.centres() && c.bias.norm;
    let mlp = c.mlp != Mlp::None;
    let ln2 = before && mlp && c.residual != Residual::ParallelOneNorm;
    let n_experts = c.experts.map_or(1, |experts| experts.n);
    let normed_width = |width: usize| match c.qk_norm {
        QkNorm::None => 0,
        QkNorm::Head => c.d_head,
        QkNorm::AllHeads => width,
    };
    match field {
        "ln1_w" => there(before, [1, d]),
        "ln1_b" => there(before && shifted, [1, d]),
        "w_q" => [d, heads],
        "b_q" => there(c.bias.qkv, [1, heads]),
        "w_k" | "w_v" => [d, kv_heads],
        "b_k" | "b_v" => there(c.bias.qkv, [1, kv_heads]),
        "w_o" => [heads, d],
        "b_o" => there(c.bias.out, [1, d]),
        "q_norm" => [1, normed_width(heads)],
        "k_norm" => [1, normed_width(kv_heads)],
        "ln1_post_w" => there(after, [1, d]),
        "ln1_post_b" => there(after && shifted, [1, d]),
        "ln2_w" => there(ln2, [1, d]),
        "ln2_b" => there(ln2 && shifted, [1, d]),
        "w_router" => there(c.experts.is_some(), [d, n_experts]),
        "w_gate" => there(c.mlp.is_gated(), [n_experts * d, c.d_mlp]),
        "b_gate" => there(c.mlp.is_gated() && c.bias.gate, [1, c.d_mlp]),
        "w_in" => there(mlp, [n_experts * d, c.d_mlp]),
        "b_in" => there(mlp && c.bias.mlp, [1, c.d_mlp]),
        "w_out" => there(mlp, [n_experts * c.d_mlp, d]),
        "b_out" => there(mlp && c.bias.mlp, [1, d]),
        "ln2_post_w" => there(after && mlp, [1, d]),
        "ln2_post_b" => there(after && mlp && shifted, [1, d]),
        other => unreachable!("no tensor {other}"),
    }
}

/// The same outside the blocks.
fn outer_shape(c: &Config, field: &str) -> [usize; 2] {
    let there = |is_there: bool, shape: [usize; 2]| if is_there { shape } else { [0, 0] };
    let (normed, shifted) = (c.norm != Norm::None, c.norm.centres() && c.bias.norm);
    let final_norm = c.final_norm() != Norm::None;
    match field {
        "w_e" => [c.d_vocab, c.d_model],
        "ln_embed_w" => there(c.embed_norm && normed, [1, c.d_model]),
        "ln_embed_b" => there(c.embed_norm && shifted, [1, c.d_model]),
        "w_pos" => there(c.positions == Positions::Learned, [c.n_ctx, c.d_model]),
        "ln_final_w" => there(final_norm, [1, c.d_model]),
        "ln_final_b" => there(final_norm && shifted, [1, c.d_model]),
        "w_u" => there(!c.tied, [c.d_model, c.d_vocab]),
        "b_u" => there(c.bias_u, [1, c.d_vocab]),
        other => unreachable!("no tensor {other}"),
    }
}

impl Params {
    /// Makes all parameters zeros, the start of a gradient.
    pub fn zeros(c: &Config) -> Self {
        Params {
            w_e: Zeros::zeros(outer_shape(c, "w_e")),
            ln_embed_w: Zeros::zeros(outer_shape(c, "ln_embed_w")),
            ln_embed_b: Zeros::zeros(outer_shape(c, "ln_embed_b")),
            w_pos: Zeros::zeros(outer_shape(c, "w_pos")),
            blocks: (0..c.n_distinct_blocks()).map(|_| BlockParams::zeros(c)).collect(),
            ln_final_w: Zeros::zeros(outer_shape(c, "ln_final_w")),
            ln_final_b: Zeros::zeros(outer_shape(c, "ln_final_b")),
            w_u: Zeros::zeros(outer_shape(c, "w_u")),
            b_u: Zeros::zeros(outer_shape(c, "b_u")),
        }
    }

    /// How many parameters a checked configuration has: `Params::zeros(c).count()`, without the memory.
    pub(crate) fn count_of(c: &Config) -> u128 {
        let n = |[rows, columns]: [usize; 2]| rows as u128 * columns as u128;
        let mut block = 0;
        macro_rules! each {
            ($field:ident, $name:literal) => {
                block += n(block_shape(c, stringify!($field)))
            };
        }
        block_fields!(each);
        let outside = ["w_e", "ln_embed_w", "ln_embed_b", "w_pos", "ln_final_w", "ln_final_b", "w_u", "b_u"];
        outside.into_iter().map(|field| n(outer_shape(c, field))).sum::<u128>()
            + c.n_distinct_blocks() as u128 * block
    }

    /// Whether these are weights of this shape: the name of the first tensor that is not, or of the blocks if their
    /// number is wrong.
    pub(crate) fn misfit(&self, c: &Config) -> Option<String> {
        let fits =
            |is: [usize; 2], wanted: [usize; 2]| is == wanted || (is.contains(&0) && wanted.contains(&0));
        macro_rules! outside {
            ($($field:ident)*) => {
                $(if !fits(self.$field.rows_and_columns(), outer_shape(c, stringify!($field))) {
                    return Some(stringify!($field).into());
                })*
            };
        }
        outside!(w_e ln_embed_w ln_embed_b w_pos ln_final_w ln_final_b w_u b_u);
        if self.blocks.len() != c.n_distinct_blocks() {
            return Some("blocks".into());
        }
        for (l, b) in self.blocks.iter().enumerate() {
            macro_rules! each {
                ($field:ident, $name:literal) => {
                    if !fits(b.$field.rows_and_columns(), block_shape(c, stringify!($field))) {
                        return Some(format!("blocks.{l}.{}", $name));
                    }
                };
            }
            block_fields!(each);
        }
        None
    }

    /// Draws the initial weights of `c.seed` as GPT-2's: normal with standard deviation 0.02, what writes into the
    /// residual stream smaller by `√(2 n_layers)`, gains 1, biases 0 (Radford et al. 2019). Narrow networks take
    /// `½/√d_model` instead of 0.02 where that is larger, else they start out almost linear.
    pub fn init(c: &Config) -> Self {
        let mut params = Params::zeros(c);
        let rng = &mut rng(c.seed, 0);
        let std = (0.02_f64).max(0.5 / (c.d_model as f64).sqrt());
        let out = std / (2.0 * c.n_layers as f64).sqrt();
        fill(&mut params.w_e, std, rng);
        fill(&mut params.w_pos, std, rng);
        for b in &mut params.blocks {
            for gain in [
                &mut b.ln1_w,
                &mut b.ln2_w,
                &mut b.ln1_post_w,
                &mut b.ln2_post_w,
                &mut b.q_norm,
                &mut b.k_norm,
            ] {
                gain.fill(1.0);
            }
            for w in [&mut b.w_q, &mut b.w_k, &mut b.w_v, &mut b.w_in] {
                fill(w, std, rng);
            }
            for w in [&mut b.w_o, &mut b.w_out] {
                fill(w, out, rng);
            }
            fill(&mut b.w_gate, std, rng);
            fill(&mut b.w_router, std, rng);
        }
        params.ln_embed_w.fill(1.0);
        params.ln_final_w.fill(1.0);
        fill(&mut params.w_u, std, rng);
        params
    }

    /// Returns the unembedding, `[d_model, d_vocab]`: `w_u`, or the embedding transposed if the two are tied.
    pub fn unembedding(&self) -> ArrayView2<'_, f32> {
        if self.w_u.is_empty() { self.w_e.view().reversed_axes() } else { self.w_u.view() }
    }

    /// Lists every tensor that the architecture has with its name, in a fixed order. Names are TransformerLens's.
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
            entry("embed.ln.w".into(), self.ln_embed_w.view()),
            entry("embed.ln.b".into(), self.ln_embed_b.view()),
            entry("pos_embed.W_pos".into(), self.w_pos.view()),
        ];
        for (l, b) in self.blocks.iter().enumerate() {
            macro_rules! each {
                ($field:ident, $name:literal) => {
                    all.push(entry(format!("blocks.{l}.{}", $name), b.$field.view()))
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

    /// Returns the numbers of every tensor, in the order of [`tensors`](Params::tensors). Those of a stored matrix are
    /// expanded for this call.
    pub fn slices(&self) -> Vec<Cow<'_, [f32]>> {
        self.each().into_iter().map(Tensor::flat).collect()
    }

    /// Returns the same to write to; a stored matrix becomes one of its own.
    pub fn slices_mut(&mut self) -> Vec<&mut [f32]> {
        let mut all = vec![
            self.w_e.flat_mut(),
            self.ln_embed_w.flat_mut(),
            self.ln_embed_b.flat_mut(),
            self.w_pos.flat_mut(),
        ];
        for b in &mut self.blocks {
            macro_rules! each {
                ($field:ident, $name:literal) => {
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
        let mut all: Vec<Place> = vec![
            (&mut self.w_e).into(),
            (&mut self.ln_embed_w).into(),
            (&mut self.ln_embed_b).into(),
            (&mut self.w_pos).into(),
        ];
        for b in &mut self.blocks {
            macro_rules! each {
                ($field:ident, $name:literal) => {
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
        let mut all: Vec<&dyn Tensor> = vec![&self.w_e, &self.ln_embed_w, &self.ln_embed_b, &self.w_pos];
        for b in &self.blocks {
            macro_rules! each {
                ($field:ident, $name:literal) => {
                    all.push(&b.$field)
                };
            }
            block_fields!(each);
        }
        all.extend([&self.ln_final_w as &dyn Tensor, &self.ln_final_b, &self.w_u, &self.b_u]);
        all.retain(|tensor| tensor.count() > 0);
        all
    }

    /// Calls `see` with the numbers of one tensor after the other, in the order of [`tensors`](Params::tensors): of
    /// what is stored, one matrix at a time is expanded.
    pub(crate) fn for_each(&self, mut see: impl FnMut(&[f32])) {
        self.each().into_iter().for_each(|tensor| see(&tensor.flat()));
    }

    /// A hash of the numbers of each tensor, in the order of [`tensors`](Params::tensors), on all threads.
    pub(crate) fn hashes(&self) -> Vec<u64> {
        let hash = |tensor: &dyn Tensor| {
            let mut hash = Fnv::new("tensor");
            hash.numbers(&tensor.flat());
            hash.finish()
        };
        self.each().into_par_iter().map(hash).collect()
    }

    /// Counts the parameters.
    pub fn count(&self) -> usize {
        self.each().into_iter().map(Tensor::count).sum()
    }

    /// Returns how many bytes they take as they are kept, in memory or in a mapped file.
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
        self.w_u.apply(x, self.b_u.view(), Precision::F32)
    }

    /// Whether the unembedding has to be expanded before a product.
    pub(crate) fn unembedding_is_packed(&self) -> bool {
        if self.w_u.is_empty() { self.w_e.is_packed() } else { self.w_u.is_packed() }
    }

    /// Columns of the [`unembedding`](Params::unembedding) for a part of the vocabulary, `[d_model, part]`, without
    /// expanding the rest.
    pub(crate) fn unembedding_of(&self, part: Range<usize>) -> Array2<f32> {
        if self.w_u.is_empty() { self.w_e.columns(part, true) } else { self.w_u.columns(part, false) }
    }

    /// A copy whose matrices are expanded once, for many passes: as much memory as `f32` takes. Weights of its own are
    /// copied by this.
    pub(crate) fn expanded(&self) -> Params {
        let all = self.clone();
        let embeddings = [&all.w_e, &all.w_pos, &all.w_u];
        let matrices = all.blocks.iter().flat_map(BlockParams::matrices).chain(embeddings);
        matrices.collect::<Vec<_>>().into_par_iter().for_each(|matrix| matrix.expand(None));
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
