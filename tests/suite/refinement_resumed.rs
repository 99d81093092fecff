//! A refinement on texts that is interrupted and goes on.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use onelens::data::{TextFiles, Vocab};
use onelens::lens::{LayerLenses, LayerMoments, Refine, Ridge, TunedLens};
use onelens::model::{Config, Transformer};
use onelens::session;
use onelens::stream::Streaming;

use crate::apart;

#[test]
fn a_refinement_is_interrupted_apart_from_tests_that_this_would_stop() {
    apart("refinement_resumed::a_refinement_goes_on_where_it_stopped_with_the_numbers_of_one_that_did_not");
}

#[test]
#[ignore = "runs in a process of its own: see above"]
fn a_refinement_goes_on_where_it_stopped_with_the_numbers_of_one_that_did_not() {
    let folder = tempfile::tempdir().unwrap();
    let letter = |i: usize, t: usize| char::from(b'a' + ((i * i + 3 * t + t * t / 2) % 26) as u8);
    let line = |i: usize| format!("\"{}\"\n", (0..12).map(|t| letter(i, t)).collect::<String>());
    fs::write(folder.path().join("a.jsonl"), (0..400).map(line).collect::<String>()).unwrap();
    let texts = TextFiles::open([folder.path().join("a.jsonl")]).unwrap();
    let vocab = Vocab::from_text("abcdefghijklmnopqrstuvwxyz", 1);
    let (d_model, d_head, d_mlp) = (16, 8, 32);
    let config = Config {
        d_vocab: 27,
        d_model,
        n_heads: 2,
        d_head,
        d_mlp,
        n_layers: 2,
        n_ctx: 12,
        ..Default::default()
    };
    let model = Transformer::new(config).unwrap();
    let tokens = Streaming::default().sequences(&model, &vocab, &texts, 400).unwrap();
    let moments = LayerMoments::collect(&model, &tokens).unwrap();
    let own = Ridge::default().own(&moments).unwrap();
    let refine = Refine { epochs: 6, lbfgs_steps: 6, ..Default::default() };
    let straight = refine.fit(&model, &own, &moments, &tokens).unwrap();

    // Somebody interrupts whenever the search has got further.
    let kept = folder.path().join("kept");
    let file = |ending: &str| -> Option<PathBuf> {
        let mut files = fs::read_dir(&kept).ok()?.filter_map(|e| Some(e.ok()?.path()));
        files.find(|path| path.extension().is_some_and(|e| e == ending))
    };
    let how = Streaming { folder: Some(kept.clone()), ..Default::default() };
    let refined = || how.refine(&refine, &model, &vocab, &texts, &own, &moments);
    let done = AtomicBool::new(false);
    let (tuned, calls) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut last = None;
            while !done.load(Ordering::SeqCst) {
                let now = file("refinement").and_then(|path| fs::metadata(path).ok()?.modified().ok());
                if now != last {
                    last = now;
                    session::interrupt();
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let mut calls = 0;
        let tuned = loop {
            calls += 1;
            session::clear_interrupt();
            match refined() {
                Err(e) if calls < 100 && e.to_string().contains("interrupted") => (),
                end => break end,
            }
        };
        done.store(true, Ordering::SeqCst);
        (tuned, calls)
    });
    session::clear_interrupt();
    let tuned = tuned.unwrap();
    assert!(calls > 1, "nothing was interrupted");
    assert!(tuned.lenses == straight.lenses && tuned.training_kl == straight.training_kl);

    // What is damaged is made anew or refused, never believed.
    let file = |ending| file(ending).unwrap();
    fs::write(file("refinement"), b"onelens refinement 1\nnonsense").unwrap();
    let again = refined().unwrap();
    assert!(again.lenses == straight.lenses);
    let bytes = fs::read(file("tokens")).unwrap();
    fs::write(file("tokens"), &bytes[..bytes.len() - 5]).unwrap();
    fs::remove_file(file("refinement")).unwrap();
    let again = refined().unwrap();
    assert!(again.lenses == straight.lenses);
    let mut changed = bytes.clone();
    changed[8..12].fill(0xff);
    fs::write(file("tokens"), changed).unwrap();
    fs::remove_file(file("refinement")).unwrap();
    let told = refined().unwrap_err().to_string();
    assert!(told.contains("is damaged") && told.contains("remove it"), "{told}");

    // Lenses as files, and lenses of another model.
    let path = folder.path().join("tuned");
    tuned.save(&path).unwrap();
    let back = TunedLens::load(&path).unwrap();
    assert!(back.lenses == tuned.lenses && back.gradient_norm == tuned.gradient_norm);
    assert!(LayerLenses::load(&path).unwrap_err().to_string().contains("holds `tuned-lens 3`"));
    let shared = Ridge::default().shared(&moments).unwrap();
    shared.save(&path).unwrap();
    assert!(LayerLenses::load(&path).unwrap() == shared);
    assert!(fs::metadata(&path).unwrap().len() < 3 * 8 * 16 * 17, "one map, once");
    let other = Transformer::new(Config { seed: 9, ..model.config.clone() }).unwrap();
    let told = how.refine(&refine, &other, &vocab, &texts, &own, &moments).unwrap_err().to_string();
    assert!(told.contains(&format!("{:016x}", other.fingerprint())), "{told}");
}
