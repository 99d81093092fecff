//! Weight files: what is written is read back, real models give the numbers they are known for, and damage is refused.

use std::path::Path;
use std::sync::OnceLock;

use ndarray::{Array2, Axis};
use onelens::data::PieceTokenizer;
use onelens::language::LanguageModel;
use onelens::model::{Bias, Blocks, Config, Mlp, Norm, Provenance, Transformer};
use onelens::{Error, ErrorKind};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};

use crate::common;

fn small() -> Config {
    Config {
        d_vocab: 7,
        n_ctx: 6,
        d_model: 8,
        n_layers: 2,
        n_heads: 2,
        d_head: 4,
        d_mlp: 12,
        seed: 3,
        ..Default::default()
    }
}

#[test]
fn a_saved_network_is_read_back_bit_for_bit_with_where_it_comes_from() {
    let folder = tempfile::tempdir().unwrap();
    let configs = [
        small(),
        Config {
            norm: Norm::Rms,
            mlp: Mlp::SwiGlu,
            bias: Bias::NONE,
            tied: true,
            n_kv_heads: Some(1),
            ..small()
        },
        Config { eps: 0.1 + 0.2, blocks: Blocks::Looped { inject: true }, mlp: Mlp::None, ..small() },
    ];
    for (i, config) in configs.into_iter().enumerate() {
        let path = folder.path().join(format!("{i}.safetensors"));
        let model = Transformer::new(config).unwrap();
        let provenance =
            Provenance { data: "nothing".into(), seed: u64::MAX, steps: i, ..Default::default() };
        model.save(&path, &provenance).unwrap();
        assert!(Transformer::load(&path).unwrap() == model);
        assert_eq!(Provenance::of_file(&path).unwrap(), provenance);
        let again = folder.path().join("again.safetensors");
        model.save(&again, &provenance).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), std::fs::read(again).unwrap(), "the same file every time");
    }
}

/// A saved network, as bytes.
fn saved() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        Transformer::new(small()).unwrap().save(&path, &Provenance::default()).unwrap();
        std::fs::read(path).unwrap()
    })
}

fn load_bytes(bytes: &[u8]) -> Result<Transformer, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b.safetensors");
    std::fs::write(&path, bytes).unwrap();
    Transformer::load(path)
}

#[test]
fn a_damaged_file_is_told_from_a_whole_one() {
    let whole = saved();
    assert!(load_bytes(whole).is_ok());
    let mut flipped = whole.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    assert!(load_bytes(&flipped).unwrap_err().what().contains("checksum"));
    let text = String::from_utf8_lossy(whole);
    let at = text.find(r#"\"n_ctx\":6"#).unwrap() + r#"\"n_ctx\":"#.len();
    let mut other = whole.to_vec();
    other[at] = b'5';
    assert!(load_bytes(&other).unwrap_err().what().contains("checksum"));
    for len in [0, 7, 8, 100, whole.len() - 1] {
        assert_eq!(load_bytes(&whole[..len]).unwrap_err().kind(), ErrorKind::File, "{len}");
    }
    let longer = [whole, &[0]].concat();
    assert_eq!(load_bytes(&longer).unwrap_err().kind(), ErrorKind::File);
}

#[test]
fn hostile_headers_are_refused_without_a_panic() {
    let deep = "[".repeat(100_000);
    let headers = [
        deep.clone(),
        format!("{{\"a\":{deep}"),
        r#"{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,8]}}"#.into(),
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#.into(),
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#.into(),
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615]}}"#.into(),
        r#"{"__metadata__":{"onelens":"[[[["}}"#.into(),
        r#"{"__metadata__":{"onelens":"{\"version\":1,\"crc32\":0}"}}"#.into(),
    ];
    for header in headers {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 8]);
        let shown = &header[..header.len().min(80)];
        assert_eq!(load_bytes(&bytes).unwrap_err().kind(), ErrorKind::File, "{shown}");
    }
    // A header longer than the file, or than any number can say.
    for n in [u64::MAX, 1 << 40, 9] {
        assert!(load_bytes(&[&n.to_le_bytes()[..], b"{}"].concat()).is_err());
    }
}

/// Name, type, shape and bytes of a tensor to be written.
type Stored = (String, Dtype, Vec<usize>, Vec<u8>);

/// A Llama folder of zeros, with these changes to its configuration and its tensors.
fn llama_folder(
    folder: &Path,
    settings: &[(&str, serde_json::Value)],
    edit: impl Fn(&mut Vec<Stored>),
) -> Result<Transformer, Error> {
    let mut config = serde_json::json!({
        "model_type": "llama", "vocab_size": 5, "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 8,
    });
    for (name, value) in settings {
        config[*name] = value.clone();
    }
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let shapes: [(&str, &[usize]); 12] = [
        ("model.embed_tokens.weight", &[5, 4]),
        ("model.layers.0.input_layernorm.weight", &[4]),
        ("model.layers.0.self_attn.q_proj.weight", &[4, 4]),
        ("model.layers.0.self_attn.k_proj.weight", &[2, 4]),
        ("model.layers.0.self_attn.v_proj.weight", &[2, 4]),
        ("model.layers.0.self_attn.o_proj.weight", &[4, 4]),
        ("model.layers.0.post_attention_layernorm.weight", &[4]),
        ("model.layers.0.mlp.gate_proj.weight", &[6, 4]),
        ("model.layers.0.mlp.up_proj.weight", &[6, 4]),
        ("model.layers.0.mlp.down_proj.weight", &[4, 6]),
        ("model.norm.weight", &[4]),
        ("lm_head.weight", &[5, 4]),
    ];
    let mut tensors: Vec<_> = shapes
        .iter()
        .map(|(name, shape)| {
            let n: usize = shape.iter().product();
            (name.to_string(), Dtype::F32, shape.to_vec(), vec![0_u8; 4 * n])
        })
        .collect();
    edit(&mut tensors);
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, b)| (name, TensorView::new(*dtype, shape.clone(), b).unwrap()));
    std::fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    Transformer::from_hugging_face(folder)
}

#[test]
fn the_first_tensor_that_is_wrong_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    assert!(llama_folder(folder, &[], |_| {}).is_ok());
    let what = |edit: &dyn Fn(&mut Vec<Stored>)| llama_folder(folder, &[], edit).unwrap_err().to_string();
    let e = what(&|t| t[3].2 = vec![4, 2]);
    assert!(e.contains("`model.layers.0.self_attn.k_proj.weight` as [4, 2] where [2, 4]"), "{e}");
    let e = what(&|t| t[2].0 = "model.layers.0.self_attn.q_proj.weights".into());
    assert!(
        e.contains("no tensor `model.layers.0.self_attn.q_proj.weight`") && e.contains("q_proj.weights`"),
        "{e}"
    );
    let e = what(&|t| t[10].3[8..12].copy_from_slice(&f32::NAN.to_le_bytes()));
    assert!(e.contains("NaN in `model.norm.weight`, number 2"), "{e}");
    let e = what(&|t| t.push(("extra".into(), Dtype::F32, vec![1], vec![0; 4])));
    assert!(e.contains("`extra`, for which this architecture has no place"), "{e}");
    let e = what(&|t| t[10].1 = Dtype::I32);
    assert!(e.contains("`model.norm.weight` as I32"), "{e}");
}

#[test]
fn settings_that_are_not_computed_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for (name, value) in [
        ("model_type", serde_json::json!("mamba")),
        ("hidden_act", serde_json::json!("gelu")),
        ("rope_scaling", serde_json::json!({"rope_type": "longrope", "factor": 8.0})),
        ("rope_parameters", serde_json::json!({"rope_type": "yarn"})),
        ("vocab_size", serde_json::json!(-5)),
        ("hidden_size", serde_json::json!("four")),
        ("rms_norm_eps", serde_json::json!([])),
    ] {
        let e = llama_folder(folder.path(), &[(name, value)], |_| {}).unwrap_err();
        assert!(e.what().contains(name) && !e.help().is_empty(), "{name}: {e}");
    }
}

#[test]
fn a_configuration_larger_than_its_weights_allocates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // Sixteen million layers of sixteen million dimensions: more than any memory. The file holds two embeddings of 20
    // numbers, three gains of 4, attention's 16 + 8 + 8 + 16 and the MLP's 3 · 24: 172.
    let huge = serde_json::json!(1 << 24);
    let settings: Vec<_> = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"]
        .into_iter()
        .map(|name| (name, huge.clone()))
        .collect();
    let e = llama_folder(folder.path(), &settings, |_| {}).unwrap_err();
    assert!(e.what().contains("and holds 172"), "{e}");
}

#[test]
fn half_precision_is_widened_exactly_and_a_tied_head_that_differs_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    // 1.5 is 0x3E00 as f16 and 0x3FC0 as bf16; -2^-24, the smallest f16, is 0x8001.
    let model = llama_folder(folder.path(), &[], |t| {
        (t[1].1, t[1].3) =
            (Dtype::F16, [0x3E00_u16, 0x8001, 0, 0x3C00].iter().flat_map(|x| x.to_le_bytes()).collect());
        (t[6].1, t[6].3) =
            (Dtype::BF16, [0x3FC0_u16, 0xBF80, 0, 0x0001].iter().flat_map(|x| x.to_le_bytes()).collect());
    })
    .unwrap();
    let block = &model.params.blocks[0];
    assert_eq!(block.ln1_w.to_vec(), [1.5, -(2_f32.powi(-24)), 0.0, 1.0]);
    assert_eq!(block.ln2_w.to_vec(), [1.5, -1.0, 0.0, 2_f32.powi(-133)]);

    let tied = [("tie_word_embeddings", serde_json::json!(true))];
    assert!(llama_folder(folder.path(), &tied, |_| {}).is_ok());
    let e = llama_folder(folder.path(), &tied, |t| t[11].3[3] = 64).unwrap_err();
    assert!(e.what().contains("`lm_head.weight` is not the embedding"), "{e}");
}

#[test]
fn shards_are_read_together_and_stay_in_their_folder() {
    let folder = tempfile::tempdir().unwrap();
    let whole = llama_folder(folder.path(), &[], |t| t[0].3[3] = 64).unwrap();
    let bytes = std::fs::read(folder.path().join("model.safetensors")).unwrap();
    let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut map = serde_json::Map::new();
    for (i, part) in ["a.safetensors", "b.safetensors"].into_iter().enumerate() {
        let views: Vec<_> =
            all.tensors().into_iter().enumerate().filter(|(at, _)| at % 2 == i).map(|(_, t)| t).collect();
        views.iter().for_each(|(name, _)| drop(map.insert(name.clone(), part.into())));
        std::fs::write(folder.path().join(part), safetensors::serialize(views, None).unwrap()).unwrap();
    }
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let index = folder.path().join("model.safetensors.index.json");
    std::fs::write(&index, serde_json::json!({ "weight_map": map }).to_string()).unwrap();
    assert!(Transformer::from_hugging_face(folder.path()).unwrap() == whole);
    for name in ["../a.safetensors", "/etc/passwd", "..", ""] {
        std::fs::write(&index, serde_json::json!({ "weight_map": { "x": name } }).to_string()).unwrap();
        assert!(Transformer::from_hugging_face(folder.path()).is_err(), "{name:?}");
    }
}

/// The model that everybody can check, with its tokenizer and the first stories it was trained on.
fn stories() -> Option<(Transformer, PieceTokenizer, Vec<String>)> {
    let folder = common::data("stories260k")?;
    let model = Transformer::from_llama2c(folder.join("stories260K.bin")).unwrap();
    let tokenizer = PieceTokenizer::open(folder.join("tok512.bin")).unwrap();
    let stories = std::fs::read(common::data("tinystories")?.join("tinystories_1000.json")).unwrap();
    Some((model, tokenizer, serde_json::from_slice(&stories).unwrap()))
}

#[test]
fn stories260k_has_the_loss_it_is_known_for() {
    let Some((model, tokenizer, stories)) = stories() else { return };
    assert_eq!((tokenizer.len(), model.config.n_kv_heads()), (512, 4));
    let rows: Vec<u32> = stories[..4].iter().flat_map(|s| tokenizer.encode(s)[..160].to_vec()).collect();
    let tokens = Array2::from_shape_vec((4, 160), rows).unwrap();
    // 4 · 159 = 636 predictions; the figure comes with the data.
    let loss = model.loss(&tokens).unwrap();
    assert!((loss - 1.3105).abs() < 5e-4, "{loss}");
    // Sequences do not see each other.
    assert!((model.loss(&tokens.select(Axis(0), &[3, 1, 0, 2])).unwrap() - loss).abs() < 1e-6);
}

/// The folder in which people keep a model of llama2.c, or a GGUF file, is as good as the file.
#[test]
fn a_folder_with_one_file_of_weights_is_that_model() {
    let Some(folder) = common::data("stories260k") else { return };
    let text = "Once upon a time";
    let (by_folder, by_file) =
        (LanguageModel::open(&folder), LanguageModel::open(folder.join("stories260K.bin")));
    let (by_folder, by_file) = (by_folder.unwrap(), by_file.unwrap());
    assert_eq!(by_folder.name, "stories260K");
    assert_eq!(by_folder.loss(text).unwrap(), by_file.loss(text).unwrap());
    let two = tempfile::tempdir().unwrap();
    for name in ["a.bin", "b.gguf", "tok512.bin", "notes.txt"] {
        std::fs::write(two.path().join(name), "").unwrap();
    }
    let e = LanguageModel::open(two.path()).unwrap_err().to_string();
    assert!(e.contains("2 models: a.bin, b.gguf") && e.contains("name one"), "{e}");
}

#[test]
fn stories260k_writes_on_and_its_tokenizer_is_lossless() {
    let Some((model, tokenizer, stories)) = stories() else { return };
    for story in &stories[..50] {
        assert_eq!(&tokenizer.decode(tokenizer.encode(story)), story);
    }
    let text = tokenizer.decode([&[1], &model.generate_greedy([1], 200).unwrap()[..]].concat());
    // What `./run stories260K.bin -z tok512.bin -t 0.0 -n 200` of llama2.c prints, by its own tests.
    let start = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she \
                 saw a big, red ball. She wanted to play with it, but it was too high.\nLily's mom said, \"Lily, let's go to \
                 the park.\" Lily was sad and didn't know what to do.";
    assert!(text.starts_with(start), "{text}");
    assert!(text.ends_with("Lily didn't want to help her mom, so she"), "{text}");
}

#[test]
fn a_llama2c_file_that_is_cut_off_or_lies_is_refused() {
    let Some(folder) = common::data("stories260k") else { return };
    let whole = std::fs::read(folder.join("stories260K.bin")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.bin");
    let read = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Transformer::from_llama2c(&path)
    };
    for len in [0, 3, 27, 28, 1000, whole.len() - 4] {
        assert_eq!(read(&whole[..len]).unwrap_err().kind(), ErrorKind::File, "{len}");
    }
    for at in 0..7 {
        for lie in [0, -1, i32::MIN, i32::MAX, 1 << 24, 63] {
            let mut bytes = whole.clone();
            bytes[4 * at..4 * at + 4].copy_from_slice(&i32::to_le_bytes(lie));
            assert_eq!(read(&bytes).unwrap_err().kind(), ErrorKind::File, "header {at}: {lie}");
        }
    }
    let mut nan = whole.clone();
    nan[28..32].copy_from_slice(&f32::INFINITY.to_le_bytes());
    assert!(read(&nan).unwrap_err().what().contains("inf in `embed.W_E`, number 0"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_bytes_make_a_reader_panic(
        edits in proptest::collection::vec((0_usize..4000, any::<u8>()), 0..6),
        len in 0_usize..9000,
        noise in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = saved().to_vec();
        for &(at, byte) in &edits {
            bytes[at] = byte;
        }
        bytes.truncate(len);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        for bytes in [&bytes, &noise] {
            std::fs::write(&path, bytes).unwrap();
            drop((Transformer::load(&path), Transformer::from_llama2c(&path), PieceTokenizer::open(&path)));
            for name in ["config.json", "model.safetensors"] {
                std::fs::write(folder.path().join(name), bytes).unwrap();
            }
            drop(Transformer::from_hugging_face(folder.path()));
        }
    }

    #[test]
    fn no_settings_make_the_hugging_face_reader_panic_or_swallow_memory(
        family in 0_usize..3,
        settings in proptest::collection::vec((0_usize..20, 0_usize..9), 0..6),
    ) {
        let names = [
            "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "max_position_embeddings", "head_dim", "rope_theta", "rms_norm_eps", "n_embd", "n_head",
            "n_layer", "n_positions", "n_inner", "rotary_pct", "rotary_emb_base", "rope_parameters", "layer_norm_epsilon",
            "tie_word_embeddings",
        ];
        let values = [
            serde_json::json!(0), serde_json::json!(-1), serde_json::json!(1), serde_json::json!(3),
            serde_json::json!(u64::MAX), serde_json::json!(1e300), serde_json::json!("x"), serde_json::json!([[]]),
            serde_json::json!({"rope_type": "default", "partial_rotary_factor": -1e9}),
        ];
        let mut chosen: Vec<_> = settings.iter().map(|&(n, v)| (names[n], values[v].clone())).collect();
        chosen.push(("model_type", serde_json::json!(["llama", "gpt2", "gpt_neox"][family])));
        let folder = tempfile::tempdir().unwrap();
        drop(llama_folder(folder.path(), &chosen, |_| {}));
    }
}
