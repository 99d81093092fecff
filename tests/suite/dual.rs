//! The identities behind `dual`: attention over a training history, layers that are gradient steps, exact losses.

use ndarray::{Array1, Array2, Axis, array};
use onelens::dual::{
    Construction, DualForm, Inputs, LinearAttention, LinearAttentionTraining, Mask, OneStep, RegressionTask,
    Sgd, descend,
};
use onelens::num::{Rng, mean_and_standard_error, normal, rng};

fn gaussian(shape: (usize, usize), rng: &mut Rng) -> Array2<f64> {
    Array2::from_shape_simple_fn(shape, || normal(rng))
}

fn largest(a: &Array2<f64>) -> f64 {
    a.iter().fold(0.0, |m, x| m.max(x.abs()))
}

fn paper() -> Inputs {
    Inputs::uniform(10, 0.5).unwrap()
}

/// Irie et al. 2022, section 3, with the primal weights moved by their own plain loop.
#[test]
fn dual_form_equals_the_primal_weights_after_1000_steps_of_sgd_with_momentum_and_decay() {
    let mut rng = rng(0, 0);
    let truth = gaussian((3, 6), &mut rng);
    let sgd = Sgd { lr: 0.02, momentum: 0.9, weight_decay: 0.01 };
    let mut w = gaussian((3, 6), &mut rng);
    let mut layer = DualForm::new(w.clone()).unwrap();
    let mut velocity = Array2::<f64>::zeros((3, 6));
    for _ in 0..1000 {
        let x = gaussian((4, 6), &mut rng);
        let dy = (x.dot(&w.t()) - x.dot(&truth.t())) / 4.0;
        layer.step(x.view(), dy.view(), &sgd).unwrap();
        velocity = &velocity * sgd.momentum + dy.t().dot(&x);
        w = &w * (1.0 - sgd.lr * sgd.weight_decay) - &velocity * sgd.lr;
    }
    assert_eq!(layer.n_pairs(), 4000);
    assert!(largest(&(layer.weight() - &w)) < 1e-10);
    let q = Array1::from_shape_simple_fn(6, || normal(&mut rng));
    let answer = layer.apply(q.view()).unwrap();
    assert!((&answer - &w.dot(&q)).iter().all(|e| e.abs() < 1e-10));
    let c = layer.contributions(q.view()).unwrap();
    let sum = c.values.sum_axis(Axis(0)) + &c.from_w0;
    assert!((&answer - &sum).iter().all(|e| e.abs() < 1e-10));
    // And it did learn, so the comparison is not one of two zeros.
    assert!(largest(&(&w - &truth)) < 0.5);
}

/// von Oswald et al. 2022, proposition 1 and its iteration: every token after every layer.
#[test]
fn layers_of_linear_attention_are_steps_of_gradient_descent_at_every_token() {
    let mut rng = rng(1, 0);
    for (d_in, d_out, n) in [(1, 1, 1), (4, 2, 7), (10, 1, 10)] {
        let inputs = Inputs::uniform(d_in, 0.5).unwrap();
        for w0 in [Array2::zeros((d_out, d_in)), gaussian((d_out, d_in), &mut rng)] {
            let task = RegressionTask::sample(&inputs, d_out, n, &mut rng).unwrap();
            let plain = Construction::plain(d_in, d_out, n, 0.7, 5);
            let net = LinearAttention::construct(&Construction { w0: w0.clone(), ..plain }).unwrap();
            let descent = descend(task.x.view(), task.y.view(), w0.view(), 0.7, 5).unwrap();
            let streams = net.streams(&task).unwrap();
            for (stream, w) in streams.iter().zip(&descent.weights) {
                // The uniform update: all slots, targets and guess, have moved by -(W - W₀) x.
                let targets = &task.y - &task.x.dot(&(w - &w0).t());
                assert!(largest(&(&stream.slice(ndarray::s![..n, d_in..]) - &targets)) < 1e-12);
                assert_eq!(stream.slice(ndarray::s![..n, ..d_in]), task.x);
            }
            let answers = net.predictions(&task).unwrap();
            for (answer, wanted) in answers.iter().zip(descent.predictions(task.x_query.view())) {
                assert!((answer - &wanted).iter().all(|e| e.abs() < 1e-12), "{answer} {wanted}");
            }
            assert_eq!(answers.len(), 6);
        }
    }
}

#[test]
fn a_query_that_is_read_changes_nothing_in_the_first_layer_and_something_in_the_second() {
    let task = RegressionTask::sample(&paper(), 1, 10, &mut rng(2, 0)).unwrap();
    let masked = LinearAttention::construct(&Construction::plain(10, 1, 10, 5.0, 2)).unwrap();
    let open = LinearAttention { mask: Mask::Everything, ..masked.clone() };
    let (a, b) = (masked.predictions(&task).unwrap(), open.predictions(&task).unwrap());
    assert!((&a[1] - &b[1]).iter().all(|e| e.abs() < 1e-15));
    assert!((&a[2] - &b[2]).iter().all(|e| e.abs() > 1e-6));
}

#[test]
fn causal_attention_is_not_gradient_descent() {
    let task = RegressionTask::sample(&paper(), 1, 10, &mut rng(3, 0)).unwrap();
    let net = LinearAttention::construct(&Construction::plain(10, 1, 10, 5.0, 1)).unwrap();
    let causal = LinearAttention { mask: Mask::Causal, ..net.clone() };
    let (prefix, causal) = (net.streams(&task).unwrap(), causal.streams(&task).unwrap());
    // The last context token has seen everything, the first only itself.
    let slot = |stream: &Array2<f64>, j: usize| stream[(j, 10)];
    assert!((slot(&prefix[1], 9) - slot(&causal[1], 9)).abs() < 1e-12);
    assert!((slot(&prefix[1], 0) - slot(&causal[1], 0)).abs() > 1e-3);
    let x = task.x.row(0);
    let alone = task.y[(0, 0)] - 0.5 * task.y[(0, 0)] * x.dot(&x);
    assert!((slot(&causal[1], 0) - alone).abs() < 1e-12);
}

/// Ahn et al. 2023, equation 13: `W ← W - (1/n) Σ (W x - y) xᵀ Γ η`.
#[test]
fn a_preconditioned_layer_is_a_preconditioned_step() {
    let mut rng = rng(4, 0);
    let task = RegressionTask::sample(&Inputs::uniform(3, 0.5).unwrap(), 2, 5, &mut rng).unwrap();
    let g = gaussian((3, 3), &mut rng);
    let metric = g.dot(&g.t());
    let c = Construction { preconditioner: Some(metric.clone()), ..Construction::plain(3, 2, 5, 0.1, 2) };
    let net = LinearAttention::construct(&c).unwrap();
    let mut w = Array2::<f64>::zeros((2, 3));
    for k in 1..=2 {
        let error = task.x.dot(&w.t()) - &task.y;
        w = &w - &(error.t().dot(&task.x).dot(&metric) * (0.1 / 5.0));
        let answer = &net.predictions(&task).unwrap()[k];
        assert!((answer - &w.dot(&task.x_query)).iter().all(|e| e.abs() < 1e-12));
    }
}

/// von Oswald et al. 2022, section 4: the data are transformed as well, token by token.
#[test]
fn gd_plus_plus_maps_inputs_by_their_second_moment() {
    let task = RegressionTask::sample(&Inputs::uniform(3, 0.5).unwrap(), 1, 5, &mut rng(5, 0)).unwrap();
    let c = Construction { gamma: 0.3, ..Construction::plain(3, 1, 5, 0.5, 3) };
    let streams = LinearAttention::construct(&c).unwrap().streams(&task).unwrap();
    let (mut x, mut y) = (task.x.clone(), task.y.clone());
    for stream in &streams {
        assert!(largest(&(&stream.slice(ndarray::s![..5, ..3]) - &x)) < 1e-12);
        assert!(largest(&(&stream.slice(ndarray::s![..5, 3..]) - &y)) < 1e-12);
        let step = y.t().dot(&x) * (0.5 / 5.0);
        y = &y - &x.dot(&step.t());
        x = &x - &x.dot(&x.t().dot(&x)) * 0.3;
    }
}

#[test]
fn exact_one_step_loss_is_the_papers_number_and_the_mean_of_many_tasks() {
    let step = OneStep::new(paper(), 10).unwrap();
    // 0.206229 at η/N = 0.60606, computed by hand from m₂ = 1/12 and m₄ = 1/80.
    assert!((step.best_scale() - 20.0 / 33.0).abs() < 1e-12);
    assert!((step.loss_at_scale(20.0 / 33.0) - (10.0 - (100.0 / 12.0) * (20.0 / 33.0)) / 24.0).abs() < 1e-12);
    let mut rng = rng(6, 0);
    let correlated = array![[1.0, 0.4], [0.4, 0.5]];
    let rows = gaussian((30, 2), &mut rng);
    let laws = [
        (Inputs::uniform(2, 0.5).unwrap(), 3),
        (Inputs::gaussian(correlated).unwrap(), 3),
        (Inputs::empirical(rows).unwrap(), 4),
    ];
    for (inputs, n) in laws {
        let step = OneStep::new(inputs.clone(), n).unwrap();
        let gamma = array![[0.2, -0.1], [0.05, 0.3]];
        let losses: Vec<f64> = (0..40_000)
            .map(|_| {
                let task = RegressionTask::sample(&inputs, 1, n, &mut rng).unwrap();
                let guess = task.y.t().dot(&task.x).dot(&gamma).dot(&task.x_query);
                0.5 * (guess[0] - task.y_query[0]).powi(2)
            })
            .collect();
        let (mean, error) = mean_and_standard_error(&losses);
        let exact = step.loss(gamma.view()).unwrap();
        assert!((mean - exact).abs() < 4.0 * error, "{mean} ± {error}, exact {exact}");
    }
}

/// Weights of another law, against the mean over every context and query that there are.
#[test]
fn one_step_for_targets_of_any_second_moment_costs_what_all_contexts_cost() {
    let rows = array![[1.0, 0.3], [-0.4, 0.8], [0.2, -1.1]];
    let weights = array![[2.0, -0.6], [-0.6, 0.5]];
    let step = OneStep::with_weights(Inputs::empirical(rows.clone()).unwrap(), 2, weights.clone()).unwrap();
    let by_hand = |gamma: &Array2<f64>| {
        let (mut sum, mut count) = (0.0, 0.0);
        for (i, j, k) in (0..27).map(|t| (t / 9, t / 3 % 3, t % 3)) {
            let x = array![[rows[(i, 0)], rows[(i, 1)]], [rows[(j, 0)], rows[(j, 1)]]];
            let query = rows.row(k);
            let left = &query - &x.t().dot(&x).dot(gamma).dot(&query);
            sum += 0.5 * left.dot(&weights.dot(&left));
            count += 1.0;
        }
        sum / count
    };
    for gamma in [array![[0.2, -0.1], [0.05, 0.3]], Array2::zeros((2, 2)), Array2::eye(2) * 0.4] {
        let loss = step.loss(gamma.view()).unwrap();
        assert!((loss - by_hand(&gamma)).abs() < 1e-12, "{gamma}: {loss}");
    }
    assert!((step.loss_at_scale(0.4) - by_hand(&(Array2::eye(2) * 0.4))).abs() < 1e-12);
    let (scale, best) = (step.best_scale(), step.best_preconditioner().unwrap());
    let slope = (step.loss_at_scale(scale + 1e-4) - step.loss_at_scale(scale - 1e-4)) / 2e-4;
    assert!(slope.abs() < 1e-9, "{slope}");
    for i in 0..4 {
        let at = |by: f64| {
            let mut moved = best.clone();
            moved[(i / 2, i % 2)] += by;
            step.loss(moved.view()).unwrap()
        };
        assert!(((at(1e-4) - at(-1e-4)) / 2e-4).abs() < 1e-9 && at(0.0) < at(1e-4).min(at(-1e-4)));
    }
    let refused = |weights: Array2<f64>| {
        let error = OneStep::with_weights(Inputs::empirical(rows.clone()).unwrap(), 2, weights).unwrap_err();
        assert!(error.help().contains("[2, 2]"), "{error}");
        error.what().to_string()
    };
    assert!(refused(Array2::eye(3)).contains("(3, 3)"));
    assert!(refused(Array2::zeros((2, 2))).contains("all 0"));
    assert!(refused(array![[1.0, 0.0], [0.0, -1.0]]).contains("-1e0"));
    assert!(refused(array![[1.0, 0.5], [0.0, 1.0]]).contains("5e-1"));
}

#[test]
fn best_preconditioner_is_where_the_loss_has_no_slope_and_beats_every_scale() {
    let step = OneStep::new(Inputs::gaussian(array![[1.0, 0.4], [0.4, 0.2]]).unwrap(), 5).unwrap();
    let best = step.best_preconditioner().unwrap();
    let at_best = step.loss(best.view()).unwrap();
    for i in 0..4 {
        let mut moved = best.clone();
        moved[(i / 2, i % 2)] += 1e-4;
        let up = step.loss(moved.view()).unwrap();
        moved[(i / 2, i % 2)] -= 2e-4;
        let down = step.loss(moved.view()).unwrap();
        assert!(((up - down) / 2e-4).abs() < 1e-9 && up > at_best && down > at_best);
    }
    assert!(at_best < step.loss_at_scale(step.best_scale()) - 1e-3);
    let scaled = Array2::<f64>::eye(2) * 0.13;
    assert!((step.loss(scaled.view()).unwrap() - step.loss_at_scale(0.13)).abs() < 1e-14);
}

#[test]
fn diverging_steps_name_the_largest_stable_one() {
    let x = array![[2.0, 0.0], [0.0, 1.0]];
    // Σ x xᵀ / n = diag(2, ½): stable below 2 / 2 = 1.
    let y = array![[1.0], [1.0]];
    let w0 = array![[0.0, 0.0]];
    assert!(descend(x.view(), y.view(), w0.view(), 0.999, 10).is_ok());
    let e = descend(x.view(), y.view(), w0.view(), 1.001, 10).unwrap_err();
    assert!(e.to_string().contains("1.001") && e.help().contains("below 1.0000"), "{e}");
}

#[test]
fn bad_tasks_and_pairs_are_sentences() {
    let empty = RegressionTask {
        x: Array2::zeros((0, 2)),
        y: Array2::zeros((0, 1)),
        x_query: Array1::zeros(2),
        y_query: Array1::zeros(1),
    };
    assert!(empty.check().unwrap_err().what().contains("(0, 2)"));
    let good = RegressionTask::sample(&Inputs::uniform(2, 0.5).unwrap(), 1, 3, &mut rng(0, 0)).unwrap();
    let mut infinite = good.clone();
    infinite.y[(1, 0)] = f64::INFINITY;
    assert!(infinite.check().unwrap_err().what().contains("1 of the numbers in the context's targets"));
    let other = LinearAttention::construct(&Construction::plain(3, 1, 3, 0.1, 1)).unwrap();
    assert!(other.predict(&good).unwrap_err().what().contains("from width 2 to 1"));
    let mut layer = DualForm::new(array![[0.0, 0.0]]).unwrap();
    assert!(layer.push(array![1.0, 2.0].view(), array![1.0, 2.0].view()).is_err());
    let nan = array![[f64::NAN]];
    assert!(layer.step(array![[1.0, 2.0]].view(), nan.view(), &Sgd::default()).is_err());
    assert_eq!(layer.n_pairs(), 0);
}

/// von Oswald et al. 2022, figure 2: loss, cosine, distance, and the weights half way between.
#[test]
fn a_trained_layer_is_the_best_gradient_step() {
    let how = LinearAttentionTraining { steps: 1000, lr: 0.02, ..Default::default() };
    let fit = how.fit().unwrap();
    let best = OneStep::new(paper(), 10).unwrap();
    let optimum = best.loss_at_scale(best.best_scale());
    let step = Construction::plain(10, 1, 10, 10.0 * best.best_scale(), 1);
    let built = LinearAttention::construct(&step).unwrap();
    let a = fit.net.alignment(&built, &how.inputs, 10, 10_000, 7).unwrap();
    // On the same tasks as the construction, whose expected loss is known exactly: the noise of the sample cancels.
    assert!((a.loss.0 - a.other_loss.0) / optimum < 0.01, "{a:?}");
    assert!((a.other_loss.0 - optimum).abs() < 4.0 * a.other_loss.1, "{a:?}");
    assert!(a.cosine.0 > 0.99 && a.answers.0 < 0.1, "{a:?}");
    let between = fit.net.interpolate(&built, 0.5).unwrap();
    let half = between.alignment(&built, &how.inputs, 10, 10_000, 7).unwrap();
    assert!((half.loss.0 - half.other_loss.0) / optimum < 0.01, "{half:?}");
    // An untrained network is nothing like it.
    let untrained = LinearAttentionTraining { steps: 1, lr: 1e-9, ..how.clone() }.fit().unwrap();
    let null = untrained.net.alignment(&built, &how.inputs, 10, 1000, 7).unwrap();
    assert!(null.cosine.0.abs() < 0.3 && null.loss.0 > 0.35, "{null:?}");
}

#[test]
fn standard_form_is_the_same_function_and_interpolation_has_its_ends() {
    let mut rng = rng(8, 0);
    let task = RegressionTask::sample(&paper(), 1, 10, &mut rng).unwrap();
    let how = LinearAttentionTraining { n_layers: 2, steps: 20, ..Default::default() };
    let (a, b) = (how.fit().unwrap().net, LinearAttentionTraining { seed: 1, ..how }.fit().unwrap().net);
    let predict = |net: &LinearAttention| net.predict(&task).unwrap()[0];
    assert!((predict(&a) - predict(&a.standard_form())).abs() < 1e-12);
    assert!((predict(&a) - predict(&a.interpolate(&b, 0.0).unwrap())).abs() < 1e-12);
    assert!((predict(&b) - predict(&a.interpolate(&b, 1.0).unwrap())).abs() < 1e-12);
    let j = a.sensitivity(&task).unwrap();
    assert!((j.dot(&task.x_query)[0] - predict(&a)).abs() < 1e-12);
}
