//! What each head of a layer looks at in one sequence.

use ndarray::{Array2, Array3, Axis};

use crate::data::{TokenText, Tokens};
use crate::model::{Hook, Transformer};
use crate::{Error, ErrorKind, Result};

/// The attention patterns of one layer on one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionPatterns {
    /// The layer.
    pub layer: usize,
    /// The tokens, as a figure writes them.
    pub tokens: Vec<String>,
    /// `[head, query pos, key pos]`.
    pub patterns: Array3<f32>,
    /// The heads, by the first axis of `patterns`.
    pub heads: Vec<usize>,
}

impl AttentionPatterns {
    /// Runs `tokens` and keeps what the heads of `layer` look at.
    pub fn new(
        model: &Transformer,
        tokens: impl Tokens,
        layer: usize,
        texts: &dyn TokenText,
    ) -> Result<Self> {
        let tokens = tokens.tokens();
        let hook = Hook::Pattern(layer);
        hook.check(&model.config)?;
        let batch = Array2::from_shape_vec((1, tokens.len()), tokens.to_vec()).expect("one row");
        let (_, cache) = model.run_with_cache_of(&batch, &[], &|h| h == hook)?;
        Ok(AttentionPatterns {
            layer,
            tokens: tokens.iter().map(|&t| texts.token_text(t)).collect(),
            patterns: cache.pattern(layer)?.index_axis_move(Axis(0), 0),
            heads: (0..model.config.n_heads).collect(),
        })
    }

    /// Keeps only this head.
    pub fn head(&self, head: usize) -> Result<Self> {
        let Some(at) = self.heads.iter().position(|&h| h == head) else {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("there is no head {head} here"),
                format!("the heads are {:?}", self.heads),
            ));
        };
        let patterns = self.patterns.select(Axis(0), &[at]);
        Ok(AttentionPatterns { patterns, heads: vec![head], ..self.clone() })
    }
}
