//! Moments: one pass, any split, any order, any file: the same statistic; and the lenses that follow from it.

use ndarray::{Array1, Array2, Axis, concatenate, s};
use onelens::data::{Markov, Source};
use onelens::lens::{LayerMoments, LogitLens, Moments, Ridge, Scale, Target, Towards, Transfer, compare};
use onelens::model::{Config, Training, Transformer};
use onelens::num::{normal, rng};
use onelens::{ErrorKind, lens::Lens};
use proptest::prelude::*;

fn random(seed: u64, rows: usize, columns: usize, mean: f64) -> Array2<f32> {
    let mut rng = rng(seed, 4);
    Array2::from_shape_simple_fn((rows, columns), || (mean + normal(&mut rng)) as f32)
}

/// What products in f32 are expected to leave, a thirtieth of the bound in the documentation of `Moments`.
const ROUNDING: f64 = 1e-6;

/// The definition, without blocks: two passes in f64.
fn definition(x: &Array2<f32>, z: &Array2<f32>) -> Moments {
    let (mut x, mut z) = (x.mapv(f64::from), z.mapv(f64::from));
    let (x_mean, z_mean) = (x.mean_axis(Axis(0)).unwrap(), z.mean_axis(Axis(0)).unwrap());
    x -= &x_mean;
    z -= &z_mean;
    Moments {
        n: x.nrows() as u64,
        weight: x.nrows() as f64,
        s_xx: x.t().dot(&x),
        s_zx: z.t().dot(&x),
        s_zz: z.t().dot(&z).into_shared(),
        x_mean,
        z_mean,
    }
}

fn assert_close(a: &Moments, b: &Moments, relative: f64) {
    assert_eq!(a.n, b.n);
    let scale = b.s_xx.diag().sum() + b.s_zz.diag().sum();
    let (a_zz, b_zz) = (a.s_zz.to_owned(), b.s_zz.to_owned());
    for (a, b) in [(&a.s_xx, &b.s_xx), (&a.s_zx, &b.s_zx), (&a_zz, &b_zz)] {
        let worst = (a - b).iter().fold(0.0_f64, |m, e| m.max(e.abs()));
        assert!(worst <= relative * scale, "{worst:e} of {scale:e}");
    }
    for (a, b) in [(&a.x_mean, &b.x_mean), (&a.z_mean, &b.z_mean)] {
        assert!(
            (a - b)
                .iter()
                .all(|e| e.abs() <= relative * (1.0 + b.iter().fold(0.0_f64, |m, x| m.max(x.abs()))))
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn merged_moments_equal_one_pass_for_any_split_and_order(
        seed in 0_u64..1000,
        cuts in prop::collection::vec(0_usize..700, 0..6),
        order in any::<u64>(),
        mean in prop_oneof![Just(0.0), Just(1000.0)],
    ) {
        let rows = 700;
        let (x, z) = (random(seed, rows, 5, mean), random(seed + 1, rows, 3, -mean));
        let mut cuts = cuts;
        cuts.extend([0, rows]);
        cuts.sort_unstable();
        let mut parts: Vec<Moments> = cuts.windows(2).map(|w| {
            let mut m = Moments::new(5, 3);
            m.push(x.slice(ndarray::s![w[0]..w[1], ..]), z.slice(ndarray::s![w[0]..w[1], ..])).unwrap();
            m
        }).collect();
        // Merge two of what is left, chosen by the order's digits, until one is left.
        let mut order = order;
        while parts.len() > 1 {
            let a = parts.swap_remove(order as usize % parts.len());
            order = order.rotate_left(7) ^ 0x9e37;
            let at = order as usize % parts.len();
            parts[at].merge(&a).unwrap();
        }
        assert_close(&parts[0], &definition(&x, &z), ROUNDING);
    }
}

#[test]
fn a_lens_from_merged_halves_is_the_lens_from_one_pass() {
    let (x, z) = (random(1, 400, 6, 2.0), random(2, 400, 6, 0.0));
    let mut halves = Moments::new(6, 6);
    halves.push(x.slice(ndarray::s![..150, ..]), z.slice(ndarray::s![..150, ..])).unwrap();
    let mut second = Moments::new(6, 6);
    second.push(x.slice(ndarray::s![150.., ..]), z.slice(ndarray::s![150.., ..])).unwrap();
    halves.merge(&second).unwrap();
    let ridge = Ridge::default();
    let (a, b) = (ridge.fit(&halves).unwrap(), ridge.fit(&definition(&x, &z)).unwrap());
    assert!((&a.a - &b.a).iter().all(|e| e.abs() < ROUNDING));
    assert!((&a.b - &b.b).iter().all(|e| e.abs() < ROUNDING * 10.0), "b = z̄ - A x̄, with means of 2");
}

#[test]
fn ridge_solves_its_normal_equations() {
    // The minimiser of Σ|z - A x - b|² + penalty |A - T|² makes the gradient zero: (A S_xx - S_zx) + penalty (A - T) =
    // 0.
    let m = definition(&random(3, 60, 4, 1.0), &random(4, 60, 4, 0.0));
    for (towards, target) in
        [(Towards::Zero, Array2::<f64>::zeros((4, 4))), (Towards::Identity, Array2::eye(4))]
    {
        for lambda in [0.0, 0.3, 50.0] {
            let lens = Ridge { lambda, towards }.fit(&m).unwrap();
            let penalty = lambda * m.s_xx.diag().sum() / 4.0;
            let gradient = lens.a.dot(&m.s_xx) - &m.s_zx + (&lens.a - &target) * penalty;
            assert!(
                gradient.iter().all(|e| e.abs() < 1e-9 * (1.0 + penalty)),
                "{towards:?} {lambda}: {gradient}"
            );
            let offset: Array1<f64> = &m.z_mean - &lens.a.dot(&m.x_mean) - &lens.b;
            assert!(offset.iter().all(|e| e.abs() < 1e-12), "the intercept is not penalised");
        }
    }
}

/// A small network, trained just enough that its layers differ.
fn trained() -> (Transformer, Markov, Array2<u32>, Array2<u32>) {
    let source = Markov::new(6, 0.3).unwrap();
    let config = Config {
        d_vocab: 6,
        n_ctx: 16,
        d_model: 16,
        n_layers: 3,
        n_heads: 2,
        d_head: 8,
        d_mlp: 32,
        ..Default::default()
    };
    let mut model = Transformer::new(config).unwrap();
    model.train(&source, &Training { steps: 60, batch_size: 16, ..Default::default() }).unwrap();
    let train = source.sample(80, 16, &mut rng(8, 0)).unwrap();
    let held_out = source.sample_held_out(40, 16, &mut rng(8, 1)).unwrap();
    (model, source, train, held_out)
}

#[test]
fn transfer_error_from_moments_equals_the_data_pass() {
    let (model, _, train, _) = trained();
    let moments = LayerMoments::collect_with(&model, &train, Scale::AsItIs, Target::Residual).unwrap();
    let lenses = Ridge { lambda: 1e-2, ..Default::default() }.own(&moments).unwrap();
    let fast = Transfer::mse(&moments, &lenses).unwrap();
    let (_, cache) = model.run_with_cache(&train).unwrap();
    let rows = |a: ndarray::Array3<f32>| a.mapv(f64::from).into_shape_with_order((80 * 16, 16)).unwrap();
    let mut streams = vec![rows(cache.resid_pre(0).unwrap())];
    streams.extend((0..3).map(|l| rows(cache.resid_post(l).unwrap())));
    for i in 0..4 {
        let lens = lenses.layer(i).unwrap();
        for j in 0..4 {
            let error = &streams[3] - &(streams[j].dot(&lens.a.t()) + &lens.b);
            let slow = error.mapv(|e| e * e).sum() / (80.0 * 16.0);
            let variance = moments.layers[j].s_zz.diag().sum() / (80.0 * 16.0);
            assert!(
                (fast.values[(i, j)] - slow).abs() < 2.0 * ROUNDING * (variance + slow),
                "lens {i} on {j}: {} and {slow}",
                fast.values[(i, j)]
            );
        }
    }
}

#[test]
fn the_last_layers_own_lens_is_the_identity_with_kl_zero() {
    let (model, _, train, held_out) = trained();
    let moments = LayerMoments::collect_with(&model, &train, Scale::AsItIs, Target::Residual).unwrap();
    let own = Ridge::default().own(&moments).unwrap();
    let last = own.layer(3).unwrap();
    assert_eq!(last.a, Array2::<f64>::eye(16));
    assert!(last.b.iter().all(|b| *b == 0.0));
    let seen = compare(&model, &[&own, &LogitLens], &moments, &held_out).unwrap();
    for curve in &seen.curves {
        assert!(curve.kl[3].abs() < 1e-9, "{}: {:?}", curve.name, curve.kl);
        assert!(curve.kl[0] > 1e-3, "{}: {:?}", curve.name, curve.kl);
    }
    // The own lens was fitted in squared error, not KL; still it must beat the mean prediction, and improve with depth.
    let kl = &seen.curves[0].kl;
    assert!(kl[2] < seen.baseline && kl[2] < kl[0], "{kl:?}, baseline {}", seen.baseline);
    let all = seen.shared_fraction(&own.name(), &own.name()).unwrap();
    assert!(all.iter().all(|f| (f - 1.0).abs() < 1e-12));
}

#[test]
fn the_baseline_is_the_mean_kl_to_the_mean_prediction() {
    let (model, _, train, held_out) = trained();
    let moments = LayerMoments::collect(&model, &train).unwrap();
    let softmax = |tokens: &Array2<u32>| {
        let logits = model.forward(tokens).unwrap().mapv(f64::from);
        let n = logits.shape()[0] * logits.shape()[1];
        let mut p = logits.into_shape_with_order((n, 6)).unwrap();
        for mut row in p.rows_mut() {
            row.mapv_inplace(f64::exp);
            let sum = row.sum();
            row /= sum;
        }
        p
    };
    let mean = softmax(&train).mean_axis(Axis(0)).unwrap();
    let p = softmax(&held_out);
    let baseline = p
        .rows()
        .into_iter()
        .map(|p| p.iter().zip(&mean).map(|(p, m)| p * (p / m).ln()).sum::<f64>())
        .sum::<f64>()
        / p.nrows() as f64;
    let seen = compare(&model, &[&LogitLens], &moments, &held_out).unwrap();
    assert!((seen.baseline - baseline).abs() < 1e-6, "{} and {baseline}", seen.baseline);
}

#[test]
fn left_out_lens_has_not_seen_its_layer() {
    let (model, _, train, _) = trained();
    let moments = LayerMoments::collect(&model, &train).unwrap();
    let before = Ridge::default().left_out(&moments).unwrap();
    // Change what is known of stream 1 beyond recognition: only its own left-out lens must stay as it was.
    let mut other = moments.clone();
    let noise = random(5, 2000, 16, 0.0);
    other.layers[1].push(noise.view(), noise.view()).unwrap();
    let after = Ridge::default().left_out(&other).unwrap();
    for l in 0..4 {
        assert_eq!(before.layer(l) == after.layer(l), l == 1, "stream {l}");
    }
}

#[test]
fn collecting_in_two_goes_is_collecting_at_once() {
    let (model, _, train, _) = trained();
    let once = LayerMoments::collect(&model, &train).unwrap();
    let mut twice = LayerMoments::collect(&model, &train.slice(ndarray::s![..33, ..]).to_owned()).unwrap();
    twice.push(&model, &train.slice(ndarray::s![33.., ..]).to_owned()).unwrap();
    for (a, b) in once.layers.iter().zip(&twice.layers) {
        assert_close(a, b, ROUNDING);
    }
    assert!((&once.mean_prediction - &twice.mean_prediction).iter().all(|e| e.abs() < 1e-12));
}

#[test]
fn saved_moments_come_back_bit_for_bit_and_damage_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("layers.moments");
    let (model, _, train, _) = trained();
    let moments = LayerMoments::collect(&model, &train).unwrap();
    moments.save(&path).unwrap();
    assert_eq!(LayerMoments::load(&path).unwrap(), moments);
    let names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["layers.moments"], "no temporary file is left");

    let whole = std::fs::read(&path).unwrap();
    let refused = |bytes: &[u8]| {
        let damaged = folder.path().join("damaged");
        std::fs::write(&damaged, bytes).unwrap();
        let e = LayerMoments::load(&damaged).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::File);
        assert!(e.to_string().contains("damaged") && e.to_string().contains("help:"), "{e}");
        e.to_string()
    };
    for cut in [0, 5, 30, whole.len() / 2, whole.len() - 1] {
        refused(&whole[..cut]);
    }
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    assert!(refused(&flipped).contains("checksum"));
    assert!(refused(b"not a record at all\n").contains("not an onelens file"));
    let mut single = Vec::from(b"onelens moments 1\n".as_slice());
    single.extend_from_slice(&whole[whole.iter().position(|&b| b == b'\n').unwrap() + 1..]);
    assert!(refused(&single).contains("layer-moments"));
    assert!(LayerMoments::load(folder.path().join("absent")).unwrap_err().to_string().contains("absent"));
    assert!(
        moments.save(folder.path().join("no/such/folder")).unwrap_err().to_string().contains("folder exists")
    );
}

#[test]
fn what_does_not_fit_is_refused_with_both_sides() {
    let (model, _, train, held_out) = trained();
    let moments = LayerMoments::collect(&model, &train).unwrap();
    let own = Ridge::default().own(&moments).unwrap();
    let other = Transformer::new(Config { seed: 1, ..model.config.clone() }).unwrap();
    let text = own.check_model(&other).unwrap_err().to_string();
    assert!(
        text.contains(&format!("{:016x}", model.fingerprint()))
            && text.contains(&format!("{:016x}", other.fingerprint())),
        "{text}"
    );
    assert!(compare(&other, &[&own], &moments, &held_out).is_err());
    assert!(Transfer::mse(&LayerMoments::new(&other), &own).is_err());

    let mut m = Moments::new(3, 3);
    let x = random(6, 3, 3, 0.0);
    assert!(m.push(x.view(), random(7, 2, 3, 0.0).view()).unwrap_err().to_string().contains("(2, 3)"));
    let mut bad = x.clone();
    bad[(1, 2)] = f32::NAN;
    let e = m.push(bad.view(), x.view()).unwrap_err();
    assert!(e.to_string().contains("NaN at row 1, column 2"), "{e}");
    assert_eq!(m, Moments::new(3, 3), "a refused push changes nothing");
    // Finite, but squares of it have no sum in single precision.
    for size in [3e38, -3e38] {
        bad[(1, 2)] = size;
        let e = m.push(x.view(), bad.view()).unwrap_err();
        assert!(e.what().starts_with("z holds") && e.what().contains("at row 1, column 2"), "{e}");
        assert_eq!(m, Moments::new(3, 3));
    }
    let large = x.mapv(|x| x.signum() * 1e17);
    m.push(large.view(), large.view()).unwrap();
    assert!(m.s_xx.iter().chain(&m.s_zz).all(|x| x.is_finite()));
    m = Moments::new(3, 3);
    let e = compare(&model, &[&own], &moments, &held_out.slice(s![.., ..1]).to_owned()).unwrap_err();
    assert!(e.what().contains("one token"), "{e}");
    m.push(x.view(), x.view()).unwrap();
    let e = Ridge::default().fit(&m).unwrap_err();
    assert!(e.to_string().contains("3 rows") && e.to_string().contains("at least 4"), "{e}");
    assert!(m.merge(&Moments::new(2, 3)).is_err());
    for lambda in [-1.0, f64::NAN] {
        assert!(Ridge { lambda, ..Default::default() }.fit(&moments.layers[0]).is_err());
    }
    let constant = Array2::<f32>::ones((50, 3));
    let mut flat = Moments::new(3, 3);
    flat.push(constant.view(), concatenate![Axis(0), x, random(9, 47, 3, 0.0)].view()).unwrap();
    for lambda in [0.0, 1.0] {
        let e = Ridge { lambda, ..Default::default() }.fit(&flat).unwrap_err();
        assert!(e.what().contains("never varies") && !e.help().contains("raise"), "{e}");
    }
}

#[test]
fn sums_are_within_the_documented_bound_of_exact_ones() {
    const EPS: f64 = 2.0 * 260.0 / 16_777_216.0;
    // Features of very different size and offset, one constant, one that moves by single steps of f32.
    let mut x = random(11, 3000, 6, 0.0);
    for mut row in x.rows_mut() {
        row[0] += 1e4;
        row[1] *= 1e-6;
        row[2] = row[2] * 1e5 - 3e6;
        row[3] = 7.1;
        row[4] = 1000.0 + if row[4] > 0.7 { 6.1e-5 } else { 0.0 };
    }
    let z = random(12, 3000, 3, -50.0);
    let exact = definition(&x, &z);
    let mut m = Moments::new(6, 3);
    m.push(x.view(), z.view()).unwrap();
    let check = |got: &Array2<f64>, want: &Array2<f64>, left: &Array2<f64>, right: &Array2<f64>| {
        for ((i, j), want) in want.indexed_iter() {
            // The constant feature's own variance is rounding in the definition.
            let allowed = EPS * (left[(i, i)] * right[(j, j)]).sqrt() + 1e-9;
            let error = (got[(i, j)] - want).abs();
            assert!(error <= allowed, "({i}, {j}): {error:e} over {allowed:e}");
        }
    };
    check(&m.s_xx, &exact.s_xx, &exact.s_xx, &exact.s_xx);
    let exact_zz = exact.s_zz.to_owned();
    check(&m.s_zx, &exact.s_zx, &exact_zz, &exact.s_xx);
    check(&m.s_zz.to_owned(), &exact_zz, &exact_zz, &exact_zz);
    assert_eq!(m.s_xx[(3, 3)], 0.0, "a constant feature has no variance, not even rounding");
}

#[test]
fn a_weight_of_three_is_the_row_three_times_and_zero_is_none() {
    let (x, z) = (random(13, 300, 4, 5.0), random(14, 300, 2, 0.0));
    let weights: Array1<f32> = (0..300).map(|i| (i % 4) as f32).collect();
    let mut weighted = Moments::new(4, 2);
    weighted.push_weighted(x.view(), z.view(), weights.view()).unwrap();
    let rows: Vec<usize> = (0..300).flat_map(|i| std::iter::repeat_n(i, i % 4)).collect();
    let repeated = definition(&x.select(Axis(0), &rows), &z.select(Axis(0), &rows));
    assert_eq!((weighted.n, weighted.weight), (225, 450.0));
    assert_close(&Moments { n: 450, ..weighted }, &repeated, ROUNDING);

    let mut none = Moments::new(4, 2);
    none.push_weighted(x.view(), z.view(), Array1::zeros(300).view()).unwrap();
    assert_eq!(none, Moments::new(4, 2));
    for (weights, says) in
        [(Array1::ones(299), "299 weights for 300 rows"), (Array1::from_elem(300, -1.0), "row 0 is -1")]
    {
        let e = none.push_weighted(x.view(), z.view(), weights.view()).unwrap_err();
        assert!(e.to_string().contains(says), "{e}");
    }
}
