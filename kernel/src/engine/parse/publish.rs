//! What has to be inserted into an item so that a crate can be linked that names it: `pub`, wherever a later cell
//! may look today because it is compiled into the same crate.
//!
//! What is private to a module of the user's stays so.

use std::ops::Range;
use syn::spanned::Spanned;

/// Replacements of ranges of the cell's text, in order.
pub(super) type Edits = Vec<(Range<usize>, &'static str)>;

/// `None` if it cannot be known how the item becomes public.
pub(super) fn edits(item: &syn::Item) -> Option<Edits> {
    let mut publisher = Publisher { edits: vec![], depth: 0, possible: true };
    publisher.item(item);
    publisher.finish()
}

/// The same for one member of an inherent impl.
pub(super) fn member_edits(member: &syn::ImplItem) -> Option<Edits> {
    let mut publisher = Publisher { edits: vec![], depth: 0, possible: true };
    publisher.member(member);
    publisher.finish()
}

struct Publisher {
    edits: Edits,
    /// Modules around.
    depth: usize,
    possible: bool,
}

impl Publisher {
    fn finish(mut self) -> Option<Edits> {
        self.edits.sort_by_key(|(range, _)| range.start);
        self.possible.then_some(self.edits)
    }

    fn item(&mut self, item: &syn::Item) {
        match item {
            syn::Item::Struct(i) => {
                self.visibility(&i.vis, &i.struct_token);
                self.fields(i.fields.iter());
            }
            syn::Item::Union(i) => {
                self.visibility(&i.vis, &i.union_token);
                self.fields(i.fields.named.iter());
            }
            syn::Item::Enum(i) => self.visibility(&i.vis, &i.enum_token),
            syn::Item::Type(i) => self.visibility(&i.vis, &i.type_token),
            syn::Item::Const(i) if i.ident == "_" => {}
            syn::Item::Const(i) => self.visibility(&i.vis, &i.const_token),
            syn::Item::Static(i) => self.visibility(&i.vis, &i.static_token),
            syn::Item::Fn(i) => self.visibility(&i.vis, &i.sig),
            syn::Item::ExternCrate(i) => self.visibility(&i.vis, &i.extern_token),
            // What a module re-exports within the crate only may be private outside, and Rust refuses to publish that.
            syn::Item::Use(i) if matches!(i.vis, syn::Visibility::Restricted(_)) => self.possible = false,
            syn::Item::Use(i) => self.visibility(&i.vis, &i.use_token),
            syn::Item::Trait(i) => match (&i.unsafety, &i.auto_token) {
                (Some(token), _) => self.visibility(&i.vis, token),
                (None, Some(token)) => self.visibility(&i.vis, token),
                (None, None) => self.visibility(&i.vis, &i.trait_token),
            },
            syn::Item::Mod(i) => {
                self.visibility(&i.vis, &i.mod_token);
                self.depth += 1;
                match &i.content {
                    Some((_, items)) => items.iter().for_each(|item| self.item(item)),
                    None => self.possible = false,
                }
                self.depth -= 1;
            }
            syn::Item::Impl(i) if i.trait_.is_none() => i.items.iter().for_each(|m| self.member(m)),
            syn::Item::Impl(_) => {}
            // Exported or not, macros are written into every cell.
            syn::Item::Macro(i) => self.possible &= i.ident.is_some() || self.depth > 0,
            _ => self.possible = false,
        }
    }

    fn member(&mut self, member: &syn::ImplItem) {
        match member {
            syn::ImplItem::Const(i) => self.visibility(&i.vis, &i.const_token),
            syn::ImplItem::Fn(i) => self.visibility(&i.vis, &i.sig),
            syn::ImplItem::Type(i) => self.visibility(&i.vis, &i.type_token),
            _ => self.possible = false,
        }
    }

    fn fields<'f>(&mut self, fields: impl Iterator<Item = &'f syn::Field>) {
        for field in fields {
            match &field.ident {
                Some(name) => self.visibility(&field.vis, name),
                None => self.visibility(&field.vis, &field.ty),
            }
        }
    }

    /// `next` is what follows the visibility.
    fn visibility(&mut self, visibility: &syn::Visibility, next: &impl Spanned) {
        match visibility {
            syn::Visibility::Public(_) => {}
            syn::Visibility::Inherited if self.depth > 0 => {}
            syn::Visibility::Inherited => {
                let at = next.span().byte_range().start;
                self.edits.push((at..at, "pub "));
            }
            syn::Visibility::Restricted(path) => {
                let reaches_cells = match () {
                    () if self.depth == 0 || path.path.is_ident("crate") => true,
                    () if path.in_token.is_some() => {
                        self.possible = false;
                        false
                    }
                    () => self.depth == 1 && path.path.is_ident("super"),
                };
                if reaches_cells {
                    self.edits.push((visibility.span().byte_range(), "pub"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(code: &str) -> Option<String> {
        let item: syn::Item = syn::parse_str(code).unwrap();
        let mut text = code.to_string();
        for (range, replacement) in edits(&item)?.into_iter().rev() {
            text.replace_range(range, replacement);
        }
        Some(text)
    }

    #[test]
    fn everything_at_the_top_becomes_public_and_modules_keep_their_secrets() {
        for (code, expected) in [
            (
                "#[derive(Debug)] struct P { x: f64, pub(crate) y: Q }",
                "#[derive(Debug)] pub struct P { pub x: f64, pub y: Q }",
            ),
            ("struct T(u8, #[doc = \"y\"] Vec<u8>);", "pub struct T(pub u8, #[doc = \"y\"] pub Vec<u8>);"),
            ("const unsafe fn f() {}", "pub const unsafe fn f() {}"),
            ("unsafe trait A { fn a(); }", "pub unsafe trait A { fn a(); }"),
            (
                "impl P { fn a() {} pub fn b() {} const C: u8 = 1; }",
                "impl P { pub fn a() {} pub fn b() {} pub const C: u8 = 1; }",
            ),
            ("impl Debug for P { fn fmt() {} }", "impl Debug for P { fn fmt() {} }"),
            (
                "mod m { fn secret() {} pub(super) fn a() {} pub struct S { x: u8, pub(crate) y: u8 } mod n { pub(super) fn b() {} } }",
                "pub mod m { fn secret() {} pub fn a() {} pub struct S { x: u8, pub y: u8 } mod n { pub(super) fn b() {} } }",
            ),
        ] {
            assert_eq!(published(code).as_deref(), Some(expected));
        }
        assert_eq!(published("some_macro! { struct P; }"), None);
    }
}
