//! One pass over a batch: with a mask, with interventions, no further than it is asked to go.

use ndarray::{Array2, Array3, Axis, concatenate, s};

use super::forward::{Passing, normalise_last, pass_layers, unembed_into};
use super::hook::no_stream;
use super::network::Network;
use super::run::parts_of_pass;
use super::taps::Taps;
use super::{ActivationCache, Config, Hook, Intervention, Transformer};
use crate::num::Precision;
use crate::{Error, ErrorKind, Result, memory};

/// A pass over `tokens: [batch, pos]`, described in one expression and then asked for one thing. It computes no more
/// than that needs.
///
/// A mask says which tokens are there. Those that are hidden are not computed at all, nobody sees them, and positions
/// are counted without them, so that a padded sequence gives exactly what it gives alone, on whichever side the padding
/// stands. In what comes out, hidden positions hold zeros.
///
/// ```
/// use onelens::{model::{Config, Hook, Transformer}, ndarray::{array, s}};
/// let model = Transformer::new(Config { d_vocab: 5, ..Default::default() })?;
/// // The second sequence is one token shorter.
/// let (tokens, mask) = (array![[0, 1, 2], [9, 3, 4]], array![[true, true, true], [false, true, true]]);
/// let logits = model.pass(&tokens).mask(&mask).logits()?;
/// assert_eq!(logits.slice(s![1, 1.., ..]), model.forward(&array![[3, 4]])?.slice(s![0, .., ..]));
/// // Only the first two blocks run.
/// assert_eq!(model.pass(&tokens).mask(&mask).stream(2)?.dim(), (2, 3, 64));
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Copy)]
#[must_use = "a pass does nothing until it is asked for logits, a stream or a cache"]
pub struct Pass<'a> {
    model: &'a Transformer,
    tokens: &'a Array2<u32>,
    mask: Option<&'a Array2<bool>>,
    interventions: &'a [Intervention],
    precision: Precision,
}

impl Transformer {
    /// Describes a pass over `tokens: [batch, pos]`, which runs when it is asked for something.
    pub fn pass<'a>(&'a self, tokens: &'a Array2<u32>) -> Pass<'a> {
        Pass { model: self, tokens, mask: None, interventions: &[], precision: Precision::F32 }
    }
}

/// Sequences of a batch that a mask shows the same positions of.
struct Group {
    seqs: Vec<usize>,
    positions: Vec<usize>,
}

/// What comes out besides activations.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Activations,
    Stream(usize),
    LastLogits,
    Logits,
}

impl Wanted {
    fn rows_of_seq(self, n_pos: usize) -> usize {
        match self {
            Wanted::Activations => 0,
            Wanted::LastLogits => 1,
            Wanted::Stream(_) | Wanted::Logits => n_pos,
        }
    }

    fn width(self, config: &Config) -> usize {
        match self {
            Wanted::Stream(_) => config.d_model,
            Wanted::Activations | Wanted::LastLogits | Wanted::Logits => config.d_vocab,
        }
    }
}

impl<'a> Pass<'a> {
    /// Uses only the tokens where `mask: [batch, pos]` is true. The others may be any number.
    pub fn mask(self, mask: &'a Array2<bool>) -> Self {
        Pass { mask: Some(mask), ..self }
    }

    /// Makes these changes, in the order given.
    pub fn with(self, interventions: &'a [Intervention]) -> Self {
        Pass { interventions, ..self }
    }

    /// Multiplies by weights in this precision; scores of attention, norms and sums stay `f32`.
    ///
    /// ```
    /// use onelens::{model::{Config, Transformer}, ndarray::array, num::Precision};
    /// let model = Transformer::new(Config { d_vocab: 5, ..Default::default() })?;
    /// let tokens = array![[0, 1, 2]];
    /// let rounded = model.pass(&tokens).precision(Precision::Bf16).logits()?;
    /// let exact = model.forward(&tokens)?;
    /// assert!((rounded - &exact).iter().all(|d| d.abs() < 0.05));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    #[doc(alias = "set_float32_matmul_precision")]
    pub fn precision(self, precision: Precision) -> Self {
        Pass { precision, ..self }
    }

    /// Returns the logits, `[batch, pos, d_vocab]`; position `t` predicts token `t + 1`.
    ///
    /// Fails on a token outside the vocabulary, an empty batch, more positions than `n_ctx`, an intervention that does
    /// not fit, a mask of another shape or one that hides a whole sequence.
    pub fn logits(self) -> Result<Array3<f32>> {
        Ok(self.logits_and_cache(&|_| false)?.0)
    }

    /// Returns the logits after the last token of each sequence, `[batch, d_vocab]`: `pos` times less of the largest
    /// product there is.
    ///
    /// Fails where [`logits`](Pass::logits) does.
    ///
    /// ```
    /// use onelens::{model::{Config, Transformer}, ndarray::{array, s}};
    /// let model = Transformer::new(Config { d_vocab: 5, ..Default::default() })?;
    /// let tokens = array![[0, 1, 2], [3, 4, 0]];
    /// let difference = model.pass(&tokens).last_logits()? - model.forward(&tokens)?.slice(s![.., -1, ..]);
    /// assert!(difference.iter().all(|d| d.abs() < 1e-5));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn last_logits(self) -> Result<Array2<f32>> {
        Ok(self.rows(&|_| false, Wanted::LastLogits)?.0)
    }

    /// Returns residual stream `l` of `0 ..= n_layers`, `[batch, pos, d_model]`; the pass stops there (`stop_at_layer`
    /// of TransformerLens).
    ///
    /// Fails if there is no such stream, and where [`logits`](Pass::logits) does.
    #[doc(alias = "stop_at_layer")]
    pub fn stream(self, l: usize) -> Result<Array3<f32>> {
        let config = &self.model.config;
        if l > config.n_layers {
            return Err(no_stream(l, config.n_layers + 1));
        }
        let (stream, _) = self.rows(&|_| false, Wanted::Stream(l))?;
        Ok(self.by_position(stream))
    }

    /// Returns those activations that `keep` asks for, after interventions; the pass ends with the block of the last of
    /// them. Memory is what is kept and one block.
    ///
    /// Fails where [`logits`](Pass::logits) does.
    ///
    /// ```
    /// use onelens::{model::{Config, Hook, Transformer}, ndarray::array};
    /// let model = Transformer::new(Config { d_vocab: 5, ..Default::default() })?;
    /// let tokens = array![[0, 1, 2]];
    /// let patterns = model.pass(&tokens).cache(&|hook| matches!(hook, Hook::Pattern(0..=2)))?;
    /// assert_eq!(patterns.hooks(), [Hook::Pattern(0), Hook::Pattern(1), Hook::Pattern(2)]);
    /// # Ok::<(), onelens::Error>(())
    /// ```
    #[doc(alias = "stop_at_layer")]
    pub fn cache(self, keep: &dyn Fn(Hook) -> bool) -> Result<ActivationCache> {
        Ok(self.rows(keep, Wanted::Activations)?.1)
    }

    /// Returns the logits and those activations that `keep` asks for.
    ///
    /// Fails where [`logits`](Pass::logits) does.
    pub fn logits_and_cache(self, keep: &dyn Fn(Hook) -> bool) -> Result<(Array3<f32>, ActivationCache)> {
        let (logits, cache) = self.rows(keep, Wanted::Logits)?;
        Ok((self.by_position(logits), cache))
    }

    /// Returns the mean cross-entropy of the next token, in nats, over all tokens that follow another one of their
    /// sequence.
    ///
    /// Fails where [`logits`](Pass::logits) does, if no token follows another, or for a network that sees what it is to
    /// predict.
    ///
    /// ```
    /// use onelens::{model::{Config, Transformer}, ndarray::array};
    /// let model = Transformer::new(Config { d_vocab: 5, ..Default::default() })?;
    /// let (padded, mask) = (array![[0, 3, 4, 1]], array![[false, true, true, true]]);
    /// let loss = model.pass(&padded).mask(&mask).loss()?;
    /// assert!((loss - model.loss(&array![[3, 4, 1]])?).abs() < 1e-6);
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn loss(self) -> Result<f64> {
        self.model.check_shape((self.tokens.nrows(), self.tokens.ncols().saturating_sub(1).max(1)))?;
        let (mut sum, mut n) = (0.0, 0);
        self.for_groups(|pass, _| {
            let (n_seqs, n_pos) = pass.tokens.dim();
            if n_pos < 2 {
                return Ok(());
            }
            let (seqs, input): (Vec<usize>, Vec<usize>) = ((0..n_seqs).collect(), (0..n_pos - 1).collect());
            let config = &pass.model.config;
            pass.interventions.iter().try_for_each(|i| i.check(config, n_seqs, n_pos))?;
            let of_input = |i: &Intervention| i.restricted(config, (n_seqs, n_pos), &seqs, &input);
            let interventions: Vec<Intervention> = pass.interventions.iter().map(of_input).collect();
            let counted = pass.model.n_counted((n_seqs, n_pos - 1));
            sum += pass.model.loss_in(pass.tokens, &interventions, pass.precision)? * counted as f64;
            n += counted;
            Ok(())
        })?;
        if n == 0 {
            return Err(Error::new(
                ErrorKind::Data,
                "no token follows another one, so that nothing is predicted",
                "pass sequences of at least two tokens that the mask shows",
            ));
        }
        Ok(sum / n as f64)
    }

    /// One row for each token as `[batch, pos, width]`.
    fn by_position(self, rows: Array2<f32>) -> Array3<f32> {
        let (n_seqs, n_pos) = self.tokens.dim();
        let width = rows.ncols();
        rows.into_shape_with_order((n_seqs, n_pos, width)).expect("one row per token")
    }

    /// What is wanted, one row after the other, and what is kept.
    fn rows(self, keep: &dyn Fn(Hook) -> bool, wanted: Wanted) -> Result<(Array2<f32>, ActivationCache)> {
        let (model, batch) = (self.model, self.tokens.dim());
        model.check_shape(batch)?;
        let kept: u128 = Hook::all(&model.config)
            .into_iter()
            .filter(|hook| keep(*hook))
            .map(|hook| {
                hook.shape(&model.config, batch.0, batch.1).iter().map(|&n| n as u128).product::<u128>()
            })
            .sum();
        let wanted_numbers =
            (batch.0 * wanted.rows_of_seq(batch.1)) as u128 * wanted.width(&model.config) as u128;
        memory::check(
            4 * (kept + wanted_numbers),
            &format!("the numbers that a pass over {} tokens is to give", self.tokens.len()),
            "pass fewer sequences at a time, keep less, or ask for `last_logits`, `loss` or lenses, which hold little",
        )?;
        let mut cache = model.empty_cache(batch, keep);
        if self.mask.is_some() {
            cache.clear();
        }
        let per_seq = wanted.rows_of_seq(batch.1);
        let mut all = Array2::zeros((batch.0 * per_seq, wanted.width(&model.config)));
        self.for_groups(|pass, group| {
            let Some(group) = group else {
                all = pass.run(&mut cache, wanted)?;
                return Ok(());
            };
            let mut own = model.empty_cache(pass.tokens.dim(), keep);
            let rows = pass.run(&mut own, wanted)?;
            let own_per_seq = wanted.rows_of_seq(group.positions.len());
            for (i, row) in rows.outer_iter().enumerate() {
                let (seq, pos) = (group.seqs[i / own_per_seq], group.positions[i % own_per_seq]);
                let at = if per_seq == 1 { seq } else { seq * per_seq + pos };
                all.row_mut(at).assign(&row);
            }
            own.scatter(&mut cache, &group.seqs, &group.positions);
            Ok(())
        })?;
        Ok((all, cache))
    }

    /// Calls `each` for every group of sequences that the mask shows the same positions of, with a pass over their
    /// tokens and nothing else; without a mask with this pass.
    fn for_groups(self, mut each: impl FnMut(Pass, Option<&Group>) -> Result<()>) -> Result<()> {
        let Some(mask) = self.mask else { return each(self, None) };
        let (batch, config) = (self.tokens.dim(), &self.model.config);
        self.interventions.iter().try_for_each(|i| i.check(config, batch.0, batch.1))?;
        for group in groups(mask, batch)? {
            let tokens = self.tokens.select(Axis(0), &group.seqs).select(Axis(1), &group.positions);
            let restricted = |i: &Intervention| i.restricted(config, batch, &group.seqs, &group.positions);
            let interventions: Vec<Intervention> = self.interventions.iter().map(restricted).collect();
            each(Pass { tokens: &tokens, mask: None, interventions: &interventions, ..self }, Some(&group))?;
        }
        Ok(())
    }

    /// Runs without a mask, as far as what is kept and what is wanted need.
    fn run(self, kept: &mut ActivationCache, wanted: Wanted) -> Result<Array2<f32>> {
        let (model, batch @ (n_seqs, n_pos)) = (self.model, self.tokens.dim());
        model.check_tokens(self.tokens)?;
        self.interventions.iter().try_for_each(|i| i.check(&model.config, n_seqs, n_pos))?;
        let net = Network::new(&model.config, &model.params, n_pos).with(self.precision);
        let hooks = kept.hooks();
        let parts = parts_of_pass(self.tokens, Some(kept));
        let seqs_of_part = parts[0].tokens.nrows();
        let mut passing: Vec<Passing> = parts
            .into_iter()
            .map(|part| {
                let taps = Taps::new(&model.config, self.interventions, part.first_seq, batch, part.kept);
                Passing::new(part.tokens, taps)
            })
            .collect();
        let ends_in_norm = hooks.iter().any(|hook| hook.is_after_the_blocks());
        let n_layers = match wanted {
            Wanted::Stream(l) => l,
            Wanted::Activations if !ends_in_norm => {
                hooks.iter().filter_map(|hook| hook.layer()).max().map_or(0, |layer| layer + 1)
            }
            Wanted::Activations | Wanted::LastLogits | Wanted::Logits => model.config.n_layers,
        };
        pass_layers(&net, &mut passing, n_layers);
        let per_seq = wanted.rows_of_seq(n_pos);
        let mut rows = Array2::zeros((n_seqs * per_seq, wanted.width(&model.config)));
        match wanted {
            Wanted::Activations => {
                if ends_in_norm {
                    normalise_last(&net, &mut passing);
                }
            }
            Wanted::Stream(_) => {
                let places = rows.axis_chunks_iter_mut(Axis(0), seqs_of_part * per_seq);
                passing.iter_mut().zip(places).for_each(|(part, mut at)| at.assign(&part.take_stream()));
            }
            Wanted::LastLogits | Wanted::Logits => {
                let mut normalised = normalise_last(&net, &mut passing);
                if wanted == Wanted::LastLogits {
                    let last = s![n_pos - 1..;n_pos, ..];
                    normalised.iter_mut().for_each(|rows| *rows = rows.slice(last).to_owned());
                }
                let parts: Vec<_> = normalised.iter().map(|part| part.view()).collect();
                let read = concatenate(Axis(0), &parts).expect("parts are equally wide");
                unembed_into(&net, read.view(), rows.view_mut());
            }
        }
        Ok(rows)
    }
}

/// The sequences by the positions that `mask` shows, the first of each group in order.
fn groups(mask: &Array2<bool>, batch: (usize, usize)) -> Result<Vec<Group>> {
    if mask.dim() != batch {
        return Err(Error::new(
            ErrorKind::Shape,
            format!("the mask has the shape {:?}, the tokens have {batch:?}", mask.dim()),
            "give one `true` or `false` for each token",
        ));
    }
    let mut groups: Vec<Group> = Vec::new();
    for (seq, row) in mask.outer_iter().enumerate() {
        let positions: Vec<usize> =
            row.iter().enumerate().filter(|(_, shown)| **shown).map(|(pos, _)| pos).collect();
        if positions.is_empty() {
            return Err(Error::new(
                ErrorKind::Data,
                format!("the mask hides every token of sequence {seq}"),
                "leave that sequence out; `true` is a token that is there, `false` is padding",
            ));
        }
        match groups.iter_mut().find(|group| group.positions == positions) {
            Some(group) => group.seqs.push(seq),
            None => groups.push(Group { seqs: vec![seq], positions }),
        }
    }
    Ok(groups)
}
