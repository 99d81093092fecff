//! Every backward pass against central differences, element by element, in f64.

use ndarray::{Array1, Array2, ArrayD, ArrayView2, IxDyn, s};
use onelens::model::{Config, Params, Transformer};
use onelens::nn::*;
use onelens::num::{normal, rng};

/// A smooth function of several inputs and its analytic gradients must agree at every element: the derivative is taken
/// as `(f(x + h) - f(x - h)) / 2h`, whose error is of order `h²`.
fn check(op: &str, inputs: &[ArrayD<f64>], f: impl Fn(&[ArrayD<f64>]) -> f64, gradients: &[ArrayD<f64>]) {
    const H: f64 = 1e-5;
    assert_eq!(inputs.len(), gradients.len());
    for (which, gradient) in gradients.iter().enumerate() {
        assert_eq!(gradient.shape(), inputs[which].shape(), "{op}: gradient of input {which}");
        let mut worst = (0.0, String::new());
        for i in 0..gradient.len() {
            let mut moved = inputs.to_vec();
            let x = moved[which].as_slice_mut().unwrap()[i];
            moved[which].as_slice_mut().unwrap()[i] = x + H;
            let up = f(&moved);
            moved[which].as_slice_mut().unwrap()[i] = x - H;
            let numeric = (up - f(&moved)) / (2.0 * H);
            let analytic = gradient.as_slice().unwrap()[i];
            let error = (numeric - analytic).abs() / (1.0 + numeric.abs());
            if error > worst.0 {
                worst = (error, format!("element {i}: analytic {analytic}, numeric {numeric}"));
            }
        }
        assert!(worst.0 < 1e-8, "{op}, input {which}, {} (relative error {:e})", worst.1, worst.0);
    }
}

fn random(seed: u64, shape: &[usize]) -> ArrayD<f64> {
    let mut rng = rng(seed, 9);
    ArrayD::from_shape_simple_fn(IxDyn(shape), || normal(&mut rng))
}

fn matrix(a: &ArrayD<f64>) -> Array2<f64> {
    a.clone().into_dimensionality().unwrap()
}

fn vector(a: &ArrayD<f64>) -> Array1<f64> {
    a.clone().into_dimensionality().unwrap()
}

fn dynamic<D: ndarray::Dimension>(a: ndarray::Array<f64, D>) -> ArrayD<f64> {
    a.as_standard_layout().into_owned().into_dyn()
}

#[test]
fn linear_backward_is_the_derivative() {
    let inputs = [random(1, &[3, 4]), random(2, &[4, 2]), random(3, &[2])];
    let weights = matrix(&random(4, &[3, 2]));
    let f = |i: &[ArrayD<f64>]| {
        (linear(matrix(&i[0]).view(), matrix(&i[1]).view(), vector(&i[2]).view()) * &weights).sum()
    };
    let (mut dw, mut db) = (Array2::zeros((4, 2)), Array1::zeros(2));
    let dx = linear_backward(
        weights.view(),
        matrix(&inputs[0]).view(),
        matrix(&inputs[1]).view(),
        dw.view_mut(),
        db.view_mut(),
    );
    check("linear", &inputs, f, &[dynamic(dx), dynamic(dw), dynamic(db)]);
}

#[test]
fn layer_norm_backward_is_the_derivative() {
    let inputs = [random(5, &[3, 6])];
    let weights = matrix(&random(6, &[3, 6]));
    let f = |i: &[ArrayD<f64>]| (layer_norm(matrix(&i[0]).view(), 1e-3).0 * &weights).sum();
    let (y, rstd) = layer_norm(matrix(&inputs[0]).view(), 1e-3);
    let dx = layer_norm_backward(weights.view(), y.view(), rstd.view());
    check("layer_norm", &inputs, f, &[dynamic(dx)]);
}

#[test]
fn gain_bias_backward_is_the_derivative() {
    let inputs = [random(7, &[3, 4]), random(8, &[4]), random(9, &[4])];
    let weights = matrix(&random(10, &[3, 4]));
    let f = |i: &[ArrayD<f64>]| {
        (gain_bias(matrix(&i[0]).view(), vector(&i[1]).view(), vector(&i[2]).view()) * &weights).sum()
    };
    let (mut dgain, mut dbias) = (Array1::zeros(4), Array1::zeros(4));
    let x = matrix(&inputs[0]);
    let dx = gain_bias_backward(
        weights.view(),
        x.view(),
        vector(&inputs[1]).view(),
        dgain.view_mut(),
        dbias.view_mut(),
    );
    check("gain_bias", &inputs, f, &[dynamic(dx), dynamic(dgain), dynamic(dbias)]);
}

#[test]
fn rms_norm_backward_is_the_derivative() {
    let inputs = [random(21, &[3, 6])];
    let weights = matrix(&random(22, &[3, 6]));
    let f = |i: &[ArrayD<f64>]| (rms_norm(matrix(&i[0]).view(), 1e-3).0 * &weights).sum();
    let (y, rstd) = rms_norm(matrix(&inputs[0]).view(), 1e-3);
    let dx = rms_norm_backward(weights.view(), y.view(), rstd.view());
    check("rms_norm", &inputs, f, &[dynamic(dx)]);
}

#[test]
fn activation_backward_is_the_derivative() {
    type Forward = fn(ArrayView2<f64>) -> Array2<f64>;
    type Backward = fn(ArrayView2<f64>, ArrayView2<f64>) -> Array2<f64>;
    let all: [(&str, Forward, Backward); 3] = [
        ("gelu", gelu, gelu_backward),
        ("gelu_exact", gelu_exact, gelu_exact_backward),
        ("relu", relu, relu_backward),
    ];
    for (name, forward, backward) in all {
        let inputs = [random(11, &[4, 5]) * 2.0];
        let weights = matrix(&random(12, &[4, 5]));
        let f = |i: &[ArrayD<f64>]| (forward(matrix(&i[0]).view()) * &weights).sum();
        let dx = backward(weights.view(), matrix(&inputs[0]).view());
        check(name, &inputs, f, &[dynamic(dx)]);
    }
}

#[test]
fn swiglu_backward_is_the_derivative() {
    let inputs = [random(23, &[4, 5]), random(24, &[4, 5])];
    let weights = matrix(&random(25, &[4, 5]));
    let f = |i: &[ArrayD<f64>]| (swiglu(matrix(&i[0]).view(), matrix(&i[1]).view()) * &weights).sum();
    let (gate, linear) = (matrix(&inputs[0]), matrix(&inputs[1]));
    let (dgate, dlinear) = swiglu_backward(weights.view(), gate.view(), linear.view());
    check("swiglu", &inputs, f, &[dynamic(dgate), dynamic(dlinear)]);
}

#[test]
fn rotary_backward_is_the_derivative() {
    for pairs in [Pairs::Adjacent, Pairs::Half] {
        // Two sequences of three positions, two heads of six dimensions, of which four turn.
        let inputs = [random(26, &[6, 12])];
        let weights = matrix(&random(27, &[6, 12]));
        let table = RotaryTable::new(3, 4, 100.0, pairs);
        let f = |i: &[ArrayD<f64>]| (rotary(matrix(&i[0]).view(), 6, &table) * &weights).sum();
        let dx = rotary_backward(weights.view(), 6, &table);
        check("rotary", &inputs, f, &[dynamic(dx)]);
    }
}

#[test]
fn rotary_products_depend_on_the_distance_alone() {
    for pairs in [Pairs::Adjacent, Pairs::Half] {
        let table = RotaryTable::new(9, 6, 50.0, pairs);
        let (q, k) = (matrix(&random(28, &[1, 6])), matrix(&random(29, &[1, 6])));
        let everywhere = |x: &Array2<f64>| rotary(x.broadcast((9, 6)).unwrap(), 6, &table);
        let (q, k) = (everywhere(&q), everywhere(&k));
        for t in 2..9 {
            let (here, there) = (q.row(t).dot(&k.row(t - 2)), q.row(2).dot(&k.row(0)));
            assert!((here - there).abs() < 1e-12, "{pairs:?}, position {t}: {here} and {there}");
        }
    }
}

#[test]
fn linear_attention_backward_is_the_derivative() {
    for mask in [Mask::Causal, Mask::Prefix(3), Mask::None] {
        let inputs = [random(13, &[5, 3]), random(14, &[5, 3]), random(15, &[5, 3])];
        let weights = matrix(&random(16, &[5, 3]));
        let run = |i: &[ArrayD<f64>]| {
            linear_attention(matrix(&i[0]).view(), matrix(&i[1]).view(), matrix(&i[2]).view(), mask)
        };
        let f = |i: &[ArrayD<f64>]| (run(i).0 * &weights).sum();
        let (_, pattern) = run(&inputs);
        let [q, k, v] = [matrix(&inputs[0]), matrix(&inputs[1]), matrix(&inputs[2])];
        let (dq, dk, dv) =
            linear_attention_backward(weights.view(), q.view(), k.view(), v.view(), pattern.view(), mask);
        check("linear_attention", &inputs, f, &[dynamic(dq), dynamic(dk), dynamic(dv)]);
    }
}

#[test]
fn softmax_backward_is_the_derivative_and_hidden_scores_have_none() {
    let mut inputs = [random(31, &[4, 4])];
    inputs[0][[1, 3]] = f64::NEG_INFINITY;
    let weights = matrix(&random(32, &[4, 4]));
    let run = |i: &[ArrayD<f64>]| {
        let mut p = matrix(&i[0]);
        softmax_rows(&mut p.view_mut());
        p
    };
    let mut d = weights.clone();
    softmax_backward(&mut d.view_mut(), run(&inputs).view(), 1.0);
    assert_eq!(d[(1, 3)], 0.0);
    check("softmax", &inputs, |i| (run(i) * &weights).sum(), &[dynamic(d)]);
}

#[test]
fn attention_backward_is_the_derivative() {
    for mask in [Mask::Causal, Mask::Prefix(3), Mask::None] {
        let inputs = [random(13, &[5, 3]), random(14, &[5, 3]), random(15, &[5, 3])];
        let weights = matrix(&random(16, &[5, 3]));
        let run = |i: &[ArrayD<f64>]| {
            attention(matrix(&i[0]).view(), matrix(&i[1]).view(), matrix(&i[2]).view(), mask)
        };
        let f = |i: &[ArrayD<f64>]| (run(i).0 * &weights).sum();
        let (_, pattern) = run(&inputs);
        let [q, k, v] = [matrix(&inputs[0]), matrix(&inputs[1]), matrix(&inputs[2])];
        let (dq, dk, dv) = attention_backward(weights.view(), q.view(), k.view(), v.view(), pattern.view());
        check("attention", &inputs, f, &[dynamic(dq), dynamic(dk), dynamic(dv)]);
    }
}

#[test]
fn embed_backward_is_the_derivative() {
    let tokens = [2, 0, 2, 1];
    let inputs = [random(17, &[4, 3])];
    let weights = matrix(&random(18, &[4, 3]));
    let f = |i: &[ArrayD<f64>]| (embed(&tokens, matrix(&i[0]).view()) * &weights).sum();
    let mut dtable = Array2::zeros((4, 3));
    embed_backward(weights.view(), &tokens, dtable.view_mut());
    assert_eq!(dtable.slice(s![3, ..]).sum(), 0.0, "a token that does not occur");
    check("embed", &inputs, f, &[dynamic(dtable)]);
}

#[test]
fn cross_entropy_gradient_is_the_derivative() {
    let targets = [1, 0, 3];
    let inputs = [random(19, &[3, 4])];
    let f = |i: &[ArrayD<f64>]| cross_entropy(matrix(&i[0]).view(), &targets).0;
    let (_, dlogits) = cross_entropy(matrix(&inputs[0]).view(), &targets);
    check("cross_entropy", &inputs, f, &[dynamic(dlogits)]);
}

#[test]
fn expected_cross_entropy_gradient_is_the_derivative_and_its_value_the_mean_over_tokens() {
    // The first row is a distribution with a token that never comes; the others sum to more and less than 1.
    let p = ndarray::array![[0.5, 0.0, 0.25, 0.25], [0.75, 0.5, 0.5, 0.25], [0.25, 0.0, 0.0, 0.25]];
    let inputs = [random(20, &[3, 4])];
    let f = |i: &[ArrayD<f64>]| expected_cross_entropy(matrix(&i[0]).view(), p.view()).0;
    let (loss, dlogits) = expected_cross_entropy(matrix(&inputs[0]).view(), p.view());
    check("expected_cross_entropy", &inputs, f, &[dynamic(dlogits)]);
    let mut mean = 0.0;
    for ((row, token), p) in p.indexed_iter() {
        mean += p * cross_entropy(matrix(&inputs[0]).slice(s![row..=row, ..]), &[token as u32]).0;
    }
    assert!((loss - mean).abs() < 1e-12, "{loss} {mean}");
}

/// The whole network runs in f32, where one element's difference drowns in rounding; along the gradient of one tensor
/// at a time it does not. A wrong wire anywhere makes some tensor's slope wrong.
#[test]
fn model_gradient_is_the_slope_along_every_tensor() {
    let config = Config {
        d_vocab: 11,
        n_ctx: 8,
        d_model: 12,
        n_layers: 2,
        n_heads: 3,
        d_head: 4,
        d_mlp: 20,
        ..Default::default()
    };
    let mut model = Transformer::new(config.clone()).unwrap();
    // Away from the start, where biases are zero and some gradients nearly vanish.
    let mut rng = rng(20, 0);
    for slice in model.params.slices_mut() {
        slice.iter_mut().for_each(|x| *x += 0.2 * normal(&mut rng) as f32);
    }
    let tokens = Array2::from_shape_fn((3, 9), |(i, j)| ((i * 7 + j * 5 + i * j) % 11) as u32);
    let (loss, grad) = model.loss_and_grad(&tokens).unwrap();
    assert_eq!(loss, model.loss(&tokens).unwrap());
    let names: Vec<String> = grad.tensors().into_iter().map(|(n, _)| n).collect();
    for (i, name) in names.iter().enumerate() {
        let g: Vec<f64> = grad.slices()[i].iter().map(|&x| f64::from(x)).collect();
        let norm = g.iter().map(|x| x * x).sum::<f64>().sqrt();
        // A softmax does not notice what is added to all scores of a row: the key bias has no gradient.
        if name.ends_with("attn.b_K") {
            assert!(norm < 1e-6, "{name}: {norm}");
            continue;
        }
        let at = |step: f64| {
            let mut moved = model.clone();
            for (x, g) in moved.params.slices_mut()[i].iter_mut().zip(&g) {
                *x = (f64::from(*x) + step * g / norm) as f32;
            }
            moved.loss(&tokens).unwrap()
        };
        let h = 2e-2;
        // Fourth order, so that a step large enough for f32 is still accurate.
        let slope = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
        assert!((slope - norm).abs() < 2e-3 * (0.02 + norm), "{name}: slope {slope}, gradient norm {norm}");
    }
    assert_eq!(grad.tensors().len(), Params::zeros(&config).slices().len());
}

#[test]
fn names_tensors_and_slices_are_in_one_order() {
    let config = Config {
        d_vocab: 5,
        n_ctx: 3,
        d_model: 4,
        n_layers: 1,
        n_heads: 2,
        d_head: 2,
        d_mlp: 7,
        ..Default::default()
    };
    let params = Params::init(&config);
    let tensors = params.tensors();
    for ((name, tensor), slice) in tensors.iter().zip(params.slices()) {
        assert_eq!(tensor.as_slice().unwrap(), slice.as_ref(), "{name}");
    }
    let names: Vec<&str> = tensors.iter().map(|(n, _)| n.as_str()).collect();
    assert!(
        names.contains(&"blocks.0.attn.W_Q")
            && names.contains(&"blocks.0.mlp.b_in")
            && names.contains(&"blocks.0.ln1.w"),
        "{names:?}"
    );
    // By head: 5·4 + 3·4 + (4 + 4) + 3 (4·4 + 4) + (4·4 + 4) + (4 + 4) + (4·7 + 7) + (7·4 + 4) + 8 + (4·5 + 5).
    assert_eq!(params.count(), 20 + 12 + 8 + 60 + 20 + 8 + 35 + 32 + 8 + 25);
}
