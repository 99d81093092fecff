//! One block on a device: what `model` does, in tensors.

use candle_core::{D, Tensor};
use ndarray::Array1;

use super::Place;
use crate::Result;
use crate::model::{Activation, BlockParams, Config, Mlp, Norm, Pairs, Residual};

/// Gain and bias of a norm.
pub(super) struct Norms {
    gain: Option<Tensor>,
    bias: Option<Tensor>,
}

impl Norms {
    pub(super) fn new(_: &Config, gain: &Array1<f32>, bias: &Array1<f32>, place: &Place) -> Result<Self> {
        Ok(Norms { gain: place.vector(gain)?, bias: place.vector(bias)? })
    }

    /// Normalises the rows of `x`.
    pub(super) fn run(&self, c: &Config, x: &Tensor) -> candle_core::Result<Tensor> {
        let centred = match c.norm {
            Norm::None => return Ok(x.clone()),
            Norm::Rms => x.clone(),
            Norm::Layer => x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?,
        };
        let scale = (centred.sqr()?.mean_keepdim(D::Minus1)? + c.eps)?.sqrt()?;
        let mut y = centred.broadcast_div(&scale)?;
        if let Some(gain) = &self.gain {
            y = y.broadcast_mul(gain)?;
        }
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

/// `x w + b`, `w: [in, out]`.
pub(super) fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> candle_core::Result<Tensor> {
    let y = x.matmul(w)?;
    match b {
        Some(b) => y.broadcast_add(b),
        None => Ok(y),
    }
}

/// Rotary positions: tables of `[pos, pairs]`.
pub(super) struct Turn {
    pub(super) pairs: Pairs,
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
}

impl Turn {
    /// `x: [sequence, head, pos, d_head]`.
    fn run(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (n_seqs, n_heads, n_pos, d_head) = x.dims4()?;
        let n = self.cos.dim(1)?;
        let turned = |a: &Tensor, b: &Tensor| -> candle_core::Result<[Tensor; 2]> {
            let (cos, sin) = (&self.cos, &self.sin);
            Ok([
                (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?,
                (a.broadcast_mul(sin)? + b.broadcast_mul(cos)?)?,
            ])
        };
        let front = x.narrow(3, 0, 2 * n)?;
        let y = match self.pairs {
            Pairs::Half => {
                let [a, b] = turned(&front.narrow(3, 0, n)?, &front.narrow(3, n, n)?)?;
                Tensor::cat(&[a, b], 3)?
            }
            Pairs::Adjacent => {
                let both = front.contiguous()?.reshape((n_seqs, n_heads, n_pos, n, 2))?;
                let half = |i: usize| both.narrow(4, i, 1)?.squeeze(4);
                let [a, b] = turned(&half(0)?, &half(1)?)?;
                Tensor::stack(&[a, b], 4)?.reshape((n_seqs, n_heads, n_pos, 2 * n))?
            }
        };
        if 2 * n == d_head {
            return Ok(y);
        }
        Tensor::cat(&[y, x.narrow(3, 2 * n, d_head - 2 * n)?], 3)
    }
}

/// A matrix with its bias.
struct Map {
    w: Tensor,
    b: Option<Tensor>,
}

impl Map {
    fn run(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        linear(x, &self.w, self.b.as_ref())
    }
}

/// The weights of one block.
pub(super) struct Block {
    ln1: Norms,
    q: Map,
    k: Map,
    v: Map,
    o: Map,
    /// Norm, gate (with SwiGLU), in and out; `None` without an MLP.
    mlp: Option<(Norms, Option<Map>, Map, Map)>,
}

impl Block {
    pub(super) fn new(c: &Config, p: &BlockParams, place: &Place) -> Result<Self> {
        let map = |w, b| -> Result<Map> { Ok(Map { w: place.matrix(w)?, b: place.vector(b)? }) };
        let gate = c.mlp.is_gated().then(|| map(&p.w_gate, &p.b_gate)).transpose()?;
        let mlp = match c.mlp {
            Mlp::None => None,
            Mlp::GeluTanh | Mlp::Gelu | Mlp::Relu | Mlp::SwiGlu | Mlp::GeGluTanh => Some((
                Norms::new(c, &p.ln2_w, &p.ln2_b, place)?,
                gate,
                map(&p.w_in, &p.b_in)?,
                map(&p.w_out, &p.b_out)?,
            )),
        };
        Ok(Block {
            ln1: Norms::new(c, &p.ln1_w, &p.ln1_b, place)?,
            q: map(&p.w_q, &p.b_q)?,
            k: map(&p.w_k, &p.b_k)?,
            v: map(&p.w_v, &p.b_v)?,
            o: map(&p.w_o, &p.b_o)?,
            mlp,
        })
    }

    /// `pre: [sequence · pos, d_model]` to what the block leaves.
    pub(super) fn run(
        &self,
        c: &Config,
        pre: &Tensor,
        shape: (usize, usize),
        turn: Option<&Turn>,
        hidden: &Tensor,
    ) -> candle_core::Result<Tensor> {
        let mut out = self.attend(c, &self.ln1.run(c, pre)?, shape, turn, hidden)?;
        if c.residual != Residual::None {
            out = (out + pre)?;
        }
        let Some((norm, gate, wide, narrow)) = &self.mlp else { return Ok(out) };
        let read = norm.run(c, if c.residual == Residual::Parallel { pre } else { &out })?;
        let x = wide.run(&read)?;
        let activated = |x: Tensor| match c.mlp.activation() {
            Some((Activation::GeluTanh, _)) => x.gelu(),
            Some((Activation::Gelu, _)) => x.gelu_erf(),
            Some((Activation::Relu, _)) => x.relu(),
            Some((Activation::Silu, _)) => x.silu(),
            None => Ok(x),
        };
        let x = match gate {
            Some(gate) => (activated(gate.run(&read)?)? * x)?,
            None => activated(x)?,
        };
        let mlp = narrow.run(&x)?;
        if c.residual == Residual::None { Ok(mlp) } else { mlp + out }
    }

    fn attend(
        &self,
        c: &Config,
        x: &Tensor,
        (n_seqs, n_pos): (usize, usize),
        turn: Option<&Turn>,
        hidden: &Tensor,
    ) -> candle_core::Result<Tensor> {
        let heads = |x: Tensor, n: usize| -> candle_core::Result<Tensor> {
            x.reshape((n_seqs, n_pos, n, c.d_head))?.transpose(1, 2)?.contiguous()
        };
        let (mut q, mut k) = (heads(self.q.run(x)?, c.n_heads)?, heads(self.k.run(x)?, c.n_kv_heads())?);
        if let Some(turn) = turn {
            (q, k) = (turn.run(&q)?, turn.run(&k)?);
        }
        let shared = c.n_heads / c.n_kv_heads();
        let each = |x: Tensor| -> candle_core::Result<Tensor> {
            if shared == 1 {
                return x.contiguous();
            }
            let (n_seqs, n_kv, n_pos, d) = x.dims4()?;
            let x = x.unsqueeze(2)?.broadcast_as((n_seqs, n_kv, shared, n_pos, d))?;
            x.contiguous()?.reshape((n_seqs, n_kv * shared, n_pos, d))
        };
        let (k, v) = (each(k)?, each(heads(self.v.run(x)?, c.n_kv_heads())?)?);
        let scores = (q.contiguous()?.matmul(&k.t()?.contiguous()?)? / (c.d_head as f64).sqrt())?;
        let scores = scores.broadcast_add(hidden)?;
        let pattern = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        let pattern = pattern.broadcast_div(&pattern.sum_keepdim(D::Minus1)?)?;
        let z = pattern.matmul(&v)?.transpose(1, 2)?.contiguous()?;
        self.o.run(&z.reshape((n_seqs * n_pos, c.n_heads * c.d_head))?)
    }
}
