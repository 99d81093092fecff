//! The shape of a network.

use serde::{Deserialize, Serialize};

use super::architecture::{
    Attention, AttentionScale, Bias, Blocks, Experts, LayerKind, Mlp, NormAt, Positions, QkNorm, Residual,
    Rotary, RotaryScaling, Supervision,
};
use crate::nn::{Mask, Norm, Pairs, Scoring, alibi_slope};
use crate::{Error, ErrorKind, Result};

/// The shape of a transformer. Counts start with `n_`, widths with `d_`, as in TransformerLens.
///
/// The default is GPT-2's architecture with a free unembedding. Others are struct updates:
///
/// ```
/// use onelens::model::{Bias, Config, Mlp, Norm, Positions, Rotary};
/// let config = Config { d_vocab: 50, n_layers: 2, ..Default::default() };
/// assert_eq!(config.n_heads * config.d_head, config.d_model);
/// assert!(config.check().is_ok());
///
/// let llama = Config {
///     norm: Norm::Rms,
///     positions: Positions::Rotary(Rotary::default()),
///     mlp: Mlp::SwiGlu,
///     n_kv_heads: Some(2),
///     bias: Bias::NONE,
///     bias_u: false,
///     tied: true,
///     ..Default::default()
/// };
/// assert!(llama.check().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Number of different tokens.
    pub d_vocab: usize,
    /// Longest context, in tokens.
    pub n_ctx: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Number of blocks that a token passes; with [`Blocks::Looped`] all of them are the same one.
    pub n_layers: usize,
    /// Attention heads per block.
    pub n_heads: usize,
    /// Key and value heads, each read by `n_heads / n_kv_heads` query heads (Ainslie et al. 2023). `None`: one for
    /// each.
    pub n_kv_heads: Option<usize>,
    /// Width of a head.
    pub d_head: usize,
    /// Hidden width of the MLP.
    pub d_mlp: usize,
    /// How rows are normalised.
    pub norm: Norm,
    /// Which values a block normalises.
    pub norm_at: NormAt,
    /// Added inside the root of a norm.
    pub eps: f64,
    /// How a position is told.
    pub positions: Positions,
    /// What layer `l` does otherwise: kind `l` of this list, from its start again after its end. Empty: nothing.
    pub layers: Vec<LayerKind>,
    /// Normalisation of queries and keys.
    pub qk_norm: QkNorm,
    /// What products of queries and keys are multiplied by.
    pub attention_scale: AttentionScale,
    /// No attention score is larger than this, `c tanh(x / c)` (Gemma 2).
    pub attention_cap: Option<f64>,
    /// Softmax or linear attention.
    pub attention: Attention,
    /// Which positions a position sees.
    pub mask: Mask,
    /// The kind of MLP.
    pub mlp: Mlp,
    /// Several MLPs in each block, of which a position takes a few; `None`: one.
    pub experts: Option<Experts>,
    /// How a block writes into the residual stream.
    pub residual: Residual,
    /// Weights of their own for each block, or one block for all.
    pub blocks: Blocks,
    /// Which maps have biases.
    pub bias: Bias,
    /// Whether the logits have a bias.
    pub bias_u: bool,
    /// Whether the unembedding is the embedding transposed (Hugging Face: `tie_word_embeddings`).
    pub tied: bool,
    /// Whether the embedding is normalised before anything else (BLOOM).
    pub embed_norm: bool,
    /// What the rows of the embedding are multiplied by (Gemma: `√d_model`; Granite: `embedding_multiplier`).
    pub embed_scale: f64,
    /// What attention and MLP give is multiplied by before it is added (Granite: `residual_multiplier`).
    pub resid_scale: f64,
    /// What the logits are multiplied by (Cohere: `logit_scale`).
    pub logit_scale: f64,
    /// No logit is larger than this, `c tanh(x / c)` (Gemma 2).
    pub logit_cap: Option<f64>,
    /// Which layers are trained to predict.
    pub supervision: Supervision,
    /// Seed of the initial weights.
    pub seed: u64,
}

impl Default for Config {
    /// Six blocks of width 64 over 64 tokens: small enough to train while you read.
    fn default() -> Self {
        Config {
            d_vocab: 96,
            n_ctx: 64,
            d_model: 64,
            n_layers: 6,
            n_heads: 4,
            n_kv_heads: None,
            d_head: 16,
            d_mlp: 256,
            norm: Norm::Layer,
            norm_at: NormAt::Input,
            eps: 1e-5,
            positions: Positions::Learned,
            layers: Vec::new(),
            qk_norm: QkNorm::None,
            attention_scale: AttentionScale::Head,
            attention_cap: None,
            attention: Attention::Softmax,
            mask: Mask::Causal,
            mlp: Mlp::GeluTanh,
            experts: None,
            residual: Residual::Sequential,
            blocks: Blocks::Distinct,
            bias: Bias::ALL,
            bias_u: true,
            tied: false,
            embed_norm: false,
            embed_scale: 1.0,
            resid_scale: 1.0,
            logit_scale: 1.0,
            logit_cap: None,
            supervision: Supervision::Final,
            seed: 0,
        }
    }
}

impl Config {
    /// Refuses what cannot be built, naming the setting, or both settings that exclude each other.
    pub fn check(&self) -> Result<()> {
        self.check_counts()?;
        if self.norm != Norm::None && !(self.eps > 0.0 && self.eps.is_finite()) {
            return refuse(
                format!("eps is {}", self.eps),
                "set eps to a small positive number, for example 1e-5",
            );
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads()) {
            return refuse(
                format!("n_heads is {} and n_kv_heads {}", self.n_heads, self.n_kv_heads()),
                "set n_kv_heads to a divisor of n_heads: each key/value head serves equally many query heads",
            );
        }
        self.check_positions()?;
        self.check_numbers()?;
        self.check_pairs()?;
        if let Mask::Prefix(n) = self.mask
            && n > self.n_ctx
        {
            return refuse(
                format!("mask is Prefix({n}) and n_ctx {}", self.n_ctx),
                "set a prefix of at most n_ctx positions, or a larger n_ctx",
            );
        }
        if self.residual.is_parallel() && self.mlp == Mlp::None {
            return refuse(
                format!("residual is {:?} and mlp None", self.residual),
                "a parallel block adds attention and an MLP; set residual to Sequential, or mlp to another kind",
            );
        }
        Ok(())
    }

    fn check_positions(&self) -> Result<()> {
        let own = self.layers.iter().filter_map(|kind| kind.positions.as_ref());
        for positions in own.clone() {
            if matches!(positions, Positions::Learned | Positions::Alibi) {
                return refuse(
                    format!("layers has {positions:?} positions in one of its kinds"),
                    "a layer of its own kind has Rotary positions or None; set `positions` for the whole network",
                );
            }
        }
        for positions in own.chain([&self.positions]) {
            match positions {
                Positions::Rotary(rotary) => self.check_rotary(rotary)?,
                Positions::Learned | Positions::Alibi | Positions::None => {}
            }
        }
        if let Some(window) = self.layers.iter().filter_map(|kind| kind.window).find(|&n| n == 0) {
            return refuse(
                format!("a window of layers is {window}"),
                "a query sees itself at least: set it to 1 or more",
            );
        }
        Ok(())
    }

    fn check_rotary(&self, rotary: &Rotary) -> Result<()> {
        let d_rotary = rotary.d_rotary.unwrap_or(self.d_head);
        if d_rotary == 0 || d_rotary > self.d_head || !d_rotary.is_multiple_of(2) {
            return refuse(
                format!("positions turns {d_rotary} dimensions of a head and d_head is {}", self.d_head),
                "set d_rotary to an even number of at most d_head: rotary positions turn pairs",
            );
        }
        if !(rotary.theta > 0.0 && rotary.theta.is_finite()) {
            return refuse(
                format!("theta of the rotary positions is {}", rotary.theta),
                "set theta to a positive number, for example 10000",
            );
        }
        let numbers: &[f64] = match &rotary.scaling {
            RotaryScaling::None => &[],
            RotaryScaling::Linear { factor } => &[*factor],
            RotaryScaling::Dynamic { factor, n_trained } => &[*factor, *n_trained as f64],
            RotaryScaling::Llama3 { factor, low, high, n_trained } => {
                &[*factor, *low, *high - *low, *n_trained as f64]
            }
            RotaryScaling::Yarn { factor, fast, slow, n_trained, length, truncate: _ } => {
                &[*factor, *fast, *slow, *n_trained as f64, *length, rotary.theta.ln()]
            }
        };
        if numbers.iter().any(|x| !(*x > 0.0 && x.is_finite())) {
            return refuse(
                format!("scaling of the rotary positions is {:?}", rotary.scaling),
                "its numbers are positive, `high` is above `low`, and with Yarn theta is above 1",
            );
        }
        Ok(())
    }

    /// Numbers that something is multiplied or divided by.
    fn check_numbers(&self) -> Result<()> {
        for (name, value) in [
            ("embed_scale", self.embed_scale),
            ("resid_scale", self.resid_scale),
            ("logit_scale", self.logit_scale),
        ] {
            if !value.is_finite() {
                return refuse(format!("{name} is {value}"), format!("set {name} to a finite number"));
            }
        }
        if let AttentionScale::Fixed { scale, by_layer: _ } = self.attention_scale
            && !(scale > 0.0 && scale.is_finite())
        {
            return refuse(
                format!("attention_scale is {scale}"),
                "set attention_scale to a positive number, or to AttentionScale::Head for 1 / √d_head",
            );
        }
        for (name, value) in [("attention_cap", self.attention_cap), ("logit_cap", self.logit_cap)] {
            if let Some(value) = value.filter(|x| !(*x > 0.0 && x.is_finite())) {
                return refuse(
                    format!("{name} is {value}"),
                    format!("set {name} to a positive number, or to None for no cap"),
                );
            }
        }
        Ok(())
    }

    /// Settings that exclude each other.
    fn check_pairs(&self) -> Result<()> {
        let softmax_only = [
            ("a window", self.layers.iter().any(|kind| kind.window.is_some())),
            ("Alibi positions", self.positions == Positions::Alibi),
            ("an attention_cap", self.attention_cap.is_some()),
            ("an attention_scale", self.attention_scale != AttentionScale::Head),
        ];
        if self.attention == Attention::Linear
            && let Some((what, _)) = softmax_only.iter().find(|(_, is_there)| *is_there)
        {
            return refuse(
                format!("attention is Linear and there is {what}"),
                "linear attention is the bare product; set attention to Softmax, or leave that out",
            );
        }
        if self.norm_at == NormAt::Sum && self.residual.is_parallel() {
            return refuse(
                format!("norm_at is Sum and residual {:?}", self.residual),
                "a post-norm needs one addition after the other; set residual to Sequential",
            );
        }
        if self.residual == Residual::ParallelOneNorm && !self.norm_at.input() {
            return refuse(
                format!("residual is ParallelOneNorm and norm_at {:?}", self.norm_at),
                "one norm for both needs a norm of what they read; set norm_at to Input or InputAndOutput",
            );
        }
        if let Some(Experts { n, n_chosen }) = self.experts {
            if !self.mlp.is_gated() || self.bias.mlp || self.bias.gate {
                return refuse(
                    format!("experts has {n} MLPs of the kind {:?}, bias.mlp is {}", self.mlp, self.bias.mlp),
                    "experts are gated MLPs without biases, as in Mixtral; set mlp to SwiGlu and bias to Bias::NONE",
                );
            }
            if n == 0 || n > 1 << 12 || n_chosen == 0 || n_chosen > n {
                return refuse(
                    format!("experts chooses {n_chosen} of {n}"),
                    format!("set experts to choose from 1 to all of at most {} MLPs", 1 << 12),
                );
            }
        }
        Ok(())
    }

    /// What layer `l` does otherwise than the settings of the network say.
    fn kind(&self, l: usize) -> Option<&LayerKind> {
        self.layers.get(l % self.layers.len().max(1))
    }

    /// Says how positions are told in layer `l`.
    pub fn positions_in(&self, l: usize) -> &Positions {
        self.kind(l).and_then(|kind| kind.positions.as_ref()).unwrap_or(&self.positions)
    }

    /// Says how many keys a query sees at most in layer `l`, itself included; `None`: all that the mask lets it see.
    pub fn window(&self, l: usize) -> Option<usize> {
        self.kind(l).and_then(|kind| kind.window)
    }

    /// Says how head `head` of layer `l` scores keys.
    pub fn scoring(&self, l: usize, head: usize) -> Scoring {
        Scoring {
            mask: self.mask,
            window: self.window(l),
            scale: self.attention_scale.of(self.d_head, l),
            soft_cap: self.attention_cap,
            slope: match self.positions {
                Positions::Alibi => alibi_slope(head, self.n_heads),
                Positions::Learned | Positions::Rotary(_) | Positions::None => 0.0,
            },
        }
    }

    /// The norm of what attention and MLP read, and its `eps`.
    pub(crate) fn norm_before(&self) -> (Norm, f64) {
        (if self.norm_at.input() { self.norm } else { Norm::None }, self.eps)
    }

    /// Returns the norm that the unembedding reads through: none where every block ends with one.
    pub fn final_norm(&self) -> Norm {
        if self.norm_at.sum() { Norm::None } else { self.norm }
    }

    fn check_counts(&self) -> Result<()> {
        let counts = [
            ("d_vocab", self.d_vocab),
            ("n_ctx", self.n_ctx),
            ("d_model", self.d_model),
            ("n_layers", self.n_layers),
            ("n_heads", self.n_heads),
            ("n_kv_heads", self.n_kv_heads()),
            ("d_head", self.d_head),
            // Without an MLP nobody asks how wide it is.
            ("d_mlp", if self.mlp == Mlp::None { 1 } else { self.d_mlp }),
        ];
        for (name, value) in counts {
            if value == 0 || value > 1 << 24 {
                return refuse(
                    format!("{name} is {value}"),
                    format!("set {name} to a number from 1 to {}", 1 << 24),
                );
            }
        }
        Ok(())
    }

    /// Returns the number of key and value heads: `n_kv_heads`, or as many as `n_heads`.
    pub fn n_kv_heads(&self) -> usize {
        self.n_kv_heads.unwrap_or(self.n_heads)
    }

    /// Counts the blocks with weights of their own: `n_layers`, or one if it is looped.
    pub fn n_distinct_blocks(&self) -> usize {
        match self.blocks {
            Blocks::Distinct => self.n_layers,
            Blocks::Looped { .. } => 1,
        }
    }

    /// Describes the architecture in words, without sizes.
    ///
    /// ```
    /// use onelens::model::{Blocks, Config, Norm};
    /// let config = Config { norm: Norm::Rms, blocks: Blocks::Looped { inject: true }, ..Default::default() };
    /// let words = config.describe();
    /// assert!(words.contains("RMS norm") && words.contains("one block looped, with input injection"));
    /// ```
    pub fn describe(&self) -> String {
        let mut words = vec!["decoder".to_string()];
        let norm = match self.norm {
            Norm::Layer => "layer norm",
            Norm::Rms => "RMS norm",
            Norm::None => "no norm",
        };
        let norm_at = match (self.norm, self.norm_at) {
            (Norm::None, _) => "",
            (Norm::Layer | Norm::Rms, NormAt::Input) => "pre-norm, ",
            (Norm::Layer | Norm::Rms, NormAt::Output) => "norm of outputs, ",
            (Norm::Layer | Norm::Rms, NormAt::InputAndOutput) => "norm of inputs and outputs, ",
            (Norm::Layer | Norm::Rms, NormAt::Sum) => "post-norm, ",
        };
        let mlp = match self.mlp {
            Mlp::GeluTanh => "GELU",
            Mlp::Gelu => "exact GELU",
            Mlp::Relu => "ReLU",
            Mlp::SwiGlu => "SwiGLU",
            Mlp::GeGluTanh => "GeGLU",
            Mlp::None => "no MLP",
        };
        let attention = match self.attention {
            Attention::Softmax => "softmax attention",
            Attention::Linear => "linear attention",
        };
        words.extend([
            format!("{norm_at}{norm}"),
            self.positions.describe(self.d_head),
            mlp.into(),
            attention.into(),
        ]);
        let kinds = self.layers.iter().map(|kind| {
            let window = kind.window.map_or("all keys".into(), |n| format!("the last {n} keys"));
            match &kind.positions {
                None => window,
                Some(positions) => format!("{window} and {}", positions.describe(self.d_head)),
            }
        });
        let kinds: Vec<String> = kinds.collect();
        if !kinds.is_empty() {
            words.push(format!("layers in turn with {}", kinds.join("; ")));
        }
        match self.qk_norm {
            QkNorm::None => {}
            QkNorm::Head => words.push("normalised queries and keys".into()),
            QkNorm::AllHeads => words.push("queries and keys normalised over all heads".into()),
        }
        match self.attention_scale {
            AttentionScale::Head => {}
            AttentionScale::Fixed { scale, by_layer: false } => words.push(format!("scores times {scale}")),
            AttentionScale::Fixed { scale, by_layer: true } => {
                words.push(format!("scores times {scale} divided by the layer"));
            }
        }
        if let Some(cap) = self.attention_cap {
            words.push(format!("scores capped at {cap}"));
        }
        if let Some(Experts { n, n_chosen }) = self.experts {
            words.push(format!("{n_chosen} of {n} experts"));
        }
        match self.mask {
            Mask::Causal => {}
            Mask::Prefix(n) => words.push(format!("prefix of {n} positions")),
            Mask::None => words.push("no mask".into()),
        }
        if self.n_kv_heads() != self.n_heads {
            words.push(format!("{} key/value heads", self.n_kv_heads()));
        }
        match self.residual {
            Residual::Sequential => {}
            Residual::Parallel => words.push("parallel residual".into()),
            Residual::ParallelOneNorm => words.push("parallel residual through one norm".into()),
            Residual::None => words.push("no skip connections".into()),
        }
        match self.blocks {
            Blocks::Distinct => {}
            Blocks::Looped { inject: false } => words.push("one block looped".into()),
            Blocks::Looped { inject: true } => words.push("one block looped, with input injection".into()),
        }
        words.extend(self.bias.describe());
        if self.tied {
            words.push("tied unembedding".into());
        }
        if self.embed_norm {
            words.push("normalised embedding".into());
        }
        for (what, scale) in
            [("embedding", self.embed_scale), ("outputs", self.resid_scale), ("logits", self.logit_scale)]
        {
            if scale != 1.0 {
                words.push(format!("{what} times {scale}"));
            }
        }
        if let Some(cap) = self.logit_cap {
            words.push(format!("logits capped at {cap}"));
        }
        if self.supervision == Supervision::EveryLayer {
            words.push("every layer supervised".into());
        }
        words.join(", ")
    }
}

impl Positions {
    fn describe(&self, d_head: usize) -> String {
        match self {
            Positions::Learned => "learned positions".into(),
            Positions::None => "no positions".into(),
            Positions::Alibi => "ALiBi positions".into(),
            Positions::Rotary(r) => {
                let pairs = match r.pairs {
                    Pairs::Adjacent => "adjacent pairs",
                    Pairs::Half => "halves",
                };
                let scaling = match r.scaling {
                    RotaryScaling::None => String::new(),
                    RotaryScaling::Linear { factor } => format!(", {factor} times longer"),
                    RotaryScaling::Dynamic { factor, .. } => format!(", dynamically {factor} times longer"),
                    RotaryScaling::Llama3 { factor, .. } => format!(", {factor} times longer as in Llama 3"),
                    RotaryScaling::Yarn { factor, .. } => format!(", {factor} times longer by YaRN"),
                };
                let turned = r.d_rotary.unwrap_or(d_head);
                format!(
                    "rotary positions ({pairs}, {turned} of {d_head} dimensions, theta {}{scaling})",
                    r.theta
                )
            }
        }
    }
}

impl Bias {
    fn describe(self) -> Option<String> {
        if self == Bias::ALL {
            return None;
        }
        let Bias { qkv, out, mlp, gate, norm } = self;
        let all = [
            (qkv, "queries, keys and values"),
            (out, "attention output"),
            (mlp, "MLP"),
            (gate, "gate"),
            (norm, "norms"),
        ];
        let with: Vec<&str> = all.iter().filter(|(is_there, _)| *is_there).map(|(_, what)| *what).collect();
        Some(if with.is_empty() { "no biases".into() } else { format!("biases in {}", with.join(", ")) })
    }
}

fn refuse<T>(what: impl Into<String>, help: impl Into<String>) -> Result<T> {
    Err(Error::new(ErrorKind::Config, what, help))
}
