//! Requests that are answered at once, also while a cell runs.

use serde_json::{Value, json};

use super::message::{Message, PROTOCOL};
use super::server::Kernel;
use super::socket::lock;
use crate::engine::{self, Completeness};

/// The type and content of the reply, or nothing for a message that has none.
pub(super) fn answer(kernel: &Kernel, request: &Message) -> Option<(&'static str, Value)> {
    let content = &request.content;
    match request.kind() {
        "kernel_info_request" => Some(("kernel_info_reply", kernel_info())),
        "is_complete_request" => {
            Some(("is_complete_reply", is_complete(content["code"].as_str().unwrap_or_default())))
        }
        "history_request" => Some(("history_reply", lock(&kernel.history).answer(content))),
        "comm_info_request" => Some(("comm_info_reply", json!({ "status": "ok", "comms": {} }))),
        "complete_request" => Some(("complete_reply", complete(kernel, &Cursor::of(content)))),
        "inspect_request" => Some(("inspect_reply", inspect(kernel, &Cursor::of(content)))),
        "comm_open" => {
            // No target exists here; the protocol's answer is to close what the client opened.
            kernel.publish(request, "comm_close", json!({ "comm_id": content["comm_id"], "data": {} }));
            None
        }
        _ => None,
    }
}

fn kernel_info() -> Value {
    let version = env!("CARGO_PKG_VERSION");
    json!({
        "status": "ok",
        "protocol_version": PROTOCOL,
        "implementation": "onelens",
        "implementation_version": version,
        "language_info": language_info(),
        "banner": format!("onelens {version}: Rust cells that answer in a tenth of a second"),
        "help_links": [
            { "text": "The Rust Book", "url": "https://doc.rust-lang.org/book/" },
            { "text": "Standard library", "url": "https://doc.rust-lang.org/std/" },
        ],
        "debugger": false,
        "supported_features": [],
    })
}

/// What notebooks keep in their metadata about the language.
pub fn language_info() -> Value {
    json!({
        "codemirror_mode": "rust",
        "file_extension": ".rs",
        "mimetype": "text/rust",
        "name": "rust",
        "pygments_lexer": "rust",
        "version": env!("CARGO_PKG_RUST_VERSION"),
    })
}

fn is_complete(code: &str) -> Value {
    match engine::completeness(code) {
        Completeness::Complete => json!({ "status": "complete" }),
        Completeness::Incomplete { indent } => json!({ "status": "incomplete", "indent": indent }),
        Completeness::Invalid => json!({ "status": "invalid" }),
    }
}

/// The name around or before the cursor. Positions count characters, as the protocol has it since 5.2.
struct Cursor {
    name: String,
    start: usize,
    /// The cursor itself.
    at: usize,
    /// Whether a `.` or `::` stands before the name: then it is not a variable.
    is_member: bool,
}

impl Cursor {
    fn of(content: &Value) -> Cursor {
        let code: Vec<char> = content["code"].as_str().unwrap_or_default().chars().collect();
        let at = content["cursor_pos"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
        let at = at.min(code.len());
        let in_name = |c: &char| c.is_alphanumeric() || *c == '_';
        let start = at - code[..at].iter().rev().take_while(|c| in_name(c)).count();
        let end = at + code[at..].iter().take_while(|c| in_name(c)).count();
        let is_member = matches!(code[..start].last(), Some('.' | ':'));
        Cursor { name: code[start..end].iter().collect(), start, at, is_member }
    }
}

fn complete(kernel: &Kernel, cursor: &Cursor) -> Value {
    let prefix: String = cursor.name.chars().take(cursor.at - cursor.start).collect();
    let variables = lock(&kernel.variables);
    let found: Vec<(&String, &String)> =
        variables.iter().filter(|(name, _)| !cursor.is_member && name.starts_with(&prefix)).collect();
    let types: Vec<Value> = found
        .iter()
        .map(|(name, of_type)| {
            json!({ "text": name, "type": "instance", "signature": of_type, "start": cursor.start, "end": cursor.at })
        })
        .collect();
    json!({
        "status": "ok",
        "matches": found.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "cursor_start": cursor.start,
        "cursor_end": cursor.at,
        "metadata": { "_jupyter_types_experimental": types },
    })
}

fn inspect(kernel: &Kernel, cursor: &Cursor) -> Value {
    match lock(&kernel.variables).get(&cursor.name) {
        Some(of_type) if !cursor.is_member => json!({
            "status": "ok",
            "found": true,
            "data": { "text/plain": format!("{}: {of_type}", cursor.name) },
            "metadata": {},
        }),
        _ => json!({ "status": "ok", "found": false, "data": {}, "metadata": {} }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(code: &str, at: usize) -> (String, usize, bool) {
        let c = Cursor::of(&json!({ "code": code, "cursor_pos": at }));
        (c.name, c.start, c.is_member)
    }

    #[test]
    fn the_name_at_the_cursor_is_found_in_characters_not_bytes() {
        assert_eq!(cursor("é + alpha", 6), ("alpha".into(), 4, false));
        assert_eq!(cursor("a.len", 5), ("len".into(), 2, true));
        assert_eq!(cursor("", 99), (String::new(), 0, false));
        assert_eq!(cursor("größe", 5), ("größe".into(), 0, false));
    }
}
