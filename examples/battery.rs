//! Runs the whole battery outside of a notebook:
//! `cargo run -p onelens --example battery -- FOLDER [SEEDS [STEPS [SOURCE]]]`, where SOURCE is copies, brackets
//! or markov.
//!
//! Finished networks are kept in FOLDER, so that an interrupted run goes on; the report is FOLDER/report.html, and
//! FOLDER/report for `Report::load`.

use std::path::PathBuf;

use onelens::ErrorKind;
use onelens::data::{Copies, Grammar, Markov, Source};
use onelens::prelude::*;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = || {
        Error::new(
            ErrorKind::Config,
            "no folder to keep networks in",
            "name one: `battery FOLDER [SEEDS [STEPS [SOURCE]]]`",
        )
    };
    let folder = PathBuf::from(arguments.next().ok_or_else(usage)?);
    let number = |text: Option<String>, otherwise: usize| match text {
        None => Ok(otherwise),
        Some(text) => text.parse().map_err(|_| {
            Error::new(
                ErrorKind::Config,
                format!("`{text}` is not a number"),
                "give numbers: `battery FOLDER [SEEDS [STEPS [SOURCE]]]`",
            )
        }),
    };
    let mut battery = Battery { folder: Some(folder.clone()), ..Default::default() };
    battery.seeds = (0..number(arguments.next(), 8)? as u64).collect();
    battery.training.steps = number(arguments.next(), battery.training.steps)?;
    // More tokens than a stream has numbers.
    let source: Box<dyn Source> = match arguments.next().as_deref() {
        None | Some("copies") => Box::new(Copies::new(20, 4, 8)?),
        Some("brackets") => Box::new(Grammar::brackets(9, 0.7)?),
        Some("markov") => Box::new(Markov::new(20, 0.05)?),
        Some(other) => {
            let what = format!("no source is called `{other}`");
            return Err(Error::new(ErrorKind::Config, what, "say copies, brackets or markov"));
        }
    };
    let report = battery.run(&*source)?;
    report.save(folder.join("report"))?;
    let figure = report.figure()?;
    figure.save(folder.join("report.html"))?;
    println!("{}", figure.text());
    Ok(())
}
