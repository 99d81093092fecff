//! Every architecture, every hook and every gradient against a slow reference in f64.

use std::cell::RefCell;

use ndarray::{Array1, Array2, ArrayD, Axis, Dimension, Zip, array, s};
use onelens::model::*;
use onelens::num::{normal, rng, uniform_index};
use onelens::{Error, ErrorKind};
use rayon::prelude::*;

use crate::configs::{covering, moved, of_families};
use crate::slow::{self, Slow};

/// Two sequences of five tokens and the next one.
fn tokens() -> Array2<u32> {
    array![[0, 3, 1, 4, 2, 2], [4, 4, 0, 1, 3, 0]]
}

fn input() -> Array2<u32> {
    tokens().slice(s![.., ..5]).to_owned()
}

/// The largest difference, relative to the largest number.
fn worst(got: &ArrayD<f32>, want: &ArrayD<f64>) -> f64 {
    assert_eq!(got.shape(), want.shape());
    let finite = |x: &f64| if x.is_finite() { x.abs() } else { 0.0 };
    let largest = want.iter().map(finite).fold(1e-3, f64::max);
    let mut worst = 0.0_f64;
    Zip::from(got).and(want).for_each(|&g, &w| {
        // A hidden score is minus infinity in both.
        let same = w.is_infinite() && f64::from(g) == w;
        worst = worst.max(if same { 0.0 } else { (f64::from(g) - w).abs() / largest });
    });
    worst
}

/// Activations of the slow reference at every hook, with the batch axis in front.
fn slow_cache(slow: &Slow, input: &Array2<u32>) -> std::collections::HashMap<Hook, ArrayD<f64>> {
    let seen = RefCell::new(std::collections::HashMap::<Hook, Vec<ArrayD<f64>>>::new());
    for (i, row) in input.rows().into_iter().enumerate() {
        slow.logits(i, &row.to_vec(), &|hook, _, x| {
            seen.borrow_mut().entry(hook).or_default().push(x.clone())
        });
    }
    let stack = |x: Vec<ArrayD<f64>>| {
        let views: Vec<_> = x.iter().map(|x| x.view()).collect();
        ndarray::stack(Axis(0), &views).unwrap()
    };
    seen.into_inner().into_iter().map(|(hook, x)| (hook, stack(x))).collect()
}

#[test]
fn every_pair_of_settings_occurs_and_gives_the_activations_of_the_slow_reference() {
    let all = covering();
    assert!(all.len() >= 20, "the largest two settings have 5 and 4 choices: {}", all.len());
    for config in all.into_iter().chain(of_families()) {
        let model = moved(config);
        let (logits, cache) = model.run_with_cache_of(&input(), &[], &|_| true).unwrap();
        let slow = Slow::of(&model);
        let what = model.config.describe();
        let seen = slow_cache(&slow, &input());
        let mut hooks: Vec<Hook> = seen.keys().copied().collect();
        hooks.sort();
        assert_eq!(cache.hooks(), hooks, "{what}");
        for hook in hooks {
            let error = worst(&cache.get(hook).unwrap(), &seen[&hook]);
            assert!(error < 2e-5, "{what}: {hook} differs by {error:e}");
        }
        for (i, row) in input().rows().into_iter().enumerate() {
            let want = slow.logits(i, &row.to_vec(), &|_, _, _| ()).pop().unwrap();
            let error = worst(&logits.slice(s![i, .., ..]).to_owned().into_dyn(), &want.into_dyn());
            assert!(error < 2e-5, "{what}: logits of sequence {i} differ by {error:e}");
        }
        assert_eq!(logits, model.forward(&input()).unwrap(), "{what}: keeping changes nothing");
    }
}

#[test]
fn every_element_of_every_gradient_is_the_slope_of_the_slow_reference() {
    covering().into_par_iter().chain(of_families()).for_each(|config| {
        let model = moved(config);
        let what = model.config.describe();
        let (loss, grad) = model.loss_and_grad(&tokens()).unwrap();
        let mut slow = Slow::of(&model);
        let quiet: &slow::Tap = &|_, _, _| ();
        let want = slow.loss(&tokens(), quiet);
        assert!((loss - want).abs() < 1e-5 * want.max(1.0), "{what}: loss {loss}, should be {want}");
        for (name, grad) in grad.tensors() {
            let mut slope = ArrayD::<f64>::zeros(grad.shape());
            for (i, slope) in slope.iter_mut().enumerate() {
                let mut at = |step: f64| {
                    let weight = &mut slow.weights.get_mut(&name).unwrap().as_slice_mut().unwrap()[i];
                    let before = std::mem::replace(weight, 0.0);
                    *weight = before + step;
                    let loss = slow.loss(&tokens(), quiet);
                    slow.weights.get_mut(&name).unwrap().as_slice_mut().unwrap()[i] = before;
                    loss
                };
                *slope = (at(1e-5) - at(-1e-5)) / 2e-5;
            }
            let error = worst(&grad.to_owned(), &slope);
            assert!(error < 1e-4, "{what}: {name} differs by {error:e} of its largest");
        }
    });
}

/// Architectures that together have every hook.
fn with_every_hook() -> Vec<Config> {
    let base = covering().remove(0);
    let base = Config { n_layers: 2, blocks: Blocks::Distinct, mask: Mask::Causal, ..base };
    let gemma = Config { n_layers: 2, ..of_families().remove(0) };
    vec![
        Config {
            norm: Norm::Layer,
            positions: Positions::Learned,
            mlp: Mlp::GeluTanh,
            attention: Attention::Softmax,
            residual: Residual::Sequential,
            bias: Bias::ALL,
            n_kv_heads: None,
            ..base.clone()
        },
        Config {
            norm: Norm::Rms,
            positions: Positions::Rotary(Rotary::default()),
            mlp: Mlp::SwiGlu,
            attention: Attention::Softmax,
            residual: Residual::Sequential,
            n_kv_heads: Some(2),
            ..base.clone()
        },
        Config {
            norm: Norm::Layer,
            positions: Positions::Rotary(Rotary { pairs: Pairs::Half, ..Default::default() }),
            mlp: Mlp::Gelu,
            attention: Attention::Linear,
            residual: Residual::Parallel,
            blocks: Blocks::Looped { inject: true },
            supervision: Supervision::EveryLayer,
            ..base
        },
        gemma,
    ]
}

#[test]
fn the_gradient_at_every_hook_is_the_slope_of_what_is_added_there() {
    with_every_hook().into_par_iter().for_each(|config| {
        let model = moved(config);
        let slow = Slow::of(&model);
        let (_, grads) = model.loss_and_hook_grads(&tokens(), &[], &|_| true).unwrap();
        for hook in Hook::all(&model.config) {
            let grad = grads.get(hook).unwrap();
            let slope = ArrayD::from_shape_fn(grad.raw_dim(), |index| {
                let at = |step: f64| {
                    slow.loss(&tokens(), &|at, sequence, x| {
                        if at == hook && sequence == index[0] {
                            x[&index.as_array_view().as_slice().unwrap()[1..]] += step;
                        }
                    })
                };
                // A hidden score stays hidden whatever is added; a looped block passes each hook once per layer.
                (at(1e-5) - at(-1e-5)) / 2e-5
            });
            let error = worst(&grad, &slope);
            assert!(error < 1e-4, "{}: {hook} differs by {error:e}", model.config.describe());
        }
    });
}

/// The intervention as the slow reference makes it.
fn slow_tap(i: &Intervention, n_heads_axis: Option<usize>) -> impl Fn(Hook, usize, &mut ArrayD<f64>) + '_ {
    move |hook, sequence, x| {
        if hook != i.hook {
            return;
        }
        let (Change::Replace(value) | Change::Add(value)) = &i.change else { panic!("{i:?}") };
        let mut full = vec![2];
        full.extend(x.shape());
        let value = value.broadcast(full).unwrap();
        let value = value.index_axis(Axis(0), sequence).mapv(f64::from);
        let pattern = matches!(hook, Hook::AttnScores(_) | Hook::Pattern(_));
        let pos_axis = usize::from(pattern);
        for (index, x) in x.indexed_iter_mut() {
            let chosen = |of: &Option<Vec<usize>>, axis: Option<usize>| match (of, axis) {
                (Some(of), Some(axis)) => of.contains(&index[axis]),
                _ => true,
            };
            if chosen(&i.positions, Some(pos_axis)) && chosen(&i.heads, n_heads_axis) {
                let value = value[&index];
                *x = if matches!(i.change, Change::Add(_)) { *x + value } else { value };
            }
        }
    }
}

/// Interventions of all kinds at one hook, with the axis of the heads if there is one.
fn interventions(model: &Transformer, hook: Hook) -> Vec<(Intervention, Option<usize>)> {
    let other = array![[1, 1, 2, 0, 3], [2, 0, 4, 3, 3]];
    let (_, cache) = model.run_with_cache_of(&other, &[], &|h| h == hook).unwrap();
    let shape = cache.get(hook).unwrap().raw_dim();
    let mut rng = rng(7, 0);
    // A scale is positive.
    let noise = ArrayD::from_shape_simple_fn(shape, || 0.3 * normal(&mut rng) as f32).mapv(f32::abs);
    let mut all = vec![
        Intervention::replace(hook, noise.clone()).at(1).at(3),
        Intervention::add(hook, noise).at(4),
        Intervention::patch(hook, &cache).unwrap().at(2),
        Intervention::mean(hook, &cache).unwrap(),
    ];
    let heads_axis = match hook {
        Hook::AttnScores(_) | Hook::Pattern(_) => Some(0),
        Hook::Q(_)
        | Hook::K(_)
        | Hook::V(_)
        | Hook::RotQ(_)
        | Hook::RotK(_)
        | Hook::Z(_)
        | Hook::Result(_) => Some(1),
        _ => None,
    };
    if heads_axis.is_some() {
        all.push(Intervention::zero(hook).head(1));
        all.push(Intervention::zero(hook).head(0).head(1).at(4));
    } else if !hook.to_string().ends_with("scale") {
        all.push(Intervention::zero(hook).at(0));
    }
    all.into_iter().map(|i| (i, heads_axis)).collect()
}

#[test]
fn every_intervention_at_every_hook_is_made_forward_and_backward() {
    with_every_hook().into_par_iter().for_each(|config| {
        let model = moved(config);
        let mut slow = Slow::of(&model);
        let plain = model.forward(&input()).unwrap();
        let mut rng = rng(3, 0);
        for hook in Hook::all(&model.config) {
            for (intervention, heads_axis) in interventions(&model, hook) {
                let what = format!("{}: {intervention:?}", model.config.describe());
                let tap = slow_tap(&intervention, heads_axis);
                let list = [intervention.clone()];
                let logits = model.run_with(&input(), &list).unwrap();
                for (i, row) in input().rows().into_iter().enumerate() {
                    let want = slow.logits(i, &row.to_vec(), &tap).pop().unwrap().into_dyn();
                    let error = worst(&logits.slice(s![i, .., ..]).to_owned().into_dyn(), &want);
                    assert!(error < 3e-5, "{what}: logits differ by {error:e}");
                }
                // Positions are the same in every run, and a softmax ignores what all keys share.
                if !matches!(hook, Hook::PosEmbed | Hook::K(_) | Hook::RotK(_) | Hook::AttnScores(_)) {
                    assert_ne!(logits, plain, "{what} changes nothing");
                }
                let (loss, grad) = model.loss_and_grad_with(&tokens(), &list).unwrap();
                let want = slow.loss(&tokens(), &tap);
                assert!((loss - want).abs() < 3e-5 * want.max(1.0), "{what}: loss {loss}, should be {want}");
                // Along a random direction of some tensors; over all hooks and interventions, every one has its turn.
                let tensors = grad.tensors();
                for _ in 0..5 {
                    let (name, grad) = &tensors[uniform_index(&mut rng, tensors.len())];
                    let direction = ArrayD::from_shape_simple_fn(grad.raw_dim(), || normal(&mut rng));
                    let mut at = |step: f64| {
                        let before = slow.weights[name].clone();
                        *slow.weights.get_mut(name).unwrap() += &(&direction * step);
                        let loss = slow.loss(&tokens(), &tap);
                        slow.weights.insert(name.clone(), before);
                        loss
                    };
                    let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                    let wide = grad.mapv(f64::from);
                    let got = (&wide * &direction).sum();
                    let size = (wide.mapv(|x| x * x).sum()).sqrt();
                    assert!(
                        (got - slope).abs() < 2e-4 * (0.05 + size),
                        "{what}: {name}: {got}, slope {slope}"
                    );
                }
            }
        }
    });
}

#[test]
fn interventions_are_made_in_order() {
    let model = moved(with_every_hook().remove(0));
    let hook = Hook::ResidPre(1);
    let zero = Intervention::zero(hook);
    let one = Intervention::add(hook, array![1.0_f32]);
    let read = |list: &[Intervention]| {
        let (_, cache) = model.run_with_cache_of(&input(), list, &|h| h == hook).unwrap();
        cache.get(hook).unwrap()
    };
    assert!(read(&[zero.clone(), one.clone()]).iter().all(|&x| x == 1.0));
    assert!(read(&[one, zero]).iter().all(|&x| x == 0.0));
}

#[test]
fn runs_with_interventions_do_not_depend_on_the_number_of_threads() {
    let model = moved(with_every_hook().remove(1));
    let many = Array2::from_shape_fn((19, 5), |(i, j)| ((i * 7 + j * 3 + i * j) % 5) as u32);
    let list =
        [Intervention::zero(Hook::Z(0)).head(2).at(3), Intervention::add(Hook::MlpPost(1), array![0.5])];
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let forward = model.run_with_cache_of(&many, &list, &|_| true).unwrap();
            (
                forward,
                model.loss_and_grad_with(&many, &list).unwrap(),
                model.loss_and_hook_grads(&many, &list, &|_| true).unwrap(),
            )
        })
    };
    assert!(run(1) == run(3));
}

#[test]
fn a_patch_of_everything_gives_the_other_run() {
    for config in with_every_hook() {
        let model = moved(config);
        let other = array![[1, 1, 2, 0, 3], [2, 0, 4, 3, 3]];
        let (logits, cache) = model.run_with_cache(&other).unwrap();
        let patched =
            model.run_with(&input(), &[Intervention::patch(Hook::ResidPost(1), &cache).unwrap()]).unwrap();
        assert_eq!(patched, logits);
    }
}

#[test]
fn names_of_hooks_are_read_and_wrong_ones_answered_with_the_nearest() {
    for config in with_every_hook() {
        for hook in Hook::all(&config) {
            assert_eq!(hook.to_string().parse::<Hook>().unwrap(), hook);
        }
    }
    let help = |name: &str| name.parse::<Hook>().unwrap_err().help().to_string();
    assert!(help("blocks.3.attn.hook_patern").starts_with("did you mean `blocks.3.attn.hook_pattern`"));
    assert!(help("hook_embd").starts_with("did you mean `hook_embed`"));
    assert!(help("blocks.2.hook_residpost").starts_with("did you mean `blocks.2.hook_resid_post`"));
    assert!("".parse::<Hook>().is_err() && "x".repeat(100_000).parse::<Hook>().is_err());
}

#[test]
fn what_cannot_be_done_is_refused_with_a_way_out() {
    let model = moved(with_every_hook().remove(0));
    let refuse = |i: Intervention, words: &[&str]| {
        let e: Error = model.run_with(&input(), &[i]).unwrap_err();
        assert!(words.iter().all(|w| e.to_string().contains(w)) && e.to_string().contains("help:"), "{e}");
    };
    refuse(Intervention::zero(Hook::Z(2)), &["no layer 2", "0 to 1"]);
    refuse(Intervention::zero(Hook::Z(1)).head(4), &["no head 4", "blocks.1.attn.hook_z", "0 to 3"]);
    refuse(Intervention::zero(Hook::Z(1)).at(5), &["no position 5", "0 to 4"]);
    refuse(Intervention::zero(Hook::ResidPost(1)).head(0), &["no heads"]);
    refuse(Intervention::zero(Hook::RotQ(0)), &["positions are not rotary"]);
    refuse(Intervention::zero(Hook::MlpPreLinear(0)), &["no gate"]);
    refuse(Intervention::replace(Hook::ResidPre(0), Array1::zeros(7)), &["[7]", "[2, 5, 6]"]);
    let (_, cache) = model.run_with_cache(&input()).unwrap();
    let e = Intervention::patch(Hook::Result(0), &cache).unwrap_err();
    assert!(e.to_string().contains("was not kept"), "{e}");
    let e =
        model.logits_hook_grads(&input(), &[], &ndarray::Array3::zeros((2, 5, 4)), &|_| true).unwrap_err();
    assert!(e.to_string().contains("(2, 5, 5)"), "{e}");
}

#[test]
fn an_impossible_combination_names_both_settings() {
    let refuse = |config: Config, words: [&str; 2]| {
        let e = Transformer::new(config).unwrap_err();
        assert!(e.kind() == ErrorKind::Config && words.iter().all(|w| e.what().contains(w)), "{e}");
    };
    let base = Config::default();
    refuse(Config { n_kv_heads: Some(3), ..base.clone() }, ["n_heads is 4", "n_kv_heads 3"]);
    refuse(Config { mask: Mask::Prefix(65), ..base.clone() }, ["mask is Prefix(65)", "n_ctx 64"]);
    refuse(
        Config { residual: Residual::Parallel, mlp: Mlp::None, ..base.clone() },
        ["residual is Parallel", "mlp None"],
    );
    let rotary = |d_rotary| Positions::Rotary(Rotary { d_rotary: Some(d_rotary), ..Default::default() });
    refuse(Config { positions: rotary(18), ..base.clone() }, ["positions turns 18", "d_head is 16"]);
    refuse(Config { positions: rotary(3), ..base.clone() }, ["positions turns 3", "d_head is 16"]);
    assert!(
        Config { mlp: Mlp::None, d_mlp: 0, ..base }.check().is_ok(),
        "nobody asks for the width of no MLP"
    );
}

#[test]
fn the_gradient_of_a_logit_difference_is_its_slope() {
    let model = moved(with_every_hook().remove(1));
    let slow = Slow::of(&model);
    let mut dlogits = ndarray::Array3::<f32>::zeros((2, 5, 5));
    dlogits[(1, 4, 3)] = 1.0;
    dlogits[(1, 4, 0)] = -1.0;
    let grads = model.logits_hook_grads(&input(), &[], &dlogits, &|h| h == Hook::ResidPre(1)).unwrap();
    let grad = grads.get(Hook::ResidPre(1)).unwrap();
    assert!(grad.index_axis(Axis(0), 0).iter().all(|&g| g == 0.0), "the other sequence is not asked");
    let row = input().row(1).to_vec();
    for t in 0..5 {
        for d in 0..6 {
            let at = |step: f64| {
                let tap = |hook: Hook, _: usize, x: &mut ArrayD<f64>| {
                    if hook == Hook::ResidPre(1) {
                        x[[t, d]] += step;
                    }
                };
                let logits = slow.logits(1, &row, &tap).pop().unwrap();
                logits[(4, 3)] - logits[(4, 0)]
            };
            let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((f64::from(grad[[1, t, d]]) - slope).abs() < 1e-5, "position {t}, {d}: {slope}");
        }
    }
}
