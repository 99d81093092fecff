//! Refinement: from the closed form downwards, never up.

use ndarray::Array2;
use onelens::data::{Markov, Source};
use onelens::lens::{LayerMoments, Lens, Refine, Ridge, compare};
use onelens::model::{Config, Training, Transformer};
use onelens::num::rng;

/// Two passes run other numbers of sequences together, so that log-probabilities differ by their rounding in f32, a few 2⁻²⁴ of
/// about 2.5.
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
    let tuned = Refine { passes: 0 }.fit(&model, &own, &moments, &train).unwrap();
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
    let moments = LayerMoments::collect(&model, &train).unwrap();
    let own = Ridge::default().own(&moments).unwrap();
    let tuned = Refine { passes: 30 }.fit(&model, &own, &moments, &train).unwrap();
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
fn the_search_ends_where_the_gradient_is_small() {
    let (model, train, _) = small();
    let moments = LayerMoments::collect(&model, &train).unwrap();
    let own = Ridge::default().own(&moments).unwrap();
    let begin = Refine { passes: 0 }.fit(&model, &own, &moments, &train).unwrap();
    let end = Refine { passes: 150 }.fit(&model, &own, &moments, &train).unwrap();
    for l in 0..3 {
        let (before, after) = (begin.gradient_norm[l], end.gradient_norm[l]);
        assert!(after < 0.1 * before, "stream {l}: {before:e} and {after:e}");
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
    let tuned = Refine { passes: 0 }.fit(&model, &own, &moments, &train).unwrap();
    assert!(tuned.check_model(&other).is_err());
}
