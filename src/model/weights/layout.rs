//! Where each family of Hugging Face checkpoints keeps a tensor of ours.

use super::Loaded;
use super::tensors::Tensors;
use crate::Result;

/// The families that are read, by their `model_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Gpt2,
    Llama,
    NeoX,
}

/// How a stored tensor becomes ours. Ours are `[in, out]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// As it is.
    AsIs,
    /// From `[out, in]`.
    Transposed,
    /// Third `i` of the columns of `[in, 3 · out]`, or of a bias `[3 · out]`.
    ThirdOfColumns(usize),
    /// Third `i` of the rows of every head of `[n_heads · 3 · d_head, in]`, or of such a bias.
    ThirdOfHeads(usize),
}

/// The stored name of our tensor `name`, and how to get from there to here. Panics on a name that is not ours.
pub(super) fn place(family: Family, prefix: &str, name: &str) -> (String, How) {
    match name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
        Some((layer, name)) => {
            let (stored, how) = match family {
                Family::Gpt2 => gpt2_block(name),
                Family::Llama => llama_block(name),
                Family::NeoX => neox_block(name),
            };
            let blocks = if family == Family::Gpt2 { "h" } else { "layers" };
            (format!("{prefix}{blocks}.{layer}.{stored}"), how)
        }
        None => outside_blocks(family, prefix, name),
    }
}

fn outside_blocks(family: Family, prefix: &str, name: &str) -> (String, How) {
    let (embedding, final_norm, unembedding) = match family {
        Family::Gpt2 => ("wte", "ln_f", "lm_head"),
        Family::Llama => ("embed_tokens", "norm", "lm_head"),
        Family::NeoX => ("embed_in", "final_layer_norm", "embed_out"),
    };
    match name {
        "embed.W_E" => (format!("{prefix}{embedding}.weight"), How::AsIs),
        "pos_embed.W_pos" => (format!("{prefix}wpe.weight"), How::AsIs),
        "ln_final.w" => (format!("{prefix}{final_norm}.weight"), How::AsIs),
        "ln_final.b" => (format!("{prefix}{final_norm}.bias"), How::AsIs),
        "unembed.W_U" => (format!("{unembedding}.weight"), How::Transposed),
        other => unreachable!("no place for {other}"),
    }
}

fn gpt2_block(name: &str) -> (&'static str, How) {
    match name {
        "ln1.w" => ("ln_1.weight", How::AsIs),
        "ln1.b" => ("ln_1.bias", How::AsIs),
        "attn.W_Q" => ("attn.c_attn.weight", How::ThirdOfColumns(0)),
        "attn.b_Q" => ("attn.c_attn.bias", How::ThirdOfColumns(0)),
        "attn.W_K" => ("attn.c_attn.weight", How::ThirdOfColumns(1)),
        "attn.b_K" => ("attn.c_attn.bias", How::ThirdOfColumns(1)),
        "attn.W_V" => ("attn.c_attn.weight", How::ThirdOfColumns(2)),
        "attn.b_V" => ("attn.c_attn.bias", How::ThirdOfColumns(2)),
        "attn.W_O" => ("attn.c_proj.weight", How::AsIs),
        "attn.b_O" => ("attn.c_proj.bias", How::AsIs),
        "ln2.w" => ("ln_2.weight", How::AsIs),
        "ln2.b" => ("ln_2.bias", How::AsIs),
        "mlp.W_in" => ("mlp.c_fc.weight", How::AsIs),
        "mlp.b_in" => ("mlp.c_fc.bias", How::AsIs),
        "mlp.W_out" => ("mlp.c_proj.weight", How::AsIs),
        "mlp.b_out" => ("mlp.c_proj.bias", How::AsIs),
        other => unreachable!("no place for {other}"),
    }
}

fn llama_block(name: &str) -> (&'static str, How) {
    match name {
        "ln1.w" => ("input_layernorm.weight", How::AsIs),
        "attn.W_Q" => ("self_attn.q_proj.weight", How::Transposed),
        "attn.W_K" => ("self_attn.k_proj.weight", How::Transposed),
        "attn.W_V" => ("self_attn.v_proj.weight", How::Transposed),
        "attn.W_O" => ("self_attn.o_proj.weight", How::Transposed),
        "ln2.w" => ("post_attention_layernorm.weight", How::AsIs),
        "mlp.W_gate" => ("mlp.gate_proj.weight", How::Transposed),
        "mlp.W_in" => ("mlp.up_proj.weight", How::Transposed),
        "mlp.W_out" => ("mlp.down_proj.weight", How::Transposed),
        other => unreachable!("no place for {other}"),
    }
}

fn neox_block(name: &str) -> (&'static str, How) {
    match name {
        "ln1.w" => ("input_layernorm.weight", How::AsIs),
        "ln1.b" => ("input_layernorm.bias", How::AsIs),
        "attn.W_Q" => ("attention.query_key_value.weight", How::ThirdOfHeads(0)),
        "attn.b_Q" => ("attention.query_key_value.bias", How::ThirdOfHeads(0)),
        "attn.W_K" => ("attention.query_key_value.weight", How::ThirdOfHeads(1)),
        "attn.b_K" => ("attention.query_key_value.bias", How::ThirdOfHeads(1)),
        "attn.W_V" => ("attention.query_key_value.weight", How::ThirdOfHeads(2)),
        "attn.b_V" => ("attention.query_key_value.bias", How::ThirdOfHeads(2)),
        "attn.W_O" => ("attention.dense.weight", How::Transposed),
        "attn.b_O" => ("attention.dense.bias", How::AsIs),
        "ln2.w" => ("post_attention_layernorm.weight", How::AsIs),
        "ln2.b" => ("post_attention_layernorm.bias", How::AsIs),
        "mlp.W_in" => ("mlp.dense_h_to_4h.weight", How::Transposed),
        "mlp.b_in" => ("mlp.dense_h_to_4h.bias", How::AsIs),
        "mlp.W_out" => ("mlp.dense_4h_to_h.weight", How::Transposed),
        "mlp.b_out" => ("mlp.dense_4h_to_h.bias", How::AsIs),
        other => unreachable!("no place for {other}"),
    }
}

impl How {
    /// The shape in which a tensor that is ours as `shape` is stored.
    pub(super) fn stored_shape(self, shape: &[usize]) -> Vec<usize> {
        match (self, shape) {
            (How::Transposed, [rows, columns]) => vec![*columns, *rows],
            (How::ThirdOfColumns(_), [rows, columns]) => vec![*rows, 3 * columns],
            (How::ThirdOfHeads(_), [rows, columns]) => vec![3 * columns, *rows],
            (How::ThirdOfColumns(_) | How::ThirdOfHeads(_), [n]) => vec![3 * n],
            _ => shape.to_vec(),
        }
    }

    /// Our tensor of `shape`, stored under `name`: a matrix stays as it is stored, a vector becomes ours.
    pub(super) fn load(
        self,
        tensors: &mut Tensors,
        name: &str,
        shape: &[usize],
        d_head: usize,
    ) -> Result<Loaded> {
        let stored = self.stored_shape(shape);
        let &[_, columns] = shape else {
            return Ok(Loaded::Numbers(self.ours(tensors.take(name, &stored)?, shape, d_head)));
        };
        let transposed = match self {
            How::AsIs | How::ThirdOfColumns(_) => false,
            How::Transposed | How::ThirdOfHeads(_) => true,
        };
        let matrix = tensors.take_matrix(name, &stored, transposed)?;
        Ok(Loaded::Stored(match self {
            How::AsIs | How::Transposed => matrix,
            How::ThirdOfColumns(third) => matrix.with_columns(third * columns..(third + 1) * columns),
            How::ThirdOfHeads(third) => {
                let row = |j: usize| j / d_head * 3 * d_head + third * d_head + j % d_head;
                matrix.with_rows((0..columns).map(|j| row(j) as u32).collect())
            }
        }))
    }

    /// Our numbers of `shape`, from the stored ones.
    pub(super) fn ours(self, stored: Vec<f32>, shape: &[usize], d_head: usize) -> Vec<f32> {
        let (rows, columns) = match shape {
            [columns] => (1, *columns),
            [rows, columns] => (*rows, *columns),
            _ => return stored,
        };
        let at = |f: &dyn Fn(usize, usize) -> usize| {
            (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))).map(|(i, j)| stored[f(i, j)]).collect()
        };
        match self {
            How::AsIs => stored,
            How::Transposed => at(&|i, j| j * rows + i),
            How::ThirdOfColumns(third) => at(&|i, j| i * 3 * columns + third * columns + j),
            How::ThirdOfHeads(third) => {
                at(&|i, j| (j / d_head * 3 * d_head + third * d_head + j % d_head) * rows + i)
            }
        }
    }
}
