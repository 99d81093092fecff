//! What the program and the library for its cells say to each other.
//!
//! They are two halves of one thing: `onelens` compiles cells, and a process that has loaded the library runs them. Both
//! are compiled from one source, and this crate is all that they share.
//!
//! | module | who | to whom |
//! |---|---|---|
//! | [`session`] | the program, the process that runs cells, and the one that watches it | each other, while a notebook is open |
//! | [`request`] | the program | the library, for one command without a notebook |
//! | [`frame`] | | how the first of these goes through a pipe |

pub mod frame;
#[allow(missing_docs, reason = "fields are named after what the command line's help explains")]
pub mod request;
pub mod session;
