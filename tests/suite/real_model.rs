//! A real language model, SmolLM2-135M-Instruct from a GGUF file, against what transformers says of the same file.

use std::path::PathBuf;
use std::sync::OnceLock;

use onelens::data::Tokenizer;
use onelens::language::LanguageModel;
use onelens::ndarray::{Array2, s};
use onelens::num::Precision;
use serde_json::Value;

/// The folder with the model, and what transformers 5.24 said (`golden.py` beside it).
fn folder() -> Option<PathBuf> {
    crate::common::data("smollm2")
}

fn golden() -> Option<Value> {
    Some(serde_json::from_slice(&std::fs::read(folder()?.join("golden.json")).unwrap()).unwrap())
}

fn model() -> Option<&'static LanguageModel> {
    static MODEL: OnceLock<Option<LanguageModel>> = OnceLock::new();
    let open = || Some(LanguageModel::open(folder()?.join("SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap());
    MODEL.get_or_init(open).as_ref()
}

fn tokens(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect()
}

#[test]
fn the_tokenizer_of_the_file_and_tokenizer_json_make_the_tokens_of_transformers() {
    let (Some(golden), Some(model)) = (golden(), model()) else { return };
    let json = Tokenizer::open(folder().unwrap()).unwrap();
    assert_eq!((model.tokenizer.len(), json.len()), (49152, 49152));
    for case in golden["tokenizer"].as_array().unwrap() {
        let (text, want) = (case["text"].as_str().unwrap(), tokens(&case["tokens"]));
        assert_eq!(model.to_tokens(text).unwrap(), want, "{text:?}");
        assert_eq!(json.encode(text).unwrap(), want, "{text:?}");
        assert_eq!(model.to_string(&want).unwrap(), text);
    }
}

#[test]
fn losses_logits_streams_and_greedy_tokens_are_those_of_transformers() {
    let (Some(golden), Some(model)) = (golden(), model()) else { return };
    for case in golden["prompts"].as_array().unwrap() {
        let prompt = case["prompt"].as_str().unwrap();
        let want = tokens(&case["tokens"]);
        let got = model.to_tokens(prompt).unwrap();
        assert_eq!(got, want, "{prompt:?}");
        let loss = model.loss(prompt).unwrap();
        let golden_loss = case["mean_loss_nats"].as_f64().unwrap();
        assert!((loss - golden_loss).abs() < 1e-3, "{prompt:?}: {loss} for {golden_loss}");

        let (logits, cache) = model.run_with_cache(prompt).unwrap();
        let last = want.len() - 1;
        let largest = case["top5"][0][1].as_f64().unwrap();
        for pair in case["top5"].as_array().unwrap() {
            let (token, want) = (pair[0].as_u64().unwrap() as usize, pair[1].as_f64().unwrap());
            let got = f64::from(logits[(0, last, token)]);
            assert!((got - want).abs() < 1e-3 * largest, "{prompt:?}: {got} for {want}");
        }
        let norms = case["stream_norm"].as_array().unwrap();
        let firsts = case["stream_first3"].as_array().unwrap();
        // The last entry of transformers comes after the final norm.
        for l in 0..model.config.n_layers {
            let stream = match l {
                0 => cache.get(onelens::model::Hook::ResidPre(0)).unwrap().to_owned(),
                _ => cache.get(onelens::model::Hook::ResidPost(l - 1)).unwrap().to_owned(),
            };
            let stream = stream.slice(s![0, last, ..]).to_owned();
            let norm = stream.mapv(|x| f64::from(x).powi(2)).sum().sqrt();
            let want = norms[l].as_f64().unwrap();
            assert!((norm - want).abs() < 1e-3 * want, "{prompt:?}, stream {l}: {norm} for {want}");
            for (x, want) in stream.iter().zip(firsts[l].as_array().unwrap()) {
                assert!(
                    (f64::from(*x) - want.as_f64().unwrap()).abs() < 1e-3 * norm,
                    "{prompt:?}, stream {l}"
                );
            }
        }
        let more = model.generate_greedy(&want, 20).unwrap();
        assert_eq!(more, tokens(&case["greedy20"]), "{prompt:?}");
        let continued = model.generate(prompt, 20).unwrap();
        assert_eq!(continued.text, case["greedy20_text"].as_str().unwrap(), "{prompt:?}");
    }
}

#[test]
fn weights_stay_as_they_are_stored() {
    let Some(model) = model() else { return };
    let block = &model.params.blocks[3];
    assert_eq!((block.w_q.stored_as(), model.params.w_e.stored_as()), ("q4_1", "q8_0"));
    let size = std::fs::metadata(folder().unwrap().join("SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap().len();
    assert!(model.params.n_bytes() as u64 <= size);
    assert_eq!(model.params.count(), 134_515_008);
    // Two ways to the same numbers: block by block in a pass of many rows, and row by row in one of few.
    let tokens = Array2::from_shape_fn((1, 12), |(_, t)| (t * 997 % 49152) as u32);
    let (all, few) =
        (model.forward(&tokens).unwrap(), model.forward(&tokens.slice(s![.., ..4]).to_owned()).unwrap());
    let far = all.slice(s![.., ..4, ..]).iter().zip(&few).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(far < 1e-3, "{far}");
}

/// What transformers says of each prompt alone; one batch of all, padded on the left, says the same.
#[test]
fn prompts_of_different_lengths_pass_as_one_batch() {
    let (Some(golden), Some(model)) = (golden(), model()) else { return };
    let cases = golden["prompts"].as_array().unwrap();
    let texts: Vec<&str> = cases.iter().map(|case| case["prompt"].as_str().unwrap()).collect();
    let (tokens, mask) = model.to_padded_batch(&texts).unwrap();
    assert!(mask.iter().any(|shown| !shown) && mask.column(mask.ncols() - 1).iter().all(|&shown| shown));
    let logits = model.pass(&tokens).mask(&mask).last_logits().unwrap();
    for (case, logits) in cases.iter().zip(logits.rows()) {
        let largest = case["top5"][0][1].as_f64().unwrap();
        for pair in case["top5"].as_array().unwrap() {
            let (token, want) = (pair[0].as_u64().unwrap() as usize, pair[1].as_f64().unwrap());
            let got = f64::from(logits[token]);
            assert!((got - want).abs() < 1e-3 * largest, "{}: {got} for {want}", case["prompt"]);
        }
    }
    let e = model.to_padded_batch(&["one", ""]).unwrap_err();
    assert!(e.what().contains("text 1"), "{e}");
}

#[test]
fn logits_of_rounded_products_are_within_a_hundredth_of_exact_ones() {
    let (Some(golden), Some(model)) = (golden(), model()) else { return };
    let (mut error, mut size) = (0.0, 0.0);
    for case in golden["prompts"].as_array().unwrap() {
        let row = tokens(&case["tokens"]);
        let tokens = Array2::from_shape_vec((1, row.len()), row).unwrap();
        let exact = model.forward(&tokens).unwrap();
        let pass = model.pass(&tokens).precision(Precision::Bf16);
        let rounded = pass.logits().unwrap();
        for (x, y) in exact.iter().zip(&rounded) {
            error += f64::from(x - y).powi(2);
            size += f64::from(*x).powi(2);
        }
        if tokens.len() > 1 {
            let (loss, exact) = (pass.loss().unwrap(), case["mean_loss_nats"].as_f64().unwrap());
            assert!((loss - exact).abs() < 0.03, "{loss} for {exact}");
        }
    }
    let off = f64::sqrt(error / size);
    assert!(off > 1e-4 && off < 1e-2, "{off}");
}
