//! Which engines there are.

use crate::base::failure::Failure;
use crate::cells::Start;
use crate::engine::Engine;
use crate::image::Image;

/// Which engine runs the cells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum EngineKind {
    /// Our own: a tenth of a second for a cell, and nothing is lost
    #[default]
    Instant,
    /// The crate evcxr, embedded; only in programs built with `--features evcxr`
    Evcxr,
}

impl EngineKind {
    /// How sessions of this engine are made.
    ///
    /// Fails if this program was built without it.
    pub fn start(self) -> Result<Start, Failure> {
        match self {
            EngineKind::Instant => Ok(Box::new(|progress| {
                let image = Image::ensure(progress)?;
                Ok(Box::new(Engine::start(&image)?))
            })),
            #[cfg(feature = "evcxr")]
            EngineKind::Evcxr => Ok(Box::new(|_| Ok(Box::new(crate::evcxr::Evcxr::start()?)))),
            #[cfg(not(feature = "evcxr"))]
            EngineKind::Evcxr => Err(Failure::bad_input(
                "this program was built without the evcxr engine",
                "build it with `cargo build --features evcxr`, which takes some minutes, or use `--engine instant`",
            )),
        }
    }

    /// How the command line writes it.
    pub fn name(self) -> &'static str {
        match self {
            EngineKind::Instant => "instant",
            EngineKind::Evcxr => "evcxr",
        }
    }
}
