//! The attention of a block with its hooks: forward next to backward.

use std::ops::Range;
use std::sync::PoisonError;

use ndarray::{
    Array1, Array2, Array4, ArrayView1, ArrayView2, ArrayViewMut1, Axis, Ix2, SliceInfo, SliceInfoElem, s,
};

use super::architecture::{Attention, QkNorm};
use super::network::{Network, Past};
use super::taps::Taps;
use super::{BlockParams, Hook, Matrix};
use crate::nn::{
    Head, HeadMut, HeadWork, Norm, Scoring, attention_scores, attention_scores_backward, gain_bias,
    gain_bias_backward_in, linear_attention, linear_attention_backward, linear_backward, linear_backward_to,
    mask_rows, rotary_backward, rotary_in, softmax_backward, softmax_rows,
};
use crate::num::{add_matmul, dot, largest, matmul, matmul_into, wide};

/// What attention did; rows are `sequence · pos`, heads side by side. Without a tape all is empty.
#[derive(Clone, Default)]
pub(crate) struct AttentionTape {
    /// What is compared: turned, if positions are rotary.
    q: Array2<f32>,
    k: Array2<f32>,
    v: Array2<f32>,
    /// What normalised the queries and the keys, if that is done.
    q_norm: Option<QkTape>,
    k_norm: Option<QkTape>,
    /// `[sequence, head, query pos, key pos]`.
    pattern: Array4<f32>,
    /// What the softmax gave before an intervention changed it.
    unchanged_pattern: Option<Array4<f32>>,
    z: Array2<f32>,
}

/// `x: [sequence · pos, d_model]` to what attention adds.
pub(crate) fn attend(
    net: &Network,
    l: usize,
    x: ArrayView2<f32>,
    taps: &mut Taps,
) -> (AttentionTape, Array2<f32>) {
    let (c, p) = (net.config, net.block(l));
    let mut q = p.w_q.apply(x, p.b_q.view(), net.precision);
    let mut k = p.w_k.apply(x, p.b_k.view(), net.precision);
    let mut v = p.w_v.apply(x, p.b_v.view(), net.precision);
    taps.forward(Hook::Q(l), &mut q);
    taps.forward(Hook::K(l), &mut k);
    taps.forward(Hook::V(l), &mut v);
    let (mut q_norm, mut k_norm) = (None, None);
    if let Some(width) = qk_width(net, c.n_heads) {
        (q, q_norm) = qk_norm(q, width, c.eps, p.q_norm.view());
    }
    if let Some(width) = qk_width(net, c.n_kv_heads()) {
        (k, k_norm) = qk_norm(k, width, c.eps, p.k_norm.view());
    }
    if let Some(table) = net.rotary(l) {
        rotary_in(&mut q, c.d_head, table);
        rotary_in(&mut k, c.d_head, table);
        taps.forward(Hook::RotQ(l), &mut q);
        taps.forward(Hook::RotK(l), &mut k);
    }
    if let Some(past) = &net.past {
        let z = attend_after(net, l, &q, &k, &v, &mut past.lock().unwrap_or_else(PoisonError::into_inner));
        let out = p.w_o.apply(z.view(), p.b_o.view(), net.precision);
        return (AttentionTape::default(), out);
    }
    let n_seqs = x.nrows() / net.n_pos;
    let (mut pattern, mut unchanged_pattern) = (Array4::zeros((0, 0, 0, 0)), None);
    let all_patterns = || Array4::zeros((n_seqs, c.n_heads, net.n_pos, net.n_pos));
    let mut z = Array2::zeros(q.dim());
    if changes_pattern(l, taps) {
        pattern = all_patterns();
        unchanged_pattern = patterns(net, l, &q, &k, &mut pattern, taps);
        for_heads(net, n_seqs, |sequence, head, at, kv_at| {
            let pattern = pattern.slice(s![sequence, head, .., ..]);
            matmul_into(z.slice_mut(at), pattern, v.slice(kv_at));
        });
    } else {
        match c.attention {
            Attention::Softmax if taps.keeps_tape() => {
                pattern = all_patterns();
                let to = pattern.as_slice_mut().expect("contiguous");
                attend_softmax(net, l, [&q, &k, &v], &mut z, Some(to), taps.place(Hook::AttnScores(l)));
                taps.forward(Hook::Pattern(l), &mut pattern);
            }
            Attention::Softmax => {
                let [patterns, scores] = taps.places([Hook::Pattern(l), Hook::AttnScores(l)]);
                attend_softmax(net, l, [&q, &k, &v], &mut z, patterns, scores);
            }
            Attention::Linear => {
                pattern = all_patterns();
                for_heads(net, n_seqs, |sequence, head, at, kv_at| {
                    let (head_z, head_pattern) =
                        linear_attention(q.slice(at), k.slice(kv_at), v.slice(kv_at), c.mask);
                    z.slice_mut(at).assign(&head_z);
                    pattern.slice_mut(s![sequence, head, .., ..]).assign(&head_pattern);
                });
                taps.forward(Hook::Pattern(l), &mut pattern);
            }
        }
    }
    taps.forward(Hook::Z(l), &mut z);
    let mut out = p.w_o.apply(z.view(), p.b_o.view(), net.precision);
    if taps.wants(Hook::Result(l)) {
        let mut result = results(net, l, &z);
        taps.forward(Hook::Result(l), &mut result);
        if taps.changes(Hook::Result(l)) {
            out = sum_of_heads(&result, c.d_model);
            if !p.b_o.is_empty() {
                out += &p.b_o;
            }
        }
    }
    if !taps.keeps_tape() {
        // Their memory is for what comes next: it is in a cache.
        return (AttentionTape::default(), out);
    }
    (AttentionTape { q, k, v, q_norm, k_norm, pattern, unchanged_pattern, z }, out)
}

/// Softmax attention of all heads into `z`. `patterns` and `scores` get what it did, `[sequence, head, query pos, key
/// pos]`; where nobody wants the patterns, one at a time is there.
fn attend_softmax(
    net: &Network,
    l: usize,
    [q, k, v]: [&Array2<f32>; 3],
    z: &mut Array2<f32>,
    mut patterns: Option<&mut [f32]>,
    mut scores: Option<&mut [f32]>,
) {
    let c = net.config;
    let size = net.n_pos * net.n_pos;
    let mut work = HeadWork::new(c.scoring(l, 0), net.n_pos, c.d_head);
    let mut own = vec![0.0; if patterns.is_none() { size } else { 0 }];
    for_heads(net, z.nrows() / net.n_pos, |sequence, head, _, _| {
        let (row, column, kv_column) = net.corner(sequence, head);
        let read = [Head::at(q, row, column), Head::at(k, row, kv_column), Head::at(v, row, kv_column)];
        let pattern = next_of(&mut patterns, size).unwrap_or(&mut own);
        work.set_slope(c.scoring(l, head).slope);
        work.forward(read, next_of(&mut scores, size), pattern, HeadMut::at(z, row, column));
    });
}

/// Takes the next `size` numbers.
fn next_of<'a>(numbers: &mut Option<&'a mut [f32]>, size: usize) -> Option<&'a mut [f32]> {
    let (next, rest) = numbers.take()?.split_at_mut(size);
    *numbers = Some(rest);
    Some(next)
}

/// What the heads read where positions came before: causal softmax attention of `q` over the keys and values of the
/// past and of this pass. Several sequences go on from the same past, each without the others; the keys and values of
/// the last are added to it. Without hooks. `[sequence · pos, n_heads · d_head]`.
fn attend_after(
    net: &Network,
    l: usize,
    q: &Array2<f32>,
    k: &Array2<f32>,
    v: &Array2<f32>,
    past: &mut Past,
) -> Array2<f32> {
    let c = net.config;
    let (keys, values) = (&mut past.keys[l], &mut past.values[l]);
    let width = c.n_kv_heads() * c.d_head;
    let mut z = Array2::zeros(q.dim());
    for (row, mut z) in z.rows_mut().into_iter().enumerate() {
        let i = row % net.n_pos;
        if i == 0 {
            let own = s![row..row + net.n_pos, ..];
            for (all, new) in [(&mut *keys, k), (&mut *values, v)] {
                all.truncate(net.first * width);
                all.extend(new.slice(own).iter());
            }
        }
        let z = z.as_slice_mut().expect("a row of a new array");
        let query = net.first + i;
        for (head, z) in z.chunks_exact_mut(c.d_head).enumerate() {
            let column = head / (c.n_heads / c.n_kv_heads()) * c.d_head;
            let q = q.slice(s![row, head * c.d_head..(head + 1) * c.d_head]);
            let q = q.as_slice().expect("a part of a row");
            let scoring = c.scoring(l, head);
            let seen = scoring.seen(query, query + 1);
            wide(|| read_past(q, &keys[column..], &values[column..], width, seen, &scoring, query, z));
        }
    }
    z
}

/// `z = Σ_t softmax_t(score of q k_t) v_t` over the rows of `keys` and `values` that are `seen` from position `query`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn read_past(
    q: &[f32],
    keys: &[f32],
    values: &[f32],
    width: usize,
    seen: Range<usize>,
    scoring: &Scoring,
    query: usize,
    z: &mut [f32],
) {
    let rows = || seen.clone().zip(keys.chunks(width).skip(seen.start));
    let mut weights: Vec<f32> =
        rows().map(|(t, key)| scoring.score(dot(q, &key[..q.len()]), query, t)).collect();
    let largest = largest(&weights);
    weights.iter_mut().for_each(|w| *w = (*w - largest).exp());
    let total: f32 = weights.iter().sum();
    for (weight, value) in weights.iter().zip(values.chunks(width).skip(seen.start)) {
        let weight = weight / total;
        z.iter_mut().zip(value).for_each(|(z, &v)| *z += weight * v);
    }
}

/// What the norm of queries or keys did; rows are as wide as what is normalised together.
#[derive(Clone)]
struct QkTape {
    y: Array2<f32>,
    rstd: Array1<f32>,
}

/// How many dimensions of `n_heads` queries or keys are normalised together, if they are.
fn qk_width(net: &Network, n_heads: usize) -> Option<usize> {
    match net.config.qk_norm {
        QkNorm::None => None,
        QkNorm::Head => Some(net.config.d_head),
        QkNorm::AllHeads => Some(n_heads * net.config.d_head),
    }
}

/// Queries or keys `x: [sequence · pos, head · d_head]`, of which each `width` dimensions are normalised and get their
/// gain.
fn qk_norm(x: Array2<f32>, width: usize, eps: f64, gain: ArrayView1<f32>) -> (Array2<f32>, Option<QkTape>) {
    let shape = x.dim();
    let (y, rstd) = Norm::Rms.forward(in_rows_of(x, width).view(), eps);
    let out = gain_bias(y.view(), gain, ArrayView1::from(&[]));
    (in_rows_of(out, shape.1), Some(QkTape { y, rstd }))
}

/// `dx` from `dout`; adds to `dgain`.
fn qk_norm_backward(
    dout: Array2<f32>,
    tape: &Option<QkTape>,
    gain: ArrayView1<f32>,
    dgain: ArrayViewMut1<f32>,
) -> Array2<f32> {
    let Some(QkTape { y, rstd }) = tape else { return dout };
    let columns = dout.ncols();
    let mut d = in_rows_of(dout, y.ncols());
    gain_bias_backward_in(&mut d, y.view(), gain, dgain, ArrayViewMut1::from(&mut []));
    Norm::Rms.backward_in(&mut d, y.view(), rstd.view());
    in_rows_of(d, columns)
}

/// The same numbers in rows of another width.
fn in_rows_of(x: Array2<f32>, width: usize) -> Array2<f32> {
    let n = x.len() / width;
    x.into_shape_with_order((n, width)).expect("products lie row by row, and widths divide")
}

/// `dx` from the gradient `dout` of what was added; adds to `grad`.
pub(crate) fn attend_backward(
    net: &Network,
    l: usize,
    dout: ArrayView2<f32>,
    x: ArrayView2<f32>,
    tape: &AttentionTape,
    grad: &mut BlockParams,
    taps: &mut Taps,
) -> Array2<f32> {
    let (c, p) = (net.config, net.block(l));
    let mut dz = out_backward(net, l, dout, tape, grad, taps);
    taps.backward(Hook::Z(l), &mut dz);
    let n_seqs = x.nrows() / net.n_pos;
    let (mut dq, mut dk, mut dv) =
        (Array2::zeros(tape.q.dim()), Array2::zeros(tape.k.dim()), Array2::zeros(tape.v.dim()));
    let dscores = (taps.wants(Hook::Pattern(l)) || taps.wants(Hook::AttnScores(l)))
        .then(|| scores_backward(net, l, &dz, tape, taps));
    let mut work = HeadWork::new(c.scoring(l, 0), net.n_pos, c.d_head);
    let patterns = tape.pattern.as_slice().expect("contiguous");
    let mut patterns = patterns.chunks_exact(net.n_pos * net.n_pos);
    for_heads(net, n_seqs, |sequence, head, at, kv_at| {
        // Every query head that reads a key/value head adds to its gradient.
        let adds = !head.is_multiple_of(c.n_heads / c.n_kv_heads());
        let head_pattern = patterns.next().expect("a pattern for each head");
        work.set_slope(c.scoring(l, head).slope);
        if dscores.is_none() && c.attention == Attention::Softmax {
            let (row, column, kv_column) = net.corner(sequence, head);
            let (dk, dv) = (HeadMut::at(&mut dk, row, kv_column), HeadMut::at(&mut dv, row, kv_column));
            let read = [
                Head::at(&tape.q, row, column),
                Head::at(&tape.k, row, kv_column),
                Head::at(&tape.v, row, kv_column),
            ];
            let write = [HeadMut::at(&mut dq, row, column), dk, dv];
            return work.backward(Head::at(&dz, row, column), read, head_pattern, write, adds);
        }
        let pattern = tape.pattern.slice(s![sequence, head, .., ..]);
        let (dz, q, k, v) = (dz.slice(at), tape.q.slice(at), tape.k.slice(kv_at), tape.v.slice(kv_at));
        let (head_dq, head_dk, head_dv) = match &dscores {
            Some(dscores) => {
                let ds = dscores.slice(s![sequence, head, .., ..]);
                (matmul(ds, k), matmul(ds.t(), q), matmul(pattern.t(), dz))
            }
            None => linear_attention_backward(dz, q, k, v, pattern, c.mask),
        };
        dq.slice_mut(at).assign(&head_dq);
        let (mut dk, mut dv) = (dk.slice_mut(kv_at), dv.slice_mut(kv_at));
        if adds {
            dk += &head_dk;
            dv += &head_dv;
        } else {
            dk.assign(&head_dk);
            dv.assign(&head_dv);
        }
    });
    if let Some(table) = net.rotary(l) {
        taps.backward(Hook::RotQ(l), &mut dq);
        taps.backward(Hook::RotK(l), &mut dk);
        dq = rotary_backward(dq.view(), c.d_head, table);
        dk = rotary_backward(dk.view(), c.d_head, table);
    }
    dq = qk_norm_backward(dq, &tape.q_norm, p.q_norm.view(), grad.q_norm.view_mut());
    dk = qk_norm_backward(dk, &tape.k_norm, p.k_norm.view(), grad.k_norm.view_mut());
    taps.backward(Hook::Q(l), &mut dq);
    taps.backward(Hook::K(l), &mut dk);
    taps.backward(Hook::V(l), &mut dv);
    let mut dx = linear_backward(dq.view(), x, p.w_q.view(), grad.w_q.view_mut(), grad.b_q.view_mut());
    let mut also =
        |dy: &Array2<f32>, w: &Matrix, dw, db| linear_backward_to(&mut dx, dy.view(), x, w.view(), dw, db);
    also(&dk, &p.w_k, grad.w_k.view_mut(), grad.b_k.view_mut());
    also(&dv, &p.w_v, grad.w_v.view_mut(), grad.b_v.view_mut());
    dx
}

/// `dz`, through the heads' results one by one where they are asked for.
fn out_backward(
    net: &Network,
    l: usize,
    dout: ArrayView2<f32>,
    tape: &AttentionTape,
    grad: &mut BlockParams,
    taps: &mut Taps,
) -> Array2<f32> {
    let (c, p) = (net.config, net.block(l));
    if !taps.wants(Hook::Result(l)) {
        return linear_backward(dout, tape.z.view(), p.w_o.view(), grad.w_o.view_mut(), grad.b_o.view_mut());
    }
    if !grad.b_o.is_empty() {
        grad.b_o += &dout.sum_axis(Axis(0));
    }
    let mut dresult = Array2::zeros((dout.nrows(), c.n_heads * c.d_model));
    for mut head in dresult.axis_chunks_iter_mut(Axis(1), c.d_model) {
        head.assign(&dout);
    }
    taps.backward(Hook::Result(l), &mut dresult);
    let mut dz = Array2::zeros(tape.z.dim());
    for head in 0..c.n_heads {
        let width = head * c.d_head..(head + 1) * c.d_head;
        let dresult = dresult.slice(s![.., head * c.d_model..(head + 1) * c.d_model]);
        let z = tape.z.slice(s![.., width.clone()]);
        add_matmul(grad.w_o.slice_mut(s![width.clone(), ..]), 1.0, z.t(), dresult);
        matmul_into(dz.slice_mut(s![.., width.clone()]), dresult, p.w_o.view().slice(s![width, ..]).t());
    }
    dz
}

/// Whether the pattern, or what it is made of, is changed, so that all heads' patterns are needed before any is used.
fn changes_pattern(l: usize, taps: &Taps) -> bool {
    taps.changes(Hook::AttnScores(l)) || taps.changes(Hook::Pattern(l))
}

/// Scores and patterns of all heads, changed where the hooks say so. Returns the patterns before a change, if there is
/// one.
fn patterns(
    net: &Network,
    l: usize,
    q: &Array2<f32>,
    k: &Array2<f32>,
    pattern: &mut Array4<f32>,
    taps: &mut Taps,
) -> Option<Array4<f32>> {
    let c = net.config;
    match c.attention {
        Attention::Softmax => {
            pattern.assign(&scores(net, l, q, k));
            taps.forward(Hook::AttnScores(l), pattern);
            for mut rows in pattern.rows_mut() {
                softmax_rows(&mut rows.view_mut().insert_axis(Axis(0)));
            }
        }
        Attention::Linear => for_heads(net, pattern.len_of(Axis(0)), |sequence, head, at, kv_at| {
            let mut scores = matmul(q.slice(at), k.slice(kv_at).t());
            mask_rows(&mut scores.view_mut(), c.mask);
            pattern.slice_mut(s![sequence, head, .., ..]).assign(&scores);
        }),
    }
    let unchanged = taps.changes(Hook::Pattern(l)).then(|| pattern.clone());
    taps.forward(Hook::Pattern(l), pattern);
    unchanged
}

/// Scores of softmax attention, `[sequence, head, query pos, key pos]`.
fn scores(net: &Network, l: usize, q: &Array2<f32>, k: &Array2<f32>) -> Array4<f32> {
    let n_seqs = q.nrows() / net.n_pos;
    let mut scores = Array4::zeros((n_seqs, net.config.n_heads, net.n_pos, net.n_pos));
    for_heads(net, n_seqs, |sequence, head, at, kv_at| {
        let head_scores = attention_scores(q.slice(at), k.slice(kv_at), &net.config.scoring(l, head));
        scores.slice_mut(s![sequence, head, .., ..]).assign(&head_scores);
    });
    scores
}

/// The gradient of `q kᵀ` through the hooks at pattern and scores.
fn scores_backward(
    net: &Network,
    l: usize,
    dz: &Array2<f32>,
    tape: &AttentionTape,
    taps: &mut Taps,
) -> Array4<f32> {
    let c = net.config;
    let mut d = Array4::zeros(tape.pattern.dim());
    for_heads(net, d.len_of(Axis(0)), |sequence, head, at, kv_at| {
        let dpattern = matmul(dz.slice(at), tape.v.slice(kv_at).t());
        d.slice_mut(s![sequence, head, .., ..]).assign(&dpattern);
    });
    taps.backward(Hook::Pattern(l), &mut d);
    match c.attention {
        Attention::Softmax => {
            let pattern = tape.unchanged_pattern.as_ref().unwrap_or(&tape.pattern);
            for (mut d, p) in d.outer_iter_mut().zip(pattern.outer_iter()) {
                for (mut d, p) in d.outer_iter_mut().zip(p.outer_iter()) {
                    softmax_backward(&mut d, p, 1.0);
                }
            }
            taps.backward(Hook::AttnScores(l), &mut d);
            for_heads(net, d.len_of(Axis(0)), |sequence, head, at, kv_at| {
                let (q, k) = (tape.q.slice(at), tape.k.slice(kv_at));
                let mut d = d.slice_mut(s![sequence, head, .., ..]);
                attention_scores_backward(&mut d, q, k, &c.scoring(l, head));
            });
        }
        Attention::Linear => {
            for mut d in d.outer_iter_mut() {
                d.outer_iter_mut().for_each(|mut d| mask_rows(&mut d, c.mask));
            }
        }
    }
    d
}

/// What each head adds, `[sequence · pos, head · d_model]`.
fn results(net: &Network, l: usize, z: &Array2<f32>) -> Array2<f32> {
    let (c, p) = (net.config, net.block(l));
    let mut results = Array2::zeros((z.nrows(), c.n_heads * c.d_model));
    for (head, result) in results.axis_chunks_iter_mut(Axis(1), c.d_model).enumerate() {
        let width = head * c.d_head..(head + 1) * c.d_head;
        net.precision.matmul_into(result, z.slice(s![.., width.clone()]), p.w_o.view().slice(s![width, ..]));
    }
    results
}

fn sum_of_heads(results: &Array2<f32>, d_model: usize) -> Array2<f32> {
    let mut sum = Array2::zeros((results.nrows(), d_model));
    for result in results.axis_chunks_iter(Axis(1), d_model) {
        sum += &result;
    }
    sum
}

type At = SliceInfo<[SliceInfoElem; 2], Ix2, Ix2>;

/// Calls `each` with every sequence, head, the place of the head's queries, and that of the keys and values it reads.
fn for_heads(net: &Network, n_seqs: usize, mut each: impl FnMut(usize, usize, At, At)) {
    let (c, n_pos) = (net.config, net.n_pos);
    let group = c.n_heads / c.n_kv_heads();
    let at = |sequence: usize, head: usize| -> At {
        s![sequence * n_pos..(sequence + 1) * n_pos, head * c.d_head..(head + 1) * c.d_head]
    };
    for sequence in 0..n_seqs {
        for head in 0..c.n_heads {
            each(sequence, head, at(sequence, head), at(sequence, head / group));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Config, Mlp, Transformer};

    #[test]
    fn a_pass_that_keeps_no_tape_gives_the_numbers_of_one_that_does() {
        let small =
            Config { d_vocab: 11, d_model: 16, n_layers: 2, n_heads: 4, d_head: 4, ..Config::default() };
        let gated = Config {
            norm: Norm::Rms,
            mlp: Mlp::SwiGlu,
            n_kv_heads: Some(2),
            qk_norm: QkNorm::Head,
            attention_cap: Some(5.0),
            ..small.clone()
        };
        let linear = Config { attention: Attention::Linear, ..small.clone() };
        let tokens = Array2::from_shape_fn((3, 6), |(i, j)| ((i * 5 + j * 3) % 11) as u32);
        for config in [small, gated, linear] {
            let model = Transformer::new(config).unwrap();
            let tape = model.tape(tokens.view());
            let (logits, cache) = model.run_with_cache(&tokens).unwrap();
            assert_eq!(model.forward(&tokens).unwrap(), logits, "with the patterns kept, and one at a time");
            let near = |a: &f32, b: &f32| (a - b).abs() < 1e-5;
            assert!(logits.iter().zip(&tape.logits).all(|(a, b)| near(a, b)));
            for (l, block) in tape.blocks.iter().enumerate() {
                let pattern = cache.pattern(l).unwrap();
                assert_eq!(pattern.dim(), block.attention.pattern.dim());
                assert!(pattern.iter().zip(&block.attention.pattern).all(|(a, b)| near(a, b)), "layer {l}");
            }
        }
    }
}
