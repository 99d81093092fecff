//! Generic code that nearly every notebook uses, compiled once here instead of in every cell.
//!
//! This crate is compiled at an optimisation level at which rustc shares generics, so a cell that adds two
//! `Array2<f64>` finds the addition in the image, optimised, and compiles none of ndarray.

use ndarray::{Array, Array1, Array2, Array3, Axis, Dimension, Ix1, Ix2, Ix3, RemoveAxis};
use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;

type Function = fn();

/// Never called; what it names is compiled.
pub fn keep() -> Vec<Function> {
    vec![
        floats::<f64>,
        floats::<f32>,
        collections,
    ]
}

trait Float: ndarray::NdFloat + ndarray::ScalarOperand + std::fmt::Debug + std::iter::Sum {}
impl Float for f32 {}
impl Float for f64 {}

#[inline(never)]
fn floats<F: Float>() {
    let one: Array1<F> = Array1::zeros(2);
    let two: Array2<F> = Array2::zeros((2, 2));
    let three: Array3<F> = Array3::zeros((2, 2, 2));
    arithmetic::<F, Ix1>(&one);
    arithmetic::<F, Ix2>(&two);
    arithmetic::<F, Ix3>(&three);
    reductions::<F, Ix2>(&two);
    reductions::<F, Ix3>(&three);
    black_box((one.sum(), one.mean(), one.dot(&one), two.dot(&two), two.dot(&one), two.t().dot(&two)));
    black_box((two.row(0).to_owned(), two.column(0).to_owned(), two.nrows(), two.ncols()));
    black_box((Array2::<F>::eye(2), Array2::<F>::ones((2, 2)), Array1::<F>::linspace(F::zero(), F::one(), 2)));
    black_box((Array2::<F>::from_shape_vec((1, 1), vec![F::one()]), Array1::<F>::from_vec(vec![F::one()])));
    black_box((&two + &one, &two - &one, &two * &one, &two / &one));
    black_box((one.to_vec(), two.to_owned(), one[0], two[[0, 0]], three[[0, 0, 0]]));
    black_box((one.iter().sum::<F>(), two.outer_iter().count(), two.rows().into_iter().count()));
}

#[inline(never)]
fn arithmetic<F: Float, D: Dimension>(a: &Array<F, D>) {
    black_box((a + a, a - a, a * a, a / a, -a));
    black_box((a + F::one(), a - F::one(), a * F::one(), a / F::one()));
    black_box((a.clone() + a, a.clone() - a, a.clone() * a, a.clone() / a));
    black_box((a.clone() + F::one(), a.clone() - F::one(), a.clone() * F::one(), a.clone() / F::one()));
    black_box((a.sum(), a.mean(), a.std(F::zero()), a.clone(), a.view(), a.len(), a.shape(), a.iter().count()));
    let mut b = a.clone();
    b += a;
    b -= a;
    b *= F::one();
    b /= F::one();
    b.fill(F::one());
    black_box(format!("{b:?} {b}"));
    black_box(b == *a);
}

#[inline(never)]
fn reductions<F: Float, D: Dimension + RemoveAxis>(a: &Array<F, D>) {
    black_box((a.sum_axis(Axis(0)), a.mean_axis(Axis(0)), a.index_axis(Axis(0), 0).to_owned()));
}

#[inline(never)]
fn collections() {
    black_box(format!(
        "{:?} {:?} {:?} {:?}",
        vec![0.0f64],
        vec![0.0f32],
        (vec![0i32], vec![0usize], vec![String::new()], vec![""]),
        (Some(0.0f64), Some(0i32), Some(String::new()))
    ));
    let mut v = vec![0.0f64];
    v.push(1.0);
    v.extend_from_slice(&[1.0]);
    v.extend(vec![1.0f64]);
    let mut w = vec![0i32];
    w.push(1);
    let mut u = vec![0usize];
    u.push(1);
    let mut s = vec![String::new()];
    s.push(String::new());
    black_box((v.clone(), w.clone(), u.clone(), s.clone(), s.join(" "), v.iter().sum::<f64>(), w.iter().sum::<i32>()));
    let mut m: HashMap<String, f64> = HashMap::new();
    m.insert(String::new(), 1.0);
    let mut b: BTreeMap<String, f64> = BTreeMap::new();
    b.insert(String::new(), 1.0);
    black_box(format!("{m:?} {b:?}"));
}
