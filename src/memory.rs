//! The machine's memory: whether what is asked for fits, so that there is a sentence beforehand instead of a process that
//! the system ends; and using again what was taken.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

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
        Spare::lock().numbers = Vec::new();
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

/// Lets the allocator keep what one layer of a pass frees for the next one. That of glibc hands free memory back from a
/// size on that it learns from what was freed before, and would take it from the system again, page by page, in every
/// layer; after this it keeps up to 62 MiB for each thread. Others are not changed by it.
pub(crate) fn keep_freed() {
    static ONCE: Once = Once::new();
    // glibc learns from up to 32 MiB. Nothing is written there, so that no memory is taken.
    ONCE.call_once(|| drop(std::hint::black_box(Vec::<u8>::with_capacity(31 << 20))));
}

/// Numbers for what is written whole before it is read, in memory that the last ones left a moment ago, if that is of
/// their size: memory that a process has never touched comes zeroed from the system, and taking it can last as long as
/// computing what is written there.
pub(crate) struct Reused {
    numbers: Vec<f32>,
    /// How many of them are in use.
    len: usize,
}

/// What the last ones left.
struct Spare {
    numbers: Vec<f32>,
    /// When it goes back to the system.
    until: Option<Instant>,
    /// Whether a thread waits for that.
    is_watched: bool,
}

static SPARE: Mutex<Spare> = Mutex::new(Spare { numbers: Vec::new(), until: None, is_watched: false });

/// How long it stays: in a loop over batches the next pass begins when the last cache is dropped.
const STAYS: Duration = Duration::from_secs(2);

impl Spare {
    fn lock() -> MutexGuard<'static, Spare> {
        SPARE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(numbers: Vec<f32>) {
        let mut spare = Spare::lock();
        let before = std::mem::replace(&mut spare.numbers, numbers);
        spare.until = Some(Instant::now() + STAYS);
        let is_watched = std::mem::replace(&mut spare.is_watched, true);
        drop(spare);
        drop(before);
        if !is_watched && std::thread::Builder::new().name("spare memory".into()).spawn(Spare::watch).is_err()
        {
            Spare::give_back();
        }
    }

    /// Waits until nobody has left anything for a while.
    fn watch() {
        loop {
            let until = Spare::lock().until;
            match until.map(|until| until.saturating_duration_since(Instant::now())) {
                Some(left) if !left.is_zero() => std::thread::sleep(left),
                Some(_) | None => return Spare::give_back(),
            }
        }
    }

    fn give_back() {
        let mut spare = Spare::lock();
        spare.is_watched = false;
        let numbers = std::mem::take(&mut spare.numbers);
        // Others need not wait for the system.
        drop(spare);
        drop(numbers);
    }
}

impl Reused {
    /// Fewer come from the allocator as fast.
    const WORTH_IT: usize = 2 << 20;

    /// So many numbers, whatever they are.
    pub(crate) fn unwritten(len: usize) -> Self {
        if len >= Reused::WORTH_IT {
            let mut spare = Spare::lock();
            if (len..=2 * len).contains(&spare.numbers.len()) {
                return Reused { numbers: std::mem::take(&mut spare.numbers), len };
            }
        }
        Reused { numbers: vec![0.0; len], len }
    }
}

impl Drop for Reused {
    fn drop(&mut self) {
        if self.numbers.len() >= Reused::WORTH_IT {
            Spare::leave(std::mem::take(&mut self.numbers));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_is_read_from_the_systems_own_words() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:   24016 kB\n"), Some(24016 * 1024));
        assert_eq!(available("MemTotal: 9 kB\n"), None);
        assert_eq!((in_words(1_500_000), in_words(206_158_430_208)), ("1.5 MB".into(), "206.2 GB".into()));
    }

    /// All that has to do with what is left, which the process has once.
    #[test]
    fn memory_is_handed_on_and_then_given_back() {
        let mut numbers = Reused::unwritten(Reused::WORTH_IT + 5);
        numbers.fill(1.0);
        let place = numbers.as_ptr();
        drop(numbers);
        let next = Reused::unwritten(Reused::WORTH_IT);
        assert_eq!(next.len(), Reused::WORTH_IT);
        // Too small a cache gets memory of its own.
        let small = Reused::unwritten(3);
        assert_eq!((&*small, next.as_ptr()), (&[0.0; 3][..], place));
        drop((next, small));
        std::thread::sleep(STAYS + Duration::from_millis(500));
        let spare = Spare::lock();
        assert!(spare.numbers.is_empty() && !spare.is_watched);
        drop(spare);

        check(1000, "a thousand bytes", "").unwrap();
        if free().is_some() {
            drop(Reused::unwritten(Reused::WORTH_IT));
            let e = check(u128::from(u64::MAX), "all logits", "ask for fewer").unwrap_err();
            assert!(e.to_string().starts_with("all logits take 18446744073.7 GB"), "{e}");
            assert!(Spare::lock().numbers.is_empty(), "more than any machine has needs what is left");
        }
    }
}
