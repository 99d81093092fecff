//! One row of `benches/peers/train.py`: does the work and prints what it took, and what came out, as JSON.
//!
//! ```text
//! cargo run -p onelens --example rows -- train V T d L B FILE   # a training step; weights and tokens go to FILE
//! cargo run -p onelens --example rows -- cache V T d L B FILE   # a forward pass that keeps every activation
//! cargo run -p onelens --example rows -- peak                   # what the gemm crate reaches on all threads
//! ```
//!
//! Threads are those of `RAYON_NUM_THREADS`.

#[path = "peak.rs"]
mod peak;

use std::time::Instant;

use onelens::data::{Source, Tokens};
use onelens::model::{Config, Hook, Provenance, Training, TrainingRun, Transformer};
use onelens::ndarray::{Array2, ArrayD};
use onelens::num::{Rng, rng, uniform_index};
use onelens::session::{Bundle, Sink, set_sink};
use onelens::{Error, ErrorKind, Result};
use peak::gemm_peak;
use serde_json::{Value, json};

/// The same batch again and again, so that the peer can be given it too.
struct Fixed(Array2<u32>, usize);

impl Source for Fixed {
    fn d_vocab(&self) -> usize {
        self.1
    }

    fn sample(&self, _: usize, _: usize, _: &mut Rng) -> Result<Array2<u32>> {
        Ok(self.0.clone())
    }

    fn sample_held_out(&self, _: usize, _: usize, _: &mut Rng) -> Result<Array2<u32>> {
        Ok(self.0.clone())
    }

    fn true_conditional(&self, _: &dyn Tokens) -> Option<Array2<f64>> {
        None
    }

    fn token_text(&self, token: u32) -> String {
        token.to_string()
    }

    fn describe(&self) -> String {
        "one random batch".into()
    }
}

/// Progress is not part of the work.
struct Silent;

impl Sink for Silent {
    fn display(&mut self, _: &Bundle, _: Option<&str>, _: bool) {}
    fn clear(&mut self, _: bool) {}
}

const WARM_UP: usize = 3;

/// As many steps as take about a second here.
fn n_steps(config: &Config, tokens: &Array2<u32>) -> usize {
    let weights = config.n_layers * 12 * config.d_model * config.d_model;
    (4_000_000_000 / (weights * tokens.len())).clamp(5, 20)
}

fn train(model: Transformer, tokens: Array2<u32>) -> Result<Value> {
    // A constant rate: the schedule is not what is compared.
    let n_steps = n_steps(&model.config, &tokens);
    let how = Training { steps: WARM_UP + n_steps, warmup: 0, lr: 1e-3, ..Default::default() };
    let source = Fixed(tokens, model.config.d_vocab);
    let mut run = TrainingRun::new(model, &how)?;
    run.train_to(&source, WARM_UP)?;
    let start = Instant::now();
    run.train_to(&source, WARM_UP + n_steps)?;
    let ms = start.elapsed().as_secs_f64() * 1e3 / n_steps as f64;
    Ok(json!({ "ms": ms, "losses": run.log().losses }))
}

const CACHED: usize = 20;

fn cache(model: &Transformer, tokens: &Array2<u32>) -> Result<Value> {
    for _ in 0..WARM_UP {
        model.run_with_cache(tokens)?;
    }
    let start = Instant::now();
    for _ in 0..CACHED {
        model.run_with_cache(tokens)?;
    }
    let ms = start.elapsed().as_secs_f64() * 1e3 / CACHED as f64;
    let (logits, cache) = model.run_with_cache(tokens)?;
    let size = |a: &ArrayD<f32>| a.iter().map(|&x| f64::from(x).abs()).sum::<f64>() / a.len() as f64;
    let kept: Vec<(String, f64)> = cache
        .hooks()
        .into_iter()
        .filter(|h| !matches!(h, Hook::AttnScores(_))) // minus infinity where the mask hides
        .map(|h| Ok((h.to_string(), size(&cache.get(h)?))))
        .collect::<Result<_>>()?;
    Ok(json!({ "ms": ms, "hooks": cache.hooks().len(), "logits": size(&logits.into_dyn()), "kept": kept }))
}

fn main() -> Result<()> {
    set_sink(Box::new(Silent));
    let args: Vec<String> = std::env::args().skip(1).collect();
    let usage = || {
        let what = format!("`rows {}` is no row", args.join(" "));
        Error::new(ErrorKind::Config, what, "give `train|cache V T d L B FILE`, or `peak`")
    };
    if args == ["peak"] {
        println!("{}", json!({ "gflops": gemm_peak() / 1e9, "threads": rayon::current_num_threads() }));
        return Ok(());
    }
    let [work, sizes @ .., file] = &args[..] else { return Err(usage()) };
    let sizes: Vec<usize> = sizes.iter().map(|s| s.parse()).collect::<Result<_, _>>().map_err(|_| usage())?;
    let [d_vocab, n_ctx, d_model, n_layers, batch] = sizes[..] else { return Err(usage()) };
    let (n_heads, d_head, d_mlp) = (4, d_model / 4, 4 * d_model);
    let config = Config { d_vocab, n_ctx, d_model, n_layers, n_heads, d_head, d_mlp, ..Default::default() };
    let model = Transformer::new(config)?;
    let draw = &mut rng(1, 0);
    // For a forward pass one position fewer: there is nothing to predict.
    let n_pos = if work == "train" { n_ctx + 1 } else { n_ctx };
    let tokens = Array2::from_shape_simple_fn((batch, n_pos), || uniform_index(draw, d_vocab) as u32);
    model.save(file, &Provenance::default())?;
    let flat: Vec<u32> = tokens.iter().copied().collect();
    std::fs::write(format!("{file}.tokens"), json!(flat).to_string())
        .map_err(|e| Error::new(ErrorKind::File, format!("{file}.tokens: {e}"), "choose another FILE"))?;
    let out = match work.as_str() {
        "train" => train(model, tokens)?,
        "cache" => cache(&model, &tokens)?,
        _ => return Err(usage()),
    };
    println!("{out}");
    Ok(())
}
