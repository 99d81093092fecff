//! The program, its engine and its protocol, tested from outside in one program, which links once.

mod assist;
mod batch;
mod commands;
mod convert;
mod dependencies;
mod engine;
mod environment;
mod fuzz;
mod identity;
mod layers;
mod measure;
mod processes;
mod protocol;
mod run;
mod stdin;

#[path = "../../../tests/common/mod.rs"]
mod common;

/// Whether the processes of a session are held together with nothing but POSIX, as on a Mac: `src/os`.
fn portable() -> bool {
    !cfg!(target_os = "linux") || std::env::var_os("ONELENS_OS").is_some_and(|name| name == "portable")
}
