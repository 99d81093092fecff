//! The machine's memory: whether what is asked for fits, so that there is a sentence beforehand instead of a process that
//! the system ends; and using again what was taken.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Error, ErrorKind, Result};

/// Refuses work that takes `bytes` where fewer are free. `what` is what they are for; `help` a way with fewer. Where
/// nobody knows how many are free (other systems than Linux), all is let through.
pub(crate) fn check(bytes: u128, what: &str, help: &str) -> Result<()> {
    if bytes < WORTH_ASKING {
        return Ok(());
    }
    let is_too_much = |free: Option<u64>| free.is_some_and(|free| bytes > u128::from(free));
    let mut free_now = free();
    if is_too_much(free_now) {
        // What was left by others may count as taken.
        *spare() = Vec::new();
        free_now = free();
    }
    match free_now {
        Some(free) if bytes > u128::from(free) => Err(Error::new(
            ErrorKind::Memory,
            format!("{what} take {}, and {} are free", in_words(bytes), in_words(free.into())),
            help,
        )),
        Some(_) | None => Ok(()),
    }
}

/// Less than that there always is, and asking takes as long as a step of a small network.
const WORTH_ASKING: u128 = 1 << 30;

fn in_words(bytes: u128) -> String {
    let (unit, name) = if bytes < 1_000_000_000 { (1e6, "MB") } else { (1e9, "GB") };
    format!("{:.1} {name}", bytes as f64 / unit)
}

/// Bytes that can be had: those of the machine, or of the group of processes that this one is confined to.
fn free() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let number = |text: String| text.trim().parse::<u64>().ok();
    let machine = available(&read("/proc/meminfo")?)?;
    let most = read("/sys/fs/cgroup/memory.max").and_then(number);
    let used = read("/sys/fs/cgroup/memory.current").and_then(number);
    Some(match (most, used) {
        (Some(most), Some(used)) => machine.min(most.saturating_sub(used)),
        _ => machine,
    })
}

/// From the lines of `/proc/meminfo`, which count in KiB.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

/// Numbers for what is written whole before it is read, in memory that the last ones left, if that is of their size:
/// memory that a process has never touched comes zeroed from the system, and taking it can last as long as computing
/// what is written there. What is left belongs to the system whenever it needs it.
pub(crate) struct Reused {
    numbers: Vec<f32>,
    /// How many of them are in use.
    len: usize,
}

/// What the last ones left.
static SPARE: Mutex<Vec<f32>> = Mutex::new(Vec::new());

fn spare() -> MutexGuard<'static, Vec<f32>> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reused {
    /// Fewer come from the allocator as fast.
    const WORTH_IT: usize = 2 << 20;

    /// So many numbers, whatever they are.
    pub(crate) fn unwritten(len: usize) -> Self {
        if len >= Reused::WORTH_IT {
            let mut spare = spare();
            if (len..=2 * len).contains(&spare.len()) {
                return Reused { numbers: std::mem::take(&mut spare), len };
            }
        }
        let numbers = vec![0.0; len];
        if len >= Reused::WORTH_IT {
            advise(&numbers, Advice::LargePages);
        }
        Reused { numbers, len }
    }
}

impl Drop for Reused {
    fn drop(&mut self) {
        let left = std::mem::take(&mut self.numbers);
        // Only where the system can have it back.
        if left.len() >= Reused::WORTH_IT && advise(&left, Advice::TakeIfNeeded) {
            let before = std::mem::replace(&mut *spare(), left);
            drop(before);
        }
    }
}

impl Deref for Reused {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.numbers[..self.len]
    }
}

impl DerefMut for Reused {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.numbers[..self.len]
    }
}

impl Clone for Reused {
    fn clone(&self) -> Self {
        let mut copy = Reused::unwritten(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl PartialEq for Reused {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

/// What the system is told about memory.
enum Advice {
    /// It will be written whole.
    LargePages,
    /// Nobody needs what it holds: pages can be taken away, and are zeros then.
    TakeIfNeeded,
}

/// Whether the system has heard it.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn advise(numbers: &[f32], advice: Advice) -> bool {
    const PAGE: usize = 4096;
    let start = numbers.as_ptr() as usize;
    let (from, to) = (start.next_multiple_of(PAGE), (start + 4 * numbers.len()) / PAGE * PAGE);
    let advice = match advice {
        Advice::LargePages => libc::MADV_HUGEPAGE,
        Advice::TakeIfNeeded => libc::MADV_FREE,
    };
    // SAFETY: whole pages inside a live allocation of numbers, of which every pattern of bits is one. Large pages change
    // how the system backs them, not what they hold. Pages that it may take away hold what they held, or zeros, until
    // they are written; whoever gets them from `Reused::unwritten` writes before reading.
    unsafe { libc::madvise(from as *mut libc::c_void, to.saturating_sub(from), advice) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn advise(_: &[f32], advice: Advice) -> bool {
    match advice {
        Advice::LargePages | Advice::TakeIfNeeded => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_is_read_from_the_systems_own_words() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:   24016 kB\n"), Some(24016 * 1024));
        assert_eq!(available("MemTotal: 9 kB\n"), None);
        assert_eq!((in_words(1_500_000), in_words(206_158_430_208)), ("1.5 MB".into(), "206.2 GB".into()));
    }

    #[test]
    fn memory_is_handed_on_and_holds_what_is_written() {
        let n = Reused::WORTH_IT;
        for round in 0..3 {
            let mut numbers = Reused::unwritten(n + round);
            numbers.fill(round as f32);
            let copy = numbers.clone();
            drop(numbers);
            assert_eq!(copy.len(), n + round);
            assert!(copy.iter().all(|&x| x == round as f32));
        }
    }

    #[test]
    fn more_than_any_machine_has_is_refused_with_both_numbers() {
        check(1000, "a thousand bytes", "").unwrap();
        if free().is_some() {
            let e = check(u128::from(u64::MAX), "all logits", "ask for fewer").unwrap_err();
            assert!(e.to_string().starts_with("all logits take 18446744073.7 GB"), "{e}");
        }
    }
}
