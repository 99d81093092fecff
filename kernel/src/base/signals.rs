//! Signals as flags to be polled: a handler may do almost nothing, and needs nothing here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::base::failure::Failure;

/// Whether one of some signals has come.
#[derive(Clone)]
pub struct Arrived(Arc<AtomicBool>);

impl Arrived {
    /// From now on these signals raise the flag in place of what they do by default.
    pub fn watch(signals: &[i32]) -> Result<Arrived, Failure> {
        let flag = Arc::new(AtomicBool::new(false));
        for &signal in signals {
            signal_hook::flag::register(signal, flag.clone()).map_err(|e| {
                Failure::new(
                    format!("cannot watch signal {signal}: {e}"),
                    "report this with the name of your system",
                )
            })?;
        }
        Ok(Arrived(flag))
    }

    /// Whether one has come since the last time this was asked.
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}
