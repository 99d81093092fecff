//! Requests that are answered at once, also while a cell runs.

use serde_json::{Value, json};

use super::message::{Message, PROTOCOL};
use super::server::Kernel;
use crate::assist::{Completions, Documentation};
use crate::base::lock;
use crate::cells::{self, Completeness};

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
        "complete_request" => Some(("complete_reply", complete(kernel, content))),
        "inspect_request" => Some(("inspect_reply", inspect(kernel, content))),
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
    match cells::completeness(code) {
        Completeness::Complete => json!({ "status": "complete" }),
        Completeness::Incomplete { indent } => json!({ "status": "incomplete", "indent": indent }),
        Completeness::Invalid => json!({ "status": "invalid" }),
    }
}

/// The code and the cursor in it. Positions count characters, as the protocol has it since 5.2.
fn cursor(content: &Value) -> (&str, usize) {
    let at = content["cursor_pos"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    (content["code"].as_str().unwrap_or_default(), at)
}

fn complete(kernel: &Kernel, content: &Value) -> Value {
    let (code, at) = cursor(content);
    let Completions { start, end, candidates } = kernel.assistant.complete(code, at);
    let types = candidates.iter().map(|candidate| {
        json!({
            "text": candidate.text, "type": candidate.kind, "signature": candidate.signature,
            "start": start, "end": end,
        })
    });
    json!({
        "status": "ok",
        "matches": candidates.iter().map(|candidate| &candidate.text).collect::<Vec<_>>(),
        "cursor_start": start,
        "cursor_end": end,
        "metadata": { "_jupyter_types_experimental": types.collect::<Vec<_>>() },
    })
}

fn inspect(kernel: &Kernel, content: &Value) -> Value {
    let (code, at) = cursor(content);
    let with_source = content["detail_level"].as_u64() == Some(1);
    let found = kernel.assistant.inspect(code, at, with_source);
    let data = found.as_ref().map_or(json!({}), documentation);
    json!({ "status": "ok", "found": found.is_some(), "data": data, "metadata": {} })
}

/// As the MIME types that a front end chooses from.
pub(super) fn documentation(found: &Documentation) -> Value {
    json!({ "text/plain": found.plain(), "text/markdown": found.markdown })
}
