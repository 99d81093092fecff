//! Telling endless recursion from other invalid accesses: a fault in the guard page below a thread's stack is
//! reported to the kernel before the process dies of it.

use crate::channel;
use onelens_wire::frame;
use onelens_wire::session::Report;
use std::ffi::c_int;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

/// Where the guard pages of the threads that run cells are: begin and end.
static GUARDS: [[AtomicUsize; 2]; 64] = [const { [AtomicUsize::new(0), AtomicUsize::new(0)] }; 64];
static NEXT: AtomicUsize = AtomicUsize::new(0);
static CHANNEL: AtomicI32 = AtomicI32::new(-1);
static FRAME: OnceLock<Vec<u8>> = OnceLock::new();

/// Handles faults from here on. The channel must be open.
#[allow(unsafe_code)]
pub(crate) fn install() {
    CHANNEL.store(channel::descriptor(), Ordering::Relaxed);
    FRAME.get_or_init(|| frame::encode(&Report::Overflow));
    // SAFETY: the handler calls only what a signal handler may call; a zeroed `sigaction` is a valid one.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction =
            on_fault as extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut());
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
    }
}

/// The threads of a process that died are not watched by its woken copy.
pub(crate) fn forget_threads() {
    NEXT.store(0, Ordering::Relaxed);
    for [begin, end] in &GUARDS {
        begin.store(0, Ordering::Relaxed);
        end.store(0, Ordering::Relaxed);
    }
}

/// Gives this thread a second stack for the handler, because the first is full when it is needed.
#[allow(unsafe_code)]
pub(crate) fn watch_this_thread() {
    const SIZE: usize = 64 << 10;
    let Some([begin, end]) = GUARDS.get(NEXT.fetch_add(1, Ordering::Relaxed)) else { return };
    let Some((low, guard)) = lowest_of_stack() else { return };
    // SAFETY: the second stack is fresh memory that is never freed.
    unsafe {
        let memory = libc::mmap(
            std::ptr::null_mut(),
            SIZE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if memory == libc::MAP_FAILED {
            return;
        }
        let stack = libc::stack_t { ss_sp: memory, ss_flags: 0, ss_size: SIZE };
        libc::sigaltstack(&stack, std::ptr::null_mut());
        // Some versions of glibc count the guard page as part of the stack.
        begin.store(low.saturating_sub(guard), Ordering::Relaxed);
        end.store(low + guard, Ordering::Relaxed);
    }
}

/// The lowest address of this thread's stack, and how many bytes of guard there are around it.
#[cfg(not(target_vendor = "apple"))]
#[allow(unsafe_code)]
fn lowest_of_stack() -> Option<(usize, usize)> {
    // SAFETY: the attributes are initialised by the first call and freed by the last.
    unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        if libc::pthread_getattr_np(libc::pthread_self(), &mut attributes) != 0 {
            return None;
        }
        let (mut low, mut size, mut guard) = (std::ptr::null_mut(), 0, 0);
        let known = libc::pthread_attr_getstack(&attributes, &mut low, &mut size) == 0
            && libc::pthread_attr_getguardsize(&attributes, &mut guard) == 0;
        libc::pthread_attr_destroy(&mut attributes);
        known.then_some((low as usize, guard))
    }
}

/// The same where the system tells the highest address and the size, and each thread has one page of guard.
#[cfg(target_vendor = "apple")]
#[allow(unsafe_code)]
fn lowest_of_stack() -> Option<(usize, usize)> {
    // SAFETY: these calls read what the system knows of this very thread, and of itself.
    let (high, size, page) = unsafe {
        let own = libc::pthread_self();
        (
            libc::pthread_get_stackaddr_np(own),
            libc::pthread_get_stacksize_np(own),
            libc::sysconf(libc::_SC_PAGESIZE),
        )
    };
    Some(((high as usize).checked_sub(size)?, usize::try_from(page).ok()?))
}

/// Says what it was and lets the process die of it.
#[allow(unsafe_code)]
extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the system passes a valid `info`; `write`, `sigaction` and `raise` may be called here.
    unsafe {
        let address = (*info).si_addr() as usize;
        let in_guard = |[begin, end]: &[AtomicUsize; 2]| {
            (begin.load(Ordering::Relaxed)..end.load(Ordering::Relaxed)).contains(&address)
        };
        if GUARDS.iter().any(in_guard)
            && let Some(frame) = FRAME.get()
        {
            libc::write(CHANNEL.load(Ordering::Relaxed), frame.as_ptr().cast(), frame.len());
        }
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(signal, &default, std::ptr::null_mut());
        // A fault happens again as soon as this returns; a signal that was sent does not.
        if (*info).si_code <= 0 {
            libc::raise(signal);
        }
    }
}
