//! One to five layers of linear attention, trained on in-context regression beside the best steps of gradient descent:
//! `cargo run -p onelens --example layers_of_attention -- [SEEDS]`.
//!
//! The setting is that of von Oswald et al. 2022, `d = N = 10`; losses are over 10^5 tasks, with their standard error.

use std::time::Instant;

use onelens::dual::prelude::*;
use onelens::prelude::*;

fn main() -> Result<()> {
    let seeds = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1_u64);
    let usual = LinearAttentionTraining::default();
    let steps = ManySteps::new(&usual.inputs, usual.n, 4000, 0)?;
    println!("layers  seed  seconds  loss    error   plain steps  GD++");
    for n_layers in 1..=5 {
        let (plain, plus) = (steps.best(n_layers)?, steps.best_plus_plus(n_layers)?);
        for seed in 0..seeds {
            let how = LinearAttentionTraining { n_layers, seed, ..usual.clone() };
            let began = Instant::now();
            let fit = quietly(|| how.fit())?;
            let seconds = began.elapsed().as_secs_f64();
            let (loss, error) = how.evaluate(&fit.net, 100_000, 1)?;
            println!(
                "{n_layers:6}  {seed:4}  {seconds:7.1}  {loss:.4}  {error:.4}  {:11.4}  {:.4}",
                plain.loss.0, plus.loss.0
            );
        }
    }
    Ok(())
}
