//! A notebook as a program: items at the top, statements in `main`, prose in comments.
//!
//! What differs from a notebook: a definition made twice stands once, as its last version, and a value is shown as
//! its `Debug` text. Cells that are meant to fail become comments.

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};

use crate::base::failure::Failure;
use crate::notebook::Notebook;
use crate::notebook::script::{self, Item, Kind, Script, Use};

/// The text of the program; `name` is the file that it comes from.
pub fn program(notebook: &Notebook, name: &str) -> Result<String, Failure> {
    let mut parts = Parts::default();
    let mut number = 0;
    for cell in notebook.cells() {
        match cell.kind {
            "code" if cell.is_runnable() && cell.has_tag("raises-exception") => {
                number += 1;
                parts.comment(&format!("This cell fails, as it is meant to:\n{}", cell.source));
            }
            "code" if cell.is_runnable() => {
                number += 1;
                let script = script::read(&cell.source).map_err(|why| {
                    Failure::bad_input(
                        format!("cell {number} of {name} is not Rust: {why}"),
                        "repair the cell, or give it the tag `raises-exception` if it is meant to fail",
                    )
                })?;
                if script.awaits {
                    return Err(Failure::bad_input(
                        format!("cell {number} of {name} uses `.await` outside of a function"),
                        "a plain program has nothing that runs it: use `block_on` of your async library in the cell",
                    ));
                }
                parts.cell(script);
            }
            "markdown" => parts.comment(&cell.source),
            _ => {}
        }
    }
    Ok(parts.text(name))
}

/// What the program consists of.
#[derive(Default)]
struct Parts {
    deps: Vec<String>,
    uses: Vec<String>,
    used: BTreeSet<String>,
    items: Vec<Item>,
    main: String,
}

impl Parts {
    fn comment(&mut self, text: &str) {
        self.main.push('\n');
        for line in text.trim().lines() {
            self.main.push_str(format!("    // {line}").trim_end());
            self.main.push('\n');
        }
    }

    fn cell(&mut self, script: Script) {
        if !self.main.is_empty() && !script.statements.is_empty() {
            self.main.push('\n');
        }
        for command in script.commands {
            match command.starts_with(":dep") {
                true => self.deps.push(command),
                false => self.comment(&command),
            }
        }
        for item in script.items {
            if item.uses.is_empty() {
                // Where a cell defines anew what an earlier one defined, the last version counts.
                self.items.retain(|old| item.name.is_none() || old.name != item.name);
                self.items.push(item);
            } else {
                self.import(item);
            }
        }
        for statement in script.statements {
            self.code(&statement.comments);
            match statement.kind {
                Kind::Shown(value) if has_value(&value) => {
                    self.code(&format!("println!(\"{{:?}}\", {});", statement.text));
                }
                Kind::Shown(value) if matches!(*value, syn::Expr::Macro(_) | syn::Expr::Assign(_)) => {
                    self.code(&format!("{};", statement.text));
                }
                Kind::Shown(_) | Kind::Let(_) | Kind::Other => self.code(&statement.text),
            }
        }
        self.code(&script.end);
    }

    /// Names may be brought in once only.
    fn import(&mut self, item: Item) {
        let key = |one: &Use| one.name.clone().unwrap_or_else(|| one.path.clone());
        let new: Vec<&Use> = item.uses.iter().filter(|one| !self.used.contains(&key(one))).collect();
        if new.len() == item.uses.len() {
            self.uses.extend((!item.comments.is_empty()).then(|| item.comments.clone()));
            self.uses.push(item.text.clone());
        } else {
            self.uses.extend(new.iter().map(|one| format!("use {};", one.path)));
        }
        let keys: Vec<String> = new.into_iter().map(key).collect();
        self.used.extend(keys);
    }

    /// Lines of code, moved in. The lines of a text literal stay where they are: moving them would change it.
    fn code(&mut self, text: &str) {
        let fixed = lines_in_literals(text);
        for (i, line) in text.lines().enumerate() {
            if !fixed.contains(&(i + 1)) && !line.trim().is_empty() {
                self.main.push_str("    ");
            }
            self.main.push_str(line);
            self.main.push('\n');
        }
    }

    fn text(self, name: &str) -> String {
        let mut text = format!("//! The cells of {name} as a program, by `onelens convert --to rust`.\n");
        if !self.deps.is_empty() {
            text.push_str(
                "//!\n//! Its Cargo.toml needs what these lines of the notebook ask for:\n//!\n//! ```text\n",
            );
            self.deps.iter().for_each(|dep| text.push_str(&format!("//! {dep}\n")));
            text.push_str("//! ```\n");
        }
        text.push('\n');
        for one in &self.uses {
            text.push_str(&format!("{one}\n"));
        }
        for item in &self.items {
            text.push('\n');
            if !item.comments.is_empty() {
                text.push_str(&format!("{}\n", item.comments));
            }
            text.push_str(&format!("{}\n", item.text));
        }
        text.push_str(&format!(
            "\nfn main() -> Result<(), Box<dyn std::error::Error>> {{\n{}\n    Ok(())\n}}\n",
            self.main.trim_matches('\n')
        ));
        text
    }
}

/// Whether showing the value would tell anything: not for loops and for macros that print or check.
fn has_value(value: &syn::Expr) -> bool {
    match value {
        syn::Expr::ForLoop(_) | syn::Expr::While(_) | syn::Expr::Assign(_) => false,
        syn::Expr::If(one) => one.else_branch.is_some(),
        syn::Expr::Macro(call) => !call.mac.path.segments.last().is_some_and(|name| {
            let name = name.ident.to_string();
            name.contains("print") || name.contains("assert") || name.starts_with("write")
        }),
        _ => true,
    }
}

/// The numbers of the lines that begin inside a literal or a comment that goes over several lines.
fn lines_in_literals(text: &str) -> BTreeSet<usize> {
    fn walk(tokens: TokenStream, lines: &mut BTreeSet<usize>) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => walk(group.stream(), lines),
                TokenTree::Literal(literal) => {
                    let span = literal.span();
                    lines.extend(span.start().line + 1..=span.end().line);
                }
                _ => {}
            }
        }
    }
    let mut lines = BTreeSet::new();
    // Text that is no Rust by itself is a comment.
    if let Ok(tokens) = text.parse::<TokenStream>() {
        walk(tokens, &mut lines);
    }
    proc_macro2::extra::invalidate_current_thread_spans();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn converted(cells: &[&str]) -> String {
        let cells: Vec<_> = cells
            .iter()
            .map(|source| json!({ "cell_type": "code", "metadata": {}, "source": source, "outputs": [] }))
            .collect();
        let json = json!({ "nbformat": 4, "metadata": {}, "cells": cells });
        program(&Notebook::parse(&json.to_string(), "x").unwrap(), "x.ipynb").unwrap()
    }

    #[test]
    fn items_stand_at_the_top_and_statements_in_main() {
        let text = converted(&[
            ":dep rand = \"0.9\"\nuse std::fmt::{self, Debug};\nfn f() -> i32 { 1 }\nlet x = f();",
            "use std::fmt::{Debug, Display};\nfn f() -> i32 { 2 }\n// shown\nx",
            "for i in 0..2 { println!(\"{i}\"); }",
        ]);
        let expected = "//! The cells of x.ipynb as a program, by `onelens convert --to rust`.\n//!\n//! Its Cargo.toml needs what these lines of the notebook ask for:\n//!\n//! ```text\n//! :dep rand = \"0.9\"\n//! ```\n\nuse std::fmt::{self, Debug};\nuse std::fmt::Display;\n\nfn f() -> i32 { 2 }\n\nfn main() -> Result<(), Box<dyn std::error::Error>> {\n    let x = f();\n\n    // shown\n    println!(\"{:?}\", x);\n\n    for i in 0..2 { println!(\"{i}\"); }\n    Ok(())\n}\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_cell_that_nothing_could_run_in_a_program_is_refused() {
        let cell = json!({ "cell_type": "code", "metadata": {}, "source": "f().await", "outputs": [] });
        let json = json!({ "nbformat": 4, "metadata": {}, "cells": [cell] });
        let notebook = Notebook::parse(&json.to_string(), "x").unwrap();
        let message = program(&notebook, "x.ipynb").unwrap_err().to_string();
        assert!(message.starts_with("cell 1 of x.ipynb uses `.await`"), "{message}");
    }

    #[test]
    fn moving_code_in_changes_no_text_of_it() {
        let text = converted(&["let a = \"one\n  two\";\nlet b = f(\n1);"]);
        assert!(text.contains("    let a = \"one\n  two\";\n    let b = f(\n    1);\n"), "{text}");
    }
}
