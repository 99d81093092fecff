//! Labelled grey images: handwritten digits of 8x8 and of 28x28 pixels.

use std::io::Read;
use std::path::Path;

use ndarray::{Array2, Axis};

use crate::{Error, ErrorKind, Result};

/// Grey images with a label each.
#[derive(Clone, PartialEq)]
pub struct Images {
    /// `[image, height · width]`, row by row, from 0 to 1.
    pub pixels: Array2<f32>,
    /// One per image, below `n_classes`.
    pub labels: Vec<u32>,
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
    /// Number of different labels.
    pub n_classes: usize,
}

impl Images {
    /// Reads the digits of UCI's Optical Recognition data: a line for each image of 8x8 pixels, 64 numbers from 0 to
    /// 16, then the digit.
    pub fn digits(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = read(path)?;
        parse_digits(&bytes).map_err(|why| {
            refuse(path, &why, "each line is 64 numbers from 0 to 16 and a digit, with commas between them")
        })
    }

    /// Reads MNIST: a file of images and one of labels, in the IDX format, plain or compressed with gzip.
    pub fn mnist(images: impl AsRef<Path>, labels: impl AsRef<Path>) -> Result<Self> {
        let (images, labels) = (images.as_ref(), labels.as_ref());
        let help =
            "give the files of MNIST, such as `t10k-images-idx3-ubyte.gz` and `t10k-labels-idx1-ubyte.gz`";
        let (image_bytes, label_bytes) = (unpacked(images, 3)?, unpacked(labels, 1)?);
        let (shape, pixels) = idx(&image_bytes, 3).map_err(|why| refuse(images, &why, help))?;
        let (_, digits) = idx(&label_bytes, 1).map_err(|why| refuse(labels, &why, help))?;
        let [n, height, width] = shape[..] else { unreachable!("three axes were asked for") };
        if digits.len() != n {
            return Err(refuse(labels, &format!("holds {} labels for {n} images", digits.len()), help));
        }
        if let Some(label) = digits.iter().find(|&&l| l > 9) {
            return Err(refuse(labels, &format!("holds the label {label}, which is no digit"), help));
        }
        let pixels = pixels.iter().map(|&p| f32::from(p) / 255.0).collect();
        let pixels = Array2::from_shape_vec((n, height * width), pixels).expect("the length was checked");
        Ok(Images {
            pixels,
            labels: digits.iter().map(|&l| l.into()).collect(),
            height,
            width,
            n_classes: 10,
        })
    }

    /// Returns the number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Selects these images, in this order. Panics if there is no such image.
    pub fn select(&self, which: &[usize]) -> Self {
        Images {
            pixels: self.pixels.select(Axis(0), which),
            labels: which.iter().map(|&i| self.labels[i]).collect(),
            ..*self
        }
    }

    /// Splits off every fifth image to test with; the others are to train on.
    pub fn split(&self) -> (Self, Self) {
        let (test, train): (Vec<usize>, Vec<usize>) = (0..self.len()).partition(|i| i % 5 == 4);
        (self.select(&train), self.select(&test))
    }
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Images: {} of {}x{} pixels, {} classes",
            self.len(),
            self.height,
            self.width,
            self.n_classes
        )
    }
}

fn refuse(path: &Path, why: &str, help: &str) -> Error {
    Error::new(ErrorKind::File, format!("{} {why}", path.display()), help)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::unread(path, e))
}

/// Most bytes of numbers that a compressed file may say it holds: MNIST has 47 million.
const LARGEST: u64 = 1 << 30;

/// The bytes of an IDX file with `n_axes` axes. What is packed is unpacked as far as its header says, and one byte
/// more, so that a file that goes on is found out.
fn unpacked(path: &Path, n_axes: usize) -> Result<Vec<u8>> {
    let bytes = read(path)?;
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let cannot = |e: std::io::Error| {
        let what = format!("{} cannot be unpacked", path.display());
        Error::of_file(what, e, "was it cut off on the way? fetch it anew")
    };
    let mut from = flate2::read::GzDecoder::new(&bytes[..]);
    let mut out = Vec::new();
    (&mut from).take(4 + 4 * n_axes as u64).read_to_end(&mut out).map_err(cannot)?;
    if !out.starts_with(&magic(n_axes)) {
        return Ok(out);
    }
    let n = axes(&out, n_axes).iter().try_fold(1_u64, |n, &axis| n.checked_mul(axis as u64));
    if n.is_none_or(|n| n > LARGEST) {
        let what = format!("says that it holds {:?} bytes, more than {LARGEST}", axes(&out, n_axes));
        return Err(refuse(path, &what, "is it a file of MNIST? unpack it to use it all the same"));
    }
    from.take(n.unwrap_or(0) + 1).read_to_end(&mut out).map_err(cannot)?;
    Ok(out)
}

/// How an IDX file of bytes begins.
fn magic(n_axes: usize) -> [u8; 4] {
    [0, 0, 8, n_axes as u8]
}

/// The lengths of the axes in the header, big-endian numbers; fewer if it is cut off.
fn axes(bytes: &[u8], n_axes: usize) -> Vec<usize> {
    let lengths = bytes.get(4..).unwrap_or_default().as_chunks::<4>().0;
    lengths.iter().take(n_axes).map(|&b| u32::from_be_bytes(b) as usize).collect()
}

/// The lengths of the axes and the bytes of an IDX file: two zeros, the type (8: bytes), the number of axes, their
/// lengths as big-endian numbers, the data.
fn idx(bytes: &[u8], n_axes: usize) -> Result<(Vec<usize>, &[u8]), String> {
    let magic = magic(n_axes);
    if !bytes.starts_with(&magic) {
        return Err(format!("does not begin with {magic:?} as an IDX file with {n_axes} axes of bytes does"));
    }
    let data = bytes.get(4 + 4 * n_axes..).ok_or("is cut off in its header")?;
    let shape = axes(bytes, n_axes);
    let n = shape.iter().try_fold(1_usize, |n, &axis| n.checked_mul(axis));
    if n != Some(data.len()) || data.is_empty() {
        return Err(format!("says that it holds {shape:?} bytes and holds {}", data.len()));
    }
    Ok((shape, data))
}

fn parse_digits(bytes: &[u8]) -> Result<Images, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is no text".to_string())?;
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let numbers: Option<Vec<u8>> = line.split(',').map(|x| x.trim().parse::<u8>().ok()).collect();
        match numbers.as_deref() {
            Some([grey @ .., label]) if grey.len() == 64 && grey.iter().all(|&g| g <= 16) && *label <= 9 => {
                pixels.extend(grey.iter().map(|&g| f32::from(g) / 16.0));
                labels.push(u32::from(*label));
            }
            _ => return Err(format!("has a line {} that is no digit", n + 1)),
        }
    }
    if labels.is_empty() {
        return Err("has no line".into());
    }
    let pixels = Array2::from_shape_vec((labels.len(), 64), pixels).expect("64 for each label");
    Ok(Images { pixels, labels, height: 8, width: 8, n_classes: 10 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_idx_file_is_read_as_its_format_says() {
        let file = [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6];
        assert_eq!(idx(&file, 3).unwrap(), (vec![2, 1, 3], &[1, 2, 3, 4, 5, 6][..]));
        for len in 0..file.len() {
            assert!(idx(&file[..len], 3).is_err(), "{len} bytes");
        }
        let overflowing = [&[0, 0, 8, 3][..], &[255; 12], &[1]].concat();
        assert!(idx(&overflowing, 3).is_err());
        assert!(idx(&file, 1).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), text in "[0-9,\n -]{0,200}") {
            let magic = [&[0, 0, 8, 3][..], &bytes].concat();
            drop((idx(&bytes, 3), idx(&magic, 3), parse_digits(&bytes), parse_digits(text.as_bytes())));
        }
    }
}
