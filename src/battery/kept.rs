//! Finished networks on disk, so that an interrupted battery can continue.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, ErrorKind, Result, record, session};

/// What a kind of file holds, and in which form.
pub(super) const CELL: (&str, u32) = ("battery-cell", 3);

/// Something that was finished before, or else made and kept. Two things share a file only if `depends_on`, everything
/// that the numbers depend on, is the same; `label` is for people who look into the folder.
pub(super) fn kept<T: Serialize + DeserializeOwned>(
    folder: Option<&Path>,
    (kind, version): (&str, u32),
    depends_on: &str,
    label: &str,
    make: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let Some(folder) = folder else { return make() };
    let mut hash = record::Fnv::new(&format!("{} {version}", kind.trim_start_matches("battery-")));
    hash.text(&format!("{depends_on} {}", env!("CARGO_PKG_VERSION")));
    let path = folder.join(format!("{:016x}-{label}.cell", hash.finish()));
    if path.exists() {
        return record::load(&path, kind, version);
    }
    let made = make()?;
    std::fs::create_dir_all(folder).map_err(|e| {
        let what = format!("cannot make the folder {}", folder.display());
        Error::of_file(what, e, "name a folder that can be written to")
    })?;
    record::save(&path, kind, version, &made)?;
    Ok(made)
}

/// Fails if the user has asked to stop, with what is finished so far.
pub(super) fn go_on(folder: Option<&Path>, done: usize, total: usize) -> Result<()> {
    if !session::interrupted() {
        return Ok(());
    }
    let help = match folder {
        Some(folder) => format!("run it again: finished ones are kept in {}", folder.display()),
        None => "set `folder` to keep finished networks between runs".into(),
    };
    Err(Error::new(ErrorKind::Interrupted, format!("interrupted after {done} of {total} networks"), help))
}

/// Refuses a battery without at least two seeds.
pub(super) fn check_seeds(seeds: &[u64]) -> Result<()> {
    if seeds.len() >= 2 {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Config,
        format!("a battery of {} seeds is too small", seeds.len()),
        "give at least two, better eight: the network is the unit of the statistics",
    ))
}
