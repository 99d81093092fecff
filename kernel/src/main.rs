//! The `onelens` binary: see [`onelens_kernel`].

use std::process::ExitCode;

#[cfg(unix)]
fn main() -> ExitCode {
    // The process that runs cells. It forks, so this comes before any thread is started.
    if std::env::args_os().nth(1).is_some_and(|first| first == "worker") {
        onelens_kernel::engine::worker_main();
    }
    #[cfg(feature = "evcxr")]
    onelens_kernel::evcxr::runtime_hook();
    ExitCode::from(onelens_kernel::cli::main())
}

#[cfg(not(unix))]
fn main() -> ExitCode {
    eprintln!(
        "this kernel needs a Unix\nhelp: run it in WSL; outside of that use the library in the stock kernel: `cargo install evcxr_jupyter`, and in a notebook `:dep onelens = {{ path = \"..\" }}` (not yet tried on this system)"
    );
    ExitCode::FAILURE
}
