//! Items (functions, types, traits, impls, macros) of the session: what a later cell can name.
//!
//! Every cell is a crate of its own in which all items are compiled again. A value of a user's type therefore
//! passes between crates that each have their own definition of the type, which is sound only while the
//! definitions are the same. [`Items::changes`] finds the names for which they would not be.

use super::mentions;
use super::source::{Quote, Source, Text};
use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use std::collections::BTreeSet;
use syn::spanned::Spanned;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// `macro_rules!`, which must stand before its uses.
    Macro,
    Impl,
    Other,
}

#[derive(Clone, Debug)]
enum Part {
    Generated(&'static str),
    Quote(Quote),
}

/// One item, or one member of an inherent impl.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) kind: Kind,
    /// What it is called in a message.
    pub(super) title: String,
    /// Items with the same key replace each other.
    key: String,
    /// The names it defines, or for an impl those it is about.
    pub(super) names: Vec<String>,
    /// For an impl, the names in the type that it is for.
    of: BTreeSet<String>,
    /// Whether another definition can mean another layout of some type.
    shapes_types: bool,
    parts: Vec<Part>,
    /// The tokens without comments: what "the same definition" compares.
    tokens: String,
    mentions: BTreeSet<String>,
}

impl Item {
    /// The word of Rust for what it is.
    pub(super) fn word(&self) -> &'static str {
        let words =
            ["fn", "struct", "enum", "union", "trait", "type", "mod", "const", "static", "macro_rules"];
        let of_tokens = |word: &&&str| self.tokens.split_whitespace().any(|token| token == **word);
        match words.iter().find(of_tokens) {
            Some(&"macro_rules") => "macro",
            // A function may be `const fn`, and its body may hold all the others.
            Some(word) => word,
            None => "item",
        }
    }

    pub(super) fn write(&self, source: &mut Source) {
        for part in &self.parts {
            match part {
                Part::Generated(text) => source.push(text),
                Part::Quote(quote) => source.quote(quote),
            }
        }
        source.push("\n");
    }
}

/// The items that one syntax item amounts to: one, or one per member of an inherent impl.
pub(super) fn items_of(item: &syn::Item, text: &Text) -> Vec<Item> {
    if let syn::Item::Impl(block) = item
        && block.trait_.is_none()
        && !block.items.is_empty()
    {
        return block.items.iter().map(|member| inherent(block, member, text)).collect();
    }
    let (kind, space, names, shapes_types) = classify(item);
    let tokens = normal(item.to_token_stream());
    let key = match (kind, names.first()) {
        (Kind::Impl, _) => match item {
            syn::Item::Impl(block) => format!("impl {}", header_tokens(block)),
            _ => tokens.clone(),
        },
        (_, Some(name)) => format!("{space} {name}"),
        (_, None) => tokens.clone(),
    };
    let mut mentioned = BTreeSet::new();
    mentions::collect(item.to_token_stream(), &mut mentioned);
    let title = match (kind, names.first()) {
        (Kind::Impl, _) => key.clone(),
        (_, Some(name)) => name.clone(),
        _ => "an item".into(),
    };
    let parts = vec![Part::Quote(Quote { text: text.clone(), range: item.span().byte_range() })];
    let of = match item {
        syn::Item::Impl(block) => self_names(block),
        _ => BTreeSet::new(),
    };
    vec![Item { kind, title, key, names, of, shapes_types, parts, tokens, mentions: mentioned }]
}

fn classify(item: &syn::Item) -> (Kind, &'static str, Vec<String>, bool) {
    let one = |ident: &syn::Ident| vec![ident.to_string()];
    match item {
        syn::Item::Struct(i) => (Kind::Other, "type", one(&i.ident), true),
        syn::Item::Enum(i) => (Kind::Other, "type", one(&i.ident), true),
        syn::Item::Union(i) => (Kind::Other, "type", one(&i.ident), true),
        syn::Item::Type(i) => (Kind::Other, "type", one(&i.ident), true),
        syn::Item::Trait(i) => (Kind::Other, "type", one(&i.ident), true),
        syn::Item::TraitAlias(i) => (Kind::Other, "type", one(&i.ident), true),
        syn::Item::Mod(i) => (Kind::Other, "type", one(&i.ident), true),
        syn::Item::ExternCrate(i) => (Kind::Other, "type", one(&i.ident), true),
        syn::Item::Fn(i) => (Kind::Other, "value", one(&i.sig.ident), i.sig.constness.is_some()),
        syn::Item::Const(i) if i.ident == "_" => (Kind::Other, "value", vec![], false),
        syn::Item::Const(i) => (Kind::Other, "value", one(&i.ident), true),
        syn::Item::Static(i) => (Kind::Other, "value", one(&i.ident), false),
        syn::Item::Macro(i) => match &i.ident {
            Some(ident) => (Kind::Macro, "macro", one(ident), true),
            None => (Kind::Other, "macro call", vec![], true),
        },
        syn::Item::Impl(i) => {
            let shapes =
                i.items.iter().any(|m| matches!(m, syn::ImplItem::Type(_) | syn::ImplItem::Const(_)));
            (Kind::Impl, "impl", subjects(i), shapes)
        }
        _ => (Kind::Other, "item", vec![], true),
    }
}

/// One member of `impl Type { .. }`: members defined in several cells add up, one defined again is replaced.
fn inherent(block: &syn::ItemImpl, member: &syn::ImplItem, text: &Text) -> Item {
    let header = block.span().byte_range().start..block.brace_token.span.open().byte_range().start;
    let name = match member {
        syn::ImplItem::Const(i) => i.ident.to_string(),
        syn::ImplItem::Fn(i) => i.sig.ident.to_string(),
        syn::ImplItem::Type(i) => i.ident.to_string(),
        other => normal(other.to_token_stream()),
    };
    let header_tokens = header_tokens(block);
    let mut mentioned = BTreeSet::new();
    mentions::collect(member.to_token_stream(), &mut mentioned);
    mentions::collect(block.self_ty.to_token_stream(), &mut mentioned);
    let quote = |range| Part::Quote(Quote { text: text.clone(), range });
    Item {
        kind: Kind::Impl,
        title: format!("{}::{name}", normal(block.self_ty.to_token_stream())),
        key: format!("impl {header_tokens} {{ {name} }}"),
        names: subjects(block),
        of: self_names(block),
        shapes_types: matches!(member, syn::ImplItem::Const(_) | syn::ImplItem::Type(_)),
        parts: vec![
            quote(header),
            Part::Generated("{\n"),
            quote(member.span().byte_range()),
            Part::Generated("\n}"),
        ],
        tokens: format!("{header_tokens} {{ {} }}", normal(member.to_token_stream())),
        mentions: mentioned,
    }
}

fn header_tokens(block: &syn::ItemImpl) -> String {
    let mut empty = block.clone();
    empty.items.clear();
    empty.attrs.clear();
    normal(empty.to_token_stream())
}

fn self_names(block: &syn::ItemImpl) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    mentions::collect(block.self_ty.to_token_stream(), &mut names);
    names
}

/// The type and the trait of an impl.
fn subjects(block: &syn::ItemImpl) -> Vec<String> {
    let mut names = self_names(block);
    if let Some((_, path, _)) = &block.trait_ {
        mentions::collect(path.to_token_stream(), &mut names);
    }
    names.into_iter().collect()
}

/// Tokens as text, without documentation: another comment is not another definition.
fn normal(tokens: TokenStream) -> String {
    fn strip(tokens: TokenStream) -> TokenStream {
        let mut kept: Vec<TokenTree> = Vec::new();
        for token in tokens {
            if let TokenTree::Group(group) = &token {
                let is_doc =
                    matches!(group.stream().into_iter().next(), Some(TokenTree::Ident(i)) if i == "doc");
                let after_hash = matches!(kept.last(), Some(TokenTree::Punct(p)) if p.as_char() == '#');
                if is_doc && after_hash && group.delimiter() == proc_macro2::Delimiter::Bracket {
                    kept.pop();
                    continue;
                }
                kept.push(proc_macro2::Group::new(group.delimiter(), strip(group.stream())).into());
            } else {
                kept.push(token);
            }
        }
        kept.into_iter().collect()
    }
    strip(tokens).to_string()
}

/// The items in force, oldest first.
#[derive(Clone, Default)]
pub(super) struct Items(Vec<Item>);

impl Items {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Item> {
        self.0.iter()
    }

    /// Adds a cell's items. One with the key of an old item replaces it; the impls of a type that is really
    /// replaced go with it.
    pub(super) fn add(&mut self, new: Vec<Item>) {
        let mut replaced = BTreeSet::new();
        for item in &new {
            let old = self.0.iter().find(|old| old.key == item.key);
            if item.kind == Kind::Other
                && old.is_some_and(|old| old.tokens != item.tokens && old.shapes_types)
            {
                replaced.extend(item.names.iter().cloned());
            }
        }
        self.0.retain(|old| {
            let orphaned = old.of.iter().any(|name| replaced.contains(name));
            !orphaned && new.iter().all(|item| item.key != old.key)
        });
        self.0.extend(new);
    }

    /// Removes the items that a name stands for, because a `use` has taken the name.
    pub(super) fn remove(&mut self, name: &str) {
        self.0.retain(|item| item.kind == Kind::Impl || item.names.iter().all(|n| n != name));
    }

    /// The item that a part of a cell belongs to.
    pub(super) fn title_at(&self, at: &Quote) -> Option<String> {
        let holds = |part: &Part| match part {
            Part::Quote(quote) => {
                quote.text.cell == at.text.cell
                    && quote.range.start <= at.range.start
                    && at.range.end <= quote.range.end
            }
            Part::Generated(_) => false,
        };
        self.0.iter().find(|item| item.parts.iter().any(holds)).map(|item| item.title.clone())
    }

    /// Removes the items with these titles.
    pub(super) fn remove_titled(&mut self, titles: &BTreeSet<String>) {
        self.0.retain(|item| !titles.contains(&item.title));
    }

    /// The names that stand for something else once `new` items and `new_names` (by `use`) are there, and the
    /// names of everything defined in terms of those. A value whose type mentions one must not live on.
    pub(super) fn changes(&self, new: &[Item], new_names: &BTreeSet<String>) -> BTreeSet<String> {
        let mut changed = new_names.clone();
        for item in new.iter().filter(|item| item.shapes_types) {
            let same = self.0.iter().any(|old| old.key == item.key && old.tokens == item.tokens);
            let known = self.0.iter().any(|old| old.key == item.key);
            // An impl that is new gives no existing type another layout.
            if !same && (known || item.kind != Kind::Impl) {
                changed.extend(item.names.iter().cloned());
            }
        }
        loop {
            let before = changed.len();
            for item in self.0.iter().filter(|item| item.shapes_types && item.kind != Kind::Impl) {
                if item.mentions.iter().any(|name| changed.contains(name)) {
                    changed.extend(item.names.iter().cloned());
                }
            }
            if changed.len() == before {
                return changed;
            }
        }
    }
}
