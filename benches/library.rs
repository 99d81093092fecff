//! What a notebook waits for: a training step, a run with its cache, one pass of moments, the fits, a comparison.
//!
//! `cargo bench -p onelens` prints times of this machine. Claims against peers are made elsewhere, as ratios from one
//! run.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use onelens::data::{Markov, Source};
use onelens::lens::{LayerMoments, LogitLens, Moments, Refine, Ridge, Transfer, compare};
use onelens::model::{Bias, Config, Hook, Intervention, Mlp, Norm, Positions, Rotary, Transformer};
use onelens::ndarray::Array2;
use onelens::num::{matmul, rng};

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
    let llama = Transformer::new(Config {
        n_layers: 4,
        norm: Norm::Rms,
        positions: Positions::Rotary(Rotary::default()),
        mlp: Mlp::SwiGlu,
        n_kv_heads: Some(2),
        bias: Bias::NONE,
        bias_u: false,
        ..Default::default()
    })
    .expect("a valid shape");
    group.bench_function("loss_and_grad of a Llama, V96 T64 d64 L4 B32", |b| {
        b.iter(|| llama.loss_and_grad(black_box(&tokens)))
    });
    group.finish();
}

fn runs(c: &mut Criterion) {
    let model = model(4);
    let tokens = Markov::new(96, 0.3).and_then(|m| m.sample(32, 64, &mut rng(0, 0))).expect("a valid source");
    let mut group = c.benchmark_group("runs");
    group.throughput(Throughput::Elements(32 * 64));
    group.bench_function("forward", |b| b.iter(|| model.forward(black_box(&tokens))));
    group.bench_function("run_with_cache", |b| b.iter(|| model.run_with_cache(black_box(&tokens))));
    let zero = [Intervention::zero(Hook::Z(2)).head(1)];
    group
        .bench_function("run_with one head zeroed", |b| b.iter(|| model.run_with(black_box(&tokens), &zero)));
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
    group.bench_function("refine, 1 L-BFGS step more, 4096 tokens", |b| {
        b.iter(|| {
            Refine { epochs: 0, lbfgs_steps: 1, ..Default::default() }.fit(
                &model,
                &own,
                &moments,
                black_box(&tokens),
            )
        })
    });
    // What accumulation costs beside the bare products: at most twice as much is the aim.
    let rows = Array2::from_shape_fn((4096, 64), |(i, j)| ((i * 64 + j) as f32 * 0.7).sin());
    group.bench_function("push of 4096 rows of 64", |b| {
        b.iter(|| Moments::new(64, 64).push(black_box(rows.view()), rows.view()))
    });
    group.bench_function("the three f32 products of that push", |b| {
        b.iter(|| [0, 1, 2].map(|_| matmul(black_box(rows.t()), rows.view())))
    });
    group.finish();
}

criterion_group!(benches, training, runs, lenses);
criterion_main!(benches);
