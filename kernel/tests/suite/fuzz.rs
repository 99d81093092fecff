//! Arbitrary bytes for everything that reads from the network: it ends with a value or an error, never with a panic,
//! and what is accepted was signed.

use std::io::{self, Cursor, Read, Write};

use onelens_kernel::jupyter::message::{Dropped, Message, Signer};
use onelens_kernel::jupyter::zmtp::{self, Incoming, Kind};
use proptest::prelude::*;
use serde_json::json;

/// A peer that says what it was told to say.
struct Peer(Cursor<Vec<u8>>);

impl Read for Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes that look like frames now and then: small flags and lengths are likely.
fn wild() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![3 => 0u8..8, 1 => any::<u8>()], 0..400)
}

fn greeting() -> Vec<u8> {
    let mut bytes = vec![0u8; 64];
    (bytes[0], bytes[9], bytes[10]) = (0xff, 0x7f, 3);
    bytes[12..16].copy_from_slice(b"NULL");
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn wild_frames_are_read_or_refused(bytes in wild()) {
        let mut rest = &bytes[..];
        while let Ok(incoming) = zmtp::read(&mut rest) {
            if let Incoming::Message(frames) = incoming {
                zmtp::subscription(&frames);
            }
        }
    }

    #[test]
    fn frames_survive_encoding(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 1..8)) {
        let bytes = zmtp::encode(&frames);
        prop_assert_eq!(zmtp::read(&mut &bytes[..]).unwrap(), Incoming::Message(frames));
    }

    #[test]
    fn a_wild_handshake_is_refused_or_understood(tail in wild(), at in 0usize..64, byte: u8, command: bool) {
        let mut bytes = greeting();
        bytes[at] = byte;
        if command {
            bytes.extend([4, u8::try_from(tail.len() + 6).unwrap_or(255)]);
            bytes.extend(b"\x05READY");
        }
        bytes.extend(tail);
        for kind in [Kind::Router, Kind::XPub, Kind::Rep] {
            let _ = zmtp::handshake(&mut Peer(Cursor::new(bytes.clone())), kind, b"");
        }
    }

    #[test]
    fn unsigned_parts_are_never_a_message(frames in prop::collection::vec(wild(), 0..9), at in 0usize..9) {
        let mut frames = frames;
        frames.insert(at.min(frames.len()), b"<IDS|MSG>".to_vec());
        prop_assert!(Message::decode(frames, &Signer::new("key")).is_err());
    }

    #[test]
    fn a_signed_message_with_one_byte_changed_is_not_taken(part in 0usize..6, at: usize, with in 1u8..) {
        let message = Message::new("s", "execute_request", json!({ "code": "1 + 1" }));
        let mut frames = message.encode(&Signer::new("key"));
        let length = frames[part].len();
        frames[part][at % length] ^= with;
        let taken = Message::decode(frames, &Signer::new("key"));
        match part {
            0 => prop_assert_eq!(taken, Err(Dropped::Malformed)),
            // A hexadecimal digit may be written large or small.
            1 if with == 0x20 => {}
            _ => prop_assert_eq!(taken, Err(Dropped::WrongSignature)),
        }
    }

    #[test]
    fn signed_parts_of_any_content_are_read_or_refused(parts in prop::collection::vec(wild(), 4..=4), json in any::<[bool; 4]>()) {
        let signer = Signer::new("key");
        let text = br#"{"msg_id": "1", "msg_type": "x", "session": [null, {}, 1e999]}"#;
        let parts: Vec<Vec<u8>> =
            parts.into_iter().zip(json).map(|(wild, json)| if json { text.to_vec() } else { wild }).collect();
        let parts: [Vec<u8>; 4] = parts.try_into().unwrap();
        let mut frames = vec![b"<IDS|MSG>".to_vec(), signer.sign(&parts).into_bytes()];
        frames.extend(parts);
        let read = Message::decode(frames, &Signer::new("key"));
        prop_assert!(!matches!(read, Err(Dropped::WrongSignature | Dropped::Replayed)));
    }
}
