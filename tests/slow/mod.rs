//! A transformer written down once more, slowly: one sequence, one position, one head at a time, in f64, with a tap at
//! every hook. It shares nothing with the library but the names of weights and hooks.

use std::collections::HashMap;

use ndarray::{Array1, Array2, Array3, ArrayD, ArrayView1, Axis, Ix1, Ix2, s};
use onelens::model::*;

/// Called at every hook with the sequence's number and its activation, without the batch axis.
pub(crate) type Tap<'a> = dyn Fn(Hook, usize, &mut ArrayD<f64>) + 'a;

pub(crate) struct Slow {
    pub(crate) config: Config,
    pub(crate) weights: HashMap<String, ArrayD<f64>>,
}

impl Slow {
    pub(crate) fn of(model: &Transformer) -> Slow {
        let weights = model.params.tensors().into_iter().map(|(name, t)| (name, t.mapv(f64::from))).collect();
        Slow { config: model.config.clone(), weights }
    }

    fn matrix(&self, name: &str) -> Array2<f64> {
        self.weights[name].clone().into_dimensionality::<Ix2>().unwrap()
    }

    fn vector(&self, name: &str, or: f64, len: usize) -> Array1<f64> {
        match self.weights.get(name) {
            Some(v) => v.clone().into_dimensionality::<Ix1>().unwrap(),
            None => Array1::from_elem(len, or),
        }
    }

    /// `[pos, d_vocab]` of each layer's reading; the last is the model's.
    pub(crate) fn logits(&self, sequence: usize, tokens: &[u32], tap: &Tap) -> Vec<Array2<f64>> {
        let c = &self.config;
        let n_pos = tokens.len();
        let w_e = self.matrix("embed.W_E");
        let mut embed = Array2::zeros((n_pos, c.d_model));
        for (t, &token) in tokens.iter().enumerate() {
            embed.row_mut(t).assign(&w_e.row(token as usize));
        }
        at(tap, Hook::Embed, sequence, &mut embed);
        if c.positions == Positions::Learned {
            let mut positions = self.matrix("pos_embed.W_pos").slice(s![..n_pos, ..]).to_owned();
            at(tap, Hook::PosEmbed, sequence, &mut positions);
            embed += &positions;
        }
        let mut stream = embed.clone();
        let mut readings = Vec::new();
        for l in 0..c.n_layers {
            if let Blocks::Looped { inject: true } = c.blocks
                && l > 0
            {
                stream += &embed;
            }
            stream = self.block(l, sequence, stream, tap);
            let quiet: &Tap = &|_, _, _| ();
            readings.push(self.unembed(sequence, &stream, if l + 1 == c.n_layers { tap } else { quiet }));
        }
        readings
    }

    /// The training loss over whole sequences.
    pub(crate) fn loss(&self, tokens: &Array2<u32>, tap: &Tap) -> f64 {
        let c = &self.config;
        let n_pos = tokens.ncols() - 1;
        let (mut total, mut n) = (0.0, 0);
        for (i, sequence) in tokens.rows().into_iter().enumerate() {
            let sequence = sequence.to_vec();
            let mut readings = self.logits(i, &sequence[..n_pos], tap);
            if c.supervision == Supervision::Final {
                readings = readings.split_off(c.n_layers - 1);
            }
            for logits in readings {
                for t in 0..n_pos {
                    if t + 1 < n_pos && sees(c.mask, t, t + 1) {
                        continue; // the answer lies open
                    }
                    let row = logits.row(t);
                    total += log_sum_exp(row) - row[sequence[t + 1] as usize];
                    n += 1;
                }
            }
        }
        total / f64::from(n)
    }

    fn block(&self, l: usize, sequence: usize, mut pre: Array2<f64>, tap: &Tap) -> Array2<f64> {
        let c = &self.config;
        let b = if c.blocks == Blocks::Distinct { l } else { 0 };
        at(tap, Hook::ResidPre(l), sequence, &mut pre);
        let read = self.norm(
            &format!("blocks.{b}.ln1"),
            sequence,
            &pre,
            Hook::Ln1Scale(l),
            Hook::Ln1Normalized(l),
            tap,
        );
        let mut attn_out = self.attention(b, l, sequence, &read, tap);
        at(tap, Hook::AttnOut(l), sequence, &mut attn_out);
        let mlp = |x: &Array2<f64>| {
            let ln2 = format!("blocks.{b}.ln2");
            let read = self.norm(&ln2, sequence, x, Hook::Ln2Scale(l), Hook::Ln2Normalized(l), tap);
            let mut out = self.mlp(b, l, sequence, &read, tap);
            at(tap, Hook::MlpOut(l), sequence, &mut out);
            out
        };
        let mut post = match (c.residual, c.mlp != Mlp::None) {
            (Residual::Parallel, _) => &pre + &attn_out + mlp(&pre),
            (Residual::Sequential, has_mlp) => {
                let mut mid = pre + attn_out;
                at(tap, Hook::ResidMid(l), sequence, &mut mid);
                if has_mlp { &mid + mlp(&mid) } else { mid }
            }
            (Residual::None, has_mlp) => {
                let mut mid = attn_out;
                at(tap, Hook::ResidMid(l), sequence, &mut mid);
                if has_mlp { mlp(&mid) } else { mid }
            }
        };
        at(tap, Hook::ResidPost(l), sequence, &mut post);
        post
    }

    fn norm(
        &self,
        name: &str,
        sequence: usize,
        x: &Array2<f64>,
        scale: Hook,
        normalized: Hook,
        tap: &Tap,
    ) -> Array2<f64> {
        let c = &self.config;
        if c.norm == Norm::None {
            return x.clone();
        }
        let d = x.ncols() as f64;
        let mut y = x.clone();
        if c.norm == Norm::Layer {
            for mut row in y.rows_mut() {
                let mean = row.sum() / d;
                row.mapv_inplace(|x| x - mean);
            }
        }
        let mut scales = Array2::from_shape_fn((x.nrows(), 1), |(t, _)| {
            (y.row(t).iter().map(|x| x * x).sum::<f64>() / d + c.eps).sqrt()
        });
        at(tap, scale, sequence, &mut scales);
        y /= &scales;
        let gain = self.vector(&format!("{name}.w"), 1.0, x.ncols());
        let bias = self.vector(&format!("{name}.b"), 0.0, x.ncols());
        let mut out = y * &gain + &bias;
        at(tap, normalized, sequence, &mut out);
        out
    }

    fn attention(&self, b: usize, l: usize, sequence: usize, x: &Array2<f64>, tap: &Tap) -> Array2<f64> {
        let c = &self.config;
        let n_pos = x.nrows();
        let project = |which: &str, heads: usize| -> Array3<f64> {
            let width = heads * c.d_head;
            let y = x.dot(&self.matrix(&format!("blocks.{b}.attn.W_{which}")))
                + self.vector(&format!("blocks.{b}.attn.b_{which}"), 0.0, width);
            y.into_shape_with_order((n_pos, heads, c.d_head)).unwrap()
        };
        let n_kv = c.n_kv_heads.unwrap_or(c.n_heads);
        let (mut q, mut k, mut v) = (project("Q", c.n_heads), project("K", n_kv), project("V", n_kv));
        at(tap, Hook::Q(l), sequence, &mut q);
        at(tap, Hook::K(l), sequence, &mut k);
        at(tap, Hook::V(l), sequence, &mut v);
        if let Positions::Rotary(r) = &c.positions {
            turn(&mut q, r, c.d_head);
            turn(&mut k, r, c.d_head);
            at(tap, Hook::RotQ(l), sequence, &mut q);
            at(tap, Hook::RotK(l), sequence, &mut k);
        }
        let mut scores = Array3::zeros((c.n_heads, n_pos, n_pos));
        for ((h, i, j), score) in scores.indexed_iter_mut() {
            let kv = h / (c.n_heads / n_kv);
            let product = q.slice(s![i, h, ..]).dot(&k.slice(s![j, kv, ..]));
            *score = match (c.attention, sees(c.mask, i, j)) {
                (Attention::Softmax, true) => product / (c.d_head as f64).sqrt(),
                (Attention::Softmax, false) => f64::NEG_INFINITY,
                (Attention::Linear, true) => product,
                (Attention::Linear, false) => 0.0,
            };
        }
        let mut pattern = scores;
        if c.attention == Attention::Softmax {
            at(tap, Hook::AttnScores(l), sequence, &mut pattern);
            for mut row in pattern.rows_mut() {
                let log_z = log_sum_exp(row.view());
                row.mapv_inplace(|x| (x - log_z).exp());
            }
        }
        at(tap, Hook::Pattern(l), sequence, &mut pattern);
        let mut z = Array3::zeros((n_pos, c.n_heads, c.d_head));
        for h in 0..c.n_heads {
            let kv = h / (c.n_heads / n_kv);
            let gathered = pattern.slice(s![h, .., ..]).dot(&v.slice(s![.., kv, ..]));
            z.slice_mut(s![.., h, ..]).assign(&gathered);
        }
        at(tap, Hook::Z(l), sequence, &mut z);
        let w_o = self.matrix(&format!("blocks.{b}.attn.W_O"));
        let mut result = Array3::zeros((n_pos, c.n_heads, c.d_model));
        for h in 0..c.n_heads {
            let written = z.slice(s![.., h, ..]).dot(&w_o.slice(s![h * c.d_head..(h + 1) * c.d_head, ..]));
            result.slice_mut(s![.., h, ..]).assign(&written);
        }
        at(tap, Hook::Result(l), sequence, &mut result);
        result.sum_axis(Axis(1)) + self.vector(&format!("blocks.{b}.attn.b_O"), 0.0, c.d_model)
    }

    fn mlp(&self, b: usize, l: usize, sequence: usize, x: &Array2<f64>, tap: &Tap) -> Array2<f64> {
        let c = &self.config;
        let name = |which: &str| format!("blocks.{b}.mlp.{which}");
        let mut hidden = x.dot(&self.matrix(&name("W_in"))) + self.vector(&name("b_in"), 0.0, c.d_mlp);
        let mut post;
        if c.mlp == Mlp::SwiGlu {
            let mut gate = x.dot(&self.matrix(&name("W_gate")));
            at(tap, Hook::MlpPre(l), sequence, &mut gate);
            at(tap, Hook::MlpPreLinear(l), sequence, &mut hidden);
            post = gate.mapv(|x| x / (1.0 + (-x).exp())) * hidden;
        } else {
            at(tap, Hook::MlpPre(l), sequence, &mut hidden);
            post = hidden.mapv(|x| match c.mlp {
                Mlp::Relu => x.max(0.0),
                Mlp::Gelu => 0.5 * x * (1.0 + erf(x / 2_f64.sqrt())),
                _ => {
                    0.5 * x
                        * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
                }
            });
        }
        at(tap, Hook::MlpPost(l), sequence, &mut post);
        post.dot(&self.matrix(&name("W_out"))) + self.vector(&name("b_out"), 0.0, c.d_model)
    }

    fn unembed(&self, sequence: usize, h: &Array2<f64>, tap: &Tap) -> Array2<f64> {
        let c = &self.config;
        let x = self.norm("ln_final", sequence, h, Hook::LnFinalScale, Hook::LnFinalNormalized, tap);
        let w_u = if c.tied { self.matrix("embed.W_E").reversed_axes() } else { self.matrix("unembed.W_U") };
        x.dot(&w_u) + self.vector("unembed.b_U", 0.0, c.d_vocab)
    }
}

fn log_sum_exp(row: ArrayView1<f64>) -> f64 {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + row.mapv(|x| (x - max).exp()).sum().ln()
}

/// Whether the query at `i` sees the key at `j`.
fn sees(mask: Mask, i: usize, j: usize) -> bool {
    match mask {
        Mask::Causal => j <= i,
        Mask::Prefix(n) => j <= i || j < n,
        Mask::None => true,
    }
}

/// Complex multiplication of each pair with `exp(i t θ^(-2 i / d))`.
fn turn(x: &mut Array3<f64>, r: &Rotary, d_head: usize) {
    let d = r.d_rotary.unwrap_or(d_head);
    for (t, mut x) in x.outer_iter_mut().enumerate() {
        for mut x in x.rows_mut() {
            let before = x.to_owned();
            for i in 0..d / 2 {
                let (a, b) = match r.pairs {
                    Pairs::Adjacent => (2 * i, 2 * i + 1),
                    Pairs::Half => (i, i + d / 2),
                };
                let angle = t as f64 / r.theta.powf(2.0 * i as f64 / d as f64);
                x[a] = before[a] * angle.cos() - before[b] * angle.sin();
                x[b] = before[b] * angle.cos() + before[a] * angle.sin();
            }
        }
    }
}

/// The Maclaurin series, enough for small arguments; beyond 5 it is 1 to 12 digits.
fn erf(x: f64) -> f64 {
    if x.abs() > 5.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn at<D: ndarray::Dimension>(tap: &Tap, hook: Hook, sequence: usize, x: &mut ndarray::Array<f64, D>) {
    let shape = x.raw_dim();
    let mut dynamic = std::mem::replace(x, ndarray::Array::zeros(D::zeros(shape.ndim()))).into_dyn();
    tap(hook, sequence, &mut dynamic);
    *x = dynamic.into_dimensionality().unwrap();
}
