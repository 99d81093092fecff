//! What rust-analyzer offers, as a list to choose from.

use serde_json::Value;

use super::cursor::Cursor;
use super::{Candidate, Completions};
use crate::cells;

/// A list longer than this is not read to its end.
const MOST: usize = 200;

/// The items in rust-analyzer's order, those that need a `use` by their whole path, keywords last.
pub(super) fn completions(reply: &Value, cursor: &Cursor, column: usize) -> Completions {
    let items = reply["items"].as_array().or(reply.as_array()).map(Vec::as_slice).unwrap_or_default();
    let mut found: Vec<(u8, &str, Candidate)> = Vec::new();
    for item in items {
        let Some(candidate) = candidate(item, cursor, column) else { continue };
        found.push((rank(&candidate, cursor), item["sortText"].as_str().unwrap_or_default(), candidate));
    }
    found.sort_by(|(a, in_a, _), (b, in_b, _)| (a, in_a).cmp(&(b, in_b)));
    let mut candidates: Vec<Candidate> = Vec::new();
    for (_, _, candidate) in found {
        if candidates.len() < MOST && candidates.iter().all(|other| other.text != candidate.text) {
            candidates.push(candidate);
        }
    }
    Completions { start: cursor.start, end: cursor.at, candidates }
}

/// What is in scope comes first, as typed or in another case, then what needs a path, then keywords.
fn rank(candidate: &Candidate, cursor: &Cursor) -> u8 {
    match candidate.kind.as_str() {
        "keyword" => 3,
        _ if candidate.text.contains("::") => 2,
        _ => u8::from(!candidate.text.starts_with(&cursor.prefix)),
    }
}

fn candidate(item: &Value, cursor: &Cursor, column: usize) -> Option<Candidate> {
    let label = item["label"].as_str()?;
    // What goes in, which for a function that takes nothing or a tuple variant can have parentheses already.
    let edit = &item["textEdit"];
    let text = edit["newText"].as_str().or(item["insertText"].as_str()).unwrap_or(label);
    let name = text.split('(').next().unwrap_or(text);
    let starts_elsewhere = edit["range"]["start"]["character"]
        .as_u64()
        .is_some_and(|start| start as usize + cursor.prefix.chars().count() != column);
    let fits = name.to_lowercase().starts_with(&cursor.prefix.to_lowercase());
    if starts_elsewhere || !fits || name.is_empty() || name.starts_with("__onelens") {
        return None;
    }
    let details = &item["labelDetails"];
    let detail = details["detail"].as_str().unwrap_or_default().trim();
    let description = details["description"].as_str().or(item["detail"].as_str()).unwrap_or_default();
    let kind = kind(item["kind"].as_u64().unwrap_or_default(), label, description);
    let needed = detail.strip_prefix("(use ").and_then(|path| path.strip_suffix(')'));
    let (text, signature) = match needed {
        // A method's trait has to be imported; a path cannot stand for it.
        Some(path) if cursor.is_member => (name.to_string(), format!("{description} (needs `use {path};`)")),
        // A letter is the beginning of too much.
        Some(_) if cursor.prefix.chars().count() < 2 => return None,
        Some(path) => (with_mark(&through_std(path), name), description.to_string()),
        None => (name.to_string(), description.to_string()),
    };
    // For a type, rust-analyzer repeats its name.
    let repeats = matches!(kind, "struct" | "trait" | "enum" | "variant") && !signature.contains(" (needs");
    let signature = if repeats { String::new() } else { readable(&signature) };
    Some(Candidate { text, kind: kind.into(), signature })
}

/// The type as a reader wants it: the allocator is hardly ever another one.
fn readable(signature: &str) -> String {
    cells::with_aliases(&signature.replace(", Global>", ">"))
}

/// `std` has what `core` and `alloc` have, and is what people write.
fn through_std(path: &str) -> String {
    let inner = path.strip_prefix("core::").or_else(|| path.strip_prefix("alloc::"));
    inner.map_or_else(|| path.to_string(), |rest| format!("std::{rest}"))
}

/// The path of a macro has no `!`.
fn with_mark(path: &str, name: &str) -> String {
    if name.ends_with('!') { format!("{path}!") } else { path.to_string() }
}

/// Words of Rust for the protocol's numbers; the first five are those that front ends have colours for.
fn kind(number: u64, label: &str, description: &str) -> &'static str {
    match number {
        _ if label.ends_with('!') || description.starts_with("macro_rules!") => "macro",
        2 => "method",
        3 | 4 => "function",
        5 | 10 => "field",
        6 => "instance",
        8 => "trait",
        9 => "module",
        13 => "enum",
        14 => "keyword",
        20 => "variant",
        12 => "static",
        21 => "const",
        25 => "type",
        7 | 22 => "struct",
        _ => "name",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn item(label: &str, kind: u64, order: &str, detail: &str, description: &str) -> Value {
        json!({
            "label": label, "kind": kind, "sortText": order,
            "labelDetails": { "detail": detail, "description": description },
            "textEdit": { "newText": label, "range": { "start": { "line": 9, "character": 4 }, "end": { "line": 9, "character": 6 } } },
        })
    }

    fn offered(code: &str, items: Value) -> Vec<(String, String, String)> {
        let cursor = Cursor::new(code, code.chars().count());
        let completions = completions(&items, &cursor, 4 + cursor.prefix.chars().count());
        completions.candidates.into_iter().map(|c| (c.text, c.kind, c.signature)).collect()
    }

    #[test]
    fn the_order_is_rust_analyzers_with_keywords_last() {
        let items = json!({ "items": [
            item("match", 14, "1", "", ""),
            item("matmul", 3, "3", "", "fn()"),
            item("mass", 6, "2", "", "f64"),
            item("other", 6, "0", "", "f64"),
            item("Max", 22, "0", "", ""),
            item("map", 9, "0", "(use core::iter::map)", ""),
        ]});
        let texts: Vec<String> = offered("let x = ma", items).into_iter().map(|(text, ..)| text).collect();
        assert_eq!(texts, ["mass", "matmul", "Max", "std::iter::map", "match"]);
    }

    #[test]
    fn a_name_that_needs_a_use_is_offered_by_its_path_and_a_method_says_what_it_needs() {
        let items =
            json!([item("HashMap", 22, "1", " (use std::collections::HashMap)", "HashMap<{unknown}>")]);
        assert_eq!(
            offered("Ha", items),
            [("std::collections::HashMap".into(), "struct".into(), String::new())]
        );
        let items = json!([item("par_iter", 2, "1", "(use rayon::prelude::*)", "fn(&self)")]);
        let signature = "fn(&self) (needs `use rayon::prelude::*;`)";
        assert_eq!(offered("v.pa", items), [("par_iter".into(), "method".into(), signature.into())]);
    }
}
