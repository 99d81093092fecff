//! The Jupyter protocol, from bytes upwards; nothing here knows how a cell is run.
//!
//! | module | idea |
//! |---|---|
//! | [`zmtp`] | ZeroMQ's wire protocol, as much of it as Jupyter needs |
//! | [`socket`] | connections with threads and queues |
//! | [`message`] | signed messages |
//! | [`connection`] | the connection file |
//! | [`server`] | a kernel: sockets, status, shutdown |
//! | [`cells`] | the queue of cells and their outputs |
//! | [`requests`] | requests that need no cell: completion, history, kernel information |
//! | [`history`] | what was run before, also in other sessions |
//! | [`client`] | the other side: what `onelens run` and the tests use |

pub mod cells;
pub mod client;
pub mod connection;
pub mod history;
pub mod message;
pub mod requests;
pub mod server;
pub mod socket;
pub mod zmtp;
