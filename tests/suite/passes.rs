//! Passes that are described: masks, functions at hooks, no further than asked. The reference for a mask is the
//! sequence alone.

use ndarray::{Array2, Axis, array, s};
use onelens::ErrorKind;
use onelens::model::{
    Attention, Bias, Config, Experts, Hook, Intervention, Mask, Mlp, Norm, Positions, Rotary, Transformer,
};
use onelens::nn::cross_entropy;
use onelens::num::Precision;

/// Learned and rotary positions, a window, grouped keys: what counts positions.
fn models() -> Vec<Transformer> {
    let small = Config {
        d_vocab: 11,
        d_model: 16,
        n_layers: 3,
        n_heads: 4,
        d_head: 4,
        n_ctx: 8,
        ..Config::default()
    };
    let rotary = Positions::Rotary(Rotary::default());
    let configs = [
        small.clone(),
        Config { positions: rotary.clone(), n_kv_heads: Some(2), norm: Norm::Rms, ..small.clone() },
        Config { positions: Positions::Alibi, ..small.clone() },
        Config { attention: Attention::Linear, positions: Positions::None, ..small.clone() },
        Config { mask: Mask::None, ..small },
    ];
    configs.into_iter().map(|config| Transformer::new(config).unwrap()).collect()
}

/// Tokens on the left, on the right, in the middle and nothing hidden; 99 is no token.
fn padded() -> (Array2<u32>, Array2<bool>) {
    let tokens =
        array![[99, 99, 3, 1, 4], [1, 5, 9, 99, 99], [2, 99, 6, 99, 5], [3, 5, 8, 9, 7], [99, 99, 9, 3, 2]];
    let mask = tokens.mapv(|t| t != 99);
    (tokens, mask)
}

/// What the mask leaves of one sequence, and where it was.
fn alone(tokens: &Array2<u32>, seq: usize) -> (Array2<u32>, Vec<usize>) {
    let row = tokens.row(seq);
    let kept: Vec<usize> = (0..row.len()).filter(|&pos| row[pos] != 99).collect();
    let own = kept.iter().map(|&pos| row[pos]).collect();
    (Array2::from_shape_vec((1, kept.len()), own).unwrap(), kept)
}

#[test]
fn a_padded_sequence_gives_what_it_gives_alone() {
    let (tokens, mask) = padded();
    for model in models() {
        let (logits, cache) = model.pass(&tokens).mask(&mask).logits_and_cache(&|_| true).unwrap();
        let last = model.pass(&tokens).mask(&mask).last_logits().unwrap();
        for seq in 0..tokens.nrows() {
            let (own, kept) = alone(&tokens, seq);
            let (own_logits, own_cache) = model.run_with_cache_of(&own, &[], &|_| true).unwrap();
            for (i, &pos) in kept.iter().enumerate() {
                let difference = &logits.slice(s![seq, pos, ..]) - &own_logits.slice(s![0, i, ..]);
                assert!(difference.iter().all(|d| d.abs() < 1e-6), "{}", model.config.describe());
            }
            let difference = &last.row(seq) - &own_logits.slice(s![0, -1, ..]);
            assert!(difference.iter().all(|d| d.abs() < 1e-6));
            for hook in own_cache.hooks() {
                let (all, own) = (cache.get(hook).unwrap(), own_cache.get(hook).unwrap());
                let mut seen = all.index_axis(Axis(0), seq).to_owned();
                let axes: &[usize] =
                    if matches!(hook, Hook::Pattern(_) | Hook::AttnScores(_)) { &[1, 2] } else { &[0] };
                let hidden: Vec<usize> = (0..tokens.ncols()).filter(|pos| !kept.contains(pos)).collect();
                for &axis in axes {
                    assert!(seen.select(Axis(axis), &hidden).iter().all(|&x| x == 0.0), "{hook}");
                    seen = seen.select(Axis(axis), &kept);
                }
                let same = seen.iter().zip(&own).all(|(a, b)| (a - b).abs() < 1e-6 || a == b);
                assert!(same, "{hook} of {}", model.config.describe());
            }
        }
    }
}

#[test]
fn interventions_find_their_sequence_and_position_under_a_mask() {
    let (tokens, mask) = padded();
    let model = &models()[1];
    let value = ndarray::Array3::from_shape_fn((5, 5, 16), |(i, t, d)| (i * 100 + t * 10 + d) as f32 / 300.0);
    let function = Intervention::map(Hook::ResidMid(0), |seq, mut x| x.mapv_inplace(|v| v + seq as f32));
    let changes = [Intervention::add(Hook::ResidPre(1), value.clone()).at(2).at(3), function];
    let logits = model.pass(&tokens).mask(&mask).with(&changes).logits().unwrap();
    for seq in 0..tokens.nrows() {
        let (own, kept) = alone(&tokens, seq);
        let mut change =
            Intervention::add(Hook::ResidPre(1), value.slice(s![seq, .., ..]).select(Axis(0), &kept));
        change.positions = Some((0..kept.len()).filter(|&i| kept[i] == 2 || kept[i] == 3).collect());
        let constant = Intervention::add(Hook::ResidMid(0), array![seq as f32]);
        let own = model.run_with(&own, &[change, constant]).unwrap();
        for (i, &pos) in kept.iter().enumerate() {
            let difference = &logits.slice(s![seq, pos, ..]) - &own.slice(s![0, i, ..]);
            assert!(difference.iter().all(|d| d.abs() < 1e-6), "sequence {seq}, position {pos}");
        }
    }
}

/// The mean over predictions, not over sequences or groups.
#[test]
fn the_loss_under_a_mask_is_the_mean_over_what_is_predicted() {
    let (tokens, mask) = padded();
    let model = &models()[0];
    let (mut sum, mut n) = (0.0, 0);
    for seq in 0..tokens.nrows() {
        let (own, kept) = alone(&tokens, seq);
        sum += model.loss(&own).unwrap() * (kept.len() - 1) as f64;
        n += kept.len() - 1;
    }
    let loss = model.pass(&tokens).mask(&mask).loss().unwrap();
    assert!((loss - sum / n as f64).abs() < 1e-6, "{loss} {}", sum / n as f64);
}

#[test]
fn a_function_does_what_its_numbers_would_do() {
    let tokens = array![[1, 2, 3, 4], [4, 3, 2, 1], [0, 7, 7, 9]];
    let model = &models()[0];
    let zero = |hook| Intervention::zero(hook).head(2).at(1);
    for hook in [Hook::Z(1), Hook::Pattern(0), Hook::AttnScores(2), Hook::Result(1)] {
        let by_function = Intervention::map(hook, |_, mut x| x.fill(0.0)).head(2).at(1);
        let (a, b) = (
            model.run_with(&tokens, &[by_function]).unwrap(),
            model.run_with(&tokens, &[zero(hook)]).unwrap(),
        );
        assert_eq!(a, b, "{hook}");
    }
    let each = Intervention::map(Hook::Embed, |seq, mut x| x.fill(seq as f32));
    let (_, cache) =
        model.run_with_cache_of(&tokens, std::slice::from_ref(&each), &|h| h == Hook::Embed).unwrap();
    let embed = cache.get(Hook::Embed).unwrap();
    assert!((0..3).all(|seq| embed.index_axis(Axis(0), seq).iter().all(|&x| x == seq as f32)));
    let e = model.loss_and_hook_grads(&tokens, &[each], &|_| true).unwrap_err();
    assert!(e.to_string().contains("`hook_embed`") && e.kind() == ErrorKind::Config, "{e}");
}

/// What is not asked for is not run: the weights after the last layer that counts may be anything.
#[test]
fn a_pass_ends_where_nothing_more_is_asked_for() {
    let tokens = array![[1, 2, 3, 4], [4, 3, 2, 1]];
    let whole = &models()[0];
    let mut broken = whole.clone();
    broken.params.ln_final_w.fill(f32::NAN);
    let function =
        |layer| Intervention::map(Hook::ResidPre(layer), |_, _| panic!("this block is not to run"));
    for l in 0..=3 {
        let watch: Vec<Intervention> = (l..3).map(function).collect();
        let stream = broken.pass(&tokens).with(&watch).stream(l).unwrap();
        let (_, cache) = whole.run_with_cache(&tokens).unwrap();
        let rows = stream.into_shape_with_order((8, 16)).unwrap();
        assert_eq!(rows, cache.stream(l).unwrap());
        let (grown, names) = cache.accumulated_resid(l, false).unwrap();
        assert_eq!((grown.len_of(Axis(0)), names.len()), (l + 1, l + 1));
        assert!(grown.index_axis(Axis(0), l).iter().zip(&rows).all(|(a, b)| a == b));
    }
    let norm = whole.pass(&tokens).cache(&|h| h == Hook::LnFinalNormalized).unwrap();
    let (_, all) = whole.run_with_cache(&tokens).unwrap();
    assert_eq!(norm.get(Hook::LnFinalNormalized).unwrap(), all.get(Hook::LnFinalNormalized).unwrap());
    assert!(whole.pass(&tokens).stream(4).unwrap_err().to_string().contains("no residual stream 4 among 4"));
}

#[test]
fn masks_that_make_no_sense_are_refused() {
    let (tokens, mask) = padded();
    let model = &models()[0];
    let said = |mask: &Array2<bool>| model.pass(&tokens).mask(mask).logits().unwrap_err().to_string();
    assert!(
        said(&mask.slice(s![.., 1..]).to_owned()).contains("[5, 4]")
            || said(&mask.slice(s![.., 1..]).to_owned()).contains("(5, 4)")
    );
    let mut none = mask.clone();
    none.row_mut(3).fill(false);
    assert!(said(&none).contains("every token of sequence 3"));
    // Shown, 99 is a token that there is not; the mistake is in the unmasked batch too.
    assert!(model.pass(&tokens).logits().unwrap_err().to_string().contains("token 99"));
    assert!(said(&mask.mapv(|_| true)).contains("token 99"));
    let single = mask.mapv(|_| false) | Array2::from_shape_fn((5, 5), |(_, t)| t == 2);
    let tokens = array![[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]];
    let e = model.pass(&tokens).mask(&single).loss().unwrap_err();
    assert!(e.to_string().contains("no token follows another"), "{e}");
    let late = [Intervention::zero(Hook::ResidPre(0)).at(7)];
    assert!(
        model
            .pass(&tokens)
            .mask(&single)
            .with(&late)
            .logits()
            .unwrap_err()
            .to_string()
            .contains("no position 7")
    );
}

#[test]
fn hooks_are_found_by_the_beginning_of_their_names() {
    let config = Config { d_vocab: 5, n_layers: 12, ..Config::default() };
    let of_one = Hook::with_prefix(&config, "blocks.1").unwrap();
    assert!(of_one.iter().all(|hook| hook.layer() == Some(1)), "{of_one:?}");
    assert_eq!(of_one.len(), Hook::all(&config).iter().filter(|hook| hook.layer() == Some(1)).count());
    assert_eq!(Hook::with_prefix(&config, "hook_").unwrap(), [Hook::Embed, Hook::PosEmbed]);
    assert_eq!(Hook::with_prefix(&config, "blocks.2.attn.hook_z").unwrap(), [Hook::Z(2)]);
    assert_eq!(Hook::with_prefix(&config, "ln_final").unwrap().len(), 2);
    let e = Hook::with_prefix(&config, "blocks.12.attn").unwrap_err();
    assert!(e.to_string().contains("no layer 12"), "{e}");
    let e = Hook::with_prefix(&config, "blocks.1.atn").unwrap_err();
    assert!(e.help().contains("blocks.1."), "{e}");
}

/// Scores and results are made of the two matrices, with keys shared by heads as well.
#[test]
fn qk_and_ov_give_scores_and_results() {
    let config = Config {
        d_vocab: 11,
        d_model: 16,
        n_layers: 2,
        n_heads: 4,
        d_head: 4,
        n_ctx: 8,
        n_kv_heads: Some(2),
        positions: Positions::None,
        ..Config::default()
    };
    let mut model = Transformer::new(config).unwrap();
    for block in &mut model.params.blocks {
        block.b_q.fill(0.0);
        block.b_k.fill(0.0);
        block.b_v.fill(0.0);
    }
    let tokens = array![[1, 2, 3, 4, 5]];
    let (_, cache) = model.run_with_cache_of(&tokens, &[], &|_| true).unwrap();
    for (layer, head) in [(0, 0), (0, 3), (1, 2)] {
        let x = cache.get(Hook::Ln1Normalized(layer)).unwrap().into_shape_with_order((5, 16)).unwrap();
        let scores = x.dot(&model.qk_matrix(layer, head).unwrap()).dot(&x.t()) / 2.0;
        let seen = cache.get(Hook::AttnScores(layer)).unwrap();
        for (q, k) in (0..5).flat_map(|q| (0..=q).map(move |k| (q, k))) {
            assert!((scores[(q, k)] - seen[[0, head, q, k]]).abs() < 1e-5, "{layer} {head}");
        }
        let pattern = cache.pattern(layer).unwrap();
        let pattern: Array2<f32> = pattern.slice(s![0, head, .., ..]).to_owned();
        let values: Array2<f32> = x.dot(&model.ov_matrix(layer, head).unwrap());
        let written = pattern.dot(&values);
        let result = cache.get(Hook::Result(layer)).unwrap();
        let result = result.slice(s![0, .., head, ..]);
        assert!(written.iter().zip(&result).all(|(a, b)| (a - b).abs() < 1e-5), "{layer} {head}");
    }
    assert!(model.qk_matrix(0, 4).unwrap_err().help().contains("0 to 3"));
    assert!(model.ov_matrix(2, 0).unwrap_err().to_string().contains("no layer 2"));
}

/// The process would be ended by the system: 2^20 tokens have logits of 206 GB, and one sequence of them patterns of 17
/// TB.
#[test]
fn what_no_memory_holds_is_refused_with_what_it_takes() {
    let config = Config {
        d_vocab: 49152,
        d_model: 8,
        n_layers: 1,
        n_heads: 4,
        d_head: 2,
        n_ctx: 1 << 20,
        ..Config::default()
    };
    let model = Transformer::new(config).unwrap();
    let many = Array2::<u32>::zeros((1 << 10, 1 << 10));
    let e = model.forward(&many).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Memory, "{e}");
    assert!(e.what().contains("206.2 GB") && e.help().contains("last_logits"), "{e}");
    let long = Array2::<u32>::zeros((1, 1 << 20));
    let e = model.pass(&long).last_logits().unwrap_err();
    assert!(e.kind() == ErrorKind::Memory && e.what().contains("17592.2 GB"), "{e}");
}

#[test]
fn a_loss_that_is_no_number_says_where_it_comes_from() {
    let tokens = array![[1, 2, 3, 4], [4, 3, 2, 1]];
    let mut model = models()[0].clone();
    model.params.blocks[1].b_o[3] = f32::NAN;
    let e = model.loss(&tokens).unwrap_err();
    assert!(e.what().contains("`blocks.1.hook_resid_post` holds NaN at sequence 0, position 0"), "{e}");
    assert_eq!(e.kind(), ErrorKind::Numeric);
    let mut model = models()[0].clone();
    model.params.ln_final_w[0] = f32::INFINITY;
    assert!(model.loss(&tokens).unwrap_err().what().contains("streams are finite"));
}

/// A batch is cut into more parts where there are more threads, and the vocabulary is read out in pieces: neither may
/// show. The last piece is a short one.
#[test]
fn logits_and_activations_are_the_same_numbers_for_any_number_of_threads() {
    let config =
        Config { d_vocab: 1100, d_model: 72, n_heads: 2, d_head: 36, n_ctx: 40, ..Config::default() };
    let model = Transformer::new(config).unwrap();
    let tokens = Array2::from_shape_fn((9, 40), |(i, j)| ((i * 40 + j) * 7 % 1100) as u32);
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| model.run_with_cache(&tokens)).unwrap()
    };
    let (logits, cache) = on(1);
    for threads in [2, 5] {
        let (more_logits, more_cache) = on(threads);
        assert!(logits == more_logits, "{threads} threads");
        for hook in cache.hooks() {
            assert!(cache.get(hook).unwrap() == more_cache.get(hook).unwrap(), "{hook} on {threads} threads");
        }
    }
    // By the definition: the last stream, decoded row by row.
    let last = model.pass(&tokens).stream(model.config.n_layers).unwrap();
    let log_p = model.decode(last.index_axis(Axis(0), 8)).unwrap();
    let read = logits.index_axis(Axis(0), 8);
    for (pos, row) in read.outer_iter().enumerate() {
        let total = row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
        for (token, &x) in row.iter().enumerate() {
            assert!((f64::from(x) - total - f64::from(log_p[(pos, token)])).abs() < 1e-5);
        }
    }
}

/// Each thing that a pass gives is made of the same rounded products, and not of others beside them.
#[test]
fn whatever_a_rounded_pass_is_asked_for_is_of_one_pass_near_the_exact_one() {
    let experts = Some(Experts { n: 3, n_chosen: 2 });
    let bias = Bias::NONE;
    let mixed = Config { experts, bias, mlp: Mlp::SwiGlu, d_vocab: 11, n_ctx: 8, ..Config::default() };
    let tokens = Array2::from_shape_fn((3, 8), |(i, j)| ((i * 8 + j) * 7 % 11) as u32);
    let largest = |x: ndarray::ArrayViewD<f32>| x.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    for model in models().into_iter().chain([Transformer::new(mixed).unwrap()]) {
        let pass = model.pass(&tokens).precision(Precision::Bf16);
        let (logits, cache) = pass.logits_and_cache(&|_| true).unwrap();
        assert!(logits == pass.logits().unwrap());
        let last = pass.last_logits().unwrap();
        assert!(largest((last - logits.slice(s![.., -1, ..])).into_dyn().view()) < 1e-5);
        for l in 0..=model.config.n_layers {
            let stream = pass.stream(l).unwrap();
            let kept = if l == 0 { Hook::ResidPre(0) } else { Hook::ResidPost(l - 1) };
            assert!(stream.into_dyn() == cache.get(kept).unwrap(), "stream {l}");
        }
        for (l, block) in model.params.blocks.iter().enumerate() {
            // What heads add, and the bias, is what attention adds.
            let mut sum = cache.get(Hook::Result(l)).unwrap().sum_axis(Axis(2));
            if !block.b_o.is_empty() {
                sum += &block.b_o;
            }
            assert!(largest((sum - cache.get(Hook::AttnOut(l)).unwrap()).view()) < 1e-5, "block {l}");
        }
        // Eight significant bits: something changes, and little.
        let exact = model.forward(&tokens).unwrap();
        let off = largest((&logits - &exact).into_dyn().view()) / largest(exact.into_dyn().view());
        assert!(off > 1e-5 && off < 0.03, "{off}");
        if model.config.mask == Mask::Causal {
            let input = tokens.slice(s![.., ..-1]).to_owned();
            let read = model.pass(&input).precision(Precision::Bf16).logits().unwrap();
            let n = read.dim().0 * read.dim().1;
            let read = read.into_shape_with_order((n, 11)).unwrap();
            let targets: Vec<u32> = tokens.slice(s![.., 1..]).iter().copied().collect();
            let expected = cross_entropy(read.view(), &targets).0 / n as f64;
            let loss = pass.loss().unwrap();
            assert!((loss - expected).abs() < 1e-5, "{loss} for {expected}");
            assert!((loss - model.loss(&tokens).unwrap()).abs() > 1e-7);
        }
    }
}

#[test]
fn a_rounded_pass_gives_a_sequence_what_it_gives_it_alone() {
    let tokens = Array2::from_shape_fn((9, 8), |(i, j)| ((i * 8 + j) * 5 % 11) as u32);
    for model in models() {
        let all = model.pass(&tokens).precision(Precision::Bf16).logits().unwrap();
        for (seq, row) in tokens.axis_chunks_iter(Axis(0), 1).enumerate() {
            let alone = model.pass(&row.to_owned()).precision(Precision::Bf16).logits().unwrap();
            let off = &all.index_axis(Axis(0), seq) - &alone.index_axis(Axis(0), 0);
            assert!(off.iter().all(|x| x.abs() < 1e-5), "sequence {seq}");
        }
    }
}
