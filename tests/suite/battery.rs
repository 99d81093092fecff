//! The battery: its nulls are what they are said to be, its rule recognises what it was given, a run resumes.

use ndarray::{Array1, Array2};
use onelens::battery::{
    Battery, Cell, KINDS, Lesion, LiteralGradient, Network, Report, Resamples, Streams, Truth, equivalence,
    measure, path_gradients,
};
use onelens::data::{Copies, Corpus, Markov, Source};
use onelens::lens::LensKind;
use onelens::model::{Config, Training, Transformer};
use onelens::num::{log_softmax_rows, normal, rng};

use crate::rule::{Made, made, random};

#[test]
fn the_rotated_copy_is_the_same_network_to_own_lenses_and_another_to_a_shared_one() {
    let source = Markov::new(6, 0.3).unwrap();
    let model = small(&source, 3);
    let tokens = source.sample_held_out(60, 12, &mut rng(1, 1)).unwrap();
    let streams = Streams::of_transformer(&model, &tokens, Some(&source)).unwrap();
    let rotated = streams.rotated(&mut rng(2, 0));
    // The read-out of f64 is the model's.
    let logits = model.forward(&tokens).unwrap();
    let log_p = log_softmax_rows(logits.to_shape((720, 6)).unwrap().view());
    assert!(log_p.iter().zip(&streams.log_p).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-4));
    assert!(streams.log_p.iter().zip(&rotated.log_p).all(|(a, b)| (a - b).abs() < 1e-9));
    // A rotation keeps lengths and angles, so that the copy carries exactly the same.
    for (a, b) in streams.streams.iter().zip(&rotated.streams) {
        let product = |h: &Array2<f64>| h.row(3).dot(&h.row(17));
        assert!((product(a) - product(b)).abs() < 1e-9 * (1.0 + product(a).abs()));
    }
    let (as_is, copy) =
        (measure(&streams, 1e-4, false, &[]).unwrap(), measure(&rotated, 1e-4, false, &[]).unwrap());
    let gap = |kind| {
        let (a, b) = (as_is.kl_of(&kind).unwrap(), copy.kl_of(&kind).unwrap());
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    };
    assert!(gap(LensKind::Own) < 1e-8, "own lenses differ by {}", gap(LensKind::Own));
    assert!(gap(LensKind::Shared) > 1e-2, "shared lenses differ by {}", gap(LensKind::Shared));
}

fn small(source: &dyn Source, seed: u64) -> Transformer {
    Transformer::new(Config {
        d_vocab: source.d_vocab(),
        n_ctx: 12,
        d_model: 8,
        n_layers: 3,
        n_heads: 2,
        d_head: 4,
        d_mlp: 16,
        seed,
        ..Default::default()
    })
    .unwrap()
}

#[test]
fn one_lens_reads_all_of_a_random_walk_so_that_shuffled_updates_share_a_lens() {
    // Cov(h_L, h_l) = Cov(h_l) for independent increments without mean: A = I for every layer.
    let streams = made(Made::Halving, 5);
    let shuffled = streams.shuffled(&mut rng(1, 0));
    let seen = measure(&shuffled, 1e-6, false, &KINDS).unwrap();
    let total = |kind| seen.baseline.sum() * streams.n_layers() as f64 - seen.kl_of(&kind).unwrap().sum();
    assert!(total(LensKind::LeftOut) > 0.9 * total(LensKind::Own));
    // What was shuffled is still there: each layer's updates, in another order.
    let sum = |s: &Streams| (&s.streams[3] - &s.streams[2]).sum();
    assert!((sum(&streams) - sum(&shuffled)).abs() < 1e-9);
}

#[test]
fn gaussian_updates_have_the_mean_and_the_covariance_of_the_network() {
    let streams = made(Made::Halving, 6);
    let gaussian = streams.gaussian(&mut rng(1, 0)).unwrap();
    let update = |s: &Streams| &s.streams[1] - &s.streams[0];
    let (a, b) = (update(&streams), update(&gaussian));
    let n = a.nrows() as f64;
    for i in 0..a.ncols() {
        for j in 0..=i {
            let second = |x: &Array2<f64>| x.column(i).dot(&x.column(j)) / n;
            let error = (second(&(&a * &a)).sqrt() + 0.05) / n.sqrt();
            assert!(
                (second(&a) - second(&b)).abs() < 6.0 * error,
                "{i} {j}: {} and {}",
                second(&a),
                second(&b)
            );
        }
    }
}

#[test]
fn updates_towards_the_truth_align_and_nulls_do_not() {
    let streams = made(Made::Halving, 7);
    let mean = |s: &Streams| measure(s, 1e-6, false, &[LensKind::Shared]).unwrap().alignment.mean().unwrap();
    let aligned = mean(&streams);
    let others = [
        mean(&streams.shuffled(&mut rng(1, 0))),
        mean(&streams.gaussian(&mut rng(1, 0)).unwrap()),
        mean(&made(Made::Noise, 7)),
    ];
    assert!(aligned > 0.4, "{aligned}");
    assert!(others.iter().all(|o| o.abs() < 0.1), "{others:?}");
    assert!(mean(&streams.permuted_targets(&mut rng(1, 0)).unwrap()) < aligned - 0.3);
}

#[test]
fn updates_of_untrained_networks_do_not_align_with_the_truth() {
    let source = Markov::new(6, 0.3).unwrap();
    let values: Vec<f64> = (0..12)
        .map(|seed| {
            let tokens = source.sample_held_out(40, 12, &mut rng(seed, 1)).unwrap();
            let streams = Streams::of_transformer(&small(&source, seed), &tokens, Some(&source)).unwrap();
            let seen = measure(&streams, 1e-4, false, &KINDS).unwrap();
            assert!(seen.truth.is_some_and(|truth| truth.known));
            seen.alignment.mean().unwrap()
        })
        .collect();
    let (mean, se) = onelens::num::mean_and_standard_error(&values);
    // They go a little against it, whatever it is: what a reading has more of than the truth, they may take back.
    assert!((-0.2..3.0 * se).contains(&mean), "{mean} ± {se}");
}

#[test]
fn lesions_change_the_network_as_said() {
    let source = Markov::new(6, 0.3).unwrap();
    let model = small(&source, 1);
    let tokens = source.sample(4, 12, &mut rng(0, 0)).unwrap();
    // Swapped twice is not swapped; a reversed order reversed neither.
    let twice = Lesion::Swap(1).apply(&Lesion::Swap(1).apply(&model).unwrap()).unwrap();
    assert_eq!(twice.forward(&tokens).unwrap(), model.forward(&tokens).unwrap());
    let repeated = Lesion::Repeat(1).apply(&model).unwrap();
    let permuted = Lesion::Permute(vec![0, 1, 1, 2]).apply(&model).unwrap();
    assert_eq!(repeated.forward(&tokens).unwrap(), permuted.forward(&tokens).unwrap());
    // Without the last block the last stream is the one before.
    let (_, cache) = model.run_with_cache(&tokens).unwrap();
    let (_, shorter) = Lesion::Delete(2).apply(&model).unwrap().run_with_cache(&tokens).unwrap();
    assert_eq!(shorter.resid_post(1).unwrap(), cache.resid_post(1).unwrap());
    for wrong in [Lesion::Delete(3), Lesion::Swap(2), Lesion::Permute(vec![4])] {
        assert!(wrong.apply(&model).unwrap_err().to_string().contains("help:"));
    }
}

#[test]
fn an_untrained_network_takes_no_gradient_steps() {
    // The literal test on a network whose updates are not gradient steps: positive definiteness and shared R² stay at
    // chance.
    let source = Markov::new(6, 0.3).unwrap();
    let tokens = source.sample(60, 12, &mut rng(0, 0)).unwrap();
    let seen = LiteralGradient::measure(&small(&source, 2), &tokens, None).unwrap();
    assert_eq!(seen.cosine.len(), 3);
    assert!(
        seen.cosine.iter().all(|c| c.abs() < 0.3) && (0.0..=1.0).contains(&seen.psd_fraction),
        "{seen:?}"
    );
    assert!(seen.r2_shared.iter().zip(&seen.r2_own).all(|(s, o)| *s < *o + 0.02), "{seen:?}");
}

fn tiny(folder: &std::path::Path) -> Battery {
    Battery {
        config: Config { seed: 0, d_vocab: 6, ..small(&Markov::new(6, 0.3).unwrap(), 0).config },
        training: Training { steps: 5, batch_size: 4, ..Default::default() },
        networks: vec![Network::Trained, Network::Plain],
        seeds: vec![1000, 1001],
        n_seqs: 24,
        folder: Some(folder.into()),
        ..Default::default()
    }
}

#[test]
fn a_battery_keeps_what_is_finished_and_says_the_same_again() {
    let folder = tempfile::tempdir().unwrap();
    let source = Markov::new(6, 0.3).unwrap();
    let battery = tiny(folder.path());
    let first = battery.run(&source).unwrap();
    let files = || {
        let mut names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().path()).collect();
        names.sort();
        names
    };
    assert_eq!(files().len(), 4);
    // One network is lost; the others are not made again.
    let lost = files()[0].clone();
    let kept = std::fs::metadata(&files()[1]).unwrap().modified().unwrap();
    std::fs::remove_file(&lost).unwrap();
    let again = battery.run(&source).unwrap();
    assert_eq!(std::fs::metadata(&files()[1]).unwrap().modified().unwrap(), kept);
    assert_eq!(format!("{first:?}"), format!("{again:?}"), "the lost network came back the same");
    let path = folder.path().join("report");
    first.save(&path).unwrap();
    assert_eq!(format!("{:?}", Report::load(&path).unwrap()), format!("{first:?}"));
    assert!(first.groups[0].fingerprints[0] != first.groups[0].fingerprints[1]);
}

#[test]
fn what_the_battery_cannot_look_at_is_refused_with_a_sentence() {
    let source = Markov::new(6, 0.3).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let good = tiny(folder.path());
    let one_layer = Battery { config: Config { n_layers: 1, ..good.config.clone() }, ..good.clone() };
    let bad = [
        (Battery { seeds: vec![1], ..good.clone() }, "seeds"),
        (Battery { networks: vec![], ..good.clone() }, "no networks"),
        (one_layer, "n_layers is 1"),
    ];
    for (battery, why) in bad {
        let e = battery.run(&source).unwrap_err().to_string();
        assert!(e.contains(why) && e.contains("help:"), "{e}");
    }
    let widths = vec![Array2::zeros((8, 3)), Array2::zeros((8, 3)), Array2::zeros((8, 4))];
    let e = Streams::of_probabilities(widths, Array2::zeros((8, 2))).unwrap_err().to_string();
    assert!(e.contains("[3, 3, 4]") && e.contains("pool"), "{e}");
    // Without a known truth, alignment is with the network's own prediction, and says so.
    let text = Corpus::from_text("letters", "the cat sat on the mat. ".repeat(80)).unwrap();
    let unknown = text.entropy_rate(&Array2::zeros((1, 4))).unwrap_err();
    assert!(
        unknown.what().contains("no true distribution") && unknown.what().contains("letters"),
        "{unknown}"
    );
    let short = Copies::new(6, 2, 4).unwrap().entropy_rate(&Array2::zeros((3, 1))).unwrap_err();
    assert!(short.what().contains("3 sequences of 1 tokens"), "{short}");
    let tokens = text.sample(20, 12, &mut rng(0, 0)).unwrap();
    let streams = Streams::of_transformer(&small(&text, 0), &tokens, Some(&text)).unwrap();
    assert!(measure(&streams, 1e-4, false, &KINDS).unwrap().truth.is_some_and(|truth| !truth.known));
    assert!(streams.permuted_targets(&mut rng(0, 0)).is_none());
    assert!(Copies::new(6, 2, 4).unwrap().true_conditional(&[0, 1]).is_some());
}

#[test]
fn a_95_percent_interval_covers_the_truth_for_means_and_for_skewed_ratios() {
    // Sums over sequences, which vary twice as much around their network as networks do.
    let (sequences, n) = (20, 1000);
    let mut numbers = rng(7, 0);
    // A mean of 0, and a ratio of sums of exponentials of normal numbers, whose ratio of means is 1.
    for skewed in [false, true] {
        for networks in [6, 8, 12] {
            let mut covered = 0;
            for _ in 0..n {
                let (mut top, mut bottom) = (Vec::new(), Vec::new());
                for _ in 0..networks {
                    let centre = [normal(&mut numbers), normal(&mut numbers)];
                    for _ in 0..sequences {
                        let each = centre.map(|centre| centre + 2.0 * normal(&mut numbers));
                        let [a, b] = if skewed { each.map(|x| (0.4 * x).exp()) } else { [each[0], 1.0] };
                        top.push(a);
                        bottom.push(b);
                    }
                }
                let interval =
                    Resamples::new(&vec![sequences; networks], &mut numbers.clone()).ratio(&top, &bottom);
                let truth = f64::from(u8::from(skewed));
                covered += usize::from(interval.lower <= truth && truth <= interval.upper);
                assert!(!interval.is_range);
            }
            let rate = covered as f64 / f64::from(n);
            println!("skewed {skewed}, {networks} networks: {rate} of 95 % intervals cover the truth");
            assert!((0.92..=0.99).contains(&rate), "skewed {skewed}, {networks} networks: covered {rate}");
        }
    }
    // Fewer networks promise nothing of others.
    let few = Resamples::new(&[1; 5], &mut numbers).mean(&[3.0, 1.0, 4.0, 1.0, 5.0]);
    assert_eq!((few.lower, few.upper, few.is_range), (1.0, 5.0, true));
}

#[test]
fn a_difference_at_the_margin_is_called_equivalent_5_times_of_100() {
    let mut numbers = rng(8, 0);
    let n = 4000;
    let called = (0..n)
        .filter(|_| {
            let seen: Vec<f64> = (0..8).map(|_| 0.5 + 0.1 * normal(&mut numbers)).collect();
            equivalence(&seen, 0.5).p_value < 0.05
        })
        .count() as f64;
    let error = (0.05 * 0.95 / f64::from(n)).sqrt();
    assert!((called / f64::from(n) - 0.05).abs() < 4.0 * error, "called {called} of {n}");
}

#[test]
fn equivalence_has_the_p_values_of_student_for_one_and_two_degrees_of_freedom() {
    // Two values 0 and 2 h: mean h, standard error h. Student's t with one degree of freedom is a Cauchy.
    let h = 0.25;
    let t: f64 = (1.0 - h) / h;
    let p = equivalence(&[0.0, 2.0 * h], 1.0).p_value;
    assert!((p - (0.5 - t.atan() / std::f64::consts::PI)).abs() < 1e-12, "{p}");
    // -h, 0, h: mean 0, standard error h / √3; the distribution function is ½ + t / (2 √(2 + t²)).
    let t = 1.0 / (h / 3_f64.sqrt());
    let p = equivalence(&[-h, 0.0, h], 1.0).p_value;
    assert!((p - (0.5 - t / (2.0 * (2.0 + t * t).sqrt()))).abs() < 1e-12, "{p}");
}

#[test]
fn path_gradients_of_a_residual_network_sum_to_its_gradient() {
    // h ← h + W₂ tanh(W₁ h), loss Σ c ∘ h_L, against central differences of the whole and the chain rule.
    let (d, n) = (5, 6);
    let mut numbers = rng(2, 0);
    let mut draw = |rows: usize, columns: usize| {
        Array2::from_shape_simple_fn((rows, columns), || 0.5 * normal(&mut numbers))
    };
    let blocks: Vec<(Array2<f64>, Array2<f64>)> = (0..n).map(|_| (draw(d, d), draw(d, d))).collect();
    let (c, x) = (draw(1, d).row(0).to_owned(), draw(1, d).row(0).to_owned());
    let run = |x: &Array1<f64>| {
        let mut streams = vec![x.clone()];
        for (w1, w2) in &blocks {
            let h = &streams[streams.len() - 1];
            streams.push(h + &w2.dot(&w1.dot(h).mapv(f64::tanh)));
        }
        streams
    };
    let streams = run(&x);
    let vjp = |l: usize, v: &Array1<f64>| {
        let (w1, w2) = &blocks[l];
        let slope = w1.dot(&streams[l]).mapv(|a| 1.0 - a.tanh().powi(2));
        w1.t().dot(&(w2.t().dot(v) * slope))
    };
    let paths = path_gradients(n, c.clone(), vjp);
    assert_eq!(paths.len(), n + 1);
    let sum = paths.iter().fold(Array1::zeros(d), |a: Array1<f64>, b| a + b);
    let whole = (0..n).rev().fold(c.clone(), |g, l| &g + &vjp(l, &g));
    assert!((&sum - &whole).iter().all(|e| e.abs() < 1e-10 * whole.dot(&whole).sqrt()));
    for i in 0..d {
        let value = |step: f64| {
            let mut moved = x.clone();
            moved[i] += step;
            run(&moved)[n].dot(&c)
        };
        let difference = (value(1e-5) - value(-1e-5)) / 2e-5;
        assert!((sum[i] - difference).abs() < 1e-7 * (1.0 + difference.abs()));
    }
}

#[test]
fn blocks_that_are_a_multiple_give_binomial_paths() {
    let factor = 0.25;
    let paths = path_gradients(10, Array1::from_elem(1, 1.0), |_, v| v * factor);
    let mut binomial = 1.0;
    for (k, v) in paths.iter().enumerate() {
        let want: f64 = binomial * f64::powi(factor, k as i32);
        assert!((v[0] - want).abs() < 1e-12 * want, "length {k}");
        binomial *= (10 - k) as f64 / (k + 1) as f64;
    }
}

#[test]
fn a_report_of_networks_that_read_nothing_is_drawn_and_says_so() {
    let mut rng = rng(3, 0);
    let log_p = log_softmax_rows(random(80, 4, &mut rng).view());
    let streams = (0..4).map(|_| random(80, 6, &mut rng)).collect();
    let streams = Streams::of_probabilities(streams, log_p).unwrap();
    let cells = (0..2).map(|seed| Cell::measure(&streams, 1e-4, seed).unwrap()).collect();
    let report = Report::new("noise", &[("noise".into(), cells)], &[], vec![]).unwrap();
    let sentence = &report.verdict().sentence;
    assert!(sentence.starts_with("Cannot tell: nothing is known"), "{sentence}");
    assert!(report.figure().unwrap().text().contains("cannot tell"));
    let e = report.fractions().unwrap_err().to_string();
    assert!(e.contains("no layer of any network counts") && e.contains("help:"), "{e}");
}

#[test]
fn a_report_of_networks_of_whose_truth_nothing_is_known_is_drawn_without_that_curve() {
    let streams = Streams { truth: Truth::Unknown, ..made(Made::Halving, 3) };
    let cells = (0..2).map(|seed| Cell::measure(&streams, 1e-4, seed).unwrap()).collect();
    let report = Report::new("unknown", &[("halving".into(), cells)], &[], vec![]).unwrap();
    assert!(report.verdict().sentence.starts_with("Cannot tell: nothing is known"));
    assert!(report.figure().unwrap().text().contains("Does a lens of the other layers read the layer?"));
    let e = report.truth().unwrap_err().to_string();
    assert!(e.contains("nothing is known of the truth") && e.contains("help:"), "{e}");
    // A control that is not there is refused.
    let groups = [("halving".to_string(), vec![Cell::measure(&streams, 1e-4, 0).unwrap()])];
    let e = Report::new("", &groups, &["plian"], vec![]).unwrap_err().to_string();
    assert!(e.contains("\"plian\"") && e.contains("halving"), "{e}");
}
