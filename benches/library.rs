//! What a notebook waits for: a training step, one pass of moments, the fits, a comparison.
//!
//! `cargo bench -p onelens` prints times of this machine. Claims against peers are made elsewhere, as ratios from one run.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use onelens::data::{Markov, Source};
use onelens::lens::{LayerMoments, LogitLens, Ridge, Transfer, compare};
use onelens::model::{Config, Transformer};
use onelens::num::rng;

fn model(n_layers: usize) -> Transformer {
    Transformer::new(Config { n_layers, ..Default::default() }).expect("a valid shape")
}

fn training(c: &mut Criterion) {
    let model = model(4);
    let tokens = Markov::new(96, 0.3).and_then(|m| m.sample(32, 65, &mut rng(0, 0))).expect("a valid source");
    let mut group = c.benchmark_group("training");
    group.throughput(Throughput::Elements(32 * 64));
    group.bench_function("loss_and_grad V96 T64 d64 L4 B32", |b| {
        b.iter(|| model.loss_and_grad(black_box(&tokens)))
    });
    group.finish();
}

fn lenses(c: &mut Criterion) {
    let model = model(6);
    let tokens = Markov::new(96, 0.3).and_then(|m| m.sample(64, 64, &mut rng(0, 0))).expect("a valid source");
    let mut group = c.benchmark_group("lens");
    group.sample_size(20);
    group.bench_function("moments, 7 streams of 64, 4096 tokens", |b| {
        b.iter(|| LayerMoments::collect(&model, black_box(&tokens)))
    });
    let moments = LayerMoments::collect(&model, &tokens).expect("finite activations");
    let ridge = Ridge::default();
    group.bench_function("own + shared + left-out", |b| {
        b.iter(|| (ridge.own(black_box(&moments)), ridge.shared(&moments), ridge.left_out(&moments)))
    });
    let own = ridge.own(&moments).expect("enough tokens");
    group.bench_function("transfer by moments", |b| b.iter(|| Transfer::mse(black_box(&moments), &own)));
    group.bench_function("compare 2 lenses, 4096 tokens", |b| {
        b.iter(|| compare(&model, &[&own, &LogitLens], &moments, black_box(&tokens)))
    });
    group.finish();
}

criterion_group!(benches, training, lenses);
criterion_main!(benches);
