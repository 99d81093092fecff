//! The items in force as a crate of their own, compiled once in the background after the cell that defined them.
//!
//! Cells that define no items link it instead of compiling all items again. It has the name and the identity that a
//! cell with items has, so that types are the same types. Where it cannot be made, or is not ready yet, a cell
//! compiles the items itself, which is always right and only slower.

use super::compiler::Compiler;
use super::generate;
use super::scope::Scope;
use crate::engine::parse::source::Source;
use crate::engine::parse::statics::Homes;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Child;

/// Fewer bytes of items than this are compiled faster than a library is linked.
const SMALLEST: usize = 600;

/// A finished library.
pub(in crate::engine) struct Library {
    pub(in crate::engine) path: PathBuf,
    /// The declarations that it re-exports.
    pub(in crate::engine) uses: BTreeSet<String>,
    /// What it was made from.
    made_of: MadeOf,
    file: String,
    source: Source,
}

#[derive(Clone, PartialEq, Eq)]
struct MadeOf {
    items: usize,
    compiler: String,
}

/// The library of a session, and its next edition.
#[derive(Default)]
pub(in crate::engine) struct Libraries {
    ready: Option<Library>,
    building: Option<(Library, Child)>,
    /// What could not be made does not become possible by trying again.
    failed: Option<(MadeOf, BTreeSet<String>)>,
    next: usize,
}

impl Libraries {
    /// The library for a cell with these items, if there is one.
    pub(in crate::engine) fn usable(&mut self, scope: &Scope, compiler: &Compiler) -> Option<&Library> {
        self.collect();
        let wanted = made_of(scope, compiler);
        self.ready.as_ref().filter(|library| library.made_of == wanted)
    }

    /// Begins to build the library for `scope` unless it is there.
    pub(in crate::engine) fn renew(&mut self, scope: &Scope, homes: &Homes, compiler: &Compiler) {
        self.collect();
        let made_of = made_of(scope, compiler);
        let uses: BTreeSet<String> = scope.uses.iter().map(|one| one.whole().to_string()).collect();
        let is_this = |library: &Library| library.made_of == made_of && library.uses == uses;
        let is_made = self.ready.as_ref().is_some_and(is_this)
            || self.building.as_ref().is_some_and(|(library, _)| is_this(library))
            || self.failed.as_ref().is_some_and(|failed| failed.0 == made_of && failed.1 == uses);
        if is_made {
            return;
        }
        self.stop();
        if scope.items.size() < SMALLEST || !scope.items.can_be_public(homes) {
            return;
        }
        self.next += 1;
        let file = format!("items{}.rs", self.next);
        let source = generate::library(scope, homes, compiler.links());
        if let Some((child, path)) = compiler.spawn_library(&file, &source.code) {
            self.building = Some((Library { path, uses, made_of, file, source }, child));
        }
    }

    /// What was compiled under this file name.
    pub(in crate::engine) fn source(&self, file: &str) -> Option<&Source> {
        self.ready.as_ref().filter(|library| library.file == file).map(|library| &library.source)
    }

    /// Takes over a build that has ended.
    fn collect(&mut self) {
        let Some((_, child)) = &mut self.building else { return };
        let Ok(Some(status)) = child.try_wait() else { return };
        let Some((library, _)) = self.building.take() else { return };
        remove_source(&library);
        if !status.success() {
            self.failed = Some((library.made_of, library.uses));
            return;
        }
        if let Some(old) = self.ready.replace(library) {
            // Cells that link it have it mapped.
            let _ = std::fs::remove_file(old.path);
        }
    }

    /// Ends a build that has become useless.
    fn stop(&mut self) {
        let Some((library, mut child)) = self.building.take() else { return };
        let _ = child.kill();
        let _ = child.wait();
        let _ = std::fs::remove_file(&library.path);
        remove_source(&library);
    }
}

fn remove_source(library: &Library) {
    let _ = std::fs::remove_file(library.path.with_file_name(&library.file));
}

fn made_of(scope: &Scope, compiler: &Compiler) -> MadeOf {
    MadeOf { items: scope.items.revision(), compiler: compiler.settings() }
}

impl Drop for Libraries {
    fn drop(&mut self) {
        self.stop();
    }
}
