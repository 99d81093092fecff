//! Whether what is asked for fits into the machine's memory: a sentence beforehand instead of a process that the system
//! ends.

use crate::{Error, ErrorKind, Result};

/// Refuses work that takes `bytes` where fewer are free. `what` is what they are for; `help` a way with fewer. Where
/// nobody knows how many are free (other systems than Linux), all is let through.
pub(crate) fn check(bytes: u128, what: &str, help: &str) -> Result<()> {
    if bytes < WORTH_ASKING {
        return Ok(());
    }
    match free() {
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
    fn more_than_any_machine_has_is_refused_with_both_numbers() {
        check(1000, "a thousand bytes", "").unwrap();
        if free().is_some() {
            let e = check(u128::from(u64::MAX), "all logits", "ask for fewer").unwrap_err();
            assert!(e.to_string().starts_with("all logits take 18446744073.7 GB"), "{e}");
        }
    }
}
