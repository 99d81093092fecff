//! ZMTP 3.0 over TCP: the part of ZeroMQ's wire protocol that Jupyter uses.
//!
//! A connection is a greeting, one `READY` command each way, then frames; a message is one or more frames. Written
//! here rather than taken from a crate because a kernel needs little of ZeroMQ and needs that little exactly: every
//! byte that arrives is untrusted, a bad one may end its own connection and nothing else.
//!
//! Absent: the `PLAIN` and `CURVE` mechanisms, transports other than TCP.
//!
//! Specification: <https://rfc.zeromq.org/spec/23/>.

use std::io::{self, Read, Write};

/// What a socket is for, by the name that peers announce to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Receives from many, answers the one who asked.
    Router,
    /// The client's side of a router.
    Dealer,
    /// Sends to all who subscribed, and sees the subscriptions.
    XPub,
    /// The client's side of a publisher.
    Sub,
    /// Answers each message (the heartbeat).
    Rep,
    /// The client's side of an answerer.
    Req,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Router => "ROUTER",
            Kind::Dealer => "DEALER",
            Kind::XPub => "XPUB",
            Kind::Sub => "SUB",
            Kind::Rep => "REP",
            Kind::Req => "REQ",
        }
    }

    /// Whether a peer that announces itself as `other` makes sense at the far end.
    fn accepts(self, other: &str) -> bool {
        match self {
            Kind::Router => matches!(other, "DEALER" | "REQ" | "ROUTER"),
            Kind::Dealer => matches!(other, "ROUTER" | "REP" | "DEALER"),
            Kind::XPub => matches!(other, "SUB" | "XSUB"),
            Kind::Sub => matches!(other, "PUB" | "XPUB"),
            Kind::Rep => matches!(other, "REQ" | "DEALER"),
            Kind::Req => matches!(other, "REP" | "ROUTER"),
        }
    }
}

/// One thing read from a connection that is past its handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Incoming {
    /// A message of one or more frames.
    Message(Vec<Vec<u8>>),
    /// The peer wants messages whose first frame starts with this.
    Subscribe(Vec<u8>),
    /// The peer no longer wants them.
    Unsubscribe(Vec<u8>),
    /// A sign of life is asked for; answer with [`pong`].
    Ping(Vec<u8>),
    /// A command without meaning here, to be ignored.
    Other,
}

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// The longest frame taken from a peer: a notebook's largest cell is far below, a hostile length far above.
const MAX_FRAME: u64 = 256 << 20;
const MAX_FRAMES: usize = 1024;

/// Greets the peer and exchanges `READY`; `identity` is how a router at the far end may call us.
///
/// Returns how the far end wants to be called, which may be empty. Fails when it does not speak ZMTP 3 with the `NULL`
/// mechanism, or is a socket that does not fit ours.
pub fn handshake(stream: &mut (impl Read + Write), kind: Kind, identity: &[u8]) -> io::Result<Vec<u8>> {
    let mut greeting = [0u8; 64];
    greeting[0] = 0xff;
    greeting[9] = 0x7f;
    greeting[10] = 3;
    greeting[12..16].copy_from_slice(b"NULL");
    stream.write_all(&greeting)?;

    let mut theirs = [0u8; 64];
    // The signature first: a peer that is not ZeroMQ may never send 64 bytes.
    stream.read_exact(&mut theirs[..10])?;
    if theirs[0] != 0xff || theirs[9] & 1 == 0 {
        return Err(invalid("the peer does not speak ZMTP"));
    }
    stream.read_exact(&mut theirs[10..])?;
    if theirs[10] < 3 {
        return Err(invalid("the peer speaks a ZMTP older than 3.0"));
    }
    if &theirs[12..17] != b"NULL\0" {
        return Err(invalid("the peer wants a security mechanism other than NULL"));
    }

    let mut ready = b"\x05READY".to_vec();
    property(&mut ready, "Socket-Type", kind.name().as_bytes());
    property(&mut ready, "Identity", identity);
    let mut bytes = Vec::new();
    push_frame(&mut bytes, COMMAND, &ready);
    stream.write_all(&bytes)?;
    stream.flush()?;

    let (flags, body) = read_frame(stream)?;
    let Some(properties) = body.strip_prefix(b"\x05READY").filter(|_| flags & COMMAND != 0) else {
        return Err(invalid("the peer did not send READY"));
    };
    match find_property(properties, "socket-type") {
        Some(other) if kind.accepts(&String::from_utf8_lossy(other)) => {
            Ok(find_property(properties, "identity").unwrap_or_default().to_vec())
        }
        other => {
            let other = String::from_utf8_lossy(other.unwrap_or_default()).into_owned();
            Err(invalid(&format!("a {} socket cannot talk to a {other:?} socket", kind.name())))
        }
    }
}

/// Reads the next message or command.
pub fn read(stream: &mut impl Read) -> io::Result<Incoming> {
    let mut frames = Vec::new();
    loop {
        let (flags, body) = read_frame(stream)?;
        if flags & COMMAND != 0 {
            return Ok(command(body));
        }
        frames.push(body);
        if flags & MORE == 0 {
            return Ok(Incoming::Message(frames));
        }
        if frames.len() == MAX_FRAMES {
            return Err(invalid("a message of too many frames"));
        }
    }
}

/// A message as bytes on the wire.
pub fn encode(frames: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(frames.iter().map(|f| f.as_ref().len() + 9).sum());
    for (i, frame) in frames.iter().enumerate() {
        let more = if i + 1 < frames.len() { MORE } else { 0 };
        push_frame(&mut bytes, more, frame.as_ref());
    }
    bytes
}

/// The answer to [`Incoming::Ping`], as bytes on the wire.
pub fn pong(context: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_frame(&mut bytes, COMMAND, &[b"\x04PONG", context].concat());
    bytes
}

/// A subscription in the form of ZMTP 3.0: a message whose first byte is 1.
pub fn subscribe(topic: &[u8]) -> Vec<u8> {
    encode(&[[&[1], topic].concat()])
}

/// Reads what a subscriber sent as a message: `1` or `0`, then the topic.
pub fn subscription(frames: &[Vec<u8>]) -> Incoming {
    match frames {
        [one] => match one.split_first() {
            Some((1, topic)) => Incoming::Subscribe(topic.to_vec()),
            Some((0, topic)) => Incoming::Unsubscribe(topic.to_vec()),
            _ => Incoming::Other,
        },
        _ => Incoming::Other,
    }
}

fn command(body: Vec<u8>) -> Incoming {
    if let Some(topic) = body.strip_prefix(b"\x09SUBSCRIBE") {
        Incoming::Subscribe(topic.to_vec())
    } else if let Some(topic) = body.strip_prefix(b"\x06CANCEL") {
        Incoming::Unsubscribe(topic.to_vec())
    } else if let Some(rest) = body.strip_prefix(b"\x04PING") {
        // Two bytes of time to live, then a context to be sent back.
        Incoming::Ping(rest.get(2..).unwrap_or_default().to_vec())
    } else {
        Incoming::Other
    }
}

fn read_frame(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut flags = [0u8];
    stream.read_exact(&mut flags)?;
    let length = if flags[0] & LONG == 0 {
        let mut short = [0u8];
        stream.read_exact(&mut short)?;
        u64::from(short[0])
    } else {
        let mut long = [0u8; 8];
        stream.read_exact(&mut long)?;
        u64::from_be_bytes(long)
    };
    if flags[0] & !(MORE | LONG | COMMAND) != 0 {
        return Err(invalid("a frame with unknown flags"));
    }
    if length > MAX_FRAME {
        return Err(invalid("a frame longer than 256 MiB"));
    }
    // `take` and not `with_capacity`: memory follows the bytes that really arrive, not the length announced.
    let mut body = Vec::new();
    stream.take(length).read_to_end(&mut body)?;
    if body.len() as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((flags[0], body))
}

fn push_frame(bytes: &mut Vec<u8>, flags: u8, body: &[u8]) {
    match u8::try_from(body.len()) {
        Ok(length) => bytes.extend([flags, length]),
        Err(_) => {
            bytes.push(flags | LONG);
            bytes.extend((body.len() as u64).to_be_bytes());
        }
    }
    bytes.extend(body);
}

fn property(bytes: &mut Vec<u8>, name: &str, value: &[u8]) {
    bytes.push(name.len() as u8);
    bytes.extend(name.as_bytes());
    bytes.extend((value.len() as u32).to_be_bytes());
    bytes.extend(value);
}

fn find_property<'a>(mut bytes: &'a [u8], wanted: &str) -> Option<&'a [u8]> {
    loop {
        let (&n, rest) = bytes.split_first()?;
        let (name, rest) = rest.split_at_checked(n.into())?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        if name.eq_ignore_ascii_case(wanted.as_bytes()) {
            return Some(value);
        }
        bytes = rest;
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_read_back_for_short_and_long_frames() {
        let frames = vec![b"a".to_vec(), vec![], vec![7; 255], vec![9; 256], vec![1; 70_000]];
        let bytes = encode(&frames);
        assert_eq!(read(&mut &bytes[..]).unwrap(), Incoming::Message(frames));
    }

    #[test]
    fn a_frame_has_flags_length_and_body() {
        assert_eq!(encode(&["ab", "c"]), b"\x01\x02ab\x00\x01c");
    }

    #[test]
    fn both_forms_of_subscription_are_understood() {
        assert_eq!(read(&mut &b"\x04\x0c\x09SUBSCRIBEab"[..]).unwrap(), Incoming::Subscribe(b"ab".to_vec()));
        let Incoming::Message(frames) = read(&mut &subscribe(b"ab")[..]).unwrap() else { panic!() };
        assert_eq!(subscription(&frames), Incoming::Subscribe(b"ab".to_vec()));
    }

    #[test]
    fn every_truncation_and_every_wild_length_is_an_error_and_not_a_panic() {
        let bytes = encode(&[vec![1; 300], vec![2; 3]]);
        for end in 0..bytes.len() {
            assert!(read(&mut &bytes[..end]).is_err(), "{end}");
        }
        assert!(read(&mut &b"\x02\xff\xff\xff\xff\xff\xff\xff\xff"[..]).is_err());
        assert!(read(&mut &b"\x80\x00"[..]).is_err());
    }

    #[test]
    fn properties_are_found_without_regard_to_case_and_never_read_past_the_end() {
        let mut bytes = Vec::new();
        property(&mut bytes, "Identity", b"me");
        property(&mut bytes, "Socket-Type", b"SUB");
        assert_eq!(find_property(&bytes, "socket-type"), Some(&b"SUB"[..]));
        assert_eq!(find_property(&bytes[..bytes.len() - 1], "socket-type"), None);
    }
}
