//! A set of architectures in which every pair of settings occurs that can occur together.

use std::collections::BTreeSet;

use onelens::model::*;
use onelens::num::{normal, rng, uniform_index};

/// The choices of each setting, and how a configuration takes one.
const N_CHOICES: [usize; 11] = [3, 4, 5, 2, 3, 3, 3, 4, 2, 3, 2];

fn config(choice: &[usize]) -> Config {
    let rotary =
        |pairs, d_rotary, theta| Positions::Rotary(Rotary { pairs, d_rotary, theta, ..Default::default() });
    Config {
        d_vocab: 5,
        n_ctx: 6,
        d_model: 6,
        n_layers: 3,
        n_heads: 4,
        d_head: 4,
        d_mlp: 5,
        norm: [Norm::Layer, Norm::Rms, Norm::None][choice[0]],
        positions: [
            Positions::Learned,
            rotary(Pairs::Adjacent, None, 10_000.0),
            rotary(Pairs::Half, Some(2), 100.0),
            Positions::None,
        ][choice[1]]
            .clone(),
        mlp: [Mlp::GeluTanh, Mlp::Gelu, Mlp::Relu, Mlp::SwiGlu, Mlp::None][choice[2]],
        attention: [Attention::Softmax, Attention::Linear][choice[3]],
        mask: [Mask::Causal, Mask::Prefix(3), Mask::None][choice[4]],
        residual: [Residual::Sequential, Residual::Parallel, Residual::None][choice[5]],
        blocks: [Blocks::Distinct, Blocks::Looped { inject: false }, Blocks::Looped { inject: true }]
            [choice[6]],
        bias: choice[7].is_multiple_of(2).into(),
        bias_u: choice[7] / 2 == 0,
        tied: choice[8] == 1,
        n_kv_heads: [None, Some(1), Some(2)][choice[9]],
        supervision: [Supervision::Final, Supervision::EveryLayer][choice[10]],
        ..Default::default()
    }
}

/// Greedily, from random candidates, until no pair is missing.
pub(crate) fn covering() -> Vec<Config> {
    let pairs_of_settings =
        || (0..N_CHOICES.len()).flat_map(|a| (a + 1..N_CHOICES.len()).map(move |b| (a, b)));
    let mut missing = BTreeSet::new();
    for (a, b) in pairs_of_settings() {
        for i in 0..N_CHOICES[a] {
            missing.extend((0..N_CHOICES[b]).map(|j| (a, i, b, j)));
        }
    }
    // The one pair that excludes each other: a parallel residual without an MLP.
    assert!(missing.remove(&(2, 4, 5, 1)));
    let pairs = |choice: &[usize]| -> Vec<(usize, usize, usize, usize)> {
        pairs_of_settings().map(|(a, b)| (a, choice[a], b, choice[b])).collect()
    };
    let mut rng = rng(1, 0);
    let mut configs = Vec::new();
    while !missing.is_empty() {
        let candidates = (0..200).map(|_| N_CHOICES.map(|n| uniform_index(&mut rng, n)));
        let valid = candidates.filter(|choice| config(choice).check().is_ok());
        let new = |choice: &[usize; 11]| pairs(choice).iter().filter(|pair| missing.contains(pair)).count();
        let best = valid.max_by_key(new).unwrap();
        if new(&best) > 0 {
            pairs(&best).iter().for_each(|pair| {
                missing.remove(pair);
            });
            configs.push(config(&best));
        }
    }
    configs
}

/// What other families of models have beyond that: each setting in one of these at least, with others that come with
/// it.
pub(crate) fn of_families() -> Vec<Config> {
    let base = Config {
        bias: Bias::NONE,
        bias_u: false,
        n_kv_heads: Some(2),
        ..config(&[1, 2, 3, 0, 0, 0, 0, 1, 1, 2, 0])
    };
    let window = |n| LayerKind { window: Some(n), positions: None };
    let other_turns = Positions::Rotary(Rotary { theta: 20.0, ..Default::default() });
    let all = vec![
        // Gemma 2 and 3.
        Config {
            norm_at: NormAt::InputAndOutput,
            layers: vec![window(2), LayerKind { window: None, positions: Some(other_turns) }],
            qk_norm: QkNorm::Head,
            attention_scale: AttentionScale::Fixed { scale: 0.7, by_layer: false },
            attention_cap: Some(0.8),
            mlp: Mlp::GeGluTanh,
            embed_scale: 2.5,
            logit_cap: Some(1.5),
            ..base.clone()
        },
        // OLMo 2, with biases.
        Config {
            norm_at: NormAt::Output,
            qk_norm: QkNorm::AllHeads,
            bias: Bias { qkv: true, out: true, mlp: false, gate: false, norm: false },
            tied: false,
            ..base.clone()
        },
        // OPT-350m.
        Config {
            norm: Norm::Layer,
            norm_at: NormAt::Sum,
            positions: Positions::Learned,
            mlp: Mlp::Relu,
            bias: Bias::ALL,
            n_kv_heads: None,
            ..base.clone()
        },
        // BLOOM.
        Config {
            norm: Norm::Layer,
            positions: Positions::Alibi,
            mlp: Mlp::GeluTanh,
            bias: Bias::ALL,
            embed_norm: true,
            n_kv_heads: None,
            ..base.clone()
        },
        // GPT-J and Cohere.
        Config {
            norm: Norm::Layer,
            residual: Residual::ParallelOneNorm,
            mlp: Mlp::GeluTanh,
            bias: Bias { qkv: false, out: false, mlp: true, gate: false, norm: false },
            bias_u: true,
            logit_scale: 0.4,
            tied: false,
            ..base.clone()
        },
        // Granite and SmolLM3, with GPT-2's division by the layer and all biases of Llama.
        Config {
            attention_scale: AttentionScale::Fixed { scale: 0.9, by_layer: true },
            layers: vec![
                LayerKind { window: Some(3), positions: Some(Positions::None) },
                LayerKind::default(),
            ],
            bias: Bias { qkv: true, out: true, mlp: true, gate: true, norm: false },
            resid_scale: 0.6,
            ..base.clone()
        },
        // Mixtral.
        Config { experts: Some(Experts { n: 3, n_chosen: 2 }), layers: vec![window(3)], ..base.clone() },
        // All of Gemma's norms and caps over every layer's reading.
        Config {
            norm_at: NormAt::InputAndOutput,
            attention_cap: Some(0.5),
            logit_cap: Some(2.0),
            logit_scale: 1.5,
            resid_scale: 1.5,
            supervision: Supervision::EveryLayer,
            ..base
        },
    ];
    all.iter().for_each(|config| config.check().unwrap());
    all
}

/// A network away from its start, where biases are zero and some gradients nearly vanish.
pub(crate) fn moved(config: Config) -> Transformer {
    let mut model = Transformer::new(config).unwrap();
    // Each layer of linear attention cubes its input; without a norm nothing holds it.
    let cubes = model.config.attention == Attention::Linear && model.config.norm == Norm::None;
    let size = if cubes { 0.15 } else { 0.3 };
    let mut rng = rng(20, 0);
    for slice in model.params.slices_mut() {
        slice.iter_mut().for_each(|x| *x += (size * normal(&mut rng)) as f32);
    }
    model
}
