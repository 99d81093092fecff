//! Frames: how one value of [`session`](crate::session) goes through a pipe. The length of the rest in eight bytes,
//! little endian, then JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};

/// The bytes of a frame.
pub fn encode(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![0; 8];
    // What is said is made of texts and numbers, and memory takes everything: neither can fail.
    let _ = serde_json::to_writer(&mut bytes, value);
    let len = bytes.len() - 8;
    bytes[..8].copy_from_slice(&(len as u64).to_le_bytes());
    bytes
}

/// Takes the first frame off `bytes`; `None` while it is not all there.
///
/// # Errors
/// If it is not a `T`, and so does not come from the other half of this program.
pub fn decode<T: DeserializeOwned>(bytes: &mut Vec<u8>) -> Option<io::Result<T>> {
    let end = 8 + u64::from_le_bytes(*bytes.first_chunk()?) as usize;
    let value = parse(bytes.get(8..end)?);
    bytes.drain(..end);
    Some(value)
}

/// Writes one frame.
///
/// # Errors
/// Those of the pipe.
pub fn write(to: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    to.write_all(&encode(value))
}

/// Reads one frame and not a byte more, so that a copy of this process inherits nothing half read.
///
/// # Errors
/// Those of the pipe, and those of [`decode`].
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut len = [0; 8];
    from.read_exact(&mut len)?;
    let mut body = vec![0; u64::from_le_bytes(len) as usize];
    from.read_exact(&mut body)?;
    parse(&body)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    serde_json::from_slice(body).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Order, Report, Shown};

    /// Texts with every kind of character that JSON writes otherwise, in pieces of every size.
    #[test]
    fn frames_arrive_whole_however_a_pipe_cuts_them() {
        let said = [
            Report::Ready { worker: 7 },
            Report::Shown(Shown::Display(vec![("text/plain".into(), "\0\"\\\n\u{1b}é😀".into())], None)),
            Report::Lost,
        ];
        let bytes: Vec<u8> = said.iter().flat_map(encode).collect();
        for size in 1..=bytes.len() {
            let (mut came, mut read) = (Vec::new(), Vec::new());
            for piece in bytes.chunks(size) {
                came.extend_from_slice(piece);
                while let Some(report) = decode::<Report>(&mut came) {
                    read.push(report.unwrap());
                }
            }
            assert_eq!(read, said, "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_said_by_another_program_is_an_error_and_not_taken_for_something() {
        let mut bytes = encode(&Order::Forget("x".into()));
        bytes.extend(encode(&Report::Left));
        assert!(decode::<Report>(&mut bytes).unwrap().is_err());
        // The one after it is read all the same.
        assert_eq!(decode::<Report>(&mut bytes).unwrap().unwrap(), Report::Left);
        assert!(decode::<Report>(&mut bytes).is_none());
        assert!(read::<Order>(&mut &[3, 0, 0, 0, 0, 0, 0, 0, b'"'][..]).is_err());
    }
}
