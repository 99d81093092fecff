//! Activations of one forward pass, or their gradients, by the names of TransformerLens.

use std::collections::BTreeMap;

use ndarray::{Array, Array3, Array4, ArrayD, ArrayViewD, ArrayViewMutD, Dimension, Ix3, Ix4};

use super::{Config, Hook};
use crate::{Error, ErrorKind, Result};

/// The activations of one forward pass, or the gradients of one backward pass. Every accessor returns an owned array that
/// a notebook can keep.
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
    numbers: Vec<f32>,
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
    /// Zeros for these hooks, which the model has.
    pub(crate) fn zeros(config: &Config, hooks: &[Hook], n_seqs: usize, n_pos: usize) -> Self {
        let mut places: BTreeMap<Hook, Place> = hooks
            .iter()
            .map(|&hook| (hook, Place { from: 0, shape: hook.shape(config, n_seqs, n_pos) }))
            .collect();
        let mut n = 0;
        for place in places.values_mut() {
            place.from = n;
            n += place.len();
        }
        ActivationCache { config: config.clone(), numbers: zeros(n), places }
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

    /// The hooks that this cache holds.
    pub fn hooks(&self) -> Vec<Hook> {
        self.places.keys().copied().collect()
    }

    /// The hooks with the shapes of their activations.
    pub fn shapes(&self) -> Vec<(Hook, Vec<usize>)> {
        self.places.iter().map(|(hook, place)| (*hook, place.shape.clone())).collect()
    }

    /// The numbers at a hook; the hook's description gives their axes.
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
            "let the filter of `run_with_cache_of` keep it",
        ))
    }

    /// Residual stream before block `layer`, `[batch, pos, d_model]`.
    pub fn resid_pre(&self, layer: usize) -> Result<Array3<f32>> {
        self.typed::<Ix3>(Hook::ResidPre(layer))
    }

    /// Residual stream between attention and MLP of block `layer`, `[batch, pos, d_model]`.
    pub fn resid_mid(&self, layer: usize) -> Result<Array3<f32>> {
        self.typed::<Ix3>(Hook::ResidMid(layer))
    }

    /// Residual stream after block `layer`, `[batch, pos, d_model]`.
    pub fn resid_post(&self, layer: usize) -> Result<Array3<f32>> {
        self.typed::<Ix3>(Hook::ResidPost(layer))
    }

    /// What attention of block `layer` added to the residual stream, `[batch, pos, d_model]`.
    pub fn attn_out(&self, layer: usize) -> Result<Array3<f32>> {
        self.typed::<Ix3>(Hook::AttnOut(layer))
    }

    /// What the MLP of block `layer` added to the residual stream, `[batch, pos, d_model]`.
    pub fn mlp_out(&self, layer: usize) -> Result<Array3<f32>> {
        self.typed::<Ix3>(Hook::MlpOut(layer))
    }

    /// Queries of block `layer`, `[batch, pos, n_heads, d_head]`.
    pub fn q(&self, layer: usize) -> Result<Array4<f32>> {
        self.typed::<Ix4>(Hook::Q(layer))
    }

    /// Keys of block `layer`, `[batch, pos, n_kv_heads, d_head]`.
    pub fn k(&self, layer: usize) -> Result<Array4<f32>> {
        self.typed::<Ix4>(Hook::K(layer))
    }

    /// Values of block `layer`, `[batch, pos, n_kv_heads, d_head]`.
    pub fn v(&self, layer: usize) -> Result<Array4<f32>> {
        self.typed::<Ix4>(Hook::V(layer))
    }

    /// What each head of block `layer` read, `[batch, pos, n_heads, d_head]`.
    pub fn z(&self, layer: usize) -> Result<Array4<f32>> {
        self.typed::<Ix4>(Hook::Z(layer))
    }

    /// Attention pattern of block `layer`, `[batch, n_heads, query pos, key pos]`; each query's row sums to 1.
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

/// Zeros in pages as large as there are: a cache is written once, and taking it from the system in small pages takes as long as
/// computing it.
#[allow(unsafe_code)]
fn zeros(n: usize) -> Vec<f32> {
    let numbers = vec![0.0; n];
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        const WORTH_IT: usize = 8 << 20;
        let start = numbers.as_ptr() as usize;
        let (from, to) = (start.next_multiple_of(PAGE), (start + 4 * n) / PAGE * PAGE);
        if 4 * n >= WORTH_IT {
            // SAFETY: whole pages inside a live allocation; the advice changes how the system backs them, not what they hold. That it
            // may be refused does not matter.
            unsafe { libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_HUGEPAGE) };
        }
    }
    numbers
}
