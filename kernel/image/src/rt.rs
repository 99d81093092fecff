//! What the code generated for a cell calls. Little of it is generic: generic code is compiled in the cell.

pub use crate::future::{block_on, once_per_process, until_interrupted};
pub use crate::stage::{Failure, stage};
pub use crate::store::{fits, put, take, take_exact};

use crate::channel;
use onelens_wire::session::Report;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

static LINE: AtomicU32 = AtomicU32::new(0);
static LOST: AtomicBool = AtomicBool::new(false);

/// The statement at `line` of the cell begins.
#[inline(never)]
pub fn at(line: u32) {
    LINE.store(line, Ordering::Relaxed);
}

pub(crate) fn line() -> u32 {
    LINE.load(Ordering::Relaxed)
}

/// The cell fails after it used up a variable that it had taken: the kernel wakes the sleeping copy, which has it.
#[inline(never)]
pub fn lost() {
    LOST.store(true, Ordering::Relaxed);
}

pub(crate) fn take_lost() -> bool {
    LOST.swap(false, Ordering::Relaxed)
}

/// A variable is not of the type that the cell takes it for, so nothing of the cell has run.
#[inline(never)]
pub fn unfit(name: &str) {
    channel::send(&Report::Unfit(name.into()));
}

/// The cell's last value is computed and shows itself next.
#[inline(never)]
pub fn result_begins() {
    channel::result_begins();
}

/// The cell's last value has shown itself.
#[inline(never)]
pub fn result_ends() {
    channel::result_ends();
}

/// How a value shows itself that has no `evcxr_display` of its own: as `Debug` does.
pub trait Show {
    /// Shows the value as the cell's result.
    fn evcxr_display(&self);
}

impl<T: Debug + ?Sized> Show for T {
    #[inline]
    fn evcxr_display(&self) {
        show_debug(&self, std::any::type_name::<T>() == "()");
    }
}

#[inline(never)]
fn show_debug(value: &dyn Debug, unit: bool) {
    if !unit {
        let text = format!("{value:?}");
        channel::show(&vec![("text/plain".into(), text)], None, false);
    }
}
