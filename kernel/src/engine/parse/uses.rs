//! `use` declarations, taken apart into single names, so that the same name twice is a replacement and no error.

use super::source::{Quote, Source, Text};
use std::collections::BTreeMap;
use syn::spanned::Spanned;

/// One imported name, or one glob.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Use {
    /// What it brings into scope; globs bring nothing that could clash.
    pub(in crate::engine) name: Option<String>,
    before: String,
    leaf: Quote,
    after: String,
    /// The declaration without white space, by which repetitions are known.
    whole: String,
}

impl Use {
    pub(in crate::engine) fn write(&self, source: &mut Source) {
        source.push_for(&self.leaf, &self.before);
        source.quote(&self.leaf);
        source.push(&self.after);
    }

    pub(in crate::engine) fn whole(&self) -> &str {
        &self.whole
    }

    /// The path before the `*`.
    pub(in crate::engine) fn glob(&self) -> Option<&str> {
        self.whole.strip_suffix('*')
    }

    /// Where its path begins: after `crate` and `self`, which lead nowhere else.
    pub(super) fn first_segment(&self) -> &str {
        let path = self.whole.strip_prefix("use ").unwrap_or(&self.whole);
        let is_name = |segment: &&str| !matches!(*segment, "" | "crate" | "self");
        let segment = path.split("::").find(is_name).unwrap_or_default();
        segment.split_whitespace().next().unwrap_or_default()
    }
}

/// The single names of a declaration.
pub(super) fn flatten(item: &syn::ItemUse, text: &Text) -> Vec<Use> {
    let mut uses = Vec::new();
    let mut prefix = Vec::new();
    walk(&item.tree, &mut prefix, text, &mut uses);
    if item.leading_colon.is_some() {
        for one in &mut uses {
            one.before = one.before.replacen("use ", "use ::", 1);
            one.whole.insert_str(0, "::");
        }
    }
    uses
}

fn walk(tree: &syn::UseTree, prefix: &mut Vec<String>, text: &Text, uses: &mut Vec<Use>) {
    let leaf = |name: Option<String>, quoted: &dyn Fn() -> std::ops::Range<usize>, prefix: &[String]| {
        let path: String = prefix.iter().map(|segment| format!("{segment}::")).collect();
        let leaf = Quote { text: text.clone(), range: quoted() };
        let whole = format!("{path}{}", leaf.as_str().split_whitespace().collect::<Vec<_>>().join(" "));
        Use { name, before: format!("use {path}"), leaf, after: ";\n".into(), whole }
    };
    match tree {
        syn::UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            walk(&path.tree, prefix, text, uses);
            prefix.pop();
        }
        syn::UseTree::Group(group) => {
            for tree in &group.items {
                walk(tree, prefix, text, uses);
            }
        }
        syn::UseTree::Name(name) if name.ident == "self" => {
            let bound = prefix.last().cloned();
            let mut one =
                leaf(bound, &|| name.span().byte_range(), &prefix[..prefix.len().saturating_sub(1)]);
            // `use a::b::{self}` is `use a::b`; `self` alone cannot stand at the end of a path.
            let own = prefix.last().cloned().unwrap_or_default();
            one.before = format!("{}{own}::{{", one.before);
            one.after = "};\n".into();
            one.whole = one.before.clone();
            uses.push(one);
        }
        syn::UseTree::Name(name) => {
            uses.push(leaf(Some(name.ident.to_string()), &|| name.span().byte_range(), prefix));
        }
        syn::UseTree::Rename(rename) => {
            let bound = (rename.rename != "_").then(|| rename.rename.to_string());
            let range = || rename.span().byte_range();
            let mut one = leaf(bound, &range, prefix);
            if rename.ident == "self" {
                let own = prefix.last().cloned().unwrap_or_default();
                let path: String =
                    prefix[..prefix.len().saturating_sub(1)].iter().map(|s| format!("{s}::")).collect();
                one.before = format!("use {path}{own}::{{");
                one.after = "};\n".into();
            }
            uses.push(one);
        }
        syn::UseTree::Glob(glob) => uses.push(leaf(None, &|| glob.span().byte_range(), prefix)),
    }
}

/// The declarations in force.
#[derive(Clone, Default)]
pub(in crate::engine) struct Uses(Vec<Use>);

impl Uses {
    /// Adds a cell's declarations; a name declared anew replaces the old declarations of that name.
    pub(in crate::engine) fn add(&mut self, new: Vec<Use>) {
        for one in &new {
            self.0.retain(|old| old.whole != one.whole && (one.name.is_none() || old.name != one.name));
        }
        let mut seen = BTreeMap::new();
        for one in new {
            if seen.insert(one.whole.clone(), ()).is_none() {
                self.0.push(one);
            }
        }
    }

    /// Adds further declarations, also where others have the names.
    pub(in crate::engine) fn add_beside(&mut self, others: &Uses) {
        for other in others.iter() {
            if self.0.iter().all(|one| one.whole != other.whole) {
                self.0.push(other.clone());
            }
        }
    }

    /// The name in `new` if it stood for something else before.
    pub(in crate::engine) fn rebinds(&self, new: &Use) -> Option<String> {
        let same = self.0.iter().any(|old| old.whole == new.whole);
        new.name.clone().filter(|_| !same)
    }

    /// Forgets the declarations of a name that an item has taken.
    pub(in crate::engine) fn remove(&mut self, name: &str) {
        self.0.retain(|old| old.name.as_deref() != Some(name));
    }

    pub(in crate::engine) fn iter(&self) -> impl Iterator<Item = &Use> {
        self.0.iter()
    }
}
