//! What moments of a layer cost to gather, to merge and to send on this machine, and what that would mean for many machines.
//!
//! ```text
//! cargo run --release -p onelens --example scaling
//! ```
//!
//! Measured: rows pushed, two moments merged, on all threads of this machine. With `N` tokens in all, `R` processes, width `d`,
//! `L + 1` streams and a network of `B` bytes a second with latency `t`,
//!
//! ```text
//!  T(R) = N (L + 1) push(d) / R  +  ⌈log2 R⌉ ((L + 1) (merge(d) + 24 d² / B) + t)
//! ```
//!
//! since moments are three matrices of `d²` numbers of 8 bytes. The efficiency is `T(1) / (R T(R))`.

use std::time::Instant;

use onelens::Result;
use onelens::lens::Moments;
use onelens::ndarray::Array2;
use onelens::num::{normal, rng};
use rayon::prelude::*;

/// Bytes a second, and seconds: Ethernet of 100 Gbit/s at 80 %, a message through it.
const NETWORK: (f64, f64) = (10e9, 20e-6);
/// Rows that a width is measured with.
const ROWS: usize = 512;

fn main() -> Result<()> {
    println!("| d | push, ns a token and stream | GFLOP/s | merge, ms | GB/s read and written |");
    println!("|---|---|---|---|---|");
    let mut measured = Vec::new();
    for d in [512, 1024, 2048, 4096] {
        let (push, merge) = measure(d)?;
        let squares = (d * d) as f64;
        println!(
            "| {d} | {:.0} | {:.0} | {:.2} | {:.1} |",
            push * 1e9,
            6.0 * squares / push / 1e9,
            merge * 1e3,
            // Two are read and one is written.
            3.0 * 24.0 * squares / merge / 1e9
        );
        measured.push((d, push, merge));
    }
    // Both grow as d² where the matrices are larger than caches.
    let &(d, push, merge) = measured.last().expect("four widths");
    measured.push((2 * d, 4.0 * push, 4.0 * merge));
    let (tokens, streams) = (1e9, 33.0);
    println!("\n1e9 tokens, 33 streams; hours on one process, then efficiency on R of them");
    println!("| d | moments of all streams, GB | T(1), h | R = 4 | 16 | 64 | 256 | 1024 |");
    println!("|---|---|---|---|---|---|---|---|");
    for (d, push, merge) in measured {
        let bytes = 24.0 * (d * d) as f64;
        let alone = tokens * streams * push;
        let time = |processes: f64| {
            let step = streams * (merge + bytes / NETWORK.0) + NETWORK.1;
            alone / processes + processes.log2().ceil() * step
        };
        let efficiency =
            [4.0, 16.0, 64.0, 256.0, 1024.0].map(|r| format!("{:.1} %", 100.0 * alone / (r * time(r))));
        println!(
            "| {d} | {:.1} | {:.1} | {} |",
            streams * bytes / 1e9,
            alone / 3600.0,
            efficiency.join(" | ")
        );
    }
    Ok(())
}

/// Seconds of pushing a row on all threads, each with a layer of its own, and of merging.
fn measure(d: usize) -> Result<(f64, f64)> {
    let mut random = rng(0, 0);
    let x = Array2::from_shape_simple_fn((ROWS, d), || normal(&mut random) as f32);
    let mut layers = vec![Moments::new(d, d); rayon::current_num_threads()];
    let mut push = || layers.par_iter_mut().try_for_each(|layer| layer.push(x.view(), x.view()));
    push()?;
    let seconds = median(|| push())?;
    let rows = (ROWS * layers.len()) as f64;
    let other = layers.swap_remove(0);
    let mut sum = other.clone();
    Ok((seconds / rows, median(|| sum.merge(&other))?))
}

/// Seconds of the work, the middle one of five.
fn median(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut all = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        work()?;
        all.push(began.elapsed().as_secs_f64());
    }
    all.sort_by(f64::total_cmp);
    Ok(all[2])
}
