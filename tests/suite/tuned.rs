//! Refinement: from the closed form downwards, never up.

use ndarray::{Array1, Array2, Axis};
use onelens::data::{Markov, Source};
use onelens::lens::{
    AffineLens, HiddenLayer, LayerLenses, LayerMoments, Lens, LensKind, Probe, Refine, Ridge, Scale, Target,
    Towards, compare,
};
use onelens::model::{Config, Training, Transformer};
use onelens::num::{Cholesky, rng};

/// Two passes run other numbers of sequences together, so that log-probabilities differ by their rounding in f32, a few
/// 2⁻²⁴ of about 2.5.
const F32: f64 = 1e-6;

fn small() -> (Transformer, Array2<u32>, Array2<u32>) {
    let source = Markov::new(12, 0.3).unwrap();
    let config = Config {
        d_vocab: 12,
        n_ctx: 16,
        d_model: 8,
        n_layers: 3,
        n_heads: 2,
        d_head: 4,
        d_mlp: 16,
        ..Default::default()
    };
    let mut model = Transformer::new(config).unwrap();
    model.train(&source, &Training { steps: 80, batch_size: 16, ..Default::default() }).unwrap();
    let train = source.sample(100, 16, &mut rng(8, 0)).unwrap();
    (model, train, source.sample_held_out(60, 16, &mut rng(8, 1)).unwrap())
}

#[test]
fn no_refinement_is_the_closed_form() {
    let (model, train, held_out) = small();
    let moments = LayerMoments::collect(&model, &train).unwrap();
    let own = Ridge::default().own(&moments).unwrap();
    let tuned = Refine { epochs: 0, lbfgs_steps: 0, ..Default::default() }
        .fit(&model, &own, &moments, &train)
        .unwrap();
    for l in 0..4 {
        assert_eq!(tuned.lenses.layer(l), own.layer(l));
    }
    // Where the search begins is what a comparison on the same tokens measures.
    let seen = compare(&model, &[&own], &moments, &train).unwrap();
    for l in 0..4 {
        assert!((tuned.training_kl[(0, l)] - seen.curves[0].kl[l]).abs() < F32);
    }
    let seen = compare(&model, &[&own, &tuned], &moments, &held_out).unwrap();
    assert_eq!(seen.curves[0].kl, seen.curves[1].kl);
}

#[test]
fn refinement_never_raises_training_kl_and_lowers_it_where_there_is_something_to_gain() {
    let (model, train, held_out) = small();
    let moments = LayerMoments::collect_with(&model, &train, Scale::AsItIs, Target::Residual).unwrap();
    let own = Ridge::default().own(&moments).unwrap();
    let tuned = Refine { epochs: 0, lbfgs_steps: 30, ..Default::default() }
        .fit(&model, &own, &moments, &train)
        .unwrap();
    for column in tuned.training_kl.columns() {
        assert!(column.windows(2).into_iter().all(|w| w[1] <= w[0]), "{column}");
    }
    let seen = compare(&model, &[&own, &tuned], &moments, &train).unwrap();
    for l in 0..4 {
        // The maps handed back are those that were measured.
        assert!((tuned.training_kl[(30, l)] - seen.curves[1].kl[l]).abs() < F32);
    }
    for l in 0..3 {
        assert!(tuned.training_kl[(30, l)] < tuned.training_kl[(0, l)], "{}", tuned.training_kl);
    }
    let seen = compare(&model, &[&own, &tuned], &moments, &held_out).unwrap();
    for l in 0..3 {
        assert!(seen.curves[1].kl[l] < seen.curves[0].kl[l], "stream {l}: {:?}", seen.curves);
    }
}

#[test]
fn from_tokens_to_lenses_in_one_call_is_the_same_as_step_by_step() {
    let (model, train, _) = small();
    let how = Refine { epochs: 2, lbfgs_steps: 2, lambda: 1e-4, ..Default::default() };
    let (moments, tuned) = how.collect_and_fit(&model, &train, &Ridge::default()).unwrap();
    let collected = LayerMoments::collect(&model, &train).unwrap();
    assert!(moments == collected);
    let own = Ridge::default().own(&collected).unwrap();
    let steps = how.fit(&model, &own, &collected, &train).unwrap();
    assert_eq!(tuned.training_kl, steps.training_kl);
    for l in 0..4 {
        assert_eq!(tuned.lenses.layer(l), steps.lenses.layer(l));
    }
    let e = how.collect_and_fit(&model, &Array2::from_elem((1, 4), 99), &Ridge::default()).unwrap_err();
    assert!(e.to_string().contains("99"), "{e}");
}

#[test]
fn the_stronger_the_penalty_the_nearer_the_lens_to_the_identity() {
    let (model, train, _) = small();
    let off = |lambda| -> Vec<f64> {
        let how = Refine { epochs: 0, lbfgs_steps: 60, lambda, ..Default::default() };
        let (_, tuned) = how.collect_and_fit(&model, &train, &Ridge::default()).unwrap();
        for column in tuned.training_kl.columns() {
            assert!(column.windows(2).into_iter().all(|w| w[1] <= w[0]), "{column}");
        }
        let off = |l| &tuned.lenses.layer(l).unwrap().a - &Array2::<f64>::eye(8);
        (0..3).map(|l| off(l).iter().map(|a| a * a).sum::<f64>().sqrt()).collect()
    };
    let (free, held, tied) = (off(0.0), off(1e-2), off(1e6));
    for l in 0..3 {
        assert!(held[l] < 0.9 * free[l] && tied[l] < 1e-3, "stream {l}: {} {} {}", free[l], held[l], tied[l]);
    }
    for lambda in [-1.0, f64::NAN] {
        let how = Refine { lambda, ..Default::default() };
        let e = how.collect_and_fit(&model, &train, &Ridge::default()).unwrap_err().to_string();
        assert!(e.contains(&format!("lambda is {lambda}")), "{e}");
    }
}

#[test]
fn epochs_lead_near_the_optimum_of_the_convex_problem_and_never_raise_training_kl() {
    let (model, train, _) = small();
    let post = LayerMoments::collect_with(&model, &train, Scale::AsItIs, Target::Normalised).unwrap();
    // Far from the best lens, so that there is a way to go.
    let own = Ridge { lambda: 3.0, towards: Towards::Zero }.own(&post).unwrap();
    let fit = |epochs, lbfgs_steps| {
        Refine { epochs, lbfgs_steps, ..Default::default() }
            .fit(&model, &own, &post, &train)
            .unwrap()
            .training_kl
    };
    let (swept, optimum) = (fit(20, 1), fit(0, 200));
    assert_eq!(swept.nrows(), 3);
    for l in 0..4 {
        let (begin, end, least) = (swept[(0, l)], swept[(1, l)], optimum[(200, l)]);
        assert!(end <= begin && swept[(2, l)] <= end);
        assert!(end - least < 0.1 * (begin - least) + F32, "stream {l}: {begin} {end} {least}");
    }
}

#[test]
fn a_part_of_the_vocabulary_leads_nearly_as_far_and_all_of_it_just_as_far() {
    let (model, train, _) = small();
    let moments = LayerMoments::collect(&model, &train).unwrap();
    // Far from the best lens, so that there is a way to go.
    let own = Ridge { lambda: 3.0, towards: Towards::Zero }.own(&moments).unwrap();
    let fit = |vocabulary| {
        let how = Refine { epochs: 20, lbfgs_steps: 0, vocabulary, ..Default::default() };
        let tuned = how.fit(&model, &own, &moments, &train).unwrap();
        // What is reported is over all of the vocabulary.
        (compare(&model, &[&own, &tuned], &moments, &train).unwrap(), tuned)
    };
    let ((all, whole), (_, as_whole), (few, _)) = (fit(usize::MAX), fit(12), fit(8));
    assert_eq!(whole.training_kl, as_whole.training_kl);
    for l in 0..4 {
        assert_eq!(whole.lenses.layer(l), as_whole.lenses.layer(l));
        let (begin, all, few) = (all.curves[0].kl[l], all.curves[1].kl[l], few.curves[1].kl[l]);
        assert!(few - all < 0.1 * (begin - all), "stream {l}: from {begin} to {all}, and {few}");
    }
    let none = Refine { vocabulary: 0, ..Default::default() };
    let e = none.fit(&model, &own, &moments, &train).unwrap_err().to_string();
    assert!(e.contains("0 tokens of the vocabulary"), "{e}");
}

#[test]
fn the_search_ends_where_the_gradient_is_small() {
    let (model, train, _) = small();
    let moments = LayerMoments::collect(&model, &train).unwrap();
    // Far from the best lens: near it the search ends where rounding in f32 hides what is left, at some 4e-5.
    let own = Ridge { lambda: 3.0, towards: Towards::Zero }.own(&moments).unwrap();
    let begin = Refine { epochs: 0, lbfgs_steps: 0, ..Default::default() }
        .fit(&model, &own, &moments, &train)
        .unwrap();
    let end = Refine { epochs: 0, lbfgs_steps: 150, ..Default::default() }
        .fit(&model, &own, &moments, &train)
        .unwrap();
    for l in 0..3 {
        let (before, after) = (begin.gradient_norm[l], end.gradient_norm[l]);
        assert!(after < 1e-3 * before, "stream {l}: {before:e} and {after:e}");
    }
}

#[test]
fn lenses_moments_or_tokens_of_something_else_are_refused() {
    let (model, train, _) = small();
    let moments = LayerMoments::collect(&model, &train).unwrap();
    let own = Ridge::default().own(&moments).unwrap();
    let other = Transformer::new(Config { seed: 1, ..model.config.clone() }).unwrap();
    let e = Refine::default().fit(&other, &own, &moments, &train).unwrap_err().to_string();
    assert!(e.contains(&format!("{:016x}", other.fingerprint())), "{e}");
    let e = Refine::default().fit(&model, &own, &LayerMoments::new(&other), &train).unwrap_err().to_string();
    assert!(e.contains(&format!("{:016x}", model.fingerprint())), "{e}");
    assert!(Refine::default().fit(&model, &own, &moments, &Array2::from_elem((1, 4), 99)).is_err());
    let tuned = Refine { epochs: 0, lbfgs_steps: 0, ..Default::default() }
        .fit(&model, &own, &moments, &train)
        .unwrap();
    assert!(tuned.check_model(&other).is_err());
}

#[test]
fn post_norm_refinement_ends_where_boehnings_monotone_bound_leads() {
    let (model, train, _) = small();
    let post = LayerMoments::collect_with(&model, &train, Scale::AsItIs, Target::Normalised).unwrap();
    // Far from the best lens, so that there is a way to go.
    let own = Ridge { lambda: 3.0, towards: Towards::Zero }.own(&post).unwrap();
    let tuned = Refine { epochs: 0, lbfgs_steps: 200, ..Default::default() }
        .fit(&model, &own, &post, &train)
        .unwrap();
    assert_eq!(tuned.name(), "tuned lens, raw");
    assert!(tuned.gradient_norm.iter().all(|g| *g < 1e-4), "{:?}", tuned.gradient_norm);

    // One stream in f64: A ← A + (½ UᵀCU)⁻¹ Uᵀ(P - Q)ᵀX̃ (X̃ᵀX̃)⁻¹, with an intercept in X̃.
    let (logits, cache) = model.run_with_cache(&train).unwrap();
    let rows = |x: ndarray::Array3<f32>| {
        let (n, t, d) = x.dim();
        x.into_shape_with_order((n * t, d)).unwrap().mapv(f64::from)
    };
    let stream = rows(cache.resid_post(0).unwrap());
    let mut x = Array2::<f64>::ones((stream.nrows(), 9));
    x.slice_mut(ndarray::s![.., ..8]).assign(&stream);
    let softmax = |logits: &Array2<f64>| {
        let mut p = logits.clone();
        for mut row in p.rows_mut() {
            let max = row.fold(f64::MIN, |m, x| m.max(*x));
            row.mapv_inplace(|x| (x - max).exp());
            let sum = row.sum();
            row /= sum;
        }
        p
    };
    let p = softmax(&rows(logits));
    let u = model.params.unembedding().mapv(f64::from).reversed_axes();
    let bias = model.params.b_u.mapv(f64::from);
    let centre = Array2::<f64>::eye(12) - 1.0 / 12.0;
    let curvature = Cholesky::new((u.t().dot(&centre).dot(&u) * 0.5).view()).unwrap();
    let gram = Cholesky::new(x.t().dot(&x).view()).unwrap();
    let start = own.layer(1).unwrap();
    let mut a = Array2::<f64>::zeros((8, 9));
    a.slice_mut(ndarray::s![.., ..8]).assign(&start.a);
    a.column_mut(8).assign(&start.b);
    let mut kls: Vec<f64> = Vec::new();
    for _ in 0..600 {
        let q = softmax(&(x.dot(&a.t()).dot(&u.t()) + &bias));
        kls.push((&p * &(&p / &q).mapv(f64::ln)).sum() / p.nrows() as f64);
        let slope = u.t().dot(&(&p - &q).t()).dot(&x);
        let step = gram.solve(curvature.solve(slope.view()).t()).reversed_axes();
        a += &step;
    }
    assert!(kls.windows(2).all(|w| w[1] <= w[0] + 1e-12), "the bound is not monotone");
    assert!((tuned.training_kl[(0, 1)] - kls[0]).abs() < F32, "{} and {}", tuned.training_kl[(0, 1)], kls[0]);
    let (ours, theirs) = (tuned.training_kl[(200, 1)], kls[599]);
    // The problem is convex: both go to the one minimum, the bound slowly.
    assert!(ours <= theirs + F32 && theirs - ours < 0.01 * (kls[0] - ours), "{ours} and {theirs}");
}

#[test]
fn lenses_and_moments_of_other_targets_are_refused() {
    let (model, train, _) = small();
    let post = LayerMoments::collect_with(&model, &train, Scale::AsItIs, Target::Normalised).unwrap();
    let own = Ridge::default()
        .own(&LayerMoments::collect_with(&model, &train, Scale::AsItIs, Target::Residual).unwrap())
        .unwrap();
    let e = Refine::default().fit(&model, &own, &post, &train).unwrap_err().to_string();
    assert!(e.contains("Residual") && e.contains("Normalised"), "{e}");
}

#[test]
fn a_classifier_reads_the_token_off_the_embedding_and_nothing_off_noise() {
    let (model, train, held_out) = small();
    let n_classes = 3;
    // Two tokens, each against all others: corners of the cloud of embeddings.
    let class = |tokens: &Array2<u32>| tokens.mapv(|t| t.min(2));
    let probe = Probe::fit(&model, &train, &class(&train), n_classes, 60).unwrap();
    let score = probe.score(&model, &held_out, &class(&held_out)).unwrap();
    assert!(score.accuracy[0] > 0.95 && score.cross_entropy[0] < 0.3 * score.baseline, "{score:?}");
    // Labels of other sequences: nothing to find.
    let order = |n: usize| (0..n).map(|i| (i + 7) % n).collect::<Vec<_>>();
    let mixed = class(&train).select(Axis(0), &order(train.nrows()));
    let probe = Probe::fit(&model, &train, &mixed, n_classes, 20).unwrap();
    let mixed = class(&held_out).select(Axis(0), &order(held_out.nrows()));
    let score = probe.score(&model, &held_out, &mixed).unwrap();
    assert!(score.cross_entropy.iter().all(|c| (c - score.baseline).abs() < 0.1), "{score:?}");
    let share = |c: u32| train.iter().filter(|t| **t.min(&&2) == c).count() as f64 / train.len() as f64;
    let frequencies: Array1<f64> = (0..3).map(share).collect();
    assert!((&probe.frequencies - &frequencies).iter().all(|e| e.abs() < 1e-9));
    let e = Probe::fit(&model, &train, &class(&train), 2, 1).unwrap_err().to_string();
    assert!(e.contains("label 2") && e.contains("0 to 1"), "{e}");
    assert!(Probe::fit(&model, &train, &class(&held_out), 3, 1).is_err());
    assert!(Probe::fit(&model, &train, &train.mapv(|_| 0), 1, 1).is_err());
}

fn kinds() -> [LensKind; 9] {
    [
        LensKind::OwnBias,
        LensKind::OwnGain,
        LensKind::LowRank(3),
        LensKind::Shared,
        LensKind::Streams(vec![0, 2]),
        LensKind::LeftOut,
        LensKind::LeftOutWithoutLast,
        LensKind::Later,
        LensKind::Every(2),
    ]
}

/// Mean KL of the lens of stream `l` over the streams of its pool, by the definition: everything read through that one
/// map.
fn mean_kl(
    model: &Transformer,
    lenses: &LayerLenses,
    moments: &LayerMoments,
    tokens: &Array2<u32>,
    l: usize,
) -> f64 {
    struct One(LayerLenses, usize);
    impl Lens for One {
        fn name(&self) -> String {
            "one".into()
        }
        fn transport(&self, _: usize, h: ndarray::ArrayView2<f32>) -> onelens::Result<Array2<f32>> {
            self.0.transport(self.1, h)
        }
        fn logits(&self, model: &Transformer, z: ndarray::ArrayView2<f32>) -> onelens::Result<Array2<f32>> {
            self.0.logits(model, z)
        }
        fn check_model(&self, model: &Transformer) -> onelens::Result<()> {
            self.0.check_model(model)
        }
    }
    let pool = lenses.kind().streams(l, lenses.len());
    let kl = match lenses.kind() {
        // Each stream of the pool has a lens of its own.
        LensKind::OwnBias | LensKind::OwnGain => compare(model, &[lenses], moments, tokens),
        _ => compare(model, &[&One(lenses.clone(), l)], moments, tokens),
    };
    let kl = &kl.unwrap().curves[0].kl;
    pool.iter().map(|&k| kl[k]).sum::<f64>() / pool.len() as f64
}

/// What is lowered is what a comparison measures, for every pool, raw and at unit rms, with and without kept first
/// rows.
#[test]
fn lenses_of_pools_lower_the_mean_kl_over_the_streams_of_their_pool() {
    let (model, train, _) = small();
    for (scale, target) in [(Scale::AsItIs, Target::Residual), (Scale::UnitRms, Target::Normalised)] {
        let moments = LayerMoments::collect_with(&model, &train, scale, target).unwrap();
        for kind in kinds() {
            let start = Ridge::default().lenses(&moments, &kind).unwrap();
            let how = Refine { epochs: 4, lbfgs_steps: 4, ..Default::default() };
            let tuned = how.fit(&model, &start, &moments, &train).unwrap();
            assert_eq!(tuned.lenses.kind(), &kind);
            assert!(
                tuned.lenses.name().starts_with(&format!("tuned {}", kind.name())),
                "{}",
                tuned.lenses.name()
            );
            for l in 0..4 {
                let (first, last) =
                    (tuned.training_kl[(0, l)], tuned.training_kl[(tuned.training_kl.nrows() - 1, l)]);
                let before = mean_kl(&model, &start, &moments, &train, l);
                let after = mean_kl(&model, &tuned.lenses, &moments, &train, l);
                assert!(
                    (first - before).abs() < F32 && (last - after).abs() < F32,
                    "{kind:?} {l}: {first} {before} {last} {after}"
                );
                // A later-layers lens of the last stream but one has the model's own prediction to read, and nothing to
                // gain.
                assert!(last < first || first < 1e-5, "{kind:?}, stream {l}: {first} {last}");
            }
        }
    }
}

/// The problem is convex: where the gradient vanishes, every other lens reads worse.
#[test]
fn a_shared_post_norm_lens_ends_where_no_direction_leads_down() {
    let (model, train, _) = small();
    let moments = LayerMoments::collect_with(&model, &train, Scale::UnitRms, Target::Normalised).unwrap();
    let start = Ridge::default().lenses(&moments, &LensKind::LeftOut).unwrap();
    let how = Refine { epochs: 6, lbfgs_steps: 200, ..Default::default() };
    let tuned = how.fit(&model, &start, &moments, &train).unwrap();
    assert!(tuned.gradient_norm.iter().all(|g| *g < 2e-3), "{:?}", tuned.gradient_norm);
    let least = mean_kl(&model, &tuned.lenses, &moments, &train, 1);
    let mut random = rng(3, 0);
    for _ in 0..8 {
        let mut noise = |n: usize, m: usize| {
            Array2::from_shape_simple_fn((n, m), || 0.03 * onelens::num::normal(&mut random))
        };
        let lens = tuned.lenses.layer(1).unwrap();
        let other = AffineLens { a: lens.a + noise(8, 8), b: lens.b + noise(1, 8).row(0) };
        // Through the files of published lenses there is no way to put a map in; the comparison takes any lens.
        struct Other(LayerLenses, AffineLens);
        impl Lens for Other {
            fn name(&self) -> String {
                "other".into()
            }
            fn transport(&self, _: usize, h: ndarray::ArrayView2<f32>) -> onelens::Result<Array2<f32>> {
                let size = (h.mapv(|x| x * x).sum_axis(Axis(1)) / 8.0).mapv(f32::sqrt).insert_axis(Axis(1));
                self.1.transport((&h / &size).view())
            }
            fn logits(
                &self,
                model: &Transformer,
                z: ndarray::ArrayView2<f32>,
            ) -> onelens::Result<Array2<f32>> {
                self.0.logits(model, z)
            }
            fn check_model(&self, _: &Transformer) -> onelens::Result<()> {
                Ok(())
            }
        }
        let kl =
            &compare(&model, &[&Other(tuned.lenses.clone(), other)], &moments, &train).unwrap().curves[0].kl;
        let mean = [0, 2, 3].iter().map(|&l| kl[l]).sum::<f64>() / 3.0;
        assert!(mean > least - F32, "{mean} {least}");
    }
}

/// Each kind holds the one before it, so that the least KL of each is no more, and what a kind has in common is in
/// common.
#[test]
fn each_freedom_more_lowers_the_least_kl_and_a_kind_keeps_what_it_has_in_common() {
    let (model, train, _) = small();
    let moments = LayerMoments::collect_with(&model, &train, Scale::UnitRms, Target::Normalised).unwrap();
    let how = Refine { epochs: 6, lbfgs_steps: 80, ..Default::default() };
    let fit = |kind: LensKind| {
        let start = Ridge::default().lenses(&moments, &kind).unwrap();
        how.fit(&model, &start, &moments, &train).unwrap()
    };
    let mean = |tuned: &onelens::lens::TunedLens| {
        tuned.training_kl.row(tuned.training_kl.nrows() - 1).mean().unwrap()
    };
    let [shared, bias, gain, own] =
        [LensKind::Shared, LensKind::OwnBias, LensKind::OwnGain, LensKind::Own].map(fit);
    let least: Vec<f64> = [&shared, &bias, &gain, &own].map(mean).into();
    assert!(least.windows(2).all(|w| w[1] < w[0] - 1e-4), "{least:?}");
    // Convex: it ends where no direction leads down.
    assert!(bias.gradient_norm[0] < 2e-3, "{:?}", bias.gradient_norm);
    let map = |tuned: &onelens::lens::TunedLens, l: usize| tuned.lenses.layer(l).unwrap();
    assert!(map(&bias, 0).a == map(&bias, 3).a && map(&bias, 0).b != map(&bias, 3).b);
    // Parallel but not equal.
    let (x, y) = (map(&gain, 1).a, map(&gain, 2).a);
    let cosine = (&x * &y).sum() / ((&x * &x).sum() * (&y * &y).sum()).sqrt();
    assert!((cosine.abs() - 1.0).abs() < 1e-12 && x != y);

    let low: Vec<_> = [0, 1, 4, 8].map(|rank| fit(LensKind::LowRank(rank))).into();
    let least: Vec<f64> = low.iter().map(mean).collect();
    assert!(least.windows(2).all(|w| w[1] < w[0] - 1e-4), "{least:?}");
    // All ranks there are is no constraint.
    assert!((least[3] - mean(&own)).abs() < 2e-3, "{least:?} {}", mean(&own));
    // Epochs alone lead most of the way.
    for rank in [1, 4] {
        let start = Ridge::default().low_rank(&moments, rank).unwrap();
        let epochs = Refine { epochs: 60, lbfgs_steps: 0, ..Default::default() };
        let there = epochs.fit(&model, &start, &moments, &train).unwrap();
        let (begin, end) = (there.training_kl.row(0).mean().unwrap(), mean(&there));
        let best = least[[0, 1, 4].iter().position(|r| *r == rank).unwrap()];
        assert!(begin - end > 0.9 * (begin - best), "rank {rank}: {begin} {end} {best}");
    }
    for (rank, tuned) in [0, 1, 4].iter().zip(&low) {
        let away = map(tuned, 1).a - Array2::<f64>::eye(8);
        let sizes = onelens::num::SymmetricEigen::new(away.dot(&away.t()).view()).unwrap().values;
        assert_eq!(sizes.iter().filter(|s| **s > 1e-10).count(), *rank);
    }
}

#[test]
fn a_left_out_lens_is_the_lens_of_the_other_streams() {
    let (model, train, _) = small();
    let moments = LayerMoments::collect(&model, &train).unwrap();
    let how = Refine { epochs: 3, lbfgs_steps: 2, ..Default::default() };
    let fit = |kind: LensKind| {
        let start = Ridge::default().lenses(&moments, &kind).unwrap();
        how.fit(&model, &start, &moments, &train).unwrap().lenses
    };
    let left_out = fit(LensKind::LeftOut).layer(2).unwrap();
    let others = fit(LensKind::Streams(vec![0, 1, 3])).layer(2).unwrap();
    let off = (&left_out.a - &others.a)
        .iter()
        .chain(&(&left_out.b - &others.b))
        .fold(0.0_f64, |m, x| m.max(x.abs()));
    // The same search, but for which drawn classes the curvature was looked at with.
    assert!(off < 0.05, "{off}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lenses");
    let lenses = fit(LensKind::Every(2));
    lenses.save(&path).unwrap();
    assert_eq!(LayerLenses::load(&path).unwrap().kind(), &LensKind::Every(2));
    assert!(lenses.layer(0) == lenses.layer(2) && lenses.layer(0) != lenses.layer(1));
}

#[test]
fn pools_of_nothing_are_refused() {
    let (model, train, _) = small();
    let moments = LayerMoments::collect(&model, &train).unwrap();
    let said = |kind: LensKind| Ridge::default().lenses(&moments, &kind).unwrap_err();
    assert!(said(LensKind::Streams(vec![])).what().contains("has no streams"));
    assert!(said(LensKind::Streams(vec![1, 4])).what().contains("no residual stream 4 among 4"));
    assert!(said(LensKind::Every(0)).help().contains("1 is one lens for all"));
    for (name, kind) in [
        ("left-out", LensKind::LeftOut),
        ("every-3", LensKind::Every(3)),
        ("0,2", LensKind::Streams(vec![0, 2])),
    ] {
        assert_eq!(name.parse::<LensKind>().unwrap(), kind);
    }
    let e = "every-".parse::<LensKind>().unwrap_err();
    assert!(e.what().contains("\"every-\"") && e.help().contains("left-out"), "{e}");
}

/// What a hidden layer reads is what a comparison measures, and on tokens that it was trained on no less than its
/// start.
#[test]
fn a_hidden_layer_reads_more_than_the_affine_lens_that_it_begins_with() {
    let (model, train, held_out) = small();
    let moments = LayerMoments::collect_with(&model, &train, Scale::UnitRms, Target::Normalised).unwrap();
    let own = Ridge::default().own(&moments).unwrap();
    let affine = Refine { epochs: 6, lbfgs_steps: 40, ..Default::default() };
    let affine = affine.fit(&model, &own, &moments, &train).unwrap();
    let how = HiddenLayer { width: 32, epochs: 40, ..Default::default() };
    let hidden = how.fit(&model, &affine.lenses, &moments, &train).unwrap();
    let seen = compare(&model, &[&affine, &hidden], &moments, &train).unwrap();
    for l in 0..4 {
        let [before, after] = hidden.training_kl[l];
        assert!((seen.curves[0].kl[l] - before).abs() < F32 && (seen.curves[1].kl[l] - after).abs() < F32);
        // The affine lens is at its least: what is gained is what the hidden layer adds. The last stream needs nothing.
        assert!(if l < 3 { after < 0.9 * before } else { after < 1e-3 }, "{l}: {before} {after}");
    }
    assert_eq!(hidden.name(), "hidden layer of 32");
    // Steps that look at two thirds of the vocabulary lead there, too.
    let part = HiddenLayer { vocabulary: model.config.d_vocab * 2 / 3, ..how };
    let part = part.fit(&model, &affine.lenses, &moments, &train).unwrap();
    let through_part = compare(&model, &[&part], &moments, &train).unwrap();
    for l in 0..3 {
        let (affine, part) = (seen.curves[0].kl[l], through_part.curves[0].kl[l]);
        assert!(part < 0.95 * affine, "{l}: {affine} {part}");
    }
    assert!(compare(&model, &[&hidden], &moments, &held_out).is_ok());

    let none = HiddenLayer { width: 0, ..how }.fit(&model, &own, &moments, &train).unwrap_err();
    assert!(none.what().contains("width 0"), "{none}");
    let raw = LayerMoments::collect_with(&model, &train, Scale::AsItIs, Target::Residual).unwrap();
    assert!(how.fit(&model, &own, &raw, &train).is_err());
    let other = Transformer::new(Config { seed: 99, ..model.config.clone() }).unwrap();
    assert!(how.fit(&other, &own, &moments, &train).is_err());
}
