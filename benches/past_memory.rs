//! Moments, a refinement and readings over activations many times larger than the memory that the process may have.
//!
//! ```text
//! cargo build -p onelens --example past_memory
//! (ulimit -v 262144; target/debug/examples/past_memory 20)   # 256 MiB of address space; activations of 20 times that
//! target/debug/examples/past_memory                          # the same pieces on a small text, against all of it at once
//! ```

use std::fs;
use std::path::Path;
use std::time::Instant;

use onelens::data::{TextFiles, Tokenize, Vocab};
use onelens::lens::{LayerMoments, Lens, LogitLens, Refine, Ridge, compare};
use onelens::model::{Config, Transformer};
use onelens::ndarray::Array2;
use onelens::num::{Rng, rng, uniform_index};
use onelens::session::{Bundle, Sink, set_sink};
use onelens::stream::Streaming;
use onelens::{Error, ErrorKind, Result};

/// Tokens of a document, and of a sequence.
const LENGTH: usize = 64;

/// Progress is not part of the work.
struct Silent;

impl Sink for Silent {
    fn display(&mut self, _: &Bundle, _: Option<&str>, _: bool) {}
    fn clear(&mut self, _: bool) {}
}

fn main() -> Result<()> {
    set_sink(Box::new(Silent));
    let folder = std::env::temp_dir().join(format!("onelens-past-memory-{}", std::process::id()));
    let ran = match std::env::args().nth(1).map(|times| times.parse::<f64>()) {
        None => whole_and_in_pieces(&folder),
        Some(Ok(times)) => past_memory(&folder, times),
        Some(Err(e)) => Err(refuse(format!("not a number of times: {e}"))),
    };
    // Whether the text can be removed changes nothing.
    let _ = fs::remove_dir_all(&folder);
    ran
}

fn past_memory(folder: &Path, times: f64) -> Result<()> {
    let limit = address_space()
        .ok_or_else(|| refuse("there is no limit of memory: set one with `ulimit -v`".into()))?;
    let model = model()?;
    let per_token = (model.config.n_layers + 1) * model.config.d_model * size_of::<f32>();
    let n_docs = (times * limit / (per_token * LENGTH) as f64).ceil() as usize;
    write(folder, n_docs)?;
    let n = n_docs * LENGTH;
    let bytes = (n * per_token) as f64;
    let (gib, mib) = (f64::from(1 << 30), f64::from(1 << 20));
    println!(
        "limit {:.0} MiB, {n} tokens, activations {:.2} GiB, {:.1} times the limit",
        limit / mib,
        bytes / gib,
        bytes / limit
    );
    let (texts, vocab) = (TextFiles::open([folder])?, vocab());
    let kept = folder.with_extension("kept");
    let how = Streaming { shard_bytes: 1 << 18, ..Default::default() };
    let moments = timed("moments", n, || how.moments(&model, &vocab, &texts))?;
    let own = Ridge::default().own(&moments)?;
    let refine = Refine { epochs: 1, lbfgs_steps: 1, ..Default::default() };
    let tuned = timed("refinement, 1 epoch and 1 L-BFGS step", n, || {
        let keeping = Streaming { folder: Some(kept.clone()), ..how.clone() };
        keeping.refine(&refine, &model, &vocab, &texts, &own, &moments)
    });
    // Whether the tokens can be removed changes nothing.
    let _ = fs::remove_dir_all(&kept);
    let tuned = tuned?;
    let lenses: [&dyn Lens; 3] = [&LogitLens, &own, &tuned];
    let seen = timed("readings of 3 lenses", n, || how.readings(&model, &vocab, &texts, &lenses))?;
    for lens in &seen.lenses {
        println!(
            "{:12} KL at streams 0, 12, 24: {:.4} {:.4} {:.4} nats",
            lens.name, lens.kl[0], lens.kl[12], lens.kl[24]
        );
    }
    Ok(())
}

/// What a text in many shards gives, against all its sequences in one array.
fn whole_and_in_pieces(folder: &Path) -> Result<()> {
    let (model, n_docs) = (model()?, 500);
    write(folder, n_docs)?;
    let (texts, vocab) = (TextFiles::open([folder])?, vocab());
    let how = Streaming { shard_bytes: 1 << 10, ..Default::default() };
    let tokens = how.sequences(&model, &vocab, &texts, n_docs)?;
    let (whole, pieces) = (LayerMoments::collect(&model, &tokens)?, how.moments(&model, &vocab, &texts)?);
    let off = whole.layers.iter().zip(&pieces.layers).map(|(a, b)| {
        let largest = |m: &Array2<f64>| m.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        largest(&(&a.s_zx - &b.s_zx)) / largest(&a.s_zx)
    });
    println!("moments differ by {:.1e} of the largest", off.fold(0.0, f64::max));
    let own = Ridge::default().own(&whole)?;
    let at_once = compare(&model, &[&own], &whole, &tokens)?;
    let read = how.readings(&model, &vocab, &texts, &[&own])?;
    let kl = at_once.curves[0].kl.iter().zip(&read.lenses[0].kl).map(|(a, b)| (a - b).abs());
    println!("KL differs by {:.1e} nats of at most {:.3}", kl.fold(0.0, f64::max), at_once.curves[0].kl[0]);
    Ok(())
}

/// Wide and shallow blocks: many activations for the work.
fn model() -> Result<Transformer> {
    Transformer::new(Config {
        d_vocab: vocab().d_vocab(),
        n_ctx: LENGTH,
        d_model: 128,
        n_layers: 24,
        n_heads: 1,
        d_head: 32,
        d_mlp: 128,
        ..Default::default()
    })
}

fn vocab() -> Vocab {
    Vocab::from_text(&('a'..='z').collect::<String>(), 1)
}

/// Documents of random letters, a line each.
fn write(folder: &Path, n_docs: usize) -> Result<()> {
    let mut random = rng(0, 0);
    let letter = |random: &mut Rng| char::from(b'a' + uniform_index(random, 26) as u8);
    let failed = |e: std::io::Error| refuse(format!("cannot write below {}: {e}", folder.display()));
    fs::create_dir_all(folder).map_err(failed)?;
    for (i, from) in (0..n_docs).step_by(1 << 14).enumerate() {
        let lines = (from..n_docs.min(from + (1 << 14))).map(|_| {
            let document: String = (0..LENGTH).map(|_| letter(&mut random)).collect();
            format!("\"{document}\"\n")
        });
        fs::write(folder.join(format!("{i:04}.jsonl")), lines.collect::<String>()).map_err(failed)?;
    }
    Ok(())
}

/// Does the work and says how fast, and the most memory that the process has had until then.
fn timed<T>(name: &str, n: usize, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    let result = work()?;
    let seconds = began.elapsed().as_secs_f64();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.map_or("?".into(), |line| line.trim().to_string())
    };
    println!(
        "{name}: {seconds:.1} s, {:.0} tokens a second, most memory {} resident, {} of addresses",
        n as f64 / seconds,
        of("VmHWM:"),
        of("VmPeak:")
    );
    Ok(result)
}

/// What `ulimit -v` allows, in bytes.
fn address_space() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn refuse(what: String) -> Error {
    Error::new(ErrorKind::Config, what, "the head of benches/past_memory.rs says how to start it")
}
