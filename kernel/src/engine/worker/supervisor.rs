//! The process that the kernel starts for a session: the supervisor, and the worker as its child.
//!
//! The supervisor runs no code of the user's. It adopts every process that a cell leaves behind, tells the
//! kernel when one ends, and ends them all when the kernel is gone. Where the system lets nobody adopt, it tells of
//! the first worker's end, and each later one leaves its parent behind to tell of its own.

use super::interrupt::signal;
use crate::base::failure::Failure;
use crate::base::os::system;
use onelens_wire::frame;
use onelens_wire::session::{Ended, Report};
use signal_hook::SigId;
use std::ffi::{CStr, CString, c_int};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The supervisor's ends of the pipes, by number, as they stand on its command line.
#[derive(Clone, Copy)]
pub(super) struct Fds {
    pub(super) commands: c_int,
    pub(super) channel: c_int,
    pub(super) acknowledge: c_int,
    pub(super) notices: c_int,
    /// Closes when the kernel is gone.
    pub(super) life: c_int,
}

impl Fds {
    pub(super) fn all(self) -> [c_int; 5] {
        [self.commands, self.channel, self.acknowledge, self.notices, self.life]
    }

    pub(super) fn to_argument(self) -> String {
        self.all().map(|fd| fd.to_string()).join(",")
    }

    fn from_argument(text: &str) -> Option<Self> {
        let fds: Option<Vec<c_int>> = text.split(',').map(|fd| fd.parse().ok()).collect();
        let [commands, channel, acknowledge, notices, life] = fds?.try_into().ok()?;
        Some(Fds { commands, channel, acknowledge, notices, life })
    }
}

/// Runs the session's processes; called first thing by a program whose first argument is `worker`. The further
/// arguments are the engine's: the standard library, the image, and the session's folder.
#[allow(unsafe_code)]
pub fn worker_main() -> ! {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    let (std_library, image, folder, fds) = match &arguments[..] {
        [std_library, image, folder, fds] => (std_library, image, folder, Fds::from_argument(fds)),
        _ => (&String::new(), &String::new(), &String::new(), None),
    };
    let Some(fds) = fds else {
        eprintln!(
            "{}",
            Failure::new("`onelens worker` is started by the kernel only", "run `onelens --help`")
        );
        std::process::exit(2);
    };
    // SAFETY: these calls change only what this process, still with one thread, is to the system.
    unsafe {
        libc::setpgid(0, 0);
        for fd in fds.all() {
            libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
    system().adopt_orphans();
    let (ends, watch) = match watch_for_ends() {
        Ok(watched) => watched,
        Err(e) => {
            let what = format!("the ends of processes cannot be watched: {e}");
            eprintln!("{}", Failure::new(what, "close some programs and restart the kernel"));
            std::process::exit(1);
        }
    };
    // SAFETY: there is one thread, so the child may do anything.
    let worker = unsafe { libc::fork() };
    if worker == 0 {
        forget_ends(ends, watch);
        // SAFETY: the descriptors belong to the supervisor, which has its own copies of them.
        unsafe {
            libc::close(fds.life);
            if system().adopts_orphans() {
                libc::close(fds.notices);
            }
        }
        system().end_with_parent();
        work(std_library, image, fds)
    }
    supervise(ends, Path::new(folder), fds)
}

/// Loads the image and serves cells in it.
#[allow(unsafe_code)]
fn work(std_library: &str, image: &str, fds: Fds) -> ! {
    // SAFETY: the names are terminated; the image's function has this type, and the pipes are handed to it.
    let error = unsafe {
        // By its full path first: the image asks for it by name only, and the name is then known.
        let serve = open(std_library).and_then(|_| open(image)).and_then(|library| {
            let serve = libc::dlsym(library, c"onelens_serve".as_ptr());
            if serve.is_null() { Err(load_error()) } else { Ok(serve) }
        });
        match serve {
            Ok(serve) => {
                let serve: extern "C" fn(c_int, c_int, c_int, c_int) = std::mem::transmute(serve);
                let notices = if system().adopts_orphans() { -1 } else { fds.notices };
                serve(fds.commands, fds.channel, fds.acknowledge, notices);
                libc::_exit(0)
            }
            Err(error) => error,
        }
    };
    // SAFETY: the descriptor is this process's own.
    let mut channel = unsafe { File::from_raw_fd(fds.channel) };
    let _ = frame::write(&mut channel, &Report::Fatal(error.to_string()));
    std::process::exit(1)
}

/// Loads the image into this process and has it do what a request asks for; the exit code.
#[allow(unsafe_code)]
pub fn batch(std_library: &Path, image: &Path, request: &str) -> Result<i32, Failure> {
    let request = CString::new(request).map_err(|e| Failure::of(e.to_string()))?;
    // SAFETY: the image's function has this type, and the string outlives the call.
    unsafe {
        open(&std_library.to_string_lossy())?;
        let library = open(&image.to_string_lossy())?;
        let run = libc::dlsym(library, c"onelens_batch".as_ptr());
        if run.is_null() {
            return Err(load_error());
        }
        let run: extern "C" fn(*const std::ffi::c_char) -> c_int = std::mem::transmute(run);
        Ok(run(request.as_ptr()))
    }
}

// SAFETY: loading runs the initialisers of our own libraries.
#[allow(unsafe_code)]
unsafe fn open(library: &str) -> Result<*mut libc::c_void, Failure> {
    let path = CString::new(library).map_err(|e| Failure::of(e.to_string()))?;
    // SAFETY: as above.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if handle.is_null() { Err(load_error()) } else { Ok(handle) }
}

#[allow(unsafe_code)]
fn load_error() -> Failure {
    // SAFETY: after a failure `dlerror` gives a terminated string, or null.
    unsafe {
        let error = libc::dlerror();
        if error.is_null() {
            Failure::of("unknown error")
        } else {
            Failure::of(CStr::from_ptr(error).to_string_lossy())
        }
    }
}

/// What becomes readable when a child ends, until [`forget_ends`].
fn watch_for_ends() -> io::Result<(UnixStream, SigId)> {
    let (ends, from_handler) = UnixStream::pair()?;
    ends.set_nonblocking(true)?;
    Ok((ends, signal_hook::low_level::pipe::register(libc::SIGCHLD, from_handler)?))
}

/// In the child: its own children's ends are for the cells, and no signal stays blocked that was so for whoever started
/// us.
#[allow(unsafe_code)]
fn forget_ends(ends: UnixStream, watch: SigId) {
    drop(ends);
    signal_hook::low_level::unregister(watch);
    // SAFETY: the set is initialised before use, and the default action takes the place of a handler that is done.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

#[allow(unsafe_code)]
fn supervise(mut ends: UnixStream, folder: &Path, fds: Fds) -> ! {
    // SAFETY: the pipes belong to this process from here on; the child has its own copies of what it needs.
    let mut notices = unsafe {
        for fd in [fds.commands, fds.channel, fds.acknowledge] {
            libc::close(fd);
        }
        File::from_raw_fd(fds.notices)
    };
    loop {
        let watch = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut watched = [watch(fds.life), watch(ends.as_raw_fd())];
        // SAFETY: two valid entries.
        unsafe { libc::poll(watched.as_mut_ptr(), 2, -1) };
        if watched[0].revents != 0 {
            end_all(folder);
        }
        let mut seen = [0; 1024];
        while ends.read(&mut seen).is_ok_and(|n| n > 0) {}
        let mut status = 0;
        loop {
            // SAFETY: `status` is a valid place.
            let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
            if pid <= 0 {
                break;
            }
            let _ = frame::write(&mut notices, &Ended::new(pid, status));
        }
    }
}

/// Kills everything that descends from this process, removes the session's files, and ends.
#[allow(unsafe_code)]
fn end_all(folder: &Path) -> ! {
    loop {
        // Children of a killed child become children of this process, or stay in its group, and are found in the next
        // round.
        let left = system().left();
        for pid in &left {
            signal(*pid, libc::SIGKILL);
        }
        // SAFETY: no status is asked for.
        let was_child = unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } > 0;
        if !was_child && left.is_empty() {
            break;
        }
        // Nobody tells us of the end of those that are not ours.
        if !was_child {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let _ = std::fs::remove_dir_all(folder);
    std::process::exit(0)
}
