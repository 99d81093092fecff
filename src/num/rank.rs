//! Rank correlation, of numbers and of square matrices.

use ndarray::Array2;

use super::{Rng, uniform_index};
use crate::{Error, ErrorKind, Result};

/// Computes Spearman's rank correlation; ties share the mean of their ranks. NaN where one side is all ties.
///
/// ```
/// use onelens::num::spearman;
/// assert_eq!(spearman(&[1.0, 2.0, 3.0], &[10.0, 200.0, 3000.0]), 1.0);
/// assert_eq!(spearman(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), -1.0);
/// // Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / √(4.5 · 5).
/// assert!((spearman(&[0.0, 1.0, 1.0, 2.0], &[1.0, 2.0, 3.0, 4.0]) - 0.9_f64.sqrt()).abs() < 1e-15);
/// ```
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    pearson(&ranks(a), &ranks(b))
}

fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(x, y)| f(x - ma, y - mb)).sum::<f64>();
    sum(&|x, y| x * y) / (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt()
}

/// Ranks from 1; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let same = order[start..].iter().take_while(|&&i| values[i] == values[order[start]]).count();
        let mean = start as f64 + (same as f64 + 1.0) / 2.0;
        order[start..start + same].iter().for_each(|&i| ranks[i] = mean);
        start += same;
    }
    ranks
}

/// What a Mantel test finds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mantel {
    /// Spearman's rank correlation of the entries off the diagonal.
    pub rho: f64,
    /// Share of permutations whose correlation is at least as far from 0, the identity counted in.
    pub p_value: f64,
    /// Permutations drawn.
    pub n_permutations: usize,
}

/// Runs Mantel's test (1967) of two matrices over the same objects, with rank correlation: entries of a matrix depend
/// on each other, so the objects are permuted, not the entries. Objects of `a` are permuted, rows and columns alike.
///
/// Fails on matrices that are not square, differ in size, or have fewer than four rows, of which there are too few
/// permutations.
///
/// ```
/// use onelens::{ndarray::Array2, num::{mantel, rng}};
/// let distance = Array2::from_shape_fn((8, 8), |(i, j)| (i as f64 - j as f64).abs());
/// let test = mantel(&distance, &(&distance * 2.0 + 1.0), 999, &mut rng(0, 0))?;
/// assert!((test.rho - 1.0).abs() < 1e-12 && test.p_value < 0.01);
/// # Ok::<(), onelens::Error>(())
/// ```
pub fn mantel(a: &Array2<f64>, b: &Array2<f64>, n_permutations: usize, rng: &mut Rng) -> Result<Mantel> {
    let n = a.nrows();
    if a.dim() != (n, n) || b.dim() != a.dim() || n < 4 {
        return Err(Error::new(
            ErrorKind::Shape,
            format!("Mantel's test cannot compare matrices of {:?} and {:?}", a.dim(), b.dim()),
            "pass two square matrices over the same objects, at least four",
        ));
    }
    let off = |m: &Array2<f64>| -> Vec<f64> {
        m.indexed_iter().filter(|((i, j), _)| i != j).map(|(_, &x)| x).collect()
    };
    let (ranks_a, ranks_b) = (ranks(&off(a)), ranks(&off(b)));
    let rho = pearson(&ranks_a, &ranks_b);
    // Ranks move with their entries, so they are found once.
    let mut ranked = Array2::zeros((n, n));
    let mut next = ranks_a.into_iter();
    for ((i, j), r) in ranked.indexed_iter_mut() {
        if i != j {
            *r = next.next().expect("one rank for each entry off the diagonal");
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    let mut as_far = 1;
    for _ in 0..n_permutations {
        (1..n).rev().for_each(|i| order.swap(i, uniform_index(rng, i + 1)));
        let moved = Array2::from_shape_fn((n, n), |(i, j)| ranked[(order[i], order[j])]);
        // Sums in another order differ in their last digits.
        as_far += usize::from(pearson(&off(&moved), &ranks_b).abs() >= rho.abs() - 1e-12);
    }
    Ok(Mantel { rho, p_value: as_far as f64 / (n_permutations + 1) as f64, n_permutations })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::{normal, rng};

    #[test]
    fn without_relation_mantels_p_value_is_uniform() {
        let mut random = rng(5, 0);
        let mut matrix = || Array2::from_shape_simple_fn((7, 7), || normal(&mut random));
        let pairs: Vec<_> = (0..200).map(|_| (matrix(), matrix())).collect();
        let low =
            pairs.iter().filter(|(a, b)| mantel(a, b, 99, &mut rng(6, 0)).unwrap().p_value <= 0.1).count();
        // Binomial with n = 200 and p = 0.1: 20 with a standard deviation of 4.2.
        assert!((4..=36).contains(&low), "{low} of 200");
    }

    #[test]
    fn of_24_permutations_of_four_objects_two_are_as_far_from_0_as_the_identity() {
        // The identity, and the reversal, which turns every rank round.
        let a = Array2::from_shape_fn((4, 4), |(i, j)| (10 * i + j) as f64);
        let test = mantel(&a, &a, 4799, &mut rng(7, 0)).unwrap();
        assert!((test.p_value - 2.0 / 24.0).abs() < 0.02, "{test:?}");
        assert!(mantel(&a, &Array2::zeros((4, 3)), 9, &mut rng(7, 0)).is_err());
        assert!(mantel(&Array2::zeros((3, 3)), &Array2::zeros((3, 3)), 9, &mut rng(7, 0)).is_err());
    }
}
