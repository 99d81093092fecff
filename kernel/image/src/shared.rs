//! Generic code that nearly every notebook uses, compiled once here instead of in every cell.
//!
//! This crate is compiled at an optimisation level at which rustc shares generics, so a cell that adds two
//! `Array2<f64>` finds the addition in the image, optimised, and compiles none of ndarray.

use ndarray::{Array1, Array2, Array3, Axis};
use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;

/// Never called; what it names is compiled.
pub fn keep() -> Vec<fn()> {
    vec![f32::arrays, f64::arrays, collections]
}

trait Arrays {
    fn arrays();
}

macro_rules! arithmetic {
    ($a:expr, $one:expr) => {{
        let a = black_box($a);
        black_box((&a + &a, &a - &a, &a * &a, &a / &a, -&a));
        black_box((&a + $one, &a - $one, &a * $one, &a / $one));
        black_box(($one * &a, $one + &a, $one - &a));
        black_box((a.clone() + &a, a.clone() - &a, a.clone() * &a, a.clone() / &a));
        black_box((a.clone() + a.clone(), a.clone() - a.clone(), a.clone() * a.clone()));
        black_box((a.clone() + $one, a.clone() - $one, a.clone() * $one, a.clone() / $one));
        black_box((a.sum(), a.mean(), a.std($one), a.view(), a.len(), a.shape(), a.iter().count()));
        black_box((a.dim(), a == a.clone()));
        let mut b = a.clone();
        b += &a;
        b -= &a;
        b *= $one;
        b /= $one;
        b.fill($one);
        black_box(format!("{b:?} {b}"));
    }};
}

macro_rules! arrays {
    ($float:ty) => {
        impl Arrays for $float {
            fn arrays() {
                let one: Array1<$float> = Array1::zeros(2);
                let two: Array2<$float> = Array2::zeros((2, 2));
                let three: Array3<$float> = Array3::zeros((2, 2, 2));
                arithmetic!(one.clone(), 1.0 as $float);
                arithmetic!(two.clone(), 1.0 as $float);
                arithmetic!(three.clone(), 1.0 as $float);
                black_box((
                    one.dot(&one),
                    two.dot(&two),
                    two.dot(&one),
                    two.t().dot(&two),
                    two.dot(&two.t()),
                ));
                black_box((two.sum_axis(Axis(0)), two.mean_axis(Axis(0)), three.sum_axis(Axis(0))));
                black_box((two.row(0).to_owned(), two.column(0).to_owned(), two.nrows(), two.ncols()));
                black_box((three.index_axis(Axis(0), 0).to_owned(), two.outer_iter().count()));
                black_box((Array2::<$float>::eye(2), Array2::<$float>::ones((2, 2))));
                black_box((Array1::<$float>::linspace(0.0, 1.0, 2), Array1::<$float>::from_vec(vec![1.0])));
                let _ = black_box(Array2::<$float>::from_shape_vec((1, 1), vec![1.0]));
                black_box((&two + &one, &two - &one, &two * &one, &two / &one));
                black_box((one.to_vec(), two.to_owned(), one[0], two[[0, 0]], three[[0, 0, 0]]));
                black_box((one.iter().sum::<$float>(), one.t().to_owned(), two.t().to_owned()));
            }
        }
    };
}

arrays!(f32);
arrays!(f64);

fn collections() {
    let mut f = vec![0.0f64];
    f.push(1.0);
    f.extend_from_slice(&[1.0]);
    let mut i = vec![0i32];
    i.push(1);
    let mut u = vec![0usize];
    u.push(1);
    let mut s = vec![String::new()];
    s.push(String::new());
    let mut m: HashMap<String, f64> = HashMap::new();
    m.insert(String::new(), 1.0);
    let mut b: BTreeMap<String, f64> = BTreeMap::new();
    b.insert(String::new(), 1.0);
    black_box((f.clone(), i.clone(), u.clone(), s.clone(), s.join(" "), f.iter().sum::<f64>()));
    black_box(format!("{f:?} {i:?} {u:?} {s:?} {m:?} {b:?} {:?} {:?}", vec![""], vec![0.0f32]));
    black_box(format!("{:?} {:?} {:?}", Some(0.0f64), Some(0i32), Some(String::new())));
}
