//! Texts of any size become the same moments however they are cut, shared out, or interrupted.

use std::fs;
use std::io::Write;
use std::path::Path;

use onelens::data::{Markov, TextFiles, Tokenize, Vocab};
use onelens::lens::{LayerMoments, LogitLens, Refine, Ridge, Scale, Target, Trajectory};
use onelens::model::{Config, Training, TrainingRun, Transformer};
use onelens::stream::{ActivationFiles, Peers, Streaming, Threads, train_among};
use tempfile::TempDir;

fn model(seed: u64) -> Transformer {
    Transformer::new(Config {
        d_vocab: 27,
        d_model: 16,
        n_heads: 2,
        d_head: 8,
        d_mlp: 32,
        n_layers: 2,
        n_ctx: 12,
        seed,
        ..Default::default()
    })
    .unwrap()
}

fn vocab() -> Vocab {
    Vocab::from_text("abcdefghijklmnopqrstuvwxyz", 1)
}

/// Forty documents of differing lengths in two files, one of them compressed.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let document = |i: usize| -> String {
        (0..5 + (i * 7) % 31).map(|t| char::from(b'a' + ((i * i + 3 * t + t * t / 2) % 26) as u8)).collect()
    };
    let lines = |range: std::ops::Range<usize>| -> String {
        range.map(|i| format!("{{\"text\": \"{}\", \"id\": {i}}}\n", document(i))).collect()
    };
    fs::write(folder.path().join("a.jsonl"), lines(0..17)).unwrap();
    let file = fs::File::create(folder.path().join("b.jsonl.gz")).unwrap();
    let mut gz = flate2::write::GzEncoder::new(file, flate2::Compression::default());
    gz.write_all(lines(17..40).as_bytes()).unwrap();
    gz.finish().unwrap();
    folder
}

fn documents(paths: &[&Path]) -> Result<Vec<String>, onelens::Error> {
    TextFiles::open(paths)?.documents().collect()
}

#[test]
fn every_format_gives_its_documents_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        fs::write(folder.path().join(name), bytes).unwrap();
    };
    write("a.txt", b"one\nstill one\n<|endoftext|>\ntwo\n\n<|endoftext|>\n<|endoftext|>\n  \n");
    write("b.json", b"[\"three\", {\"text\": \"four\"}]");
    write("c.jsonl", b"\"five\"\n\n{\"text\": \"six\"}");
    // The frame that `printf seven | zstd` writes, with a raw block.
    write("d.txt.zst", &[0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x05, 0x29, 0, 0, b's', b'e', b'v', b'e', b'n']);
    write(".hidden", b"never");
    fs::create_dir(folder.path().join("e")).unwrap();
    write("e/empty.txt", b"");
    assert_eq!(
        documents(&[folder.path()]).unwrap(),
        ["one\nstill one\n", "two\n\n", "three", "four", "five", "six", "seven"]
    );
}

#[test]
fn a_long_text_is_cut_at_line_ends_and_never_inside_a_character() {
    let folder = tempfile::tempdir().unwrap();
    let line = "é".repeat(400) + "\n";
    let text = line.repeat(3000) + &"ü".repeat(TextFiles::LONGEST);
    let path = folder.path().join("long.txt");
    fs::write(&path, &text).unwrap();
    let pieces = documents(&[&path]).unwrap();
    assert_eq!(pieces.concat(), text);
    assert!(pieces.len() > 3 && pieces.iter().all(|piece| piece.len() <= 2 * TextFiles::LONGEST));
    assert!(pieces[0].ends_with('\n') && pieces[0].len() < TextFiles::LONGEST + line.len());
}

#[test]
fn what_is_no_text_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes, words) in [
        ("a.txt", &b"good\xff\xfe"[..], "no UTF-8 text, at byte 4"),
        ("b.jsonl", b"\"fine\"\n{\"txt\": 1}\n", "`text` in line 2"),
        ("c.jsonl", b"{\"text\": ", "no JSON in line 1"),
        ("d.json", b"{}", "no array"),
        ("e.txt.gz", b"not compressed", "cannot read"),
        ("f.txt.zst", b"not compressed", "no Zstandard file"),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let told = documents(&[&path]).unwrap_err().to_string();
        assert!(told.contains(words) && told.contains(name), "{name}: {told}");
    }
    assert!(documents(&[Path::new("/no/such/text")]).unwrap_err().to_string().contains("/no/such/text"));
    let empty = tempfile::tempdir().unwrap();
    assert!(documents(&[empty.path()]).unwrap_err().to_string().contains("no texts"));
}

#[test]
fn streamed_moments_are_those_of_the_sequences_at_once() {
    let (folder, model, vocab) = (folder(), model(1), vocab());
    let texts = TextFiles::open([folder.path()]).unwrap();
    let streamed =
        Streaming { shard_bytes: 100, ..Default::default() }.moments(&model, &vocab, &texts).unwrap();
    let mut slow = LayerMoments::new(&model);
    for document in texts.documents() {
        for piece in vocab.tokens(&document.unwrap()).unwrap().chunks(12).filter(|piece| piece.len() > 1) {
            let row = ndarray::Array2::from_shape_vec((1, piece.len()), piece.to_vec()).unwrap();
            slow.push(&model, &row).unwrap();
        }
    }
    assert_eq!(streamed.n(), slow.n());
    for (a, b) in streamed.layers.iter().zip(&slow.layers) {
        let scale = b.s_xx.diag().iter().fold(0.0, |m: f64, x| m.max(*x));
        let error = (&a.s_xx - &b.s_xx).iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        assert!(error < 1e-4 * scale, "{error} of {scale}");
    }
}

#[test]
fn any_number_of_processes_gives_the_same_bytes() {
    let (folder, model, vocab) = (folder(), model(2), vocab());
    let texts = TextFiles::open([folder.path()]).unwrap();
    let saved = folder.path().join("all.moments");
    for shard_bytes in [1, 70, 300, 1 << 20] {
        let how = Streaming { shard_bytes, ..Default::default() };
        let alone = how.moments(&model, &vocab, &texts).unwrap();
        alone.save(&saved).unwrap();
        let bytes = fs::read(&saved).unwrap();
        for size in 1..=5 {
            let mut results =
                Threads::run(size, |peers| how.moments_among(peers, &model, &vocab, &texts)).unwrap();
            assert!(results[1..].iter().all(Option::is_none));
            results[0].take().unwrap().save(&saved).unwrap();
            assert!(fs::read(&saved).unwrap() == bytes, "{size} processes, shards of {shard_bytes} bytes");
        }
    }
}

#[test]
fn finished_shards_are_used_again_and_those_of_others_are_not() {
    let (folder, model, vocab) = (folder(), model(3), vocab());
    let texts = TextFiles::open([folder.path().join("a.jsonl")]).unwrap();
    let keep = folder.path().join("shards");
    let how = Streaming { shard_bytes: 100, folder: Some(keep.clone()), ..Default::default() };
    let first = how.moments(&model, &vocab, &texts).unwrap();
    let mut files: Vec<_> = fs::read_dir(&keep).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 2);
    // One is missing, one cut off: both are made again.
    fs::remove_file(&files[0]).unwrap();
    let half = fs::read(&files[1]).unwrap();
    fs::write(&files[1], &half[..half.len() / 2]).unwrap();
    assert!(how.moments(&model, &vocab, &texts).unwrap() == first);
    // That a shard is read and not made: another one in its place shows in the result.
    fs::copy(&files[0], &files[1]).unwrap();
    assert!(how.moments(&model, &vocab, &texts).unwrap() != first);
    // Another model, another cut and other texts have shards of their own.
    let other = self::model(4);
    let fresh = Streaming { folder: None, ..how.clone() };
    assert!(how.moments(&other, &vocab, &texts).unwrap() == fresh.moments(&other, &vocab, &texts).unwrap());
    let shorter = Streaming { n_ctx: 6, ..how.clone() };
    let fresh = Streaming { folder: None, ..shorter.clone() };
    assert!(
        shorter.moments(&model, &vocab, &texts).unwrap() == fresh.moments(&model, &vocab, &texts).unwrap()
    );
}

#[test]
fn a_process_that_fails_ends_the_others_with_its_own_error() {
    let (folder, model, vocab) = (folder(), model(5), vocab());
    let texts = TextFiles::open([folder.path()]).unwrap();
    let how = Streaming { shard_bytes: 50, ..Default::default() };
    let error = Threads::run(3, |peers| {
        if peers.rank() == 1 {
            return Err(onelens::Error::new(onelens::ErrorKind::Data, "out of luck", "try again"));
        }
        how.moments_among(peers, &model, &vocab, &texts)
    });
    assert!(error.unwrap_err().to_string().contains("out of luck"));
}

#[test]
fn settings_that_do_not_fit_are_refused_with_both_sides() {
    let (folder, model, vocab) = (folder(), model(6), vocab());
    let texts = TextFiles::open([folder.path()]).unwrap();
    let error = |how: Streaming| how.moments(&model, &vocab, &texts).unwrap_err().to_string();
    assert!(error(Streaming { n_ctx: 13, ..Default::default() }).contains("13 tokens"));
    assert!(error(Streaming { shard_bytes: 0, ..Default::default() }).contains("0 bytes"));
    assert!(error(Streaming { shortest: 0, ..Default::default() }).contains("0 to 12"));
    let large = Vocab::from_text(&('a'..='z').chain('A'..='Z').collect::<String>(), 1);
    let told = Streaming::default().moments(&model, &large, &texts).unwrap_err().to_string();
    assert!(told.contains("53 tokens, the model 27"), "{told}");
    let told = Streaming::default().sequences(&model, &vocab, &texts, 1000).unwrap_err().to_string();
    assert!(told.contains("not 1000"), "{told}");
}

#[test]
fn activation_files_give_the_moments_of_the_model_and_refuse_what_is_not_theirs() {
    let (folder, model, vocab) = (folder(), model(7), vocab());
    let texts = TextFiles::open([folder.path()]).unwrap();
    // Files hold streams as they are, and know nothing of a final norm.
    let (scale, target) = (Scale::AsItIs, Target::Residual);
    let how = Streaming { shard_bytes: 150, scale, target, ..Default::default() };
    let place = folder.path().join("streams");
    let files = ActivationFiles::write(&place, &model, &vocab, &texts, &how).unwrap();
    let direct = how.moments(&model, &vocab, &texts).unwrap();
    let read = ActivationFiles::open(&place).unwrap().moments().unwrap();
    assert_eq!((read.n(), read.fingerprint, files.n_tokens()), (direct.n(), direct.fingerprint, direct.n()));
    for (a, b) in read.layers.iter().zip(&direct.layers) {
        let scale = b.s_zz.diag().iter().fold(0.0, |m: f64, x| m.max(*x));
        assert!((&a.s_zx - &b.s_zx).iter().all(|x| x.abs() < 1e-4 * scale));
    }
    let largest =
        (&read.mean_prediction - &direct.mean_prediction).iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    assert!(largest < 1e-6 && (read.mean_prediction.sum() - 1.0).abs() < 1e-5);

    let second = place.join("activations-000001.safetensors");
    let whole = fs::read(&second).unwrap();
    let moments = || ActivationFiles::open(&place).unwrap().moments().unwrap_err().to_string();
    fs::write(&second, &whole[..whole.len() - 1]).unwrap();
    assert!(moments().contains("activations-000001.safetensors is no whole"), "{}", moments());
    fs::remove_file(&second).unwrap();
    assert!(moments().contains("is missing"));
    // Writing again makes what is missing, and keeps what is whole.
    let before = fs::metadata(place.join("activations-000000.safetensors")).unwrap().modified().unwrap();
    ActivationFiles::write(&place, &model, &vocab, &texts, &how).unwrap();
    assert!(fs::read(&second).unwrap() == whole);
    assert_eq!(
        fs::metadata(place.join("activations-000000.safetensors")).unwrap().modified().unwrap(),
        before
    );
    // A file of another model.
    let other = folder.path().join("others");
    ActivationFiles::write(&other, &self::model(8), &vocab, &texts, &how).unwrap();
    fs::copy(other.join("activations-000001.safetensors"), &second).unwrap();
    assert!(moments().contains("is of model"), "{}", moments());
    fs::remove_file(place.join("index.json")).unwrap();
    assert!(ActivationFiles::open(&place).unwrap_err().to_string().contains("index.json is not there"));
}

#[test]
fn streamed_readings_are_the_means_of_trajectories() {
    let (folder, model, vocab) = (folder(), model(9), vocab());
    let texts = TextFiles::open([folder.path()]).unwrap();
    let how = Streaming { shard_bytes: 100, ..Default::default() };
    let own = Ridge::default().own(&how.moments(&model, &vocab, &texts).unwrap()).unwrap();
    let seen = how.readings(&model, &vocab, &texts, &[&LogitLens, &own]).unwrap();
    // Any source will do for a trajectory: it only names tokens.
    let names = Markov::new(27, 0.5).unwrap();
    let (mut trajectories, mut with_next) = (Vec::new(), 0);
    for document in texts.documents() {
        for piece in vocab.tokens(&document.unwrap()).unwrap().chunks(12).filter(|piece| piece.len() > 1) {
            // A trajectory leaves out the last token, which has no next: it gets one, whose cross-entropy is not
            // counted.
            let tokens = [piece, &[0]].concat();
            with_next += piece.len() - 1;
            trajectories.push(Trajectory::new(&model, &own, &tokens, &names).unwrap());
        }
    }
    let n: usize = trajectories.iter().map(|t| t.tokens.len()).sum();
    assert_eq!((seen.n_tokens, seen.n_seqs), (n as u64, trajectories.len() as u64));
    assert_eq!(seen.n_next, with_next as u64);
    let mean =
        |of: &dyn Fn(&Trajectory) -> f64, n: usize| trajectories.iter().map(of).sum::<f64>() / n as f64;
    let read = &seen.lenses[1];
    for l in 0..3 {
        let kl = |t: &Trajectory| t.readings.row(l).iter().map(|r| r.kl).sum::<f64>();
        let near = |name: &str, is: f64, should: f64| {
            assert!((is - should).abs() < 1e-5 * should.abs().max(1.0), "{name} {l}: {is}, {should}");
        };
        near("KL", read.kl[l], mean(&kl, n));
        near("entropy", read.entropy[l], mean(&|t| t.readings.row(l).iter().map(|r| r.entropy).sum(), n));
        let cross = |t: &Trajectory| {
            t.readings.row(l).iter().take(t.tokens.len() - 1).map(|r| r.cross_entropy).sum::<f64>()
        };
        near("cross-entropy", read.cross_entropy[l], mean(&cross, with_next));
        let deep = |t: &Trajectory| t.prediction_depth().into_iter().filter(|&d| d == l).count() as f64;
        near("depth", read.depth[l], mean(&deep, n));
        // The variance of a ratio: residuals of the sequences' sums about their lengths times the mean.
        let residual = |t: &Trajectory| (kl(t) - read.kl[l] * t.tokens.len() as f64).powi(2);
        let m = trajectories.len() as f64;
        let squares: f64 = trajectories.iter().map(residual).sum();
        near("error", read.se[l], (squares * m / (m - 1.0)).sqrt() / n as f64);
    }
    assert!(seen.lenses[0].kl[0] > read.kl[0]);
}

#[test]
fn readings_are_the_same_on_any_number_of_processes_and_after_an_interruption() {
    let (folder, model, vocab) = (folder(), model(10), vocab());
    let texts = TextFiles::open([folder.path()]).unwrap();
    let keep = folder.path().join("kept");
    let how = Streaming { shard_bytes: 100, folder: Some(keep.clone()), ..Default::default() };
    let alone = Streaming { folder: None, ..how.clone() };
    let first = alone.readings(&model, &vocab, &texts, &[&LogitLens]).unwrap();
    for size in 1..=4 {
        let seen =
            Threads::run(size, |peers| alone.readings_among(peers, &model, &vocab, &texts, &[&LogitLens]));
        assert!(seen.unwrap()[0].as_ref() == Some(&first), "{size} processes");
    }
    assert!(how.readings(&model, &vocab, &texts, &[&LogitLens]).unwrap() == first);
    let mut files: Vec<_> = fs::read_dir(&keep).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    fs::remove_file(&files[2]).unwrap();
    fs::write(&files[1], "damaged").unwrap();
    assert!(how.readings(&model, &vocab, &texts, &[&LogitLens]).unwrap() == first);
    // Another lens does not take them for its own, though its name may be the same.
    let own = Ridge::default().own(&alone.moments(&model, &vocab, &texts).unwrap()).unwrap();
    let seen = how.readings(&model, &vocab, &texts, &[&own]).unwrap();
    assert!(seen == alone.readings(&model, &vocab, &texts, &[&own]).unwrap() && seen != first);
}

/// Trained by `size` processes, all models.
fn trained(size: usize, how: &Training) -> Vec<Transformer> {
    Threads::run(size, |peers| {
        let mut run = TrainingRun::new(model(11), how)?;
        let log = train_among(peers, &mut run, &Markov::new(27, 0.3)?)?;
        assert_eq!(log.is_some(), peers.rank() == 0);
        Ok(run.into_model())
    })
    .unwrap()
}

#[test]
fn training_gives_the_same_weights_bit_for_bit_on_any_number_of_processes() {
    // 22 sequences: five leaves of four and one of two.
    let how = Training { steps: 6, batch_size: 22, warmup: 2, ..Default::default() };
    let alone = trained(1, &how).remove(0);
    for size in 2..=8 {
        for (rank, model) in trained(size, &how).iter().enumerate() {
            assert!(*model == alone, "process {rank} of {size}");
        }
    }
    // And they are those of training in one piece, up to rounding that AdamW's division by tiny roots enlarges.
    let mut whole = model(11);
    whole.train(&Markov::new(27, 0.3).unwrap(), &how).unwrap();
    let start = model(11);
    let (mut moved, mut off) = (0.0_f64, 0.0_f64);
    for ((a, b), c) in whole.params.slices().iter().zip(alone.params.slices()).zip(start.params.slices()) {
        for ((a, b), c) in a.iter().zip(b.iter()).zip(c.iter()) {
            moved += f64::from(a - c).powi(2);
            off += f64::from(a - b).powi(2);
        }
    }
    assert!(off < 1e-4 * moved && moved > 0.0, "{off} of {moved}");
}

#[test]
fn a_process_that_dies_in_training_ends_the_others() {
    let how = Training { steps: 50, batch_size: 16, ..Default::default() };
    for bad in 0..3 {
        let ended = Threads::run(3, |peers| {
            if peers.rank() == bad {
                return Err(onelens::Error::new(onelens::ErrorKind::Data, "out of luck", "try again"));
            }
            train_among(peers, &mut TrainingRun::new(model(12), &how)?, &Markov::new(27, 0.3)?)
        });
        assert!(ended.unwrap_err().to_string().contains("out of luck"), "process {bad}");
    }
    // A run of another shape is refused, and so is a source that does not fit; nobody waits for ever.
    let shapes = Threads::run(2, |peers| {
        let config = Config { n_layers: 1 + peers.rank(), ..model(12).config };
        let mut run = TrainingRun::new(Transformer::new(config)?, &how)?;
        train_among(peers, &mut run, &Markov::new(27, 0.3)?)
    });
    assert!(shapes.unwrap_err().to_string().contains("start the same run"));
    let source = Threads::run(2, |peers| {
        train_among(peers, &mut TrainingRun::new(model(12), &how)?, &Markov::new(5, 0.3)?)
    });
    assert!(source.unwrap_err().to_string().contains("5 tokens"));
}

/// Documents of whole sequences, so that a refinement of all tokens at once sees the same chunks.
fn whole_sequences() -> (TempDir, ndarray::Array2<u32>) {
    let folder = tempfile::tempdir().unwrap();
    let letter = |i: usize, t: usize| char::from(b'a' + ((i * i + 3 * t + t * t / 2) % 26) as u8);
    let lines: String =
        (0..40).map(|i| format!("\"{}\"\n", (0..12).map(|t| letter(i, t)).collect::<String>())).collect();
    fs::write(folder.path().join("a.jsonl"), lines).unwrap();
    let texts = TextFiles::open([folder.path().join("a.jsonl")]).unwrap();
    let tokens = Streaming::default().sequences(&model(1), &vocab(), &texts, 40).unwrap();
    (folder, tokens)
}

#[test]
fn lenses_refined_on_files_are_those_refined_on_the_tokens_at_once() {
    let ((folder, tokens), model, vocab) = (whole_sequences(), model(1), vocab());
    let texts = TextFiles::open([folder.path().join("a.jsonl")]).unwrap();
    let moments = LayerMoments::collect(&model, &tokens).unwrap();
    let own = Ridge::default().own(&moments).unwrap();
    let refine = Refine { epochs: 3, lbfgs_steps: 2, ..Default::default() };
    let at_once = refine.fit(&model, &own, &moments, &tokens).unwrap();
    // Shards of one document and of all; within a shard of one, each chunk has one sequence.
    let how = |shard_bytes, name: &str| Streaming {
        shard_bytes,
        folder: Some(folder.path().join(name)),
        ..Default::default()
    };
    let all = how(1 << 20, "all").refine(&refine, &model, &vocab, &texts, &own, &moments).unwrap();
    assert!(all.lenses == at_once.lenses && all.training_kl == at_once.training_kl);
    let single = how(1, "single").refine(&refine, &model, &vocab, &texts, &own, &moments).unwrap();
    for l in 0..3 {
        // Batches differ, what is searched for does not.
        assert!((single.training_kl[(3, l)] - at_once.training_kl[(3, l)]).abs() < 1e-3);
    }
    let told = Streaming::default().refine(&refine, &model, &vocab, &texts, &own, &moments).unwrap_err();
    assert!(told.to_string().contains("`folder`"), "{told}");
}
