//! The gradient of the expected loss, and what it says of updates.

use ndarray::{Array2, Array3, ArrayView1, s};
use onelens::battery::{LiteralGradient, LossGradient};
use onelens::data::{Markov, Source};
use onelens::model::{Config, Hook, Intervention, Mask, Supervision, Training, Transformer};
use onelens::num::rng;

fn config() -> Config {
    Config {
        d_vocab: 5,
        n_ctx: 12,
        d_model: 6,
        n_layers: 2,
        n_heads: 2,
        d_head: 3,
        d_mlp: 12,
        ..Default::default()
    }
}

fn trained(config: Config) -> (Markov, Transformer) {
    let source = Markov::new(5, 0.3).unwrap();
    let mut model = Transformer::new(config).unwrap();
    model.train(&source, &Training { steps: 60, batch_size: 8, lr: 1e-2, ..Default::default() }).unwrap();
    (source, model)
}

fn is_stream(hook: Hook) -> bool {
    matches!(hook, Hook::ResidPre(_) | Hook::ResidPost(_))
}

fn log_softmax(logits: ArrayView1<f32>) -> Vec<f64> {
    let x: Vec<f64> = logits.iter().map(|&x| f64::from(x)).collect();
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_z = max + x.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
    x.iter().map(|x| x - log_z).collect()
}

fn truth(source: &Markov, tokens: &Array2<u32>) -> Array3<f32> {
    let n_pos = tokens.ncols() - 1;
    Array3::from_shape_fn((tokens.nrows(), n_pos, 5), |(i, t, v)| {
        source.true_conditional(&tokens.row(i)).unwrap()[(t, v)] as f32
    })
}

/// What positions count that do not see their next token: all, or those after a prefix, and its last.
fn counts(mask: Mask, t: usize) -> bool {
    match mask {
        Mask::Causal => true,
        Mask::Prefix(n) => t + 1 >= n,
        Mask::None => unreachable!("no test of it here"),
    }
}

#[test]
fn the_expected_gradient_is_the_sum_of_those_of_all_tokens_by_their_probability() {
    for mask in [Mask::Causal, Mask::Prefix(3)] {
        let (source, model) = trained(Config { mask, ..config() });
        let tokens = source.sample(4, 7, &mut rng(1, 0)).unwrap();
        let p = truth(&source, &tokens);
        let (loss, got) = model.expected_loss_and_hook_grads(&tokens, &p, &is_stream).unwrap();
        let input = tokens.slice(s![.., ..6]).to_owned();
        let logits = model.forward(&input).unwrap();
        let n = (4 * (0..6).filter(|&t| counts(mask, t)).count()) as f64;
        let (mut want_loss, mut want) = (0.0, vec![Array3::<f64>::zeros((4, 6, 6)); 3]);
        for v in 0..5 {
            let mut dlogits = Array3::<f32>::zeros((4, 6, 5));
            for (i, t) in (0..4).flat_map(|i| (0..6).map(move |t| (i, t))).filter(|&(_, t)| counts(mask, t)) {
                let log_q = log_softmax(logits.slice(s![i, t, ..]));
                let share = f64::from(p[(i, t, v)]) / n;
                want_loss -= share * log_q[v];
                for u in 0..5 {
                    dlogits[(i, t, u)] = (share * (log_q[u].exp() - f64::from(u8::from(u == v)))) as f32;
                }
            }
            let grads = model.logits_hook_grads(&input, &[], &dlogits, &is_stream).unwrap();
            want[0] += &grads.resid_pre(0).unwrap().mapv(f64::from);
            want[1] += &grads.resid_post(0).unwrap().mapv(f64::from);
            want[2] += &grads.resid_post(1).unwrap().mapv(f64::from);
        }
        assert!((loss - want_loss).abs() < 1e-5, "{mask:?}: {loss} {want_loss}");
        let got = [got.resid_pre(0), got.resid_post(0), got.resid_post(1)].map(Result::unwrap);
        for (l, (got, want)) in got.iter().zip(&want).enumerate() {
            let size = want.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
            let off = (&got.mapv(f64::from) - want).iter().fold(0.0_f64, |m, x| m.max(x.abs()));
            assert!(size > 1e-4 && off < 1e-4 * size, "{mask:?} stream {l}: {off} of {size}");
        }
    }
}

/// With a single position the tokens that may come next can stand there one after the other, and nothing else changes:
/// by that also what every layer is supervised with.
#[test]
fn with_one_position_the_expected_loss_is_the_mean_of_the_losses_of_all_next_tokens() {
    let (source, model) = trained(Config { supervision: Supervision::EveryLayer, ..config() });
    let tokens = source.sample(3, 2, &mut rng(1, 0)).unwrap();
    let p = Array3::from_shape_fn((3, 1, 5), |(i, _, v)| [0.4, 0.0, 0.3, 0.2, 0.1][(i + v) % 5]);
    let (loss, got) = model.expected_loss_and_hook_grads(&tokens, &p, &is_stream).unwrap();
    let got = got.resid_post(0).unwrap();
    for i in 0..3 {
        let (_, alone) = model
            .expected_loss_and_hook_grads(
                &tokens.slice(s![i..=i, ..]).to_owned(),
                &p.slice(s![i..=i, .., ..]).to_owned(),
                &is_stream,
            )
            .unwrap();
        let mut want = Array3::<f64>::zeros((1, 1, 6));
        for v in 0..5 {
            let pair = Array2::from_shape_vec((1, 2), vec![tokens[(i, 0)], v]).unwrap();
            let (_, grads) = model.loss_and_hook_grads(&pair, &[], &is_stream).unwrap();
            want += &(grads.resid_post(0).unwrap().mapv(f64::from) * f64::from(p[(i, 0, v as usize)]));
        }
        for (j, want) in want.iter().enumerate() {
            let (alone, got) = (alone.resid_post(0).unwrap()[(0, 0, j)], got[(i, 0, j)]);
            assert!((f64::from(alone) - want).abs() < 1e-5, "{i} {j}: {alone} {want}");
            assert!((f64::from(got) * 3.0 - want).abs() < 1e-5, "{i} {j}: {got} {want}");
        }
    }
    assert!(loss.is_finite());
}

#[test]
fn what_is_no_distribution_of_the_next_tokens_is_refused() {
    let model = Transformer::new(config()).unwrap();
    let tokens = Array2::zeros((2, 4));
    let fair = Array3::from_elem((2, 3, 5), 0.2);
    let refused = |p: Array3<f32>, word: &str| {
        let error = model.expected_loss_and_hook_grads(&tokens, &p, &is_stream).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("help:"), "{error}");
    };
    refused(Array3::from_elem((2, 4, 5), 0.2), "[2, 4, 5]".trim_matches(['[', ']']));
    for (wrong, word) in [(0.9, "sums to 1.7"), (-0.2, "position 1 of sequence 1"), (f32::NAN, "position 1")]
    {
        let mut p = fair.clone();
        p[(1, 1, 0)] = wrong;
        refused(p, word);
    }
    assert!(model.expected_loss_and_hook_grads(&tokens, &fair, &is_stream).is_ok());
}

/// The inner product is how much the loss falls by a little more of an update: its slope, taken by running the network
/// with a hundredth more and less.
#[test]
fn the_inner_product_is_the_slope_of_the_loss_along_the_update() {
    let (source, model) = trained(config());
    let tokens = source.sample(8, 8, &mut rng(4, 0)).unwrap();
    let p = truth(&source, &tokens);
    let input = tokens.slice(s![.., ..7]).to_owned();
    let (_, cache) = model.run_with_cache(&input).unwrap();
    let expected = LiteralGradient::measure(&model, &tokens, Some(&source)).unwrap();
    let sampled = LiteralGradient::measure(&model, &tokens, None).unwrap();
    assert_eq!((expected.gradient, sampled.gradient), (LossGradient::Expected, LossGradient::Sampled));
    assert_ne!(expected.cosine, sampled.cosine);
    for l in 0..2 {
        let pre = cache.resid_pre(l).unwrap();
        let update = cache.resid_post(l).unwrap() - &pre;
        // The mean loss, expected and sampled, with `step` times the update added to the stream.
        let losses = |step: f32| -> [f64; 2] {
            let more = Intervention::replace(Hook::ResidPre(l), &pre + &(&update * step));
            let logits = model.run_with(&input, &[more]).unwrap();
            let mut losses = [0.0; 2];
            for (i, t) in (0..8).flat_map(|i| (0..7).map(move |t| (i, t))) {
                let log_q = log_softmax(logits.slice(s![i, t, ..]));
                losses[0] -= (0..5).map(|v| f64::from(p[(i, t, v)]) * log_q[v]).sum::<f64>() / 56.0;
                losses[1] -= log_q[tokens[(i, t + 1)] as usize] / 56.0;
            }
            losses
        };
        let (more, less) = (losses(0.01), losses(-0.01));
        for (which, seen) in [&expected, &sampled].into_iter().enumerate() {
            let want = -(more[which] - less[which]) / 0.02;
            assert!(
                (seen.inner[l] - want).abs() < 2e-3 * (0.05 + want.abs()),
                "{l} {which}: {} {want}",
                seen.inner[l]
            );
        }
    }
}
