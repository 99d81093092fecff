//! The channel to the kernel: displays, results, and how a cell ended.

use onelens::session::{Bundle, Sink};
use onelens_wire::frame;
use onelens_wire::session::{Report, Shown};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

struct Pipes {
    out: File,
    acknowledged: File,
}

static PIPES: Mutex<Option<Pipes>> = Mutex::new(None);
static SHOWING_RESULT: AtomicBool = AtomicBool::new(false);

/// Opens the channel and becomes the place where the library's displays go.
pub(crate) fn open(out: File, acknowledged: File) {
    *PIPES.lock().unwrap_or_else(PoisonError::into_inner) = Some(Pipes { out, acknowledged });
    onelens::session::set_sink(Box::new(KernelSink));
}

/// Tells the kernel something that it does not answer.
pub(crate) fn send(report: &Report) {
    with(|pipes| frame::write(&mut pipes.out, report));
}

/// Shows something in the order of what was printed: everything printed before it is flushed, and nothing is printed
/// after it until the kernel has read what came before.
fn send_in_order(shown: Shown) {
    flush();
    with(|pipes| {
        frame::write(&mut pipes.out, &Report::Shown(shown))?;
        pipes.acknowledged.read_exact(&mut [0])
    });
}

/// Makes the kernel see what was printed so far.
pub(crate) fn flush() {
    let _ = std::io::stdout().flush();
    let _ = std::io::stderr().flush();
}

// A channel that fails means that the kernel is gone; the supervisor ends this process then.
fn with(f: impl FnOnce(&mut Pipes) -> std::io::Result<()>) {
    if let Some(pipes) = &mut *PIPES.lock().unwrap_or_else(PoisonError::into_inner) {
        let _ = f(pipes);
    }
}

struct KernelSink;

impl Sink for KernelSink {
    fn display(&mut self, bundle: &Bundle, id: Option<&str>, update: bool) {
        show(bundle, id, update);
    }

    fn clear(&mut self, wait: bool) {
        send_in_order(Shown::Clear { wait });
    }
}

/// Sends a bundle: as the cell's result while its last value shows itself, else as a display.
pub(crate) fn show(bundle: &Bundle, id: Option<&str>, update: bool) {
    let result = id.is_none() && SHOWING_RESULT.swap(false, Ordering::Relaxed);
    send_in_order(match (id, update) {
        _ if result => Shown::Result(bundle.clone()),
        (Some(id), true) => Shown::Update(bundle.clone(), id.into()),
        (id, _) => Shown::Display(bundle.clone(), id.map(String::from)),
    });
}

/// From here to [`result_ends`], the first bundle shown or printed is the cell's result.
pub(crate) fn result_begins() {
    SHOWING_RESULT.store(true, Ordering::Relaxed);
    send_in_order(Shown::ResultBegins);
}

/// The cell's last value has shown itself.
pub(crate) fn result_ends() {
    SHOWING_RESULT.store(false, Ordering::Relaxed);
    send_in_order(Shown::ResultEnds);
}

/// The number of the pipe to the kernel.
pub(crate) fn descriptor() -> i32 {
    PIPES.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(-1, |pipes| pipes.out.as_raw_fd())
}

/// Reads away what the kernel acknowledged to the process that this one was copied from.
#[allow(unsafe_code)]
pub(crate) fn forget_acknowledgements() {
    with(|pipes| {
        let mut ready = libc::pollfd { fd: pipes.acknowledged.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid `pollfd`.
        while unsafe { libc::poll(&mut ready, 1, 0) } == 1 && ready.revents & libc::POLLIN != 0 {
            pipes.acknowledged.read_exact(&mut [0])?;
        }
        Ok(())
    });
}
