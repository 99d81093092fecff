//! Jupyter messages: four JSON parts and a signature over them.
//!
//! On the wire: routing frames, `<IDS|MSG>`, signature, header, parent header, metadata, content, buffers. The parts
//! stay JSON values, so that what a client sent is echoed to it exactly, unknown fields included.
//!
//! Specification: <https://jupyter-client.readthedocs.io/en/stable/messaging.html>.

use std::collections::{HashSet, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::base::clock;
use crate::base::lock;

/// The protocol version in headers and in `kernel_info_reply`.
pub const PROTOCOL: &str = "5.4";

const DELIMITER: &[u8] = b"<IDS|MSG>";

/// One message, without its signature.
#[derive(Clone, PartialEq, Debug)]
pub struct Message {
    /// The routing frames before the delimiter, to be repeated in a reply.
    pub routes: Vec<Vec<u8>>,
    /// Who sent what, and when.
    pub header: Value,
    /// The header of the message that this one answers, or `{}`.
    pub parent: Value,
    /// Whatever travels beside the content.
    pub metadata: Value,
    /// The content; its form depends on [`Message::kind`].
    pub content: Value,
}

impl Message {
    /// A message that answers nothing.
    pub fn new(session: &str, kind: &str, content: Value) -> Message {
        Message {
            routes: Vec::new(),
            header: header(session, kind, "onelens"),
            parent: json!({}),
            metadata: json!({}),
            content,
        }
    }

    /// A message caused by this one, with this one's routing frames.
    pub fn child(&self, session: &str, kind: &str, content: Value) -> Message {
        let username = self.header["username"].as_str().unwrap_or("onelens");
        Message {
            routes: self.routes.clone(),
            header: header(session, kind, username),
            parent: self.header.clone(),
            metadata: json!({}),
            content,
        }
    }

    /// The message type, for instance `execute_request`.
    pub fn kind(&self) -> &str {
        self.header["msg_type"].as_str().unwrap_or_default()
    }

    /// The identifier given by the sender.
    pub fn id(&self) -> &str {
        self.header["msg_id"].as_str().unwrap_or_default()
    }

    /// The identifier of the message that this one answers.
    pub fn parent_id(&self) -> &str {
        self.parent["msg_id"].as_str().unwrap_or_default()
    }

    /// The message as signed frames.
    pub fn encode(&self, signer: &Signer) -> Vec<Vec<u8>> {
        let parts =
            [&self.header, &self.parent, &self.metadata, &self.content].map(|p| p.to_string().into_bytes());
        let signature = signer.sign(&parts).into_bytes();
        let mut frames = self.routes.clone();
        frames.push(DELIMITER.to_vec());
        frames.push(signature);
        frames.extend(parts);
        frames
    }

    /// Reads signed frames. The signature is checked before anything is parsed.
    pub fn decode(mut frames: Vec<Vec<u8>>, signer: &Signer) -> Result<Message, Dropped> {
        let at = frames.iter().position(|f| f == DELIMITER).ok_or(Dropped::Malformed)?;
        let rest = frames.split_off(at);
        let [_, signature, parts @ ..] = &rest[..] else { return Err(Dropped::Malformed) };
        let parts: &[Vec<u8>; 4] = parts.first_chunk().ok_or(Dropped::Malformed)?;
        signer.check(signature, parts)?;
        let [header, parent, metadata, content] = parts;
        let parse = |bytes: &[u8]| match serde_json::from_slice::<Value>(bytes) {
            Ok(value @ Value::Object(_)) => Ok(value),
            _ => Err(Dropped::Malformed),
        };
        let message = Message {
            routes: frames,
            header: parse(header)?,
            parent: parse(parent)?,
            metadata: parse(metadata)?,
            content: parse(content)?,
        };
        if message.kind().is_empty() || message.id().is_empty() {
            return Err(Dropped::Malformed);
        }
        Ok(message)
    }
}

fn header(session: &str, kind: &str, username: &str) -> Value {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let id = format!("{session}_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    json!({
        "msg_id": id,
        "session": session,
        "username": username,
        "date": clock::now(),
        "msg_type": kind,
        "version": PROTOCOL,
    })
}

/// Why a message was thrown away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dropped {
    /// Frames or JSON are not those of a Jupyter message.
    Malformed,
    /// The signature does not belong to the parts: the sender has not read the connection file.
    WrongSignature,
    /// The very same message was here before.
    Replayed,
}

/// How many messages were thrown away, by reason.
#[derive(Default, Debug)]
pub struct DropCounts {
    malformed: AtomicU64,
    wrong_signature: AtomicU64,
    replayed: AtomicU64,
}

impl DropCounts {
    /// Counts one.
    pub fn count(&self, why: Dropped) {
        self.of(why).fetch_add(1, Ordering::SeqCst);
    }

    /// How many so far, for one reason.
    pub fn get(&self, why: Dropped) -> u64 {
        self.of(why).load(Ordering::SeqCst)
    }

    fn of(&self, why: Dropped) -> &AtomicU64 {
        match why {
            Dropped::Malformed => &self.malformed,
            Dropped::WrongSignature => &self.wrong_signature,
            Dropped::Replayed => &self.replayed,
        }
    }
}

/// Signs messages and checks signatures: HMAC-SHA256 over the four parts, keyed by the connection file.
pub struct Signer {
    key: Vec<u8>,
    seen: Mutex<Seen>,
}

/// The signatures of the latest messages, to recognise a replayed one.
#[derive(Default)]
struct Seen {
    set: HashSet<[u8; 32]>,
    order: VecDeque<[u8; 32]>,
}

const REMEMBERED: usize = 1 << 16;

impl Signer {
    /// A signer for this key. With an empty key nothing is signed or checked, as the protocol says.
    pub fn new(key: &str) -> Signer {
        Signer { key: key.as_bytes().to_vec(), seen: Mutex::default() }
    }

    /// The signature, as hexadecimal digits.
    pub fn sign(&self, parts: &[Vec<u8>; 4]) -> String {
        if self.key.is_empty() {
            return String::new();
        }
        self.mac(parts).finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn check(&self, signature: &[u8], parts: &[Vec<u8>; 4]) -> Result<(), Dropped> {
        if self.key.is_empty() {
            return Ok(());
        }
        let signature = unhex(signature).ok_or(Dropped::WrongSignature)?;
        // Constant time, so that an answer's delay tells nothing about how much of a guess was right.
        self.mac(parts).verify_slice(&signature).map_err(|_| Dropped::WrongSignature)?;
        let mut seen = lock(&self.seen);
        if !seen.set.insert(signature) {
            return Err(Dropped::Replayed);
        }
        seen.order.push_back(signature);
        if seen.order.len() > REMEMBERED
            && let Some(oldest) = seen.order.pop_front()
        {
            seen.set.remove(&oldest);
        }
        Ok(())
    }

    fn mac(&self, parts: &[Vec<u8>; 4]) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.key)
            .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
        for part in parts {
            mac.update(part);
        }
        mac
    }
}

fn unhex(digits: &[u8]) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = digits.try_into().ok()?;
    let mut bytes = [0u8; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high << 4 | low) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        let mut m = Message::new("s", "execute_request", json!({ "code": "1 + 1" }));
        m.routes = vec![b"route".to_vec()];
        m
    }

    #[test]
    fn a_signature_is_hmac_sha256_as_rfc_4231_has_it() {
        // Test case 2 of RFC 4231: key "Jefe", data "what do ya want for nothing?".
        let parts = ["what do ya ", "want ", "for nothing", "?"].map(|s| s.as_bytes().to_vec());
        assert_eq!(
            Signer::new("Jefe").sign(&parts),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn a_message_survives_the_wire_and_is_taken_once() {
        let (sender, receiver) = (Signer::new("key"), Signer::new("key"));
        let frames = message().encode(&sender);
        assert_eq!(Message::decode(frames.clone(), &receiver).unwrap().content, message().content);
        assert_eq!(Message::decode(frames, &receiver), Err(Dropped::Replayed));
    }

    #[test]
    fn another_key_or_a_changed_byte_is_a_wrong_signature() {
        let frames = message().encode(&Signer::new("key"));
        assert_eq!(Message::decode(frames.clone(), &Signer::new("other")), Err(Dropped::WrongSignature));
        for at in 2..frames.len() {
            let mut changed = frames.clone();
            changed[at][0] ^= 1;
            assert_eq!(Message::decode(changed, &Signer::new("key")), Err(Dropped::WrongSignature), "{at}");
        }
    }

    #[test]
    fn missing_frames_and_wrong_json_are_malformed() {
        let frames = message().encode(&Signer::new(""));
        for end in 0..frames.len() {
            assert_eq!(Message::decode(frames[..end].to_vec(), &Signer::new("")), Err(Dropped::Malformed));
        }
        for part in [&b"["[..], b"[]", b"null", b"\xff", b"{\"msg_type\":3}"] {
            let mut changed = frames.clone();
            changed[3] = part.to_vec();
            assert_eq!(Message::decode(changed, &Signer::new("")), Err(Dropped::Malformed), "{part:?}");
        }
    }
}
