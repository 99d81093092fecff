//! Lenses of other programs, against what those programs read with them: `tests/golden/lenses`, made by
//! `tests/golden/lenses.py`.

use std::path::{Path, PathBuf};

use ndarray::{Array2, array};
use onelens::lens::{AffineLens, LayerLenses, LayerMoments, Lens, LogitLens, Ridge, Scale, Target, compare};
use onelens::model::{Config, Transformer};
use safetensors::SafeTensors;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn model() -> Transformer {
    Transformer::from_hugging_face(golden("families/llama_biases")).unwrap()
}

/// Log-probabilities of the lens of a stream, and those of the other program.
fn assert_reads(lens: &LayerLenses, stream: usize, name: &str) {
    let (model, bytes) = (model(), std::fs::read(golden("lenses/golden.safetensors")).unwrap());
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor("tokens").unwrap();
    let tokens = view.data().as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
    let tokens = Array2::from_shape_vec((view.shape()[0], view.shape()[1]), tokens).unwrap();
    let (_, cache) = model.run_with_cache(&tokens).unwrap();
    let z = lens.transport(stream, cache.stream(stream).unwrap().view()).unwrap();
    let ours = lens.logits(&model, z.view()).unwrap();
    let theirs: Vec<f32> =
        file.tensor(name).unwrap().data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    assert_eq!(ours.len(), theirs.len());
    // Logits up to a number for each row: lenses give logits, log-probabilities differ by a constant.
    for (ours, theirs) in ours.rows().into_iter().zip(theirs.chunks(model.config.d_vocab)) {
        let shift = ours[0] - theirs[0];
        let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b - shift).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{name}: {worst}");
    }
}

#[test]
fn a_tuned_lens_reads_what_the_python_package_reads() {
    let model = model();
    let lens = LayerLenses::from_tuned_lens(&model, golden("lenses/tuned")).unwrap();
    (0..2).for_each(|l| assert_reads(&lens, l, &format!("tuned.{l}")));
    let tokens = array![[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]];
    let moments =
        LayerMoments::collect(&model, &Array2::from_shape_fn((30, 8), |(i, t)| ((i * t) % 13) as u32))
            .unwrap();
    let compared = compare(&model, &[&lens, &LogitLens], &moments, &tokens).unwrap();
    assert_eq!(compared.curve("tuned lens").unwrap().kl.len(), 3);
    assert_eq!(compared.curve("tuned lens").unwrap().kl[2], compared.curve("logit lens").unwrap().kl[2]);
}

#[test]
fn a_jacobian_lens_reads_what_its_formula_says_and_names_the_streams_it_leaves() {
    let lens = LayerLenses::from_jacobian_lens(&model(), golden("lenses/jacobian.pt")).unwrap();
    assert_reads(&lens, 1, "jacobian.0");
    assert_reads(&lens, 2, "jacobian.1");
    assert_eq!(lens.name(), "Jacobian lens (streams 0 as they are)");
    assert_eq!(lens.layer(0).unwrap(), AffineLens::identity(12));
}

/// The package itself has read what is written here: `tests/golden/lenses.py read FOLDER`.
#[test]
fn lenses_go_into_the_folder_of_a_tuned_lens_and_come_back() {
    let model = model();
    let lens = LayerLenses::from_tuned_lens(&model, golden("lenses/tuned")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("ONELENS_TUNED_LENS").map(PathBuf::from);
    let folder = kept.as_deref().unwrap_or(folder.path()).join("lens");
    lens.save_tuned_lens(&folder, "llama_biases").unwrap();
    let back = LayerLenses::from_tuned_lens(&model, &folder).unwrap();
    for l in 0..3 {
        let (a, b) = (lens.layer(l).unwrap(), back.layer(l).unwrap());
        let difference = (&a.a - &b.a).iter().chain(&(&a.b - &b.b)).fold(0.0_f64, |m, x| m.max(x.abs()));
        assert!(difference < 1e-6, "stream {l}: {difference}");
    }
    let tokens = Array2::from_shape_fn((30, 8), |(i, t)| ((i * i + t * (i + 1)) % 13) as u32);
    let own = Ridge::default()
        .own(&LayerMoments::collect_with(&model, &tokens, Scale::AsItIs, Target::Residual).unwrap())
        .unwrap();
    // The ridge pulls towards the identity, which least squares finds for the last stream, but not to the last digit.
    let folder = folder.with_file_name("own");
    own.reading_last_as_is().save_tuned_lens(&folder, "llama_biases").unwrap();
    let back = LayerLenses::from_tuned_lens(&model, &folder).unwrap();
    let difference = (own.layer(1).unwrap().a - back.layer(1).unwrap().a).mapv(f64::abs);
    assert!(difference.iter().all(|&x| x < 1e-5));
}

#[test]
fn what_is_no_published_lens_of_this_model_is_refused() {
    let model = model();
    let other = Transformer::new(Config {
        d_vocab: 13,
        n_layers: 3,
        d_model: 12,
        n_heads: 2,
        d_head: 6,
        ..Config::default()
    });
    let said = |e: onelens::Error| e.to_string();
    let e = said(LayerLenses::from_tuned_lens(other.as_ref().unwrap(), golden("lenses/tuned")).unwrap_err());
    assert!(e.contains("width 12 and 2 layers") && e.contains("12 and 3"), "{e}");
    let e = said(LayerLenses::from_tuned_lens(&model, golden("families/llama_biases")).unwrap_err());
    assert!(e.contains("no description of a tuned lens"), "{e}");
    let e = said(LayerLenses::from_jacobian_lens(&model, golden("lenses/tuned/params.pt")).unwrap_err());
    assert!(e.contains("no Jacobian lens") && e.contains("0.bias"), "{e}");
    let e = said(LayerLenses::from_jacobian_lens(&model, golden("lenses/tuned/config.json")).unwrap_err());
    assert!(e.contains("cannot be read as a PyTorch file"), "{e}");
    // Cut anywhere, a file is refused and never a panic.
    let whole = std::fs::read(golden("lenses/jacobian.pt")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.pt");
    for n in (0..whole.len()).step_by(97) {
        std::fs::write(&path, &whole[..n]).unwrap();
        assert!(LayerLenses::from_jacobian_lens(&model, &path).is_err(), "{n} bytes");
        let mut damaged = whole.clone();
        damaged[n] ^= 0x55;
        std::fs::write(&path, damaged).unwrap();
        let _ = LayerLenses::from_jacobian_lens(&model, &path);
    }
    let tokens = Array2::from_shape_fn((30, 8), |(i, t)| ((i * i + t * (i + 1)) % 13) as u32);
    let moments = LayerMoments::collect_with(&model, &tokens, Scale::UnitRms, Target::Normalised).unwrap();
    let own = Ridge::default().own(&moments).unwrap();
    assert!(said(own.save_tuned_lens(folder.path(), "x").unwrap_err()).contains("UnitRms"));
    let own = Ridge { lambda: 0.1, ..Ridge::default() }
        .shared(&LayerMoments::collect_with(&model, &tokens, Scale::AsItIs, Target::Residual).unwrap())
        .unwrap();
    let e = own.save_tuned_lens(folder.path(), "x").unwrap_err();
    assert!(e.help().contains("reading_last_as_is"), "{e}");
}
