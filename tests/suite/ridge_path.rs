//! One decomposition gives every ridge lens; groups left out choose among them without data.

use ndarray::{Array2, Axis};
use onelens::data::{Markov, Source};
use onelens::lens::{GroupedMoments, LayerMoments, Moments, Ridge, RidgePath, Scale, Target, Towards};
use onelens::model::{Config, Training, Transformer};
use onelens::num::{normal, rng};
use onelens::{ErrorKind, lens::Lens};

const LAMBDAS: [f64; 5] = [0.0, 1e-4, 1e-2, 1.0, 100.0];

fn random(seed: u64, rows: usize, columns: usize) -> Array2<f32> {
    let mut rng = rng(seed, 5);
    Array2::from_shape_simple_fn((rows, columns), || (2.0 + normal(&mut rng)) as f32)
}

fn moments(x: &Array2<f32>, z: &Array2<f32>) -> Moments {
    let mut m = Moments::new(x.ncols(), z.ncols());
    m.push(x.view(), z.view()).unwrap();
    m
}

fn small() -> (Transformer, Array2<u32>) {
    let source = Markov::new(6, 0.3).unwrap();
    let config = Config {
        d_vocab: 6,
        n_ctx: 16,
        d_model: 16,
        n_layers: 2,
        n_heads: 2,
        d_head: 8,
        d_mlp: 32,
        ..Default::default()
    };
    let mut model = Transformer::new(config).unwrap();
    model.train(&source, &Training { steps: 40, batch_size: 16, ..Default::default() }).unwrap();
    (model, source.sample(61, 16, &mut rng(8, 0)).unwrap())
}

#[test]
fn every_lens_of_the_path_is_the_lens_that_cholesky_gives() {
    let m = moments(&random(1, 200, 5), &random(2, 200, 5));
    for towards in [Towards::Zero, Towards::Identity] {
        let path = RidgePath::new(&m, towards).unwrap();
        for lambda in LAMBDAS {
            let (a, b) = (path.fit(lambda).unwrap(), Ridge { lambda, towards }.fit(&m).unwrap());
            assert!((&a.a - &b.a).iter().all(|e| e.abs() < 1e-10), "{towards:?} {lambda}");
            assert!((&a.b - &b.b).iter().all(|e| e.abs() < 1e-10), "{towards:?} {lambda}");
        }
    }
}

#[test]
fn held_out_error_from_moments_equals_the_error_on_the_rows() {
    let (x, z) = (random(3, 300, 4), random(4, 300, 4));
    let (test_x, test_z) = (random(5, 90, 4) * 2.0, random(6, 90, 4));
    let test = moments(&test_x, &test_z);
    for towards in [Towards::Zero, Towards::Identity] {
        let path = RidgePath::new(&moments(&x, &z), towards).unwrap();
        let fast = path.mse(&LAMBDAS, &test).unwrap();
        for (lambda, fast) in LAMBDAS.into_iter().zip(fast) {
            let lens = path.fit(lambda).unwrap();
            let read = test_x.mapv(f64::from).dot(&lens.a.t()) + &lens.b;
            let slow = (test_z.mapv(f64::from) - read).mapv(|e| e * e).sum() / 90.0;
            assert!((fast - slow).abs() < 1e-5 * (1.0 + slow), "{towards:?} {lambda}: {fast} and {slow}");
        }
    }
}

#[test]
fn generalised_cross_validation_is_its_definition_with_the_hat_matrix() {
    // n |y - H y|² / tr(I - H)², H with the intercept.
    let (x, z) = (random(7, 40, 3), random(8, 40, 2));
    let m = moments(&x, &z);
    let path = RidgePath::new(&m, Towards::Zero).unwrap();
    for (lambda, gcv) in LAMBDAS.into_iter().zip(path.gcv(&LAMBDAS).unwrap()) {
        let lens = path.fit(lambda).unwrap();
        let read = x.mapv(f64::from).dot(&lens.a.t()) + &lens.b;
        let rss = (z.mapv(f64::from) - read).mapv(|e| e * e).sum();
        // tr H = 1 + tr(S (S + p I)⁻¹), by solving for each unit vector.
        let mut k = m.s_xx.clone();
        let penalty = lambda * m.s_xx.diag().sum() / 3.0;
        k.diag_mut().mapv_inplace(|s| s + penalty);
        let trace = 1.0 + onelens::num::Cholesky::new(k.view()).unwrap().solve(m.s_xx.view()).diag().sum();
        let want = 40.0 * rss / (40.0 - trace).powi(2);
        assert!((gcv - want).abs() < 1e-5 * want, "{lambda}: {gcv} and {want}");
    }
}

#[test]
fn cross_validation_from_moments_equals_fitting_without_each_group_and_reading_it() {
    let (model, tokens) = small();
    let grouped = GroupedMoments::collect_with(&model, &tokens, 4, Scale::AsItIs, Target::Residual).unwrap();
    let choice = grouped.choose_ridge(&LAMBDAS[1..], Towards::Identity).unwrap();
    for (i, &lambda) in LAMBDAS[1..].iter().enumerate() {
        let mut slow = Array2::<f64>::zeros((3, 1));
        for k in 0..4 {
            let (mut train, mut test) = (vec![], vec![]);
            (0..61).for_each(|s| if s % 4 == k { test.push(s) } else { train.push(s) });
            let lenses = Ridge { lambda, towards: Towards::Identity }
                .own(
                    &LayerMoments::collect_with(
                        &model,
                        &tokens.select(Axis(0), &train),
                        Scale::AsItIs,
                        Target::Residual,
                    )
                    .unwrap(),
                )
                .unwrap();
            let (_, cache) = model.run_with_cache(&tokens.select(Axis(0), &test)).unwrap();
            let rows = |a: ndarray::Array3<f32>| a.into_shape_with_order((test.len() * 16, 16)).unwrap();
            let streams = [
                rows(cache.resid_pre(0).unwrap()),
                rows(cache.resid_post(0).unwrap()),
                rows(cache.resid_post(1).unwrap()),
            ];
            for l in 0..3 {
                let error = &streams[2] - &lenses.transport(l, streams[l].view()).unwrap();
                slow[(l, 0)] += error.mapv(|e| f64::from(e).powi(2)).sum() / (61.0 * 16.0);
            }
        }
        for l in 0..3 {
            let (fast, slow) = (choice.held_out[(l, i)], slow[(l, 0)]);
            assert!((fast - slow).abs() < 1e-4 * (1e-3 + slow), "stream {l}, {lambda}: {fast} and {slow}");
        }
    }
    // Far too strong a penalty is never chosen where a layer has something to say.
    assert!(choice.best[1] < 3, "{choice:?}");
}

#[test]
fn a_penalty_is_chosen_for_other_targets_by_what_left_out_groups_say_of_them() {
    let (model, tokens) = small();
    let (logits, cache) = model.run_with_cache(&tokens).unwrap();
    let streams = [cache.resid_pre(0).unwrap(), cache.resid_post(0).unwrap(), cache.resid_post(1).unwrap()];
    // Centred log-probabilities are logits about their mean: what the softmax divides by is the same for all tokens.
    let mean = logits.mean_axis(Axis(2)).unwrap().insert_axis(Axis(2));
    let probe = &logits - &mean;
    // Numbers that the middle stream knows, with noise.
    let mut numbers = streams[1].slice(ndarray::s![.., .., ..3]).to_owned();
    numbers.zip_mut_with(&random(9, 61 * 16, 3).into_shape_with_order((61, 16, 3)).unwrap(), |x, noise| {
        *x += 0.1 * noise
    });
    let cases = [
        (
            GroupedMoments::collect_with(&model, &tokens, 4, Scale::AsItIs, Target::LogProbabilities)
                .unwrap(),
            probe,
        ),
        (GroupedMoments::collect_given(&model, &tokens, &numbers, 4).unwrap(), numbers),
    ];
    for (grouped, z) in cases {
        let target = grouped.groups[0].target;
        let choice = grouped.choose_ridge(&LAMBDAS[1..], Towards::Zero).unwrap();
        for (i, &lambda) in LAMBDAS[1..].iter().enumerate() {
            for (l, h) in streams.iter().enumerate() {
                let rows = |a: &ndarray::Array3<f32>, keep: &dyn Fn(usize) -> bool| {
                    let which: Vec<usize> = (0..61).filter(|&s| keep(s)).collect();
                    let width = a.len_of(Axis(2));
                    a.select(Axis(0), &which).into_shape_with_order((which.len() * 16, width)).unwrap()
                };
                let mut slow = 0.0;
                for k in 0..4 {
                    let (left, out) = (|s: usize| s % 4 != k, |s: usize| s % 4 == k);
                    let lens = Ridge { lambda, towards: Towards::Zero }
                        .fit(&moments(&rows(h, &left), &rows(&z, &left)))
                        .unwrap();
                    let predicted = rows(h, &out).mapv(f64::from).dot(&lens.a.t()) + &lens.b;
                    slow +=
                        (rows(&z, &out).mapv(f64::from) - predicted).mapv(|e| e * e).sum() / (61.0 * 16.0);
                }
                let fast = choice.held_out[(l, i)];
                assert!(
                    (fast - slow).abs() < 1e-4 * (1e-3 + slow),
                    "{target:?}, stream {l}, {lambda}: {fast} and {slow}"
                );
            }
        }
        // The lens that comes out predicts the target it was chosen for.
        assert_eq!(choice.lenses.target(), target);
    }
    let e = GroupedMoments::collect_with(&model, &tokens, 4, Scale::AsItIs, Target::Given)
        .unwrap_err()
        .to_string();
    assert!(e.contains("collect_given"), "{e}");
    let short = ndarray::Array3::zeros((60, 16, 2));
    let e = GroupedMoments::collect_given(&model, &tokens, &short, 4).unwrap_err().to_string();
    assert!(e.contains("(60, 16, 2)") && e.contains("help:"), "{e}");
}

#[test]
fn groups_left_out_and_the_group_make_the_whole() {
    let (model, tokens) = small();
    let grouped = GroupedMoments::collect(&model, &tokens, 5).unwrap();
    let whole = LayerMoments::collect(&model, &tokens).unwrap();
    let mut again = grouped.without(2).unwrap();
    again.merge(&grouped.groups[2]).unwrap();
    for other in [grouped.all().unwrap(), again] {
        assert_eq!(other.n(), whole.n());
        for (a, b) in other.layers.iter().zip(&whole.layers) {
            let scale = b.s_xx.diag().sum();
            assert!((&a.s_xx - &b.s_xx).iter().all(|e| e.abs() < 1e-6 * scale));
        }
    }
    let drawn = grouped.resample(&mut rng(0, 0)).unwrap();
    assert_eq!(drawn, grouped.resample(&mut rng(0, 0)).unwrap(), "one seed, one sample");
    assert_ne!(drawn, grouped.resample(&mut rng(1, 0)).unwrap());

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("grouped");
    grouped.save(&path).unwrap();
    assert_eq!(GroupedMoments::load(&path).unwrap(), grouped);
    let e = LayerMoments::load(&path).unwrap_err().to_string();
    assert!(e.contains("layer-moments"), "{e}");

    for n_groups in [0, 62] {
        let e = GroupedMoments::collect(&model, &tokens, n_groups).unwrap_err().to_string();
        assert!(e.contains("61 sequences") && e.contains(&format!("{n_groups} groups")), "{e}");
    }
    let one = GroupedMoments::collect(&model, &tokens, 1).unwrap();
    assert!(one.choose_ridge(&[1.0], Towards::Zero).unwrap_err().to_string().contains("two groups"));
    assert!(grouped.choose_ridge(&[], Towards::Zero).unwrap_err().to_string().contains("no lambda"));
    assert!(grouped.choose_ridge(&[-1.0], Towards::Zero).unwrap_err().to_string().contains("lambda is -1"));
}

#[test]
fn a_layer_that_repeats_a_feature_is_reported_and_refused_without_a_penalty() {
    let mut x = random(9, 200, 4);
    let copy = x.column(0).to_owned();
    x.column_mut(3).assign(&copy);
    let z = random(10, 200, 4);
    let path = RidgePath::new(&moments(&x, &z), Towards::Zero).unwrap();
    let seen = path.conditioning();
    assert_eq!((seen.rank, seen.d), (3, 4));
    assert!(seen.condition_number > 1e6, "{seen:?}");
    let e = path.fit(0.0).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Numeric);
    let same = Ridge { lambda: 0.0, towards: Towards::Zero }.fit(&moments(&x, &z)).unwrap_err();
    assert_eq!(e, same, "both ways say the same");
    assert!(path.fit(1e-4).is_ok());

    // Four directions of equal variance are four in effect.
    let even = Moments { s_xx: Array2::eye(4), ..moments(&x, &z) };
    let seen = RidgePath::new(&even, Towards::Zero).unwrap().conditioning();
    assert!((seen.effective_rank - 4.0).abs() < 1e-12 && (seen.condition_number - 1.0).abs() < 1e-12);
}
