//! What lenses read, with the vocabulary on the device.

use candle_core::{D, Tensor};
use ndarray::{Array1, Array2, Axis};

use super::block::linear;
use super::refinement::rows;
use super::{DeviceTransformer, Place, failed};
use crate::lens::{Comparison, LayerMoments, Lens, Part, Said, compare_by};
use crate::model::Transformer;
use crate::session::{self, Progress};
use crate::{Error, ErrorKind, Result};

/// Rows whose logits are on the device together, whole sequences of them: some 200 MB each time with a vocabulary of
/// 50 000.
const ROWS: usize = 1024;

impl DeviceTransformer {
    /// Compares lenses on held-out `tokens: [sequence, pos]` as [`compare`](crate::lens::compare) does. The model runs
    /// on the device, and the vocabulary is read there, in `f32`; lenses carry streams on the host.
    ///
    /// Fails where [`compare`](crate::lens::compare) does, if `model` is not the one whose weights are on the device,
    /// and where the device does.
    pub fn compare(
        &self,
        model: &Transformer,
        lenses: &[&dyn Lens],
        moments: &LayerMoments,
        tokens: &Array2<u32>,
    ) -> Result<Comparison> {
        self.check_same(model)?;
        self.check(tokens)?;
        for lens in lenses {
            lens.check_model(model)?;
        }
        compare_by(model, lenses, moments, tokens, |log_mean| {
            let at_once = (ROWS / tokens.ncols()).max(1);
            let mut progress = Progress::new("reading", tokens.nrows());
            let mut parts = Vec::with_capacity(tokens.nrows());
            for group in tokens.axis_chunks_iter(Axis(0), at_once) {
                if session::interrupted() {
                    return Err(Error::new(
                        ErrorKind::Interrupted,
                        format!("interrupted after {} of {} sequences", parts.len(), tokens.nrows()),
                        "run it again, on fewer tokens or with fewer lenses if it takes too long",
                    ));
                }
                parts.extend(self.read_group(model, lenses, log_mean, &group.to_owned(), parts.len())?);
                progress.update(parts.len(), || "sequences".into());
            }
            progress.finish(&format!("{} tokens", tokens.len()));
            Ok(parts)
        })
    }

    /// A part for each of some sequences, of which the first is number `first`.
    fn read_group(
        &self,
        model: &Transformer,
        lenses: &[&dyn Lens],
        log_mean: &Array1<f32>,
        tokens: &Array2<u32>,
        first: usize,
    ) -> Result<Vec<Part>> {
        let run = self.run(tokens)?;
        let (n_seqs, n_pos) = tokens.dim();
        // What came next; at the end of a sequence nothing is asked.
        let next = |at: usize| tokens.get((at / n_pos, at % n_pos + 1)).copied();
        let next: Vec<Option<u32>> = (0..n_seqs * n_pos).map(next).collect();
        let place = Place(&self.device);
        let last = Last::new(&run.logits, next).map_err(|e| failed(&e))?;
        let mean = place.matrix(&log_mean.clone().insert_axis(Axis(0)))?;
        let mean = mean.broadcast_as(run.logits.shape()).map_err(|e| failed(&e))?;
        let mut all = vec![last.said.clone(), last.beside(&mean).map_err(|e| failed(&e))?];
        let streams = run.streams.iter().map(rows).collect::<Result<Vec<_>>>()?;
        for lens in lenses {
            for (l, h) in streams.iter().enumerate() {
                let z = lens.transport(l, h.view())?;
                let logits = match lens.normalised(model, z.view())? {
                    Some(y) => linear(&place.matrix(&y)?, &self.unembedding, self.b_u.as_ref())
                        .map_err(|e| failed(&e))?,
                    None => place.matrix(&lens.logits(model, z.view())?)?,
                };
                all.push(last.beside(&logits).map_err(|e| failed(&e))?);
            }
        }
        let of_sequence = |i: usize| {
            let rows = i * n_pos..(i + 1) * n_pos;
            let mut said = all.iter().map(|said| said[rows.clone()].to_vec());
            let (last, constant) = (said.next().unwrap_or_default(), said.next().unwrap_or_default());
            Part::new(first + i, &constant, &last, said)
        };
        Ok((0..n_seqs).map(of_sequence).collect())
    }
}

/// The final prediction at some rows, on the device.
struct Last {
    /// `[rows, d_vocab]`.
    logits: Tensor,
    p: Tensor,
    next: Vec<Option<u32>>,
    said: Vec<Said>,
}

impl Last {
    fn new(logits: &Tensor, next: Vec<Option<u32>>) -> candle_core::Result<Self> {
        let x = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
        let e = x.exp()?;
        let p = e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?;
        let mut last = Last { logits: logits.clone(), p, next, said: Vec::new() };
        last.said = last.beside(logits)?;
        Ok(last)
    }

    /// What rows of logits say beside it.
    fn beside(&self, logits: &Tensor) -> candle_core::Result<Vec<Said>> {
        let column = |x: Tensor| x.flatten_all()?.to_vec1::<f32>();
        let max = logits.max_keepdim(D::Minus1)?;
        let x = logits.broadcast_sub(&max)?;
        let e = x.exp()?;
        let total = column(e.sum_keepdim(D::Minus1)?)?;
        let spread = column((&e * &x)?.sum_keepdim(D::Minus1)?)?;
        // `Σ p (x' - x)`. What has no probability adds nothing, however little the lens gives it.
        let cross = (&self.p * (&self.logits - logits)?)?;
        let cross = self.p.gt(0_f32)?.where_cond(&cross, &cross.zeros_like()?)?;
        let cross = column(cross.sum_keepdim(D::Minus1)?)?;
        let (top, max) = (logits.argmax(D::Minus1)?.to_vec1::<u32>()?, column(max)?);
        let asked: Vec<u32> = self.next.iter().map(|next| next.unwrap_or(0)).collect();
        let asked = Tensor::from_vec(asked, (self.next.len(), 1), logits.device())?;
        let next = column(logits.contiguous()?.gather(&asked, D::Minus1)?)?;
        let said = |i: usize| {
            let (total, log_z) = (f64::from(total[i]), f64::from(max[i]) + f64::from(total[i]).ln());
            Said {
                kl: self.said.get(i).map_or(0.0, |last| f64::from(cross[i]) + log_z - last.log_z),
                entropy: total.ln() - f64::from(spread[i]) / total,
                log_z,
                top: top[i],
                surprise: self.next[i].map(|_| log_z - f64::from(next[i])),
            }
        };
        Ok((0..self.next.len()).map(said).collect())
    }
}
