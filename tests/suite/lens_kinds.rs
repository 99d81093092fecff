//! Every kind of lens does what its definition says, and all are compared through one trait.

use ndarray::{Array2, Array3, Axis, s};
use onelens::data::{HiddenMarkov, Markov, Source};
use onelens::lens::{
    Jacobian, LayerLenses, LayerMoments, Lens, LogitLens, Moments, Refine, Ridge, Scale, Target, Towards,
    Transfer, compare,
};
use onelens::model::{Config, Hook, Intervention, Training, Transformer};
use onelens::num::{Cholesky, kl_divergence, log_softmax_rows, normal, rng};

const LEAST_SQUARES: Ridge = Ridge { lambda: 0.0, towards: Towards::Zero };

fn config() -> Config {
    Config {
        d_vocab: 12,
        n_ctx: 16,
        d_model: 8,
        n_layers: 3,
        n_heads: 2,
        d_head: 4,
        d_mlp: 16,
        ..Default::default()
    }
}

fn small() -> (Transformer, Array2<u32>, Array2<u32>) {
    let source = Markov::new(12, 0.3).unwrap();
    let mut model = Transformer::new(config()).unwrap();
    model.train(&source, &Training { steps: 60, batch_size: 16, ..Default::default() }).unwrap();
    let train = source.sample(100, 16, &mut rng(8, 0)).unwrap();
    (model, train, source.sample_held_out(40, 16, &mut rng(8, 1)).unwrap())
}

fn random(seed: u64, rows: usize, columns: usize) -> Array2<f64> {
    let mut rng = rng(seed, 6);
    Array2::from_shape_simple_fn((rows, columns), || normal(&mut rng))
}

fn worst(a: &Array2<f64>, b: &Array2<f64>) -> f64 {
    (a - b).iter().fold(0.0_f64, |m, e| m.max(e.abs()))
}

/// The streams `h_0 ..= h_L` of all tokens as rows, in f64.
fn streams(model: &Transformer, tokens: &Array2<u32>) -> Vec<Array2<f64>> {
    let (_, cache) = model.run_with_cache(tokens).unwrap();
    let rows = |x: Array3<f32>| {
        let (n, t, d) = x.dim();
        x.into_shape_with_order((n * t, d)).unwrap().mapv(f64::from)
    };
    let mut all = vec![rows(cache.resid_pre(0).unwrap())];
    all.extend((0..model.config.n_layers).map(|l| rows(cache.resid_post(l).unwrap())));
    all
}

/// Total squared error over all streams, from the data.
fn squared_error(lenses: &LayerLenses, streams: &[Array2<f64>]) -> f64 {
    let last = streams.last().unwrap();
    (0..streams.len())
        .map(|l| {
            let lens = lenses.layer(l).unwrap();
            let z = streams[l].dot(&lens.a.t()) + &lens.b;
            (last - &z).mapv(|e| e * e).sum()
        })
        .sum()
}

#[test]
fn comparison_measures_are_their_definitions() {
    let (model, train, held_out) = small();
    let moments = LayerMoments::collect_with(&model, &train, Scale::AsItIs, Target::Residual).unwrap();
    let own = Ridge::default().own(&moments).unwrap();
    let seen = compare(&model, &[&LogitLens, &own], &moments, &held_out).unwrap();
    let (logits, cache) = model.run_with_cache(&held_out).unwrap();
    let argmax =
        |row: ndarray::ArrayView1<f32>| (0..row.len()).max_by(|&i, &j| row[i].total_cmp(&row[j])).unwrap();
    let (mut kl, mut nats, mut agree, mut model_nats) = (0.0, 0.0, 0.0, 0.0);
    for i in 0..held_out.nrows() {
        let h = cache.resid_post(0).unwrap().index_axis_move(Axis(0), i);
        let log_q = model.decode(own.transport(1, h.view()).unwrap().view()).unwrap();
        let log_p = log_softmax_rows(logits.index_axis(Axis(0), i));
        for t in 0..16 {
            kl += kl_divergence(log_p.row(t), log_q.row(t));
            agree += f64::from(u8::from(argmax(log_p.row(t)) == argmax(log_q.row(t))));
            if t < 15 {
                let next = held_out[(i, t + 1)] as usize;
                nats -= f64::from(log_q[(t, next)]);
                model_nats -= f64::from(log_p[(t, next)]);
            }
        }
    }
    let (n, n_next) = (40.0 * 16.0, 40.0 * 15.0);
    let curve = seen.curve(&own.name()).unwrap();
    assert!((curve.kl[1] - kl / n).abs() < 1e-5);
    assert!((curve.cross_entropy[1] - nats / n_next).abs() < 1e-5);
    assert!((curve.agreement[1] - agree / n).abs() < 1e-9);
    assert!((seen.model_cross_entropy - model_nats / n_next).abs() < 1e-5);
    assert!((seen.model_cross_entropy - model.loss(&held_out).unwrap()).abs() < 1e-5);
    // The last stream, read as it is, is the model itself.
    let logit = seen.curve("logit lens").unwrap();
    assert_eq!((logit.agreement[3], logit.fit_seconds), (1.0, 0.0));
    assert!(logit.kl[3].abs() < 1e-9 && (logit.cross_entropy[3] - seen.model_cross_entropy).abs() < 1e-6);
    assert!(curve.fit_seconds > 0.0);
}

#[test]
fn all_kinds_go_through_one_comparison() {
    let (model, train, held_out) = small();
    let moments = LayerMoments::collect_with(&model, &train, Scale::AsItIs, Target::Residual).unwrap();
    let post = LayerMoments::collect_with(&model, &train, Scale::AsItIs, Target::Normalised).unwrap();
    let onto_log_p =
        LayerMoments::collect_with(&model, &train, Scale::AsItIs, Target::LogProbabilities).unwrap();
    let ridge = Ridge::default();
    let to_zero = Ridge { towards: Towards::Zero, ..ridge };
    let lenses = [
        ridge.own(&moments).unwrap(),
        ridge.own(&moments.about_zero()).unwrap().named("own lens, no intercept"),
        to_zero.own(&post).unwrap(),
        to_zero.own(&onto_log_p).unwrap(),
        Jacobian::default().fit(&model, &moments, &train.slice(s![..8, ..]).to_owned()).unwrap(),
        ridge.shared(&moments).unwrap(),
        ridge.shared_own_bias(&moments).unwrap(),
        ridge.shared_own_gain(&moments).unwrap(),
        ridge.left_out(&moments).unwrap(),
        ridge.later(&moments).unwrap(),
        ridge.fitted_on(&moments, &[1, 3]).unwrap(),
        ridge.low_rank(&moments, 2).unwrap(),
    ];
    let tuned = Refine { epochs: 0, lbfgs_steps: 2, ..Default::default() }
        .fit(&model, &lenses[0], &moments, &train)
        .unwrap();
    let mut all: Vec<&dyn Lens> = lenses.iter().map(|l| l as &dyn Lens).collect();
    all.push(&tuned);
    all.push(&LogitLens);
    let seen = compare(&model, &all, &moments, &held_out).unwrap();
    let names: Vec<&str> = seen.curves.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "own lens, raw pre-norm",
            "own lens, no intercept",
            "own lens, raw",
            "own lens, probe",
            "Jacobian lens",
            "shared lens, raw pre-norm",
            "shared lens, own bias, raw pre-norm",
            "shared lens, own gain, raw pre-norm",
            "left-out lens, raw pre-norm",
            "later-layers lens, raw pre-norm",
            "lens of streams [1, 3], raw pre-norm",
            "own lens of rank 2, raw pre-norm",
            "tuned lens, raw pre-norm",
            "logit lens"
        ]
    );
    // What was fitted to the stream before the last itself reads more than nothing there.
    for curve in seen.curves.iter().filter(|c| {
        ["own lens, raw pre-norm", "own lens, raw", "tuned lens, raw pre-norm"].contains(&&*c.name)
    }) {
        assert!(curve.kl[2] < seen.baseline, "{}: {} and {}", curve.name, curve.kl[2], seen.baseline);
    }
    // A row for each, one for the baseline and one for the model.
    assert_eq!(seen.table().rows.len(), 16);
    assert!(seen.table().figure().unwrap().text().contains("top-1 agreement"));
    assert!(seen.agreement_figure().is_ok() && seen.cross_entropy_figure().is_ok());
}

#[test]
fn each_freedom_more_lowers_the_squared_error_on_what_was_fitted() {
    let (model, train, _) = small();
    let moments = LayerMoments::collect(&model, &train).unwrap();
    let streams = streams(&model, &train);
    let errors: Vec<f64> = [
        LEAST_SQUARES.shared(&moments).unwrap(),
        LEAST_SQUARES.shared_own_bias(&moments).unwrap(),
        LEAST_SQUARES.shared_own_gain(&moments).unwrap(),
        LEAST_SQUARES.own(&moments).unwrap(),
    ]
    .iter()
    .map(|lenses| squared_error(lenses, &streams))
    .collect();
    assert!(errors.windows(2).all(|w| w[1] < w[0]), "{errors:?}");
}

#[test]
fn a_shared_matrix_with_own_biases_is_the_regression_on_rows_centred_by_layer() {
    let (model, train, _) = small();
    let streams = streams(&model, &train);
    let centred = |x: &Array2<f64>| x - &x.mean_axis(Axis(0)).unwrap();
    let last = centred(&streams[3]);
    let (mut xx, mut zx) = (Array2::<f64>::zeros((8, 8)), Array2::<f64>::zeros((8, 8)));
    for x in &streams {
        let x = centred(x);
        xx += &x.t().dot(&x);
        zx += &last.t().dot(&x);
    }
    let a = Cholesky::new(xx.view()).unwrap().solve(zx.t()).reversed_axes();
    let moments = LayerMoments::collect_with(&model, &train, Scale::AsItIs, Target::Residual).unwrap();
    let lenses = LEAST_SQUARES.shared_own_bias(&moments).unwrap();
    for (l, x) in streams.iter().enumerate() {
        let lens = lenses.layer(l).unwrap();
        assert!(worst(&lens.a, &a) < 1e-4, "{}", worst(&lens.a, &a));
        let b = streams[3].mean_axis(Axis(0)).unwrap() - a.dot(&x.mean_axis(Axis(0)).unwrap());
        assert!((&lens.b - &b).iter().all(|e| e.abs() < 1e-4));
    }
}

#[test]
fn own_gains_find_how_the_streams_were_scaled() {
    let (model, train, _) = small();
    let mut moments = LayerMoments::collect(&model, &train).unwrap();
    // Four copies of one stream, of other sizes.
    let m = moments.layers[2].clone();
    let scales = [0.25, 0.5, 1.0, 2.0];
    for (layer, scale) in moments.layers.iter_mut().zip(scales) {
        *layer = m.clone();
        layer.x_mean *= scale;
        layer.s_xx *= scale * scale;
        layer.s_zx *= scale;
    }
    let one = LEAST_SQUARES.fit(&m).unwrap();
    let lenses = LEAST_SQUARES.shared_own_gain(&moments).unwrap();
    for (l, scale) in scales.iter().enumerate() {
        let lens = lenses.layer(l).unwrap();
        assert!(worst(&(lens.a * *scale), &one.a) < 1e-5, "stream {l}");
        assert!((&lens.b - &one.b).iter().all(|e| e.abs() < 1e-5));
    }
}

#[test]
fn low_rank_loses_the_variance_of_the_directions_it_leaves_out() {
    let x = random(1, 400, 6).mapv(|x| x as f32);
    let z = (x.mapv(f64::from).dot(&random(2, 6, 6)) + random(3, 400, 6)).mapv(|x| x as f32);
    let (model, train, _) = small();
    let mut moments = LayerMoments::collect(&model, &train).unwrap();
    let mut m = Moments::new(6, 6);
    m.push(x.view(), z.view()).unwrap();
    moments.layers = vec![m.clone(); 4];
    let full = LEAST_SQUARES.own(&moments).unwrap();
    let mse = |lenses: &LayerLenses| Transfer::mse(&moments, lenses).unwrap().values[(0, 0)];
    // What the full lens predicts, as a matrix; by Eckart and Young its best approximation of rank r lacks the other
    // directions.
    let fitted = full.layer(0).unwrap().a.dot(&m.s_xx).dot(&full.layer(0).unwrap().a.t());
    let spread = onelens::num::SymmetricEigen::new(fitted.view()).unwrap().values;
    for rank in 0..=6 {
        let low = LEAST_SQUARES.low_rank(&moments, rank).unwrap();
        let lost: f64 = spread.iter().take(6 - rank).sum::<f64>() / 400.0;
        assert!((mse(&low) - mse(&full) - lost).abs() < 1e-9 * (1.0 + lost), "rank {rank}");
        let gram = low.layer(0).unwrap().a.t().dot(&low.layer(0).unwrap().a);
        let found = onelens::num::SymmetricEigen::new(gram.view()).unwrap().values;
        assert_eq!(found.iter().filter(|s| **s > 1e-9).count(), rank);
    }
    let e = LEAST_SQUARES.low_rank(&moments, 7).unwrap_err().to_string();
    assert!(e.contains("6 outputs") && e.contains("rank 7"), "{e}");
}

#[test]
fn a_lens_without_intercept_is_the_regression_through_the_origin() {
    let x = random(4, 200, 3) + 2.0;
    let z = x.dot(&random(5, 3, 3)) + 1.0;
    let mut m = Moments::new(3, 3);
    m.push(x.mapv(|x| x as f32).view(), z.mapv(|x| x as f32).view()).unwrap();
    let lens = LEAST_SQUARES.fit(&m.about_zero()).unwrap();
    let a = Cholesky::new(x.t().dot(&x).view()).unwrap().solve(x.t().dot(&z).view()).reversed_axes();
    assert!(worst(&lens.a, &a) < 1e-4, "{}", worst(&lens.a, &a));
    assert!(lens.b.iter().all(|b| *b == 0.0));
}

#[test]
fn later_layers_and_subsets_are_fitted_to_those_streams_alone() {
    let (model, train, _) = small();
    let moments = LayerMoments::collect(&model, &train).unwrap();
    let ridge = Ridge::default();
    let later = ridge.later(&moments).unwrap();
    let fit = |layers: &[usize]| ridge.fit(&moments.pooled(layers).unwrap()).unwrap();
    assert_eq!(later.layer(0).unwrap(), fit(&[1, 2, 3]));
    assert_eq!(later.layer(2).unwrap(), fit(&[3]));
    assert_eq!(later.layer(3), ridge.own(&moments).unwrap().layer(3));
    let some = ridge.fitted_on(&moments, &[0, 2]).unwrap();
    assert!((0..4).all(|l| some.layer(l).unwrap() == fit(&[0, 2])));
    assert!(
        ridge
            .fitted_on(&moments, &[4])
            .unwrap_err()
            .to_string()
            .contains("streams are 0 (the embedding) to 3")
    );
    assert!(ridge.fitted_on(&moments, &[]).is_err());
}

#[test]
fn post_norm_lens_and_probe_onto_log_probabilities_read_the_same() {
    let (model, train, held_out) = small();
    let post = LayerMoments::collect_with(&model, &train, Scale::AsItIs, Target::Normalised).unwrap();
    let onto_log_p =
        LayerMoments::collect_with(&model, &train, Scale::AsItIs, Target::LogProbabilities).unwrap();
    let ridge = Ridge { lambda: 1e-3, towards: Towards::Zero };
    let (a, b) = (ridge.own(&post).unwrap(), ridge.own(&onto_log_p).unwrap());
    let seen = compare(&model, &[&a, &b], &post, &held_out).unwrap();
    for l in 0..4 {
        let (a, b) = (seen.curves[0].kl[l], seen.curves[1].kl[l]);
        assert!((a - b).abs() < 1e-4 * (0.01 + a), "stream {l}: {a} and {b}");
    }
    // The last stream determines its own norm only up to what is not linear in it.
    assert!(seen.curves[0].kl[3] > 0.0 && seen.curves[0].kl[3] < 0.2 * seen.baseline);
}

#[test]
fn the_jacobian_lens_is_the_mean_of_jacobians_by_differences() {
    // Sequences of one token have only the same position, so that signs cancel nothing and the average is exact.
    let model = Transformer::new(config()).unwrap();
    let tokens = Array2::from_shape_fn((12, 1), |(i, _)| i as u32);
    let moments = LayerMoments::collect_with(&model, &tokens, Scale::AsItIs, Target::Residual).unwrap();
    let lens = Jacobian::default().fit(&model, &moments, &tokens).unwrap();
    for l in 0..3 {
        let mut want = Array2::<f64>::zeros((8, 8));
        for feature in 0..8 {
            let last = |step: f32| {
                let mut shift = Array3::<f32>::zeros((12, 1, 8));
                shift.slice_mut(s![.., .., feature]).fill(step);
                let change = [Intervention::add(Hook::ResidPre(l), shift)];
                let (_, cache) =
                    model.run_with_cache_of(&tokens, &change, &|h| h == Hook::ResidPost(2)).unwrap();
                cache.resid_post(2).unwrap().mapv(f64::from)
            };
            let slope = (last(0.01) - last(-0.01)) / 0.02;
            want.column_mut(feature).assign(&slope.mean_axis(Axis(0)).unwrap().row(0));
        }
        let found = lens.layer(l).unwrap();
        assert!(worst(&found.a, &want) < 2e-3, "stream {l}: {}", worst(&found.a, &want));
    }
    assert!(worst(&lens.layer(3).unwrap().a, &Array2::eye(8)) < 1e-6);
}

#[test]
fn the_jacobian_lens_leaves_out_what_one_position_does_to_another() {
    let model = Transformer::new(config()).unwrap();
    let sequence = [3_u32, 1, 4, 1];
    let tokens = Array2::from_shape_fn((600, 4), |(_, t)| sequence[t]);
    let moments =
        LayerMoments::collect_with(&model, &tokens.mapv(|t| t + 1), Scale::AsItIs, Target::Residual).unwrap();
    let lens = Jacobian { seed: 3 }.fit(&model, &moments, &tokens).unwrap();
    let one = tokens.slice(s![..1, ..]).to_owned();
    let mut want = Array2::<f64>::zeros((8, 8));
    let mut others = 0.0_f64;
    for (feature, pos) in (0..8).flat_map(|f| (0..4).map(move |t| (f, t))) {
        let last = |step: f32| {
            let mut shift = Array3::<f32>::zeros((1, 4, 8));
            shift[(0, pos, feature)] = step;
            let change = [Intervention::add(Hook::ResidPre(0), shift)];
            let (_, cache) = model.run_with_cache_of(&one, &change, &|h| h == Hook::ResidPost(2)).unwrap();
            cache.resid_post(2).unwrap().index_axis_move(Axis(0), 0).mapv(f64::from)
        };
        let slope = (last(0.01) - last(-0.01)) / 0.02;
        let mut column = want.column_mut(feature);
        column += &(&slope.row(pos) / 4.0);
        others += (pos + 1..4).map(|t| slope[(t, 0)].abs()).sum::<f64>();
    }
    // 2400 signs average what crosses positions to about a fiftieth.
    assert!(worst(&lens.layer(0).unwrap().a, &want) < 0.02, "{}", worst(&lens.layer(0).unwrap().a, &want));
    assert!(others > 0.02, "nothing crosses positions in this network: {others}");
}

#[test]
fn given_numbers_are_read_and_measured_but_not_decoded() {
    let source = HiddenMarkov::mess3(0.85, 0.05).unwrap();
    let model = Transformer::new(Config { d_vocab: 3, ..config() }).unwrap();
    let tokens = source.sample(40, 16, &mut rng(0, 0)).unwrap();
    let mut beliefs = Array3::<f32>::zeros((40, 16, 3));
    for (i, row) in tokens.rows().into_iter().enumerate() {
        let b = source.beliefs(row).unwrap();
        beliefs.index_axis_mut(Axis(0), i).assign(&b.mapv(|x| x as f32));
    }
    let moments = LayerMoments::collect_given(&model, &tokens, &beliefs).unwrap();
    let probe = LEAST_SQUARES.own(&moments).unwrap();
    assert_eq!((probe.target(), probe.layer(0).unwrap().a.dim()), (Target::Given, (3, 8)));
    // The error that the moments tell is that on the data, with rows and numbers in the right order.
    let streams = streams(&model, &tokens);
    let mse = Transfer::mse(&moments, &probe).unwrap().values;
    for (l, stream) in streams.iter().enumerate() {
        let read = probe.transport(l, stream.mapv(|x| x as f32).view()).unwrap().mapv(f64::from);
        let rows = beliefs.to_shape((640, 3)).unwrap().mapv(f64::from);
        let want = (rows - read).mapv(|e| e * e).sum() / 640.0;
        assert!((mse[(l, l)] - want).abs() < 1e-6, "stream {l}: {} and {want}", mse[(l, l)]);
    }
    let e = compare(&model, &[&probe], &moments, &tokens).unwrap_err().to_string();
    assert!(e.contains("not the next token"), "{e}");
    let e =
        LayerMoments::collect_given(&model, &tokens, &Array3::zeros((40, 15, 3))).unwrap_err().to_string();
    assert!(e.contains("(40, 15, 3)") && e.contains("(40, 16)"), "{e}");
    assert!(LayerMoments::collect_with(&model, &tokens, Scale::AsItIs, Target::Given).is_err());
    assert!(moments.clone().push(&model, &tokens).is_err());
    let e = moments
        .clone()
        .merge(&LayerMoments::collect_with(&model, &tokens, Scale::AsItIs, Target::Residual).unwrap())
        .unwrap_err()
        .to_string();
    assert!(e.contains("Residual") && e.contains("Given"), "{e}");
    let e = Ridge::default().own(&moments).unwrap_err().to_string();
    assert!(e.contains("residual stream 0") && e.contains("Towards::Zero"), "{e}");
}

#[test]
fn lenses_of_streams_at_unit_rms_are_those_fitted_to_rows_that_were_divided_by_theirs() {
    let (model, train, held_out) = small();
    let at_unit_rms = |x: &Array2<f64>| {
        let rms = x.mapv(|x| x * x).mean_axis(Axis(1)).unwrap().mapv(f64::sqrt);
        x / &rms.insert_axis(Axis(1))
    };
    let seen = streams(&model, &train);
    for target in [Target::Residual, Target::Normalised] {
        let moments = LayerMoments::collect_with(&model, &train, Scale::UnitRms, target).unwrap();
        let lenses = LEAST_SQUARES.own(&moments).unwrap();
        let as_they_are = LayerMoments::collect_with(&model, &train, Scale::AsItIs, target).unwrap();
        for (l, h) in seen.iter().enumerate() {
            let x = at_unit_rms(h);
            let x_mean = x.mean_axis(Axis(0)).unwrap();
            let centred = &x - &x_mean;
            let got = &moments.layers[l];
            assert!(
                worst(&got.s_xx, &centred.t().dot(&centred)) < 1e-3 * x.nrows() as f64 / 1600.0,
                "{target:?} {l}"
            );
            assert!((&got.z_mean - &as_they_are.layers[l].z_mean).iter().all(|e| e.abs() < 1e-6));
            // The normal equations hold: nothing of what is left correlates with the input.
            let lens = lenses.layer(l).unwrap();
            let left = &got.s_zx - &lens.a.dot(&got.s_xx);
            let scale = got.s_zx.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
            assert!(left.iter().all(|e| e.abs() < 1e-8 * scale), "{target:?} {l}");
            // What the lens makes of a stream does not change with its size.
            let h32 = h.mapv(|x| x as f32);
            let twice = lenses.transport(l, (&h32 * 2.0).view()).unwrap();
            let difference = &twice - &lenses.transport(l, h32.view()).unwrap();
            assert!(difference.iter().all(|e| e.abs() < 1e-4), "{target:?} {l}");
        }
        // They refine, and save and load, as others do.
        let tuned = Refine { epochs: 2, lbfgs_steps: 2, ..Refine::default() };
        let tuned = tuned.fit(&model, &lenses, &moments, &train).unwrap();
        let kl = &tuned.training_kl;
        assert!((0..=model.config.n_layers).all(|l| kl[(kl.nrows() - 1, l)] <= kl[(0, l)]));
        let comparison = compare(&model, &[&lenses, &tuned.lenses], &moments, &held_out).unwrap();
        assert!(comparison.curves[0].kl.iter().all(|kl| kl.is_finite()));
        let path = tempfile::tempdir().unwrap();
        let path = path.path().join("lenses");
        lenses.save(&path).unwrap();
        assert!(LayerLenses::load(&path).unwrap() == lenses);
        // Neither is taken for the other.
        assert!(
            Refine::default()
                .fit(&model, &lenses, &as_they_are, &train)
                .unwrap_err()
                .to_string()
                .contains("UnitRms")
        );
        assert!(Transfer::mse(&as_they_are, &lenses).unwrap_err().to_string().contains("UnitRms"));
        let mut both = as_they_are.clone();
        assert!(both.merge(&moments).unwrap_err().to_string().contains("UnitRms"));
    }
}

#[test]
fn streams_that_do_not_exist_and_rows_of_another_width_are_refused() {
    let (model, train, _) = small();
    let moments = LayerMoments::collect(&model, &train).unwrap();
    let own = Ridge::default().own(&moments).unwrap();
    let (right, wrong) = (Array2::<f32>::zeros((2, 8)), Array2::<f32>::zeros((2, 7)));
    let said = |e: onelens::Error| e.to_string();
    assert!(said(own.transport(99, right.view()).unwrap_err()).contains("no residual stream 99 among 4"));
    assert!(
        said(own.transport(1, wrong.view()).unwrap_err())
            .contains("rows of 8 numbers; these are 2 rows of 7")
    );
    assert!(said(own.decode(&model, wrong.view()).unwrap_err()).contains("rows of 8 numbers"));
    assert!(said(model.decode(wrong.view()).unwrap_err()).contains("these are 2 rows of 7"));
    assert!(said(own.layer(1).unwrap().transport(wrong.view()).unwrap_err()).contains("[rows, 8]"));
    let mut other = model.clone();
    other.config.n_layers = 2;
    assert!(said(other.decode(right.view()).unwrap_err()).contains("do not fit the configuration"));
    assert!(own.transport(3, right.view()).unwrap().dim() == (2, 8));
}
