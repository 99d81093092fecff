//! Frames: how the kernel, the supervisor and the worker talk over pipes. A frame is a list of strings.
//!
//! This file is compiled into both sides: the kernel includes it by path.

use std::io::{self, Read, Write};

/// The bytes of a frame: the length of the rest, then each string behind its own length, little endian.
pub fn encode(parts: &[&str]) -> Vec<u8> {
    let len = parts.iter().map(|part| 4 + part.len()).sum::<usize>();
    let mut bytes = Vec::with_capacity(4 + len);
    bytes.extend_from_slice(&(len as u32).to_le_bytes());
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

/// Takes the first whole frame off `bytes`; `None` while it is not all there.
pub fn decode(bytes: &mut Vec<u8>) -> Option<Vec<String>> {
    let len = length(bytes)?;
    let body = bytes.get(4..4 + len)?;
    let parts = split(body);
    bytes.drain(..4 + len);
    Some(parts)
}

/// Writes one frame.
pub fn write(to: &mut impl Write, parts: &[&str]) -> io::Result<()> {
    to.write_all(&encode(parts))
}

/// Writes that a process ended, and how, by the status that its parent has from the system.
pub fn write_end(to: &mut impl Write, pid: i32, status: i32) -> io::Result<()> {
    let how = match libc::WIFSIGNALED(status) {
        true => format!("signal {}", libc::WTERMSIG(status)),
        false => format!("exit {}", libc::WEXITSTATUS(status)),
    };
    write(to, &["ended", &pid.to_string(), &how])
}

/// Reads one frame and not a byte more, so that a copy of this process inherits nothing half read.
pub fn read(from: &mut impl Read) -> io::Result<Vec<String>> {
    let mut len = [0; 4];
    from.read_exact(&mut len)?;
    let mut body = vec![0; u32::from_le_bytes(len) as usize];
    from.read_exact(&mut body)?;
    Ok(split(&body))
}

fn length(bytes: &[u8]) -> Option<usize> {
    Some(u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize)
}

fn split(mut body: &[u8]) -> Vec<String> {
    let mut parts = Vec::new();
    while let Some(len) = length(body) {
        let end = (4 + len).min(body.len());
        parts.push(String::from_utf8_lossy(&body[4..end]).into_owned());
        body = &body[end..];
    }
    parts
}
