//! Attention's relatives: each is a gradient or an expectation-maximisation step; and steps of descent on many tasks.

use ndarray::{Array1, Array2, array};
use onelens::dual::{
    Construction, Hopfield, Inputs, LinearAttention, LinearAttentionTraining, ManySteps, OneStep,
    RegressionTasks, Slots, descend,
};
use onelens::num::{Rng, normal, rng};

fn gaussian(shape: (usize, usize), rng: &mut Rng) -> Array2<f64> {
    Array2::from_shape_simple_fn(shape, || normal(rng))
}

/// The gradient of `f` by differences of eighth order (Fornberg 1988): exact to rounding for smooth functions.
fn gradient(f: impl Fn(&Array1<f64>) -> f64, x: &Array1<f64>) -> Array1<f64> {
    let weights = [4.0 / 5.0, -1.0 / 5.0, 4.0 / 105.0, -1.0 / 280.0];
    let h = 0.01;
    Array1::from_shape_fn(x.len(), |i| {
        let at = |by: f64| {
            let mut x = x.clone();
            x[i] += by;
            f(&x)
        };
        weights.iter().zip(1..).map(|(w, k)| w * (at(f64::from(k) * h) - at(-f64::from(k) * h)) / h).sum()
    })
}

/// Ramsauer et al. 2020, equations 2 and 3: `ξ ← ξ - ∇E`, with the energy's own formula differentiated numerically.
#[test]
fn a_hopfield_step_is_a_step_down_the_gradient_of_the_energy() {
    let mut rng = rng(0, 0);
    let memory = Hopfield::new(gaussian((7, 4), &mut rng), 1.3).unwrap();
    for _ in 0..5 {
        let state = gaussian((1, 4), &mut rng).row(0).to_owned();
        let slope = gradient(|x| memory.energy(x.view()).unwrap(), &state);
        let step = memory.step(state.view(), 1.0).unwrap();
        assert!((&state - &slope - &step).iter().all(|e| e.abs() < 1e-12), "{}", &state - &slope - &step);
        // Softmax attention with the patterns as keys and values, in plain loops.
        let weights: Vec<f64> =
            memory.patterns.rows().into_iter().map(|x| (1.3 * x.dot(&state)).exp()).collect();
        let total: f64 = weights.iter().sum();
        for i in 0..4 {
            let read: f64 = (0..7).map(|j| weights[j] / total * memory.patterns[(j, i)]).sum();
            assert!((read - step[i]).abs() < 1e-12);
        }
    }
}

#[test]
fn the_energy_never_rises_at_any_step_size_up_to_one_and_the_rest_are_refused() {
    let mut rng = rng(1, 0);
    for beta in [0.5, 2.0, 8.0] {
        let memory = Hopfield::new(gaussian((10, 5), &mut rng), beta).unwrap();
        for lr in [0.1, 0.5, 1.0] {
            let state = gaussian((1, 5), &mut rng).row(0).to_owned() * 2.0;
            let run = memory.retrieve(state.view(), lr, 40).unwrap();
            assert!(run.energies.windows(2).all(|w| w[1] <= w[0] + 1e-13), "{:?}", run.energies);
            assert!(run.energies[40] < run.energies[0]);
        }
        let e = memory.retrieve(Array1::zeros(5).view(), 1.5, 1).unwrap_err();
        assert!(e.what().contains("1.5 may raise"), "{e}");
    }
    // Well-separated patterns are retrieved in one step (Ramsauer et al. 2020, theorem 4).
    let memory = Hopfield::new(Array2::eye(6) * 3.0, 8.0).unwrap();
    let run = memory.retrieve(array![2.0, 0.5, 0.0, 0.3, 0.0, 0.1].view(), 1.0, 1).unwrap();
    assert!((run.states[(1, 0)] - 3.0).abs() < 1e-10);
}

/// Every latent moves by its attention-weighted errors; for all latents together that is the gradient of the summed
/// energies.
#[test]
fn cross_attention_moves_latents_by_their_errors_against_the_data() {
    let mut rng = rng(2, 0);
    let (data, latents) = (gaussian((9, 3), &mut rng), gaussian((4, 3), &mut rng));
    let memory = Hopfield::new(data.clone(), 0.8).unwrap();
    let moved = memory.cross_attend(latents.view(), 0.25).unwrap();
    for (latent, moved) in latents.rows().into_iter().zip(moved.rows()) {
        let latent = latent.to_owned();
        let attention = memory.attention(latent.view()).unwrap();
        let error: Array1<f64> = data
            .rows()
            .into_iter()
            .zip(&attention)
            .map(|(x, a)| (&x - &latent) * *a)
            .fold(Array1::zeros(3), |s, e| s + e);
        let slope = gradient(|x| memory.energy(x.view()).unwrap(), &latent);
        assert!((&error + &slope).iter().all(|e| e.abs() < 1e-12));
        assert!((&latent + &(error * 0.25) - moved).iter().all(|e| e.abs() < 1e-12));
    }
}

/// The textbook: densities of a mixture of Gaussians, Bayes' rule, weighted means (Dempster, Laird & Rubin 1977).
#[test]
fn a_slot_step_is_a_step_of_expectation_maximisation() {
    let mut rng = rng(3, 0);
    let (x, slots, sigma) = (gaussian((20, 3), &mut rng), gaussian((4, 3), &mut rng), 0.7);
    let density = |x: ndarray::ArrayView1<f64>, m: ndarray::ArrayView1<f64>| {
        let square: f64 = x.iter().zip(m).map(|(a, b)| (a - b).powi(2)).sum();
        (-square / (2.0 * sigma * sigma)).exp() / (std::f64::consts::TAU * sigma * sigma).powf(1.5)
    };
    let mut wanted = Array2::<f64>::zeros((4, 3));
    let mut taken = [0.0; 4];
    let mut energy = 0.0;
    for row in x.rows() {
        let joint: Vec<f64> = slots.rows().into_iter().map(|m| density(row, m) / 4.0).collect();
        let total: f64 = joint.iter().sum();
        energy -= total.ln() / 20.0;
        for k in 0..4 {
            taken[k] += joint[k] / total;
            wanted.row_mut(k).scaled_add(joint[k] / total, &row);
        }
    }
    for (mut row, taken) in wanted.rows_mut().into_iter().zip(taken) {
        row /= taken;
    }
    let how = Slots { sigma };
    let step = how.step(x.view(), slots.view()).unwrap();
    assert!((&step - &wanted).iter().all(|e| e.abs() < 1e-12));
    assert!((how.energy(x.view(), slots.view()).unwrap() - energy).abs() < 1e-12);
    let run = how.run(x.view(), slots.view(), 50).unwrap();
    assert!(run.energies.windows(2).all(|w| w[1] <= w[0] + 1e-13));
    assert!(run.energies[50] < run.energies[0] - 0.01);
    assert!(run.responsibilities.rows().into_iter().all(|r| (r.sum() - 1.0).abs() < 1e-12));
}

#[test]
fn many_tasks_descend_as_each_does_alone() {
    let inputs = Inputs::uniform(4, 0.5).unwrap();
    // Pairs go two at a time: an odd number of them, and one alone, too.
    for n in [1, 6, 7] {
        let tasks = RegressionTasks::sample(&inputs, 2, n, 19, 0).unwrap();
        let all = tasks.descend(1.5, 10).unwrap();
        for i in 0..19 {
            let task = tasks.task(i).unwrap();
            let alone = descend(task.x.view(), task.y.view(), Array2::zeros((2, 4)).view(), 1.5, 10).unwrap();
            for (k, y) in alone.predictions(task.x_query.view()).iter().enumerate() {
                let error = y - &task.y_query;
                assert!((all.losses[(i, k)] - 0.5 * error.dot(&error)).abs() < 1e-14);
            }
        }
    }
    let tasks = RegressionTasks::sample(&inputs, 2, 6, 19, 0).unwrap();
    assert!(tasks.task(19).unwrap_err().help().contains("0 to 18"));
    let e = tasks.descend(1e30, 20).unwrap_err();
    assert!(e.what().contains("diverge") && e.help().contains("largest stable"), "{e}");
}

#[test]
fn one_of_many_steps_has_the_exact_loss_of_one_step_and_the_exact_best_size() {
    let inputs = Inputs::uniform(10, 0.5).unwrap();
    let (one, many) =
        (OneStep::new(inputs.clone(), 10).unwrap(), ManySteps::new(&inputs, 10, 4000, 1).unwrap());
    for lr in [0.0, 3.0, 6.06, 9.0] {
        let (mean, error) = many.loss(&[lr], 0.0);
        assert!((mean - one.loss_at_scale(lr / 10.0)).abs() < 4.0 * error + 1e-12, "{lr}: {mean} ± {error}");
    }
    let best = many.best(1).unwrap();
    assert!((best.lr[0] / 10.0 - one.best_scale()).abs() < 0.02, "{best:?}");
}

/// Steps, GD++ included, against layers that take them token by token on the same number of fresh tasks.
#[test]
fn many_steps_cost_what_the_layers_that_take_them_lose() {
    let inputs = Inputs::uniform(5, 0.5).unwrap();
    let many = ManySteps::new(&inputs, 8, 4000, 0).unwrap();
    let how = LinearAttentionTraining { inputs, n: 8, ..Default::default() };
    for (lr, gamma) in [(vec![4.0, 2.0, 3.0], 0.0), (vec![3.0, 5.0], 0.25)] {
        let (mean, error) = many.loss(&lr, gamma);
        let construction = Construction { lr: lr.clone(), gamma, ..Construction::plain(5, 1, 8, 0.0, 1) };
        let net = LinearAttention::construct(&construction).unwrap();
        let (loss, noise) = how.evaluate(&net, 40_000, 3).unwrap();
        assert!(
            (loss - mean).abs() < 4.0 * (error * error + noise * noise).sqrt(),
            "{lr:?}: {mean} ± {error}, {loss} ± {noise}"
        );
    }
}

/// The losses are those of an independent calculation.
#[test]
fn two_steps_of_one_size_lose_more_than_two_free_ones() {
    let many = ManySteps::new(&Inputs::uniform(10, 0.5).unwrap(), 10, 4000, 0).unwrap();
    for (steps, expected) in [(many.best_equal(2).unwrap(), 0.157), (many.best(2).unwrap(), 0.141)] {
        let (loss, error) = steps.loss;
        assert!((loss - expected).abs() < 5e-4 + 3.0 * error, "{steps:?}");
    }
    let (one, free) = (many.best_equal(1).unwrap(), many.best(1).unwrap());
    assert!((one.lr[0] - free.lr[0]).abs() < 1e-4, "{one:?}, {free:?}");
}

/// Newton's iterations against the matrices that they are about, on the same contexts: `½ E ‖(I - M S)ᵀ x‖²`.
#[test]
fn newtons_iterations_cost_what_their_matrices_lose_and_descent_begun_alike_is_gradient_steps() {
    let (inputs, n, contexts) = (Inputs::uniform(4, 0.5).unwrap(), 6, 20);
    let many = ManySteps::new(&inputs, n, contexts, 3).unwrap();
    let by_matrices = |n_iterations: usize, first: &dyn Fn(&Array2<f64>) -> Array2<f64>| {
        let losses = (0..contexts as u64).map(|i| {
            let mut rng = rng(3, i);
            let mut x = Array2::zeros((n, 4));
            x.rows_mut().into_iter().for_each(|mut row| row.assign(&inputs.draw(&mut rng).unwrap()));
            let s = x.t().dot(&x);
            let mut m = first(&s);
            for _ in 0..n_iterations {
                m = 2.0 * &m - m.dot(&s).dot(&m);
            }
            let left = Array2::<f64>::eye(4) - m.dot(&s);
            // Coordinates of a query are independent with variance 1 / 12.
            0.5 * left.mapv(|x| x * x).sum() / 12.0
        });
        losses.sum::<f64>() / contexts as f64
    };
    for (n_iterations, alpha) in [(0, 0.7), (1, 0.7), (3, 0.4)] {
        let expected = by_matrices(n_iterations, &|s| alpha * s);
        let loss = many.newton_loss(n_iterations, alpha).0;
        assert!((loss - expected).abs() < 1e-12, "{n_iterations}, {alpha}: {loss}, {expected}");
        let steps = vec![alpha * n as f64; 1 << n_iterations];
        let expected = by_matrices(n_iterations, &|_| alpha * Array2::eye(4));
        assert!((many.loss(&steps, 0.0).0 - expected).abs() < 1e-12, "{n_iterations} from {alpha} I");
    }
    let best = many.best_newton(2).unwrap();
    let at = |by: f64| many.newton_loss(2, best.alpha * (1.0 + by)).0;
    assert!(((at(1e-4) - at(-1e-4)) / 2e-4).abs() < 1e-5 && at(0.0) < at(0.1).min(at(-0.1)), "{best:?}");
}

#[test]
fn best_step_sizes_are_where_the_loss_has_no_slope() {
    let many = ManySteps::new(&Inputs::uniform(10, 0.5).unwrap(), 10, 500, 2).unwrap();
    for best in [many.best(3).unwrap(), many.best_plus_plus(2).unwrap()] {
        let mut all = best.lr.clone();
        all.push(best.gamma);
        for i in 0..all.len() - usize::from(best.gamma == 0.0) {
            let at = |by: f64| {
                let mut x = all.clone();
                x[i] *= 1.0 + by;
                let (gamma, lr) = x.split_last().unwrap();
                many.loss(lr, *gamma).0
            };
            let slope = (at(1e-4) - at(-1e-4)) / 2e-4;
            assert!(slope.abs() < 1e-5, "{best:?}, {i}: {slope}");
        }
    }
    let losses: Vec<f64> = (1..=4).map(|k| many.best(k).unwrap().loss.0).collect();
    assert!(losses.windows(2).all(|w| w[1] < w[0] - 0.002), "{losses:?}");
}

#[test]
fn bad_memories_slots_and_step_counts_are_sentences() {
    assert!(Hopfield::new(Array2::zeros((0, 3)), 1.0).unwrap_err().help().contains("at least one pattern"));
    assert!(Hopfield::new(Array2::zeros((1, 3)), 0.0).unwrap_err().what().contains("beta is 0"));
    let memory = Hopfield::new(Array2::eye(3), 1.0).unwrap();
    assert!(memory.energy(Array1::zeros(2).view()).unwrap_err().what().contains("width 2"));
    let x = Array2::zeros((2, 2));
    assert!(Slots { sigma: -1.0 }.step(x.view(), x.view()).unwrap_err().what().contains("sigma is -1"));
    assert!(Slots::default().step(x.view(), Array2::zeros((2, 3)).view()).is_err());
    let inputs = Inputs::uniform(2, 0.5).unwrap();
    assert!(ManySteps::new(&inputs, 0, 10, 0).is_err());
    let many = ManySteps::new(&inputs, 3, 10, 0).unwrap();
    assert!(many.best(0).unwrap_err().what().contains("0 steps"));
    assert!(many.best_newton(0).unwrap_err().what().contains("0 steps"));
}
