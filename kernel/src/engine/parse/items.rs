//! Items (functions, types, traits, impls, macros) of the session: what a later cell can name.
//!
//! A cell that defines items is a crate in which all items are compiled again; the others link one that has them
//! (`library`). A value of a user's type therefore passes between crates that each have their own definition of the
//! type, which is sound only while the definitions are the same. [`Items::changes`] finds the names for which they
//! would not be, as far as they cannot be shown to be; see [`reach`](super::reach).

use super::macros;
use super::mentions;
use super::publish::{self, Edits};
use super::reach::{Names, Reach, alike, canonical};
use super::source::{Quote, Source, Text};
use super::statics::{self, Homes, Stored};
use super::types;
use super::uses::Uses;
use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use syn::spanned::Spanned;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::engine) enum Kind {
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
pub(in crate::engine) struct Item {
    pub(in crate::engine) kind: Kind,
    /// What it is called in a message.
    pub(in crate::engine) title: String,
    /// Items with the same key replace each other.
    key: String,
    /// The names it defines, or for an impl those it is about.
    pub(in crate::engine) names: Vec<String>,
    parts: Vec<Part>,
    /// The tokens without comments.
    tokens: String,
    meaning: Meaning,
    /// Whether it is a macro whose calls define items.
    defines_items: bool,
    /// What makes it public; `None` if that is not known.
    public: Option<Edits>,
    /// For a static whose state lives on.
    stored: Option<Stored>,
}

/// What other definitions make of an item.
#[derive(Clone, Debug)]
struct Meaning {
    /// What "the same definition" compares; `None` for an impl of functions only, by which no type is another.
    shape: Option<String>,
    reach: Reach,
    /// The names that mean something else when this is another definition.
    exports: BTreeSet<String>,
    /// Whether there may be names among them that are not known.
    exports_unknown: bool,
    /// Whether it defines what a `TypeId` can be of.
    defines_types: bool,
    /// Whether those are known to `TypeId` by the place of the item among all others.
    by_place: bool,
    /// Whether it only adds to what there is: an impl of a trait.
    adds: bool,
    /// Whether what is inside is reached by its name only: a module without impls and macros.
    encloses: bool,
}

impl Item {
    /// Items with the same key replace each other.
    pub(in crate::engine) fn key(&self) -> &str {
        &self.key
    }

    /// The word of Rust for what it is.
    pub(in crate::engine) fn word(&self) -> &'static str {
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
    pub(in crate::engine) fn write_plainly(&self, source: &mut Source) {
        self.write_parts(&[], source);
        source.push("\n");
    }

    /// As a crate of the session needs it.
    pub(in crate::engine) fn write(&self, homes: &Homes, source: &mut Source) {
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
    let (kind, space, names) = classify(item);
    let tokens = normal(item.to_token_stream());
    let key = match (kind, names.first()) {
        (Kind::Impl, _) => match item {
            syn::Item::Impl(block) => format!("impl {}", header_tokens(block)),
            _ => tokens.clone(),
        },
        (_, Some(name)) => format!("{space} {}", name.trim_start_matches("r#")),
        (_, None) => tokens.clone(),
    };
    let title = match (kind, names.first()) {
        (Kind::Impl, _) => key.clone(),
        (_, Some(name)) => name.clone(),
        _ => text.code[item.span().byte_range()].to_string(),
    };
    let parts = vec![Part::Quote(Quote { text: text.clone(), range: item.span().byte_range() })];
    let stored = match item {
        syn::Item::Static(i) => Stored::of(i, text),
        _ => None,
    };
    let public = publish::edits(item);
    let meaning = meaning(item, &names);
    let defines_items = match item {
        syn::Item::Macro(i) if i.ident.is_some() => macros::defines_items(&i.mac.tokens),
        _ => false,
    };
    vec![Item { kind, title, key, names, parts, tokens, meaning, defines_items, public, stored }]
}

/// The same item without what can be another without any other item noticing: documentation, the bodies of functions
/// that define nothing inside.
fn meaning(item: &syn::Item, names: &[String]) -> Meaning {
    let whole = || strip(item.to_token_stream());
    let mut exports: BTreeSet<String> = names.iter().map(|name| canonical(name)).collect();
    let mut exports_unknown = false;
    let (mut defines_types, mut by_place, mut encloses) = (true, false, false);
    let (shape, reach) = match item {
        syn::Item::Struct(i) => {
            (Some(whole()), Reach::of(parts_of_fields(&i.attrs, &i.generics, i.fields.iter())))
        }
        syn::Item::Union(i) => {
            (Some(whole()), Reach::of(parts_of_fields(&i.attrs, &i.generics, i.fields.named.iter())))
        }
        syn::Item::Enum(i) => {
            exports.extend(i.variants.iter().map(|variant| canonical(&variant.ident.to_string())));
            let mut tokens = parts_of_fields(&i.attrs, &i.generics, std::iter::empty());
            for variant in &i.variants {
                tokens.extend(parts_of_fields(
                    &variant.attrs,
                    &syn::Generics::default(),
                    variant.fields.iter(),
                ));
                tokens.extend(variant.discriminant.iter().map(|(_, value)| value.to_token_stream()));
            }
            (Some(whole()), Reach::of(tokens))
        }
        syn::Item::Fn(i) => {
            defines_types = hides_definitions(i.block.to_token_stream());
            let all = i.sig.constness.is_some() || defines_types;
            let mut outside = i.clone();
            outside.block.stmts.clear();
            let tokens = if all { whole() } else { strip(outside.to_token_stream()) };
            (Some(tokens.clone()), Reach::of(tokens))
        }
        syn::Item::Const(i) => {
            defines_types = hides_definitions(i.expr.to_token_stream());
            by_place = names.is_empty() && defines_types;
            if names.is_empty() {
                exports = Reach::of(whole()).words().clone();
            }
            (Some(whole()), Reach::of(whole()))
        }
        syn::Item::Static(i) => {
            defines_types = hides_definitions(i.expr.to_token_stream());
            (Some(whole()), Reach::of(whole()))
        }
        syn::Item::Impl(i) => {
            for parameter in i.generics.params.iter() {
                if let syn::GenericParam::Type(syn::TypeParam { ident, .. })
                | syn::GenericParam::Const(syn::ConstParam { ident, .. }) = parameter
                {
                    exports.remove(&canonical(&ident.to_string()));
                }
            }
            let only_functions = i.items.iter().all(|member| matches!(member, syn::ImplItem::Fn(_)));
            defines_types = hides_definitions(i.items.iter().map(ToTokens::to_token_stream).collect());
            by_place = defines_types;
            let counts = !only_functions || defines_types;
            (counts.then(whole), Reach::of(whole()))
        }
        syn::Item::Mod(i) => {
            let items = i.content.as_ref().map_or(&[][..], |(_, items)| items);
            let modules: BTreeSet<String> = items
                .iter()
                .filter_map(|inner| match inner {
                    syn::Item::Mod(inner) => Some(inner.ident.to_string()),
                    _ => None,
                })
                .collect();
            for inner in items {
                let unknown = exported(inner, &mut exports);
                exports_unknown |= unknown && !is_glob_of(inner, &modules);
            }
            let reach = Reach::of_module(whole());
            let is_word = |word: &str| reach.words().contains(word);
            encloses = reach.macros().is_empty() && !is_word("impl") && !is_word("macro_rules");
            (Some(whole()), reach)
        }
        syn::Item::ForeignMod(i) => {
            for inner in &i.items {
                match inner {
                    syn::ForeignItem::Fn(f) => exports.insert(canonical(&f.sig.ident.to_string())),
                    syn::ForeignItem::Static(s) => exports.insert(canonical(&s.ident.to_string())),
                    syn::ForeignItem::Type(t) => exports.insert(canonical(&t.ident.to_string())),
                    other => {
                        exports.extend(Reach::of(other.to_token_stream()).words().iter().cloned());
                        true
                    }
                };
            }
            (Some(whole()), Reach::of(whole()))
        }
        syn::Item::Type(_) | syn::Item::Trait(_) | syn::Item::TraitAlias(_) | syn::Item::ExternCrate(_) => {
            (Some(whole()), Reach::of(whole()))
        }
        // What a macro defines is made of the words here and there.
        _ => {
            let reach = Reach::of(whole());
            by_place = names.is_empty();
            match item {
                // A call defines nothing that has the macro's own name, unless that is among what it is given.
                syn::Item::Macro(call) if names.is_empty() => {
                    exports.extend(Reach::of(call.mac.tokens.clone()).words().iter().cloned());
                }
                _ if names.is_empty() => exports.extend(reach.words().iter().cloned()),
                _ => {}
            }
            (Some(whole()), reach)
        }
    };
    let shape = shape.map(|tokens| tokens.to_string());
    let adds = matches!(item, syn::Item::Impl(_));
    Meaning { shape, reach, exports, exports_unknown, defines_types, by_place, adds, encloses }
}

/// The tokens in which a type's names are looked up; those of its fields are not among them.
fn parts_of_fields<'f>(
    attributes: &[syn::Attribute],
    generics: &syn::Generics,
    fields: impl Iterator<Item = &'f syn::Field>,
) -> TokenStream {
    let mut tokens = TokenStream::new();
    let mut add = |attributes: &[syn::Attribute]| {
        attributes.iter().for_each(|attribute| attribute.to_tokens(&mut tokens));
    };
    add(attributes);
    let mut rest = TokenStream::new();
    generics.params.to_tokens(&mut rest);
    generics.where_clause.to_tokens(&mut rest);
    for field in fields {
        add(&field.attrs);
        field.ty.to_tokens(&mut rest);
        // Two types must not become one word.
        rest.extend([TokenTree::Punct(proc_macro2::Punct::new(';', proc_macro2::Spacing::Alone))]);
    }
    tokens.extend(rest);
    strip(tokens)
}

/// Whether code may define types or impls inside, or a future, whose states are a type.
fn hides_definitions(code: TokenStream) -> bool {
    let reach = Reach::of(code);
    let words = ["struct", "enum", "union", "trait", "impl", "mod", "macro_rules", "async", "gen"];
    words.iter().any(|word| reach.words().contains(*word)) || reach.is_opaque(|_| false, |_| false)
}

/// Adds the names that an item within a module may give to the outside; true if some may be unknown.
fn exported(item: &syn::Item, names: &mut BTreeSet<String>) -> bool {
    match item {
        syn::Item::Use(i) => {
            let reach = Reach::of(i.tree.to_token_stream());
            names.extend(reach.words().iter().cloned());
            let is_glob = i.tree.to_token_stream().to_string().contains('*');
            is_glob && !matches!(i.vis, syn::Visibility::Inherited)
        }
        syn::Item::Impl(_) => {
            let (_, _, subjects) = classify(item);
            names.extend(subjects.iter().map(|name| canonical(name)));
            false
        }
        syn::Item::Macro(_) | syn::Item::ForeignMod(_) | syn::Item::Verbatim(_) => {
            let reach = Reach::of(item.to_token_stream());
            names.extend(reach.words().iter().cloned());
            reach.is_opaque(|_| true, |_| false)
        }
        _ => {
            let (_, _, own) = classify(item);
            let meaning = meaning(item, &own);
            names.extend(meaning.exports);
            meaning.exports_unknown || meaning.reach.is_opaque(|_| true, |_| false)
        }
    }
}

/// Whether it hands on everything of a module beside it, whose names are known.
fn is_glob_of(item: &syn::Item, modules: &BTreeSet<String>) -> bool {
    let syn::Item::Use(item) = item else { return false };
    let mut path = Vec::new();
    let mut tree = &item.tree;
    while let syn::UseTree::Path(further) = tree {
        path.push(further.ident.to_string());
        tree = &further.tree;
    }
    if path.first().is_some_and(|first| first == "self") {
        path.remove(0);
    }
    matches!(tree, syn::UseTree::Glob(_)) && matches!(&path[..], [one] if modules.contains(one))
}

/// One static of a `thread_local!`.
fn thread_local((name, definition, stored, ty): (syn::Ident, Quote, Stored, syn::Type)) -> Item {
    Item {
        kind: Kind::Other,
        title: name.to_string(),
        key: format!("value {}", name.to_string().trim_start_matches("r#")),
        names: vec![name.to_string()],
        tokens: definition.as_str().to_string(),
        meaning: Meaning {
            shape: Some(definition.as_str().to_string()),
            reach: Reach::of(ty.to_token_stream()),
            exports: [canonical(&name.to_string())].into(),
            exports_unknown: false,
            defines_types: false,
            by_place: false,
            adds: false,
            encloses: false,
        },
        parts: vec![
            Part::Generated("::std::thread_local! { "),
            Part::Quote(definition),
            Part::Generated(" }"),
        ],
        // Only its home defines it.
        public: Some(vec![]),
        defines_items: false,
        stored: Some(stored),
    }
}

fn classify(item: &syn::Item) -> (Kind, &'static str, Vec<String>) {
    let one = |ident: &syn::Ident| vec![ident.to_string()];
    match item {
        syn::Item::Struct(i) => (Kind::Other, "type", one(&i.ident)),
        syn::Item::Enum(i) => (Kind::Other, "type", one(&i.ident)),
        syn::Item::Union(i) => (Kind::Other, "type", one(&i.ident)),
        syn::Item::Type(i) => (Kind::Other, "type", one(&i.ident)),
        syn::Item::Trait(i) => (Kind::Other, "type", one(&i.ident)),
        syn::Item::TraitAlias(i) => (Kind::Other, "type", one(&i.ident)),
        syn::Item::Mod(i) => (Kind::Other, "type", one(&i.ident)),
        syn::Item::ExternCrate(i) => {
            let name = i.rename.as_ref().map_or(&i.ident, |(_, name)| name);
            (Kind::Other, "type", one(name))
        }
        syn::Item::Fn(i) => (Kind::Other, "value", one(&i.sig.ident)),
        syn::Item::Const(i) if i.ident == "_" => (Kind::Other, "value", vec![]),
        syn::Item::Const(i) => (Kind::Other, "value", one(&i.ident)),
        syn::Item::Static(i) => (Kind::Other, "value", one(&i.ident)),
        syn::Item::Macro(i) => match &i.ident {
            Some(ident) => (Kind::Macro, "macro", one(ident)),
            None => (Kind::Other, "macro call", vec![]),
        },
        syn::Item::Impl(i) => (Kind::Impl, "impl", subjects(i)),
        _ => (Kind::Other, "item", vec![]),
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
    let tokens = format!("{header_tokens} {{ {} }}", normal(member.to_token_stream()));
    let defines_types = hides_definitions(member.to_token_stream());
    let counts = match member {
        syn::ImplItem::Fn(i) => i.sig.constness.is_some() || defines_types,
        _ => true,
    };
    let mut reached = strip(member.to_token_stream());
    block.self_ty.to_tokens(&mut reached);
    block.generics.to_tokens(&mut reached);
    let meaning = Meaning {
        shape: counts.then(|| tokens.clone()),
        reach: Reach::of(reached),
        exports: [canonical(&name)].into(),
        exports_unknown: false,
        defines_types,
        by_place: defines_types,
        adds: false,
        encloses: false,
    };
    let quote = |range| Part::Quote(Quote { text: text.clone(), range });
    Item {
        kind: Kind::Impl,
        title: format!("{}::{name}", normal(block.self_ty.to_token_stream())),
        key: format!("impl {header_tokens} {{ {name} }}"),
        names: subjects(block),
        parts: vec![
            quote(header),
            Part::Generated("{\n"),
            quote(member.span().byte_range()),
            Part::Generated("\n}"),
        ],
        tokens,
        meaning,
        public: publish::member_edits(member),
        defines_items: false,
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
    strip(tokens).to_string()
}

/// Tokens without documentation.
fn strip(tokens: TokenStream) -> TokenStream {
    let mut kept: Vec<TokenTree> = Vec::new();
    for token in tokens {
        if let TokenTree::Group(group) = &token {
            let is_doc = matches!(group.stream().into_iter().next(), Some(TokenTree::Ident(i)) if i == "doc");
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

/// The items in force, oldest first.
#[derive(Clone, Default)]
pub(in crate::engine) struct Items {
    items: Vec<Item>,
    /// Those that are no longer in force but have had the `TypeId`s of today.
    former: Vec<Item>,
    /// Differs wherever the items do.
    revision: usize,
}

impl Items {
    pub(in crate::engine) fn iter(&self) -> impl Iterator<Item = &Item> {
        self.items.iter()
    }

    pub(in crate::engine) fn revision(&self) -> usize {
        self.revision
    }

    /// The words of `code`, and of every item that they lead to by its name.
    pub(in crate::engine) fn words_led_to(&self, code: &str) -> BTreeSet<String> {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let words = |text: &str| text.split(|c| !is_word(c)).map(str::to_string).collect::<BTreeSet<_>>();
        let (mut found, mut rest) = (words(code), self.items.iter().collect::<Vec<_>>());
        loop {
            let (led_to, others): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|item| item.names.iter().any(|name| found.contains(name)));
            if led_to.is_empty() {
                return found;
            }
            found.extend(led_to.iter().flat_map(|item| words(&item.tokens)));
            rest = others;
        }
    }

    /// Whether all of them can be named from another crate.
    pub(in crate::engine) fn can_be_public(&self, homes: &Homes) -> bool {
        let can = |item: &Item| item.public.is_some() && item.homeless(homes).is_none();
        self.items.iter().all(|item| item.kind == Kind::Macro || can(item))
    }

    /// How much there is to compile, in bytes.
    pub(in crate::engine) fn size(&self) -> usize {
        let size = |part: &Part| match part {
            Part::Quote(quote) => quote.range.len(),
            Part::Generated(_) => 0,
        };
        self.items.iter().flat_map(|item| &item.parts).map(size).sum()
    }

    /// The symbols of statics that the next cell to be loaded becomes the home of.
    pub(in crate::engine) fn homeless(&self, homes: &Homes) -> Homes {
        self.items.iter().filter_map(|item| item.homeless(homes)).collect()
    }

    /// Statics that are made of something that has changed begin anew.
    pub(in crate::engine) fn renew_statics(&mut self, changes: &Changes) {
        for item in self.items.iter_mut().filter(|item| changes.reach(item)) {
            if let Some(stored) = &mut item.stored {
                stored.renew();
            }
        }
    }

    /// After this, `TypeId`s are others.
    pub(in crate::engine) fn forget_former(&mut self) {
        self.former.clear();
    }

    fn retain(&mut self, keep: impl Fn(&Item) -> bool) {
        let gone: Vec<Item> = self.items.extract_if(.., |item| !keep(item)).collect();
        if !gone.is_empty() {
            self.former.extend(gone);
            self.touch();
        }
    }

    fn touch(&mut self) {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        self.revision = NEXT.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds a cell's items. One with the key of an old item replaces it.
    pub(in crate::engine) fn add(&mut self, new: Vec<Item>) {
        self.retain(|old| new.iter().all(|item| item.key != old.key));
        if !new.is_empty() {
            self.former.retain(|old| new.iter().all(|item| item.key != old.key));
            self.items.extend(new);
            self.items.iter_mut().for_each(|item| item.meaning.reach.read_files_again());
            self.touch();
        }
    }

    /// Removes the items that a name stands for, because a `use` has taken the name.
    pub(in crate::engine) fn remove(&mut self, name: &str) {
        self.retain(|item| item.kind == Kind::Impl || item.names.iter().all(|n| n != name));
    }

    /// The item that a part of a cell belongs to.
    pub(in crate::engine) fn title_at(&self, at: &Quote) -> Option<String> {
        let holds = |part: &Part| match part {
            Part::Quote(quote) => {
                quote.text.is(&at.text)
                    && quote.range.start <= at.range.start
                    && at.range.end <= quote.range.end
            }
            Part::Generated(_) => false,
        };
        self.items.iter().find(|item| item.parts.iter().any(holds)).map(|item| item.title.clone())
    }

    /// Gives up keeping the state of a static whose type cannot stand in a declaration.
    pub(in crate::engine) fn forget_state(&mut self, title: &str) -> bool {
        let stored = self.items.iter_mut().find(|item| item.title == title && item.stored.is_some());
        let Some(item) = stored else { return false };
        item.stored = None;
        self.touch();
        true
    }

    /// The items with these titles. Statics are not among them: one that comes back would be another.
    pub(in crate::engine) fn titled(&self, titles: &BTreeMap<String, String>) -> Vec<Item> {
        let with = |item: &&Item| titles.contains_key(&item.title) && item.stored.is_none();
        self.items.iter().filter(with).cloned().collect()
    }

    /// Whether an item that is not here would take nobody's name.
    pub(in crate::engine) fn has_room_for(&self, other: &Item, uses: &Uses) -> bool {
        let declared = |name: &String| uses.iter().any(|one| one.name.as_ref() == Some(name));
        self.items.iter().all(|item| item.key != other.key)
            && (other.kind == Kind::Impl || !other.names.iter().any(declared))
    }

    /// Removes the items with these titles.
    pub(in crate::engine) fn remove_titled(&mut self, titles: &BTreeSet<String>) {
        self.retain(|item| !titles.contains(&item.title));
    }

    /// Whether any of them, or a declaration, may lead to the crate of this name.
    pub(in crate::engine) fn may_name(&self, uses: &Uses, name: &str) -> bool {
        let never = |_: &str| false;
        let own = clean_macros(&self.items.iter().collect::<Vec<_>>(), &never);
        let names = |item: &Item| {
            let reach = &item.meaning.reach;
            let opaque = reach.is_opaque(|word| own.contains(word), never);
            opaque || reach.words().contains(name) || item.tokens.contains(name)
        };
        self.items.iter().any(names) || uses.iter().any(|one| one.first_segment() == name)
    }

    /// The macros whose calls define items.
    pub(in crate::engine) fn item_macros(&self) -> BTreeSet<String> {
        let defining = self.items.iter().filter(|item| item.defines_items);
        defining.flat_map(|item| item.names.iter().cloned()).collect()
    }

    /// Names that a glob could bring in for the items that are there: neither an item nor a declaration stands for
    /// them.
    pub(in crate::engine) fn open_names(&self, uses: &Uses) -> BTreeSet<String> {
        let words = self.items.iter().flat_map(|item| item.meaning.reach.words());
        let mut open: BTreeSet<String> = words.cloned().collect();
        for item in self.items.iter().filter(|item| item.kind != Kind::Impl) {
            item.names.iter().for_each(|name| {
                open.remove(&canonical(name));
            });
        }
        for name in uses.iter().filter_map(|one| one.name.as_ref()) {
            open.remove(&canonical(name));
        }
        open.retain(|name| syn::parse_str::<syn::Ident>(name).is_ok());
        open
    }

    /// What no longer means what it meant once `new` items are there, the items in `gone` (by title) are not, and
    /// `new_names` stand for something else by declarations.
    pub(in crate::engine) fn changes(
        &self,
        uses: &Uses,
        new: &[Item],
        gone: &BTreeSet<String>,
        new_names: &BTreeSet<String>,
    ) -> Changes {
        let is_rebound = |name: &str| uses.iter().any(|one| one.name.as_deref() == Some(name));
        let all: Vec<&Item> = self.items.iter().chain(&self.former).chain(new).collect();
        let own_macros = clean_macros(&all, &is_rebound);
        let is_opaque =
            |item: &Item| item.meaning.reach.is_opaque(|name| own_macros.contains(name), is_rebound);
        let there: Vec<&Item> = self.items.iter().chain(&self.former).collect();

        let mut changes = Changes::default();
        changes.names.all.extend(new_names.iter().map(|name| canonical(name)));
        for item in self.items.iter().filter(|item| gone.contains(&item.title)) {
            changes.include(item, is_opaque(item), &all);
        }
        for item in self.items.iter().filter(|item| item.meaning.reach.has_stale_file()) {
            changes.include(item, is_opaque(item), &all);
        }
        for item in new {
            let olds: Vec<&&Item> = there.iter().filter(|old| old.key == item.key).collect();
            if olds.is_empty() {
                changes.include_new(item, is_opaque(item), &all, uses);
            }
            for old in olds.iter().filter(|old| old.meaning.shape != item.meaning.shape) {
                changes.include(old, is_opaque(old), &all);
                changes.include(item, is_opaque(item), &all);
            }
        }
        // Some types are told from others by the place of an item among all.
        let by_place = |item: &&&Item| item.meaning.by_place && item.meaning.defines_types;
        changes.reshaped |= !(new.is_empty() && gone.is_empty()) && there.iter().any(|item| by_place(&item));

        let mut open: Vec<&Item> =
            there.iter().copied().filter(|item| item.meaning.shape.is_some()).collect();
        loop {
            let before = open.len();
            open.retain(|item| {
                let reached = changes.all || item.meaning.reach.feels(&changes.names, is_opaque(item));
                if reached {
                    changes.include(item, is_opaque(item), &all);
                }
                !reached
            });
            let named = changes.names.all.len();
            let all_before = changes.all;
            for one in uses.iter() {
                let first = canonical(one.first_segment());
                if !changes.names.all.contains(&first) {
                    continue;
                }
                // What comes through a glob is known only of the session's own modules.
                let is_own = |item: &&&Item| item.names.iter().any(|name| canonical(name) == first);
                match &one.name {
                    Some(name) => drop(changes.names.all.insert(canonical(name))),
                    None => changes.all |= !all.iter().any(|item| is_own(&item)),
                }
            }
            if open.len() == before && changes.names.all.len() == named && changes.all == all_before {
                return changes;
            }
        }
    }
}

/// The macros of the session in which no macro of another crate has a say.
fn clean_macros(items: &[&Item], is_rebound: &dyn Fn(&str) -> bool) -> BTreeSet<String> {
    let macros: Vec<&&Item> = items.iter().filter(|item| item.kind == Kind::Macro).collect();
    let mut clean: BTreeSet<String> = macros.iter().flat_map(|item| item.names.iter().cloned()).collect();
    loop {
        let dirty: BTreeSet<String> = macros
            .iter()
            .filter(|item| item.meaning.reach.is_opaque(|name| clean.contains(name), is_rebound))
            .flat_map(|item| item.names.iter().cloned())
            .collect();
        let before = clean.len();
        clean.retain(|name| !dirty.contains(name));
        if clean.len() == before {
            return clean;
        }
    }
}

/// What no longer means what it meant.
#[derive(Default, Debug)]
pub(in crate::engine) struct Changes {
    names: Names,
    /// Whatever the user has defined may be another.
    all: bool,
    /// A definition there was is another now.
    pub(in crate::engine) reshaped: bool,
}

impl Changes {
    /// The name for which a type may not mean what it meant, if there is one.
    pub(in crate::engine) fn culprit(&self, ty: &str) -> Option<String> {
        let own = types::own_names(ty);
        let changed = own.iter().find(|name| self.names.all.contains(&canonical(name)));
        changed.or_else(|| own.last().filter(|_| self.all)).cloned()
    }

    fn reach(&self, item: &Item) -> bool {
        self.all || item.meaning.reach.feels(&self.names, false)
    }

    /// An item there was, or is in its place, that means something else.
    fn include(&mut self, item: &Item, opaque: bool, all: &[&Item]) {
        let meaning = &item.meaning;
        if meaning.shape.is_none() {
            return;
        }
        self.reshaped |= meaning.defines_types;
        self.names.all.extend(meaning.exports.iter().cloned());
        let is_call = item.names.is_empty() && item.kind == Kind::Other;
        if is_call {
            // What it defines may be named by the macros it calls.
            let called = |other: &&&Item| {
                other.kind == Kind::Macro
                    && other.names.iter().any(|name| meaning.reach.macros().contains(name))
            };
            for called in all.iter().filter(called) {
                // Its own name it can define only by a definition of a macro inside.
                let defines_macro = called.tokens.matches("macro_rules").count() > 1;
                let own =
                    |word: &&String| !defines_macro && called.names.iter().any(|n| canonical(n) == **word);
                let words = called.meaning.reach.words().iter().filter(|word| !own(word));
                self.names.all.extend(words.cloned());
            }
        }
        let defines_macros = item.kind == Kind::Macro
            || is_call
            || meaning.reach.words().contains("macro_rules")
            || item.key.starts_with("type ") && item.tokens.contains("extern crate");
        if defines_macros {
            self.names.everywhere.extend(meaning.exports.iter().cloned());
        }
        let defines_unknown = meaning.exports_unknown || (opaque && item.kind != Kind::Macro);
        self.all |= defines_unknown;
    }

    /// An item of which nothing there was has the name. It can only come between others and what they meant before.
    fn include_new(&mut self, item: &Item, opaque: bool, all: &[&Item], uses: &Uses) {
        let meaning = &item.meaning;
        if meaning.shape.is_none() || meaning.adds {
            return;
        }
        // A new glob of it is looked at with all others.
        if meaning.encloses {
            self.names.all.extend(item.names.iter().map(|name| canonical(name)));
            return;
        }
        let all_before = self.all;
        let reshaped_before = self.reshaped;
        self.include(item, opaque, all);
        (self.all, self.reshaped) = (all_before | meaning.exports_unknown, reshaped_before);
        if !opaque || item.kind == Kind::Macro {
            return;
        }
        // Macros of other crates define names like those here. What has a definition keeps it.
        let is_item = |name: &str| {
            let is_named = |item: &&Item| item.kind != Kind::Impl && item.names.iter().any(|n| n == name);
            all.iter().any(is_named) || uses.iter().any(|one| one.name.as_deref() == Some(name))
        };
        let made_of: Vec<&String> = match item.names.is_empty() {
            true => meaning.reach.words().iter().collect(),
            false => item.names.iter().collect(),
        };
        let could_be = |word: &String| !is_item(word) && made_of.iter().any(|name| alike(word, name));
        for other in all.iter().filter(|other| !std::ptr::eq(**other, item)) {
            let words = other.meaning.reach.words().iter().filter(|word| could_be(word));
            self.names.all.extend(words.cloned().collect::<Vec<_>>());
        }
    }
}
