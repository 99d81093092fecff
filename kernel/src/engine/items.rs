//! Items (functions, types, traits, impls, macros) of the session: what a later cell can name.
//!
//! A cell that defines items is a crate in which all items are compiled again; the others link one that has them
//! (`library`). A value of a user's type therefore passes between crates that each have their own definition of the
//! type, which is sound only while the definitions are the same. [`Items::changes`] finds the names for which they
//! would not be.

use super::mentions;
use super::publish::{self, Edits};
use super::source::{Quote, Source, Text};
use super::statics::{self, Homes, Stored};
use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
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
    /// What makes it public; `None` if that is not known.
    public: Option<Edits>,
    /// For a static whose state lives on.
    stored: Option<Stored>,
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

    /// As the user wrote it.
    pub(super) fn write_plainly(&self, source: &mut Source) {
        self.write_parts(&[], source);
        source.push("\n");
    }

    /// As a crate of the session needs it.
    pub(super) fn write(&self, homes: &Homes, source: &mut Source) {
        if let Some(stored) = &self.stored {
            if homes.contains(&stored.symbol()) {
                return stored.declare(source);
            }
            stored.before(source);
        }
        // Everywhere, because a type whose fields are seen from elsewhere has another `TypeId`.
        self.write_parts(self.public.as_deref().unwrap_or_default(), source);
        if let Some(stored) = &self.stored {
            stored.after(source);
        }
        source.push("\n");
    }

    fn write_parts(&self, edits: &[(std::ops::Range<usize>, &'static str)], source: &mut Source) {
        for part in &self.parts {
            match part {
                Part::Generated(text) => source.push(text),
                Part::Quote(quote) => quote_edited(quote, edits, source),
            }
        }
    }

    /// The symbol of a static that has no home yet.
    fn homeless(&self, homes: &Homes) -> Option<String> {
        self.stored.as_ref().map(Stored::symbol).filter(|symbol| !homes.contains(symbol))
    }
}

fn quote_edited(quote: &Quote, edits: &[(std::ops::Range<usize>, &'static str)], source: &mut Source) {
    let part = |range| Quote { text: quote.text.clone(), range };
    let mut from = quote.range.start;
    for (range, replacement) in edits {
        if quote.range.start <= range.start && range.end <= quote.range.end {
            source.quote(&part(from..range.start));
            source.push(replacement);
            from = range.end;
        }
    }
    source.quote(&part(from..quote.range.end));
}

/// The items that one syntax item amounts to: one, or one per member of an inherent impl.
pub(super) fn items_of(item: &syn::Item, text: &Text) -> Vec<Item> {
    if let syn::Item::Impl(block) = item
        && block.trait_.is_none()
        && !block.items.is_empty()
    {
        return block.items.iter().map(|member| inherent(block, member, text)).collect();
    }
    if let syn::Item::Macro(call) = item
        && let Some(locals) = statics::thread_locals(call, text)
    {
        return locals.into_iter().map(thread_local).collect();
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
    let stored = match item {
        syn::Item::Static(i) => Stored::of(i, text),
        _ => None,
    };
    let public = publish::edits(item);
    vec![Item {
        kind,
        title,
        key,
        names,
        of,
        shapes_types,
        parts,
        tokens,
        mentions: mentioned,
        public,
        stored,
    }]
}

/// One static of a `thread_local!`.
fn thread_local((name, definition, stored, ty): (syn::Ident, Quote, Stored, syn::Type)) -> Item {
    let mut mentioned = BTreeSet::new();
    mentions::collect(ty.to_token_stream(), &mut mentioned);
    Item {
        kind: Kind::Other,
        title: name.to_string(),
        key: format!("value {name}"),
        names: vec![name.to_string()],
        of: BTreeSet::new(),
        shapes_types: false,
        tokens: definition.as_str().to_string(),
        parts: vec![
            Part::Generated("::std::thread_local! { "),
            Part::Quote(definition),
            Part::Generated(" }"),
        ],
        mentions: mentioned,
        // Only its home defines it.
        public: Some(vec![]),
        stored: Some(stored),
    }
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
        public: publish::member_edits(member),
        stored: None,
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
pub(super) struct Items {
    items: Vec<Item>,
    /// Differs wherever the items do.
    revision: usize,
}

impl Items {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Item> {
        self.items.iter()
    }

    pub(super) fn revision(&self) -> usize {
        self.revision
    }

    /// Whether all of them can be named from another crate.
    pub(super) fn can_be_public(&self, homes: &Homes) -> bool {
        let can = |item: &Item| item.public.is_some() && item.homeless(homes).is_none();
        self.items.iter().all(|item| item.kind == Kind::Macro || can(item))
    }

    /// How much there is to compile, in bytes.
    pub(super) fn size(&self) -> usize {
        let size = |part: &Part| match part {
            Part::Quote(quote) => quote.range.len(),
            Part::Generated(_) => 0,
        };
        self.items.iter().flat_map(|item| &item.parts).map(size).sum()
    }

    /// The symbols of statics that the next cell to be loaded becomes the home of.
    pub(super) fn homeless(&self, homes: &Homes) -> Homes {
        self.items.iter().filter_map(|item| item.homeless(homes)).collect()
    }

    /// Statics that are made of something in `changed` begin anew.
    pub(super) fn renew_statics(&mut self, changed: &BTreeSet<String>) {
        let of = |item: &&mut Item| item.mentions.iter().any(|name| changed.contains(name));
        for stored in self.items.iter_mut().filter(of).filter_map(|item| item.stored.as_mut()) {
            stored.renew();
        }
    }

    fn retain(&mut self, keep: impl Fn(&Item) -> bool) {
        let before = self.items.len();
        self.items.retain(keep);
        if self.items.len() != before {
            self.touch();
        }
    }

    fn touch(&mut self) {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        self.revision = NEXT.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds a cell's items. One with the key of an old item replaces it; the impls of a type that is really
    /// replaced go with it.
    pub(super) fn add(&mut self, new: Vec<Item>) {
        let mut replaced = BTreeSet::new();
        for item in &new {
            let old = self.items.iter().find(|old| old.key == item.key);
            if item.kind == Kind::Other
                && old.is_some_and(|old| old.tokens != item.tokens && old.shapes_types)
            {
                replaced.extend(item.names.iter().cloned());
            }
        }
        self.retain(|old| {
            let orphaned = old.of.iter().any(|name| replaced.contains(name));
            !orphaned && new.iter().all(|item| item.key != old.key)
        });
        if !new.is_empty() {
            self.items.extend(new);
            self.touch();
        }
    }

    /// Removes the items that a name stands for, because a `use` has taken the name.
    pub(super) fn remove(&mut self, name: &str) {
        self.retain(|item| item.kind == Kind::Impl || item.names.iter().all(|n| n != name));
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
        self.items.iter().find(|item| item.parts.iter().any(holds)).map(|item| item.title.clone())
    }

    /// Gives up keeping the state of a static whose type cannot stand in a declaration.
    pub(super) fn forget_state(&mut self, title: &str) -> bool {
        let stored = self.items.iter_mut().find(|item| item.title == title && item.stored.is_some());
        let Some(item) = stored else { return false };
        item.stored = None;
        self.touch();
        true
    }

    /// Removes the items with these titles.
    pub(super) fn remove_titled(&mut self, titles: &BTreeSet<String>) {
        self.retain(|item| !titles.contains(&item.title));
    }

    /// The names that stand for something else once `new` items and `new_names` (by `use`) are there, and the
    /// names of everything defined in terms of those. A value whose type mentions one must not live on.
    pub(super) fn changes(&self, new: &[Item], new_names: &BTreeSet<String>) -> BTreeSet<String> {
        let mut changed = new_names.clone();
        for item in new.iter().filter(|item| item.shapes_types) {
            let same = self.items.iter().any(|old| old.key == item.key && old.tokens == item.tokens);
            let known = self.items.iter().any(|old| old.key == item.key);
            // An impl that is new gives no existing type another layout.
            if !same && (known || item.kind != Kind::Impl) {
                changed.extend(item.names.iter().cloned());
            }
        }
        loop {
            let before = changed.len();
            for item in self.items.iter().filter(|item| item.shapes_types && item.kind != Kind::Impl) {
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
