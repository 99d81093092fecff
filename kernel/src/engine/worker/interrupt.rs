//! Interrupting a cell: first politely, then by force.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What another thread needs to know to stop a cell.
#[derive(Default)]
pub(in crate::engine) struct Control {
    worker: AtomicI32,
    running: AtomicBool,
    cell: AtomicU64,
    interrupted: AtomicBool,
    killed: AtomicBool,
    /// Held while the compiler is signalled, so that its number is not used after it is gone.
    compiler: Mutex<Option<u32>>,
}

impl Control {
    pub(in crate::engine) fn cell_begins(&self) {
        self.cell.fetch_add(1, Ordering::SeqCst);
        self.interrupted.store(false, Ordering::SeqCst);
        self.killed.store(false, Ordering::SeqCst);
        self.running.store(true, Ordering::SeqCst);
    }

    pub(in crate::engine) fn cell_ends(&self) {
        self.running.store(false, Ordering::SeqCst);
    }

    pub(in crate::engine) fn set_worker(&self, pid: i32) {
        self.worker.store(pid, Ordering::SeqCst);
    }

    pub(in crate::engine) fn worker(&self) -> i32 {
        self.worker.load(Ordering::SeqCst)
    }

    pub(in crate::engine) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }

    /// Whether the interrupt had to kill the cell.
    pub(in crate::engine) fn has_killed(&self) -> bool {
        self.killed.load(Ordering::SeqCst)
    }

    pub(in crate::engine) fn compiling(&self, compiler: Option<u32>) {
        *self.compiler.lock().unwrap_or_else(PoisonError::into_inner) = compiler;
    }
}

/// Stops the running cell; obtained from [`Engine::interrupter`](crate::engine::Engine::interrupter), used from any
/// thread.
#[derive(Clone)]
pub struct Interrupter(pub(in crate::engine) Arc<Control>);

impl Interrupter {
    /// How long a cell that was asked to stop may go on.
    const PATIENCE: Duration = Duration::from_millis(500);

    /// Asks the running cell to stop where it can stop with its work kept. If it still runs half a second later
    /// it is killed, and all variables are as before it. Does nothing between cells.
    pub fn interrupt(&self) {
        let control = &self.0;
        if !control.running.load(Ordering::SeqCst) {
            return;
        }
        let cell = control.cell.load(Ordering::SeqCst);
        control.interrupted.store(true, Ordering::SeqCst);
        if let Some(compiler) = *control.compiler.lock().unwrap_or_else(PoisonError::into_inner) {
            signal_group(compiler as i32);
            signal(compiler as i32, libc::SIGKILL);
            return;
        }
        signal(control.worker(), libc::SIGINT);
        let control = Arc::clone(control);
        std::thread::spawn(move || {
            let start = Instant::now();
            let runs =
                || control.running.load(Ordering::SeqCst) && control.cell.load(Ordering::SeqCst) == cell;
            while runs() && start.elapsed() < Self::PATIENCE {
                std::thread::sleep(Duration::from_millis(5));
            }
            if runs() && !control.killed.swap(true, Ordering::SeqCst) {
                signal(control.worker(), libc::SIGKILL);
            }
        });
    }
}

/// Kills all processes of the group that `pid` leads, if it leads one.
#[allow(unsafe_code)]
pub(super) fn signal_group(pid: i32) {
    if pid > 1 {
        // SAFETY: a signal touches no memory of this process. A group of this number is of nobody else, as the process
        // has not been waited for; if there is none, nothing happens.
        unsafe { libc::kill(-pid, libc::SIGKILL) };
    }
}

#[allow(unsafe_code)]
pub(in crate::engine) fn signal(pid: i32, signal: i32) {
    // 0 and -1 would mean whole groups of processes.
    if pid > 0 {
        // SAFETY: sending a signal touches no memory of this process.
        unsafe { libc::kill(pid, signal) };
    }
}
