//! Completion and documentation for the code in a cell.
//!
//! | module | idea |
//! |---|---|
//! | [`project`] | the crates of an image, described for rust-analyzer |

pub mod project;
