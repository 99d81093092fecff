//! What moments of a layer cost to gather, to merge and to send on this machine, what that adds to a forward pass, and
//! what it would mean for many machines.
//!
//! ```text
//! cargo run -p onelens --example scaling
//! ```
//!
//! Measured: rows pushed by all threads, each with a layer of its own; two moments merged; moments written as bytes and
//! read back (saved and loaded in memory, `/dev/shm`). With `N` tokens in all, `R` processes like this machine, width
//! `d`, `L + 1` streams and a network of `B` bytes a second,
//!
//! ```text
//!  T(R) = N (L + 1) push(d) / R  +  ⌈log2 R⌉ (L + 1) (merge(d) + pack(d) + 24 d² / B)
//! ```
//!
//! since moments are three matrices of `d²` numbers of 8 bytes. The efficiency is `T(1) / (R T(R))`. The model's own
//! work is left out: it is shared without rest, so that it makes efficiencies better. What no formula says: every
//! process holds moments of all streams, once for each level of the tree that it joins.

#[path = "peak.rs"]
mod peak;

use std::path::Path;
use std::time::Instant;

use onelens::Result;
use onelens::lens::{LayerMoments, LogitLens, Moments, compare};
use onelens::model::{Config, Transformer};
use onelens::ndarray::Array2;
use onelens::num::{normal, rng};
use peak::gemm_peak;
use rayon::prelude::*;

/// Bytes a second: Ethernet of 100 Gbit/s at 80 %.
const NETWORK: f64 = 10e9;
/// Rows that a width is measured with.
const ROWS: usize = 512;

/// Tokens in all, and residual streams.
const TOKENS: f64 = 1e7;
const STREAMS: f64 = 33.0;

/// Seconds at one width.
#[derive(Clone, Copy)]
struct Costs {
    d: usize,
    /// A row, of one stream.
    push: f64,
    merge: f64,
    /// To bytes and back.
    pack: f64,
}

fn main() -> Result<()> {
    println!("| d | forward, s | `collect`, s | of the forward pass |\n|---|---|---|---|");
    for d in [576, 1024, 2048] {
        collected(d)?;
    }
    println!("\n| vocabulary | `compare` of one lens, s | share of gemm's peak |\n|---|---|---|");
    for d_vocab in [512, 8192, 49_152] {
        read(d_vocab)?;
    }
    println!();
    println!("| d | push, µs a token and stream | GFLOP/s | merge, ms | pack, ms |\n|---|---|---|---|---|");
    let mut measured = Vec::new();
    for d in [512, 1024, 2048, 4096] {
        let costs = measure(d)?;
        let rate = 6.0 * (d * d) as f64 / costs.push / 1e9;
        let (push, merge, pack) = (costs.push * 1e6, costs.merge * 1e3, costs.pack * 1e3);
        println!("| {d} | {push:.1} | {rate:.0} | {merge:.1} | {pack:.0} |");
        measured.push(costs);
    }
    // All grow as d² where the matrices are larger than caches.
    let Costs { d, push, merge, pack } = measured[measured.len() - 1];
    measured.push(Costs { d: 2 * d, push: 4.0 * push, merge: 4.0 * merge, pack: 4.0 * pack });
    println!(
        "\n| d | moments, GB | T(1), h | R = 4 | 16 | 64 | 256 | 1024 |\n|---|---|---|---|---|---|---|---|"
    );
    for Costs { d, push, merge, pack } in measured {
        let bytes = 24.0 * (d * d) as f64;
        let alone = TOKENS * STREAMS * push;
        let level = STREAMS * (merge + pack + bytes / NETWORK);
        let efficiency = |r: f64| 100.0 * alone / (alone + r * r.log2().ceil() * level);
        let row = [4.0, 16.0, 64.0, 256.0, 1024.0].map(|r| format!("{:.1} %", efficiency(r))).join(" | ");
        println!("| {d} | {:.1} | {:.1} | {row} |", STREAMS * bytes / 1e9, alone / 3600.0);
    }
    Ok(())
}

/// Moments of all streams of a network of four blocks, beside its forward pass, and a row of the table of them.
fn collected(d: usize) -> Result<()> {
    const BLOCKS: usize = 4;
    let config = Config {
        d_vocab: 512,
        n_ctx: 256,
        d_model: d,
        n_heads: d / 64,
        d_head: 64,
        d_mlp: 4 * d,
        n_layers: BLOCKS,
        ..Config::default()
    };
    let model = Transformer::new(config)?;
    let tokens = Array2::from_shape_fn((32, 256), |(i, t)| ((i * 31 + t * 7) % 512) as u32);
    let forward = median(|| model.forward(&tokens).map(drop))?;
    let collect = median(|| LayerMoments::collect(&model, &tokens).map(drop))?;
    println!("| {d} | {forward:.2} | {collect:.2} | {:.2} |", collect / forward);
    Ok(())
}

/// One lens read at all streams of a network of two blocks, width 576, and a row of the table of them.
fn read(d_vocab: usize) -> Result<()> {
    const BLOCKS: usize = 2;
    let d = 576;
    let config = Config {
        d_vocab,
        n_ctx: 128,
        d_model: d,
        n_heads: 9,
        d_head: 64,
        d_mlp: 4 * d,
        n_layers: BLOCKS,
        ..Config::default()
    };
    let model = Transformer::new(config)?;
    let tokens = Array2::from_shape_fn((8, 128), |(i, t)| ((i * 31 + t * 7) % 512) as u32);
    let moments = LayerMoments::collect(&model, &tokens)?;
    let seconds = median(|| compare(&model, &[&LogitLens], &moments, &tokens).map(drop))?;
    // Weights of a block, and the unembedding once for the model and once for each stream.
    let flops = 2 * tokens.len() * (12 * BLOCKS * d * d + (BLOCKS + 2) * d * d_vocab);
    let share = 100.0 * flops as f64 / seconds / gemm_peak();
    println!("| {d_vocab} | {seconds:.2} | {share:.0} % |");
    Ok(())
}

fn measure(d: usize) -> Result<Costs> {
    let mut random = rng(0, 0);
    let x = Array2::from_shape_simple_fn((ROWS, d), || normal(&mut random) as f32);
    let mut layers = vec![Moments::new(d, d); rayon::current_num_threads()];
    let push = median(|| layers.par_iter_mut().try_for_each(|layer| layer.push(x.view(), x.view())))?;
    let rows = (ROWS * layers.len()) as f64;
    let other = layers.swap_remove(0);
    let mut sum = other.clone();
    let merge = median(|| sum.merge(&other))?;
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
    let file = folder.join(format!("onelens-scaling-{}.moments", std::process::id()));
    let pack = median(|| {
        other.save(&file)?;
        Moments::load(&file).map(drop)
    });
    // Whether it can be removed changes nothing.
    let _ = std::fs::remove_file(&file);
    Ok(Costs { d, push: push / rows, merge, pack: pack? })
}

/// Seconds of the work, the middle one of three.
fn median(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut all = Vec::new();
    for _ in 0..3 {
        let began = Instant::now();
        work()?;
        all.push(began.elapsed().as_secs_f64());
    }
    all.sort_by(f64::total_cmp);
    Ok(all[1])
}
