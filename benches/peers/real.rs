//! Our side of `benches/peers/real.py`: opens a model, does the work several times, and prints what it took and what
//! came out, as JSON.
//!
//! ```text
//! real_peer shape FILE                      # saves a network of the shape of GPT-2 small, with chance weights
//! real_peer forward|cache MODEL TOKENS N    # N passes over the rows of tokens in the JSON file
//! real_peer forward_bf16|cache_bf16 MODEL TOKENS N    # the same with products of what is rounded to bf16
//! real_peer share MODEL TOKENS N            # N times a pass, and what gemm reaches for as long at once after it
//! real_peer generate MODEL TOKENS N         # N tokens after the first row, the most probable ones
//! ```

#[path = "../peak.rs"]
mod peak;

use std::path::Path;
use std::time::Instant;

use onelens::language::read_model;
use onelens::model::{Config, Hook, Provenance, Transformer};
use onelens::ndarray::{Array2, ArrayD};
use onelens::num::Precision;
use onelens::{Error, ErrorKind, Result};
use peak::gemm_rate_for;
use serde_json::{Value, json};

/// Of both sides: the first is of caches and page tables.
const WARM_UP: usize = 1;

/// Mean seconds of `n` runs of `work`, and what the last gave. What one gave is gone before the next begins.
fn timed<T>(n: usize, work: impl Fn() -> Result<T>) -> Result<(f64, T)> {
    for _ in 0..WARM_UP {
        work()?;
    }
    let begin = Instant::now();
    for _ in 1..n {
        work()?;
    }
    let last = work()?;
    Ok((begin.elapsed().as_secs_f64() / n as f64, last))
}

fn size(a: &ArrayD<f32>) -> f64 {
    a.iter().map(|&x| f64::from(x).abs()).sum::<f64>() / a.len() as f64
}

fn shape(file: &str) -> Result<Value> {
    let config = Config {
        d_vocab: 50257,
        n_ctx: 128,
        d_model: 768,
        n_layers: 12,
        n_heads: 12,
        d_head: 64,
        d_mlp: 3072,
        ..Default::default()
    };
    Transformer::new(config)?.save(file, &Provenance::default())?;
    Ok(json!(file))
}

fn run(work: &str, model: &str, tokens: &str, n: usize) -> Result<Value> {
    let wrong = |why: String| Error::new(ErrorKind::File, why, "give rows of tokens as a JSON file");
    let text = std::fs::read_to_string(tokens).map_err(|e| wrong(format!("{tokens}: {e}")))?;
    let rows: Vec<Vec<u32>> = serde_json::from_str(&text).map_err(|e| wrong(format!("{tokens}: {e}")))?;
    let width = rows.first().map_or(0, Vec::len);
    let flat: Vec<u32> = rows.concat();
    let tokens =
        Array2::from_shape_vec((rows.len(), width), flat).map_err(|e| wrong(format!("{tokens}: {e}")))?;
    let begin = Instant::now();
    let model = read_model(Path::new(model))?;
    let opened = begin.elapsed().as_secs_f64();
    let precision = if work.ends_with("_bf16") { Precision::Bf16 } else { Precision::F32 };
    match work {
        "forward" | "forward_bf16" => {
            let (seconds, logits) = timed(n, || model.pass(&tokens).precision(precision).logits())?;
            Ok(json!({ "opened": opened, "seconds": seconds, "logits": size(&logits.into_dyn()) }))
        }
        "share" => {
            let one = || timed(1, || model.pass(&tokens).precision(precision).logits());
            let pairs = (0..n).map(|_| one().map(|(seconds, _)| [seconds, gemm_rate_for(seconds) / 1e9]));
            Ok(json!({ "opened": opened, "pairs": pairs.collect::<Result<Vec<_>>>()? }))
        }
        "cache" | "cache_bf16" => {
            let pass = model.pass(&tokens).precision(precision);
            // What `run_with_cache` keeps, on both sides: nobody computes what single heads add unless asked.
            let keep = |hook| !matches!(hook, Hook::Result(_));
            let (seconds, (logits, cache)) = timed(n, || pass.logits_and_cache(&keep))?;
            let hooks = cache.hooks();
            // Scores are minus infinity where the mask hides.
            let finite = hooks.iter().filter(|h| !matches!(h, Hook::AttnScores(_)));
            let kept: Vec<(String, f64)> =
                finite.map(|&h| Ok((h.to_string(), size(&cache.get(h)?)))).collect::<Result<_>>()?;
            Ok(json!({
                "opened": opened, "seconds": seconds, "logits": size(&logits.into_dyn()), "hooks": hooks.len(),
                "kept": kept,
            }))
        }
        "generate" => {
            let prompt = tokens.row(0).to_vec();
            let (seconds, all) = timed(1, || model.generate_greedy(&prompt, n))?;
            Ok(json!({ "opened": opened, "seconds": seconds, "tokens": all }))
        }
        _ => Err(Error::new(ErrorKind::Config, format!("`{work}` is no row"), "see the head of real.rs")),
    }
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let out = match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["shape", file] => shape(file)?,
        [work, model, tokens, n] => run(work, model, tokens, n.parse().unwrap_or(1))?,
        _ => json!("run by benches/peers/compare.py real"),
    };
    println!("{out}");
    Ok(())
}
