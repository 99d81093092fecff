//! Every reader of files, given files that were whole until something changed in them: a sentence or a result, never a
//! panic.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use onelens::data::{Images, Markov, TextFiles};
use onelens::model::{Config, Training, TrainingRun, Transformer};
use proptest::prelude::*;

/// What happens to a file: bytes that change, and where it is cut off. Places are shares of its length.
#[derive(Clone, Debug)]
struct Damage {
    edits: Vec<(f64, u8)>,
    cut: Option<f64>,
}

fn damage() -> impl Strategy<Value = Damage> {
    let edits = proptest::collection::vec((0.0..1.0, any::<u8>()), 0..6);
    (edits, proptest::option::of(0.0..1.0)).prop_map(|(edits, cut)| Damage { edits, cut })
}

impl Damage {
    fn of(&self, whole: &[u8]) -> Vec<u8> {
        let at = |share: f64| (share * whole.len() as f64) as usize;
        let mut bytes = whole.to_vec();
        // The beginning of a file says how the rest is read, so that every other edit falls there.
        for (i, &(share, byte)) in self.edits.iter().enumerate() {
            let place = at(if i % 2 == 0 { share } else { share * 100.0 / whole.len().max(100) as f64 });
            bytes[place] = byte;
        }
        bytes.truncate(self.cut.map_or(whole.len(), at));
        bytes
    }
}

/// A file in a folder of its own.
fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

/// A model of llama2.c with one layer: `d_model` 4, `d_mlp` 6, two heads that share keys and values, 5 tokens, 3
/// positions.
fn llama2c() -> Vec<u8> {
    let header = [4_i32, 6, 1, 2, 1, 5, 3];
    // The embedding; two gains, attention and the MLP; the last gain; two tables for three positions of one pair.
    let n = 5 * 4 + (4 + 16 + 8 + 8 + 16 + 4 + 3 * 24) + 4 + 2 * 3;
    let numbers = (0..n).flat_map(|i| (i as f32 / 100.0).to_le_bytes());
    header.iter().flat_map(|n| n.to_le_bytes()).chain(numbers).collect()
}

/// A training run after two steps.
fn run() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let config = Config {
            d_vocab: 3,
            n_ctx: 4,
            d_model: 4,
            n_layers: 1,
            n_heads: 1,
            d_head: 4,
            ..Default::default()
        };
        let source = Markov::new(3, 0.5).unwrap();
        let how = Training { steps: 2, batch_size: 1, ..Default::default() };
        let mut run = TrainingRun::new(Transformer::new(config).unwrap(), &how).unwrap();
        run.train_to(&source, 2).unwrap();
        let (_folder, path) = file("run", b"");
        run.save(&path, &source).unwrap();
        std::fs::read(path).unwrap()
    })
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

const LINES: &str = "{\"text\": \"one \\u00e9\"}\n\n\"two\"\n{\"id\": [1, {}], \"text\": \"three\"}\n";

fn documents(path: &Path) -> Result<Vec<String>, onelens::Error> {
    TextFiles::open([path])?.documents().collect()
}

/// Two images of 1x3 pixels and their labels.
const PIXELS: [u8; 22] = [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6];
const LABELS: [u8; 10] = [0, 0, 8, 1, 0, 0, 0, 2, 7, 9];

#[test]
fn the_files_are_read_while_they_are_whole() {
    let (_folder, path) = file("model.bin", &llama2c());
    let model = Transformer::from_llama2c(path).unwrap();
    assert_eq!((model.config.n_layers, model.config.n_kv_heads()), (1, 1));
    let (_folder, path) = file("run", run());
    assert_eq!(TrainingRun::load(path).unwrap().step(), 2);
    for (name, bytes) in [("a.jsonl", LINES.into()), ("a.jsonl.gz", gzip(LINES.as_bytes()))] {
        let (_folder, path) = file(name, &bytes);
        assert_eq!(documents(&path).unwrap(), ["one é", "two", "three"]);
    }
    let (folder, path) = file("pixels.gz", &gzip(&PIXELS));
    let labels = folder.path().join("labels");
    std::fs::write(&labels, LABELS).unwrap();
    assert_eq!(Images::mnist(&path, &labels).unwrap().labels, [7, 9]);
    // Three megabytes that unpack to three gigabytes: what the header says is all that is unpacked, and it may not say
    // that much.
    let mut zeros = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zeros.write_all(&PIXELS).unwrap();
    (0..64).for_each(|_| zeros.write_all(&[0; 1 << 20]).unwrap());
    std::fs::write(&path, zeros.finish().unwrap()).unwrap();
    let e = Images::mnist(&path, &labels).unwrap_err();
    assert!(e.what().contains("[2, 1, 3] bytes and holds 7"), "{e}");
    let mut header = PIXELS;
    header[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
    std::fs::write(&path, gzip(&header)).unwrap();
    let e = Images::mnist(&path, &labels).unwrap_err();
    assert!(e.what().contains("[4294967295, 1, 3] bytes, more than"), "{e}");
}

#[test]
fn json_that_never_ends_is_refused() {
    for name in ["a.jsonl", "a.json"] {
        for open in ["[", "{\"text\":"] {
            let (_folder, path) = file(name, open.repeat(100_000).as_bytes());
            assert!(documents(&path).unwrap_err().what().contains("no JSON"), "{name}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_damaged_model_of_llama2c_is_a_model_or_a_sentence(damage in damage()) {
        let bytes = damage.of(&llama2c());
        let (_folder, path) = file("model.bin", &bytes);
        if let Ok(model) = Transformer::from_llama2c(path) {
            // The free unembedding that a negative vocabulary asks for would need more numbers than there are.
            prop_assert_eq!(bytes.len(), llama2c().len());
            prop_assert!(model.config.tied);
        }
    }

    #[test]
    fn a_damaged_training_run_is_a_run_or_a_sentence(damage in damage()) {
        let bytes = damage.of(run());
        let (_folder, path) = file("run", &bytes);
        // A checksum covers everything.
        prop_assert_eq!(TrainingRun::load(path).is_ok(), bytes == run());
    }

    #[test]
    fn damaged_texts_are_texts_or_a_sentence(damage in damage()) {
        let lines = damage.of(LINES.as_bytes());
        let array = damage.of(b"[\"one\", {\"text\": \"two\"}]");
        // Damaged before it was compressed, and after.
        let (inside, outside) = (gzip(&lines), damage.of(&gzip(LINES.as_bytes())));
        let files = [("a.jsonl", &lines), ("a.json", &array), ("a.txt", &lines), ("a.jsonl.gz", &inside)];
        for (name, bytes) in files.into_iter().chain([("a.jsonl.gz", &outside), ("a.txt.zst", &lines)]) {
            let (_folder, path) = file(name, bytes);
            if let Ok(texts) = documents(&path) {
                prop_assert!(texts.iter().map(String::len).sum::<usize>() <= bytes.len().max(LINES.len()));
            }
        }
    }

    #[test]
    fn damaged_images_are_images_or_a_sentence(damage in damage()) {
        let folder = tempfile::tempdir().unwrap();
        let (pixels, labels) = (folder.path().join("pixels"), folder.path().join("labels"));
        for bytes in [damage.of(&PIXELS), gzip(&damage.of(&PIXELS)), damage.of(&gzip(&PIXELS))] {
            std::fs::write(&pixels, bytes).unwrap();
            std::fs::write(&labels, LABELS).unwrap();
            if let Ok(images) = Images::mnist(&pixels, &labels) {
                prop_assert_eq!(images.pixels.dim(), (2, 3));
            }
            std::fs::write(&labels, damage.of(&LABELS)).unwrap();
            drop(Images::mnist(&pixels, &labels));
        }
    }
}

#[test]
fn an_error_of_a_file_has_what_the_system_said_as_its_source() {
    use std::error::Error as _;
    let folder = tempfile::tempdir().unwrap();
    let none = folder.path().join("none.safetensors");
    let errors = [
        Transformer::load(&none).unwrap_err(),
        onelens::lens::Moments::load(&none).unwrap_err(),
        onelens::data::Corpus::open(&none).unwrap_err(),
        onelens::data::Tokenizer::open(&none).unwrap_err(),
        onelens::lens::Moments::new(1, 1).save(none.join("below/it")).unwrap_err(),
    ];
    for e in errors {
        assert_eq!(e.kind(), onelens::ErrorKind::File, "{e}");
        let io = e.source().and_then(|e| e.downcast_ref::<std::io::Error>()).unwrap_or_else(|| panic!("{e}"));
        assert_eq!(io.kind(), std::io::ErrorKind::NotFound);
        assert!(e.what().contains("No such file or directory"), "{e}");
    }
    assert!(Transformer::new(Config { n_heads: 0, ..Default::default() }).unwrap_err().source().is_none());
}
