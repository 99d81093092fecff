//! A Jupyter kernel for Rust with an engine of its own, and the commands around it.
//!
//! ```text
//!  Jupyter, VS Code, `onelens run`
//!        │  signed messages over ZeroMQ
//!  jupyter/      requests, replies, outputs; knows no Rust
//!        │  the trait `CellRunner` in cells/: a cell in, outputs out
//!  engine/       one `rustc` call per cell, in a process that can die without loss
//!        │  links against
//!  image/        the shared library with onelens and its dependencies, built once
//! ```
//!
//! The rooms, each of which knows those before it and none after it (`tests/suite/layers.rs` sees to that):
//!
//! | room | idea |
//! |---|---|
//! | [`base`] | files, colours, systems, signals: what all need |
//! | [`cells`] | the seam between protocol and engines: what a cell puts out, asks for, leaves in force |
//! | [`image`] | the library for cells, from its sources; crates that cells add to it |
//! | [`assist`] | completion and documentation, also while a cell runs |
//! | [`engine`] | running cells; has rooms of its own |
//! | `evcxr`, [`engines`] | the second engine, in builds with the feature of that name; which engines there are |
//! | [`notebook`] | files of notebooks, as a page or as a program |
//! | [`jupyter`] | the protocol, both sides |
//! | [`run`] | a notebook from first to last cell, in a kernel of its own |
//! | [`cli`] | the command line: getting it in front of people, and the library without a notebook |
//!
//! This package does not depend on the library `onelens`: cells do. Elsewhere than on a Unix it is empty.
#![cfg(unix)]

pub mod assist;
pub mod base;
pub mod cells;
pub mod cli;
pub mod engine;
pub mod engines;
#[cfg(feature = "evcxr")]
pub mod evcxr;
pub mod image;
pub mod jupyter;
pub mod notebook;
pub mod run;
