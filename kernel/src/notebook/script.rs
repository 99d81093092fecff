//! A cell as Rust source: its commands, its items, its statements. What a notebook says without being run.

use syn::parse::Parser;
use syn::spanned::Spanned;
use syn::visit::Visit;

/// A cell taken apart. Texts are as the user wrote them.
#[derive(Default)]
pub struct Script {
    /// Lines that begin with `:` at the top of the cell.
    pub commands: Vec<String>,
    /// Items: functions, types, `use` declarations.
    pub items: Vec<Item>,
    /// Everything else, in order.
    pub statements: Vec<Statement>,
    /// Comments after the last of them.
    pub end: String,
    /// Whether a statement waits with `.await`, outside of any `async` block.
    pub awaits: bool,
}

/// An item of a cell.
pub struct Item {
    /// Comments before it.
    pub comments: String,
    /// The text.
    pub text: String,
    /// What a later item of the same kind and name replaces; none for `impl` blocks and the like.
    pub name: Option<String>,
    /// What a `use` declaration brings in; empty for other items.
    pub uses: Vec<Use>,
}

/// One name that a `use` declaration brings in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Use {
    /// The path, with any `as`.
    pub path: String,
    /// The name; none for `*` and `as _`.
    pub name: Option<String>,
}

/// A statement of a cell.
pub struct Statement {
    /// Comments before it.
    pub comments: String,
    /// The text.
    pub text: String,
    /// What it does.
    pub kind: Kind,
}

/// What a statement does.
pub enum Kind {
    /// `let`: the statement itself, for who needs its pattern and its value.
    Let(Box<syn::Local>),
    /// The expression whose value the cell shows.
    Shown(Box<syn::Expr>),
    /// Anything else.
    Other,
}

/// Takes a cell apart; the error is a sentence of the parser with the line that it means.
pub fn read(code: &str) -> Result<Script, String> {
    let (commands, code) = without_commands(code);
    let parsed = syn::Block::parse_within.parse_str(&code).map_err(|e| {
        let start = e.span().start();
        format!("line {}, column {}: {e}", start.line, start.column + 1)
    });
    let statements = match parsed {
        Ok(statements) => statements,
        Err(why) => {
            proc_macro2::extra::invalidate_current_thread_spans();
            return Err(why);
        }
    };
    let mut script = Script { commands, ..Script::default() };
    let last = statements.len().wrapping_sub(1);
    let mut end = 0;
    for (i, statement) in statements.into_iter().enumerate() {
        let range = statement.span().byte_range();
        // Comments stand between the statements and belong to the one after them.
        let comments = code[end..range.start].trim().to_string();
        let text = code[range.clone()].to_string();
        end = range.end;
        let mut awaits = Awaits(false);
        awaits.visit_stmt(&statement);
        script.awaits |= awaits.0;
        match statement {
            syn::Stmt::Item(item) => {
                let mut uses = Vec::new();
                if let syn::Item::Use(item) = &item {
                    let root = if item.leading_colon.is_some() { "::" } else { "" };
                    flatten(&item.tree, root.to_string(), &mut uses);
                }
                script.items.push(Item { comments, text, name: name_of(&item), uses });
            }
            syn::Stmt::Local(local) => {
                script.statements.push(Statement { comments, text, kind: Kind::Let(Box::new(local)) });
            }
            syn::Stmt::Expr(value, None) if i == last => {
                script.statements.push(Statement { comments, text, kind: Kind::Shown(Box::new(value)) });
            }
            syn::Stmt::Macro(call) if i == last && call.semi_token.is_none() => {
                let value = syn::Expr::Macro(syn::ExprMacro { attrs: call.attrs, mac: call.mac });
                script.statements.push(Statement { comments, text, kind: Kind::Shown(Box::new(value)) });
            }
            _ => script.statements.push(Statement { comments, text, kind: Kind::Other }),
        }
    }
    script.end = code[end..].trim().to_string();
    // The positions of every parsed cell would stay in memory.
    proc_macro2::extra::invalidate_current_thread_spans();
    Ok(script)
}

struct Awaits(bool);

impl Visit<'_> for Awaits {
    fn visit_expr_await(&mut self, _: &syn::ExprAwait) {
        self.0 = true;
    }
    fn visit_item(&mut self, _: &syn::Item) {}
    fn visit_expr_async(&mut self, _: &syn::ExprAsync) {}
    fn visit_expr_closure(&mut self, _: &syn::ExprClosure) {}
}

/// The kind and name by which a later item replaces this one.
fn name_of(item: &syn::Item) -> Option<String> {
    let text = |name: &syn::Ident| Some(name.to_string());
    match item {
        syn::Item::Fn(one) => text(&one.sig.ident),
        syn::Item::Const(one) if one.ident != "_" => text(&one.ident),
        syn::Item::Static(one) => text(&one.ident),
        syn::Item::Struct(one) => text(&one.ident),
        syn::Item::Enum(one) => text(&one.ident),
        syn::Item::Union(one) => text(&one.ident),
        syn::Item::Trait(one) => text(&one.ident),
        syn::Item::Type(one) => text(&one.ident),
        syn::Item::Mod(one) => text(&one.ident),
        _ => None,
    }
}

fn flatten(tree: &syn::UseTree, path: String, uses: &mut Vec<Use>) {
    match tree {
        syn::UseTree::Path(one) => flatten(&one.tree, format!("{path}{}::", one.ident), uses),
        syn::UseTree::Group(group) => {
            for tree in &group.items {
                flatten(tree, path.clone(), uses);
            }
        }
        syn::UseTree::Glob(_) => uses.push(Use { path: path + "*", name: None }),
        syn::UseTree::Rename(one) => {
            let name = (one.rename != "_").then(|| one.rename.to_string());
            uses.push(Use { path: format!("{path}{} as {}", one.ident, one.rename), name });
        }
        // `a::{self}` is `a`.
        syn::UseTree::Name(one) if one.ident == "self" && !path.is_empty() => {
            let path = path.trim_end_matches("::").to_string();
            uses.push(Use { name: path.rsplit("::").next().map(str::to_string), path });
        }
        syn::UseTree::Name(one) => {
            uses.push(Use { path: format!("{path}{}", one.ident), name: Some(one.ident.to_string()) });
        }
    }
}

/// The command lines at the top of a cell, and the rest with its line numbers kept.
fn without_commands(code: &str) -> (Vec<String>, String) {
    let (mut commands, mut rest, mut at_top) = (Vec::new(), String::new(), true);
    for line in code.split_inclusive('\n') {
        let text = line.trim();
        let is_command = text.strip_prefix(':').is_some_and(|t| t.starts_with(|c: char| c.is_alphabetic()))
            || text.starts_with('!') && !text.starts_with("!(")
            || text.starts_with('?');
        if at_top && is_command {
            commands.push(text.to_string());
            rest.push('\n');
        } else {
            at_top &= text.is_empty() || text.starts_with("//");
            rest.push_str(line);
        }
    }
    (commands, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_taken_apart_and_comments_stay_with_what_they_precede() {
        let script = read(
            ":dep rand = \"0.9\"\n// the data\nuse std::fs;\nfn f() {}\n// one\nlet x = 1;\nf();\n// seen\nx + 1\n// end",
        )
        .unwrap();
        assert_eq!(script.commands, [":dep rand = \"0.9\""]);
        let items: Vec<(&str, &str)> =
            script.items.iter().map(|i| (i.comments.as_str(), i.text.as_str())).collect();
        assert_eq!(items, [("// the data", "use std::fs;"), ("", "fn f() {}")]);
        let statements: Vec<(&str, &str)> =
            script.statements.iter().map(|s| (s.comments.as_str(), s.text.as_str())).collect();
        assert_eq!(statements, [("// one", "let x = 1;"), ("", "f();"), ("// seen", "x + 1")]);
        assert!(matches!(script.statements[2].kind, Kind::Shown(_)));
        assert!(matches!(script.statements[1].kind, Kind::Other));
        assert_eq!(script.end, "// end");
        assert!(!script.awaits && !read("let f = async { g().await };").unwrap().awaits);
        assert!(read("let x = f().await?;").unwrap().awaits);
    }

    #[test]
    fn uses_are_known_by_the_names_they_bring_in() {
        let script = read("use a::{self, b::{C, D as E}, f::*, G as _};").unwrap();
        let uses: Vec<(&str, Option<&str>)> =
            script.items[0].uses.iter().map(|u| (u.path.as_str(), u.name.as_deref())).collect();
        let expected = [
            ("a", Some("a")),
            ("a::b::C", Some("C")),
            ("a::b::D as E", Some("E")),
            ("a::f::*", None),
            ("a::G as _", None),
        ];
        assert_eq!(uses, expected);
    }

    #[test]
    fn what_does_not_parse_is_told_with_its_place() {
        assert!(read("let x = 1;\nlet = 2;").err().unwrap().starts_with("line 2, column 5: "));
    }
}
