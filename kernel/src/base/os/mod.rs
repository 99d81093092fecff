//! What the program asks of the operating system that not every Unix grants.
//!
//! [`System`] says what is promised. On Linux it is kept by `linux`, with what only Linux has; everywhere else by
//! `portable`, which takes nothing but POSIX, so that what runs on a Mac can run, and is tested, on Linux too: the
//! variable `ONELENS_OS=portable` chooses it there. It cannot promise the same:
//!
//! | | Linux | elsewhere |
//! |---|---|---|
//! | how a process ends whose parent is gone | the supervisor adopts it | its own parent has stayed behind, to tell |
//! | what a session started ends with it | all | not what left the group (`setsid`) and lost its parent |
//! | the supervisor is killed | the worker dies with it | the kernel, if there is one, kills the group |
//! | a cell reads its standard input | is seen in the system call | is guessed, if it names that: `engine/worker/input.rs` |
//!
//! Whoever stays behind keeps the memory that the worker has changed since it crashed last, until it crashes again.
//!
//! Signals, `fork`, pipes and the names of shared libraries are the same everywhere and used where they are needed.

#[cfg(target_os = "linux")]
mod linux;
mod portable;

use std::path::Path;

/// An operating system, as far as it matters here.
pub(crate) trait System: Sync {
    /// Whether [`adopt_orphans`](Self::adopt_orphans) does something.
    fn adopts_orphans(&self) -> bool;

    /// Makes every process below this one that loses its parent a child of this one, which then hears how it ends.
    fn adopt_orphans(&self);

    /// Has the calling process killed when the thread that started it ends, however that happens. Where that cannot be,
    /// it does nothing, and the process has to notice that a pipe of its has been closed. It may be called between
    /// `fork` and `exec`.
    fn end_with_parent(&self);

    /// The processes that the calling one, which leads a group, has to end: its children, and, where it does not adopt
    /// orphans, the living rest of its group and all that descends from that; none if even `ps` is
    /// missing. One that is started meanwhile may not be among them, so that whoever ends them asks again.
    fn left(&self) -> Vec<i32>;

    /// Whether [`reads`](Self::reads) can tell something.
    fn sees_reads(&self) -> bool;

    /// Whether a process, or one below it with the same standard input, is about to read from that; `None` where the
    /// system hides it.
    fn reads(&self, process: i32) -> Option<bool>;

    /// Whether code that lies in this folder may be run: false on a file system that is mounted `noexec`. What cannot
    /// be found out counts as true.
    fn may_run_code_in(&self, folder: &Path) -> bool;

    /// Whether the program `ld` knows the arguments of GNU's.
    fn links_with_gnu(&self) -> bool;
}

/// The one that this program runs on.
pub(crate) fn system() -> &'static dyn System {
    #[cfg(target_os = "linux")]
    if !*PORTABLE {
        return &linux::Linux;
    }
    &portable::Portable
}

/// What stands for the folder of the library that has it in its list of folders to search.
pub(crate) const BESIDE: &str = if cfg!(target_vendor = "apple") { "@loader_path" } else { "$ORIGIN" };

/// Arguments for rustc by which a library named `file` is searched for where it lies then. A Mac would search where it
/// was linked.
pub(crate) fn searched_for(file: &str) -> Option<String> {
    cfg!(target_vendor = "apple").then(|| format!("-Clink-arg=-Wl,-install_name,@rpath/{file}"))
}

/// The argument for rustc by which what a library needs is searched for in `folder`, too.
pub(crate) fn searching_in(folder: &str) -> String {
    format!("-Clink-arg=-Wl,-rpath,{folder}")
}

/// Whether the portable one was asked for.
#[cfg(target_os = "linux")]
static PORTABLE: std::sync::LazyLock<bool> =
    std::sync::LazyLock::new(|| std::env::var_os("ONELENS_OS").is_some_and(|name| name == "portable"));

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    fn systems() -> Vec<&'static dyn System> {
        vec![
            #[cfg(target_os = "linux")]
            &linux::Linux,
            &portable::Portable,
        ]
    }

    #[test]
    fn whether_programs_run_in_a_folder_is_found_alike_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        for system in systems() {
            assert!(system.may_run_code_in(folder.path()));
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
            assert!(system.may_run_code_in(Path::new("/no/such/folder")));
        }
        // Mounted `noexec` on many a Linux.
        if let Ok(folder) = tempfile::tempdir_in("/dev/shm") {
            let answers: Vec<bool> =
                systems().iter().map(|system| system.may_run_code_in(folder.path())).collect();
            assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        }
    }

    #[test]
    fn children_are_found_and_those_of_other_groups_among_them() {
        for system in systems() {
            let mut child =
                Command::new("sleep").arg("1000").process_group(0).stdin(Stdio::null()).spawn().unwrap();
            let found = system.left().contains(&child.id().cast_signed());
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(found);
        }
    }
}
