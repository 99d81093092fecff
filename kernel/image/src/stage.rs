//! Stages: a cell runs as a row of them, each ending with a `let`. What one defined is kept when the next fails.

use crate::{channel, overflow, rt};
use onelens_wire::session::{Cause, Place, Report};
use std::any::{Any, type_name};
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, Location, PanicHookInfo, catch_unwind};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

/// What ended a stage before its end.
pub struct Failure(Cause);

impl Failure {
    pub(crate) fn interrupted() -> Self {
        Failure(Cause::Interrupted)
    }
}

impl<E: Display> From<E> for Failure {
    fn from(error: E) -> Self {
        // Errors that know what caused them say that in this form.
        Failure(Cause::Error(format!("{error:#}")))
    }
}

/// Runs one stage, which returns the tuple of the variables it defines (`names`, comma separated).
///
/// `None` when it failed, after the kernel has been told: by `?`, by a panic, by an interrupt that came before
/// it, or because a variable's type has no name that the next cell could write.
pub fn stage<R>(names: &str, body: impl FnOnce() -> Result<R, Failure>) -> Option<R> {
    if !may_start(names, type_name::<R>()) {
        return None;
    }
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(variables)) => Some(variables),
        Ok(Err(Failure(cause))) => {
            failed(cause);
            None
        }
        Err(payload) => {
            unwound(payload);
            None
        }
    }
}

// Not in `stage`, which every cell compiles anew: each trait whose method is called there makes rustc read all that
// implement it, in all crates.
#[inline(never)]
fn unwound(payload: Box<dyn Any + Send>) {
    // A value that could not be shown (`onelens::session::fail`).
    match payload.downcast::<onelens::Error>() {
        Ok(error) => end_with_error(&error.to_string()),
        Err(payload) => panicked(payload),
    }
}

#[inline(never)]
fn may_start(names: &str, types: &'static str) -> bool {
    if onelens::session::interrupted() {
        failed(Cause::Interrupted);
        return false;
    }
    if types.contains("{{") {
        let names = names.split(',').map(String::from).collect();
        channel::send(&Report::Unnameable { names, types: types.into() });
        return false;
    }
    true
}

/// What the last panic said, and where it was.
static LAST_PANIC: Mutex<Option<(String, Place)>> = Mutex::new(None);

#[inline(never)]
fn panicked(payload: Box<dyn Any + Send>) {
    let message = text_of(&*payload);
    let last = LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
    let place = last.filter(|(said, _)| *said == message).map(|(_, place)| place);
    failed(Cause::Panic { message, place });
    // A payload whose own drop panics must not end the process.
    std::mem::forget(payload);
}

/// Tells the kernel that the cell cannot go on, outside of any stage.
pub(crate) fn end_with_error(message: &str) {
    failed(Cause::Error(message.into()));
}

fn failed(cause: Cause) {
    channel::flush();
    channel::result_ends();
    channel::send(&Report::Failed { cause, line: rt::line() });
}

fn text_of(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text.to_string()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic whose payload is not text".to_string()
    }
}

fn remember(info: &PanicHookInfo) {
    let message = text_of(info.payload());
    let place = match info.location() {
        Some(at) => Place { file: Location::file(at).to_string(), line: at.line(), column: at.column() },
        None => Place { file: String::new(), line: 0, column: 0 },
    };
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("<unnamed>");
    // A panic in the cell itself is reported when the stage ends; one in a thread of the user's would be silent.
    if !name.starts_with("cell") {
        eprintln!("thread '{name}' panicked at {place}:\n{message}");
        return;
    }
    let before = LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner).replace((message, place));
    tell_caught(before);
}

/// A panic of the cell that no stage has reported was caught by the cell: Rust tells of it all the same.
fn tell_caught(panic: Option<(String, Place)>) {
    if let Some((message, place)) = panic {
        eprintln!("a panic was caught, at {place}:\n{message}");
    }
}

/// Panics are remembered with their place, and reported once, by [`stage`].
pub(crate) fn install_panic_hook() {
    std::panic::set_hook(Box::new(remember));
}

/// A compiled cell's one function.
pub(crate) type Cell = extern "C" fn();

/// The thread that cells run on. It is member 0 of a pool of our own, because threads do not survive a fork and
/// rayon's global pool cannot be made again: a woken copy makes a new thread with a new pool.
pub(crate) struct CellThread {
    jobs: SyncSender<(Cell, SyncSender<()>)>,
}

impl CellThread {
    /// Room for deep recursion of unoptimised code, and little enough that endless recursion ends at once.
    const STACK: usize = 64 << 20;

    pub(crate) fn start() -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel::<(Cell, SyncSender<()>)>(0);
        overflow::forget_threads();
        let work = move || {
            overflow::watch_this_thread();
            let pool = rayon::ThreadPoolBuilder::new()
                .start_handler(|_| overflow::watch_this_thread())
                .thread_name(|i| format!("cell pool {i}"))
                .use_current_thread()
                .build();
            if let Err(error) = &pool {
                eprintln!("onelens: no thread pool: {error}");
            }
            while let Ok((cell, done)) = queue.recv() {
                cell();
                tell_caught(LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner).take());
                channel::flush();
                let _ = done.send(());
            }
        };
        std::thread::Builder::new().name("cell".into()).stack_size(Self::STACK).spawn(work)?;
        Ok(CellThread { jobs })
    }

    /// Runs `cell` to its end.
    pub(crate) fn run(&self, cell: Cell) {
        let (done, wait) = sync_channel(1);
        if self.jobs.send((cell, done)).is_ok() {
            let _ = wait.recv();
        }
    }
}
