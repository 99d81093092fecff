//! Runs the whole battery outside of a notebook:
//! `cargo run --release -p onelens --example battery -- FOLDER [SEEDS [STEPS]]`.
//!
//! Finished networks are kept in FOLDER, so that an interrupted run goes on; the report is FOLDER/report.html, and
//! FOLDER/report for `Report::load`.

use std::path::PathBuf;

use onelens::ErrorKind;
use onelens::prelude::*;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = || {
        Error::new(
            ErrorKind::Config,
            "no folder to keep networks in",
            "name one: `battery FOLDER [SEEDS [STEPS]]`",
        )
    };
    let folder = PathBuf::from(arguments.next().ok_or_else(usage)?);
    let number = |text: Option<String>, otherwise: usize| match text {
        None => Ok(otherwise),
        Some(text) => text.parse().map_err(|_| {
            Error::new(
                ErrorKind::Config,
                format!("`{text}` is not a number"),
                "give numbers: `battery FOLDER [SEEDS [STEPS]]`",
            )
        }),
    };
    let mut battery = Battery { folder: Some(folder.clone()), ..Default::default() };
    battery.seeds = (0..number(arguments.next(), 8)? as u64).collect();
    battery.training.steps = number(arguments.next(), battery.training.steps)?;
    let report = battery.run(&Markov::new(8, 0.3)?)?;
    report.save(folder.join("report"))?;
    let figure = report.figure()?;
    figure.save(folder.join("report.html"))?;
    println!("{}", figure.text());
    Ok(())
}
