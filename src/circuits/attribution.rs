//! Direct logit attribution: what each part writes into the stream, read as the final answer.

use ndarray::{Array1, Array2, Axis, s};

use super::LogitDifference;
use crate::model::{Blocks, Hook, Mlp, Norm, NormAt, Positions, Residual, Transformer};
use crate::{Error, ErrorKind, Result};

/// A logit difference as a sum over everything that was added to the residual stream.
///
/// The last stream is `h = Σ c`, over the embedding, positions, heads, biases and MLPs. With the final norm held at the
/// scale `s` it had, the logit difference is linear in `h`: each part contributes
/// `gain ∘ (c - mean(c)) / s · (W_U[correct] - W_U[wrong])`, and what is left is the biases of norm and unembedding.
/// Averaged over sequences.
///
/// ```
/// use onelens::circuits::{LogitAttribution, LogitDifference};
/// use onelens::{model::{Config, Transformer}, ndarray::array};
/// let model = Transformer::new(Config { d_vocab: 5, n_layers: 2, ..Default::default() })?;
/// let tokens = array![[0, 1, 2]];
/// let question = LogitDifference { correct: vec![3], wrong: vec![4], pos: None };
/// let parts = LogitAttribution::new(&model, &tokens, &question)?;
/// let direct = question.of(&model.forward(&tokens)?)?;
/// assert!((parts.total() - direct).abs() < 1e-5);
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LogitAttribution {
    /// What each head contributes, `[layer, head]`.
    pub heads: Array2<f64>,
    /// What the bias of each layer's attention output contributes, `[layer]`.
    pub attn_biases: Array1<f64>,
    /// What each MLP contributes, `[layer]`; empty without MLPs.
    pub mlps: Array1<f64>,
    /// What the embedding contributes, as often as it is added.
    pub embed: f64,
    /// What the positions contribute.
    pub pos_embed: f64,
    /// The biases of the final norm and the unembedding.
    pub final_bias: f64,
}

impl LogitAttribution {
    /// Runs `tokens: [batch, pos]` and takes the logit difference apart.
    ///
    /// Fails on a network without skip connections, whose stream is no sum.
    pub fn new(model: &Transformer, tokens: &Array2<u32>, question: &LogitDifference) -> Result<Self> {
        let c = &model.config;
        if c.residual == Residual::None {
            return Err(Error::new(
                ErrorKind::Config,
                "without skip connections (residual is None) the last stream is not a sum of parts",
                "attribute a network with skip connections, or patch activations instead",
            ));
        }
        let not_a_sum = [
            ("norm_at", format!("{:?}", c.norm_at), c.norm_at != NormAt::Input),
            ("logit_cap", format!("{:?}", c.logit_cap), c.logit_cap.is_some()),
        ];
        if let Some((name, value, _)) = not_a_sum.iter().find(|(.., is_there)| *is_there) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("with {name} {value} the logits are no sum of what heads and MLPs give"),
                "attribute a pre-norm network without a cap, or patch activations instead",
            ));
        }
        let pos = question.check_tokens(model, tokens)?;
        let wanted = |hook| {
            matches!(hook, Hook::Embed | Hook::PosEmbed | Hook::Z(_) | Hook::MlpOut(_) | Hook::LnFinalScale)
        };
        let (_, cache) = model.run_with_cache_of(tokens, &[], &wanted)?;
        let reader = Reader::new(model, &question.correct, &question.wrong);
        let n_seqs = tokens.nrows();
        // Contribution of the stream vector of each sequence, averaged over sequences.
        let scales: Vec<f64> = match c.final_norm() {
            Norm::None => vec![1.0; n_seqs],
            Norm::Layer | Norm::Rms => {
                let scales = cache.get(Hook::LnFinalScale)?;
                (0..n_seqs).map(|i| f64::from(scales[[i, pos, 0]])).collect()
            }
        };
        let mean = |of: &dyn Fn(usize) -> Array1<f64>| {
            (0..n_seqs).map(|i| of(i).dot(&reader.directions[i]) / scales[i]).sum::<f64>() / n_seqs as f64
        };
        let part = |hook: Hook| -> Result<f64> {
            let x = cache.get(hook)?;
            Ok(mean(&|i| x.slice(s![i, pos, ..]).mapv(f64::from)))
        };

        let n_injected = match c.blocks {
            Blocks::Looped { inject: true } => c.n_layers - 1,
            Blocks::Looped { inject: false } | Blocks::Distinct => 0,
        };
        let mut all = LogitAttribution {
            heads: Array2::zeros((c.n_layers, c.n_heads)),
            attn_biases: Array1::zeros(c.n_layers),
            mlps: Array1::zeros(if c.mlp == Mlp::None { 0 } else { c.n_layers }),
            embed: part(Hook::Embed)?,
            pos_embed: match c.positions {
                Positions::Learned => part(Hook::PosEmbed)?,
                Positions::Rotary(_) | Positions::Alibi | Positions::None => 0.0,
            },
            final_bias: reader.biases.iter().sum::<f64>() / n_seqs as f64,
        };
        // Each pass but the first adds the embedding, positions included, once more.
        all.embed *= (1 + n_injected) as f64;
        all.pos_embed *= (1 + n_injected) as f64;
        for l in 0..c.n_layers {
            let p = &model.params.blocks[if c.blocks == Blocks::Distinct { l } else { 0 }];
            let z = cache.z(l)?;
            for head in 0..c.n_heads {
                // What is added is scaled before; what the MLP adds is kept as it is added.
                let w_o = c.resid_scale
                    * p.w_o.slice(s![head * c.d_head..(head + 1) * c.d_head, ..]).mapv(f64::from);
                all.heads[(l, head)] = mean(&|i| z.slice(s![i, pos, head, ..]).mapv(f64::from).dot(&w_o));
            }
            if !p.b_o.is_empty() {
                all.attn_biases[l] = mean(&|_| p.b_o.mapv(|b| c.resid_scale * f64::from(b)));
            }
            if c.mlp != Mlp::None {
                all.mlps[l] = part(Hook::MlpOut(l))?;
            }
        }
        Ok(all)
    }

    /// Returns the logit difference: the sum of all parts.
    pub fn total(&self) -> f64 {
        self.heads.sum()
            + self.attn_biases.sum()
            + self.mlps.sum()
            + self.embed
            + self.pos_embed
            + self.final_bias
    }

    /// Lists every part with its name, the largest first.
    pub fn ranked(&self) -> Vec<(String, f64)> {
        let mut all = vec![
            ("embedding".to_string(), self.embed),
            ("positions".to_string(), self.pos_embed),
            ("final biases".to_string(), self.final_bias),
        ];
        all.extend(self.heads.indexed_iter().map(|((l, h), v)| (format!("head {l}.{h}"), *v)));
        all.extend(self.mlps.indexed_iter().map(|(l, v)| (format!("MLP {l}"), *v)));
        all.extend(self.attn_biases.indexed_iter().map(|(l, v)| (format!("attention bias {l}"), *v)));
        all.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        all
    }
}

/// How the final norm and the unembedding read a stream as a logit difference, apart from the norm's scale.
struct Reader {
    /// `[d_model]` of each sequence: gain and centring included.
    directions: Vec<Array1<f64>>,
    /// What no part contributes.
    biases: Vec<f64>,
}

impl Reader {
    fn new(model: &Transformer, correct: &[u32], wrong: &[u32]) -> Reader {
        let (c, p) = (&model.config, &model.params);
        let w_u = p.unembedding();
        let (mut directions, mut biases) = (Vec::new(), Vec::new());
        for (&correct, &wrong) in correct.iter().zip(wrong) {
            let column = |token: u32| w_u.index_axis(Axis(1), token as usize).mapv(f64::from);
            let mut direction = (column(correct) - column(wrong)) * c.logit_scale;
            let mut bias = 0.0;
            if !p.b_u.is_empty() {
                bias +=
                    c.logit_scale * (f64::from(p.b_u[correct as usize]) - f64::from(p.b_u[wrong as usize]));
            }
            if !p.ln_final_b.is_empty() {
                bias += p.ln_final_b.mapv(f64::from).dot(&direction);
            }
            if !p.ln_final_w.is_empty() {
                direction *= &p.ln_final_w.mapv(f64::from);
            }
            if c.final_norm().centres() {
                // Centring what is read is centring what reads.
                direction -= direction.sum() / c.d_model as f64;
            }
            directions.push(direction);
            biases.push(bias);
        }
        Reader { directions, biases }
    }
}
