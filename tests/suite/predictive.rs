//! Layers that predict and correct: exactly gradient descent with one mask, measurably not with another, and trainable.

use ndarray::{Array2, Array3, Axis, s};
use onelens::data::{Copies, Lines, Markov, Source};
use onelens::dual::{Kernel, PredictiveCoding, PredictiveConfig, PredictiveHook, delta_coefficient, descend};
use onelens::model::{Mask, Training};
use onelens::num::{Rng, normal, rng};

fn gaussian(shape: (usize, usize), rng: &mut Rng) -> Array2<f64> {
    Array2::from_shape_simple_fn(shape, || normal(rng))
}

fn largest(a: &Array2<f64>) -> f64 {
    a.iter().fold(0.0, |m, x| m.max(x.abs()))
}

/// The largest distance between the predictions of each layer and those of explicit descent on
/// `½ Σ ‖e_{j+1} - W e_j‖²`.
fn distance_from_descent(mask: Mask, n_prefix: usize) -> Vec<f64> {
    let mut rng = rng(0, 0);
    let (n_pos, d, lr) = (9, 4, 0.02);
    let (e, w_0) = (gaussian((n_pos, d), &mut rng), gaussian((d, d), &mut rng) * 0.3);
    let net = PredictiveCoding::descent(w_0.clone(), &[lr; 5]).unwrap();
    let cache = net.run_vectors(e.view(), mask).unwrap();
    let pairs = n_prefix - 1;
    let (x, y) = (e.slice(s![..pairs, ..]), e.slice(s![1..n_prefix, ..]));
    // `descend` takes the mean over pairs, the layers the sum.
    let steps = descend(x, y, w_0.view(), lr * pairs as f64, 5).unwrap();
    (0..=5)
        .map(|l| {
            let p = cache.predictions(l).unwrap().index_axis(Axis(0), 0).to_owned();
            largest(&(p - e.dot(&steps.weights[l].t())))
        })
        .collect()
}

#[test]
fn with_all_pairs_visible_every_layer_is_a_step_of_gradient_descent_at_every_position() {
    assert!(distance_from_descent(Mask::None, 9).iter().all(|d| *d < 1e-12));
}

/// A prefix is the context, the positions after it are queries; here only the last one, which sees the same pairs.
#[test]
fn with_a_prefix_mask_context_and_query_move_by_the_same_weights() {
    let mut rng = rng(1, 0);
    let (e, w_0) = (gaussian((6, 3), &mut rng), gaussian((3, 3), &mut rng) * 0.3);
    let net = PredictiveCoding::descent(w_0.clone(), &[0.05, 0.02]).unwrap();
    let cache = net.run_vectors(e.view(), Mask::Prefix(6)).unwrap();
    let mut w = w_0;
    for (l, lr) in [0.05, 0.02].into_iter().enumerate() {
        let error = &e.slice(s![1.., ..]) - &e.slice(s![..-1, ..]).dot(&w.t());
        w = w + error.t().dot(&e.slice(s![..-1, ..])) * lr;
        let p = cache.predictions(l + 1).unwrap();
        assert!(largest(&(&p.index_axis(Axis(0), 0) - &e.dot(&w.t()))) < 1e-12);
    }
}

#[test]
fn with_a_causal_mask_a_layer_is_not_gradient_descent() {
    let distances = distance_from_descent(Mask::Causal, 9);
    assert!(distances[0] < 1e-12);
    assert!(distances[1..].iter().all(|d| *d > 0.05), "{distances:?}");
}

#[test]
fn a_causal_network_does_not_see_the_future() {
    let net = PredictiveCoding::new(PredictiveConfig { d_vocab: 5, ..Default::default() }).unwrap();
    let tokens = Array2::from_shape_fn((1, 12), |(_, t)| (t * t % 5) as u32);
    let mut other = tokens.clone();
    other[(0, 7)] = 4 - other[(0, 7)];
    let ((a, _), (b, _)) = (net.run_with_cache(&tokens).unwrap(), net.run_with_cache(&other).unwrap());
    assert_eq!(a.slice(s![.., ..7, ..]), b.slice(s![.., ..7, ..]));
    assert_ne!(a.slice(s![.., 7.., ..]), b.slice(s![.., 7.., ..]));
}

#[test]
fn hooks_hold_what_the_equations_say() {
    let config = PredictiveConfig { d_vocab: 6, n_layers: 2, ..Default::default() };
    let net = PredictiveCoding::new(config).unwrap();
    let tokens = Array2::from_shape_fn((2, 7), |(b, t)| ((b + t * t) % 6) as u32);
    let (_, cache) = net.run_with_cache(&tokens).unwrap();
    let embed = cache.get(PredictiveHook::Embed).unwrap();
    for l in 0..2 {
        let p = cache.predictions(l).unwrap();
        let wanted = &embed.slice(s![.., 1.., ..]) - &p.slice(s![.., ..-1, ..]);
        assert_eq!(cache.errors(l).unwrap(), wanted);
        let pattern = cache.get(PredictiveHook::Pattern(l)).unwrap();
        let next = cache.predictions(l + 1).unwrap();
        for b in 0..2 {
            let moved =
                pattern.index_axis(Axis(0), b).dot(&wanted.index_axis(Axis(0), b)) * net.params.layers[l].lr;
            let moved = moved + p.index_axis(Axis(0), b);
            assert!(largest(&(&next.index_axis(Axis(0), b) - &moved)) < 1e-14);
        }
        // A softmax over the pairs that ended: none for the first position.
        let sums = pattern.sum_axis(Axis(2));
        assert!(sums.column(0).iter().all(|s| *s == 0.0));
        assert!(sums.slice(s![.., 1..]).iter().all(|s| (s - 1.0).abs() < 1e-12));
    }
    let e = cache.errors(3).unwrap_err();
    assert!(e.help().contains("0 to 2"), "{e}");
}

/// Trained on chains, it beats what a predictor without context can do, and its corrections each help.
#[test]
fn a_trained_network_learns_bigrams_in_context_by_correcting_itself() {
    let source = Markov::new(6, 0.3).unwrap();
    let config =
        PredictiveConfig { d_vocab: 6, n_ctx: 40, d_model: 12, d_key: 12, n_layers: 2, ..Default::default() };
    let mut net = PredictiveCoding::new(config).unwrap();
    let how = Training { steps: 300, batch_size: 16, lr: 0.01, weight_decay: 0.01, ..Default::default() };
    let log = net.train(&source, &how).unwrap();
    let tokens = source.sample_held_out(100, 41, &mut rng(3, 2)).unwrap();
    let mut best = 0.0;
    for row in tokens.rows() {
        let row = row.to_vec();
        let p = source.true_conditional(&row).unwrap();
        best -= (0..40).map(|t| p[(t, row[t + 1] as usize)].ln()).sum::<f64>() / 4000.0;
    }
    let losses = net.layer_losses(&tokens).unwrap();
    // Without context every token is as likely as any other.
    let nothing = 6_f64.ln();
    assert!(losses[2] >= best - 0.02, "{losses:?}, no predictor beats {best}");
    assert!(nothing - losses[2] > 0.75 * (nothing - best), "{losses:?} of {best}");
    assert!(losses[0] > losses[2] + 0.2, "{losses:?}");
    assert_eq!(log.losses.len(), 300);
}

#[test]
fn delta_is_minus_one_for_errors_and_zero_for_what_came() {
    let mut rng = rng(5, 0);
    let (n_seqs, m, v) = (60, 30, 5);
    let logits = Array3::from_shape_simple_fn((n_seqs, m, v), || 1.5 * normal(&mut rng));
    let mut q = logits.mapv(f64::exp);
    for mut seq in q.outer_iter_mut() {
        for mut row in seq.rows_mut() {
            let sum = row.sum();
            row /= sum;
        }
    }
    let tokens = Array2::from_shape_fn((n_seqs, m), |(b, t)| {
        onelens::num::sample_index(&mut rng, q.slice(s![b, t, ..]).iter().copied().collect::<Vec<_>>()) as u32
    });
    let mix = gaussian((v, 3), &mut rng);
    for (delta, noise) in [(0.0, 0.3), (-1.0, 0.3), (-0.4, 0.1)] {
        let mut values = Array3::zeros((n_seqs, m, 3));
        for b in 0..n_seqs {
            for t in 0..m {
                let row = &mix.row(tokens[(b, t)] as usize) + &(mix.t().dot(&q.slice(s![b, t, ..])) * delta);
                values.slice_mut(s![b, t, ..]).assign(&(row + noise * normal(&mut rng)));
            }
        }
        let found = delta_coefficient(&values, &tokens, &q, 0).unwrap();
        assert!((found.coefficient - delta).abs() < 0.1, "{delta}: {found:?}");
        assert!(
            found.interval.0 < found.interval.1 && found.interval.1 - found.interval.0 < 0.3,
            "{found:?}"
        );
    }
    let still = Array3::zeros((n_seqs, m, 3));
    assert!(delta_coefficient(&still, &tokens, &q, 0).unwrap_err().what().contains("do not vary"));
}

#[test]
fn the_same_seed_trains_the_same_network() {
    let source = Copies::new(5, 2, 4).unwrap();
    let config = PredictiveConfig { d_vocab: 5, n_ctx: 12, d_model: 6, d_key: 6, ..Default::default() };
    let how = Training { steps: 5, batch_size: 6, ..Default::default() };
    let train = || {
        let mut net = PredictiveCoding::new(config.clone()).unwrap();
        net.train(&source, &how).unwrap();
        net
    };
    assert_eq!(train(), train());
}

#[test]
fn bad_networks_tokens_and_vectors_are_sentences() {
    let e = PredictiveCoding::new(PredictiveConfig { n_layers: 0, ..Default::default() }).unwrap_err();
    assert!(e.what().contains("n_layers is 0"));
    let net =
        PredictiveCoding::new(PredictiveConfig { d_vocab: 5, kernel: Kernel::Linear, ..Default::default() })
            .unwrap();
    assert!(net.loss(&Array2::from_elem((1, 4), 5)).unwrap_err().what().contains("token 5"));
    assert!(net.loss(&Array2::zeros((1, 2))).unwrap_err().what().contains("2 tokens"));
    assert!(PredictiveCoding::descent(Array2::zeros((2, 3)), &[0.1]).is_err());
    assert!(PredictiveCoding::descent(Array2::zeros((2, 2)), &[f64::NAN]).is_err());
    let nan = Array2::from_elem((3, 32), f64::NAN);
    assert!(net.run_vectors(nan.view(), Mask::Causal).unwrap_err().what().contains("96 of the numbers"));
    let mut other = net;
    let e = other.train(&Lines::new(4).unwrap(), &Training::default()).unwrap_err();
    assert!(e.what().contains("9 tokens") && e.help().contains("d_vocab: 9"), "{e}");
}
