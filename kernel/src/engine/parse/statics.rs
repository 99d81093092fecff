//! Statics keep their state from cell to cell, although every cell compiles the items again: the first cell that is
//! loaded with a static is its *home* and exports it; in later crates the item becomes a declaration of it.
//!
//! `thread_local!` becomes a `LocalKey` that its home exports; when a cell takes the process down, the thread that
//! cells run on begins anew, and what was local to it. All this holds for statics at the top of a cell. One in a
//! function or a module starts afresh whenever the crate that it is compiled in is made anew.

use super::source::{Quote, Source, Text};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::visit::Visit;

/// Symbols of the statics that have a home in the worker.
pub(in crate::engine) type Homes = BTreeSet<String>;

/// A static whose state lives on.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    name: String,
    ty: Quote,
    /// Where the type has references that leave `'static` out, which a declaration may not.
    references: Vec<usize>,
    mutable: bool,
    thread_local: bool,
    /// Tells definitions of the same name apart.
    number: usize,
}

fn next_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Stored {
    /// Unless attributes say where the linker should put it, or more than documentation and lints.
    pub(super) fn of(item: &syn::ItemStatic, text: &Text) -> Option<Stored> {
        let harmless = ["doc", "allow", "warn", "expect"];
        let kept = |attr: &syn::Attribute| harmless.iter().any(|name| attr.path().is_ident(name));
        let mutable = matches!(item.mutability, syn::StaticMutability::Mut(_));
        item.attrs.iter().all(kept).then(|| Stored {
            name: item.ident.to_string(),
            ty: Quote { text: text.clone(), range: item.ty.span().byte_range() },
            references: references(&item.ty),
            mutable,
            thread_local: false,
            number: next_number(),
        })
    }

    /// A definition that runs again is a static of its own, as it would be in a program.
    pub(super) fn symbol(&self) -> String {
        format!("onelens_{}_{}", self.number, self.name.trim_start_matches("r#"))
    }

    /// What it is made of has changed: it is another static from here on.
    pub(super) fn renew(&mut self) {
        self.number = next_number();
    }

    /// What stands before the definition at home.
    pub(super) fn before(&self, source: &mut Source) {
        if !self.thread_local {
            source.push(&format!("#[unsafe(export_name = {:?})] ", self.symbol()));
        }
    }

    /// What stands after the definition.
    pub(super) fn after(&self, source: &mut Source) {
        if self.thread_local {
            source.push(&format!(
                "\n#[unsafe(export_name = {:?})] static __onelens_{}: ::std::thread::LocalKey<",
                self.symbol(),
                self.name.trim_start_matches("r#")
            ));
            self.write_type(source);
            source.push(&format!("> = {};", self.name));
        }
    }

    fn write_type(&self, source: &mut Source) {
        let mut from = self.ty.range.start;
        for &at in &self.references {
            source.quote(&Quote { text: self.ty.text.clone(), range: from..at });
            source.push("'static ");
            from = at;
        }
        source.quote(&Quote { text: self.ty.text.clone(), range: from..self.ty.range.end });
    }

    /// The declaration of a static that lives elsewhere.
    pub(super) fn declare(&self, source: &mut Source) {
        let kind = if self.mutable { "unsafe static mut" } else { "safe static" };
        source.push(&format!(
            "unsafe extern \"Rust\" {{ #[link_name = {:?}] pub {kind} {}: ",
            self.symbol(),
            self.name
        ));
        source.push(if self.thread_local { "::std::thread::LocalKey<" } else { "" });
        self.write_type(source);
        source.push(if self.thread_local { ">; }\n" } else { "; }\n" });
    }
}

/// The positions after `&` where a lifetime is left out.
fn references(ty: &syn::Type) -> Vec<usize> {
    struct References(Vec<usize>);
    impl Visit<'_> for References {
        fn visit_type_reference(&mut self, reference: &syn::TypeReference) {
            if reference.lifetime.is_none() {
                self.0.push(reference.and_token.span().byte_range().end);
            }
            syn::visit::visit_type_reference(self, reference);
        }
        // In the types of functions every call has its own.
        fn visit_type_bare_fn(&mut self, _: &syn::TypeBareFn) {}
        fn visit_parenthesized_generic_arguments(&mut self, _: &syn::ParenthesizedGenericArguments) {}
    }
    let mut references = References(vec![]);
    references.visit_type(ty);
    references.0
}

/// The statics of a `thread_local!`, each with the range of its definition; `None` if it reads otherwise.
pub(super) fn thread_locals(
    call: &syn::ItemMacro,
    text: &Text,
) -> Option<Vec<(syn::Ident, Quote, Stored, syn::Type)>> {
    if !call.mac.path.is_ident("thread_local") || !call.attrs.is_empty() {
        return None;
    }
    let Locals(locals) = call.mac.parse_body().ok()?;
    let quote = |range| Quote { text: text.clone(), range };
    let one = |local: Local| {
        let stored = Stored {
            name: local.name.to_string(),
            ty: quote(local.ty.span().byte_range()),
            references: references(&local.ty),
            mutable: false,
            thread_local: true,
            number: next_number(),
        };
        (local.name, quote(local.range), stored, local.ty)
    };
    Some(locals.into_iter().map(one).collect())
}

struct Local {
    name: syn::Ident,
    ty: syn::Type,
    range: std::ops::Range<usize>,
}

struct Locals(Vec<Local>);

impl Parse for Locals {
    fn parse(input: ParseStream) -> syn::Result<Self> {
        let mut locals = Vec::new();
        while !input.is_empty() {
            let start = input.span().byte_range().start;
            input.call(syn::Attribute::parse_outer)?;
            input.parse::<syn::Visibility>()?;
            input.parse::<syn::Token![static]>()?;
            let name = input.parse()?;
            input.parse::<syn::Token![:]>()?;
            let ty = input.parse()?;
            input.parse::<syn::Token![=]>()?;
            // `const { .. }` is an expression too.
            let value: syn::Expr = input.parse()?;
            locals.push(Local { name, ty, range: start..value.span().byte_range().end });
            if !input.is_empty() {
                input.parse::<syn::Token![;]>()?;
            }
        }
        Ok(Locals(locals))
    }
}
