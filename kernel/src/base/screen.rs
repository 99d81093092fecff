//! What `onelens` shows while it works: on a terminal a line that changes in place, in a pipe whole lines.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Standard output, by its kind.
pub struct Screen {
    terminal: bool,
    drawn: Instant,
    open: bool,
}

/// The width of a terminal that does not tell its own.
const WIDTH: usize = 80;
const EVERY: Duration = Duration::from_millis(100);

impl Screen {
    /// For this process's standard output.
    pub fn new() -> Screen {
        Screen { terminal: io::stdout().is_terminal(), drawn: Instant::now(), open: false }
    }

    /// Whether colours and changing lines make sense.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Opens a line that may change until [`Screen::close`].
    pub fn open(&mut self, text: &str) {
        self.open = true;
        if self.terminal {
            self.draw(text);
        } else {
            put(text);
        }
    }

    /// Redraws the open line, at most ten times a second, and on a terminal only.
    pub fn change(&mut self, text: impl FnOnce() -> String) {
        if self.terminal && self.open && self.drawn.elapsed() >= EVERY {
            self.draw(&text());
        }
    }

    /// Ends the open line: on a terminal with `whole`, in a pipe with `rest` after what stands there already.
    pub fn close(&mut self, whole: &str, rest: &str) {
        self.open = false;
        if self.terminal {
            self.draw(whole);
            put("\n");
        } else {
            put(&format!("{rest}\n"));
        }
    }

    /// A line of its own.
    pub fn line(&mut self, text: &str) {
        put(&format!("{text}\n"));
    }

    fn draw(&mut self, text: &str) {
        self.drawn = Instant::now();
        // Wider lines would wrap, and then cannot be drawn over.
        put(&format!("\r\x1b[K{}", shortened(text, width() - 2)));
    }
}

impl Default for Screen {
    fn default() -> Self {
        Screen::new()
    }
}

/// The columns of the terminal, which may change while we run.
#[allow(unsafe_code)]
fn width() -> usize {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one `winsize`.
    let known = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &mut size) } == 0;
    if known && size.ws_col >= 20 { size.ws_col.into() } else { WIDTH }
}

/// Writes; a reader that has gone (`| head`) is no reason to stop.
fn put(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// At most `width` characters of the first line, with an ellipsis for what is left out.
pub fn shortened(text: &str, width: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= width {
        return line.to_string();
    }
    line.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// A duration for people: `0.12 s`, `4.3 s`, `2 min 05 s`.
pub fn duration(d: Duration) -> String {
    let seconds = d.as_secs_f64();
    if seconds < 1.0 {
        format!("{seconds:.2} s")
    } else if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{} min {:02} s", d.as_secs() / 60, d.as_secs() % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_shortened_by_characters() {
        assert_eq!(shortened("äöü\nb", 3), "äöü");
        assert_eq!(shortened("äöüß", 3), "äö…");
        assert_eq!(shortened("", 3), "");
    }

    #[test]
    fn durations_read_well() {
        let shown = |s: f64| duration(Duration::from_secs_f64(s));
        assert_eq!([shown(0.123), shown(4.26), shown(125.9)], ["0.12 s", "4.3 s", "2 min 05 s"]);
    }
}
