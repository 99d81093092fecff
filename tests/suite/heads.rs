//! Softmax heads of a transformer, taken apart; in-context learning beside fine-tuning.

use ndarray::{Array1, Array2, Axis, s};
use onelens::data::{Lines, Markov, Source};
use onelens::dual::{
    ContextSplit, Demonstrated, FineTuning, HeadDeltas, HeadRelaxation, OrderSensitivity, RandomFeatures,
    UpdateSimilarity,
};
use onelens::model::{Attention, Config, Mlp, Positions, Rotary, Training, Transformer};
use onelens::num::{normal, rng};

fn small(d_vocab: usize) -> Config {
    Config {
        d_vocab,
        n_ctx: 24,
        d_model: 32,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: Some(2),
        d_head: 8,
        mlp: Mlp::None,
        positions: Positions::Rotary(Rotary::default()),
        ..Default::default()
    }
}

#[test]
fn a_head_is_a_mixture_of_what_the_context_gives_and_what_the_query_gives() {
    let mut model = Transformer::new(small(6)).unwrap();
    // Weights large enough for patterns that are far from uniform.
    for block in &mut model.params.blocks {
        block.w_q *= 8.0;
        block.w_k *= 8.0;
    }
    let tokens = Markov::new(6, 0.3).unwrap().sample(3, 20, &mut rng(0, 0)).unwrap();
    let (_, cache) = model.run_with_cache(&tokens).unwrap();
    for layer in 0..2 {
        let split = ContextSplit::new(&model, &tokens, layer, 12).unwrap();
        assert!(split.error < 1e-6, "{}", split.error);
        let (pattern, v) = (cache.pattern(layer).unwrap(), cache.v(layer).unwrap());
        for (b, h, q) in [(0, 0, 0), (1, 3, 5), (2, 2, 7)] {
            let row = pattern.slice(s![b, h, 12 + q, ..]);
            let lambda: f64 = row.iter().take(12).map(|x| f64::from(*x)).sum();
            assert!((split.lambda[(b, h, q)] - lambda).abs() < 1e-12);
            for i in 0..8 {
                // A head of a group of two reads key/value head h / 2.
                let read: f64 = (0..12).map(|j| f64::from(row[j]) * f64::from(v[(b, j, h / 2, i)])).sum();
                assert!((split.from_context[(b, h, q, i)] * lambda - read).abs() < 1e-12);
            }
        }
    }
    let e = ContextSplit::new(&model, &tokens, 0, 20).unwrap_err();
    assert!(e.what().contains("20 of 20"), "{e}");
}

/// With weak scores every relaxation is right; with strong ones the linear expansion fails, as its error, second order
/// in the scores, says.
#[test]
fn linear_attention_is_a_head_whose_scores_hardly_vary_and_not_one_whose_scores_do() {
    let tokens = Markov::new(6, 0.3).unwrap().sample(4, 20, &mut rng(1, 0)).unwrap();
    let at = |factor: f32| {
        let mut model = Transformer::new(small(6)).unwrap();
        for block in &mut model.params.blocks {
            block.w_q *= factor;
            block.w_k *= factor;
        }
        HeadRelaxation::new(&model, &tokens).unwrap()
    };
    let (weak, strong) = (at(0.3), at(20.0));
    assert!(weak.first_order.iter().all(|c| *c > 0.999), "{:?}", weak.first_order);
    assert!(weak.entropy.iter().all(|e| *e > 0.99) && strong.entropy.iter().all(|e| *e < 0.9));
    assert!(strong.score_variance.mean().unwrap() > 100.0 * weak.score_variance.mean().unwrap());
    assert!(strong.first_order.mean().unwrap() < 0.9, "{:?}", strong.first_order);
    let linear = Transformer::new(Config { attention: Attention::Linear, ..small(6) }).unwrap();
    assert!(HeadRelaxation::new(&linear, &tokens).unwrap_err().what().contains("linear attention"));
}

/// Choromanski et al. 2021: unbiased features, so the error falls as the root of their number.
#[test]
fn random_features_recover_a_softmax_head_with_the_root_of_their_number() {
    let mut rng = rng(2, 0);
    let inputs: Vec<_> = (0..20)
        .map(|_| {
            let mut draw = |n, d, size: f64| Array2::from_shape_simple_fn((n, d), || size * normal(&mut rng));
            let q: Array1<f64> = draw(1, 8, 0.25).row(0).to_owned();
            (q, draw(12, 8, 0.25), draw(12, 4, 1.0))
        })
        .collect();
    let how = RandomFeatures { n_features: vec![64, 256, 1024, 4096], n_draws: 5, seed: 1 };
    let curve = how.curve_of(&inputs).unwrap();
    assert!((curve.slope + 0.5).abs() < 0.08, "{curve:?}");
    assert!(curve.errors[3].0 < 0.1);
    assert!(RandomFeatures { n_features: vec![0], ..how }.curve_of(&inputs).is_err());
}

fn questions(n: usize) -> Vec<Demonstrated> {
    let tokens = Lines::new(4).unwrap().sample(n, 18, &mut rng(4, 0)).unwrap();
    tokens
        .rows()
        .into_iter()
        .map(|row| Demonstrated {
            demonstrations: Array2::from_shape_fn((8, 2), |(i, j)| row[2 * i + j]),
            query: vec![row[16]],
            answer: row[17],
        })
        .collect()
}

/// A step of either kind lowers the loss that it descends on; the layer-causal one touches the same tensors and no
/// others.
#[test]
fn fine_tuning_learns_its_demonstrations_and_changes_keys_and_values_only() {
    let model = Transformer::new(small(9)).unwrap();
    for q in questions(3) {
        for layer_causal in [false, true] {
            let tuned = FineTuning { lr: 0.05, layer_causal }.step(&model, &q.demonstrations).unwrap();
            let losses = [&model, &tuned].map(|m| m.loss(&q.demonstrations).unwrap());
            assert!(losses[1] < losses[0], "{layer_causal}: {losses:?}");
            let mut back = tuned.clone();
            for (block, old) in back.params.blocks.iter_mut().zip(&model.params.blocks) {
                block.w_k.assign(&old.w_k);
                block.w_v.assign(&old.w_v);
            }
            assert!(back == model);
        }
    }
    // In the first layer the top's error is not its own.
    let q = &questions(1)[0];
    let steps = [false, true]
        .map(|layer_causal| FineTuning { lr: 0.05, layer_causal }.step(&model, &q.demonstrations).unwrap());
    assert!(steps[0].params.blocks[0].w_v != steps[1].params.blocks[0].w_v);
}

#[test]
fn one_step_on_all_demonstrations_knows_no_order_and_the_context_does() {
    let source = Lines::new(4).unwrap();
    let mut model = Transformer::new(small(9)).unwrap();
    model.train(&source, &Training { steps: 100, batch_size: 16, ..Default::default() }).unwrap();
    let asked = questions(6);
    let similarity = UpdateSimilarity::new(&model, &asked, 0.1).unwrap();
    for series in [&similarity.fine_tuning, &similarity.layer_causal, &similarity.other_context] {
        assert_eq!(series.len(), 2);
        assert!(series.iter().all(|(mean, error)| mean.abs() <= 1.0 && *error >= 0.0));
    }
    let order = OrderSensitivity::new(&model, &asked, 0.1, 4, 0).unwrap();
    assert!(order.in_context.0 > 0.0 && order.fine_tuning.0 > 0.0);
    // A batch has no order: the same step up to rounding.
    let q = &asked[0];
    let backwards = q.demonstrations.select(Axis(0), &[7, 6, 5, 4, 3, 2, 1, 0]);
    let how = FineTuning::default();
    let [a, b] = [&q.demonstrations, &backwards].map(|d| how.step(&model, d).unwrap());
    let far = |a: &Array2<f32>, b: &Array2<f32>| (a - b).iter().fold(0.0_f32, |m, x| m.max(x.abs()));
    assert!(far(&a.params.blocks[1].w_v, &b.params.blocks[1].w_v) < 1e-6);
    let e = UpdateSimilarity::new(&model, &asked[..1], 0.1).unwrap_err();
    assert!(e.what().contains("the number of questions is 1"), "{e}");
}

/// Layer 0 sees the token and nothing else, so its values cannot hold a prediction; at any training.
#[test]
fn values_of_the_first_layer_are_hebbian() {
    let source = Markov::new(5, 0.5).unwrap();
    let tokens = source.sample(60, 24, &mut rng(6, 0)).unwrap();
    let model = Transformer::new(small(5)).unwrap();
    let deltas = HeadDeltas::new(&model, &tokens, 0).unwrap();
    assert_eq!((deltas.layers.len(), deltas.layers[0].len()), (2, 2));
    for delta in &deltas.layers[0] {
        assert!(delta.coefficient.abs() < 1e-3 && delta.r2 > 0.9999, "{delta:?}");
    }
}
