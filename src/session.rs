//! Where a running computation meets its user: displays, progress, interrupts.
//!
//! The library does not know which kernel runs it. A kernel that has a channel of its own installs a [`Sink`]
//! once; without one, displays are printed as the `EVCXR_BEGIN_CONTENT` blocks that the stock evcxr kernel
//! understands, and progress as one line per tenth.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::Error;

/// The same content in one or more MIME types, richest first: `[("text/html", ..), ("text/plain", ..)]`.
pub type Bundle = Vec<(String, String)>;

/// Where displays go when a kernel has a better place than standard output.
pub trait Sink: Send {
    /// Shows `bundle`. With an `id`, a later call with the same `id` and `update` replaces it in place.
    fn display(&mut self, bundle: &Bundle, id: Option<&str>, update: bool);

    /// Removes what the running cell has shown so far; with `wait`, only when something new comes.
    fn clear(&mut self, wait: bool);
}

static SINK: Mutex<Option<Box<dyn Sink>>> = Mutex::new(None);
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static NEXT_ID: AtomicU64 = AtomicU64::new(0);
static QUIET: AtomicUsize = AtomicUsize::new(0);

/// Sends displays to `sink` from now on. Called by kernels, not by users.
pub fn set_sink(sink: Box<dyn Sink>) {
    *SINK.lock().unwrap_or_else(PoisonError::into_inner) = Some(sink);
}

/// Shows a bundle now, in the middle of a cell if need be.
pub fn display(bundle: &Bundle) {
    match &mut *SINK.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(sink) => sink.display(bundle, None, false),
        None => print!("{}", content_blocks(bundle)),
    }
}

/// Ends the running cell with this error, where a value cannot be shown and has no other way to say so.
///
/// The error is carried by a panic without a word of its own: a kernel that knows this library tells it as the cell's
/// error. Where nobody has installed a sink, it is written to standard error first.
pub fn fail(error: Error) -> ! {
    if SINK.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
        eprintln!("{error}");
    }
    std::panic::resume_unwind(Box::new(error))
}

/// Removes what the running cell has shown so far; with `wait`, only when something new comes, so that nothing
/// flickers.
///
/// Does nothing where there is no such thing: in the stock evcxr kernel, in a program, in a test.
///
/// ```
/// for step in 0..3 {
///     onelens::session::clear_output(true);
///     println!("step {step}");
/// }
/// ```
pub fn clear_output(wait: bool) {
    if let Some(sink) = &mut *SINK.lock().unwrap_or_else(PoisonError::into_inner) {
        sink.clear(wait);
    }
}

/// The bundle as the blocks that stock evcxr turns into one rich output.
fn content_blocks(bundle: &Bundle) -> String {
    bundle
        .iter()
        .map(|(mime, data)| format!("EVCXR_BEGIN_CONTENT {mime}\n{data}\nEVCXR_END_CONTENT\n"))
        .collect()
}

/// Asks the running computation to stop where it can stop with its work kept. Safe in a signal handler.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Forgets an interrupt that came too late; a kernel calls this between cells.
pub fn clear_interrupt() {
    INTERRUPTED.store(false, Ordering::Relaxed);
}

/// Tells whether somebody asked the running computation to stop. Long loops poll this once per step.
///
/// ```
/// use onelens::session;
/// assert!(!session::interrupted());
/// session::interrupt();
/// assert!(session::interrupted());
/// session::clear_interrupt();
/// ```
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Runs `work` without showing its progress: for steps of something longer that shows its own.
///
/// ```
/// use onelens::session::{Progress, quietly};
/// quietly(|| Progress::new("one of many", 10).finish("nothing is shown"));
/// ```
pub fn quietly<T>(work: impl FnOnce() -> T) -> T {
    struct Until;
    impl Drop for Until {
        fn drop(&mut self) {
            QUIET.fetch_sub(1, Ordering::Relaxed);
        }
    }
    QUIET.fetch_add(1, Ordering::Relaxed);
    // Dropped when `work` panics, too: later progress is shown again.
    let _until = Until;
    work()
}

/// How a line of output looks in a notebook.
const STYLE: &str = "font:13px/1.4 monospace";

/// A progress line: in place where the kernel can, else one printed line per tenth.
///
/// ```
/// let mut progress = onelens::session::Progress::new("training", 200);
/// for step in 1..=200 {
///     progress.update(step, || format!("loss {:.3}", 1.0 / step as f64));
/// }
/// progress.finish("loss 0.005");
/// ```
pub struct Progress {
    label: String,
    total: usize,
    id: String,
    started: Instant,
    shown: Option<Instant>,
    tenths: usize,
}

impl Progress {
    /// Makes a progress line for `total` steps. Nothing is shown before the first update.
    pub fn new(label: &str, total: usize) -> Self {
        let id =
            format!("onelens-progress-{}-{}", std::process::id(), NEXT_ID.fetch_add(1, Ordering::Relaxed));
        Progress {
            label: label.into(),
            total: total.max(1),
            id,
            started: Instant::now(),
            shown: None,
            tenths: 0,
        }
    }

    /// Reports that `done` of the steps are done; `note` is called only if something will be shown.
    pub fn update(&mut self, done: usize, note: impl FnOnce() -> String) {
        if QUIET.load(Ordering::Relaxed) > 0 {
            return;
        }
        let in_place = SINK.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if in_place {
            if self.shown.is_none_or(|at| at.elapsed() >= Duration::from_millis(100)) {
                self.show_in_place(done, &note());
            }
        } else {
            let tenths = done * 10 / self.total;
            if tenths > self.tenths {
                self.tenths = tenths;
                println!("{}", self.line(done, &note()));
            }
        }
    }

    /// Shows the last state, with the time taken, in place of the bar.
    pub fn finish(mut self, note: &str) {
        if QUIET.load(Ordering::Relaxed) > 0 {
            return;
        }
        let line = format!("{}: {note} ({:.1} s)", self.label, self.started.elapsed().as_secs_f64());
        let html = format!("<div style=\"{STYLE}\">{}</div>", escape_html(&line));
        self.send(vec![("text/html".into(), html), ("text/plain".into(), line)]);
    }

    fn line(&self, done: usize, note: &str) -> String {
        let seconds = self.started.elapsed().as_secs_f64();
        let left = seconds * (self.total - done.min(self.total)) as f64 / done.max(1) as f64;
        format!("{} {done}/{}  {note}  {seconds:.0} s, {left:.0} s left", self.label, self.total)
    }

    fn show_in_place(&mut self, done: usize, note: &str) {
        let line = self.line(done, note);
        let html = format!(
            "<div style=\"{STYLE}\"><progress max=\"{}\" value=\"{done}\"></progress> {}</div>",
            self.total,
            escape_html(&line)
        );
        self.send(vec![("text/html".into(), html), ("text/plain".into(), line)]);
    }

    fn send(&mut self, bundle: Bundle) {
        match &mut *SINK.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(sink) => sink.display(&bundle, Some(&self.id), self.shown.is_some()),
            None => println!("{}", bundle[bundle.len() - 1].1),
        }
        self.shown = Some(Instant::now());
    }
}

/// Something that grows in one place of a cell while it is made, such as a text. Shows nothing where displays cannot be
/// replaced: in the stock evcxr kernel, in a program, in a test.
///
/// ```
/// let mut live = onelens::session::Live::new("text");
/// live.update(|| vec![("text/plain".into(), "Once upon".into())]);
/// live.finish("2 words");
/// ```
pub struct Live {
    progress: Progress,
}

impl Live {
    /// Makes a display that shows nothing yet.
    pub fn new(label: &str) -> Self {
        Live { progress: Progress::new(label, 1) }
    }

    /// Shows what there is now; `bundle` is called only if something will be shown.
    pub fn update(&mut self, bundle: impl FnOnce() -> Bundle) {
        let in_place = SINK.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let due = self.progress.shown.is_none_or(|at| at.elapsed() >= Duration::from_millis(50));
        if in_place && due && QUIET.load(Ordering::Relaxed) == 0 {
            self.progress.send(bundle());
        }
    }

    /// Puts one line in its place, with the time taken.
    pub fn finish(self, note: &str) {
        if self.progress.shown.is_some() {
            self.progress.finish(note);
        }
    }
}

/// `1 step`, `3 steps`, `2 lenses`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    let plural = if noun.ends_with('s') { "es" } else { "s" };
    format!("{n} {noun}{}", if n == 1 { "" } else { plural })
}

/// Makes text safe to stand in HTML, in element content and in double-quoted attributes.
///
/// ```
/// assert_eq!(onelens::session::escape_html("<b> & \"c\""), "&lt;b&gt; &amp; &quot;c&quot;");
/// ```
pub fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
