//! What is in force, told to those who complete code.

use super::items::Kind;
use super::session::Session;
use super::source::Source;
use super::types;
use crate::assist::{Scene, Sources, Variable};
use std::collections::BTreeMap;

impl Session {
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
            (name.clone(), Variable { mutable: variable.mutable, type_name: variable.ty.clone(), shown })
        });
        Scene {
            items: text.code,
            names,
            variables: variables.collect(),
            running: None,
            crates: self.image.crates().iter().map(|one| (one.name.clone(), one.version.clone())).collect(),
            sources: Some(Sources { project: self.image.project(), rustc: self.image.rustc().to_path_buf() }),
        }
    }
}
