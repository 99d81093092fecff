//! Activations of one forward pass, or their gradients, by the names of TransformerLens.

use std::collections::BTreeMap;

use ndarray::{Array, Array2, Array3, Array4, ArrayD, ArrayViewD, ArrayViewMutD, Axis, Dimension, Ix3, Ix4};

use super::hook::no_stream;
use super::{Config, Hook};
use crate::memory::Reused;
use crate::{Error, ErrorKind, Result};

/// The activations of one forward pass, or the gradients of one backward pass. Every accessor returns an owned array
/// that a notebook can keep. The memory of a large cache is used for the next one of its size, if that comes within
/// two seconds after the first is dropped.
///
/// Layers count from 0; `resid_pre(0)` is the embedding, `resid_pre(l)` equals `resid_post(l - 1)` unless the input is
/// injected again.
///
/// ```
/// use onelens::{model::{Config, Hook, Transformer}, ndarray::array};
/// let model = Transformer::new(Config { d_vocab: 5, ..Default::default() })?;
/// let (_, cache) = model.run_with_cache(&array![[0, 1, 2]])?;
/// assert_eq!(cache.pattern(0)?.dim(), (1, 4, 3, 3));
/// assert_eq!(cache.get(Hook::MlpPost(5))?.shape(), [1, 3, 256]);
/// let e = cache.resid_post(6).unwrap_err();
/// assert!(e.help().contains("layers are 0 to 5"));
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct ActivationCache {
    config: Config,
    /// What each hook keeps, one after another in the order of hooks.
    numbers: Reused,
    places: BTreeMap<Hook, Place>,
}

/// Where the activation of a hook lies.
#[derive(Clone, PartialEq)]
struct Place {
    from: usize,
    shape: Vec<usize>,
}

impl Place {
    fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

impl ActivationCache {
    /// Room for these hooks, which the model has. What a pass does not write, its [`Taps`](super::taps::Taps) clear.
    pub(crate) fn unwritten(config: &Config, hooks: &[Hook], n_seqs: usize, n_pos: usize) -> Self {
        let mut places: BTreeMap<Hook, Place> = hooks
            .iter()
            .map(|&hook| (hook, Place { from: 0, shape: hook.shape(config, n_seqs, n_pos) }))
            .collect();
        let mut n = 0;
        for place in places.values_mut() {
            place.from = n;
            n += place.len();
        }
        ActivationCache { config: config.clone(), numbers: Reused::unwritten(n), places }
    }

    /// Sets every number to zero.
    pub(crate) fn clear(&mut self) {
        self.numbers.fill(0.0);
    }

    /// The arrays in parts of `n_seqs` sequences, for threads to fill.
    pub(crate) fn parts(&mut self, n_seqs: usize) -> Vec<BTreeMap<Hook, ArrayViewMutD<'_, f32>>> {
        let mut parts: Vec<BTreeMap<_, _>> = Vec::new();
        let mut rest = &mut self.numbers[..];
        for (hook, place) in &self.places {
            let (own, others) = rest.split_at_mut(place.len());
            rest = others;
            let per_seq: usize = place.shape[1..].iter().product();
            for (i, part) in own.chunks_mut((n_seqs * per_seq).max(1)).enumerate() {
                if parts.len() == i {
                    parts.push(BTreeMap::new());
                }
                let mut shape = place.shape.clone();
                shape[0] = part.len() / per_seq;
                let part = ArrayViewMutD::from_shape(shape, part).expect("whole sequences");
                parts[i].insert(*hook, part);
            }
        }
        parts
    }

    /// Lists the hooks that this cache holds.
    pub fn hooks(&self) -> Vec<Hook> {
        self.places.keys().copied().collect()
    }

    /// Lists the hooks with the shapes of their activations.
    pub fn shapes(&self) -> Vec<(Hook, Vec<usize>)> {
        self.places.iter().map(|(hook, place)| (*hook, place.shape.clone())).collect()
    }

    /// Returns the numbers at a hook; the hook's description gives their axes.
    ///
    /// Fails if the model has no such hook, or if the cache does not hold it.
    pub fn get(&self, hook: Hook) -> Result<ArrayD<f32>> {
        Ok(self.view(hook)?.to_owned())
    }

    pub(crate) fn view(&self, hook: Hook) -> Result<ArrayViewD<'_, f32>> {
        if let Some(place) = self.places.get(&hook) {
            let numbers = &self.numbers[place.from..place.from + place.len()];
            return Ok(ArrayViewD::from_shape(&place.shape[..], numbers).expect("as many as the shape says"));
        }
        hook.check(&self.config)?;
        Err(Error::new(
            ErrorKind::Shape,
            format!("`{hook}` was not kept"),
            "let the filter of the pass keep it",
        ))
    }

    /// Writes what this cache holds into that of a larger batch, where its sequences and positions are.
    pub(crate) fn scatter(&self, all: &mut ActivationCache, seqs: &[usize], positions: &[usize]) {
        for (hook, from) in &self.places {
            let own =
                ArrayViewD::from_shape(&from.shape[..], &self.numbers[from.from..from.from + from.len()]);
            let place = &all.places[hook];
            let numbers = &mut all.numbers[place.from..place.from + place.len()];
            let to = ArrayViewMutD::from_shape(&place.shape[..], numbers);
            let (own, mut to) = (own.expect("as many numbers"), to.expect("as many numbers"));
            let axes = hook.axes(&self.config).positions();
            for (at, &x) in own.indexed_iter() {
                let mut place = at.clone();
                place[0] = seqs[at[0]];
                axes.iter().for_each(|axis| place[axis.index()] = positions[at[axis.index()]]);
                to[place] = x;
            }
        }
    }

    /// Returns residual stream `l` of `0 ..= n_layers` as rows, `[batch · pos, d_model]`: what lenses read. Stream 0 is
    /// what the first block reads, stream `l` what block `l - 1` leaves.
    ///
    /// Fails if there is no such stream, or the cache does not hold it.
    ///
    /// ```
    /// use onelens::{lens::{Lens, LogitLens}, model::{Config, Transformer}, ndarray::array};
    /// let model = Transformer::new(Config { d_vocab: 5, n_layers: 2, ..Default::default() })?;
    /// let (_, cache) = model.run_with_cache(&array![[0, 1, 2], [3, 4, 0]])?;
    /// assert_eq!(cache.stream(0)?.dim(), (6, 64));
    /// assert_eq!(LogitLens.transport(2, cache.stream(2)?.view())?, cache.stream(2)?);
    /// assert!(cache.stream(3).unwrap_err().help().contains("0 (the embedding) to 2"));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn stream(&self, l: usize) -> Result<Array2<f32>> {
        if l > self.config.n_layers {
            return Err(no_stream(l, self.config.n_layers + 1));
        }
        let stream = self.view(Hook::of_stream(l))?;
        let (rows, width) = (stream.len() / self.config.d_model, self.config.d_model);
        Ok(stream.into_shape_with_order((rows, width)).expect("kept row by row").to_owned())
    }

    /// Stacks up the residual stream as it grows, `[component, batch, pos, d_model]`, with a name for each: what every
    /// block up to `layer` reads (`n_layers` for all, which ends with what the last one leaves), and, where blocks add
    /// one part after the other and `mid` asks for it, the stream between attention and MLP. The names are those of
    /// TransformerLens.
    ///
    /// Fails if the cache does not hold one of them.
    ///
    /// ```
    /// use onelens::{model::{Config, Transformer}, ndarray::array};
    /// let model = Transformer::new(Config { d_vocab: 5, n_layers: 2, ..Default::default() })?;
    /// let (_, cache) = model.run_with_cache(&array![[0, 1, 2]])?;
    /// let (stream, names) = cache.accumulated_resid(2, true)?;
    /// assert_eq!(names, ["0_pre", "0_mid", "1_pre", "1_mid", "final_post"]);
    /// assert_eq!(stream.dim(), (5, 1, 3, 64));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn accumulated_resid(&self, layer: usize, mid: bool) -> Result<(Array4<f32>, Vec<String>)> {
        let n_layers = self.config.n_layers;
        if layer > n_layers {
            return Err(no_stream(layer, n_layers + 1));
        }
        let mut parts: Vec<(Hook, String)> = Vec::new();
        for l in 0..=layer {
            match l == n_layers {
                true => parts.push((Hook::of_stream(l), "final_post".into())),
                false => parts.push((Hook::ResidPre(l), format!("{l}_pre"))),
            }
            if mid && l < layer {
                parts.push((Hook::ResidMid(l), format!("{l}_mid")));
            }
        }
        let views = parts.iter().map(|(hook, _)| self.view(*hook)).collect::<Result<Vec<_>>>()?;
        let stacked = ndarray::stack(Axis(0), &views).expect("streams of one shape");
        let stacked = stacked.into_dimensionality().expect("three axes and one more");
        Ok((stacked, parts.into_iter().map(|(_, name)| name).collect()))
    }

    /// Returns the residual stream before block `layer`, `[batch, pos, d_model]`.
    pub fn resid_pre(&self, layer: usize) -> Result<Array3<f32>> {
        self.typed::<Ix3>(Hook::ResidPre(layer))
    }

    /// Returns the residual stream between attention and MLP of block `layer`, `[batch, pos, d_model]`.
    pub fn resid_mid(&self, layer: usize) -> Result<Array3<f32>> {
        self.typed::<Ix3>(Hook::ResidMid(layer))
    }

    /// Returns the residual stream after block `layer`, `[batch, pos, d_model]`.
    pub fn resid_post(&self, layer: usize) -> Result<Array3<f32>> {
        self.typed::<Ix3>(Hook::ResidPost(layer))
    }

    /// Returns what attention of block `layer` added to the residual stream, `[batch, pos, d_model]`.
    pub fn attn_out(&self, layer: usize) -> Result<Array3<f32>> {
        self.typed::<Ix3>(Hook::AttnOut(layer))
    }

    /// Returns what the MLP of block `layer` added to the residual stream, `[batch, pos, d_model]`.
    pub fn mlp_out(&self, layer: usize) -> Result<Array3<f32>> {
        self.typed::<Ix3>(Hook::MlpOut(layer))
    }

    /// Returns the queries of block `layer`, `[batch, pos, n_heads, d_head]`.
    pub fn q(&self, layer: usize) -> Result<Array4<f32>> {
        self.typed::<Ix4>(Hook::Q(layer))
    }

    /// Returns the keys of block `layer`, `[batch, pos, n_kv_heads, d_head]`.
    pub fn k(&self, layer: usize) -> Result<Array4<f32>> {
        self.typed::<Ix4>(Hook::K(layer))
    }

    /// Returns the values of block `layer`, `[batch, pos, n_kv_heads, d_head]`.
    pub fn v(&self, layer: usize) -> Result<Array4<f32>> {
        self.typed::<Ix4>(Hook::V(layer))
    }

    /// Returns what each head of block `layer` read, `[batch, pos, n_heads, d_head]`.
    pub fn z(&self, layer: usize) -> Result<Array4<f32>> {
        self.typed::<Ix4>(Hook::Z(layer))
    }

    /// Returns the attention pattern of block `layer`, `[batch, n_heads, query pos, key pos]`; each query's row sums
    /// to 1.
    pub fn pattern(&self, layer: usize) -> Result<Array4<f32>> {
        self.typed::<Ix4>(Hook::Pattern(layer))
    }

    fn typed<D: Dimension>(&self, hook: Hook) -> Result<Array<f32, D>> {
        Ok(self.get(hook)?.into_dimensionality::<D>().expect("a hook has as many axes as its accessor"))
    }
}

impl std::fmt::Debug for ActivationCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some((hook, first)) = self.places.first_key_value() else {
            return write!(f, "ActivationCache: empty");
        };
        let n_seqs = first.shape[0];
        // Positions come last in a pattern, and second anywhere else.
        let n_pos = match hook {
            Hook::AttnScores(_) | Hook::Pattern(_) => first.shape[2],
            _ => first.shape[1],
        };
        let bytes = 4 * self.numbers.len();
        write!(
            f,
            "ActivationCache: {} layers, {n_seqs} sequences of {n_pos} tokens, {} hooks, {:.1} MB",
            self.config.n_layers,
            self.places.len(),
            bytes as f64 / 1e6
        )
    }
}
