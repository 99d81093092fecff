//! Small things that every room needs, and that know none of them.
//!
//! | module | idea |
//! |---|---|
//! | [`environment`] | what around the program can fail, in sentences |
//! | `os` | what Linux grants and other systems do not |
//! | [`failure`] | what is said, and with which exit code, when something cannot be done |
//! | [`ansi`], `html` | colours of a terminal in text and on a page, and text made safe to stand there |
//! | [`screen`], [`paths`], [`signals`], [`clock`] | what the commands share |

pub mod ansi;
pub mod clock;
pub mod environment;
pub mod failure;
pub(crate) mod html;
pub(crate) mod os;
pub mod paths;
pub mod screen;
pub mod signals;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The lock, also after a thread panicked while holding it: what is locked here is never left half changed.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
