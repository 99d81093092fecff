//! Image classifiers: a real one is read and right, our own learn, and each layer can be seen.

use ndarray::Array2;
use onelens::ErrorKind;
use onelens::data::Images;
use onelens::lens::{LayerMoments, Lens, Ridge};
use onelens::vision::{ImageClassifier, ImageConfig, ImageNetwork, ImageTraining, MnistCnn};
use proptest::prelude::*;

use crate::common;

#[test]
fn a_trained_mnist_network_is_right_on_at_least_98_percent_of_the_test_images() {
    let (Some(mnist), Some(cnn)) = (common::data("mnist"), common::data("mnist_cnn")) else { return };
    let images =
        Images::mnist(mnist.join("t10k-images-idx3-ubyte.gz"), mnist.join("t10k-labels-idx1-ubyte.gz"))
            .unwrap();
    assert_eq!((images.len(), images.height, images.width), (10_000, 28, 28));
    let network = MnistCnn::open(cnn.join("mnist.safetensors")).unwrap();
    let accuracy = network.accuracy(&images).unwrap();
    println!("{accuracy}");
    assert!(accuracy >= 0.98, "{accuracy}");
}

#[test]
fn plain_and_residual_networks_learn_to_read_digits() {
    let Some(folder) = common::data("digits") else { return };
    let digits = Images::digits(folder.join("digits.csv")).unwrap();
    assert_eq!(digits.len(), 1797);
    let (train, test) = digits.split();
    for network in [ImageNetwork::Mlp, ImageNetwork::Cnn] {
        for residual in [true, false] {
            let d_model = if network == ImageNetwork::Mlp { 32 } else { 6 };
            let config = ImageConfig { network, residual, d_model, n_layers: 2, ..Default::default() };
            let mut model = ImageClassifier::new(config).unwrap();
            let losses = model.train(&train, &ImageTraining { steps: 300, ..Default::default() }).unwrap();
            let (loss, accuracy) = model.evaluate(&test).unwrap();
            // A nearest-neighbour classifier is right on 98 %, chance on 10 %.
            assert!(accuracy > 0.9 && loss < losses[0], "{model:?}: {accuracy}, {loss}");
            // The last stream read by the head is the prediction.
            let (log_p, streams) = model.run_with_cache(&test.pixels).unwrap();
            assert_eq!(streams.len(), 3);
            assert!((model.decode(streams[2].view()).unwrap() - &log_p).iter().all(|e| e.abs() < 1e-5));
            let refused = model.decode(streams[2].t()).unwrap_err().to_string();
            assert!(refused.contains("help: pass a stream"), "{refused}");
        }
    }
}

#[test]
fn images_that_do_not_fit_are_refused() {
    let model = ImageClassifier::new(ImageConfig::default()).unwrap();
    assert!(model.run_with_cache(&ndarray::Array2::zeros((1, 63))).unwrap_err().what().contains("63"));
    assert!(model.run_with_cache(&ndarray::Array2::zeros((0, 64))).is_err());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    std::fs::write(&path, [0x1f, 0x8b, 8, 0, 0]).unwrap();
    assert!(Images::mnist(&path, &path).unwrap_err().what().contains("cannot be unpacked"));
    std::fs::write(&path, "1,2,3\n").unwrap();
    assert!(Images::digits(&path).unwrap_err().what().contains("line 1"));
}

#[test]
fn a_classifier_learns_mnist_in_a_few_hundred_steps() {
    let Some(mnist) = common::data("mnist") else { return };
    let all = Images::mnist(mnist.join("t10k-images-idx3-ubyte.gz"), mnist.join("t10k-labels-idx1-ubyte.gz"))
        .unwrap();
    let (train, test) = all.split();
    let config = ImageConfig { height: 28, width: 28, d_model: 32, n_layers: 2, ..Default::default() };
    let mut model = ImageClassifier::new(config).unwrap();
    model.train(&train, &ImageTraining { steps: 300, ..Default::default() }).unwrap();
    let (_, accuracy) = model.evaluate(&test).unwrap();
    // A linear classifier trained on all 60,000 images is right on 88 to 92 % (LeCun et al. 1998).
    assert!(accuracy > 0.9, "{accuracy}");
}

#[test]
fn the_streams_of_the_mnist_network_end_in_its_prediction() {
    let (Some(mnist), Some(cnn)) = (common::data("mnist"), common::data("mnist_cnn")) else { return };
    let images =
        Images::mnist(mnist.join("t10k-images-idx3-ubyte.gz"), mnist.join("t10k-labels-idx1-ubyte.gz"))
            .unwrap()
            .select(&(0..70).collect::<Vec<_>>());
    let network = MnistCnn::open(cnn.join("mnist.safetensors")).unwrap();
    let (log_p, streams) = network.run_with_cache(&images).unwrap();
    assert_eq!(log_p, network.forward(&images).unwrap());
    let shapes: Vec<_> = streams.iter().map(|h| h.dim()).collect();
    assert_eq!(shapes, [(70, 26 * 26 * 8), (70, 24 * 24 * 16), (70, 22 * 22 * 24), (70, 32)]);
    assert!(
        streams.iter().all(|h| h.iter().all(|&x| x >= 0.0) && h.iter().any(|&x| x > 0.0)),
        "after a ReLU"
    );
}

#[test]
fn lenses_are_fitted_to_the_streams_of_a_classifier() {
    let Some(folder) = common::data("digits") else { return };
    let (train, test) = Images::digits(folder.join("digits.csv")).unwrap().split();
    for residual in [true, false] {
        let config = ImageConfig { residual, d_model: 16, n_layers: 3, ..Default::default() };
        let mut model = ImageClassifier::new(config).unwrap();
        model.train(&train, &ImageTraining { steps: 400, ..Default::default() }).unwrap();
        let moments = LayerMoments::of_images(&model, &train).unwrap();
        assert_eq!((moments.n() as usize, moments.fingerprint), (train.len(), model.fingerprint()));
        assert!((moments.mean_prediction.sum() - 1.0).abs() < 1e-6);
        let ridge = Ridge { lambda: 1e-6, ..Default::default() };
        let own = ridge.own(&moments).unwrap();
        let (log_p, streams) = model.run_with_cache(&test.pixels).unwrap();
        // The last stream predicts itself.
        let last = own.transport(3, streams[3].view()).unwrap();
        let error = (&last - &streams[3]).iter().fold(0.0_f32, |m, e| m.max(e.abs()));
        assert!(error < 1e-2, "{error}");
        let agrees = |l: usize| {
            let read = model.decode(own.transport(l, streams[l].view()).unwrap().view()).unwrap();
            let best =
                |x: &Array2<f32>, i: usize| (0..10).max_by(|&a, &b| x[(i, a)].total_cmp(&x[(i, b)])).unwrap();
            (0..test.len()).filter(|&i| best(&read, i) == best(&log_p, i)).count() as f64 / test.len() as f64
        };
        assert!(agrees(3) > 0.99 && agrees(2) > agrees(0), "{} {} {}", agrees(0), agrees(2), agrees(3));
    }
}

#[test]
fn a_saved_classifier_is_read_back_and_a_damaged_one_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    let model =
        ImageClassifier::new(ImageConfig { residual: false, d_model: 4, ..Default::default() }).unwrap();
    model.save(&path).unwrap();
    assert!(ImageClassifier::load(&path).unwrap() == model);
    let whole = std::fs::read(&path).unwrap();
    for len in [0, 10, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..len]).unwrap();
        assert_eq!(ImageClassifier::load(&path).unwrap_err().kind(), ErrorKind::File, "{len}");
    }
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    std::fs::write(&path, flipped).unwrap();
    assert!(ImageClassifier::load(&path).unwrap_err().what().contains("checksum"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn no_bytes_make_a_reader_of_images_panic(
        edits in proptest::collection::vec((0_usize..400, any::<u8>()), 0..6),
        len in 0_usize..500,
        text in "([0-9]{1,3},){0,70}[0-9a-z-]{0,4}\n?",
        noise in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        // An IDX file with three images of 5x5, and one with their labels.
        let header: Vec<u8> = [0x803_u32, 3, 5, 5].iter().flat_map(|n| n.to_be_bytes()).collect();
        let labels = folder.path().join("y");
        let of_labels: Vec<u8> = [0x801_u32, 3].iter().flat_map(|n| n.to_be_bytes()).chain([1, 2, 3]).collect();
        std::fs::write(&labels, of_labels).unwrap();
        let mut bytes = [header, vec![9; 75]].concat();
        for &(at, byte) in &edits {
            let n = bytes.len();
            bytes[at % n] = byte;
        }
        bytes.truncate(len);
        for bytes in [bytes, text.into_bytes(), noise.clone(), [&[0x1f, 0x8b, 8][..], &noise].concat()] {
            std::fs::write(&path, bytes).unwrap();
            let _ = Images::mnist(&path, &labels);
            let _ = Images::mnist(&labels, &path);
            let _ = Images::digits(&path);
            let _ = ImageClassifier::load(&path);
            let _ = MnistCnn::open(&path);
        }
    }
}
