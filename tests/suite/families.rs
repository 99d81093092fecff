//! Families of Hugging Face checkpoints against transformers: the checkpoints and numbers in `tests/golden/families`,
//! made by `tests/golden/families.py`; and what is said of a folder that is not read.

use std::path::{Path, PathBuf};

use ndarray::{Array2, s};
use onelens::model::{Positions, Rotary, Transformer};
use onelens::{Error, ErrorKind};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/families").join(name)
}

/// All checkpoints there are.
fn names() -> Vec<String> {
    let entries = std::fs::read_dir(folder("")).unwrap().map(|entry| entry.unwrap());
    let mut names: Vec<String> = entries
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn numbers(golden: &SafeTensors, name: &str) -> Vec<f32> {
    let view = golden.tensor(name).unwrap();
    view.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

fn worst(ours: impl IntoIterator<Item = f32>, theirs: &[f32]) -> f32 {
    let ours: Vec<f32> = ours.into_iter().collect();
    assert_eq!(ours.len(), theirs.len());
    let larger = |m: f32, error: f32| if m.is_nan() || error.is_nan() { f32::NAN } else { m.max(error) };
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, larger)
}

/// The largest of these numbers, or 1 if that is larger.
fn size(numbers: &[f32]) -> f32 {
    numbers.iter().fold(1.0, |m, x| m.max(x.abs()))
}

fn golden(name: &str) -> (Vec<u8>, Array2<u32>) {
    let bytes = std::fs::read(folder(name).join("golden.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let view = golden.tensor("tokens").unwrap();
    let tokens = view.data().as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
    let tokens = Array2::from_shape_vec((view.shape()[0], view.shape()[1]), tokens).unwrap();
    (bytes, tokens)
}

/// Streams, logits, loss and gradients that differ from those of transformers by more than single precision allows.
fn differences(name: &str) -> Vec<String> {
    let model = match Transformer::from_hugging_face(folder(name)) {
        Ok(model) => model,
        Err(e) => return vec![format!("{name}: {e}")],
    };
    let (bytes, tokens) = golden(name);
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let mut wrong = Vec::new();
    let mut check = |what: String, error: f32, bound: f32| {
        println!("{name} {what}: {error:.1e}");
        if error > bound || error.is_nan() {
            wrong.push(format!("{name}: {what} differs by {error:.1e}, bound {bound:.1e}"));
        }
    };
    let (logits, cache) = model.run_with_cache(&tokens.slice(s![.., ..-1]).to_owned()).unwrap();
    let n_layers = model.config.n_layers;
    for l in 0..=n_layers {
        let ours = if l < n_layers { cache.resid_pre(l).unwrap() } else { cache.resid_post(l - 1).unwrap() };
        let theirs = numbers(&golden, &format!("resid.{l}"));
        check(format!("stream {l}"), worst(ours, &theirs), 1e-5 * size(&theirs));
    }
    let theirs = numbers(&golden, "logits");
    check("logits".into(), worst(logits, &theirs), 1e-5 * size(&theirs).max(10.0));
    let (loss, grad) = model.loss_and_grad(&tokens).unwrap();
    check("loss".into(), (loss as f32 - numbers(&golden, "loss")[0]).abs(), 1e-5 * size(&[loss as f32]));

    // Gradients are stored as a checkpoint is; read as one, they become a gradient of ours, when what a reader adds is
    // taken off.
    let gradients: Vec<(String, TensorView)> = golden
        .tensors()
        .into_iter()
        .filter_map(|(name, view)| Some((name.strip_prefix("grad.")?.to_string(), view)))
        .collect();
    let stored = |factor: f32| {
        let times = move |view: &TensorView| -> Vec<u8> {
            let numbers = view.data().as_chunks().0.iter().map(|&b| factor * f32::from_le_bytes(b));
            numbers.flat_map(f32::to_le_bytes).collect()
        };
        gradients.iter().map(move |(name, view)| (name.clone(), view.shape().to_vec(), times(view)))
    };
    let read = |factor: f32| with_tensors(name, &[], |_| stored(factor).collect()).unwrap().params;
    let (want, zero) = (read(1.0), read(0.0));
    for ((((tensor, _), ours), theirs), zero) in
        grad.tensors().iter().zip(grad.slices()).zip(want.slices()).zip(zero.slices())
    {
        let theirs: Vec<f32> = theirs.iter().zip(zero.iter()).map(|(a, b)| a - b).collect();
        let size = theirs.iter().fold(0.0_f32, |m, g| m.max(g.abs()));
        // A gain that transformers does not have has no gradient there, and an embedding with projections is a product
        // of two weights.
        let product = name == "opt_post_norm" && ["embed.W_E", "unembed.W_U"].contains(&tensor.as_str());
        if !(size == 0.0 && name == "olmo" || product) {
            // A key's bias has no gradient but rounding where positions do not turn it: it leaves a softmax as it is.
            check(format!("gradient of {tensor}"), worst(ours.to_vec(), &theirs), (1e-3 * size).max(2e-6));
        }
    }
    wrong
}

#[test]
fn every_family_computes_what_transformers_computes() {
    let wrong: Vec<String> = names().iter().flat_map(|name| differences(name)).collect();
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_family_that_is_read_was_compared() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), json!({ "model_type": "mamba" }).to_string()).unwrap();
    std::fs::copy(self::folder("qwen2").join("model.safetensors"), folder.path().join("model.safetensors"))
        .unwrap();
    let e = Transformer::from_hugging_face(folder.path()).unwrap_err();
    let list = e.help().split_once("one of ").unwrap().1.split(['.', ';']).next().unwrap();
    let families: Vec<&str> = list.split(", ").collect();
    assert!(families.len() >= 20, "{families:?}");
    let all = names().into_iter().map(|name| config_of(&name)["model_type"].as_str().unwrap().to_string());
    let compared: Vec<String> = all.chain(["gpt2", "llama", "gpt_neox"].map(String::from)).collect();
    for family in families {
        assert!(compared.iter().any(|name| name == family), "{family}");
    }
}

#[test]
fn what_is_generated_is_what_the_whole_context_says() {
    for name in names() {
        let model = Transformer::from_hugging_face(folder(&name)).unwrap();
        let (_, tokens) = golden(&name);
        let mut all = tokens.row(0).slice(s![..2]).to_vec();
        let generated = model.generate_greedy(&all, 6).unwrap();
        for token in generated {
            let input = Array2::from_shape_vec((1, all.len()), all.clone()).unwrap();
            let logits = model.forward(&input).unwrap();
            let last = logits.slice(s![0, -1, ..]);
            let best = last.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert!(last[token as usize] > best - 1e-4, "{name}: {token} after {all:?}");
            all.push(token);
        }
    }
}

/// Name, shape and bytes of a tensor.
type Stored = (String, Vec<usize>, Vec<u8>);

fn config_of(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder(name).join("config.json")).unwrap()).unwrap()
}

/// The checkpoint `name` with other settings; null takes one out.
fn with(name: &str, settings: &[(&str, Value)]) -> Result<Transformer, Error> {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config_of(name);
    for (setting, value) in settings {
        config[*setting] = value.clone();
    }
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    std::fs::copy(folder(name).join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    Transformer::from_hugging_face(dir.path())
}

/// The numbers of transformers would not show an error in a setting that changes nothing of them.
#[test]
fn the_checkpoints_feel_every_setting_that_they_are_there_for() {
    let plain = json!({ "rope_type": "default", "rope_theta": 100.0 });
    let dynamic = json!({ "rope_type": "dynamic", "rope_theta": 100.0, "factor": 3.0 });
    let mscale = json!({
        "rope_type": "yarn", "factor": 4.0, "beta_fast": 2.0, "beta_slow": 0.2, "rope_theta": 100.0,
        "original_max_position_embeddings": 16, "truncate": false,
    });
    let mut truncated = mscale.clone();
    truncated["truncate"] = json!(true);
    let both = json!({
        "full_attention": { "rope_type": "default", "rope_theta": 1000.0 },
        "sliding_attention": { "rope_type": "default", "rope_theta": 100.0 },
    });
    let mut local = both.clone();
    local["full_attention"] = json!({ "rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0 });
    local["sliding_attention"]["rope_theta"] = json!(1000.0);
    for (name, setting, value) in [
        ("llama_llama3", "rope_parameters", &plain),
        ("llama_linear", "rope_parameters", &plain),
        ("llama_dynamic", "rope_parameters", &dynamic),
        ("llama_yarn", "rope_parameters", &plain),
        ("llama_yarn", "rope_parameters", &mscale),
        ("llama_yarn_mscale", "rope_parameters", &truncated),
        ("mistral", "sliding_window", &Value::Null),
        ("mistral", "sliding_window", &json!(4)),
        ("qwen2_window", "layer_types", &json!(["full_attention", "full_attention"])),
        ("qwen3_window", "layer_types", &json!(["full_attention", "full_attention"])),
        ("gpt2_by_layer", "scale_attn_by_inverse_layer_idx", &json!(false)),
        ("gpt2_unscaled", "scale_attn_weights", &json!(true)),
        ("gpt_neox_sequential", "use_parallel_residual", &json!(true)),
        ("gpt_neox_sequential", "hidden_act", &json!("gelu")),
        ("phi3", "sliding_window", &Value::Null),
        ("gemma2", "sliding_window", &json!(4)),
        ("gemma2", "query_pre_attn_scalar", &json!(6)),
        ("gemma2", "attn_logit_softcapping", &Value::Null),
        ("gemma2", "final_logit_softcapping", &Value::Null),
        ("gemma3_text", "rope_parameters", &both),
        ("gemma3_text", "rope_parameters", &local),
        ("gemma3_text", "layer_types", &json!(["full_attention", "full_attention", "sliding_attention"])),
        ("gpt_neo", "window_size", &json!(4)),
        ("gptj", "rotary_dim", &json!(8)),
        ("stablelm_parallel", "rope_parameters", &json!({ "partial_rotary_factor": 0.5 })),
        ("starcoder2", "sliding_window", &Value::Null),
        ("mpt_scaled", "attn_config", &Value::Null),
        ("cohere", "logit_scale", &json!(0.2)),
        ("granite", "embedding_multiplier", &json!(2.0)),
        ("granite", "residual_multiplier", &json!(0.6)),
        ("granite", "attention_multiplier", &json!(0.4)),
        ("granite", "logits_scaling", &json!(3.0)),
        ("smollm3", "no_rope_layers", &json!([1, 1, 1])),
        ("mixtral", "num_experts_per_tok", &json!(3)),
        ("mixtral_window", "sliding_window", &Value::Null),
        ("olmo2", "rms_norm_eps", &json!(0.1)),
    ] {
        let (_, tokens) = golden(name);
        let input = tokens.slice(s![.., ..-1]).to_owned();
        let whole = Transformer::from_hugging_face(folder(name)).unwrap().forward(&input).unwrap();
        let other = with(name, &[(setting, value.clone())]).unwrap().forward(&input).unwrap();
        let change = worst(other, whole.as_slice().unwrap());
        assert!(change > 5e-4, "{name}: {setting} {value} changes a logit by {change:e} at most");
    }
}

fn rotary(model: &Transformer) -> &Rotary {
    match &model.config.positions {
        Positions::Rotary(rotary) => rotary,
        other => panic!("{other:?}"),
    }
}

#[test]
fn positions_are_read_as_older_and_as_newer_files_tell_them() {
    let none = ("rope_parameters", Value::Null);
    // `rope_theta` inside `rope_scaling` counts, whatever stands beside it.
    let inside = json!({ "rope_type": "default", "rope_theta": 500_000.0 });
    let model =
        with("mistral", &[none.clone(), ("rope_theta", json!(10.0)), ("rope_scaling", inside)]).unwrap();
    assert_eq!(rotary(&model).theta, 500_000.0);
    for (name, old) in [
        ("llama_linear", json!({ "type": "linear", "factor": 3.0 })),
        ("llama_dynamic", json!({ "type": "dynamic", "factor": 2.0 })),
        (
            "llama_llama3",
            json!({
                "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 0.5, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }),
        ),
    ] {
        let model = with(name, &[none.clone(), ("rope_theta", json!(100.0)), ("rope_scaling", old)]).unwrap();
        assert!(model == Transformer::from_hugging_face(folder(name)).unwrap(), "{name}");
    }
}

#[test]
fn older_files_tell_kinds_of_layers_by_a_number() {
    for (name, settings) in [
        ("qwen2_window", vec![("layer_types", Value::Null)]),
        ("qwen3_window", vec![("layer_types", Value::Null)]),
        ("gemma2", vec![("layer_types", Value::Null)]),
        ("gemma3_text", vec![("layer_types", Value::Null), ("sliding_window_pattern", json!(2))]),
        ("gpt_neo", vec![("attention_types", Value::Null)]),
        ("smollm3", vec![("no_rope_layers", Value::Null), ("layer_types", Value::Null)]),
    ] {
        let model = with(name, &settings).unwrap();
        assert!(model == Transformer::from_hugging_face(folder(name)).unwrap(), "{name}");
    }
}

/// What the published files of these families say beyond the settings that are computed.
#[test]
fn marks_of_published_checkpoints_are_no_obstacle() {
    for (name, marks) in [
        (
            "gpt2_by_layer",
            json!({ "_num_labels": 1, "n_ctx": 9, "output_past": true, "task_specific_params": {} }),
        ),
        (
            "llama_linear",
            json!({ "is_llama_config": true, "rope_interleaved": false, "unsloth_version": "1" }),
        ),
        // As transformers 5.24 writes a model that it has read from a GGUF file.
        (
            "llama_dynamic",
            json!({ "_model_name_or_path": "Smollm2 135M", "dtype": "float32", "pretraining_tp": 1 }),
        ),
        ("qwen2", json!({ "use_mrope": false, "sliding_window": 131_072, "max_window_layers": 21 })),
        ("gemma", json!({ "hidden_act": "gelu", "hidden_activation": null })),
        ("gemma2", json!({ "hidden_act": "gelu_pytorch_tanh", "cache_implementation": "hybrid" })),
        ("gptj", json!({ "rotary": true, "scale_attn_weights": true, "tokenizer_class": "GPT2Tokenizer" })),
        ("opt", json!({ "prefix": "</s>", "max_length": 20, "temperature": 1.0, "do_sample": false })),
        ("bloom", json!({ "n_inner": null, "offset_alibi": 100, "bias_dropout_fusion": true })),
        ("falcon", json!({ "apply_residual_connection_post_layernorm": false, "auto_map": {} })),
        ("mpt", json!({ "init_config": { "name": "kaiming" }, "tokenizer_name": "gpt", "verbose": 0 })),
        (
            "gpt_bigcode",
            json!({ "inference_runner": 0, "pad_key_length": true, "validate_runner_input": true }),
        ),
        ("cohere", json!({ "model_max_length": 131_072 })),
        ("mixtral", json!({ "output_router_logits": false, "router_aux_loss_coef": 0.02 })),
        ("phi3", json!({ "original_max_position_embeddings": 16, "rope_scaling": null })),
        ("smollm3", json!({ "max_window_layers": 28, "sliding_window": null })),
    ] {
        let settings: Vec<(&str, Value)> =
            marks.as_object().unwrap().iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let model = with(name, &settings).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(model == Transformer::from_hugging_face(folder(name)).unwrap(), "{name}");
    }
    let quantised = ("quantization_config", json!({ "quant_method": "awq" }));
    let e = with("llama_linear", &[quantised]).unwrap_err();
    assert!(e.what().contains("`quantization_config`") && e.help().contains("GGUF"), "{e}");
}

#[test]
fn settings_of_the_wrong_type_or_kind_are_refused_by_name() {
    for (name, setting, value, named) in [
        ("llama_linear", "rope_parameters", json!({ "rope_theta": "900" }), "rope_parameters.rope_theta"),
        ("llama_linear", "rope_parameters", json!({ "rope_type": "longrope" }), "rope_parameters.rope_type"),
        ("llama_linear", "rope_parameters", json!({ "rope_type": "yarn" }), "rope_parameters.factor"),
        ("llama_linear", "rope_parameters", json!("linear"), "rope_parameters"),
        ("llama_linear", "rms_norm_eps", json!("1e-5"), "rms_norm_eps"),
        ("llama_linear", "attention_bias", json!("yes"), "attention_bias"),
        ("llama_linear", "num_hidden_layers", json!(2.5), "num_hidden_layers"),
        ("llama_linear", "surprise", json!(1), "surprise"),
        ("mistral", "sliding_window", json!(-3), "sliding_window"),
        ("gemma2", "final_logit_softcapping", json!("30"), "final_logit_softcapping"),
        ("gemma2", "layer_types", json!(["chunked_attention"]), "layer_types"),
        ("gpt_neo", "attention_types", json!([[["global", "sideways"], 1]]), "attention_types"),
        ("gpt_neo", "attention_types", json!([[["local"], 2]]), "attention_layers"),
        ("falcon", "alibi", json!(true), "alibi"),
        ("mpt", "attn_config", json!({ "alibi": false }), "attn_config.alibi"),
        ("phi", "qk_layernorm", json!(true), "qk_layernorm"),
        ("stablelm", "qk_layernorm", json!(true), "qk_layernorm"),
        ("cohere", "use_qk_norm", json!(true), "use_qk_norm"),
        ("olmo", "clip_qkv", json!(8.0), "clip_qkv"),
        ("granite", "logits_scaling", json!(0.0), "logits_scaling"),
        ("smollm3", "no_rope_layers", json!([1, 2, 1]), "no_rope_layers"),
        ("gemma3_text", "use_bidirectional_attention", json!(true), "use_bidirectional_attention"),
        ("opt", "activation_function", json!("gelu_fast"), "activation_function"),
    ] {
        let e = with(name, &[(setting, value)]).unwrap_err();
        assert!(e.what().contains(&format!("`{named}`")) && !e.help().is_empty(), "{name} {setting}: {e}");
    }
}

/// The tensors of the checkpoint `name`, changed, read with its configuration.
fn with_tensors(
    name: &str,
    settings: &[(&str, Value)],
    edit: impl Fn(Vec<Stored>) -> Vec<Stored>,
) -> Result<Transformer, Error> {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config_of(name);
    for (setting, value) in settings {
        config[*setting] = value.clone();
    }
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let bytes = std::fs::read(folder(name).join("model.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let all =
        stored.tensors().into_iter().map(|(name, t)| (name, t.shape().to_vec(), t.data().to_vec())).collect();
    let all = edit(all);
    let views = all
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    std::fs::write(dir.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap())
        .unwrap();
    Transformer::from_hugging_face(dir.path())
}

/// Fused maps, experts and projections are taken apart as they are stored, in half precision too.
#[test]
fn half_precision_computes_what_its_numbers_do_in_single_precision() {
    for name in names() {
        let (_, tokens) = golden(&name);
        let input = tokens.slice(s![.., ..-1]).to_owned();
        let bytes = std::fs::read(folder(&name).join("model.safetensors")).unwrap();
        let stored = SafeTensors::deserialize(&bytes).unwrap();
        // The upper half of a single is a bfloat16.
        let read = |dtype: Dtype| {
            let dir = tempfile::tempdir().unwrap();
            std::fs::copy(folder(&name).join("config.json"), dir.path().join("config.json")).unwrap();
            let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = stored
                .tensors()
                .into_iter()
                .map(|(name, t)| {
                    let upper = t.data().as_chunks::<4>().0.iter().flat_map(|&[_, _, a, b]| match dtype {
                        Dtype::F32 => vec![0, 0, a, b],
                        _ => vec![a, b],
                    });
                    (name, t.shape().to_vec(), upper.collect())
                })
                .collect();
            let views = tensors
                .iter()
                .map(|(name, shape, b)| (name, TensorView::new(dtype, shape.clone(), b).unwrap()));
            let bytes = safetensors::serialize(views, None).unwrap();
            std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
            Transformer::from_hugging_face(dir.path()).unwrap()
        };
        let (half, single) = (read(Dtype::BF16), read(Dtype::F32));
        let (ours, want) = (half.forward(&input).unwrap(), single.forward(&input).unwrap());
        let error = worst(ours, want.as_slice().unwrap());
        assert!(error < 1e-5 * size(want.as_slice().unwrap()).max(10.0), "{name}: {error:e}");
        let prompt = tokens.row(0).slice(s![..2]).to_vec();
        let generated = |model: &Transformer| model.generate_greedy(&prompt, 6).unwrap();
        assert_eq!(generated(&half), generated(&single), "{name}");
    }
}

#[test]
fn either_of_a_tied_pair_is_enough_and_an_untied_model_needs_both() {
    let whole = Transformer::from_hugging_face(folder("llama_biases")).unwrap();
    assert!(whole.config.tied);
    let only_the_head = with_tensors("llama_biases", &[], |mut all| {
        all.iter_mut()
            .filter(|t| t.0.ends_with("embed_tokens.weight"))
            .for_each(|t| t.0 = "lm_head.weight".into());
        all
    });
    assert!(only_the_head.unwrap() == whole);
    let e = with_tensors("mistral", &[], |mut all| {
        all.retain(|t| t.0 != "lm_head.weight");
        all
    })
    .unwrap_err();
    assert!(
        e.what().contains("no tensor `lm_head.weight`") && e.help().contains("tie_word_embeddings"),
        "{e}"
    );
}

#[test]
fn longer_and_shorter_names_of_the_same_tensors_are_read() {
    for name in ["mistral", "gpt2_by_layer", "opt", "bloom", "falcon"] {
        let whole = Transformer::from_hugging_face(folder(name)).unwrap();
        for prefix in ["_orig_mod.", "module.", "_orig_mod.module."] {
            let longer = with_tensors(name, &[], |all| {
                all.into_iter()
                    .map(|(name, shape, bytes)| (format!("{prefix}{name}"), shape, bytes))
                    .collect()
            });
            assert!(longer.unwrap() == whole, "{prefix} {name}");
        }
    }
    let whole = Transformer::from_hugging_face(folder("gpt2_by_layer")).unwrap();
    let shorter = with_tensors("gpt2_by_layer", &[], |all| {
        let short = |name: String| name.strip_prefix("transformer.").unwrap_or(&name).to_string();
        all.into_iter().map(|(name, shape, bytes)| (short(name), shape, bytes)).collect()
    });
    assert!(shorter.unwrap() == whole);
}

#[test]
fn what_is_no_safetensors_file_is_told_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(folder("mistral").join("config.json"), dir.path().join("config.json")).unwrap();
    let path = dir.path().join("model.safetensors");
    let pickle = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pickles/float32.bin");
    for (bytes, word) in [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n".to_vec(), "git-lfs"),
        (b"GGUF\x03\0\0\0".to_vec(), "GGUF"),
        (std::fs::read(pickle).unwrap(), "PyTorch"),
        (b"\x80\x02}q\0.".to_vec(), "pickle"),
        (b"<!DOCTYPE html><html></html>".to_vec(), "HTML"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let e = Transformer::from_hugging_face(dir.path()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::File);
        assert!(e.what().contains(word) && e.what().contains("model.safetensors"), "{word}: {e}");
    }
}

#[test]
fn pickles_beside_a_configuration_are_read_and_missing_weights_are_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(folder("mistral").join("config.json"), dir.path().join("config.json")).unwrap();
    std::fs::write(dir.path().join("consolidated.safetensors"), b"").unwrap();
    let e = Transformer::from_hugging_face(dir.path()).unwrap_err();
    assert!(e.what().contains("neither model.safetensors nor pytorch_model.bin"), "{e}");
    assert!(e.help().contains("consolidated.safetensors"), "{e}");
    // A file that is there and is no checkpoint is named.
    std::fs::write(dir.path().join("pytorch_model.bin"), b"no pickle").unwrap();
    let e = Transformer::from_hugging_face(dir.path()).unwrap_err();
    assert!(e.what().contains("pytorch_model.bin"), "{e}");
}

#[test]
fn of_a_family_that_is_not_read_is_said_what_is_missing() {
    let other = ("model_type", json!("qwen9"));
    // The tensors and settings of a family that is read: only the word is another.
    let e = with("qwen3", std::slice::from_ref(&other)).unwrap_err();
    assert!(e.what().contains("`model_type` as \"qwen9\""), "{e}");
    assert!(e.help().contains("qwen3") && e.help().contains("every tensor"), "{e}");
    // A tensor and a setting more.
    let e = with_tensors("mistral", &[other, ("n_tricks", json!(3))], |mut all| {
        let shape = vec![12];
        all.push(("model.layers.0.self_attn.trick.weight".into(), shape, vec![0; 48]));
        all
    })
    .unwrap_err();
    assert!(
        e.help().contains("`model.layers.0.self_attn.trick.weight`") && e.help().contains("`n_tricks`"),
        "{e}"
    );
}
