//! The `.bin` of llama2.c: a header of seven numbers, then the weights in a fixed order (Karpathy 2023, legacy format).

use std::path::Path;

use super::tensors::{check_finite, refuse};
use super::{Loaded, build, read_file};
use crate::Result;
use crate::model::{Bias, Config, Mlp, Norm, Positions, Rotary, Transformer};

impl Transformer {
    /// Reads a model of [llama2.c](https://github.com/karpathy/llama2.c), such as `stories260K.bin`: RMS norm, rotary
    /// positions on adjacent pairs, SwiGLU. Its tokenizer is a file of its own,
    /// [`PieceTokenizer`](crate::data::PieceTokenizer).
    ///
    /// The rotary tables in the file are not read: they follow from the configuration.
    pub fn from_llama2c(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        parse(&path.display().to_string(), &read_file(path)?)
    }
}

/// Numbers in the header, four bytes each.
const HEADER: usize = 7;

fn parse(shown: &str, bytes: &[u8]) -> Result<Transformer> {
    let not_one = |why: String| refuse(shown, why, "give a model file of llama2.c in its legacy format");
    let (words, rest) = bytes.as_chunks::<4>();
    if words.len() < HEADER || !rest.is_empty() {
        return Err(not_one(format!("is {} bytes long, which no model of llama2.c is", bytes.len())));
    }
    let header: Vec<i32> = words[..HEADER].iter().map(|&w| i32::from_le_bytes(w)).collect();
    // A negative vocabulary says that the unembedding is free.
    let tied = header[5] > 0;
    let sizes: Vec<usize> = header.iter().map(|n| n.unsigned_abs() as usize).collect();
    let [d_model, d_mlp, n_layers, n_heads, n_kv_heads, d_vocab, n_ctx] = sizes[..] else {
        unreachable!("the header has seven numbers")
    };
    let negative = header.iter().enumerate().any(|(i, &n)| i != 5 && n <= 0);
    if negative || d_vocab == 0 || !d_model.is_multiple_of(n_heads) {
        return Err(not_one(format!("begins with {header:?}, which are no sizes of a model")));
    }
    let config = Config {
        d_vocab,
        n_ctx,
        d_model,
        n_layers,
        n_heads,
        n_kv_heads: Some(n_kv_heads),
        d_head: d_model / n_heads,
        d_mlp,
        norm: Norm::Rms,
        eps: 1e-5,
        positions: Positions::Rotary(Rotary::default()),
        mlp: Mlp::SwiGlu,
        bias: Bias::NONE,
        bias_u: false,
        tied,
        ..Default::default()
    };
    config.check().map_err(|e| not_one(format!("describes a model that cannot be: {}", e.what())))?;
    let expected = super::count::n_params(&config) + (n_ctx * config.d_head) as u128;
    if expected != (words.len() - HEADER) as u128 {
        return Err(not_one(format!(
            "should hold {expected} numbers for the sizes {header:?}, and holds {}",
            words.len() - HEADER
        )));
    }
    let n = words.len() - HEADER;
    let params = build(&config, n, shown, |name, shape| {
        let (start, transposed) = place(&config, name);
        let len = shape.iter().product();
        let stored: Vec<f32> =
            words[HEADER + start..][..len].iter().map(|&w| f32::from_le_bytes(w)).collect();
        check_finite(shown, name, &stored)?;
        Ok(Loaded::Numbers(match (transposed, shape) {
            (true, [rows, columns]) => {
                (0..len).map(|at| stored[at % columns * rows + at / columns]).collect()
            }
            _ => stored,
        }))
    })?;
    Ok(Transformer { config, params })
}

/// Where our tensor begins among the numbers after the header, and whether it is stored as `[out, in]`. The file holds
/// each kind of weight for all layers, then the next kind.
fn place(c: &Config, name: &str) -> (usize, bool) {
    let (d, heads, kv) = (c.d_model, c.n_heads * c.d_head, c.n_kv_heads() * c.d_head);
    // In the order of the file; the tables of the cosines and sines come before a free unembedding.
    let kinds = [
        ("embed.W_E", c.d_vocab * d, 1),
        ("ln1.w", d, c.n_layers),
        ("attn.W_Q", d * heads, c.n_layers),
        ("attn.W_K", d * kv, c.n_layers),
        ("attn.W_V", d * kv, c.n_layers),
        ("attn.W_O", heads * d, c.n_layers),
        ("ln2.w", d, c.n_layers),
        ("mlp.W_gate", d * c.d_mlp, c.n_layers),
        ("mlp.W_out", d * c.d_mlp, c.n_layers),
        ("mlp.W_in", d * c.d_mlp, c.n_layers),
        ("ln_final.w", d, 1),
        ("rotary tables", c.n_ctx * c.d_head, 1),
        ("unembed.W_U", d * c.d_vocab, 1),
    ];
    let (layer, kind) = match name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
        Some((layer, kind)) => (layer.parse().expect("a block has a number"), kind),
        None => (0, name),
    };
    let mut start = 0;
    for (other, len, n) in kinds {
        if other == kind {
            return (start + layer * len, kind.contains(".W_") && kind != "embed.W_E");
        }
        start += len * n;
    }
    unreachable!("no place for {name}")
}
