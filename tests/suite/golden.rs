//! Real architectures against PyTorch: the checkpoints and numbers in `tests/golden`, made by `tests/golden/make.py`.

use std::path::{Path, PathBuf};

use ndarray::{Array2, s};
use onelens::model::{Mlp, Norm, Positions, Residual, Transformer};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(family)
}

fn numbers(golden: &SafeTensors, name: &str) -> Vec<f32> {
    let view = golden.tensor(name).unwrap();
    view.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

fn worst(ours: impl IntoIterator<Item = f32>, theirs: &[f32]) -> f32 {
    let ours: Vec<f32> = ours.into_iter().collect();
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Residual streams within 1e-5, logits within 1e-4, every gradient within 1e-3 of the tensor's largest: single
/// precision with room for another order of sums.
fn agrees_with_pytorch(family: &str) -> Transformer {
    let folder = folder(family);
    let model = Transformer::from_hugging_face(&folder).unwrap();
    let bytes = std::fs::read(folder.join("golden.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let view = golden.tensor("tokens").unwrap();
    let tokens = view.data().as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
    let tokens = Array2::from_shape_vec((view.shape()[0], view.shape()[1]), tokens).unwrap();

    let (logits, cache) = model.run_with_cache(&tokens.slice(s![.., ..-1]).to_owned()).unwrap();
    let n_layers = model.config.n_layers;
    for l in 0..=n_layers {
        let ours = if l < n_layers { cache.resid_pre(l).unwrap() } else { cache.resid_post(l - 1).unwrap() };
        let error = worst(ours, &numbers(&golden, &format!("resid.{l}")));
        assert!(error < 1e-5, "residual stream {l}: {error}");
    }
    let error = worst(logits, &numbers(&golden, "logits"));
    assert!(error < 1e-4, "logits: {error}");

    let (loss, grad) = model.loss_and_grad(&tokens).unwrap();
    assert!((loss - f64::from(numbers(&golden, "loss")[0])).abs() < 1e-5, "loss {loss}");
    // Gradients are stored under the checkpoint's names; read as a checkpoint they become a gradient of ours.
    let gradients = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("config.json"), gradients.path().join("config.json")).unwrap();
    let views: Vec<(String, TensorView)> = golden
        .tensors()
        .into_iter()
        .filter_map(|(name, view)| Some((name.strip_prefix("grad.")?.to_string(), view)))
        .collect();
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(gradients.path().join("model.safetensors"), bytes).unwrap();
    let want = Transformer::from_hugging_face(gradients.path()).unwrap().params;
    for (((name, _), ours), theirs) in grad.tensors().iter().zip(grad.slices()).zip(want.slices()) {
        let size = theirs.iter().fold(0.0_f32, |m, g| m.max(g.abs()));
        let error = worst(ours.to_vec(), &theirs);
        // A key's bias has no gradient but rounding: the same for every key, it leaves a softmax as it is.
        assert!(
            error <= 1e-3 * size || (name.ends_with("attn.b_K") && error < 1e-6),
            "{name}: {error} of {size}"
        );
    }
    model
}

#[test]
fn gpt2_computes_what_pytorch_computes() {
    let config = agrees_with_pytorch("gpt2").config;
    assert!(config.tied && config.norm == Norm::Layer && config.mlp == Mlp::GeluTanh);
}

#[test]
fn llama_with_grouped_heads_computes_what_pytorch_computes() {
    let config = agrees_with_pytorch("llama").config;
    assert_eq!((config.n_heads, config.n_kv_heads(), config.norm), (4, 2, Norm::Rms));
}

#[test]
fn neox_with_partial_rotary_positions_computes_what_pytorch_computes() {
    let config = agrees_with_pytorch("neox").config;
    assert_eq!(config.residual, Residual::Parallel);
    assert!(matches!(config.positions, Positions::Rotary(r) if r.d_rotary == Some(2)));
}
