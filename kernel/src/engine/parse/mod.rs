//! A cell taken apart, before anybody has compiled it.
//!
//! | module | idea |
//! |---|---|
//! | `cell` | declarations, items, and statements grouped into stages |
//! | `files` | what a cell takes from files beside the notebook |
//! | `uses`, `items`, `macros`, `mentions` | what it declares, defines and mentions |
//! | `reach` | what the meaning of an item depends on |
//! | `publish` | what makes an item public |
//! | `statics` | statics that keep their state |
//! | `types` | names of types taken apart |
//! | `source` | text which remembers where each byte came from |
//! | `report` | what refuses a cell, told on its lines |

pub(super) mod cell;
pub(super) mod files;
pub(super) mod items;
mod macros;
pub(super) mod mentions;
mod publish;
mod reach;
pub(super) mod report;
pub(super) mod source;
pub(super) mod statics;
pub(super) mod types;
pub(super) mod uses;
