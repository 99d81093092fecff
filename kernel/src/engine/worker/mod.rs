//! The process that cells run in: talking to it, supervising it, stopping it.
//!
//! | module | idea |
//! |---|---|
//! | `process`, `pipe` | talking to the worker, in the words of the crate `onelens-wire` |
//! | `streams` | what a cell prints |
//! | `supervisor` | the worker's parent, and the worker until it has loaded the image |
//! | `interrupt` | stopping it |
//! | `input` | answering what it asks |
//! | `shell` | lines that begin with `!`, in a process of their own |
//!
//! The worker's side is the crate `onelens-image`.

mod input;
pub(super) mod interrupt;
mod pipe;
pub(super) mod process;
pub(super) mod shell;
pub(super) mod streams;
pub(super) mod supervisor;
