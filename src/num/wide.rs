//! The widest vector instructions this machine has, for loops over elements.

use super::Real;

/// Runs `loop_` compiled for the vector instructions found at run time, instead of the oldest ones that a portable
/// build has to assume. Worth it for plain loops over slices, whose bodies the compiler can see through.
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

/// Defines a function over slices that is compiled for the vector instructions found at run time.
///
/// As [`wide`], but certain: the compiler may leave a long closure out of line, and then it has the oldest
/// instructions.
macro_rules! wide_fn {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident<$life:lifetime, $float:ident>($($arg:ident: $type:ty),* $(,)?) $body:block
    ) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name<$life, $float: $crate::num::Real>($($arg: $type),*) {
            struct Loop<$life, $float> {
                $($arg: $type),*
            }
            impl<$life, $float: $crate::num::Real> pulp::NullaryFnOnce for Loop<$life, $float> {
                type Output = ();

                #[inline(always)]
                fn call(self) {
                    let Loop { $($arg),* } = self;
                    $body
                }
            }
            pulp::Arch::new().dispatch(Loop { $($arg),* });
        }
    };
}
pub(crate) use wide_fn;

// The loops here count: `zip` and `fold` may be left out of line, and then have the oldest instructions.

/// Sums that run in this many lanes at once, always in the same order, whatever instructions there are.
const LANES: usize = 16;

#[inline(always)]
fn sum_of_lanes<F: Real>(lanes: [F; LANES], rest: F) -> F {
    let mut lanes = lanes;
    let mut n = LANES;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
    }
    lanes[0] + rest
}

/// Appends `f(x, y)` for each number of `x` and the one of `y` at its place, without filling the memory first. Panics if
/// `y` has fewer.
#[allow(unsafe_code)]
#[inline(always)]
pub(crate) fn push_all<F: Real>(to: &mut Vec<F>, x: &[F], y: &[F], f: impl Fn(F, F) -> F) {
    let (n, y) = (x.len(), &y[..x.len()]);
    to.reserve(n);
    let new = &mut to.spare_capacity_mut()[..n];
    for i in 0..n {
        new[i].write(f(x[i], y[i]));
    }
    // SAFETY: room for `n` more was reserved, and each of them was just written.
    unsafe { to.set_len(to.len() + n) };
}

/// `Σ x`.
#[inline(always)]
pub(crate) fn sum<F: Real>(x: &[F]) -> F {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [F::zero(); LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += chunk[i];
        }
    }
    let mut sum_of_rest = F::zero();
    for &x in rest {
        sum_of_rest += x;
    }
    sum_of_lanes(lanes, sum_of_rest)
}

/// `Σ x y`.
#[inline(always)]
pub(crate) fn dot<F: Real>(x: &[F], y: &[F]) -> F {
    let ((x_chunks, x_rest), (y_chunks, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    let mut lanes = [F::zero(); LANES];
    for (chunk, x) in x_chunks.iter().enumerate() {
        let y = &y_chunks[chunk];
        for i in 0..LANES {
            lanes[i] += x[i] * y[i];
        }
    }
    let mut rest = F::zero();
    for (i, &x) in x_rest.iter().enumerate() {
        rest += x * y_rest[i];
    }
    sum_of_lanes(lanes, rest)
}

/// The largest number; minus infinity of none.
#[inline(always)]
pub(crate) fn largest<F: Real>(x: &[F]) -> F {
    let larger = |a: F, b: F| if b > a { b } else { a };
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [F::neg_infinity(); LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], chunk[i]);
        }
    }
    let mut n = LANES;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            lanes[i] = larger(lanes[i], lanes[i + n]);
        }
    }
    let mut largest = lanes[0];
    for &x in rest {
        largest = larger(largest, x);
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_is_the_function_of_both_at_each_place() {
        for n in [0_usize, 1, 128, 300] {
            let x: Vec<f64> = (0..n).map(|i| i as f64).collect();
            let y: Vec<f64> = x.iter().map(|x| 100.0 * x).collect();
            let mut to = vec![7.0];
            push_all(&mut to, &x, &y, |x, y| y - x);
            assert_eq!(to[0], 7.0);
            assert_eq!(to[1..], x.iter().map(|x| 99.0 * x).collect::<Vec<_>>());
        }
    }

    #[test]
    fn sums_in_lanes_are_the_sums_of_their_definition() {
        for n in [0_usize, 1, 15, 16, 17, 100] {
            // Small integers add without rounding, so that the order does not matter.
            let x: Vec<f64> = (0..n).map(|i| ((i * 7) % 11) as f64 - 5.0).collect();
            let y: Vec<f64> = (0..n).map(|i| ((i * 5) % 13) as f64 - 6.0).collect();
            assert_eq!(sum(&x), x.iter().sum::<f64>());
            assert_eq!(dot(&x, &y), x.iter().zip(&y).map(|(x, y)| x * y).sum::<f64>());
            assert_eq!(largest(&x), x.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        }
    }
}
