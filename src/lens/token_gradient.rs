//! The direction in which a lens says that a token becomes more probable.

use ndarray::{Array2, ArrayView2, Axis, concatenate, s};
use rayon::prelude::*;

use super::decoder::{Decoder, Wanted};
use super::readout::rows_at_once;
use super::{AffineLens, NOTHING, Scale, Target};
use crate::model::{Norm, Transformer, check_width};
use crate::num::matmul;
use crate::{Error, ErrorKind, Result};

/// `∂ ln q(token) / ∂h` of `q = softmax(decode(A x + b))` with `x` the stream `h` at its scale: back through the
/// decoder, the map, and the scale.
pub(super) struct TokenGradient<'a> {
    pub(super) target: Target,
    pub(super) scale: Scale,
    /// `None`: the guess is the stream itself.
    pub(super) map: Option<&'a AffineLens>,
}

impl TokenGradient<'_> {
    /// For `h: [rows, d_model]` and a token for each row, `[rows, d_model]`.
    pub(super) fn of(&self, model: &Transformer, h: ArrayView2<f32>, tokens: &[u32]) -> Result<Array2<f32>> {
        check_width("this lens reads", model.config.d_model, h)?;
        self.check(model, h.nrows(), tokens)?;
        let d_vocab = model.config.d_vocab;
        let decoder = Decoder::new(model, self.target);
        let a = self.map.map(|map| map.a.mapv(|x| x as f32));
        let at_once = rows_at_once(d_vocab);
        let starts: Vec<usize> = (0..h.nrows()).step_by(at_once).collect();
        let of_part = |&start: &usize| -> Array2<f32> {
            let rows = start..h.nrows().min(start + at_once);
            let (h, tokens) = (h.slice(s![rows.clone(), ..]), &tokens[rows]);
            let (x, rstd) = match self.scale {
                Scale::AsItIs => (h.to_owned(), None),
                Scale::UnitRms => {
                    let (x, rstd) = Norm::Rms.forward(h, NOTHING);
                    (x, Some(rstd))
                }
            };
            let z = self.map.map_or_else(|| x.clone(), |map| map.map(x.view()));
            let classes: Vec<usize> = tokens.iter().map(|&t| t as usize).collect();
            // KL from one token is `-ln q` of it.
            let (_, mut d) = decoder.kl_and_gradient(&Wanted::of_classes(&classes, d_vocab), z);
            if let Some(a) = &a {
                d = matmul(d.view(), a.view());
            }
            if let Some(rstd) = &rstd {
                Norm::Rms.backward_in(&mut d, x.view(), rstd.view());
            }
            -d
        };
        let parts: Vec<Array2<f32>> = starts.par_iter().map(of_part).collect();
        let parts: Vec<ArrayView2<f32>> = parts.iter().map(|part| part.view()).collect();
        Ok(concatenate(Axis(0), &parts).unwrap_or_else(|_| Array2::zeros(h.dim())))
    }

    fn check(&self, model: &Transformer, n_rows: usize, tokens: &[u32]) -> Result<()> {
        let d_vocab = model.config.d_vocab;
        if tokens.len() != n_rows {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("{} tokens for {n_rows} rows of a stream", tokens.len()),
                "give one token for each row",
            ));
        }
        if let Some(token) = tokens.iter().find(|&&t| t as usize >= d_vocab) {
            return Err(Error::new(
                ErrorKind::Data,
                format!("there is no token {token} in a vocabulary of {d_vocab}"),
                format!("tokens are 0 to {}", d_vocab - 1),
            ));
        }
        let d_z = self.map.map_or(model.config.d_model, |map| map.a.nrows());
        match self.target.width(&model.config) {
            Some(width) if width == d_z => Ok(()),
            Some(_) | None => Err(Error::new(
                ErrorKind::Config,
                format!("a lens of {d_z} outputs towards {:?} gives tokens no probabilities", self.target),
                "steer with a lens that predicts the next token, of this model",
            )),
        }
    }
}
