//! How far a row lies from a cloud of rows, and how well a score tells two groups apart.

use ndarray::{Array1, Array2, ArrayView1, Axis};

use super::{Cholesky, matmul};
use crate::{Error, ErrorKind, Result};

/// Computes the Mahalanobis distance of each row of `queries: [n, d]` from the mean of `reference: [m, d]`, `√((x - μ)ᵀ
/// Σ⁻¹ (x - μ))`, with `Σ = S / (m - 1)`.
///
/// Fails if the widths differ, there are fewer than `d + 1` rows of reference, or these vary in fewer than `d`
/// directions.
///
/// ```
/// use onelens::{ndarray::array, num::mahalanobis};
/// let reference = array![[-1.0], [0.0], [1.0]]; // mean 0, variance 1
/// assert!((mahalanobis(&reference, &array![[3.0]])?[0] - 3.0).abs() < 1e-12);
/// # Ok::<(), onelens::Error>(())
/// ```
pub fn mahalanobis(reference: &Array2<f64>, queries: &Array2<f64>) -> Result<Vec<f64>> {
    let (m, d) = reference.dim();
    check(reference, queries, d + 1)?;
    let mean = reference.mean_axis(Axis(0)).expect("there are rows");
    let centred = reference - &mean;
    let factor = Cholesky::new((matmul(centred.t(), centred.view()) / (m as f64 - 1.0)).view())?;
    let queries = queries - &mean;
    let solved = factor.solve(queries.t());
    Ok(queries.rows().into_iter().zip(solved.columns()).map(|(q, s)| q.dot(&s).max(0.0).sqrt()).collect())
}

/// Computes the local outlier factor of each row of `queries: [n, d]` among `reference: [m, d]` (Breunig et al. 2000),
/// with `k` neighbours: how much less dense the reference is around the query than around its neighbours. About 1
/// inside of a cloud, more outside. Queries are new rows, which are no neighbours of anything.
///
/// Fails if the widths differ, or `k` is 0 or not below the number of reference rows.
///
/// ```
/// use onelens::{ndarray::Array2, num::local_outlier_factor};
/// let line = Array2::from_shape_fn((9, 1), |(i, _)| i as f64);
/// let lof = local_outlier_factor(&line, &onelens::ndarray::array![[4.5], [20.0]], 2)?;
/// assert!((lof[0] - 1.0).abs() < 0.4 && lof[1] > 5.0);
/// # Ok::<(), onelens::Error>(())
/// ```
pub fn local_outlier_factor(reference: &Array2<f64>, queries: &Array2<f64>, k: usize) -> Result<Vec<f64>> {
    check(reference, queries, k + 1)?;
    if k == 0 {
        return Err(Error::new(
            ErrorKind::Config,
            "a local outlier factor with 0 neighbours has nothing to compare with",
            "use 20 neighbours, or about that",
        ));
    }
    // The k nearest rows of the reference with their distances, nearest first; a row is not its own neighbour.
    let nearest = |x: ArrayView1<f64>, but: Option<usize>| -> Vec<(usize, f64)> {
        let others = reference.rows().into_iter().enumerate().filter(|(i, _)| Some(*i) != but);
        let distance = |row: ArrayView1<f64>| (&row - &x).mapv(|e| e * e).sum().sqrt();
        let mut all: Vec<(usize, f64)> = others.map(|(i, row)| (i, distance(row))).collect();
        all.sort_by(|a, b| a.1.total_cmp(&b.1));
        all.truncate(k);
        all
    };
    let neighbours: Vec<Vec<(usize, f64)>> =
        reference.rows().into_iter().enumerate().map(|(i, row)| nearest(row, Some(i))).collect();
    let radius: Array1<f64> = neighbours.iter().map(|near| near[k - 1].1).collect();
    // Tiny, so that rows that are all the same have a finite density.
    let density = |near: &[(usize, f64)]| {
        let reach: f64 = near.iter().map(|&(i, distance)| distance.max(radius[i])).sum();
        1.0 / (reach / k as f64 + 1e-10)
    };
    let densities: Vec<f64> = neighbours.iter().map(|near| density(near)).collect();
    Ok(queries
        .rows()
        .into_iter()
        .map(|x| {
            let near = nearest(x, None);
            near.iter().map(|&(i, _)| densities[i]).sum::<f64>() / k as f64 / density(&near)
        })
        .collect())
}

fn check(reference: &Array2<f64>, queries: &Array2<f64>, at_least: usize) -> Result<()> {
    let (m, d) = reference.dim();
    if queries.ncols() != d {
        return Err(Error::new(
            ErrorKind::Shape,
            format!("rows of width {} cannot be compared with a reference of width {d}", queries.ncols()),
            "give both the same features",
        ));
    }
    if m < at_least {
        return Err(Error::new(
            ErrorKind::Data,
            format!("{m} rows of reference are too few for {d} features"),
            format!("give at least {at_least}; ten times that is better"),
        ));
    }
    match reference.iter().chain(queries).find(|x| !x.is_finite()) {
        None => Ok(()),
        Some(x) => Err(Error::new(
            ErrorKind::Numeric,
            format!("a feature is {x}"),
            "leave out rows with features that are not finite",
        )),
    }
}

/// Computes the area under the ROC curve: the chance that an anomalous score is above a normal one, ties counted half
/// (Mann & Whitney 1947). NaN without scores of either kind.
///
/// ```
/// assert_eq!(onelens::num::auroc(&[1.0, 2.0], &[2.0, 3.0]), 0.875); // of four pairs three are right and one ties
/// ```
pub fn auroc(normal: &[f64], anomalous: &[f64]) -> f64 {
    let mut won = 0.0;
    for a in anomalous {
        for n in normal {
            won += if a > n {
                1.0
            } else if a == n {
                0.5
            } else {
                0.0
            };
        }
    }
    won / (normal.len() * anomalous.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn local_outlier_factors_are_those_of_scikit_learn() {
        let reference =
            array![[0.0, 0.0], [1.0, 0.5], [0.5, 2.0], [2.0, 1.0], [3.0, 3.0], [2.5, 0.5], [4.0, 1.5]];
        let queries = array![[1.0, 1.0], [6.0, 6.0], [0.5, 2.5]];
        let found = local_outlier_factor(&reference, &queries, 3).unwrap();
        // scikit-learn 1.8.0: -LocalOutlierFactor(n_neighbors=3, novelty=True).fit(reference).score_samples(queries)
        for (found, want) in found.iter().zip(LOF) {
            assert!((found - want).abs() < 1e-9, "{found} and {want}");
        }
        assert!(local_outlier_factor(&reference, &queries, 7).is_err());
        assert!(local_outlier_factor(&reference, &queries, 0).is_err());
    }

    const LOF: [f64; 3] = [0.9576015334939388, 2.5347034406439466, 1.114710245459255];

    #[test]
    fn mahalanobis_distance_does_not_see_a_change_of_basis() {
        let x = array![[0.0, 1.0], [2.0, -1.0], [1.0, 3.0], [4.0, 0.5], [-1.0, -2.0]];
        let q = array![[1.0, 1.0], [5.0, -5.0]];
        let r = array![[2.0, 1.0], [-1.0, 3.0]];
        let (a, b) = (mahalanobis(&x, &q).unwrap(), mahalanobis(&x.dot(&r), &q.dot(&r)).unwrap());
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-10) && a[1] > a[0]);
        // The mean of the squares over the reference itself is d (m - 1) / m.
        let own = mahalanobis(&x, &x).unwrap();
        assert!((own.iter().map(|d| d * d).sum::<f64>() / 5.0 - 2.0 * 4.0 / 5.0).abs() < 1e-10);
        let flat = array![[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]];
        assert!(mahalanobis(&flat, &q).unwrap_err().to_string().contains("positive definite"));
        assert!(
            mahalanobis(&x, &array![[1.0]]).is_err() && mahalanobis(&flat, &array![[f64::NAN, 0.0]]).is_err()
        );
    }
}
