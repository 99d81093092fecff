//! The widest vector instructions this machine has, for loops over elements.

/// Runs `loop_` compiled for the vector instructions found at run time, instead of the oldest ones that a portable build
/// has to assume. Worth it for plain loops over slices, whose bodies the compiler can see through.
///
/// ```
/// let mut x = [1.0_f32, 4.0];
/// onelens::num::wide(|| x.iter_mut().for_each(|x| *x = x.sqrt()));
/// assert_eq!(x, [1.0, 2.0]);
/// ```
#[inline]
pub fn wide<R>(loop_: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(loop_)
}
