//! Does the model say what a lens reads, when it is put into the stream?

use ndarray::{Array1, Array2, Array3, ArrayView1, ArrayView2, s};
use onelens::data::{Markov, Source};
use onelens::lens::{
    Aim, LayerMoments, Lens, LogitLens, Ridge, Scale, Steering, SteeringResult, Target, Towards,
};
use onelens::model::{
    Attention, Blocks, Config, Hook, Intervention, LayerKind, Mask, Mlp, Norm, Positions, Residual, Rotary,
    Training, Transformer,
};
use onelens::num::{kl_divergence, log_softmax_rows, normal, rng};

fn config() -> Config {
    Config {
        d_vocab: 8,
        n_ctx: 12,
        d_model: 12,
        n_layers: 3,
        n_heads: 2,
        d_head: 6,
        d_mlp: 24,
        ..Default::default()
    }
}

fn tokens(n_seqs: usize) -> Array2<u32> {
    Markov::new(8, 0.3).unwrap().sample(n_seqs, 12, &mut rng(5, 0)).unwrap()
}

/// A network whose initial weights are large enough for its blocks to matter.
fn lively(config: Config) -> Transformer {
    let mut model = Transformer::new(config).unwrap();
    for block in &mut model.params.blocks {
        for w in [&mut block.w_q, &mut block.w_k, &mut block.w_v, &mut block.w_o, &mut block.w_out] {
            *w *= 12.0;
        }
    }
    model.params.w_u *= 20.0;
    model
}

fn length(x: ArrayView1<f64>) -> f64 {
    x.dot(&x).sqrt()
}

fn log_softmax(x: &Array1<f64>) -> Array1<f64> {
    let max = x.fold(f64::NEG_INFINITY, |m, v| m.max(*v));
    x - max - x.mapv(|v| (v - max).exp()).sum().ln()
}

/// The second most probable.
fn runner_up(log_p: ArrayView1<f32>) -> usize {
    let mut order: Vec<usize> = (0..log_p.len()).collect();
    order.sort_by(|&a, &b| log_p[b].total_cmp(&log_p[a]));
    order[1]
}

#[test]
fn the_gradient_of_a_lens_is_its_central_difference_for_every_target_and_scale() {
    for (norm, logit_cap) in [(Norm::Layer, None), (Norm::Rms, Some(3.0)), (Norm::None, None)] {
        let model = lively(Config { norm, logit_cap, ..config() });
        let tokens = tokens(20);
        let mut random = rng(2, 0);
        let h = Array2::from_shape_simple_fn((5, 12), || normal(&mut random) as f32);
        let wanted: [u32; 5] = [0, 7, 3, 3, 5];
        let mut lenses: Vec<Box<dyn Lens>> = vec![Box::new(LogitLens)];
        for target in [Target::Residual, Target::Normalised, Target::LogProbabilities] {
            for scale in [Scale::AsItIs, Scale::UnitRms] {
                let moments = LayerMoments::collect_with(&model, &tokens, scale, target).unwrap();
                lenses.push(Box::new(Ridge { lambda: 1e-2, towards: Towards::Zero }.own(&moments).unwrap()));
            }
        }
        for lens in lenses {
            let got = lens.token_gradient(&model, 1, h.view(), &wanted).unwrap();
            for ((i, j), &got) in got.indexed_iter() {
                let at = |step: f32| {
                    let mut moved = h.clone();
                    moved[(i, j)] += step;
                    f64::from(lens.read(&model, 1, moved.view()).unwrap()[(i, wanted[i] as usize)])
                };
                let want = (at(0.01) - at(-0.01)) / 0.02;
                let close = 2e-3 * (1.0 + want.abs());
                assert!(
                    (f64::from(got) - want).abs() < close,
                    "{} {norm:?} {i} {j}: {got} {want}",
                    lens.name()
                );
            }
        }
    }
}

/// Without a final norm the last stream is read by the unembedding alone, and what a step along the gradient of the
/// logit lens does there is in the weights.
#[test]
fn at_the_last_stream_the_logit_lens_raises_the_log_probability_as_the_closed_form_says() {
    let mut model = Transformer::new(Config { norm: Norm::None, ..config() }).unwrap();
    model.params.w_u *= 20.0;
    let tokens = tokens(3);
    let doses = vec![0.0, 0.1, 0.5, -0.2];
    let how = Steering {
        streams: vec![3],
        doses: doses.clone(),
        n_positions: 11,
        n_tokens: 1,
        ..Default::default()
    };
    let seen = how.run(&model, &[("logit lens", &LogitLens)], &tokens).unwrap();
    let (_, cache) = model.run_with_cache(&tokens).unwrap();
    let stream = cache.resid_post(2).unwrap().mapv(f64::from);
    let (u, b) = (model.params.w_u.view().mapv(f64::from), model.params.b_u.mapv(f64::from));
    for (at, &dose) in doses.iter().enumerate() {
        for sequence in 0..3 {
            let mut sum = 0.0;
            for pos in 1..12 {
                let h = stream.slice(s![sequence, pos, ..]);
                let log_p = log_softmax(&(u.t().dot(&h) + &b));
                let token = runner_up(log_p.mapv(|x| x as f32).view());
                let g = &u.column(token) - &u.dot(&log_p.mapv(f64::exp));
                let moved = &h + &(&g * (dose * length(h) / length(g.view())));
                sum += log_softmax(&(u.t().dot(&moved) + &b))[token] - log_p[token];
            }
            let got = seen.change[(0, 0, at, sequence)];
            assert!((got - sum / 11.0).abs() < 1e-5, "{dose} {sequence}: {got} {}", sum / 11.0);
        }
    }
    // Along the gradient it rises, against it it falls.
    let change = |dose| seen.interval("logit lens", 3, dose).unwrap().0;
    assert!(change(0.1) > 0.0 && change(0.5) > change(0.1) && change(-0.2) < 0.0);
}

/// One row that goes on from kept keys and values against a whole run with an intervention.
#[test]
fn a_steered_position_says_what_a_run_with_the_same_addition_says() {
    let rotary = Config {
        norm: Norm::Rms,
        positions: Positions::Rotary(Rotary::default()),
        mlp: Mlp::SwiGlu,
        n_kv_heads: Some(1),
        residual: Residual::Parallel,
        ..config()
    };
    let looped = Config { blocks: Blocks::Looped { inject: true }, ..config() };
    let window = Config { layers: vec![LayerKind { window: Some(3), positions: None }], ..config() };
    for config in [config(), rotary, looped, window] {
        let model = lively(config);
        let tokens = tokens(2);
        let how = Steering {
            streams: vec![0, 2],
            doses: vec![0.3],
            n_positions: 11,
            n_tokens: 1,
            ..Default::default()
        };
        let seen = how.run(&model, &[("logit lens", &LogitLens)], &tokens).unwrap();
        let before = model.forward(&tokens).unwrap();
        for (at, l) in [(0, 0), (1, 2)] {
            let hook = if l == 0 { Hook::ResidPre(0) } else { Hook::ResidPost(l - 1) };
            let (_, cache) = model.run_with_cache(&tokens).unwrap();
            let streams = cache.get(hook).unwrap();
            for sequence in 0..2 {
                let (mut change, mut kl) = (0.0, 0.0);
                for pos in 1..12 {
                    let log_p = log_softmax_rows(before.slice(s![sequence, pos..pos + 1, ..]));
                    let token = runner_up(log_p.row(0));
                    let h: ArrayView2<f32> =
                        streams.slice(s![sequence, pos..pos + 1, ..]).into_dimensionality().unwrap();
                    let g = LogitLens.token_gradient(&model, l, h, &[token as u32]).unwrap();
                    let size = |x: ArrayView1<f32>| length(x.mapv(f64::from).view());
                    let add = &g.row(0) * (0.3 * size(h.row(0)) / size(g.row(0))) as f32;
                    let addition = Intervention::add(hook, add).at(pos);
                    let after = model.run_with(&tokens, &[addition]).unwrap();
                    let log_q = log_softmax_rows(after.slice(s![sequence, pos..pos + 1, ..]));
                    change += f64::from(log_q[(0, token)]) - f64::from(log_p[(0, token)]);
                    kl += kl_divergence(log_p.row(0), log_q.row(0));
                }
                let got = (seen.change[(0, at, 0, sequence)], seen.kl[(0, at, 0, sequence)]);
                let want = (change / 11.0, kl / 11.0);
                let close = |a: f64, b: f64| (a - b).abs() < 1e-4 * (1.0 + b.abs());
                assert!(
                    close(got.0, want.0) && close(got.1, want.1),
                    "{} stream {l}: {got:?} for {want:?}",
                    model.config.describe()
                );
            }
        }
    }
}

#[test]
fn nothing_added_changes_nothing() {
    let model = lively(config());
    let how = Steering { doses: vec![0.0], aim: Aim::Unigram, n_positions: 3, ..Default::default() };
    let seen = how.run(&model, &[("logit lens", &LogitLens)], &tokens(4)).unwrap();
    assert_eq!(seen.streams, [0, 1, 2, 3]);
    assert!(seen.change.iter().chain(&seen.kl).all(|x| x.abs() < 1e-5), "{:?}", seen.change);
}

fn trained() -> (Transformer, SteeringResult) {
    let source = Markov::new(8, 0.1).unwrap();
    let mut model = Transformer::new(config()).unwrap();
    model.train(&source, &Training { steps: 300, batch_size: 16, lr: 1e-2, ..Default::default() }).unwrap();
    let fit = source.sample(200, 12, &mut rng(1, 0)).unwrap();
    let moments = LayerMoments::collect(&model, &fit).unwrap();
    let ridge = Ridge::default();
    let (own, shared) = (ridge.own(&moments).unwrap(), ridge.shared(&moments).unwrap());
    let how = Steering { doses: vec![0.1, 0.3], n_positions: 4, n_tokens: 1, ..Default::default() };
    let held_out = source.sample_held_out(24, 12, &mut rng(2, 0)).unwrap();
    let seen = how
        .run(&model, &[("own", &own), ("shared", &shared), ("logit lens", &LogitLens)], &held_out)
        .unwrap();
    (model, seen)
}

#[test]
fn a_trained_network_says_what_its_own_lens_puts_into_late_streams_and_not_what_the_controls_put() {
    let (_, seen) = trained();
    for stream in [2, 3] {
        for control in ["rotated", "random"] {
            let (more, half) = seen.advantage("own", control, stream, 0.3).unwrap();
            assert!(more > 3.0 * half && more > 0.2, "{stream} {control}: {more} ± {half}");
        }
        let (few, more) =
            (seen.interval("own", stream, 0.1).unwrap(), seen.interval("own", stream, 0.3).unwrap());
        assert!(few.0 > few.1 && more.0 > few.0, "{few:?} {more:?}");
    }
    // A direction that knows nothing of tokens adds about nothing to them at a small dose.
    let (random, half) = seen.interval("random", 3, 0.1).unwrap();
    assert!(random.abs() < 2.0 * half + 0.05, "{random} ± {half}");

    let text = seen.figure().unwrap().text().to_string();
    assert!(text.contains("shared") && text.contains("random") && text.contains("Dose 0.3"), "{text}");
    assert!(seen.by_dose(2).is_ok() && seen.by_dose(9).is_err() && seen.by_stream(0.2).is_err());
    let table = seen.table().unwrap();
    assert_eq!((table.rows.len(), table.header.len()), (4 * 2, 2 + 5));
    let (change, half) = seen.interval("own", 0, 0.1).unwrap();
    assert_eq!(table.rows[0][2].to_string(), format!("{change:.3} ± {half:.3}"));
}

#[test]
fn what_cannot_be_steered_is_refused_with_a_way_out() {
    let model = lively(config());
    let twelve = tokens(2);
    let other = lively(Config { d_mlp: 16, ..config() });
    let of_other = Ridge::default().own(&LayerMoments::collect(&other, &tokens(20)).unwrap()).unwrap();
    struct Without;
    impl Lens for Without {
        fn name(&self) -> String {
            "lens without".into()
        }
        fn transport(&self, _: usize, h: ArrayView2<f32>) -> onelens::Result<Array2<f32>> {
            Ok(h.to_owned())
        }
        fn check_model(&self, _: &Transformer) -> onelens::Result<()> {
            Ok(())
        }
    }
    let usual = Steering::default;
    let refused = |how: Steering,
                   model: &Transformer,
                   lenses: &[(&str, &dyn Lens)],
                   tokens: &Array2<u32>,
                   word: &str| {
        let error = how.run(model, lenses, tokens).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("help:"), "{word}: {error}");
    };
    let logit: [(&str, &dyn Lens); 1] = [("logit lens", &LogitLens)];
    refused(Steering { doses: vec![], ..usual() }, &model, &logit, &twelve, "no doses");
    refused(Steering { doses: vec![0.1, f64::NAN], ..usual() }, &model, &logit, &twelve, "dose is NaN");
    refused(Steering { doses: vec![f64::INFINITY], ..usual() }, &model, &logit, &twelve, "dose is inf");
    refused(Steering { streams: vec![1, 4], ..usual() }, &model, &logit, &twelve, "no residual stream 4");
    refused(Steering { n_positions: 12, ..usual() }, &model, &logit, &twelve, "n_positions is 12");
    refused(Steering { n_positions: 0, ..usual() }, &model, &logit, &twelve, "n_positions is 0");
    refused(Steering { n_tokens: 8, ..usual() }, &model, &logit, &twelve, "n_tokens is 8");
    refused(usual(), &model, &[], &twelve, "no lens");
    refused(usual(), &model, &[("a", &LogitLens), ("a", &LogitLens)], &twelve, "\"a\"");
    refused(usual(), &model, &[("random", &LogitLens)], &twelve, "\"random\"");
    refused(usual(), &model, &[("other", &of_other)], &twelve, "another");
    refused(usual(), &model, &[("without", &Without)], &twelve, "no gradient");
    refused(usual(), &model, &logit, &twelve.slice(s![.., ..1]).to_owned(), "sequences of 1 tokens");
    refused(usual(), &model, &logit, &(twelve.clone() + 8), "outside the vocabulary");
    let everywhere = lively(Config { mask: Mask::None, ..config() });
    refused(usual(), &everywhere, &logit, &twelve, "no mask");
    let linear = lively(Config { attention: Attention::Linear, ..config() });
    refused(usual(), &linear, &logit, &twelve, "linear attention");
    // A probe of given numbers says nothing of tokens.
    let given = LayerMoments::collect_given(&model, &twelve, &Array3::ones((2, 12, 3)));
    let probe = Ridge { lambda: 1.0, towards: Towards::Zero }.own(&given.unwrap()).unwrap();
    refused(usual(), &model, &[("probe", &probe)], &twelve, "not the next token");
    assert!(LogitLens.token_gradient(&model, 0, Array2::zeros((1, 12)).view(), &[8]).is_err());
    assert!(LogitLens.token_gradient(&model, 0, Array2::zeros((1, 12)).view(), &[0, 1]).is_err());
    assert!(LogitLens.token_gradient(&model, 0, Array2::zeros((1, 11)).view(), &[0]).is_err());
}
