//! A cell taken apart: declarations, items, and statements grouped into stages.

use super::files;
use super::items::{Item, items_of};
use super::macros;
use super::mentions;
use super::report;
use super::source::{Quote, Text};
use super::uses::{Use, flatten};
use crate::cells::CellError;
use crate::cells::whole;
use proc_macro2::TokenStream;
use quote::ToTokens;
use std::collections::BTreeSet;
use syn::parse::Parser;
use syn::spanned::Spanned;
use syn::visit::Visit;

/// What a cell consists of.
pub(in crate::engine) struct Cell {
    /// Which of the session's cells it is.
    pub(in crate::engine) number: usize,
    /// `#![..]` at the top.
    pub(in crate::engine) attributes: Vec<Attribute>,
    pub(in crate::engine) uses: Vec<Use>,
    pub(in crate::engine) items: Vec<Item>,
    pub(in crate::engine) stages: Vec<Stage>,
    /// Every identifier in the statements: the variables that the cell may need.
    pub(in crate::engine) mentions: BTreeSet<String>,
}

/// An attribute of the whole crate, such as `#![allow(unused_must_use)]`.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Attribute {
    pub(in crate::engine) quote: Quote,
    /// Another with this key takes its place.
    pub(in crate::engine) key: String,
}

/// Attributes that leave everything else in a cell what it is.
const ATTRIBUTES: [&str; 9] =
    ["allow", "deny", "doc", "expect", "feature", "forbid", "recursion_limit", "type_length_limit", "warn"];

/// Statements up to and including one that binds variables, or up to the end.
#[derive(Default)]
pub(in crate::engine) struct Stage {
    pub(in crate::engine) statements: Vec<Statement>,
    pub(in crate::engine) binds: Vec<Bind>,
    /// The expression whose value is the cell's result.
    pub(in crate::engine) tail: Option<Quote>,
    pub(in crate::engine) tokens: TokenStream,
}

pub(in crate::engine) struct Statement {
    pub(in crate::engine) quote: Quote,
    pub(in crate::engine) needs_semicolon: bool,
}

/// A variable that a `let` defines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::engine) struct Bind {
    pub(in crate::engine) name: String,
    pub(in crate::engine) mutable: bool,
    /// The type that it is annotated with, if a later cell can write that, too.
    pub(in crate::engine) annotation: Option<String>,
}

/// With more stages than this, several `let`s share one: each costs a closure to compile.
const MOST_STAGES: usize = 8;

/// Item macros that only make sense outside of functions, or whose items a later cell wants.
const ITEM_MACROS: [&str; 3] = ["thread_local", "lazy_static", "bitflags"];

/// `item_macros` are those of the session whose calls define items.
pub(in crate::engine) fn parse(text: &Text, item_macros: &BTreeSet<String>) -> Result<Cell, CellError> {
    let cell = match whole.parse_str(&text.code) {
        Ok((attributes, statements)) => take_apart(attributes, statements, text, item_macros),
        Err(error) => Err(report::syntax(&error, text)),
    };
    // The positions of every parsed cell would stay in memory.
    proc_macro2::extra::invalidate_current_thread_spans();
    cell
}

fn attribute(attribute: &syn::Attribute, text: &Text) -> Result<Attribute, CellError> {
    let quote = Quote { text: text.clone(), range: attribute.span().byte_range() };
    if !ATTRIBUTES.iter().any(|known| attribute.path().is_ident(known)) {
        let what = format!("`{}` cannot be an attribute of a notebook", quote.as_str());
        let help = format!("a cell may begin with one of: {}", ATTRIBUTES.join(", "));
        return Err(report::refusal(&what, &help, &quote));
    }
    let key = match &attribute.meta {
        syn::Meta::NameValue(meta) => meta.path.to_token_stream().to_string(),
        meta => meta.to_token_stream().to_string(),
    };
    Ok(Attribute { quote, key })
}

fn take_apart(
    attributes: Vec<syn::Attribute>,
    statements: Vec<syn::Stmt>,
    text: &Text,
    item_macros: &BTreeSet<String>,
) -> Result<Cell, CellError> {
    let mut item_macros = item_macros.clone();
    for statement in &statements {
        if let syn::Stmt::Item(syn::Item::Macro(item)) = statement
            && let Some(name) = &item.ident
        {
            item_macros.remove(&name.to_string());
            item_macros.extend(macros::defines_items(&item.mac.tokens).then(|| name.to_string()));
        }
    }
    let mut cell = Cell {
        number: text.cell,
        attributes: attributes.iter().map(|one| attribute(one, text)).collect::<Result<_, _>>()?,
        uses: vec![],
        items: vec![],
        stages: vec![],
        mentions: BTreeSet::new(),
    };
    let lets = statements.iter().filter(|s| matches!(s, syn::Stmt::Local(_))).count();
    let lets_per_stage = lets.div_ceil(MOST_STAGES).max(1);
    let last = statements.len().wrapping_sub(1);
    let mut stage = Stage::default();
    let mut lets_in_stage = 0;
    for (i, statement) in statements.into_iter().enumerate() {
        let quote = Quote { text: text.clone(), range: statement.span().byte_range() };
        refuse_return(&statement, &quote)?;
        match statement {
            syn::Stmt::Item(syn::Item::Use(item)) => cell.uses.extend(flatten(&item, text)),
            // There already, in every cell.
            syn::Stmt::Item(syn::Item::ExternCrate(item))
                if item.ident == "alloc" && item.rename.is_none() => {}
            syn::Stmt::Item(syn::Item::Mod(module)) if module.content.is_none() => {
                let text = files::module(&module, text)?;
                let module = files::parsed(&text, syn::parse_str)?;
                cell.items.extend(items_of(&syn::Item::Mod(module), &text));
            }
            syn::Stmt::Item(item) => cell.items.extend(items_of(&item, text)),
            syn::Stmt::Macro(call) if is_item_macro(&call, &item_macros) => {
                let item = syn::ItemMacro {
                    attrs: call.attrs,
                    ident: None,
                    mac: call.mac,
                    semi_token: call.semi_token,
                };
                cell.items.extend(items_of(&syn::Item::Macro(item), text));
            }
            syn::Stmt::Local(local) => {
                let binds = binds_of(&local.pat);
                refuse_oddities(&local, &binds, &quote)?;
                if let Some(init) = &local.init {
                    mentions::collect(init.expr.to_token_stream(), &mut cell.mentions);
                    if let Some((_, diverge)) = &init.diverge {
                        mentions::collect(diverge.to_token_stream(), &mut cell.mentions);
                    }
                }
                stage.tokens.extend(local.to_token_stream());
                stage.statements.push(Statement { quote, needs_semicolon: false });
                for bind in binds {
                    stage.binds.retain(|old| old.name != bind.name);
                    stage.binds.push(bind);
                }
                lets_in_stage += 1;
                if lets_in_stage >= lets_per_stage && !stage.binds.is_empty() {
                    cell.stages.push(std::mem::take(&mut stage));
                    lets_in_stage = 0;
                }
            }
            statement => {
                let tokens = statement.to_token_stream();
                mentions::collect(tokens.clone(), &mut cell.mentions);
                stage.tokens.extend(tokens);
                let open = matches!(&statement, syn::Stmt::Expr(_, None))
                    || matches!(&statement, syn::Stmt::Macro(call) if call.semi_token.is_none());
                if open && i == last {
                    stage.tail = Some(quote);
                } else {
                    stage.statements.push(Statement { quote, needs_semicolon: open });
                }
            }
        }
    }
    if !stage.statements.is_empty() || stage.tail.is_some() {
        cell.stages.push(stage);
    }
    Ok(cell)
}

fn is_item_macro(call: &syn::StmtMacro, own: &BTreeSet<String>) -> bool {
    let is_known = |name: &str| ITEM_MACROS.contains(&name) || own.contains(name);
    call.mac.path.segments.last().is_some_and(|segment| is_known(&segment.ident.to_string()))
}

fn binds_of(pattern: &syn::Pat) -> Vec<Bind> {
    struct Binds(Vec<Bind>);
    impl Visit<'_> for Binds {
        fn visit_pat_ident(&mut self, pattern: &syn::PatIdent) {
            let name = pattern.ident.to_string();
            // `None` and constants look like bindings.
            if !name.starts_with(char::is_uppercase) {
                self.0.push(Bind { name, mutable: pattern.mutability.is_some(), annotation: None });
            }
            syn::visit::visit_pat_ident(self, pattern);
        }
        fn visit_expr(&mut self, _: &syn::Expr) {}
    }
    let mut binds = Binds(Vec::new());
    binds.visit_pat(pattern);
    if let (syn::Pat::Type(typed), [bind]) = (pattern, &mut binds.0[..])
        && matches!(*typed.pat, syn::Pat::Ident(_))
    {
        bind.annotation = whole_type(&typed.ty);
    }
    binds.0
}

/// A type that says everything about itself.
fn whole_type(ty: &syn::Type) -> Option<String> {
    struct Open(bool);
    impl Visit<'_> for Open {
        fn visit_type_infer(&mut self, _: &syn::TypeInfer) {
            self.0 = true;
        }
        fn visit_type_impl_trait(&mut self, _: &syn::TypeImplTrait) {
            self.0 = true;
        }
    }
    let mut open = Open(false);
    open.visit_type(ty);
    (!open.0).then(|| ty.to_token_stream().to_string())
}

/// A cell is not a function that one could return from.
fn refuse_return(statement: &syn::Stmt, quote: &Quote) -> Result<(), CellError> {
    struct Returns(bool);
    impl Visit<'_> for Returns {
        fn visit_expr_return(&mut self, _: &syn::ExprReturn) {
            self.0 = true;
        }
        // These have returns of their own.
        fn visit_item(&mut self, _: &syn::Item) {}
        fn visit_expr_closure(&mut self, _: &syn::ExprClosure) {}
        fn visit_expr_async(&mut self, _: &syn::ExprAsync) {}
    }
    let mut returns = Returns(false);
    returns.visit_stmt(statement);
    if returns.0 {
        let help = "put what follows within `if .. { .. }`, or end the cell with an error: `Err(\"..\")?`";
        return Err(report::refusal("a cell cannot `return`", help, quote));
    }
    Ok(())
}

/// What cannot become a variable of the session, as far as one can see without types.
fn refuse_oddities(local: &syn::Local, binds: &[Bind], quote: &Quote) -> Result<(), CellError> {
    let name = binds.first().map_or("_", |bind| bind.name.as_str());
    let Some(init) = &local.init else {
        let what =
            format!("`{name}` is declared without a value, so there is nothing to keep for later cells");
        let help = format!("give it its value at once: `let {name} = if .. {{ .. }} else {{ .. }};`");
        return Err(report::refusal(&what, &help, quote));
    };
    let mut value = &*init.expr;
    while let syn::Expr::Paren(inner) = value {
        value = &inner.expr;
    }
    match value {
        syn::Expr::Closure(_) if !matches!(local.pat, syn::Pat::Type(_)) && !binds.is_empty() => {
            Err(report::refusal(&report::closure_sentence(name), &report::closure_help(name), quote))
        }
        _ => Ok(()),
    }
}
