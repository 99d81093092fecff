//! Our side of the comparison `lens`: writes a model's activations for the peer, and does the same work on them.
//!
//! usage: `lens prepare FOLDER characters|stories [DATA]`, then `lens refined FOLDER EPOCHS`, or `lens WORK FOLDER`
//! with WORK one of `closed`, `family`, `ridge`, `push`. Prints JSON with the seconds; lenses go to `FOLDER/WORK.f64`,
//! for each stream `A` and then `b`.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use onelens::data::{Corpus, PieceTokenizer, Source};
use onelens::lens::{
    GroupedMoments, LayerLenses, LayerMoments, Moments, Refine, Ridge, RidgePath, Scale, Target, Towards,
    Transfer,
};
use onelens::model::{Config, Norm, Provenance, Training, Transformer};
use onelens::ndarray::{Array2, s};
use onelens::num::{matmul, rng};
use rayon::prelude::*;
use serde_json::json;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// After the epochs of a refinement that is as near the optimum as Adam comes in 600 steps.
const PASSES: usize = 2;
/// With it most layers read held-out text a little better.
const LAMBDA: f64 = 3e-5;

fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["prepare", folder, "characters"] => prepare_characters(Path::new(folder)),
        ["prepare", folder, "stories", data] => prepare_stories(Path::new(folder), Path::new(data)),
        [work, folder] if work != "refined" => measure(work, Path::new(folder), 0),
        ["refined", folder, epochs] => measure("refined", Path::new(folder), epochs.parse()?),
        _ => Err("usage: lens prepare FOLDER characters|stories [DATA], lens refined FOLDER EPOCHS, or lens WORK FOLDER".into()),
    }
}

/// Six blocks of width 64 on Rust source; 672 sequences of 64 tokens to fit, 128 held out.
fn prepare_characters(folder: &Path) -> Outcome<()> {
    let corpus = Corpus::rust_source()?;
    let config = Config { d_vocab: corpus.d_vocab(), ..Default::default() };
    let mut model = Transformer::new(config)?;
    let training = Training { steps: 700, ..Default::default() };
    let log = model.train(&corpus, &training)?;
    model.save(folder.join("model.safetensors"), &Provenance::trained(&corpus, &training, &log))?;
    let train = corpus.sample(672, 64, &mut rng(1, 0))?;
    write_activations(folder, &model, &train, &corpus.sample_held_out(128, 64, &mut rng(1, 1))?)
}

/// stories260K on the first 200 stories of at least 192 tokens, cut there; the next 50 are held out.
fn prepare_stories(folder: &Path, data: &Path) -> Outcome<()> {
    let model = Transformer::from_llama2c(data.join("stories260k/stories260K.bin"))?;
    let pieces = PieceTokenizer::open(data.join("stories260k/tok512.bin"))?;
    let text = std::fs::read_to_string(data.join("tinystories/tinystories_1000.json"))?;
    let stories: Vec<String> = serde_json::from_str(&text)?;
    let long: Vec<Vec<u32>> =
        stories.iter().map(|s| pieces.encode(s)).filter(|t| t.len() >= 192).take(250).collect();
    let all = Array2::from_shape_fn((long.len(), 192), |(i, t)| long[i][t]);
    model.save(folder.join("model.safetensors"), &Provenance::default())?;
    write_activations(
        folder,
        &model,
        &all.slice(s![..200, ..]).to_owned(),
        &all.slice(s![200.., ..]).to_owned(),
    )
}

fn write_activations(
    folder: &Path,
    model: &Transformer,
    train: &Array2<u32>,
    held_out: &Array2<u32>,
) -> Outcome<()> {
    let numbers = |name: &str, numbers: &mut dyn Iterator<Item = f32>| -> std::io::Result<()> {
        let mut file = std::io::BufWriter::new(std::fs::File::create(folder.join(name))?);
        for x in numbers {
            file.write_all(&x.to_le_bytes())?;
        }
        file.flush()
    };
    for (name, tokens) in [("train", train), ("held_out", held_out)] {
        let streams = streams(model, tokens)?;
        numbers(&format!("{name}.f32"), &mut streams.iter().flatten().copied())?;
        let bytes: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
        std::fs::write(folder.join(format!("{name}.u32")), bytes)?;
    }
    let p = &model.params;
    numbers("unembedding.f32", &mut p.unembedding().iter().copied())?;
    numbers("b_u.f32", &mut p.b_u.iter().copied())?;
    numbers("gain.f32", &mut p.ln_final_w.iter().copied())?;
    numbers("bias.f32", &mut p.ln_final_b.iter().copied())?;
    let c = &model.config;
    let about = json!({
        "streams": c.n_layers + 1, "width": c.d_model, "vocabulary": c.d_vocab, "eps": c.eps,
        "norm": if c.norm == Norm::Rms { "rms" } else { "layer" },
        "train": train.dim(), "held_out": held_out.dim(),
    });
    Ok(std::fs::write(folder.join("about.json"), about.to_string())?)
}

/// `h_0 ..= h_L`, each `[tokens, d_model]`.
fn streams(model: &Transformer, tokens: &Array2<u32>) -> Outcome<Vec<Array2<f32>>> {
    let (_, cache) = model.run_with_cache_of(tokens, &[], &|hook| {
        let name = hook.to_string();
        name == "blocks.0.hook_resid_pre" || name.ends_with("hook_resid_post")
    })?;
    let mut all = vec![cache.resid_pre(0)?];
    for l in 0..model.config.n_layers {
        all.push(cache.resid_post(l)?);
    }
    let shape = (tokens.len(), model.config.d_model);
    Ok(all.into_iter().map(|h| h.into_shape_with_order(shape)).collect::<Result<_, _>>()?)
}

fn measure(work: &str, folder: &Path, epochs: usize) -> Outcome<()> {
    let model = Transformer::load(folder.join("model.safetensors"))?;
    let about: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("about.json"))?)?;
    let n_seqs = about["train"][0].as_u64().ok_or("no number of sequences")? as usize;
    let bytes = std::fs::read(folder.join("train.u32"))?;
    let tokens: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
    let tokens = Array2::from_shape_vec((n_seqs, tokens.len() / n_seqs), tokens)?;
    let ridge = Ridge::default();
    let seconds = match work {
        "closed" => {
            let streams = streams(&model, &tokens)?;
            let mut lenses = Vec::new();
            let seconds = median(5, || {
                lenses = moments_of(&streams)?.iter().map(|m| ridge.fit(m)).collect::<Result<_, _>>()?;
                Ok(())
            })?;
            write_lenses(&folder.join("closed.f64"), &lenses)?;
            seconds
        }
        // From tokens on.
        "refined" => {
            let begin = Instant::now();
            // As the recipe reads them: streams as they are.
            let moments = LayerMoments::collect_with(&model, &tokens, Scale::AsItIs, Target::Residual)?;
            let tuned = Refine { epochs, lbfgs_steps: PASSES, lambda: LAMBDA, ..Refine::default() }.fit(
                &model,
                &ridge.own(&moments)?,
                &moments,
                &tokens,
            )?;
            let seconds = begin.elapsed().as_secs_f64();
            let lenses: Vec<_> = (0..tuned.lenses.len()).filter_map(|l| tuned.lenses.layer(l)).collect();
            write_lenses(&folder.join(format!("{work}.f64")), &lenses)?;
            seconds
        }
        // The whole family, and what it is to be compared with: one closed-form fit of all layers. Both from tokens on.
        "family" => {
            let lambdas: Vec<f64> = (0..30).map(|i| 10_f64.powf(-8.0 + i as f64 / 3.0)).collect();
            let one = median(3, || {
                ridge.own(&LayerMoments::collect(&model, &tokens)?)?;
                Ok(())
            })?;
            let family = median(3, || {
                let groups = GroupedMoments::collect(&model, &tokens, 5)?;
                let moments = groups.all()?;
                let own = ridge.own(&moments)?;
                let _: [LayerLenses; 2] = [ridge.shared(&moments)?, ridge.left_out(&moments)?];
                groups.choose_ridge(&lambdas, Towards::Identity)?;
                Transfer::mse(&moments, &own)?;
                Ok(())
            })?;
            println!("{}", json!({ "seconds": family, "one_fit": one }));
            return Ok(());
        }
        // One stream, least squares from given matrices, in f64 from f32 moments.
        "ridge" => {
            let streams = streams(&model, &tokens)?;
            let (x, z) = (&streams[1], &streams[streams.len() - 1]);
            let ridge = Ridge { lambda: 1e-4, towards: Towards::Zero };
            let mut lenses = Vec::new();
            let seconds = median(9, || {
                let d = x.ncols();
                let m = moments_in_parts(x, z, Moments::new(d, d))?;
                lenses = vec![ridge.fit(&m)?];
                Ok(())
            })?;
            let path =
                RidgePath::new(&moments_in_parts(x, z, Moments::new(x.ncols(), x.ncols()))?, Towards::Zero)?;
            write_lenses(&folder.join("ridge.f64"), &lenses)?;
            println!("{}", json!({ "seconds": seconds, "condition": path.conditioning().condition_number }));
            return Ok(());
        }
        // One thread each: a push into moments, and the three f32 products of its shape.
        "push" => {
            let streams = streams(&model, &tokens)?;
            let (x, z) = (&streams[1], &streams[streams.len() - 1]);
            let d = x.ncols();
            let push = median(15, || {
                Moments::new(d, d).push(x.view(), z.view())?;
                Ok(())
            })?;
            let products = median(15, || {
                for (a, b) in [(x, x), (z, x), (z, z)] {
                    std::hint::black_box(matmul(a.t(), b.view()));
                }
                Ok(())
            })?;
            println!("{}", json!({ "seconds": push, "products": products }));
            return Ok(());
        }
        other => return Err(format!("no work is called {other}").into()),
    };
    println!("{}", json!({ "seconds": seconds }));
    Ok(())
}

fn moments_of(streams: &[Array2<f32>]) -> Outcome<Vec<Moments>> {
    let last = &streams[streams.len() - 1];
    let d = last.ncols();
    let all: Result<Vec<Moments>, onelens::Error> = streams
        .par_iter()
        .map(|x| {
            let mut m = Moments::new(d, d);
            m.push(x.view(), last.view())?;
            Ok(m)
        })
        .collect();
    Ok(all?)
}

/// Halves of the rows on two threads, merged: what moments are for.
fn moments_in_parts(x: &Array2<f32>, z: &Array2<f32>, empty: Moments) -> Outcome<Moments> {
    let half = x.nrows() / 2;
    let part = |rows: std::ops::Range<usize>| {
        let mut m = empty.clone();
        m.push(x.slice(s![rows.clone(), ..]), z.slice(s![rows, ..])).map(|()| m)
    };
    let (a, b) = rayon::join(|| part(0..half), || part(half..x.nrows()));
    let mut m = a?;
    m.merge(&b?)?;
    Ok(m)
}

fn write_lenses(path: &Path, lenses: &[onelens::lens::AffineLens]) -> Outcome<()> {
    let bytes: Vec<u8> =
        lenses.iter().flat_map(|l| l.a.iter().chain(&l.b)).flat_map(|x| x.to_le_bytes()).collect();
    Ok(std::fs::write(path, bytes)?)
}

/// Median seconds of `n` runs after one that warms up.
fn median(n: usize, mut run: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    run()?;
    let mut seconds = Vec::new();
    for _ in 0..n {
        let begin = Instant::now();
        run()?;
        seconds.push(begin.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[n / 2])
}
