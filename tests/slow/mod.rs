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
            embed.row_mut(t).assign(&(&w_e.row(token as usize) * c.embed_scale));
        }
        if c.embed_norm {
            embed = self.norm("embed.ln", sequence, &embed, None, tap);
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
        let (inputs, outputs, sums) = match c.norm_at {
            NormAt::Input => (true, false, false),
            NormAt::Output => (false, true, false),
            NormAt::InputAndOutput => (true, true, false),
            NormAt::Sum => (false, false, true),
        };
        let ln = |name: &str, x: &Array2<f64>, hooks: (Hook, Hook)| {
            self.norm(&format!("blocks.{b}.{name}"), sequence, x, Some(hooks), tap)
        };
        let (ln1, ln2) =
            ((Hook::Ln1Scale(l), Hook::Ln1Normalized(l)), (Hook::Ln2Scale(l), Hook::Ln2Normalized(l)));
        at(tap, Hook::ResidPre(l), sequence, &mut pre);
        let read = if inputs { ln("ln1", &pre, ln1) } else { pre.clone() };
        let mut attn_out = self.attention(b, l, sequence, &read, tap);
        if outputs {
            attn_out = ln("ln1_post", &attn_out, (Hook::Ln1PostScale(l), Hook::Ln1PostNormalized(l)));
        }
        attn_out *= c.resid_scale;
        at(tap, Hook::AttnOut(l), sequence, &mut attn_out);
        let mlp = |x: &Array2<f64>| {
            let read = match (c.residual, inputs) {
                (Residual::ParallelOneNorm, _) => read.clone(),
                (_, true) => ln("ln2", x, ln2),
                (_, false) => x.clone(),
            };
            let mut out = self.mlp(b, l, sequence, &read, tap);
            if outputs {
                out = ln("ln2_post", &out, (Hook::Ln2PostScale(l), Hook::Ln2PostNormalized(l)));
            }
            out *= c.resid_scale;
            at(tap, Hook::MlpOut(l), sequence, &mut out);
            out
        };
        let mut post = match (c.residual, c.mlp != Mlp::None) {
            (Residual::Parallel | Residual::ParallelOneNorm, _) => &pre + &attn_out + mlp(&pre),
            (Residual::Sequential, has_mlp) => {
                let mut mid = pre + attn_out;
                if sums {
                    mid = ln("ln1", &mid, ln1);
                }
                at(tap, Hook::ResidMid(l), sequence, &mut mid);
                let post = if has_mlp { &mid + mlp(&mid) } else { mid };
                if sums && has_mlp { ln("ln2", &post, ln2) } else { post }
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
        hooks: Option<(Hook, Hook)>,
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
        if let Some((scale, _)) = hooks {
            at(tap, scale, sequence, &mut scales);
        }
        y /= &scales;
        let gain = self.vector(&format!("{name}.w"), 1.0, x.ncols());
        let bias = self.vector(&format!("{name}.b"), 0.0, x.ncols());
        let mut out = y * &gain + &bias;
        if let Some((_, normalized)) = hooks {
            at(tap, normalized, sequence, &mut out);
        }
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
        // Queries and keys of a position by the root of their mean square, head by head or all together.
        let normalise = |x: &mut Array3<f64>, gain: &str| {
            let gain = self.vector(&format!("blocks.{b}.attn.{gain}.w"), 1.0, 0);
            let root = |x: &mut dyn Iterator<Item = f64>| {
                let all: Vec<f64> = x.collect();
                (all.iter().map(|x| x * x).sum::<f64>() / all.len() as f64 + c.eps).sqrt()
            };
            for mut x in x.outer_iter_mut() {
                let whole = root(&mut x.iter().copied());
                for (h, mut x) in x.outer_iter_mut().enumerate() {
                    let scale = match c.qk_norm {
                        QkNorm::None => return,
                        QkNorm::Head => root(&mut x.iter().copied()),
                        QkNorm::AllHeads => whole,
                    };
                    for (i, x) in x.iter_mut().enumerate() {
                        *x *= gain[(h * c.d_head + i) % gain.len()] / scale;
                    }
                }
            }
        };
        normalise(&mut q, "q_norm");
        normalise(&mut k, "k_norm");
        let kind =
            if c.layers.is_empty() { Default::default() } else { c.layers[l % c.layers.len()].clone() };
        if let Positions::Rotary(r) = kind.positions.as_ref().unwrap_or(&c.positions) {
            turn(&mut q, r, c.d_head);
            turn(&mut k, r, c.d_head);
            at(tap, Hook::RotQ(l), sequence, &mut q);
            at(tap, Hook::RotK(l), sequence, &mut k);
        }
        let mut scores = Array3::zeros((c.n_heads, n_pos, n_pos));
        for ((h, i, j), score) in scores.indexed_iter_mut() {
            let kv = h / (c.n_heads / n_kv);
            let product = q.slice(s![i, h, ..]).dot(&k.slice(s![j, kv, ..]));
            let near = kind.window.is_none_or(|n| j + n > i);
            *score = match (c.attention, sees(c.mask, i, j) && near) {
                (Attention::Softmax, true) => {
                    let scaled = match c.attention_scale {
                        AttentionScale::Head => product / (c.d_head as f64).sqrt(),
                        AttentionScale::Fixed { scale, by_layer } => {
                            product * scale / if by_layer { l as f64 + 1.0 } else { 1.0 }
                        }
                    };
                    let capped = c.attention_cap.map_or(scaled, |cap| cap * (scaled / cap).tanh());
                    // A geometric row of slopes, for a number of heads that is a power of two.
                    let slope = 2_f64.powf(-8.0 * (h + 1) as f64 / c.n_heads as f64);
                    let far = i as f64 - j as f64;
                    if c.positions == Positions::Alibi { capped - slope * far } else { capped }
                }
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
        let gelu_tanh = |x: f64| {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        };
        let f = |x: f64| match c.mlp {
            Mlp::GeluTanh | Mlp::GeGluTanh => gelu_tanh(x),
            Mlp::Gelu => 0.5 * x * (1.0 + erf(x / 2_f64.sqrt())),
            Mlp::Relu => x.max(0.0),
            Mlp::SwiGlu => x / (1.0 + (-x).exp()),
            Mlp::None => unreachable!("there is no MLP"),
        };
        let (w_in, w_out) = (self.matrix(&name("W_in")), self.matrix(&name("W_out")));
        if let Some(experts) = c.experts {
            let (w_gate, fit) = (self.matrix(&name("W_gate")), x.dot(&self.matrix(&name("W_router"))));
            let mut out = Array2::zeros(x.dim());
            for t in 0..x.nrows() {
                let mut best: Vec<usize> = (0..experts.n).collect();
                best.sort_by(|&a, &b| fit[(t, b)].total_cmp(&fit[(t, a)]));
                best.truncate(experts.n_chosen);
                let total: f64 = best.iter().map(|&e| fit[(t, e)].exp()).sum();
                for e in best {
                    let (wide, narrow) = (e * c.d_model..(e + 1) * c.d_model, e * c.d_mlp..(e + 1) * c.d_mlp);
                    let gate = x.row(t).dot(&w_gate.slice(s![wide.clone(), ..])).mapv(f);
                    let hidden = gate * x.row(t).dot(&w_in.slice(s![wide, ..]));
                    out.row_mut(t)
                        .scaled_add(fit[(t, e)].exp() / total, &hidden.dot(&w_out.slice(s![narrow, ..])));
                }
            }
            return out;
        }
        let mut hidden = x.dot(&w_in) + self.vector(&name("b_in"), 0.0, c.d_mlp);
        let mut post;
        if matches!(c.mlp, Mlp::SwiGlu | Mlp::GeGluTanh) {
            let mut gate = x.dot(&self.matrix(&name("W_gate"))) + self.vector(&name("b_gate"), 0.0, c.d_mlp);
            at(tap, Hook::MlpPre(l), sequence, &mut gate);
            at(tap, Hook::MlpPreLinear(l), sequence, &mut hidden);
            post = gate.mapv(f) * hidden;
        } else {
            at(tap, Hook::MlpPre(l), sequence, &mut hidden);
            post = hidden.mapv(f);
        }
        at(tap, Hook::MlpPost(l), sequence, &mut post);
        post.dot(&w_out) + self.vector(&name("b_out"), 0.0, c.d_model)
    }

    fn unembed(&self, sequence: usize, h: &Array2<f64>, tap: &Tap) -> Array2<f64> {
        let c = &self.config;
        let x = match c.norm_at {
            NormAt::Sum => h.clone(),
            NormAt::Input | NormAt::Output | NormAt::InputAndOutput => {
                self.norm("ln_final", sequence, h, Some((Hook::LnFinalScale, Hook::LnFinalNormalized)), tap)
            }
        };
        let w_u = if c.tied { self.matrix("embed.W_E").reversed_axes() } else { self.matrix("unembed.W_U") };
        let logits = (x.dot(&w_u) + self.vector("unembed.b_U", 0.0, c.d_vocab)) * c.logit_scale;
        c.logit_cap.map_or(logits.clone(), |cap| logits.mapv(|x| cap * (x / cap).tanh()))
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
