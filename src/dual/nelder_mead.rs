//! The downhill simplex (Nelder & Mead 1965): a minimum without gradients.
//!
//! For the handful of step sizes it is used for, and a loss that is already exact on its contexts, it needs no
//! derivative and forty lines; a crate of optimisers would take longer to build than to run.

/// A local minimum of `f` near `start`, with a first simplex of edges `size`; started anew from what it found until
/// that no longer helps, since a simplex can collapse on its way.
pub(super) fn minimise(f: impl Fn(&[f64]) -> f64, start: &[f64], size: f64) -> Vec<f64> {
    let mut best = start.to_vec();
    let mut value = f(&best);
    for _ in 0..20 {
        let found = one_run(&f, &best, size);
        let gain = value - found.1;
        if gain > 0.0 {
            (best, value) = found;
        }
        if gain <= 1e-13 * value.abs() {
            break;
        }
    }
    best
}

fn one_run(f: &impl Fn(&[f64]) -> f64, start: &[f64], size: f64) -> (Vec<f64>, f64) {
    let n = start.len();
    let mut simplex: Vec<(Vec<f64>, f64)> = (0..=n)
        .map(|k| {
            let mut x = start.to_vec();
            if k > 0 {
                x[k - 1] += size;
            }
            let value = f(&x);
            (x, value)
        })
        .collect();
    for _ in 0..400 * n {
        simplex.sort_by(|a, b| a.1.total_cmp(&b.1));
        let widest = simplex[1..]
            .iter()
            .flat_map(|(x, _)| x.iter().zip(&simplex[0].0))
            .fold(0.0_f64, |m, (a, b)| m.max((a - b).abs()));
        if widest < 1e-9 * size {
            break;
        }
        let centre: Vec<f64> =
            (0..n).map(|i| simplex[..n].iter().map(|(x, _)| x[i]).sum::<f64>() / n as f64).collect();
        let worst = simplex[n].0.clone();
        let at = |by: f64| {
            let x: Vec<f64> = centre.iter().zip(&worst).map(|(c, w)| c + by * (c - w)).collect();
            let value = f(&x);
            (x, value)
        };
        let reflected = at(1.0);
        if reflected.1 < simplex[0].1 {
            let expanded = at(2.0);
            simplex[n] = if expanded.1 < reflected.1 { expanded } else { reflected };
        } else if reflected.1 < simplex[n - 1].1 {
            simplex[n] = reflected;
        } else {
            let contracted = if reflected.1 < simplex[n].1 { at(0.5) } else { at(-0.5) };
            if contracted.1 < simplex[n].1.min(reflected.1) {
                simplex[n] = contracted;
            } else {
                let lowest = simplex[0].0.clone();
                for (x, value) in &mut simplex[1..] {
                    x.iter_mut().zip(&lowest).for_each(|(x, l)| *x = l + 0.5 * (*x - l));
                    *value = f(x);
                }
            }
        }
    }
    simplex.swap_remove(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rosenbrock 1960: a curved valley whose floor leads to (1, 1).
    #[test]
    fn the_minimum_of_rosenbrocks_valley_is_found() {
        let f = |x: &[f64]| (1.0 - x[0]).powi(2) + 100.0 * (x[1] - x[0] * x[0]).powi(2);
        let x = minimise(f, &[-1.2, 1.0], 0.5);
        assert!((x[0] - 1.0).abs() < 1e-6 && (x[1] - 1.0).abs() < 1e-6, "{x:?}");
    }
}
