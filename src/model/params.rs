//! The weights. A gradient, and each of AdamW's averages, is a `Params` too.

use ndarray::{Array1, Array2, ArrayView, ArrayView2, ArrayViewD, Dimension};

use super::Config;
use super::architecture::{Mlp, Norm, Positions};
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
    pub w_q: Array2<f32>,
    /// Bias of the queries, `[n_heads · d_head]`.
    pub b_q: Array1<f32>,
    /// Keys, `[d_model, n_kv_heads · d_head]`.
    pub w_k: Array2<f32>,
    /// Bias of the keys, `[n_kv_heads · d_head]`.
    pub b_k: Array1<f32>,
    /// Values, `[d_model, n_kv_heads · d_head]`.
    pub w_v: Array2<f32>,
    /// Bias of the values, `[n_kv_heads · d_head]`.
    pub b_v: Array1<f32>,
    /// Attention output, `[n_heads · d_head, d_model]`.
    pub w_o: Array2<f32>,
    /// Bias of the attention output, `[d_model]`.
    pub b_o: Array1<f32>,
    /// Gain of the norm before the MLP, `[d_model]`.
    pub ln2_w: Array1<f32>,
    /// Bias of the norm before the MLP, `[d_model]`.
    pub ln2_b: Array1<f32>,
    /// Gate of the MLP, `[d_model, d_mlp]`.
    pub w_gate: Array2<f32>,
    /// MLP in, `[d_model, d_mlp]`.
    pub w_in: Array2<f32>,
    /// Bias of the MLP's hidden layer, `[d_mlp]`.
    pub b_in: Array1<f32>,
    /// MLP out, `[d_mlp, d_model]`.
    pub w_out: Array2<f32>,
    /// Bias of the MLP's output, `[d_model]`.
    pub b_out: Array1<f32>,
}

/// All weights of a transformer. As in [`BlockParams`], what an architecture does not have is empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// Token embedding, `[d_vocab, d_model]`.
    pub w_e: Array2<f32>,
    /// Position embedding, `[n_ctx, d_model]`; empty unless positions are learned.
    pub w_pos: Array2<f32>,
    /// One per layer; a single one if it is looped.
    pub blocks: Vec<BlockParams>,
    /// Gain of the final norm, `[d_model]`.
    pub ln_final_w: Array1<f32>,
    /// Bias of the final norm, `[d_model]`.
    pub ln_final_b: Array1<f32>,
    /// Unembedding, `[d_model, d_vocab]`; empty if tied, see [`unembedding`](Params::unembedding).
    pub w_u: Array2<f32>,
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

impl BlockParams {
    fn zeros(c: &Config) -> Self {
        let (d, heads, kv_heads) = (c.d_model, c.n_heads * c.d_head, c.n_kv_heads() * c.d_head);
        let d_mlp = if c.mlp == Mlp::None { 0 } else { c.d_mlp };
        // With a width of zero a matrix and its gain vanish.
        let d_mlp_in = if c.mlp == Mlp::None { 0 } else { d };
        let bias = |n: usize| Array1::zeros(if c.bias { n } else { 0 });
        let matrix = |rows, columns| Array2::zeros((rows, columns));
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
        Params {
            w_e: Array2::zeros((c.d_vocab, c.d_model)),
            w_pos: match c.positions {
                Positions::Learned => Array2::zeros((c.n_ctx, c.d_model)),
                Positions::Rotary(_) | Positions::None => Array2::zeros((0, 0)),
            },
            blocks: (0..c.n_distinct_blocks()).map(|_| BlockParams::zeros(c)).collect(),
            ln_final_w: Array1::zeros(n_gains(c, c.d_model)),
            ln_final_b: Array1::zeros(n_norm_biases(c, c.d_model)),
            w_u: if c.tied { Array2::zeros((0, 0)) } else { Array2::zeros((c.d_model, c.d_vocab)) },
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
        if self.w_u.is_empty() { self.w_e.t() } else { self.w_u.view() }
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

    /// The numbers of every tensor, in the order of [`tensors`](Params::tensors).
    pub fn slices(&self) -> Vec<&[f32]> {
        let mut all: Vec<Option<&[f32]>> = vec![self.w_e.as_slice(), self.w_pos.as_slice()];
        for b in &self.blocks {
            macro_rules! each {
                ($field:ident) => {
                    all.push(b.$field.as_slice())
                };
            }
            block_fields!(each);
        }
        all.extend([
            self.ln_final_w.as_slice(),
            self.ln_final_b.as_slice(),
            self.w_u.as_slice(),
            self.b_u.as_slice(),
        ]);
        let all = all.into_iter().map(|s| s.expect("a parameter is stored row by row"));
        all.filter(|s| !s.is_empty()).collect()
    }

    /// The same to write to.
    pub fn slices_mut(&mut self) -> Vec<&mut [f32]> {
        let mut all = vec![self.w_e.as_slice_mut(), self.w_pos.as_slice_mut()];
        for b in &mut self.blocks {
            macro_rules! each {
                ($field:ident) => {
                    all.push(b.$field.as_slice_mut())
                };
            }
            block_fields!(each);
        }
        all.extend([
            self.ln_final_w.as_slice_mut(),
            self.ln_final_b.as_slice_mut(),
            self.w_u.as_slice_mut(),
            self.b_u.as_slice_mut(),
        ]);
        let all = all.into_iter().map(|s| s.expect("a parameter is stored row by row"));
        all.filter(|s| !s.is_empty()).collect()
    }

    /// Number of parameters.
    pub fn count(&self) -> usize {
        self.slices().iter().map(|s| s.len()).sum()
    }

    /// Takes over the numbers of `other`, which has the same shapes.
    pub(crate) fn copy_from(&mut self, other: &Params) {
        self.slices_mut().into_iter().zip(other.slices()).for_each(|(a, b)| a.copy_from_slice(b));
    }

    /// Sets every number to zero.
    pub(crate) fn clear(&mut self) {
        self.slices_mut().into_iter().for_each(|a| a.fill(0.0));
    }
}

fn fill(w: &mut Array2<f32>, std: f64, rng: &mut Rng) {
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
