//! What the features `candle` and `tokenizers` read; nothing without them.

#[cfg(feature = "candle")]
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
                assert!(ours.iter().zip(whole).all(|(&a, &b)| a == round(b)), "{name}");
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

#[cfg(feature = "tokenizers")]
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
        assert_eq!(tokenizer.decode(&[5, 4, 1, 3]).unwrap(), "abcbab");
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
