//! Image classifiers as files.

use std::path::Path;

use super::ImageClassifier;
use crate::{Error, ErrorKind, Result, record};

const KIND: &str = "image-classifier";
const VERSION: u32 = 1;

impl ImageClassifier {
    /// Writes the network to `path` with its shape and a checksum. The file appears whole or not at all.
    ///
    /// ```
    /// use onelens::vision::{ImageClassifier, ImageConfig};
    /// let model = ImageClassifier::new(ImageConfig { height: 1, width: 2, ..Default::default() })?;
    /// let path = std::env::temp_dir().join(format!("onelens-image-{}.bin", std::process::id()));
    /// model.save(&path)?;
    /// assert!(ImageClassifier::load(&path)? == model);
    /// # std::fs::remove_file(path).unwrap();
    /// # Ok::<(), onelens::Error>(())
    /// ```
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        record::save(path.as_ref(), KIND, VERSION, self)
    }

    /// Reads a network that [`save`](ImageClassifier::save) has written: the same numbers, bit for bit. A file that is
    /// cut off, damaged or something else is refused.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let model: ImageClassifier = record::load(path, KIND, VERSION)?;
        let wrong = match model.config.check() {
            Err(e) => Some(e.what().to_string()),
            Ok(()) => model.what_does_not_fit(),
        };
        match wrong {
            None => Ok(model),
            Some(what) => {
                let what = format!("{} is no whole image classifier: {what}", path.display());
                Err(Error::new(ErrorKind::File, what, "save the classifier anew"))
            }
        }
    }
}
