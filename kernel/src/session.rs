//! The small interface between the Jupyter side and whatever runs cells.
//!
//! The server knows only [`Session`]; the instant engine implements it, and so can another engine, or a test.

use std::collections::BTreeMap;

use crate::assist::Scene;
use crate::engine::{Ask, CellError, Engine, Output};
use crate::failure::Failure;
use crate::image::Image;

/// Something that runs cells one after the other and keeps their variables.
pub trait Session: Send {
    /// Runs one cell, handing over every output as it happens.
    fn execute(&mut self, code: &str, on_output: &mut dyn FnMut(Output)) -> Result<(), CellError>;
    /// Stops the running cell when called, from any thread; harmless when none runs.
    fn interrupter(&self) -> Box<dyn Fn() + Send>;
    /// The variables that are alive, with their types.
    fn variables(&self) -> BTreeMap<String, String>;
    /// Whom to ask when a cell of this session reads standard input; a session may have no way to notice that.
    fn on_input(&mut self, _ask: Ask) {}
    /// Hands over what threads of earlier cells have put out since the last cell ended; called now and then between
    /// cells.
    fn idle(&mut self, _on_output: &mut dyn FnMut(Output)) {}
    /// Finishes what was put off until the user has the cell's outputs.
    fn settle(&mut self) {}
    /// What is in force between cells, for those who complete code while the next one runs.
    fn scene(&self) -> Scene {
        Scene::of_variables(self.variables())
    }
}

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

/// Makes a session; may take a minute the first time and then says so through its argument, one line per call.
pub type Start = Box<dyn Fn(&mut dyn FnMut(&str)) -> Result<Box<dyn Session>, String> + Send + Sync>;

impl Session for Engine {
    fn execute(&mut self, code: &str, on_output: &mut dyn FnMut(Output)) -> Result<(), CellError> {
        Engine::execute(self, code, on_output)
    }

    fn interrupter(&self) -> Box<dyn Fn() + Send> {
        let interrupter = Engine::interrupter(self);
        Box::new(move || interrupter.interrupt())
    }

    fn variables(&self) -> BTreeMap<String, String> {
        Engine::variables(self).clone()
    }

    fn on_input(&mut self, ask: Ask) {
        Engine::on_input(self, ask);
    }

    fn idle(&mut self, on_output: &mut dyn FnMut(Output)) {
        Engine::idle(self, on_output);
    }

    fn settle(&mut self) {
        Engine::settle(self);
    }

    fn scene(&self) -> Scene {
        Engine::scene(self)
    }
}
