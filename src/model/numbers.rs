//! Rows of numbers as files store them: decoded to `f32`, or multiplied as they are.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use safetensors::tensor::Dtype;

use super::blocks::{BLOCK, Blocks, scale};
use crate::num::dot;

/// The bytes of a file: mapped, or read into memory.
pub(crate) enum FileBytes {
    Mapped(memmap2::Mmap),
    Read(Vec<u8>),
}

impl FileBytes {
    /// Maps the file; an empty one, or one that cannot be mapped, is read.
    #[allow(unsafe_code)]
    pub(crate) fn open(path: &Path) -> std::io::Result<Self> {
        let file = std::fs::File::open(path)?;
        // SAFETY: the mapping is private, read only and never handed out as anything but bytes, of which every pattern
        // is a number. Another process that writes to the file while it is mapped can change these bytes between two
        // looks, and one that truncates it makes the next look end this process by SIGBUS; neither makes a reference
        // that is out of bounds or ill-typed. Programs that fetch or convert models write a new file and rename it,
        // which leaves this one as it was.
        match unsafe { memmap2::Mmap::map(&file) } {
            Ok(map) if !map.is_empty() => Ok(FileBytes::Mapped(map)),
            Ok(_) | Err(_) => Ok(FileBytes::Read(std::fs::read(path)?)),
        }
    }

    #[inline]
    pub(crate) fn all(&self) -> &[u8] {
        match self {
            FileBytes::Mapped(map) => map,
            FileBytes::Read(bytes) => bytes,
        }
    }
}

/// How numbers are stored: one by one, or in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    F32,
    F16,
    Bf16,
    Blocks(Blocks),
}

/// Sums run in so many lanes, in the same order on every machine.
const LANES: usize = 16;

impl Kind {
    /// The kind of a tensor in a safetensors file, if it is one of weights.
    pub(crate) fn of_safetensors(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Kind::F32),
            Dtype::F16 => Some(Kind::F16),
            Dtype::BF16 => Some(Kind::Bf16),
            // The enumeration is the crate's, and may grow.
            _ => None,
        }
    }

    /// The kind of a tensor in a GGUF file, if it is one of weights.
    pub(crate) fn of_gguf(dtype: GgmlDType) -> Option<Self> {
        match dtype {
            GgmlDType::F32 => Some(Kind::F32),
            GgmlDType::F16 => Some(Kind::F16),
            GgmlDType::BF16 => Some(Kind::Bf16),
            GgmlDType::Q8_0 => Some(Kind::Blocks(Blocks::Q8_0)),
            GgmlDType::Q4_0 => Some(Kind::Blocks(Blocks::Q4_0)),
            GgmlDType::Q4_1 => Some(Kind::Blocks(Blocks::Q4_1)),
            GgmlDType::Q5_0 => Some(Kind::Blocks(Blocks::Q5_0)),
            GgmlDType::Q5_1 => Some(Kind::Blocks(Blocks::Q5_1)),
            GgmlDType::Q2K => Some(Kind::Blocks(Blocks::Q2K)),
            GgmlDType::Q3K => Some(Kind::Blocks(Blocks::Q3K)),
            GgmlDType::Q4K => Some(Kind::Blocks(Blocks::Q4K)),
            GgmlDType::Q5K => Some(Kind::Blocks(Blocks::Q5K)),
            GgmlDType::Q6K => Some(Kind::Blocks(Blocks::Q6K)),
            // What activations are quantised to on the way; no file has weights in it.
            GgmlDType::Q8_1 | GgmlDType::Q8K => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::F32 => "f32",
            Kind::F16 => "f16",
            Kind::Bf16 => "bf16",
            Kind::Blocks(blocks) => blocks.name(),
        }
    }

    /// Numbers of a block.
    fn block(self) -> usize {
        match self {
            Kind::F32 | Kind::F16 | Kind::Bf16 => 1,
            Kind::Blocks(blocks) => blocks.numbers(),
        }
    }

    /// Bytes of a block.
    fn block_bytes(self) -> usize {
        match self {
            Kind::F32 => 4,
            Kind::F16 | Kind::Bf16 => 2,
            Kind::Blocks(blocks) => blocks.bytes(),
        }
    }

    /// Bytes of `n` numbers; `None` where they are no whole blocks, or too many to count.
    pub(crate) fn bytes(self, n: usize) -> Option<usize> {
        n.is_multiple_of(self.block()).then(|| (n / self.block()).checked_mul(self.block_bytes()))?
    }

    /// How many numbers there are in so many bytes.
    pub(crate) fn numbers(self, bytes: usize) -> usize {
        bytes / self.block_bytes() * self.block()
    }
}

/// A stored tensor, seen as rows.
#[derive(Clone)]
pub(crate) struct Numbers {
    file: Arc<FileBytes>,
    bytes: Range<usize>,
    kind: Kind,
    n_rows: usize,
    n_columns: usize,
}

/// A vector that rows are multiplied with.
pub(crate) struct Prepared<'a> {
    x: &'a [f32],
    /// The sum of each [`BLOCK`] of it, for kinds with an offset.
    sums: Vec<f32>,
}

impl Numbers {
    /// The numbers in these bytes of the file. `None` where they are not as many bytes as the kind needs, or a row is
    /// no whole number of blocks.
    pub(crate) fn new(
        file: Arc<FileBytes>,
        bytes: Range<usize>,
        kind: Kind,
        (n_rows, n_columns): (usize, usize),
    ) -> Option<Self> {
        let row = kind.bytes(n_columns)?;
        let fits = row.checked_mul(n_rows)? == bytes.len() && bytes.end <= file.all().len();
        fits.then_some(Numbers { file, bytes, kind, n_rows, n_columns })
    }

    pub(crate) fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub(crate) fn n_columns(&self) -> usize {
        self.n_columns
    }

    /// All numbers without a copy, where they are `f32` as this machine has it.
    pub(crate) fn as_f32(&self) -> Option<&[f32]> {
        let bytes = &self.file.all()[self.bytes.clone()];
        let plain = self.kind == Kind::F32 && cfg!(target_endian = "little");
        plain.then(|| bytemuck::try_cast_slice(bytes).ok())?
    }

    /// Numbers that are stored together.
    pub(crate) fn block(&self) -> usize {
        self.kind.block()
    }

    pub(crate) fn kind_name(&self) -> &'static str {
        self.kind.name()
    }

    /// Bytes of so many numbers of a row, to the next whole block.
    pub(crate) fn bytes_of(&self, n: usize) -> usize {
        n.div_ceil(self.kind.block()) * self.kind.block_bytes()
    }

    /// The first number that is not finite: where it is, and what it is.
    pub(crate) fn not_finite(&self) -> Option<(usize, f32)> {
        let bytes = &self.file.all()[self.bytes.clone()];
        let half = |at: usize| half(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        let found = match self.kind {
            Kind::F32 => bytes.as_chunks::<4>().0.iter().position(|&b| !f32::from_le_bytes(b).is_finite()),
            Kind::F16 => bytes.as_chunks::<2>().0.iter().position(|b| b[1] & 0x7c == 0x7c),
            Kind::Bf16 => {
                bytes.as_chunks::<2>().0.iter().position(|&b| u16::from_le_bytes(b) & 0x7f80 == 0x7f80)
            }
            Kind::Blocks(blocks) => {
                let size = blocks.bytes();
                let broken = |block: usize| {
                    blocks.scales().iter().any(|scale| bytes[block * size + scale + 1] & 0x7c == 0x7c)
                };
                (0..bytes.len() / size).find(|&block| broken(block)).map(|block| block * blocks.numbers())
            }
        }?;
        let value = match self.kind {
            Kind::F32 => bytes.as_chunks::<4>().0.get(found).map_or(f32::NAN, |&b| f32::from_le_bytes(b)),
            Kind::F16 | Kind::Bf16 | Kind::Blocks(_) => {
                let at = found / self.kind.block() * self.kind.block_bytes();
                if bytes[at] == 0 && half(at).abs() >= 65_536.0 { f32::INFINITY } else { f32::NAN }
            }
        };
        Some((found, value))
    }

    /// All numbers, row by row.
    pub(crate) fn all(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.n_rows * self.n_columns];
        for (row, to) in out.chunks_exact_mut(self.n_columns.max(1)).enumerate() {
            self.decode(row, 0..self.n_columns, to);
        }
        out
    }

    #[inline]
    fn row(&self, row: usize) -> &[u8] {
        let size = self.bytes_of(self.n_columns);
        &self.file.all()[self.bytes.clone()][row * size..(row + 1) * size]
    }

    /// Columns of a row as `f32`, into `to`, which has as many places.
    pub(crate) fn decode(&self, row: usize, columns: Range<usize>, to: &mut [f32]) {
        self.decode_rows(&[row], columns, to);
    }

    /// Columns of some rows as `f32`, row by row into `to`, which has as many places.
    pub(crate) fn decode_rows(&self, rows: &[usize], columns: Range<usize>, to: &mut [f32]) {
        let block = self.kind.block();
        if columns.start.is_multiple_of(block) && columns.end.is_multiple_of(block) {
            return Decode { numbers: self, rows, columns, to }.run();
        }
        let mut whole = vec![0.0; self.n_columns];
        for (&row, to) in rows.iter().zip(to.chunks_exact_mut(columns.len())) {
            self.decode(row, 0..self.n_columns, &mut whole);
            to.copy_from_slice(&whole[columns.clone()]);
        }
    }

    /// What [`dots`](Numbers::dots) needs of a vector.
    pub(crate) fn prepare<'a>(&self, x: &'a [f32]) -> Prepared<'a> {
        let sums = match self.kind {
            Kind::Blocks(Blocks::Q4_0 | Blocks::Q4_1) => {
                x.as_chunks::<BLOCK>().0.iter().map(|x| x.iter().sum()).collect()
            }
            Kind::F32
            | Kind::F16
            | Kind::Bf16
            | Kind::Blocks(
                Blocks::Q8_0
                | Blocks::Q5_0
                | Blocks::Q5_1
                | Blocks::Q2K
                | Blocks::Q3K
                | Blocks::Q4K
                | Blocks::Q5K
                | Blocks::Q6K,
            ) => Vec::new(),
        };
        Prepared { x, sums }
    }

    /// The products of a row with some vectors, into `to`.
    pub(crate) fn dots(&self, row: usize, columns: Range<usize>, with: &[Prepared], to: &mut [f32]) {
        if let ([with], true) = (with, columns == (0..self.n_columns)) {
            let dot = Dot { kind: self.kind, bytes: self.row(row), x: with.x, sums: &with.sums };
            if let Some(product) = dot.run() {
                to[0] = product;
                return;
            }
        }
        let mut numbers = vec![0.0; columns.len()];
        self.decode(row, columns, &mut numbers);
        crate::num::wide(|| {
            for (to, with) in to.iter_mut().zip(with) {
                *to = dot(&numbers, with.x);
            }
        });
    }
}

/// A half-precision number that is finite. Plain arithmetic, so that loops over it become vector instructions.
#[inline(always)]
pub(crate) fn half(bits: u16) -> f32 {
    // The exponent's bias goes from 15 to 127 by a factor of 2^112, subnormal numbers included.
    let size = f32::from_bits(u32::from(bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    f32::from_bits(size.to_bits() | u32::from(bits & 0x8000) << 16)
}

#[inline(always)]
fn brain(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Whole blocks of some rows.
struct Decode<'a> {
    numbers: &'a Numbers,
    rows: &'a [usize],
    columns: Range<usize>,
    to: &'a mut [f32],
}

impl Decode<'_> {
    fn run(self) {
        pulp::Arch::new().dispatch(self);
    }
}

impl pulp::NullaryFnOnce for Decode<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Decode { numbers, rows, columns, to } = self;
        let kind = numbers.kind;
        let (block, size) = (kind.block(), kind.block_bytes());
        let bytes = columns.start / block * size..columns.end / block * size;
        // Without closures and `zip`, which may not be inlined, and would have the oldest vector instructions then.
        for (i, to) in to.chunks_exact_mut(columns.len().max(1)).enumerate() {
            let bytes = &numbers.row(rows[i])[bytes.clone()];
            match kind {
                Kind::F32 => {
                    let numbers = &bytes.as_chunks::<4>().0[..to.len()];
                    for (i, y) in to.iter_mut().enumerate() {
                        *y = f32::from_le_bytes(numbers[i]);
                    }
                }
                Kind::F16 => {
                    let numbers = &bytes.as_chunks::<2>().0[..to.len()];
                    for (i, y) in to.iter_mut().enumerate() {
                        *y = half(u16::from_le_bytes(numbers[i]));
                    }
                }
                Kind::Bf16 => {
                    let numbers = &bytes.as_chunks::<2>().0[..to.len()];
                    for (i, y) in to.iter_mut().enumerate() {
                        *y = brain(u16::from_le_bytes(numbers[i]));
                    }
                }
                Kind::Blocks(blocks) => blocks.decode(bytes, to),
            }
        }
    }
}

/// `Σ w x` of one row.
struct Dot<'a> {
    kind: Kind,
    bytes: &'a [u8],
    x: &'a [f32],
    sums: &'a [f32],
}

impl Dot<'_> {
    /// `None` for blocks that have to be decoded first.
    fn run(self) -> Option<f32> {
        pulp::Arch::new().dispatch(self)
    }
}

/// `Σ number(bytes) x` for numbers that are stored one by one, in two sets of lanes that do not wait for each other.
macro_rules! dot_of {
    ($bytes:expr, $x:expr, |$stored:ident| $number:expr) => {{
        let (chunks, rest) = $bytes.as_chunks().0.as_chunks::<{ 2 * LANES }>();
        let (x_chunks, x_rest) = $x.as_chunks::<{ 2 * LANES }>();
        let mut lanes = [0.0_f32; 2 * LANES];
        for (chunk, w) in chunks.iter().enumerate() {
            let x = &x_chunks[chunk];
            for i in 0..2 * LANES {
                let $stored = w[i];
                lanes[i] += $number * x[i];
            }
        }
        let mut sum_of_rest = 0.0;
        for (i, &$stored) in rest.iter().enumerate() {
            sum_of_rest += $number * x_rest[i];
        }
        lanes.iter().sum::<f32>() + sum_of_rest
    }};
}

impl pulp::NullaryFnOnce for Dot<'_> {
    type Output = Option<f32>;

    #[inline(always)]
    fn call(self) -> Option<f32> {
        let Dot { kind, bytes, x, sums } = self;
        let x_blocks = x.as_chunks::<BLOCK>().0;
        let mut lanes = [0.0_f32; LANES];
        let mut rest = 0.0;
        // Loops count here too.
        match kind {
            Kind::F32 => return Some(dot_of!(bytes, x, |b| f32::from_le_bytes(b))),
            Kind::F16 => return Some(dot_of!(bytes, x, |b| half(u16::from_le_bytes(b)))),
            Kind::Bf16 => return Some(dot_of!(bytes, x, |b| brain(u16::from_le_bytes(b)))),
            Kind::Blocks(Blocks::Q8_0) => {
                for (at, block) in bytes.as_chunks::<{ 2 + BLOCK }>().0.iter().enumerate() {
                    let (d, q, x) = (scale(block, 0), &block[2..], &x_blocks[at]);
                    for i in 0..LANES {
                        let pair =
                            f32::from(q[i] as i8) * x[i] + f32::from(q[LANES + i] as i8) * x[LANES + i];
                        lanes[i] += d * pair;
                    }
                }
            }
            Kind::Blocks(Blocks::Q4_0) => {
                for (at, block) in bytes.as_chunks::<{ 2 + BLOCK / 2 }>().0.iter().enumerate() {
                    let d = scale(block, 0);
                    add_nibbles(&mut lanes, &block[2..], d, &x_blocks[at]);
                    rest -= 8.0 * d * sums[at];
                }
            }
            Kind::Blocks(Blocks::Q4_1) => {
                for (at, block) in bytes.as_chunks::<{ 4 + BLOCK / 2 }>().0.iter().enumerate() {
                    add_nibbles(&mut lanes, &block[4..], scale(block, 0), &x_blocks[at]);
                    rest += scale(block, 2) * sums[at];
                }
            }
            Kind::Blocks(
                Blocks::Q5_0
                | Blocks::Q5_1
                | Blocks::Q2K
                | Blocks::Q3K
                | Blocks::Q4K
                | Blocks::Q5K
                | Blocks::Q6K,
            ) => return None,
        }
        Some(lanes.iter().sum::<f32>() + rest)
    }
}

#[inline(always)]
fn add_nibbles(lanes: &mut [f32; LANES], bytes: &[u8], d: f32, x: &[f32; BLOCK]) {
    for i in 0..LANES {
        let pair = f32::from(bytes[i] & 15) * x[i] + f32::from(bytes[i] >> 4) * x[LANES + i];
        lanes[i] += d * pair;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::quantized::QTensor;
    use candle_core::{Device, Tensor};

    const ALL: [GgmlDType; 13] = [
        GgmlDType::F32,
        GgmlDType::F16,
        GgmlDType::BF16,
        GgmlDType::Q8_0,
        GgmlDType::Q4_0,
        GgmlDType::Q4_1,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::Q2K,
        GgmlDType::Q3K,
        GgmlDType::Q4K,
        GgmlDType::Q5K,
        GgmlDType::Q6K,
    ];

    /// Rows of 512 numbers of every size and sign, quantised by candle: what they are now, and the bytes.
    fn stored(dtype: GgmlDType, n_rows: usize) -> (Vec<f32>, Numbers) {
        let numbers: Vec<f32> = (0..n_rows * 512)
            .map(|i| ((i * 7919 % 1013) as f32 / 506.0 - 1.0) * 2.0_f32.powi((i / 64 % 9) as i32 - 6))
            .collect();
        let tensor = Tensor::from_vec(numbers, (n_rows, 512), &Device::Cpu).unwrap();
        let quantised = QTensor::quantize(&tensor, dtype).unwrap();
        let want = quantised.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let bytes = quantised.data().unwrap().to_vec();
        let (all, kind) = (0..bytes.len(), Kind::of_gguf(dtype).unwrap());
        (want, Numbers::new(Arc::new(FileBytes::Read(bytes)), all, kind, (n_rows, 512)).unwrap())
    }

    #[test]
    fn every_kind_is_decoded_as_candle_decodes_it_and_multiplied_as_it_is_decoded() {
        let x: Vec<f32> = (0..512).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        for dtype in ALL {
            let (want, numbers) = stored(dtype, 3);
            assert_eq!(numbers.all(), want, "{dtype:?}");
            let mut part = [0.0; 64];
            numbers.decode(1, 100..164, &mut part);
            assert_eq!(part, want[512 + 100..512 + 164], "{dtype:?}");
            assert_eq!(numbers.not_finite(), None);
            for row in 0..3 {
                let exact: f64 =
                    want[row * 512..][..512].iter().zip(&x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
                let size: f64 = want[row * 512..][..512]
                    .iter()
                    .zip(&x)
                    .map(|(&w, &x)| (f64::from(w) * f64::from(x)).abs())
                    .sum();
                let one = [numbers.prepare(&x)];
                let two = [numbers.prepare(&x), numbers.prepare(&x)];
                let (mut alone, mut both) = ([0.0], [0.0; 2]);
                numbers.dots(row, 0..512, &one, &mut alone);
                numbers.dots(row, 0..512, &two, &mut both);
                // Rounding of sums of some hundred numbers.
                for got in alone.into_iter().chain(both) {
                    assert!((f64::from(got) - exact).abs() < 1e-6 * size, "{dtype:?}: {got} for {exact}");
                }
            }
        }
    }

    #[test]
    fn a_number_that_is_not_finite_is_found_in_every_kind() {
        for dtype in ALL {
            let (_, numbers) = stored(dtype, 2);
            let (kind, mut bytes) = (numbers.kind, numbers.file.all().to_vec());
            let at = bytes.len() - kind.block_bytes()
                + match kind {
                    Kind::F32 | Kind::F16 | Kind::Bf16 => 0,
                    Kind::Blocks(blocks) => blocks.scales()[0],
                };
            let infinite: &[u8] = match kind {
                Kind::F32 => &[0, 0, 0x80, 0x7f],
                Kind::Bf16 => &[0x80, 0x7f],
                Kind::F16 | Kind::Blocks(_) => &[0, 0x7c],
            };
            bytes[at..at + infinite.len()].copy_from_slice(infinite);
            let all = 0..bytes.len();
            let numbers = Numbers::new(Arc::new(FileBytes::Read(bytes)), all, kind, (2, 512)).unwrap();
            let (found, value) = numbers.not_finite().unwrap();
            assert_eq!(found, 2 * 512 - kind.block(), "{dtype:?}");
            assert!(!value.is_finite());
        }
    }

    #[test]
    fn bytes_that_are_not_whole_blocks_are_no_numbers() {
        let file = Arc::new(FileBytes::Read(vec![0; 40]));
        assert!(Numbers::new(file.clone(), 0..40, Kind::Blocks(Blocks::Q4_1), (2, 32)).is_some());
        assert!(Numbers::new(file.clone(), 0..40, Kind::Blocks(Blocks::Q4_1), (1, 33)).is_none());
        assert!(Numbers::new(file.clone(), 0..38, Kind::Blocks(Blocks::Q4_1), (2, 32)).is_none());
        assert!(Numbers::new(file, 20..60, Kind::Blocks(Blocks::Q4_1), (2, 32)).is_none());
    }
}
