//! The report about a language model: what it says is what `compare` says, nulls are nulls, and the rule asks for all
//! three.

use onelens::battery::{Answer, Interval, LanguageBattery, LanguageReport, LensReads};
use onelens::data::{Markov, PieceTokenizer, Source, Texts};
use onelens::lens::{LayerMoments, Lens, LensKind, LogitLens, Ridge, Scale, Target, compare};
use onelens::model::{Config, Transformer};
use onelens::ndarray::{Array2, ArrayView1};
use onelens::num::{kl_divergence, rng};

use crate::common;

fn small() -> (Transformer, Array2<u32>, Array2<u32>) {
    let config = Config {
        d_vocab: 11,
        d_model: 8,
        n_heads: 2,
        d_head: 4,
        n_layers: 4,
        n_ctx: 16,
        ..Default::default()
    };
    let source = Markov::new(11, 0.3).unwrap();
    let tokens = |n: usize, seed| source.sample(n, 16, &mut rng(seed, 0)).unwrap();
    (Transformer::new(config).unwrap(), tokens(64, 1), tokens(8, 2))
}

fn quick() -> LanguageBattery {
    LanguageBattery { n_refined: 512, epochs: 1, n_streams: 4, causal: (4, 8), ..Default::default() }
}

#[test]
fn what_lenses_read_is_what_compare_says_of_them() {
    let (model, fit, held_out) = small();
    let report = quick().run("small", &model, &fit, &held_out).unwrap();
    let moments = LayerMoments::collect_with(&model, &fit, Scale::UnitRms, Target::Normalised).unwrap();
    let ridge = Ridge { lambda: 1e-3, ..Ridge::default() };
    let left_out = ridge.lenses(&moments, &LensKind::LeftOutWithoutLast).unwrap();
    let own = ridge.own(&moments).unwrap();
    let third = ridge.lenses(&moments, &LensKind::Every(3)).unwrap();
    let lenses: [&dyn Lens; 4] = [&LogitLens, &own, &left_out, &third];
    let seen = compare(&model, &lenses, &moments, &held_out).unwrap();
    let said = &report.networks[0];
    assert!((said.baseline.estimate - seen.baseline).abs() < 1e-6);
    let names = [LensReads::LOGIT, LensReads::OWN, LensReads::LEFT_OUT, LensReads::EVERY_THIRD];
    for (i, name) in names.into_iter().enumerate() {
        let lens = said.lens(name).unwrap();
        for l in 0..5 {
            let nats = lens.nats[l].unwrap();
            assert!((nats.estimate - (seen.baseline - seen.curves[i].kl[l])).abs() < 1e-5, "{name} at {l}");
            assert!(nats.lower <= nats.estimate && nats.estimate <= nats.upper);
        }
    }
    let shares = seen.shared_fraction(&left_out.name(), &own.name()).unwrap();
    let left_out = said.lens("left out, least squares").unwrap();
    for l in said.counted() {
        assert!((left_out.share[l].unwrap().estimate - shares[l]).abs() < 1e-3 * shares[l].abs().max(1.0));
    }
    // A hidden layer is asked for where lenses are at least KL, and is counted beside those.
    let (hidden, own_kl) = (said.lens(LensReads::HIDDEN).unwrap(), said.lens(LensReads::OWN_KL).unwrap());
    for l in 0..5 {
        assert_eq!(hidden.nats[l].is_some(), own_kl.nats[l].is_some(), "stream {l}");
        if let (Some(share), Some(nats), Some(own)) = (hidden.share[l], hidden.nats[l], own_kl.nats[l]) {
            assert!(
                (share.estimate - nats.estimate / own.estimate).abs() < 1e-3 * share.estimate.abs(),
                "{l}"
            );
        }
    }
    let read = &report.sentences()[1].1;
    assert!(read.contains("every third stream") && read.contains("hidden layer"), "{read}");
    // Blocks are compared on the first sequences.
    let some = held_out.slice(onelens::ndarray::s![..4, ..8]).to_owned();
    let without = onelens::battery::Lesion::Delete(1).apply(&model).unwrap();
    let more = without.loss(&some).unwrap() - model.loss(&some).unwrap();
    assert!((report.blocks[1].deleted.estimate - more).abs() < 1e-5);
    assert!(report.blocks[1].deleted.is_range, "four sequences have a range and no more");
}

#[test]
fn an_update_brings_what_the_one_lens_reads_after_it_and_not_before() {
    let (model, fit, held_out) = small();
    let report = quick().run("small", &model, &fit, &held_out).unwrap();
    // The architecture with chance weights is this very network, whose one lens is of least squares. By hand, over all
    // positions but the first:
    let moments = LayerMoments::collect_with(&model, &fit, Scale::UnitRms, Target::Normalised).unwrap();
    let shared = Ridge { lambda: 1e-3, ..Ridge::default() }.shared(&moments).unwrap();
    let rows = |l: usize| {
        let stream = model.pass(&held_out).stream(l).unwrap();
        let (n_seqs, n_pos, d) = stream.dim();
        stream.into_shape_with_order((n_seqs * n_pos, d)).unwrap()
    };
    let log_p = LogitLens.read(&model, 4, rows(4).view()).unwrap();
    let kl = |l: usize| -> Vec<f64> {
        let log_q = shared.read(&model, l, rows(l).view()).unwrap();
        let of_row = |(p, q): (ArrayView1<f32>, ArrayView1<f32>)| kl_divergence(p, q);
        log_p.rows().into_iter().zip(log_q.rows()).map(of_row).collect()
    };
    for (l, update) in report.networks[1].updates.iter().enumerate() {
        let falls = kl(l).into_iter().zip(kl(l + 1)).enumerate().filter(|(t, _)| t % 16 != 0);
        let (sum, n) = falls.fold((0.0, 0), |(sum, n), (_, (before, after))| (sum + before - after, n + 1));
        let wanted = sum / f64::from(n);
        let own = update.own.estimate;
        assert!((own - wanted).abs() < 1e-5 * wanted.abs().max(0.1), "block {l}: {own} and {wanted}");
        // Another token's update is another one.
        assert!((update.shuffled.estimate - own).abs() > 1e-6);
    }
}

#[test]
fn a_report_goes_on_from_what_was_kept_and_is_saved_and_drawn() {
    let (model, fit, held_out) = small();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("parts");
    let how = LanguageBattery { folder: Some(folder.clone()), ..quick() };
    let first = how.run("small", &model, &fit, &held_out).unwrap();
    let parts = std::fs::read_dir(&folder).unwrap().count();
    // Model, two nulls, steering of two networks, four blocks, three refined lenses.
    assert_eq!(parts, 1 + 2 + 2 + 4 + 3);
    assert_eq!(how.run("small", &model, &fit, &held_out).unwrap(), first);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), parts);
    let path = folder.join("report");
    first.save(&path).unwrap();
    assert_eq!(LanguageReport::load(&path).unwrap(), first);
    let figure = first.figure().unwrap();
    let text = figure.text();
    for part in ["One lens reads", "What is a block worth?", "Which tokens are refined", "chance weights"] {
        assert!(text.contains(part), "{part}");
    }
    // Other tokens are another report.
    how.run("small", &model, &fit, &held_out.mapv(|t| (t + 1) % 11)).unwrap();
    assert!(std::fs::read_dir(&folder).unwrap().count() > parts + 1);
}

#[test]
fn the_answer_asks_for_all_three_and_for_none_of_a_null() {
    let (model, fit, held_out) = small();
    let mut report = quick().run("small", &model, &fit, &held_out).unwrap();
    let sure = |x: f64| Interval { estimate: x, lower: x - 0.01, upper: x + 0.01, is_range: false };
    // Made up: of 2 nats an own lens reads 1, one that never saw the stream .8, nulls .1.
    for (i, network) in report.networks.iter_mut().enumerate() {
        network.baseline = sure(2.0);
        for lens in &mut network.lenses {
            let reads = match (i, lens.name.starts_with("left out")) {
                (0, false) => 1.0,
                (0, true) => 0.8,
                _ => 0.1,
            };
            lens.nats.fill(Some(sure(reads)));
            lens.share.fill(Some(sure(reads)));
        }
        for update in network.updates.iter_mut().chain(&mut network.updates_kl) {
            let helps = if i == 0 { 0.3 } else { -0.3 };
            (update.own, update.difference) = (sure(helps), sure(helps));
        }
    }
    for effect in &mut report.steering {
        effect.advantage = [(if effect.network == "the model" { 1.0 } else { -1.0 }, 0.1); 2];
    }
    assert_eq!(report.answer(), Answer::Supported);
    assert!(report.sentences()[0].1.starts_with("Supported. One lens reads: yes"));

    // Updates of which a random walk of updates does as much say nothing.
    let mut walks = report.clone();
    walks.networks[2].updates = walks.networks[0].updates.clone();
    assert_eq!(walks.answer(), Answer::Mixed);
    assert_eq!(walks.parts()[1].of_nulls, ["updates shuffled over tokens"]);

    // A lens that reads as many nats in a null.
    let mut carried = report.clone();
    let nats = carried.networks[0].lens("left out, least squares").unwrap().nats.clone();
    carried.networks[1].lenses.iter_mut().for_each(|lens| lens.nats.clone_from(&nats));
    assert_eq!(carried.parts()[0].of_nulls, ["chance weights"]);
    assert_eq!(carried.answer(), Answer::Mixed);

    // A null whose tokens are moved as far by what its lens reads.
    let mut moved = report.clone();
    moved.steering.iter_mut().for_each(|s| s.advantage = [(1.0, 0.1); 2]);
    assert_eq!(moved.parts()[2].of_nulls, ["chance weights"]);
    // Half as far is less, and so is no evidence against it.
    for effect in moved.steering.iter_mut().filter(|s| s.network != "the model") {
        effect.advantage = [(0.5, 0.1); 2];
    }
    assert_eq!(moved.answer(), Answer::Supported);
    // Updates of a null that refine in every block, but by little.
    let mut little = report.clone();
    for update in &mut little.networks[1].updates {
        (update.own, update.difference) = (sure(0.02), sure(0.02));
    }
    assert_eq!(little.answer(), Answer::Supported);

    // Nothing at all.
    let mut nothing = walks;
    nothing.networks[0]
        .lenses
        .iter_mut()
        .filter(|l| l.name.starts_with("left out"))
        .for_each(|l| l.nats.fill(Some(sure(0.2))));
    nothing.steering.iter_mut().for_each(|s| s.advantage = [(0.0, 0.1); 2]);
    assert_eq!(nothing.answer(), Answer::Hierarchy);

    // Hardly anything to read.
    report.networks[0].lenses.iter_mut().for_each(|l| l.share[1..].fill(None));
    assert_eq!(report.answer(), Answer::CannotTell);
}

#[test]
fn what_no_report_can_be_made_of_is_refused() {
    let (model, fit, held_out) = small();
    let refused = |how: LanguageBattery, fit: &Array2<u32>, held_out: &Array2<u32>| {
        how.run("small", &model, fit, held_out).unwrap_err().to_string()
    };
    let few = |tokens: &Array2<u32>, n: usize| tokens.slice(onelens::ndarray::s![..n, ..]).to_owned();
    assert!(refused(quick(), &fit, &few(&held_out, 5)).contains("six sequences"));
    assert!(refused(quick(), &few(&fit, 0), &held_out).contains("a batch of 0 sequences"));
    let narrow = fit.slice(onelens::ndarray::s![..1, ..8]).to_owned();
    assert!(refused(quick(), &narrow, &held_out).contains("too few for lenses of width 8"));
    assert!(refused(LanguageBattery { n_streams: 2, ..quick() }, &fit, &held_out).contains("n_streams"));
    assert!(refused(LanguageBattery { epochs: 0, ..quick() }, &fit, &held_out).contains("an epoch or more"));
    let shallow = Transformer::new(Config { n_layers: 2, ..model.config.clone() }).unwrap();
    assert!(quick().run("x", &shallow, &fit, &held_out).unwrap_err().to_string().contains("2 blocks"));
}

#[test]
fn a_trained_language_model_reads_more_than_its_nulls() {
    let (Some(weights), Some(texts)) = (common::data("stories260k"), common::data("tinystories")) else {
        return;
    };
    let model = Transformer::from_llama2c(weights.join("stories260K.bin")).unwrap();
    let tokenizer = PieceTokenizer::open(weights.join("tok512.bin")).unwrap();
    let source = Texts::read_json("TinyStories", texts.join("tinystories_1000.json"), &tokenizer).unwrap();
    let fit = source.sample(64, 64, &mut rng(0, 0)).unwrap();
    let held_out = source.sample_held_out(16, 64, &mut rng(0, 1)).unwrap();
    let how = LanguageBattery { n_refined: 4096, causal: (8, 32), ..Default::default() };
    let report = how.run("stories260K", &model, &fit, &held_out).unwrap();
    let most = |i: usize| {
        let nats = &report.networks[i].lens("left out, least squares").unwrap().nats;
        nats[..5].iter().map(|n| n.unwrap().estimate).fold(f64::NEG_INFINITY, f64::max)
    };
    assert!(most(0) > 1.0 && most(1) < 0.3 && most(2) < most(0), "{} {} {}", most(0), most(1), most(2));
    // Every block is worth something to so small a model.
    assert!(report.blocks.iter().all(|b| b.deleted.above(0.2)));
}
