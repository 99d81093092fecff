//! Our side of `benches/peers/dual.py`: reads one request per line, does the work, and writes seconds and result.

use std::io::BufRead;
use std::time::Instant;

use onelens::dual::{Inputs, LinearAttentionTraining, RegressionTasks};
use serde_json::{Value, json};

fn main() {
    if !std::env::args().any(|arg| arg == "serve") {
        println!("run by benches/peers/compare.py dual");
        return;
    }
    let inputs = Inputs::uniform(10, 0.5).expect("ten coordinates");
    let mut tasks: Option<RegressionTasks> = None;
    for line in std::io::stdin().lock().lines() {
        let asked: Value = serde_json::from_str(&line.expect("text")).expect("a request is JSON");
        let number = |name: &str| asked[name].as_f64().unwrap_or_else(|| panic!("{name} is missing"));
        let (seconds, result) = match asked["work"].as_str() {
            Some("train") => {
                let how = LinearAttentionTraining {
                    steps: number("steps") as usize,
                    lr: 0.02,
                    seed: number("seed") as u64,
                    ..Default::default()
                };
                let until = number("until");
                let near =
                    |losses: &[f64]| losses.len() >= 100 && mean(&losses[losses.len() - 100..]) <= until;
                let begin = Instant::now();
                let fit = how.fit_until(&near).expect("training");
                (begin.elapsed().as_secs_f64(), mean(&fit.losses[fit.losses.len().saturating_sub(100)..]))
            }
            Some("descend") => {
                let n_tasks = number("n_tasks") as usize;
                let tasks = tasks.get_or_insert_with(|| {
                    RegressionTasks::sample(&inputs, 1, 10, n_tasks, number("seed") as u64).expect("tasks")
                });
                let begin = Instant::now();
                let means = tasks.descend(number("lr"), number("steps") as usize).expect("steps").means();
                (begin.elapsed().as_secs_f64(), means[means.len() - 1].0)
            }
            other => panic!("unknown work {other:?}"),
        };
        println!("{}", json!({ "seconds": seconds, "result": result }));
    }
}

fn mean(losses: &[f64]) -> f64 {
    losses.iter().sum::<f64>() / losses.len() as f64
}
