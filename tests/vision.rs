//! Image classifiers: a real one is read and right, our own learn, and each layer can be seen.

mod common;

use onelens::data::Images;
use onelens::vision::{ImageClassifier, ImageConfig, ImageNetwork, ImageTraining, MnistCnn};

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
            assert!((model.unembed(streams[2].view()) - &log_p).iter().all(|e| e.abs() < 1e-5));
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
