//! Places in the network, by the names of TransformerLens.

use std::fmt;
use std::str::FromStr;

use ndarray::Axis;

use super::Config;
use super::architecture::{Attention, Mlp, Positions, Residual};
use crate::nn::Norm;
use crate::{Error, ErrorKind, Result};

/// A place in the network where an activation can be read, changed, or asked for its gradient. The number is the layer.
///
/// ```
/// use onelens::model::Hook;
/// assert_eq!(Hook::ResidPost(3).to_string(), "blocks.3.hook_resid_post");
/// assert_eq!("blocks.0.attn.hook_z".parse::<Hook>()?, Hook::Z(0));
/// let e = "blocks.0.attn.hook_zz".parse::<Hook>().unwrap_err();
/// assert!(e.help().contains("`blocks.0.attn.hook_z`"));
/// # Ok::<(), onelens::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// `hook_embed`: the rows of the embedding, `[batch, pos, d_model]`.
    Embed,
    /// `hook_pos_embed`: the learned positions, `[batch, pos, d_model]`.
    PosEmbed,
    /// `hook_resid_pre`: what the block reads, `[batch, pos, d_model]`.
    ResidPre(usize),
    /// `ln1.hook_scale`: what the norm before attention divides by, `[batch, pos, 1]`.
    Ln1Scale(usize),
    /// `ln1.hook_normalized`: what attention reads, after gain and bias, `[batch, pos, d_model]`.
    Ln1Normalized(usize),
    /// `attn.hook_q`: queries, before they turn, `[batch, pos, n_heads, d_head]`.
    Q(usize),
    /// `attn.hook_k`: keys, before they turn, `[batch, pos, n_kv_heads, d_head]`.
    K(usize),
    /// `attn.hook_v`: values, `[batch, pos, n_kv_heads, d_head]`.
    V(usize),
    /// `attn.hook_rot_q`: queries turned by rotary positions, `[batch, pos, n_heads, d_head]`.
    RotQ(usize),
    /// `attn.hook_rot_k`: keys turned by rotary positions, `[batch, pos, n_kv_heads, d_head]`.
    RotK(usize),
    /// `attn.hook_attn_scores`: what the softmax reads, minus infinity where the mask hides, `[batch, n_heads, query,
    /// key]`.
    AttnScores(usize),
    /// `attn.hook_pattern`: how much each query takes of each value, `[batch, n_heads, query, key]`.
    Pattern(usize),
    /// `attn.hook_z`: what each head has gathered, `[batch, pos, n_heads, d_head]`.
    Z(usize),
    /// `attn.hook_result`: what each head adds to the stream, `[batch, pos, n_heads, d_model]`.
    Result(usize),
    /// `ln1_post.hook_scale`: what the norm of what attention gives divides by, `[batch, pos, 1]`.
    Ln1PostScale(usize),
    /// `ln1_post.hook_normalized`: what attention gives, normalised, after gain and bias, `[batch, pos, d_model]`.
    Ln1PostNormalized(usize),
    /// `hook_attn_out`: what attention adds to the stream, `[batch, pos, d_model]`.
    AttnOut(usize),
    /// `hook_resid_mid`: the stream between attention and MLP, `[batch, pos, d_model]`.
    ResidMid(usize),
    /// `ln2.hook_scale`: what the norm before the MLP divides by, `[batch, pos, 1]`.
    Ln2Scale(usize),
    /// `ln2.hook_normalized`: what the MLP reads, after gain and bias, `[batch, pos, d_model]`.
    Ln2Normalized(usize),
    /// `mlp.hook_pre`: what the nonlinearity reads, `[batch, pos, d_mlp]`.
    MlpPre(usize),
    /// `mlp.hook_pre_linear`: what a gate multiplies, `[batch, pos, d_mlp]`.
    MlpPreLinear(usize),
    /// `mlp.hook_post`: the hidden layer, `[batch, pos, d_mlp]`.
    MlpPost(usize),
    /// `ln2_post.hook_scale`: what the norm of what the MLP gives divides by, `[batch, pos, 1]`.
    Ln2PostScale(usize),
    /// `ln2_post.hook_normalized`: what the MLP gives, normalised, after gain and bias, `[batch, pos, d_model]`.
    Ln2PostNormalized(usize),
    /// `hook_mlp_out`: what the MLP adds to the stream, `[batch, pos, d_model]`.
    MlpOut(usize),
    /// `hook_resid_post`: what the block leaves, `[batch, pos, d_model]`.
    ResidPost(usize),
    /// `ln_final.hook_scale`: what the final norm divides by, `[batch, pos, 1]`.
    LnFinalScale,
    /// `ln_final.hook_normalized`: what the unembedding reads, after gain and bias, `[batch, pos, d_model]`.
    LnFinalNormalized,
}

/// A place of a block, given the layer, and its name.
type InBlock = (fn(usize) -> Hook, &'static str);

/// The places of a block in the order of the forward pass.
const IN_BLOCK: [InBlock; 25] = [
    (Hook::ResidPre, "hook_resid_pre"),
    (Hook::Ln1Scale, "ln1.hook_scale"),
    (Hook::Ln1Normalized, "ln1.hook_normalized"),
    (Hook::Q, "attn.hook_q"),
    (Hook::K, "attn.hook_k"),
    (Hook::V, "attn.hook_v"),
    (Hook::RotQ, "attn.hook_rot_q"),
    (Hook::RotK, "attn.hook_rot_k"),
    (Hook::AttnScores, "attn.hook_attn_scores"),
    (Hook::Pattern, "attn.hook_pattern"),
    (Hook::Z, "attn.hook_z"),
    (Hook::Result, "attn.hook_result"),
    (Hook::Ln1PostScale, "ln1_post.hook_scale"),
    (Hook::Ln1PostNormalized, "ln1_post.hook_normalized"),
    (Hook::AttnOut, "hook_attn_out"),
    (Hook::ResidMid, "hook_resid_mid"),
    (Hook::Ln2Scale, "ln2.hook_scale"),
    (Hook::Ln2Normalized, "ln2.hook_normalized"),
    (Hook::MlpPre, "mlp.hook_pre"),
    (Hook::MlpPreLinear, "mlp.hook_pre_linear"),
    (Hook::MlpPost, "mlp.hook_post"),
    (Hook::Ln2PostScale, "ln2_post.hook_scale"),
    (Hook::Ln2PostNormalized, "ln2_post.hook_normalized"),
    (Hook::MlpOut, "hook_mlp_out"),
    (Hook::ResidPost, "hook_resid_post"),
];

const BEFORE: [(Hook, &str); 2] = [(Hook::Embed, "hook_embed"), (Hook::PosEmbed, "hook_pos_embed")];
const AFTER: [(Hook, &str); 2] =
    [(Hook::LnFinalScale, "ln_final.hook_scale"), (Hook::LnFinalNormalized, "ln_final.hook_normalized")];

/// How the numbers at a hook are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axes {
    /// `[batch, pos, width]`.
    Rows(usize),
    /// `[batch, pos, heads, width]`.
    Heads(usize, usize),
    /// `[batch, heads, query, key]`.
    Pattern(usize),
}

impl Axes {
    /// Which axes count positions.
    pub(crate) fn positions(self) -> &'static [Axis] {
        match self {
            Axes::Rows(_) | Axes::Heads(..) => &[Axis(1)],
            Axes::Pattern(_) => &[Axis(2), Axis(3)],
        }
    }
}

impl Hook {
    /// Lists every hook of a network of this shape, in the order of the forward pass.
    ///
    /// ```
    /// use onelens::model::{Config, Hook};
    /// let all = Hook::all(&Config { n_layers: 2, ..Default::default() });
    /// assert_eq!(all.first(), Some(&Hook::Embed));
    /// assert_eq!(all.last(), Some(&Hook::LnFinalNormalized));
    /// assert!(all.contains(&Hook::ResidMid(1)) && !all.contains(&Hook::RotQ(0)));
    /// ```
    pub fn all(config: &Config) -> Vec<Hook> {
        let blocks = (0..config.n_layers).flat_map(|l| IN_BLOCK.iter().map(move |(hook, _)| hook(l)));
        let ends = |ends: [(Hook, &'static str); 2]| ends.into_iter().map(|(hook, _)| hook);
        let all = ends(BEFORE).chain(blocks).chain(ends(AFTER));
        all.filter(|hook| hook.check(config).is_ok()).collect()
    }

    /// Lists the hooks whose names begin with `prefix`, whole parts of the name only: `blocks.1` is not `blocks.10`.
    ///
    /// Fails if there is none, with the names nearest to it.
    ///
    /// ```
    /// use onelens::model::{Config, Hook, Transformer};
    /// let model = Transformer::new(Config { d_vocab: 5, ..Config::default() })?;
    /// let attention = Hook::with_prefix(&model.config, "blocks.3.attn")?;
    /// assert!(attention.contains(&Hook::Pattern(3)) && !attention.contains(&Hook::MlpOut(3)));
    /// let cache = model.pass(&onelens::ndarray::array![[0, 1, 2]]).cache(&|hook| attention.contains(&hook))?;
    /// assert_eq!(cache.hooks(), attention);
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn with_prefix(config: &Config, prefix: &str) -> Result<Vec<Hook>> {
        let begins = |name: &str| {
            name.strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || prefix.ends_with(['.', '_']))
        };
        let found: Vec<Hook> =
            Hook::all(config).into_iter().filter(|hook| begins(&hook.to_string())).collect();
        if !found.is_empty() {
            return Ok(found);
        }
        if let Some(layer) = prefix.strip_prefix("blocks.").and_then(|rest| rest.split('.').next())
            && let Ok(layer) = layer.parse()
            && layer >= config.n_layers
        {
            return Err(no_layer(layer, config.n_layers));
        }
        let all = Hook::all(config);
        let nearest = all.iter().map(ToString::to_string).min_by_key(|name| distance(name, prefix));
        Err(Error::new(
            ErrorKind::Config,
            format!("no hook of this model begins with `{prefix}`"),
            format!(
                "the nearest one is `{}`; parts of it such as `blocks.0.attn` are prefixes",
                nearest.unwrap_or_default()
            ),
        ))
    }

    /// Whether all blocks come before it.
    pub(crate) fn is_after_the_blocks(self) -> bool {
        AFTER.iter().any(|(hook, _)| *hook == self)
    }

    /// Where residual stream `l` of `0 ..= n_layers` is read.
    pub(crate) fn of_stream(l: usize) -> Hook {
        match l {
            0 => Hook::ResidPre(0),
            l => Hook::ResidPost(l - 1),
        }
    }

    /// Returns the layer of a hook inside a block.
    pub fn layer(self) -> Option<usize> {
        self.position_in_block().map(|(_, layer)| layer)
    }

    /// Moves the hook to the same place of another layer; a hook outside the blocks stays.
    ///
    /// ```
    /// use onelens::model::Hook;
    /// assert_eq!(Hook::Z(3).in_layer(0), Hook::Z(0));
    /// assert_eq!(Hook::Embed.in_layer(2), Hook::Embed);
    /// ```
    pub fn in_layer(self, layer: usize) -> Hook {
        self.position_in_block().map_or(self, |(at, _)| IN_BLOCK[at].0(layer))
    }

    /// Refuses a hook that a network of this shape does not have, and says why.
    pub fn check(self, config: &Config) -> Result<()> {
        if let Some(layer) = self.layer()
            && layer >= config.n_layers
        {
            return Err(no_layer(layer, config.n_layers));
        }
        let normed = config.norm != Norm::None;
        let before = normed && (config.norm_at.input() || config.norm_at.sum());
        let after = normed && config.norm_at.output();
        let mlp = config.mlp != Mlp::None;
        let missing: Option<&str> = match self {
            Hook::PosEmbed => (config.positions != Positions::Learned).then_some("positions are not learned"),
            Hook::RotQ(l) | Hook::RotK(l) => (!matches!(config.positions_in(l), Positions::Rotary(_)))
                .then_some("positions are not rotary there"),
            Hook::Ln1Scale(_) | Hook::Ln1Normalized(_) => {
                (!before).then_some("it has no norm before attention")
            }
            Hook::Ln2Scale(_) | Hook::Ln2Normalized(_) if !mlp => Some("it has no MLP"),
            Hook::Ln2Scale(_) | Hook::Ln2Normalized(_) => (!before
                || config.residual == Residual::ParallelOneNorm)
                .then_some("it has no norm of its own before the MLP"),
            Hook::Ln1PostScale(_) | Hook::Ln1PostNormalized(_) => {
                (!after).then_some("it has no norm after attention")
            }
            Hook::Ln2PostScale(_) | Hook::Ln2PostNormalized(_) => {
                (!after || !mlp).then_some("it has no norm after the MLP")
            }
            Hook::LnFinalScale | Hook::LnFinalNormalized => {
                (config.final_norm() == Norm::None).then_some("it has no final norm")
            }
            Hook::AttnScores(_) => (config.attention == Attention::Linear)
                .then_some("its attention is linear, the scores are the pattern"),
            Hook::ResidMid(_) => config
                .residual
                .is_parallel()
                .then_some("attention and MLP are parallel, nothing is between them"),
            Hook::MlpOut(_) => (!mlp).then_some("it has no MLP"),
            Hook::MlpPre(_) | Hook::MlpPost(_) if !mlp => Some("it has no MLP"),
            Hook::MlpPreLinear(_) if !config.mlp.is_gated() => Some("its MLP has no gate"),
            Hook::MlpPre(_) | Hook::MlpPost(_) | Hook::MlpPreLinear(_) => {
                config.experts.is_some().then_some("positions choose between several MLPs")
            }
            Hook::Embed
            | Hook::ResidPre(_)
            | Hook::Q(_)
            | Hook::K(_)
            | Hook::V(_)
            | Hook::Pattern(_)
            | Hook::Z(_)
            | Hook::Result(_)
            | Hook::AttnOut(_)
            | Hook::ResidPost(_) => None,
        };
        let Some(why) = missing else { return Ok(()) };
        Err(Error::new(
            ErrorKind::Shape,
            format!("this model has no `{self}`: {why}"),
            "`Hook::all(&model.config)` lists the hooks that it has",
        ))
    }

    /// How many heads it has; what has none is refused where one is asked for.
    pub(crate) fn n_heads(self, c: &Config) -> usize {
        match self.axes(c) {
            Axes::Heads(n, _) | Axes::Pattern(n) => n,
            Axes::Rows(_) => c.n_heads,
        }
    }

    pub(crate) fn axes(self, c: &Config) -> Axes {
        match self {
            Hook::Ln1Scale(_)
            | Hook::Ln1PostScale(_)
            | Hook::Ln2Scale(_)
            | Hook::Ln2PostScale(_)
            | Hook::LnFinalScale => Axes::Rows(1),
            Hook::Q(_) | Hook::RotQ(_) | Hook::Z(_) => Axes::Heads(c.n_heads, c.d_head),
            Hook::K(_) | Hook::RotK(_) | Hook::V(_) => Axes::Heads(c.n_kv_heads(), c.d_head),
            Hook::Result(_) => Axes::Heads(c.n_heads, c.d_model),
            Hook::AttnScores(_) | Hook::Pattern(_) => Axes::Pattern(c.n_heads),
            Hook::MlpPre(_) | Hook::MlpPreLinear(_) | Hook::MlpPost(_) => Axes::Rows(c.d_mlp),
            Hook::Embed
            | Hook::PosEmbed
            | Hook::ResidPre(_)
            | Hook::Ln1Normalized(_)
            | Hook::Ln1PostNormalized(_)
            | Hook::AttnOut(_)
            | Hook::ResidMid(_)
            | Hook::Ln2Normalized(_)
            | Hook::Ln2PostNormalized(_)
            | Hook::MlpOut(_)
            | Hook::ResidPost(_)
            | Hook::LnFinalNormalized => Axes::Rows(c.d_model),
        }
    }

    /// The shape of the activation for a batch.
    pub(crate) fn shape(self, c: &Config, n_seqs: usize, n_pos: usize) -> Vec<usize> {
        match self.axes(c) {
            Axes::Rows(width) => vec![n_seqs, n_pos, width],
            Axes::Heads(heads, width) => vec![n_seqs, n_pos, heads, width],
            Axes::Pattern(heads) => vec![n_seqs, heads, n_pos, n_pos],
        }
    }

    fn position_in_block(self) -> Option<(usize, usize)> {
        let layer = match self {
            Hook::Embed | Hook::PosEmbed | Hook::LnFinalScale | Hook::LnFinalNormalized => return None,
            Hook::ResidPre(l)
            | Hook::Ln1Scale(l)
            | Hook::Ln1Normalized(l)
            | Hook::Q(l)
            | Hook::K(l)
            | Hook::V(l)
            | Hook::RotQ(l)
            | Hook::RotK(l)
            | Hook::AttnScores(l)
            | Hook::Pattern(l)
            | Hook::Z(l)
            | Hook::Result(l)
            | Hook::Ln1PostScale(l)
            | Hook::Ln1PostNormalized(l)
            | Hook::AttnOut(l)
            | Hook::ResidMid(l)
            | Hook::Ln2Scale(l)
            | Hook::Ln2Normalized(l)
            | Hook::MlpPre(l)
            | Hook::MlpPreLinear(l)
            | Hook::MlpPost(l)
            | Hook::Ln2PostScale(l)
            | Hook::Ln2PostNormalized(l)
            | Hook::MlpOut(l)
            | Hook::ResidPost(l) => l,
        };
        let at = IN_BLOCK.iter().position(|(hook, _)| hook(layer) == self);
        at.map(|at| (at, layer))
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position_in_block() {
            Some((at, layer)) => write!(f, "blocks.{layer}.{}", IN_BLOCK[at].1),
            None => {
                let name = BEFORE.iter().chain(&AFTER).find(|(hook, _)| hook == self).map(|(_, name)| *name);
                f.write_str(name.unwrap_or_default())
            }
        }
    }
}

impl FromStr for Hook {
    type Err = Error;

    /// Reads a name of TransformerLens; a wrong one is answered with the nearest ones.
    fn from_str(name: &str) -> Result<Hook> {
        if let Some((hook, _)) = BEFORE.iter().chain(&AFTER).find(|(_, known)| *known == name) {
            return Ok(*hook);
        }
        let mut layer = 0;
        if let Some((number, place)) = name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'))
            && let Ok(number) = number.parse()
        {
            layer = number;
            if let Some((hook, _)) = IN_BLOCK.iter().find(|(_, known)| *known == place) {
                return Ok(hook(layer));
            }
        }
        let mut known: Vec<String> =
            BEFORE.iter().chain(&AFTER).map(|(_, name)| (*name).to_string()).collect();
        known.extend(IN_BLOCK.iter().map(|(_, place)| format!("blocks.{layer}.{place}")));
        known.sort_by_key(|k| distance(k, name));
        Err(Error::new(
            ErrorKind::Config,
            format!("there is no hook `{name}`"),
            format!("did you mean `{}`, `{}` or `{}`?", known[0], known[1], known[2]),
        ))
    }
}

/// A layer outside the model.
pub(crate) fn no_layer(layer: usize, n_layers: usize) -> Error {
    Error::new(
        ErrorKind::Shape,
        format!("there is no layer {layer} in a model of {n_layers}"),
        format!("layers are 0 to {}", n_layers - 1),
    )
}

/// A residual stream that does not exist.
pub(crate) fn no_stream(l: usize, n_streams: usize) -> Error {
    Error::new(
        ErrorKind::Shape,
        format!("there is no residual stream {l} among {n_streams}"),
        format!("streams are 0 (the embedding) to {}", n_streams - 1),
    )
}

/// How many letters have to be put in, taken out or exchanged (Levenshtein 1966). Long names are cut: they are no hook.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
