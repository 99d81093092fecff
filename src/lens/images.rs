//! Moments of the streams of an image classifier.

use ndarray::{Array1, ArrayView2, Axis};

use super::readout::sum_of_softmax;
use super::{Accumulator, LayerMoments, Moments, Scale, Target};
use crate::Result;
use crate::data::Images;
use crate::vision::ImageClassifier;

/// Images run at a time: what bounds the memory.
const CHUNK: usize = 256;

impl LayerMoments {
    /// Gathers the moments of `(h_l, h_L)` for every stream of an image classifier, an image where a transformer has a
    /// token. Lenses are fitted to them as to any others, and [`ImageClassifier::decode`] reads what they give.
    ///
    /// Fails if the images do not fit the classifier, or if an activation is not finite.
    ///
    /// ```
    /// use onelens::{data::Images, lens::{Lens, LayerMoments, Ridge}, ndarray::Array2};
    /// use onelens::vision::{ImageClassifier, ImageConfig};
    /// let config = ImageConfig { height: 1, width: 2, n_classes: 2, d_model: 2, n_layers: 1, ..Default::default() };
    /// let model = ImageClassifier::new(config)?;
    /// let pixels = Array2::from_shape_fn((50, 2), |(i, j)| ((i * 7 + j * 3) % 10) as f32 / 10.0);
    /// let images = Images { pixels, labels: vec![0; 50], height: 1, width: 2, n_classes: 2 };
    /// let moments = LayerMoments::of_images(&model, &images)?;
    /// assert_eq!((moments.n(), moments.layers.len()), (50, 2));
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn of_images(model: &ImageClassifier, images: &Images) -> Result<Self> {
        model.check_images(images)?;
        let (d, n_classes) = (model.config.d_stream(), model.config.n_classes);
        let empty = LayerMoments {
            fingerprint: model.fingerprint(),
            scale: Scale::AsItIs,
            target: Target::Residual,
            layers: (0..=model.config.n_layers).map(|_| Moments::new(d, d)).collect(),
            mean_prediction: Array1::zeros(n_classes),
        };
        let mut moments = Accumulator::new(&empty);
        for pixels in images.pixels.axis_chunks_iter(Axis(0), CHUNK) {
            let (log_p, streams) = model.run_with_cache(&pixels.to_owned())?;
            let streams: Vec<ArrayView2<f32>> = streams.iter().map(|h| h.view()).collect();
            moments.absorb(&streams[..=model.config.n_layers], None, &sum_of_softmax(log_p.view()))?;
        }
        Ok(moments.finish())
    }
}
