//! What a cell's crate holds besides the cell: what earlier ones declared and defined, and how things are shown.

use crate::cells::commands::Format;
use crate::engine::parse::cell::Attribute;
use crate::engine::parse::items::{Item, Items};
use crate::engine::parse::uses::Uses;

/// Declarations and items of the session.
#[derive(Clone, Default)]
pub(in crate::engine) struct Scope {
    /// Items that a later definition broke; they come back when they compile again.
    pub(in crate::engine) shelved: Vec<Item>,
    pub(in crate::engine) attributes: Vec<Attribute>,
    pub(in crate::engine) uses: Uses,
    pub(in crate::engine) items: Items,
    pub(in crate::engine) formats: Formats,
}

/// How things are shown, where the user said so.
#[derive(Clone, Default)]
pub(in crate::engine) struct Formats {
    pub(in crate::engine) value: Option<Format>,
    pub(in crate::engine) error: Option<Format>,
}
