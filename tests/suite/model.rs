//! The transformer: causality, determinism, training, and what it refuses.

use ndarray::{Array2, array, s};
use onelens::ErrorKind;
use onelens::data::{Corpus, Markov, Source, Vocab};
use onelens::model::{Config, Training, Transformer};
use onelens::num::rng;

fn small() -> Config {
    Config {
        d_vocab: 7,
        n_ctx: 12,
        d_model: 16,
        n_layers: 2,
        n_heads: 2,
        d_head: 8,
        d_mlp: 24,
        ..Default::default()
    }
}

#[test]
fn no_position_sees_what_comes_after_it() {
    let model = Transformer::new(small()).unwrap();
    let a = array![[0_u32, 1, 2, 3, 4, 5]];
    let mut b = a.clone();
    b[(0, 4)] = 0;
    let (a, b) = (model.forward(&a).unwrap(), model.forward(&b).unwrap());
    assert_eq!(a.slice(s![0, ..4, ..]), b.slice(s![0, ..4, ..]));
    assert_ne!(a.slice(s![0, 4, ..]), b.slice(s![0, 4, ..]));
}

#[test]
fn sequences_of_a_batch_do_not_see_each_other() {
    let model = Transformer::new(small()).unwrap();
    let both = array![[0_u32, 1, 2], [6, 5, 4]];
    let logits = model.forward(&both).unwrap();
    for i in 0..2 {
        let alone = model.forward(&both.slice(s![i..i + 1, ..]).to_owned()).unwrap();
        let worst = (&alone.slice(s![0, .., ..]) - &logits.slice(s![i, .., ..]))
            .iter()
            .fold(0.0_f32, |m, e| m.max(e.abs()));
        assert!(worst < 1e-5, "{worst}");
    }
}

#[test]
fn the_cache_adds_up() {
    let model = Transformer::new(small()).unwrap();
    let tokens = array![[0_u32, 1, 2, 3], [3, 2, 1, 0]];
    let (logits, cache) = model.run_with_cache(&tokens).unwrap();
    let close = |a: &ndarray::Array3<f32>, b: &ndarray::Array3<f32>| (a - b).iter().all(|e| e.abs() < 1e-6);
    for l in 0..2 {
        let mid = cache.resid_pre(l).unwrap() + cache.attn_out(l).unwrap();
        assert!(close(&mid, &cache.resid_mid(l).unwrap()));
        assert!(close(&(mid + cache.mlp_out(l).unwrap()), &cache.resid_post(l).unwrap()));
        let pattern = cache.pattern(l).unwrap();
        assert_eq!(pattern.dim(), (2, 2, 4, 4));
        for ((_, _, q, k), &p) in pattern.indexed_iter() {
            assert!(k <= q || p == 0.0, "a key after the query");
        }
        assert!(pattern.sum_axis(ndarray::Axis(3)).iter().all(|sum| (sum - 1.0).abs() < 1e-6));
    }
    assert_eq!(cache.resid_pre(1).unwrap(), cache.resid_post(0).unwrap());
    let last = cache.resid_post(1).unwrap().into_shape_with_order((8, 16)).unwrap();
    let log_p = model.decode(last.view()).unwrap();
    let direct = onelens::num::log_softmax_rows(logits.into_shape_with_order((8, 7)).unwrap().view());
    assert_eq!(log_p, direct);
    assert!(cache.resid_post(2).unwrap_err().to_string().contains("layers are 0 to 1"));
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let source = Markov::new(7, 0.3).unwrap();
    let train = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut model = Transformer::new(small()).unwrap();
            let log =
                model.train(&source, &Training { steps: 5, batch_size: 10, ..Default::default() }).unwrap();
            (model, log)
        })
    };
    let (one, log_one) = train(1);
    let (three, log_three) = train(3);
    assert!(one == three && log_one == log_three);
    assert_eq!(one.fingerprint(), three.fingerprint());
}

#[test]
fn training_on_markov_chains_comes_near_the_best_possible_loss() {
    let source = Markov::new(4, 0.2).unwrap();
    let config = Config {
        d_vocab: 4,
        n_ctx: 24,
        d_model: 32,
        n_layers: 2,
        n_heads: 4,
        d_head: 8,
        d_mlp: 64,
        ..Default::default()
    };
    let mut model = Transformer::new(config).unwrap();
    let held_out = source.sample_held_out(200, 25, &mut rng(77, 0)).unwrap();
    // The loss of the true conditional: no predictor does better on average.
    let mut best = 0.0;
    for row in held_out.rows() {
        let row = row.to_vec();
        let p = source.true_conditional(&row).unwrap();
        best -= (0..24).map(|t| p[(t, row[t + 1] as usize)].ln()).sum::<f64>();
    }
    best /= 200.0 * 24.0;
    assert!((source.entropy_rate(&held_out).unwrap() - best).abs() < 1e-12);
    let before = model.loss(&held_out).unwrap();
    model.train(&source, &Training { steps: 400, batch_size: 32, ..Default::default() }).unwrap();
    let after = model.loss(&held_out).unwrap();
    assert!(before > 1.3, "untrained, the loss is about ln 4: {before}");
    assert!(after > best - 0.02, "{after} is better than possible, {best}");
    assert!(after < best + 0.35 * (before - best), "{after}, best {best}, before {before}");
}

#[test]
fn a_training_that_breaks_down_says_when_and_keeps_the_last_good_weights() {
    let source = Markov::new(7, 0.3).unwrap();
    let mut model = Transformer::new(small()).unwrap();
    let how = Training { steps: 50, lr: 1e30, warmup: 0, weight_decay: 0.0, ..Default::default() };
    let e = model.train(&source, &how).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Numeric);
    assert!(e.to_string().contains("step") && e.to_string().contains("smaller `lr`"), "{e}");
    let tokens = source.sample(4, 13, &mut rng(1, 0)).unwrap();
    assert!(model.loss(&tokens).unwrap().is_finite());
}

#[test]
fn greedy_generation_takes_the_most_probable_token_and_sampling_is_seeded() {
    let model = Transformer::new(small()).unwrap();
    let out = model.generate_greedy([1, 2], 15).unwrap();
    assert_eq!(out.len(), 15, "beyond the context too");
    let logits = model.forward(&array![[1, 2]]).unwrap();
    let best = logits.slice(s![0, 1, ..]).iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
    assert_eq!(out[0] as usize, best);
    let draw = |seed| model.generate_sampled([1, 2], 30, 1.0, seed).unwrap();
    assert_eq!(draw(0), draw(0));
    assert_ne!(draw(0), draw(1));
    assert!(model.generate_sampled([1], 3, 1e-6, 0).unwrap() == model.generate_greedy([1], 3).unwrap());
    assert!(model.generate_greedy([], 3).unwrap_err().to_string().contains("empty"));
    assert!(model.generate_sampled([1], 3, 0.0, 0).is_err());
}

#[test]
fn bad_configurations_and_tokens_are_named() {
    let refuse = |config: Config, word: &str| {
        let e = Transformer::new(config).unwrap_err();
        assert!(e.kind() == ErrorKind::Config && e.to_string().contains(word), "{e}");
    };
    refuse(Config { n_heads: 0, ..small() }, "n_heads is 0");
    refuse(Config { eps: -1.0, ..small() }, "eps is -1");
    let model = Transformer::new(small()).unwrap();
    let refuse = |tokens: Array2<u32>, word: &str| {
        let e = model.forward(&tokens).unwrap_err();
        assert!(e.to_string().contains(word) && e.to_string().contains("help:"), "{e}");
    };
    refuse(array![[0, 7]], "token 7 (sequence 0, position 1)");
    refuse(Array2::zeros((1, 13)), "context of 12");
    refuse(Array2::zeros((0, 3)), "empty");
    assert!(model.loss(&array![[1]]).unwrap_err().to_string().contains("at least two tokens"));
    assert!(model.loss(&array![[1, 9]]).unwrap_err().to_string().contains("token 9"));
    let mut model = model;
    let e = model.train(&Markov::new(5, 1.0).unwrap(), &Training::default()).unwrap_err();
    assert!(e.to_string().contains("`d_vocab: 5`"), "{e}");
}

#[test]
fn text_that_cannot_be_used_is_refused_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let refuse = |path: std::path::PathBuf, word: &str| {
        let e = Corpus::open(&path).unwrap_err().to_string();
        assert!(e.contains(word) && e.contains("help:"), "{e}");
    };
    refuse(folder.path().join("absent.txt"), "cannot open");
    refuse(file("empty.txt", b""), "too little text");
    refuse(file("picture.png", &[0x89, 0x50, 0xff, 0xfe]), "not UTF-8 text: byte 0");
    let empty = folder.path().join("folder");
    std::fs::create_dir(&empty).unwrap();
    refuse(empty, "no text files");
    let corpus = Corpus::open(file("short.txt", "ab\n".repeat(60).as_bytes())).unwrap();
    let e = corpus.sample_held_out(2, 65, &mut rng(0, 0)).unwrap_err().to_string();
    assert!(e.contains("no sequence of 65 tokens") && e.contains("36") && e.contains("n_ctx"), "{e}");
    let e = corpus.vocab().encode("abé").unwrap_err().to_string();
    assert!(e.contains("'é', character 2"), "{e}");
}

#[test]
fn held_out_files_are_never_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..10_u8 {
        // Each file has a letter of its own.
        let letter = char::from(b'a' + i);
        std::fs::write(folder.path().join(format!("{i}.txt")), letter.to_string().repeat(200)).unwrap();
    }
    let corpus = Corpus::open(folder.path()).unwrap();
    let letters = |tokens: Array2<u32>| -> std::collections::BTreeSet<String> {
        tokens
            .rows()
            .into_iter()
            .map(|r| {
                let text = corpus.vocab().decode(r);
                let first = text.chars().next().unwrap();
                assert!(
                    text.chars().all(|c| c == first),
                    "a sequence ran from one file into the next: {text}"
                );
                first.to_string()
            })
            .collect()
    };
    let train = letters(corpus.sample(500, 20, &mut rng(0, 0)).unwrap());
    let held_out = letters(corpus.sample_held_out(500, 20, &mut rng(0, 0)).unwrap());
    assert_eq!(train.len(), 8);
    // Letters of held-out files never occur in training, so they have no token.
    assert_eq!(held_out.into_iter().collect::<Vec<_>>(), ["�"]);
}

#[test]
fn rust_source_is_found_and_is_rust() {
    let corpus = Corpus::rust_source().unwrap();
    assert!(corpus.n_train() > 300_000 && corpus.n_held_out() > 50_000, "{corpus:?}");
    let lock = include_str!("../../Cargo.lock");
    let at = lock.find("name = \"ndarray\"").unwrap();
    let version = lock[at..].lines().nth(1).unwrap().trim_start_matches("version = ").trim_matches('"');
    assert!(
        corpus.describe().contains(&format!("ndarray-{version}")),
        "{} is not the locked {version}",
        corpus.describe()
    );
    assert_eq!(corpus.vocab().encode("fn main() {}").unwrap().len(), 12);
    assert_eq!(Vocab::from_text("zz�a", 1).decode([0, 1, 2]), "�az");
}
