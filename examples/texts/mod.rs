//! Tokens of a text for examples that fit lenses and read with them.

use ndarray::{Array2, s};
use onelens::language::LanguageModel;

/// Tokens of a sequence.
const N_POS: usize = 128;

/// The first tokens of the text at `path` in sequences, `[sequence, pos]`: to fit on, and held out.
pub(crate) fn split(
    language: &LanguageModel,
    path: &str,
    n_train: usize,
    n_held_out: usize,
) -> Result<(Array2<u32>, Array2<u32>), Box<dyn std::error::Error>> {
    let n_pos = N_POS.min(language.config.n_ctx);
    let rows = (n_train + n_held_out).div_ceil(n_pos);
    // A token is less than eight characters almost always, so that this is enough of the text.
    let text: String = std::fs::read_to_string(path)?.chars().take(8 * rows * n_pos).collect();
    let tokens = language.to_tokens(&text)?;
    let Some(tokens) = tokens.get(..rows * n_pos) else {
        return Err(format!("the text has {} tokens; {} are asked for", tokens.len(), rows * n_pos).into());
    };
    let tokens = Array2::from_shape_vec((rows, n_pos), tokens.to_vec())?;
    let split = n_train.div_ceil(n_pos);
    Ok((tokens.slice(s![..split, ..]).to_owned(), tokens.slice(s![split.., ..]).to_owned()))
}
