//! Attribution, patching and head scores, on networks where the answer is known.

use ndarray::{Array2, array};
use onelens::circuits::*;
use onelens::data::Markov;
use onelens::model::*;

use crate::configs::{covering, moved, of_families};

fn input() -> Array2<u32> {
    array![[0, 3, 1, 4, 2], [4, 4, 0, 1, 3]]
}

fn question() -> LogitDifference {
    LogitDifference { correct: vec![2, 0], wrong: vec![4, 1], pos: Some(3) }
}

#[test]
fn attributions_sum_to_the_logit_difference_in_every_architecture_with_skips() {
    let is_sum =
        |c: &Config| c.residual != Residual::None && c.norm_at == NormAt::Input && c.logit_cap.is_none();
    let (with, without): (Vec<Config>, Vec<Config>) =
        covering().into_iter().chain(of_families()).partition(is_sum);
    assert!(with.len() > 10 && !without.is_empty());
    for config in with {
        let model = moved(config);
        let direct = question().of(&model.forward(&input()).unwrap()).unwrap();
        let parts = LogitAttribution::new(&model, &input(), &question()).unwrap();
        let size: f64 = parts.ranked().iter().map(|(_, v)| v.abs()).sum();
        let error = (parts.total() - direct).abs();
        assert!(error < 1e-5 * size, "{}: {} and {direct}", model.config.describe(), parts.total());
        let summed: f64 = parts.ranked().iter().map(|(_, v)| v).sum();
        assert!((summed - parts.total()).abs() < 1e-9 * size, "every part is ranked");
    }
    for config in without {
        let e = LogitAttribution::new(&moved(config), &input(), &question()).unwrap_err();
        let e = e.to_string();
        assert!(
            ["residual is None", "norm_at", "logit_cap"].iter().any(|setting| e.contains(setting)),
            "{e}"
        );
    }
}

/// A part's contribution is what is missing when it alone is taken away: everything else, and the scale of the final
/// norm, held as they were.
#[test]
fn the_attribution_of_a_head_is_what_is_missing_without_it() {
    let config = Config {
        d_vocab: 5,
        n_ctx: 6,
        d_model: 6,
        n_layers: 2,
        n_heads: 2,
        d_head: 3,
        d_mlp: 7,
        ..Default::default()
    };
    let model = moved(config);
    let (logits, cache) = model.run_with_cache(&input()).unwrap();
    let whole = question().of(&logits).unwrap();
    let parts = LogitAttribution::new(&model, &input(), &question()).unwrap();
    let held = |hook| Intervention::patch(hook, &cache).unwrap();
    for (l, head) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut list = vec![Intervention::zero(Hook::Result(l)).head(head), held(Hook::LnFinalScale)];
        list.extend((l..2).map(|l| held(Hook::MlpOut(l))));
        list.extend((l + 1..2).map(|l| held(Hook::AttnOut(l))));
        let without = question().of(&model.run_with(&input(), &list).unwrap()).unwrap();
        let missing = whole - without;
        assert!((missing - parts.heads[(l, head)]).abs() < 1e-5, "head {l}.{head}: {missing}");
    }
}

/// One layer, one head, no norm and no MLP: the query at `t` looks at `t - shift` and nowhere else, since positions are
/// one-hot and the query turns them by `shift`. Without a place to look at it looks everywhere alike.
fn looks_back(shift: usize) -> Transformer {
    let n = 12;
    let mut model = Transformer::new(Config {
        d_vocab: 6,
        n_ctx: n,
        d_model: n,
        n_layers: 1,
        n_heads: 1,
        d_head: n,
        norm: Norm::None,
        mlp: Mlp::None,
        ..Default::default()
    })
    .unwrap();
    let p = &mut model.params;
    p.w_e.fill(0.0);
    p.w_pos.assign(&Array2::eye(n));
    p.blocks[0].w_k.assign(&Array2::eye(n));
    p.blocks[0].w_q.assign(&Array2::from_shape_fn((n, n), |(t, s)| {
        if t >= shift && s == t - shift { 1000.0 } else { 0.0 }
    }));
    model
}

#[test]
fn heads_that_look_where_they_should_score_one() {
    let how = RepeatedTokens { period: 4, n_repeats: 3, n_seqs: 2, seed: 1 };
    let score = |shift, of: fn(&Transformer, &RepeatedTokens) -> onelens::Result<HeadScores>| {
        of(&looks_back(shift), &how).unwrap().values[(0, 0)]
    };
    // Eight queries have the token after their last occurrence three back.
    assert!((score(3, HeadScores::induction) - 1.0).abs() < 1e-6);
    assert!((score(1, HeadScores::previous_token) - 1.0).abs() < 1e-6);
    assert!((score(4, HeadScores::duplicate_token) - 1.0).abs() < 1e-6);
    assert!(score(1, HeadScores::induction) < 1e-6 && score(3, HeadScores::previous_token) < 0.3);
    // Seven back is the repeat before: from query 7 on; queries 4, 5 and 6 look at 1, 2, 3 among all t + 1.
    let by_hand = (5.0 + 1.0 / 5.0 + 1.0 / 6.0 + 1.0 / 7.0) / 8.0;
    assert!((score(7, HeadScores::induction) - by_hand).abs() < 1e-6);
    let e = HeadScores::induction(&looks_back(3), &RepeatedTokens { period: 7, ..how }).unwrap_err();
    assert!(e.to_string().contains("7 different tokens of 6"), "{e}");
}

/// The head above copies what it looks at: tokens one-hot in a space of their own, read by the unembedding.
fn copies_back(shift: usize) -> Transformer {
    let (n, v) = (12, 6);
    let mut model = Transformer::new(Config {
        d_vocab: v,
        n_ctx: n,
        d_model: n + v,
        n_layers: 2,
        n_heads: 2,
        d_head: n,
        norm: Norm::None,
        mlp: Mlp::None,
        ..Default::default()
    })
    .unwrap();
    let params = Params::zeros(&model.config);
    let (looking, mut p) = (looks_back(shift), params);
    for t in 0..n {
        p.w_pos[(t, t)] = 1.0;
        p.blocks[1].w_k[(t, n + t)] = 1.0;
        for s in 0..n {
            p.blocks[1].w_q[(t, n + s)] = looking.params.blocks[0].w_q[(t, s)];
        }
    }
    for token in 0..v {
        p.w_e[(token, n + token)] = 1.0;
        p.w_u[(n + token, token)] = 1.0;
        // Head 1 of layer 1 moves tokens, head 0 and layer 0 do nothing.
        p.blocks[1].w_v[(n + token, n + token)] = 1.0;
        p.blocks[1].w_o[(n + token, n + token)] = 5.0;
    }
    model.params = p;
    model
}

#[test]
fn patching_finds_the_position_and_the_head_that_carry_the_answer() {
    let model = copies_back(2);
    // The last position, 4, copies position 2.
    let (clean, corrupted) = (array![[0, 1, 2, 3, 0]], array![[0, 1, 5, 3, 0]]);
    let question = LogitDifference { correct: vec![2], wrong: vec![5], pos: None };
    let map = patch_positions(&model, &clean, &corrupted, Hook::ResidPre, &question).unwrap();
    assert_eq!((map.clean, map.corrupted), (5.0, -5.0));
    assert_eq!(map.values, array![[0.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0]]);
    let map = patch_positions(&model, &clean, &corrupted, Hook::ResidPost, &question).unwrap();
    assert_eq!(map.values, array![[0.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]]);
    assert_eq!(map.hook, "blocks.*.hook_resid_post");
    let map = patch_heads(&model, &clean, &corrupted, Hook::Z, &question).unwrap();
    assert_eq!(map.values, array![[0.0, 0.0], [0.0, 1.0]]);
    let parts = LogitAttribution::new(&model, &clean, &question).unwrap();
    assert_eq!(parts.heads, array![[0.0, 0.0], [0.0, 5.0]]);
    assert_eq!(parts.ranked()[0], ("head 1.1".to_string(), 5.0));
}

#[test]
fn the_figures_say_what_the_numbers_say() {
    let model = copies_back(2);
    let (clean, corrupted) = (array![[0, 1, 2, 3, 0]], array![[0, 1, 5, 3, 0]]);
    let question = LogitDifference { correct: vec![2], wrong: vec![5], pos: None };
    let text = |figure: onelens::Result<onelens::show::Figure>| figure.unwrap().text().to_string();
    let map = patch_heads(&model, &clean, &corrupted, Hook::Z, &question).unwrap();
    let shown = text(map.figure());
    assert!(shown.contains("1  0▒  1█") && shown.contains("blocks.*.attn.hook_z"), "{shown}");
    let shown = text(LogitAttribution::new(&model, &clean, &question).unwrap().figure());
    assert!(shown.contains("5.000: heads 5.000.") && !shown.contains("MLP"), "{shown}");
    let how = RepeatedTokens { period: 4, n_repeats: 3, n_seqs: 2, seed: 1 };
    let shown = text(HeadScores::induction(&copies_back(3), &how).unwrap().figure());
    assert!(shown.contains("Highest: head 1.1, 1.00."), "{shown}");
    let source = Markov::new(6, 1.0).unwrap();
    let patterns = AttentionPatterns::new(&model, [0, 1, 2, 3], 1, &source).unwrap();
    assert_eq!(patterns.patterns.dim(), (2, 4, 4));
    let one = patterns.head(1).unwrap();
    assert_eq!(one.patterns[(0, 3, 1)], 1.0, "position 3 looks two back");
    assert!(text(one.figure()).contains("Head 1.1"));
    assert!(patterns.head(2).unwrap_err().to_string().contains("[0, 1]"));
    assert!(
        AttentionPatterns::new(&model, [0], 2, &source)
            .unwrap_err()
            .to_string()
            .contains("layers are 0 to 1")
    );
}

#[test]
fn questions_and_runs_that_do_not_fit_are_refused() {
    let model = copies_back(2);
    let (clean, other) = (array![[0, 1, 2, 3, 0]], array![[0, 1, 2, 3]]);
    let question = LogitDifference { correct: vec![2], wrong: vec![5], pos: None };
    let refuse = |clean: &Array2<u32>, other: &Array2<u32>, question: &LogitDifference, word: &str| {
        let e = patch_positions(&model, clean, other, Hook::ResidPre, question).unwrap_err();
        assert!(e.to_string().contains(word) && e.to_string().contains("help:"), "{e}");
    };
    refuse(&clean, &other, &question, "(1, 5)");
    refuse(&clean, &clean, &question, "nothing to restore");
    refuse(&clean, &clean, &LogitDifference { correct: vec![6], ..question.clone() }, "vocabulary of 6");
    refuse(&clean, &clean, &LogitDifference { wrong: vec![], ..question.clone() }, "0 wrong");
    refuse(&clean, &clean, &LogitDifference { pos: Some(5), ..question.clone() }, "no position 5");
    let e = patch_positions(&model, &clean, &array![[0, 1, 5, 3, 0]], Hook::MlpOut, &question).unwrap_err();
    assert!(e.to_string().contains("has no `blocks.0.hook_mlp_out`: it has no MLP"), "{e}");
    let e = patch_heads(&model, &clean, &array![[0, 1, 5, 3, 0]], Hook::AttnOut, &question).unwrap_err();
    assert!(e.to_string().contains("no heads"), "{e}");
}
