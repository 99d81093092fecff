//! Draws the picture of the README: `cargo run -p onelens --example front_page -- MODEL FOLDER`.
//!
//! MODEL is whatever [`LanguageModel::from_pretrained`] takes: a name on the hub, a folder, or a GGUF file. The picture
//! in FOLDER is of SmolLM2-135M-Instruct, once for light pages and once for dark ones.

use std::path::PathBuf;

use onelens::ErrorKind;
use onelens::prelude::*;
use onelens::show::{TrajectoryCell, TrajectoryTable};

const TEXT: &str = "The Eiffel Tower stands in the city of Paris, the capital of France";
/// The last blocks, where most happens, and a few of those before, so that the picture is not higher than a screen.
const LAST: usize = 8;
const EVERY: usize = 7;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(model), Some(folder)) = (arguments.next(), arguments.next().map(PathBuf::from)) else {
        return Err(Error::new(
            ErrorKind::Config,
            "a model and a folder are needed",
            "name both: `front_page HuggingFaceTB/SmolLM2-135M-Instruct pictures`",
        ));
    };
    let lm = LanguageModel::from_pretrained(&model)?;
    let seen = lm.trajectory(&LogitLens, TEXT)?;
    let last = seen.readings.nrows() - 1;
    let streams: Vec<usize> = (1..=last)
        .filter(|stream| {
            let from_the_end = last - stream;
            from_the_end < LAST || (from_the_end - LAST) % EVERY == EVERY - 1
        })
        .collect();
    let figure = TrajectoryTable {
        title: "What SmolLM2 would say next, if it stopped after this block".into(),
        tokens: seen.tokens.clone(),
        targets: seen.targets.clone(),
        layers: streams.iter().map(|stream| format!("block {}", stream - 1)).collect(),
        cells: seen.readings.select(Axis(0), &streams).map(|reading| TrajectoryCell {
            top: reading.top.clone(),
            value: reading.kl as f32,
            target_rank: Some(reading.rank_of_target + 1),
        }),
        value_label: "KL from what it says in the end (nats)".into(),
        note: String::new(),
    }
    .figure()?;
    println!("{figure}");
    figure.save(folder.join("trajectory-light.png"))?;
    figure.dark().save(folder.join("trajectory-dark.png"))
}
