//! The crate that a cell becomes, rustc, and what that says about it.
//!
//! | module | idea |
//! |---|---|
//! | `scope` | what the crate holds besides the cell |
//! | `generate` | the crate |
//! | `draft`, `compiler`, `diagnostics` | rustc, again until moves are known; its errors told about the user's lines |
//! | `ahead`, `linker` | starting rustc before there is a cell; linking sooner than rustc does by itself |
//! | `library` | the items as a crate that cells link instead of compiling them again |
//! | `paths` | how the next cell writes a variable's type |
//! | `dependencies` | lines that begin with `:dep` |

mod ahead;
pub(super) mod compiler;
pub(super) mod dependencies;
pub(super) mod diagnostics;
pub(super) mod draft;
pub(super) mod generate;
pub(super) mod library;
mod linker;
pub(super) mod paths;
pub(super) mod scope;
