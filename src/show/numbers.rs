//! Whatever holds numbers, as an array of `f64`: arrays and views of any shape, slices, lists.

use ndarray::{Array1, ArrayBase, ArrayD, Data, Dimension};

/// A number that a chart can have: floats, and whole numbers of any width.
pub trait Number: Copy {
    /// The same number, or the nearest that `f64` has.
    fn to_f64(self) -> f64;
}

macro_rules! number {
    ($($number:ty)*) => {
        $(impl Number for $number {
            fn to_f64(self) -> f64 {
                self as f64
            }
        })*
    };
}

number!(f32 f64 u8 u16 u32 u64 usize i8 i16 i32 i64 isize);

/// Numbers to draw: an array or a view of any shape, a slice, a `Vec`, a list; itself or by reference.
///
/// ```
/// use ndarray::array;
/// use onelens::show::Numbers;
/// let weights = array![[1.0_f32, 2.0], [3.0, 4.0]];
/// assert_eq!(weights.numbers(), array![[1.0, 2.0], [3.0, 4.0]].into_dyn());
/// assert_eq!(weights.row(1).numbers(), vec![3, 4].numbers());
/// ```
pub trait Numbers {
    /// A copy in `f64`, of the same shape; slices and lists have one axis.
    fn numbers(&self) -> ArrayD<f64>;
}

impl<T: Number> Numbers for [T] {
    fn numbers(&self) -> ArrayD<f64> {
        self.iter().map(|x| x.to_f64()).collect::<Array1<f64>>().into_dyn()
    }
}

impl<T: Number> Numbers for Vec<T> {
    fn numbers(&self) -> ArrayD<f64> {
        self.as_slice().numbers()
    }
}

impl<T: Number, const N: usize> Numbers for [T; N] {
    fn numbers(&self) -> ArrayD<f64> {
        self.as_slice().numbers()
    }
}

impl<S: Data<Elem: Number>, D: Dimension> Numbers for ArrayBase<S, D> {
    fn numbers(&self) -> ArrayD<f64> {
        self.mapv(Number::to_f64).into_dyn()
    }
}

impl<N: Numbers + ?Sized> Numbers for &N {
    fn numbers(&self) -> ArrayD<f64> {
        (**self).numbers()
    }
}
