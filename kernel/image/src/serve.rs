//! The worker's loop: load a cell, let a copy of this process fall asleep, run the cell.
//!
//! Forking before every cell is what makes nothing get lost: if the cell takes the process down, the kernel wakes
//! the copy, which has every variable as it was. A cell that ends lets the copy be killed.

use crate::stage::{Cell, CellThread, install_panic_hook};
use crate::{channel, overflow, rt, store};
use onelens_wire::frame;
use onelens_wire::session::{Cause, Ended, Order, Report};
use std::ffi::{CStr, CString, c_int};
use std::fs::File;
use std::os::fd::{FromRawFd, RawFd};

/// Serves cells until the kernel closes `commands`. Called once, by the worker process, before any thread. `notices` is
/// where a process tells how another ended that nobody adopts, or -1 where the supervisor adopts all.
///
/// # Safety
/// The numbers are open file descriptors that nothing else uses, the last one if it is not -1.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onelens_serve(commands: c_int, out: c_int, acknowledged: c_int, notices: c_int) {
    // SAFETY: the caller hands the descriptors over.
    let (mut commands, out, acknowledged) = unsafe { (file(commands), file(out), file(acknowledged)) };
    // SAFETY: the same, of one that is there.
    let mut notices = (notices >= 0).then(|| unsafe { file(notices) });
    channel::open(out, acknowledged);
    install_panic_hook();
    overflow::install();
    let streams = Streams::keep();
    stop_politely_on_interrupt();
    let wake = block_wake_signal();
    let mut spare = Spare::open();
    let Ok(mut thread) = CellThread::start() else {
        channel::send(&Report::Fatal("the worker cannot start a thread".into()));
        return;
    };
    channel::send(&ready());
    while let Ok(order) = frame::read(&mut commands) {
        streams.restore();
        match order {
            Order::Run { library, global } => match run(&thread, &library, global, &wake, &mut spare) {
                Ran::Here => report_end(),
                Ran::Woken => {
                    if let Some(notices) = &mut notices {
                        stay_to_tell(notices);
                    }
                    // The old thread and pool stayed in the process that died.
                    std::mem::forget(thread);
                    thread = match CellThread::start() {
                        Ok(new) => new,
                        Err(_) => return,
                    };
                    channel::forget_acknowledgements();
                    channel::send(&ready());
                    report_end();
                }
            },
            Order::Forget(name) => store::forget(&name),
            Order::Leave => {
                store::forget_all();
                channel::flush();
                channel::send(&Report::Left);
            }
        }
    }
}

// SAFETY: callers pass an open descriptor that nothing else owns.
#[allow(unsafe_code)]
unsafe fn file(fd: RawFd) -> File {
    // SAFETY: as above. Programs that a cell starts must not hold the kernel's pipes open.
    unsafe {
        libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        File::from_raw_fd(fd)
    }
}

fn ready() -> Report {
    Report::Ready { worker: std::process::id().cast_signed() }
}

/// Tells the kernel that the cell is over, and which variables there are.
fn report_end() {
    onelens::session::clear_interrupt();
    channel::send(&Report::Done { variables: store::variables() });
}

/// Standard output and standard error, in case a cell closes them.
struct Streams([c_int; 2]);

impl Streams {
    #[allow(unsafe_code)]
    fn keep() -> Self {
        // SAFETY: new descriptors, out of the way of the first hundred, for streams that are open.
        Streams([1, 2].map(|stream| unsafe { libc::fcntl(stream, libc::F_DUPFD_CLOEXEC, 100) }))
    }

    #[allow(unsafe_code)]
    fn restore(&self) {
        for (stream, kept) in [1, 2].into_iter().zip(self.0) {
            // SAFETY: `kept` belongs to this process, and `stream` is written to only if nothing is open there.
            unsafe {
                if libc::fcntl(stream, libc::F_GETFD) == -1 {
                    libc::dup2(kept, stream);
                }
            }
        }
    }
}

/// Descriptors that are kept for loading a cell.
struct Spare {
    _files: [File; Spare::N],
}

impl Spare {
    /// The cell, and the libraries that it links.
    const N: usize = 4;

    fn open() -> Option<Self> {
        let files: Result<Vec<File>, _> = (0..Self::N).map(|_| File::open("/dev/null")).collect();
        Some(Spare { _files: files.ok()?.try_into().ok()? })
    }
}

enum Ran {
    /// In this process, to its end.
    Here,
    /// This is the copy, and the process it was copied from is gone.
    Woken,
}

#[allow(unsafe_code)]
fn run(
    thread: &CellThread,
    path: &str,
    global: bool,
    wake: &libc::sigset_t,
    spare: &mut Option<Spare>,
) -> Ran {
    // SAFETY: the only other threads wait for work, and the copy uses none of them.
    let copy = unsafe { libc::fork() };
    if copy == 0 {
        sleep_until_woken(wake);
        return Ran::Woken;
    }
    // Without a copy the cell runs all the same; the kernel then says what a crash cost.
    channel::send(&Report::Forked { copy: copy.max(0) });
    prefer_as_victim(true);
    // A variable may hold every descriptor there is; a cell that closes them must still be loaded.
    drop(spare.take());
    let loaded = load(path, global);
    *spare = Spare::open();
    match loaded {
        Ok(cell) => thread.run(cell),
        Err(why) => channel::send(&Report::Failed { cause: Cause::NotLoaded(why), line: 0 }),
    }
    prefer_as_victim(false);
    if rt::take_lost() && copy > 0 {
        channel::send(&Report::Lost);
        // SAFETY: ends this process without running anything of the user's.
        unsafe { libc::_exit(0) };
    }
    if copy > 0 {
        // SAFETY: `copy` is a child of this process that has not been waited for.
        unsafe {
            libc::kill(copy, libc::SIGKILL);
            libc::waitpid(copy, std::ptr::null_mut(), 0);
        }
    }
    Ran::Here
}

/// Nobody hears how this process ends, whose parent is gone: so a child of it goes on in its place, and it stays
/// behind, as it is, to tell how that one ends.
#[allow(unsafe_code)]
fn stay_to_tell(notices: &mut File) {
    // SAFETY: a woken copy has one thread, so the child may do anything.
    let child = unsafe { libc::fork() };
    // Without a child it goes on itself, and the kernel sees only that it is gone.
    if child <= 0 {
        return;
    }
    let mut status = 0;
    // SAFETY: `status` is a valid place, and `child` has not been waited for.
    while unsafe { libc::waitpid(child, &mut status, 0) } == -1
        && std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted
    {}
    let _ = frame::write(notices, &Ended::new(child, status));
    // SAFETY: ends this process without running anything of the user's.
    unsafe { libc::_exit(0) }
}

/// The kernel's out-of-memory killer should take the process that grew, and leave the copy.
fn prefer_as_victim(yes: bool) {
    let _ = std::fs::write("/proc/self/oom_score_adj", if yes { "500" } else { "0" });
}

/// Cells are never unloaded: values hold pointers to the code and the vtables of the cell that made them. Later cells
/// see the statics of one that is `global`.
#[allow(unsafe_code)]
fn load(path: &str, global: bool) -> Result<Cell, String> {
    let path = CString::new(path).map_err(|e| e.to_string())?;
    let visible = if global { libc::RTLD_GLOBAL } else { libc::RTLD_LOCAL };
    // SAFETY: both strings are terminated; the kernel compiled the file, and `onelens_cell` has the type `Cell`.
    unsafe {
        let library = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | visible);
        let symbol = match library.is_null() {
            true => library,
            false => libc::dlsym(library, c"onelens_cell".as_ptr()),
        };
        if symbol.is_null() {
            return Err(CStr::from_ptr(libc::dlerror()).to_string_lossy().into_owned());
        }
        Ok(std::mem::transmute::<*mut libc::c_void, Cell>(symbol))
    }
}

extern "C" fn on_interrupt(_: c_int) {
    onelens::session::interrupt();
}

#[allow(unsafe_code)]
pub(crate) fn stop_politely_on_interrupt() {
    // SAFETY: the handler only stores to an atomic; a zeroed `sigaction` is a valid one.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_interrupt as extern "C" fn(c_int) as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(libc::SIGINT, &action, std::ptr::null_mut());
    }
}

/// Blocks the signal that wakes a copy, so that one sent before the copy waits is not lost.
#[allow(unsafe_code)]
fn block_wake_signal() -> libc::sigset_t {
    // SAFETY: a zeroed set is initialised by `sigemptyset`.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGUSR1);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        set
    }
}

#[allow(unsafe_code)]
fn sleep_until_woken(wake: &libc::sigset_t) {
    let mut signal = 0;
    // SAFETY: `wake` is initialised and blocked in this thread.
    while unsafe { libc::sigwait(wake, &mut signal) } != 0 {}
}
