//! Blocks of quantised numbers, as ggml lays them out and GGUF files hold them: numbers of few bits, and what they are
//! multiplied with.
//!
//! Where a block holds a number of `n` bits in two parts, the low bits of many lie together, and then the high ones. All
//! scales are `f16`, or small integers that an `f16` of the whole block is multiplied with.

use super::numbers::half;

/// Numbers of a block of the simple kinds.
pub(crate) const BLOCK: usize = 32;
/// Numbers of a block of the kinds that are called `K`: parts with scales of their own.
const SUPER_BLOCK: usize = 256;

/// Every block of `bytes` becomes numbers of `to`. Calls nothing that might not be inlined, such as a closure or `zip`:
/// that would have the oldest vector instructions.
macro_rules! each {
    ($bytes:expr, $to:expr, $number:ident) => {{
        let (blocks, numbers) = ($bytes.as_chunks().0, $to.as_chunks_mut().0);
        for (i, y) in numbers.iter_mut().enumerate() {
            $number(&blocks[i], y);
        }
    }};
}

/// The kinds of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocks {
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

impl Blocks {
    /// Its name, the numbers and the bytes of a block, and where it keeps its `f16` scales, the only numbers in it that
    /// need not be finite.
    fn layout(self) -> (&'static str, usize, usize, &'static [usize]) {
        match self {
            Blocks::Q8_0 => ("q8_0", BLOCK, 34, &[0]),
            Blocks::Q4_0 => ("q4_0", BLOCK, 18, &[0]),
            Blocks::Q4_1 => ("q4_1", BLOCK, 20, &[0, 2]),
            Blocks::Q5_0 => ("q5_0", BLOCK, 22, &[0]),
            Blocks::Q5_1 => ("q5_1", BLOCK, 24, &[0, 2]),
            Blocks::Q2K => ("q2_k", SUPER_BLOCK, 84, &[80, 82]),
            Blocks::Q3K => ("q3_k", SUPER_BLOCK, 110, &[108]),
            Blocks::Q4K => ("q4_k", SUPER_BLOCK, 144, &[0, 2]),
            Blocks::Q5K => ("q5_k", SUPER_BLOCK, 176, &[0, 2]),
            Blocks::Q6K => ("q6_k", SUPER_BLOCK, 210, &[208]),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        self.layout().0
    }

    /// Numbers of a block.
    pub(crate) fn numbers(self) -> usize {
        self.layout().1
    }

    /// Bytes of a block.
    pub(crate) fn bytes(self) -> usize {
        self.layout().2
    }

    /// Where a block keeps its scales.
    pub(crate) fn scales(self) -> &'static [usize] {
        self.layout().3
    }

    /// Whole blocks as numbers.
    #[inline(always)]
    pub(crate) fn decode(self, bytes: &[u8], to: &mut [f32]) {
        match self {
            Blocks::Q8_0 => each!(bytes, to, q8_0),
            Blocks::Q4_0 => each!(bytes, to, q4_0),
            Blocks::Q4_1 => each!(bytes, to, q4_1),
            Blocks::Q5_0 => each!(bytes, to, q5_0),
            Blocks::Q5_1 => each!(bytes, to, q5_1),
            Blocks::Q2K => each!(bytes, to, q2_k),
            Blocks::Q3K => each!(bytes, to, q3_k),
            Blocks::Q4K => each!(bytes, to, q4_k),
            Blocks::Q5K => each!(bytes, to, q5_k),
            Blocks::Q6K => each!(bytes, to, q6_k),
        }
    }
}

/// The `f16` that begins at byte `at`.
#[inline(always)]
pub(crate) fn scale(block: &[u8], at: usize) -> f32 {
    half(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// `d q`, with `q` in one signed byte.
#[inline(always)]
fn q8_0(block: &[u8; 34], y: &mut [f32; BLOCK]) {
    let d = scale(block, 0);
    let (q, mut numbers): ([u8; BLOCK], _) = (*bytes_at(block, 2), [0.0; BLOCK]);
    for i in 0..BLOCK {
        numbers[i] = d * f32::from(q[i] as i8);
    }
    *y = numbers;
}

/// `d (q - 8)`, with `q` in four bits.
#[inline(always)]
fn q4_0(block: &[u8; 18], y: &mut [f32; BLOCK]) {
    let d = scale(block, 0);
    nibbles(y, bytes_at(block, 2), |q| d * (q - 8.0));
}

/// `d q + m`, with `q` in four bits.
#[inline(always)]
fn q4_1(block: &[u8; 20], y: &mut [f32; BLOCK]) {
    let (d, m) = (scale(block, 0), scale(block, 2));
    nibbles(y, bytes_at(block, 4), |q| d * q + m);
}

/// `d (q - 16)`, with `q` in four bits and a fifth.
#[inline(always)]
fn q5_0(block: &[u8; 22], y: &mut [f32; BLOCK]) {
    let d = scale(block, 0);
    nibbles(y, bytes_at(block, 6), |q| q);
    add_fifth(y, &block[2..]);
    y.iter_mut().for_each(|y| *y = d * (*y - 16.0));
}

/// `d q + m`, with `q` in four bits and a fifth.
#[inline(always)]
fn q5_1(block: &[u8; 24], y: &mut [f32; BLOCK]) {
    let (d, m) = (scale(block, 0), scale(block, 2));
    nibbles(y, bytes_at(block, 8), |q| q);
    add_fifth(y, &block[4..]);
    y.iter_mut().for_each(|y| *y = d * *y + m);
}

/// The bytes of a block from `at` on.
#[inline(always)]
fn bytes_at<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..].first_chunk().expect("a block is as long as its kind says")
}

/// The low halves of sixteen bytes, then the high ones. All are read before the first is written, so that they become
/// vectors whatever the compiler knows of `y`.
#[inline(always)]
fn nibbles(y: &mut [f32; BLOCK], bytes: &[u8; BLOCK / 2], number: impl Fn(f32) -> f32) {
    let (bytes, mut numbers) = (*bytes, [0.0; BLOCK]);
    for i in 0..BLOCK / 2 {
        numbers[i] = number(f32::from(bytes[i] & 15));
    }
    for i in 0..BLOCK / 2 {
        numbers[BLOCK / 2 + i] = number(f32::from(bytes[i] >> 4));
    }
    *y = numbers;
}

/// Sixteen for each of the 32 bits that is set.
#[inline(always)]
fn add_fifth(y: &mut [f32; BLOCK], bits: &[u8]) {
    for (y, byte) in y.as_chunks_mut::<8>().0.iter_mut().zip(bits) {
        for (bit, y) in y.iter_mut().enumerate() {
            *y += f32::from((byte >> bit & 1) << 4);
        }
    }
}

/// `d s q - d' m`, with `q` in two bits, and `s` and `m` in four, for each sixteen numbers.
#[inline(always)]
fn q2_k(block: &[u8; 84], y: &mut [f32; SUPER_BLOCK]) {
    let (scales, q) = (&block[..16], &block[16..80]);
    let (d, d_min) = (scale(block, 80), scale(block, 82));
    for (i, y) in y.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (s, m) = (d * f32::from(scales[i] & 15), d_min * f32::from(scales[i] >> 4));
        let (from, shift) = (two_bits_of(i), i % 8 / 2 * 2);
        y.iter_mut().zip(&q[from..]).for_each(|(y, q)| *y = s * f32::from(q >> shift & 3) - m);
    }
}

/// `d s q`, with `q` in two bits and a third that is its sign, and `s` in six, for each sixteen numbers.
#[inline(always)]
fn q3_k(block: &[u8; 110], y: &mut [f32; SUPER_BLOCK]) {
    let (high, q, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = scale(block, 108);
    for (i, y) in y.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let s = scales[i % 8] >> (i / 8 * 4) & 15 | (scales[8 + i % 4] >> (i / 4 * 2) & 3) << 4;
        let s = d * (f32::from(s) - 32.0);
        let (from, shift, bit) = (two_bits_of(i), i % 8 / 2 * 2, i / 2);
        for ((y, q), high) in y.iter_mut().zip(&q[from..]).zip(&high[i % 2 * 16..]) {
            let third = f32::from(high >> bit & 1) * 4.0 - 4.0;
            *y = s * (f32::from(q >> shift & 3) + third);
        }
    }
}

/// Where the low two bits of the `i`th sixteen numbers lie: four times 32 numbers share 32 bytes.
#[inline(always)]
fn two_bits_of(i: usize) -> usize {
    i / 8 * 32 + i % 2 * 16
}

/// `d s q - d' m`, with `q` in four bits, and `s` and `m` in six, for each 32 numbers.
#[inline(always)]
fn q4_k(block: &[u8; 144], y: &mut [f32; SUPER_BLOCK]) {
    let (scales, q) = (&block[4..16], &block[16..]);
    for (i, y) in y.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
        let (s, m) = scale_and_min(scales, i, scale(block, 0), scale(block, 2));
        let shift = i % 2 * 4;
        y.iter_mut().zip(&q[i / 2 * BLOCK..]).for_each(|(y, q)| *y = s * f32::from(q >> shift & 15) - m);
    }
}

/// The same with a fifth bit.
#[inline(always)]
fn q5_k(block: &[u8; 176], y: &mut [f32; SUPER_BLOCK]) {
    let (scales, high, q) = (&block[4..16], &block[16..48], &block[48..]);
    for (i, y) in y.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
        let (s, m) = scale_and_min(scales, i, scale(block, 0), scale(block, 2));
        let shift = i % 2 * 4;
        for ((y, q), high) in y.iter_mut().zip(&q[i / 2 * BLOCK..]).zip(high) {
            *y = s * f32::from(q >> shift & 15 | (high >> i & 1) << 4) - m;
        }
    }
}

/// Eight scales and eight offsets of six bits in twelve bytes: whole ones of the first four, whose upper bits are the
/// upper bits of the others.
#[inline(always)]
fn scale_and_min(packed: &[u8], i: usize, d: f32, d_min: f32) -> (f32, f32) {
    let (s, m) = if i < 4 {
        (packed[i] & 63, packed[i + 4] & 63)
    } else {
        (packed[i + 4] & 15 | packed[i - 4] >> 6 << 4, packed[i + 4] >> 4 | packed[i] >> 6 << 4)
    };
    (d * f32::from(s), d_min * f32::from(m))
}

/// `d s (q - 32)`, with `q` in four bits and two more, and `s` in a signed byte, for each sixteen numbers.
#[inline(always)]
fn q6_k(block: &[u8; 210], y: &mut [f32; SUPER_BLOCK]) {
    let (q, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = scale(block, 208);
    for (i, y) in y.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let s = d * f32::from(scales[i] as i8);
        // Of 128 numbers, the first 64 are in low halves of bytes, and the others in the high ones.
        let (half, quarter) = (i / 8, i % 8 / 2);
        let (from, shift) = (half * 64 + i % 4 * 16, quarter / 2 * 4);
        for ((y, q), high) in y.iter_mut().zip(&q[from..]).zip(&high[half * 32 + i % 2 * 16..]) {
            *y = s * (f32::from(q >> shift & 15 | (high >> (quarter * 2) & 3) << 4) - 32.0);
        }
    }
}
