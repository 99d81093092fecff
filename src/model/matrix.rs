//! A matrix of weights: `f32` of its own, or as a file stores it.

use std::borrow::Cow;
use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, OnceLock};

use ndarray::{Array2, ArrayView1, ArrayView2, Axis, s};
use rayon::prelude::*;

use super::numbers::Numbers;
use crate::nn::linear_in;
use crate::num::{Precision, ROWS_TURNED_TOGETHER, matmul, turn};

/// A matrix of weights, `[in, out]`: `f32` of its own, or as a file stores it (`bf16`, `f16`, quantised), which takes
/// no more memory than the file does.
///
/// It reads and writes as an [`Array2`]: the first look at a stored matrix expands it to `f32`, and a change makes it
/// one of its own. A clone of a stored matrix is as it was stored, without the expansion. A pass through the network
/// expands block by block and keeps nothing.
///
/// ```
/// use onelens::{model::Matrix, ndarray::array};
/// let mut w = Matrix::from(array![[1.0, 2.0], [3.0, 4.0]]);
/// w *= 2.0;
/// assert_eq!((w[(1, 0)], w.stored_as()), (6.0, "f32"));
/// ```
#[derive(Clone)]
pub struct Matrix(Repr);

#[derive(Clone)]
enum Repr {
    Own(Array2<f32>),
    Stored(Stored),
}

/// A part of a stored tensor.
struct Stored {
    numbers: Numbers,
    /// Which rows of the tensor, in which order; all of them as they come, if there is no list.
    rows: Option<Arc<[u32]>>,
    /// Which columns of the tensor.
    columns: Range<usize>,
    /// Whether the tensor holds `[out, in]`.
    transposed: bool,
    /// The numbers as `f32`, `[in, out]` in whichever order they lie in memory.
    expanded: OnceLock<Array2<f32>>,
}

impl Clone for Stored {
    fn clone(&self) -> Self {
        Stored {
            numbers: self.numbers.clone(),
            rows: self.rows.clone(),
            columns: self.columns.clone(),
            transposed: self.transposed,
            expanded: OnceLock::new(),
        }
    }
}

/// From how many rows of input on it pays to expand a matrix for a product, instead of reading it as it is stored.
pub(super) const EXPAND_FROM: usize = 8;
/// Rows of a stored matrix that one task decodes.
const ROWS_AT_A_TIME: usize = 64;
/// Columns that become rows together, each in a page of its own: those that a processor finds at once are so many.
const COLUMNS_AT_A_TIME: usize = 64;

impl Stored {
    fn n_rows(&self) -> usize {
        self.rows.as_ref().map_or(self.numbers.n_rows(), |rows| rows.len())
    }

    /// Which row of the tensor is this row of the matrix.
    fn row(&self, i: usize) -> usize {
        self.rows.as_ref().map_or(i, |rows| rows[i] as usize)
    }

    /// Whether so few rows read the weights where they lie: a single row always, up to [`EXPAND_FROM`] where they would
    /// have to be expanded.
    fn is_read_by(&self, n_rows: usize) -> bool {
        let most = if self.direct().is_some() { 2 } else { EXPAND_FROM };
        n_rows < most && self.expanded.get().is_none()
    }

    /// How many stored columns become rows together: whole blocks, and few enough that the rows are in few pages.
    fn turned_together(&self) -> usize {
        let width = self.numbers.block().max(COLUMNS_AT_A_TIME);
        if self.columns.start.is_multiple_of(width) { width } else { self.columns.len() }
    }

    /// These stored rows in some columns of the matrix, the other way round: `to` is `[columns, rows]`. Row by row is
    /// how products want their weights, which would otherwise turn them over once for every part of a batch.
    fn turn(&self, rows: Range<usize>, columns: Range<usize>, to: &mut [f32]) {
        let (n_rows, n_columns) = (rows.len(), columns.len());
        let columns = self.columns.start + columns.start..self.columns.start + columns.end;
        let mut band = vec![0.0; ROWS_TURNED_TOGETHER * n_columns];
        let mut stored = Vec::with_capacity(ROWS_TURNED_TOGETHER);
        for first in (0..n_rows).step_by(ROWS_TURNED_TOGETHER) {
            let width = ROWS_TURNED_TOGETHER.min(n_rows - first);
            stored.clear();
            stored.extend((first..first + width).map(|i| self.row(rows.start + i)));
            self.numbers.decode_rows(&stored, columns.clone(), &mut band[..width * n_columns]);
            turn(&mut to[first..], n_rows, &band, n_columns, width, n_columns);
        }
    }

    /// These stored rows the other way round, `[columns, rows]`.
    fn turned(&self, rows: Range<usize>) -> Array2<f32> {
        let mut out = Array2::<f32>::zeros((self.columns.len(), rows.len()));
        let flat = out.as_slice_mut().expect("a new array lies in one piece");
        let together = self.turned_together();
        for (i, to) in flat.chunks_mut((together * rows.len()).max(1)).enumerate() {
            let columns = i * together..i * together + to.len() / rows.len();
            self.turn(rows.clone(), columns, to);
        }
        out
    }

    /// How many numbers [`fill`](Stored::fill) fills at a time.
    fn numbers_at_a_time(&self) -> usize {
        let rows = if self.transposed { self.turned_together() } else { ROWS_AT_A_TIME };
        (rows * self.dim().1).max(1)
    }

    /// Part `i` of the numbers, `[in, out]`.
    fn fill(&self, i: usize, to: &mut [f32]) {
        let width = self.dim().1;
        let first = i * self.numbers_at_a_time() / width;
        if self.transposed {
            // So that what is written line by line, page after page, is in a cache: numbers in a row come there sooner.
            // Not by `fill`, which is compiled by itself and with the oldest instructions.
            to.iter_mut().for_each(|x| *x = 0.0);
            return self.turn(0..width, first..first + to.len() / width, to);
        }
        for (row, to) in to.chunks_exact_mut(width).enumerate() {
            self.numbers.decode(self.row(first + row), self.columns.clone(), to);
        }
    }

    /// All of it, `[in, out]`. On one thread: who expands holds a lock, and a thread that takes on other work meanwhile
    /// could come to wait for itself.
    fn in_our_order(&self) -> Array2<f32> {
        let mut out = Array2::<f32>::zeros(self.dim());
        let flat = out.as_slice_mut().expect("a new array lies in one piece");
        flat.chunks_mut(self.numbers_at_a_time()).enumerate().for_each(|(i, to)| self.fill(i, to));
        out
    }

    /// The same on all threads, for a matrix that nobody else has yet, into `spare` if that is of its size.
    fn expand_on_all(&self, spare: Option<Array2<f32>>) {
        let spare = spare.filter(|spare| spare.dim() == self.dim());
        let mut out = spare.unwrap_or_else(|| Array2::zeros(self.dim()));
        let flat = out.as_slice_mut().expect("a new array lies in one piece");
        flat.par_chunks_mut(self.numbers_at_a_time()).enumerate().for_each(|(i, to)| self.fill(i, to));
        self.expanded.get_or_init(|| out);
    }

    /// The numbers where they lie, if they are `f32` and wanted in this order.
    fn direct(&self) -> Option<ArrayView2<'_, f32>> {
        let all = self.rows.is_none().then(|| self.numbers.as_f32())??;
        let all = ArrayView2::from_shape((self.n_rows(), self.numbers.n_columns()), all).ok()?;
        let part = all.slice_move(s![.., self.columns.clone()]);
        Some(if self.transposed { part.reversed_axes() } else { part })
    }

    fn expand(&self) -> &Array2<f32> {
        self.expanded.get_or_init(|| self.in_our_order())
    }

    fn dim(&self) -> (usize, usize) {
        let (rows, columns) = (self.n_rows(), self.columns.len());
        if self.transposed { (columns, rows) } else { (rows, columns) }
    }

    /// `y = x W`, or `x Wᵀ`, for a few rows of `x`, without expanding `W`.
    fn product(&self, x: ArrayView2<f32>, of_transpose: bool) -> Array2<f32> {
        let (d_in, d_out) = if of_transpose { (self.dim().1, self.dim().0) } else { self.dim() };
        let x = x.as_standard_layout();
        let x = x.as_slice().expect("standard layout");
        let mut y = Array2::<f32>::zeros((x.len() / d_in.max(1), d_out));
        if self.transposed != of_transpose {
            // A stored row is all that an output reads.
            let prepared: Vec<_> = x.chunks_exact(d_in).map(|x| self.numbers.prepare(x)).collect();
            let mut columns = Array2::<f32>::zeros((d_out, prepared.len()));
            let flat = columns.as_slice_mut().expect("new arrays are contiguous");
            flat.par_chunks_mut(prepared.len() * ROWS_AT_A_TIME).enumerate().for_each(|(chunk, to)| {
                for (i, to) in to.chunks_exact_mut(prepared.len()).enumerate() {
                    let row = self.row(chunk * ROWS_AT_A_TIME + i);
                    self.numbers.dots(row, self.columns.clone(), &prepared, to);
                }
            });
            y.assign(&columns.t());
        } else {
            let mut weights = vec![0.0; d_out];
            for i in 0..d_in {
                self.numbers.decode(self.row(i), self.columns.clone(), &mut weights);
                for (mut y, x) in y.rows_mut().into_iter().zip(x.chunks_exact(d_in)) {
                    y.scaled_add(x[i], &ArrayView1::from(&weights[..]));
                }
            }
        }
        y
    }
}

impl Matrix {
    /// A stored tensor as a matrix; `transposed` says that it holds `[out, in]`.
    pub(crate) fn stored(numbers: Numbers, transposed: bool) -> Self {
        let columns = 0..numbers.n_columns();
        Matrix(Repr::Stored(Stored { numbers, rows: None, columns, transposed, expanded: OnceLock::new() }))
    }

    /// These rows of the stored tensor, in this order.
    pub(crate) fn with_rows(self, rows: Vec<u32>) -> Self {
        match self.0 {
            Repr::Own(all) => {
                let rows: Vec<usize> = rows.into_iter().map(|row| row as usize).collect();
                Matrix(Repr::Own(all.select(Axis(0), &rows)))
            }
            Repr::Stored(stored) => Matrix(Repr::Stored(Stored { rows: Some(rows.into()), ..stored })),
        }
    }

    /// These columns of the stored tensor.
    pub(crate) fn with_columns(self, columns: Range<usize>) -> Self {
        match self.0 {
            Repr::Own(all) => Matrix(Repr::Own(all.slice(s![.., columns]).to_owned())),
            Repr::Stored(stored) => Matrix(Repr::Stored(Stored { columns, ..stored })),
        }
    }

    /// Returns the widths, `(in, out)`.
    pub fn dim(&self) -> (usize, usize) {
        match &self.0 {
            Repr::Own(own) => own.dim(),
            Repr::Stored(stored) => stored.dim(),
        }
    }

    /// Returns the number of weights.
    pub fn len(&self) -> usize {
        let (rows, columns) = self.dim();
        rows * columns
    }

    /// Tells whether there are no weights.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Says how the weights are stored: `f32`, `f16`, `bf16`, or a kind of GGUF's such as `q4_1`.
    pub fn stored_as(&self) -> &'static str {
        match &self.0 {
            Repr::Own(_) => "f32",
            Repr::Stored(stored) => stored.numbers.kind_name(),
        }
    }

    /// Returns how many bytes the weights take as they are kept, in memory or in the mapped file.
    pub fn n_bytes(&self) -> usize {
        match &self.0 {
            Repr::Own(own) => 4 * own.len(),
            Repr::Stored(stored) => stored.n_rows() * stored.numbers.bytes_of(stored.columns.len()),
        }
    }

    /// Views the numbers as `f32`. A stored matrix is expanded at the first look, unless its file holds `f32`.
    pub fn view(&self) -> ArrayView2<'_, f32> {
        match &self.0 {
            Repr::Own(own) => own.view(),
            Repr::Stored(stored) => stored.direct().unwrap_or_else(|| stored.expand().view()),
        }
    }

    /// Whether [`view`](Matrix::view) has to expand it.
    pub(crate) fn is_packed(&self) -> bool {
        match &self.0 {
            Repr::Own(_) => false,
            Repr::Stored(stored) => stored.direct().is_none() && stored.expanded.get().is_none(),
        }
    }

    /// Expands it on all threads, where [`view`](Matrix::view) would have to; for a matrix that nobody else has yet.
    /// `spare` is memory to use again.
    pub(super) fn expand(&self, spare: Option<Array2<f32>>) {
        match &self.0 {
            Repr::Own(_) => {}
            Repr::Stored(stored) if self.is_packed() => stored.expand_on_all(spare),
            Repr::Stored(_) => {}
        }
    }

    /// What it was expanded to.
    pub(super) fn into_expanded(self) -> Option<Array2<f32>> {
        match self.0 {
            Repr::Own(_) => None,
            Repr::Stored(stored) => stored.expanded.into_inner(),
        }
    }

    /// Makes the matrix `f32` of its own, row by row.
    pub(crate) fn make_own(&mut self) -> &mut Array2<f32> {
        if let Repr::Stored(stored) = &self.0 {
            self.0 = Repr::Own(stored.expand().as_standard_layout().into_owned());
        }
        match &mut self.0 {
            Repr::Own(own) => own,
            Repr::Stored(_) => unreachable!("it was just made one of its own"),
        }
    }

    /// The numbers row by row, expanded for this call alone where they are stored otherwise.
    pub(crate) fn flat(&self) -> Cow<'_, [f32]> {
        match &self.0 {
            Repr::Own(own) => match own.as_slice() {
                Some(flat) => Cow::Borrowed(flat),
                None => Cow::Owned(own.iter().copied().collect()),
            },
            Repr::Stored(stored) => Cow::Owned(stored.in_our_order().into_raw_vec_and_offset().0),
        }
    }

    /// Rows of an embedding, `[tokens, out]`, without expanding the others.
    pub(crate) fn gather(&self, rows: &[u32]) -> Array2<f32> {
        let mut out = Array2::<f32>::zeros((rows.len(), self.dim().1));
        for (mut to, &row) in out.rows_mut().into_iter().zip(rows) {
            match &self.0 {
                Repr::Own(own) => to.assign(&own.row(row as usize)),
                Repr::Stored(stored) if !stored.transposed => {
                    let to = to.as_slice_mut().expect("a row of a new array");
                    stored.numbers.decode(stored.row(row as usize), stored.columns.clone(), to);
                }
                Repr::Stored(stored) => to.assign(&stored.expand().row(row as usize)),
            }
        }
        out
    }

    /// Columns `range` of the matrix, or of its transpose, as `f32`: what an unembedding needs of a part of the
    /// vocabulary.
    pub(crate) fn columns(&self, range: Range<usize>, of_transpose: bool) -> Array2<f32> {
        let part = |all: &Array2<f32>| match of_transpose {
            true => all.slice(s![range.clone(), ..]).t().to_owned(),
            false => all.slice(s![.., range.clone()]).to_owned(),
        };
        match &self.0 {
            Repr::Own(own) => part(own),
            // Rows of the tensor as it lies there.
            Repr::Stored(stored) if stored.transposed != of_transpose => stored.turned(range),
            Repr::Stored(stored) => part(stored.expand()),
        }
    }

    /// `y = x W + b`: `x: [rows, in]`; returns `[rows, out]`. An empty `b` is no bias. A few rows read a stored matrix
    /// as it is, and exactly: what takes time is the reading.
    pub(crate) fn apply(&self, x: ArrayView2<f32>, b: ArrayView1<f32>, precision: Precision) -> Array2<f32> {
        match &self.0 {
            Repr::Stored(stored) if stored.is_read_by(x.nrows()) => {
                let mut y = stored.product(x, false);
                if !b.is_empty() {
                    y += &b;
                }
                y
            }
            Repr::Own(_) | Repr::Stored(_) => linear_in(x, self.view(), b, precision),
        }
    }
}

impl Matrix {
    /// `y = x Wᵀ`: a tied embedding as the unembedding.
    pub(crate) fn apply_transposed(&self, x: ArrayView2<f32>) -> Array2<f32> {
        match &self.0 {
            Repr::Stored(stored) if stored.is_read_by(x.nrows()) => stored.product(x, true),
            Repr::Own(_) | Repr::Stored(_) => matmul(x, self.view().reversed_axes()),
        }
    }
}

impl From<Array2<f32>> for Matrix {
    fn from(own: Array2<f32>) -> Self {
        // Without a copy where it lies row by row.
        Matrix(Repr::Own(if own.is_standard_layout() { own } else { own.as_standard_layout().into_owned() }))
    }
}

impl Deref for Matrix {
    type Target = Array2<f32>;

    fn deref(&self) -> &Array2<f32> {
        match &self.0 {
            Repr::Own(own) => own,
            Repr::Stored(stored) => stored.expand(),
        }
    }
}

impl DerefMut for Matrix {
    fn deref_mut(&mut self) -> &mut Array2<f32> {
        self.make_own()
    }
}

impl std::ops::MulAssign<f32> for Matrix {
    fn mul_assign(&mut self, factor: f32) {
        *self.make_own() *= factor;
    }
}

impl PartialEq for Matrix {
    fn eq(&self, other: &Self) -> bool {
        self.dim() == other.dim() && self.flat() == other.flat()
    }
}

impl std::fmt::Debug for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Repr::Own(own) => own.fmt(f),
            Repr::Stored(_) => {
                let (d_in, d_out) = self.dim();
                write!(f, "Matrix [{d_in}, {d_out}], stored as {}", self.stored_as())
            }
        }
    }
}
