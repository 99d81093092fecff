//! Which directions a lens relies on, and what strange inputs look like from layer to layer.

use ndarray::{Array1, Array2, Axis};
use onelens::data::{Markov, Source};
use onelens::lens::{
    CausalBasis, Detector, LayerLenses, LayerMoments, Lens, LogitLens, Ridge, Scale, Target, Towards,
    Trajectory, compare, detect_anomalies, trajectory_features,
};
use onelens::model::{Config, Hook, Training, Transformer};
use onelens::num::{SymmetricEigen, kl_divergence, normal, rng};

fn small() -> (Transformer, LayerLenses, Array2<u32>) {
    let source = Markov::new(12, 0.3).unwrap();
    let config = Config {
        d_vocab: 12,
        n_ctx: 16,
        d_model: 8,
        n_layers: 3,
        n_heads: 2,
        d_head: 4,
        d_mlp: 16,
        ..Default::default()
    };
    let mut model = Transformer::new(config).unwrap();
    model.train(&source, &Training { steps: 250, batch_size: 16, lr: 1e-2, ..Default::default() }).unwrap();
    let tokens = source.sample(40, 16, &mut rng(8, 0)).unwrap();
    let moments = LayerMoments::collect_with(&model, &tokens, Scale::AsItIs, Target::Residual).unwrap();
    let lens = Ridge::default().own(&moments).unwrap();
    (model, lens, tokens)
}

/// The lens's change when `v` is ablated, by its definition.
fn influence(
    model: &Transformer,
    lens: &dyn Lens,
    layer: usize,
    tokens: &Array2<u32>,
    v: &Array1<f64>,
) -> f64 {
    let (_, cache) = model.run_with_cache(tokens).unwrap();
    let h = if layer == 0 { cache.resid_pre(0) } else { cache.resid_post(layer - 1) }.unwrap();
    let h = h.into_shape_with_order((tokens.len(), 8)).unwrap().mapv(f64::from);
    let centred = &h - &h.mean_axis(Axis(0)).unwrap();
    let along = centred.dot(v).insert_axis(Axis(1));
    let ablated = &h - &along.dot(&v.clone().insert_axis(Axis(0)));
    let read = |h: &Array2<f64>| lens.read(model, layer, h.mapv(|x| x as f32).view()).unwrap();
    let (p, q) = (read(&h), read(&ablated));
    p.rows().into_iter().zip(q.rows()).map(|(p, q)| kl_divergence(p, q)).sum::<f64>() / tokens.len() as f64
}

#[test]
fn no_random_or_principal_direction_matters_more_to_the_lens_than_the_first_of_the_basis() {
    let (model, lens, tokens) = small();
    let basis = CausalBasis::new(&model, &lens, 1, 8, &tokens).unwrap();
    let gram = basis.directions.dot(&basis.directions.t());
    assert!((gram - Array2::<f64>::eye(8)).iter().all(|e| e.abs() < 1e-9));
    for (v, found) in basis.directions.rows().into_iter().zip(&basis.lens_influence) {
        let want = influence(&model, &lens, 1, &tokens, &v.to_owned());
        assert!((found - want).abs() < 1e-4 * (0.01 + want), "{found} and {want}");
    }
    assert!(basis.lens_influence.windows(2).all(|w| w[1] < 1.05 * w[0]), "{:?}", basis.lens_influence);
    let mut random = rng(1, 0);
    let mut others: Vec<Array1<f64>> =
        (0..100).map(|_| Array1::from_shape_simple_fn(8, || normal(&mut random))).collect();
    let moments = LayerMoments::collect_with(&model, &tokens, Scale::AsItIs, Target::Residual).unwrap();
    let principal = SymmetricEigen::new(moments.layers[1].s_xx.view()).unwrap().vectors;
    others.extend(principal.columns().into_iter().map(|v| v.to_owned()));
    for v in others {
        let v = &v / v.dot(&v).sqrt();
        assert!(influence(&model, &lens, 1, &tokens, &v) <= basis.lens_influence[0] * (1.0 + 1e-6));
    }
}

#[test]
fn at_the_last_stream_a_lens_that_changes_nothing_is_the_model() {
    let (model, _, tokens) = small();
    let moments = LayerMoments::collect_with(&model, &tokens, Scale::AsItIs, Target::Residual).unwrap();
    // Least squares of the last stream on itself.
    let identity = Ridge { lambda: 0.0, towards: Towards::Zero }.own(&moments).unwrap();
    let basis = CausalBasis::new(&model, &identity, 3, 5, &tokens).unwrap();
    for (lens, model) in basis.lens_influence.iter().zip(&basis.model_influence) {
        assert!((lens - model).abs() < 1e-3 * lens, "{lens} and {model}");
    }
    assert_eq!(basis.rank_correlation(), 1.0);
    // Below, what the lens relies on is not quite what the model does.
    let below = CausalBasis::new(&model, &identity, 1, 5, &tokens).unwrap();
    assert!(below.model_influence.iter().all(|x| x.is_finite() && *x > 0.0));
    for (layer, n) in [(4, 1), (1, 9), (1, 0)] {
        assert!(CausalBasis::new(&model, &identity, layer, n, &tokens).is_err());
    }
}

#[test]
fn features_are_the_means_that_a_comparison_shows() {
    let (model, lens, tokens) = small();
    let features = trajectory_features(&model, &lens, &tokens).unwrap();
    let moments = LayerMoments::collect(&model, &tokens).unwrap();
    let curve = &compare(&model, &[&lens], &moments, &tokens).unwrap().curves[0];
    let means = features.mean_axis(Axis(0)).unwrap();
    for l in 0..4 {
        assert!((means[3 * l] - curve.kl[l]).abs() < 1e-6);
        assert!((means[3 * l + 2] - curve.cross_entropy[l]).abs() < 1e-6);
    }
    assert!(trajectory_features(&model, &lens, &Array2::zeros((2, 1))).is_err());
}

#[test]
fn detectors_find_nothing_between_halves_of_one_source_and_find_another_source() {
    let (model, lens, _) = small();
    let source = Markov::new(12, 0.3).unwrap();
    let normal_tokens = source.sample(240, 16, &mut rng(9, 0)).unwrap();
    let same = source.sample(80, 16, &mut rng(9, 1)).unwrap();
    let other = same.mapv(|t| if t % 2 == 0 { 0 } else { 1 });
    let features = |tokens: &Array2<u32>| trajectory_features(&model, &lens, tokens).unwrap();
    let detectors = [Detector::Mahalanobis, Detector::LocalOutlierFactor { k: 20 }];
    let known = features(&normal_tokens);
    for report in detect_anomalies(&known, &features(&same), &detectors, 5, 0).unwrap() {
        let mean = report.auroc.iter().sum::<f64>() / 5.0;
        // The standard error of an AUROC of 120 against 80 is about 0.04.
        assert!((mean - 0.5).abs() < 0.15, "{report:?}");
    }
    for report in detect_anomalies(&known, &features(&other), &detectors, 5, 0).unwrap() {
        assert!(report.auroc.iter().all(|a| *a > 0.75), "{report:?}");
        assert_eq!((report.auroc.len(), report.final_layer.len()), (5, 5));
        assert!(report.gain().0.is_finite());
    }
    let e = detect_anomalies(&known, &features(&same), &detectors, 0, 0).unwrap_err().to_string();
    assert!(e.contains("0 splits of 240"), "{e}");
}

#[test]
fn prediction_depth_is_the_first_stream_after_which_the_best_token_stays() {
    let (model, _, tokens) = small();
    let source = Markov::new(12, 0.3).unwrap();
    let sequence = tokens.row(0).to_vec();
    let seen = Trajectory::new(&model, &LogitLens, &sequence, &source).unwrap();
    let (_, cache) =
        model.run_with_cache(&Array2::from_shape_vec((1, 15), sequence[..15].to_vec()).unwrap()).unwrap();
    let best = |l: usize| -> Vec<usize> {
        let hook = if l == 0 { Hook::ResidPre(0) } else { Hook::ResidPost(l - 1) };
        let h = cache.get(hook).unwrap().into_shape_with_order((15, 8)).unwrap();
        let log_q = model.decode(h.view()).unwrap();
        let top = |row: ndarray::ArrayView1<f32>| (0..12).max_by(|&i, &j| row[i].total_cmp(&row[j])).unwrap();
        log_q.rows().into_iter().map(top).collect()
    };
    let best: Vec<Vec<usize>> = (0..4).map(best).collect();
    for (t, depth) in seen.prediction_depth().into_iter().enumerate() {
        assert!((depth..4).all(|l| best[l][t] == best[3][t]));
        assert!(depth == 0 || best[depth - 1][t] != best[3][t]);
        let reading = &seen.readings[(1, t)];
        assert!((reading.cross_entropy + f64::from(reading.p_target).ln()).abs() < 1e-5);
    }
}
