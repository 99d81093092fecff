//! The battery on networks that are not transformers, and what it says of copies, paths and files.

use ndarray::{Array2, s};
use onelens::battery::{
    Battery, Cell, ImageBattery, Network, Readout, Report, Streams, Truth, measure, path_lengths,
};
use onelens::data::{Images, Markov, Source};
use onelens::dual::{PredictiveCoding, PredictiveConfig};
use onelens::lens::{LensKind, Scale};
use onelens::model::{Blocks, Config, Residual, Training, Transformer};
use onelens::num::{Rng, normal, rng, uniform_index};
use onelens::vision::{ImageConfig, ImageNetwork, ImageTraining, MnistCnn};

use crate::common;

fn random(rows: usize, columns: usize, random: &mut Rng) -> Array2<f64> {
    Array2::from_shape_simple_fn((rows, columns), || normal(random))
}

/// `h ← h + W₂ tanh(W₁ h)`, and where there are rotations, `h ← R_{l+1} (h' + ..)` with the inverse inside the weights.
fn residual_network(
    x: &Array2<f64>,
    blocks: &[(Array2<f64>, Array2<f64>)],
    rotations: Option<&[Array2<f64>]>,
) -> Vec<Array2<f64>> {
    let turned = |h: &Array2<f64>, l: usize| match rotations {
        Some(all) if l < blocks.len() => h.dot(&all[l].t()),
        _ => h.clone(),
    };
    let mut streams = vec![turned(x, 0)];
    for (l, (w1, w2)) in blocks.iter().enumerate() {
        // What the block reads and writes is in the basis of the stream before it; the rotation after it goes on to the
        // next one.
        let (w1, w2, back) = match rotations {
            Some(all) => (w1.dot(&all[l].t()), all[l].dot(w2), all[l].t().to_owned()),
            None => (w1.clone(), w2.clone(), Array2::eye(x.ncols())),
        };
        let h = &streams[l];
        let h = h + &h.dot(&w1.t()).mapv(f64::tanh).dot(&w2.t());
        streams.push(turned(&h.dot(&back.t()), l + 1));
    }
    streams
}

#[test]
fn a_rotation_after_every_block_with_conjugated_weights_is_the_rotated_copy() {
    let (n, d, layers) = (400, 6, 4);
    let mut numbers = rng(3, 0);
    let blocks: Vec<_> =
        (0..layers).map(|_| (random(d, d, &mut numbers) * 0.5, random(d, d, &mut numbers) * 0.5)).collect();
    let x = random(n, d, &mut numbers);
    let readout = Readout::linear(random(d, 5, &mut numbers));
    let network = |rotations: Option<&[Array2<f64>]>| {
        let streams = residual_network(&x, &blocks, rotations);
        let target = streams[layers].clone();
        let log_p = readout.decode(target.view());
        Streams {
            streams,
            target,
            readout: readout.clone(),
            log_p,
            truth: Truth::Unknown,
            scale: Scale::AsItIs,
            n_pos: 4,
        }
    };
    let plain = network(None);
    // Rotations by Householder: I - 2 v vᵀ / vᵀv, another one for each stream but the last.
    let rotations: Vec<Array2<f64>> = (0..layers)
        .map(|_| {
            let v = random(d, 1, &mut numbers);
            Array2::eye(d) - &(v.dot(&v.t()) * (2.0 / v.iter().map(|x| x * x).sum::<f64>()))
        })
        .collect();
    let turned = network(Some(&rotations));
    let gap =
        |a: &Array2<f64>, b: &Array2<f64>| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(gap(&plain.log_p, &turned.log_p) < 1e-9, "the same function");
    assert!(gap(&plain.streams[1], &turned.streams[1]) > 0.1, "in other bases");
    let (a, b) = (measure(&plain, 1e-4, false, &[]).unwrap(), measure(&turned, 1e-4, false, &[]).unwrap());
    assert!(gap(a.kl_of(&LensKind::Own).unwrap(), b.kl_of(&LensKind::Own).unwrap()) < 1e-8);
    assert!(gap(a.kl_of(&LensKind::Shared).unwrap(), b.kl_of(&LensKind::Shared).unwrap()) > 1e-2);
    // The copy that the library makes of streams has what the copy of the network has.
    let copy = measure(&plain.rotated(&mut rng(4, 0)), 1e-4, false, &[]).unwrap();
    assert!(gap(b.kl_of(&LensKind::Own).unwrap(), copy.kl_of(&LensKind::Own).unwrap()) < 1e-8);
    // Turned onto the last stream, both are the same again, and as long as they were.
    let (again, turned_again) = (plain.clone().aligned().unwrap(), turned.aligned().unwrap());
    for ((a, b), before) in again.streams.iter().zip(&turned_again.streams).zip(&plain.streams) {
        assert!(gap(a, b) < 1e-6, "{}", gap(a, b));
        let length = |h: &Array2<f64>| h.iter().map(|x| x * x).sum::<f64>();
        assert!((length(a) - length(before)).abs() < 1e-9 * length(before));
    }
}

#[test]
fn streams_of_a_predictive_network_are_its_predictions_and_its_read_out_is_theirs() {
    let source = Markov::new(5, 0.3).unwrap();
    let config =
        PredictiveConfig { d_vocab: 5, d_model: 6, d_key: 6, n_layers: 3, n_ctx: 10, ..Default::default() };
    let model = PredictiveCoding::new(config).unwrap();
    let tokens = source.sample(8, 10, &mut rng(0, 0)).unwrap();
    let streams = Streams::of_predictive(&model, &tokens, Some(&source)).unwrap();
    let (log_p, cache) = model.run_with_cache(&tokens).unwrap();
    let close =
        |a: &Array2<f64>, b: &ndarray::Array3<f64>| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12);
    assert!(close(&streams.log_p, &log_p) && close(&streams.streams[1], &cache.predictions(1).unwrap()));
    let truth = source.true_conditional(&tokens.row(3)).unwrap();
    let Truth::Known(log_truth) = &streams.truth else { panic!("Markov chains are known") };
    let ours = log_truth.slice(s![30..40, ..]).mapv(f64::exp);
    assert!(ours.iter().zip(&truth).all(|(a, b)| (a - b).abs() < 1e-5));
    // Other weights, another fingerprint; the seed alone is no difference.
    let mut other = model.clone();
    other.config.seed = 9;
    assert_eq!(other.fingerprint(), model.fingerprint());
    other.params.w_0[(0, 0)] += 1e-9;
    assert_ne!(other.fingerprint(), model.fingerprint());
}

#[test]
fn every_kind_of_network_stands_in_the_report() {
    let folder = tempfile::tempdir().unwrap();
    let source = Markov::new(5, 0.3).unwrap();
    let battery = Battery {
        config: Config {
            n_ctx: 10,
            d_model: 8,
            n_layers: 4,
            n_heads: 2,
            d_head: 4,
            d_mlp: 16,
            ..Default::default()
        },
        training: Training { steps: 3, batch_size: 4, ..Default::default() },
        seeds: vec![2000, 2001],
        n_seqs: 20,
        folder: Some(folder.path().into()),
        ..Default::default()
    };
    let report = battery.run(&source).unwrap();
    assert_eq!(report.groups.len(), Network::ALL.len());
    for group in &report.groups {
        let name = group.summary.name.as_str();
        let transformer = name != Network::Predictive.name();
        let skips = transformer && name != Network::Plain.name();
        assert_eq!(group.paths.len(), if skips { 2 } else { 0 }, "{name}");
        assert_eq!(group.gradients.len(), if transformer { 2 } else { 0 }, "{name}");
        assert!(group.fingerprints.iter().all(|f| *f != 0) && group.loss > 0.0, "{name}");
        assert!(
            group.mantel.is_some_and(|[rho, p]| (-1.0..=1.0).contains(&rho) && (0.0..=1.0).contains(&p)),
            "{name}"
        );
        // A rotated copy has no updates to speak of; every other has.
        let rotated = group.nulls.iter().find(|n| n.name == "rotated copy").unwrap();
        assert!(rotated.layers.iter().all(|l| l.alignment.estimate.is_nan()));
    }
    let page = report.figure().unwrap();
    assert!(page.text().contains("How long are the paths") && page.text().contains("predictive coding"));
    // Read again, it is drawn again.
    let path = folder.path().join("report");
    report.save(&path).unwrap();
    assert_eq!(Report::load(&path).unwrap().figure().unwrap().text(), page.text());
}

#[test]
fn path_lengths_sum_to_one_and_need_paths() {
    let source = Markov::new(5, 0.3).unwrap();
    let tokens = source.sample(6, 11, &mut rng(1, 0)).unwrap();
    let with = |residual: Residual, blocks: Blocks| {
        Transformer::new(Config {
            d_vocab: 5,
            n_ctx: 10,
            n_layers: 4,
            residual,
            blocks,
            ..Default::default()
        })
        .unwrap()
    };
    for model in [
        with(Residual::Sequential, Blocks::Distinct),
        with(Residual::Parallel, Blocks::Distinct),
        with(Residual::Sequential, Blocks::Looped { inject: false }),
    ] {
        let shares = path_lengths(&model, &tokens).unwrap();
        assert!(shares.len() == 5 && (shares.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{shares:?}");
    }
    for model in
        [with(Residual::None, Blocks::Distinct), with(Residual::Sequential, Blocks::Looped { inject: true })]
    {
        let e = path_lengths(&model, &tokens).unwrap_err().to_string();
        assert!(e.contains("skip connections") && e.contains("help:"), "{e}");
    }
}

/// Ten patterns of 4x4 pixels with noise.
fn patterns(n: usize) -> Images {
    let mut numbers = rng(5, 0);
    let shapes = random(4, 16, &mut rng(6, 0));
    let labels: Vec<u32> = (0..n).map(|_| uniform_index(&mut numbers, 4) as u32).collect();
    let pixels = Array2::from_shape_fn((n, 16), |(i, j)| {
        (shapes[(labels[i] as usize, j)] + 0.5 * normal(&mut numbers)) as f32
    });
    Images { pixels, labels, height: 4, width: 4, n_classes: 4 }
}

#[test]
fn twins_on_images_are_kept_and_say_the_same_again() {
    let folder = tempfile::tempdir().unwrap();
    let (train, held_out) = (patterns(200), patterns(120));
    let battery = ImageBattery {
        config: ImageConfig { d_model: 6, n_layers: 3, ..Default::default() },
        training: ImageTraining { steps: 20, ..Default::default() },
        seeds: vec![1000, 1001],
        folder: Some(folder.path().into()),
        ..Default::default()
    };
    let first = battery.run(&train, &held_out).unwrap();
    let names: Vec<&str> = first.groups.iter().map(|g| g.summary.name.as_str()).collect();
    assert_eq!(
        names,
        ["residual twin", "plain (no skips)", "twin, bases aligned", "plain, bases aligned", "untrained"]
    );
    assert!(first.groups.iter().all(|g| g.fingerprints.iter().all(|f| *f != 0)));
    let kept = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(kept, 10);
    assert_eq!(format!("{:?}", battery.run(&train, &held_out).unwrap()), format!("{first:?}"));
    // Other images are other networks.
    battery.run(&patterns(199), &held_out).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 20);
    let convolutional = ImageBattery {
        config: ImageConfig { network: ImageNetwork::Cnn, d_model: 3, n_layers: 2, ..Default::default() },
        folder: None,
        ..battery.clone()
    };
    let pooling = convolutional.run(&train, &held_out).unwrap().methods;
    assert!(pooling.iter().any(|(name, how)| name == "pooling" && how.contains("2 x 2")), "{pooling:?}");
    for (wrong, why) in [
        (ImageBattery { seeds: vec![1], ..battery.clone() }, "seeds"),
        (ImageBattery { cells: 9, ..convolutional }, "pooling to 9x9"),
        (
            ImageBattery { config: ImageConfig { n_layers: 1, ..battery.config.clone() }, ..battery },
            "n_layers is 1",
        ),
    ] {
        let e = wrong.run(&train, &held_out).unwrap_err().to_string();
        assert!(e.contains(why) && e.contains("help:"), "{e}");
    }
}

#[test]
fn the_ready_mnist_network_is_pooled_to_one_width_or_refused() {
    let (Some(mnist), Some(cnn)) = (common::data("mnist"), common::data("mnist_cnn")) else { return };
    let file = |kind: &str| mnist.join(format!("t10k-{kind}-ubyte.gz"));
    let images = Images::mnist(file("images-idx3"), file("labels-idx1"))
        .unwrap()
        .select(&(0..300).collect::<Vec<_>>());
    let network = MnistCnn::open(cnn.join("mnist.safetensors")).unwrap();
    let streams = Streams::of_mnist_cnn(&network, &images, [(2, 3), (1, 3), (1, 2)]).unwrap();
    assert!(streams.streams.iter().all(|h| h.dim() == (300, 48)));
    // The mean over all parts is the mean over the image, whatever the parts: 26 rows and 24 columns divide evenly.
    let (_, layers) = network.run_with_cache(&images).unwrap();
    let whole = |channel: usize| {
        (0..22 * 22).map(|pixel| f64::from(layers[2][(7, pixel * 24 + channel)])).sum::<f64>() / 484.0
    };
    let parts =
        |channel: usize| (streams.streams[2][(7, channel)] + streams.streams[2][(7, 24 + channel)]) / 2.0;
    assert!((0..24).all(|channel| (whole(channel) - parts(channel)).abs() < 1e-5));
    let e = Streams::of_mnist_cnn(&network, &images, [(1, 1), (1, 1), (1, 1)]).unwrap_err().to_string();
    assert!(e.contains("[8, 16, 24]") && e.contains("pool"), "{e}");
    // Without skip connections there is no basis to share, and the rotated copy is no worse off than the network.
    let cell = Cell::measure(&streams, 1e-2, 0).unwrap();
    let network = &cell.splits[0].network;
    assert!(
        network.kl_of(&LensKind::LeftOut).unwrap().sum() > network.baseline.sum() * 2.0,
        "worse than the baseline at two layers"
    );
}

#[test]
fn stories260k_is_asked_like_any_checkpoint() {
    let (Some(weights), Some(texts)) = (common::data("stories260k"), common::data("tinystories")) else {
        return;
    };
    let model = Transformer::from_llama2c(weights.join("stories260K.bin")).unwrap();
    let tokenizer = onelens::data::PieceTokenizer::open(weights.join("tok512.bin")).unwrap();
    let source =
        onelens::data::Texts::read_json("TinyStories", texts.join("tinystories_1000.json"), &tokenizer)
            .unwrap();
    let tokens = source.sample_held_out(24, 48, &mut rng(0, 0)).unwrap();
    let report = Report::of_transformer("stories260K", &model, &tokens).unwrap();
    let first = &report.groups[0];
    assert_eq!(first.fingerprints, [model.fingerprint()]);
    assert!(!first.summary.truth.unwrap().known && first.lesions.len() == 1 && first.paths.len() == 1);
    // A trained network without its first block is no language model.
    assert!(first.lesions[0].delete[0] > first.lesions[0].whole + 0.5);
    assert!(
        first.summary.layers[4].fraction_of(&LensKind::LeftOut).unwrap().estimate > 0.5,
        "the last stream is nearly the target"
    );
    assert!(report.methods.iter().any(|(name, what)| name == "truth" && what.contains("what came next")));
}
