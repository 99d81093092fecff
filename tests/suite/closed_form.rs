//! What least-squares lenses are known to do, tested against the algebra that says so.

use ndarray::{Array1, Array2};
use onelens::data::{Markov, Source};
use onelens::lens::{LayerMoments, Moments, Ridge, Scale, Target, Towards, Transfer};
use onelens::model::{Config, Transformer};
use onelens::num::{Cholesky, normal, rng};

const LEAST_SQUARES: Ridge = Ridge { lambda: 0.0, towards: Towards::Zero };

fn random(seed: u64, rows: usize, columns: usize) -> Array2<f64> {
    let mut rng = rng(seed, 6);
    Array2::from_shape_simple_fn((rows, columns), || normal(&mut rng))
}

fn moments(x: &Array2<f64>, z: &Array2<f64>) -> Moments {
    let mut m = Moments::new(x.ncols(), z.ncols());
    m.push(x.mapv(|x| x as f32).view(), z.mapv(|x| x as f32).view()).unwrap();
    m
}

/// The moments of `(R x + r, z)` from those of `(x, z)`, in exact algebra.
fn moved(m: &Moments, r: &Array2<f64>, shift: &Array1<f64>) -> Moments {
    Moments {
        x_mean: r.dot(&m.x_mean) + shift,
        s_xx: r.dot(&m.s_xx).dot(&r.t()),
        s_zx: m.s_zx.dot(&r.t()),
        ..m.clone()
    }
}

/// The moments of `(x, W z)`.
fn read_out(m: &Moments, w: &Array2<f64>) -> Moments {
    Moments {
        z_mean: w.dot(&m.z_mean),
        s_zx: w.dot(&m.s_zx),
        s_zz: w.dot(&m.s_zz).dot(&w.t()).into_shared(),
        ..m.clone()
    }
}

fn worst(a: &Array2<f64>, b: &Array2<f64>) -> f64 {
    (a - b).iter().fold(0.0_f64, |m, e| m.max(e.abs()))
}

fn layers() -> LayerMoments {
    let source = Markov::new(9, 0.3).unwrap();
    let config = Config {
        d_vocab: 9,
        n_ctx: 16,
        d_model: 8,
        n_layers: 3,
        n_heads: 2,
        d_head: 4,
        d_mlp: 16,
        ..Default::default()
    };
    let model = Transformer::new(config).unwrap();
    let tokens = source.sample(60, 16, &mut rng(8, 0)).unwrap();
    LayerMoments::collect_with(&model, &tokens, Scale::AsItIs, Target::Residual).unwrap()
}

#[test]
fn least_squares_onto_centred_log_probabilities_is_least_squares_onto_the_residual() {
    // d = 4 and V = 7: V - 1 ≥ d, so that UᵀCU is invertible.
    let x = random(1, 300, 4);
    let z = x.dot(&random(2, 4, 4)) + random(3, 300, 4);
    let m = moments(&x, &z);
    let centre = Array2::<f64>::eye(7) - 1.0 / 7.0;
    let cu = centre.dot(&random(4, 7, 4));
    let onto_residual = LEAST_SQUARES.fit(&m).unwrap();
    let onto_logits = LEAST_SQUARES.fit(&read_out(&m, &cu)).unwrap();
    // From the logits back to the residual: (UᵀCU)⁻¹ (CU)ᵀ.
    let gram = Cholesky::new(cu.t().dot(&cu).view()).unwrap();
    let back = gram.solve(cu.t().dot(&onto_logits.a).view());
    assert!(worst(&back, &onto_residual.a) < 1e-10);
    // With V - 1 < d there is no way back.
    let narrow = (Array2::<f64>::eye(4) - 0.25).dot(&random(5, 4, 4));
    assert!(Cholesky::new(narrow.t().dot(&narrow).view()).is_err());
}

#[test]
fn a_constant_output_metric_changes_ridge_but_not_least_squares() {
    let x = random(6, 300, 4);
    let m = moments(&x, &(x.dot(&random(7, 4, 4)) + random(8, 300, 4)));
    // Measuring the error as |W (z - A x)|² is fitting W z and dividing by W.
    let w = random(9, 4, 4);
    let gram = Cholesky::new(w.t().dot(&w).view()).unwrap();
    let in_metric = |ridge: Ridge| {
        let lens = ridge.fit(&read_out(&m, &w)).unwrap();
        gram.solve(w.t().dot(&lens.a).view())
    };
    assert!(worst(&in_metric(LEAST_SQUARES), &LEAST_SQUARES.fit(&m).unwrap().a) < 1e-10);
    // Towards the identity of z, which is not the identity of W z.
    let ridge = Ridge { lambda: 0.5, towards: Towards::Identity };
    assert!(worst(&in_metric(ridge), &ridge.fit(&m).unwrap().a) > 1e-2);
}

#[test]
fn own_lenses_do_not_see_a_change_of_basis_and_the_shared_lens_does() {
    let before = layers();
    let mut after = before.clone();
    // Streams 0 to 2 each in a basis of their own; the last stays what is to be predicted.
    let bases: Vec<(Array2<f64>, Array1<f64>)> = (0..4)
        .map(|l| match l {
            3 => (Array2::eye(8), Array1::zeros(8)),
            _ => (Array2::eye(8) * 2.0 + random(20 + l, 8, 8) * 0.5, random(30 + l, 1, 8).row(0).to_owned()),
        })
        .collect();
    for (m, (r, shift)) in after.layers.iter_mut().zip(&bases) {
        *m = moved(m, r, shift);
    }
    let (a, b) = (LEAST_SQUARES.own(&before).unwrap(), LEAST_SQUARES.own(&after).unwrap());
    let (one, other) = (LEAST_SQUARES.shared(&before).unwrap(), LEAST_SQUARES.shared(&after).unwrap());
    // A' (R h + r) + b' = A h + b for every h.
    let differ = |old: onelens::lens::AffineLens, new: onelens::lens::AffineLens, l: usize| {
        let (r, shift) = &bases[l];
        let offset = new.a.dot(shift) + &new.b - &old.b;
        worst(&new.a.dot(r), &old.a).max(offset.iter().fold(0.0_f64, |m, e| m.max(e.abs())))
    };
    for l in 0..4 {
        let own = differ(a.layer(l).unwrap(), b.layer(l).unwrap(), l);
        assert!(own < 1e-8, "stream {l}: {own:e}");
        let shared = differ(one.layer(l).unwrap(), other.layer(l).unwrap(), l);
        assert!(shared > 1e-2, "stream {l}: {shared:e}");
    }
    let (a, b) = (Transfer::mse(&before, &a).unwrap().values, Transfer::mse(&after, &b).unwrap().values);
    for l in 0..4 {
        assert!((a[(l, l)] - b[(l, l)]).abs() < 1e-8 * (1.0 + a[(l, l)]), "stream {l}");
    }
}

#[test]
fn on_gaussian_inputs_least_squares_is_the_mean_jacobian() {
    // Stein's lemma, for z = tanh(V x): E[∂z/∂x] = E[1 - z²] V, row by row; on inputs that are not Gaussian it fails.
    let n = 40_000;
    let v = random(40, 3, 3);
    let gap = |x: &Array2<f64>| {
        let z = x.dot(&v.t()).mapv(f64::tanh);
        let slopes = z.mapv(|z| 1.0 - z * z).mean_axis(ndarray::Axis(0)).unwrap();
        let jacobian = &v * &slopes.insert_axis(ndarray::Axis(1));
        worst(&LEAST_SQUARES.fit(&moments(x, &z)).unwrap().a, &jacobian)
    };
    let x = random(41, n, 3);
    // Each entry of the fit has a standard error below 1/√n, since |z| < 1; five of them, for both sides.
    let noise = 10.0 / (n as f64).sqrt();
    assert!(gap(&x) < noise, "{} and {noise}", gap(&x));
    // Cubes of Gaussians: heavy tails.
    assert!(gap(&x.mapv(|x| x * x * x)) > 2.0 * noise, "{}", gap(&x.mapv(|x| x * x * x)));
}

#[test]
fn the_variance_explained_is_one_minus_the_error_and_covariances_of_one_stream_are_alike() {
    let m = layers();
    let own = LEAST_SQUARES.own(&m).unwrap();
    let (mse, r2) = (Transfer::mse(&m, &own).unwrap(), Transfer::r2(&m, &own).unwrap());
    for ((i, j), r2) in r2.values.indexed_iter() {
        let variance = m.layers[j].s_zz.diag().sum() / m.layers[j].weight;
        assert!((r2 - (1.0 - mse.values[(i, j)] / variance)).abs() < 1e-12);
    }
    // The last stream is its own target: no error at all, where rounding alone would leave some.
    assert_eq!((mse.values[(3, 3)], r2.values[(3, 3)]), (0.0, 1.0));
    let asymmetry = mse.asymmetry().values;
    assert!((&asymmetry + &asymmetry.t()).iter().all(|e| e.abs() < 1e-12) && asymmetry[(0, 2)] != 0.0);

    let alike = Transfer::covariance_similarity(&m).values;
    assert!((0..4).all(|l| (alike[(l, l)] - 1.0).abs() < 1e-12));
    // The cosine by its definition, and no change under scaling.
    let (a, b) = (&m.layers[0].s_xx, &m.layers[2].s_xx);
    let cosine = a.t().dot(b).diag().sum() / (a.t().dot(a).diag().sum() * b.t().dot(b).diag().sum()).sqrt();
    assert!((alike[(0, 2)] - cosine).abs() < 1e-12 && cosine < 1.0);
    let mut scaled = m.clone();
    scaled.layers[0].s_xx *= 7.0;
    assert!((Transfer::covariance_similarity(&scaled).values[(0, 2)] - cosine).abs() < 1e-12);
}

#[test]
fn transfer_costs_more_between_streams_whose_covariances_differ_more() {
    let m = layers();
    let penalty = Transfer::mse(&m, &LEAST_SQUARES.own(&m).unwrap()).unwrap().penalty();
    let test = penalty.correlation(&Transfer::covariance_similarity(&m), 0).unwrap();
    assert!(test.rho < -0.5 && test.n_permutations == 9999, "{test:?}");
    let itself = penalty.correlation(&penalty, 0).unwrap();
    assert!((itself.rho - 1.0).abs() < 1e-12);
}
