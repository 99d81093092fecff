//! Parameters of a notebook: the `let`s of the cell tagged `parameters`, and values given from outside for them.
//!
//! The names and the convention are papermill's: the values go into a new cell with the tag `injected-parameters`
//! after the tagged one, so that the executed notebook says what it was run with.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::base::failure::Failure;
use crate::notebook::Notebook;
use crate::notebook::script::{self, Kind};

/// The tag of the cell that defines parameters and their defaults.
pub const TAG: &str = "parameters";
/// The tag of the cell that a run adds.
pub const INJECTED: &str = "injected-parameters";

/// A value from outside: a name and a text, not yet of any type.
pub type Given = (String, String);

/// `name=value` from the command line.
pub fn given(text: &str) -> Result<Given, String> {
    match text.split_once('=') {
        Some((name, value)) if syn::parse_str::<syn::Ident>(name.trim()).is_ok() => {
            Ok((name.trim().to_string(), value.to_string()))
        }
        _ => Err(format!("{text:?} is not of the form name=value, such as steps=300")),
    }
}

/// The values in a JSON file: an object of numbers, texts and truth values.
pub fn from_file(path: &Path) -> Result<Vec<Given>, Failure> {
    let shown = path.display();
    let help = "write an object of names and plain values, for instance {\"steps\": 300, \"text\": \"abc\"}";
    let text = fs::read_to_string(path)
        .map_err(|e| Failure::bad_input(format!("cannot read the parameters {shown}: {e}"), help))?;
    let object: serde_json::Map<String, Value> = serde_json::from_str(&text)
        .map_err(|e| Failure::bad_input(format!("{shown} is not a JSON object of parameters: {e}"), help))?;
    object
        .into_iter()
        .map(|(name, value)| match value {
            Value::String(text) => Ok((name, text)),
            Value::Bool(_) | Value::Number(_) => Ok((name, value.to_string())),
            other => Err(Failure::bad_input(
                format!("the parameter `{name}` in {shown} is {other}, which is no plain value"),
                help,
            )),
        })
        .collect()
}

/// Puts a cell with these values after the tagged one, in place of such a cell of an earlier run. Of two values
/// for one name the later counts.
pub fn inject(notebook: &mut Notebook, given: &[Given]) -> Result<(), Failure> {
    if given.is_empty() {
        return Ok(());
    }
    let tagged: Vec<(usize, String)> = notebook
        .cells()
        .enumerate()
        .filter(|(_, cell)| cell.is_runnable() && cell.has_tag(TAG))
        .map(|(at, cell)| (at, cell.source))
        .collect();
    let (at, source) = match &tagged[..] {
        [one] => one,
        [] => {
            return Err(Failure::bad_input(
                format!("`{}` was given, and no cell of the notebook has the tag `{TAG}`", given[0].0),
                "put `let`s with default values into one cell and tag it: in JupyterLab, View > Right Sidebar > Property Inspector",
            ));
        }
        several => {
            return Err(Failure::bad_input(
                format!("{} cells of the notebook have the tag `{TAG}`", several.len()),
                "keep the tag on one of them",
            ));
        }
    };
    let known = parameters(source).map_err(|why| {
        Failure::bad_input(
            format!("the cell with the tag `{TAG}` is not Rust: {why}"),
            "run the notebook in JupyterLab and repair that cell",
        )
    })?;
    let mut lines = vec!["// Parameters of this run".to_string()];
    for parameter in &known {
        if let Some((_, value)) = given.iter().rev().find(|(name, _)| *name == parameter.name) {
            lines.push(parameter.with_value(value)?);
        }
    }
    if let Some((name, _)) = given.iter().find(|(name, _)| known.iter().all(|p| p.name != *name)) {
        let names: Vec<&str> = known.iter().map(|p| p.name.as_str()).collect();
        let names = if names.is_empty() { "none".to_string() } else { names.join(", ") };
        return Err(Failure::bad_input(
            format!("the notebook has no parameter `{name}`"),
            format!("its parameters are: {names}"),
        ));
    }
    notebook.put_after(*at, INJECTED, &lines.join("\n"));
    Ok(())
}

/// One `let` of the tagged cell.
struct Parameter {
    name: String,
    mutable: bool,
    /// The type that stands there.
    annotation: Option<String>,
    form: Form,
}

/// How the text of a value becomes Rust.
#[derive(Clone, PartialEq, Debug)]
enum Form {
    Bool,
    Char,
    /// With the type that bounds it, if it is known.
    Integer(Option<String>),
    Float(Option<String>),
    /// `&str`.
    Text,
    /// Made from a text: `String::from`, `PathBuf::from`.
    From(&'static str),
    /// Anything else is taken as a Rust expression.
    Expression,
}

fn parameters(source: &str) -> Result<Vec<Parameter>, String> {
    let mut found: Vec<Parameter> = Vec::new();
    for statement in script::read(source)?.statements {
        let Kind::Let(local) = statement.kind else { continue };
        let (pattern, annotation) = match &local.pat {
            syn::Pat::Type(typed) => (&*typed.pat, Some(text_of(&*typed.ty))),
            other => (other, None),
        };
        let (syn::Pat::Ident(name), Some(init)) = (pattern, &local.init) else { continue };
        let form = match &annotation {
            Some(ty) => form_of_type(ty),
            None => form_of_value(&init.expr),
        };
        found.retain(|old| name.ident != old.name);
        let mutable = name.mutability.is_some();
        found.push(Parameter { name: name.ident.to_string(), mutable, annotation, form });
    }
    Ok(found)
}

fn text_of(tokens: &impl quote::ToTokens) -> String {
    let text = tokens.to_token_stream().to_string();
    text.replace(" :: ", "::").replace("& ", "&").replace(" <", "<").replace("< ", "<").replace(" >", ">")
}

const INTEGERS: [&str; 12] =
    ["u8", "u16", "u32", "u64", "u128", "usize", "i8", "i16", "i32", "i64", "i128", "isize"];

fn form_of_type(ty: &str) -> Form {
    match ty {
        "bool" => Form::Bool,
        "char" => Form::Char,
        "f32" | "f64" => Form::Float(None),
        "&str" | "&'static str" => Form::Text,
        integer if INTEGERS.contains(&integer) => Form::Integer(Some(integer.into())),
        path => match path.rsplit("::").next() {
            Some("String") => Form::From("String"),
            Some("PathBuf") => Form::From("std::path::PathBuf"),
            _ => Form::Expression,
        },
    }
}

fn form_of_value(value: &syn::Expr) -> Form {
    let suffix = |text: &str| (!text.is_empty()).then(|| text.to_string());
    match value {
        syn::Expr::Lit(literal) => match &literal.lit {
            syn::Lit::Bool(_) => Form::Bool,
            syn::Lit::Char(_) => Form::Char,
            syn::Lit::Int(n) if matches!(n.suffix(), "f32" | "f64") => Form::Float(suffix(n.suffix())),
            syn::Lit::Int(n) => Form::Integer(suffix(n.suffix())),
            syn::Lit::Float(n) => Form::Float(suffix(n.suffix())),
            syn::Lit::Str(_) => Form::Text,
            _ => Form::Expression,
        },
        syn::Expr::Unary(negative) if matches!(negative.op, syn::UnOp::Neg(_)) => {
            form_of_value(&negative.expr)
        }
        syn::Expr::MethodCall(call)
            if ["to_string", "to_owned"].iter().any(|m| call.method == m)
                && form_of_value(&call.receiver) == Form::Text =>
        {
            Form::From("String")
        }
        syn::Expr::Call(call) => match text_of(&call.func).as_str() {
            "String::from" | "String::new" => Form::From("String"),
            "PathBuf::from" | "std::path::PathBuf::from" => Form::From("std::path::PathBuf"),
            _ => Form::Expression,
        },
        _ => Form::Expression,
    }
}

impl Parameter {
    /// The `let` with another value.
    fn with_value(&self, value: &str) -> Result<String, Failure> {
        let literal = self.form.literal(value).ok_or_else(|| {
            Failure::bad_input(
                format!("{value:?} is no value for the parameter `{}`, which {}", self.name, self.form),
                format!("for instance: -p {}={}", self.name, self.form.example()),
            )
        })?;
        let mutable = if self.mutable { "mut " } else { "" };
        let annotation = self.annotation.as_ref().map(|ty| format!(": {ty}")).unwrap_or_default();
        Ok(format!("let {mutable}{}{annotation} = {literal};", self.name))
    }
}

impl Form {
    fn literal(&self, value: &str) -> Option<String> {
        let text = value.trim();
        match self {
            Form::Bool => text.parse::<bool>().ok().map(|b| b.to_string()),
            Form::Char => {
                let mut chars = value.chars();
                let one = chars.next()?;
                chars.next().is_none().then(|| format!("{one:?}"))
            }
            Form::Integer(ty) => {
                let digits = text.replace('_', "");
                let number: i128 = digits.parse().ok()?;
                let fits = match ty.as_deref() {
                    None | Some("i128" | "u128") => ty.as_deref() != Some("u128") || number >= 0,
                    Some("u8") => u8::try_from(number).is_ok(),
                    Some("u16") => u16::try_from(number).is_ok(),
                    Some("u32") => u32::try_from(number).is_ok(),
                    Some("u64" | "usize") => u64::try_from(number).is_ok(),
                    Some("i8") => i8::try_from(number).is_ok(),
                    Some("i16") => i16::try_from(number).is_ok(),
                    Some("i32") => i32::try_from(number).is_ok(),
                    Some(_) => i64::try_from(number).is_ok(),
                };
                fits.then(|| format!("{number}{}", ty.as_deref().unwrap_or_default()))
            }
            Form::Float(ty) => {
                let number: f64 = text.replace('_', "").parse().ok()?;
                // `{:?}` of a float is a float literal of Rust, and the shortest that means the same.
                number.is_finite().then(|| format!("{number:?}{}", ty.as_deref().unwrap_or_default()))
            }
            Form::Text => Some(format!("{value:?}")),
            Form::From(ty) => Some(format!("{ty}::from({value:?})")),
            Form::Expression => {
                let parsed = syn::parse_str::<syn::Expr>(text).ok();
                proc_macro2::extra::invalidate_current_thread_spans();
                parsed.map(|_| text.to_string())
            }
        }
    }

    fn example(&self) -> &'static str {
        match self {
            Form::Bool => "true",
            Form::Char => "x",
            Form::Integer(_) => "3",
            Form::Float(_) => "0.5",
            Form::Text | Form::From(_) => "text",
            Form::Expression => "'vec![1, 2]'",
        }
    }
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Form::Bool => f.write_str("is `true` or `false`"),
            Form::Char => f.write_str("is one character"),
            Form::Integer(None) => f.write_str("is a whole number"),
            Form::Integer(Some(ty)) => write!(f, "is a whole number of type `{ty}`"),
            Form::Float(_) => f.write_str("is a number"),
            Form::Text | Form::From(_) => f.write_str("is a text"),
            Form::Expression => f.write_str("takes a Rust expression"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn injected(cell: &str, given: &[(&str, &str)]) -> Result<String, String> {
        let json = serde_json::json!({
            "nbformat": 4, "nbformat_minor": 5, "metadata": {},
            "cells": [{ "cell_type": "code", "id": "a", "metadata": { "tags": ["parameters"] }, "source": cell, "outputs": [] }],
        });
        let mut notebook = Notebook::parse(&json.to_string(), "x").unwrap();
        let given: Vec<Given> = given.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        inject(&mut notebook, &given).map_err(|e| e.to_string())?;
        let cell = notebook.cells().nth(1).unwrap();
        assert!(cell.has_tag(INJECTED) && cell.json["id"].is_string());
        Ok(cell.source.lines().skip(1).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn values_take_the_types_of_the_tagged_cell() {
        let cell = "let steps = 300;\nlet n: usize = 4;\nlet mut rate = 1e-3;\nlet name = \"a\";\nlet path = String::from(\"b\");\nlet on = true;\nlet layers = vec![1];\nlet k = 3u8;\nlet t = -1.5f32;";
        let given = [
            ("steps", "1_000"),
            ("n", "7"),
            ("rate", "2"),
            ("name", "say \"hi\"\\"),
            ("path", "/tmp/x"),
            ("on", "false"),
            ("layers", "vec![2, 3]"),
            ("k", "255"),
            ("t", "-2"),
        ];
        let expected = "let steps = 1000;\nlet n: usize = 7usize;\nlet mut rate = 2.0;\nlet name = \"say \\\"hi\\\"\\\\\";\nlet path = String::from(\"/tmp/x\");\nlet on = false;\nlet layers = vec![2, 3];\nlet k = 255u8;\nlet t = -2.0f32;";
        assert_eq!(injected(cell, &given).unwrap(), expected);
        assert_eq!(injected(cell, &[("steps", "1"), ("steps", "2")]).unwrap(), "let steps = 2;");
    }

    #[test]
    fn a_value_of_another_type_and_an_unknown_name_are_refused_with_what_there_is() {
        let cell = "let n = 3u8;\nlet rate: f64 = 0.5;\nlet on = true;";
        for (name, value, expected) in [
            ("n", "256", "whole number of type `u8`"),
            ("n", "1.5", "whole number"),
            ("rate", "fast", "is a number"),
            ("rate", "inf", "is a number"),
            ("on", "yes", "`true` or `false`"),
            ("m", "1", "its parameters are: n, rate, on"),
        ] {
            let message = injected(cell, &[(name, value)]).unwrap_err();
            assert!(message.contains(expected) && message.contains("\nhelp: "), "{message}");
        }
    }

    #[test]
    fn text_from_outside_cannot_become_code() {
        let evil = "\"; std::process::exit(1); //";
        let line = injected("let name = \"a\";", &[("name", evil)]).unwrap();
        let syn::Stmt::Local(local) = syn::parse_str::<syn::Stmt>(&line).unwrap() else { panic!("{line}") };
        let syn::Expr::Lit(literal) = *local.init.unwrap().expr else { panic!("{line}") };
        let syn::Lit::Str(text) = literal.lit else { panic!("{line}") };
        assert_eq!(text.value(), evil);
    }

    #[test]
    fn the_command_line_form_is_name_equals_value() {
        assert_eq!(given("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert!(given("a").is_err() && given("=1").is_err() && given("a b=1").is_err());
    }
}
