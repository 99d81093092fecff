//! The instant engine: a cell is one `rustc` call against the [image](crate::image), loaded into a worker process.
//!
//! The rooms, each of which knows those before it and none after it (`tests/suite/layers.rs` sees to that, too):
//!
//! | room | idea |
//! |---|---|
//! | `parse` | a cell taken apart |
//! | `worker` | the process that cells run in: talking to it, supervising it, stopping it |
//! | `compile` | the crate that a cell becomes; rustc, and its errors told about the user's lines |
//! | `session` | what is in force: declarations, items, variables |
//! | `run` | running what compiled |
//! | `scene` | what is in force, for completion |

mod compile;
mod parse;
mod run;
mod scene;
mod session;
mod worker;

pub use worker::interrupt::Interrupter;
pub use worker::supervisor::{batch, worker_main};

use crate::base::failure::Failure;
use crate::cells::{Ask, CellError, CellRunner, Output, Scene};
use crate::image::Image;
use session::Session;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A session: variables, items, and the process they live in.
pub struct Engine {
    session: Session,
    shown: BTreeMap<String, String>,
}

impl Engine {
    /// Starts a session whose worker is this very program: its `main` must call [`worker_main`] when the first
    /// argument is `worker`.
    pub fn start(image: &Image) -> Result<Engine, Failure> {
        let program = std::env::current_exe().map_err(|e| {
            Failure::new(format!("this program does not know its own path: {e}"), "start it by its full path")
        })?;
        Self::start_with(image, &program)
    }

    /// Starts a session whose worker is `program worker ..`.
    pub fn start_with(image: &Image, program: &Path) -> Result<Engine, Failure> {
        let folder = new_folder()?;
        let session = Session::start(image, program, folder)?;
        Ok(Engine { session, shown: BTreeMap::new() })
    }

    /// Runs a cell. Outputs come while it runs.
    ///
    /// After an error every variable that existed before the cell exists still: after a panic, a `?` or a polite
    /// interrupt with what the cell had done to it by then, together with the variables the cell had defined;
    /// after the death of the process, or if the cell had used up a variable, as it was before the cell.
    pub fn execute(&mut self, code: &str, on_output: &mut dyn FnMut(Output)) -> Result<(), CellError> {
        self.session.control.cell_begins();
        let result = self.session.execute(code, on_output);
        self.session.control.cell_ends();
        self.shown = self.session.types_for_display();
        result
    }

    /// Whom to ask when a cell reads standard input. Without, such a cell fails.
    pub fn on_input(&mut self, ask: Ask) {
        self.session.ask = Some(ask);
    }

    /// A handle that stops the running cell from another thread.
    pub fn interrupter(&self) -> Interrupter {
        Interrupter(Arc::clone(&self.session.control))
    }

    /// Hands over what threads of earlier cells have put out since the last cell ended.
    pub fn idle(&mut self, on_output: &mut dyn FnMut(Output)) {
        self.session.idle(on_output);
    }

    /// Finishes what was put off until the user has the cell's outputs.
    pub fn settle(&mut self) {
        self.session.settle();
    }

    /// What is in force, for completion.
    pub fn scene(&self) -> Scene {
        self.session.scene()
    }

    /// The variables and their types, for display.
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.shown
    }
}

impl CellRunner for Engine {
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

/// A private folder for a session's files.
fn new_folder() -> Result<PathBuf, Failure> {
    use std::os::unix::fs::DirBuilderExt;
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let mut base = std::env::temp_dir();
    // Cells are loaded from there.
    if !crate::base::environment::may_run_code_in(&base) {
        base = Image::folder();
    }
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = base.join(format!("onelens-{}-{n}", std::process::id()));
        match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => return Ok(folder),
            // Left behind by a process that had this number before.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => {
                return Err(Failure::new(
                    format!("cannot create a folder in {}: {e}", base.display()),
                    "set TMPDIR to a folder you can write to",
                ));
            }
        }
    }
}
