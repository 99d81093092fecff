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
    /// How many rows and columns of patches there are. Panics if not padded and smaller than a patch.
    pub fn n_patches(&self) -> (usize, usize) {
        let lost = if self.padded { 0 } else { 2 };
        (self.height - lost, self.width - lost)
    }

    /// Calls `each` with a row of patches and of pixels, and the number of the pixel in the patch, 0 to 8.
    fn for_pixels(&self, n_images: usize, mut each: impl FnMut(usize, usize, usize)) {
        let (rows, columns) = self.n_patches();
        let rim = usize::from(self.padded);
        for image in 0..n_images {
            for (i, j) in (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))) {
                for (at, (di, dj)) in (0..3).flat_map(|di| (0..3).map(move |dj| (di, dj))).enumerate() {
                    let (Some(y), Some(x)) = ((i + di).checked_sub(rim), (j + dj).checked_sub(rim)) else {
                        continue;
                    };
                    if y < self.height && x < self.width {
                        let pixel = (image * self.height + y) * self.width + x;
                        each((image * rows + i) * columns + j, pixel, at);
                    }
                }
            }
        }
    }
}

/// `x: [image · height · width, channel]` to the patches around every pixel, `[image · rows · columns, 9 · channel]`, the
/// patch's pixels row by row. A convolution is [`linear`](super::linear) of them.
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
    grid.for_pixels(n_images, |patch, pixel, at| {
        for channel in 0..channels {
            out[(patch, at * channels + channel)] = x[(pixel, channel)];
        }
    });
    out
}

/// `dx` from the gradient of the patches: each pixel gathers from every patch that it is in.
pub fn patches_backward<F: Real>(dpatches: ArrayView2<F>, grid: Grid) -> Array2<F> {
    let (rows, columns) = grid.n_patches();
    let (n_images, channels) = (dpatches.nrows() / (rows * columns), dpatches.ncols() / 9);
    let mut dx = Array2::zeros((n_images * grid.height * grid.width, channels));
    grid.for_pixels(n_images, |patch, pixel, at| {
        for channel in 0..channels {
            dx[(pixel, channel)] += dpatches[(patch, at * channels + channel)];
        }
    });
    dx
}
