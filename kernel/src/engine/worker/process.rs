//! The kernel's end of the pipes to a session's processes.

use super::input::StandardInput;
use super::interrupt::signal_group;
use super::pipe::{append, available};
use super::shell::is_over;
use super::streams::Utf8;
use super::supervisor::Fds;
use crate::base::failure::Failure;
use crate::base::os::system;
use crate::image::Image;
use onelens_wire::frame;
use onelens_wire::session::{Ended, Order, Report};
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// How often a quiet cell is looked at, in milliseconds: whether it waits for input.
const LOOK_EVERY: libc::c_int = 50;

/// How long after the last worker is gone a notice of it may come, in milliseconds.
const LAST_NOTICE: libc::c_int = 100;

/// Printed text is handed over at most this often, so that a loop that prints does not become thousands of messages.
const PACE: Duration = Duration::from_millis(20);
/// More than this is handed over at once: a full pipe would hold up whoever prints.
const MOST_HELD: usize = 16 << 10;

/// What happened next.
pub(in crate::engine) enum Event {
    /// What the worker tells; everything printed before it has been handed over.
    Report(Report),
    /// A process of the session ended.
    Ended(Ended),
    /// The worker waits for a line on its standard input.
    Reads,
    /// Neither a worker nor a copy of it is left, of which there is nobody to tell how they ended.
    Deserted,
    /// The supervisor is gone, and with it everything.
    Gone,
}

/// Text that was printed.
pub(in crate::engine) enum Printed {
    Stdout(String),
    Stderr(String),
}

/// The supervisor and its pipes.
pub(in crate::engine) struct Process {
    child: Child,
    commands: PipeWriter,
    channel: PipeReader,
    acknowledge: PipeWriter,
    notices: PipeReader,
    stdout: ChildStdout,
    stderr: ChildStderr,
    life: Option<PipeWriter>,
    pub(in crate::engine) input: StandardInput,
    frames: Vec<u8>,
    notice_bytes: Vec<u8>,
    stdout_text: Utf8,
    stderr_text: Utf8,
    /// When printed text was handed over last.
    handed_over: Instant,
}

impl Process {
    pub(in crate::engine) fn start(image: &Image, program: &Path, folder: &Path) -> Result<Self, Failure> {
        let no_pipe = |e: std::io::Error| {
            Failure::new(format!("no pipe to the worker: {e}"), "close some programs and restart the kernel")
        };
        let (commands_end, commands) = std::io::pipe().map_err(no_pipe)?;
        let (channel, channel_end) = std::io::pipe().map_err(no_pipe)?;
        let (acknowledge_end, acknowledge) = std::io::pipe().map_err(no_pipe)?;
        let (notices, notices_end) = std::io::pipe().map_err(no_pipe)?;
        let (life_end, life) = std::io::pipe().map_err(no_pipe)?;
        let fds = Fds {
            commands: commands_end.as_raw_fd(),
            channel: channel_end.as_raw_fd(),
            acknowledge: acknowledge_end.as_raw_fd(),
            notices: notices_end.as_raw_fd(),
            life: life_end.as_raw_fd(),
        };
        let mut command = Command::new(program);
        command
            .arg("worker")
            .arg(image.std_library()?)
            .arg(image.library())
            .arg(folder)
            .arg(fds.to_argument());
        let (stdin, input) = StandardInput::new(folder);
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        inherit(&mut command, fds);
        let mut child = command.spawn().map_err(|e| {
            let what = format!("the worker {} does not start: {e}", program.display());
            Failure::new(what, "install the kernel again")
        })?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Failure::of("no pipe to the worker"));
        };
        Ok(Process {
            child,
            commands,
            channel,
            acknowledge,
            notices,
            stdout,
            stderr,
            life: Some(life),
            input,
            frames: vec![],
            notice_bytes: vec![],
            stdout_text: Utf8::default(),
            stderr_text: Utf8::default(),
            handed_over: Instant::now(),
        })
    }

    /// Ends all processes of the session and removes its folder.
    pub(in crate::engine) fn end(&mut self) {
        // A supervisor that was killed has ended nothing, and where no system does so for it, its group is left.
        if self.life.is_some() && !system().adopts_orphans() && is_over(self.child.id()) {
            signal_group(self.child.id().cast_signed());
        }
        // The supervisor ends everything when this closes.
        drop(self.life.take());
        let _ = self.child.wait();
    }

    /// Tells the worker something. If it is gone, [`next`](Self::next) says so.
    pub(in crate::engine) fn send(&mut self, order: &Order) {
        let _ = frame::write(&mut self.commands, order);
    }

    /// Lets the worker go on after a frame that stands in the order of what is printed.
    pub(in crate::engine) fn acknowledge(&mut self) {
        let _ = self.acknowledge.write_all(&[1]);
    }

    /// Forgets the beginning of a frame whose sender has died.
    pub(in crate::engine) fn forget_partial_frame(&mut self) {
        self.frames.clear();
    }

    /// Waits for the next event, and hands over what is printed meanwhile. Watches whether `worker` reads.
    pub(in crate::engine) fn next(&mut self, worker: i32, on_text: &mut dyn FnMut(Printed)) -> Event {
        loop {
            if let Some(report) = report(&mut self.frames) {
                self.drain(on_text);
                return Event::Report(report);
            }
            // A dead worker's last frames were there before the notice of its death, but one wait for both may have looked
            // at the channel before them, and at the notices after that.
            if !self.notice_bytes.is_empty() && available(&self.channel) > 0 {
                append(&mut self.channel, &mut self.frames);
                continue;
            }
            if let Some(ended) = frame::decode(&mut self.notice_bytes) {
                self.drain(on_text);
                return ended.map_or_else(|e| Event::Report(unreadable(&e)), Event::Ended);
            }
            let adopts = system().adopts_orphans();
            let limit = if (self.input.is_open() && worker > 0) || !adopts { LOOK_EVERY } else { -1 };
            let Some(ready) = self.wait(limit) else {
                if self.input.is_awaited(worker) {
                    self.drain(on_text);
                    return Event::Reads;
                }
                // Then workers hold the pipe, too, whose end would tell it.
                if !adopts && is_over(self.child.id()) {
                    return Event::Gone;
                }
                continue;
            };
            self.input.is_not_silent();
            let printed_only = !ready.channel && !ready.notices;
            if printed_only
                && self.handed_over.elapsed() < PACE
                && available(&self.stdout) + available(&self.stderr) < MOST_HELD
            {
                self.nap();
                continue;
            }
            if ready.channel && append(&mut self.channel, &mut self.frames) {
                continue;
            }
            // Its end: nobody runs cells any more. Where nobody adopts, maybe nobody is left to tell of that either.
            if ready.channel && !adopts && !self.has_notice(LAST_NOTICE) {
                self.drain(on_text);
                return Event::Deserted;
            }
            if ready.stdout || ready.stderr {
                self.handed_over = Instant::now();
            }
            let read = if ready.stdout { self.read_stdout(usize::MAX, on_text) } else { 0 };
            let read = read + if ready.stderr { self.read_stderr(usize::MAX, on_text) } else { 0 };
            if read == 0 && ready.notices && !append(&mut self.notices, &mut self.notice_bytes) {
                self.drain(on_text);
                return Event::Gone;
            }
        }
    }

    /// What has come meanwhile, without waiting: hands over what was printed, and returns a report if there is one.
    pub(in crate::engine) fn poll(&mut self, on_text: &mut dyn FnMut(Printed)) -> Option<Report> {
        if available(&self.channel) > 0 {
            append(&mut self.channel, &mut self.frames);
        }
        self.drain(on_text);
        report(&mut self.frames)
    }

    /// Waits for a millisecond, or until there is something else to read than what is printed.
    #[allow(unsafe_code)]
    fn nap(&self) {
        let watch = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut fds = [watch(self.channel.as_raw_fd()), watch(self.notices.as_raw_fd())];
        // SAFETY: two valid entries.
        unsafe { libc::poll(fds.as_mut_ptr(), 2, 1) };
    }

    /// Whether a notice comes within so many milliseconds.
    #[allow(unsafe_code)]
    fn has_notice(&self, limit: libc::c_int) -> bool {
        let mut notices = libc::pollfd { fd: self.notices.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid entry.
        unsafe { libc::poll(&mut notices, 1, limit) > 0 }
    }

    /// Waits for something to read, for at most `limit` milliseconds if that is not -1.
    #[allow(unsafe_code)]
    fn wait(&self, limit: libc::c_int) -> Option<Ready> {
        let watch = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut fds = [
            watch(self.channel.as_raw_fd()),
            watch(self.notices.as_raw_fd()),
            watch(self.stdout.as_raw_fd()),
            watch(self.stderr.as_raw_fd()),
        ];
        // SAFETY: four valid entries.
        let n = unsafe { libc::poll(fds.as_mut_ptr(), 4, limit) };
        let [channel, notices, stdout, stderr] = fds.map(|fd| fd.revents != 0);
        (n != 0).then_some(Ready { channel, notices, stdout, stderr })
    }

    /// Hands over what has been printed up to now, and not what is printed while this runs.
    pub(super) fn drain(&mut self, on_text: &mut dyn FnMut(Printed)) {
        let (mut stdout, mut stderr) = (available(&self.stdout), available(&self.stderr));
        while stdout > 0 {
            stdout -= self.read_stdout(stdout, on_text).max(1);
        }
        while stderr > 0 {
            stderr -= self.read_stderr(stderr, on_text).max(1);
        }
    }

    /// The rest of characters that were cut by the end of the cell.
    pub(in crate::engine) fn finish_text(&mut self, on_text: &mut dyn FnMut(Printed)) {
        self.drain(on_text);
        let (stdout, stderr) = (self.stdout_text.finish(), self.stderr_text.finish());
        if !stdout.is_empty() {
            on_text(Printed::Stdout(stdout));
        }
        if !stderr.is_empty() {
            on_text(Printed::Stderr(stderr));
        }
    }

    fn read_stdout(&mut self, most: usize, on_text: &mut dyn FnMut(Printed)) -> usize {
        read_text(&mut self.stdout, &mut self.stdout_text, most, &mut |text| on_text(Printed::Stdout(text)))
    }

    fn read_stderr(&mut self, most: usize, on_text: &mut dyn FnMut(Printed)) -> usize {
        read_text(&mut self.stderr, &mut self.stderr_text, most, &mut |text| on_text(Printed::Stderr(text)))
    }
}

/// The first report that is all there.
fn report(bytes: &mut Vec<u8>) -> Option<Report> {
    frame::decode(bytes).map(|report| report.unwrap_or_else(|e| unreadable(&e)))
}

/// Of a library that another program was built with.
fn unreadable(e: &std::io::Error) -> Report {
    let failure = Failure::new(
        format!("the program does not understand the library for cells: {e}"),
        "build `onelens` anew, from the sources that ONELENS_SOURCE names if it is set",
    );
    Report::Fatal(failure.to_string())
}

struct Ready {
    channel: bool,
    notices: bool,
    stdout: bool,
    stderr: bool,
}

/// Reads one piece of at most `most` bytes; 0 at the end.
fn read_text(from: &mut impl Read, utf8: &mut Utf8, most: usize, on_text: &mut dyn FnMut(String)) -> usize {
    let mut bytes = [0; 64 << 10];
    let room = most.min(bytes.len());
    let n = from.read(&mut bytes[..room]).unwrap_or(0);
    let text = utf8.decode(&bytes[..n]);
    if !text.is_empty() {
        on_text(text);
    }
    n
}

/// Lets the program keep these descriptors, which every other program started meanwhile loses.
#[allow(unsafe_code)]
fn inherit(command: &mut Command, fds: Fds) {
    let keep = move || {
        for fd in fds.all() {
            // SAFETY: only flags of descriptors of the new process change; `fcntl` is allowed after `fork`.
            unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(keep) };
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onelens_wire::session::End;

    #[test]
    fn what_a_worker_said_comes_before_the_notice_of_its_end_even_if_that_was_read_first() {
        let mut child = Command::new("true").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let [commands, channel, acknowledge, notices] = [(); 4].map(|()| std::io::pipe().unwrap());
        let mut process = Process {
            child,
            commands: commands.1,
            channel: channel.0,
            acknowledge: acknowledge.1,
            notices: notices.0,
            stdout,
            stderr,
            life: None,
            input: StandardInput::default(),
            frames: Vec::new(),
            notice_bytes: frame::encode(&Ended { process: 7, end: End::Exit(0) }),
            stdout_text: Utf8::default(),
            stderr_text: Utf8::default(),
            handed_over: Instant::now(),
        };
        let mut worker = channel.1;
        frame::write(&mut worker, &Report::Forked { copy: 8 }).unwrap();
        frame::write(&mut worker, &Report::Lost).unwrap();
        let mut next = || process.next(7, &mut |_| {});
        assert!(matches!(next(), Event::Report(Report::Forked { copy: 8 })));
        assert!(matches!(next(), Event::Report(Report::Lost)));
        assert!(matches!(next(), Event::Ended(Ended { process: 7, end: End::Exit(0) })));
    }
}
