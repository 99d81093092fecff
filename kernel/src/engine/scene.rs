//! What is in force, told to those who complete code.

use crate::cells::{Scene, Sources, Variable};
use crate::engine::parse::items::Kind;
use crate::engine::parse::source::Source;
use crate::engine::parse::types;
use crate::engine::session::Session;
use std::collections::BTreeMap;

impl Session {
    /// Has a compiler wait for the next cell, and learns how the types that the last one brought can be written.
    pub(super) fn settle(&mut self) {
        self.get_ready();
        self.paths.finish();
    }

    /// The type as code; until its public path is known by the path of its definition, which is often the same.
    fn written(&self, ty: &str) -> Option<String> {
        let of_definition = |path: &str| match path.strip_prefix("notebook::") {
            Some(own) => format!("crate::{own}"),
            None => format!("::{path}"),
        };
        let guess = || types::map_paths(ty, &mut |path| of_definition(path));
        self.paths.nameable(ty, 0).ok().or_else(|| (!ty.contains("{{")).then(guess))
    }

    pub(super) fn scene(&self) -> Scene {
        let mut text = Source::default();
        for item in self.scope.items.iter().filter(|item| item.kind == Kind::Macro) {
            item.write_plainly(&mut text);
        }
        for one in self.scope.uses.iter() {
            one.write(&mut text);
        }
        let mut names = BTreeMap::new();
        for item in self.scope.items.iter() {
            if item.kind != Kind::Macro {
                item.write_plainly(&mut text);
            }
            if item.kind != Kind::Impl {
                names.extend(item.names.iter().map(|name| (name.clone(), item.word())));
            }
        }
        let variables = self.variables.iter().map(|(name, variable)| {
            let shown = types::for_display(&variable.ty);
            (name.clone(), Variable { mutable: variable.mutable, code: self.written(&variable.ty), shown })
        });
        Scene {
            items: text.code,
            names,
            variables: variables.collect(),
            running: None,
            crates: self.image.crates().iter().map(|one| (one.name.clone(), one.version.clone())).collect(),
            sources: Some(Sources {
                project: self.image.project(),
                workspace: self.image.source().to_path_buf(),
                rustc: self.image.rustc().to_path_buf(),
            }),
        }
    }
}
