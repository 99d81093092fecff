//! Linux: orphans are adopted, a process dies with its parent, and `/proc` shows what others do.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind::PermissionDenied;
use std::path::Path;

use super::System;

pub(super) struct Linux;

/// `read` from descriptor 0 among the system's calls, where `/proc` shows them.
#[cfg(target_arch = "x86_64")]
const READ: Option<&str> = Some("0 0x0 ");
#[cfg(target_arch = "aarch64")]
const READ: Option<&str> = Some("63 0x0 ");
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const READ: Option<&str> = None;

impl System for Linux {
    fn adopts_orphans(&self) -> bool {
        true
    }

    #[allow(unsafe_code)]
    fn adopt_orphans(&self) {
        // SAFETY: the call changes only what this process is to the system.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    }

    #[allow(unsafe_code)]
    fn end_with_parent(&self) {
        // SAFETY: it changes only what this process is to the system, and is allowed after `fork`.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    }

    fn left(&self) -> Vec<i32> {
        children(Path::new("/proc/self/task"))
    }

    fn sees_reads(&self) -> bool {
        // A process may look at itself where it may look at its children, and else at nothing.
        READ.is_some() && fs::read_to_string("/proc/self/syscall").is_ok()
    }

    fn reads(&self, process: i32) -> Option<bool> {
        let seen = fs::read_to_string(format!("/proc/{process}/syscall"));
        if seen.is_err_and(|e| e.kind() == PermissionDenied) {
            return None;
        }
        Some(is_reading(process, &mut BTreeSet::new()))
    }

    fn links_with_gnu(&self) -> bool {
        true
    }

    #[allow(unsafe_code)]
    fn may_run_code_in(&self, folder: &Path) -> bool {
        let Ok(path) = std::ffi::CString::new(folder.as_os_str().as_encoded_bytes()) else { return true };
        // SAFETY: a zeroed `statvfs` is a valid one, and the path is terminated.
        unsafe {
            let mut about: libc::statvfs = std::mem::zeroed();
            libc::statvfs(path.as_ptr(), &mut about) != 0 || about.f_flag & libc::ST_NOEXEC == 0
        }
    }
}

/// The processes that the threads in this folder of `/proc` have started.
fn children(threads: &Path) -> Vec<i32> {
    let lists = fs::read_dir(threads).into_iter().flatten().flatten();
    let lists = lists.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

fn is_reading(process: i32, seen: &mut BTreeSet<i32>) -> bool {
    let Some(read) = READ.filter(|_| seen.insert(process)) else { return false };
    let folder = format!("/proc/{process}/task");
    let Ok(threads) = fs::read_dir(&folder) else { return false };
    let calls = threads.flatten().map(|thread| fs::read_to_string(thread.path().join("syscall")));
    if calls.flatten().any(|call| call.starts_with(read)) {
        return true;
    }
    // A program whose own input is something else, a file or a pipe of the cell's, does not wait for us.
    let input = |pid: i32| fs::read_link(format!("/proc/{pid}/fd/0")).ok();
    children(Path::new(&folder))
        .into_iter()
        .any(|child| input(child).is_some_and(|own| Some(own) == input(process)) && is_reading(child, seen))
}
