//! A Jupyter kernel for Rust with an engine of its own, and the commands around it.
//!
//! ```text
//!  Jupyter, VS Code, `onelens run`
//!        │  signed messages over ZeroMQ
//!  jupyter/      requests, replies, outputs; knows no Rust
//!        │  the trait in session.rs: a cell in, outputs out
//!  engine/       one `rustc` call per cell, in a process that can die without loss
//!        │  links against
//!  image.rs      the shared library with onelens and its dependencies, built once
//! ```
//!
//! In reading order:
//!
//! | module | idea |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`run`] | a notebook from first to last cell: [`notebook`] file, [`parameters`], [`child`] process, [`outputs`], [`page`] |
//! | [`convert`], [`script`] | a notebook as a page, or as a program |
//! | [`jupyter`] | the protocol, both sides |
//! | [`session`] | the seam between protocol and engine |
//! | [`engine`], [`image`] from its `sources`, [`extension`] | running cells |
//! | `evcxr` | the second engine, in builds with the feature of that name |
//! | `batch` | `onelens model` and `onelens lens`: the library without a notebook |
//! | [`assist`] | completion and documentation, also while a cell runs |
//! | [`install`], [`lab`], [`doctor`] | getting it in front of people |
//! | [`environment`], [`intact`] | what around the program can fail, in sentences; whether a cache is whole |
//! | `os` | what Linux grants and other systems do not |
//! | [`failure`], [`screen`], [`paths`], [`signals`], [`clock`] | small things the commands share |
//!
//! This package does not depend on the library `onelens`: cells do. Elsewhere than on a Unix it is empty.
#![cfg(unix)]

pub mod assist;
mod batch;
pub mod child;
pub mod cli;
pub mod clock;
pub mod convert;
pub mod doctor;
pub mod engine;
pub mod environment;
#[cfg(feature = "evcxr")]
pub mod evcxr;
pub mod extension;
pub mod failure;
pub mod image;
pub mod install;
pub mod intact;
pub mod jupyter;
pub mod lab;
pub mod notebook;
mod os;
pub mod outputs;
pub mod page;
pub mod parameters;
pub mod paths;
pub mod run;
pub mod screen;
pub mod script;
pub mod session;
pub mod signals;
mod sources;
