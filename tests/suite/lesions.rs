//! Damped repetition: a block several times in a row, each time with a part of its step.

use ndarray::{Array1, Array2, Array3, s};
use onelens::battery::Lesion;
use onelens::data::{Markov, Source};
use onelens::model::{
    AttentionScale, Bias, Blocks, Config, Experts, Hook, Intervention, LayerKind, Mlp, Norm, NormAt,
    Residual, Transformer,
};
use onelens::num::rng;

fn config() -> Config {
    Config {
        d_vocab: 6,
        n_ctx: 10,
        d_model: 8,
        n_layers: 3,
        n_heads: 2,
        d_head: 4,
        d_mlp: 16,
        ..Default::default()
    }
}

/// Weights so large that attention and MLP matter, and gains and biases that are not 1 and 0.
fn lively(config: Config) -> Transformer {
    let mut model = Transformer::new(config).unwrap();
    for block in &mut model.params.blocks {
        for w in [&mut block.w_q, &mut block.w_k, &mut block.w_v, &mut block.w_o, &mut block.w_out] {
            *w *= 8.0;
        }
        for gain in [&mut block.ln1_post_w, &mut block.ln2_post_w] {
            gain.iter_mut().enumerate().for_each(|(i, g)| *g += 0.1 * i as f32);
        }
        for bias in [&mut block.b_o, &mut block.b_out, &mut block.ln1_post_b, &mut block.ln2_post_b] {
            bias.iter_mut().enumerate().for_each(|(i, b)| *b += 0.05 * (i as f32 - 3.0));
        }
    }
    model
}

fn tokens() -> Array2<u32> {
    Markov::new(6, 0.3).unwrap().sample(3, 8, &mut rng(0, 0)).unwrap()
}

/// The stream after block `l` with a step of `1/times` from `h`: what its attention and MLP say, one run for each.
fn damped_step(model: &Transformer, l: usize, h: &Array3<f32>, times: usize) -> Array3<f32> {
    let share = 1.0 / times as f32;
    let at_start = Intervention::replace(Hook::ResidPre(l), h.clone());
    let said = |hook: Hook, changes: &[Intervention]| -> Array3<f32> {
        let (_, cache) = model.run_with_cache_of(&tokens(), changes, &|h| h == hook).unwrap();
        cache.get(hook).unwrap().into_dimensionality().unwrap()
    };
    let attention = said(Hook::AttnOut(l), std::slice::from_ref(&at_start));
    let mid = h + &(attention * share);
    if model.config.mlp == Mlp::None {
        return mid;
    }
    let mlp = if model.config.residual == Residual::Sequential {
        said(Hook::MlpOut(l), &[Intervention::replace(Hook::ResidMid(l), mid.clone())])
    } else {
        said(Hook::MlpOut(l), &[at_start])
    };
    mid + mlp * share
}

#[test]
fn a_damped_block_is_as_many_small_steps_of_its_attention_and_mlp() {
    let experts = Config {
        mlp: Mlp::SwiGlu,
        bias: Bias::NONE,
        experts: Some(Experts { n: 3, n_chosen: 2 }),
        resid_scale: 0.7,
        ..config()
    };
    let no_norm = Config { norm: Norm::None, norm_at: NormAt::Output, mlp: Mlp::None, ..config() };
    let configs = [
        config(),
        Config { residual: Residual::Parallel, ..config() },
        Config { residual: Residual::ParallelOneNorm, norm: Norm::Rms, ..config() },
        Config { norm_at: NormAt::InputAndOutput, norm: Norm::Rms, ..config() },
        Config { norm_at: NormAt::Output, ..config() },
        experts,
        no_norm,
    ];
    for config in configs {
        let model = lively(config);
        let (_, cache) = model.run_with_cache(&tokens()).unwrap();
        for times in [2, 3] {
            let damped = Lesion::Damped { block: 1, times }.apply(&model).unwrap();
            let (_, seen) = damped.run_with_cache(&tokens()).unwrap();
            let mut h = cache.resid_pre(1).unwrap();
            for step in 1..=times {
                h = damped_step(&model, 1, &h, times);
                let got = seen.resid_post(step).unwrap();
                let size = h.fold(0.0_f32, |m, x| m.max(x.abs()));
                let off = (&got - &h).fold(0.0_f32, |m, x| m.max(x.abs()));
                assert!(off < 1e-4 * size, "{} step {step} of {times}: {off}", model.config.describe());
            }
            // The blocks after it are those that were there.
            assert_eq!(damped.params.blocks[1 + times], model.params.blocks[2]);
        }
        let once = Lesion::Damped { block: 1, times: 1 }.apply(&model).unwrap();
        assert_eq!(once.fingerprint(), model.fingerprint(), "{}", model.config.describe());
    }
}

/// A single token attends to itself alone, so that without norm, biases and MLP a block is the linear map `I + B`,
/// `B = W_V W_O`, and with steps of `1/m` it is `(I + B/m)^m`.
#[test]
fn damped_steps_of_a_linear_block_are_the_power_of_its_matrix() {
    let linear = Config { norm: Norm::None, mlp: Mlp::None, bias: Bias::NONE, n_layers: 1, ..config() };
    let model = lively(linear);
    let block = &model.params.blocks[0];
    let b = block.w_v.view().mapv(f64::from).dot(&block.w_o.view().mapv(f64::from));
    let token = Array2::from_elem((1, 1), 4);
    let (_, cache) = model.run_with_cache(&token).unwrap();
    let start: Array1<f64> = cache.resid_pre(0).unwrap().slice(s![0, 0, ..]).mapv(f64::from);
    for m in [1, 2, 5, 40] {
        let damped = Lesion::Damped { block: 0, times: m }.apply(&model).unwrap();
        let (_, cache) = damped.run_with_cache(&token).unwrap();
        let step = Array2::<f64>::eye(8) + &b / m as f64;
        let want = (0..m).fold(start.clone(), |h, _| h.dot(&step));
        let got = cache.resid_post(m - 1).unwrap();
        for (got, want) in got.iter().zip(&want) {
            assert!((f64::from(*got) - want).abs() < 1e-5, "{m}: {got} {want}");
        }
    }
}

#[test]
fn what_a_layer_does_otherwise_moves_with_its_block() {
    // The second of two kinds sees only itself and one key before.
    let kinds = vec![LayerKind::default(), LayerKind { window: Some(2), positions: None }];
    let model = lively(Config { layers: kinds, ..config() });
    let shorter = Lesion::Delete(0).apply(&model).unwrap();
    assert_eq!((shorter.config.window(0), shorter.config.window(1)), (Some(2), None));
    let damped = Lesion::Damped { block: 1, times: 2 }.apply(&model).unwrap();
    let windows: Vec<_> = (0..4).map(|l| damped.config.window(l)).collect();
    assert_eq!(windows, [None, Some(2), Some(2), None]);
    // Where nothing moves, the settings are what they were.
    assert_eq!(Lesion::Permute(vec![0, 1, 2]).apply(&model).unwrap().config, model.config);
}

#[test]
fn blocks_that_do_not_add_to_the_stream_are_not_damped() {
    let damped = |block, times| Lesion::Damped { block, times };
    let model = lively(config());
    for wrong in [damped(3, 2), damped(0, 0), damped(0, usize::MAX)] {
        let error = wrong.apply(&model).unwrap_err().to_string();
        assert!(error.contains("Damped") && error.contains("help:"), "{error}");
    }
    let others = [
        Config { residual: Residual::None, ..config() },
        Config { norm_at: NormAt::Sum, ..config() },
        Config { blocks: Blocks::Looped { inject: false }, ..config() },
        Config { attention_scale: AttentionScale::Fixed { scale: 0.5, by_layer: true }, ..config() },
    ];
    for config in others {
        let error = damped(0, 2).apply(&Transformer::new(config).unwrap()).unwrap_err().to_string();
        assert!(error.contains("help:"), "{error}");
    }
}
