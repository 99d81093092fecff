//! Do updates follow the gradient, literally? (Jastrzębski et al. 2018; Belrose et al. 2023, appendix C.)

use ndarray::{Array2, Array3, ArrayView1, Axis, s};
use serde::{Deserialize, Serialize};

use super::measure::{apply, cosine, moments};
use crate::data::Source;
use crate::lens::{Ridge, Towards};
use crate::model::{Hook, Transformer};
use crate::num::SymmetricEigen;
use crate::{Error, ErrorKind, Result};

/// How updates `Δ_l = h_{l+1} - h_l` relate to `-∂L/∂h_l`, the way in which the loss of the network falls fastest.
///
/// Where a source knows the distribution of each next token, `L` is the [expected](LossGradient::Expected) loss. The
/// loss of the token that happened to come has a gradient that is mostly chance: its cosine with the expected one is
/// small, and the sign of what it says of updates can be another. Untrained networks reach cosines of a few hundredths
/// either way; show them beside.
///
/// The regression is `Δ_l ≈ P_l g_l + b_l` with `g_l = -∂L/∂h_l`: a gradient step with a preconditioner. One step of
/// gradient descent has the same `P` everywhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LiteralGradient {
    /// Of which loss.
    pub gradient: LossGradient,
    /// Mean of `<Δ_l, -∂L/∂h_l>` over tokens at each layer, in nats, `L` summed over the sequence: by how much the loss
    /// of a token would fall, to first order, if every position added its `Δ_l` to stream `h_l` beforehand.
    pub inner: Vec<f64>,
    /// Mean cosine of `Δ_l` and `-∂L/∂h_l` at each layer.
    pub cosine: Vec<f64>,
    /// Share of tokens at which it is positive.
    pub positive: Vec<f64>,
    /// Held-out share of the variance of `Δ_l` that a preconditioner of the layer's own explains.
    pub r2_own: Vec<f64>,
    /// The same with one preconditioner for all layers and an intercept for each.
    pub r2_shared: Vec<f64>,
    /// Share of the squared size of the shared preconditioner's symmetric part that lies in directions of positive
    /// eigenvalue: 1 for positive semi-definite, a half for a random matrix.
    pub psd_fraction: f64,
}

/// Which loss a gradient is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LossGradient {
    /// `-ln q` of the token that came.
    Sampled,
    /// `E_{t~p*} -ln q(t)` under the true distribution `p*` of the next token.
    Expected,
}

impl LiteralGradient {
    /// Measures on `tokens: [sequence, pos]`; preconditioners are fitted to the first half of the sequences and read on
    /// the second. The gradient is that of the expected loss if `source`, from which the tokens come, knows the true
    /// distribution of every next one, else that of the loss on the tokens that came.
    ///
    /// Fails if the tokens do not fit, or are too few for a preconditioner.
    ///
    /// ```
    /// use onelens::battery::{LiteralGradient, LossGradient};
    /// use onelens::{data::{Markov, Source}, model::{Config, Transformer}, num::rng};
    /// let source = Markov::new(5, 0.3)?;
    /// let config = Config { d_vocab: 5, d_model: 8, n_layers: 2, n_heads: 1, d_head: 8, ..Default::default() };
    /// let model = Transformer::new(config)?;
    /// let seen = LiteralGradient::measure(&model, &source.sample(20, 12, &mut rng(0, 0))?, Some(&source))?;
    /// assert_eq!((seen.gradient, seen.inner.len()), (LossGradient::Expected, 2));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn measure(model: &Transformer, tokens: &Array2<u32>, source: Option<&dyn Source>) -> Result<Self> {
        let n_layers = model.config.n_layers;
        let keep = |h: Hook| matches!(h, Hook::ResidPre(_) | Hook::ResidPost(_));
        let truth = source.and_then(|source| true_conditionals(source, tokens));
        let (gradient, (_, grads)) = match truth {
            Some(p) => (LossGradient::Expected, model.expected_loss_and_hook_grads(tokens, &p, &keep)?),
            None => (LossGradient::Sampled, model.loss_and_hook_grads(tokens, &[], &keep)?),
        };
        let inputs = tokens.slice(s![.., ..tokens.ncols() - 1]).to_owned();
        let (_, cache) = model.run_with_cache_of(&inputs, &[], &keep)?;
        let n = inputs.len();
        let half = inputs.nrows() / 2 * inputs.ncols();
        let d = model.config.d_model;
        if half <= d {
            return Err(Error::new(
                ErrorKind::Data,
                format!(
                    "{half} tokens in half of the sequences cannot determine a preconditioner of {d} dimensions"
                ),
                format!("pass at least {} tokens; ten times that is better", 2 * (d + 1)),
            ));
        }
        let rows = |h: ndarray::Array3<f32>| {
            h.mapv(f64::from).into_shape_with_order((n, d)).expect("a row per token")
        };
        // Gradients of a mean loss are tiny; at a common size the ridge penalty means the same everywhere.
        let n_counted = model.n_counted(inputs.dim()) as f64;
        let steps: Vec<(Array2<f64>, Array2<f64>)> = (0..n_layers)
            .map(|l| {
                let pre = rows(cache.resid_pre(l)?);
                Ok((rows(grads.resid_pre(l)?) * -n_counted, rows(cache.resid_post(l)?) - pre))
            })
            .collect::<Result<_>>()?;
        let mut seen = LiteralGradient {
            gradient,
            inner: Vec::new(),
            cosine: Vec::new(),
            positive: Vec::new(),
            r2_own: Vec::new(),
            r2_shared: Vec::new(),
            psd_fraction: f64::NAN,
        };
        let ridge = Ridge { lambda: 1e-4, towards: Towards::Zero };
        let halves =
            |x: &Array2<f64>| (x.slice(s![..half, ..]).to_owned(), x.slice(s![half.., ..]).to_owned());
        let mut pooled: Option<crate::lens::Moments> = None;
        for (g, update) in &steps {
            let cosines: Vec<f64> = g
                .rows()
                .into_iter()
                .zip(update.rows())
                .map(|(g, u): (ArrayView1<f64>, _)| cosine(g, u))
                .collect();
            seen.inner.push((g * update).sum() / n as f64);
            seen.cosine.push(cosines.iter().sum::<f64>() / n as f64);
            seen.positive.push(cosines.iter().filter(|c| **c > 0.0).count() as f64 / n as f64);
            let mut m = moments(halves(g).0.view(), halves(update).0.view());
            m.x_mean.fill(0.0);
            m.z_mean.fill(0.0);
            match &mut pooled {
                None => pooled = Some(m),
                Some(sum) => sum.merge(&m)?,
            }
        }
        let shared = ridge.fit(&pooled.expect("a network has layers"))?;
        for (g, update) in &steps {
            let ((fit_g, read_g), (fit_u, read_u)) = (halves(g), halves(update));
            let mean = fit_u.mean_axis(Axis(0)).expect("rows");
            let total: f64 = (&read_u - &mean).iter().map(|x| x * x).sum();
            let r2 = |predicted: Array2<f64>| {
                1.0 - (&read_u - &predicted).iter().map(|x| x * x).sum::<f64>() / total.max(f64::MIN_POSITIVE)
            };
            let own = ridge.fit(&moments(fit_g.view(), fit_u.view()))?;
            seen.r2_own.push(r2(apply(&own, read_g.view())));
            let mut one = shared.clone();
            one.b = &mean - &one.a.dot(&fit_g.mean_axis(Axis(0)).expect("rows"));
            seen.r2_shared.push(r2(apply(&one, read_g.view())));
        }
        let eigen = SymmetricEigen::new(((&shared.a + &shared.a.t()) * 0.5).view())?.values;
        let squares = |keep: fn(f64) -> bool| eigen.iter().filter(|e| keep(**e)).map(|e| e * e).sum::<f64>();
        seen.psd_fraction = squares(|e| e > 0.0) / squares(|_| true).max(f64::MIN_POSITIVE);
        Ok(seen)
    }
}

/// What the source says comes after each token but the last of each sequence, `[sequence, pos, d_vocab]`; `None` if it
/// does not know.
fn true_conditionals(source: &dyn Source, tokens: &Array2<u32>) -> Option<Array3<f32>> {
    let (n_seqs, n_pos) = (tokens.nrows(), tokens.ncols().saturating_sub(1));
    let mut all = Array3::zeros((n_seqs, n_pos, source.d_vocab()));
    for (mut to, row) in all.outer_iter_mut().zip(tokens.rows()) {
        let p = source.true_conditional(&row)?;
        to.assign(&p.slice(s![..n_pos, ..]).mapv(|p| p as f32));
    }
    Some(all)
}
