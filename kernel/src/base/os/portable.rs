//! Any Unix: what POSIX has, `ps` included.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::System;

pub(super) struct Portable;

impl System for Portable {
    fn adopts_orphans(&self) -> bool {
        false
    }

    fn adopt_orphans(&self) {}

    fn end_with_parent(&self) {}

    fn left(&self) -> Vec<i32> {
        let own = std::process::id().cast_signed();
        let mut ps = Command::new("ps");
        ps.args(["-A", "-o", "pid=", "-o", "ppid=", "-o", "pgid=", "-o", "stat="]);
        let Ok(ps) = ps.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn() else {
            return Vec::new();
        };
        let itself = ps.id().cast_signed();
        let list = ps.wait_with_output().map(|output| output.stdout).unwrap_or_default();
        let mut left = below(own, &String::from_utf8_lossy(&list));
        left.retain(|pid| *pid != itself);
        left
    }

    fn sees_reads(&self) -> bool {
        false
    }

    fn reads(&self, _process: i32) -> Option<bool> {
        None
    }

    fn links_with_gnu(&self) -> bool {
        false
    }

    /// A script is tried, as POSIX has no name for what a file system is mounted with.
    fn may_run_code_in(&self, folder: &Path) -> bool {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let script = folder.join(format!("onelens-try-{}-{n}.sh", std::process::id()));
        let written = write_script(&script);
        let ran =
            Command::new(&script).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if written.is_ok() {
            let _ = fs::remove_file(&script);
        }
        written.is_err() || !ran.is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// A program that does nothing, in a file that was not there.
fn write_script(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o700).open(path)?;
    // Whatever is masked for new files.
    file.set_permissions(Permissions::from_mode(0o700))?;
    file.write_all(b"#!/bin/sh\n")
}

/// The group that `leader` leads, and all that descends from one of it, in a list with the number, parent, group and
/// state of each process; without the leader, and without those that have ended.
fn below(leader: i32, list: &str) -> Vec<i32> {
    let lines = list.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let mut number = || words.next()?.parse::<i32>().ok();
        let numbers = [number()?, number()?, number()?];
        words.next().filter(|state| !state.starts_with('Z')).map(|_| numbers)
    });
    let lines: Vec<[i32; 3]> = lines.collect();
    let mut found = BTreeSet::from([leader]);
    // Until no more are found: a list is in no order.
    loop {
        let before = found.len();
        let belongs = |&&[_, parent, group]: &&[i32; 3]| group == leader || found.contains(&parent);
        let more: Vec<i32> = lines.iter().filter(belongs).map(|&[pid, ..]| pid).collect();
        found.extend(more);
        if found.len() == before {
            break;
        }
    }
    found.remove(&leader);
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_belongs_to_a_session_is_in_its_group_or_descends_from_one_who_is() {
        // A grandchild in a group of its own stands before its parent; 7 has ended; 8 is an orphan of the group; 9 and
        // 10 are others.
        let list = "   6     5     6 S\n 4 1 4 Ss\n 5 4 4 R+\n 7 4 4 Z\n 8 1 4 S\n 9 1 9 Ss\n 10 9 9 S\n";
        assert_eq!(below(4, list), [5, 6, 8]);
        assert_eq!(below(4, ""), [0; 0]);
    }
}
