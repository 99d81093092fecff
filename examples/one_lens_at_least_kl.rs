//! What one lens for all layers reads off every residual stream of a language model, in closed form and at least KL,
//! beside each layer's own lens; and a lens of every second stream, at the streams between, which it has never seen.
//! Streams at unit rms towards the normalised last one.
//!
//! `cargo run --release -p onelens --example one_lens_at_least_kl -- MODEL TEXT [TOKENS] [HELD_OUT] [SWEEPS]`

use std::time::Instant;

use onelens::language::LanguageModel;
use onelens::lens::{LayerMoments, Lens, LensKind, LogitLens, Refine, Ridge, Scale, Target, compare};

mod texts;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(text)) = (arguments.next(), arguments.next()) else {
        return Err("give a model and a text file".into());
    };
    let mut number =
        |usual: usize| arguments.next().map_or(Ok::<_, std::num::ParseIntError>(usual), |n| n.parse());
    let (n_train, n_held_out, epochs) = (number(4096)?, number(1024)?, number(6)?);
    let language = LanguageModel::open(&path)?;
    let model = &language.model;
    let (train, held_out) = texts::split(&language, &text, n_train, n_held_out)?;
    println!("{path}: {} tokens, {} held out, {epochs} epochs", train.len(), held_out.len());

    let ridge = Ridge { lambda: 1e-3, ..Ridge::default() };
    let began = Instant::now();
    let moments = LayerMoments::collect_with(model, &train, Scale::UnitRms, Target::Normalised)?;
    println!("moments {:.1} s", began.elapsed().as_secs_f64());
    let n_streams = moments.layers.len();
    let even = LensKind::Streams((0..n_streams).step_by(2).collect());
    let closed = [LensKind::Own, LensKind::Shared, even.clone()].map(|kind| ridge.lenses(&moments, &kind));
    let [own, shared, between] = closed;
    let (own, shared, between) = (own?, shared?, between?.named("of every second stream"));
    let how = Refine { epochs, lbfgs_steps: 0, ..Refine::default() };
    let mut tuned = Vec::new();
    for start in [&shared, &between] {
        let lens = how.fit(model, start, &moments, &train)?;
        let (before, after) = (lens.training_kl[(0, 0)], lens.training_kl[(lens.training_kl.nrows() - 1, 0)]);
        println!(
            "{} at least KL: {:.0} s, mean KL of its streams on the training tokens {before:.3} to {after:.3}",
            start.name(),
            lens.seconds
        );
        tuned.push(lens);
    }
    let lenses: [&dyn Lens; 6] = [&LogitLens, &own, &shared, &between, &tuned[0], &tuned[1]];
    let seen = compare(model, &lenses, &moments, &held_out)?;
    println!(
        "mean prediction {:.3} nats; held-out KL, and the share of what the layer's own lens (closed form) reads",
        seen.baseline
    );
    println!("stream | logit lens | own | shared | every second | shared, least KL | every second, least KL");
    for l in 0..n_streams {
        let kl = |k: usize| seen.curves[k].kl[l];
        let share = |k: usize| (seen.baseline - kl(k)) / (seen.baseline - kl(1));
        print!("{l:>6} | {:.3} | {:.3}", kl(0), kl(1));
        (2..6).for_each(|k| print!(" | {:.3} {:.2}", kl(k), share(k)));
        println!();
    }
    Ok(())
}
