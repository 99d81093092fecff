//! Does one lens read every stream of a language model, do its updates refine what the lens reads, and does the model
//! use it? With chance weights and shuffled updates beside it.
//!
//! `cargo run -p onelens --example language_report -- NAME MODEL TEXT FOLDER [TOKENS] [HELD_OUT]`

use std::path::Path;
use std::time::Instant;

use onelens::battery::LanguageBattery;
use onelens::language::LanguageModel;

mod texts;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("give a name, a model, a text file and a folder");
    let (name, path, text, folder) = (next()?, next()?, next()?, next()?);
    let mut number =
        |usual: usize| arguments.next().map_or(Ok::<_, std::num::ParseIntError>(usual), |n| n.parse());
    let (n_train, n_held_out) = (number(32_768)?, number(2048)?);
    let language = LanguageModel::open(&path)?;
    let (train, held_out) = texts::split(&language, &text, n_train, n_held_out)?;
    // The sequence is the unit of every interval: half as long and twice as many.
    let (n_seqs, n_pos) = held_out.dim();
    let held_out = held_out.into_shape_with_order((2 * n_seqs, n_pos / 2))?;
    let began = Instant::now();
    let folder = Path::new(&folder);
    let how = LanguageBattery { folder: Some(folder.into()), ..LanguageBattery::default() };
    let report = how.run(&name, &language.model, &train, &held_out)?;
    let figure = report.figure()?;
    report.save(folder.join("report"))?;
    figure.save(folder.join("report.html"))?;
    println!("{}", figure.text());
    println!("{:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}
