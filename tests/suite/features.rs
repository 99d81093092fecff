//! PyTorch's pickles and Hugging Face's tokenizers: read as they were written, or refused.

mod candle {
    use std::path::Path;

    use half::{bf16, f16};
    use onelens::model::Transformer;
    use proptest::prelude::*;

    fn golden(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
    }

    /// The GPT-2 folder with its weights as these bytes of a `pytorch_model.bin`.
    fn read(bytes: &[u8]) -> onelens::Result<Transformer> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(golden("gpt2/config.json"), folder.path().join("config.json")).unwrap();
        std::fs::write(folder.path().join("pytorch_model.bin"), bytes).unwrap();
        Transformer::from_hugging_face(folder.path())
    }

    #[test]
    fn what_pytorch_saved_is_read_in_every_type_as_it_was_rounded() {
        let stored = Transformer::from_hugging_face(golden("gpt2")).unwrap();
        let whole = |x: f32| x;
        let halved = |x: f32| f16::from_f32(x).to_f32();
        let brain = |x: f32| bf16::from_f32(x).to_f32();
        let rounds: [(&str, &dyn Fn(f32) -> f32); 3] =
            [("float32", &whole), ("float16", &halved), ("bfloat16", &brain)];
        for (name, round) in rounds {
            let model = read(&std::fs::read(golden(&format!("pickles/{name}.bin"))).unwrap()).unwrap();
            assert_eq!(model.config, stored.config);
            for (ours, whole) in model.params.slices().into_iter().zip(stored.params.slices()) {
                assert!(ours.iter().zip(whole.iter()).all(|(&a, &b)| a == round(b)), "{name}");
            }
        }
    }

    #[test]
    fn a_pickle_that_is_cut_off_or_something_else_is_refused() {
        let whole = std::fs::read(golden("pickles/float32.bin")).unwrap();
        for len in [0, 1, 100, whole.len() / 2, whole.len() - 1] {
            let e = read(&whole[..len]).unwrap_err();
            assert!(e.what().contains("pytorch_model.bin") && e.help().contains("torch.save"), "{len}: {e}");
        }
        assert!(read(b"PK\x05\x06 and nothing").is_err());
    }

    #[test]
    fn tensors_become_arrays_and_arrays_tensors_with_their_order_of_numbers() {
        use candle_core::{DType, Device, Tensor};
        use onelens::model::{from_candle, to_candle};
        use onelens::ndarray::array;
        // A transposed view, in both directions: [[1, 2], [3, 4]] becomes [[1, 3], [2, 4]].
        let x = array![[1.0_f32, 2.0], [3.0, 4.0]];
        let turned = to_candle(&x.t().to_owned().into_dyn()).unwrap();
        assert_eq!(turned.to_vec2::<f32>().unwrap(), [[1.0, 3.0], [2.0, 4.0]]);
        assert_eq!(from_candle(&turned.t().unwrap()).unwrap(), x.into_dyn());
        // 2^-8 is the last bit of bf16 beside 1 that is lost, 2^-7 the first that is kept.
        let halved = Tensor::new(&[1.0 + 2_f32.powi(-9), 1.0 + 2_f32.powi(-7)], &Device::Cpu).unwrap();
        let halved = from_candle(&halved.to_dtype(DType::BF16).unwrap()).unwrap();
        assert_eq!(halved, array![1.0, 1.0 + 2_f32.powi(-7)].into_dyn());
    }

    mod device {
        use onelens::device::{self, DeviceTransformer};
        use onelens::lens::{LayerMoments, Lens, LogitLens, Refine, Ridge, Scale, Target, compare};
        use onelens::model::{
            Attention, Bias, Blocks, Config, Mask, Mlp, Norm, Pairs, Positions, Residual, Rotary, Transformer,
        };
        use onelens::ndarray::{Array2, Array3, Axis};
        use onelens::num::{rng, uniform_index};

        fn tokens(d_vocab: usize, n: usize, len: usize) -> Array2<u32> {
            let mut numbers = rng(1, 0);
            Array2::from_shape_simple_fn((n, len), || uniform_index(&mut numbers, d_vocab) as u32)
        }

        /// The largest error over the largest number.
        fn error(a: &Array3<f32>, b: &Array3<f32>) -> f32 {
            assert_eq!(a.dim(), b.dim());
            let size = b.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
            a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / size
        }

        fn agrees(model: &Transformer, what: &str) {
            let tokens = tokens(model.config.d_vocab, 9, model.config.n_ctx.min(24));
            let there = DeviceTransformer::new(model, &device::cpu()).unwrap();
            let (logits, cache) = model.run_with_cache(&tokens).unwrap();
            assert!(error(&there.forward(&tokens).unwrap(), &logits) < 1e-4, "{what}");
            let streams = there.residuals(&tokens).unwrap();
            assert_eq!(streams.len(), model.config.n_layers + 1);
            for (l, h) in streams.iter().enumerate().skip(1) {
                assert!(error(h, &cache.resid_post(l - 1).unwrap()) < 1e-4, "{what}, stream {l}");
            }
        }

        #[test]
        fn the_families_that_are_read_give_the_same_streams_logits_moments_and_lenses() {
            for name in ["gpt2", "llama", "neox"] {
                let model = Transformer::from_hugging_face(super::golden(name)).unwrap();
                agrees(&model, name);
                let tokens = tokens(model.config.d_vocab, 400, model.config.n_ctx.min(24));
                let ours = LayerMoments::collect(&model, &tokens).unwrap();
                let there = DeviceTransformer::new(&model, &device::cpu()).unwrap().moments(&tokens).unwrap();
                assert_eq!((there.n(), there.fingerprint), (ours.n(), ours.fingerprint));
                for (a, b) in there.layers.iter().zip(&ours.layers) {
                    let (a_zz, b_zz) = (a.s_zz.to_owned(), b.s_zz.to_owned());
                    for (a, b) in [(&a.s_xx, &b.s_xx), (&a.s_zx, &b.s_zx), (&a_zz, &b_zz)] {
                        let size = b.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
                        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4 * size), "{name}");
                    }
                    assert!((&a.x_mean - &b.x_mean).iter().all(|e| e.abs() < 1e-4), "{name}");
                }
                assert!(
                    (&there.mean_prediction - &ours.mean_prediction).iter().all(|e| e.abs() < 1e-6),
                    "{name}"
                );
                // Few tokens leave a first stream without full rank, in which a small penalty magnifies the last
                // digits.
                let ridge = Ridge { lambda: 1e-2, ..Default::default() };
                let (a, b) = (ridge.own(&there).unwrap(), ridge.own(&ours).unwrap());
                for l in 0..a.len() {
                    let (a, b) = (a.layer(l).unwrap(), b.layer(l).unwrap());
                    let size = b.a.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
                    assert!((&a.a - &b.a).iter().all(|e| e.abs() < 1e-3 * size), "{name}");
                }
            }
        }

        #[test]
        fn lenses_are_refined_and_compared_as_on_the_processors() {
            for name in ["gpt2", "llama"] {
                let model = Transformer::from_hugging_face(super::golden(name)).unwrap();
                let there = DeviceTransformer::new(&model, &device::cpu()).unwrap();
                let tokens = tokens(model.config.d_vocab, 120, model.config.n_ctx.min(24));
                let (fit, held_out) = tokens.view().split_at(Axis(0), 100);
                let (fit, held_out) = (fit.to_owned(), held_out.to_owned());
                // Through the final norm and not, all of the vocabulary and a part of it, own lenses and one for all.
                for (target, vocabulary) in [(Target::Residual, usize::MAX), (Target::Normalised, 24)] {
                    let moments = LayerMoments::collect_with(&model, &fit, Scale::UnitRms, target).unwrap();
                    let ridge = Ridge { lambda: 1e-2, ..Ridge::default() };
                    let refine = Refine { epochs: 2, lbfgs_steps: 2, vocabulary, ..Refine::default() };
                    for start in [ridge.own(&moments).unwrap(), ridge.shared(&moments).unwrap()] {
                        let ours = refine.fit(&model, &start, &moments, &fit).unwrap();
                        let theirs = there.refine(&model, &refine, &start, &moments, &fit).unwrap();
                        assert_eq!(ours.training_kl.dim(), theirs.training_kl.dim());
                        for (a, b) in ours.training_kl.iter().zip(&theirs.training_kl) {
                            assert!((a - b).abs() < 1e-3 * a.max(0.1), "{name} {target:?}: {a} and {b}");
                        }
                        let lenses: [&dyn Lens; 3] = [&LogitLens, &start, &ours];
                        let here = compare(&model, &lenses, &moments, &held_out).unwrap();
                        let read = there.compare(&model, &lenses, &moments, &held_out).unwrap();
                        let close = |a: f64, b: f64| (a - b).abs() < 1e-4 * a.abs().max(1.0);
                        assert!(close(here.baseline, read.baseline), "{name} {target:?}");
                        assert!(
                            close(here.model_cross_entropy, read.model_cross_entropy),
                            "{name} {target:?}"
                        );
                        for (a, b) in here.curves.iter().zip(&read.curves) {
                            assert_eq!((&a.name, a.kl.len()), (&b.name, b.kl.len()));
                            let numbers =
                                a.kl.iter().chain(&a.cross_entropy).zip(b.kl.iter().chain(&b.cross_entropy));
                            assert!(
                                numbers.into_iter().all(|(&a, &b)| close(a, b)),
                                "{name} {target:?}: {a:?} {b:?}"
                            );
                            // Of 480 tokens, one at which two are equally likely to rounding.
                            assert!(a.agreement.iter().zip(&b.agreement).all(|(a, b)| (a - b).abs() < 0.003));
                        }
                    }
                }
                let other = Transformer::new(model.config.clone()).unwrap();
                let e =
                    there.compare(&other, &[&LogitLens], &LayerMoments::new(&other), &held_out).unwrap_err();
                assert!(e.what().contains("weights on the device"), "{e}");
            }
        }

        #[test]
        fn every_architecture_but_linear_attention_gives_the_same_streams() {
            let usual = || Config {
                d_vocab: 11,
                n_ctx: 12,
                n_layers: 3,
                d_model: 16,
                n_heads: 4,
                d_head: 4,
                d_mlp: 24,
                ..Default::default()
            };
            let turned = |pairs, d_rotary| {
                Positions::Rotary(Rotary { pairs, d_rotary, theta: 100.0, ..Default::default() })
            };
            let all = [
                Config { norm: Norm::None, mlp: Mlp::Relu, mask: Mask::None, ..usual() },
                Config { residual: Residual::None, mlp: Mlp::Gelu, ..usual() },
                Config {
                    residual: Residual::Parallel,
                    mask: Mask::Prefix(5),
                    tied: true,
                    bias_u: false,
                    ..usual()
                },
                Config { blocks: Blocks::Looped { inject: true }, mlp: Mlp::None, ..usual() },
                Config {
                    positions: turned(Pairs::Adjacent, None),
                    n_kv_heads: Some(2),
                    norm: Norm::Rms,
                    bias: Bias::NONE,
                    mlp: Mlp::SwiGlu,
                    ..usual()
                },
                Config { positions: turned(Pairs::Half, Some(2)), n_kv_heads: Some(1), ..usual() },
                Config {
                    positions: turned(Pairs::Adjacent, Some(2)),
                    blocks: Blocks::Looped { inject: false },
                    ..usual()
                },
            ];
            for config in all {
                let what = config.describe();
                agrees(&Transformer::new(config).unwrap(), &what);
            }
            let linear = Transformer::new(Config { attention: Attention::Linear, ..usual() }).unwrap();
            let e = DeviceTransformer::new(&linear, &device::cpu()).err().unwrap().to_string();
            assert!(e.contains("Linear") && e.contains("help:"), "{e}");
        }

        #[test]
        fn what_a_device_cannot_do_is_a_sentence_and_a_remedy() {
            let model =
                Transformer::new(Config { d_vocab: 5, n_ctx: 8, n_layers: 2, ..Default::default() }).unwrap();
            let there = DeviceTransformer::new(&model, &device::cpu()).unwrap();
            for (bad, why) in [
                (Array2::from_elem((1, 9), 0), "9 tokens"),
                (Array2::from_elem((2, 3), 5), "token 5"),
                (Array2::zeros((0, 3)), "no tokens"),
            ] {
                for e in [there.forward(&bad).unwrap_err(), there.moments(&bad).err().unwrap()] {
                    assert!(e.to_string().contains(why) && e.to_string().contains("help:"), "{e}");
                }
            }
            if let Err(e) = device::cuda(0) {
                assert!(e.to_string().contains("CUDA") && e.to_string().contains("device::cpu()"), "{e}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn no_bytes_make_the_reader_of_pickles_panic(
            edits in proptest::collection::vec((0_usize..16_000, any::<u8>()), 1..8),
        ) {
            let mut bytes = std::fs::read(golden("pickles/float32.bin")).unwrap();
            for (at, byte) in edits {
                let n = bytes.len();
                bytes[at % n] = byte;
            }
            // Either a model or a sentence.
            let _ = read(&bytes);
        }
    }
}

mod tokenizers {
    use onelens::data::Tokenizer;
    use proptest::prelude::*;

    /// Byte pairs with two merges, `a b` before `ab c`, and a token at the beginning.
    const FILE: &str = r#"{
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "added_tokens": [{"id": 5, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [5], "tokens": ["<s>"]}}},
        "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4}, "merges": [["a", "b"], ["ab", "c"]]}
    }"#;

    #[test]
    fn pairs_are_merged_in_the_order_of_the_file_and_text_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, FILE).unwrap();
        let tokenizer = Tokenizer::open(&path).unwrap();
        assert_eq!(tokenizer.len(), 6);
        assert_eq!(tokenizer.encode("abcbab").unwrap(), [5, 4, 1, 3]);
        assert_eq!(tokenizer.decode([5, 4, 1, 3]).unwrap(), "abcbab");
        assert_eq!((tokenizer.token_text(3), tokenizer.token_text(99)), ("ab".into(), "�".into()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn no_bytes_make_the_reader_of_tokenizers_panic(
            edits in proptest::collection::vec((0_usize..2000, any::<u8>()), 1..6),
            len in 0_usize..3000,
        ) {
            let mut bytes = FILE.as_bytes().to_vec();
            for (at, byte) in edits {
                let n = bytes.len();
                bytes[at % n] = byte;
            }
            bytes.truncate(len);
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("tokenizer.json");
            std::fs::write(&path, bytes).unwrap();
            if let Ok(tokenizer) = Tokenizer::open(&path) {
                // What was read works, or says why not.
                let _ = tokenizer.encode("abcbab").and_then(|tokens| tokenizer.decode(&tokens));
            }
        }
    }

    #[test]
    fn a_file_that_is_no_tokenizer_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let deep = "[".repeat(100_000);
        for text in ["", "{}", &FILE[..FILE.len() / 2], deep.as_str()] {
            std::fs::write(&path, text).unwrap();
            let e = Tokenizer::open(&path).unwrap_err();
            assert!(e.what().contains("is no tokenizer") && e.help().contains("tokenizer.json"), "{e}");
        }
        assert!(
            Tokenizer::open(folder.path().join("nothing")).unwrap_err().what().contains("cannot be read")
        );
    }
}
