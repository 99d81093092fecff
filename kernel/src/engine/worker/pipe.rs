//! What is in a pipe.

use std::io::Read;
use std::os::fd::AsRawFd;

/// Reads what is there; false at the end.
pub(super) fn append(from: &mut impl Read, to: &mut Vec<u8>) -> bool {
    let mut bytes = [0; 64 << 10];
    match from.read(&mut bytes) {
        Ok(n) => {
            to.extend_from_slice(&bytes[..n]);
            n > 0
        }
        Err(_) => false,
    }
}

/// How many bytes can be read without waiting.
#[allow(unsafe_code)]
pub(super) fn available(pipe: &impl AsRawFd) -> usize {
    let mut n: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int.
    unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &mut n) };
    usize::try_from(n).unwrap_or_default()
}
