//! The 3x3 patches of images: a convolution is a product with them.

use ndarray::{Array2, ArrayView2};

use crate::num::Real;

/// The size of images, and whether a rim of zeros is put around them, so that there are as many patches as pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
    /// Whether patches reach over the rim.
    pub padded: bool,
}

impl Grid {
    /// Says how many rows and columns of patches there are. Panics if not padded and smaller than a patch.
    pub fn n_patches(&self) -> (usize, usize) {
        let lost = if self.padded { 0 } else { 2 };
        (self.height - lost, self.width - lost)
    }

    /// Calls `each` with every stretch of numbers that patches share with pixels of `channels` numbers each: where it
    /// begins among the numbers of the patches and among those of the pixels, and how long it is. Three pixels of a row
    /// lie side by side in both.
    fn for_stretches(&self, n_images: usize, channels: usize, mut each: impl FnMut(usize, usize, usize)) {
        let (rows, columns) = self.n_patches();
        let rim = usize::from(self.padded);
        for (image, i) in (0..n_images).flat_map(|image| (0..rows).map(move |i| (image, i))) {
            for di in 0..3 {
                let Some(y) = (i + di).checked_sub(rim).filter(|&y| y < self.height) else { continue };
                for j in 0..columns {
                    // The first pixel of the patch's row that is none of the rim.
                    let skipped = rim.saturating_sub(j);
                    let x = j + skipped - rim;
                    let n = (3 - skipped).min(self.width - x);
                    let patch = ((image * rows + i) * columns + j) * 9 + di * 3 + skipped;
                    let pixel = (image * self.height + y) * self.width + x;
                    each(patch * channels, pixel * channels, n * channels);
                }
            }
        }
    }
}

/// Turns `x: [image · height · width, channel]` into the patches around every pixel, `[image · rows · columns, 9 ·
/// channel]`, the patch's pixels row by row. A convolution is [`linear`](super::linear) of them.
///
/// ```
/// use onelens::{ndarray::Array2, nn::{Grid, patches}};
/// // A single image of one pixel: its patch is the rim, and the pixel in the middle.
/// let grid = Grid { height: 1, width: 1, padded: true };
/// let patch = patches(Array2::from_elem((1, 1), 7.0).view(), grid);
/// assert_eq!(patch.row(0).to_vec(), [0., 0., 0., 0., 7., 0., 0., 0., 0.]);
/// ```
pub fn patches<F: Real>(x: ArrayView2<F>, grid: Grid) -> Array2<F> {
    let (n_images, channels) = (x.nrows() / (grid.height * grid.width), x.ncols());
    let (rows, columns) = grid.n_patches();
    let mut out = Array2::zeros((n_images * rows * columns, 9 * channels));
    let x = x.as_standard_layout();
    let (from, to) = (x.as_slice().expect("contiguous"), out.as_slice_mut().expect("contiguous"));
    grid.for_stretches(n_images, channels, |patch, pixel, n| {
        to[patch..patch + n].copy_from_slice(&from[pixel..pixel + n]);
    });
    out
}

/// Computes `dx` from the gradient of the patches: each pixel gathers from every patch that it is in.
pub fn patches_backward<F: Real>(dpatches: ArrayView2<F>, grid: Grid) -> Array2<F> {
    let (rows, columns) = grid.n_patches();
    let (n_images, channels) = (dpatches.nrows() / (rows * columns), dpatches.ncols() / 9);
    let mut dx = Array2::zeros((n_images * grid.height * grid.width, channels));
    let dpatches = dpatches.as_standard_layout();
    let (from, to) = (dpatches.as_slice().expect("contiguous"), dx.as_slice_mut().expect("contiguous"));
    grid.for_stretches(n_images, channels, |patch, pixel, n| {
        to[pixel..pixel + n].iter_mut().zip(&from[patch..patch + n]).for_each(|(dx, &d)| *dx += d);
    });
    dx
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_holds_the_pixels_around_and_zeros_beyond_the_rim() {
        for (height, width, padded) in
            [(4, 5, true), (1, 1, true), (2, 1, true), (1, 4, true), (3, 3, false), (5, 4, false)]
        {
            let (n_images, channels) = (2, 3);
            let grid = Grid { height, width, padded };
            let x = Array2::from_shape_fn((n_images * height * width, channels), |(i, c)| {
                (1 + i * channels + c) as f64
            });
            let (rows, columns) = grid.n_patches();
            let got = patches(x.view(), grid);
            let want = Array2::from_shape_fn((n_images * rows * columns, 9 * channels), |(patch, number)| {
                let (image, i, j) = (patch / (rows * columns), patch / columns % rows, patch % columns);
                let (di, dj, c) = (number / channels / 3, number / channels % 3, number % channels);
                let rim = usize::from(padded);
                let (y, at) = ((i + di).wrapping_sub(rim), (j + dj).wrapping_sub(rim));
                if y < height && at < width { x[((image * height + y) * width + at, c)] } else { 0.0 }
            });
            assert_eq!(got, want, "{grid:?}");
            // Linear, so that its transpose is its gradient: <patches(x), p> = <x, patches_backward(p)>.
            let p = Array2::from_shape_fn(want.dim(), |(i, j)| ((i * 7 + j * 5) % 11) as f64);
            assert_eq!((&want * &p).sum(), (&x * &patches_backward(p.view(), grid)).sum(), "{grid:?}");
        }
    }
}
